"""What to say of an error, in one sentence to the user."""

from __future__ import annotations

import errno
import os
import re

_ADVICE = {
    errno.ENOSPC: "free some of the disk, or give another folder",
    errno.EDQUOT: "your quota is used up: free some of it, or give another folder",
    errno.EFBIG: "give a disk that takes larger files",
    errno.ENOTDIR: "a part of this path is a file: give another folder",
    errno.EEXIST: "a part of this path is a file: give another folder",
    errno.ENOENT: "a part of this path is not there: make it, or give another",
    errno.ENAMETOOLONG: "give a shorter name or folder",
    errno.EACCES: "change the rights, or give another folder",
    errno.EPERM: "change the rights, or give another folder",
    errno.EROFS: "give a folder that can be written",
}
#: how libraries that lose the number of an error put it into words
_IN_WORDS = re.compile(
    r"errno = (\d+)|\[Errno (\d+)\]|(No space left on device|Disk quota exceeded|File name too long)"
)
_OF_WORDS = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File name too long": errno.ENAMETOOLONG,
}
PACKAGE = __name__.partition(".")[0]


class ConfigError(ValueError):
    """The command line or a configuration file asks for something that does not exist."""


class SystemFault(RuntimeError):
    """The disk or the file system refuses: it is full, a name is too long, a folder is a file, rights are missing."""


def is_message(error: BaseException) -> bool:
    """Whether an exception speaks to the user: its class is one of this package's."""
    return type(error).__module__.partition(".")[0] == PACKAGE


def system_fault(error: BaseException) -> SystemFault | None:
    """One sentence for what the file system refused, in an error or in what caused it; None for any other error."""
    seen: BaseException | None = error
    while seen is not None:
        number = _number_of(seen)
        # A path that is not there may be what the program looked for first, and no reason of what went wrong after it.
        if number in _ADVICE and (number != errno.ENOENT or seen is error):
            name = getattr(seen, "filename2", None) or getattr(seen, "filename", None)
            where = f"{name}: " if name else ""
            return SystemFault(f"{where}cannot be written or read ({os.strerror(number)}); {_ADVICE[number]}")
        seen = seen.__cause__ or seen.__context__
    return None


def _number_of(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError | RuntimeError) and (match := _IN_WORDS.search(str(error))):
        return int(match[1] or match[2]) if match[1] or match[2] else _OF_WORDS[match[3]]
    return 0
