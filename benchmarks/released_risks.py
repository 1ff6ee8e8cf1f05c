"""Released risks of published survival models beside ours, on the same patients and folds.

    python -m benchmarks.released_risks FOLDER --external mcat_predictions.csv --output published/risks
    python -m benchmarks.released_risks FOLDER --external mcat_predictions.csv --ours published/survival

FOLDER holds one folder a cohort (``tcga_<cohort>_all_clean.csv.zip`` and ``splits/``). The first external table has the
columns model, cohort, fold, case_id, risk, months and event; further tables are as `toxfusion.compare external=` takes
them. Cohorts are those of the table that the folder has. Finished runs are skipped. `python -m benchmarks.published`
makes the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.command import command
from benchmarks.markdown import markdown_table
from benchmarks.survival_tables import read
from toxfusion.evaluation.survival import concordance_statistic
from toxfusion.study.files import replace_file
from toxfusion.study.number_columns import numbers
from toxfusion.study.study import Study
from toxfusion.study.tables import read_table

FOLDS = 5
BASELINE, OURS = "pca_cox", "full_both"
"""Rows of ours that others are compared with: ridge Cox on components, and the default on slides and expression where
``--ours`` has it, which reads what the released models read."""
REFERENCES = {
    BASELINE: "ridge Cox on 50 components of expression",
    OURS: "the default on slides and expression",
}
ALL = "all"
"""The comparison of all cohorts, each within itself."""
PICTURE = "published_risks.png"
COLUMNS = ("model", "cohort", "fold", "case_id", "risk", "months", "event")
#: Harrell's C, mean of five folds, in the order of STATED_COHORTS: what Evaluation.ipynb of the release prints
#: (github.com/mahmoodlab/MCAT).
STATED_COHORTS = ("blca", "brca", "gbmlgg", "luad", "ucec")
STATED = {
    "SNN": (0.541, 0.466, 0.598, 0.539, 0.493),
    "DSsm": (0.500, 0.500, 0.498, 0.496, 0.500),
    "DSsm_concat": (0.604, 0.521, 0.803, 0.616, 0.598),
    "DSsm_bilinear": (0.589, 0.522, 0.809, 0.558, 0.593),
    "AMILsm": (0.536, 0.564, 0.787, 0.559, 0.625),
    "AMILsm_concat": (0.605, 0.551, 0.816, 0.563, 0.614),
    "AMILsm_bilinear": (0.567, 0.536, 0.812, 0.578, 0.562),
    "MIFCNsm": (0.504, 0.524, 0.734, 0.548, 0.597),
    "MIFCNsm_concat": (0.611, 0.545, 0.805, 0.595, 0.615),
    "MIFCNsm_bilinear": (0.575, 0.577, 0.813, 0.551, 0.586),
    "MCATsm_concat": (0.624, 0.580, 0.817, 0.620, 0.622),
}
WHAT = {
    "SNN": "genes alone",
    "DSsm": "Deep Sets, slides alone",
    "DSsm_concat": "Deep Sets and genes, joined",
    "DSsm_bilinear": "Deep Sets and genes, bilinear",
    "AMILsm": "attention, slides alone",
    "AMILsm_concat": "attention and genes, joined",
    "AMILsm_bilinear": "attention and genes, bilinear",
    "MIFCNsm": "cluster attention, slides alone",
    "MIFCNsm_concat": "cluster attention and genes, joined",
    "MIFCNsm_bilinear": "cluster attention and genes, bilinear",
    "MCATsm_concat": "MCAT",
}


def released(path: Path) -> pd.DataFrame:
    """The table of released risks, numbers as numbers."""
    table = read_table(path, required=COLUMNS)
    return table.assign(**{c: numbers(table[c], path) for c in ("fold", "risk", "months", "event")})


def concordance_by_fold(table: pd.DataFrame) -> pd.Series:
    """Harrell's C of each model, cohort and fold, from the times and events of the table itself."""

    def of_fold(patients: pd.DataFrame) -> float:
        time, event, risk = (patients[c].to_numpy(np.float64) for c in ("months", "event", "risk"))
        one = np.zeros(len(patients), np.int64)
        return float(concordance_statistic(time, event, risk, event, one, 1)(np.ones((1, 1)))[0])

    return table.groupby(["model", "cohort", "fold"])[["months", "event", "risk"]].apply(of_fold)


