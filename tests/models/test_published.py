"""Encoders: the right input, the whole of the right weights, and no code out of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from toxfusion.models.published import (
    ENCODERS,
    EncoderError,
    PublishedEncoder,
    _resolution_remarks,
    load_encoder,
    load_weights,
)
from toxfusion.models.published_parts import AttentionPool, ConchVision, conch_layout, dinov2_layout
from toxfusion.models.tile import TileEncoder, save_tile_encoder

TILES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
#: Parameters in millions as the papers and model cards give them.
MILLIONS = {
    "imagenet": 3.37,
    "resnet18": 11, "resnet50": 23.5, "vit_small": 22, "vit_base": 86, "uni": 303, "uni2_h": 681, "virchow2": 631,
    "prov_gigapath": 1135, "h_optimus_0": 1135, "h_optimus_1": 1135, "phikon_v2": 303, "conch_v1_5": 306,
    "ctranspath": 27.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("resnet18", num_classes=10)


@pytest.mark.parametrize("name", ENCODERS)
def test_each_row_has_the_published_size_and_gives_vectors_of_its_length(name: str) -> None:
    with torch.device("meta"):
        encoder = PublishedEncoder(ENCODERS[name]).eval()
        features = encoder(torch.empty(2, 224, 224, 3, dtype=torch.uint8))
    n_parameters = sum(p.numel() for p in encoder.backbone.parameters())
    assert features.shape == (2, ENCODERS[name].dim)
    assert n_parameters / 1e6 == pytest.approx(MILLIONS[name], rel=0.02)
    assert getattr(encoder.backbone, "num_prefix_tokens", 1) == ENCODERS[name].prefix_tokens


def test_input_is_standardised_with_the_statistics_of_the_row() -> None:
    encoder = PublishedEncoder(ENCODERS["resnet18"])
    encoder.backbone = nn.Flatten()
    seen = encoder(TILES).view(2, 3, 64, 64)
    pixel = TILES[1, 5, 9].float() / 255
    expected = (pixel - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[1, :, 5, 9], expected)


def test_a_transformer_gets_tiles_of_its_own_size() -> None:
    with torch.device("meta"):
        encoder = PublishedEncoder(ENCODERS["vit_small"])
    encoder.backbone = nn.Flatten()
    encoder.mean, encoder.std = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    flat = torch.full((1, 64, 64, 3), 51, dtype=torch.uint8)
    torch.testing.assert_close(encoder(flat), torch.full((1, 3 * 224 * 224), 0.2))


def test_tiles_unlike_those_of_training_are_remarked_upon() -> None:
    assert len(_resolution_remarks(ENCODERS["uni"], 1.0, 112)) == 2
    assert _resolution_remarks(ENCODERS["uni"], 0.5, 224) == []
    assert _resolution_remarks(ENCODERS["resnet50"], 1.0, 112) == []


def test_random_weights_are_the_same_for_a_seed_and_leave_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    one, two, other = (
        load_encoder("resnet18", weights=None, random=True, seed=seed, mpp=1.0, tile_px=64)[0]
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.module(TILES), two.module(TILES))
    assert not torch.equal(one.module(TILES), other.module(TILES))
    assert one.weights == "random:0" != other.weights
    assert not one.module.training


@pytest.mark.parametrize("form", ["plain", "nested", "parallel", "safetensors"])
def test_weights_are_loaded_whole_from_every_usual_form(tmp_path: Path, resnet: nn.Module, form: str) -> None:
    state: dict[str, Any] = resnet.state_dict()
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "parallel":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    loaded, _ = load_encoder("resnet18", weights=str(path), mpp=1.0, tile_px=64)
    resnet.eval()
    x = (TILES.permute(0, 3, 1, 2) / 255 - loaded.module.mean) / loaded.module.std  # type: ignore[operator]
    expected = resnet.global_pool(resnet.forward_features(x))  # type: ignore[operator]
    torch.testing.assert_close(loaded.module(TILES), expected)
    assert loaded.weights == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), r"1 missing \(layer1.0.conv1.weight\)"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"1 unexpected \(extra.weight\)"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), r"of another shape \(conv1.weight"),
        (lambda s: s.clear() or s.update({"x": torch.zeros(1)}), r"120 missing .*, \.\.\.\); 1 unexpected"),
    ],
)
def test_partial_or_foreign_weights_are_refused_by_name(
    tmp_path: Path, resnet: nn.Module, change: Any, message: str
) -> None:
    state = dict(resnet.state_dict())
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(EncoderError, match=message):
        load_encoder("resnet18", weights=str(tmp_path / "a.pth"), mpp=1.0, tile_px=64)


class Carrier:
    """Pickles as a call, as a malicious checkpoint would."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("encoder", ["resnet18", "own"])
