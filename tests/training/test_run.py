"""Whole runs on a small study: every stage, exact resume after SIGKILL, two ranks, nulls, and refusals."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from torch._dynamo.utils import counters

from tests.feature_store import featured_study, tiled_study, write_features
from tests.processes import METHOD
from tests.training.small_runs import small
from toxfusion import extract, predict
from toxfusion.config.entry import compose
from toxfusion.config.nodes import ConfigError
from toxfusion.data.gene_sets import GeneSetError
from toxfusion.models.compilation import CompileError
from toxfusion.runs.loaded import load_own_study, load_run
from toxfusion.runs.new_study import score_study
from toxfusion.runs.probes import network_of
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.nulls import deal_slides, permute_labels
from toxfusion.study.split import write_manifest
from toxfusion.study.splits import CompoundKFold
from toxfusion.study.study import Study, write_study
from toxfusion.training import finetuning, network, pretraining, tile_contrastive, tile_features
from toxfusion.training.assemble import (
    TrainingError,
    assemble,
    build_network,
    make_fold,
    make_tasks,
    open_study,
)
from toxfusion.training.checkpoint import CheckpointError, read_checkpoint
from toxfusion.training.choice import PlainScore
from toxfusion.training.folder import RunError, RunFolder, config_digest
from toxfusion.training.run import run
from toxfusion.training.settings import NullSettings, RunSettings


@pytest.fixture(scope="module")
def featured(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return featured_study(tmp_path_factory.mktemp("featured") / "study")


@pytest.fixture(scope="module")
def full_run(featured: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, dict[str, Any]]:
    config = small(featured, tmp_path_factory.mktemp("full"))
    run(config)
    return RunFolder(Path(config["paths"]["output"])), config


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder.stage("finetune") / "best.ckpt")["state_dict"]


def test_a_run_leaves_scores_of_every_test_unit(
    full_run: tuple[RunFolder, dict[str, Any]], featured: Study
) -> None:
    folder, _ = full_run
    table = pd.read_parquet(folder.predictions)
    split = json.loads(folder.split.read_text())
    test = table[table["part"] == "test"]
    assert set(test.loc[test["task"] == "severity", "unit_id"]) == set(split["test"])
    treated = featured.obs.loc[split["test"]].query("not is_control")
    assert set(test.loc[test["task"] == "dili", "unit_id"]) == set(treated["compound"])
    assert set(test.loc[test["task"] == "injury", "unit_id"]) == set(treated["group_id"])
    metrics = json.loads(folder.metrics.read_text())
    assert {r["direction"] for r in metrics["retrieval"]} == {"slide_to_expression", "expression_to_slide"}
    assert folder.finished() is not None


def test_embeddings_open_in_scanpy_with_gates_that_sum_to_one(
    full_run: tuple[RunFolder, dict[str, Any]],
) -> None:
    folder, config = full_run
    table = anndata.read_h5ad(folder.embeddings)
    size = config["size"]
    assert table.shape[1] == size["width"] + 2 * (size["shared_dim"] + size["private_dim"])
    np.testing.assert_allclose(table.obs["gate_slide"] + table.obs["gate_expression"], 1.0, atol=1e-5)
    assert set(table.obs["part"]) == {"train", "valid", "test"}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    full_run: tuple[RunFolder, dict[str, Any]], featured: Study, tmp_path: Path
) -> None:
    folder, _ = full_run
    again = small(featured, tmp_path / "a")
    run(again)
    other = small(featured, tmp_path / "b", "seed=1")
    run(other)
    first, second, third = (
        weights(f) for f in (folder, *(RunFolder(Path(c["paths"]["output"])) for c in (again, other)))
    )
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], third[k]) for k in first)


def test_a_finished_run_is_not_repeated_and_another_config_is_refused(
    full_run: tuple[RunFolder, dict[str, Any]],
) -> None:
    folder, config = full_run
    before = folder.metrics.stat().st_mtime_ns
    run(config)
    assert folder.metrics.stat().st_mtime_ns == before
    changed = {**config, "seed": 9}
    with pytest.raises(RunError, match="another config"):
        run(changed)
    quieter = {**config, "logger": {"kind": "none"}}
    assert config_digest(quieter) == config_digest(config)


def run_waiting_at_step_5(config: dict[str, Any], stage: str) -> None:
    """Run, and do not come past the fifth step of a stage."""
    module = {"pretrain": pretraining.PretrainingModule, "finetune": finetuning.FinetuningModule}[stage]
    do = module.training_step

    def training_step(self: Any, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 5:
            time.sleep(600)
        return do(self, batch, index)

    module.training_step = training_step
    run(config)


def test_killed_in_either_stage_and_resumed_gives_equal_bits(
    full_run: tuple[RunFolder, dict[str, Any]], featured: Study, tmp_path: Path
) -> None:
    """SIGKILL once last.ckpt is there, after step 4 of pretraining and again of fine-tuning; then to the end."""
    folder, _ = full_run
    config = small(featured, tmp_path)
    mine = RunFolder(Path(config["paths"]["output"]))
    for stage in ("pretrain", "finetune"):
        process = multiprocessing.get_context(METHOD).Process(
            target=run_waiting_at_step_5, args=(config, stage)
        )
        process.start()
        last = mine.stage(stage) / "last.ckpt"
        deadline = time.monotonic() + 240
        while not last.is_file() and time.monotonic() < deadline:
            assert process.is_alive(), "the run ended before it could be killed"
            time.sleep(0.2)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (mine.stage(stage) / "finished.json").exists()
    run(config)
    whole, resumed = weights(folder), weights(mine)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    first, second = pd.read_parquet(folder.predictions), pd.read_parquet(mine.predictions)
    pd.testing.assert_frame_equal(first, second)
    lines = [pd.read_csv(f.history) for f in (folder, mine)]
    pd.testing.assert_frame_equal(*lines)


class Killed(BaseException):
    """Stands for SIGKILL."""


def run_killed_at(config: dict[str, Any], kills: list[tuple[type, int]], patch: pytest.MonkeyPatch) -> None:
    """Run, ended before the given step of the stage of each given module in turn, then to the end."""
    for module, step in kills:
        with patch.context() as here:
            do = module.training_step

            def training_step(
                self: Any, batch: Any, index: int, do: Any = do, step: int = step
            ) -> torch.Tensor:
                if self.global_step == step:
                    raise Killed
                return do(self, batch, index)

            here.setattr(module, "training_step", training_step)
            with pytest.raises(Killed):
                run(config)
    run(config)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_random_points_of_every_stage_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stages = (
        tile_contrastive.TileContrastiveModule,
        pretraining.PretrainingModule,
        finetuning.FinetuningModule,
    )
    kills = [(module, int(step)) for module in stages for step in sorted(rng.integers(1, 8, size=2))]
    folders = []
    for name, points in (("whole", []), ("killed", kills)):
        study = tiled_study(tmp_path / name / "study")
        config = small(study, tmp_path / name, "tile_features=contrastive", "tile_features.backbone=regnety_002",
                       "tile_features.pretrained=false", "size.tile_steps=8", "size.tile_batch=4",
                       "size.pretrain_steps=8", "size.finetune_steps=8",
                       f"trainer.checkpoint_every={rng.integers(1, 4)}")  # fmt: skip
        run_killed_at(config, points, monkeypatch)
        folders.append((RunFolder(Path(config["paths"]["output"])), study))
    (whole, study), (killed, killed_study) = folders
    pd.testing.assert_frame_equal(pd.read_parquet(whole.predictions), pd.read_parquet(killed.predictions))
    assert whole.history.read_text() == killed.history.read_text()
    lines = [next(s.root.glob("encoders/*/history.csv")).read_text() for s in (study, killed_study)]
    assert lines[0] == lines[1]
    for stage in ("pretrain", "finetune"):
        kept = [read_checkpoint(f.stage(stage) / "best.ckpt") for f in (whole, killed)]
        assert kept[0]["global_step"] == kept[1]["global_step"]
        for name, value in kept[0]["state_dict"].items():
            assert torch.equal(value, kept[1]["state_dict"][name])
        assert (whole.stage(stage) / "finished.json").read_text() == (
            killed.stage(stage) / "finished.json"
        ).read_text()


@pytest.mark.parametrize(
    "experiment",
    ["ablation_wsi_only", "ablation_omics_only", "ablation_nopretrain", "ablation_noalign", "mirror", "mcat",
     "meanpool_logistic", "pca_logistic", "metadata_logistic", "pca_forest", "concat_boosting", "alt_ast_logistic"],
)  # fmt: skip
def test_experiments_of_every_kind_run_alone(featured: Study, tmp_path: Path, experiment: str) -> None:
    config = small(featured, tmp_path, f"experiment={experiment}")
    if experiment == "ablation_nopretrain":
        assert config["pretrain"]["steps"] == 0
        assert config["pretrain"]["finetune_extra_steps"] == 6
    run(config)
    folder = RunFolder(Path(config["paths"]["output"]))
    table = pd.read_parquet(folder.predictions)
    assert {"dili", "injury", "severity"} <= set(table["task"])
    names = set(pd.read_csv(folder.history)["name"]) if folder.history.exists() else set()
    if experiment == "ablation_omics_only":
        assert "valid/genes" in names
        assert not names & {"valid/align", "valid/sub_bag"}
    if experiment == "ablation_wsi_only":
        assert "valid/orthogonality" in names
        assert not names & {"valid/align", "valid/genes"}
    if experiment == "ablation_noalign":
        assert "valid/align" not in names
    if experiment == "mirror":
        assert {"valid/slide_latents", "valid/expression_latents", "valid/style", "valid/cluster"} <= names


def test_the_random_network_stays_as_it_began(featured: Study, tmp_path: Path) -> None:
    config = small(featured, tmp_path, "experiment=null_random_network")
    run(config)
    folder = RunFolder(Path(config["paths"]["output"]))
    loaded = load_run(folder, *load_own_study(folder))
    began = network_of(loaded, "random").state_dict()
    ended = loaded.network.state_dict()
    assert all(torch.equal(began[k], ended[k]) for k in began)
    assert set(validations(folder, "valid/loss")) != {validations(folder, "valid/loss").iloc[0]}


def validations(run_folder: RunFolder, name: str) -> pd.Series:
    history = pd.read_csv(run_folder.history)
    chosen = (history["stage"] == "finetune") & (history["name"] == name)
    return history[chosen].set_index("step")["value"]


@pytest.mark.parametrize("task", ["toxicity", "severity"])
def test_fine_tuning_keeps_the_weights_of_best_score_or_of_least_loss_where_none_is_defined(
    featured: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """The score peaks at the fourth validation, wherever the loss is least."""
    config = small(featured, tmp_path, f"task={task}", "pretrain=none", "trainer.validate_every=1",
                   "size.finetune_steps=12", "optimizer.finetune_lr=0.01", "trainer.patience=null")  # fmt: skip
    if task == "toxicity":
        scores = itertools.chain([0.5, 0.6, 0.55, 0.9], itertools.repeat(0.7))
        monkeypatch.setattr(network, "validation_score", lambda table: PlainScore(next(scores)))
    run(config)
    folder = RunFolder(Path(config["paths"]["output"]))
    loss, score = validations(folder, "valid/loss"), validations(folder, "valid/score")
    assert len(score) > 4
    if task == "toxicity":
        assert score.idxmax() == score.index[3] != loss.idxmin()
    else:
        np.testing.assert_allclose(score, -loss)
    # The history counts steps from 0, a checkpoint those that are done.
    assert read_checkpoint(folder.stage("finetune") / "best.ckpt")["global_step"] == score.idxmax() + 1


def test_every_part_trains_in_training_mode_in_either_stage(
    featured: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retrieval is scored between the stages, in evaluation mode: dropout must be back for fine-tuning."""
    seen = {}
    for module in (pretraining.PretrainingModule, finetuning.FinetuningModule):

        def step(
            self: Any, *arguments: Any, name: str = module.__name__, do: Any = module.training_step
        ) -> Any:
            seen.setdefault(name, []).append({part.training for part in self.modules()})
            return do(self, *arguments)

        monkeypatch.setattr(module, "training_step", step)
    run(small(featured, tmp_path, "split.fold=1"))
    assert set(seen) == {"PretrainingModule", "FinetuningModule"}
    for modes in seen.values():
        assert len(modes) >= 6
        assert all(mode == {True} for mode in modes)  # after each validation too


