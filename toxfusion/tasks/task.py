"""A kind of task: one object from the labels in a study to the loss, the scores and their rows, and what is explained.

A kind is a class in a file of its own, built from a node of conf/task by its ``_target_``. It may lie in this package
or in any other that can be imported: derive from `SampleTask` (a label a sample) or `PooledTask` (a label that the
treated samples of a unit share), or from `Task` for anything else.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.evaluation import predictions
from toxfusion.evaluation.families import FAMILIES, FamilyName
from toxfusion.evaluation.probing import EMBEDDING_PROBES
from toxfusion.models.heads import CompoundHead, Pooling
from toxfusion.models.modes import as_array
from toxfusion.objectives.classification import CompoundBCE
from toxfusion.study.audit import Audit
from toxfusion.study.rules import EXPRESSION_FILE
from toxfusion.study.study import Study

Level = Literal["compound", "group", "sample"]
Source = Literal["", "findings", "chemistry"]


class TaskError(ValueError):
    """A task that does not exist, or that the study has no labels for."""


@dataclass(frozen=True)
class Scored:
    """The samples of one part whose scores become rows of the predictions table.

    Attributes:
        obs: of the study, n rows.
        labels: of one task, float32 [n] or [n, L]; NaN where there is none.
        part, fold, seed: as in the predictions table.
    """

    obs: pd.DataFrame
    labels: np.ndarray
    part: str
    fold: int
    seed: int


class Task(ABC):
    """One kind of label.

    Attributes:
        name: of the labels in a batch, of the head and of the loss in the log.
        level: whose label it is.
        family: how scores are measured; see ``toxfusion.evaluation.families``.
        headline: what the rows are reported under; of the tasks of one headline the mean is taken.
        source: what of a study the labels are made from, beside columns of obs; no baseline may read that.
        fitted: names of the attributes that `learn` sets: plain values, kept in checkpoints.

    Args:
        weight: of the task in the loss.
    """

    name: str
    level: ClassVar[Level]
    family: FamilyName
    headline: str
    source: ClassVar[Source] = ""
    fitted: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = float(weight)

    @property
    def wanted(self) -> bool:
        """Whether the settings ask for this task at all."""
        return True

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of obs that hold its labels, beside dili and injury: what a permutation of labels permutes."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """Tasks of the predictions table, one a column of the scores."""
        return (self.name,)

    @property
    def probes(self) -> tuple[str, ...]:
        """Probes of frozen embeddings that fit its labels; see ``toxfusion.evaluation.probing``."""
        return EMBEDDING_PROBES if FAMILIES[self.family].two_class else ()

    def fit(self, study: Study, train: Sequence[str], audit: Audit) -> Self:
        """A copy of this task that knows what is fitted on training samples.

        Args:
            audit: takes the labels that are left out.

        Raises:
            TaskError: a setting that does not exist, or no label in the study.
            StudyError: a column whose values break the rules of its kind.
        """
        fitted = copy.copy(self)
        fitted.learn(study, train, audit)
        return fitted

    @abstractmethod
    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        """Check the settings against the study and set the attributes in ``fitted``; as `fit`."""

    def state(self) -> dict[str, Any]:
        """What was fitted, as plain types."""
        return {name: getattr(self, name) for name in self.fitted}

    def restored(self, state: dict[str, Any]) -> Self:
        """A copy of this task with what an earlier one was fitted to."""
        fitted = copy.copy(self)
        for name in self.fitted:
            value = state[name]
            setattr(fitted, name, tuple(value) if isinstance(value, list) else value)
        return fitted

    @abstractmethod
    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """Labels of samples, float32 [n] or [n, L], NaN where there is none or the study does not hold any."""

    def label_columns(self, labels: np.ndarray) -> np.ndarray:
        """float64 [n, len(names)]: the labels as they stand in the rows of each name; NaN where there is none."""
        return labels.astype(np.float64).reshape(len(labels), -1)

    @abstractmethod
    def head(self, width: int) -> nn.Module:
        """What reads fused vectors [B, width]."""

    @abstractmethod
    def objective(self, labels: Tensor) -> nn.Module:
        """The loss, with what it takes from the labels [n] or [n, L] of the samples that are trained on."""

    def loss(self, objective: nn.Module, head: nn.Module, vector: Tensor, batch: Batch) -> Tensor:
        """A number from fused vectors [B, W]; 0 where the batch has no label."""
        return objective(head(vector), batch.labels[self.name])

    @abstractmethod
    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        """What is explained: for each name a number of each sample, with gradient, higher = more of it.

        Returns:
            float [B, len(names)]: what the predictions table holds, before a sigmoid or softmax.
        """

    @abstractmethod
    def predictions(self, head: nn.Module, vectors: Tensor, scored: Scored) -> list[pd.DataFrame]:
        """Rows of the predictions table.

        Args:
            head: in evaluation mode.
            vectors: [n, W], where the head lies: all samples of a part, so that compounds and groups are whole.
        """

    def curves(self, head: nn.Module, vectors: Tensor, sample_ids: Sequence[str]) -> pd.DataFrame | None:
        """Curves over time: columns sample_id, time and survival, one row a sample and time; None for no such."""
        return None


class SampleTask(Task):
    """A task with labels of samples."""

    level = "sample"

    @abstractmethod
    def scores(self, head: nn.Module, vectors: Tensor) -> Tensor:
        """Scores [n, len(names)] of the predictions table, where the head lies."""

    def predictions(self, head: nn.Module, vectors: Tensor, scored: Scored) -> list[pd.DataFrame]:
        units = predictions.describe_units(scored.obs, "sample").loc[scored.obs.index]
        scores, labels = as_array(self.scores(head, vectors)), self.label_columns(scored.labels)
        return [
            predictions.of_units(
                units,
                task=name,
                family=self.family,
                headline=self.headline,
                level=self.level,
                label=labels[:, i],
                score=scores[:, i],
                part=scored.part,
                fold=scored.fold,
                seed=scored.seed,
            )
            for i, name in enumerate(self.names)
        ]


class PooledTask(Task):
    """A two-class label of a unit, from the treated samples of it; vehicle controls carry no label.

    Attributes:
        unit: column of obs that names the unit.
        column: column of obs with the label, 0, 1 or NaN, the same on all treated samples of a unit.

    Args:
        wanted: whether it is predicted.
        pooling: how logits of samples become one of the unit; see `CompoundHead`.
        weight: of the task in the loss.
    """

    family = "binary"
    unit: ClassVar[str]
    column: ClassVar[str]

    def __init__(self, *, wanted: bool = True, pooling: Pooling = "mean", weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        self._wanted, self.pooling = wanted, pooling

    @property
    def wanted(self) -> bool:
        return self._wanted

    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        if study.obs.loc[~study.obs["is_control"].astype(bool), self.column].isna().all():
            raise TaskError(
                f"task.{self.name}: column {self.column!r} of {study.root / EXPRESSION_FILE} has no label for a "
                f"treated sample; add labels or set task.{self.name}=false"
            )

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        obs = study.obs.loc[list(sample_ids)]
        treated = ~obs["is_control"].to_numpy(dtype=bool)
        return np.where(treated, obs[self.column].to_numpy(np.float32), np.nan).astype(np.float32)

    @abstractmethod
    def codes(self, batch: Batch) -> Tensor:
        """int64 [B], the unit of each sample."""

    def head(self, width: int) -> nn.Module:
        return CompoundHead(width, pooling=self.pooling)

    def objective(self, labels: Tensor) -> nn.Module:
        return CompoundBCE()

    def loss(self, objective: nn.Module, head: nn.Module, vector: Tensor, batch: Batch) -> Tensor:
        codes = self.codes(batch)
        pooled = head(vector, codes, batch.is_control)
        return objective(pooled, codes, batch.labels[self.name], batch.is_control)

    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        assert isinstance(head, CompoundHead), "the head is of this task"
        return head.head(vector).float()

    def predictions(self, head: nn.Module, vectors: Tensor, scored: Scored) -> list[pd.DataFrame]:
        treated = ~scored.obs["is_control"].to_numpy(dtype=bool)
        if not treated.any():
            return []
        unit = scored.obs[self.unit].astype(str)
        codes, names = pd.factorize(unit.to_numpy(dtype=object), sort=True)
        pooled = head(
            vectors,
            torch.from_numpy(codes.astype(np.int64)).to(vectors.device),
            torch.from_numpy(~treated).to(vectors.device),
        )
        score = pd.Series(as_array(pooled.logits.sigmoid()), index=names[pooled.compound.cpu().numpy()])
        label = pd.Series(scored.labels[treated].astype(np.float64)).groupby(unit[treated].to_numpy()).first()
        return [
            predictions.of_units(
                predictions.describe_units(scored.obs[treated], self.level),
                task=self.name,
                family=self.family,
                headline=self.headline,
                level=self.level,
                label=label,
                score=score,
                part=scored.part,
                fold=scored.fold,
                seed=scored.seed,
            )
        ]


def require_column(study: Study, key: str, column: object) -> None:
    """Refuse a column that obs of a study does not have.

    Raises:
        TaskError: names the key of the config, and the columns that there are.
    """
    if not isinstance(column, str) or column not in study.obs.columns:
        raise TaskError(
            f"{key}: {column!r} is no column of obs of {study.root / EXPRESSION_FILE}; there are "
            f"{list(study.obs.columns)}"
        )


def words_of(words: object) -> tuple[str, ...]:
    """One word or several, as text: a command line makes numbers of classes and ids that look like them."""
    return tuple(map(str, words)) if isinstance(words, list | tuple) else (str(words),)
