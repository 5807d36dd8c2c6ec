"""Long jobs in their own processes: seconds by stage, and the memory that each stage takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ENDED = "stages_ended.txt"  # how many stages a job has ended; the watching process reads it


class Laps:
    """Measures seconds by stage, and prints them when a stage ends.

        laps = Laps(folder)
        ...
        laps.end("read")

    Args:
        folder: The job's own folder.
    """

    def __init__(self, folder: Path):
        self.path = folder / ENDED
        self.begun = time.time()
        self.seconds: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """End a stage; the next one begins."""
        self.seconds[stage] = round(time.time() - self.begun - self.total, 2)
        self.path.write_text(str(len(self.seconds)))
        print(f"{time.strftime('%H:%M:%S')} {stage}: {self.seconds[stage]} s", file=sys.stderr)

    @property
    def total(self) -> float:
        """The seconds of all stages that have ended."""
        return round(sum(self.seconds.values()), 2)


def watched(command: list[str], folder: Path) -> dict:
    """Run a job and watch its memory.

    Args:
        command: The arguments of `python -m` for a job that keeps `Laps` in `folder`, and prints a
            JSON object with their `seconds` in its last line.
        folder: The job's own folder.

    Returns:
        The job's result, with `peak_bytes` and, by stage, `peak_bytes_by_stage`; both in the form
        of `memory_of`.

    Raises:
        RuntimeError: The job failed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"DAFT_PROGRESS_BAR": "0"},
    )
    ended = folder / ENDED
    peaks: list[dict[str, int]] = []  # of each stage

    def watch() -> None:
        while process.poll() is None:
            stage = int(ended.read_text() or 0) if ended.exists() else 0
            while len(peaks) <= stage:
                peaks.append({"anonymous": 0, "with mapped files": 0})
            for name, value in memory_of(process.pid).items():
                peaks[stage][name] = max(peaks[stage][name], value)
            time.sleep(0.5)

    thread = threading.Thread(target=watch)
    thread.start()
    said = process.communicate()[0]
    thread.join()
    if process.returncode:
        raise RuntimeError(f"python -m {' '.join(command)} failed: see above")
    record = json.loads(said.splitlines()[-1])
    largest = {name: max(peak[name] for peak in peaks) for name in peaks[0]}
    by_stage = dict(zip(record["seconds"], peaks, strict=False))
    return record | {"peak_bytes": largest, "peak_bytes_by_stage": by_stage}


def memory_of(pid: int) -> dict[str, int]:
    """Return the memory of a process and its children, in bytes.

    Pages of mapped files are given back when another process needs the memory, so they are reported
    separately.
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
    """Return the memory of a process without mapped files, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    for line in status.splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0
