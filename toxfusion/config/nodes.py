"""Nodes with a ``_target_``: checked against the signature of what they name, found, and built."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from toxfusion.config.faults import ConfigError, is_message
from toxfusion.config.values import check_arguments

Config = dict[str, Any]

NODE_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})
NOT_BY_NAME = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def check_targets(config: Any, path: str = "") -> None:
    """Check the keys of every node that has a ``_target_`` against the signature of what it names.

    Imports the modules of the targets, and builds nothing. Raises ConfigError for a target that does not
    exist and for a key that its callable does not take.
    """
    for where, node in target_nodes(config, path):
        known = _keywords(located(str(node["_target_"]), where))
        if known is None:
            continue
        for key in node.keys() - NODE_KEYS - known:
            raise ConfigError(f"unknown key '{_join(where, key)}': {node['_target_']} {_near(key, known)}")
        check_arguments(where, node, located(str(node["_target_"]), where))


def _keywords(target: Callable[..., Any]) -> set[str] | None:
    """Names of what a callable takes by name; None where it takes any, or is C code that does not say."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters if parameter.kind not in NOT_BY_NAME}


def located(target: str, where: str = "") -> Callable[..., Any]:
    """The callable with a dotted name. Raises ConfigError when there is none."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:length])
        try:
            named: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                continue
            raise ConfigError(
                f"{_join(where, '_target_')}: {target} needs the package {error.name}, which is not installed"
            ) from error
        for part in parts[length:]:
            named = getattr(named, part, None)
        if callable(named):
            return named
        break
    raise ConfigError(f"{_join(where, '_target_')}: there is no callable '{target}'")


def build(node: Config, **extra: Any) -> Any:
    """Call what a plain node with a ``_target_`` names, nested nodes first.

    ``extra`` goes to the callable as it is, and wins over a key of the node. Raises ConfigError for a node without a
    target.
    """
    return part(node)(**extra)


def part(node: Config) -> functools.partial[Any]:
    """What a plain node with a ``_target_`` names, with the node's keys, to be called once the data are known.

    Nested nodes are built now. Raises ConfigError for a node without a target.
    """
    if "_target_" not in node:
        raise ConfigError(f"nothing to build: no _target_ among {sorted(node)}")
    try:
        deferred = instantiate({**node, "_partial_": True}, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is not None and is_message(error.__cause__):
            raise error.__cause__ from error
        raise
    return functools.partial(deferred)


def target_nodes(config: Any, path: str = "") -> Iterator[tuple[str, Config]]:
    """Every mapping with a ``_target_``, with its dotted path."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield path, config
        for key, value in config.items():
            yield from target_nodes(value, _join(path, str(key)))
    elif isinstance(config, list):
        for position, value in enumerate(config):
            yield from target_nodes(value, f"{path}[{position}]")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _near(name: str, known: set[str] | Sequence[str]) -> str:
    """Words that say which known names come near to a wrong one."""
    ordered = sorted(known)
    close = difflib.get_close_matches(name, ordered, n=3, cutoff=0.6)
    return f"takes {', '.join(ordered) or 'no keys'}" + (
        f"; did you mean {' or '.join(close)}?" if close else ""
    )
