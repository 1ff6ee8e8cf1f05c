"""One experiment and one headline of a comparison: value, difference from the reference, share of the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.evaluation import bootstrap, statistics
from toxfusion.evaluation.bootstrap import Difference, Interval, IntervalMethod, Resampling
from toxfusion.evaluation.comparison_table import ORACLE_NAMES
from toxfusion.evaluation.families import Family, family_of
from toxfusion.evaluation.oracles import with_oracle
from toxfusion.evaluation.out_of_fold import Pairing, has_strata, headline_statistic, resampling_of
from toxfusion.evaluation.predictions import PredictionsError

ORACLE_VIEW = "both"
_NAN = float("nan")
_NOTHING = Interval(_NAN, _NAN, _NAN, 0, 0)
_NO_DIFFERENCE = Difference(_NAN, _NAN, _NAN, 0, 0, _NAN)


@dataclass(frozen=True)
class Settings:
    """Draws of the bootstrap, their seed, how intervals are taken, and the most draws behind a p-value."""

    draws: int
    seed: int
    method: IntervalMethod
    p_draws: int


def known_to_oracle(predictions: pd.DataFrame, oracles: pd.DataFrame | None, view: str) -> pd.DataFrame:
    """``with_oracle``; nothing without oracles, or where the labels are others (a null, of which a note tells)."""
    if oracles is None or predictions.empty:
        return predictions.iloc[:0]
    try:
        return with_oracle(predictions, oracles, view)
    except PredictionsError:
        return predictions.iloc[:0]


@dataclass(frozen=True)
class HeadlineOf:
    """One experiment and headline.

    Attributes:
        predictions: of labelled test units, of tasks whose labels differ, with column ``cohort``.
        pairing: which units are ranked with each other, the same for every experiment.
        transductive, null: as ``comparison.Run``; null of all runs in one text.
        views: oracle views of what its runs read.
    """

    experiment: str
    headline: str
    predictions: pd.DataFrame
    pairing: Pairing
    settings: Settings
    transductive: bool
    null: str
    views: Sequence[str]

    @property
    def _permuted(self) -> bool:
        """Labels are others on purpose, which the flag of the row says; no note need."""
        return "permuted labels" in self.null

    @property
    def _family(self) -> Family:
        return family_of(self.predictions)

    def record(
        self, standard: pd.DataFrame | None, oracles: pd.DataFrame | None, notes: list[str]
    ) -> dict[str, Any]:
        """The columns of ``Comparison.table``, without p_holm and flags.

        Args:
            standard: predictions of the reference; None for the reference itself.
            notes: takes what must be said of this row.
        """
        predictions, family, several = self.predictions, self._family, self.pairing.several
        folds, pooled = Pairing("folds"), Pairing("pooled")
        spans = {
            "value": self._interval(self.pairing),
            "folds": self._interval(folds) if several else _NOTHING,
            "pooled": self._interval(pooled) if several else _NOTHING,
            "strata": self._interval(self.pairing, in_strata=True)
            if family.two_class and has_strata(predictions)
            else _NOTHING,
        }
        two_class = family.two_class and predictions["family"].iloc[0] != "classes"
        imputed = (
            predictions["imputed"].astype(bool)
            if "imputed" in predictions
            else pd.Series(False, predictions.index)
        )
        entries: dict[str, Any] = {
            "experiment": self.experiment,
            "headline": self.headline,
            "family": predictions["family"].iloc[0],
            "metric": family.metric,
            "pairs": self.pairing.pairs,
            "pairs_reason": self.pairing.reason,
            "n_tasks": predictions["task"].nunique(),
            "averaged": bool((predictions["task"] != self.headline).any()),
            "n": predictions["unit_id"].nunique(),
            "n_compounds": predictions["compound"].nunique(),
            "n_imputed": predictions.loc[imputed, "unit_id"].nunique(),
            "prevalence": float(predictions["label"].mean()) if two_class else _NAN,
            "undefined_draws": spans["value"].undefined_draws,
            "transductive": self.transductive,
            "null": self.null,
        }
        for name, span in spans.items():
            prefix = "" if name == "value" else f"{name}_"
            entries |= {name: span.value, f"{prefix}low": span.low, f"{prefix}high": span.high}
        return {**entries, **self._against(standard, notes), **self._beside(oracles, notes)}

    def _resampling(self, predictions: pd.DataFrame) -> Resampling:
        return resampling_of(predictions, draws=self.settings.draws, seed=self.settings.seed)

    def _interval(self, pairing: Pairing, *, in_strata: bool = False) -> Interval:
        resampling = self._resampling(self.predictions)
        statistic = headline_statistic(self.predictions, resampling, pairing, in_strata=in_strata)
        return bootstrap.interval(statistic, resampling, method=self.settings.method)

    def _against(self, standard: pd.DataFrame | None, notes: list[str]) -> dict[str, Any]:
        """Paired difference from the reference on the units that both scored."""
        whole, inside, n_paired = _NO_DIFFERENCE, _NO_DIFFERENCE, 0
        if standard is not None and not standard.empty:
            mine, theirs = _paired(self.predictions, standard)
            n_paired = mine["unit_id"].nunique()
            where = f"{self.experiment}, {self.headline}"
            if (mine["label"].to_numpy() != theirs["label"].to_numpy()).any():
                if not self._permuted:
                    notes.append(
                        f"{where}: labels are others than the reference's, so there is no paired difference."
                    )
            elif n_paired and (other := _other_folds(mine, theirs)) and self.pairing.pairs == "folds":
                notes.append(
                    f"{where}: {other} units lie in other folds than the reference's, so there is no paired "
                    "difference of pairs within folds."
                )
            elif n_paired:
                if n_paired < max(self.predictions["unit_id"].nunique(), standard["unit_id"].nunique()):
                    notes.append(
                        f"{where}: paired on the {n_paired} units that both this and the reference scored."
                    )
                whole = self._difference(mine, theirs, p_draws=self.settings.p_draws)
                if self._family.two_class and has_strata(mine):
                    inside = self._difference(mine, theirs, in_strata=True)
        return {
            "difference": whole.value,
            "difference_low": whole.low,
            "difference_high": whole.high,
            "p": whole.p,
            "p_draws": whole.p_draws,
            "p_at_floor": whole.at_floor,
            "n_paired": n_paired,
            "strata_difference": inside.value,
            "strata_difference_low": inside.low,
            "strata_difference_high": inside.high,
        }

    def _difference(
        self,
        mine: pd.DataFrame,
        theirs: pd.DataFrame,
        *,
        in_strata: bool = False,
        p_draws: int | None = None,
    ) -> Difference:
        resampling = self._resampling(mine)
        first, second = (
            headline_statistic(predictions, resampling, self.pairing, in_strata=in_strata)
            for predictions in (mine, theirs)
        )
        return bootstrap.paired_difference(first, second, resampling, p_draws=p_draws)

    def _beside(self, oracles: pd.DataFrame | None, notes: list[str]) -> dict[str, Any]:
        """The oracle on the same units, and the share of it that is reached."""
        oracle, share = _NAN, _NOTHING
        if oracles is not None and self._family.two_class:
            try:
                known = with_oracle(self.predictions, oracles, ORACLE_VIEW)
            except PredictionsError as error:
                if not self._permuted:
                    notes.append(f"{self.experiment}, {self.headline}: no share of the oracle: {error}")
                known = self.predictions.iloc[:0]
            if len(known):
                resampling = self._resampling(known)
                ours = headline_statistic(known, resampling, self.pairing)
                best = headline_statistic(known.assign(score=known["oracle"]), resampling, self.pairing)
                oracle = float(best(np.ones((1, len(resampling.clusters))))[0])
                both = statistics.oracle_share_statistic(ours, best)
                share = bootstrap.interval(both, resampling, method=self.settings.method)
        above = [v for v in dict.fromkeys([ORACLE_VIEW, *self.views]) if self._above(v, oracles)]
        for view in above:
            notes.append(
                f"{self.experiment}, {self.headline}: the paired interval lies wholly above the "
                f"{ORACLE_NAMES[view]}; look for a fault."
            )
        return {"oracle": oracle, "share": share.value, "share_low": share.low, "share_high": share.high,
                "above_oracle": bool(above)}  # fmt: skip

    def _above(self, view: str, oracles: pd.DataFrame | None) -> bool:
        """Whether the paired interval of this minus the oracle of a view lies wholly above 0."""
        known = (
            known_to_oracle(self.predictions, oracles, view)
            if self._family.two_class
            else self.predictions.iloc[:0]
        )
        if known.empty:
            return False
        return self._difference(known, known.assign(score=known["oracle"])).low > 0


def _other_folds(mine: pd.DataFrame, theirs: pd.DataFrame) -> int:
    """Paired rows that were tested in another fold: their pairs within folds are not the same pairs."""
    return int((mine["fold"].to_numpy() != theirs["fold"].to_numpy()).sum())


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of (task, unit) in both, in one order."""
    keys = ["task", "unit_id"]
    a, b = first.set_index(keys), second.set_index(keys)
    common = a.index.intersection(b.index).sort_values()
    return a.loc[common].reset_index(), b.loc[common].reset_index()