def test_a_checkpoint_that_carries_code_is_refused_and_never_run(
    tmp_path: Path, resnet: nn.Module, encoder: str
) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"state_dict": resnet.state_dict(), "callbacks": Carrier(mark)}, path)
    with pytest.raises(EncoderError, match="more than tensors and plain types"):
        load_encoder(encoder, weights=str(path), mpp=1.0, tile_px=64)
    assert not mark.exists()


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "noise.pth").write_bytes(b"\x80\x02 nothing")
    (tmp_path / "noise.safetensors").write_bytes(b"nothing at all")
    (tmp_path / "empty.pth").touch()
    for name in ("list.pth", "noise.pth", "noise.safetensors", "empty.pth", "absent.pth"):
        with pytest.raises(EncoderError, match=name):
            load_encoder("resnet18", weights=str(tmp_path / name), mpp=1.0, tile_px=64)


def test_an_encoder_without_weights_is_never_random_by_accident() -> None:
    with pytest.raises(EncoderError, match="random=true"):
        load_encoder("uni", weights=None, mpp=0.5, tile_px=224)
    with pytest.raises(EncoderError, match="exclude each other"):
        load_encoder("resnet18", weights="a.pth", random=True, mpp=0.5, tile_px=224)
    with pytest.raises(EncoderError, match="there are imagenet, resnet18, resnet50"):
        load_encoder("resnet", weights=None, mpp=0.5, tile_px=224)
    with pytest.raises(EncoderError, match="not on the hub"):
        load_encoder("ctranspath", weights="hub", mpp=1.0, tile_px=224)


def test_our_own_encoder_keeps_what_it_was_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder = TileEncoder("resnet18", mpp=1.0, tile_px=64).eval()
    path = tmp_path / "own.ckpt"
    save_tile_encoder(path, encoder, trained_on=["valproate", "aspirin"], provenance={"fold": 0})
    loaded, remarks = load_encoder("own", weights=str(path), mpp=1.0, tile_px=64)
    assert loaded.provenance()["trained_on"] == ["aspirin", "valproate"]
    assert loaded.weights == hashlib.sha256(path.read_bytes()).hexdigest()
    assert remarks == []
    torch.testing.assert_close(loaded.module(TILES), encoder(TILES))
    with pytest.raises(EncoderError, match=r"trained on tiles of 1 um/px, these have 0\.5"):
        load_encoder("own", weights=str(path), mpp=0.5, tile_px=64)
    with pytest.raises(EncoderError, match="needs weights=FILE"):
        load_encoder("own", weights=None, mpp=1.0, tile_px=64)


def test_dinov2_weights_of_transformers_give_the_same_features_in_timm(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=4, image_size=32, patch_size=8,
        layerscale_value=0.7,
    )  # fmt: skip
    theirs = transformers.Dinov2Model(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, init_values=1.0
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    load_weights(ours, tmp_path / "a.pth", dinov2_layout)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x).last_hidden_state[:, 0], rtol=1e-4, atol=1e-4)


