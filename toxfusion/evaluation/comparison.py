"""Many runs into one table: values with intervals, paired differences from a reference, shares of the oracle.

Works on tables; run folders are read by ``toxfusion.compare``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd

from toxfusion.evaluation import bootstrap
from toxfusion.evaluation.bootstrap import DRAWS, IntervalMethod
from toxfusion.evaluation.comparison_rows import HeadlineOf, Settings, known_to_oracle
from toxfusion.evaluation.comparison_table import Comparison
from toxfusion.evaluation.families import family_of
from toxfusion.evaluation.oracles import VIEWS
from toxfusion.evaluation.out_of_fold import (
    Pairing,
    headline_rows,
    headline_statistic,
    headlines_of,
    join_cohorts,
    labels_differ,
    out_of_fold,
    resampling_of,
)
from toxfusion.evaluation.predictions import PredictionsError
from toxfusion.study.vocabulary import DILI, in_order

#: Experiments that no model of tissue may fail to beat: their names begin so.
NULLS = ("null_", "metadata_", "alt_ast_")
LEAK_AUROC = 0.90
"""AUROC of unseen compounds of a real study above which a leak is suspected."""


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
        view: the oracle view of what it reads (``oracles.VIEWS``).
        external: its scores come from a table of somebody else's model, not from a run.
        name: of the experiment alone, where ``experiment`` also has what the command line changed.
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
    external: bool = False
    name: str = ""


@dataclass(frozen=True)
class Cohort:
    """What is known of a study: whether it is virtual, and its oracle scores (``oracles.read_oracles``)."""

    name: str
    virtual: bool
    oracles: pd.DataFrame | None = None


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
        draws, seed, method: of the bootstrap over compounds; differences always have percentile intervals, and more
            draws behind p where its correction over the experiments needs them (``bootstrap.draws_for``).

    Raises:
        ComparisonError: no runs, a run twice, or no run of the reference.
        PredictionsError: tables that cannot be pooled.
    """
    if not runs:
        raise ComparisonError("there is no finished run to compare.")
    _refuse_doubles(runs)
    experiments = sorted({r.experiment for r in runs}, key=lambda e: (e != reference, e))
    if reference not in experiments:
        raise ComparisonError(
            f"no finished run of the reference {reference!r}; take reference={experiments[0]}, or another of "
            f"{', '.join(experiments)}."
        )
    notes = [*_completeness(runs, experiments), *_transductive(runs, experiments)]
    pooled = {e: _pooled([r for r in runs if r.experiment == e]) for e in experiments}
    of_experiment = {e: [r for r in runs if r.experiment == e] for e in experiments}
    oracles = _joined_oracles(cohorts)
    settings = Settings(draws, seed, method, bootstrap.draws_for(len(experiments) - 1, draws))
    virtual = {c.name for c in cohorts.values() if c.virtual}
    records = []
    for headline in in_order(chain.from_iterable(headlines_of(tested) for tested in pooled.values())):
        # One choice of pairs for a headline, so that all its experiments are compared alike.
        comparable = {e: _comparable(pooled[e], headline) for e in experiments}
        pairing = next((Pairing.of(of) for of in comparable.values() if len(of)), Pairing("folds"))
        for experiment in experiments:
            predictions, standard = comparable[experiment], comparable[reference]
            if predictions.empty:
                if not standard.empty:
                    notes.append(f"{experiment}: no {headline} predictions with labels that differ.")
                continue
            mine = of_experiment[experiment]
            made = _headline_of(mine, headline, predictions, pairing, settings)
            record = made.record(standard if experiment != reference else None, oracles, notes)
            leak = _suspected_leak(made, float(record["value"]), virtual, notes)
            records.append({**record, "flags": _flags(made, mine, leak, above=record["above_oracle"])})
    if not records:
        raise ComparisonError("no task has labelled test units of both classes; there is nothing to compare.")
    table = pd.DataFrame(records)
    notes += _missing_nulls(table, cohorts)
    table["p_holm"] = table.groupby("headline")["p"].transform(lambda p: bootstrap.holm(p.to_numpy()))
    return Comparison(reference, table, _oracle_table(pooled[reference], oracles, settings), notes)


def _headline_of(
    runs: Sequence[Run], headline: str, predictions: pd.DataFrame, pairing: Pairing, settings: Settings
) -> HeadlineOf:
    """One headline of the runs of one experiment."""
    return HeadlineOf(
        runs[0].experiment, headline, predictions, pairing, settings,
        transductive=any(r.transductive for r in runs),
        null="; ".join(sorted({r.null for r in runs} - {""})),
        views=tuple(dict.fromkeys(r.view for r in runs)),
    )  # fmt: skip


def _flags(made: HeadlineOf, runs: Sequence[Run], leak: bool, *, above: bool) -> str:
    """What sets a row of the table apart from a method that is scored on unseen compounds."""
    flags = {"external": any(r.external for r in runs), "transductive": made.transductive,
             f"null: {made.null}": made.null != "", "SUSPECTED LEAK": leak, "above the oracle": above}  # fmt: skip
    return "; ".join(name for name, raised in flags.items() if raised)


def _suspected_leak(made: HeadlineOf, value: float, virtual: set[str], notes: list[str]) -> bool:
    """Whether unseen compounds of a real study are told apart better than anybody can."""
    real = sorted(set(made.predictions["cohort"]) - virtual)
    of_compounds = made.predictions["level"].eq("compound").all() and family_of(made.predictions).two_class
    leak = bool(of_compounds and real and not made.transductive and value > LEAK_AUROC)
    if leak:
        name = "DILI" if made.headline == DILI else made.headline
        notes.append(
            f"{made.experiment}: SUSPECTED LEAK, {name} AUROC {value:.2f} on a real study ({real[0]}); above "
            f"{LEAK_AUROC:.2f} on unseen compounds it is a leak until shown otherwise."
        )
    return leak


def _missing_nulls(table: pd.DataFrame, cohorts: Mapping[str, Cohort]) -> list[str]:
    """Say so where no null stands beside DILI of a real study."""
    real = sorted(c.name for c in cohorts.values() if not c.virtual)
    if not real or not table["headline"].eq(DILI).any() or table["experiment"].str.startswith(NULLS).any():
        return []
    return [
        f"dili: NO NULL beside these rows of a real study ({real[0]}); run "
        "experiment=metadata_logistic,alt_ast_logistic,null_permuted_labels on the same folds."
    ]


def _oracle_table(tested: pd.DataFrame, oracles: pd.DataFrame | None, settings: Settings) -> pd.DataFrame:
    """The oracle of each view on the units that the reference scored (see ``Comparison.oracles``)."""
    records = []
    for headline in headlines_of(tested) if oracles is not None else ():
        predictions = _comparable(tested, headline)
        if predictions.empty or not family_of(predictions).two_class:
            continue
        for view in VIEWS:
            known = known_to_oracle(predictions, oracles, view)
            if not known.empty:
                resampling = resampling_of(known, draws=settings.draws, seed=settings.seed)
                scored = known.assign(score=known["oracle"])
                best = headline_statistic(scored, resampling, Pairing.of(predictions))
                own = bootstrap.interval(best, resampling, method=settings.method)
                records.append((headline, view, own.value, own.low, own.high, known["unit_id"].nunique()))
    return pd.DataFrame(records, columns=["headline", "view", "value", "low", "high", "n"])


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
    return labels_differ(headline_rows(tested, headline)).reset_index(drop=True)
