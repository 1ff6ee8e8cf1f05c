"""What ``--help`` prints, read from the configuration files as text, without Hydra's scan for plugins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

DESCRIBED = ("experiment", "hparams_search", "debug")


def help_text(config_name: str, purpose: str, folders: Sequence[Path]) -> str:
    """Usage, groups with their options, experiments with a line each, the keys of the main file."""
    main_file = next((file for folder in folders if (file := folder / f"{config_name}.yaml").is_file()), None)
    text = main_file.read_text() if main_file else ""
    chosen = _chosen(text)
    parts = [
        purpose,
        f"usage: python -m toxfusion.{config_name} [-m] [--config-dir FOLDER] [--cfg job] "
        "[group=option ...] [key=value ...]",
        _groups(chosen, folders),
        *(_described(group, folders) for group in DESCRIBED if group in chosen),
        "Keys (key=value; a key of a group is group.key=value)\n" + _body(text),
        "-m sweeps over a=1,2 b=3,4; --cfg job prints the composed configuration; "
        "--info, --hydra-help and the other options of Hydra work too.",
    ]
    return "\n\n".join(part for part in parts if part.strip())


def _chosen(text: str) -> dict[str, str]:
    """Group -> option of the defaults list, in its order; hydra's own groups are left out."""
    chosen: dict[str, str] = {}
    for entry in (yaml.safe_load(text) or {}).get("defaults", []):
        if not isinstance(entry, dict):
            continue
        for key, option in entry.items():
            group = re.sub(r"^(override|optional) +", "", str(key)).lstrip("/").partition("@")[0]
            if not group.startswith("hydra"):
                chosen[group] = "null" if option is None else str(option)
    return chosen


def _files(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Option -> file; a folder that comes first wins."""
    files: dict[str, Path] = {}
    for folder in reversed(folders):
        files.update({file.stem: file for file in sorted((folder / group).glob("*.yaml"))})
    return dict(sorted(files.items()))


def _groups(chosen: dict[str, str], folders: Sequence[Path]) -> str:
    width = max((len(group) for group in chosen), default=0)
    lines = [
        f"  {group:<{width}}  {' | '.join(_files(group, folders))}  [{'required' if default == '???' else default}]"
        for group, default in chosen.items()
        if group not in DESCRIBED
    ]
    return "\n".join(["Groups (group=option, the default in brackets)", *lines]) if lines else ""


def _described(group: str, folders: Sequence[Path]) -> str:
    files = _files(group, folders)
    width = max((len(option) for option in files), default=0)
    lines = [f"  {option:<{width}}  {_first_comment(file)}" for option, file in files.items()]
    return "\n".join([f"{group}=", *lines])


def _first_comment(file: Path) -> str:
    comments = (line.lstrip("# ").rstrip() for line in file.read_text().splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")


def _body(text: str) -> str:
    """The main file without its defaults list and its hydra block, comments kept."""
    kept: list[str] = []
    waiting: list[str] = []  # comments before a key, which go where the key goes
    skipping = False
    for line in text.splitlines():
        if line.startswith("#"):
            waiting.append(line)
            continue
        if re.match(r"[A-Za-z_]", line):
            skipping = line.startswith(("defaults:", "hydra:"))
        if not skipping and line.strip():
            kept += [f"  {each}" for each in (*waiting, line)]
        waiting = []
    return "\n".join(kept)