def test_conch_has_the_published_tensors() -> None:
    with torch.device("meta"):
        state = PublishedEncoder(ENCODERS["conch_v1_5"]).backbone.state_dict()
    block = {
        "norm1.weight": [1024], "norm1.bias": [1024], "attn.qkv.weight": [3072, 1024], "attn.qkv.bias": [3072],
        "attn.proj.weight": [1024, 1024], "attn.proj.bias": [1024], "ls1.gamma": [1024], "norm2.weight": [1024],
        "norm2.bias": [1024], "mlp.fc1.weight": [4096, 1024], "mlp.fc1.bias": [4096], "mlp.fc2.weight": [1024, 4096],
        "mlp.fc2.bias": [1024], "ls2.gamma": [1024],
    }  # fmt: skip
    expected = {f"trunk.blocks.{i}.{key}": shape for i in range(24) for key, shape in block.items()}
    expected |= {
        "trunk.cls_token": [1, 1, 1024], "trunk.pos_embed": [1, 785, 1024],
        "trunk.patch_embed.proj.weight": [1024, 3, 16, 16], "trunk.patch_embed.proj.bias": [1024],
        "trunk.norm.weight": [1024], "trunk.norm.bias": [1024],
        "attn_pool_contrast.query": [1, 768], "attn_pool_contrast.ln_k.weight": [1024],
        "attn_pool_contrast.ln_k.bias": [1024], "attn_pool_contrast.ln_q.weight": [768],
        "attn_pool_contrast.ln_q.bias": [768], "attn_pool_contrast.to_q.weight": [768, 768],
        "attn_pool_contrast.to_kv.weight": [1536, 1024], "attn_pool_contrast.to_out.weight": [768, 768],
        "ln_contrast.weight": [768], "ln_contrast.bias": [768],
    }  # fmt: skip
    assert {key: list(tensor.shape) for key, tensor in state.items()} == expected


def test_conch_loads_positions_of_another_grid_and_nothing_else_amiss(tmp_path: Path) -> None:
    small = {"embed_dim": 32, "depth": 2, "num_heads": 4}
    torch.manual_seed(5)
    published = ConchVision(dim=16, heads=2, img_size=224, **small)
    model = ConchVision(dim=16, heads=2, img_size=448, **small).eval()
    torch.save(published.state_dict(), tmp_path / "a.bin")
    load_weights(model, tmp_path / "a.bin", conch_layout)
    theirs, ours = published.trunk.pos_embed, model.trunk.pos_embed
    assert ours.shape == (1, 785, 32)
    torch.testing.assert_close(ours[:, 0], theirs[:, 0])
    torch.testing.assert_close(model.ln_contrast.weight, published.ln_contrast.weight)
    # A linear grid keeps the slope of the published scale, away from its edges.
    ramp = published.state_dict()
    ramp["trunk.pos_embed"] = torch.cat(
        [theirs[:, :1].detach(), torch.arange(14.0).repeat(14)[None, :, None].expand(1, 196, 32)], dim=1
    )
    positions = conch_layout(ramp, model)["trunk.pos_embed"][0, 1:, 0].unflatten(0, (28, 28))[10]
    assert float(positions[6:23].diff().mean()) == pytest.approx(14 / 28.1, abs=5e-4)
    with torch.inference_mode():
        assert model(torch.randn(2, 3, 448, 448)).shape == (2, 16)
    state = published.state_dict()
    del state["attn_pool_contrast.to_kv.weight"]
    torch.save(state, tmp_path / "b.bin")
    with pytest.raises(EncoderError, match=r"1 missing \(attn_pool_contrast.to_kv.weight\)"):
        load_weights(model, tmp_path / "b.bin", conch_layout)


def test_attention_pooling_is_a_weighted_mean_of_the_values() -> None:
    torch.manual_seed(6)
    pool = AttentionPool(width=12, dim=8, heads=2)
    tokens = torch.randn(3, 5, 12)
    normed = nn.functional.layer_norm(tokens, (12,))
    keys, values = (normed @ pool.to_kv.weight.T).split(8, dim=-1)
    query = (nn.functional.layer_norm(pool.query, (8,)) @ pool.to_q.weight.T)[0]
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(keys[..., head] @ query[head] / 4**0.5, dim=1)
        parts.append((weights[..., None] * values[..., head]).sum(dim=1))
    torch.testing.assert_close(pool(tokens), torch.cat(parts, dim=1) @ pool.to_out.weight.T)
