"""Subtype of the sample: one of several exclusive classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from toxfusion.models.heads import MultiClassHead
from toxfusion.objectives.classification import CrossEntropy
from toxfusion.study.audit import Audit
from toxfusion.study.names import strangers
from toxfusion.study.rules import EXPRESSION_FILE, classes
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import SUBTYPE, SUBTYPE_PREFIX
from toxfusion.tasks.task import SampleTask, TaskError, require_column, words_of


class Subtype(SampleTask):
    """Probabilities of the classes, which sum to 1; in the predictions table each class against the rest.

    Attributes:
        classes: those of the training samples, sorted; fitted.

    Args:
        column: of obs that names the class of each sample, "" or NaN = no label; None for no such task.
        only: the classes to tell apart; samples of any other have no label. None for all of the training samples.
        weight: of the task in the loss.
    """

    name = headline = SUBTYPE
    family = "classes"
    fitted = ("classes",)

    def __init__(
        self,
        column: str | None = "subtype",
        *,
        only: Sequence[str] | str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.column = column
        self.only = None if only is None else words_of(only)
        if self.only is not None and column is None:
            raise TaskError(
                f"task.classes={list(self.only)}: names classes of no column; give task=subtype, or task.subtype"
            )
        self.classes: tuple[str, ...] = ()

    @property
    def wanted(self) -> bool:
        return self.column is not None

    @property
    def columns(self) -> tuple[str, ...]:
        return (str(self.column),)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{SUBTYPE_PREFIX}{c}" for c in self.classes)

    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        """Classes of the training samples; samples of a class that none of them has go to the audit.

        Raises:
            TaskError: the column is missing, a class of ``only`` is in no training sample, or the training samples are
                of fewer than two classes.
            StudyError: a class that is not text.
        """
        require_column(study, "task.subtype", self.column)
        every = classes(study.obs, str(self.column))
        known = tuple(sorted(set(every[list(train)]) - {""}))
        if self.only is not None:
            known = self._chosen(study, known)
            for name, n in every[~every.isin(["", *known])].value_counts().items():
                audit.drop(
                    "labels", "subtype", str(name), f"{n} samples: not among task.classes, so no label"
                )
        if len(known) < 2:
            raise TaskError(
                f"task.subtype: the training samples have {list(known) or 'no class'} in column {self.column!r} of "
                f"{study.root / EXPRESSION_FILE}; two classes are needed: take another column, split or task"
            )
        for sample, name in every[~every.isin(["", *known])].items() if self.only is None else ():
            reason = f"{self.column}={name!r} occurs in no training sample: no label"
            audit.drop("labels", "subtype", str(sample), reason)
        self.classes = known

    def _chosen(self, study: Study, trained: Sequence[str]) -> tuple[str, ...]:
        chosen = tuple(sorted({str(name) for name in self.only or ()}))
        unknown = [name for name in chosen if name not in trained]
        if unknown:
            raise TaskError(
                f"task.classes: {strangers(unknown, trained).all_told()} is in no training sample, in column "
                f"{self.column!r} of {study.root / EXPRESSION_FILE}; there are {', '.join(trained)}"
            )
        return chosen

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n], position in ``classes``; NaN for no class, or one that no training sample had."""
        if self.column not in study.obs:
            return np.full(len(sample_ids), np.nan, np.float32)
        place = {name: float(i) for i, name in enumerate(self.classes)}
        named = classes(study.obs.loc[list(sample_ids)], str(self.column))
        return named.map(place).to_numpy(np.float32)

    def label_columns(self, labels: np.ndarray) -> np.ndarray:
        """float64 [n, classes]: 1 where the sample is of the class."""
        of_class = labels[:, None] == np.arange(len(self.classes))
        return np.where(np.isnan(labels)[:, None], np.nan, of_class)

    def head(self, width: int) -> nn.Module:
        return MultiClassHead(width, len(self.classes))

    def objective(self, labels: Tensor) -> nn.Module:
        return CrossEntropy()

    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        return head(vector)

    def scores(self, head: nn.Module, vectors: Tensor) -> Tensor:
        return head(vectors).double().softmax(1)
