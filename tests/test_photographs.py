"""Photographs with captions: what is cut off and refused, and what the probe of benchmarks/photographs.py finds."""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import histology
from benchmarks.histology import Image, Photograph, PhotographError, read_photographs
from benchmarks.markdown import write_between_marks
from benchmarks.photographs import (
    MEAN,
    REST,
    aurocs,
    encoder_of,
    from_virtual_slides,
    group_of,
    histograms,
    out_of_fold,
    pooled,
    probes_of,
    protocol_of,
    random_encoder,
    tiles_of,
)
from benchmarks.photographs import main as print_table
from benchmarks.visibility import Probes
from tests.masked_study import SHIFT, masked_study
from toxfusion.evaluation.bootstrap import interval
from toxfusion.models.published import load_encoder
from toxfusion.models.tile import TileEncoder, TileEncoderError, save_tile_encoder

PINK, BLUER = (217, 155, 203), (200, 150, 215)
LIPID, ATROPHY = "Hepatocyte, periportal, lipid accumulation", "Hepatocyte, centrilobular, atrophy"
MPP, TILE_PX = 3.6, 96


def printed(rng: np.random.Generator, colour: tuple[int, int, int] = PINK) -> Image:
    """A printed picture, RGB: cells of 4 px in a colour that varies from picture to picture."""
    cells = rng.normal(colour, 14, (100, 125, 3)) + rng.normal(0, 4, 3)
    return np.asarray(cells.repeat(4, axis=0).repeat(4, axis=1).clip(0, 255), np.uint8)


def caption(folder: Path, captions: list[tuple[str, str, str]]) -> None:
    """captions.csv of (file, finding, objective)."""
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "organ", "finding", "grade", "objective"))
        table.writerows((name, "liver", finding, "1", objective) for name, finding, objective in captions)


def picture(folder: Path, name: str, rgb: Image) -> None:
    assert cv2.imwrite(str(folder / name), rgb[..., ::-1])


def two_kinds(folder: Path, change: str) -> dict[str, Photograph]:
    """16 photographs, of two findings, that differ in their ``colour``, their ``border`` or in ``nothing``."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    captions = []
    for k in range(16):
        lipid = k % 2 == 0
        rgb = printed(rng, BLUER if lipid and change == "colour" else PINK)
        if lipid and change == "border":
            for part in (np.s_[:8], np.s_[:, :14], np.s_[:, 486:], np.s_[326:]):
                rgb[part] = (60, 90, 200)
        picture(folder, f"P{k:02d}.png", rgb)
        captions.append((f"P{k:02d}.png", LIPID if lipid else ATROPHY, "10"))
    caption(folder, captions)
    photographs, left_out = read_photographs(folder)
    assert len(photographs) == 16
    assert not left_out
    return photographs


def colour_auroc(photographs: dict[str, Photograph]) -> tuple[float, float, float]:
    """AUROC of lipid accumulation by colour histograms, with its interval."""
    protocol = protocol_of(photographs, repeats=2)
    tiles = [tiles_of(photographs[name], MPP, TILE_PX) for name in protocol.names]
    auroc = interval(
        aurocs(pooled(map(histograms, tiles)), protocol)["lipid accumulation"], protocol.resampling
    )
    return auroc.value, auroc.low, auroc.high


def test_a_planted_colour_is_found_by_histograms(tmp_path: Path) -> None:
    assert colour_auroc(two_kinds(tmp_path / "p", "colour"))[0] > 0.95


def test_a_label_in_the_border_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame, scale and caption tell the finding of a whole picture, and nothing of what is read of it."""
    read = two_kinds(tmp_path / "labelled", "border")
    plain = two_kinds(tmp_path / "plain", "nothing")
    assert all((read[name].rgb == plain[name].rgb).all() for name in plain)
    _, low, high = colour_auroc(read)
    assert low < 0.5 < high
    monkeypatch.setattr(histology, "FRAME", (slice(None), slice(None)))
    assert colour_auroc(two_kinds(tmp_path / "whole", "border"))[0] > 0.95


