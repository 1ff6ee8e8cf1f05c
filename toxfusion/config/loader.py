"""Hydra's configuration loader with plain refusals: unknown keys, groups, options and experiments.

Here live the rules of what the command line may say.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from toxfusion.config.ending import one_line
from toxfusion.config.faults import ConfigError
from toxfusion.config.names import register_resolvers
from toxfusion.config.values import NUMBERS, WHOLE, WORDS

# Groups whose files set keys of other files, and may not bring in keys of their own.
OVERLAYS = ("experiment", "hparams_search", "debug", "local")
# How a path begins that a shell fills in, where it is not in quotes and not behind a key with dots.
_FOR_THE_SHELL = re.compile(r"(~\w*|\$[A-Za-z_]\w*|%\w+%)([/\\]|$)")
_UNFILLED = "its beginning is not filled in by the shell; write the path in full"
# A value that is that of another key.
_POINTER = re.compile(r"\$\{([\w.]+)\}")
# Keys of folders that runs are named by, or written to.
PATHS = ("data.root", "output", "paths.output", "paths.outputs")
# Keys that have no value in the files, and take a list or a mapping.
COLLECTIONS = ("task.labels",)


class CheckedLoader(ConfigLoaderImpl):
    """Composes as Hydra does; neither ``+key=value`` nor an experiment may bring in a key nobody reads, and a value is
    of the kind that the files have."""

    #: what the files say before any override, without experiments
    _known: dict[str, Any]

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose one configuration. Raises ConfigError with one line that says what to change."""

        def load(lines: list[str]) -> DictConfig:
            return super(CheckedLoader, self).load_configuration(
                config_name, lines, run_mode, from_shell, validate_sweep_overrides
            )

        register_resolvers()  # here, since a launcher may have sent this loader to another process
        try:
            parsed = OverridesParser.create().parse_overrides(overrides)
            _refuse_empty(parsed)
            self._refuse_null_group(parsed)
            composed = load([self._without_plus(override) for override in parsed])
            self._refuse_other_kinds(parsed)
            return composed
        except OverrideParseException as error:
            raise ConfigError(
                f"cannot read '{error.override}': {one_line(error)}{_quoting(error.override)}"
            ) from error
        except MissingConfigException as error:
            raise ConfigError(self._missing(error)) from error
        except HydraException as error:
            groups = [override for override in parsed if self._is_group(override)]
            try:
                known = load([str(override.input_line) for override in groups])
            except HydraException:
                self._refuse_unused_group(config_name, groups, load)
            else:
                self._refuse_unknown_key(known, parsed)
            cause = f": {one_line(error.__cause__)}" if error.__cause__ else ""
            raise ConfigError(f"{one_line(error)}{cause}".strip(": ")) from error

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        ours = [default for default in defaults if not (default.package or "").startswith("hydra")]
        known: dict[str, Any] = {}
        for default in ours:
            if not _is_overlay(default):
                _merge(known, _content(default, repo))
        for default in ours:
            if _is_overlay(default):
                _refuse_new_keys(_content(default, repo), known, f"{default.config_path}.yaml")
        self._known = known
        return super()._compose_config_from_defaults_list(defaults, repo)

    def _is_group(self, override: Override) -> bool:
        return bool(self.repository.group_exists(override.key_or_group)) and "." not in override.key_or_group

    def _without_plus(self, override: Override) -> str:
        """``+key=value`` as ``key=value``, which Hydra refuses for an unknown key; groups keep their plus."""
        line = str(override.input_line)
        if override.key_or_group.startswith("hydra.") or self._is_group(override):
            return line
        return line.lstrip("+") if override.is_add() or override.is_force_add() else line

    def _refuse_null_group(self, parsed: Sequence[Override]) -> None:
        """A group that every configuration needs cannot be null, empty or taken away; an experiment names its runs."""
        spare = {*OVERLAYS, "hydra"} - {"experiment"}
        for override in parsed:
            group = override.key_or_group
            needed = self._is_group(override) and group.partition("/")[0] not in spare
            if needed and (override.is_delete() or override.value() in (None, [], {})):
                raise ConfigError(f"{override.input_line}: choose one of {', '.join(self._options(group))}")

    def _refuse_other_kinds(self, parsed: Sequence[Override]) -> None:
        """A word where the files have a number or a flag, and anything but keys where they have keys.

        What a node with a _target_ takes is known from its annotations; see ``toxfusion.config.values``.
        """
        for override in parsed:
            if override.is_delete() or override.is_sweep_override() or self._is_group(override):
                continue
            key, value = override.key_or_group, override.value()
            if key in COLLECTIONS:
                continue
            said = self._said(key)
            wanted = _wanted_beside(said, value)
            if wanted and key not in WHOLE and key not in NUMBERS and key not in WORDS:
                keys = f": {key}.{next(iter(said), '')}=..." if isinstance(said, dict) else ""
                raise ConfigError(f"{override.input_line}: give {wanted}{keys}")

    def _said(self, key: str) -> Any:
        """What the files have at a dotted key, there or where it points to; None in a node with a _target_."""
        node: Any = self._known
        for part in key.split("."):
            if not isinstance(node, dict) or "_target_" in node:
                return None
            node = node.get(part)
        pointed = _POINTER.fullmatch(node) if isinstance(node, str) else None
        return self._said(pointed[1]) if pointed else node

    def _options(self, group: str) -> list[str]:
        return list(self.repository.get_group_options(group, ObjectType.CONFIG))

    def _missing(self, error: MissingConfigException) -> str:
        if not error.missing_cfg_file or error.options is None:
            return one_line(error)
        missing = PurePosixPath(error.missing_cfg_file)
        options = list(error.options)
        kind = "experiment" if str(missing.parent) == "experiment" else f"option of {missing.parent}"
        hint = nearest(missing.name, options)
        extra = "; more come with pip install 'toxfusion[sweeps]'" if missing.parts[0] == "hydra" else ""
        return f"unknown {kind} '{missing.name}'{hint}; there are: {', '.join(options)}{extra}"

    def _refuse_unused_group(
        self, config_name: str | None, groups: Sequence[Override], load: Callable[[list[str]], DictConfig]
    ) -> None:
        """A group that exists but that this command does not use."""
        try:
            used = list(load([]).hydra.runtime.choices)
        except HydraException:
            return  # the files themselves do not compose; the error at hand says so
        for override in groups:
            group = override.key_or_group
            if group not in used and not override.is_add():
                ours = [name for name in used if not name.startswith("hydra")]
                raise ConfigError(f"{config_name} has no group '{group}'; it has: {', '.join(ours)}")

    def _refuse_unknown_key(self, composed: DictConfig, parsed: Sequence[Override]) -> None:
        groups = self.repository.get_group_options("", ObjectType.GROUP)
        known = list(dict.fromkeys([*dotted_keys(composed), *groups]))
        for override in parsed:
            if not self._is_group(override) and override.key_or_group not in known:
                key = override.key_or_group
                raise ConfigError(f"unknown key '{key}'{nearest(key, known)}")


