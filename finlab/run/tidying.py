"""Find and delete files of a run that no step needs any more."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from finlab import files
from finlab.run import locks
from finlab.run.manifests import is_previous, read_manifest


@dataclass(frozen=True)
class Spare:
    """A file or folder that can be deleted.

    Attributes:
        path: Path of the file or folder.
        what: What it is, in words.
        bytes: Its size in bytes.
    """

    path: Path
    what: str
    bytes: int


def spare(run_dir: Path, checkpoints: bool = False) -> list[Spare]:
    """Return what can be deleted: replaced results, old checkpoints, drafts, caches.

    Args:
        run_dir: The run's folder.
        checkpoints: Also return the checkpoints of unfinished steps. After deleting them, these
            steps start again from the beginning.
    """
    found: list[Spare] = []
    for path in sorted(run_dir.glob("*.previous*")):
        found.append(_spare(path, "the result that a later one replaced"))
    for path in sorted(run_dir.glob("*/checkpoints")):
        if is_previous(path.parent):
            continue
        if read_manifest(path.parent) is not None:
            found.append(_spare(path, "checkpoints of a finished step"))
        elif checkpoints:
            found.append(
                _spare(path, "checkpoints of an unfinished step, which starts from the beginning")
            )
    for path in sorted(run_dir.glob(".*.ipynb")):
        found.append(_spare(path, "the draft of an executed notebook"))
    for name in (".references", ".scores"):
        if (run_dir / name).is_dir():
            found.append(_spare(run_dir / name, "scores that would be computed again"))
    return found


def _spare(path: Path, what: str) -> Spare:
    return Spare(path, what, files.size_of(path))


def delete(run_dir: Path, found: list[Spare]) -> None:
    """Delete files and folders of a run.

    Args:
        run_dir: The run's folder. It is locked while files are deleted.
        found: Files and folders to delete, from `spare`.

    Raises:
        Busy: A run or a notebook works in the folder.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(locks.holding(run_dir))
        # A notebook that a person runs locks only the folder of its step.
        for lock in sorted(run_dir.glob("*/.lock")):
            held.enter_context(locks.holding(lock.parent))
        for each in found:
            if each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink()
