"""Measure what quantization does to a model: distributions, blocks, speed and memory."""

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
    """Return the device_map of this machine: `auto` for several GPUs, `cuda` for one, or `cpu`."""
    if torch.cuda.device_count() > 1:
        return "auto"
    return "cuda" if torch.cuda.is_available() else "cpu"


def log_probs(model: PreTrainedModel, rows: list[list[int]]) -> list[torch.Tensor]:
    """Return the log-probabilities that a model gives after each token of the rows.

    Args:
        model: The model.
        rows: Token ids of each row.

    Returns:
        For each row float32 [tokens, vocabulary]. They are on the CPU, so the model can be deleted.
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
    """Compare a quantised model's distributions with the full-precision model's.

    Args:
        reference: Log-probabilities of the full-precision model, from `log_probs`.
        quantised: The quantised model.
        rows: Token ids of each row, the same as for `reference`.

    Returns:
        kl: Mean of KL(full || quantised), in nats per token.
        same_top: Share of the positions where both models have the same most likely token, 0 to 1.
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
    """Return the divergence that each quantised block causes by itself.

    Each quantised block in turn is put into the full-precision model, and the other blocks stay in
    full precision.

    Args:
        full: The full-precision model. It is unchanged afterwards.
        quantised: The quantised model.
        rows: Token ids of each row.

    Returns:
        {name of the block: nats per token}, such as {"model.layers.0": 0.01}.
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
    """Return a row for each format: the block with the largest error, and what is not quantised.

    Args:
        by_block: {format: errors from `error_by_block`}.
        full_precision: {format: names of the matrices that stay in full precision}.
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
    """Measure the tokens per second of greedy decoding, summed over all answers of a batch.

    A batch of 1 shows the speed for a single user. A larger batch shows the speed of a server.

    Args:
        model: The model.
        prompt: Token ids of the prompt; every answer of the batch has the same prompt.
        batch_size: How many answers are generated at the same time.
        new_tokens: How many tokens each answer has.
        repeats: How many measurements are made; the best one is returned.
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
    """Generate exactly `new_tokens` tokens after prompts; return both, int64 [batch, tokens]."""
    with torch.inference_mode():
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
        )


def peak_bytes(model: PreTrainedModel, prompt: list[int], new_tokens: int = 8) -> int:
    """Measure the peak memory of a model while it answers, in bytes: weights and working memory.

    On CUDA the allocator's peak is used. On a CPU the tensors that operations return are counted;
    the memory that an operation uses internally is not.

    Args:
        model: The model.
        prompt: Token ids of the prompt.
        new_tokens: How many tokens the answer has.
    """
    ids = torch.tensor([prompt], device=model.device)
    _generate(model, ids, 1)  # some formats unpack their weights at the first token
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
    """Counts the bytes of the tensors that exist at the same time.

    Args:
        there: Tensors that existed before; they are not counted.

    Attributes:
        most: The largest number of bytes at any time.
    """

    def __init__(self, there: list[torch.Tensor]):
        super().__init__()
        self.most = 0
        self._now = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation, and count the tensors that it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is freed."""
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._now += size
        self.most = max(self.most, self._now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self._now -= size
