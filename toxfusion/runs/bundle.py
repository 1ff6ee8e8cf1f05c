"""A bundle: finished runs of one experiment in one folder, to be used where their study is not.

It holds safetensors, JSON, YAML, parquet and HDF5. Nothing in it is unpickled, and what its configs name is built
only if it is a class of a trusted package. The SHA-256 of every file but the card is checked before use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from toxfusion.config.faults import PACKAGE, ConfigError
from toxfusion.config.nodes import located, target_nodes
from toxfusion.study.files import replace_file, sha256_of
from toxfusion.training.folder import RunError, RunFolder

MANIFEST = "bundle.json"
CARD = "README.md"
METRICS = "metrics.json"
SCHEMA = 1
_TENSOR, _TUPLE = "$tensor", "$tuple"


class BundleError(RunError):
    """A bundle that is damaged, of another version, or names what is not trusted."""


class BundledRun(RunFolder):
    """A run as it lies in a bundle: what is used of it, and no more.

    config.yaml, done.json, predictions.parquet and embeddings.h5ad are those of a run folder, the tables cut down to
    what is used; weights and contract are safetensors and JSON in place of the checkpoint.
    """

    @property
    def weights(self) -> Path:
        """The predictor's weights."""
        return self.root / "model.safetensors"

    @property
    def contract(self) -> Path:
        """Genes, scalers, classes and cut-offs; arrays lie beside it under the same name."""
        return self.root / "contract.json"

    def read_trained(self) -> dict[str, Any]:
        """As `RunFolder.read_trained`; raises BundleError where a file is damaged."""
        arrays = self.contract.with_suffix(".safetensors")
        try:
            tensors, state = load_file(arrays), load_file(self.weights)
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{self.root}: damaged weights ({error}); fetch the bundle again") from error
        return {"state_dict": state, "contract": unpacked(json.loads(self.contract.read_text()), tensors)}

    def write_trained(self, trained: dict[str, Any]) -> None:
        """Write what `RunFolder.read_trained` gave, the predictor's weights among the tensors."""
        state = {
            name: values for name, values in trained["state_dict"].items() if name.startswith("predictor.")
        }
        replace_file(self.weights, save(_separate(state)))
        tensors: dict[str, Tensor] = {}
        content = packed(trained["contract"], tensors)
        replace_file(self.contract, json.dumps(content, indent=1).encode())
        replace_file(self.contract.with_suffix(".safetensors"), save(_separate(tensors)))

    def tile_encoder(self, name: str) -> Path:
        return self.root.parents[1] / "encoders" / f"{name}.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are as they were written.

    Attributes:
        root: its folder.
        manifest: schema, version, name and the SHA-256 of each file.
        runs: one a fold and seed.
    """

    root: Path
    manifest: dict[str, Any]
    runs: tuple[BundledRun, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and so of all: who fetched the same bundle has the same digest."""
        return sha256_of(self.root / MANIFEST)

    @classmethod
    def open(cls, root: Path, trust: Sequence[str] = ()) -> Bundle:
        """The bundle in a folder.

        Args:
            trust: packages beside this one whose classes its configs may name.

        Raises:
            BundleError: no bundle of this schema; a file is missing or is not what was written; a config names
                something of a package that is not trusted, or no class.
        """
        manifest = _read_manifest(root)
        for name, digest in manifest["sha256"].items():
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise BundleError(f"{root / MANIFEST}: {name!r} lies outside the bundle, which is refused")
            if not (root / name).is_file():
                raise BundleError(f"{root / name}: missing; fetch the bundle again")
            if sha256_of(root / name) != digest:
                raise BundleError(
                    f"{root / name}: not the file that was exported (its SHA-256 differs from {MANIFEST}); fetch the "
                    "bundle again, or export it again"
                )
        runs = tuple(BundledRun(root / name) for name in manifest["runs"])
        for run in runs:
            needed = [run.config, run.done, run.weights, run.contract, run.predictions, run.embeddings]
            for file in needed:
                if file.relative_to(root).as_posix() not in manifest["sha256"]:
                    raise BundleError(f"{file}: {MANIFEST} has no SHA-256 of it; export the bundle again")
            check_trusted(run.read_config(), [PACKAGE, *trust], str(run.config))
        return cls(root, manifest, runs)

    @classmethod
    def seal(cls, root: Path, name: str, runs: Sequence[BundledRun], version: str) -> Bundle:
        """Write the manifest over the files that lie in a folder, and open it."""
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.name not in (MANIFEST, CARD))
        manifest = {
            "schema": SCHEMA,
            "toxfusion": version,
            "name": name,
            "runs": [run.root.relative_to(root).as_posix() for run in runs],
            "sha256": {file.relative_to(root).as_posix(): sha256_of(file) for file in files},
        }
        replace_file(root / MANIFEST, json.dumps(manifest, indent=1).encode())
        return cls(root, manifest, tuple(runs))


