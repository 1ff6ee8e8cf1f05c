"""Every benchmark can be started; what they measure is tested beside each."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.overhead import parts_of_a_run

BENCHMARKS = sorted(file.stem for file in (Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_a_benchmark_imports_is_there(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_every_part_of_a_run_that_overhead_clocks_is_there() -> None:
    absent = [name for owner, name, _ in parts_of_a_run() if not hasattr(owner, name)]
    assert absent == []