def run_cohort(cohort: str, folder: Path, output: Path, experiments: list[str]) -> None:
    """Prepare the cohort with its published folds, and train the experiments on them."""
    root, place = output / "studies" / cohort, folder / cohort
    if not (root / "splits" / "published.csv").is_file():
        command(
            "toxfusion.prepare", "source=tcga", f"output={root}", f"source.name={cohort}",
            f"source.cases={next(place.glob('tcga_*_all_clean.csv*'))}", "source.kind=zscore",
            "source.time_column=survival_months", "source.censorship_column=censorship", "source.duplicates=mean",
            "source.slides=listed", f"source.folds={place / 'splits'}",
        )  # fmt: skip
    left = [
        name
        for name in experiments
        if len(list((output / "runs" / cohort / name).glob("fold*/done.json"))) < FOLDS
    ]
    if not left:
        return
    command(
        "toxfusion.train", "-m", f"experiment={','.join(left)}", f"split.fold={','.join(map(str, range(FOLDS)))}",
        f"data.root={root}",
        "tile_features=none", "data=cohort", "modality=omics", "split=predefined",
        f"split.path={root / 'splits' / 'published.csv'}", "task=survival", "paths.variant=''",
        f"paths.outputs={output / 'runs'}",
    )  # fmt: skip


def risks_of(results: Path) -> pd.DataFrame:
    """Risks that `benchmarks.survival` left, of rows that are finished on every fold, as an external table."""
    tables = [
        of.assign(model=model).rename(columns={"sample_id": "case", "score": "risk"})
        for model, of in read(results).items()
        if of["fold"].nunique() == FOLDS
    ]
    if not tables:
        raise SystemExit(f"error: --ours {results}: no row is finished on all {FOLDS} folds; leave it out")
    return pd.concat(tables)[["model", "cohort", "fold", "case", "risk"]]


def blocks(output: Path, pictures: Path) -> list[str]:
    """Tables of the released risks by themselves and paired with ours, a forest plot, and what could
    not be reproduced; nothing before the benchmark has ended once.
    """
    if not (output / "released.csv").is_file():
        return []
    ours = pd.read_csv(output / "released.csv").set_index(["model", "cohort"])["c"]
    stated = {model: dict(zip(STATED_COHORTS, cs, strict=True)) for model, cs in STATED.items()}
    gaps = [abs(ours[model, cohort] - stated[model][cohort]) for model in STATED for cohort in STATED_COHORTS]
    lines = [
        [f"`{model}`", WHAT[model],
         *(f"{ours[model, cohort]:.3f} ({stated[model][cohort]:.3f})" for cohort in STATED_COHORTS)]
        for model in STATED
    ]  # fmt: skip
    near = sum(gap <= 0.002 for gap in gaps)
    made = [
        "Made by `python -m benchmarks.released_risks FOLDER --external mcat_predictions.csv`. The risks of MCAT "
        "and ten other models were released with Chen et al. (ICCV 2021), one a patient of each fold.",
        "### Do the released risks give the stated numbers?",
        f"{near} of {len(gaps)} agree within 0.002; the largest difference is {max(gaps):.4f}. Below is Harrell's "
        f"C from "
        "the risks, mean of the folds, and in brackets what the release states.",
        _labels(output),
        markdown_table(["model", "what it reads", *map(str.upper, STATED_COHORTS)], lines),
    ]
    for comparison in sorted(
        (output / "comparison").glob("*/comparison.csv"), key=lambda p: p.parent.name != ALL
    ):
        made += _paired(comparison, pictures)
    missing = "\n".join(f"- {line}" for line in MISSING)
    return [*made, "### What could not be reproduced, and why", missing]


def _paired(comparison: Path, pictures: Path) -> list[str]:
    name = comparison.parent.name
    table = pd.read_csv(comparison).set_index("experiment")
    table.columns = [c.removeprefix("survival_") for c in table.columns]
    title = "all cohorts, each within itself" if name == ALL else name.upper()
    reference = str(table.index[table["difference"].isna()][0])
    lines = [
        [f"`{model}`", "released" if model in STATED else "ours",
         _span(of["value"], of["low"], of["high"]),
         _span(of["difference"], of["difference_low"], of["difference_high"], "+") or "reference",
         "" if np.isnan(of["p_holm"]) else f"{of['p_holm']:.3f}"]
        for model, of in zip(map(str, table.index), table.to_dict("records"), strict=True)
    ]  # fmt: skip
    n = int(table["n"].iloc[0])
    made = [
        f"### Paired on {title}: {n} patients",
        f"Pairs of patients of one fold. Differences are from `{reference}`, {REFERENCES[reference]}.",
        markdown_table(["row", "whose", "Harrell C", f"less {reference}", "p (Holm)"], lines),
    ]
    if name == ALL:
        made.insert(1, _verdict(table, reference))
        replace_file(pictures / PICTURE, (comparison.parent / "differences.png").read_bytes())
        made.append(f"![differences from {reference} on {title}](images/{PICTURE})")
    return made


