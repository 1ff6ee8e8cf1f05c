"""Cells of a benchmark: a method on one fold with one seed, each in its own folder, and skipped once it is done."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from benchmarks.cohort_study import FOLDS
from benchmarks.command import CommandError


class Named(Protocol):
    """A method of a table."""

    @property
    def name(self) -> str: ...


SomeMethod = TypeVar("SomeMethod", bound=Named)


@dataclass(frozen=True)
class Cell(Generic[SomeMethod]):
    """A method on one fold, with one seed.

    Attributes:
        last: file of its folder that is written last.
        seeded: name and folder tell the seed; a benchmark of one seed has no need to.
        output: folder of the benchmark.
    """

    last: ClassVar[str]
    seeded: ClassVar[bool] = False
    method: SomeMethod
    fold: int
    output: Path
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.method.name}, fold {self.fold}" + (f", seed {self.seed}" if self.seeded else "")

    @property
    def folder(self) -> Path:
        own = f"fold{self.fold}" + (f"_seed{self.seed}" if self.seeded else "")
        return self.output / "cells" / self.method.name / own

    @property
    def readings(self) -> Path:
        """The file that is written last."""
        return self.folder / self.last

    @property
    def done(self) -> bool:
        return self.readings.is_file()


SomeCell = TypeVar("SomeCell", bound=Cell[Any])


def run_cells(
    cells: Sequence[SomeCell], run: Callable[[SomeCell], None], jobs: int, limit_minutes: float | None
) -> list[str]:
    """Run what is not done, ``jobs`` side by side, until the time is up; returns what failed, with its reason."""
    ends = None if limit_minutes is None else time.monotonic() + 60 * limit_minutes
    failed: list[str] = []

    def run_one(cell: SomeCell) -> None:
        if cell.done or (ends is not None and time.monotonic() > ends):
            return
        started = time.monotonic()
        try:
            run(cell)
        except (CommandError, ValueError, OSError) as error:
            failed.append(f"{cell.name}: {str(error).removeprefix('error: ')}")
            return
        print(f"{cell.name}: {time.monotonic() - started:.0f} s", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run_one, cells))
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return failed


def cell_parser(description: str | None, methods: Iterable[str], output: str) -> argparse.ArgumentParser:
    """The options that every benchmark of cells takes.

    Args:
        description: docstring of the command.
        methods: names of the rows. output: default folder of results.
    """
    names = tuple(methods)
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cohorts", nargs="+", help="default: all that are there")
    parser.add_argument("--rows", dest="methods", nargs="+", choices=names, default=list(names))
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side, one thread each")
    parser.add_argument("--limit-minutes", type=float, help="begin no cell after so many minutes")
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        help="of toxfusion.train, for every network (a test run: size=tiny)",
    )
    return parser
