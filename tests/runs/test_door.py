"""What a Python user reaches from ``import toxfusion``."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

import toxfusion as tf
from tests.training.small_runs import SMALL, STORED
from toxfusion.runs.after import next_steps
from toxfusion.study.study import Study
from toxfusion.training.assemble import TrainingError
from toxfusion.training.folder import RunError, RunFolder


def test_every_public_name_is_where_the_door_says() -> None:
    for name in set(tf.__all__) - {"__version__"}:
        assert getattr(tf, name).__module__.startswith("toxfusion.")
    assert set(dir(tf)) == set(tf.__all__)
    with pytest.raises(AttributeError, match="it has"):
        getattr(tf, "nothing of this name")


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import json, sys, toxfusion; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert not {"torch", "numpy", "pandas", "hydra", "anndata"} & set(modules)


def test_a_run_embeds_and_predicts_a_study(finished_run: tuple[Study, Path]) -> None:
    study, folder = finished_run
    loaded = tf.load(folder)
    own = loaded.embed()
    written = anndata.read_h5ad(RunFolder(folder).embeddings)
    there = [s for s in written.obs_names if s in own.obs_names]
    np.testing.assert_allclose(own[there].X, written[there].X, rtol=1e-4, atol=1e-5)
    again = loaded.embed(study.root)
    np.testing.assert_allclose(again[there].X, written[there].X, rtol=1e-4, atol=1e-5)
    risks = loaded.predict(study.root)
    assert {"task", "unit_id", "risk"} <= set(risks.columns)
    assert risks["risk"].between(0, 1)[risks["task"].eq("dili")].all()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finished run; give a run folder"):
        tf.load(tmp_path)


def test_a_configuration_begins_as_its_run_does(finished_run: tuple[Study, Path]) -> None:
    study, folder = finished_run
    line = [f"data.root={study.root}", *SMALL, *STORED]
    start = tf.begin(tf.compose("train", line))
    loaded = tf.load(folder).on()
    assert start.fold.split == loaded.fold.split
    assert start.tasks.state() == loaded.contract["tasks"]
    ours, theirs = start.batch(start.train[:4]), loaded.batch(start.train[:4])
    np.testing.assert_array_equal(ours.expression, theirs.expression)
    np.testing.assert_array_equal(ours.tiles.features, theirs.tiles.features)
    with pytest.raises(TrainingError, match="method=network"):
        tf.begin(tf.compose("train", [*line, "experiment=pca_logistic"]))


def test_a_finished_run_says_what_it_holds_and_commands_that_exist(
    finished_run: tuple[Study, Path], tmp_path: Path
) -> None:
    _, folder = finished_run
    config = RunFolder(folder).read_config()
    first, *rest = next_steps(config, brief=False).splitlines()
    assert next_steps(config, brief=True) == first + "\n"
    assert first.startswith(f"finished: {folder}")
    files, commands = rest[: rest.index("next:")], rest[rest.index("next:") + 1 :]
    assert "  checkpoints/finetune/best.ckpt" in files
    assert all((folder / file.strip()).exists() for file in files)
    for line in commands:
        _, command, *overrides = shlex.split(line)
        assert tf.compose(command, overrides)["paths"]
    assert [line.split()[1] for line in commands] == ["evaluate", "explain", "predict", "export", "compare"]
    other = {**config, "paths": {"output": str(tmp_path)}}
    assert next_steps(other, brief=True) == ""
    RunFolder(tmp_path).close(other, 0.7124)
    assert next_steps(other, brief=True) == f"finished: {tmp_path}, validation score 0.712\n"


def test_a_run_without_a_task_says_what_it_retrieves_and_what_it_lacks(
    finished_run: tuple[Study, Path], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    config = {**RunFolder(finished_run[1]).read_config(), "paths": {"output": str(tmp_path)}}
    measured = {"direction": "slide_to_expression", "match": "instance", "metric": "recall_at_10", "value": 0.173,
                "chance": 0.054, "n": 185}  # fmt: skip
    folder.metrics.write_text(json.dumps({"retrieval": [measured, {**measured, "metric": "median_rank"}]}))
    folder.figures.mkdir()
    (folder.stage("pretrain") / "best.ckpt").parent.mkdir(parents=True)
    (folder.stage("pretrain") / "best.ckpt").touch()
    folder.close(config, float("nan"))
    assert next_steps(config, brief=False).splitlines()[1:] == [
        "  metrics.json",
        "retrieval, slide to expression: 0.173 among the first ten (chance 0.054, 185 test samples)",
    ]
    with pytest.raises(RunError, match="was pretrained alone"):
        folder.read_trained()


def test_a_run_whose_study_was_moved_says_where_to_write_its_new_place(
    finished_run: tuple[Study, Path], tmp_path: Path
) -> None:
    study, trained_run = finished_run
    folder = shutil.copytree(trained_run, tmp_path / "run")
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    gone = tmp_path / "gone"
    (folder / "config.yaml").write_text(config.replace(str(study.root), str(gone)), encoding="utf-8")
    with pytest.raises(RunError, match=r"not at .*gone any more; .*config\.yaml, data\.root"):
        tf.load(folder).on()
