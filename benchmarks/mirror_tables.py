"""The section of docs/published.md on MIRROR's folds: tables and a forest plot of what is finished."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd

from benchmarks.mirror_folds import (
    DATASETS,
    FOLDS,
    METRICS,
    ROWS,
    folds_file,
    overlaps,
    runs_of,
    scores,
    unknown_file,
)
from benchmarks.pairs_statistics import Estimate
from benchmarks.pairs_tables import told
from benchmarks.released_risks import markdown
from toxfusion.evaluation.figures.canvas import STYLE, look_of, new_figure, save_figure
from toxfusion.study.files import replacing

#: What reads the same without a network.
PLAIN = {"slide": "meanpool_logistic", "expression": "genes_logistic", "both": "concat_logistic"}
#: Logistic regression on the same z-scores by other code, mean of five folds: accuracy, macro-AUROC, macro-F1.
OTHER_CODE = {
    "nsclc": (0.977, 0.995, 0.977),
    "brca": (0.893, 0.914, 0.791),
    "coadread": (0.757, 0.790, 0.620),
}
#: Data sets whose subtypes are a file each.
TWO_FILES = ("nsclc", "rcc")
PICTURE = "published_mirror.png"

Scores = dict[str, dict[str, Estimate]]


def blocks(output: Path, pictures: Path) -> list[str]:
    """Rows that are finished on all folds of a data set; those of fewer folds are named at the end."""
    made = [
        "Made by `python -m benchmarks.mirror_folds FOLDER`. The folds are MIRROR's. Its train part is ours, less "
        "a fifth "
        "drawn to choose on; its val part is the test part. Values are means of the folds, as MIRROR reports them. "
        "Features are of HIPT, one row a region, and expression is the z-scores of about 1,550 genes. So no "
        "number here "
        "repeats MIRROR's own, which has other features and 10,234 genes.",
        "\n".join(f"- `{name}`: {row.what}." for name, row in ROWS.items()),
    ]
    found: dict[str, Scores] = {}
    missing: list[str] = []
    absent: dict[str, list[str]] = {}
    for dataset in DATASETS:
        of_rows = {row: scores(output, dataset, row, range(FOLDS)) for row in ROWS}
        found[dataset] = {row: of for row, of in of_rows.items() if of is not None}
        begun = {row: len(runs_of(output, dataset, row)) for row, of in of_rows.items() if of is None}
        for row, n in begun.items():
            if n == 0 and (row != "genes_centred" or dataset in TWO_FILES):
                absent.setdefault(row, []).append(dataset.upper())
        partial = [f"`{row}` ({n} of {FOLDS} folds)" for row, n in begun.items() if n]
        if partial:
            missing.append(f"{dataset.upper()}: not finished: {', '.join(partial)}.")
        if found[dataset]:
            made += [
                f"### {dataset.upper()}: {' or '.join(DATASETS[dataset])}",
                _facts(output, dataset),
            ]
            made.append(_table(dataset, found[dataset]))
    if not any(found.values()):
        return []
    _draw(found, pictures / PICTURE)
    made += [f"![macro-AUROC on MIRROR's folds](images/{PICTURE})", *_artefact(found)]
    missing += [f"`{row}` has not been run on {', '.join(of)}." for row, of in absent.items()]
    told_of = "\n".join(f"- {line}" for line in [*missing, *_never(output)])
    return [*made, "### What could not be reproduced, and why", told_of]


def _facts(output: Path, dataset: str) -> str:
    table = pd.read_csv(folds_file(output, dataset))
    unknown = unknown_file(output, dataset).read_text().split()
    text = f"{table['sample_id'].nunique()} patients of the folds are in the cohorts"
    text += f"; {len(unknown)} are not, and are left out." if unknown else "."
    both = overlaps(table)
    if both:
        told_of = ", ".join(f"fold {fold}: {len(cases)}" for fold, cases in both.items())
        text += (
            f" **The folds leak**: patients that train and are tested, {told_of}. Such a split is refused; these "
            f"runs set "
            "`split.allow_overlap=true`, and their folders end in `_overlap`."
        )
    return text


def _table(dataset: str, rows: Scores) -> str:
    lines = []
    for row, of in rows.items():
        plain = PLAIN[ROWS[row].reads]
        less = (
            told(of["macro-AUROC"].minus(rows[plain]["macro-AUROC"]))
            if plain in rows and plain != row
            else ""
        )
        lines.append([ROWS[row].reads, f"`{row}`", *(told(of[metric]) for metric in METRICS), less])
    lines.sort(key=lambda line: list(PLAIN).index(line[0]))
    if dataset in OTHER_CODE:
        values = [f"{value:.3f}" for value in OTHER_CODE[dataset]]
        lines.append(["expression", "logistic regression, other code", *values, ""])
    return markdown(["reads", "row", *METRICS, "AUROC less the logistic row of the same"], lines)


def _artefact(found: dict[str, Scores]) -> list[str]:
    """What expression says of a subtype that is a file of its own."""
    lines = []
    for dataset in TWO_FILES:
        rows = found.get(dataset, {})
        if {"genes_logistic", "genes_centred"} <= set(rows):
            as_released, centred = (rows[r]["macro-AUROC"] for r in ("genes_logistic", "genes_centred"))
            lines.append([dataset.upper(), told(as_released), told(centred)])
    if not lines:
        return []
    return [
        "### Expression of two files",
        "The z-scores of NSCLC and RCC come from one file a cohort, and the cohort is the subtype. What tells the "
        "files "
        "apart may be how each was made. It cannot be told from biology with these tables. Standardised within "
        "each file "
        "by its own training patients, expression says:",
        markdown(["data set", "AUROC of `genes_logistic`", "AUROC of `genes_centred`"], lines),
        "So nearly all that a linear model reads lies in the mean and scale of each gene in each file. Read no "
        "claim into "
        "expression alone on these two. BRCA and COADREAD are one file each.",
    ]


def _never(output: Path) -> list[str]:
    lines = [
        "MIRROR's own features (of a foundation model, 2,048 patches a slide) and its 10,234 genes are not here, "
        "so its "
        "published numbers are not repeated.",
    ]
    if unknown_file(output, "rcc").is_file():
        unknown = unknown_file(output, "rcc").read_text().split()
        lines.append(
            f"RCC has three subtypes in MIRROR. {len(unknown)} patients of its folds, chromophobe tumours among "
            f"them, are "
            "in no cohort here, so RCC is of two subtypes. Its folds test some patients twice, so that they cannot be "
            "pooled into one table."
        )
    return lines


def _draw(found: dict[str, Scores], path: Path) -> None:
    """Forest plot: macro-AUROC of each row with its interval, one panel a data set."""
    shown = {dataset: rows for dataset, rows in found.items() if rows}
    names = [row for row in ROWS if any(row in rows for rows in shown.values())]
    names.sort(key=lambda row: list(PLAIN).index(ROWS[row].reads))
    with mpl.rc_context(STYLE):
        figure = new_figure(2.4 + 2.4 * len(shown), 1.4 + 0.3 * len(names))
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
        for axis, (dataset, rows) in zip(axes, shown.items(), strict=True):
            for i, row in enumerate(names):
                if row not in rows:
                    continue
                of = rows[row]["macro-AUROC"]
                low, high = of.interval
                look = look_of(list(PLAIN).index(ROWS[row].reads))
                axis.plot([low, high], [i, i], color=look["color"], linewidth=1.5)
                axis.plot(of.value, i, color=look["color"], marker=look["marker"], markersize=5)
            axis.axvline(0.5, color="#8a8a8a", linewidth=0.8, linestyle="--")
            axis.set_title(dataset.upper(), fontsize=10)
            axis.set_xlabel("macro-AUROC")
        labels = [f"{row} ({ROWS[row].reads})" for row in names]
        axes[0].set_yticks(range(len(names)), labels)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            save_figure(figure, draft)
