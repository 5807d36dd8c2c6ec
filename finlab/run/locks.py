"""Locks on the folders of a run, held until the process ends.

Several steps may read the same step at the same time, and it must not change while they do. This
needs shared locks, but `filelock` has only exclusive ones. So the shared and exclusive locks of the
operating system (flock) are used. The operating system releases the locks of a killed process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_held: dict[Path, TextIO] = {}


class Busy(ValueError):
    """Another process works in this folder.

    The message names the process and the machine, and says what to do.
    """


def hold(folder: Path, seconds: float = 0, shared: bool = False) -> None:
    """Lock a folder for this process, until the process ends or calls `release`.

    Args:
        folder: The folder; it is created if it does not exist.
        seconds: How long to wait for another process that has the lock.
        shared: Lock for reading. Many processes may read at the same time, and no process may write
            during this time.

    Raises:
        Busy: Another process still has the lock after `seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    if path in _held:
        if shared:
            return
        release(folder)
    handle = open(path, "a+")
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.time() + seconds
    while not _lock_now(handle, mode):
        if time.time() >= deadline:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise Busy(
                f"{folder} is in use by {holder}: wait for it or stop it, "
                "or choose another folder (--run-dir)"
            )
        time.sleep(0.2)
    _held[path] = handle
    if not shared:
        handle.truncate(0)
        handle.write(f"process {os.getpid()}")
        handle.flush()


@contextlib.contextmanager
def holding(folder: Path, seconds: float = 0) -> Iterator[None]:
    """Lock a folder for this process within a `with` block.

    Args:
        folder: The folder; it is created if it does not exist.
        seconds: How long to wait for another process that has the lock.

    Raises:
        Busy: Another process still has the lock after `seconds`.
    """
    hold(folder, seconds)
    try:
        yield
    finally:
        release(folder)


def _lock_now(handle: TextIO, mode: int) -> bool:
    """Take a lock without waiting.

    Args:
        handle: The open lock file.
        mode: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.

    Returns:
        Whether the lock was taken; False means that another process has it.
    """
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(folder: Path) -> bool:
    """Tell whether another process works in a folder."""
    path = folder / ".lock"
    if path in _held or not path.exists():
        return False
    with open(path) as handle:
        return not _lock_now(handle, fcntl.LOCK_SH)


def release(folder: Path) -> None:
    """Release the lock of a folder; without a lock nothing happens."""
    handle = _held.pop(folder / ".lock", None)
    if handle:
        handle.close()
