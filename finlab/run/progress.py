"""Show one line about the running step: seconds, training steps, loss, time left."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any


def _last_record(log: Path, since: float) -> dict[str, Any]:
    """Return the last record of a log; {} if the log was not written to after `since`.

    Args:
        log: The log file.
        since: A time, in seconds since 1970.
    """
    try:
        if log.stat().st_mtime < since:
            return {}  # the log of an earlier run of this step
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            tail = file.read().decode("utf-8", "ignore")
        return json.loads(tail.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}


def progress_text(log: Path, seconds: float) -> str:
    """Return a step's progress as text.

    Args:
        log: The step's log.jsonl, which may not exist yet.
        seconds: How many seconds the step has been running.
    """
    record = _last_record(log, time.time() - seconds)
    text = f"{seconds:.0f} s"
    if not record.get("total_steps"):
        return text
    text += f" · step {record['step']}/{record['total_steps']}"
    if "loss" in record:
        text += f" · loss {record['loss']:.3f}"
    if "seconds_left" in record:
        text += f" · {record['seconds_left']:.0f} s left in training"
    return text


class Progress(threading.Thread):
    """Show the progress of the running step.

    On a terminal it is one line that is updated. Elsewhere a line is printed every minute.

    Args:
        head: Text at the beginning of the line.
        log: The step's log.jsonl, which may not exist yet.
    """

    def __init__(self, head: str, log: Path):
        super().__init__(daemon=True)
        self.head = head
        self.log = log
        self.began = time.time()
        self.ended = threading.Event()
        self.live = sys.stdout.isatty()

    def run(self) -> None:
        """Print progress until `end` is called."""
        last_printed = 0.0
        while not self.ended.wait(1):
            seconds = time.time() - self.began
            line = f"{self.head} {progress_text(self.log, seconds)}"
            if self.live:
                print(f"\r\033[K{line}", end="", flush=True)
            elif seconds - last_printed >= 60:
                last_printed = seconds
                print(line, flush=True)

    def end(self, text: str) -> None:
        """Stop, and print a last line.

        Args:
            text: The text of the last line, after the head.
        """
        self.ended.set()
        self.join()
        start = "\r\033[K" if self.live else ""
        print(f"{start}{self.head} {text}", flush=True)
