"""Explanations of finished runs against what a virtual study planted: prints the tables, writes docs/explanations.md.

    python benchmarks/explanations.py --runs outputs/study-s23/full --write
    python benchmarks/explanations.py --runs outputs/study-s23/full --measure programmes --write

Everything is measured on the test compounds of each run. Lesions: the slides of treated animals whose planted severity
of the axis' first phenotype reaches 1, with tiles of both kinds; a tile shows the lesion where the mask marks 2 % of
it. Genes: the treated animals in which the programme is active from 0.3; a gene's score is the length of its mean over
these animals. The task explained is the axis' own finding where the run predicts it, else severity. Intervals are over
compounds. Likeness has no part of the network: its null is a fit to labels permuted within the parts of the split.
Programmes: the signed mean over the same animals, and over runs, ranks the genes of a pre-ranked GSEA whose
sets are the planted programmes; the axis' own is first where no other has a larger |NES|.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.markdown import markdown_of, write_between_marks
from toxfusion.evaluation.bootstrap import mean_over_clusters
from toxfusion.explanation import planted, truth
from toxfusion.explanation.attribution import samples_with
from toxfusion.explanation.explaining import finished_runs
from toxfusion.explanation.faithfulness import randomised
from toxfusion.explanation.genes import GeneAttributions, attribute_genes, gene_attention
from toxfusion.explanation.likeness import TileLikeness, fit_likeness
from toxfusion.explanation.pathways import PlacedSet, enrichment
from toxfusion.explanation.regions import add_integrated, tile_places, tile_scores
from toxfusion.runs.loaded import LoadedRun, load_run
from toxfusion.study.draws import generator
from toxfusion.study.nulls import permute_labels
from toxfusion.study.study import Study
from toxfusion.synthetic.axes import AXIS_NAMES

BLOCKS = ("tiles", "genes", "programmes")
"""Tables of this command, each between marks of its own in docs/explanations.md."""
TILE_MEASURES = ("auroc", "average_precision", "pointing", "prevalence")
RANDOM_DRAWS = 20
LIKENESS, PERMUTED = "likeness", "likeness, permuted labels"
CHANGE = "change of expression alone"
LEAST_GENES, PERMUTATIONS = 5, 200
"""Genes of a programme that every run reads, and permutations of its enrichment score."""


def tile_localisations(
    run: LoadedRun, shares: pd.DataFrame, weights: str, steps: int, likeness: Mapping[str, TileLikeness]
) -> list[dict[str, object]]:
    """One row a slide, first phenotype of an axis, and score.

    Args:
        shares: tiles with `truth.lesion_shares`.
        likeness: name of the score -> what it is by.
    """
    fold, tasks = run.fold, run.tasks.names
    having = samples_with(run, fold.split.test, "slide")
    by_phenotype: dict[str, list[str]] = {}
    for axis, phenotypes in truth.axis_phenotypes().items():
        by_phenotype.setdefault(phenotypes[0], []).append(axis)
    localisations: list[dict[str, object]] = []
    for phenotype, axes in by_phenotype.items():
        # Axes of one phenotype have the same mask: one row, so that no slide counts twice.
        axis, samples = "/".join(axes), truth.severe_samples(fold.study, axes[0], having)
        if not samples:
            continue
        task = truth.task_of_axis(axes[0], tasks)
        scores, _ = add_integrated(run, tile_scores(run, samples, [task]), [task], steps=steps)
        for name, fitted in likeness.items():
            # A task that all training slides have, or none, is not told: 0 everywhere.
            scores[name] = fitted.scores(run, samples).get(f"likeness:{task}", 0.0)
        for slide, of_slide in scores.groupby("slide_id", sort=False):
            lesion = shares.loc[(shares["slide_id"] == slide).to_numpy(), phenotype].to_numpy()
            lesion = lesion >= truth.LEAST_SHARE
            if lesion.all() or not lesion.any():
                continue
            rng = generator(0, "random tiles", str(slide), axis)
            by_score = {
                "integrated": truth.localisation(of_slide[f"integrated:{task}"].to_numpy(), lesion),
                "contribution": truth.localisation(of_slide[f"contribution:{task}"].to_numpy(), lesion),
                "gradient": truth.localisation(of_slide[f"gradient:{task}"].to_numpy(), lesion),
                "attention": truth.localisation(of_slide["attention"].to_numpy(), lesion),
                **{name: truth.localisation(of_slide[name].to_numpy(), lesion) for name in likeness},
                "random": mean_of_draws(
                    [truth.localisation(rng.random(len(lesion)), lesion) for _ in range(RANDOM_DRAWS)]
                ),
            }
            compound = fold.study.obs.at[of_slide["sample_id"].iloc[0], "compound"]
            localisations += [
                {
                    "axis": axis,
                    "task": task,
                    "weights": weights,
                    "score": name,
                    "compound": compound,
                    **values,
                }
                for name, values in by_score.items()
            ]
    return localisations


def with_permuted_labels(run: LoadedRun) -> LoadedRun:
    """The run on its study with the labels of every task permuted, as `null_permuted_labels` does."""
    study, tasks = run.fold.study, run.tasks
    permuted = permute_labels(
        study, run.fold.split, run.settings.seed, columns=tasks.columns, chemistry=tasks.chemistry
    )
    return load_run(run.folder, permuted, run.fold.split)


def mean_of_draws(draws: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each measure's mean over random scores."""
    return {str(measure): float(mean) for measure, mean in pd.DataFrame(draws).mean().items()}


