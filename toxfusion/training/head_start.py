"""Heads solved on the vectors of the network as it is, before fine-tuning moves it (Kumar et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.models.modes import evaluating
from toxfusion.models.precision import full_precision
from toxfusion.tasks.task import PooledTask
from toxfusion.tasks.task_set import TaskSet

MAX_ITERATIONS = 200


class HeadStartError(ValueError):
    """A strength of the penalty that is not above 0."""


@dataclass(frozen=True)
class HeadRidge:
    """The penalty on the weights of heads: their prior, in units of what they read.

        penalty = sum over tasks of (|W|^2 v / c + |W_clinical|^2 / c_clinical) / (2 n)

    with v the variance of an entry of the fused vectors, c of the task and n its labelled samples: beside a mean loss
    this is the penalty of scikit-learn's ``C = c`` on vectors of unit variance. Clinical columns are in deviations
    already. What is read once more for a group has the penalty of what it repeats. Biases and thresholds have none.

    Attributes:
        weight: task -> float [(W + C) (1 + K)], v / c and 1 / c_clinical: of each entry that heads read.
        labelled: task -> n.
    """

    weight: Mapping[str, Tensor]
    labelled: Mapping[str, int]

    @classmethod
    def of(
        cls,
        vectors: Tensor,
        labelled: Mapping[str, int],
        c: Mapping[str, float],
        *,
        n_clinical: int = 0,
        n_groups: int = 0,
        clinical_c: float = 1.0,
    ) -> HeadRidge:
        """From the fused vectors [n, W] of the training samples and how many of them have a label of each task.

        Args:
            c: of each task.
            n_clinical: C, entries of clinical columns that heads read after the fused vector.
            n_groups: K, groups in which heads may deviate.
            clinical_c: c of the weights on clinical columns.

        Raises:
            HeadStartError: c or clinical_c is not above 0.
        """
        for name, value in (*(("head_c", of_task) for of_task in c.values()), ("clinical_c", clinical_c)):
            if not value > 0:
                raise HeadStartError(
                    f"optimizer.{name}={value}: must be above 0; the smaller, the stronger the penalty"
                )
        variance = float(vectors.float().var(0, correction=0).mean()) if len(vectors) > 1 else 1.0
        clinical = torch.full((n_clinical,), 1 / clinical_c)
        weight = {
            task: torch.cat([torch.full((vectors.shape[1],), variance / c[task]), clinical]).repeat(
                1 + n_groups
            )
            for task in labelled
        }
        return cls(weight, labelled)

    def __call__(self, heads: nn.ModuleDict) -> dict[str, Tensor]:
        """The penalty of each task, unweighted as its loss is."""
        penalties = {}
        for task, n in self.labelled.items():
            matrices = [p for p in heads[task].parameters() if p.ndim >= 2]
            terms = [(self._weight_on(p, task) * p.square()).sum() for p in matrices]
            penalties[task] = torch.stack(terms).sum() / (2 * max(1, n))
        return penalties

    def _weight_on(self, matrix: Tensor, task: str) -> Tensor:
        """Of the columns of a matrix that reads what heads read; of a later layer, that of the fused vector."""
        weight = self.weight[task].to(matrix)
        return weight if matrix.shape[-1] == len(weight) else weight[0]


def labelled_units(tasks: TaskSet, batch: Batch) -> dict[str, int]:
    """How many units of each task of a batch have a label: compounds, dose groups, or samples."""
    labelled = {}
    for task in tasks:
        known = batch.labels[task.name].isfinite().reshape(len(batch), -1).any(1)
        if isinstance(task, PooledTask):
            labelled[task.name] = len(task.codes(batch)[known & ~batch.is_control].unique())
        else:
            labelled[task.name] = int(known.sum())
    return labelled


@full_precision
def solve_heads(heads: nn.ModuleDict, loss: Callable[[], Tensor]) -> float:
    """Minimise a loss over the heads by L-BFGS, in evaluation mode; returns the least loss.

    With linear heads, a convex loss and a penalty it has one minimum, wherever the heads begin.

    Args:
        heads: changed in place; each part has its mode again afterwards.
        loss: of all training samples, penalty included; deterministic.
    """
    optimizer = torch.optim.LBFGS(
        list(heads.parameters()),
        max_iter=MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with evaluating(heads), torch.enable_grad():
        optimizer.step(closure)
        least = float(loss().detach())
    optimizer.zero_grad()
    return least
