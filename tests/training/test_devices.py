"""Scoring, encoding, probing and explaining leave a module as and where it is; training goes on after them.

`tests/second_device.py` stands in for a GPU, and float64 for another type: a module there has to be met by its inputs,
and its outputs have to come back. What moves a module at all is refused outright.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.feature_store import featured_study, tiled_study
from tests.second_device import second_device
from tests.training.small_runs import small
from toxfusion.data.tile_sampling import TileBatch
from toxfusion.explanation import cohort, faithfulness, fusion, genes, regions
from toxfusion.explanation.likeness import fit_likeness
from toxfusion.models.modes import evaluating, place_of, placed
from toxfusion.models.tile import TileEncoder, save_tile_encoder
from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.runs.probes import probe_run
from toxfusion.study.study import Study
from toxfusion.training import assemble, finetuning, network, tile_features
from toxfusion.training.folder import RunFolder
from toxfusion.training.outputs import encode_samples
from toxfusion.training.run import run as train_run
from toxfusion.training.settings import RunSettings
from toxfusion.training.tile_contrastive import TileContrastiveModule


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return featured_study(tmp_path_factory.mktemp("devices") / "study")


@pytest.fixture(scope="module")
def loaded(study: Study, tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    config = small(study, tmp_path_factory.mktemp("runs"), "task.biochemistry=auto", "size.finetune_steps=3")
    train_run(config)
    folder = RunFolder(Path(config["paths"]["output"]))
    return load_run(folder, *load_own_study(folder))


def in_float64(run: LoadedRun) -> LoadedRun:
    """The run with its predictor elsewhere: in another type."""
    return replace(run, predictor=copy.deepcopy(run.predictor).double())


@contextmanager
def nothing_moves() -> Iterator[None]:
    """Refuses every `Module.to`, `.cpu`, `.cuda`, `.half`, ..., all of which go through `_apply`."""

    def refuse(self: nn.Module, *arguments: Any, **named: Any) -> nn.Module:
        raise AssertionError(f"{type(self).__name__} is moved or cast by what only uses it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "_apply", refuse)
        yield


def state_of(module: nn.Module) -> list[tuple[Any, ...]]:
    """Mode of every part; place, type and inference flag of every tensor."""
    modes = [(name, part.training) for name, part in module.named_modules()]
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [*modes, *((name, t.device, t.dtype, t.is_inference(), t.requires_grad) for name, t in tensors)]


def uses(run: LoadedRun) -> dict[str, Any]:
    """Everything that scores or explains with a loaded run."""
    test = run.fold.split.test
    slides = [s for s in test if run.fold.has_slide(s)][:2]
    profiles = [s for s in test if run.fold.has_expression(s)][:2]
    task = run.tasks.names[0]
    return {
        "embed": lambda: run.embed(test),
        "predict": lambda: run.predict(test),
        "probe": lambda: probe_run(
            run, ["prototype", "retrieval", "missing_modality"], ["finetuned"], draws=5, seed=0
        ),
        "tiles": lambda: regions.add_integrated(
            run, regions.tile_scores(run, slides, [task]), [task], steps=2
        ),
        "likeness": lambda: fit_likeness(run).scores(run, slides),
        "genes": lambda: genes.attribute_genes(run, profiles, task, steps=2),
        "gene attention": lambda: genes.gene_attention(run, run.batch(profiles)),
        "fusion": lambda: (
            fusion.gates(run, run.batch(test)),
            fusion.without_each(run, run.batch(test), [task]),
            fusion.token_attention(run, run.batch(test)),
            fusion.expression_on_tiles(run, slides),
        ),
        "deletion": lambda: faithfulness.keeping(
            run, run.batch(slides[:1]), task, np.ones((2, len(run.batch(slides[:1]).tiles.features)), bool)
        ),
        "cohort": lambda: cohort.look(run, run.tasks.names),
    }


USES = (
    "embed",
    "predict",
    "probe",
    "tiles",
    "likeness",
    "genes",
    "gene attention",
    "fusion",
    "deletion",
    "cohort",
)


@pytest.mark.parametrize("use", USES)
def test_what_uses_a_predictor_on_a_second_device_meets_it_there(loaded: LoadedRun, use: str) -> None:
    predictor = copy.deepcopy(loaded.predictor)
    with second_device() as device:
        elsewhere = replace(loaded, predictor=predictor.to(device))
        before = state_of(predictor)
        with nothing_moves():
            uses(elsewhere)[use]()
        assert state_of(predictor) == before
        assert {where for _, where, *_ in before if isinstance(where, torch.device)} == {device}


@pytest.mark.parametrize("use", USES)
def test_what_uses_a_predictor_leaves_it_as_and_where_it_is(loaded: LoadedRun, use: str) -> None:
    elsewhere = in_float64(loaded)
    before = state_of(elsewhere.predictor)
    with nothing_moves():
        uses(elsewhere)[use]()
    assert state_of(elsewhere.predictor) == before


def test_scores_of_a_predictor_elsewhere_are_those_of_it_here(loaded: LoadedRun) -> None:
    test = loaded.fold.split.test
    here, there = loaded.predict(test), in_float64(loaded).predict(test)
    pd.testing.assert_frame_equal(here.drop(columns="score"), there.drop(columns="score"))
    np.testing.assert_allclose(here["score"], there["score"], atol=1e-4)
    embedded = in_float64(loaded).embed(test)
    assert embedded.fused.dtype == np.float32
    np.testing.assert_allclose(embedded.fused, loaded.embed(test).fused, atol=1e-4)


def test_what_is_scored_in_training_is_in_training_mode_afterwards(loaded: LoadedRun) -> None:
    """Each part has its own mode again: a frozen part stays in evaluation mode."""
    predictor = copy.deepcopy(loaded.predictor).train()
    predictor.network.expression.eval()
    run, before = replace(loaded, predictor=predictor), state_of(predictor)
    first, second = (run.predict(run.fold.split.test) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)  # without dropout
    assert state_of(predictor) == before


def test_a_mode_comes_back_after_a_failure() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval(), nn.Linear(3, 2))

    def failing() -> None:
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            module(torch.zeros(1, 4))

    with pytest.raises(RuntimeError, match="shapes"):
        failing()
    assert [part.training for part in module.modules()] == [True, True, False, True]


def test_tensors_go_to_where_a_module_lies() -> None:
    assert place_of(nn.Identity()) == (torch.device("cpu"), torch.float32)
    assert place_of(nn.BatchNorm1d(3, affine=False).double()) == (torch.device("cpu"), torch.float64)
    meta = nn.Linear(3, 2, device="meta")
    assert placed(torch.zeros(1, 3), meta).device.type == "meta"


def test_every_number_that_is_explained_is_computed_where_the_predictor_lies(loaded: LoadedRun) -> None:
    """On the meta device an operation with a tensor of the CPU is an error."""
    predictor = copy.deepcopy(loaded.predictor).to("meta")
    width = loaded.network.fused_width
    targets = loaded.tasks.targets(predictor, placed(torch.zeros(3, width), predictor))
    assert list(targets) == loaded.tasks.names
    assert {(value.device.type, tuple(value.shape)) for value in targets.values()} == {("meta", (3,))}


class Remembering(nn.Module):
    """Scales what a network reads by what the first batch was like, as parts with lazily made tables do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.gain, self.scale = network, nn.Parameter(torch.ones(())), None

    def forward(self, batch: Any) -> Any:
        if self.scale is None:
            self.scale = batch.expression.detach().abs().mean().clamp(min=1e-3)
        return self.network(replace(batch, expression=batch.expression * (self.gain * self.scale)))


