"""Make random models and documents with realistic sizes, to measure training speed.

The values of weights and tokens do not change the speed, so nothing has to be downloaded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy
import torch

from finlab.train.shapes import ModelShape

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

# Lengths of the real finance and general texts: half have fewer than 400 tokens, the mean is 700.
MEDIAN_TOKENS, SPREAD = 400.0, 1.05
SHORTEST = 8
PAD, BEGIN, END = 0, 1, 2


def cut(shape: ModelShape, layers: int, vocabulary: int) -> ModelShape:
    """Return a shape with fewer blocks and a smaller vocabulary.

    Args:
        shape: Sizes of the whole model.
        layers: Number of blocks to keep; 0 keeps all.
        vocabulary: Number of vocabulary rows to keep; 0 keeps all.
    """
    return replace(
        shape,
        layers=min(layers or shape.layers, shape.layers),
        vocabulary=min(vocabulary or shape.vocabulary, shape.vocabulary),
    )


def config_of(shape: ModelShape, context: int) -> LlamaConfig:
    """Return the config of a Llama with given sizes.

    Args:
        shape: Sizes of the model.
        context: The context in tokens.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=context,
        tie_word_embeddings=shape.tied,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
    )


def random_model(config: LlamaConfig, dtype: str, attention: str) -> PreTrainedModel:
    """Return a model with random weights, on the GPU if there is one.

    Args:
        config: The config of the model.
        dtype: Type of the weights, such as `bfloat16`.
        attention: The attention implementation, as transformers names it.
    """
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    return model


def words(vocabulary: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer that only defines the pad, begin and end tokens.

    Args:
        vocabulary: Size of its vocabulary.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pieces = {"<pad>": PAD, "<s>": BEGIN, "</s>": END}
    pieces |= {f"w{number}": number for number in range(len(pieces), vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(pieces, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )


def random_documents(tokens: int, vocabulary: int, longest: int, seed: int) -> list[list[int]]:
    """Return documents of random tokens, with lengths distributed like the real texts.

    Args:
        tokens: About how many tokens all documents have together.
        vocabulary: Token ids are smaller than this number.
        longest: Most tokens of a document, because padded batches cannot split documents.
        seed: Seed for drawing lengths and tokens.
    """
    rng = numpy.random.default_rng(seed)
    found: list[list[int]] = []
    while tokens > 0:
        size = int(numpy.clip(MEDIAN_TOKENS * rng.lognormal(0, SPREAD), SHORTEST, longest))
        found.append([BEGIN, *rng.integers(END + 1, vocabulary, size - 2).tolist(), END])
        tokens -= size
    return found


def time_by_kind(model: PreTrainedModel, batch: torch.Tensor) -> list[dict[str, Any]]:
    """Measure the time of a forward and backward pass for each kind of operation.

    Args:
        model: The model.
        batch: Token ids, int64 [rows, length].

    Returns:
        Rows {kind, seconds, share of the total time}, the largest first.
    """
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    model(input_ids=batch, labels=batch).loss.backward()  # the first pass allocates
    with profile(activities=activities) as profiled:
        model(input_ids=batch, labels=batch).loss.backward()
    sums: dict[str, float] = {}
    for event in profiled.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        kind = _kind(event.key)
        sums[kind] = sums.get(kind, 0.0) + spent / 1e6
    total = sum(sums.values()) or 1.0
    ordered = sorted(sums.items(), key=lambda pair: -pair[1])
    return [{"kind": kind, "seconds": spent, "share": spent / total} for kind, spent in ordered]


def _kind(operation: str) -> str:
    """Return the kind of a PyTorch operation, such as `attention`."""
    name = operation.lower()
    for kind, marks in (
        ("attention", ("attention", "flash", "fmha")),
        ("matrix products", ("mm", "gemm", "linear", "matmul", "cutlass", "nvjet")),
        ("embedding and loss", ("embedding", "nll", "softmax", "cross_entropy")),
        ("copies and casts", ("copy", "_to_", "contiguous", "cat", "memcpy")),
    ):
        if any(mark in name for mark in marks):
            return kind
    return "element by element"
