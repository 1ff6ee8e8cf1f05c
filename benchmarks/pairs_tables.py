"""docs/pairs.md: the tables of the benchmark on pairs, with paired intervals over patients."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.markdown import markdown_table
from benchmarks.pairs_cells import PairsCell, truth_of
from benchmarks.pairs_methods import METHODS
from benchmarks.pairs_readings import CONTROLS, EVERY, FEW, INPUTS, LABELS
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
"""Method -> cohort or task -> estimate."""
REFERENCE, FIRST = "ridge", "full"
TAUGHT = (
    ("slide_after_both", "slide_alone"),
    ("slide_after_both", "abmil"),
    ("slide_after_both", "clam"),
    ("full_finetuned", "nopretrain"),
    ("full_finetuned", "mcat"),
    ("full_finetuned", "survpath"),
)
"""Rows that are trained on labels after pretraining on both, and rows that read the same without it."""


def read(cells: Sequence[PairsCell], reading: str) -> dict[str, pd.DataFrame]:
    """Method -> the readings of all its cells, with fold and seed."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for cell in cells:
        file = cell.readings.with_name(f"{reading}.parquet")
        if file.is_file():
            table = pd.read_parquet(file).assign(fold=cell.fold, seed=cell.seed)
            parts.setdefault(cell.method.name, []).append(table)
    tables = {name: pd.concat(of, ignore_index=True) for name, of in parts.items()}
    return {name: table for name, table in tables.items() if len(table.columns) > 2 and len(table)}


def retrieval(
    cells: Sequence[PairsCell], direction: str, measure: Callable[[pd.DataFrame], Estimate]
) -> Measured:
    """A measure of each cohort, and of organs of several cohorts."""
    return {
        name: {str(w): measure(of) for w, of in table[table["direction"] == direction].groupby("within")}
        for name, table in read(cells, "retrieval").items()
    }


def labels(cells: Sequence[PairsCell], budget: int, reads: str, tasks: Sequence[str]) -> Measured:
    """AUROC of each task from one kind of input: slide, expression or both."""
    measured: Measured = {}
    for method, table in read(cells, "labels").items():
        chosen = table[(table["labels"] == budget) & (table["input"] == reads)]
        by_task = {t: auroc(of) for t, of in chosen.groupby("task") if t in tasks}
        if by_task:
            measured[method] = {t: by_task[t] for t in tasks if t in by_task}
    return measured


def survival(cells: Sequence[PairsCell], cohort: pd.Series) -> Measured:
    """Harrell's C of each cohort, of methods that were trained on all labels."""
    measured: Measured = {}
    for method, table in read(cells, "survival").items():
        every = table[table["labels"] == EVERY]
        by_cohort = every.groupby(cohort.loc[every["sample_id"]].to_numpy())
        measured[method] = {str(c): concordance(of) for c, of in by_cohort if of["event"].sum() > 1}
    return measured


def genes(cells: Sequence[PairsCell], study: Study, output: Path) -> Measured:
    """Median gene r of each cohort; seeds are averaged before.

    Args:
        output: folder of the benchmark, which holds the standardised expression of each fold.
    """
    cohort, correlations, truth = study.obs["batch"], Measured(), dict[int, pd.DataFrame]()
    for method, table in read(cells, "genes").items():
        folds = sorted(set(table["fold"]))
        for fold in folds:
            if fold not in truth:
                truth[fold] = pd.read_parquet(truth_of(output, fold))
        predicted = {
            f: table[table["fold"] == f].drop(columns=["fold", "seed"]).groupby("sample_id").mean()
            for f in folds
        }
        names = sorted(set(cohort.loc[table["sample_id"]]))
        correlations[method] = {
            c: gene_correlation(
                {f: of[(cohort.loc[of.index] == c).to_numpy()] for f, of in predicted.items()}, truth
            )
            for c in names
        }
    return correlations


def table_of(
    measured: Measured, columns: Sequence[str], folds: Mapping[str, frozenset[int]], macro: str = "macro"
) -> str:
    """Methods x cohorts or tasks; the macro mean with its interval, and its difference from ridge and to ``full``.

    Args:
        folds: method -> folds that it is finished on; those of other folds saw other patients, and are not compared.
    """
    shown = [name for name in METHODS if name in measured and all(c in measured[name] for c in columns)]
    if not shown or not columns:
        return "No cell of these rows is finished."
    means = {name: mean_of({c: measured[name][c] for c in columns}) for name in shown}
    lines = []
    for name in shown:
        values = [f"{measured[name][c].value:.3f}" for c in columns]
        against = []
        for other, sign in ((REFERENCE, 1.0), (FIRST, -1.0)):
            paired = other in means and name != other and folds[name] == folds[other]
            against.append(means[name].minus(means[other]).times(sign).told if paired else "")
        lines.append([name, *values, means[name].told, *against])
    return markdown_table(["row", *columns, macro, f"less {REFERENCE}", f"{FIRST} less it"], lines)


