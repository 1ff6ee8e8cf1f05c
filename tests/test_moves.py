"""Every move between devices is of a shape that is right by itself, or stands in a list with its reason.

Right by themselves: a cast, values brought to a tensor or a module that is used with them, and results that leave for
NumPy or a file. What moves a module, or goes to a device of somebody's choice, is in `REASONS`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "toxfusion"
FILES = sorted(PACKAGE.rglob("*.py"))

#: File and move -> why it is right.
REASONS = {
    # who makes a module puts it where the run computes
    ("training/assemble.py", "network.to(device_of(settings.trainer.accelerator))"): "makes the network",
    ("training/network.py", "module.to(device_of(self.settings.accelerator))"): "Lightning left it on the CPU",
    ("training/tile_features.py", "loaded.encoder.to(device_of(trainer.accelerator))"): "reads the encoder",
    ("runs/loaded.py", "predictor.eval().to(device_of(settings.trainer.accelerator))"): "reads the predictor",
    ("runs/probes.py", "network.to(run.predictor.device)"): "makes a network beside that of the run",
    ("explanation/cohort.py", "branch.eval().to(run.predictor.device)"): "reads a branch beside the predictor",
    ("models/published.py", "module.to(device)"): "reads the encoder",
    ("models/tile.py", "self.backbone.to(memory_format=torch.channels_last)"): "of its own part; layout alone",
    ("models/published.py", "self.backbone.to(memory_format=self.memory_format)"): "of its own part; layout alone",
    # batches go where their loader, or who computes with them, is told
    ("data/batch.py", "tensor.to(device, non_blocking=True)"): "every tensor of a batch",
    ("data/batch.py", "self.batch.to(device)"): "the batch within",
    ("data/batch.py", "standardised.to(device, dtype)"): "it lies there; the type alone",
    ("data/datamodule.py", "batch.to(device)"): "Lightning's hook",
    ("data/tile_sampling.py", "self.tiles.to(device, non_blocking=True)"): "every tensor of a batch",
    ("data/tile_sampling.py", "batch.to(device)"): "Lightning's hook",
    ("data/encoding.py", "torch.from_numpy(np.ascontiguousarray(tiles)).to(device, non_blocking=True)"): (
        "to the device of the encoder, which the caller gives"
    ),
    ("models/modes.py", "values.to(device, dtype)"): "to the place of the module that reads them",
    ("objectives/masked.py", "(rank < n_masked).to(device or 'cpu')"): "drawn on the CPU, for the caller's device",
    ("training/validation_metrics.py", "torch.from_numpy(of_task[c].to_numpy(np.float32)).to(device)"): (
        "metrics are taken where the module trains, and synchronised from there"
    ),
    # copies for a file
    ("training/choice.py", "value.detach().cpu().clone()"): "weights that are kept do not fill the device",
    ("models/tile.py", "tensor.detach().cpu().contiguous()"): "the digest of the weights, and the file",
    ("runs/bundle.py", "values.detach().cpu().clone().contiguous()"): "safetensors, each with a memory of its own",
}  # fmt: skip
#: What a checkpoint is read to; who made the module moves it afterwards.
READ_TO = "'cpu'"


def _chain(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def _outermost(call: ast.Call, parents: dict[ast.AST, ast.AST]) -> tuple[list[str], ast.AST]:
    """Names of the methods that are called on a result, one after the other, and the whole expression."""
    node: ast.AST = call
    names = []
    while isinstance(attribute := parents.get(node), ast.Attribute) and isinstance(
        outer := parents.get(attribute), ast.Call
    ):
        names.append(attribute.attr)
        node = outer
    return names, node


def _is_cast_or_follows_a_tensor(call: ast.Call) -> bool:
    """``x.to(y)``, ``x.to(y.device)``, ``x.to(y.dtype)``, ``x.to(torch.int64)``, ``x.to(*place_of(module))``, x no
    module."""
    assert isinstance(call.func, ast.Attribute)
    if call.keywords or len(call.args) != 1 or _is_module(call.func.value):
        return False
    place = call.args[0]
    if isinstance(place, ast.Starred):
        return ast.unparse(place) in (
            "*place_of(network)",
            "*place_of(self.network)",
            "*place_of(self.predictor)",
            "*place",
        )
    if isinstance(place, ast.Attribute):
        return not (place.attr == "device" and _is_module(place.value))
    return isinstance(place, ast.Name) and place.id not in ("device", "accelerator")


def _is_module(node: ast.AST) -> bool:
    """By its name; `tests/training/test_devices.py` refuses whatever moves a module as it runs."""
    words = set(re.findall(r"\w+", ast.unparse(node)))
    return bool(
        words & {"backbone", "branch", "encoder", "head", "heads", "model", "module", "network", "predictor"}
    )


def _moves(file: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, source and whether it is right by itself, of every move in a file."""
    tree = ast.parse(file.read_text())
    parents = _chain(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg == "map_location":
                yield node.lineno, ast.unparse(node), ast.unparse(keyword.value) == READ_TO
        if not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in ("cpu", "cuda"):
            names, whole = _outermost(node, parents)
            yield node.lineno, ast.unparse(whole), node.func.attr == "cpu" and names[:1] == ["numpy"]
        elif node.func.attr == "to":
            yield node.lineno, ast.unparse(node), _is_cast_or_follows_a_tensor(node)


def test_every_move_between_devices_has_its_reason() -> None:
    listed = set()
    for file in FILES:
        name = str(file.relative_to(PACKAGE))
        for line, source, right in _moves(file):
            if (name, source) in REASONS:
                listed.add((name, source))
            else:
                assert right, f"{file}:{line}: {source}: say in REASONS why it moves there"
    assert listed == REASONS.keys()


def test_a_move_of_a_module_to_the_vectors_it_reads_would_be_seen(tmp_path: Path) -> None:
    """Scoring did so once: on a GPU it left the heads on the CPU."""
    file = tmp_path / "scoring.py"
    file.write_text(
        "heads.to(vectors.device)\nnetwork.eval().cuda()\ntorch.load(path, map_location=device)\n"
    )
    assert [right for _, _, right in _moves(file)] == [False, False, False]
