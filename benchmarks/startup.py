"""Seconds until each command has printed its help, and until it has composed its configuration.

    python benchmarks/startup.py [repeats]

Each number is the median over fresh processes. The targets are 1 s for --help and 2 s for composing.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "toxfusion"
CONF = PACKAGE.parent / "conf"
ASKED = {"--help": ["--help"], "compose": ["--cfg", "job"]}


def commands() -> list[str]:
    return sorted(file.stem for file in PACKAGE.glob("*.py") if "\n@entry_point(" in file.read_text())


def required_groups(command: str) -> list[str]:
    """``group=option`` for the groups that have no default."""
    groups = re.findall(r"^ +- (\w+): \?\?\?", (CONF / f"{command}.yaml").read_text(), re.MULTILINE)
    return [f"{group}={min((CONF / group).glob('*.yaml')).stem}" for group in groups]


def median_seconds(command: str, arguments: list[str], repeats: int) -> float:
    """Median wall-clock seconds of a command over fresh processes, after one to warm the file cache."""
    line = [sys.executable, "-m", f"toxfusion.{command}", *arguments]
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'command':<12}" + "".join(f"{name:>12}" for name in ASKED))
    for command in commands():
        medians = (
            median_seconds(command, [*arguments, *required_groups(command)], repeats)
            for arguments in ASKED.values()
        )
        print(f"{command:<12}" + "".join(f"{seconds:>10.2f} s" for seconds in medians), flush=True)


if __name__ == "__main__":
    main()
