"""The tile encoder and its checkpoint, which never runs code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from toxfusion.models.tile import (
    ContrastiveProjection,
    TileEncoder,
    TileEncoderError,
    load_tile_encoder,
    save_tile_encoder,
)


@pytest.fixture(scope="module")
def encoder() -> TileEncoder:
    torch.manual_seed(0)
    return TileEncoder("resnet10t", mean=(0.7, 0.5, 0.6), std=(0.2, 0.2, 0.1), mpp=0.5, tile_px=32).eval()


def tiles(n: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_bytes_and_floats_of_the_same_tiles_give_the_same_features(encoder: TileEncoder) -> None:
    features = encoder(tiles())
    assert features.shape == (3, encoder.dim)
    assert_close(encoder(tiles().permute(0, 3, 1, 2) / 255.0), features)
    assert_close(encoder(tiles()[:1]), features[:1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mean_and_deviation_are_applied(encoder: TileEncoder) -> None:
    mean_tile = torch.tensor([0.7, 0.5, 0.6]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert_close(encoder(mean_tile), encoder.backbone(torch.zeros(1, 3, 32, 32)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (32, 32, 3)])
def test_bytes_of_another_layout_are_refused(encoder: TileEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(TileEncoderError, match="must be"):
        encoder(torch.zeros(shape, dtype=torch.uint8))


def test_floats_of_another_layout_are_refused(encoder: TileEncoder) -> None:
    with pytest.raises(TileEncoderError, match="must be"):
        encoder(torch.zeros(2, 32, 32, 3))


@pytest.mark.parametrize("backbone", ["regnety_002", "mobilenetv3_small_050"])
@torch.no_grad()
def test_dim_is_the_width_of_what_comes_out(backbone: str) -> None:
    """MobileNets widen their pooled features before the classifier."""
    encoder = TileEncoder(backbone, tile_px=32).eval()
    assert encoder(tiles()).shape == (3, encoder.dim)


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(TileEncoderError, match="nor a timm model"):
        TileEncoder("resnet18_of_nobody")


@torch.no_grad()
def test_a_checkpoint_gives_the_encoder_back(encoder: TileEncoder, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tile.pt"
    save_tile_encoder(path, encoder, trained_on=["b", "a"], provenance={"seed": 1, "study": "s"})
    loaded = load_tile_encoder(path)
    assert loaded.trained_on == ["a", "b"]
    assert loaded.provenance == {"seed": 1, "study": "s"}
    assert (loaded.encoder.mpp, loaded.encoder.tile_px) == (0.5, 32)
    assert torch.equal(loaded.encoder(tiles()), encoder(tiles()))
    assert not loaded.encoder.training
    assert [p.name for p in path.parent.iterdir()] == ["tile.pt"]


class Malice:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("harm",)


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"schema": 1, "state": Malice()}, tmp_path / "bad.pt")
    with pytest.raises(TileEncoderError, match="plain types"):
        load_tile_encoder(tmp_path / "bad.pt")
    assert not (tmp_path / "harm").exists()


def test_damaged_missing_and_foreign_files_are_refused(encoder: TileEncoder, tmp_path: Path) -> None:
    with pytest.raises(TileEncoderError, match="no tile encoder at"):
        load_tile_encoder(tmp_path / "none.pt")
    save_tile_encoder(tmp_path / "cut.pt", encoder, trained_on=[], provenance={})
    content = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(TileEncoderError, match="damaged"):
        load_tile_encoder(tmp_path / "cut.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(TileEncoderError, match="schema"):
        load_tile_encoder(tmp_path / "other.pt")


def test_projection_head() -> None:
    assert ContrastiveProjection(12, hidden=8, out=4)(torch.zeros(2, 12)).shape == (2, 4)
