"""LoRA adapters: how one begins, which base one on disk belongs to, and putting it on.

An adapter folder holds what PEFT saves, and `base.json`: where its base is, seen from the adapter,
and the SHA-256 of that base's weights. So an adapter refuses a base that it was not trained on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from finlab import files
from finlab.models import folders

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BASE_FILE = "base.json"
TABLES = ("embed_tokens.weight", "lm_head.weight")


def changing_start(peft_config: Any) -> str:
    """Return how a LoRA begins, where that changes its base (PiSSA and its kind), else "".

    With zeros for B, as by default, and with `gaussian` the base stays as it is.

    Args:
        peft_config: PEFT's config, or None where all parameters are trained.
    """
    start = getattr(peft_config, "init_lora_weights", True)
    return start if isinstance(start, str) and start != "gaussian" else ""


def is_adapter(folder: str | Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (Path(folder) / "adapter_config.json").exists()


def write_base(adapter: Path, base: Path) -> None:
    """Write down which base an adapter belongs to, by its place and its weights' SHA-256.

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
        ValueError: The adapter does not say where its base is, or it is not there.
    """
    path = Path(adapter) / BASE_FILE
    record = files.read_json(path) if path.exists() else {}
    base = (Path(adapter) / record.get("base", "nowhere")).resolve()
    if not base.is_dir():
        raise ValueError(
            f"the adapter {adapter} does not say where its base is (base.json): "
            "load the base, then adapters.attach(base, adapter)"
        )
    return base


def attach(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return a base with a saved adapter on it.

    Raises:
        ValueError: The adapter holds tables of another size, or rows that the base lacks, or it was
            trained on another base, by the hash that was saved with it.
    """
    from peft import PeftModel

    adapter = Path(adapter)
    _check_rows(base, adapter)
    path = adapter / BASE_FILE
    if path.exists() and base.name_or_path:
        record = files.read_json(path)
        if folders.fingerprint(folders.fetch(base.name_or_path)) != record["sha256"]:
            raise ValueError(
                f"the adapter {adapter} was trained on another base than {base.name_or_path}: its "
                "weights have another SHA-256; load it onto "
                f"{record['base']} (seen from the adapter)"
            )
    return PeftModel.from_pretrained(base, str(adapter))


def _check_rows(base: PreTrainedModel, adapter: Path) -> None:
    """Refuse an adapter that was trained with other embeddings than the base has."""
    config = files.read_json(adapter / "adapter_config.json")
    indices = config.get("trainable_token_indices") or {}
    if not isinstance(indices, dict):
        indices = {"": indices}
    needed = max((1 + max(numbers) for numbers in indices.values()), default=0)
    with safe_open(adapter / "adapter_model.safetensors", "pt") as tensors:
        names = [name for name in tensors.keys() if name.endswith(TABLES)]
        sizes = [tensors.get_slice(name).get_shape()[0] for name in names]
    rows = base.get_input_embeddings().weight.shape[0]
    if needed > rows or any(size != rows for size in sizes):
        raise ValueError(
            f"the adapter {adapter} was trained with {max([needed, *sizes]):,} rows of embeddings, "
            f"the base has {rows:,}: load it onto the grown model that it was trained on "
            "(the tokenizer step's)"
        )
