"""W&B without an account: offline runs are read back from their files, and the workspace is built on what they log."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from tests.feature_store import featured_study
from tests.training.small_runs import small
from toxfusion.config.entry import compose
from toxfusion.runs.after import report
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study
from toxfusion.training import run as training
from toxfusion.training.folder import RunFolder
from toxfusion.training.wandb import LONGEST_NAME, group_of, job_type

OFFLINE = [
    "logger=wandb_offline",
    "trainer.validate_every=12",
    "size.pretrain_steps=12",
    "size.finetune_steps=12",
]
#: The two test slides with the highest grades; the file of the first does not exist.
MISSING, DRAWN = "alphamide_96h_high_0.0", "epsilol_24h_high_0.0"
BLOCK, HEADER = 32768, struct.Struct("<IHB")
LAST_PARTS = (1, 4)


def records(file: Path) -> Iterator[Record]:
    """The records of a .wandb file: LevelDB's log format, after seven bytes that name the format."""
    data, at, parts = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + HEADER.size <= len(data):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        parts += data[at : at + length]
        at += length
        if kind in LAST_PARTS:
            yield Record.FromString(parts)
            parts = b""


class Tracked:
    """What the offline W&B runs of a run folder hold."""

    def __init__(self, folder: Path) -> None:
        self.ids: list[str] = []
        self.history: dict[str, list[Any]] = {}
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.artifacts: dict[str, list[str]] = {}
        self.files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
        for file in self.files:
            for record in records(file):
                self._take(record)

    def _take(self, record: Record) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.run = record.run
            self.ids.append(record.run.run_id)
            self.config = {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif kind == "history":
            for item in record.history.item:
                name = item.key or item.nested_key[0]
                value = json.loads(item.value_json)
                if len(item.nested_key) > 1:
                    self.history.setdefault(name, [{}])[0][item.nested_key[1]] = value
                else:
                    self.history.setdefault(name, []).append(value)
        elif kind == "summary":
            self.summary |= {i.key: json.loads(i.value_json) for i in record.summary.update if i.key}
        elif kind == "artifact":
            self.artifacts[record.artifact.type] = [e.path for e in record.artifact.manifest.contents]

    def table(self, name: str) -> pd.DataFrame:
        file = self.files[-1].parent / "files" / self.history[name][0]["path"]
        content = json.loads(file.read_text())
        return pd.DataFrame(content["data"], columns=content["columns"])

    def picture(self, path: str) -> bytes:
        return (self.files[-1].parent / "files" / path).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def wandb_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B keeps what it caches and stages out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "DATA", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp(name.lower())))
        patch.setenv("WANDB_SILENT", "true")
        yield
        wandb.teardown()


