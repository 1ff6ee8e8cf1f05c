"""Section "Survival" of docs/published.md: tables and a forest plot of what benchmarks.survival left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cohort_study import FOLDS
from benchmarks.markdown import markdown_table
from benchmarks.pairs_statistics import Estimate, concordance, mean_of, mean_over_patients
from benchmarks.survival_methods import METHODS
from toxfusion.evaluation.figures.canvas import new_figure
from toxfusion.evaluation.survival import harrell_c

REFERENCE, WITH_AGE, OURS = "ridge_cox", "ridge_cox_clinical", "full_both_clinical"
_COHORTS = ("blca", "brca", "coadread", "kirc", "kirp", "lihc", "luad", "lusc")
ADDED = (
    ("full_both", "full_expression"),
    ("full_both", "full_slides"),
    ("full_both_clinical", "full_expression_clinical"),
    ("full_both_clinical", "full_slides_clinical"),
    ("full_both_clinical", "full_both"),
)
"""Networks that read more, and less."""
REPORTED = {
    name: dict(zip(_COHORTS, of, strict=True))
    for name, of in {
        "ridge_cox": (0.618, 0.557, 0.610, 0.687, 0.846, 0.643, 0.641, 0.539),
        "ridge_cox_clinical": (0.653, 0.628, 0.631, 0.736, 0.867, 0.643, 0.643, 0.546),
        "age": (0.614, 0.636, 0.611, 0.626, 0.484, 0.532, 0.537, 0.546),
    }.items()
}
"""Mean of the folds of a fit outside this package, by the same definitions; the penalty of its ridge is not known."""

Measured = dict[str, dict[str, Estimate]]
"""Method -> cohort -> estimate."""


def read(results: Path) -> dict[str, pd.DataFrame]:
    """Method -> the mean of its seeds on every fold that is finished, with fold and number of seeds.

    A row has as many seeds on each fold as on the fold that has fewest. Log risks of a patient are averaged, and so
    are the terms of the Brier score.
    """
    tables = {}
    for name in METHODS:
        cells: dict[int, list[Path]] = {}
        for file in (results / "cells" / name).glob("fold*_seed*/survival.parquet"):
            fold = int(file.parent.name.removeprefix("fold").split("_seed")[0])
            cells.setdefault(fold, []).append(file)
        if cells:
            seeds = min(map(len, cells.values()))
            folds = [_mean_of_seeds(sorted(files)[:seeds], fold) for fold, files in sorted(cells.items())]
            tables[name] = pd.concat(folds, ignore_index=True).assign(seeds=seeds, seed=0)
    return tables


def _mean_of_seeds(files: Sequence[Path], fold: int) -> pd.DataFrame:
    tables = [pd.read_parquet(file).set_index("sample_id") for file in files]
    means = {
        column: np.mean([of[column].reindex(tables[0].index) for of in tables], axis=0)
        for column in ("score", "brier_term")
    }
    return tables[0].assign(fold=fold, **means).reset_index()


def blocks(results: Path, pictures: Path) -> list[str]:
    """The section; no block where no cell is finished."""
    tables = read(results)
    if not tables:
        return []
    cohorts = sorted({c for of in tables.values() for c in of["cohort"]})
    folds = {name: frozenset(map(int, of["fold"].unique())) for name, of in tables.items()}
    harrell = _by_cohort(tables, concordance)
    command = (results / "command.txt").read_text() if (results / "command.txt").is_file() else ""
    picture = _forest(harrell, folds, pictures / "published_survival.png")
    return [
        f"Results of `{command}`. Overall survival of {_patients(tables)} patients of "
        f"{len(cohorts)} cohorts on their five published folds (of patients; sites straddle them). A fifth of the "
        "training part is the validation part of a network, which stays as pretraining left it. Its head is solved on "
        "both, under the penalty of the default. Its log risks are averaged over its seeds, of which the first table "
        "has the number (`--seeds`). Baselines choose penalties by folds inside the training part.",
        "\n".join(f"- `{name}`: {METHODS[name].what}." for name in METHODS if name in tables),
        _coverage(folds),
        "### Harrell's C, mean of the folds",
        _fold_means(tables, cohorts),
        *_reported(tables, cohorts),
        "### Harrell's C over pairs of patients of one fold\n\nThe macro is the mean over cohorts. Differences are "
        "paired: the same patients are drawn for both rows. Rows of other folds are not compared.",
        _table(harrell, cohorts, folds),
        *(
            [f"![difference in Harrell's C from ridge Cox, macro over cohorts](images/{picture.name})"]
            if picture
            else []
        ),
        *_added(harrell, cohorts, folds),
        "### Uno's C",
        _table(_by_cohort(tables, lambda of: concordance(of, weight="uno_weight")), cohorts, folds),
        "### Integrated Brier score, lower is better\n\nOf networks and the pooled shadow, curves are by Breslow's "
        "estimate from training patients of the cohort.",
        _table(_by_cohort(tables, lambda of: mean_over_patients(of, "brier_term")), cohorts, folds),
    ]


def _patients(tables: Mapping[str, pd.DataFrame]) -> int:
    return max(of["sample_id"].nunique() for of in tables.values())


def _by_cohort(tables: Mapping[str, pd.DataFrame], measure: Callable[[pd.DataFrame], Estimate]) -> Measured:
    return {name: {str(c): measure(part) for c, part in of.groupby("cohort")} for name, of in tables.items()}


def _coverage(folds: Mapping[str, frozenset[int]]) -> str:
    missing = {
        name: sorted(set(range(FOLDS)) - folds.get(name, frozenset()))
        for name in METHODS
        if len(folds.get(name, ())) < FOLDS
    }
    if not missing:
        return "All rows are finished on all folds."
    lines = [f"- `{name}`: {', '.join(map(str, of))}" for name, of in missing.items()]
    return (
        "**Partial.** These folds are missing. A row of fewer folds is measured on fewer patients:\n\n"
        + "\n".join(lines)
    )


def _mean_of_folds(table: pd.DataFrame) -> dict[str, float]:
    """Cohort -> mean over folds of Harrell's C in the fold."""
    by_cohort: dict[str, list[float]] = {}
    for (cohort, _), of in table.groupby(["cohort", "fold"]):
        c = harrell_c(of["time"].to_numpy(), of["event"].to_numpy(), of["score"].to_numpy()).value
        by_cohort.setdefault(str(cohort), []).append(c)
    return {cohort: float(np.nanmean(cs)) for cohort, cs in by_cohort.items()}


