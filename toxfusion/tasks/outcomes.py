"""Outcomes of samples whose labels are fitted on training samples: survival, subtype and serum chemistry.

Each holds plain values only, so that a checkpoint carries it. Which tasks a run has is decided in ``tasks``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
from scipy import stats

from toxfusion.study.audit import Audit
from toxfusion.study.names import strangers
from toxfusion.study.rules import EXPRESSION_FILE, classes, events, survival_times

if TYPE_CHECKING:
    from toxfusion.study.study import Study

SurvivalMethod = Literal["discrete", "cox"]
LEAST_SKEWNESS = 1.0
"""Sample skewness of training values above which a positive analyte is put on the log scale."""


class TaskError(ValueError):
    """A task that does not exist, or that the study has no labels for."""


@dataclass(frozen=True)
class SurvivalSettings:
    """How survival is to be predicted.

    Attributes:
        method: "discrete" (hazards of time bins), "cox" (log risk), or None for no such task.
        time, event: columns of obs; time is above 0 in the study's own unit, event 1 = it happened, 0 = censored.
        n_bins: time bins of the discrete hazards.
        alpha: extra weight of the uncensored in the discrete loss, 0 to 1.
        horizon: time at which Uno's C and the integrated Brier score end; None for the last event in training.
    """

    method: str | None = None
    time: str = "survival_time"
    event: str = "event"
    n_bins: int = 4
    alpha: float = 0.15
    horizon: float | None = None


@dataclass(frozen=True)
class Survival:
    """Survival of samples, with what was fitted on training samples.

    Attributes:
        method, time, event, alpha: as in `SurvivalSettings`.
        edges: inner bin edges, quantiles of the training times with an event; bin j holds
            edges[j - 1] <= time < edges[j]. Empty for Cox.
        horizon: as in `SurvivalSettings`, never None.
        train_time, train_event: labels of the training samples that have both; the distribution of censoring
            is estimated on them.
    """

    method: SurvivalMethod
    time: str
    event: str
    alpha: float
    edges: tuple[float, ...]
    horizon: float
    train_time: tuple[float, ...]
    train_event: tuple[float, ...]

    @property
    def n_bins(self) -> int | None:
        """Bins of the discrete hazards; None for Cox."""
        return len(self.edges) + 1 if self.method == "discrete" else None

    @classmethod
    def fit(cls, study: Study, train: Sequence[str], settings: SurvivalSettings, audit: Audit) -> Survival:
        """Bin edges and horizon of the training samples.

        Raises:
            TaskError: an unknown method, a setting out of range, a missing column, or too few training events.
            StudyError: a time that is not above 0, an event that is neither 0 nor 1.
        """
        method = settings.method
        if method not in get_args(SurvivalMethod):
            raise TaskError(
                f"task.survival.method: {method!r} is none of discrete, cox; null for no such task"
            )
        if not 0 <= settings.alpha <= 1:
            raise TaskError(f"task.survival.alpha: {settings.alpha!r} does not lie in 0 to 1")
        for key, column in (("time", settings.time), ("event", settings.event)):
            _has_column(study, f"task.survival.{key}", column)
        _audit_halves(study, settings, audit)
        label = survival_labels(study, train, settings.time, settings.event)
        time, event = label[~np.isnan(label[:, 0])].T
        died = time[event == 1]
        if len(died) == 0:
            raise TaskError(
                f"task.survival: none of {len(train)} training samples has a time in {settings.time!r} and "
                f"{settings.event}=1 in {study.root / EXPRESSION_FILE}; add labels, or take another split or task"
            )
        edges: tuple[float, ...] = ()
        if method == "discrete":
            edges = _bin_edges(died, settings.n_bins)
        horizon = float(died.max()) if settings.horizon is None else float(settings.horizon)
        if not 0 < horizon <= time.max():
            raise TaskError(
                f"task.survival.horizon: {horizon:g} does not lie above 0 and up to {time.max():g}, the last "
                "training time; beyond it nothing is known of censoring. Set it lower, or null for the last event"
            )
        return cls(
            cast(SurvivalMethod, method), settings.time, settings.event, float(settings.alpha), edges, horizon,
            tuple(time.tolist()), tuple(event.tolist()),
        )  # fmt: skip

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n, 2], time and event; a row of NaN where either is missing, or the study has no such column."""
        if self.time not in study.obs or self.event not in study.obs:
            return np.full((len(sample_ids), 2), np.nan, np.float32)
        return survival_labels(study, sample_ids, self.time, self.event)