@dataclass(frozen=True)
class OfAxis:
    """Genes of one axis in one run: the task that asks for it, its active test animals, their attributions."""

    axis: str
    task: str
    samples: list[str]
    attributions: GeneAttributions


def of_axes(run: LoadedRun, steps: int) -> list[OfAxis]:
    """Attributions of every axis that is active in a test animal of the run."""
    fold, tasks = run.fold, run.tasks.names
    if fold.expression is None:
        return []
    having = samples_with(run, fold.split.test, "expression")
    active = {axis: truth.active_samples(fold.study, axis, having) for axis in AXIS_NAMES}
    asked = {axis: truth.task_of_axis(axis, tasks) for axis, samples in active.items() if samples}
    by_task = {}
    for task in dict.fromkeys(asked.values()):
        union = {s for axis, own in asked.items() if own == task for s in active[axis]}
        by_task[task] = attribute_genes(run, [s for s in having if s in union], task, steps=steps)
    return [OfAxis(axis, task, active[axis], by_task[task]) for axis, task in asked.items()]


def gene_recoveries(run: LoadedRun, weights: str, axes: Sequence[OfAxis]) -> list[dict[str, object]]:
    """One row a run, axis and score."""
    fold = run.fold
    recoveries: list[dict[str, object]] = []
    for each in axes:
        assert fold.expression is not None, "an axis has attributions where the run reads expression"
        axis, samples, attributions = each.axis, each.samples, each.attributions
        programme = truth.programme(fold.study, axis)
        rng = generator(0, "random genes", axis)
        scores = {
            "integrated": attributions.integrated.loc[samples].mean().abs().to_numpy(),
            "gradient": attributions.gradient.loc[samples].mean().abs().to_numpy(),
            CHANGE: attributions.change.loc[samples].mean().abs().to_numpy(),
        }
        read = gene_attention(run, run.batch(samples))
        if read is not None:
            scores["attention"] = read.mean(0)
        measured = {n: truth.recovery(s, fold.expression.symbols, programme) for n, s in scores.items()}
        draws = [
            truth.recovery(rng.random(fold.n_genes), fold.expression.symbols, programme)
            for _ in range(RANDOM_DRAWS)
        ]
        measured["random"] = mean_of_draws(draws)
        recoveries += [
            {
                "axis": axis,
                "task": each.task,
                "weights": weights,
                "score": name,
                "n_samples": len(samples),
                **values,
            }
            for name, values in measured.items()
        ]
    return recoveries


def signed_means(weights: str, axes: Sequence[OfAxis]) -> list[tuple[str, str, int, pd.Series]]:
    """(axis, name of the score, animals, signed mean over them by gene_id) of one run."""
    means = []
    for each in axes:
        scores = {"integrated": each.attributions.integrated, CHANGE: each.attributions.change}
        for name, values in scores.items():
            if name == CHANGE and weights != "trained":
                continue
            named = name if weights == "trained" else f"random weights: {name}"
            means.append((each.axis, named, len(each.samples), values.loc[each.samples].mean()))
    return means


def programme_table(
    means: Sequence[tuple[str, str, int, pd.Series]], study: Study, seed: int
) -> pd.DataFrame:
    """Place of each axis' programme among all planted ones, by |NES|, with the NES; the last row counts first places.

    Args:
        means: of `signed_means`, of all runs; genes that some run does not read are left out.
    """
    genes = means[0][3].index
    for *_, values in means:
        genes = genes.intersection(values.index)
    symbols = study.var.loc[genes, "symbol"].astype(str)
    sets = []
    for axis in AXIS_NAMES:
        own = symbols.index[symbols.isin(truth.programme(study, axis))]
        if len(own) >= LEAST_GENES:
            sets.append(PlacedSet(axis, axis, "planted", tuple(own)))
    names = list(dict.fromkeys(name for _, name, _, _ in means))
    lines = []
    for axis in (each.set for each in sets):
        line: dict[str, object] = {"axis": axis}
        for name in names:
            of_score = [(n, values[genes]) for a, s, n, values in means if (a, s) == (axis, name)]
            if not of_score:
                continue
            total = sum((n * values for n, values in of_score), start=pd.Series(0.0, index=genes))
            mean = total / sum(n for n, _ in of_score)
            table = enrichment(mean, sets, permutations=PERMUTATIONS, seed=seed)
            place = int(np.flatnonzero(table["set"] == axis)[0])
            line |= {"animals": sum(n for n, _ in of_score) if name == "integrated" else line["animals"]}
            line[name] = f"{place + 1} ({table['nes'][place]:+.1f})"
        if len(line) > 1:
            lines.append(line)
    firsts = {n: f"{sum(str(x[n]).startswith('1 ') for x in lines)} of {len(lines)}" for n in names}
    return pd.DataFrame([*lines, {"axis": "first", "animals": "", **firsts}])


