"""What a process needs of its surroundings: a name for the user, and text that is UTF-8. Quick to import."""

from __future__ import annotations

import getpass
import locale
import os
import sys

USER_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")
#: what `prepare_environment` had to set, one line each; ``doctor`` shows them
remarks: list[str] = []


def prepare_environment() -> None:
    """Set what is missing: torch dies at import where a user id has no name (a container run with ``--user``)."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        name = f"uid{os.getuid()}"
        os.environ["USER"] = name
        remarks.append(
            f"the user id {os.getuid()} has no name here: USER={name} is set for this process; set USER yourself where "
            "you call torch from other programs"
        )


def has_utf8() -> bool:
    """Whether names of files and the text of files are UTF-8 here."""
    encodings = (
        sys.getfilesystemencoding(),
        locale.getpreferredencoding(False),
        sys.stdout.encoding or "utf-8",
    )
    return all(name.lower().replace("-", "") == "utf8" for name in encodings)


def restart_with_utf8() -> None:
    """Start this command line again in Python's UTF-8 mode where the locale has another encoding; else do nothing."""
    if not has_utf8() and os.environ.get("PYTHONUTF8") != "1":
        environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
