"""Read the finished steps of a run and their main results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finlab import files
from finlab.run import integrity
from finlab.run.manifests import is_previous, read_manifest

Metrics = dict[str, Any]
Step = tuple[dict[str, Any], Metrics, Path]  # (manifest, metrics, folder)


def finished_steps(run_dir: Path) -> list[Step]:
    """Return (manifest, metrics, folder) of each complete step of a run.

    The steps are sorted by the name of their notebook, then by the time when they finished. A step
    whose metrics cannot be read is left out.
    """
    found = []
    for path in Path(run_dir).glob("*/manifest.json"):
        manifest = read_manifest(path.parent)
        if manifest is None or is_previous(path.parent):
            continue
        try:
            metrics = files.read_json(path.parent / "metrics.json")
        except (OSError, ValueError):
            continue
        found.append((manifest, metrics, path.parent))
    return sorted(found, key=lambda step: (step[0]["notebook"], step[0]["finished"]))


def history(run_dir: Path, manifest: dict[str, Any]) -> str:
    """Return a note if a step was made from an earlier result or accepted as stale; else "".

    Args:
        run_dir: The run's folder.
        manifest: Manifest of the step.
    """
    earlier = integrity.outdated(Path(run_dir), manifest, read_manifest)
    if earlier:
        return f"made from an earlier {earlier} than stands here"
    accepted = manifest.get("accepted")
    return f"accepted although {'; '.join(accepted['why'])}" if accepted else ""


def rows(run_dir: Path) -> list[tuple[str, str, str]]:
    """Return the main results of a run, in English.

    Args:
        run_dir: The run's folder.

    Returns:
        Lines (step, quantity, value), in the order of `finished_steps`.
    """
    lines = []
    for manifest, metrics, _ in finished_steps(run_dir):
        note = history(run_dir, manifest)
        if note:
            lines.append((manifest["step"], "attention", note))
        for line in metrics.get("headline", []):
            lines.append((manifest["step"], line["quantity"]["en"], line["value"]))
    return lines


def text_table(run_dir: Path) -> str:
    """Return the main results as aligned text for a terminal.

    Args:
        run_dir: The run's folder.
    """
    lines = rows(run_dir)
    if not lines:
        names = [manifest["step"] for manifest, _, _ in finished_steps(run_dir)]
        return f"finished: {', '.join(names)}" if names else "no step has results yet"
    step_width = max(len(step) for step, _, _ in lines)
    name_width = max(len(quantity) for _, quantity, _ in lines)
    aligned = []
    for step, quantity, value in lines:
        aligned.append(f"{step:<{step_width}}  {quantity:<{name_width}}  {value}")
    return "\n".join(aligned)
