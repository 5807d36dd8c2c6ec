"""What a run holds that none of its steps needs any more."""

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
    """A file or folder that can go.

    Attributes:
        path: It.
        what: Why it is there.
        bytes: What it takes.
    """

    path: Path
    what: str
    bytes: int


def spare(run_dir: Path, checkpoints: bool = False) -> list[Spare]:
    """Return what can go: replaced results, checkpoints of finished steps, drafts, caches.

    Args:
        run_dir: The run's folder.
        checkpoints: The checkpoints of unfinished steps too; those steps then begin anew.
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
    """Delete what can go.

    Args:
        run_dir: The run's folder, in which nobody may work meanwhile.
        found: From `spare`.

    Raises:
        Busy: A run or a notebook works in the folder.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(locks.holding(run_dir))
        # A notebook that runs by hand holds its step alone.
        for lock in sorted(run_dir.glob("*/.lock")):
            held.enter_context(locks.holding(lock.parent))
        for each in found:
            if each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink()
