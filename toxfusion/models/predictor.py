"""What a run has learned: the network and a head for each task, as plain torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.models.modes import place_of
from toxfusion.models.network import Network, Representation


class Predictor(nn.Module):
    """A network and heads on its fused vector.

    What a head's output means, how it is learned and scored, is the task's (``toxfusion.tasks``).

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
        """Represent B samples; the fused vector is what the heads read. The batch lies where the network does."""
        return self.network(batch)

    def vector(self, batch: Batch) -> Tensor:
        """Fused vectors [B, W] of samples, with gradient; the batch may lie anywhere."""
        return self.network(batch.to(*place_of(self.network))).fused.vector