def is_bundle(folder: Path) -> bool:
    """Whether a folder says that it is a bundle."""
    return (folder / MANIFEST).is_file()


def _read_manifest(root: Path) -> dict[str, Any]:
    file = root / MANIFEST
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{file}: no manifest of a bundle ({error}); name a folder of toxfusion.export"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise BundleError(f"{file}: not of schema {SCHEMA}, which this version reads; export the runs again")
    return manifest


def check_trusted(config: dict[str, Any], trusted: Sequence[str], where: str) -> None:
    """Refuse a config that would build anything but classes of trusted packages.

    Raises:
        BundleError: a ``_target_`` is of another package, or is no class.
    """
    for path, node in target_nodes(config):
        target = str(node["_target_"])
        if target.partition(".")[0] not in trusted:
            raise BundleError(
                f"{where}: {path} is of {target}, a package that is not trusted; read its code, install it, and give "
                f"trust=[{target.partition('.')[0]}]"
            )
        try:
            named = located(target, path)
        except ConfigError as error:
            raise BundleError(
                f"{where}: {error}; the bundle is of another version of that package"
            ) from error
        if not isinstance(named, type) or named.__module__.partition(".")[0] not in trusted:
            raise BundleError(f"{where}: {path} is of {target}, which is no class of a trusted package")


def packed(content: Any, tensors: dict[str, Tensor], at: str = "") -> Any:
    """Plain content for JSON; tensors go into ``tensors`` by their place, tuples keep their type.

    Raises:
        BundleError: something that is neither plain nor a tensor.
    """
    if isinstance(content, Tensor):
        tensors[at] = content
        return {_TENSOR: at}
    if isinstance(content, dict) and all(isinstance(key, str) for key in content):
        return {key: packed(value, tensors, f"{at}.{key}" if at else key) for key, value in content.items()}
    if isinstance(content, list | tuple):
        items = [packed(value, tensors, f"{at}.{i}") for i, value in enumerate(content)]
        return {_TUPLE: items} if isinstance(content, tuple) else items
    if content is None or type(content) in (bool, int, float, str):
        return content
    raise BundleError(f"contract.{at}: a {type(content).__name__}, which a bundle cannot hold")


def unpacked(content: Any, tensors: dict[str, Tensor]) -> Any:
    """What `packed` was given."""
    if isinstance(content, list):
        return [unpacked(value, tensors) for value in content]
    if not isinstance(content, dict):
        return content
    if content.keys() == {_TENSOR}:
        return tensors[content[_TENSOR]]
    if content.keys() == {_TUPLE}:
        return tuple(unpacked(value, tensors) for value in content[_TUPLE])
    return {key: unpacked(value, tensors) for key, value in content.items()}


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, which safetensors would refuse."""
    return {name: values.detach().cpu().clone().contiguous() for name, values in tensors.items()}
