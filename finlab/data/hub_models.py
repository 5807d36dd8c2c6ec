"""Models on the Hugging Face hub, kept in the cache of `huggingface_hub` (HF_HOME).

    hub_models.held("meta-llama/Llama-2-7b-hf")     # asks nobody
    hub_models.fetch("meta-llama/Llama-2-7b-hf")    # what is missing, resumed and checked

transformers reads the same cache, so what is fetched here is loaded there without a network.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from finlab import files, paths
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
NOBODY_WRITES = 3600  # seconds after which a cut file is nobody's download any more
WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def _cache_folder(hub: str) -> Path:
    """Return the folder of a model in the hub's cache, which may not be there."""
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=hub, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder


def held(hub: str) -> Held:
    """Return what this machine has of a model.

    Args:
        hub: Its id.
    """
    folder = _cache_folder(hub)
    size = sum(path.stat().st_size for path in folder.glob("blobs/*") if path.is_file())
    for snapshot in folder.glob("snapshots/*"):
        if (snapshot / "config.json").exists() and _weights_are_whole(snapshot):
            return Held("there", size, size, snapshot.name)
    return Held("partly there" if size else "missing", size, 0)


def licence(name: str) -> str:
    """Return the licence that a model's own card states; empty where it is not here or says none.

    Args:
        name: A folder, or a hub id.
    """
    from huggingface_hub.repocard import metadata_load

    local = paths.resolve(name)
    folders = [local] if local.is_dir() else _cache_folder(name).glob("snapshots/*")
    for folder in folders:
        try:
            stated = metadata_load(folder / "README.md") or {}
        except (OSError, ValueError, yaml.YAMLError):
            continue
        return str(stated.get("license_name") or stated.get("license") or "")
    return ""


def _weights_are_whole(snapshot: Path) -> bool:
    """Tell whether a snapshot holds its weights, every file of them."""
    if any((snapshot / name).exists() for name in WHOLE_WEIGHTS):
        return True
    for name in WEIGHT_INDEXES:
        if (snapshot / name).exists():
            shards = set(files.read_json(snapshot / name)["weight_map"].values())
            return all((snapshot / shard).exists() for shard in shards)
    return False


def fetch(hub: str, report: Report = hub_errors.quiet) -> None:
    """Fetch a model: its weights as safetensors where there are any, its config and tokenizer.

    Args:
        hub: Its id.
        report: Gets a line a file.

    Raises:
        ValueError: There is no such model, one must ask for access, or the disk is too small.
        ConnectionError: The hub does not answer. What came so far is kept.
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
        wanted: The model.
        folder: Its place in the cache.
        report: Gets a line a file.
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
        # By its branch and not its commit: only then the model is found without a network.
        huggingface_hub.hf_hub_download(wanted.hub, file.rfilename, revision=wanted.revision)


def _chosen(present: list[RepoFile]) -> list[RepoFile]:
    """Return the files that are wanted: small ones, and one form of the weights."""

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
