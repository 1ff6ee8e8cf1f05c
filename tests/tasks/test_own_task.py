"""A kind of task from a user's own package: one class, one file of conf, and nothing else."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import tiny_tables
from tests.feature_store import write_features
from tests.training.small_runs import SMALL, STORED
from toxfusion import train
from toxfusion.config.entry import compose
from toxfusion.explanation.targets import chosen_tasks, predict
from toxfusion.runs.again import evaluate_run
from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.study.study import Study, write_study
from toxfusion.tasks.task import TaskError
from toxfusion.training.checkpoint import read_checkpoint
from toxfusion.training.folder import RunFolder
from toxfusion.training.task_nodes import build_tasks

CLASS = """
    import numpy as np
    from torch import nn
    from toxfusion.models.heads import RegressionHead
    from toxfusion.tasks.task import SampleTask, require_column


    class LiverWeight(SampleTask):
        name = headline = "liver_weight"
        family = "value"
        fitted = ("mean", "deviation")

        def __init__(self, column, *, weight=1.0):
            super().__init__(weight=weight)
            self.column = column

        @property
        def columns(self):
            return (self.column,)

        def learn(self, study, train, audit):
            require_column(study, "task.kinds.liver_weight.column", self.column)
            known = study.obs.loc[list(train), self.column].dropna()
            self.mean, self.deviation = float(known.mean()), float(known.std())

        def labels(self, study, sample_ids):
            values = study.obs.loc[list(sample_ids), self.column].to_numpy(np.float64)
            return ((values - self.mean) / self.deviation).astype(np.float32)

        def head(self, width):
            return RegressionHead(width, 1)

        def objective(self, labels):
            return nn.HuberLoss()

        def loss(self, objective, head, vector, batch):
            label = batch.labels[self.name]
            known = label.isfinite()
            return objective(head(vector)[known, 0], label[known]) if known.any() else vector.sum() * 0

        def targets(self, head, vector):
            return head(vector)

        def scores(self, head, vectors):
            return head(vectors)
"""
NODE = """
    # Relative weight of the liver, beside the lesions of the animal.
    defaults:
      - lesions
      - _self_
    kinds:
      liver_weight: {_target_: own_package.weights.LiverWeight, column: liver_weight, weight: 0.7}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a package of one class and a conf folder of one file; returns the conf folder."""
    root = tmp_path_factory.mktemp("own")
    for path, text in (("own_package/weights.py", CLASS), ("conf/task/liver_weight.yaml", NODE)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(textwrap.dedent(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield root / "conf"


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    tables = tiny_tables()
    values = 4.0 + np.random.default_rng(3).normal(size=len(tables["obs"]))
    values[4] = np.nan
    tables["obs"] = tables["obs"].assign(liver_weight=values)
    study = write_study(tmp_path_factory.mktemp("weighed") / "study", **tables)
    write_features(study)
    return study


@pytest.fixture(scope="module")
def folder(own: Path, weighed: Study, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Pretrained and fine-tuned from the command line."""
    outputs = tmp_path_factory.mktemp("outputs")
    asked = [f"data.root={weighed.root}", f"paths.outputs={outputs}", "task=liver_weight", "heatmaps=0"]
    train.main(["--config-dir", str(own), *SMALL, *STORED, *asked])
    (done,) = outputs.rglob("done.json")
    return RunFolder(done.parent)


@pytest.fixture(scope="module")
def run(folder: RunFolder) -> LoadedRun:
    return load_run(folder, *load_own_study(folder))


def test_a_task_of_ones_own_is_learned_scored_and_measured(folder: RunFolder, weighed: Study) -> None:
    history = pd.read_csv(folder.history)
    assert {"valid/liver_weight", "valid/lesions"} <= set(history["name"])
    table = pd.read_parquet(folder.predictions)
    mine = table[(table["task"] == "liver_weight") & (table["part"] == "test")].set_index("unit_id")
    split = json.loads(folder.split.read_text())
    assert set(mine.index) == set(split["test"])
    train_values = weighed.obs.loc[split["train"], "liver_weight"].dropna()
    expected = (weighed.obs.loc[mine.index, "liver_weight"] - train_values.mean()) / train_values.std()
    np.testing.assert_allclose(mine["label"], expected, rtol=1e-4, atol=1e-5)
    scores = json.loads(folder.metrics.read_text())["scores"]["liver_weight"]
    assert np.isfinite(scores["spearman"]["value"])
    state = read_checkpoint(folder.stage("finetune") / "best.ckpt")["contract"]["tasks"]
    assert state["liver_weight"] == {"mean": train_values.mean(), "deviation": train_values.std()}


def test_a_task_of_ones_own_is_loaded_predicted_and_explained(folder: RunFolder, run: LoadedRun) -> None:
    assert "liver_weight" in chosen_tasks(run, "auto")
    assert run.tasks["liver_weight"].weight == 0.7
    test = run.fold.split.test
    stored = pd.read_parquet(folder.predictions)
    again = run.predict(test).set_index(["task", "unit_id"])["score"]
    stored = stored[stored["part"] == "test"].set_index(["task", "unit_id"])["score"]
    np.testing.assert_allclose(again.loc[stored.index], stored, atol=1e-6)
    number = predict(run, run.batch(test), "liver_weight")
    assert number.requires_grad
    np.testing.assert_allclose(number.detach(), stored.loc["liver_weight"].loc[test], atol=1e-5)


def test_a_probe_that_does_not_fit_says_why(folder: RunFolder, own: Path, tmp_path: Path) -> None:
    table = evaluate_run(folder, tmp_path, draws=20, seed=0, probes=["knn"], embeddings=["finetuned"]).probes
    said = table[table["task"] == "liver_weight"]
    assert said["reason"].tolist() == ["knn tells two classes apart, and the label of this task is a value"]
    assert table.loc[table["task"].str.startswith("lesion:"), "value"].notna().any()


def test_what_is_no_task_and_what_is_there_twice_are_refused() -> None:
    config = compose("train", ["data.root=x", "task=lesions"])
    config["task"]["kinds"]["again"] = dict(config["task"]["kinds"]["lesions"])
    with pytest.raises(TaskError, match="two tasks are named 'lesions'"):
        build_tasks(config)
    config["task"]["kinds"]["again"] = {"_target_": "collections.OrderedDict"}
    with pytest.raises(TaskError, match=r"collections\.OrderedDict is no task; derive it from"):
        build_tasks(config)
