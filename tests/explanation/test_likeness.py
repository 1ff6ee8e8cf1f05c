"""Likeness of tiles, on a study in which some tiles of slides with a finding carry it, and all tiles differ anyway."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from tests.conftest import tiny_tables
from tests.training.small_runs import trained
from toxfusion.explanation import likeness
from toxfusion.explanation.explaining import ExplainSettings, explain_regions
from toxfusion.explanation.faithfulness import randomised
from toxfusion.explanation.likeness import RIDGE, TileLikeness, fit_likeness
from toxfusion.explanation.pathways import GeneSetSettings
from toxfusion.explanation.regions import tile_places
from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.nulls import permute_labels
from toxfusion.study.store_spec import StoreError, StoreSpec
from toxfusion.study.study import Study, write_study
from toxfusion.training.folder import RunError, RunFolder

DIM, ACROSS, SIDE = 12, 6, 224
TASK = "lesion:Necrosis"
SHOWN = np.array([10, 11, 16, 17])
"""Tiles of the grid that carry the finding, where the animal has it: four that touch."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on slides of 36 tiles: the finding moves two features of `SHOWN`, and three others vary thrice as much."""
    folder = tmp_path_factory.mktemp("likeness")
    tables = tiny_tables()
    treated = ~tables["obs"]["is_control"].to_numpy(bool)
    has = treated & (np.random.default_rng(0).random(len(treated)) < 0.5)
    tables["findings"].loc[:, "Necrosis"] = np.where(has, 2.0, 0.0)
    study = write_study(folder / "study", **tables)
    about = {"encoder": "test", "mpp": 0.5, "trained_on": []}
    store = BagStore.create(study.root / "features" / "test", StoreSpec("features", "float16", (DIM,), about))
    corners = SIDE * np.stack(np.meshgrid(*[np.arange(ACROSS)] * 2), -1).reshape(-1, 2)
    with store.writer() as writer:
        for i, slide in enumerate(study.slides.index):
            tiles = np.random.default_rng(i).normal(size=(len(corners), DIM))
            tiles[:, :3] *= 3
            tiles[:, 3] += tiles[:, 0]
            if has[study.positions([study.slides.at[slide, "sample_id"]])[0]]:
                tiles[np.ix_(SHOWN, [3, 4])] += 4.0
            writer.append(slide, tiles.astype(np.float16), corners.astype(np.int32), tile_size=SIDE, mpp0=0.5)
    return trained(study, folder / "runs", "experiment=ablation_wsi_only", "task.lesions=[Necrosis]")


@pytest.fixture
def settings() -> ExplainSettings:
    return ExplainSettings(
        study=None, tasks="auto", slides="auto", n_slides=0, tiles=1, views_mpp=[], view_px=100, steps=4, draws=1,
        top_k=5, seed=0, neighbours=1, gene_sets=GeneSetSettings(False, (), None, 1, 500, 20, 1),
    )  # fmt: skip


def aurocs(run: LoadedRun, of: TileLikeness) -> list[float]:
    """Of the tiles that carry the finding, slide by slide of the test animals that have it."""
    study, test = run.fold.study, [s for s in run.fold.split.test if run.fold.has_slide(s)]
    having = [s for s in test if study.findings.at[s, "Necrosis"] > 0]
    table = pd.concat([tile_places(run, having), of.scores(run, having)], axis=1)
    assert len(having) > 3
    return [
        float(roc_auc_score(tiles["tile"].isin(SHOWN), tiles[f"likeness:{TASK}"]))
        for _, tiles in table.groupby("slide_id")
    ]


def on(run: LoadedRun, study: Study) -> LoadedRun:
    """The run on its study with other labels."""
    return load_run(run.folder, study, run.fold.split)


def test_it_finds_tiles_that_no_label_points_to(run: LoadedRun) -> None:
    assert np.mean(aurocs(run, fit_likeness(run))) > 0.9


def test_permuted_labels_find_nothing(run: LoadedRun) -> None:
    study, split = run.fold.study, run.fold.split
    means = [
        np.mean(aurocs(run, fit_likeness(on(run, permute_labels(study, split, seed))))) for seed in range(12)
    ]
    assert np.mean(means) == pytest.approx(0.5, abs=0.12)


