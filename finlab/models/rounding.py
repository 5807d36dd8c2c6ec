"""What rounding does to a model: its distributions, its blocks, its speed and its memory."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def placement() -> str:
    """Return the device_map of this machine: all its GPUs, its GPU, or its CPU."""
    if torch.cuda.device_count() > 1:
        return "auto"
    return "cuda" if torch.cuda.is_available() else "cpu"


def log_probs(model: PreTrainedModel, rows: list[list[int]]) -> list[torch.Tensor]:
    """Return what a model expects after each token of rows.

    Args:
        model: The model.
        rows: Token ids.

    Returns:
        For each row float32 [tokens, vocabulary] on the CPU, so that the model may go.
    """
    return [_log_probs(model, row).cpu() for row in rows]


def _log_probs(model: PreTrainedModel, row: list[int]) -> torch.Tensor:
    """Return the log-probabilities after each token of a row: float32 [tokens, vocabulary]."""
    with torch.inference_mode():
        logits = model(torch.tensor([row], device=model.device)).logits[0]
    return logits.float().log_softmax(-1)


def logit_error(
    reference: list[torch.Tensor], quantised: PreTrainedModel, rows: list[list[int]]
) -> dict[str, float]:
    """Compare a model with another one's expectations on rows of token ids.

    Args:
        reference: Of the full model, from `log_probs`.
        quantised: The same model in fewer bits.
        rows: Token ids.

    Returns:
        kl: The mean divergence of the quantised model's distribution from the full model's, in
            nats per token.
        same_top: The share of places with the same likeliest token.
    """
    divergence = agreement = count = 0.0
    for row, p in zip(rows, reference, strict=True):
        q = _log_probs(quantised, row).cpu()
        divergence += (p.exp() * (p - q)).sum(-1).sum().item()
        agreement += (p.argmax(-1) == q.argmax(-1)).sum().item()
        count += len(row)
    return {"kl": divergence / count, "same_top": agreement / count}


def error_by_block(
    full: PreTrainedModel, quantised: PreTrainedModel, rows: list[list[int]]
) -> dict[str, float]:
    """Return the divergence that each block of a quantised model brings by itself.

    One block after another takes its place in the full model, between blocks that are not rounded.

    Args:
        full: The full model. It is as before afterwards.
        quantised: The same model in fewer bits.
        rows: Token ids.

    Returns:
        {"model.layers.0": nats per token, ...}
    """
    blocks = full.get_decoder().layers
    rounded = quantised.get_decoder().layers
    name = next(name for name, module in full.named_modules() if module is blocks)
    before = [_log_probs(full, row) for row in rows]
    count = sum(len(row) for row in rows)
    errors = {}
    for number, own in enumerate(blocks):
        blocks[number] = rounded[number]
        try:
            total = 0.0
            for row, p in zip(rows, before):
                q = _log_probs(full, row)
                total += (p.exp() * (p - q)).sum().item()
        finally:
            blocks[number] = own
        errors[f"{name}.{number}"] = total / count
    return errors


def worst_blocks(
    by_block: dict[str, dict[str, float]], full_precision: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Return a row for each format: the block that suffers most, and what was not rounded.

    Args:
        by_block: {format: errors, of `error_by_block`}.
        full_precision: {format: names of the matrices that stay as they are}.
    """
    rows = []
    for name, errors in by_block.items():
        worst = max(errors, key=errors.get)
        total = sum(errors.values())
        rows.append(
            {
                "format": name,
                "worst block": worst,
                "its divergence": errors[worst],
                "share of all blocks": errors[worst] / total if total else 0.0,
                "in full precision": ", ".join(full_precision[name]),
            }
        )
    return rows


def generation_speed(
    model: PreTrainedModel,
    prompt: list[int],
    batch_size: int = 1,
    new_tokens: int = 64,
    repeats: int = 2,
) -> float:
    """Return generated tokens per second, greedily, over all answers of a batch.

    A batch of 1 is what a single user feels; a larger one is what a server gives.

    Args:
        model: The model.
        prompt: Token ids.
        batch_size: Answers at once.
        new_tokens: So many are timed, of each.
        repeats: The best of so many is returned.
    """
    ids = torch.tensor([prompt] * batch_size, device=model.device)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        out = _generate(model, ids, new_tokens)
        generated = (out.shape[1] - ids.shape[1]) * batch_size
        best = max(best, generated / (time.perf_counter() - began))
    return best


def _generate(model: PreTrainedModel, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Return prompts with so many tokens after them, int64 [batch, tokens]."""
    with torch.inference_mode():
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
        )


def peak_bytes(model: PreTrainedModel, prompt: list[int], new_tokens: int = 8) -> int:
    """Return the most bytes that a model holds while it answers: weights and working memory.

    On CUDA the allocator counts. On a CPU the tensors that each operation returns are counted, and
    what it needs inside itself is not seen.

    Args:
        model: The model.
        prompt: Token ids.
        new_tokens: That it answers with.
    """
    ids = torch.tensor([prompt], device=model.device)
    _generate(model, ids, 1)  # a format that unpacks its weights does so at the first token
    weights = model.get_memory_footprint()
    if model.device.type == "cuda":
        gpus = range(torch.cuda.device_count())
        before = sum(map(torch.cuda.memory_allocated, gpus))
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        _generate(model, ids, new_tokens)
        return weights + sum(map(torch.cuda.max_memory_allocated, gpus)) - before
    held = [*model.parameters(), *model.buffers()]
    with _Working(held) as working:
        _generate(model, ids, new_tokens)
    return weights + working.most


class _Working(TorchDispatchMode):
    """Counts the bytes of tensors that live at once, besides those that were there before.

    Args:
        there: Tensors that were.

    Attributes:
        most: The most bytes at once.
    """

    def __init__(self, there: list[torch.Tensor]):
        super().__init__()
        self.most = 0
        self._now = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation, and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is gone."""
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self._now -= size