def _span(value: float, low: float, high: float, sign: str = "") -> str:
    return "" if np.isnan(value) else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _labels(output: Path) -> str:
    """Whether the release and the cohort tables have the same times and events."""
    beside = pd.read_csv(output / "labels.csv")
    told = [f"{of.differing} of {of.patients} in {str(of.cohort).upper()}" for of in beside.itertuples()]
    return (
        f"Patients whose time or event differs between the release and the cohort tables: {', '.join(told)}."
    )


def _verdict(table: pd.DataFrame, reference: str) -> str:
    """How many released models differ from the reference after Holm's correction, and on which side."""
    released = table[table.index.isin(list(STATED))]
    sure = released[released["p_holm"] < 0.05]
    below, above = int((sure["difference"] < 0).sum()), int((sure["difference"] > 0).sum())
    best = str(released["value"].idxmax())
    difference, low, high = (
        float(released[column][best]) for column in ("difference", "difference_low", "difference_high")
    )
    return (
        f"{below} of {len(released)} released models lie below `{reference}` after Holm's correction, {above} "
        f"above. The best of them, `{best}`, differs by " + _span(difference, low, high, "+") + "."
    )


MISSING = (
    "GBMLGG and UCEC of the released risks have no expression or features here. Nothing of ours stands beside them.",
    "The released models read ResNet-50 tiles and other gene tables, which are not here. So whole methods are "
    "compared, "
    "not networks on the same input.",
    "What the authors chose on these folds is not known. Of ours, penalties are chosen inside the training part.",
)


def labels_beside(table: pd.DataFrame, output: Path, cohorts: list[str]) -> pd.DataFrame:
    """Patients of each cohort, and those whose time (by more than 0.1 month) or event differs from the study's."""
    lines = []
    for cohort in cohorts:
        obs = Study.open(output / "studies" / cohort).obs
        of = table[table["cohort"] == cohort].drop_duplicates("case_id").set_index("case_id")
        common = of.index.intersection(obs.index)
        time = (of.loc[common, "months"] - obs.loc[common, "survival_time"]).abs() > 0.1
        event = of.loc[common, "event"] != obs.loc[common, "event"]
        lines.append({"cohort": cohort, "patients": len(common), "differing": int((time | event).sum())})
    return pd.DataFrame(lines)


def _is_newer(made: Path, sources: Sequence[Path]) -> bool:
    return made.is_file() and made.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--external", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, default=Path("published/risks"))
    parser.add_argument(
        "--rows",
        dest="experiments",
        nargs="+",
        default=[BASELINE],
        help="experiments of survival from expression",
    )
    parser.add_argument("--ours", type=Path, help="output of benchmarks.survival, whose rows stand beside")
    arguments = parser.parse_args()
    table = released(arguments.external[0])
    cohorts = [c for c in sorted(set(table["cohort"])) if (arguments.folder / c / "splits").is_dir()]
    if not cohorts:
        raise SystemExit(f"error: {arguments.folder}: has none of the cohorts {sorted(set(table['cohort']))}")
    for cohort in cohorts:
        run_cohort(cohort, arguments.folder, arguments.output, arguments.experiments)
    tables, reference = list(arguments.external), BASELINE
    if arguments.ours is not None:
        tables.append(arguments.output / "ours.csv")
        ours = risks_of(arguments.ours)
        reference = OURS if OURS in set(ours["model"]) else BASELINE
        replace_file(tables[-1], ours.to_csv(index=False).encode())
    external = f"external=[{','.join(map(str, tables))}]"
    for name in (*cohorts, ALL):
        pattern, place = "*" if name == ALL else name, arguments.output / "comparison" / name
        done = (arguments.output / "runs").glob(f"{pattern}/*/*/done.json")
        if not _is_newer(place / "comparison.csv", [*tables, *done]):
            runs = arguments.output / "runs" / pattern
            command(
                "toxfusion.compare", f"runs='{runs}'", external, f"reference={reference}", f"output={place}"
            )
    by_fold = concordance_by_fold(table)
    mean = by_fold.groupby(level=["model", "cohort"]).mean().rename("c").reset_index()
    replace_file(
        arguments.output / "labels.csv",
        labels_beside(table, arguments.output, cohorts).to_csv(index=False).encode(),
    )
    replace_file(arguments.output / "released.csv", mean.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
