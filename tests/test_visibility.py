"""The ceilings of benchmarks/visibility.py, on a study whose tiles, masks and severities are known."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.visibility import BY_MASKS, EXTENT, SEVERITY, Probes
from benchmarks.visibility import main as print_ceilings
from tests.masked_study import ACROSS, LESION, PROGRAMME, masked_study
from toxfusion.synthetic.slide_spec import PHENOTYPES


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Probes:
    return Probes(masked_study(tmp_path_factory.mktemp("masked") / "study"), "test", "default")


def test_what_was_planted_is_read_back_from_field_masks_and_features(probes: Probes) -> None:
    scores = probes.tile_scores()
    assert list(scores) == [LESION]
    tiles = probes.of_tiles(scores).set_index("lesion")
    assert tiles.at[LESION, "AUROC"] > 0.99
    assert tiles.at[LESION, "tiles"] == ACROSS * round(tiles.at[LESION, "tiles"] / ACROSS)
    slides = probes.of_slides(3, scores)
    assert slides.at[LESION, EXTENT] == 1
    assert slides.at[LESION, BY_MASKS] > 0.95
    # Masks say where to look; severities of four compounds do not, and animals differ in another feature by as much.
    assert slides.loc[LESION].iloc[-1] < slides.at[LESION, BY_MASKS]
    activities = probes.of_activities(3, scores)
    assert list(activities.index) == [PROGRAMME]
    assert activities.at[PROGRAMME, SEVERITY] > activities.at[PROGRAMME, EXTENT] > 0.95
    assert activities.at[PROGRAMME, BY_MASKS] > activities.at[PROGRAMME, "features"]


def test_the_truth_alone_says_what_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = masked_study(tmp_path / "study").root
    shutil.rmtree(root / "features")
    shutil.rmtree(root / "truth" / "masks")
    monkeypatch.setattr(sys, "argv", ["visibility", "--study", str(root), "--planted"])
    print_ceilings()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [LESION, "1.00"] in lines
    assert [PROGRAMME, "1.00", "0.99"] in lines


def test_a_tile_is_scored_by_masks_of_other_compounds(probes: Probes, tmp_path: Path) -> None:
    before = probes.tile_scores()[LESION].to_numpy()
    other = Probes(masked_study(tmp_path / "study"), "test", "default")
    own = other.compound == "gammacin"
    other.shares[own] = 0.0
    after = other.tile_scores()[LESION].to_numpy()
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).all()


def test_a_tile_counts_by_the_share_that_lesions_fill(tmp_path: Path) -> None:
    probes = Probes(masked_study(tmp_path / "study"), "test", "default")
    fat, foci = (PHENOTYPES.index(p) for p in ("vacuolization", "infiltration"))
    probes.shares = np.zeros((4, len(PHENOTYPES)))
    probes.shares[:, fat] = (0.0, 0.05, 0.1, 0.0)
    probes.shares[3, foci] = 0.05
    positive, labelled = probes.labels(["vacuolization"])
    assert positive.tolist() == [False, False, True, False]
    assert labelled.tolist() == [True, False, True, True]
    positive, labelled = probes.labels(["vacuolization", "infiltration"])
    assert positive.tolist() == [False, False, True, True]
    assert labelled.tolist() == [True, False, True, True]
