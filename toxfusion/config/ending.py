"""How a command ends: in one sentence to the user, or quietly where nobody reads on."""

from __future__ import annotations

import os
import re
import sys
from typing import NoReturn

#: environment variable that asks for the traceback in place of the sentence
FULL_ERROR = "HYDRA_FULL_ERROR"
#: exit status of a command whose output nobody reads any more, as a shell has it
UNREAD = 141


def asks_for_traceback() -> bool:
    """Whether `FULL_ERROR` is set to 1."""
    return os.environ.get(FULL_ERROR) == "1"


def say(text: str) -> None:
    """Print what a reader may stop reading (``--help | head``): that is the end of it, and no fault."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        end_output()


def end_output() -> None:
    """What is left in the buffer goes nowhere, also when the interpreter flushes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refuse(error: BaseException) -> NoReturn:
    """End the process with the sentence on stderr and status 2."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return re.sub(r"\s+", " ", str(error)).strip()
