"""Two runs at once: the second is refused by who holds the folder; a lock of a dead process is no lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from toxfusion.training.folder import RunError
from toxfusion.training.lock import HELD, only_run

HOLD = """
import sys, time
from pathlib import Path
from toxfusion.training.lock import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


def test_the_second_run_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"process {first.pid} on {socket.gethostname()}, since 20\d\d-"):
            only_run(tmp_path).__enter__()
        first.send_signal(signal.SIGKILL)
        first.wait()
    with only_run(tmp_path):
        assert os.environ[HELD] == str(tmp_path.resolve())
        with only_run(tmp_path):  # a process of the run itself works under its lock
            pass
    assert HELD not in os.environ
