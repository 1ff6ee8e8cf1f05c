"""Survival of the sample, from a time and whether the event happened: hazards of time bins, or a Cox log risk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toxfusion.data.batch import Batch
from toxfusion.evaluation import predictions
from toxfusion.evaluation.survival import curve_on_grid, survival_columns
from toxfusion.models.heads import SurvivalHead
from toxfusion.models.modes import as_array
from toxfusion.objectives.survival import CoxEfron, DiscreteSurvival
from toxfusion.study.audit import Audit
from toxfusion.study.rules import EXPRESSION_FILE, events, survival_times
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import SURVIVAL
from toxfusion.tasks.task import SampleTask, Scored, TaskError, require_column

SurvivalMethod = Literal["discrete", "cox"]


class HazardLoss(nn.Module):
    """`DiscreteSurvival` of times that are not yet in bins.

    Args:
        edges: inner bin edges; bin j holds edges[j - 1] <= time < edges[j].
        alpha: extra weight of the uncensored.
    """

    edges: Tensor

    def __init__(self, edges: Sequence[float], alpha: float) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.float32), persistent=False)
        self.of_bins = DiscreteSurvival(alpha=alpha)

    def forward(self, logits: Tensor, time: Tensor, event: Tensor) -> Tensor:
        """logits [B, n_bins]; time, event [B], NaN = unknown."""
        bins = torch.bucketize(time.nan_to_num(), self.edges, right=True)
        return self.of_bins(logits, torch.where(time.isfinite(), bins.float(), torch.nan), event)


class Survival(SampleTask):
    """A risk, higher = earlier, and for discrete hazards a survival curve.

    Attributes:
        edges: inner bin edges, quantiles of the training times with an event; bin j holds
            edges[j - 1] <= time < edges[j]. Empty for Cox. Fitted.
        end: time at which Uno's C and the integrated Brier score end. Fitted.
        train_time, train_event, train_stratum: labels of the training samples that have both, and their stratum ("" for
            none); the distribution of censoring is estimated on them, stratum by stratum. Fitted.

    Args:
        method: "discrete" (hazards of time bins), "cox" (log risk), or None for no such task.
        time, event: columns of obs; time is above 0 in the study's own unit, event 1 = it happened, 0 = censored.
        n_bins: time bins of the discrete hazards.
        alpha: extra weight of the uncensored in the discrete loss, 0 to 1.
        horizon: as ``end``; None for the last event in training.
        strata: column of obs (the cohort) within whose values alone times are compared: by the Cox loss, whose risk
            sets are of one stratum, and by every score; None for no strata.
        weight: of the task in the loss.
    """

    name = headline = SURVIVAL
    family = "survival"
    fitted = ("edges", "end", "train_time", "train_event", "train_stratum")

    def __init__(
        self,
        method: str | None = "discrete",
        *,
        time: str = "survival_time",
        event: str = "event",
        n_bins: int = 4,
        alpha: float = 0.15,
        horizon: float | None = None,
        strata: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.strata = strata
        self.method, self.time, self.event = method, time, event
        self.n_bins, self.alpha, self.horizon = n_bins, alpha, horizon
        self.edges: tuple[float, ...] = ()
        self.train_time: tuple[float, ...] = ()
        self.train_event: tuple[float, ...] = ()
        self.train_stratum: tuple[str, ...] = ()
        self.end = float("nan")

    @property
    def wanted(self) -> bool:
        return self.method is not None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.time, self.event)

    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        """Bin edges and horizon of the training samples.

        Raises:
            TaskError: an unknown method, a setting out of range, a missing column, or too few training events.
            StudyError: a time that is not above 0, an event that is neither 0 nor 1.
        """
        self._check(study)
        self._audit_halves(study, audit)
        label = self.labels(study, train)
        known = ~np.isnan(label[:, 0])
        time, event = label[known, :2].T
        died = time[event == 1]
        if len(died) == 0:
            raise TaskError(
                f"task.survival: none of {len(train)} training samples has a time in {self.time!r} and "
                f"{self.event}=1 in {study.root / EXPRESSION_FILE}; add labels, or take another split or task"
            )
        self.edges = _bin_edges(died, self.n_bins) if self.method == "discrete" else ()
        self.end = float(died.max()) if self.horizon is None else float(self.horizon)
        if not 0 < self.end <= time.max():
            raise TaskError(
                f"task.survival.horizon: {self.end:g} does not lie above 0 and up to {time.max():g}, the last "
                "training time; beyond it nothing is known of censoring. Set it lower, or null for the last event"
            )
        self.train_time, self.train_event = tuple(time.tolist()), tuple(event.tolist())
        self.train_stratum = tuple(self._strata(study.obs.loc[list(train)])[known].tolist())

    def _check(self, study: Study) -> None:
        if self.method not in get_args(SurvivalMethod):
            raise TaskError(
                f"task.survival.method: {self.method!r} is none of discrete, cox; null for no such task"
            )
        if not 0 <= self.alpha <= 1:
            raise TaskError(f"task.survival.alpha: {self.alpha!r} does not lie in 0 to 1")
        for key, column in (("time", self.time), ("event", self.event), ("strata", self.strata)):
            if key != "strata" or column is not None:
                require_column(study, f"task.survival.{key}", column)

    def _audit_halves(self, study: Study, audit: Audit) -> None:
        known = survival_times(study.obs, self.time).notna()
        other = events(study.obs, self.event).notna()
        for sample in study.obs.index[known != other]:
            there, missing = (self.time, self.event) if known[sample] else (self.event, self.time)
            audit.drop("labels", "survival", sample, f"{there} without {missing}: no label")

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n, 3], time, event and the code of the stratum; a row of NaN where time or event is missing.

        So it is where the study has no such column. Codes are of one study: equal where strata are.
        """
        if self.time not in study.obs or self.event not in study.obs:
            return np.full((len(sample_ids), 3), np.nan, np.float32)
        code = pd.Series(pd.factorize(self._strata(study.obs), sort=True)[0], index=study.obs.index)
        obs = study.obs.loc[list(sample_ids)]
        columns = [survival_times(obs, self.time), events(obs, self.event), code.loc[obs.index]]
        label = np.stack(columns, axis=1).astype(np.float32)
        label[np.isnan(label).any(axis=1)] = np.nan
        return label

    def _strata(self, obs: pd.DataFrame) -> np.ndarray:
        """str [n], the stratum of each sample; "" where there are none, or the column is missing."""
        if self.strata is None or self.strata not in obs:
            return np.full(len(obs), "", object)
        return obs[self.strata].astype(object).where(obs[self.strata].notna(), "").astype(str).to_numpy()

    def label_columns(self, labels: np.ndarray) -> np.ndarray:
        """float64 [n, 1], the times."""
        return labels[:, :1].astype(np.float64)

    def head(self, width: int) -> nn.Module:
        return SurvivalHead(width, len(self.edges) + 1 if self.method == "discrete" else None)

    def objective(self, labels: Tensor) -> nn.Module:
        return HazardLoss(self.edges, self.alpha) if self.method == "discrete" else CoxEfron()

    def loss(self, objective: nn.Module, head: nn.Module, vector: Tensor, batch: Batch) -> Tensor:
        time, event, stratum = batch.labels[self.name].unbind(1)
        if self.method == "discrete" or self.strata is None:
            return objective(head(vector), time, event)
        return objective(head(vector), time, event, stratum)

    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        """Cox log risk, or minus the sum over bins of the survival at their ends."""
        output = head(vector)
        return (-_curve(output).sum(1) if self.method == "discrete" else output)[:, None]

    def scores(self, head: nn.Module, vectors: Tensor) -> Tensor:
        output = head(vectors).double()
        return (-_curve(output).sum(1) if self.method == "discrete" else output)[:, None]

    def predictions(self, head: nn.Module, vectors: Tensor, scored: Scored) -> list[pd.DataFrame]:
        time, event = scored.labels[:, :2].T.astype(np.float64)
        curve = None
        if self.method == "discrete":
            at_ends = as_array(_curve(head(vectors).double()))
            curve = curve_on_grid(np.array(self.edges), self.end, at_ends)
        return [
            predictions.of_units(
                predictions.describe_units(scored.obs, "sample").loc[scored.obs.index],
                task=self.name,
                family=self.family,
                headline=self.headline,
                level=self.level,
                label=time,
                score=as_array(self.scores(head, vectors))[:, 0],
                part=scored.part,
                fold=scored.fold,
                seed=scored.seed,
                optional=self.optional_columns(scored.obs, time, event, curve),
            )
        ]

    def optional_columns(
        self,
        obs: pd.DataFrame,
        time: np.ndarray,
        event: np.ndarray,
        curve: tuple[np.ndarray, np.ndarray] | None,
    ) -> dict[str, np.ndarray]:
        """What the predictions table holds beside label and score; see `survival_columns`.

        Censoring is that of the training samples of the stratum, events count up to the last one of these; a stratum
        that training had none of is scored by all training samples.

        Args:
            obs: of the samples. time, event: float [n]. curve: times [K] and survival at them [n, K].
        """
        strata, of_train = self._strata(obs), np.array(self.train_stratum, object)
        train_time, train_event = np.array(self.train_time), np.array(self.train_event)
        columns: dict[str, np.ndarray] = {}
        for stratum in np.unique(strata):
            inside, alike = strata == stratum, of_train == stratum
            if not (train_event[alike] == 1).any():
                alike = np.ones(len(of_train), bool)
            end = min(self.end, float(train_time[alike].max()))
            own = None
            if curve is not None:
                before = curve[0] < end
                own = curve[0][before], curve[1][inside][:, before]
            of_stratum = survival_columns(
                train_time[alike], train_event[alike], end, time[inside], event[inside], own
            )
            for name, values in of_stratum.items():
                columns.setdefault(name, np.full(len(obs), np.nan))[inside] = values
        return columns if self.strata is None else {**columns, "stratum": strata}

    def curves(self, head: nn.Module, vectors: Tensor, sample_ids: Sequence[str]) -> pd.DataFrame | None:
        """S at the ends of the time bins; None for Cox.

        Returns:
            Columns sample_id, time (the last bin ends at the horizon, or is open where that lies in an earlier one:
            infinity) and survival, the probability of no event up to that time.
        """
        if self.method != "discrete":
            return None
        curve = as_array(_curve(head(vectors).double()))
        times = np.array([*self.edges, self.end if self.end > self.edges[-1] else np.inf])
        return pd.DataFrame(
            {
                "sample_id": np.repeat(list(sample_ids), len(times)),
                "time": np.tile(times, len(curve)),
                "survival": curve.ravel(),
            }
        )


def _curve(logits: Tensor) -> Tensor:
    """S at the end of each bin from the logits of hazards, [n, bins]."""
    return F.logsigmoid(-logits).cumsum(1).exp()


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
