"""One run at a time in a folder: a lock that the operating system lets go when its process ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from toxfusion.study.files import replace_file
from toxfusion.training.folder import RunError

#: set for the processes of a run, which work under the lock of the one that started them
HELD = "TOXFUSION_RUN_LOCK"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; processes that this one starts meanwhile may work in it too.

    Raises:
        RunError: another process holds it; host, process and since when are named.
    """
    place = str(folder.resolve())
    if os.environ.get(HELD) == place:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquired(folder)
    before = os.environ.get(HELD)
    try:
        os.environ[HELD] = place
        replace_file(_holder(folder), json.dumps(_self()).encode())
        yield
    finally:
        if before is None:
            del os.environ[HELD]
        else:
            os.environ[HELD] = before
        _holder(folder).unlink(missing_ok=True)
        lock.release()


def _acquired(folder: Path) -> BaseFileLock:
    file = folder / ".run.lock"
    try:
        lock: BaseFileLock = FileLock(file, timeout=0)
        lock.acquire()
    except NotImplementedError:  # a file system without locks: a file that is there is the lock
        lock = SoftFileLock(file, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise _refusal(folder, f"; if that process is no more, remove {file}") from error
    except Timeout as error:
        raise _refusal(folder, "") from error
    return lock


def _holder(folder: Path) -> Path:
    return folder / ".run.lock.json"


def _self() -> dict[str, str | int]:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now}


def _refusal(folder: Path, hint: str) -> RunError:
    try:
        who = json.loads(_holder(folder).read_text(encoding="utf-8"))
        told = f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError):  # it is just starting, or just ending
        told = "another process"
    return RunError(
        f"{folder}: a run is at work in this folder already ({told}); wait for it, or give another paths.outputs{hint}"
    )
