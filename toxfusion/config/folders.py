"""Where configuration files are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toxfusion.config.faults import ConfigError


def config_dir() -> Path:
    """The folder of configuration files: toxfusion/conf of an installed wheel, else conf/ of the checkout.

    Raises ConfigError where neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "paths" / "default.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration files beside {package} or in it; install the package again")


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """Where configuration files are looked for: --config-dir of the command line, then our own."""
    folders = [config_dir()]
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            value = value or "".join(arguments[position + 1 : position + 2])
            folders.insert(0, existing_folder(value))
    return folders


def existing_folder(value: str) -> Path:
    """The folder of a ``--config-dir``. Raises ConfigError where there is none."""
    folder = Path(value).resolve()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {value}: no such folder")
    return folder
