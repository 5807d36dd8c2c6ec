"""Whether a step's files are still those that it left: sizes and times first, then hashes.

seal(folder)                  # {"model/config.json": [712, 1732..., "9f2c..."], ...}
damage(folder, sealed)        # "model/model.safetensors is missing", or ""
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from finlab import files

Seal = dict[str, list]  # {path in the folder: [bytes, time of change in ns, hash]}


def seal(folder: Path) -> Seal:
    """Return size, time and hash of every file in a folder.

    Args:
        folder: An artifact. Hashing takes about a second for each gigabyte.
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
    """Return what is missing or changed in a folder; an empty string where it is whole.

    Args:
        folder: The folder.
        sealed: From `seal`.
        thorough: Hash every file. Else only those whose time has changed, as by a copy.
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
    """Return what is wrong with a finished step's files; empty for nothing.

    Args:
        folder: The step's folder.
        manifest: Its manifest; one from before this check has nothing to compare with.
        thorough: As for `damage`.
    """
    try:
        files.read_json(folder / "metrics.json")
    except (OSError, ValueError):
        return "metrics.json cannot be read"
    found = damage(folder / "artifact", manifest.get("artifact", {}), thorough)
    return f"artifact/{found}" if found else ""


def outdated(run_dir: Path, manifest: dict[str, Any], read: Any) -> str:
    """Return the step of whose earlier result a step was made; empty where all agree.

    Args:
        run_dir: The run.
        manifest: Of the step.
        read: Reads the manifest of a step's folder, or gives None.
    """
    for name, key in manifest["inputs"]["steps"].items():
        # A step whose folder was left out of a copy, or deleted for its space, contradicts nothing.
        if not (run_dir / name).exists():
            continue
        upstream = read(run_dir / name)
        if upstream is None or upstream["key"] != key:
            return name
        further = outdated(run_dir, upstream, read)
        if further:
            return further
    return ""