def test_what_a_network_keeps_from_being_scored_can_be_trained_through(loaded: LoadedRun) -> None:
    """In inference mode: "Inference tensors cannot be saved for backward"."""
    network = Remembering(copy.deepcopy(loaded.network)).train()
    encode_samples(network, loaded.data_module(), loaded.fold.split.test)  # type: ignore[arg-type]
    network(loaded.batch(loaded.fold.split.test)).fused.vector.sum().backward()
    assert network.gain.grad is not None


class ScoredInBetween(Callback):
    """Scores and embeds after every step, as the choice of the best weights does after a validation."""

    def __init__(self, run: LoadedRun) -> None:
        self.run, self.losses = run, list[float]()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *rest: Any) -> None:
        run = replace(self.run, predictor=module.predictor)
        before = state_of(module.predictor)
        scores = run.predict(run.fold.split.test)["score"]
        assert np.isfinite(scores).all()
        assert state_of(module.predictor) == before
        self.losses.append(float(outputs["loss"]))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_whether_it_is_scored_in_between(loaded: LoadedRun, precision: str) -> None:
    """Step by step the same losses, under autocast too."""

    def losses(scored: bool) -> list[float]:
        module = finetuning.FinetuningModule(
            copy.deepcopy(loaded.predictor),
            loaded.tasks,
            labels=loaded.fold.labels,
            network_lr_share=1.0,
            optimization=finetuning.Optimization(1e-2, 0.0, 0.1, 4),
            seed=0,
            contract={},
        ).train()
        seen = ScoredInBetween(loaded)
        if not scored:
            seen.on_train_batch_end = lambda t, m, out, *rest: seen.losses.append(float(out["loss"]))  # type: ignore[method-assign]
        data = four_batches(loaded)
        L.Trainer(
            accelerator="cpu", precision=precision, max_steps=4, callbacks=[seen], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            limit_val_batches=0, use_distributed_sampler=False,
        ).fit(module, train_dataloaders=data)  # type: ignore[arg-type]  # fmt: skip
        return seen.losses

    quiet, busy = losses(False), losses(True)
    assert len(quiet) == 4
    assert len(set(quiet)) == 4
    assert quiet == busy


