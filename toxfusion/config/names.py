"""Names of run folders, made of what the command line changed, and the resolvers of the configuration files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


def variant_name(overrides: Sequence[str], unnamed: Sequence[str] = ()) -> str:
    """The part of a run folder's name that tells what the command line changed; '' where it changed nothing.

    ``overrides`` are ``key=value`` texts, in any order; those of a key in ``unnamed``, or below one, are
    left out (``data@`` there stands for the choice ``data=...`` alone, not for the keys below). The name is
    '_' and ``key-value`` joined by '_', with letters, digits, '.', '_' and '-' only, at most 100 characters;
    a digest of the overrides ends it where that loses something.
    """
    named = sorted(
        f"no-{override.key_or_group}"
        if override.is_delete()
        else f"{override.key_or_group}={override.get_value_element_as_str()}"
        for override in OverridesParser.create().parse_overrides(list(overrides))
        if not _is_below(override.key_or_group, unnamed)
    )
    if not named:
        return ""
    plain = "_".join(line.replace("=", "-", 1) for line in named)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    if safe != plain or len(safe) > 99:
        safe = f"{safe[:90]}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return f"_{safe}"


def transductive_name(split: Mapping[str, Any]) -> str:
    """The part of a run folder's name that tells a split which trains and tests one compound; '' for any other.

    A published split whose parts may overlap has a name of its own.

    ``split`` is the node of the configuration; the manifest of what it builds says the same.
    """
    told = (
        "Transductive" in str(split["_target_"]),
        split.get("transductive") is True,
        split.get("keep_compounds") is False,
        split.get("unseen_compounds") is False,
    )
    overlap = "_overlap" if split.get("allow_overlap") is True else ""
    return ("_transductive" if any(told) else "") + overlap


def register_resolvers() -> None:
    """What the configuration files call besides Hydra's own resolvers."""
    OmegaConf.register_new_resolver("variant", variant_name, replace=True)
    OmegaConf.register_new_resolver("transductive", transductive_name, replace=True)
    OmegaConf.register_new_resolver("basename", lambda folder: Path(folder).resolve().name, replace=True)


def _is_below(key: str, unnamed: Sequence[str]) -> bool:
    return any(key == name.rstrip("@") or key.startswith((f"{name}.", f"{name}/")) for name in unnamed)
