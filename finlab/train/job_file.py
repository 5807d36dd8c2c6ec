"""The file in which a notebook hands a training job to its processes."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

NAME = "job.pickle"
SIGNATURE = "FINLAB_JOB"  # the variable that holds the hash of the job to read


def write(folder: Path, job: dict[str, Any]) -> str:
    """Write a job into its folder, and return what proves that it is this one.

    A pickle runs code when it is read. The processes read it only if its hash is the one that they
    were given at their start, so a file that somebody else put there is never read.

    Args:
        folder: Of the job.
        job: What each process needs.
    """
    content = pickle.dumps(job)
    (folder / NAME).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """Return the job in a folder.

    Raises:
        ValueError: It is not the job that this process was started for.
    """
    content = (folder / NAME).read_bytes()
    if hashlib.sha256(content).hexdigest() != os.environ.get(SIGNATURE):
        raise ValueError(
            f"{folder / NAME} is not the job that this process was started for: "
            "it is not read; start the training again"
        )
    return pickle.loads(content)
