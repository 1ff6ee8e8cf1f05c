"""Tile encoders: a timm backbone with its input standardisation, a head for training, and the checkpoint."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from toxfusion.models import lite0
from toxfusion.study.files import replace_file, sha256_of

LITE0_STAGES = "lite0_stages"
CHECKPOINT_SCHEMA = 1
_ABOUT = "toxfusion"


class TileEncoderError(ValueError):
    """A tile encoder's checkpoint or input is not what it must be."""


class TileEncoder(nn.Module):
    """Tiles -> features [N, dim].

    Args:
        backbone: "lite0_stages", the encoder of tile_features=imagenet, or the name of a timm model, whose pooled
            features before the classifier are used.
        pretrained: begin at the ImageNet weights: those that come with the install, or timm's published ones.
        mean, std: of RGB in 0..1; None = what the backbone expects.
        mpp: micrometres per pixel that tiles must have.
        tile_px: side of a tile in pixels.

    Raises:
        TileEncoderError: where timm knows no such backbone.
        WeightsNotInstalledError: where the package that ships the weights is absent.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = LITE0_STAGES,
        *,
        pretrained: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        mpp: float = 1.0,
        tile_px: int = 112,
    ) -> None:
        super().__init__()
        self.backbone_name, self.mpp, self.tile_px = backbone, float(mpp), int(tile_px)
        self.backbone, self.dim, statistics = _backbone(backbone, pretrained)
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mean, std = mean or statistics[0], std or statistics[1]
        self.register_buffer("mean", torch.tensor([float(v) for v in mean]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([float(v) for v in std]).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float [N, dim] of tiles, uint8 [N, P, P, 3] or float [N, 3, P, P] in 0..1."""
        if tiles.dtype == torch.uint8:
            if tiles.dim() != 4 or tiles.shape[-1] != 3:
                raise TileEncoderError(f"uint8 tiles must be [N, P, P, 3], these are {list(tiles.shape)}")
            tiles = tiles.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        elif tiles.dim() != 4 or tiles.shape[1] != 3:
            raise TileEncoderError(f"float tiles must be [N, 3, P, P], these are {list(tiles.shape)}")
        standardised = ((tiles - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.backbone(standardised)


def _backbone(name: str, pretrained: bool) -> tuple[nn.Module, int, tuple[Sequence[float], Sequence[float]]]:
    """A backbone, the width of its features, and mean and deviation of the input it expects."""
    if name == LITE0_STAGES:
        stages = lite0.Lite0Stages()
        if pretrained:
            weights = torch.load(lite0.packaged_weights(), map_location="cpu", weights_only=True)
            named = lite0.lite0_layout(weights, stages)
            stages.load_state_dict({k: v for k, v in named.items() if not k.startswith("classifier.")})
        return stages, stages.dim, (lite0.MEAN, lite0.STD)
    if not timm.is_model(name):
        raise TileEncoderError(
            f"backbone {name!r} is neither {LITE0_STAGES} nor a timm model; timm.list_models() names them"
        )
    model: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    # Of what comes out: a backbone with a layer between pooling and classifier gives other features than it pools.
    return model, int(model.head_hidden_size), (model.pretrained_cfg["mean"], model.pretrained_cfg["std"])


class ContrastiveProjection(nn.Sequential):
    """Two-layer head of contrastive training, [N, dim] -> [N, out].

    Thrown away afterwards (SimCLR, ICML 2020).
    """

    def __init__(self, dim: int, *, hidden: int = 256, out: int = 128) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))


@dataclass(frozen=True)
class LoadedTileEncoder:
    """A trained encoder in eval mode and what is known of its training (``trained_on`` among it).

    Attributes:
        weights: SHA-256 of the checkpoint that was trained, which names its features.
    """

    encoder: TileEncoder
    trained_on: list[str]
    provenance: dict[str, Any]
    weights: str


def save_tile_encoder(
    path: Path, encoder: TileEncoder, *, trained_on: Sequence[str], provenance: dict[str, Any]
) -> None:
    """Write tensors and plain types only; atomic.

    Args:
        trained_on: compounds whose tiles the encoder saw; a fold refuses features of an encoder that saw its
            test ones.
        provenance: plain types: study, fold, seed, steps and the like.
    """
    content = {
        "schema": CHECKPOINT_SCHEMA,
        "backbone": encoder.backbone_name,
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
        "mpp": encoder.mpp,
        "tile_px": encoder.tile_px,
        "trained_on": sorted(str(compound) for compound in trained_on),
        "provenance": provenance,
        "state": {
            name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()
        },
    }
    # By way of memory: a file of torch.save holds its own name, and equal encoders are to have equal bytes.
    packed = io.BytesIO()
    torch.save(content, packed)
    replace_file(path, packed.getvalue())


def share_tile_encoder(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint of `save_tile_encoder` as safetensors, which `load_tile_encoder` reads alike.

    Raises:
        TileEncoderError: as `load_tile_encoder`.
    """
    content = _read_checkpoint(checkpoint)
    about = {key: value for key, value in content.items() if key != "state"}
    about["weights"] = sha256_of(checkpoint)
    replace_file(target, save(content["state"], metadata={_ABOUT: json.dumps(about)}))


def load_tile_encoder(path: Path) -> LoadedTileEncoder:
    """Read what `save_tile_encoder` or `share_tile_encoder` wrote; code in a file is refused, never run.

    Raises:
        TileEncoderError: where the file is missing, damaged, holds more than tensors and plain types, or is
            another kind.
    """
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    else:
        content = {**_read_checkpoint(path), "weights": sha256_of(path)}
    encoder = TileEncoder(
        content["backbone"],
        mean=content["mean"],
        std=content["std"],
        mpp=content["mpp"],
        tile_px=content["tile_px"],
    )
    encoder.backbone.load_state_dict(content["state"])
    return LoadedTileEncoder(encoder.eval(), content["trained_on"], content["provenance"], content["weights"])


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_tile_encoder` wrote."""
    if not path.is_file():
        raise TileEncoderError(f"no tile encoder at {path}; train one with experiment=tile_encoder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise TileEncoderError(
            f"{path} is damaged or holds more than tensors and plain types: {error}"
        ) from error
    if not isinstance(content, dict) or content.get("schema") != CHECKPOINT_SCHEMA:
        raise TileEncoderError(f"{path} is no tile encoder of schema {CHECKPOINT_SCHEMA}")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    """What `share_tile_encoder` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise TileEncoderError(f"{path} is damaged or no file of safetensors: {error}") from error
    if about.get("schema") != CHECKPOINT_SCHEMA:
        raise TileEncoderError(f"{path} is no tile encoder of schema {CHECKPOINT_SCHEMA}")
    return {**about, "state": state}
