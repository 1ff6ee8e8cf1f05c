"""Explanations of finished runs against what a virtual study planted: prints the tables, writes docs/explanations.md.

    python benchmarks/explanations.py --runs outputs/study-s23/full --write

Everything is measured on the test compounds of each run. Lesions: the slides of treated animals whose planted severity
of the axis' first phenotype reaches 1, with tiles of both kinds; a tile shows the lesion where the mask marks 2 % of
it. Genes: the treated animals in which the programme is active from 0.3; a gene's score is the length of its mean over
these animals. The task explained is the axis' own finding where the run predicts it, else severity. Intervals are over
compounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.data.sampling import generator
from toxfusion.evaluation.bootstrap import mean_over_clusters
from toxfusion.interpret import truth
from toxfusion.interpret.attribution import samples_with
from toxfusion.interpret.explaining import finished_runs
from toxfusion.interpret.faithfulness import randomised
from toxfusion.interpret.genes import attribute_genes, gene_attention
from toxfusion.interpret.regions import add_integrated, tile_places, tile_scores
from toxfusion.interpret.targets import task_names
from toxfusion.loading import LoadedRun, load_own_study, load_run
from toxfusion.synthetic.axes import AXIS_NAMES

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TILE_MEASURES = ("auroc", "average_precision", "pointing", "prevalence")
RANDOM_DRAWS = 20
CHANGE = "change of expression alone"


def tile_rows(run: LoadedRun, shares: pd.DataFrame, weights: str, steps: int) -> list[dict[str, object]]:
    """One row a slide, first phenotype of an axis, and score; ``shares`` are tiles with `truth.lesion_shares`."""
    fold, tasks = run.fold, task_names(run)
    having = samples_with(run, fold.split.test, "slide")
    by_phenotype: dict[str, list[str]] = {}
    for axis, phenotypes in truth.axis_phenotypes().items():
        by_phenotype.setdefault(phenotypes[0], []).append(axis)
    rows: list[dict[str, object]] = []
    for phenotype, axes in by_phenotype.items():
        # Axes of one phenotype have the same mask: one row, so that no slide counts twice.
        axis, samples = "/".join(axes), truth.severe_samples(fold.study, axes[0], having)
        if not samples:
            continue
        task = truth.task_of_axis(axes[0], tasks)
        scores, _ = add_integrated(run, tile_scores(run, samples, [task]), [task], steps=steps)
        for slide, of_slide in scores.groupby("slide_id", sort=False):
            lesion = shares.loc[(shares["slide_id"] == slide).to_numpy(), phenotype].to_numpy()
            lesion = lesion >= truth.LEAST_SHARE
            if lesion.all() or not lesion.any():
                continue
            rng = generator(0, "random tiles", str(slide), axis)
            found = {
                "integrated": truth.localisation(of_slide[f"integrated:{task}"].to_numpy(), lesion),
                "contribution": truth.localisation(of_slide[f"contribution:{task}"].to_numpy(), lesion),
                "gradient": truth.localisation(of_slide[f"gradient:{task}"].to_numpy(), lesion),
                "attention": truth.localisation(of_slide["attention"].to_numpy(), lesion),
                "random": pd.DataFrame(
                    [truth.localisation(rng.random(len(lesion)), lesion) for _ in range(RANDOM_DRAWS)]
                )
                .mean()
                .to_dict(),
            }
            compound = fold.study.obs.at[of_slide["sample_id"].iloc[0], "compound"]
            rows += [
                {
                    "axis": axis,
                    "task": task,
                    "weights": weights,
                    "score": name,
                    "compound": compound,
                    **values,
                }
                for name, values in found.items()
            ]
    return rows


def gene_rows(run: LoadedRun, weights: str, steps: int) -> list[dict[str, object]]:
    """One row a run, axis and score."""
    fold, tasks = run.fold, task_names(run)
    if fold.expression is None:
        return []
    having = samples_with(run, fold.split.test, "expression")
    attributed = {}
    rows: list[dict[str, object]] = []
    for axis in AXIS_NAMES:
        samples = truth.active_samples(fold.study, axis, having)
        if not samples:
            continue
        task = truth.task_of_axis(axis, tasks)
        if task not in attributed:
            attributed[task] = attribute_genes(run, having, task, steps=steps)
        found = attributed[task]
        planted = truth.programme(fold.study, axis)
        rng = generator(0, "random genes", axis)
        scores = {
            "integrated": found.integrated.loc[samples].mean().abs().to_numpy(),
            "gradient": found.gradient.loc[samples].mean().abs().to_numpy(),
            CHANGE: found.change.loc[samples].mean().abs().to_numpy(),
        }
        read = gene_attention(run, fold.batch(samples, stage="evaluate"))
        if read is not None:
            scores["attention"] = read.mean(0)
        measured = {n: truth.recovery(s, fold.expression.symbols, planted) for n, s in scores.items()}
        draws = [
            truth.recovery(rng.random(fold.n_genes), fold.expression.symbols, planted)
            for _ in range(RANDOM_DRAWS)
        ]
        measured["random"] = pd.DataFrame(draws).mean().to_dict()
        rows += [
            {
                "axis": axis,
                "task": task,
                "weights": weights,
                "score": name,
                "n_samples": len(samples),
                **values,
            }
            for name, values in measured.items()
        ]
    return rows


def over_compounds(rows: pd.DataFrame, measure: str) -> str:
    """Mean over slides with the 95 % interval of a bootstrap over compounds."""
    found = mean_over_clusters(rows[measure].to_numpy(float), rows["compound"].to_numpy())
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def tile_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Trained and random weights: every score over all axes; then integrated gradients axis by axis."""
    lines = []
    for (weights, score), group in rows.groupby(["weights", "score"], sort=False):
        lines.append({"axis": "all", "weights": weights, "score": score, **_measured(group)})
    trained = rows[(rows["weights"] == "trained") & (rows["score"] == "integrated")]
    for axis, group in trained.groupby("axis", sort=False):
        lines.append({"axis": axis, "weights": "trained", "score": "integrated", **_measured(group)})
    return pd.DataFrame(lines)


