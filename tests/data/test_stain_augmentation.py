"""Views of tiles: a function of the generator, within range, and stain changed along the stains."""

from __future__ import annotations

import pytest
import torch

from toxfusion.data.stain_augmentation import STAIN_DENSITY, TileAugmentation

STILL = TileAugmentation(
    min_area=1.0,
    max_aspect=1.0,
    blur_probability=0.0,
    stain_scale=0.0,
    stain_shift=0.0,
    brightness=0.0,
    contrast=0.0,
)


def tiles(n: int = 6, px: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (n, px, px, 3), dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_view_is_a_function_of_the_generator() -> None:
    augment = TileAugmentation()
    view = augment(tiles(), seeded())
    assert view.shape == (6, 3, 24, 24)
    assert view.dtype == torch.float32
    assert torch.equal(view, augment(tiles(), seeded()))
    assert not torch.equal(view, augment(tiles(), seeded(1)))
    assert view.min() >= 0
    assert view.max() <= 1


def test_views_of_one_batch_differ_from_tile_to_tile() -> None:
    same = tiles(1).expand(5, -1, -1, -1)
    view = TileAugmentation()(same, seeded())
    assert all(not torch.allclose(view[i], view[0], atol=1e-3) for i in range(1, 5))


def test_with_all_strengths_at_zero_only_the_eight_symmetries_of_the_square_are_left() -> None:
    original = tiles(1).expand(64, -1, -1, -1)
    image = original[0].permute(2, 0, 1) / 255.0
    symmetries = [torch.rot90(m, k, (1, 2)) for m in (image, image.flip(2)) for k in range(4)]
    seen = set()
    for view in STILL(original, seeded()):
        matches = [i for i, s in enumerate(symmetries) if torch.allclose(view, s, atol=1e-4)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(range(8))


def test_stain_jitter_scales_each_stain_on_its_own() -> None:
    """A pixel of pure haematoxylin keeps its direction in optical density; only the amount changes."""
    stains = torch.nn.functional.normalize(torch.tensor(STAIN_DENSITY), dim=1)
    jitter = TileAugmentation(stain_scale=0.3, stain_shift=0.0)
    for stain in stains:
        image = torch.exp(-0.8 * stain)[None, :, None, None].expand(5, 3, 4, 4)
        density = -jitter._stain(image, seeded()).log()[:, :, 0, 0]
        amount = density.norm(dim=1)
        assert torch.allclose(density / amount[:, None], stain.expand(5, 3), atol=1e-4)
        assert amount.std() > 0.01
        assert ((amount > 0.8 * 0.69) & (amount < 0.8 * 1.31)).all()


def test_glass_stays_glass_without_a_shift() -> None:
    white = torch.ones(3, 3, 4, 4)
    assert torch.allclose(TileAugmentation(stain_shift=0.0)._stain(white, seeded()), white, atol=1e-6)


def test_blur_keeps_the_mean_and_takes_away_detail() -> None:
    images = tiles().permute(0, 3, 1, 2) / 255.0
    blurred = TileAugmentation(blur_probability=1.0, blur_sigma=2.0)._blur(images, seeded())
    assert torch.allclose(blurred.mean((2, 3)), images.mean((2, 3)), atol=0.03)
    assert (blurred.var((2, 3)) <= images.var((2, 3)) + 1e-6).all()
    assert blurred.var() < 0.7 * images.var()


def test_tiles_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \[N, P, P, 3\]"):
        TileAugmentation()(torch.zeros(2, 3, 8, 8), seeded())
