"""Sweeps: one failed cell, a search, other processes, and a kill half-way; what is finished is never run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import tiny_tables
from tests.feature_store import write_features
from toxfusion import train
from toxfusion.config.entry import compose
from toxfusion.config.sweep import FAILED
from toxfusion.study.study import Study, write_study
from toxfusion.training.folder import RunFolder
from toxfusion.training.run import run

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["size=tiny", "debug=fast", "size.n_genes=20", "task.min_animals=3", "task.min_compounds=2",
         "tile_features=none"]  # fmt: skip
needs_sweeps = pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_optuna_sweeper") is None
    or find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="pip install 'toxfusion[sweeps]'",
)


def line(study: Study, outputs: Path, *overrides: str) -> list[str]:
    return [f"data.root={study.root}", f"paths.outputs={outputs}", *SMALL, *overrides]


def finished(outputs: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """Run folder below ``outputs`` -> when its done.json was written, and what it says."""
    files = sorted(outputs.rglob("done.json"))
    return {
        str(f.parent.relative_to(outputs)): (f.stat().st_mtime_ns, json.loads(f.read_text())) for f in files
    }


def folds_with_both_classes(study: Study, folder: Path) -> list[str]:
    """The overrides of a published fold that tests zetastat and chooses on a compound of each class."""
    parts = study.obs["compound"].map({"zetastat": "test", "gammacin": "valid", "deltaprofen": "valid"})
    table = pd.DataFrame({"sample_id": study.obs.index, "fold": 0, "part": parts.fillna("train").to_numpy()})
    table.to_csv(folder / "folds.csv", index=False)
    return ["split=predefined", f"split.path={folder / 'folds.csv'}"]


def refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    assert stopped.value.code == 2


def test_a_cell_that_fails_is_recorded_and_the_others_run(
    tiny_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = line(
        tiny_study, tmp_path, "-m", "experiment=metadata_logistic", "split.n_folds=3", "split.fold=7,0,8,1"
    )
    refused(sweep)
    (folder,) = (tmp_path / "study").iterdir()
    assert sorted(p.parent.name for p in folder.glob("*/done.json")) == ["fold0_seed0", "fold1_seed0"]
    failed = {file.parent.name: json.loads(file.read_text()) for file in folder.glob(f"*/{FAILED}")}
    assert sorted(failed) == ["fold7_seed0", "fold8_seed0"]
    record = failed["fold8_seed0"]
    assert "split.fold=8" in record["overrides"]
    assert "fold 8 does not exist: there are 3 folds" in record["message"]
    assert "SplitError" in record["traceback"]
    said = capsys.readouterr().err
    for name in failed:
        assert f"failed: {folder / name / FAILED}: fold {name[4]} does not exist" in said
    assert "error: 2 cells of the sweep failed" in said
    before = finished(tmp_path)
    refused(sweep)
    assert finished(tmp_path) == before
    # A sweep names its own failures only, and a cell that gets through leaves none.
    (folder / "fold2_seed0").mkdir()
    (folder / "fold2_seed0" / FAILED).write_text((folder / "fold7_seed0" / FAILED).read_text())
    train.main(
        line(
            tiny_study, tmp_path, "-m", "experiment=metadata_logistic", "split.n_folds=3", "split.fold=0,1,2"
        )
    )
    assert not (folder / "fold2_seed0" / FAILED).exists()
    assert {name: finished(tmp_path)[name] for name in before} == before


@needs_sweeps
def test_a_search_of_three_trials_is_continued_and_not_repeated(
    tiny_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = folds_with_both_classes(tiny_study, tmp_path)
    command_line = line(tiny_study, tmp_path, "experiment=ablation_omics_only", *folds, "hparams_search=optuna",
                 "pretrain.gene_mask=interval(0.2,0.3)")  # fmt: skip
    refused(command_line[:-1])
    assert "give -m with hparams_search" in capsys.readouterr().err
    train.main(["-m", *command_line, "hydra.sweeper.n_trials=3"])
    first = finished(tmp_path)
    scores = [content["objective"] for _, content in first.values()]
    assert len(scores) == 3
    for name in first:
        masked = RunFolder(tmp_path / name).read_config()["pretrain"]["gene_mask"]
        assert 0.2 <= masked <= 0.3
    best = (tmp_path / "optimization_results.yaml").read_text()
    assert f"best_value: {max(scores)}" in best
    train.main(["-m", *command_line, "hydra.sweeper.n_trials=4"])
    after = finished(tmp_path)
    assert len(after) == 4
    assert {name: after[name] for name in first} == first


@needs_sweeps
def test_a_trial_without_a_validation_score_is_a_failed_one(
    tiny_study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grades alone define no score between 0 and 1: nothing that a sampler could learn from."""
    command_line = line(tiny_study, tmp_path, "experiment=pca_logistic", "modality=omics", "task=severity")
    refused(["-m", *command_line, "hparams_search=optuna", "hydra.sweeper.n_trials=2"])
    said = capsys.readouterr().err
    assert said.count("no validation score to search by") == 2
    assert "error: 2 cells of the sweep failed" in said


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], id="side by side"),
        # The launcher of SLURM, with submitit's executor for this machine in place of its jobs.
        pytest.param(["hydra/launcher=submitit_local"], id="scheduler", marks=needs_sweeps),
    ],
)
def test_cells_run_in_processes_of_their_own(tiny_study: Study, tmp_path: Path, launcher: list[str]) -> None:
    command_line = line(
        tiny_study, tmp_path, "experiment=metadata_logistic", "split.n_folds=3", "split.fold=0,9,1"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "toxfusion.train", "-m", *command_line, *launcher],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    (folder,) = (tmp_path / "study").iterdir()
    assert [Path(run).name for run in finished(tmp_path)] == ["fold0_seed0", "fold1_seed0"]
    assert f"failed: {folder / 'fold9_seed0' / FAILED}: fold 9 does not exist" in ended.stderr