def test_two_ranks_run_the_job_once_and_score_each_unit_once(featured: Study, tmp_path: Path) -> None:
    config = small(featured, tmp_path, "trainer=ddp_cpu", "trainer.progress=false", "size.pretrain_batch=4",
                   "size.compounds_per_batch=1")  # fmt: skip
    objective = run(config)
    folder = RunFolder(Path(config["paths"]["output"]))
    table = pd.read_parquet(folder.predictions)
    split = json.loads(folder.split.read_text())
    severity = table[(table["task"] == "severity") & (table["part"] == "test")]
    assert sorted(severity["unit_id"]) == sorted(split["test"])
    assert objective == folder.finished()["objective"] or np.isnan(objective)


def test_a_run_goes_on_with_the_parts_it_began_on_or_not_at_all(featured: Study, tmp_path: Path) -> None:
    config = small(featured, tmp_path)
    folder = RunFolder(Path(config["paths"]["output"]))
    write_manifest(CompoundKFold(n_folds=3, fold=1)(featured), folder.split)
    with pytest.raises(TrainingError, match=r"split\.json: the run here began on other parts"):
        run(config)
    assert not folder.history.exists()


def test_tile_encoder_is_trained_for_the_fold_and_named_by_what_it_saw(tmp_path: Path) -> None:
    study = tiled_study(tmp_path / "study")
    config = small(study, tmp_path, "tile_features=contrastive", "size.tile_steps=2", "size.tile_batch=4",
                   "size.pretrain_steps=3", "size.finetune_steps=3")  # fmt: skip
    run(config)
    folder = next((study.root / "features").iterdir())
    split = CompoundKFold(n_folds=3, fold=0, valid_fraction=0.2, seed=0)(study)
    features = BagStore.open(folder)
    assert set(features.spec.provenance["trained_on"]) == set(study.obs.loc[split.train, "compound"])
    assert not set(features.spec.provenance["trained_on"]) & set(study.obs.loc[split.valid, "compound"])
    assert set(features.slide_ids) == set(study.slides.index)
    # The second run finds the encoder where the first one trained it, and starts from the same weights all the same.
    again = small(study, tmp_path / "again", "tile_features=contrastive", "size.tile_steps=2", "size.tile_batch=4",
                  "size.pretrain_steps=3", "size.finetune_steps=3")  # fmt: skip
    run(again)
    first, second = (weights(RunFolder(Path(c["paths"]["output"]))) for c in (config, again))
    assert all(torch.equal(first[k], second[k]) for k in first)
    unseen_fold = small(study, tmp_path / "other", "tile_features=store", f"tile_features.name={folder.name}",
                        "split.fold=1")  # fmt: skip
    with pytest.raises(ValueError, match="trained on"):
        run(unseen_fold)


