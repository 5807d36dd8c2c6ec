"""Write and read the file with which a notebook passes a training job to its processes."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

NAME = "job.pickle"
SIGNATURE = "FINLAB_JOB"  # the environment variable with the hash of the job to read


def write(folder: Path, job: dict[str, Any]) -> str:
    """Write a job into its folder, and return the hash that identifies it.

    Reading a pickle can run code. So the processes read the file only if its hash is the one that
    they were given at their start. A file that somebody else put there is never read.

    Args:
        folder: Folder of the job.
        job: What each process needs to build the trainer.

    Returns:
        SHA-256 of the file, in hexadecimal digits.
    """
    content = pickle.dumps(job)
    (folder / NAME).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """Return the job in a folder.

    Raises:
        ValueError: The file is not the job that this process was started for.
    """
    content = (folder / NAME).read_bytes()
    if hashlib.sha256(content).hexdigest() != os.environ.get(SIGNATURE):
        raise ValueError(
            f"{folder / NAME} is not the job that this process was started for: "
            "it is not read; start the training again"
        )
    return pickle.loads(content)
