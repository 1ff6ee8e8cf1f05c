"""From the command line to one plain dictionary, and from a Python function to a command.

Hydra and OmegaConf stay in this package; nothing below an entry point sees a DictConfig. Nothing heavy is
imported at module level, so that an entry point answers ``--help`` at once.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from toxfusion.config.environment import prepare_environment, restart_with_utf8
from toxfusion.config.faults import system_fault
from toxfusion.config.nodes import Config, ConfigError, check_targets, is_message
from toxfusion.config.values import check_numbers

if TYPE_CHECKING:
    from omegaconf import DictConfig

MainFunction = Callable[[Config], "float | None"]

FULL_ERROR = "HYDRA_FULL_ERROR"
#: exit status of a command whose output nobody reads any more, as a shell has it
UNREAD = 141


def config_dir() -> Path:
    """The folder of configuration files: toxfusion/conf of an installed wheel, else conf/ of the checkout.

    Raises ConfigError where neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "paths" / "default.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration files beside {package} or in it; install the package again")


def say(text: str) -> None:
    """Print what a reader may stop reading (``--help | head``): that is the end of it, and no fault."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _end_output()


def _end_output() -> None:
    """What is left in the buffer goes nowhere, also when the interpreter flushes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def entry_point(
    config_name: str, after_sweep: Callable[[Path], None] | None = None
) -> Callable[[MainFunction], Callable[..., None]]:
    """Make ``main(config)`` a command line over ``conf/<config_name>.yaml``.

    The decorated function takes the arguments (``sys.argv[1:]`` where None is given), composes them with
    Hydra and calls ``main`` with a resolved plain dictionary, once a job. What it returns is the metric that
    a sweeper optimises. A ConfigError, and any other exception class of this package, ends the process
    with one line on stderr and exit status 2; set HYDRA_FULL_ERROR=1 for the traceback. A cell of a sweep that
    fails leaves ``failed.json`` in its folder and does not keep the others from running; a SweepError ends it.
    ``after_sweep`` is called with the folder of the cells when all of them have run.
    """

    def decorate(function: MainFunction) -> Callable[..., None]:
        @functools.wraps(function)
        def main(arguments: Sequence[str] | None = None) -> None:
            command_line = list(sys.argv[1:] if arguments is None else arguments)
            if arguments is None:
                restart_with_utf8()
            prepare_environment()
            try:
                if "--help" in command_line or "-h" in command_line:
                    from toxfusion.config.help import help_text

                    say(help_text(config_name, inspect.getdoc(function) or "", _folders(command_line)))
                else:
                    _run(config_name, function, command_line, after_sweep)
            except Exception as error:
                message = _unresolved(error) or (error if is_message(error) else system_fault(error)) or error
                if not is_message(message) or os.environ.get(FULL_ERROR) == "1":
                    raise
                _refuse(message)

        return main

    return decorate


def compose(config_name: str, overrides: Sequence[str] = ()) -> Config:
    """The resolved dictionary that ``python -m toxfusion.<config_name> <overrides>`` would get.

    Raises ConfigError as the command line would, for unknown keys and options among others.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    hydra = _hydra(config_name, None, None)
    try:
        composed = hydra.compose_config(config_name, [*overrides, "hydra.mode=RUN"], RunMode.RUN)
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        return resolve(composed)
    finally:
        GlobalHydra.instance().clear()


def resolve(composed: DictConfig) -> Config:
    """Plain dictionaries, lists and scalars, with every interpolation resolved.

    Raises ConfigError for a value that is still ``???`` and for an interpolation that leads nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unresolved(error) or error from error
    if not isinstance(plain, dict):
        raise ConfigError("the configuration is not a mapping of names to values")
    return {str(key): value for key, value in plain.items()}