def test_the_network_has_no_part_in_it(run: LoadedRun) -> None:
    test = list(run.fold.split.test)
    one, other = (fit_likeness(r).scores(r, test) for r in (run, randomised(run, 3)))
    pd.testing.assert_frame_equal(one, other)


def test_weights_are_those_of_a_ridge_regression_of_all_training_tiles(run: LoadedRun) -> None:
    train = [s for s in run.fold.split.train if run.fold.has_slide(s)]
    tiles = run.fold.batch(train, stage="evaluate").tiles
    features = tiles.features.double().numpy()
    label = np.repeat(run.fold.study.findings.loc[train, "Necrosis"] >= 1, tiles.lengths.numpy())
    penalty = RIDGE * features.var(0).mean() * len(features)
    expected = Ridge(alpha=penalty).fit(features, label.astype(float)).coef_
    np.testing.assert_allclose(fit_likeness(run).weights[TASK], expected, rtol=1e-5, atol=1e-9)


def test_labels_of_test_samples_have_no_part_in_it(run: LoadedRun) -> None:
    study = run.fold.study
    findings = study.findings.copy()
    findings.loc[run.fold.split.test] = 2.0 - findings.loc[run.fold.split.test]
    changed = fit_likeness(on(run, replace(study, findings=findings)))
    pd.testing.assert_frame_equal(changed.weights, fit_likeness(run).weights)


def test_labels_beyond_the_budget_have_no_part_in_it(run: LoadedRun) -> None:
    few = replace(run, settings=replace(run.settings, finetune=replace(run.settings.finetune, budget=1)))
    train = [s for s in run.fold.split.train if run.fold.has_slide(s)]
    labels = pd.Series(
        few.labels_learned(train, likeness.FAMILIES)[TASK], run.fold.study.obs.loc[train, "compound"]
    ).dropna()
    assert len(labels) < len(train)
    for value in (0.0, 1.0):
        assert labels.index[labels == value].nunique() == 1
    assert not fit_likeness(few).weights[TASK].equals(fit_likeness(run).weights[TASK])


@pytest.mark.parametrize("label", [0.0, 1.0, np.nan])
def test_a_task_of_one_label_is_left_out_and_said(
    run: LoadedRun, settings: ExplainSettings, tmp_path: Path, label: float
) -> None:
    findings = run.fold.study.findings.copy()
    findings["Necrosis"] = label
    changed = on(run, replace(run.fold.study, findings=findings))
    weights = fit_likeness(changed).weights
    assert TASK not in weights
    assert weights["dili"].abs().max() > 1e-3
    audit = Audit()
    explain_regions(changed, tmp_path, [TASK], settings, audit)
    assert f"likeness:{TASK}" not in pd.read_parquet(tmp_path / "tiles.parquet")
    (dropped,) = [r for r in audit.records if r.kind == "likeness"]
    assert dropped.id == TASK
    assert dropped.reason.endswith("labels of one kind alone")


def test_slides_that_a_run_does_not_read_are_not_missed(
    full: RunFolder, settings: ExplainSettings, tmp_path: Path
) -> None:
    study, split = load_own_study(full)
    made = trained(
        study, tmp_path / "runs", "experiment=ablation_omics_only", "size.finetune_steps=2", "pretrain=none"
    )
    audit = Audit()
    assert explain_regions(load_run(made, study, split), tmp_path / "regions", [TASK], settings, audit) == []
    assert audit.records == []


def test_a_run_with_a_cut_off_store_or_without_its_split_is_refused(run: LoadedRun, tmp_path: Path) -> None:
    own = run.fold.study.root
    (rows,) = (own / "features" / "test" / "segments").glob("*.rows")
    whole = rows.read_bytes()
    try:
        rows.write_bytes(whole[:-1])
        with pytest.raises(StoreError, match=r"features/test: damaged: slide \S+ rows beyond.*repair=true"):
            load_run(run.folder, *load_own_study(run.folder))
    finally:
        rows.write_bytes(whole)
    shutil.copytree(run.folder.root, tmp_path / "run")
    (tmp_path / "run" / "split.json").unlink()
    with pytest.raises(RunError, match=r"split\.json: not there"):
        load_own_study(RunFolder(tmp_path / "run"))


