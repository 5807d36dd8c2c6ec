"""Compute how many tokens new pieces save, and what a larger vocabulary costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas

from finlab.models import embeddings, tokenization, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class HeadCostShape:
    """The sizes of a model that decide the cost of a vocabulary.

    Attributes:
        body: Number of weights in the model's matrices, without head and embedding.
        width: The hidden size, which is the width of a row of the head.
    """

    body: int
    width: int


def llama_shape(layers: int, width: int, inner: int) -> HeadCostShape:
    """Return the shape of a Llama without grouped-query attention, such as Llama-2-7B and 13B.

    Args:
        layers: Number of layers.
        width: The hidden size.
        inner: The intermediate size of the feed-forward part.
    """
    attention, feed_forward = 4 * width**2, 3 * width * inner
    return HeadCostShape(layers * (attention + feed_forward), width)


def shape_of(model: PreTrainedModel) -> HeadCostShape:
    """Return the shape of a loaded model."""
    tables = {
        id(model.get_input_embeddings().weight),
        id(model.get_output_embeddings().weight),
    }
    body = 0
    for parameter in model.parameters():
        if parameter.dim() > 1 and id(parameter) not in tables:
            body += parameter.numel()
    return HeadCostShape(body, model.config.hidden_size)


def piece_savings(
    base: PreTrainedTokenizerFast,
    grown: PreTrainedTokenizerFast,
    pieces: list[str],
    texts: list[str],
) -> pandas.DataFrame:
    """Return how many tokens each new piece saves in the texts.

    Args:
        base: The tokenizer of the base.
        grown: The extended tokenizer.
        pieces: The pieces that were added.
        texts: The texts.

    Returns:
        A row for each piece, the largest saving first: text (the piece as readable text), used
        (how often it occurs), saved (how many tokens it saves).
    """
    used = Counter(number for ids in tokenization.plain(grown, texts) for number in ids)
    parts = embeddings.old_parts(base, grown)
    rows = []
    for number in grown.convert_tokens_to_ids(pieces):
        saved = used[number] * (len(parts[number]) - 1)
        rows.append({"text": grown.decode([number]), "used": used[number], "saved": saved})
    frame = pandas.DataFrame(rows, columns=["text", "used", "saved"])
    return frame.sort_values("saved", ascending=False, kind="stable")


def chars_per_token_by_size(
    base: PreTrainedTokenizerFast, new: list, sizes: list[int], texts: list[str]
) -> dict[int, float]:
    """Return {number of new pieces: characters per token of texts}.

    Args:
        base: The tokenizer of the base.
        new: All candidates, pieces or merges, best first.
        sizes: Each a number of candidates to add; 0 measures the base itself.
        texts: The texts.
    """
    found = {}
    for size in sizes:
        tokenizer = base
        if size:
            tokenizer, _ = vocabulary.extend(base, new[:size])
        found[size] = tokenization.chars_per_token(tokenizer, texts)
    return found


def flops_per_character(
    shape: HeadCostShape, base_size: int, chars_per_token: dict[int, float]
) -> dict[int, float]:
    """Return {number of new pieces: training FLOPs per character}.

    A frozen weight costs 4 FLOPs per token, and a trained weight of the head costs 6. More pieces
    make the head larger and the token sequence shorter.

    Args:
        shape: Sizes of the model.
        base_size: Number of tokens in the base's vocabulary.
        chars_per_token: {number of new pieces: characters per token}, from
            `chars_per_token_by_size`.
    """
    cost = {}
    for size, density in chars_per_token.items():
        head = shape.width * (base_size + size)
        cost[size] = (4 * shape.body + 6 * head) / density
    return cost
