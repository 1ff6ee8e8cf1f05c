"""``toxfusion <command>``: the same commands under one name."""

from __future__ import annotations

from pathlib import Path

import pytest

from toxfusion.__main__ import COMMANDS, main

PACKAGE = Path(__file__).resolve().parents[1] / "toxfusion"


def test_every_command_of_the_package_is_listed() -> None:
    entry_points = {file.stem for file in PACKAGE.glob("*.py") if "\n@entry_point(" in file.read_text()}
    assert set(COMMANDS) == entry_points


def test_the_line_goes_to_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["synthesize", "--help"])
    assert "virtual rat-liver study" in capsys.readouterr().out


def test_a_misspelt_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2
    assert "did you mean train" in capsys.readouterr().err
