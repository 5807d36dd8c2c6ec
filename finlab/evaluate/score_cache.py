"""The answers of a model, kept in a file that is named by the model itself."""

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

VERSION = 2  # of evaluate.prefix_lm: raise it whenever a score could change


def open_score_cache(folder: Path, model: PreTrainedModel) -> JsonlStore:
    """Open the cache of a model's answers, a file in a folder named by `identity`.

    Open it once for all settings, since it reads every weight.
    """
    return JsonlStore(folder / f"{identity(model)}.jsonl")


def identity(model: PreTrainedModel) -> str:
    """Return the SHA-256 of what decides a model's answers.

    That is its tensors as they lie in memory, configuration, adapters, attention, device, and the
    version of the scorer.
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