def _wanted_beside(said: object, value: object) -> str:
    """What to give in place of a value that is of another kind than the one of the files; "" where it fits."""
    if isinstance(said, dict) and not isinstance(value, dict):
        return "one of its keys"
    if value is None or (isinstance(value, str) and "${" in value):
        return ""
    if isinstance(said, str) and isinstance(value, list | dict) and said != "auto":
        return "one text"
    if isinstance(said, bool) and not isinstance(value, bool):
        return "true or false"
    number = isinstance(said, int | float) and not isinstance(said, bool)
    if number and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    return ""


def _refuse_empty(parsed: Sequence[Override]) -> None:
    """An override without a key or a value, most likely of a shell variable that is not set; and a path that begins
    with what a shell should have filled in."""
    for override in parsed:
        line = str(override.input_line)
        if not override.key_or_group:
            raise ConfigError(f"cannot read '{line}': it has no key before =; write key=value")
        if line.endswith("=") and not override.is_delete():
            raise ConfigError(
                f"{line} has no value; is a shell variable empty? Give a value, null for none, or '' for an empty text"
            )
        value = None if override.is_delete() or override.is_sweep_override() else override.value()
        if value in (None, "") and override.key_or_group in PATHS:
            raise ConfigError(f"{line}: give a folder")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _FOR_THE_SHELL.match(text):
                raise ConfigError(f"{line}: {_UNFILLED}")


def dotted_keys(config: DictConfig) -> list[str]:
    """Every key of a configuration, as a dotted path; interpolations are not followed."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    keys: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                keys.append(f"{path}{key}")
                walk(value, f"{path}{key}.")

    walk(plain, "")
    return keys


def nearest(name: str, known: Sequence[str]) -> str:
    """', did you mean ...?' for a wrong name: paths that look alike, and the same last name elsewhere."""
    ours = (
        [key for key in known if not key.startswith("hydra.")]
        if not name.startswith("hydra")
        else list(known)
    )
    close = difflib.get_close_matches(name, ours, n=3, cutoff=0.6)
    last = name.rpartition(".")[2]
    tails = {key: key.rpartition(".")[2] for key in ours}
    near_tails = difflib.get_close_matches(last, sorted(set(tails.values())), n=2, cutoff=0.75)
    close += [key for key in ours if tails[key] in near_tails and key not in close]
    return f", did you mean {' or '.join(close[:3])}?" if close else ""


def _quoting(override: str | None) -> str:
    """How to write a value that the grammar of overrides would take apart; '' where that is not the reason."""
    key, _, value = (override or "").partition("=")
    if _FOR_THE_SHELL.match(value):
        return f"; {_UNFILLED}"
    if not value or not re.search(r"[^\w./~+-]|[^\x00-\x7f]", value):
        return ""
    quoted = value.strip("'\"").replace('"', '\\"')
    return f"; quote the value, and the whole for the shell: '{key}=\"{quoted}\"'"


def _is_overlay(default: ResultDefault) -> bool:
    return (default.config_path or "").partition("/")[0] in OVERLAYS


def _content(default: ResultDefault, repo: IConfigRepository) -> dict[str, Any]:
    """What one file says, as plain dictionaries at the place it has in the whole; no value is resolved."""
    file = repo.load_config(config_path=str(default.config_path))
    content: Any = OmegaConf.to_container(file.config, resolve=False) if file else {}
    content.pop("defaults", None)
    for part in reversed((default.package or "").split(".")):
        content = {part: content} if part else content
    return dict(content)


def _merge(known: dict[str, Any], content: dict[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            _merge(known[key], value)
        else:
            known[key] = value


def _refuse_new_keys(overlay: dict[str, Any], known: dict[str, Any], file: str, path: str = "") -> None:
    """Refuse a key of an experiment that no other file has; a node that brings its own _target_ may."""
    for key, new in overlay.items():
        where = f"{path}{key}"
        if where == "hydra":
            continue
        if key not in known:
            raise ConfigError(f"{file}: unknown key '{where}'{nearest(str(key), list(known))}")
        old = known[key]
        if isinstance(new, dict) and isinstance(old, dict) and "_target_" not in new:
            _refuse_new_keys(new, old, file, f"{where}.")