def _cohort_table(measured: Measured, cohorts: Sequence[str], folds: Mapping[str, frozenset[int]]) -> str:
    """Macro over cohorts; organs of several cohorts stand in a table of their own."""
    there = [c for c in cohorts if any(c in of for of in measured.values())]
    organs = sorted({w for of in measured.values() for w in of} - set(cohorts))
    text = table_of(measured, there, folds)
    return text + (f"\n\n{table_of(measured, organs, folds, 'mean')}" if organs else "")


def write_document(
    study: Study,
    done: Sequence[PairsCell],
    asked: Sequence[PairsCell],
    arguments: argparse.Namespace,
    failed: Sequence[str],
) -> None:
    """All tables of what is finished; what is missing is named.

    Args:
        arguments: of the command.
        failed: cells that failed, with the reason of each.
    """
    cohorts = sorted(set(study.obs["batch"]))
    folds = {name: frozenset(cell.fold for cell in done if cell.method.name == name) for name in METHODS}
    blocks = [
        "# Real pairs: slides and expression of patients",
        _made_by(study, arguments),
        _coverage(done, asked, failed),
        "## What the rows are\n\n"
        + "\n".join(
            f"- `{name}`: {method.what}." for name, method in METHODS.items() if name in arguments.methods
        ),
        *_retrieval_blocks(done, cohorts, folds),
        "## Expression from slides\n\nMedian over genes of Pearson's r within cohort and fold, by ridge from the "
        "vector of the slide that labels are read from (of `ridge` and `logistic`: mean and deviation of tiles).",
        table_of(genes(done, study, arguments.output), cohorts, folds),
        *_label_blocks(done, folds),
        LEAK,
        "## Survival\n\nHarrell's C of overall survival over pairs of patients of one fold and cohort, of rows that "
        "are trained on it beside the labels.",
        table_of(survival(done, study.obs["batch"]), cohorts, folds),
        DATA,
    ]
    replace_file(arguments.document, ("\n\n".join(blocks) + "\n").encode())
    print(f"written: {arguments.document}")


def _made_by(study: Study, arguments: argparse.Namespace) -> str:
    """The command, what the study holds, and how rows are compared."""
    counts = ", ".join(f"{name} {n}" for name, n in study.obs["batch"].value_counts().sort_index().items())
    return (
        f"Written by `python -m benchmarks.pairs {arguments.folder.name} "
        f"--folds {' '.join(map(str, arguments.folds))} --seeds {' '.join(map(str, arguments.seeds))} "
        f"--rows {' '.join(arguments.methods)}"
        + (f" --gene-sets {arguments.gene_sets.name}" if arguments.gene_sets else "")
        + ("`" if arguments.document == DOCUMENT else f" --document {arguments.document}`")
        + (f" with {' '.join(arguments.overrides)}" if arguments.overrides else "")
        + f". {len(study.obs)} patients ({counts}), "
        f"{study.obs['study'].nunique()} tissue source sites, {len(study.var)} genes. Folds keep sites whole, and are "
        "those of `splits/sites.csv` of the study. Rows are pretrained on training patients of all cohorts and read "
        "on test patients of new sites; every choice is made on validation. Intervals are over patients (95 %, "
        "bootstrap within fold), of the same patients for all rows; they say nothing of other sites or folds."
    )


def _retrieval_blocks(
    done: Sequence[PairsCell], cohorts: Sequence[str], folds: Mapping[str, frozenset[int]]
) -> list[str]:
    blocks = [
        "## Retrieval: does a slide find its profile?\n\nR@10 among the test patients of the cohort in the fold. Of "
        "every row both sides are centred on the training patients of the cohort (or organ) that is searched.",
    ]
    for direction in ("slide to RNA", "RNA to slide"):
        blocks += [
            f"### R@10, {direction}",
            _cohort_table(retrieval(done, direction, recall), cohorts, folds),
            f"### Median rank as a share of the patients searched, {direction} (chance 0.5, lower is better)",
            _cohort_table(retrieval(done, direction, median_share), cohorts, folds),
        ]
    return blocks


