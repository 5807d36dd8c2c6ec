"""Locks on the folders of a run, held until the process ends.

`filelock` offers exclusive locks only. A step that is read must stay as it is while several others
read it, so these are the operating system's own shared and exclusive locks (flock). A killed
process loses its locks by itself.
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
    """Hold a folder for this process until it ends or calls `release`.

    Args:
        folder: The folder; it is made where it is missing.
        seconds: How long to wait for another holder.
        shared: Hold it for reading: many may read at once, and nobody may replace it meanwhile.

    Raises:
        Busy: Another process still holds the folder after so many seconds.
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
    """Hold a folder for this process within a `with` block.

    Args:
        folder: The folder; it is made where it is missing.
        seconds: How long to wait for another holder.

    Raises:
        Busy: As for `hold`.
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
        False where another process holds it.
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
    """Release a folder that `hold` holds."""
    handle = _held.pop(folder / ".lock", None)
    if handle:
        handle.close()
