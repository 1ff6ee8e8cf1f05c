"""A column of obs as a task of its own: two classes, grades, several classes, or a value of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from torch import Tensor, nn

from toxfusion.evaluation.families import FamilyName
from toxfusion.models.heads import MultiClassHead, MultiLabelHead, OrdinalHead, RegressionHead
from toxfusion.objectives.classification import CrossEntropy, MaskedBCE, MaskedRegression, positive_weights
from toxfusion.objectives.ordinal import Coral
from toxfusion.study.audit import Audit
from toxfusion.study.names import strangers
from toxfusion.study.rules import EXPRESSION_FILE
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import MAX_GRADE
from toxfusion.tasks.task import SampleTask, TaskError, require_column, words_of

Kind = Literal["auto", "binary", "ordinal", "classes", "value"]


class ColumnTask(SampleTask):
    """What a column says of each sample; "" and NaN are no label, None is a word like any other.

    Attributes:
        family: as the column is measured; fitted.
        classes: words of the labels: negative and positive, grades from the lowest, or classes; fitted.
        mean, deviation: of training values; fitted.

    Args:
        name: of the task; the column's where None.
        column: of obs.
        kind: "binary", "ordinal" (at most five grades), "classes" or "value"; "auto" takes numbers of more than two
            values for a value, two words or numbers for two classes, more words for classes.
        order: grades from the lowest, or classes; None: those of training samples, sorted.
        negative, positive: the words of either class; samples of others have no label. Both None: ``order``, or the two
            that there are.
        weight: of the task in the loss.
    """

    fitted = ("family", "classes", "mean", "deviation")

    def __init__(
        self,
        name: str | None = None,
        *,
        column: str,
        kind: Kind = "auto",
        order: Sequence[str] | None = None,
        negative: Sequence[str] | str | None = None,
        positive: Sequence[str] | str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.name = self.headline = column if name is None else name
        self.column, self.kind = column, kind
        self.order, self.negative, self.positive = (
            None if classes is None else words_of(classes) for classes in (order, negative, positive)
        )
        self.family: FamilyName = "binary"
        self.classes: tuple[str, ...] = ()
        self.mean, self.deviation = 0.0, 1.0
        if kind not in get_args(Kind):
            raise TaskError(f"task.labels.{self.name}.kind: {kind!r} is none of {', '.join(get_args(Kind))}")
        if "." in self.name or (self.negative is None) != (self.positive is None):
            raise TaskError(
                f"task.labels.{self.name}: give it a name without a dot, and both negative and positive or neither"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}:{c}" for c in self.classes) if self.family == "classes" else (self.name,)

    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        """FamilyName, classes and scale.

        Raises:
            TaskError: the column is missing, holds text where numbers are asked for, lacks a word that is named, or
                the training samples have fewer than two labels that differ.
        """
        require_column(study, f"task.labels.{self.name}", self.column)
        where = f"column {self.column!r} of {study.root / EXPRESSION_FILE}"
        trained = study.obs.loc[list(train), self.column]
        words = _text(trained)
        present = tuple(sorted(set(words) - {""}))
        self.family = self._family(trained, present)
        if self.family == "value":
            values = pd.to_numeric(trained, errors="coerce")
            if values.notna().sum() < (words != "").sum():
                raise TaskError(f"task.labels.{self.name}: {where} holds words, and kind=value needs numbers")
            self.mean, self.deviation = float(values.mean()), float(values.std(ddof=0))
            if not self.deviation > 0:
                raise TaskError(f"task.labels.{self.name}: {where} does not vary among training samples")
            return
        named = (*self.negative, *self.positive) if self.negative and self.positive else self.order
        unknown = [w for w in named or () if w not in set(_text(study.obs[self.column]))]
        if unknown:
            raise TaskError(
                f"task.labels.{self.name}: {strangers(unknown, present).all_told()} is not in {where}; there are "
                f"{', '.join(present)}"
            )
        self.classes = ("negative", "positive") if self.negative else (self.order or present)
        self._check_classes(where, words)
        for word, n in words[~words.isin(["", *(named or present)])].value_counts().items():
            audit.drop("labels", self.name, str(word), f"{n} samples: not among the classes, so no label")

    def _family(self, trained: pd.Series, present: Sequence[str]) -> FamilyName:
        if self.kind != "auto":
            return self.kind
        if self.negative is not None:
            return "binary"
        if pd.api.types.is_numeric_dtype(trained) and len(present) > 2 and self.order is None:
            return "value"
        return "binary" if len(self.order or present) == 2 else "classes"

    def _check_classes(self, where: str, words: pd.Series) -> None:
        n = len(self.classes)
        wrong = {"binary": n != 2, "ordinal": not 2 <= n <= MAX_GRADE + 1, "classes": n < 2}[self.family]
        if wrong:
            limit = {"binary": "two", "ordinal": f"two to {MAX_GRADE + 1}", "classes": "two or more"}[
                self.family
            ]
            raise TaskError(
                f"task.labels.{self.name}: {where} has {n} classes ({', '.join(self.classes)}) and kind={self.family} "
                f"takes {limit}; name them by order, or by negative and positive"
            )
        if len(set(self._places(words).dropna())) < 2:
            raise TaskError(f"task.labels.{self.name}: the training samples are of one class of {where}")

    def _places(self, words: pd.Series) -> pd.Series:
        """Position of each word among the classes; NaN for none."""
        if self.negative is not None and self.positive is not None:
            place = dict.fromkeys(self.negative, 0.0) | dict.fromkeys(self.positive, 1.0)
        else:
            place = {word: float(i) for i, word in enumerate(self.classes)}
        return words.map(place).astype(np.float64)

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n]: position among the classes, or the value in deviations of training samples; NaN for none."""
        if self.column not in study.obs:
            return np.full(len(sample_ids), np.nan, np.float32)
        values = study.obs.loc[list(sample_ids), self.column]
        if self.family == "value":
            labels = (pd.to_numeric(values, errors="coerce").astype(np.float64) - self.mean) / self.deviation
        else:
            labels = self._places(_text(values))
        return labels.to_numpy(np.float32)

    def label_columns(self, labels: np.ndarray) -> np.ndarray:
        if self.family != "classes":
            return labels.astype(np.float64)[:, None]
        of_class = labels[:, None] == np.arange(len(self.classes))
        return np.where(np.isnan(labels)[:, None], np.nan, of_class)

    def head(self, width: int) -> nn.Module:
        if self.family == "binary":
            return MultiLabelHead(width, 1)
        if self.family == "ordinal":
            return OrdinalHead(width, len(self.classes))
        return (
            MultiClassHead(width, len(self.classes)) if self.family == "classes" else RegressionHead(width, 1)
        )

    def objective(self, labels: Tensor) -> nn.Module:
        if self.family == "binary":
            return MaskedBCE(positive_weights(labels[:, None]))
        kinds: dict[str, type[nn.Module]] = {
            "ordinal": Coral,
            "classes": CrossEntropy,
            "value": MaskedRegression,
        }
        return kinds[self.family]()

    def loss(self, objective: nn.Module, head: nn.Module, vector: Tensor, batch: Any) -> Tensor:
        labels = batch.labels[self.name]
        columns = labels[:, None] if self.family in ("binary", "value") else labels
        return objective(head(vector), columns)

    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        outputs = head(vector)
        return head.expected_grade(outputs) if isinstance(head, OrdinalHead) else outputs

    def scores(self, head: nn.Module, vectors: Tensor) -> Tensor:
        outputs = self.targets(head, vectors)
        if self.family == "binary":
            return outputs.sigmoid()
        return outputs.double().softmax(1) if self.family == "classes" else outputs


def _text(values: pd.Series) -> pd.Series:
    """Words of a column, "" where there is none; 3.0 is "3"."""
    if pd.api.types.is_numeric_dtype(values):
        return values.map(lambda v: "" if pd.isna(v) else f"{float(v):g}")
    return values.astype(object).where(values.notna(), "").astype(str)