def test_the_published_encoder_is_the_default_and_encodes_a_study_once_for_all_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and `extract` give the same features; a new study is encoded by the same encoder when it is scored."""
    study = tiled_study(tmp_path / "study")
    config = small(study, tmp_path / "first", "tile_features=imagenet")
    assert config["tile_features"] == compose("train", [f"data.root={study.root}"])["tile_features"]
    run(config)
    store = study.features("imagenet-default")
    assert set(store.slide_ids) == set(study.slides.index)
    assert store.spec.provenance["trained_on"] == []
    other = tiled_study(tmp_path / "other", seed=1)
    assert len(score_study([RunFolder(Path(config["paths"]["output"]))], other, Audit()).units)
    assert set(other.features("imagenet-default").slide_ids) == set(other.slides.index)
    extract.main([f"study={study.root}", "output=features", "input=tiles", "device=cpu"])
    extracted = study.features("imagenet")
    for slide in store.slide_ids:
        np.testing.assert_array_equal(extracted.rows(slide), store.rows(slide))
    monkeypatch.setattr(tile_features, "encode_tile_store", lambda *_, **__: pytest.fail("encoded again"))
    run(small(study, tmp_path / "second", "tile_features=imagenet", "split.fold=1", "pretrain=none"))


def test_of_two_processes_at_one_encoder_the_second_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tile_features, "WAIT_S", 0.05)
    caplog.set_level("INFO", logger=tile_features.__name__)
    path = tmp_path / "encoders" / "contrastive-1.ckpt"
    happened = []

    def second() -> None:
        with tile_features.sole_maker(path):
            happened.append("second")

    with tile_features.sole_maker(path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.5)
        happened.append("first")
    waiting.join(10)
    assert happened == ["first", "second"]
    assert "waiting for another process that is at work on contrastive-1" in caplog.text


def test_predict_scores_a_study_without_labels(
    full_run: tuple[RunFolder, dict[str, Any]], tmp_path: Path, study_tables: dict[str, Any]
) -> None:
    folder, _ = full_run
    study_tables["obs"] = study_tables["obs"].assign(dili=np.nan, injury=np.nan)
    study_tables["findings"] = study_tables["findings"].iloc[:, :0]
    study_tables["spontaneous"] = None
    order = np.random.default_rng(0).permutation(study_tables["expression"].shape[1])
    plain = write_study(tmp_path / "plain", **study_tables)
    write_features(plain)
    study_tables["expression"] = study_tables["expression"][:, order]
    study_tables["var"] = study_tables["var"].iloc[order]
    shuffled = write_study(tmp_path / "shuffled", **study_tables)
    write_features(shuffled)
    first, second = (score_study([folder], s, Audit()) for s in (plain, shuffled))
    assert set(first.units.loc[first.units["task"] == "dili", "unit_id"]) == set(plain.obs["compound"])
    # Genes are found by name, so their order does not matter.
    np.testing.assert_allclose(first.units["risk"], second.units["risk"], atol=1e-6)
    study_tables["var"] = study_tables["var"].rename(index={study_tables["var"].index[0]: "unknown"})
    lacking = write_study(tmp_path / "lacking", **study_tables)
    write_features(lacking)
    gene = plain.var.index[order[0]]
    contract = read_checkpoint(folder.stage("finetune") / "best.ckpt")["contract"]
    if gene in contract["expression"]["gene_ids"]:
        with pytest.raises(ValueError, match=gene):
            score_study([folder], lacking, Audit())


def test_features_of_another_scale_are_refused(
    full_run: tuple[RunFolder, dict[str, Any]], tmp_path: Path, study_tables: dict[str, Any]
) -> None:
    coarse = write_study(tmp_path / "coarse", **study_tables)
    write_features(coarse, mpp=1.0)
    with pytest.raises(ValueError, match=r"not trained on \(mpp 1\.0, not 0\.5\)"):
        score_study([full_run[0]], coarse, Audit())


def test_predict_names_the_runs_it_leaves_out(
    full_run: tuple[RunFolder, dict[str, Any]],
    featured: Study,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(full_run[0].root, runs / "fold0")
    (runs / "fold1").mkdir()
    shutil.copy(full_run[0].config, runs / "fold1" / "config.yaml")
    predict.main([f"run={runs}/*", f"study={featured.root}", f"paths.outputs={tmp_path / 'out'}"])
    assert f"left out, not finished: {runs / 'fold1'}" in capsys.readouterr().out
    records = [file.read_text() for file in (tmp_path / "out").rglob("audit.json")]
    assert len(records) == 1
    assert "no done.json" in records[0]


def test_a_logger_that_is_not_installed_says_what_to_install(
    featured: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"toxfusion\[tensorboard\]"):
        run(small(featured, tmp_path, "logger=tensorboard"))


def pathways(gmt: Path) -> list[str]:
    return ["expression=pathways", f"expression.gene_sets.gmt={gmt}", "expression.gene_sets.min_genes=2",
            "size.pretrain_steps=2", "size.finetune_steps=2"]  # fmt: skip


@pytest.mark.parametrize("experiment", ["full", "survpath"])
def test_gene_sets_of_a_file_are_tokens_and_stay_with_the_checkpoint(
    featured: Study, tmp_path: Path, experiment: str
) -> None:
    gmt = tmp_path / "sets.gmt"
    names = {"half": [f"GENE{i}" for i in range(25)], "rest": [f"gene{i}" for i in range(20, 50)],
             "ids": list(featured.var.index), "alien": ["POMC", "INS"]}  # fmt: skip
    gmt.write_text("".join("\t".join([name, "", *genes]) + "\n" for name, genes in names.items()))
    config = small(featured, tmp_path, f"experiment={experiment}", *pathways(gmt))
    run(config)
    gmt.unlink()
    folder = RunFolder(Path(config["paths"]["output"]))
    contract = read_checkpoint(folder.stage("finetune") / "best.ckpt")["contract"]
    assert list(contract["gene_sets"]) == ["half", "rest", "ids"]
    chosen = contract["expression"]["gene_ids"]
    assert contract["gene_sets"]["ids"] == list(range(20))
    assert contract["gene_sets"]["half"] == [
        i for i, g in enumerate(chosen) if int(g.removeprefix("ENSRNOG")) < 25
    ]
    said = {r.id: r for r in Audit.read(folder.audit).records if r.kind == "gene_set"}
    assert said["alien"].outcome == "dropped"
    assert said["half"].outcome == "changed"
    table = pd.read_parquet(folder.predictions)
    test = table[(table["part"] == "test") & (table["task"] == "dili")].set_index("unit_id")["score"]
    again = score_study([folder], featured, Audit()).units
    again = again[again["task"] == "dili"].set_index("unit_id")["risk"]
    np.testing.assert_allclose(again[test.index], test, atol=1e-5)


def test_gene_sets_are_asked_for_and_checked_before_anything_is_trained(
    featured: Study, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"expression\.gene_sets\.gmt has no value"):
        small(featured, tmp_path, "expression=pathways")
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("a\t\tPOMC\tINS\n")
    config = small(featured, tmp_path, *pathways(gmt), "tile_features=contrastive")
    with pytest.raises(GeneSetError, match="none of its genes is in the study"):
        run(config)
    assert not RunFolder(Path(config["paths"]["output"])).history.exists()


def test_a_checkpoint_that_carries_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch " + str(tmp_path / "ran"),)

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "payload": Evil()}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.ckpt")


def test_a_compiled_run_gives_the_same_scores_and_the_same_checkpoint(
    full_run: tuple[RunFolder, dict[str, Any]], featured: Study, tmp_path: Path
) -> None:
    folder, config = full_run
    compiled = small(featured, tmp_path, "trainer.compile=eager")
    assert config_digest(compiled) == config_digest(config)
    counters.clear()
    run(compiled)
    assert counters["stats"]["unique_graphs"] > 0
    mine = RunFolder(Path(compiled["paths"]["output"]))
    plain, compiled_weights = weights(folder), weights(mine)
    assert list(compiled_weights) == list(plain)
    for name, value in plain.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=1e-3, atol=1e-4)
    first, second = (pd.read_parquet(f.predictions)["score"] for f in (folder, mine))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_an_unknown_backend_of_compilation_is_refused(featured: Study, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"trainer.compile='inductr' is none of inductor, eager"):
        run(small(featured, tmp_path, "trainer.compile=inductr"))


def test_ablation_without_cross_attention_has_nearly_as_many_parameters(
    featured: Study, tmp_path: Path
) -> None:
    counts = []
    for experiment in ("full", "ablation_noxattn"):
        config = compose("train", [f"data.root={featured.root}", "size=study", f"experiment={experiment}"])
        built = build_network(RunSettings.read(config).network, n_genes=1500, tile_dim=512)
        counts.append(sum(p.numel() for p in built.parameters()))
    assert abs(counts[0] - counts[1]) / counts[0] < 0.1


def test_permuted_labels_keep_level_and_the_prevalence_of_every_part(tiny_study: Study) -> None:
    split = CompoundKFold(n_folds=2, fold=0, valid_fraction=0.2, seed=0)(tiny_study)
    null = permute_labels(tiny_study, split, seed=1)
    treated = ~tiny_study.obs["is_control"].astype(bool)
    part = pd.Series(split.part_of())
    for label, unit in (("dili", "compound"), ("injury", "group_id")):
        per_unit = null.obs[treated].groupby(unit)[label].nunique(dropna=False)
        assert (per_unit == 1).all()
        for study_part in ("train", "test"):
            of = part.reindex(treated.index) == study_part
            real, permuted = (s.obs[of & treated].groupby(unit)[label].first() for s in (tiny_study, null))
            assert sorted(permuted) == sorted(real)
            assert null.findings[of].to_numpy().sum() == tiny_study.findings[of].to_numpy().sum()
    assert not np.array_equal(null.findings, tiny_study.findings)


def test_permutations_differ_from_seed_to_seed_and_fold_to_fold(tiny_study: Study) -> None:
    splits = [CompoundKFold(n_folds=2, fold=k, valid_fraction=0.2, seed=0)(tiny_study) for k in (0, 0, 1)]
    first, other_seed, other_fold = (
        permute_labels(tiny_study, split, seed).findings.to_numpy()
        for split, seed in zip(splits, (1, 2, 1), strict=True)
    )
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_fold)
    assert np.array_equal(first, permute_labels(tiny_study, splits[0], 1).findings.to_numpy())


def test_slides_are_dealt_anew_within_a_part_and_never_to_test_samples() -> None:
    train, valid = [f"t{i}" for i in range(40)], ["v0", "v1", "v2"]
    dealt = deal_slides([train, valid], 1, 0)
    assert sorted(dealt) == sorted(dealt.values()) == sorted([*train, *valid])
    assert {dealt[s] for s in train} == set(train)
    assert sum(dealt[s] != s for s in train) > 30
    assert deal_slides([train, valid], 1, 0) == dealt
    assert deal_slides([train, valid], 2, 0) != dealt != deal_slides([train, valid], 1, 1)


@pytest.mark.parametrize(
    ("null", "changed"), [("null_shuffled_pairs", "pretrain"), ("null_shuffled_throughout", "both")]
)
def test_pairs_are_shuffled_when_the_null_says(
    featured: Study, tmp_path: Path, null: str, changed: str
) -> None:
    """A dealt bag is its owner's, with the owner's controls as reference; labels and animals stay."""
    settings = RunSettings.read(
        small(featured, tmp_path, f"experiment={null}", "data.tile_reference=matched_controls")
    )
    study, split = open_study(settings)
    tasks = make_tasks(settings, study, split, Audit())
    of = assemble(
        settings,
        make_fold(settings, study, split, tasks, study.features("test"), Audit()),
        tasks,
        None,
        Audit(),
    )
    true = make_fold(
        replace(settings, nulls=NullSettings(False, None)),
        study,
        split,
        tasks,
        study.features("test"),
        Audit(),
    )
    owners = deal_slides(
        [[s for s in p if true.has_slide(s)] for p in (split.train, split.valid)], 0, split.fold
    )
    moved = [s for s in split.train if owners.get(s, s) != s]
    samples = [*moved[:6], split.test[0]]
    own = true.batch(samples, stage="evaluate")
    dealt = true.batch([owners.get(s, s) for s in samples], stage="evaluate")
    assert not torch.equal(own.tiles.features, dealt.tiles.features)
    for stage, data in (("pretrain", of.pretraining_data()), ("finetune", of.finetuning_data())):
        batch = data.fold.batch(samples, stage="evaluate")
        shuffled = changed in (stage, "both")
        assert torch.equal(batch.tiles.features, (dealt if shuffled else own).tiles.features)
        assert torch.equal(
            batch.tiles.split(batch.tiles.features)[-1], own.tiles.split(own.tiles.features)[-1]
        )
        for name in ("expression", "group", "animal", "is_control"):
            assert torch.equal(getattr(batch, name), getattr(own, name))
    assert (of.fold.bag_slides(moved[0]) == true.bag_slides(moved[0])) is (changed == "pretrain")


def test_pairs_shuffled_at_no_time_there_is_are_refused(featured: Study, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^shuffle_pairs=true: give one of pretraining, throughout or null$"
    ):
        RunSettings.read(small(featured, tmp_path, "shuffle_pairs=true"))
