"""Severity of the animal: the highest grade of any of its findings, 0 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import numpy as np
from torch import Tensor, nn

from toxfusion.models.heads import OrdinalHead
from toxfusion.objectives.ordinal import Coral, Corn
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import N_GRADES, SEVERITY
from toxfusion.tasks.task import SampleTask, TaskError

OrdinalMethod = Literal["coral", "corn"]


class Severity(SampleTask):
    """An expected grade.

    Args:
        wanted: whether it is predicted.
        method: how grades are learned, "coral" or "corn"; see `OrdinalHead`.
        weight: of the task in the loss.
    """

    name = headline = SEVERITY
    family = "ordinal"
    source = "findings"

    def __init__(self, *, wanted: bool = True, method: str = "coral", weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        self._wanted, self.method = wanted, method

    @property
    def wanted(self) -> bool:
        return self._wanted

    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        if self.method not in get_args(OrdinalMethod):
            raise TaskError(f"task.severity_loss: {self.method!r} is none of coral, corn; take one of them")

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n], 0 to 4; NaN where nothing was examined."""
        return study.findings.loc[list(sample_ids)].max(axis=1, skipna=True).to_numpy(np.float32)

    def head(self, width: int) -> nn.Module:
        return OrdinalHead(width, N_GRADES, method=cast(OrdinalMethod, self.method))

    def objective(self, labels: Tensor) -> nn.Module:
        return Coral() if self.method == "coral" else Corn()

    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        assert isinstance(head, OrdinalHead), "the head is of this task"
        return head.expected_grade(head(vector))

    def scores(self, head: nn.Module, vectors: Tensor) -> Tensor:
        return self.targets(head, vectors)