def survival_labels(study: Study, sample_ids: Sequence[str], time: str, event: str) -> np.ndarray:
    """float32 [n, 2] from two columns of obs; a row of NaN where either is missing."""
    obs = study.obs.loc[list(sample_ids)]
    label = np.stack([survival_times(obs, time), events(obs, event)], axis=1).astype(np.float32)
    label[np.isnan(label).any(axis=1)] = np.nan
    return label


def _audit_halves(study: Study, settings: SurvivalSettings, audit: Audit) -> None:
    known = survival_times(study.obs, settings.time).notna()
    other = events(study.obs, settings.event).notna()
    for sample in study.obs.index[known != other]:
        there, missing = (settings.time, settings.event) if known[sample] else (settings.event, settings.time)
        audit.drop("labels", "survival", sample, f"{there} without {missing}: no label")


def _bin_edges(died: np.ndarray, n_bins: int) -> tuple[float, ...]:
    if not isinstance(n_bins, int) or n_bins < 2:
        raise TaskError(
            f"task.survival.n_bins: {n_bins!r} is no whole number of 2 or more; or take method=cox"
        )
    edges = np.quantile(died, np.arange(1, n_bins) / n_bins).astype(np.float32)
    filled = np.bincount(np.searchsorted(edges, died, side="right"), minlength=n_bins)
    if (filled == 0).any():
        raise TaskError(
            f"task.survival.n_bins: {len(died)} training events at {len(np.unique(died))} different times do not "
            f"fill {n_bins} bins; set task.survival.n_bins lower, or task.survival.method=cox"
        )
    return tuple(edges.tolist())