def _fold_means(tables: Mapping[str, pd.DataFrame], cohorts: Sequence[str]) -> str:
    lines = []
    for name, of in tables.items():
        means = _mean_of_folds(of)
        values = [*(means[c] for c in cohorts), float(np.mean([means[c] for c in cohorts]))]
        counts = str(of["fold"].nunique()), str(of["seeds"].iloc[0])
        lines.append([f"`{name}`", *counts, *(f"{v:.3f}" for v in values)])
    return markdown_table(["row", "folds", "seeds", *cohorts, "macro"], lines)


def _reported(tables: Mapping[str, pd.DataFrame], cohorts: Sequence[str]) -> list[str]:
    """The same of a fit outside this package; no block where no such row is finished on all folds."""
    lines = []
    for name, reported in REPORTED.items():
        if name in tables and tables[name]["fold"].nunique() == FOLDS:
            own = _mean_of_folds(tables[name])
            known = [c for c in cohorts if c in reported]
            largest = max(known, key=lambda c: abs(own[c] - reported[c]))
            values = [f"{reported[c]:.3f}" if c in reported else "-" for c in cohorts]
            lines.append([f"`{name}`", *values, f"{own[largest] - reported[largest]:+.3f} ({largest})"])
    if not lines:
        return []
    table = markdown_table(["row", *cohorts, "largest difference"], lines)
    return ["Beside it, the same by a fit outside this package:", table]


def _table(measured: Measured, cohorts: Sequence[str], folds: Mapping[str, frozenset[int]]) -> str:
    """Methods x cohorts, the macro with its interval, and its paired difference from ridge Cox without and with age."""
    macro = {name: mean_of({c: of[c] for c in cohorts}) for name, of in measured.items()}
    lines = []
    for name, of in measured.items():
        against = []
        for other in (REFERENCE, WITH_AGE):
            paired = other in macro and other != name and folds[other] == folds[name]
            against.append(macro[name].minus(macro[other]).told if paired else "")
        lines.append([f"`{name}`", *(f"{of[c].value:.3f}" for c in cohorts), macro[name].told, *against])
    return markdown_table(["row", *cohorts, "macro", f"less {REFERENCE}", f"less {WITH_AGE}"], lines)


def _added(measured: Measured, cohorts: Sequence[str], folds: Mapping[str, frozenset[int]]) -> list[str]:
    """Paired differences of networks that read more and less; no block where no such two have the same folds."""
    lines = []
    for more, less in ADDED:
        if more in measured and less in measured and folds[more] == folds[less]:
            by_cohort = {c: measured[more][c].minus(measured[less][c]) for c in cohorts}
            values = [f"{by_cohort[c].value:+.3f}" for c in cohorts]
            below = ", ".join(c for c in cohorts if by_cohort[c].interval[1] < 0) or "none"
            lines.append([f"`{more}` less `{less}`", *values, mean_of(by_cohort).told, below])
    if not lines:
        return []
    columns = ["difference", *cohorts, "macro", "cohorts whose interval is below 0"]
    return ["### What each input adds", markdown_table(columns, lines)]


def _forest(measured: Measured, folds: Mapping[str, frozenset[int]], file: Path) -> Path | None:
    """Macro differences from ridge Cox on the same folds; None where there is no such row."""
    if REFERENCE not in measured:
        return None
    macro = {name: mean_of(of) for name, of in measured.items()}
    shown = [name for name in macro if name != REFERENCE and folds[name] == folds[REFERENCE]]
    if not shown:
        return None
    figure = new_figure(7, 0.35 * len(shown) + 1.2)
    axes = figure.subplots()
    for place, name in enumerate(reversed(shown)):
        difference = macro[name].minus(macro[REFERENCE])
        low, high = difference.interval
        axes.plot([low, high], [place, place], color="0.4", linewidth=1.5)
        axes.plot(difference.value, place, "o", color="#1f5a93" if name.startswith("full") else "0.2")
    axes.axvline(0.0, color="0.7", linewidth=1)
    axes.set_yticks(range(len(shown)), reversed(shown))
    axes.set_xlabel(f"Harrell's C less that of {REFERENCE}, macro over cohorts (95 %, over patients)")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return file
