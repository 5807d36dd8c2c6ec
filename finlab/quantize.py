"""Quantization: bytes, error and speed of int8 and NF4 (bitsandbytes) and 4-bit GPTQ (GPTQModel through transformers)."""

from __future__ import annotations

import time
from pathlib import Path


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a saved model's weight files."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def require_gptq_widths(config: object, group: int) -> None:
    """Raise ValueError when a model's layer widths cannot be cut into GPTQ groups (stories260K: 172 columns, groups of 32)."""
    for name in ("hidden_size", "intermediate_size"):
        if getattr(config, name) % group:
            raise ValueError(f"GPTQ in groups of {group} needs widths divisible by {group}, but {name} is {getattr(config, name)}: "
                             "change gptq_group, or leave gptq4 out of formats")


def logit_error(full: object, quantised: object, rows: list[list[int]]) -> dict[str, float]:
    """Compare two models on token rows: mean KL divergence (nats) of the full model's distribution, share of equal top tokens."""
    import torch

    divergence = agreement = count = 0.0
    for row in rows:
        ids = torch.tensor([row])
        with torch.inference_mode():
            p = full(ids.to(full.device)).logits[0].float().log_softmax(-1)
            q = quantised(ids.to(quantised.device)).logits[0].float().log_softmax(-1).to(p.device)
        divergence += (p.exp() * (p - q)).sum(-1).sum().item()
        agreement += (p.argmax(-1) == q.argmax(-1)).sum().item()
        count += len(row)
    return {"kl": divergence / count, "same_top": agreement / count}


def generation_speed(model: object, prompt: list[int], new_tokens: int = 64, repeats: int = 2) -> float:
    """Return generated tokens per second at batch size 1 (greedy, the best of `repeats`): what a single user feels."""
    import torch

    ids, best = torch.tensor([prompt], device=model.device), 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
        best = max(best, (out.shape[1] - ids.shape[1]) / (time.perf_counter() - began))
    return best
