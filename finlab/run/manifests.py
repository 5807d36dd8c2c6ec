"""The manifests of finished steps: read them, and require that they stand and are whole."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.run import integrity, recipe
from finlab.run.parameters import declared_parameters, notebook_names
from finlab.run.refusals import NotReady


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a complete step, or None; a broken one counts as none."""
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
        run_dir: The run.
        step: The step that reads, for errors.
        parameters: Its values.

    Raises:
        NotReady: One of them is not finished.
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
    """Refuse to read steps whose files are no longer those that they left.

    Args:
        run_dir: The run.
        upstream: {step: manifest} of the steps that are to be read.
    """
    for name, manifest in upstream.items():
        found = integrity.damaged_step(run_dir / name, manifest, thorough=True)
        if found:
            raise NotReady(
                f"step '{name}' in {run_dir} was finished and is damaged since: {found}: "
                f"run it again (--from {name})"
            )


def _how_to_make(run_dir: Path, step: str) -> str:
    """Say how a step that is missing is made, with all that it stands on.

    Args:
        run_dir: The run.
        step: The missing step.
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
    """Return the command that makes a step of a run; empty where its recipe is not known.

    Args:
        run_dir: The run.
        step: The step.
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
    """Return a step behind all that it stands on, each once.

    Args:
        step: Its name.
        needs_of: {step: the steps that it reads}.
    """
    found: list[str] = []
    for need in needs_of.get(step, []):
        found += [each for each in _chain(need, needs_of) if each not in found]
    return [*found, step]


def is_previous(folder: Path) -> bool:
    """Tell whether a folder holds a result that a later one has replaced."""
    return ".previous" in folder.name