@pytest.fixture(scope="module")
def featured(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = featured_study(tmp_path_factory.mktemp("featured") / "study", mpp_override=0.5)
    path = study.slide_path(DRAWN)
    path.parent.mkdir()
    tifffile.imwrite(
        path,
        np.full((2304, 2304, 3), 220, np.uint8),
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
    )
    return study


def tracked_run(study: Study, outputs: Path, *extra: str) -> tuple[RunFolder, dict[str, Any]]:
    config = small(study, outputs, *OFFLINE, *extra)
    training.run(config)
    report(config)
    return RunFolder(Path(config["paths"]["output"])), config


@pytest.fixture(scope="module")
def full(
    featured: Study, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, dict[str, Any], Tracked]:
    folder, config = tracked_run(featured, tmp_path_factory.mktemp("full"))
    return folder, config, Tracked(folder.root)


def test_the_run_carries_its_config_group_kind_and_tags(
    full: tuple[RunFolder, dict[str, Any], Tracked],
) -> None:
    folder, config, tracked = full
    assert {k: v for k, v in tracked.config.items() if k != "_wandb"} == json.loads(json.dumps(config))
    assert tracked.run.run_group == group_of(config)
    assert tracked.run.job_type == "train"
    assert {"fold0", "seed0"} <= set(tracked.run.tags)
    assert json.loads(folder.tracking.read_text()) == {
        "attempt": 0,
        "complete": True,
        "id": tracked.run.run_id,
    }


def test_every_value_of_the_history_on_disk_is_in_the_run(
    full: tuple[RunFolder, dict[str, Any], Tracked],
) -> None:
    folder, config, tracked = full
    history = pd.read_csv(folder.history)
    for (stage, name), logged in history.groupby(["stage", "name"]):
        np.testing.assert_allclose(tracked.history[f"{stage}-{name}"], logged["value"], rtol=1e-6)
    names = set(history["stage"] + "-" + history["name"])
    terms = [k for k, v in config["pretrain"]["weights"].items() if v > 0]
    assert {f"pretrain-{part}/{t}" for t in ["loss", *terms] for part in ("train", "valid")} <= names
    assert {f"finetune-train/{t}" for t in ("loss", "dili", "injury", "lesions", "severity")} <= names
    assert {f"pretrain-monitor/{m}_{of}" for m in ("rank", "uniformity", "variance_private")
            for of in ("slide", "expression")} <= names  # fmt: skip
    assert {
        "pretrain-monitor/alignment",
        "pretrain-monitor/gate_slide",
        "finetune-monitor/gate_slide",
    } <= names


def test_metrics_with_intervals_predictions_and_gates_are_those_on_disk(
    full: tuple[RunFolder, dict[str, Any], Tracked],
) -> None:
    folder, _, tracked = full
    scores = json.loads(folder.metrics.read_text())["scores"]
    kappa = scores["severity"]["quadratic_kappa"]
    for ending, part in (("", "value"), ("_low", "low"), ("_high", "high")):
        assert tracked.summary[f"test/severity/quadratic_kappa{ending}"] == pytest.approx(kappa[part])
    table = tracked.table("metrics").set_index(["task", "metric"])
    assert set(table.index) == {(task, metric) for task, of in scores.items() for metric in of}
    assert table.loc[("severity", "quadratic_kappa"), "high"] == pytest.approx(kappa["high"])

    key = ["task", "unit_id"]
    written = pd.read_parquet(folder.predictions).set_index(key).sort_index()
    shown = tracked.table("predictions").set_index(key).sort_index()
    assert list(shown.index) == list(written.index)
    np.testing.assert_allclose(shown["score"], written["score"])

    obs = anndata.read_h5ad(folder.embeddings).obs
    gates = tracked.table("gates").set_index("sample_id")
    np.testing.assert_allclose(gates["gate_slide"], obs.loc[gates.index, "gate_slide"], rtol=1e-6)
    assert len(gates) == len(obs)
    mean = obs.loc[obs["part"] == "test", "gate_slide"].mean()
    assert tracked.summary["test/gate_slide"] == pytest.approx(mean, rel=1e-5)


def test_pictures_are_the_files_of_the_run_folder_and_a_lost_slide_is_in_the_audit(
    full: tuple[RunFolder, dict[str, Any], Tracked],
) -> None:
    folder, _, tracked = full
    names = {"curves.png", "confusion.png", f"heatmap_{DRAWN}.png"}
    assert {f.name for f in folder.figures.iterdir()} == names
    for name in ("curves", "confusion"):
        logged = tracked.picture(tracked.history[f"figures/{name}"][0]["path"])
        assert logged == (folder.figures / f"{name}.png").read_bytes()
    heatmaps = tracked.history["figures/heatmaps"][0]
    assert heatmaps["captions"] == [DRAWN]
    logged = tracked.picture(heatmaps["filenames"][0])
    assert logged == (folder.figures / f"heatmap_{DRAWN}.png").read_bytes()
    (lost,) = [r for r in Audit.read(folder.audit).records if r.kind == "heatmap"]
    assert lost.id == MISSING
    assert "no such file" in lost.reason


def test_the_checkpoint_and_the_results_are_artifacts(
    full: tuple[RunFolder, dict[str, Any], Tracked],
) -> None:
    _, _, tracked = full
    assert tracked.artifacts["model"] == ["best.ckpt"]
    assert {"config.yaml", "split.json", "history.csv", "predictions.parquet", "metrics.json", "embeddings.h5ad",
            "audit.json", "figures/curves.png"} <= set(tracked.artifacts["results"])  # fmt: skip


def test_a_finished_run_is_logged_once(full: tuple[RunFolder, dict[str, Any], Tracked]) -> None:
    folder, config, tracked = full
    training.run(config)
    report(config)
    assert Tracked(folder.root).ids == tracked.ids == [tracked.run.run_id]


def test_an_interrupted_baseline_continues_its_run_and_a_fresh_start_is_another(
    featured: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["experiment=metadata_logistic"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit_baseline", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tracked_run(featured, tmp_path, *overrides)
    assert wandb.run is not None
    wandb.run.finish(exit_code=1)  # as W&B does where a process ends
    folder, _ = tracked_run(featured, tmp_path, *overrides)
    tracked = Tracked(folder.root)
    assert len(tracked.ids) == 2
    assert len(set(tracked.ids)) == 1
    assert tracked.run.job_type == "baseline"
    assert len(tracked.table("predictions")) == len(pd.read_parquet(folder.predictions))
    assert {"metrics", "figures/confusion"} <= set(tracked.history)
    assert set(tracked.artifacts) == {"results", "run_table"}
    tracked_run(featured, tmp_path, *overrides, "resume=false")
    deadline = time.monotonic() + 60  # W&B writes the last records in a process of its own
    while len(set(Tracked(folder.root).ids)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(set(Tracked(folder.root).ids)) == 2


def test_what_wandb_does_not_take_is_kept_and_logged_the_next_time(
    featured: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise wandb.errors.CommError("the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(wandb.Run, "log_artifact", refuse)
        folder, config = tracked_run(featured, tmp_path, "experiment=metadata_logistic")
    assert "the server is away" in capsys.readouterr().err
    assert folder.finished() is not None
    assert folder.predictions.is_file()
    assert not json.loads(folder.tracking.read_text())["complete"]
    report(config)
    assert json.loads(folder.tracking.read_text())["complete"]
    assert "predictions.parquet" in Tracked(folder.root).artifacts["results"]


def tracked_config(*extra: str) -> dict[str, Any]:
    return compose("train", ["data.root=studies/mine", "logger=wandb", *extra])


def test_folds_and_seeds_of_one_setting_share_a_group_and_trials_that_of_their_sweep() -> None:
    one = group_of(tracked_config())
    assert one == group_of(tracked_config("split.fold=2", "seed=3")) == "mine/full"
    assert group_of(tracked_config("fusion=concat")) == "mine/full_fusion-concat"
    trials = [
        tracked_config("hparams_search=optuna", f"optimizer.finetune_lr={lr}") for lr in ("1e-3", "1e-4")
    ]
    assert {group_of(trial) for trial in trials} == {"mine/full/optuna"}
    assert group_of(tracked_config("logger.group=mine")) == "mine"
    long = group_of(tracked_config(f"data.root={'x' * 200}"))
    assert len(long) == LONGEST_NAME


@pytest.mark.parametrize(
    ("experiment", "kind"),
    [("full", "train"), ("pca_forest", "baseline"), ("tile_encoder", "tile_encoder")],
)
def test_the_kind_of_a_run_is_what_it_trains(experiment: str, kind: str) -> None:
    assert job_type(tracked_config(f"experiment={experiment}")) == kind
    if kind == "train":
        assert job_type(tracked_config("task=none")) == "pretrain"


# --- the workspace ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The panels of the workspace that the command writes."""
    pytest.importorskip("wandb_workspaces", reason="needs toxfusion[dashboard]")
    from toxfusion import dashboard

    outputs = tmp_path_factory.mktemp("dashboard")
    dashboard.main(["entity=someone", f"paths.outputs={outputs}"])
    content = json.loads((outputs / "dashboard" / "workspace.json").read_text())
    assert (content["entity"], content["project"]) == ("someone", "toxfusion")
    section = content["spec"]["section"]
    assert section["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    return [p for s in section["panelBankConfig"]["sections"] for p in s["panels"]]


def test_the_workspace_shows_what_a_run_logs(
    panels: list[dict[str, Any]], full: tuple[RunFolder, dict[str, Any], Tracked]
) -> None:
    _, _, tracked = full
    configs = [panel["config"] for panel in panels]
    lines = {name for c in configs for name in c.get("metrics", [])}
    patterns = [c["metricRegex"] for c in configs if "metricRegex" in c]
    logged = [k for k in tracked.history if re.match(r"(pretrain|finetune)-(train|valid|monitor)/", k)]
    assert len(logged) > 20
    hidden = [k for k in logged if k not in lines and not any(re.search(p, k) for p in patterns)]
    assert hidden == []
    for pattern in patterns:
        assert any(re.search(pattern, k) for k in logged)
    shown = {k.removeprefix("summary:") for k in lines}
    for headline, metric in (("dili", "auroc"), ("injury", "auroc"), ("severity", "quadratic_kappa")):
        assert {f"test/{headline}/{metric}{end}" for end in ("", "_low", "_high")} <= shown
    assert "test/severity/quadratic_kappa_low" in tracked.summary
    media = {key for c in configs for key in c.get("mediaKeys", [])}
    assert media == {k for k in tracked.history if k.startswith("figures/")}
    tables = " ".join(json.dumps(panel) for panel in panels if panel["viewType"] == "Weave")
    for name in ("metrics", "predictions", "gates"):
        assert f'"{name}"' in tables
        assert name in tracked.history


def test_saving_without_an_account_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs toxfusion[dashboard]")
    from toxfusion.training.workspace import WorkspaceError, build_workspace, save_workspace

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(WorkspaceError, match=r"entity=someone.*wandb login"):
        save_workspace(build_workspace("someone", "toxfusion", "test", terms=[]))
