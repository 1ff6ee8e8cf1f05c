"""Many runs into one table: values with intervals, paired differences from a reference, shares of the oracle.

Works on tables; run folders are read by ``toxfusion.compare``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.evaluation import bootstrap
from toxfusion.evaluation.bootstrap import DRAWS, Difference, Interval, IntervalMethod
from toxfusion.evaluation.predictions import PredictionsError
from toxfusion.evaluation.scoring import (
    BIOCHEMISTRY,
    HEADLINES,
    LEAK_AUROC,
    LESIONS,
    SUBTYPE,
    VIEWS,
    Within,
    headline_metric,
    headline_rows,
    headline_statistic,
    join_cohorts,
    out_of_fold,
    resampling_of,
    strata_of,
    with_oracle,
)

TITLES = {
    "dili": "DILI of compounds",
    "injury": "Injury of dose groups",
    LESIONS: "Lesions of animals, macro average",
    "severity": "Severity of animals",
    "survival": "Survival of samples",
    SUBTYPE: "Subtype of samples, one against the rest, macro average",
    BIOCHEMISTRY: "Serum chemistry of samples, macro average",
}
METRIC_NAMES = {
    "auroc": "AUROC",
    "quadratic_kappa": "quadratic kappa",
    "harrell_c": "Harrell C",
    "spearman": "Spearman",
}
_AVERAGED_OVER = {LESIONS: "lesions", SUBTYPE: "classes", BIOCHEMISTRY: "analytes"}
ORACLE_VIEW = "both"
ORACLE_NAMES = {"both": "oracle", "slide": "oracle, slides alone", "expression": "oracle, expression alone"}
#: Experiments that no model of tissue may fail to beat: their names begin so.
NULLS = ("null_", "metadata_", "alt_ast_")
_NAN = float("nan")


class ComparisonError(ValueError):
    """Runs that cannot stand in one table; says which and why."""


@dataclass(frozen=True)
class Run:
    """Predictions of one finished run.

    Attributes:
        experiment: the row of the table.
        cohort: the study it was trained and tested on.
        n_folds: folds of its scheme, None where the scheme has no such number.
        table: predictions table.
        source: what errors call the run, for example its folder.
        transductive: its split put test compounds into training too, and meant to.
        null: what was destroyed in it on purpose ("permuted labels"); "" for a method.
        view: the oracle view of what it reads (``scoring.VIEWS``).
    """

    experiment: str
    cohort: str
    fold: int
    seed: int
    n_folds: int | None
    table: pd.DataFrame
    source: str
    transductive: bool = False
    null: str = ""
    view: str = "both"


@dataclass(frozen=True)
class Cohort:
    """What is known of a study: whether it is virtual, and its oracle scores (``scoring.read_oracles``)."""

    name: str
    virtual: bool
    oracles: pd.DataFrame | None = None


@dataclass(frozen=True)
class Comparison:
    """The table and what must be said beside it.

    Attributes:
        reference: the experiment that differences are taken from.
        table: one row per experiment and headline (``scoring.HEADLINES``): experiment, headline,
            metric, value, low, high, n_tasks (lesions, classes or analytes in the average), n, n_compounds, n_imputed,
            prevalence, undefined_draws, strata, strata_low, strata_high (AUROC inside dose x time),
            difference, difference_low, difference_high, p, p_holm (over the experiments of the headline),
            n_paired, strata_difference (and _low, _high), oracle, share, share_low, share_high, above_oracle
            (of both views, or of the one that the method reads), transductive, null, flags (in words).
        oracles: one row per headline and view (``scoring.VIEWS``), on the units of the reference: headline, view,
            value, low, high, n; empty for real studies.
        notes: incomplete folds, suspected leaks, runs left out, pairs that could not be made.
    """

    reference: str
    table: pd.DataFrame
    oracles: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def headlines(self) -> list[str]:
        return [h for h in HEADLINES if (self.table["headline"] == h).any()]

    def wide(self) -> pd.DataFrame:
        """One row per experiment, columns ``<headline>_<column>``."""
        columns = [c for c in self.table.columns if c not in ("experiment", "headline", "metric")]
        wide = self.table.pivot(index="experiment", columns="headline", values=columns)
        ordered = pd.DataFrame({f"{h}_{c}": wide[(c, h)] for h in self.headlines for c in columns})
        return (
            ordered.reindex(self.table["experiment"].drop_duplicates())
            .infer_objects()
            .rename_axis("experiment")
        )

    def summary(self) -> pd.DataFrame:
        """One row per experiment, text: each headline's value with its interval; * = differs from the
        reference.
        """
        spans = _spans(self.table)
        stars = np.where(self.table["p_holm"] < 0.05, "*", "")
        cells = {
            (experiment, headline): span + star
            for experiment, headline, span, star in zip(
                self.table["experiment"], self.table["headline"], spans, stars, strict=True
            )
        }
        known = zip(self.oracles["view"], self.oracles["headline"], _spans(self.oracles), strict=True)
        cells |= {(ORACLE_NAMES[view], headline): span for view, headline, span in known}
        views = [ORACLE_NAMES[v] for v in self.oracles["view"].drop_duplicates()]
        experiments = [*self.table["experiment"].drop_duplicates(), *views]
        columns = {f"{h} {METRIC_NAMES[headline_metric(h)]}": [cells.get((e, h), "") for e in experiments]
                   for h in self.headlines}  # fmt: skip
        return pd.DataFrame({"experiment": experiments, **columns})

    def details(self, headline: str) -> pd.DataFrame:
        """One row per experiment, text, for one headline."""
        rows = self.table[self.table["headline"] == headline]
        shown = pd.DataFrame({"experiment": rows["experiment"]})
        metric = METRIC_NAMES[headline_metric(headline)]
        shown[f"{metric} [95 %]"] = _spans(rows)
        difference = _spans(rows, "difference", "difference_low", "difference_high", signed=True)
        shown[f"minus {self.reference} [95 %]"] = [
            "reference" if e == self.reference else d
            for e, d in zip(rows["experiment"], difference, strict=True)
        ]
        shown["p"] = [_p(p) for p in rows["p"]]
        shown["p (Holm)"] = [_p(p) for p in rows["p_holm"]]
        if rows["share"].notna().any():
            shown["share of oracle [95 %]"] = _spans(rows, "share", "share_low", "share_high")
        if rows["strata"].notna().any():
            shown["within dose x time"] = [_span(v, _NAN, _NAN) for v in rows["strata"]]
        if rows["folds"].notna().any():
            shown["within folds"] = [_span(v, _NAN, _NAN) for v in rows["folds"]]
        shown["n"] = rows["n"].astype(str)
        if (rows["flags"] != "").any():
            shown["flags"] = rows["flags"]
        known = self.oracles[self.oracles["headline"] == headline]
        best = pd.DataFrame({"experiment": known["view"].map(ORACLE_NAMES), f"{metric} [95 %]": _spans(known),
                             "n": known["n"].astype(str)})  # fmt: skip
        return pd.concat([shown, best], ignore_index=True).fillna("")

    def heading(self, headline: str) -> str:
        """Title of a headline's block: what is counted, how many, how common."""
        rows = self.table[self.table["headline"] == headline]
        first = rows.iloc[0]
        parts = [f"{first['n_tasks']} {_AVERAGED_OVER[headline]}"] if headline in _AVERAGED_OVER else []
        parts.append(units_of(first["n"], first["n_compounds"]))
        if not math.isnan(first["prevalence"]):
            parts.append(f"{100 * first['prevalence']:.0f} % positive")
        if not math.isnan(first["oracle"]):
            parts.append(f"oracle {first['oracle']:.2f}")
        return f"{TITLES[headline]}: {METRIC_NAMES[headline_metric(headline)]} ({', '.join(parts)})"

    def to_text(self) -> str:
        """For a terminal."""
        blocks = [_aligned(self.summary()), f"* differs from {self.reference}: Holm-corrected p < 0.05"]
        for headline in self.headlines:
            blocks += ["", self.heading(headline), _aligned(self.details(headline))]
        return "\n".join([*blocks, *([""] if self.notes else []), *(f"! {n}" for n in self.notes)])

    def to_markdown(self) -> str:
        """Tables in GitHub's Markdown."""
        blocks = [
            _markdown(self.summary()),
            f"\\* differs from `{self.reference}`: Holm-corrected p < 0.05. {_HOW}",
        ]
        for headline in self.headlines:
            blocks += [f"### {self.heading(headline)}", _markdown(self.details(headline))]
        if self.notes:
            blocks.append("\n".join(f"- {n}" for n in self.notes))
        return "\n\n".join(blocks) + "\n"

    def to_html(self, figures: Sequence[str] = ()) -> str:
        """One page; ``figures`` are names of image files beside it."""
        body = ["<h1>Comparison of runs</h1>", _html(self.summary())]
        body.append(
            f"<p>* differs from {html.escape(self.reference)}: Holm-corrected p &lt; 0.05. "
            f"{html.escape(_HOW)}</p>"
        )
        body += [f"<p class=note>{html.escape(note)}</p>" for note in self.notes]
        body += [
            f'<a href="{html.escape(n)}"><img src="{html.escape(n)}" alt="{html.escape(n)}"></a>'
            for n in figures
        ]
        for headline in self.headlines:
            body += [f"<h2>{html.escape(self.heading(headline))}</h2>", _html(self.details(headline))]
        return _PAGE.format(body="\n".join(body))

    def to_latex(self) -> str:
        """Tables for ``\\input`` into a document that loads the package booktabs."""
        how = f"* differs from {self.reference}: Holm-corrected p < 0.05. {_HOW}"
        blocks = ["% Written by toxfusion.compare. In the preamble: \\usepackage{booktabs}"]
        blocks += [_latex(self.summary(), how, "summary")]
        blocks += [_latex(self.details(h), f"{self.heading(h)}.", h) for h in self.headlines]
        blocks += [f"% {' '.join(note.split())}" for note in self.notes]
        return "\n\n".join(blocks) + "\n"


