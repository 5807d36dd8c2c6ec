"""Read the manifests of finished steps, and check that the steps are complete and undamaged."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.run import integrity, recipe
from finlab.run.parameters import declared_parameters, notebook_names
from finlab.run.refusals import NotReady


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a complete step; None if there is none or it is broken."""
    try:
        manifest = files.read_json(folder / "manifest.json")
        return manifest if manifest["key"] and manifest["inputs"]["steps"] is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_current(manifest: dict[str, Any], key: str) -> bool:
    """Tell whether a finished step is what would run now, or was accepted in its place.

    Args:
        manifest: Of the step.
        key: The key that it would have now.
    """
    return key in (manifest["key"], manifest.get("accepted", {}).get("key"))


def upstream_manifests(run_dir: Path, step: str, parameters: dict[str, Any]) -> dict[str, dict]:
    """Return {step: manifest} of the steps that a step reads.

    Args:
        run_dir: The run's folder.
        step: Name of the step that reads, for error messages.
        parameters: All parameter values of the step.

    Raises:
        NotReady: A step that is read is not finished, or was made from an earlier result.
    """
    found = {}
    for need in recipe.needs(parameters):
        manifest = read_manifest(run_dir / need)
        if manifest is None:
            raise NotReady(
                f"step '{step}' reads step '{need}', which is not finished in {run_dir}: "
                f"{_how_to_make(run_dir, need)}"
            )
        earlier = integrity.outdated(run_dir, manifest, read_manifest)
        if earlier:
            raise NotReady(
                f"step '{step}' reads step '{need}', which was made from an earlier '{earlier}' "
                f"than the one in {run_dir}: run '{need}' again first (--from {need})"
            )
        found[need] = manifest
    return found


def require_whole(run_dir: Path, upstream: dict[str, dict]) -> None:
    """Raise an error if the files of a step have changed since the step was finished.

    Args:
        run_dir: The run's folder.
        upstream: {step: manifest} of the steps that will be read.

    Raises:
        NotReady: A file is missing or changed.
    """
    for name, manifest in upstream.items():
        found = integrity.damaged_step(run_dir / name, manifest, thorough=True)
        if found:
            raise NotReady(
                f"step '{name}' in {run_dir} was finished and is damaged since: {found}: "
                f"run it again (--from {name})"
            )


def _how_to_make(run_dir: Path, step: str) -> str:
    """Say how to make a missing step and the missing steps that it needs.

    Args:
        run_dir: The run's folder.
        step: Name of the missing step.
    """
    notebook_of = {}
    needs_of = {}
    for notebook in notebook_names():
        defaults = {name: each.default for name, each in declared_parameters(notebook).items()}
        name = defaults["step"]
        notebook_of[name] = notebook
        needs_of[name] = recipe.needs(defaults)
    chain = _chain(step, needs_of)
    missing = [each for each in chain if read_manifest(run_dir / each) is None]
    named = " → ".join(notebook_of.get(each, each) for each in missing)
    command = _command_for(run_dir, step)
    return f"run {named} in this order" + (f", or `{command}`, which does" if command else "")


def _command_for(run_dir: Path, step: str) -> str:
    """Return the command that makes a step of a run; empty if the run's recipe is not known.

    Args:
        run_dir: The run's folder.
        step: Name of the step.
    """
    begun = run_dir / "run.json"
    facts = files.read_json(begun) if begun.exists() else {}
    name = facts.get("recipe") or run_dir.name
    known = (paths.RECIPES / f"{name}.yaml").exists()
    if not known and not facts.get("file"):
        return ""
    words = ["finlab", "run", name if known else facts["file"], "--to", step]
    for value in facts.get("overrides", []):
        words += ["--set", value]
    if run_dir != paths.ROOT / "runs" / name:
        words += ["--run-dir", str(run_dir)]
    return shlex.join(words)


def _chain(step: str, needs_of: dict[str, list[str]]) -> list[str]:
    """Return all steps that a step needs, each once, and last the step itself.

    Args:
        step: Name of the step.
        needs_of: {step: the steps that it reads}.
    """
    found: list[str] = []
    for need in needs_of.get(step, []):
        found += [each for each in _chain(need, needs_of) if each not in found]
    return [*found, step]


def is_previous(folder: Path) -> bool:
    """Tell whether a folder holds a result that a later one has replaced."""
    return ".previous" in folder.name
