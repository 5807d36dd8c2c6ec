"""Model folders: find a base, list the models that a step saved, and hash a model's weights."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import torch
from safetensors import safe_open

from finlab import paths


def fetch(source: str) -> Path:
    """Return the local folder of a base.

    Args:
        source: A folder, or a hub id. A hub id is downloaded once and then taken from the cache.

    Raises:
        ValueError: `source` is neither a folder nor a reachable hub id, or the folder has no
            config.json.
    """
    folder = paths.resolve(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source))
        except Exception as error:
            raise ValueError(
                f"'{source}' is neither a folder ({folder}) nor a hub id that can be reached "
                f"({type(error).__name__})"
            ) from None
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no config.json, so it is not a model folder")
    return folder


def saved_models(step: str, artifact: Path, adapters: bool = False) -> dict[str, Path]:
    """Return the models that a step saved, {name: folder}, the step's final model last.

    Args:
        step: Name of the step. The final model has this name. Other models have names such as
            `sft/stage1`.
        artifact: The step's artifact folder.
        adapters: Also return the step's adapters. An adapter is loaded together with its base.
    """
    models: dict[str, Path] = {}
    final: dict[str, Path] = {}
    for child in sorted(artifact.iterdir()):
        folder = child / "model" if _is_model(child / "model") else child
        taken = [path.resolve() for path in [*models.values(), *final.values()]]
        if _is_model(folder) and folder.resolve() not in taken:
            if child.name == "model":
                final[step] = folder
            else:
                models[f"{step}/{child.name}"] = folder
        if not adapters or child.is_symlink():
            continue
        for folder in (child, child / "adapter"):
            if (folder / "base.json").exists():
                models[f"{step}/{folder.relative_to(artifact)}"] = folder
    return models | final


def _is_model(folder: Path) -> bool:
    """Tell whether a folder has a config.json, as a model folder does."""
    return (folder / "config.json").exists()


# --- hashes of weights ---------------------------------------------------------------------------
def add_tensor(total: hashlib._Hash, name: str, tensor: torch.Tensor) -> None:
    """Add a tensor's name, type, shape and bytes to a hash.

    Args:
        total: The hash, updated in place.
        name: Name of the tensor.
        tensor: The tensor, on any device.
    """
    total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    total.update(memoryview(flat.view(torch.uint8).numpy()))


def fingerprint(folder: str | Path) -> str:
    """Return the SHA-256 of a model folder's weights; it does not depend on the sharding.

    Args:
        folder: A folder of safetensors files. If there are none, its .bin files are hashed.
    """
    folder = Path(folder)
    stamp = []
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        stat = path.stat()
        stamp.append((path.name, stat.st_size, stat.st_mtime_ns))
    return _fingerprint(folder, tuple(stamp))


@functools.lru_cache(maxsize=8)
def _fingerprint(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    """Hash every tensor of a folder.

    Args:
        folder: A folder of safetensors files, or of .bin files.
        stamp: (name, size, time) of each file. A change of it makes the cache hash again.
    """
    total = hashlib.sha256()
    if not any(folder.glob("*.safetensors")):  # an older base: hash the .bin files as they are
        for name, _, _ in stamp:
            with open(folder / name, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()
    file_of = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():
                file_of[name] = path
    for name in sorted(file_of):
        with safe_open(file_of[name], "pt") as tensors:
            add_tensor(total, name, tensors.get_tensor(name))
    return total.hexdigest()
