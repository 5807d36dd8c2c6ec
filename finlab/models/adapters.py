"""LoRA adapters: their initialization, the base they belong to, and loading them onto it.

An adapter folder has the files that PEFT saves, and `base.json`. This file has the path of the
base, relative to the adapter's folder, and the SHA-256 of the base's weights. So an adapter cannot
be loaded onto a base that it was not trained on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from finlab import files
from finlab.models import folders

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BASE_FILE = "base.json"
TABLES = ("embed_tokens.weight", "lm_head.weight")


def changing_start(peft_config: Any) -> str:
    """Return the name of a LoRA initialization that changes its base (such as PiSSA), else "".

    The default (B is zero) and `gaussian` do not change the base.

    Args:
        peft_config: The config of PEFT; None if all parameters are trained.
    """
    start = getattr(peft_config, "init_lora_weights", True)
    return start if isinstance(start, str) and start != "gaussian" else ""


def is_adapter(folder: str | Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (Path(folder) / "adapter_config.json").exists()


def write_base(adapter: Path, base: Path) -> None:
    """Write the path and the SHA-256 of an adapter's base into the adapter's folder.

    Args:
        adapter: The adapter's folder.
        base: The base's folder.
    """
    relative = os.path.relpath(base.resolve(), Path(adapter).resolve())
    record = {"base": relative, "sha256": folders.fingerprint(base)}
    files.write_json(Path(adapter) / BASE_FILE, record)


def base_of(adapter: str | Path) -> Path:
    """Return the folder of an adapter's base.

    Raises:
        ValueError: The adapter does not say where its base is, the base is not there, or the base
            is itself an adapter.
    """
    record = _base_record(Path(adapter))
    base = (Path(adapter) / str(record.get("base", "nowhere"))).resolve()
    if not base.is_dir() or base == Path(adapter).resolve():
        raise ValueError(
            f"the adapter {adapter} does not say where its base is (base.json): "
            "load the base, then adapters.attach(base, adapter)"
        )
    if is_adapter(base):
        raise ValueError(
            f"the adapter {adapter} names another adapter as its base ({base}): "
            "correct base.json, so that it names the model that both were trained on"
        )
    return base


def _base_record(adapter: Path) -> dict[str, str]:
    """Return the path and the hash of an adapter's base, {base, sha256}; empty if not recorded.

    Raises:
        ValueError: base.json cannot be read.
    """
    path = adapter / BASE_FILE
    if not path.exists():
        return {}
    try:
        record = files.read_json(path)
        return {name: str(record[name]) for name in ("base", "sha256") if name in record}
    except (ValueError, TypeError):
        raise ValueError(
            f'{path} is broken: write {{"base": "where it is, seen from the adapter"}}'
        ) from None


def attach(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return a base with a saved adapter on it.

    Raises:
        ValueError: The adapter was trained with more embedding rows or tables of another size, its
            files are damaged, or the saved hash shows that it was trained on another base.
    """
    from peft import PeftModel

    adapter = Path(adapter)
    _check_rows(base, adapter)
    record = _base_record(adapter)
    if "sha256" in record and base.name_or_path:
        if folders.fingerprint(folders.fetch(base.name_or_path)) != record["sha256"]:
            raise ValueError(
                f"the adapter {adapter} was trained on another base than {base.name_or_path}: its "
                "weights have another SHA-256; load it onto "
                f"{record.get('base', 'its own')} (seen from the adapter)"
            )
    return PeftModel.from_pretrained(base, str(adapter))


def _check_rows(base: PreTrainedModel, adapter: Path) -> None:
    """Raise an error if an adapter's embedding rows do not fit the base's embeddings."""
    try:
        config = files.read_json(adapter / "adapter_config.json")
        with safe_open(adapter / "adapter_model.safetensors", "pt") as tensors:
            names = [name for name in tensors.keys() if name.endswith(TABLES)]
            sizes = [tensors.get_slice(name).get_shape()[0] for name in names]
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"the adapter {adapter} is not whole ({reason}): train it again, or get its files again"
        ) from None
    indices = config.get("trainable_token_indices") or {}
    if not isinstance(indices, dict):
        indices = {"": indices}
    needed = max((1 + max(numbers) for numbers in indices.values()), default=0)
    rows = base.get_input_embeddings().weight.shape[0]
    if needed > rows or any(size != rows for size in sizes):
        raise ValueError(
            f"the adapter {adapter} was trained with {max([needed, *sizes]):,} rows of embeddings, "
            f"the base has {rows:,}: load it onto the grown model that it was trained on "
            "(the tokenizer step's)"
        )
