"""What the commands import before work starts; no time is asserted, ``benchmarks/startup.py`` measures it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PACKAGE = Path(__file__).resolve().parents[1] / "toxfusion"
CONF = PACKAGE.parent / "conf"
COMMANDS = sorted(file.stem for file in PACKAGE.glob("*.py") if "\n@entry_point(" in file.read_text())

#: Too slow to import for a command that only prints or composes.
HEAVY = {
    *("torch", "torchvision", "lightning", "timm", "tiatoolbox", "openslide", "scanpy", "anndata"),
    *("numpy", "scipy", "pandas", "sklearn", "matplotlib", "cv2", "tifffile", "wandb", "h5py"),
}
#: Needs no plugin: --help reads the files as text.
COMPOSING = {"hydra", "omegaconf", "antlr4"}

PROGRAM = """
import io, json, runpy, sys, contextlib
printed = io.StringIO()
sys.argv = ["command", *{arguments!r}]
with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
    runpy.run_module("toxfusion.{command}", run_name="__main__", alter_sys=True)
print(json.dumps([printed.getvalue(), sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def printed_and_imported(command: str, *arguments: str) -> tuple[str, set[str]]:
    program = PROGRAM.format(command=command, arguments=list(arguments))
    text, modules = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))
    return text, set(modules)


def required_groups(command: str) -> list[str]:
    """``group=option`` for the groups of a command that have no default."""
    entries = yaml.safe_load((CONF / f"{command}.yaml").read_text())["defaults"]
    groups = [
        group for entry in entries if entry != "_self_" for group, option in entry.items() if option == "???"
    ]
    return [f"{group}={min((CONF / group).glob('*.yaml')).stem}" for group in groups]


def test_there_are_commands() -> None:
    assert "train" in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_hydra_nor_anything_heavy(command: str) -> None:
    text, modules = printed_and_imported(command, "--help")
    assert f"python -m toxfusion.{command}" in text
    assert text.partition("\n\n")[0].endswith("."), "a command says in one sentence what it does"
    assert not modules & (HEAVY | COMPOSING)


@pytest.mark.parametrize("command", COMMANDS)
def test_composing_imports_nothing_heavy(command: str) -> None:
    text, modules = printed_and_imported(command, "--cfg", "job", *required_groups(command))
    assert text.strip(), f"{command} does not compose"
    # The sweeper that is installed beside Hydra brings NumPy by itself.
    assert not modules & (HEAVY - {"numpy"})


def test_what_training_imports_leaves_slide_readers_out() -> None:
    program = "import json, sys, toxfusion.training.run; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()[-1])
    assert not {name.partition(".")[0] for name in modules} & {"tiatoolbox", "openslide", "scanpy"}
    assert not any(name.startswith("toxfusion.slides") for name in modules)
