"""What a run has learned: the network and a head for each task, as plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.models.modes import place_of
from toxfusion.models.network import Network, Representation

DEVIATION_SCALE = 0.5
"""Of what a head reads once more for the group of a sample: under one penalty on all weights, the spread of the groups'
deviations as a share of that of the weights that groups have in common."""


def read_by_heads(fused: Tensor, clinical: Tensor | None, membership: Tensor | None = None) -> Tensor:
    """What heads read of B samples.

    The fused vectors [B, W], then the clinical columns [B, C], if any. With groups, all of that once more for each of
    them, 0 in samples of the others: a head whose weights may deviate from group to group.

    Args:
        membership: [B, K], 1 in the column of the sample's group.

    Returns:
        [B, read_width(W, C, K)].
    """
    common = fused if clinical is None else torch.cat([fused, clinical.to(fused)], 1)
    if membership is None:
        return common
    own = membership.to(fused)[:, :, None] * common[:, None, :]
    return torch.cat([common, DEVIATION_SCALE * own.flatten(1)], 1)


def read_width(width: int, n_clinical: int, n_groups: int) -> int:
    """Columns of what heads read: (W + C) (1 + K)."""
    return (width + n_clinical) * (1 + n_groups)


class Predictor(nn.Module):
    """A network and heads on its fused vector and the clinical columns beside it.

    The weight of a head on a clinical column is the linear path of that column to its task. What a head's output
    means, how it is learned and scored, is the task's (``toxfusion.tasks``).

    Args:
        network: gives fused vectors [B, W].
        heads: name of the task -> head.
    """

    def __init__(self, network: Network, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleDict(dict(heads))

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return place_of(self.network)[0]

    def forward(self, batch: Batch) -> Representation:
        """Represent B samples. The batch lies where the network does."""
        return self.network(batch)

    def vector(self, batch: Batch) -> Tensor:
        """What heads read of samples (`read_by_heads`), with gradient; the batch may lie anywhere."""
        placed = batch.to(*place_of(self.network))
        return read_by_heads(self.network(placed).fused.vector, placed.clinical, placed.head_membership)
