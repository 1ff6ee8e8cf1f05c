"""Using a module without changing it: evaluation mode for a while, and tensors brought to where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule has the mode that it had before.

    Gradients are left as they are: what scores adds ``torch.no_grad``, what explains does not. Never
    ``torch.inference_mode``: what a module keeps from its forward pass there cannot be trained through later.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point type of a module, by the first parameter or buffer of such a type.

    A module without one is of the CPU and float32.
    """
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def placed(values: Tensor, module: nn.Module) -> Tensor:
    """A floating-point tensor where the module lies and in its type; the module stays as it is."""
    device, dtype = place_of(module)
    return values.to(device, dtype)


def as_array(values: Tensor) -> np.ndarray:
    """float64 on the CPU, wherever and in whatever type the values were computed."""
    return values.detach().double().cpu().numpy()
