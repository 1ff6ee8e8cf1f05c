"""Encoders of tiles: published ones in a table, and the one our contrastive pretraining wrote.

Here: architecture, input and weights. Not here: batches and stores (toxfusion.data.encoding), slides.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import SwiGLUPacked
from timm.models.swin_transformer import checkpoint_filter_fn as swin_layout
from torch import Tensor, nn

from toxfusion.models.lite0 import (
    Lite0Stages,
    WeightsNotInstalledError,
    fold_batch_norm,
    lite0_layout,
    packaged_weights,
)
from toxfusion.models.published_parts import ConchVision, ConvStem, State, conch_layout, dinov2_layout
from toxfusion.models.tile import TileEncoderError, load_tile_encoder
from toxfusion.study.files import sha256_of

OWN = "own"
HUB = "hub"

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))


class EncoderError(ValueError):
    """An encoder is unknown, or its weights are absent, wrong, incomplete or not to be trusted."""


def _as_published(state: State, model: nn.Module) -> State:
    return state


@dataclass(frozen=True)
class EncoderSpec:
    """A published encoder.

    Attributes:
        name: what `encoder=` takes.
        architecture, options: arguments of timm.create_model; or what builds it, from the options.
        hub: its repository on the Hugging Face hub. hub_file: its file there; None = the usual names.
        pooling: class token, average over positions, class token beside the mean of the patch tokens, attention,
            or averages over positions of several stages.
        input_px: side of its input in pixels; tiles of another side are resized, unless `any_size`.
        mean, std: of RGB in 0..1.
        mpp: micrometres per pixel it was trained at; None = natural images.
        dim: length of a feature vector.
        licence: and whether the hub asks for consent first.
        packaged: gives the file of weights that an installed package ships; None = no package ships them.
        layout: renames the published weights where their names are not timm's.
    """

    name: str
    architecture: str | Callable[..., nn.Module]
    hub: str
    pooling: Literal["class", "average", "class+mean", "attention", "stages"]
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]]
    mpp: float | None
    dim: int
    licence: str
    input_px: int = 224
    any_size: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    prefix_tokens: int = 1
    layout: Callable[[State, nn.Module], State] = _as_published
    hub_file: str | None = None
    packaged: Callable[[], Path] | None = None


_GATED = "CC BY-NC-ND 4.0, gated"
_SWIGLU = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
_UNI2 = {
    "patch_size": 14,
    "depth": 24,
    "num_heads": 24,
    "init_values": 1e-5,
    "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2,
    "no_embed_class": True,
    "reg_tokens": 8,
    **_SWIGLU,
}
_VIRCHOW2 = {"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, **_SWIGLU}
_GIGAPATH = {"patch_size": 16, "img_size": 224, "init_values": 1e-5}
_OPTIMUS_OPTIONS = {"img_size": 224, "init_values": 1e-5}
_H_OPTIMUS = "vit_giant_patch14_reg4_dinov2"

_SPECS = (
    EncoderSpec("imagenet", Lite0Stages, "timm/tf_efficientnet_lite0.in1k", "stages", _HALF, None, 1432,
               "Apache-2.0, with the install", any_size=True, layout=lite0_layout, packaged=packaged_weights),
    EncoderSpec("resnet18", "resnet18", "timm/resnet18.a1_in1k", "average", _IMAGENET, None, 512,
               "Apache-2.0", any_size=True),
    EncoderSpec("resnet50", "resnet50", "timm/resnet50.a1_in1k", "average", _IMAGENET, None, 2048,
               "Apache-2.0", any_size=True),
    EncoderSpec("vit_small", "vit_small_patch16_224", "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
               "class", _HALF, None, 384, "Apache-2.0"),
    EncoderSpec("vit_base", "vit_base_patch16_224", "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
               "class", _HALF, None, 768, "Apache-2.0"),
    EncoderSpec("uni", "vit_large_patch16_224", "MahmoodLab/UNI", "class", _IMAGENET, 0.5, 1024, _GATED,
               options={"init_values": 1e-5}),
    EncoderSpec("uni2_h", "vit_giant_patch14_224", "MahmoodLab/UNI2-h", "class", _IMAGENET, 0.5, 1536, _GATED,
               options=_UNI2, prefix_tokens=9),
    EncoderSpec("virchow2", "vit_huge_patch14_224", "paige-ai/Virchow2", "class+mean", _IMAGENET, 0.5, 2560,
               _GATED, options=_VIRCHOW2, prefix_tokens=5),
    EncoderSpec("prov_gigapath", "vit_giant_patch14_dinov2", "prov-gigapath/prov-gigapath", "class", _IMAGENET,
               0.5, 1536, "Apache-2.0, gated", options=_GIGAPATH),
    EncoderSpec("h_optimus_0", _H_OPTIMUS, "bioptimus/H-optimus-0", "class", _OPTIMUS, 0.5, 1536, "Apache-2.0",
               options=_OPTIMUS_OPTIONS, prefix_tokens=5),
    EncoderSpec("h_optimus_1", _H_OPTIMUS, "bioptimus/H-optimus-1", "class", _OPTIMUS, 0.5, 1536, _GATED,
               options=_OPTIMUS_OPTIONS, prefix_tokens=5),
    EncoderSpec("phikon_v2", "vit_large_patch16_224", "owkin/phikon-v2", "class", _IMAGENET, 0.5, 1024,
               "Owkin non-commercial", options={"init_values": 1.0}, layout=dinov2_layout),
    EncoderSpec("conch_v1_5", ConchVision, "MahmoodLab/conchv1_5", "attention", _IMAGENET, 0.5, 768, _GATED,
               input_px=448, layout=conch_layout, hub_file="pytorch_model_vision.bin"),
    EncoderSpec("ctranspath", "swin_tiny_patch4_window7_224", "", "average", _IMAGENET, 1.0, 768, "GPL-3.0",
               options={"embed_layer": ConvStem}, layout=swin_layout),
)  # fmt: skip
ENCODERS: dict[str, EncoderSpec] = {spec.name: spec for spec in _SPECS}


class PublishedEncoder(nn.Module):
    """An encoder of the table: tiles to features [N, dim], with resizing and standardisation inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone: Any = (
            timm.create_model(spec.architecture, pretrained=False, num_classes=0, **spec.options)
            if isinstance(spec.architecture, str)
            else spec.architecture(**spec.options)
        )
        # Convolutions on a CPU are twice as fast with the channels last; transformers do not care.
        self.memory_format = torch.channels_last if spec.any_size else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        mean, std = spec.statistics
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float [N, dim] of tiles uint8 [N, P, P, 3]."""
        x = tiles.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        if not self.spec.any_size and x.shape[-1] != self.spec.input_px:
            size = (self.spec.input_px, self.spec.input_px)
            x = nn.functional.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
        x = ((x - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        if self.spec.pooling != "class+mean":
            features: Tensor = self.backbone(x)
            return features
        tokens = self.backbone.forward_features(x)
        return torch.cat([tokens[:, 0], tokens[:, self.spec.prefix_tokens :].mean(dim=1)], dim=1)


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder ready for use, in eval mode.

    Attributes:
        module: uint8 [N, P, P, 3] -> float [N, dim].
        name: as in the table, or "own".
        dim: length of a feature vector.
        weights: SHA-256 of the weight file, or "random:<seed>".
        trained_on: compounds whose tiles it saw; empty for a published encoder.
    """

    module: nn.Module
    name: str
    dim: int
    weights: str
    trained_on: tuple[str, ...] = ()

    def provenance(self) -> dict[str, Any]:
        """What a store must not mix, as plain JSON values."""
        return {"encoder": self.name, "weights": self.weights, "trained_on": list(self.trained_on)}


