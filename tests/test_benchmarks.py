"""Every benchmark can be started; what they measure is tested beside each."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.cells import Cell, run_cells
from benchmarks.command import command
from benchmarks.histology import STAGES, run_speed
from benchmarks.overhead import parts_of_a_run
from toxfusion.study.files import replace_file

BENCHMARKS = sorted(file.stem for file in (Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_a_benchmark_imports_is_there(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_every_part_of_a_run_that_overhead_clocks_is_there() -> None:
    absent = [name for owner, name, _ in parts_of_a_run() if not hasattr(owner, name)]
    assert absent == []


def test_the_stages_of_a_slide_are_its_functions_and_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    """A stage whose function was renamed has a KeyError; one that another of the same name hides has no share."""
    run_speed(side=400, count=1)
    printed = capsys.readouterr().out
    shares = {
        stage: float(share) for share, stage in re.findall(r"^ *([\d.]+)%  (.+)$", printed, re.MULTILINE)
    }
    assert set(STAGES) < set(shares)
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert shares["lobules, cells and objects"] > 10
    assert re.search(r"mean: [\d.]+ s a slide, [\d.]+ s a megapixel", printed)


@dataclass(frozen=True)
class Method:
    name: str


class LoggedCell(Cell[Method]):
    last = "done.txt"


def test_a_cell_has_a_folder_of_its_method_fold_and_seed(tmp_path: Path) -> None:
    class SeededCell(LoggedCell):
        seeded = True

    one, seeded = LoggedCell(Method("full"), 3, tmp_path), SeededCell(Method("full"), 3, tmp_path, 0)
    assert (one.name, one.readings) == ("full, fold 3", tmp_path / "cells" / "full" / "fold3" / "done.txt")
    assert seeded.name == "full, fold 3, seed 0"
    assert seeded.folder == tmp_path / "cells" / "full" / "fold3_seed0"


def test_cells_are_run_once_and_a_command_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    cells = [LoggedCell(Method(name), 3, tmp_path) for name in ("wrong", "right", "finished")]
    begun = []

    def run(cell: LoggedCell) -> None:
        begun.append(cell.method.name)
        if cell.method.name == "wrong":
            command("benchmarks.nothing", log=cell.folder / "log.txt")
        replace_file(cell.folder / cell.last, b"")

    replace_file(tmp_path / "cells" / "finished" / "fold3" / "done.txt", b"")
    assert run_cells(cells, run, 1, limit_minutes=0) == []
    assert begun == []
    log = tmp_path / "cells" / "wrong" / "fold3" / "log.txt"
    assert run_cells(cells, run, 1, None) == [
        f"wrong, fold 3: benchmarks.nothing ended with status 1; what it said stands in {log}"
    ]
    assert begun == ["wrong", "right"]
    assert [cell.done for cell in cells] == [False, True, True]
    assert "No module named benchmarks.nothing" in log.read_text()
