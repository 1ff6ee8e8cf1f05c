"""``toxfusion <command>``: the same commands under one name."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from toxfusion.__main__ import COMMANDS, main
from toxfusion.config.entry import compose

PACKAGE = Path(__file__).resolve().parents[1] / "toxfusion"


def test_every_command_of_the_package_is_listed() -> None:
    entry_points = {file.stem for file in PACKAGE.glob("*.py") if "\n@entry_point(" in file.read_text()}
    assert set(COMMANDS) == entry_points


def test_the_line_goes_to_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["synthesize", "--help"])
    assert "virtual rat-liver study" in capsys.readouterr().out


@pytest.mark.parametrize("line", [["toxfusion", "--help"], ["toxfusion.export", "--help"]])
def test_a_reader_who_stops_reading_sees_no_traceback(line: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() == 0


def test_a_reader_who_stops_reading_what_a_command_prints_sees_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("gene,s1,s2\nAlb,1,2\nMt1,3,4\n")
    (tmp_path / "s.csv").write_text("sample_id,compound,dose\ns1,a,0\ns2,a,1\n")
    tables = ["source.expression=e.csv", "source.samples=s.csv"]
    process = subprocess.Popen(
        [sys.executable, "-m", "toxfusion.prepare", "source=matrix", "output=study", *tables],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert errors == b""
    assert process.returncode == 141
    assert (tmp_path / "study" / "expression.h5ad").is_file(), "what was to be written is written"


def test_a_misspelt_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2
    assert "did you mean train" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_compose(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    said = capsys.readouterr().out.splitlines()
    examples = [line for line in said if line.startswith(f"  toxfusion {command}")]
    assert examples
    assert said[said.index(examples[0]) - 1] == "Examples:"
    for line in examples:
        overrides = [word for word in shlex.split(line)[2:] if word != "-m"]
        if overrides != shlex.split(line)[2:]:  # a cell of the sweep is composed
            overrides = [word.partition(",")[0] for word in overrides]
        assert compose(command, overrides)["paths"]