def load_encoder(
    name: str,
    *,
    weights: str | None,
    random: bool = False,
    seed: int = 0,
    mpp: float,
    tile_px: int,
    device: torch.device | str = "cpu",
) -> tuple[LoadedEncoder, list[str]]:
    """Load an encoder for tiles of a given size and resolution.

    Args:
        name: one of `ENCODERS`, or "own" for a checkpoint of experiment=tile_encoder.
        weights: a local file (.safetensors, .pth, .bin, .pt, .ckpt), or "hub" for the published file; None where an
            installed package ships them.
        random: random weights instead, drawn from `seed` (a baseline, or a test).
        mpp: micrometres per pixel of the tiles. tile_px: their side in pixels.

    Returns:
        The encoder, and remarks for the user (tiles at another resolution than it was trained at).

    Raises:
        EncoderError: unknown name; no, wrong or incomplete weights; a file that carries code; our own encoder
            at another resolution than it was trained at.
    """
    if name == OWN:
        loaded = _load_own(weights, mpp)
        remarks: list[str] = []
    else:
        spec = _spec_of(name)
        loaded = _load_published(spec, weights, random, seed)
        remarks = _resolution_remarks(spec, mpp, tile_px)
    module = loaded.module.eval().requires_grad_(False)
    if isinstance(module, PublishedEncoder) and isinstance(module.backbone, Lite0Stages):
        fold_batch_norm(module.backbone)
    module.to(device)
    return loaded, remarks


def _spec_of(name: str) -> EncoderSpec:
    if name not in ENCODERS:
        raise EncoderError(f"unknown encoder {name!r}; there are {', '.join([*ENCODERS, OWN])}")
    return ENCODERS[name]


