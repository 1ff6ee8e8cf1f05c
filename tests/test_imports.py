"""The one direction of imports, from the syntax trees: nothing is imported here, and lazy imports count."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "toxfusion"
FILES = sorted(PACKAGE.rglob("*.py"))

#: Room -> the rooms it may import from, itself aside; ``entry`` is what lies at the root.
MAY_IMPORT = {
    "console": set(),
    "config": {"study"},
    "distributed": {"config", "study"},
    "study": set(),
    "data": {"distributed", "study"},
    "models": {"distributed", "study", "data"},
    "objectives": {"distributed", "data", "models"},
    "evaluation": {"study"},
    "tasks": {"study", "data", "models", "objectives", "evaluation"},
    "baselines": {"study", "tasks", "data", "evaluation"},
    "slides": {"console", "study", "data", "models"},
    "synthetic": {"console", "study"},
    "checkup": {"config", "models", "study", "evaluation", "slides"},
    "training": {
        "config", "console", "distributed", "study", "tasks", "data", "models", "objectives", "evaluation",
        "baselines",
    },
    "runs": {
        "config", "distributed", "study", "tasks", "data", "models", "evaluation", "baselines", "slides", "training",
    },
    "explanation": {
        "study", "data", "models", "objectives", "evaluation", "slides", "synthetic", "training", "runs",
    },
    "report": {"study", "evaluation", "explanation", "training"},
}  # fmt: skip
#: Readers of slides and single-cell tools stay out of whatever a training process imports.
SLIDE_LIBRARIES = {"tiatoolbox", "openslide", "scanpy"}
WITHOUT_SLIDES = {*MAY_IMPORT} - {"checkup", "slides", "synthetic", "runs", "explanation", "report"}
#: Read with scanpy what `prepare` takes; nothing that training imports may import them.
IMPORTERS = PACKAGE / "study" / "importers"
#: What an entry point may import before work starts; each of these is itself quick to import.
QUICK = {"toxfusion.config.command", "toxfusion.config.ending", "toxfusion.config.faults"}

#: What functions of a room may import as they run: optional packages, and what importing the room must not load.
LATER = {
    "baselines": {"sksurv"},
    "checkup": {"hydra_plugins", "optuna", "submitit"},
    "config": {"toxfusion.config.entry"},
    "evaluation": {"umap"},
    "runs": {"mudata", "toxfusion.runs.heatmap", "toxfusion.slides.faults", "toxfusion.training.wandb", "wandb"},
    "slides": {"pydicom", "tiatoolbox", "wsidicom"},
    "study": {"mudata", "scanpy", "spatialdata"},
    "training": {"tensorboard", "toxfusion.training.wandb"},
}  # fmt: skip


def _name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(file: Path) -> str:
    relative = file.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else "entry"


def _imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, int]]:
    """Full names of imported modules (``from a import b`` gives a.b), with the line."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _at_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that importing the module runs: not those in functions, and not those for type checkers."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def _room_of_import(name: str) -> str | None:
    """Room of an imported name of this package; None for another package, and for the name of this one."""
    parts = name.split(".")
    if parts[0] != "toxfusion" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    return parts[1] if (PACKAGE / parts[1]).is_dir() else "entry"


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_imports_run_one_way(file: Path) -> None:
    room = _room(file)
    tree = ast.parse(file.read_text())
    for name, line in _imported(ast.walk(tree)):
        source = _room_of_import(name)
        if source is None or source == room:
            continue
        if room == "entry":
            assert source != "entry", f"{file}:{line} imports another entry point, {name}"
            continue
        assert room in MAY_IMPORT, f"{file}: give the new room '{room}' its place in MAY_IMPORT"
        assert source in MAY_IMPORT[room], (
            f"{file}:{line} imports {name}: {room} may not import from {source}"
        )


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_what_training_imports_reads_no_slide(file: Path) -> None:
    if _room(file) not in WITHOUT_SLIDES or IMPORTERS in file.parents:
        return
    for name, line in _imported(ast.walk(ast.parse(file.read_text()))):
        assert name.split(".")[0] not in SLIDE_LIBRARIES, f"{file}:{line} imports {name}"
        assert not name.startswith("toxfusion.study.importers"), f"{file}:{line} imports {name}"


@pytest.mark.parametrize("file", [file for file in FILES if _room(file) == "entry"], ids=_name)
def test_entry_points_import_nothing_heavy_at_module_level(file: Path) -> None:
    for name, line in _imported(_at_module_level(ast.parse(file.read_text()))):
        module = name.rpartition(".")[0] or name
        quick = name.split(".")[0] in sys.stdlib_module_names or {name, module} & QUICK
        assert quick, f"{file}:{line} imports {name} at module level; import it where work starts"


def _within_functions(file: Path) -> Iterator[tuple[str, int]]:
    tree = ast.parse(file.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return _imported(node for function in functions for node in ast.walk(function))


def _is_within(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


@pytest.mark.parametrize("file", [file for file in FILES if _room(file) != "entry"], ids=_name)
def test_functions_import_only_what_may_be_missing_or_is_slow(file: Path) -> None:
    later = LATER.get(_room(file), set())
    for name, line in _within_functions(file):
        assert any(_is_within(name, allowed) for allowed in later), (
            f"{file}:{line} imports {name} within a function; import it at the top of the file"
        )


def test_what_functions_may_import_is_what_they_do_import() -> None:
    imported = {
        room: {name for f in FILES if _room(f) == room for name, _ in _within_functions(f)} for room in LATER
    }
    unused = {
        (room, allowed)
        for room, later in LATER.items()
        for allowed in later
        if not any(_is_within(name, allowed) for name in imported[room])
    }
    assert not unused


def _sources(file: Path) -> set[str]:
    """Modules of this package that a file imports: anywhere in it, and for type checkers too."""
    modules = {_name(f) for f in FILES}
    names = {name for name, _ in _imported(ast.walk(ast.parse(file.read_text())))}
    return {m for name in names for m in (name, name.rpartition(".")[0]) if m in modules - {"toxfusion"}}


def test_no_files_import_each_other() -> None:
    TopologicalSorter({_name(file): _sources(file) for file in FILES}).prepare()  # raises CycleError


def test_no_file_is_long() -> None:
    assert {_name(f): n for f in FILES if (n := len(f.read_text().splitlines())) > 500} == {}


def test_every_room_is_known_and_the_order_has_no_circle() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError
    assert {_room(file) for file in FILES} <= {*MAY_IMPORT, "entry"}
