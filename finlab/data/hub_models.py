"""Fetch models from the Hugging Face hub into the cache of `huggingface_hub` (HF_HOME).

    hub_models.held("meta-llama/Llama-2-7b-hf")     # what is here; uses no network
    hub_models.fetch("meta-llama/Llama-2-7b-hf")    # fetch what is missing; resumed and checked

transformers uses the same cache, so it loads a fetched model without a network.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from finlab import files
from finlab.data import hub_errors
from finlab.data.hub_errors import Report, Repository
from finlab.data.hub_files import delete_cut_files, require_space
from finlab.data.hub_state import Held

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "README.md")
SAFE_WEIGHTS = ("*.safetensors",)
OLD_WEIGHTS = ("pytorch_model*.bin",)
WEIGHT_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
NOBODY_WRITES = 3600  # an unfinished file that is older (in seconds) is not being downloaded
WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def _cache_folder(hub: str) -> Path:
    """Return the folder of a model in the hub's cache; it may not exist yet."""
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=hub, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder


def held(hub: str) -> Held:
    """Return how much of a model is on this machine.

    Args:
        hub: Id of the model, owner/name.
    """
    folder = _cache_folder(hub)
    size = sum(path.stat().st_size for path in folder.glob("blobs/*") if path.is_file())
    for snapshot in folder.glob("snapshots/*"):
        if (snapshot / "config.json").exists() and _weights_are_whole(snapshot):
            return Held("there", size, size, snapshot.name)
    return Held("partly there" if size else "missing", size, 0)


def _weights_are_whole(snapshot: Path) -> bool:
    """Tell whether a snapshot holds all files of its weights."""
    if any((snapshot / name).exists() for name in WHOLE_WEIGHTS):
        return True
    for name in WEIGHT_INDEXES:
        if (snapshot / name).exists():
            shards = set(files.read_json(snapshot / name)["weight_map"].values())
            return all((snapshot / shard).exists() for shard in shards)
    return False


def fetch(hub: str, report: Report = hub_errors.quiet) -> None:
    """Fetch a model: its weights (preferably safetensors), its config and its tokenizer.

    Args:
        hub: Id of the model, owner/name.
        report: Called with one line for each file.

    Raises:
        ValueError: There is no such model, the user must ask for access, or the disk is too small.
        ConnectionError: The hub does not answer. What was fetched so far is kept.
    """
    folder = _cache_folder(hub)

    def progress() -> tuple[int, int]:
        found = [path.stat().st_size for path in folder.glob("blobs/*") if path.is_file()]
        return len(found), sum(found)

    wanted = Repository(f"model {hub}", hub, "main", "model", progress)
    hub_errors.persist(wanted, lambda: _fetch(wanted, folder, report), report)


def _fetch(wanted: Repository, folder: Path, report: Report) -> None:
    """Fetch the files of a model that are not here.

    Args:
        wanted: The repository of the model.
        folder: Folder of the model in the cache.
        report: Called with one line for each file.
    """
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(wanted.hub, files_metadata=True)
    if info.gated and not huggingface_hub.get_token():
        raise ValueError(hub_errors.gated(wanted))
    chosen = _chosen(info.siblings or [])
    if not any(fnmatch.fnmatch(file.rfilename, "*config.json") for file in chosen):
        raise ValueError(f"{wanted.who}: the hub's repository holds no config.json: correct its id")
    snapshot = folder / "snapshots" / info.sha
    missing = [file for file in chosen if not (snapshot / file.rfilename).exists()]
    folder.mkdir(parents=True, exist_ok=True)
    delete_cut_files(folder / "blobs", NOBODY_WRITES)
    to_come = sum(file.size or 0 for file in missing)
    require_space(wanted.who, folder, to_come, "HF_HOME")
    for file in missing:
        report(f"{wanted.who}: {file.rfilename}, {files.size_text(file.size or 0)}")
        # Fetch by branch, not by commit: only then is the model found later without a network.
        huggingface_hub.hf_hub_download(wanted.hub, file.rfilename, revision=wanted.revision)


def _chosen(present: list[RepoFile]) -> list[RepoFile]:
    """Return the files to fetch: the small files, and the weights in one format."""

    def matching(patterns: tuple[str, ...]) -> list[RepoFile]:
        # Files in folders are other forms of the weights, such as original/.
        top = [file for file in present if "/" not in file.rfilename]
        return [
            file
            for file in top
            if any(fnmatch.fnmatchcase(file.rfilename, pattern) for pattern in patterns)
        ]

    weights = matching(SAFE_WEIGHTS) or matching(OLD_WEIGHTS)
    return matching(SMALL_FILES) + weights
