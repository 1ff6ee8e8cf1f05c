"""One command line of toxfusion, as a benchmark runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class CommandError(SystemExit):
    """A command line of toxfusion failed; the benchmark ends with this sentence where nothing catches it."""


def command(*arguments: str, log: Path | None = None) -> None:
    """Print ``python -m`` and the arguments, and run them; one thread, unless OMP_NUM_THREADS says another number.

    Args:
        log: file that takes what it prints; None: the terminal.

    Raises:
        CommandError: it ended with a status other than 0.
    """
    print("$ python -m", *arguments, flush=True)
    line, environment = [sys.executable, "-m", *arguments], {"OMP_NUM_THREADS": "1", **os.environ}
    if log is None:
        status, where = subprocess.run(line, env=environment).returncode, "above"
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            status = subprocess.run(line, env=environment, stdout=file, stderr=file).returncode
        where = f"in {log}"
    if status:
        raise CommandError(f"error: {arguments[0]} ended with status {status}; what it said stands {where}")
