"""Pretraining on two gloo ranks of unequal size equals one process, for the whole loss of every preset."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.processes import METHOD
from tests.training.small_training import (
    ALONE,
    PRESETS,
    config,
    eight_samples,
    losses,
    only,
    pretraining,
    total,
)
from toxfusion.data.batch import Batch


def part_of(batch: Batch, start: int, end: int) -> Batch:
    """Rows start to end."""
    tiles = batch.tiles.select((batch.tiles.bag_index >= start) & (batch.tiles.bag_index < end))
    arrays = {f.name: getattr(batch, f.name)[start:end] for f in fields(Batch)[2:9]}
    labels = {name: values[start:end] for name, values in batch.labels.items()}
    tiles = replace(tiles, offsets=tiles.offsets[start : end + 1])
    return replace(batch, sample_ids=batch.sample_ids[start:end], tiles=tiles, labels=labels, **arrays)


RANKS = ((0, 3), (3, 8))  # unequal on purpose


def draw_as_one_process(patch: pytest.MonkeyPatch, start: int, end: int) -> None:
    """Masks and halves of bags are drawn for all samples, and this rank keeps the rows of its own."""
    whole = eight_samples()
    offsets = whole.tiles.offsets
    own = {end - start: (8, start, end)}
    own[int(offsets[end] - offsets[start])] = (int(offsets[-1]), int(offsets[start]), int(offsets[end]))
    assert len(own) == 2
    draw = torch.rand

    def rand(*shape: Any, generator: torch.Generator) -> Tensor:
        sizes = torch.Size(shape[0] if not isinstance(shape[0], int) else shape)
        n, first, last = own[sizes[0]]
        return draw(n, *sizes[1:], generator=generator)[first:last]

    patch.setattr(torch, "rand", rand)


def loss_and_gradient(settings: dict[str, Any], batch: Batch) -> tuple[Tensor, Tensor]:
    """In float64 and evaluation mode: no dropout, and the mean for the draw of style."""
    of = pretraining(settings).double().eval()
    tiles = batch.tiles.with_features(batch.tiles.features.double())
    loss = total(of, losses(of, replace(batch, tiles=tiles, expression=batch.expression.double())))
    loss.backward()
    used = [torch.zeros_like(p) if p.grad is None else p.grad for p in of.parameters() if p.requires_grad]
    return loss.detach().double(), torch.cat([g.flatten() for g in used])


def one_rank(index: int, folder: str, cases: dict[str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    own, gathered = part_of(eight_samples(), *RANKS[index]), {}
    with pytest.MonkeyPatch.context() as patch:
        draw_as_one_process(patch, *RANKS[index])
        for name, settings in cases.items():
            loss, gradient = loss_and_gradient(settings, own)
            for value in (loss, gradient):
                dist.all_reduce(value)
            gathered[name] = (loss / 2, gradient / 2)
    torch.save(gathered, f"{folder}/rank{index}.pt")
    dist.destroy_process_group()


CASES = {",".join(case): case for case in (*PRESETS, *(only(term) for term in ALONE))}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    cases = {name: config(*case) for name, case in CASES.items()}
    torch.multiprocessing.start_processes(one_rank, args=(str(folder), cases), nprocs=2, start_method=METHOD)
    return [torch.load(folder / f"rank{index}.pt", weights_only=True) for index in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_of_unequal_size_equal_one_process(
    name: str, two_ranks: list[dict[str, tuple[Tensor, Tensor]]]
) -> None:
    """The whole loss, draws included, and the gradient of every parameter."""
    loss, gradient = loss_and_gradient(config(*CASES[name]), eight_samples())
    assert gradient.any()
    for rank in two_ranks:
        torch.testing.assert_close(rank[name][0], loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(rank[name][1], gradient, rtol=1e-5, atol=1e-6)
