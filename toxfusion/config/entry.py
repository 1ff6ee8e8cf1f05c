"""From the command line to one plain dictionary, and the jobs that get it.

Hydra and OmegaConf stay in this package; nothing below an entry point sees a DictConfig.
"""

from __future__ import annotations

import math
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from toxfusion.config import folders
from toxfusion.config.ending import UNREAD, asks_for_traceback, end_output, one_line, refuse
from toxfusion.config.faults import ConfigError, is_message, system_fault
from toxfusion.config.loader import CheckedLoader
from toxfusion.config.nodes import Config, check_targets
from toxfusion.config.sweep import FAILED, SweepError, failures, forget_failure, record_failure
from toxfusion.config.values import check_numbers

#: What an entry point does with its configuration; a number it returns is what a search maximises.
MainFunction = Callable[[Config], float | None]


def compose(config_name: str, overrides: Sequence[str] = ()) -> Config:
    """The resolved dictionary that ``python -m toxfusion.<config_name> <overrides>`` would get.

    Raises ConfigError as the command line would, for unknown keys and options among others.
    """
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
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unresolved(error) from error
    if not isinstance(plain, dict):
        raise ConfigError("the configuration is not a mapping of names to values")
    return {str(key): value for key, value in plain.items()}


def run(
    config_name: str,
    function: MainFunction,
    arguments: list[str],
    after_sweep: Callable[[Path], None] | None,
) -> None:
    """Do what a command line asks for: run one job or a sweep, or print what Hydra's own options ask for.

    Args:
        arguments: of the command line, without the name of the command.
        after_sweep: takes the folder of the cells when all of them have run.

    Raises:
        ConfigError: the configuration cannot be composed.
        SweepError: cells of a sweep failed.
    """
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
    except OmegaConfBaseException as error:
        raise _unresolved(error) from error
    finally:
        GlobalHydra.instance().clear()


def is_sweep() -> bool:
    """Whether the job that is running is a cell of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


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
            end_output()
            raise SystemExit(UNREAD) from error
        except Exception as error:
            told = error if is_message(error) else system_fault(error)
            if self.sweep or told is None or asks_for_traceback():
                raise
            refuse(told)

    def _call(self, composed: DictConfig) -> float | None:
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
                message = one_line(told) if told else f"{type(error).__name__}: {one_line(error)}"
                record_failure(folder, self.sweep, list(hydra.overrides.task), error, message)
            raise
        forget_failure(folder)
        return score


def _hydra(task_name: str, config_path: str | None, extra_folder: str | None) -> Any:
    """A Hydra whose loader refuses what our files do not hold."""
    version.setbase("1.3")
    folder = folders.existing_folder(config_path) if config_path else folders.config_dir()
    search_path = create_config_search_path(str(folder))
    if extra_folder:
        own = folders.existing_folder(extra_folder)
        search_path.prepend("command-line", f"file://{own}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    hydra = Hydra(task_name=task_name, config_loader=CheckedLoader(search_path))
    GlobalHydra.instance().initialize(hydra)
    return hydra


def _sweep(hydra: Any, config_name: str, function: MainFunction, overrides: list[str]) -> Path:
    """Run every cell; what failed is listed on stderr and ends in a SweepError, after the others.

    Returns:
        The folder of the cells.
    """
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


def _unresolved(error: OmegaConfBaseException) -> ConfigError:
    """What to say of a value that OmegaConf cannot give."""
    key = error.full_key if isinstance(error, MissingMandatoryValue) else None
    if isinstance(error, InterpolationToMissingValueError):
        key = re.sub(r".*mandatory value: (\S+).*", r"\1", one_line(error))
    if key:
        return ConfigError(f"{key} has no value: give it as {key}=...")
    return ConfigError(f"{error.full_key}: {str(error).partition(chr(10))[0]}")