@dataclass(frozen=True)
class Subtype:
    """One of several exclusive classes of each sample.

    Attributes:
        column: of obs; "" or NaN = no label.
        classes: those of the training samples, sorted.
    """

    column: str
    classes: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        study: Study,
        train: Sequence[str],
        column: str,
        audit: Audit,
        only: Sequence[str] | None = None,
    ) -> Subtype:
        """Classes of the training samples; samples of a class that none of them has go to the audit.

        Args:
            only: the classes to tell apart; samples of any other have no label. None = all of the training samples.

        Raises:
            TaskError: the column is missing, a class of ``only`` is in no training sample, or the training samples are
                of fewer than two classes.
            StudyError: a class that is not text.
        """
        _has_column(study, "task.subtype", column)
        every = classes(study.obs, column)
        found = tuple(sorted(set(every[list(train)]) - {""}))
        if only is not None:
            found = _chosen_classes(study, column, found, only)
            for name, n in every[~every.isin(["", *found])].value_counts().items():
                audit.drop(
                    "labels", "subtype", str(name), f"{n} samples: not among task.classes, so no label"
                )
        if len(found) < 2:
            raise TaskError(
                f"task.subtype: the training samples have {list(found) or 'no class'} in column {column!r} of "
                f"{study.root / EXPRESSION_FILE}; two classes are needed: take another column, split or task"
            )
        for sample, name in every[~every.isin(["", *found])].items() if only is None else ():
            audit.drop(
                "labels", "subtype", str(sample), f"{column}={name!r} occurs in no training sample: no label"
            )
        return cls(column, found)

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n], position in ``classes``; NaN for no class, or one that no training sample had."""
        if self.column not in study.obs:
            return np.full(len(sample_ids), np.nan, np.float32)
        place = {name: float(i) for i, name in enumerate(self.classes)}
        named = classes(study.obs.loc[list(sample_ids)], self.column)
        return named.map(place).to_numpy(np.float32)


def _chosen_classes(
    study: Study, column: str, trained: Sequence[str], only: Sequence[str]
) -> tuple[str, ...]:
    chosen = tuple(sorted({str(name) for name in only}))
    unknown = [name for name in chosen if name not in trained]
    if unknown:
        raise TaskError(
            f"task.classes: {strangers(unknown, trained).all_told()} is in no training sample, in column {column!r} of "
            f"{study.root / EXPRESSION_FILE}; there are {', '.join(trained)}"
        )
    return chosen


@dataclass(frozen=True)
class Biochemistry:
    """Serum chemistry of samples, on the scale of the training samples.

    Attributes:
        analytes: columns of ``study.chemistry``.
        log: which of them are on the natural log scale.
        mean, deviation: of training samples, on that scale.
    """

    analytes: tuple[str, ...]
    log: tuple[bool, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def fit(
        cls,
        study: Study,
        train: Sequence[str],
        analytes: Sequence[str] | str,
        *,
        log: bool,
        min_animals: int,
        min_compounds: int,
        audit: Audit,
    ) -> Biochemistry:
        """Scale of each analyte.

        Args:
            analytes: names, or "auto" for every one measured in ``min_animals`` animals of ``min_compounds``
                compounds of the whole study (a choice of what to score, by presence alone) that varies in training.
            log: take the log of analytes that are positive and skewed (skewness above 1) in training.

        Raises:
            TaskError: no chemistry, an unknown analyte, or one without two different training values.
        """
        where = f"obsm['chemistry'] of {study.root / EXPRESSION_FILE}"
        table = study.chemistry
        if table is None or table.empty:
            raise TaskError(f"task.biochemistry: {where} is absent; add it, or set task.biochemistry=null")
        automatic = analytes == "auto"
        chosen = [analytes] if isinstance(analytes, str) and not automatic else list(analytes)
        if automatic:
            chosen = _measured_enough(study, min_animals, min_compounds, audit)
        unknown = [a for a in chosen if a not in table.columns]
        if unknown:
            raise TaskError(f"task.biochemistry: {unknown} not in {where}; known: {list(table.columns)}")
        names, logs, means, deviations = [], [], [], []
        for name in chosen:
            values = table.loc[list(train), name].dropna().to_numpy(np.float64)
            if len(np.unique(values)) < 2:
                if not automatic:
                    raise TaskError(
                        f"task.biochemistry: {name!r} of {where} has {len(values)} training values, none of them "
                        "different from the others; leave it out"
                    )
                audit.drop("labels", "analyte", name, "does not vary among training samples")
                continue
            on_log = log and bool((values > 0).all() and stats.skew(values) > LEAST_SKEWNESS)
            if on_log:
                for sample in table.index[table[name] <= 0]:
                    audit.drop(
                        "labels", f"analyte {name}", str(sample), "not positive, on a log scale: no label"
                    )
            scaled = np.log(values) if on_log else values
            names.append(name)
            logs.append(on_log)
            means.append(float(scaled.mean()))
            deviations.append(float(scaled.std()))
        if not names:
            raise TaskError(
                f"task.biochemistry: no analyte of {where} is measured in {min_animals} animals of {min_compounds} "
                "compounds and varies in training; set task.min_animals or task.min_compounds lower, or "
                "task.biochemistry=null"
            )
        return cls(tuple(names), tuple(logs), tuple(means), tuple(deviations))

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n, analytes], standardised; NaN where not measured, or not positive on a log scale."""
        if study.chemistry is None:
            return np.full((len(sample_ids), len(self.analytes)), np.nan, np.float32)
        values = study.chemistry.reindex(index=list(sample_ids), columns=list(self.analytes))
        scaled = values.to_numpy(np.float64)
        for i, on_log in enumerate(self.log):
            if on_log:
                column = scaled[:, i]
                scaled[:, i] = np.log(column, where=column > 0, out=np.full(len(column), np.nan))
        return ((scaled - np.array(self.mean)) / np.array(self.deviation)).astype(np.float32)


def _measured_enough(study: Study, min_animals: int, min_compounds: int, audit: Audit) -> list[str]:
    table = study.chemistry
    assert table is not None
    kept = []
    for name in table.columns:
        measured = study.obs[table[name].notna().to_numpy()]
        animals, compounds = measured["animal_id"].nunique(), measured["compound"].nunique()
        if animals >= min_animals and compounds >= min_compounds:
            kept.append(str(name))
        else:
            audit.drop(
                "labels", "analyte", str(name), f"measured in {animals} animals of {compounds} compounds"
            )
    return kept


def _has_column(study: Study, key: str, column: object) -> None:
    if not isinstance(column, str) or column not in study.obs.columns:
        raise TaskError(
            f"{key}: {column!r} is no column of obs of {study.root / EXPRESSION_FILE}; there are "
            f"{list(study.obs.columns)}"
        )
