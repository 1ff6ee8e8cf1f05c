"""One job on several processes of this machine: torchrun over ``toxfusion.distributed.worker``, from a resolved file.

Lightning's own launcher replays ``sys.argv`` in every rank, so that under a Hydra sweep each extra rank would
start a sweep of its own. Here the ranks never see the command line.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from toxfusion.config.nodes import located

RUN = "toxfusion.training.run.run"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1


class LaunchError(RuntimeError):
    """A job on several processes ended without a metric."""


def launch(config: dict[str, Any], processes: int, target: str = RUN) -> float:
    """Run ``target(config)`` on so many processes of this machine and return what rank zero returned.

    The configuration goes to ``<paths.output>/launch/config.yaml``, the metric comes back beside it. Where
    an outer torchrun or srun has started the ranks, ``target`` runs in this process, which is one of them.
    SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on. Raises LaunchError when a process fails, with the
    message of the rank that failed where that is one for the user.
    """
    if processes < 1:
        raise LaunchError(f"trainer.devices={processes}: at least one process is needed")
    if processes == 1 or adopt_ranks(os.environ):
        return float(located(target)(config))
    folder = Path(config["paths"]["output"]) / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    for left_over in (result_file(file), message_file(file)):
        left_over.unlink(missing_ok=True)
    status = _status_of(_command(file, processes, target), _environment(processes))
    return _metric(file, processes, status)


def adopt_ranks(environment: MutableMapping[str, str]) -> bool:
    """Whether an outer launcher has made this process one rank of several, or of one, already.

    torchrun says so itself. The tasks of an srun step get torchrun's variables here (WORLD_SIZE, RANK,
    LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so that there is one way to join the ranks.
    """
    if "WORLD_SIZE" not in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", "0"))
        environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
        environment["RANK"] = environment["SLURM_PROCID"]
        environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
        environment.setdefault("MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"]))
        environment.setdefault("MASTER_PORT", str(20000 + (job + step) % 10000))
    return "WORLD_SIZE" in environment


def check_ranks(devices: int, num_nodes: int) -> None:
    """Raises LaunchError where the ranks that were started are not the ones the configuration speaks of."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != devices * num_nodes:
        raise LaunchError(
            f"trainer.devices={devices} and trainer.num_nodes={num_nodes} make {devices * num_nodes} processes, but "
            f"{started} were started; let the two agree (several nodes are started by torchrun or srun)"
        )


def first_host(node_list: str) -> str:
    """The first host of SLURM's short form: ``gpu[07-09,12],cpu1`` gives gpu07."""
    name, number = re.match(r"([^\[,]+)(?:\[(\d+))?", node_list).groups(default="")  # type: ignore[union-attr]
    return f"{name}{number}"


def result_file(config_file: Path) -> Path:
    """Where rank zero writes ``{"metric": value}``."""
    return config_file.with_name("metric.json")


def message_file(config_file: Path) -> Path:
    """Where a rank that fails with a message to the user writes ``{"message": text}``."""
    return config_file.with_name("message.json")


def die_with_parent() -> None:
    """Have Linux kill this process when its parent ends, so that no rank outlives a killed job."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _command(file: Path, processes: int, target: str) -> list[str]:
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    return [*torchrun, "-m", "toxfusion.distributed.worker", str(file), "--target", target]


def _environment(processes: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // processes)), **os.environ}


def _status_of(command: list[str], environment: Mapping[str, str]) -> int:
    """Exit status of a command, which gets the signals that this process gets meanwhile."""
    # A session of its own: Ctrl-C in a terminal would otherwise reach it twice.
    process = subprocess.Popen(
        command, env=dict(environment), start_new_session=True, preexec_fn=die_with_parent
    )
    with process, _signals_to(process):
        return process.wait()


@contextmanager
def _signals_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; a launcher that runs jobs in threads stops them itself
        return
    before = {number: signal.signal(number, lambda got, _: process.send_signal(got)) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _metric(file: Path, processes: int, status: int) -> float:
    if status != 0:
        if message_file(file).is_file():
            raise LaunchError(json.loads(message_file(file).read_text())["message"])
        cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        raise LaunchError(
            f"the job on {processes} processes ended with {cause}; what its ranks wrote stands above, "
            f"its configuration is {file}"
        )
    if not result_file(file).is_file():
        raise LaunchError(f"the job on {processes} processes ended well but left no {result_file(file)}")
    return float(json.loads(result_file(file).read_text())["metric"])
