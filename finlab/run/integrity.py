"""Check whether a step's files are unchanged: first by size and time, then by hash.

seal(folder)                  # {"model/config.json": [712, 1732..., "9f2c..."], ...}
damage(folder, sealed)        # "model/model.safetensors is missing", or ""
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from finlab import files

Seal = dict[str, list]  # {path in the folder: [bytes, time of last change in ns, hash]}


def seal(folder: Path) -> Seal:
    """Return size, time and hash of every file in a folder.

    Args:
        folder: An artifact folder. Hashing takes about a second per gigabyte.
    """
    sealed = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            sealed[path.relative_to(folder).as_posix()] = [0, 0, f"-> {os.readlink(path)}"]
        elif path.is_file():
            stat = path.stat()
            name = path.relative_to(folder).as_posix()
            sealed[name] = [stat.st_size, stat.st_mtime_ns, files.file_digest(path)]
    return sealed


def damage(folder: Path, sealed: Seal, thorough: bool = False) -> str:
    """Return what is missing or changed in a folder; an empty string if nothing is.

    Args:
        folder: The folder.
        sealed: Sizes, times and hashes of its files, from `seal`.
        thorough: Hash every file. False hashes only files whose time has changed, for example
            because they were copied.
    """
    for name, (size, changed, digest) in sealed.items():
        path = folder / name
        if digest.startswith("-> "):
            if not path.is_symlink() or f"-> {os.readlink(path)}" != digest:
                return f"{name} no longer leads to {digest.removeprefix('-> ')}"
            continue
        if not path.is_file():
            return f"{name} is missing"
        stat = path.stat()
        if stat.st_size != size:
            return f"{name} has {stat.st_size:,} bytes, and had {size:,}"
        untouched = stat.st_mtime_ns == changed
        if (thorough or not untouched) and files.file_digest(path) != digest:
            return f"{name} has another content"
    return ""


def damaged_step(folder: Path, manifest: dict[str, Any], thorough: bool = False) -> str:
    """Return what is wrong with a finished step's files; empty if nothing is.

    Args:
        folder: The step's folder.
        manifest: The manifest of the step. Old manifests have no hashes, so for them only
            metrics.json is checked.
        thorough: Hash every file; see `damage`.
    """
    try:
        files.read_json(folder / "metrics.json")
    except (OSError, ValueError):
        return "metrics.json cannot be read"
    found = damage(folder / "artifact", manifest.get("artifact", {}), thorough)
    return f"artifact/{found}" if found else ""


def outdated(run_dir: Path, manifest: dict[str, Any], read: Any) -> str:
    """Return the name of an upstream step that was made again later; empty if there is none.

    If there is one, the step was made from an earlier result than the run has now. The steps that
    upstream steps read are checked too.

    Args:
        run_dir: The run's folder.
        manifest: The manifest of the step to check.
        read: A function that returns the manifest in a step's folder, or None.
    """
    for name, key in manifest["inputs"]["steps"].items():
        # A folder may be missing because it was not copied, or was deleted to save space. This is
        # not an error.
        if not (run_dir / name).exists():
            continue
        upstream = read(run_dir / name)
        if upstream is None or upstream["key"] != key:
            return name
        further = outdated(run_dir, upstream, read)
        if further:
            return further
    return ""