def test_scores_are_means_around_a_tile() -> None:
    corners = np.array([[0, 0], [10, 0], [0, 10], [100, 0]])
    near = likeness._mean_around(np.array([[3.0], [0.0], [0.0], [8.0]]), corners, 10.0)
    beside, diagonal = np.exp(-0.5 / 0.36), np.exp(-1 / 0.36)
    expected = [3 / (1 + 2 * beside), 3 * beside / (1 + beside + diagonal)]
    np.testing.assert_allclose(near[:, 0], [*expected, expected[1], 8.0])


def test_on_another_study_it_is_that_of_the_training_slides_and_without_them_audited(
    run: LoadedRun, settings: ExplainSettings, tmp_path: Path
) -> None:
    own, copy = run.fold.study.root, tmp_path / "copy"
    shutil.copytree(own, copy)
    settings = replace(settings, study=str(copy))
    elsewhere = load_run(run.folder, Study.open(copy), replace(run.fold.split, train=[], valid=[]))
    test = [s for s in run.fold.split.test if run.fold.has_slide(s)]

    def tables(place: Path, audit: Audit) -> pd.DataFrame:
        explain_regions(elsewhere, place, [TASK], settings, audit)
        return pd.read_parquet(place / "tiles.parquet")

    expected = fit_likeness(run).scores(run, test)[f"likeness:{TASK}"]
    np.testing.assert_allclose(tables(tmp_path / "a", Audit())[f"likeness:{TASK}"], expected, rtol=1e-9)
    own.rename(own.with_name("gone"))
    audit = Audit()
    try:
        table = tables(tmp_path / "b", audit)
    finally:
        own.with_name("gone").rename(own)
    assert not [c for c in table if c.startswith("likeness")]
    assert "training slides are not there" in str(audit.records)


def without(study: Study, samples: Sequence[str]) -> Study:
    """The study as it would be prepared without some samples."""
    kept = ~study.obs.index.isin(samples)
    spontaneous, chemistry = (None if t is None else t[kept] for t in (study.spontaneous, study.chemistry))
    return replace(
        study,
        obs=study.obs[kept],
        expression=study.expression[kept],
        findings=study.findings[kept],
        spontaneous=spontaneous,
        chemistry=chemistry,
        slides=study.slides[~study.slides["sample_id"].isin(samples)],
    )


@pytest.mark.parametrize("lacking", ["a training sample", "all training tiles"])
def test_without_training_slides_a_run_is_explained_all_the_same(
    run: LoadedRun, settings: ExplainSettings, tmp_path: Path, lacking: str
) -> None:
    study, train = run.fold.study, list(run.fold.split.train)
    if lacking == "a training sample":
        changed = without(study, train[:1])
    else:
        changed = replace(study, slides=study.slides[~study.slides["sample_id"].isin(train)])
    audit = Audit()
    explain_regions(on(run, changed), tmp_path, [TASK], settings, audit)
    assert "attention" in pd.read_parquet(tmp_path / "tiles.parquet")
    (dropped,) = [r for r in audit.records if r.id == "likeness"]
    assert "no likeness of tiles" in dropped.reason, "the page shows the reason without the id"
    assert str(study.root) in dropped.reason
    assert "again" in dropped.reason or train[0] in dropped.reason


def test_on_another_study_a_broken_one_of_the_run_is_audited(
    run: LoadedRun, settings: ExplainSettings, tmp_path: Path
) -> None:
    own, copy = run.fold.study.root, tmp_path / "copy"
    shutil.copytree(own, copy)
    elsewhere = load_run(run.folder, Study.open(copy), replace(run.fold.split, train=[], valid=[]))
    store = own / "features" / "test" / "store.json"
    whole = store.read_bytes()
    audit = Audit()
    try:
        store.write_bytes(whole[:10])
        explain_regions(elsewhere, tmp_path / "a", [TASK], replace(settings, study=str(copy)), audit)
    finally:
        store.write_bytes(whole)
    assert "training slides are not there" in str(audit.records)
