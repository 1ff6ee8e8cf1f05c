"""The bag encoder of CLAM: gated attention whose picks are sharpened by clustering tiles while labels are learned."""

from __future__ import annotations

from toxfusion.models.bag import GatedAttention


class ClusteredAttention(GatedAttention):
    """Gated attention of one branch (CLAM-SB, Lu et al., Nature Biomedical Engineering 2021).

    Attributes:
        instance_weight: share of instance clustering in the loss of fine-tuning, 0.3 as published; see
            ``toxfusion.objectives.instance_clustering``.
        instance_tiles: tiles at either end of attention that are clustered.
    """

    def __init__(
        self,
        in_dim: int,
        width: int,
        *,
        heads: int = 1,
        hidden: int | None = None,
        dropout: float = 0.1,
        instance_weight: float = 0.3,
        instance_tiles: int = 8,
    ) -> None:
        super().__init__(in_dim, width, heads=heads, hidden=hidden, dropout=dropout)
        if not 0 <= instance_weight < 1 or instance_tiles < 1:
            raise ValueError(
                f"bag.instance_weight={instance_weight} must be from 0 to below 1, and bag.instance_tiles="
                f"{instance_tiles} at least 1"
            )
        self.instance_weight, self.instance_tiles = instance_weight, instance_tiles
