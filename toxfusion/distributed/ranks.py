"""Gathering over ranks with gradient, and rank-zero work. One process is the case of one rank; no Lightning here.

Convention: a loss is computed on every rank so that the *mean over ranks* equals the loss of one process on the joined
batch. DDP averages parameter gradients over ranks, and the backward of ``gather_rows`` sums the gradients that all
ranks send to a row, so the averaged gradient equals the one-process gradient.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_rank_zero() -> bool:
    return rank() == 0


class _Gather(torch.autograd.Function):
    """[B, ...] of each rank -> [ranks, B, ...]; backward sums over ranks what each row is sent.

    Works on every backend: torch's own differentiable gather is deprecated, and its successor wants reduce-scatter.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[rank()]


def gather_rows(own: Tensor) -> Tensor:
    """Rows of all ranks, in order of rank, with gradient for floating tensors.

    Args:
        own: [B_r, ...]; B_r may differ between ranks.

    Returns:
        [sum B_r, ...] on every rank; ``own`` itself when there is one rank.
    """
    n = world_size()
    if n == 1:
        return own
    count = torch.tensor([len(own)], device=own.device)
    counts = [torch.zeros_like(count) for _ in range(n)]
    dist.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    longest = max(sizes)
    as_bool = own.dtype == torch.bool
    send = own.to(torch.uint8) if as_bool else own
    if len(send) < longest:
        send = torch.cat([send, send.new_zeros(longest - len(send), *send.shape[1:])])
    if send.is_floating_point():
        parts = list(_Gather.apply(send))
    else:
        parts = [torch.zeros_like(send) for _ in range(n)]
        dist.all_gather(parts, send.contiguous())
    joined = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return joined.to(torch.bool) if as_bool else joined


def first_row(own: Tensor) -> int:
    """Where this rank's rows start in ``gather_rows(own)``."""
    n = world_size()
    if n == 1:
        return 0
    count = torch.tensor([len(own)], device=own.device)
    counts = [torch.zeros_like(count) for _ in range(n)]
    dist.all_gather(counts, count)
    return int(sum(int(c) for c in counts[: rank()]))


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """Local sum over the global count, scaled so that its mean over ranks is the global mean.

    Args:
        total: scalar with gradient, the sum over this rank's entries.
        count: scalar, the number of entries of this rank; 0 on all ranks gives 0.
    """
    n = world_size()
    everywhere = count.detach().clone().to(torch.float64)
    if n > 1:
        dist.all_reduce(everywhere)
    return total * (n / everywhere.clamp(min=1.0)).to(total.dtype)


def barrier() -> None:
    """Wait for all ranks; nothing to do for one."""
    if world_size() > 1:
        dist.barrier()


def of_rank_zero(value: bool) -> bool:
    """What rank zero has, on every rank."""
    told = [value]
    if world_size() > 1:
        dist.broadcast_object_list(told, src=0)
    return told[0]


class DeviceError(RuntimeError):
    """A configuration asks for GPUs that are not there."""


def check_devices(accelerator: str, devices: int) -> None:
    """Raises DeviceError where this machine shows fewer GPUs than a training asks for."""
    there = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and there < devices:
        raise DeviceError(
            f"trainer.accelerator={accelerator} trainer.devices={devices}: this machine shows {there} GPUs; give "
            "another trainer.devices, or trainer=cpu"
        )


def device_of(accelerator: str) -> torch.device:
    """The device of this rank for Lightning's name of an accelerator; a run of a GPU can be used without one."""
    if accelerator in ("gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def join_ranks(accelerator: str) -> None:
    """Join the process group that a launcher (torchrun, SLURM through torchrun) announced; nothing without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        device = device_of(accelerator)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
