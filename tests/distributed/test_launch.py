"""Several processes for one job: who starts them, what comes back, and what happens when one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from toxfusion.config.nodes import ConfigError
from toxfusion.distributed.launch import LaunchError, adopt_ranks, check_ranks, first_host, launch

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="gloo over torchrun is tried on Linux and macOS"
)
TARGET = f"{__name__}.{{}}"


def sum_of_ranks(config: dict[str, Any]) -> float:
    """Each rank adds weight * (rank + 1) and says so in a file of its own."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.tensor([config["weight"] * (dist.get_rank() + 1)])
    dist.all_reduce(total)
    Path(config["paths"]["output"], f"rank{dist.get_rank()}").write_text(str(os.getpid()))
    dist.destroy_process_group()
    return float(total) if os.environ["RANK"] == "0" else -1.0


def test_ranks_that_the_configuration_does_not_speak_of_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_ranks(2, 2)
    with pytest.raises(LaunchError, match="make 2 processes, but 4 were started"):
        check_ranks(2, 1)


def refuse(config: dict[str, Any]) -> float:
    raise ConfigError(f"column dose: {config['weight']} is no dose")


def exit_three(config: dict[str, Any]) -> float:
    raise SystemExit(3)


def wait_for_signal(config: dict[str, Any]) -> float:
    folder = Path(config["paths"]["output"])

    def stop(*_: object) -> None:
        (folder / f"stopped{os.environ['RANK']}").touch()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    (folder / f"rank{os.environ['RANK']}").write_text(str(os.getpid()))
    time.sleep(60)
    return 0.0


def weight_of(config: dict[str, Any]) -> float:
    return float(config["weight"])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[__name__.count(".")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return {"weight": 1.5e-5, "paths": {"output": str(tmp_path / "run")}, "name": "a, b = c"}


def test_two_processes_work_on_one_job_and_the_metric_of_rank_zero_comes_back(config: dict[str, Any]) -> None:
    assert launch(config, 2, TARGET.format("sum_of_ranks")) == pytest.approx(1.5e-5 * (1 + 2))
    run = Path(config["paths"]["output"])
    assert (run / "rank0").is_file()
    assert (run / "rank1").is_file()
    assert yaml.safe_load((run / "launch" / "config.yaml").read_text()) == config


def test_a_message_of_a_rank_is_the_message_of_the_job(config: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match=r"column dose: 1\.5e-05 is no dose"):
        launch(config, 2, TARGET.format("refuse"))


def test_a_failed_rank_is_an_error_even_with_the_metric_of_an_earlier_run(config: dict[str, Any]) -> None:
    earlier = Path(config["paths"]["output"], "launch", "metric.json")
    earlier.parent.mkdir(parents=True)
    earlier.write_text(json.dumps({"metric": 0.9}))
    with pytest.raises(LaunchError, match="2 processes ended with status 1"):
        launch(config, 2, TARGET.format("exit_three"))
    assert not earlier.exists()


def test_one_process_is_this_process(config: dict[str, Any]) -> None:
    assert launch(config, 1, TARGET.format("weight_of")) == 1.5e-5
    assert not Path(config["paths"]["output"]).exists()


def test_a_rank_of_an_outer_torchrun_starts_no_ranks(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch(config, 2, TARGET.format("weight_of")) == 1.5e-5
    assert not Path(config["paths"]["output"]).exists()


@pytest.mark.parametrize(
    ("environment", "started"),
    [
        ({}, False),
        ({"WORLD_SIZE": "1"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, False),  # a submitit job of one task
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # the batch script itself, outside srun
    ],
)
def test_a_rank_of_an_outer_launcher_is_recognised(environment: dict[str, str], started: bool) -> None:
    before = dict(environment)
    assert adopt_ranks(environment) is started
    assert environment == before


def test_the_tasks_of_an_srun_step_become_ranks_that_meet_in_one_place() -> None:
    step = {
        "SLURM_JOB_ID": "123456",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "gpu[07-09,12],cpu1",
    }
    ranks = [{**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 2)} for rank in range(4)]
    assert all(adopt_ranks(rank) for rank in ranks)
    assert [rank["RANK"] for rank in ranks] == ["0", "1", "2", "3"]
    assert [rank["LOCAL_RANK"] for rank in ranks] == ["0", "1", "0", "1"]
    assert {rank["WORLD_SIZE"] for rank in ranks} == {"4"}
    assert {(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in ranks} == {("gpu07", "23456")}
    assert first_host("node3") == first_host("node3,node5") == "node3"


def test_no_process_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match=r"trainer\.devices=0"):
        launch(config, 0, TARGET.format("weight_of"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_the_job(config: dict[str, Any], number: signal.Signals) -> None:
    """SIGTERM reaches the ranks, which may still write; SIGKILL, which nobody can pass on, ends them too."""
    run = Path(config["paths"]["output"])
    target = TARGET.format("wait_for_signal")
    program = f"from toxfusion.distributed.launch import launch; launch({config!r}, 2, {target!r})"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as job:
        ranks = [_text_of(run / f"rank{rank}") for rank in range(2)]
        job.send_signal(number)
        assert job.wait(30) != 0
    deadline = time.monotonic() + 30
    while any(_is_alive(int(pid)) for pid in ranks):
        assert time.monotonic() < deadline, "a rank outlived its job"
        time.sleep(0.05)
    assert (run / "stopped0").exists() is (number == signal.SIGTERM)


def _text_of(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < deadline, f"no {file}"
        time.sleep(0.05)
    return file.read_text()


def _is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
