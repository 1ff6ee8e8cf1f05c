"""What heads read: fused vectors, clinical columns, and both once more for the group of the sample."""

from __future__ import annotations

import torch

from toxfusion.models.predictor import DEVIATION_SCALE, read_by_heads, read_width


def test_a_group_has_the_common_weights_and_deviations_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    fused, clinical = torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)
    membership = torch.tensor(
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    )  # the third is of no known group
    read = read_by_heads(fused, clinical, membership)
    assert read.shape == (4, read_width(3, 2, 2))
    weight = torch.randn(read.shape[1], generator=generator)
    common, of_groups = weight[:5], weight[5:].reshape(2, 5)
    for i, group in enumerate((0, 1, None, 0)):
        own = common if group is None else common + DEVIATION_SCALE * of_groups[group]
        assert torch.allclose(read[i] @ weight, torch.cat([fused[i], clinical[i]]) @ own, atol=1e-5)


def test_nothing_is_added_where_there_is_nothing() -> None:
    fused = torch.randn(4, 3)
    assert read_by_heads(fused, None) is fused
    assert torch.equal(read_by_heads(fused, torch.zeros(4, 0), torch.zeros(4, 0)), fused)
