"""The section of docs/published.md on MIRROR's folds: tables and a forest plot of what is finished."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd

from benchmarks.markdown import markdown_table
from benchmarks.mirror_folds import (
    DATASETS,
    FOLDS,
    METHODS,
    METRICS,
    folds_file,
    overlaps,
    runs_of,
    scores,
    unknown_file,
)
from benchmarks.pairs_statistics import Estimate
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
"""Method -> metric -> estimate."""


def blocks(output: Path, pictures: Path) -> list[str]:
    """Rows that are finished on all folds of a data set; those of fewer folds are named at the end."""
    made = [
        "Made by `python -m benchmarks.mirror_folds FOLDER`. The folds are MIRROR's. Its train part is ours, less "
        "a fifth "
        "drawn to choose on; its val part is the test part. Values are means of the folds, as MIRROR reports them. "
        "Features are of HIPT, one row a region, and expression is the z-scores of about 1,550 genes. So no "
        "number here "
        "repeats MIRROR's own, which has other features and 10,234 genes.",
        "\n".join(f"- `{name}`: {method.what}." for name, method in METHODS.items()),
    ]
    finished: dict[str, Scores] = {}
    missing: list[str] = []
    absent: dict[str, list[str]] = {}
    for dataset in DATASETS:
        estimates = {method: scores(output, dataset, method, range(FOLDS)) for method in METHODS}
        finished[dataset] = {method: of for method, of in estimates.items() if of is not None}
        begun = {
            method: len(runs_of(output, dataset, method)) for method, of in estimates.items() if of is None
        }
        for method, n in begun.items():
            if n == 0 and (method != "genes_centred" or dataset in TWO_FILES):
                absent.setdefault(method, []).append(dataset.upper())
        partial = [f"`{method}` ({n} of {FOLDS} folds)" for method, n in begun.items() if n]
        if partial:
            missing.append(f"{dataset.upper()}: not finished: {', '.join(partial)}.")
        if finished[dataset]:
            made += [
                f"### {dataset.upper()}: {' or '.join(DATASETS[dataset])}",
                _facts(output, dataset),
            ]
            made.append(_table(dataset, finished[dataset]))
    if not any(finished.values()):
        return []
    _draw(finished, pictures / PICTURE)
    made += [f"![macro-AUROC on MIRROR's folds](images/{PICTURE})", *_artefact(finished)]
    missing += [f"`{method}` has not been run on {', '.join(of)}." for method, of in absent.items()]
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


def _table(dataset: str, estimates: Scores) -> str:
    lines = []
    for method, of in estimates.items():
        plain = PLAIN[METHODS[method].reads]
        less = (
            of["macro-AUROC"].minus(estimates[plain]["macro-AUROC"]).told
            if plain in estimates and plain != method
            else ""
        )
        lines.append([METHODS[method].reads, f"`{method}`", *(of[metric].told for metric in METRICS), less])
    lines.sort(key=lambda line: list(PLAIN).index(line[0]))
    if dataset in OTHER_CODE:
        values = [f"{value:.3f}" for value in OTHER_CODE[dataset]]
        lines.append(["expression", "logistic regression, other code", *values, ""])
    return markdown_table(["reads", "row", *METRICS, "AUROC less the logistic row of the same"], lines)


def _artefact(finished: dict[str, Scores]) -> list[str]:
    """What expression says of a subtype that is a file of its own."""
    lines = []
    for dataset in TWO_FILES:
        estimates = finished.get(dataset, {})
        if {"genes_logistic", "genes_centred"} <= set(estimates):
            as_released, centred = (
                estimates[name]["macro-AUROC"] for name in ("genes_logistic", "genes_centred")
            )
            lines.append([dataset.upper(), as_released.told, centred.told])
    if not lines:
        return []
    return [
        "### Expression of two files",
        "The z-scores of NSCLC and RCC come from one file a cohort, and the cohort is the subtype. What tells the "
        "files "
        "apart may be how each was made. It cannot be told from biology with these tables. Standardised within "
        "each file "
        "by its own training patients, expression says:",
        markdown_table(["data set", "AUROC of `genes_logistic`", "AUROC of `genes_centred`"], lines),
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


def _draw(finished: dict[str, Scores], path: Path) -> None:
    """Forest plot: macro-AUROC of each row with its interval, one panel a data set."""
    shown = {dataset: estimates for dataset, estimates in finished.items() if estimates}
    names = [name for name in METHODS if any(name in of for of in shown.values())]
    names.sort(key=lambda name: list(PLAIN).index(METHODS[name].reads))
    with mpl.rc_context(STYLE):
        figure = new_figure(2.4 + 2.4 * len(shown), 1.4 + 0.3 * len(names))
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
        for axis, (dataset, estimates) in zip(axes, shown.items(), strict=True):
            for i, name in enumerate(names):
                if name not in estimates:
                    continue
                auroc = estimates[name]["macro-AUROC"]
                low, high = auroc.interval
                look = look_of(list(PLAIN).index(METHODS[name].reads))
                axis.plot([low, high], [i, i], color=look["color"], linewidth=1.5)
                axis.plot(auroc.value, i, color=look["color"], marker=look["marker"], markersize=5)
            axis.axvline(0.5, color="#8a8a8a", linewidth=0.8, linestyle="--")
            axis.set_title(dataset.upper(), fontsize=10)
            axis.set_xlabel("macro-AUROC")
        labels = [f"{name} ({METHODS[name].reads})" for name in names]
        axes[0].set_yticks(range(len(names)), labels)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            save_figure(figure, draft)