def over_compounds(slides: pd.DataFrame, measure: str) -> str:
    """Mean over slides with the 95 % interval of a bootstrap over compounds."""
    mean = mean_over_clusters(slides[measure].to_numpy(float), slides["compound"].to_numpy())
    return f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]"


def tile_table(localisations: pd.DataFrame) -> pd.DataFrame:
    """Trained and random weights: every score over all axes; then integrated gradients and likeness axis by axis."""
    lines = []
    for (weights, score), group in localisations.groupby(["weights", "score"], sort=False):
        lines.append({"axis": "all", "weights": weights, "score": score, **_measured(group)})
    trained = localisations[localisations["weights"] == "trained"]
    for score in ("integrated", LIKENESS):
        for axis, group in trained[trained["score"] == score].groupby("axis", sort=False):
            lines.append({"axis": axis, "weights": "trained", "score": score, **_measured(group)})
    return pd.DataFrame(lines)


def _measured(group: pd.DataFrame) -> dict[str, object]:
    measured: dict[str, object] = {"slides": len(group), "compounds": group["compound"].nunique()}
    return measured | {m: over_compounds(group, m) for m in TILE_MEASURES}


def gene_table(recoveries: pd.DataFrame) -> pd.DataFrame:
    """Mean average precision over runs, one row an axis and one column a score."""
    of_data = recoveries["score"].isin(["random", CHANGE])
    kept = recoveries[(recoveries["weights"] == "trained") | ~of_data]
    named = kept.assign(column=np.where(kept["weights"] == "trained", "", "random weights: ") + kept["score"])
    table = named.pivot_table(index="axis", columns="column", values="average_precision", sort=False)
    table = table.loc[[a for a in AXIS_NAMES if a in table.index]]
    prevalence = recoveries.groupby("axis")["prevalence"].mean()
    table.loc["mean"] = table.mean()
    return table.assign(prevalence=prevalence).reset_index().round(3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, help="a run, or a folder of finished runs")
    parser.add_argument("--measure", choices=BLOCKS, nargs="+", default=list(BLOCKS), help="which tables")
    parser.add_argument("--random-seeds", type=int, default=1, help="random weights, so many times")
    parser.add_argument("--steps", type=int, default=16, help="points of an integral to begin with")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/explanations.md")
    arguments = parser.parse_args()
    localisations: list[dict[str, object]] = []
    recoveries: list[dict[str, object]] = []
    means: list[tuple[str, str, int, pd.Series]] = []
    folders = finished_runs(arguments.runs)
    for folder in folders:
        run = planted.load(folder)
        study, split = run.fold.study, run.fold.split
        shares, likeness = None, {}
        if "tiles" in arguments.measure:
            likeness = {LIKENESS: fit_likeness(run), PERMUTED: fit_likeness(with_permuted_labels(run))}
            places = tile_places(run, samples_with(run, split.test, "slide"))
            shares = pd.concat([places, truth.lesion_shares(study, places)], axis=1) if len(places) else None
        for k in range(arguments.random_seeds + 1):
            weights = "random" if k else "trained"
            seen = randomised(run, 1000 + k) if k else run
            if shares is not None:
                localisations += tile_localisations(
                    seen, shares, weights, arguments.steps, {} if k else likeness
                )
            axes = of_axes(seen, arguments.steps) if {"genes", "programmes"} & {*arguments.measure} else []
            if "genes" in arguments.measure:
                recoveries += gene_recoveries(seen, weights, axes)
            means += signed_means(weights, axes) if "programmes" in arguments.measure else []
        print(
            f"{folder.root.name}: {len(localisations)} slides x scores, {len(recoveries)} axes x scores",
            flush=True,
        )
    tables: dict[str, pd.DataFrame] = {}
    if localisations:
        tables["tiles"] = tile_table(pd.DataFrame(localisations))
    if recoveries:
        tables["genes"] = gene_table(pd.DataFrame(recoveries))
    if means:
        tables["programmes"] = programme_table(means, study, seed=0)
    name = folders[0].read_config()["name"]
    for block, table in tables.items():
        command = f"python benchmarks/explanations.py --runs <{name}> --measure {block} --write"
        text = f"`{command}`, {len(folders)} runs.\n\n{markdown_of(table)}"
        print(f"{block}\n{text}")
        if arguments.write:
            write_between_marks("explanations.md", block, text)


if __name__ == "__main__":
    main()
