"""Islands of full precision within mixed-precision training: norms, logits of losses, batch statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run without autocast; casting the inputs is left to `at_least_float32`, in the function."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return wrapped


def at_least_float32(values: Tensor) -> Tensor:
    """float32, or float64 where it is that already."""
    return values if values.dtype == torch.float64 else values.float()
