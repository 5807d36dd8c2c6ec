"""What quantization saves and costs: bytes, error and speed of int8, NF4 and 4-bit GPTQ."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a saved model's weight files."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def require_gptq_widths(config: PretrainedConfig, group_size: int) -> None:
    """Refuse a model whose layer widths cannot be cut into GPTQ groups.

    Args:
        config: The model's.
        group_size: Columns that share a scale.

    Raises:
        ValueError: As for stories260K: 172 columns do not make groups of 32.
    """
    for name in ("hidden_size", "intermediate_size"):
        width = getattr(config, name)
        if width % group_size:
            raise ValueError(
                f"GPTQ in groups of {group_size} needs widths divisible by {group_size}, "
                f"but {name} is {width}: change gptq_group, or leave gptq4 out of formats"
            )


def logit_error(
    full: PreTrainedModel, quantised: PreTrainedModel, rows: list[list[int]]
) -> dict[str, float]:
    """Compare two models on rows of token ids.

    Returns:
        kl: The mean divergence of the quantised model's distribution from the full model's, in
            nats per token.
        same_top: The share of places with the same likeliest token.
    """
    divergence = agreement = count = 0.0
    for row in rows:
        ids = torch.tensor([row])
        with torch.inference_mode():
            full_logits = full(ids.to(full.device)).logits[0]
            other_logits = quantised(ids.to(quantised.device)).logits[0]
        p = full_logits.float().log_softmax(-1)
        q = other_logits.float().log_softmax(-1).to(p.device)
        divergence += (p.exp() * (p - q)).sum(-1).sum().item()
        agreement += (p.argmax(-1) == q.argmax(-1)).sum().item()
        count += len(row)
    return {"kl": divergence / count, "same_top": agreement / count}


def generation_speed(
    model: PreTrainedModel, prompt: list[int], new_tokens: int = 64, repeats: int = 2
) -> float:
    """Return generated tokens per second at batch size 1, greedily: what a single user feels.

    Args:
        model: The model.
        prompt: Token ids.
        new_tokens: So many are timed.
        repeats: The best of so many is returned.
    """
    ids = torch.tensor([prompt], device=model.device)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
            )
        generated = out.shape[1] - ids.shape[1]
        best = max(best, generated / (time.perf_counter() - began))
    return best