def _load_own(weights: str | None, mpp: float) -> LoadedEncoder:
    if weights is None or weights == HUB:
        raise EncoderError(
            "encoder=own needs weights=FILE, the checkpoint that experiment=tile_encoder wrote"
        )
    path = Path(weights)
    try:
        loaded = load_tile_encoder(path)
    except TileEncoderError as error:
        raise EncoderError(str(error)) from error
    encoder = loaded.encoder
    if not math.isclose(encoder.mpp, mpp, rel_tol=0.1):
        raise EncoderError(
            f"{path} was trained on tiles of {encoder.mpp:g} um/px, these have {mpp:g}: use that grid.mpp"
        )
    return LoadedEncoder(encoder, OWN, encoder.dim, sha256_of(path), tuple(loaded.trained_on))


def _load_published(spec: EncoderSpec, weights: str | None, random: bool, seed: int) -> LoadedEncoder:
    if random:
        if weights is not None:
            raise EncoderError(f"random=true and weights={weights} exclude each other: give one of them")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LoadedEncoder(PublishedEncoder(spec), spec.name, spec.dim, f"random:{seed}")
    if weights is None and spec.packaged is not None:
        try:
            path = spec.packaged()
        except WeightsNotInstalledError as error:
            raise EncoderError(f"{error}; or give weights=FILE") from error
    elif weights is None:
        raise EncoderError(
            f"encoder {spec.name} has no weights: give weights=FILE, weights=hub ({spec.hub or 'not there'}, "
            f"licence {spec.licence}), or random=true for random ones"
        )
    else:
        path = _from_hub(spec) if weights == HUB else Path(weights)
    encoder = PublishedEncoder(spec)
    load_weights(encoder.backbone, path, spec.layout)
    return LoadedEncoder(encoder, spec.name, spec.dim, sha256_of(path))


def _resolution_remarks(spec: EncoderSpec, mpp: float, tile_px: int) -> list[str]:
    remarks = []
    if spec.mpp is not None and not math.isclose(spec.mpp, mpp, rel_tol=0.15):
        remarks.append(f"{spec.name} was trained at {spec.mpp:g} um/px, these tiles have {mpp:g}")
    if not spec.any_size and tile_px != spec.input_px:
        remarks.append(f"{spec.name} takes {spec.input_px} px, these tiles of {tile_px} px are resized")
    return remarks


def load_weights(
    model: nn.Module, path: Path, layout: Callable[[State, nn.Module], State] = _as_published
) -> None:
    """Load weights into a timm model, all of them and nothing else; a classifier in the file is left out.

    Raises:
        EncoderError: no file, a file that is damaged or carries code, or missing, unexpected or misshapen
            tensors, which are listed.
    """
    state = layout(_tensors_of(path), model)
    classifier = tuple(f"{prefix}." for prefix in ("head", "fc", "classifier"))
    expected = model.state_dict()
    state = {key: value for key, value in state.items() if key in expected or not key.startswith(classifier)}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = [
        f"{key} {list(state[key].shape)} for {list(expected[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if state[key].shape != expected[key].shape
    ]
    faults = [
        f"{len(keys)} {kind} ({', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if faults:
        raise EncoderError(f"{path} does not fit this encoder: tensors {'; '.join(faults)}")
    model.load_state_dict(state)


def _tensors_of(path: Path) -> State:
    """The tensors of a weight file; of nested ones the part called state_dict, model or teacher."""
    if not path.is_file():
        raise EncoderError(f"{path}: no such weight file; correct weights=")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{path} carries more than tensors and plain types: it could run code, and is refused. "
            f"Save its state_dict alone and give that file ({' '.join(str(error).split())[:160]})"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise EncoderError(f"{path} is damaged or no weight file: {error}") from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise EncoderError(
            f"{path} is no table of named tensors: save the model's state_dict and give that file"
        )
    return {key.removeprefix("module."): value for key, value in content.items()}


def _from_hub(spec: EncoderSpec) -> Path:
    if not spec.hub:
        raise EncoderError(
            f"the weights of {spec.name} are not on the hub: give weights=FILE (licence {spec.licence})"
        )
    try:
        if spec.hub_file is not None:
            return Path(hf_hub_download(spec.hub, spec.hub_file))
        try:
            return Path(hf_hub_download(spec.hub, "model.safetensors"))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return Path(hf_hub_download(spec.hub, "pytorch_model.bin"))
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        raise EncoderError(
            f"{spec.hub} cannot be fetched from the hub (licence {spec.licence}): "
            f"{' '.join(str(error).split())[:200]}. "
            "Ask for access and log in with `hf auth login`, or give weights=FILE"
        ) from error
