"""The state of a run: which steps are finished, damaged, stale or running, and their sizes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finlab import files
from finlab.run import integrity, locks, recipe, staleness
from finlab.run.manifests import is_previous, read_manifest
from finlab.run.progress import progress_text

FINISHED = "finished"
NOT_FINISHED = "not finished: run it again"
NOT_STARTED = "not started"


@dataclass(frozen=True)
class StepState:
    """The state of a step.

    Attributes:
        name: Name of the step.
        state: The state in words.
        is_good: Whether the step is finished, undamaged and not stale.
        reasons: Why the next run would make the step again, as sentences.
        bytes: Size of the step's folder in bytes.
    """

    name: str
    state: str
    is_good: bool = False
    reasons: list[str] = field(default_factory=list)
    bytes: int = 0


def steps(run_dir: Path, verify: bool = False) -> list[StepState]:
    """Return the state of each step of a run.

    The order is that of the recipe, then steps that the recipe does not have, oldest first.

    Args:
        run_dir: The run's folder.
        verify: Hash every file, which takes about a second per gigabyte. False compares sizes, and
            hashes only files whose time has changed.

    Returns:
        The states; empty if no step has started.
    """
    planned = _planned(run_dir)
    names = list(planned)
    folders = [path.parent for path in run_dir.glob("*/key")]
    for folder in sorted(folders, key=lambda folder: (folder / "key").stat().st_mtime):
        if folder.name not in names and not is_previous(folder):
            names.append(folder.name)
    if not folders:
        return []
    return [_step(run_dir, name, planned.get(name), verify) for name in names]


def _planned(run_dir: Path) -> dict[str, recipe.Step]:
    """Return {name: step} of the recipe of a run; empty if the recipe is not known."""
    try:
        begun = files.read_json(run_dir / "run.json")
        plan = recipe.load(begun["file"], begun["overrides"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {step.name: step for step in plan.steps}


def _step(run_dir: Path, name: str, planned: recipe.Step | None, verify: bool) -> StepState:
    """Return the state of a step.

    Args:
        run_dir: The run's folder.
        name: Name of the step.
        planned: The step in the present recipe; None if the recipe does not have it.
        verify: Hash every file.
    """
    folder = run_dir / name
    size = files.size_of(folder)
    if locks.is_held(folder):
        log = folder / "log.jsonl"
        seconds = time.time() - (folder / "key").stat().st_mtime if log.exists() else 0
        return StepState(name, f"running, {progress_text(log, seconds)}", bytes=size)
    manifest = read_manifest(folder)
    if manifest is None:
        begun = (folder / "key").exists()
        return StepState(name, NOT_FINISHED if begun else NOT_STARTED, bytes=size)
    damage = integrity.damaged_step(folder, manifest, thorough=verify)
    if damage:
        return StepState(name, f"damaged: {damage}; the next run makes it again", bytes=size)
    earlier = integrity.outdated(run_dir, manifest, read_manifest)
    if earlier:
        return StepState(name, f"made from an earlier {earlier} than stands here", bytes=size)
    step = planned or recipe.Step(name, manifest["notebook"], manifest["parameters"])
    try:
        reasons = staleness.why(step, run_dir) or []
    except ValueError as error:  # data or the notebook of the step are missing
        reasons = [str(error)]
    state = _finished_text(manifest)
    if reasons:
        return StepState(name, f"{state}, stale: the next run makes it again", False, reasons, size)
    return StepState(name, state, True, bytes=size)


def _finished_text(manifest: dict[str, Any]) -> str:
    """Return the state of a finished step in words, and why it was stale if it was accepted."""
    if "accepted" not in manifest:
        return FINISHED
    return f"{FINISHED}, accepted although {'; '.join(manifest['accepted']['why'])}"


def summary(run_dir: Path) -> dict[str, Any]:
    """Return a row about a run: recipe, finished steps, time of the last one, seconds, size.

    Args:
        run_dir: The run's folder.
    """
    manifests = []
    for folder in run_dir.glob("*/"):
        manifest = read_manifest(folder)
        if manifest and not is_previous(folder):
            manifests.append(manifest)
    planned = _planned(run_dir)
    try:
        name = files.read_json(run_dir / "run.json")["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        name = "?"
    finished = [manifest["finished"] for manifest in manifests]
    return {
        "run": run_dir.name,
        "recipe": name,
        "finished steps": f"{len(manifests)} of {len(planned) or '?'}",
        "last": max(finished, default="–")[:16].replace("T", " "),
        "seconds": round(sum(manifest["seconds"] for manifest in manifests)),
        "size": files.size_text(files.size_of(run_dir)),
    }
