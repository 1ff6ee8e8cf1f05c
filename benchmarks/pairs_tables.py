"""docs/pairs.md: the tables of the benchmark on pairs, with paired intervals over patients."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.pairs_readings import CONTROLS, EVERY, FEW, LABELS
from benchmarks.pairs_statistics import (
    Estimate,
    auroc,
    concordance,
    gene_correlation,
    mean_of,
    median_share,
    recall,
)
from toxfusion.study.files import replace_file

if TYPE_CHECKING:
    from benchmarks.pairs import Cell
    from toxfusion.study.study import Study

DOCUMENT = Path("docs/pairs.md")
DATA = (
    "## To get the same data\n\nA folder a cohort. `tcga_<cohort>_all_clean.csv.zip` is of the release of PORPOISE: "
    "clinical columns and z-scores of expression within the cohort. `bags/<slide_id>.pt` holds a tensor [regions, 192] "
    "a slide: the region features of HIPT (academic use). `<cohort>_labels.csv` is TCGA's clinical supplement, one row "
    "a case. Any cohort of that form can be added."
)
LEAK = (
    "**Of expression, LUAD or LUSC and KIRC or KIRP are no evidence.** The published z-scores are within each cohort, "
    "and how a table was standardised tells which it is: see the random directions of `null_random`. The same holds of "
    "both modalities together. Of slides: no site code has cases of both cohorts of an organ, so that a part of what "
    "tells these cohorts apart may be how their sites stain and scan."
)

Measured = dict[str, dict[str, Estimate]]
"""Row -> cohort or task -> estimate."""
REFERENCE, FIRST = "ridge", "full"


def read(cells: Sequence[Cell], name: str) -> dict[str, pd.DataFrame]:
    """Row -> the readings of all its cells, with fold and seed."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for cell in cells:
        file = cell.readings / f"{name}.parquet"
        if file.is_file():
            table = pd.read_parquet(file).assign(fold=cell.fold, seed=cell.seed)
            parts.setdefault(cell.row.name, []).append(table)
    tables = {row: pd.concat(of, ignore_index=True) for row, of in parts.items()}
    return {row: table for row, table in tables.items() if len(table.columns) > 2 and len(table)}


def retrieval(cells: Sequence[Cell], direction: str, measure: Callable[[pd.DataFrame], Estimate]) -> Measured:
    """A measure of each cohort, and of organs of several cohorts."""
    return {
        row: {str(w): measure(of) for w, of in table[table["direction"] == direction].groupby("within")}
        for row, table in read(cells, "retrieval").items()
    }


def labels(cells: Sequence[Cell], budget: int, given: str, tasks: Sequence[str]) -> Measured:
    """AUROC of each task from one kind of input."""
    found: Measured = {}
    for row, table in read(cells, "labels").items():
        chosen = table[(table["labels"] == budget) & (table["input"] == given)]
        by_task = {t: auroc(of) for t, of in chosen.groupby("task") if t in tasks}
        if by_task:
            found[row] = {t: by_task[t] for t in tasks if t in by_task}
    return found


def survival(cells: Sequence[Cell], cohort: pd.Series) -> Measured:
    """Harrell's C of each cohort, of rows that were trained on all labels."""
    found: Measured = {}
    for row, table in read(cells, "survival").items():
        every = table[table["labels"] == EVERY]
        by_cohort = every.groupby(cohort.loc[every["sample_id"]].to_numpy())
        found[row] = {str(c): concordance(of) for c, of in by_cohort if of["event"].sum() > 1}
    return found


def genes(cells: Sequence[Cell], study: Study, truth: Callable[[int], Path]) -> Measured:
    """Median gene r of each cohort; seeds are averaged before."""
    cohort, found, measured = study.obs["batch"], Measured(), dict[int, pd.DataFrame]()
    for row, table in read(cells, "genes").items():
        folds = sorted(set(table["fold"]))
        for fold in folds:
            if fold not in measured:
                measured[fold] = pd.read_parquet(truth(fold))
        mean = {
            f: table[table["fold"] == f].drop(columns=["fold", "seed"]).groupby("sample_id").mean()
            for f in folds
        }
        names = sorted(set(cohort.loc[table["sample_id"]]))
        found[row] = {
            c: gene_correlation(
                {f: of[(cohort.loc[of.index] == c).to_numpy()] for f, of in mean.items()}, measured
            )
            for c in names
        }
    return found