def four_batches(run: LoadedRun) -> DataLoader[Any]:
    """Four training batches."""
    batches = [run.fold.batch(run.fold.split.train[i : i + 12], stage="finetune", step=i) for i in range(4)]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def test_vectors_elsewhere_give_the_scores_of_vectors_here(loaded: LoadedRun) -> None:
    test = loaded.fold.split.test
    vectors = torch.from_numpy(loaded.embed(test).fused)
    obs = loaded.fold.study.obs.loc[test]
    positions = loaded.fold.study.positions(test)
    labels = {name: of_all[positions].numpy() for name, of_all in loaded.fold.labels.items()}

    def scores(read: Tensor) -> pd.DataFrame:
        return loaded.tasks.predictions(loaded.predictor, read, obs, labels, part="test", fold=0, seed=0)

    pd.testing.assert_frame_equal(scores(vectors), scores(vectors.double()))


def test_tiles_are_encoded_where_the_run_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder of a fold is read from a file by the one that encodes: it goes to the device with its tiles."""
    encoder = TileEncoder("lite0_stages", mpp=1.0, tile_px=32).eval()
    saved = tmp_path / "made.ckpt"
    save_tile_encoder(saved, encoder, trained_on=[], provenance={})

    def features(name: str) -> list[np.ndarray]:
        study = tiled_study(tmp_path / name)
        settings = RunSettings.read(small(study, tmp_path)).trainer
        store = tile_features.encode_study(study, saved, grid="default", batch_size=4, trainer=settings)
        return [store.rows(slide) for slide in study.slides.index]

    here = features("here")
    asked: list[str] = []
    with second_device() as device:
        monkeypatch.setattr(
            tile_features, "device_of", lambda accelerator: asked.append(accelerator) or device
        )
        there = features("there")
    assert asked
    np.testing.assert_array_equal(here, there)


def test_a_run_is_the_same_where_all_but_the_trainer_computes_on_a_second_device(
    study: Study, loaded: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning trains on the CPU; the start in closed form, encoding, choice and test follow `device_of`."""
    config = small(study, tmp_path, "task.biochemistry=auto", "size.finetune_steps=3")
    with second_device() as device:
        for module in (assemble, network):
            monkeypatch.setattr(module, "device_of", lambda accelerator: device)
        train_run(config)
    there = RunFolder(Path(config["paths"]["output"]))
    for written in ("predictions.parquet", "embeddings.h5ad"):
        assert (there.root / written).is_file()
    here, there = (pd.read_parquet(f.root / "predictions.parquet") for f in (loaded.folder, there))
    pd.testing.assert_frame_equal(here, there)


def test_views_of_tiles_are_contrasted_on_a_second_device() -> None:
    module = TileContrastiveModule(
        TileEncoder("lite0_stages", mpp=1.0, tile_px=32), projection_dim=4, temperature=0.1,
        optimization=finetuning.Optimization(1e-2, 0.0, 0.1, 4), seed=0,
    ).eval()  # fmt: skip
    tiles = torch.randint(
        0, 255, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    here = module._contrast(TileBatch(tiles, 1))
    with second_device() as device:
        module.to(device)
        there = module._contrast(TileBatch(tiles, 1).to(device))
        assert there.device == device
        there.backward()
        torch.testing.assert_close(there.cpu(), here)


def test_a_second_device_refuses_what_a_gpu_refuses() -> None:
    with second_device() as device:
        there = torch.ones(2, 3).to(device)
        for mixing in (
            lambda: there + torch.ones(3),
            lambda: nn.Linear(3, 1)(there),
            lambda: torch.ones(2) @ there,
        ):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mixing()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=device)
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        assert (there * 2.0 + torch.tensor(1.0)).sum().item() == 18.0
        assert there.cpu().numpy().tolist() == [[1.0] * 3] * 2