def test_tiles_cover_the_picture_at_the_resolution_that_is_asked_for() -> None:
    rgb = printed(np.random.default_rng(1))[histology.FRAME]
    at_40 = Photograph("P", rgb, 0.885, LIPID, "1", "40")
    tiles = tiles_of(at_40, 1.0, 112)
    # 318 x 472 px of 0.885 um are 281 x 418 px of 1 um: 3 x 4 tiles.
    assert tiles.shape == (12, 112, 112, 3)
    shrunk = cv2.resize(rgb, (418, 281), interpolation=cv2.INTER_AREA)
    assert (tiles[0] == shrunk[:112, :112]).all()
    assert (tiles[-1] == shrunk[-112:, -112:]).all()
    half_glass = rgb.copy()
    half_glass[:, 240:] = 250
    assert 0 < len(tiles_of(Photograph("P", half_glass, 0.885, LIPID, "1", "40"), 1.0, 112)) < 12
    assert len(tiles_of(Photograph("P", np.full_like(rgb, 250), 0.885, LIPID, "1", "40"), 1.0, 112)) == 0
    with pytest.raises(
        PhotographError, match=r"P: 418 x 281 px at 1 um per pixel, less than a tile of 300 px"
    ):
        tiles_of(at_40, 1.0, 300)


