"""From a Python function to a command line. Quick to import, so that a command answers ``--help`` at once."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toxfusion.config.ending import asks_for_traceback, refuse, say
from toxfusion.config.environment import prepare_environment, restart_with_utf8
from toxfusion.config.faults import is_message, system_fault
from toxfusion.config.folders import config_folders
from toxfusion.config.help import help_text

if TYPE_CHECKING:
    from toxfusion.config.entry import MainFunction


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
                    say(help_text(config_name, inspect.getdoc(function) or "", config_folders(command_line)))
                else:
                    # Hydra comes in here, since --help reads the files as text.
                    from toxfusion.config.entry import run

                    run(config_name, function, command_line, after_sweep)
            except Exception as error:
                message = error if is_message(error) else system_fault(error)
                if message is None or asks_for_traceback():
                    raise
                refuse(message)

        return main

    return decorate
