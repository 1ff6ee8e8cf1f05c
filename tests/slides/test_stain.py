"""Stain normalisation: what tiatoolbox gives for one picture, one estimate an image, and no mixing of stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toxfusion.slides.faults import SlideUnsuitable
from toxfusion.slides.grid import TileGrid
from toxfusion.slides.ledger import Ledger
from toxfusion.slides.pipeline import TileSink, extract_slides
from toxfusion.slides.planning import SlideTask, stain_target
from toxfusion.slides.stain import METHODS, TARGET_FILE, StainError, StainNormaliser, read_target
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreMismatch, StoreSpec

GRID = TileGrid(mpp=1.0, tile_px=32)
EOSIN, NUCLEUS = (226, 150, 190), (96, 62, 142)


def tiles(gain: tuple[float, float, float] = (1.0, 1.0, 1.0), seed: int = 0) -> np.ndarray:
    """Four H&E tiles uint8 [4, 32, 32, 3], the optical density of each channel times a gain: another stain."""
    rng = np.random.default_rng(seed)
    nuclei = rng.random((4, 32, 32, 1)) < 0.25
    pure = (
        np.where(nuclei, NUCLEUS, EOSIN)
        + rng.normal(0, 12, (4, 32, 32, 1))
        + rng.normal(0, 4, (4, 32, 32, 3))
    )
    return (255 * (np.clip(pure, 1, 255) / 255) ** np.array(gain)).astype(np.uint8)


def as_picture(batch: np.ndarray) -> np.ndarray:
    return batch.reshape(-1, 32, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_normalised_by_its_own_stain_is_what_tiatoolbox_gives(method: str) -> None:
    from tiatoolbox.tools.stainnorm import get_normalizer

    target, source = tiles(seed=1), tiles((1.0, 1.4, 1.2))
    ours = StainNormaliser.fit(method, as_picture(target)).of_image("a", source)(source)
    theirs = get_normalizer(method)
    theirs.fit(as_picture(target))
    np.testing.assert_array_equal(ours, theirs.transform(as_picture(source)).reshape(source.shape))


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_another_stain_goes_and_tiles_do_not_depend_on_their_neighbours(method: str) -> None:
    target, other = tiles(seed=1), tiles((1.0, 1.4, 1.2), seed=2)
    normalise = StainNormaliser.fit(method, as_picture(target)).of_image("a", other)
    after = normalise(other)
    assert after.shape == other.shape
    assert after.dtype == np.uint8

    def away(batch: np.ndarray) -> float:
        return float(np.abs(batch.mean(axis=(0, 1, 2)) - target.mean(axis=(0, 1, 2))).max())

    assert away(after) < 0.5 * away(other)
    np.testing.assert_array_equal(normalise(other[2:3]), after[2:3])


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_glass_takes_no_stain_and_does_not_change_that_of_tissue(method: str) -> None:
    normaliser = StainNormaliser.fit(method, as_picture(tiles(seed=1)))
    tissue = tiles((1.0, 1.4, 1.2))
    glass = np.full_like(tissue, 246)
    both = normaliser.of_image("a", np.concatenate([tissue, glass]))
    assert np.abs(both(glass).astype(int) - 246).max() <= 12
    alone = normaliser.of_image("a", tissue)(tissue).astype(int)
    assert np.abs(both(tissue) - alone).mean() < (1e-9 if method == "reinhard" else 12)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("shade", [250, 128])
def test_an_image_of_one_colour_has_no_stain(method: str, shade: int) -> None:
    normaliser = StainNormaliser.fit(method, as_picture(tiles()))
    flat = np.full((4, 32, 32, 3), shade, np.uint8)
    with pytest.raises(
        SlideUnsuitable, match=rf"a\.svs: its {method} stain cannot be estimated from 4 tiles"
    ):
        normaliser.of_image("a.svs", flat)
    with pytest.raises(StainError, match=r"no .* stain can be estimated from the target"):
        StainNormaliser.fit(method, as_picture(flat))


def test_targets_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    for name, message in (("a.txt", "is no picture"), ("b.png", "no such file")):
        with pytest.raises(StainError, match=message):
            read_target(tmp_path / name)
    with pytest.raises(StainError, match="stain=pink"):
        StainNormaliser.fit("pink", as_picture(tiles()))


def test_a_study_is_brought_to_its_first_slide_and_stores_are_not_mixed(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    tasks = [SlideTask(name, write_slide(f"{name}.tif", seed=i)) for i, name in enumerate("ba")]
    (tmp_path / "0.tif").write_bytes(b"no slide")
    tasks.append(SlideTask("0", tmp_path / "0.tif"))
    flat = np.full((400, 400, 3), 246, np.uint8)
    flat[72:328, 72:328] = EOSIN
    Image.fromarray(flat).save(tmp_path / "flat.png")
    tasks.append(SlideTask("flat", tmp_path / "flat.png", 0.5))
    chosen, picture = stain_target(tasks, GRID)
    assert chosen == "a"
    normaliser = StainNormaliser.fit("macenko", picture)
    normaliser.write_target(tmp_path)
    again = StainNormaliser.fit("macenko", read_target(tmp_path / TARGET_FILE))
    assert again.provenance() == normaliser.provenance()
    stores = {}
    for name, stain in (("plain", None), ("stained", normaliser)):
        about = GRID.provenance() | ({} if stain is None else {"stain": stain.provenance()})
        stores[name] = BagStore.create(tmp_path / name, StoreSpec("tiles", "uint8", (32, 32, 3), about))
        ledger = Ledger(tmp_path / name / "extraction.csv")
        previews = tmp_path / f"previews of {name}"
        records = extract_slides(
            tasks, stores[name], GRID, TileSink, jobs=1, ledger=ledger, previews=previews, stain=stain
        )
        ended = {"a": "done", "b": "done", "0": "failed", "flat": "done" if stain is None else "skipped"}
        assert {s: r.state for s, r in records.items()} == ended
        assert {path.stem for path in previews.iterdir()} == {"a", "b", "flat"}
    assert "stain cannot be estimated" in records["flat"].reason
    assert (stores["plain"].coordinates("b") == stores["stained"].coordinates("b")).all()
    assert (stores["plain"].rows("b") != stores["stained"].rows("b")).any()
    with pytest.raises(StoreMismatch, match="stain"):
        BagStore.create(tmp_path / "stained", StoreSpec("tiles", "uint8", (32, 32, 3), GRID.provenance()))
    about = GRID.provenance() | {"stain": StainNormaliser.fit("macenko", as_picture(tiles())).provenance()}
    with pytest.raises(StoreMismatch, match="stain"):
        BagStore.create(tmp_path / "stained", StoreSpec("tiles", "uint8", (32, 32, 3), about))