def test_histograms_are_shares_of_each_channel() -> None:
    grey = np.full((1, 8, 8, 3), 128, np.uint8)
    grey[0, :2] = 255
    shares = histograms(grey)[0].reshape(3, 32)
    # Of 8-bit L*a*b*: grey 128 is (137, 128, 128), white (255, 128, 128).
    assert shares[0, 137 // 8] == pytest.approx(0.75)
    assert shares[0, 31] == pytest.approx(0.25)
    assert shares[1, 16] == shares[2, 16] == 1
    assert shares.sum() == pytest.approx(3)


def test_groups_of_captions() -> None:
    assert group_of("Capsule, inflammatory cell infiltrate, mixed cell") == "inflammatory infiltrate"
    assert group_of("Hepatocyte, nonzonal, Degeneration") == "necrosis, degeneration"
    assert group_of("Autolysis") == REST
    with pytest.raises(PhotographError, match=r"necrosis, degeneration and lipid accumulation"):
        group_of("Hepatocyte, necrosis with lipid accumulation")


def test_a_small_group_is_in_the_rest_and_too_few_photographs_are_refused() -> None:
    def some(**findings: int) -> dict[str, Photograph]:
        words = {"lipid": LIPID, "glycogen": "Hepatocyte, glycogen accumulation", "atrophy": ATROPHY}
        named = [words[key] for key, n in findings.items() for _ in range(n)]
        rgb = np.zeros((1, 1, 3), np.uint8)
        return {f"P{k}": Photograph(f"P{k}", rgb, 1.8, text, "1", "20") for k, text in enumerate(named)}

    protocol = protocol_of(some(lipid=5, glycogen=3, atrophy=4), repeats=3)
    assert protocol.told == ["lipid accumulation"]
    assert protocol.counts["glycogen accumulation"] == 3
    assert (protocol.groups == REST).sum() == 7
    # Every fold tests one photograph or two of the group, every photograph once a repeat.
    lipid = protocol.groups == "lipid accumulation"
    assert all(sorted(np.bincount(f[lipid], minlength=4)) == [1, 1, 1, 2] for f in protocol.folds)
    with pytest.raises(PhotographError, match=r"3 photographs, by group .* a group needs 4"):
        protocol_of(some(lipid=3), repeats=1)
    with pytest.raises(PhotographError, match="as many outside of it"):
        protocol_of(some(lipid=8, atrophy=3), repeats=1)


def test_scores_come_from_models_that_did_not_see_the_photograph() -> None:
    """A tested row and its label change no score of the others in its fold."""
    rng = np.random.default_rng(0)
    values, label = rng.normal(size=(20, 30)), np.arange(20) % 2 == 0
    folds = (np.arange(20) // 2 % 4)[None]
    before = out_of_fold(values, label, folds)
    values[0] += 100
    after = out_of_fold(values, label, folds)
    beside = (folds[0] == folds[0, 0]) & (np.arange(20) != 0)
    np.testing.assert_array_equal(before[0, beside], after[0, beside])
    assert (before[0, folds[0] != folds[0, 0]] != after[0, folds[0] != folds[0, 0]]).all()


def test_random_weights_are_a_function_of_the_seed() -> None:
    encoder = TileEncoder("resnet10t", mean=(0.7, 0.5, 0.6), std=(0.2, 0.2, 0.1), mpp=MPP, tile_px=32)
    state = torch.random.get_rng_state()
    first, again, other = (random_encoder(encoder, seed) for seed in (0, 0, 1))
    assert (torch.random.get_rng_state() == state).all()
    tiles = torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(first(tiles), again(tiles))
    assert not torch.equal(first(tiles), other(tiles))
    assert torch.equal(first.mean, encoder.mean)
    assert torch.equal(first.std, encoder.std)


def bags_of_two_kinds(shift: float) -> tuple[list[np.ndarray], list[str]]:
    """Features [5, 6] of 24 photographs' tiles and their objectives; those of lipid, every other one, have the shift.

    The objective moves feature 0 of all, and more.
    """
    rng = np.random.default_rng(3)
    objectives = [("10", "20")[k // 2 % 2] for k in range(24)]
    bags = []
    for k, objective in enumerate(objectives):
        bag = rng.normal(size=(5, 6))
        bag[:, 0] += 3 * SHIFT * (objective == "10") + shift * (k % 2 == 0)
        bags.append(bag)
    return bags, objectives


def test_a_probe_of_virtual_lesions_is_asked_of_photographs_it_never_saw(tmp_path: Path) -> None:
    rgb = np.zeros((1, 1, 3), np.uint8)
    findings = [LIPID if k % 2 == 0 else "Capsule, inflammatory cell infiltrate" for k in range(24)]
    photographs = {
        f"P{k:02d}": Photograph(f"P{k:02d}", rgb, 1.8, f, "1", "20") for k, f in enumerate(findings)
    }
    protocol = protocol_of(photographs, repeats=1)
    probes = Probes(masked_study(tmp_path / "study"), "test", "default")

    def asked(shift: float) -> dict[str, dict[str, str]]:
        bags, objectives = bags_of_two_kinds(shift)
        table = from_virtual_slides(probes, bags, objectives, protocol, permutations=20)
        return {name.removeprefix("tiny: "): cells for name, cells in table.items()}

    shifted = asked(SHIFT)
    # The study has no infiltrate to learn from.
    assert all(set(cells) <= {"lipid accumulation", MEAN} for cells in shifted.values())
    assert shifted["tiles that show it"]["lipid accumulation"] == "88"
    assert shifted["probe, pairs at one objective"]["lipid accumulation"] == "1.00 [1.00, 1.00]"
    assert 0.5 < float(shifted["probe"]["lipid accumulation"].split()[0]) < 0.9
    low, high = map(
        float, shifted["labels dealt anew 20 times, 5 to 95 %"]["lipid accumulation"].split(" to ")
    )
    assert low < 0.5 < high
    low, high = map(
        float, asked(0.0)["probe, pairs at one objective"][MEAN].split("[")[1].strip("]").split(", ")
    )
    assert low < 0.5 < high
    with pytest.raises(TileEncoderError, match=r"photographs are of length 7, those of .*study of 6"):
        from_virtual_slides(probes, [np.zeros((2, 7))] * 24, ["20"] * 24, protocol)


def test_the_frozen_encoder_reads_photographs_as_extraction_reads_slides() -> None:
    loaded = encoder_of("imagenet")
    stored, _ = load_encoder("imagenet", weights=None, mpp=1.0, tile_px=112)
    assert loaded.weights == stored.weights
    tiles = torch.randint(
        0, 255, (2, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encoder(tiles), stored.module(tiles), rtol=1e-3, atol=1e-3)


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    masked_study(tmp_path / "study", weights="other")
    with pytest.raises(
        TileEncoderError, match=r"'test' of .*study are not of this encoder: weights 'other' in"
    ):
        probes_of(tmp_path / "study", "test", encoder_of("imagenet"))


def test_the_command_prints_a_table_and_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "p"
    names = sorted(two_kinds(folder, "colour"))
    rng = np.random.default_rng(2)
    for name in ("Q1", "Q2", "Q3", "Q4"):
        picture(
            folder, f"{name}.png", np.full((400, 500, 3), 250, np.uint8) if name == "Q4" else printed(rng)
        )
    captions = [(f"{name}.png", LIPID if k % 2 == 0 else ATROPHY, "10") for k, name in enumerate(names)]
    caption(folder, [*captions, ("Q1.png", "", "10"), ("Q2.png", LIPID, "15"), ("Q4.png", ATROPHY, "10")])
    about = {"fold": 0, "study": "s", "settings": {"backbone": "resnet10t", "steps": 0}}
    torch.manual_seed(0)
    encoder = TileEncoder("resnet10t", mpp=MPP, tile_px=TILE_PX).eval()
    save_tile_encoder(tmp_path / "e.ckpt", encoder, trained_on=[], provenance=about)
    options = [
        "--encoder",
        str(tmp_path / "e.ckpt"),
        "--repeats",
        "1",
        "--random-seeds",
        "2",
        "--permutations",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", ["photographs", "--photographs", str(folder), *options])
    print_table()
    text = capsys.readouterr().out
    cells = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")
        for line in text.splitlines()
        if "|" in line
    }
    assert cells["features"] == ["features", "columns", "lipid accumulation (8)", MEAN]
    assert cells["tile encoder"][1] == str(2 * encoder.dim)
    assert cells["colour histograms"][1:3] == ["192", "1.00 [1.00, 1.00]"]
    # All photographs have one objective: it says nothing, and every pair is a tie.
    assert cells["objective alone"][1:3] == ["1", "0.50 [0.50, 0.50]"]
    low, high = map(float, cells["encoder, photographs permuted 3 times: 5 to 95 %"][2].split(" to "))
    assert 0 <= low <= high < 1
    assert cells["encoder minus colour"][-1].endswith("]")
    assert "the same network, random weights: mean of 2 seeds" in cells
    assert "- 16 photographs. 8 are in no group" in text
    left_out = next(line for line in text.splitlines() if line.startswith("- Left out"))
    assert "Q1.png: no finding" in left_out
    assert "Q2.png: objective '15' is none of 10, 20, 25, 32, 40" in left_out
    assert "Q3.png: no row in captions.csv" in left_out
    assert "Q4: no tile has enough tissue" in left_out
    assert "learned from" not in text
    weights = hashlib.sha256((tmp_path / "e.ckpt").read_bytes()).hexdigest()
    masked_study(tmp_path / "study", encoder.dim, weights=weights, mpp=MPP, tile_px=TILE_PX)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--studies", str(tmp_path / "study"), "--features", "test"])
    print_table()
    text = capsys.readouterr().out
    assert "--studies <study> --features test --write`" in text
    assert "| tiny: tiles that show it | 88 |" in text
    (tmp_path / "e.ckpt").unlink()
    with pytest.raises(SystemExit, match=r"error: no tile encoder at .*e\.ckpt"):
        print_table()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", r"captions\.csv, column file: 'A\.png' is not in"),
        ("damaged", r"A\.png: no picture that can be read"),
        ("small", r"A\.png: 300 x 200 px; frame, scale and caption"),
        ("twice", r"captions\.csv, column file: 'A\.png' is there twice"),
        ("column", r"captions\.csv: no column objective; there are \['file', 'finding', 'grade'\]"),
        ("table", r"captions\.csv: no such file"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, fault: str, says: str) -> None:
    caption(tmp_path, [("A.png", LIPID, "20")] * (2 if fault == "twice" else 1))
    rgb = printed(np.random.default_rng(0))
    picture(tmp_path, "A.png", rgb[:200, :300] if fault == "small" else rgb)
    if fault == "missing":
        (tmp_path / "A.png").unlink()
    elif fault == "damaged":
        (tmp_path / "A.png").write_bytes(b"no picture")
    elif fault == "column":
        (tmp_path / "captions.csv").write_text("file,finding,grade\nA.png,x,1\n")
    elif fault == "table":
        (tmp_path / "captions.csv").unlink()
    with pytest.raises(PhotographError, match=says):
        read_photographs(tmp_path)


def test_a_table_is_written_between_its_marks_alone() -> None:
    with pytest.raises(SystemExit, match=r"photographs\.md: no <!-- nothing: begin -->"):
        write_between_marks("photographs.md", "nothing", "text")
