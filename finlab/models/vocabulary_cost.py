"""What new pieces save, and what a larger vocabulary costs."""

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
    """What of a model's shape decides the cost of a vocabulary.

    Attributes:
        body: The weights of its matrices, head and embedding left out.
        width: The width of a row of the head.
    """

    body: int
    width: int


def llama_shape(layers: int, width: int, inner: int) -> HeadCostShape:
    """Return the shape of a Llama without grouped queries, such as Llama-2-7B and 13B.

    Args:
        layers: Their number.
        width: The hidden size.
        inner: The intermediate size.
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
    """Return what each new piece saves in texts.

    Args:
        base: The base's tokenizer.
        grown: The extended one.
        pieces: The pieces that were added.
        texts: The texts.

    Returns:
        A row a piece, the most useful first: text (as it reads), used (how often), saved (tokens).
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
        base: The base's tokenizer.
        new: All candidates, pieces or merges, best first.
        sizes: How many of them to add.
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

    A frozen weight costs 4 FLOPs a token, a trained one of the head 6. More pieces make the head
    larger and the text shorter.

    Args:
        shape: The model's.
        base_size: Tokens of the base.
        chars_per_token: From `chars_per_token_by_size`.
    """
    cost = {}
    for size, density in chars_per_token.items():
        head = shape.width * (base_size + size)
        cost[size] = (4 * shape.body + 6 * head) / density
    return cost
