"""Checkpoints: tensors and plain types, never code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that was made for other data or another network."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of tensors and plain types.

    Raises:
        CheckpointError: the file is missing, broken, or holds anything else, code for instance.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors and plain types, so it is not loaded "
            f"({str(error).splitlines()[0]}); make it again with toxfusion.train"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path}: holds no state_dict; make it again with toxfusion.train")
    return content