def units_of(n: int, n_compounds: int) -> str:
    """Say "240 units of 80 compounds", or "359 units" where each compound, or patient, is one unit."""
    return f"{n} units" if n == n_compounds else f"{n} units of {n_compounds} compounds"


_HOW = (
    "Out-of-fold predictions are pooled over folds and averaged over seeds; intervals and paired differences are from "
    "a bootstrap over compounds (in a study of patients, over patients), on the same draws for every experiment; "
    "p-values are corrected over the experiments of a task. The share of the oracle is (AUROC - 0.5) / (oracle - 0.5)."
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of runs</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color:
#222; }} table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0;
font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .3rem .8rem; text-align: left; white-space: nowrap; }}
th {{ border-bottom: 2px solid #555; }}
.note {{ border-left: 4px solid #d55e00; padding-left: .8rem; }}
img {{ max-width: 100%; }}
</style></head><body>
{body}
</body></html>
"""


def compare(
    runs: Sequence[Run],
    cohorts: Mapping[str, Cohort],
    *,
    reference: str,
    draws: int = DRAWS,
    seed: int = 0,
    method: IntervalMethod = "percentile",
) -> Comparison:
    """Pool the runs of each experiment and set them beside the reference.

    Args:
        runs: finished runs; several studies are pooled as cohorts, whose units are only compared within a
            cohort.
        cohorts: by ``Run.cohort``.
        reference: the experiment that differences are taken from.
        draws, seed, method: of the bootstrap over compounds; differences always have percentile intervals.

    Raises:
        ComparisonError: no runs, a run twice, or no run of the reference.
        PredictionsError: tables that cannot be pooled.
    """
    if not runs:
        raise ComparisonError("there is no finished run to compare.")
    _refuse_doubles(runs)
    experiments = sorted({r.experiment for r in runs}, key=lambda e: (e != reference, e))
    if reference not in experiments:
        raise ComparisonError(f"no finished run of the reference {reference!r}; there are {experiments}.")
    notes = [*_completeness(runs, experiments), *_transductive(runs, experiments)]
    pooled = {e: _pooled([r for r in runs if r.experiment == e]) for e in experiments}
    oracles = _joined_oracles(cohorts)
    records = []
    for headline in HEADLINES:
        standard = _comparable(pooled[reference], headline)
        for experiment in experiments:
            rows = _comparable(pooled[experiment], headline)
            if rows.empty:
                if not standard.empty:
                    notes.append(f"{experiment}: no {headline} predictions with labels that differ.")
                continue
            mine = [r for r in runs if r.experiment == experiment]
            made = _Row(experiment, headline, rows, mine, draws, seed, method)
            found = made.record(standard if experiment != reference else None, oracles, notes)
            real = sorted(set(rows["cohort"]) - {c.name for c in cohorts.values() if c.virtual})
            leak = headline == "dili" and real and not made.transductive and found["value"] > LEAK_AUROC
            if leak:
                notes.append(
                    f"{experiment}: SUSPECTED LEAK, DILI AUROC {found['value']:.2f} on a real study "
                    f"({real[0]}); above {LEAK_AUROC:.2f} on unseen compounds it is a leak until shown "
                    f"otherwise."
                )
            flags = {"transductive": made.transductive, f"null: {made.null}": made.null != "",
                     "SUSPECTED LEAK": leak, "above the oracle": found["above_oracle"]}  # fmt: skip
            records.append({**found, "flags": "; ".join(name for name, raised in flags.items() if raised)})
    if any(r["headline"] == "dili" for r in records) and not any(e.startswith(NULLS) for e in experiments):
        real = sorted(c.name for c in cohorts.values() if not c.virtual)
        if real:
            notes.append(
                f"dili: NO NULL beside these rows of a real study ({real[0]}); run "
                f"experiment=metadata_logistic,alt_ast_logistic,null_permuted_labels on the same folds."
            )
    if not records:
        raise ComparisonError("no task has labelled test units of both classes; there is nothing to compare.")
    table = pd.DataFrame(records)
    table["p_holm"] = table.groupby("headline")["p"].transform(lambda p: bootstrap.holm(p.to_numpy()))
    return Comparison(reference, table, _oracle_table(pooled[reference], oracles, draws, seed, method), notes)


def _oracle_table(
    tested: pd.DataFrame, oracles: pd.DataFrame | None, draws: int, seed: int, method: IntervalMethod
) -> pd.DataFrame:
    """The oracle of each view on the units that the reference scored (see ``Comparison.oracles``)."""
    found = []
    of_class = [h for h in HEADLINES if headline_metric(h) == "auroc"] if oracles is not None else []
    for headline in of_class:
        rows = _comparable(tested, headline)
        for view in VIEWS:
            known = _known(rows, oracles, view)
            if not known.empty:
                resampling = resampling_of(known, draws=draws, seed=seed)
                best = headline_statistic(known.assign(score=known["oracle"]), resampling)
                own = bootstrap.interval(best, resampling, method=method)
                found.append((headline, view, own.value, own.low, own.high, known["unit_id"].nunique()))
    return pd.DataFrame(found, columns=["headline", "view", "value", "low", "high", "n"])


def _known(rows: pd.DataFrame, oracles: pd.DataFrame | None, view: str) -> pd.DataFrame:
    """``with_oracle``; nothing without oracles, or where the labels are others (a null, of which a note tells)."""
    if oracles is None or rows.empty:
        return rows.iloc[:0]
    try:
        return with_oracle(rows, oracles, view)
    except PredictionsError:
        return rows.iloc[:0]


def _transductive(runs: Sequence[Run], experiments: Sequence[str]) -> list[str]:
    """What runs whose training part holds test compounds cannot say."""
    return [
        f"{e}: TRANSDUCTIVE, the split puts test compounds into training too; its scores say nothing of new "
        "compounds."
        for e in experiments
        if any(r.transductive for r in runs if r.experiment == e)
    ]


def _refuse_doubles(runs: Sequence[Run]) -> None:
    seen: dict[tuple[str, str, int, int], str] = {}
    for run in runs:
        key = (run.experiment, run.cohort, run.fold, run.seed)
        if key in seen:
            raise ComparisonError(
                f"{run.source} and {seen[key]} are both fold {run.fold}, seed {run.seed} of "
                f"{run.experiment} on "
                f"{run.cohort}; narrow runs= to one of them."
            )
        seen[key] = run.source


def _completeness(runs: Sequence[Run], experiments: Sequence[str]) -> list[str]:
    """What is missing of a full set: each experiment in each study, each fold with each seed."""
    notes = []
    for cohort in sorted({r.cohort for r in runs}):
        for experiment in experiments:
            mine = [r for r in runs if r.experiment == experiment and r.cohort == cohort]
            if not mine:
                notes.append(
                    f"{experiment}: no finished run on {cohort}; it is compared on the other studies only."
                )
                continue
            folds = set(range(max(r.n_folds or 0 for r in mine))) | {r.fold for r in mine}
            seeds = {r.seed for r in mine}
            there = {(r.fold, r.seed) for r in mine}
            missing = sorted((f, s) for f in folds for s in seeds if (f, s) not in there)
            if missing:
                lacking = ", ".join(f"fold {f} seed {s}" for f, s in missing[:6]) + (
                    " ..." if missing[6:] else ""
                )
                notes.append(
                    f"{experiment} on {cohort}: INCOMPLETE, {len(there)} of {len(folds) * len(seeds)} runs "
                    f"are "
                    f"finished (missing: {lacking})."
                )
    return notes


def _pooled(runs: Sequence[Run]) -> pd.DataFrame:
    tested = {}
    for cohort in sorted({r.cohort for r in runs}):
        mine = [r for r in runs if r.cohort == cohort]
        try:
            tested[cohort] = out_of_fold([r.table for r in mine])
        except PredictionsError as error:
            raise PredictionsError(f"{mine[0].experiment} on {cohort}: {error}") from error
    return join_cohorts(tested)


def _joined_oracles(cohorts: Mapping[str, Cohort]) -> pd.DataFrame | None:
    named = [c.oracles.assign(unit_id=c.name + "/" + c.oracles["unit_id"]) for c in cohorts.values()
             if c.oracles is not None]  # fmt: skip
    return pd.concat(named, ignore_index=True) if named else None


def _comparable(tested: pd.DataFrame, headline: str) -> pd.DataFrame:
    """Labelled rows of the headline's tasks in which both classes (two grades, times or values) occur."""
    rows = headline_rows(tested, headline)
    several = rows.groupby("task")["label"].nunique() > 1
    return rows[rows["task"].map(several).astype(bool)].reset_index(drop=True)


@dataclass(frozen=True)
class _Row:
    """One experiment and headline."""

    experiment: str
    headline: str
    rows: pd.DataFrame
    runs: Sequence[Run]
    draws: int
    seed: int
    method: IntervalMethod

    @property
    def transductive(self) -> bool:
        return any(r.transductive for r in self.runs)

    @property
    def null(self) -> str:
        return "; ".join(sorted({r.null for r in self.runs} - {""}))

    @property
    def _permuted(self) -> bool:
        """Labels are others on purpose, which the flag of the row says; no note need."""
        return "permuted labels" in self.null

    @property
    def _binary(self) -> bool:
        return headline_metric(self.headline) == "auroc"

    def record(
        self, standard: pd.DataFrame | None, oracles: pd.DataFrame | None, notes: list[str]
    ) -> dict[str, Any]:
        rows, binary = self.rows, self._binary
        resampling = resampling_of(rows, draws=self.draws, seed=self.seed)
        own = bootstrap.interval(headline_statistic(rows, resampling), resampling, method=self.method)
        strata = folds = _NOTHING
        if binary and strata_of(rows) is not None:
            statistic = headline_statistic(rows, resampling, within="strata")
            strata = bootstrap.interval(statistic, resampling, method=self.method)
        if binary and rows.groupby("cohort")["fold"].nunique().max() > 1:
            statistic = headline_statistic(rows, resampling, within="folds")
            folds = bootstrap.interval(statistic, resampling, method=self.method)
        found = {
            "experiment": self.experiment,
            "headline": self.headline,
            "metric": headline_metric(self.headline),
            "value": own.value,
            "low": own.low,
            "high": own.high,
            "n_tasks": rows["task"].nunique(),
            "n": rows["unit_id"].nunique(),
            "n_compounds": rows["compound"].nunique(),
            "n_imputed": int(rows.loc[rows["imputed"].astype(bool), "unit_id"].nunique())
            if "imputed" in rows
            else 0,
            "prevalence": float(rows["label"].mean()) if binary and self.headline != SUBTYPE else _NAN,
            "undefined_draws": own.undefined_draws,
            "strata": strata.value,
            "strata_low": strata.low,
            "strata_high": strata.high,
            "folds": folds.value,
            "folds_low": folds.low,
            "folds_high": folds.high,
            "transductive": self.transductive,
            "null": self.null,
        }
        return {**found, **self._against(standard, notes), **self._beside(oracles, notes)}

    def _against(self, standard: pd.DataFrame | None, notes: list[str]) -> dict[str, Any]:
        """Paired difference from the reference on the units that both scored."""
        whole, inside, n_paired = _NO_DIFFERENCE, _NO_DIFFERENCE, 0
        if standard is not None and not standard.empty:
            mine, theirs = _paired(self.rows, standard)
            n_paired = mine["unit_id"].nunique()
            where = f"{self.experiment}, {self.headline}"
            if (mine["label"].to_numpy() != theirs["label"].to_numpy()).any():
                if not self._permuted:
                    notes.append(
                        f"{where}: labels are others than the reference's, so there is no paired difference."
                    )
            elif n_paired:
                if n_paired < max(self.rows["unit_id"].nunique(), standard["unit_id"].nunique()):
                    notes.append(
                        f"{where}: paired on the {n_paired} units that both this and the reference scored."
                    )
                whole = self._difference(mine, theirs, within=None)
                if self._binary and strata_of(mine) is not None:
                    inside = self._difference(mine, theirs, within="strata")
        return {
            "difference": whole.value,
            "difference_low": whole.low,
            "difference_high": whole.high,
            "p": whole.p,
            "n_paired": n_paired,
            "strata_difference": inside.value,
            "strata_difference_low": inside.low,
            "strata_difference_high": inside.high,
        }

    def _difference(self, mine: pd.DataFrame, theirs: pd.DataFrame, *, within: Within | None) -> Difference:
        resampling = resampling_of(mine, draws=self.draws, seed=self.seed)
        first, second = (headline_statistic(r, resampling, within=within) for r in (mine, theirs))
        return bootstrap.paired_difference(first, second, resampling)

    def _beside(self, oracles: pd.DataFrame | None, notes: list[str]) -> dict[str, Any]:
        """The oracle on the same units, and the share of it that is reached."""
        oracle, share = _NAN, _NOTHING
        if oracles is not None and self._binary:
            try:
                known = with_oracle(self.rows, oracles, ORACLE_VIEW)
            except PredictionsError as error:
                if not self._permuted:
                    notes.append(f"{self.experiment}, {self.headline}: no share of the oracle: {error}")
                known = self.rows.iloc[:0]
            if len(known):
                resampling = resampling_of(known, draws=self.draws, seed=self.seed)
                ours = headline_statistic(known, resampling)
                best = headline_statistic(known.assign(score=known["oracle"]), resampling)
                oracle = float(best(np.ones((1, len(resampling.clusters))))[0])
                share = bootstrap.interval(
                    bootstrap.oracle_share_statistic(ours, best), resampling, method=self.method
                )
        views = [
            v for v in dict.fromkeys([ORACLE_VIEW, *(r.view for r in self.runs)]) if self._above(v, oracles)
        ]
        for view in views:
            notes.append(
                f"{self.experiment}, {self.headline}: the paired interval lies wholly above the "
                f"{ORACLE_NAMES[view]}; look for a fault."
            )
        return {"oracle": oracle, "share": share.value, "share_low": share.low, "share_high": share.high,
                "above_oracle": bool(views)}  # fmt: skip

    def _above(self, view: str, oracles: pd.DataFrame | None) -> bool:
        """Whether the paired interval of this minus the oracle of a view lies wholly above 0."""
        known = _known(self.rows, oracles, view) if self._binary else self.rows.iloc[:0]
        if known.empty:
            return False
        return self._difference(known, known.assign(score=known["oracle"]), within=None).low > 0


_NOTHING = Interval(_NAN, _NAN, _NAN, 0, 0)
_NO_DIFFERENCE = Difference(_NAN, _NAN, _NAN, 0, 0, _NAN)


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of (task, unit) in both, in one order."""
    keys = ["task", "unit_id"]
    a, b = first.set_index(keys), second.set_index(keys)
    common = a.index.intersection(b.index).sort_values()
    return a.loc[common].reset_index(), b.loc[common].reset_index()


def _span(value: float, low: float, high: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return ""
    spec = "+.2f" if signed else ".2f"
    if math.isnan(low):
        return f"{value:{spec}}"
    return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]"


def _spans(
    rows: pd.DataFrame, value: str = "value", low: str = "low", high: str = "high", *, signed: bool = False
) -> list[str]:
    return [_span(v, a, b, signed=signed) for v, a, b in zip(rows[value], rows[low], rows[high], strict=True)]


def _p(p: float) -> str:
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _aligned(table: pd.DataFrame) -> str:
    lines = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    widths = [max(len(line[i]) for line in lines) for i in range(table.shape[1])]
    padded = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([padded[0], "-" * max(map(len, padded)), *padded[1:]])


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    escaped = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
})  # fmt: skip


def _latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """A floating booktabs table; every cell is escaped, and braced: a leading [ would be an argument of `\\\\`."""
    escaped = table.astype(str).map(lambda cell: f"{{{cell.translate(_LATEX)}}}")
    escaped.columns = [str(c).translate(_LATEX) for c in escaped.columns]
    body = escaped.style.hide(axis="index").to_latex(
        hrules=True,
        position="htbp",
        position_float="centering",
        caption=caption.translate(_LATEX),
        label=f"tab:{label}",
    )
    return r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}" + "\n" + body + r"\endgroup"


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0)
