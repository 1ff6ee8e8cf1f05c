"""The page of the demo, on a small virtual study with random features: what it draws, counts and says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.feature_store import DIM
from tests.training.small_runs import trained
from toxfusion.explanation import planted, truth
from toxfusion.report.demo_page import Compared, write_demo_page
from toxfusion.runs.compared import compare_runs
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study
from toxfusion.synthetic import oracle
from toxfusion.synthetic.cohort import CohortConfig
from toxfusion.synthetic.study import StudyConfig, synthesize_study
from toxfusion.training.folder import RunFolder

SIDE, SLIDE_PX = 128, 512


def with_grid(study: Study) -> Study:
    """Random features of every slide, on a grid of tiles."""
    about = {"encoder": "test", "mpp": 0.5, "trained_on": []}
    store = BagStore.create(study.root / "features" / "test", StoreSpec("features", "float16", (DIM,), about))
    corners = np.stack(np.meshgrid(*[np.arange(0, SLIDE_PX, SIDE)] * 2), -1).reshape(-1, 2)
    with store.writer() as writer:
        for i, slide in enumerate(study.slides.index):
            features = np.random.default_rng(i).normal(size=(len(corners), DIM)).astype(np.float16)
            writer.append(slide, features, corners.astype(np.int32), tile_size=float(SIDE), mpp0=0.5)
    return study


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("demo")
    cohort = CohortConfig(
        seed=5, n_compounds=6, times_h=(696.0,), setting="control", no_slide=0, no_expression=0, two_slides=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "POPULATION_COMPOUNDS", 20)
        patch.setattr(oracle, "DILI_POPULATION", 200)
        study = synthesize_study(folder / "study", StudyConfig(cohort, slide_px=SLIDE_PX, jobs=1))
    with_grid(study)
    lesions = "task.lesions=[Necrosis,Hypertrophy]"
    trained(study, folder / "runs" / "slides", "experiment=ablation_wsi_only", lesions)
    return trained(study, folder / "runs" / "full", lesions)


def test_the_page_shows_what_was_planted(full: RunFolder) -> None:
    root = full.root.parent
    while root.name != "runs":
        root = root.parent
    root = root.parent
    compare_runs(
        str(root / "runs"), root / "comparison", reference="full", draws=200, seed=0, interval="percentile"
    )
    compared = Compared.read(root / "comparison", root / "comparison", 6)
    page = write_demo_page(root, full, compared, {"study": root / "study"})
    text = page.read_text()
    assert "labels of 12 compounds" in text
    assert "slides alone" in compared.statements()[0]
    assert "What slides with the finding look like</b> (likeness)" in text
    assert "<th>severity</th>" not in text, "no lesion, though a virtual axis is explained by it"
    for name in ("lesion", "genes", "listened", "mechanisms"):
        assert f'src="figures/{name}.png"' in text
        assert (root / "figures" / f"{name}.png").stat().st_size > 5000
    assert [line["name"] for line in compared.lines()] == [
        "full",
        "ablation_wsi_only",
        "oracle (knows the truth)",
    ]


@pytest.mark.parametrize("still", [True, False])
def test_the_page_says_of_the_gate_what_it_does(full: RunFolder, tmp_path: Path, still: bool) -> None:
    run = planted.load(full)
    weights = [p for name, p in run.network.fusion.gate.named_parameters() if "weight" in name]  # type: ignore[union-attr]
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.zeros_like(weight) if still else torch.randn_like(weight))
    listened = planted.listened_to(run, tmp_path / "listened.png")
    assert listened.gate_is_still == still
    assert 0 <= listened.least_gate <= listened.largest_gate <= 1
    assert (listened.by[["slide", "expression"]] > 0).all(axis=None)


def test_where_lesions_are_seen_is_where_they_were_planted(full: RunFolder) -> None:
    study = Study.open(full.read_config()["data"]["root"])
    seen = truth.seen_in(study, study.sample_ids)
    treated = study.obs.index[~study.obs["is_control"].astype(bool)]
    assert sorted(seen.index) == sorted(treated)
    animals = pd.read_parquet(study.root / "truth" / "animals.parquet").set_index("sample_id").loc[treated]
    lesion = animals[[c for c in animals if c.startswith("slide:")]].max(axis=1) >= 1
    programme = animals[[c for c in animals if c.startswith("activity:")]].max(axis=1) >= 0.3
    assert (seen.isin(["slide", "both"]) == lesion.loc[seen.index]).all()
    assert (seen.isin(["expression", "both"]) == programme.loc[seen.index]).all()
    assert seen.nunique() >= 3


def test_a_mask_that_is_not_there_is_named(full: RunFolder, tmp_path: Path) -> None:
    study = Study.open(full.read_config()["data"]["root"])
    with pytest.raises(truth.TruthError, match="nowhere"):
        truth.lesion_mask(study, "nowhere")
