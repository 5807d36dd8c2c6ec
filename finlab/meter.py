"""The meter: FLOPs by the 4N/6N rule, tokens per second, MFU against a measured ceiling.

The rule: a training token costs 6N FLOPs when all weights learn and 4N when they are frozen under LoRA (no weight gradients),
plus 6 per trained parameter of the adapters and 2 per weight of single trained rows of the head, plus causal attention.
N counts matrices only, not the input embedding.
Recomputation in gradient checkpointing counts in HFU (hardware FLOPs), never in MFU (model FLOPs).
"""

from __future__ import annotations

import time

PEAK_TFLOPS = {"A100": 312, "A800": 312, "H100": 989, "H800": 989, "H200": 989}  # dense bf16, NVIDIA data sheets


def flops_per_token(model: object, mean_length: float, recompute: bool = False) -> float:
    """Return the model FLOPs of one training token in documents of `mean_length` tokens (forward and backward).

    Packed documents see only themselves, so their `mean_length` is the sum of squares over the sum of their lengths. With `recompute` one
    more forward of the blocks is counted, as gradient checkpointing makes it: hardware FLOPs.
    """
    embedding = model.get_input_embeddings()
    table = {id(parameter) for parameter in embedding.parameters()}
    tied = getattr(model.config, "tie_word_embeddings", False)
    frozen = trained = 0

    def size(parameter: object) -> int:
        return getattr(parameter, "ds_numel", parameter.numel())  # DeepSpeed leaves a shared-out parameter empty

    for name, parameter in model.named_parameters():
        if len(getattr(parameter, "ds_shape", parameter.shape)) < 2 or (id(parameter) in table and not tied) or "original_module" in name:
            continue
        if "trainable_tokens" in name:  # single rows: a weight gradient beside the frozen table, and none where rows are looked up
            frozen += size(parameter) / 2 if tied or "lm_head" in name else 0
        elif parameter.requires_grad:
            trained += size(parameter)
        else:
            frozen += size(parameter)
    config = model.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * mean_length * config.num_attention_heads * head_width * config.num_hidden_layers  # forward, causal
    head = model.get_output_embeddings()
    blocks = frozen + trained - max(map(size, head.parameters()), default=0)
    return 4 * frozen + 6 * trained + 3 * attention + (2 * blocks + attention if recompute else 0)


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes: of the GPU where there is one, else of the host."""
    import resource
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gemm_ceiling(dtype: str = "float32", size: int = 1024, seconds: float = 0.5) -> float:
    """Measure the matrix-multiply rate of this device and return it in FLOP/s: what no training step can exceed."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else size
    a = torch.randn(size, size, dtype=getattr(torch, dtype), device=device)
    best = 0.0
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def peak_flops(dtype: str = "float32") -> float:
    """Return the denominator of MFU in FLOP/s: the data sheet's for a known GPU in bf16, else the measured ceiling."""
    import torch

    if torch.cuda.is_available() and dtype == "bfloat16":
        for name, teraflops in PEAK_TFLOPS.items():
            if name in torch.cuda.get_device_name():
                return teraflops * 1e12
    return gemm_ceiling(dtype)
