"""Keep the answers of a model in a file whose name is a hash of the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finlab.files import JsonlStore
from finlab.models import folders

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 2  # version of evaluate.prefix_lm: raise it whenever a score could change


def open_score_cache(folder: Path, model: PreTrainedModel) -> JsonlStore:
    """Open the cache of a model's answers: the file `<identity(model)>.jsonl` in `folder`.

    Open it once for all settings, since computing the hash reads every weight.
    """
    return JsonlStore(folder / f"{identity(model)}.jsonl")


def identity(model: PreTrainedModel) -> str:
    """Return the SHA-256 of what decides a model's answers.

    The hash covers the tensors as they are in memory, the configuration, the adapters, the
    attention implementation, the device type, and the version of the scorer.
    """
    config = model.config.to_dict() | {"_name_or_path": ""}
    peft_configs = getattr(model, "peft_config", {})
    settings = [
        VERSION,
        config,
        model.config._attn_implementation,
        model.device.type,
        {name: each.to_dict() for name, each in peft_configs.items()},
    ]
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            folders.add_tensor(total, name, tensor)
    return total.hexdigest()
