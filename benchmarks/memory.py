"""The memory that a process and its children take, as the benchmarks watch it."""

from __future__ import annotations

from pathlib import Path

import psutil


def memory_of(pid: int) -> dict[str, int]:
    """Return the memory of a process and its children, in bytes.

    What is read of mapped files is given back when another needs the memory, so it is told apart.
    """
    total = {"anonymous": 0, "with mapped files": 0}
    try:
        parent = psutil.Process(pid)
        for each in [parent, *parent.children(recursive=True)]:
            total["anonymous"] += anonymous_bytes(each)
            total["with mapped files"] += each.memory_full_info().pss
    except (psutil.Error, OSError):
        pass  # one of them has just ended
    return total


def anonymous_bytes(process: psutil.Process) -> int:
    """Return the memory of a process that no file stands behind, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    for line in status.splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0