def study_with_test_part(root: Path, changed: bool) -> Study:
    """The small study; labels, profiles and slides of zetastat, which is tested, are others if ``changed``."""
    tables = tiny_tables()
    obs = tables["obs"]
    tested = (obs["compound"] == "zetastat").to_numpy()
    if changed:
        rng = np.random.default_rng(5)
        obs.loc[tested, "dili"] = 1.0
        obs.loc[tested & ~obs["is_control"], "injury"] = 1.0
        tables["expression"][tested] = rng.normal(3.0, 2.0, tables["expression"][tested].shape)
        tables["findings"].loc[tested] = rng.integers(0, 5, tables["findings"].loc[tested].shape)
        tables["spontaneous"].loc[tested] = False
        tables["slides"] = tables["slides"][~tables["slides"]["sample_id"].isin(obs.index[tested][:3])]
    study = write_study(root / "study", **tables)
    write_features(study)
    return study


def test_what_a_search_maximises_knows_nothing_of_the_test_part(tmp_path: Path) -> None:
    """The same objective and validation scores when labels, profiles and slides of the test part are others.

    Which lesions are tasks is named here: ``auto`` counts grades over the whole study, the test part among it.
    """
    runs = []
    for changed in (False, True):
        root = tmp_path / str(changed)
        study = study_with_test_part(root, changed)
        own = [g for g in line(study, root / "outputs") if not g.startswith("tile_features")]
        folds = folds_with_both_classes(study, root)
        config = compose("train", [*own, *folds, "tile_features=store", "tile_features.name=test",
                                   "task.lesions=[Necrosis]"])  # fmt: skip
        objective = run(config)
        table = pd.read_parquet(RunFolder(Path(config["paths"]["output"])).predictions)
        runs.append(
            (objective, {part: tested.reset_index(drop=True) for part, tested in table.groupby("part")})
        )
    (one, before), (other, after) = runs
    assert one == other
    assert 0 <= one <= 1
    pd.testing.assert_frame_equal(
        before["valid"], after["valid"], rtol=1e-5
    )  # the parts share batches: rounding
    assert not before["test"]["score"].equals(after["test"]["score"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a sweep in /proc")
def test_a_sweep_of_two_ranks_killed_half_way_finishes_without_repeating(
    tiny_study: Study, tmp_path: Path
) -> None:
    command_line = ["-m", *line(tiny_study, tmp_path, "experiment=ablation_omics_only", "split.n_folds=3",
                         "split.fold=0,1", "trainer=ddp_cpu", "trainer.progress=false")]  # fmt: skip
    sweep = subprocess.Popen(
        [sys.executable, "-m", "toxfusion.train", *command_line],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 900
    while len(begun := list(tmp_path.glob("*/*/fold*/history.csv"))) < 2:
        assert sweep.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    while processes_that_name(str(tmp_path)):
        assert time.monotonic() < deadline, "a rank outlived its sweep"
        time.sleep(0.1)
    before = finished(tmp_path)
    assert len(begun) == 2
    assert len(before) == 1
    train.main(command_line)
    after = finished(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2
    for name in after:
        history = pd.read_csv(tmp_path / name / "history.csv")
        assert not history.duplicated(["stage", "step", "name"]).any()
        assert (tmp_path / name / "predictions.parquet").is_file()
    assert len(list(tmp_path.rglob("predictions.parquet"))) == 2


def processes_that_name(text: str) -> list[str]:
    """Command lines of other processes alive that hold ``text``."""
    commands = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended meanwhile
                continue
            commands += [command] if text in command else []
    return commands