def _label_blocks(done: Sequence[PairsCell], folds: Mapping[str, frozenset[int]]) -> list[str]:
    tasks, controls = [label.name for label in LABELS], [label.name for label in CONTROLS]
    blocks = [
        "## Labels\n\nAUROC of logistic regression on frozen vectors, over pairs of patients of one fold. Of a "
        "network the vectors are its shared and private parts, as its heads read them. With ten "
        "labelled patients a class: the mean of ten draws, the same for all rows; of rows that are trained on labels: "
        "one draw a seed.",
    ]
    for reads in INPUTS:
        for budget in (FEW, EVERY):
            title = "ten labelled patients a class" if budget == FEW else "all labelled patients"
            by_task = labels(done, budget, reads, tasks)
            there = [t for t in tasks if any(t in of for of in by_task.values())]
            blocks += [f"### {reads.capitalize()}, {title}", table_of(by_task, there, folds)]
            control = labels(done, budget, reads, controls)
            if reads == "slide" and control:
                blocks += ["Negative control:", table_of(control, controls, folds)]
    return [
        *blocks,
        "### What the second modality adds\n\nMacro AUROC of the tables above, paired. Tasks are named that lie below "
        "by 0.001 or more, whatever their intervals.",
        gain_of_both(done, tasks),
        *_taught_block(done, tasks, folds),
    ]


def gain_of_both(done: Sequence[PairsCell], tasks: Sequence[str]) -> str:
    """What a second modality adds to one, of the same row and patients, with ten labels a class and with all."""
    lines = []
    for budget, told in ((FEW, "ten"), (EVERY, "all")):
        by_input = {reads: labels(done, budget, reads, tasks) for reads in INPUTS}
        for name in METHODS:
            parts = [of.get(name, {}) for of in by_input.values()]
            there = [t for t in tasks if all(t in part for part in parts)]
            if not there:
                continue
            slide, expression, both = (mean_of({t: part[t] for t in there}) for part in parts)
            lower = [t for t in there if parts[2][t].value < max(part[t].value for part in parts[:2]) - 5e-4]
            lines.append(
                [name, told, both.minus(expression).told, both.minus(slide).told, "; ".join(lower) or "none"]
            )
    if not lines:
        return "No cell that reads both is finished."
    columns = [
        "row",
        "labels",
        "both less expression",
        "both less slides",
        "tasks with both below the better one",
    ]
    return markdown_table(columns, lines)


def _taught_block(
    done: Sequence[PairsCell], tasks: Sequence[str], folds: Mapping[str, frozenset[int]]
) -> list[str]:
    table = gain_of_pretraining(done, tasks, folds)
    if not table:
        return []
    return [
        "### What pretraining on both teaches\n\nRows that are trained on labels, less rows that read the same of a "
        "patient without that pretraining: AUROC, paired.",
        table,
    ]


def gain_of_pretraining(
    done: Sequence[PairsCell], tasks: Sequence[str], folds: Mapping[str, frozenset[int]]
) -> str:
    """Differences of the rows of `TAUGHT` that have the same folds, by task and in the mean; "" where none has."""
    lines = []
    for taught, alone in TAUGHT:
        if not folds[taught] or folds[taught] != folds[alone]:
            continue
        for budget, told in ((FEW, "ten"), (EVERY, "all")):
            by_row = labels(done, budget, METHODS[taught].reads, tasks)
            there = [t for t in tasks if t in by_row[taught] and t in by_row[alone]]
            by_task = {t: by_row[taught][t].minus(by_row[alone][t]) for t in there}
            values = [f"{by_task[t].value:+.3f}" if t in by_task else "" for t in tasks]
            lines.append([f"`{taught}` less `{alone}`", told, *values, mean_of(by_task).told])
    return markdown_table(["difference", "labels", *tasks, "macro"], lines) if lines else ""


def _coverage(done: Sequence[PairsCell], asked: Sequence[PairsCell], failed: Sequence[str]) -> str:
    """Which cells are finished, by row; a row of fewer is measured on fewer patients, and said so."""
    missing: dict[str, list[str]] = {}
    finished = {(cell.method.name, cell.fold, cell.seed) for cell in done}
    for cell in asked:
        if (cell.method.name, cell.fold, cell.seed) not in finished:
            missing.setdefault(cell.method.name, []).append(f"{cell.fold}/{cell.seed}")
    if not missing:
        return f"All {len(asked)} cells are finished."
    lines = [f"- `{method}`: {', '.join(of)}" for method, of in missing.items()]
    reasons = [f"- failed: {line}" for line in failed]
    return (
        f"**Partial: {len(done)} of {len(asked)} cells are finished.** Rows with fewer folds are measured on other "
        "patients than the rest: they stand beside them for orientation, without a difference. Missing "
        "(fold/seed):\n\n" + "\n".join(lines + reasons)
    )