def _measured(group: pd.DataFrame) -> dict[str, object]:
    found: dict[str, object] = {"slides": len(group), "compounds": group["compound"].nunique()}
    return found | {m: over_compounds(group, m) for m in TILE_MEASURES}


def gene_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean average precision over runs, one row an axis and one column a score."""
    of_data = rows["score"].isin(["random", CHANGE])
    kept = rows[(rows["weights"] == "trained") | ~of_data]
    named = kept.assign(column=np.where(kept["weights"] == "trained", "", "random weights: ") + kept["score"])
    table = named.pivot_table(index="axis", columns="column", values="average_precision", sort=False)
    table = table.loc[[a for a in AXIS_NAMES if a in table.index]]
    prevalence = rows.groupby("axis")["prevalence"].mean()
    table.loc["mean"] = table.mean()
    return table.assign(prevalence=prevalence).reset_index().round(3)


def markdown(table: pd.DataFrame) -> str:
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    lines += [["" if pd.isna(v) else str(v) for v in row] for row in table.to_numpy(dtype=object)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, help="a run, or a folder of finished runs")
    parser.add_argument("--random-seeds", type=int, default=1, help="random weights, so many times")
    parser.add_argument("--steps", type=int, default=16, help="points of an integral to begin with")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/explanations.md")
    given = parser.parse_args()
    tiles: list[dict[str, object]] = []
    of_genes: list[dict[str, object]] = []
    folders = finished_runs(given.runs)
    for folder in folders:
        study, split = load_own_study(folder)
        run = load_run(folder, study, split)
        places = tile_places(run, samples_with(run, split.test, "slide"))
        shares = pd.concat([places, truth.lesion_shares(study, places)], axis=1)
        for k in range(given.random_seeds + 1):
            weights = "random" if k else "trained"
            seen = randomised(run, 1000 + k) if k else run
            if len(places):
                tiles += tile_rows(seen, shares, weights, given.steps)
            of_genes += gene_rows(seen, weights, given.steps)
        print(f"{folder.root.name}: {len(tiles)} slides x scores, {len(of_genes)} axes x scores", flush=True)
    parts = []
    if tiles:
        parts += ["### Lesion tiles", markdown(tile_table(pd.DataFrame(tiles)))]
    if of_genes:
        parts += ["### Programme genes: average precision", markdown(gene_table(pd.DataFrame(of_genes)))]
    command = f"python benchmarks/explanations.py --runs <{folders[0].read_config()['name']}> --write"
    text = "\n\n".join([f"`{command}`, {len(folders)} runs.", *parts])
    print(text)
    if given.write:
        page = Path(__file__).resolve().parents[1] / "docs" / "explanations.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
