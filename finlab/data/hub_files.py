"""Fetch whole files of a repository on the hub, resume them, and check the hub's hashes."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finlab.data import hub_errors, hub_state
from finlab.data.card_schema import Card
from finlab.data.hub_errors import Report
from finlab.files import size_text
from finlab.run import locks

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

SPARE = 1.05  # the free disk space must be at least this factor times the size of the files


def fetch(card: Card, folder: Path, report: Report) -> None:
    """Fetch the files of a card that are not here yet, and check each against the hub's hash.

    Args:
        card: The card.
        folder: The card's folder in the cache, locked by this process.
        report: Called with one line for each file.

    Raises:
        ValueError: No file matches `data_files`, the disk is too small, or a hash is wrong.
    """
    import huggingface_hub

    delete_cut_files(folder)
    index = hub_state.read_index(folder)
    revision = hub_errors.pinned_revision(card, index)
    wanted = _repository_files(card, revision)
    missing = [file for file in wanted if file.path not in index["files"]]
    index["wanted_bytes"] = sum(file.size for file in wanted)
    hub_state.write_index(folder, index)
    to_come = sum(file.size for file in missing)
    require_space(f"card {card.name}", folder, to_come, "FINLAB_CACHE")
    for file in missing:
        report(f"{card.name}: {file.path}, {size_text(file.size)}")
        path = huggingface_hub.hf_hub_download(
            card.spec["hub"],
            file.path,
            repo_type="dataset",
            revision=revision,
            local_dir=folder / "files",
        )
        _require_hash(card, Path(path), file)
        index["files"][file.path] = {
            "bytes": file.size,
            "digest": _hub_hash(file),
            "changed": Path(path).stat().st_mtime_ns,
        }
        hub_state.write_index(folder, index)
    index["complete"] = True
    hub_state.write_index(folder, index)


def _repository_files(card: Card, revision: str) -> list[RepoFile]:
    """Return the files of a card's repository that its `data_files` name.

    Args:
        card: The card.
        revision: The commit.
    """
    import huggingface_hub
    from huggingface_hub.hf_api import RepoFile

    tree = huggingface_hub.HfApi().list_repo_tree(
        card.spec["hub"], recursive=True, revision=revision, repo_type="dataset"
    )
    present = [entry for entry in tree if isinstance(entry, RepoFile)]
    found = []
    for pattern in card.spec["data_files"]:
        matching = [file for file in present if fnmatch.fnmatchcase(file.path, pattern)]
        if not matching:
            listed = ", ".join(file.path for file in present[:8]) or "no files"
            raise ValueError(
                f"card {card.name}: no file of {card.spec['hub']} matches '{pattern}': it has "
                f"{listed}: correct `data_files:`"
            )
        found += [file for file in matching if file not in found]
    return found


def delete_cut_files(folder: Path, idle_seconds: float = 0) -> None:
    """Delete unfinished files that killed downloads left.

    They cannot be resumed, because the library begins a file again under a new name.

    Args:
        folder: The folder to search, with its subfolders.
        idle_seconds: Keep files that were written to within this many seconds, because another
            process may be downloading them.
    """
    for left in folder.rglob("*.incomplete"):
        if time.time() - left.stat().st_mtime >= idle_seconds:
            left.unlink(missing_ok=True)


def require_space(who: str, folder: Path, size: int, variable: str) -> None:
    """Raise ValueError if the disk has too little space for a download.

    Args:
        who: The card or model that needs the files, for the error.
        folder: A folder on the disk.
        size: Bytes that are still to be fetched.
        variable: Name of the environment variable that can name a folder on another disk.
    """
    needed = int(SPARE * size)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{who}: {size_text(needed)} are to come, and the disk of {folder} has "
            f"{size_text(free)} free: free some, or set {variable} to a folder on another disk"
        )


def damaged(folder: Path, index: dict[str, Any]) -> list[str]:
    """Return the names of fetched files that are missing or do not have the hub's hash.

    Only files whose modification time has changed since they were fetched are hashed.

    Args:
        folder: The card's folder in the cache.
        index: The index of the folder.
    """
    found = hub_state.lost_files(folder, index)
    for name, record in index["files"].items():
        path = folder / "files" / name
        if name in found or path.stat().st_mtime_ns == record.get("changed"):
            continue
        if _hash_like(record["digest"], path) != record["digest"]:
            found.append(name)
    return found


def remember_times(folder: Path, index: dict[str, Any]) -> None:
    """Record the modification times of undamaged files, so that they are not hashed again.

    The index of a cache that was copied here has other times. The index of an older finlab has no
    times.

    Args:
        folder: The card's folder in the cache.
        index: The index of the folder; none of its files is damaged.
    """
    times = {}
    for name, record in index["files"].items():
        changed = (folder / "files" / name).stat().st_mtime_ns
        if changed != record.get("changed"):
            times[name] = changed
    if not times:
        return
    # If another process uses the folder, or it cannot be written, the files are hashed again later.
    with contextlib.suppress(locks.Busy, OSError), locks.holding(folder):
        for name, changed in times.items():
            index["files"][name]["changed"] = changed
        hub_state.write_index(folder, index)


def forget_damaged(card: Card, folder: Path, report: Report) -> None:
    """Delete fetched files that are damaged, so that they are fetched again.

    Args:
        card: The card.
        folder: The card's folder in the cache, locked by this process.
        report: Called with one line for each damaged file.
    """
    index = hub_state.read_index(folder)
    for name in damaged(folder, index):
        report(f"{card.name}: {name} is missing or was changed, and is fetched again")
        (folder / "files" / name).unlink(missing_ok=True)
        del index["files"][name]
        index["complete"] = False
    hub_state.write_index(folder, index)


def _hash_like(digest: str, path: Path) -> str:
    """Return the hash of a file, of the same type as another hash: SHA-256 or git's SHA-1.

    Args:
        digest: The hash from the hub; only its length is used.
        path: The file.
    """
    # Git hashes a header before the content.
    header = f"blob {path.stat().st_size}\0".encode()
    begun = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(header)
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, lambda: begun).hexdigest()


def _hub_hash(file: RepoFile) -> str:
    """Return the hash that the hub gives: SHA-256 for a large file, git's SHA-1 for a small one."""
    return file.lfs.sha256 if file.lfs else file.blob_id


def _require_hash(card: Card, path: Path, file: RepoFile) -> None:
    """Delete a fetched file and raise ValueError if it does not have the hub's hash.

    Args:
        card: The card, for the error.
        path: The fetched file.
        file: The hub's record of the file.
    """
    if _hash_like(_hub_hash(file), path) != _hub_hash(file):
        path.unlink()
        raise ValueError(
            f"card {card.name}: {file.path} has another content than {card.spec['hub']} states, "
            "so it was deleted: fetch it again"
        )
