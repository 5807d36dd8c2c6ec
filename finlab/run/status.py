"""What stands in a run: which steps are finished, whole, and made from each other's results."""

from __future__ import annotations

from pathlib import Path

from finlab.run import integrity
from finlab.run.step import read_manifest

FINISHED = "finished"
NOT_FINISHED = "not finished: run it again"


def states(run_dir: Path, verify: bool = False) -> dict[str, str]:
    """Return {step: its state}, in the order the steps were begun.

    Args:
        run_dir: The run's folder.
        verify: Hash every file, at about a second for each gigabyte. Else sizes are compared, and
            files whose time has changed are hashed.
    """
    folders = [path.parent for path in run_dir.glob("*/key")]
    found = {}
    for folder in sorted(folders, key=lambda folder: (folder / "key").stat().st_mtime):
        if not folder.name.endswith(".previous"):
            found[folder.name] = _state(run_dir, folder, verify)
    return found


def _state(run_dir: Path, folder: Path, verify: bool) -> str:
    """Return the state of a step.

    Args:
        run_dir: The run.
        folder: The step's.
        verify: Hash every file.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return NOT_FINISHED
    damage = integrity.damaged_step(folder, manifest, thorough=verify)
    if damage:
        return f"damaged: {damage}; the next run makes it again"
    earlier = integrity.outdated(run_dir, manifest, read_manifest)
    if earlier:
        return f"made from an earlier {earlier} than stands here"
    return FINISHED
