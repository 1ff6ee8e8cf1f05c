"""Fold data: what is fitted on training samples, missing modalities, and the refusal of leaking encoders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.feature_store import DIM, write_features
from toxfusion.data import tile_reading
from toxfusion.data.batch import Batch, StoredBatch
from toxfusion.data.datamodule import (
    FoldData,
    LeakError,
    PositionedDataModule,
    StudyDataModule,
    even_chunks_of_rank,
)
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.sampling import SampleStream, choose_tiles
from toxfusion.data.tile_scaling import TooFewSamples, fit_tile_scaler, tile_references
from toxfusion.objectives.masked import TilePlaces
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.split import Split, SplitError
from toxfusion.study.splits import CompoundKFold, Predefined
from toxfusion.study.study import Study
from toxfusion.tasks.dili import Dili
from toxfusion.tasks.injury import Injury
from toxfusion.tasks.lesions import Lesions
from toxfusion.tasks.severity import Severity
from toxfusion.tasks.task_set import TaskSet


def make_fold(
    study: Study, store: BagStore | None, tile_reference: str = "none", split: Split | None = None
) -> FoldData:
    split = split or CompoundKFold(n_folds=3, fold=0, valid_fraction=0.3, seed=0)(study)
    lesions = Lesions("auto", min_animals=3, min_compounds=2)
    tasks = TaskSet([Dili(), Injury(), lesions, Severity()]).fit(study, split.train, Audit())
    labels = tasks.labels(study, study.sample_ids)
    scaler = None if store is None else fit_tile_scaler(study, store, split.train, tile_reference)
    profiled = [s for s in split.train if study.has_expression[study.positions([s])[0]]]
    transform = ExpressionTransform.fit(study, profiled, n_genes=20, reference="none", clip=8.0)
    return FoldData(study, split, labels, store=store, expression=transform, scaler=scaler, seed=0)


@pytest.fixture
def fold(own_tiny_study: Study) -> FoldData:
    return make_fold(own_tiny_study, write_features(own_tiny_study))


def test_training_tiles_have_mean_zero_and_deviation_one(fold: FoldData) -> None:
    tiles = fold.batch(fold.split.train, stage="evaluate").tiles.features
    torch.testing.assert_close(tiles.mean(0), torch.zeros(DIM), atol=1e-3, rtol=0)
    torch.testing.assert_close(tiles.std(0, correction=0), torch.ones(DIM), atol=1e-3, rtol=0)


def test_what_is_fitted_does_not_change_with_test_samples(own_tiny_study: Study) -> None:
    store = write_features(own_tiny_study)
    fold = make_fold(own_tiny_study, store)
    less = [s for s in fold.split.train if s not in fold.split.test]
    again = fit_tile_scaler(own_tiny_study, store, less, "none")
    assert np.array_equal(again.mean, fold.scaler.mean)
    other = fit_tile_scaler(own_tiny_study, store, [*fold.split.train, *fold.split.test], "none")
    assert not np.allclose(other.mean, fold.scaler.mean)


def test_a_treated_sample_is_compared_with_its_controls_and_a_control_with_the_others(
    own_tiny_study: Study,
) -> None:
    store = write_features(own_tiny_study)
    fold = make_fold(own_tiny_study, store, "matched_controls")
    obs = own_tiny_study.obs

    def mean_of(sample: str) -> np.ndarray:
        slides = own_tiny_study.slides_of(sample)
        return np.concatenate([np.asarray(store.rows(s), np.float64) for s in slides]).mean(0)

    def shown(sample: str) -> np.ndarray:
        bag = fold.batch([sample], stage="evaluate").tiles.features.double().numpy()
        return bag.mean(0) * fold.scaler.scale + fold.scaler.mean

    seen = set()
    for sample in obs.index[[bool(own_tiny_study.slides_of(s)) for s in obs.index]]:
        same = obs.index[(obs["control_group"] == obs.at[sample, "control_group"]) & obs["is_control"]]
        others = [mean_of(c) for c in same if c != sample and own_tiny_study.slides_of(c)]
        expected = np.mean(others, axis=0) if others else fold.scaler.fallback
        np.testing.assert_allclose(shown(sample), mean_of(sample) - expected, atol=0.02)
        seen.add((bool(obs.at[sample, "is_control"]), bool(others)))
    assert {(True, True), (False, True)} <= seen


def test_missing_modalities_are_flagged_and_empty(fold: FoldData) -> None:
    ids = fold.sample_ids
    batch = fold.batch(ids, stage="evaluate")
    study = fold.study
    assert batch.has_slide.tolist() == [bool(study.slides_of(s)) for s in ids]
    assert batch.has_expression.tolist() == study.has_expression.tolist()
    assert not batch.has_slide.all()
    assert not batch.has_expression.all()
    assert (batch.tiles.lengths[~batch.has_slide] == 0).all()
    assert torch.isfinite(batch.expression).all()
    assert (batch.expression[~batch.has_expression] == 0).all()


def test_a_sample_with_two_slides_has_the_tiles_of_both(fold: FoldData) -> None:
    double = next(s for s in fold.sample_ids if len(fold.study.slides_of(s)) == 2)
    batch = fold.batch([double], stage="evaluate")
    assert int(batch.tiles.lengths[0]) == sum(fold.store.n_rows(s) for s in fold.study.slides_of(double))
    assert float(batch.tiles.coordinates[:, 0].max()) > 1e5


def test_samples_without_any_modality_are_audited(own_tiny_study: Study) -> None:
    fold = make_fold(own_tiny_study, None)
    audit = Audit()
    kept = fold.usable(fold.sample_ids, audit)
    lost = set(fold.sample_ids) - set(kept)
    assert lost == {
        s for s, there in zip(fold.sample_ids, fold.study.has_expression, strict=True) if not there
    }
    assert {r.id for r in audit.records} == lost


def test_an_encoder_that_saw_a_test_compound_is_refused(own_tiny_study: Study) -> None:
    split = CompoundKFold(n_folds=3, fold=0, valid_fraction=0.3, seed=0)(own_tiny_study)
    store = write_features(own_tiny_study, "leaky", (str(own_tiny_study.obs.at[split.test[0], "compound"]),))
    with pytest.raises(LeakError, match=r"trained on 1 compound\(s\) that are tested"):
        make_fold(own_tiny_study, store)


def test_an_encoder_that_saw_the_vehicle_controls_of_a_test_compound_is_refused(
    own_tiny_study: Study, tmp_path: Path
) -> None:
    """betazole is tested and alphamide, whose controls it shares, is in no part: its name alone shows no leak."""
    obs = own_tiny_study.obs
    part = obs["compound"].map({"betazole": "test", "gammacin": "train", "deltaprofen": "train"}).dropna()
    table = tmp_path / "folds.csv"
    pd.DataFrame({"sample_id": part.index, "fold": 0, "part": part.to_numpy()}).to_csv(table, index=False)
    split = Predefined(path=str(table))(own_tiny_study)
    make_fold(own_tiny_study, write_features(own_tiny_study, "fair", ("gammacin",)), split=split)
    with pytest.raises(LeakError, match="alphamide"):
        make_fold(own_tiny_study, write_features(own_tiny_study, "near", ("alphamide",)), split=split)


def test_setup_refuses_a_compound_on_both_sides(fold: FoldData) -> None:
    moved = [*fold.split.train, fold.split.test[0]]
    fold.split = Split(moved, fold.split.valid, fold.split.test[1:], 0, fold.split.manifest)
    module = StudyDataModule(
        fold,
        stage="pretrain",
        sampler=SampleStream(tuple(moved), 4, 0),
        tiles_per_bag=4,
        eval_batch_size=8,
        valid=fold.split.valid,
    )
    with pytest.raises(SplitError):
        module.setup("fit")


@pytest.mark.parametrize(("n", "batch_size", "ranks"), [(10, 4, 1), (9, 4, 2), (17, 4, 4), (33, 16, 2)])
def test_every_rank_validates_on_as_many_batches(n: int, batch_size: int, ranks: int) -> None:
    """9 samples in batches of 4 on two ranks: five and four, so that the second splits its only batch."""
    samples = [str(i) for i in range(n)]
    shares = [even_chunks_of_rank(samples, batch_size, r, ranks) for r in range(ranks)]
    assert len({len(chunks) for chunks in shares}) == 1
    chunks = [chunk for share in shares for chunk in share]
    assert all(1 <= len(chunk) <= batch_size for chunk in chunks)
    assert sorted(s for chunk in chunks for s in chunk) == sorted(samples)


def test_fewer_validation_samples_than_ranks_are_refused() -> None:
    with pytest.raises(TooFewSamples, match="3 samples in batches of 4 do not go round 4 processes"):
        even_chunks_of_rank(["a", "b", "c"], 4, 3, 4)


def test_setup_refuses_an_empty_validation_part(fold: FoldData) -> None:
    module = StudyDataModule(
        fold,
        stage="pretrain",
        sampler=SampleStream(tuple(fold.split.train), 4, 0),
        tiles_per_bag=4,
        eval_batch_size=8,
        valid=[],
    )
    with pytest.raises(TooFewSamples, match=r"split\.valid_fraction"):
        module.setup("fit")


def test_labels_are_of_treated_animals_and_unknown_terms_are_refused(tiny_study: Study) -> None:
    tasks = TaskSet([Dili(), Injury(), Lesions(["Necrosis"]), Severity()]).fit(tiny_study, [], Audit())
    labels = tasks.labels(tiny_study, tiny_study.sample_ids)
    control = tiny_study.obs["is_control"].to_numpy()
    assert np.isnan(labels["dili"][control]).all()
    assert np.isnan(labels["injury"][control]).all()
    assert not np.isnan(labels["dili"][~control]).any()
    assert np.array_equal(labels["lesions"][:, 0], (tiny_study.findings["Necrosis"] >= 1).to_numpy(float))
    assert labels["severity"].max() <= 4
    with pytest.raises(ValueError, match="Necrosiss"):
        Lesions(["Necrosiss"]).fit(tiny_study, [], Audit())


@pytest.mark.parametrize("reference", ["none", "matched_controls"])
@pytest.mark.parametrize("block", [1, 20, 2**15 - 1])
def test_a_batch_is_the_drawn_rows_standardised_to_the_bit(
    own_tiny_study: Study, monkeypatch: pytest.MonkeyPatch, reference: str, block: int
) -> None:
    """By the formula (row - mean - reference of the sample) / scale in float32, sample by sample, slide by slide."""
    monkeypatch.setattr(tile_reading, "BLOCK_VALUES", block)
    store = write_features(own_tiny_study)
    fold = make_fold(own_tiny_study, store, reference)
    samples = list(reversed(own_tiny_study.sample_ids))
    at_most = 5
    batch = fold.batch(samples, stage="finetune", step=7, tiles_per_bag=at_most)
    ends = batch.tiles.offsets.tolist()
    references = tile_references(own_tiny_study, store, fold.scaler.fallback)
    for sample, start, end in zip(samples, ends, ends[1:], strict=False):
        slides = own_tiny_study.slides_of(sample)
        features = [np.asarray(store.rows(s), np.float32) for s in slides]
        um = [store.coordinates(s) * 0.5 + [k * 1e6, 0] for k, s in enumerate(slides)]
        chosen = choose_tiles(sum(map(len, features)), at_most, 0, "finetune", 7, sample)
        assert end - start == len(chosen)
        if slides:
            offset = fold.scaler.mean
            if reference == "matched_controls":
                offset = offset + references[sample].astype(np.float32)
            expected = (np.concatenate(features)[chosen] - offset) / fold.scaler.scale
            assert np.array_equal(batch.tiles.features[start:end].numpy(), expected)
            where = np.concatenate(um)[chosen].astype(np.float32)
            assert np.array_equal(batch.tiles.coordinates[start:end].numpy(), where)


def test_bags_are_read_ahead_only_where_much_of_them_is_drawn(
    own_tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead: set[str] = set()
    monkeypatch.setattr(BagStore, "read_ahead", lambda store, slide_id: ahead.add(slide_id))
    monkeypatch.setattr(tile_reading, "READ_AHEAD_SHARE", 2)
    store = write_features(own_tiny_study)
    fold = make_fold(own_tiny_study, store, "none")
    one = next(s for s in own_tiny_study.sample_ids if len(own_tiny_study.slides_of(s)) == 1)
    slide = own_tiny_study.slides_of(one)[0]
    n = store.n_rows(slide)
    assert n > 2
    ahead.clear()
    fold.batch([one], stage="train", step=0, tiles_per_bag=(n - 1) // 2)
    assert not ahead
    fold.batch([one], stage="train", step=0, tiles_per_bag=-(-n // 2))
    assert ahead == {slide}


def test_a_batch_is_the_same_in_inference_mode(own_tiny_study: Study) -> None:
    fold = make_fold(own_tiny_study, write_features(own_tiny_study), "matched_controls")
    samples = own_tiny_study.sample_ids
    with torch.inference_mode():
        inferred = fold.batch(samples, stage="test", step=0, tiles_per_bag=None)
    plain = fold.batch(samples, stage="test", step=0, tiles_per_bag=None)
    assert torch.equal(inferred.tiles.features, plain.tiles.features)


def test_batches_are_made_ahead_and_an_error_of_one_comes_in_its_place() -> None:
    class Numbers(PositionedDataModule):
        def position(self) -> int:
            return 2

        def end(self) -> int:
            return 6

        def training_batch(self, position: int) -> int:
            if position == 4:
                raise SplitError("the fourth")
            return position

    batches = iter(Numbers().train_dataloader())
    assert [next(batches), next(batches)] == [2, 3]
    with pytest.raises(SplitError, match="the fourth"):
        next(batches)


def test_tiles_without_a_place_have_no_coordinates_in_a_batch(own_tiny_study: Study) -> None:
    store = write_features(own_tiny_study, coordinates="none")
    fold = make_fold(own_tiny_study, store)
    tiles = fold.batch(fold.split.train, stage="evaluate").tiles
    assert bool(tiles.coordinates.isnan().all())
    assert bool(tiles.features.isfinite().all())
    assert torch.equal(TilePlaces()(tiles), torch.zeros(len(tiles.features), TilePlaces().n_features))


def attached_to(data: StudyDataModule, device: str) -> StudyDataModule:
    """As if a trainer on this device drove it."""
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), global_step=0)  # type: ignore[assignment]
    return data


@pytest.mark.parametrize("reference", ["none", "matched_controls"])
def test_tiles_go_to_another_device_as_they_are_stored_and_are_standardised_there(
    own_tiny_study: Study, reference: str
) -> None:
    fold = make_fold(own_tiny_study, write_features(own_tiny_study), reference)
    data = StudyDataModule(
        fold,
        stage="pretrain",
        sampler=SampleStream(tuple(fold.split.train), 6, 0),
        tiles_per_bag=3,
        eval_batch_size=4,
        valid=fold.split.valid,
    )
    here = attached_to(data, "cpu").training_batch(2)
    assert isinstance(here, Batch)
    stored = attached_to(data, "meta").training_batch(2)
    assert isinstance(stored, StoredBatch)
    assert stored.batch.tiles.features.dtype == torch.float16
    again = data.transfer_batch_to_device(stored, torch.device("cpu"), 0)
    assert torch.equal(again.tiles.features, here.tiles.features)
    assert again.tiles.features.dtype == torch.float32
    for name in ("expression", "has_slide", "animal"):
        assert torch.equal(getattr(again, name), getattr(here, name))
    there = data.transfer_batch_to_device(stored, torch.device("meta"), 0)
    assert {t.device.type for t in (there.tiles.features, there.expression, there.group)} == {"meta"}
    validation = next(iter(data.val_dataloader()))
    assert isinstance(validation, StoredBatch)
    assert isinstance(next(iter(data.loader(fold.split.valid))), Batch)


def test_batches_for_cuda_lie_in_pinned_memory(
    own_tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page-locked memory needs a driver: what is asked for it is recorded, and the rest is as it runs."""
    pinned: list[torch.Size] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(t.shape) or t)
    fold = make_fold(own_tiny_study, write_features(own_tiny_study))
    sampler = SampleStream(tuple(fold.split.train), 6, 0)
    data = StudyDataModule(
        fold, stage="pretrain", sampler=sampler, tiles_per_bag=3, eval_batch_size=4, valid=fold.split.valid
    )
    for device in ("cpu", "meta"):
        attached_to(data, device).training_batch(0)
    assert pinned == []
    batch = attached_to(data, "cuda").training_batch(0)
    assert isinstance(batch, StoredBatch)
    assert {batch.batch.tiles.features.shape, batch.mean.shape, batch.batch.expression.shape} <= set(pinned)