class Job:
    """What Hydra calls for each composed configuration; can be pickled, for launchers that send it away.

    Args:
        function: takes the resolved configuration.
        sweep: a token that the cells of one command line share; '' for a single run.
    """

    def __init__(self, function: MainFunction, sweep: str = "") -> None:
        self.function, self.sweep = function, sweep

    def __call__(self, composed: DictConfig) -> float | None:
        try:
            return self._call(composed)
        except BrokenPipeError as error:
            _end_output()
            raise SystemExit(UNREAD) from error
        except Exception as error:
            told = error if is_message(error) else system_fault(error)
            if self.sweep or told is None or os.environ.get(FULL_ERROR) == "1":
                raise
            _refuse(told)

    def _call(self, composed: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        from toxfusion.config.sweep import SweepError, forget_failure, record_failure

        hydra = HydraConfig.get()
        searches = "direction" in hydra.sweeper
        folder = Path(hydra.runtime.output_dir)
        try:
            config = resolve(composed)
            check_numbers(config)
            check_targets(config)
            if searches and not self.sweep:
                raise SweepError("a search runs many cells: give -m with hparams_search")
            score = self.function(config)
            if searches and (score is None or math.isnan(score)):
                raise SweepError(
                    "no validation score to search by: the validation part defines none of the tasks"
                )
        except Exception as error:
            if self.sweep:
                told = error if is_message(error) else system_fault(error)
                message = _one_line(told) if told else f"{type(error).__name__}: {_one_line(error)}"
                record_failure(folder, self.sweep, list(hydra.overrides.task), error, message)
            raise
        forget_failure(folder)
        return score


def _unresolved(error: Exception) -> ConfigError | None:
    """What to say of a value that OmegaConf cannot give; None for any other error."""
    from omegaconf.errors import (
        InterpolationToMissingValueError,
        MissingMandatoryValue,
        OmegaConfBaseException,
    )

    if not isinstance(error, OmegaConfBaseException):
        return None
    key = error.full_key if isinstance(error, MissingMandatoryValue) else None
    if isinstance(error, InterpolationToMissingValueError):
        key = re.sub(r".*mandatory value: (\S+).*", r"\1", _one_line(error))
    if key:
        return ConfigError(f"{key} has no value: give it as {key}=...")
    return ConfigError(f"{error.full_key}: {str(error).partition(chr(10))[0]}")


def _refuse(error: BaseException) -> NoReturn:
    print(f"error: {_one_line(error)}", file=sys.stderr)
    raise SystemExit(2)


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()


def _folders(arguments: Sequence[str]) -> list[Path]:
    """Where configuration files are looked for: --config-dir of the command line, then our own."""
    folders = [config_dir()]
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            value = value or "".join(arguments[position + 1 : position + 2])
            folders.insert(0, _existing_folder(value))
    return folders


def _existing_folder(value: str) -> Path:
    folder = Path(value).resolve()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {value}: no such folder")
    return folder


def _hydra(task_name: str, config_path: str | None, extra_folder: str | None) -> Any:
    """A Hydra whose loader refuses what our files do not hold."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    from toxfusion.config.loader import CheckedLoader

    version.setbase("1.3")
    folder = _existing_folder(config_path) if config_path else config_dir()
    search_path = create_config_search_path(str(folder))
    if extra_folder:
        own = _existing_folder(extra_folder)
        search_path.prepend("command-line", f"file://{own}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    hydra = Hydra(task_name=task_name, config_loader=CheckedLoader(search_path))
    GlobalHydra.instance().initialize(hydra)
    return hydra


def _run(
    config_name: str,
    function: MainFunction,
    arguments: list[str],
    after_sweep: Callable[[Path], None] | None,
) -> None:
    from hydra._internal.utils import get_args_parser
    from hydra.core.global_hydra import GlobalHydra

    parser = get_args_parser()
    parsed = parser.parse_intermixed_args(arguments)
    name = parsed.config_name or config_name
    overrides = list(parsed.overrides)
    hydra = _hydra(config_name, parsed.config_path, parsed.config_dir)
    try:
        if parsed.cfg:
            hydra.show_cfg(name, overrides, parsed.cfg, package=parsed.package, resolve=parsed.resolve)
        elif parsed.info:
            hydra.show_info(parsed.info, config_name=name, overrides=overrides)
        elif parsed.hydra_help:
            hydra.hydra_help(config_name=name, args_parser=parser, args=parsed)
        elif parsed.shell_completion:
            hydra.shell_completion(config_name=name, overrides=overrides)
        elif parsed.multirun:
            outputs = _sweep(hydra, name, function, [*overrides, "hydra.mode=MULTIRUN"])
            if after_sweep is not None:
                after_sweep(outputs)
        else:
            hydra.run(name, Job(function), [*overrides, "hydra.mode=RUN"])
    finally:
        GlobalHydra.instance().clear()


def is_sweep() -> bool:
    """Whether the job that is running is a cell of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _sweep(hydra: Any, config_name: str, function: MainFunction, overrides: list[str]) -> Path:
    """Run every cell; what failed is listed on stderr and ends in a SweepError, after the others.

    Returns:
        The folder of the cells.
    """
    from hydra.types import RunMode

    from toxfusion.config.sweep import FAILED, SweepError, failures

    composed = hydra.compose_config(config_name, overrides, RunMode.MULTIRUN, with_log_configuration=False)
    token, outputs = secrets.token_hex(8), Path(composed.hydra.sweep.dir)
    try:
        hydra.multirun(config_name, Job(function, token), overrides)
    finally:  # Hydra raises the first failure, after all cells
        failed = failures(outputs, token)
        for folder, record in failed:
            print(f"failed: {folder / FAILED}: {record['message']}", file=sys.stderr)
        if failed:
            raise SweepError(
                f"{len(failed)} cells of the sweep failed, listed above; the same command line runs them again, and "
                "none that is finished"
            )
    return outputs