def table_of(
    measured: Measured,
    order: Sequence[str],
    columns: Sequence[str],
    folds: Mapping[str, frozenset[int]],
    macro: str = "macro",
) -> str:
    """Rows x cohorts or tasks; the macro mean with its interval, and its difference from ridge and to ``full``.

    Args:
        folds: row -> folds that it is finished on; rows of other folds saw other patients, and are not compared.
    """
    shown = [row for row in order if row in measured and all(c in measured[row] for c in columns)]
    if not shown or not columns:
        return "No cell of these rows is finished."
    means = {row: mean_of({c: measured[row][c] for c in columns}) for row in shown}
    head = ["row", *columns, macro, f"less {REFERENCE}", f"{FIRST} less it"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in shown:
        values = [f"{measured[row][c].value:.3f}" for c in columns]
        against = []
        for other, sign in ((REFERENCE, 1.0), (FIRST, -1.0)):
            paired = other in means and row != other and folds[row] == folds[other]
            against.append(told(means[row].minus(means[other]).times(sign)) if paired else "")
        lines.append("| " + " | ".join([row, *values, told(means[row]), *against]) + " |")
    return "\n".join(lines)


def told(found: Estimate) -> str:
    """Value and 95 % interval."""
    low, high = found.interval
    return f"{found.value:.3f} [{low:.3f}, {high:.3f}]"


def _cohort_table(
    measured: Measured, order: Sequence[str], cohorts: Sequence[str], folds: Mapping[str, frozenset[int]]
) -> str:
    """Macro over cohorts; organs of several cohorts stand in a table of their own."""
    there = [c for c in cohorts if any(c in of for of in measured.values())]
    organs = sorted({w for of in measured.values() for w in of} - set(cohorts))
    text = table_of(measured, order, there, folds)
    return text + (f"\n\n{table_of(measured, order, organs, folds, 'mean')}" if organs else "")


def write_document(
    study: Study,
    done: Sequence[Cell],
    asked: Sequence[Cell],
    given: argparse.Namespace,
    failed: Sequence[str],
) -> None:
    """All tables of what is finished; what is missing is named."""
    from benchmarks.pairs import ROWS, truth_of

    order, cohorts = list(ROWS), sorted(set(study.obs["batch"]))
    folds = {name: frozenset(cell.fold for cell in done if cell.row.name == name) for name in ROWS}
    tasks, controls = [label.name for label in LABELS], [label.name for label in CONTROLS]
    counts = ", ".join(f"{name} {n}" for name, n in study.obs["batch"].value_counts().sort_index().items())
    blocks = [
        "# Real pairs: slides and expression of patients",
        f"Written by `python -m benchmarks.pairs {given.folder.name} --folds {' '.join(map(str, given.folds))} --seeds "
        f"{' '.join(map(str, given.seeds))} --rows {' '.join(given.rows)}"
        + ("`" if given.document == DOCUMENT else f" --document {given.document}`")
        + (f" with {' '.join(given.overrides)}" if given.overrides else "")
        + f". {len(study.obs)} patients ({counts}), "
        f"{study.obs['study'].nunique()} tissue source sites, {len(study.var)} genes. Folds keep sites whole, and are "
        "those of `splits/sites.csv` of the study. Rows are pretrained on training patients of all cohorts and read "
        "on test patients of new sites; every choice is made on validation. Intervals are over patients (95 %, "
        "bootstrap within fold), of the same patients for all rows; they say nothing of other sites or folds.",
        _coverage(done, asked, failed),
        "## What the rows are\n\n"
        + "\n".join(f"- `{name}`: {ROWS[name].what}." for name in order if name in given.rows),
        "## Retrieval: does a slide find its profile?\n\nR@10 among the test patients of the cohort in the fold. Of "
        "every row both sides are centred on the training patients of the cohort (or organ) that is searched.",
    ]
    for direction in ("slide to RNA", "RNA to slide"):
        blocks += [
            f"### R@10, {direction}",
            _cohort_table(retrieval(done, direction, recall), order, cohorts, folds),
            f"### Median rank as a share of the patients searched, {direction} (chance 0.5, lower is better)",
            _cohort_table(retrieval(done, direction, median_share), order, cohorts, folds),
        ]
    blocks += [
        "## Expression from slides\n\nMedian over genes of Pearson's r within cohort and fold, by ridge from the "
        "vector of the slide that labels are read from (of `ridge` and `logistic`: mean and deviation of tiles).",
        table_of(genes(done, study, lambda fold: truth_of(given.output, fold)), order, cohorts, folds),
        "## Labels\n\nAUROC of logistic regression on frozen vectors, over pairs of patients of one fold. Of a "
        "network the vectors are its shared and private parts, as its heads read them. With ten "
        "labelled patients a class: the mean of ten draws, the same for all rows; of rows that are trained on labels: "
        "one draw a seed.",
    ]
    for given_name in ("slide", "expression", "both"):
        for budget in (FEW, EVERY):
            title = "ten labelled patients a class" if budget == FEW else "all labelled patients"
            found = labels(done, budget, given_name, tasks)
            there = [t for t in tasks if any(t in of for of in found.values())]
            blocks += [f"### {given_name.capitalize()}, {title}", table_of(found, order, there, folds)]
            control = labels(done, budget, given_name, controls)
            if given_name == "slide" and control:
                blocks += ["Negative control:", table_of(control, order, controls, folds)]
    blocks += [LEAK]
    blocks += [
        "## Survival\n\nHarrell's C of overall survival over pairs of patients of one fold and cohort, of rows that "
        "are trained on it beside the labels.",
        table_of(survival(done, study.obs["batch"]), order, cohorts, folds),
        DATA,
    ]
    replace_file(given.document, ("\n\n".join(blocks) + "\n").encode())
    print(f"written: {given.document}")


def _coverage(done: Sequence[Cell], asked: Sequence[Cell], failed: Sequence[str]) -> str:
    """Which cells are finished, by row; a row of fewer is measured on fewer patients, and said so."""
    missing: dict[str, list[str]] = {}
    finished = {(cell.row.name, cell.fold, cell.seed) for cell in done}
    for cell in asked:
        if (cell.row.name, cell.fold, cell.seed) not in finished:
            missing.setdefault(cell.row.name, []).append(f"{cell.fold}/{cell.seed}")
    if not missing:
        return f"All {len(asked)} cells are finished."
    lines = [f"- `{row}`: {', '.join(of)}" for row, of in missing.items()]
    reasons = [f"- failed: {line}" for line in failed]
    return (
        f"**Partial: {len(done)} of {len(asked)} cells are finished.** Rows with fewer folds are measured on other "
        "patients than the rest: they stand beside them for orientation, without a difference. Missing "
        "(fold/seed):\n\n" + "\n".join(lines + reasons)
    )
