"""Heads solved on the vectors of the network as it is, before fine-tuning moves it (Kumar et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.models.precision import full_precision
from toxfusion.tasks.task import PooledTask
from toxfusion.tasks.task_set import TaskSet

MAX_ITERATIONS = 200


class HeadStartError(ValueError):
    """A strength of the penalty that is not above 0."""


@dataclass(frozen=True)
class HeadRidge:
    """The penalty on the weights of heads: their prior, in units of what they read.

        penalty = sum over tasks of |W|^2 v / (2 c n)

    with v the variance of an entry of the vectors and n the labelled samples of the task: beside a mean loss this is
    the penalty of scikit-learn's ``C = c`` on vectors of unit variance. Biases and thresholds have none.

    Attributes:
        strength: task -> v / (2 c n).
    """

    strength: Mapping[str, float]

    @classmethod
    def of(cls, vectors: Tensor, labelled: Mapping[str, int], c: float) -> HeadRidge:
        """From the vectors [n, W] of the training samples and how many of them have a label of each task.

        Raises:
            HeadStartError: c is not above 0.
        """
        if not c > 0:
            raise HeadStartError(
                f"optimizer.head_c={c}: must be above 0; the smaller, the stronger the penalty"
            )
        variance = float(vectors.float().var(0, correction=0).mean()) if len(vectors) > 1 else 1.0
        return cls({task: variance / (2 * c * max(1, n)) for task, n in labelled.items()})

    def __call__(self, heads: nn.ModuleDict) -> dict[str, Tensor]:
        """The penalty of each task, unweighted as its loss is."""
        fitted = {}
        for task, strength in self.strength.items():
            matrices = [p for p in heads[task].parameters() if p.ndim >= 2]
            fitted[task] = strength * torch.stack([p.square().sum() for p in matrices]).sum()
        return fitted


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
        heads: changed in place; their mode is what it was afterwards.
        loss: of all training samples, penalty included; deterministic.
    """
    was_training = heads.training
    heads.eval()
    parameters = list(heads.parameters())
    optimizer = torch.optim.LBFGS(
        parameters,
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

    with torch.enable_grad():
        optimizer.step(closure)
        least = float(loss().detach())
    optimizer.zero_grad()
    heads.train(was_training)
    return least
