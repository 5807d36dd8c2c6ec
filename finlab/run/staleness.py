"""Say why a finished step would run again, and keep its result anyway if the user wants.

staleness.why(step, run_dir)        # [] if it would be kept, None if it is not finished
staleness.accept(step, run_dir)     # keep it, with a mark in its manifest and in the report
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finlab import files
from finlab.run import integrity, recipe
from finlab.run.keys import code_behind, data_fingerprints, step_key
from finlab.run.manifests import read_manifest, upstream_manifests
from finlab.run.parameters import SET_BY_RUNNER


def why(step: recipe.Step, run_dir: Path) -> list[str] | None:
    """Return what has changed since a step was finished.

    Args:
        step: The step, with the parameter values that it would run with now.
        run_dir: The run's folder.

    Returns:
        Sentences that name changed files, parameters, data and steps. An empty list means that the
        result would be kept. None means that the step is not finished.

    Raises:
        ValueError: Data of the step are missing.
    """
    manifest = read_manifest(run_dir / step.name)
    if manifest is None:
        return None
    damage = integrity.damaged_step(run_dir / step.name, manifest)
    if damage:
        return [f"it is damaged: {damage}"]
    reasons = _changed_values(step.parameters, manifest["parameters"])
    reasons += _changed_code(step.notebook, manifest)
    reasons += _changed_data(step.parameters, manifest)
    reasons += _changed_steps(step, run_dir, manifest)
    if reasons and _is_accepted(step, run_dir, manifest):
        return []
    return reasons


def _changed_values(wanted: dict[str, Any], had: dict[str, Any]) -> list[str]:
    """Return a sentence for each parameter that differs.

    Args:
        wanted: Parameter values that the step would run with now.
        had: Parameter values that the step ran with.
    """
    found = []
    for name, value in wanted.items():
        if name in SET_BY_RUNNER or (name in had and had[name] == value):
            continue
        before = repr(had[name]) if name in had else "not there"
        found.append(f"parameter {name}: {before} → {value!r}")
    return found + [f"parameter {name} is gone" for name in had if name not in wanted]


def _changed_code(notebook: str, manifest: dict[str, Any]) -> list[str]:
    """Return a sentence for each file of code that differs.

    Args:
        notebook: Name of the step's notebook.
        manifest: Manifest of the finished step.
    """
    had = manifest.get("code")
    if had is None:
        return ["it was made by an earlier finlab, which did not note its code"]
    now = code_behind(notebook)
    changed = [name for name in now if name in had and had[name] != now[name]]
    new = [name for name in now if name not in had]
    gone = [name for name in had if name not in now]
    found = [f"{name} has changed" for name in changed]
    return found + [f"{name} is new" for name in new] + [f"{name} is gone" for name in gone]


def _changed_data(parameters: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """Return a sentence for each card or file that differs.

    Args:
        parameters: Parameter values that the step would run with now.
        manifest: Manifest of the finished step.
    """
    had = manifest["inputs"].get("data", {})
    now = data_fingerprints(parameters)
    changed = [name for name in now if name in had and had[name] != now[name]]
    return [f"data {name}: the card or its files have changed" for name in changed]


def _changed_steps(step: recipe.Step, run_dir: Path, manifest: dict[str, Any]) -> list[str]:
    """Return a sentence for each upstream step that was made again or is not finished.

    Args:
        step: The step.
        run_dir: The run's folder.
        manifest: Manifest of the finished step.
    """
    found = []
    for need in step.needs:
        if not (run_dir / need).exists():
            continue  # not copied, or deleted to save space: this is not a change
        upstream = read_manifest(run_dir / need)
        if upstream is None:
            found.append(f"step {need}, which it reads, is not finished")
        elif upstream["key"] != manifest["inputs"]["steps"].get(need):
            found.append(f"step {need}, which it reads, was made again")
    return found


# --- keeping a stale step ------------------------------------------------------------------------
def _current_key(step: recipe.Step, run_dir: Path) -> str:
    """Return the key that a step would have if it ran now."""
    upstream = upstream_manifests(run_dir, step.name, step.parameters)
    keys = {name: manifest["key"] for name, manifest in upstream.items()}
    return step_key(step.notebook, step.parameters | {"run_dir": str(run_dir)}, keys)


def _is_accepted(step: recipe.Step, run_dir: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether the user has accepted a step's result for the present code, data and values."""
    if "accepted" not in manifest:
        return False
    try:
        return manifest["accepted"]["key"] == _current_key(step, run_dir)
    except ValueError:
        return False


def accept(step: recipe.Step, run_dir: Path) -> list[str]:
    """Keep the result of a step as if the present code, data and parameters had made it.

    The manifest gets a mark with the reasons. The step's own key does not change, so later steps
    that were made from this result also stay valid.

    Args:
        step: The step.
        run_dir: The run's folder.

    Returns:
        What has changed since the step was made, as sentences.

    Raises:
        ValueError: The step is not finished, or is damaged.
    """
    reasons = why(step, run_dir)
    if reasons is None:
        raise ValueError(f"--accept {step.name}: it is not finished in {run_dir}, so it must run")
    if reasons and reasons[0].startswith("it is damaged"):
        raise ValueError(f"--accept {step.name}: {reasons[0]}, so it must run again")
    if not reasons:
        return []
    manifest = read_manifest(run_dir / step.name)
    manifest["accepted"] = {
        "key": _current_key(step, run_dir),
        "why": reasons,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    files.write_json(run_dir / step.name / "manifest.json", manifest, sync=True)
    return reasons


# --- what a run would do -------------------------------------------------------------------------
@dataclass(frozen=True)
class Forecast:
    """Whether a step would run.

    Attributes:
        step: Name of the step.
        runs: Whether the step would run; False means that its result would be kept.
        reasons: Why it would run, as sentences.
    """

    step: str
    runs: bool
    reasons: list[str]


def forecast(chosen: list[recipe.Step], run_dir: Path) -> list[Forecast]:
    """Return which steps would run and which would be kept, in order.

    Args:
        chosen: The steps that a run would consider.
        run_dir: The run's folder.
    """
    found: list[Forecast] = []
    running: set[str] = set()
    for step in chosen:
        try:
            reasons = why(step, run_dir)
        except ValueError as error:  # data of the step are missing
            reasons = [str(error)]
        again = [need for need in step.needs if need in running]
        if reasons is None:
            reasons = ["it is not finished"]
        elif again:
            known = [reason for reason in reasons if not reason.startswith("step ")]
            reasons = [f"step {need}, which it reads, runs" for need in again] + known
        if reasons:
            running.add(step.name)
        found.append(Forecast(step.name, bool(reasons), reasons))
    return found
