"""Measure how likely a model finds text: bits per character, pairs, and held-out rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finlab.data import packing
from finlab.models import tokenization

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pair = dict[str, list[int]]  # {prompt_ids, chosen_ids, rejected_ids}, from templates.encode_pairs


# --- texts ---------------------------------------------------------------------------------------
def _pieces(documents: list[list[int]], max_length: int) -> list[list[int]]:
    """Cut documents into pieces that fit into the context.

    Args:
        documents: Token ids of each document.
        max_length: Maximum number of tokens in a piece.

    Returns:
        The pieces. A piece of a single token predicts nothing and is left out.
    """
    pieces = []
    for ids in documents:
        for start in range(0, len(ids), max_length):
            piece = ids[start : start + max_length]
            if len(piece) > 1:
                pieces.append(piece)
    return pieces


def _batches(pieces: list[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Yield pieces in batches.

    Args:
        pieces: Token ids of each piece, sorted by length so that there is little padding.
        batch_tokens: Maximum number of tokens in a batch, padding included.
    """
    batch: list[list[int]] = []
    for piece in pieces:
        if batch and (len(batch) + 1) * len(piece) > batch_tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def bits_per_character(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    max_length: int = 0,
    batch_tokens: int = 8192,
) -> float:
    """Return the bits a model needs per character of texts.

    The value can be compared across tokenizers; perplexity per token cannot. Each text is read as a
    document with BOS and EOS. A text that is longer than `max_length` is read in pieces.
    Log-probabilities are summed in float32.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`.
        texts: The texts.
        max_length: Maximum number of tokens in a piece; 0 for the model's context.
        batch_tokens: Maximum number of tokens in a batch, padding included.
    """
    max_length = max_length or model.config.max_position_embeddings
    pieces = _pieces(tokenization.documents(tokenizer, texts), max_length)
    nats = 0.0
    for batch in _batches(sorted(pieces, key=len), batch_tokens):
        longest = len(batch[-1])
        padded = [ids + [0] * (longest - len(ids)) for ids in batch]
        real = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in batch]
        ids = torch.tensor(padded, device=model.device)
        mask = torch.tensor(real, device=model.device)
        with torch.inference_mode():
            logits = model(ids, attention_mask=mask).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        nats += (losses.view(len(batch), -1) * mask[:, 1:]).sum().item()
    characters = sum(map(len, texts))
    return nats / math.log(2) / max(characters, 1)


def bits_by_group(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: dict[str, list[str]]
) -> dict[str, float]:
    """Return the bits per character of each group of texts.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`.
        texts: {group: texts}.
    """
    bits = {}
    for group, of_group in texts.items():
        bits[group] = bits_per_character(model, tokenizer, of_group)
    return bits


# --- answers of preference pairs -----------------------------------------------------------------
def answer_log_probs(
    model: PreTrainedModel, pairs: list[Pair], batch_tokens: int = 8192
) -> list[dict[str, float]]:
    """Return the log-probability of each pair's answers after their prompt.

    It is a plain forward pass and a float32 softmax. It uses no code of a trainer, so it can check
    a trainer's values.

    Args:
        model: The model.
        pairs: Pairs from `templates.encode_pairs`.
        batch_tokens: Maximum number of tokens in a batch, padding included.

    Returns:
        {chosen, rejected} for each pair, in nats, summed over tokens.
    """
    model.eval()
    rows = []
    for number, pair in enumerate(pairs):
        for side in ("chosen", "rejected"):
            rows.append((number, side, pair["prompt_ids"], pair[f"{side}_ids"]))
    rows.sort(key=lambda row: len(row[2]) + len(row[3]))
    found: list[dict[str, float]] = [{} for _ in pairs]
    while rows:
        # The longest rows come first, so that too little memory shows at once.
        longest = len(rows[-1][2]) + len(rows[-1][3])
        batch = rows[-max(1, batch_tokens // longest) :]
        del rows[-len(batch) :]
        sums = _answer_sums(model, [(prompt, answer) for _, _, prompt, answer in batch], longest)
        for (number, side, _, _), value in zip(batch, sums, strict=True):
            found[number][side] = value
    return found


def _answer_sums(
    model: PreTrainedModel, batch: list[tuple[list[int], list[int]]], longest: int
) -> list[float]:
    """Return the log-probability of each answer after its prompt.

    Args:
        model: The model.
        batch: (prompt ids, answer ids) of each row.
        longest: The row length to pad to, in tokens.

    Returns:
        Nats, summed over the answer's tokens.
    """
    padded = []
    for prompt, answer in batch:
        padded.append(prompt + answer + [0] * (longest - len(prompt) - len(answer)))
    ids = torch.tensor(padded, device=model.device)
    sizes = torch.tensor(
        [len(prompt) + len(answer) for prompt, answer in batch], device=model.device
    )
    mask = (torch.arange(longest, device=model.device) < sizes[:, None]).long()
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    sums = []
    for row, (prompt, answer) in enumerate(batch):
        begin, end = len(prompt), len(prompt) + len(answer)
        # The logits at a place predict the next token.
        log_probs = logits[row, begin - 1 : end - 1].float().log_softmax(-1)
        sums.append(log_probs.gather(1, ids[row, begin:end, None]).sum().item())
    return sums


# --- held-out rows for training ------------------------------------------------------------------
def held_out_rows(
    tokenizer: PreTrainedTokenizerBase,
    corners: dict[str, list[str]],
    length: int,
    path: Path,
    parts: int = 8,
    max_sequences: int = 32,
) -> Dataset:
    """Return held-out texts as packed rows; training reports their loss by corner and position.

    The documents of each corner are packed under its name. For the positions, all texts are joined,
    each with its BOS and EOS, and cut into sequences. In a sequence, each token attends to all
    earlier ones. The tokens of a sequence belong to equal parts of it:

        position 64 | position 128 | ... | position 512

    A model that uses its context reads later parts at least as well as early ones. Beyond the
    context that it was trained with, a model reads them worse.

    Args:
        tokenizer: The tokenizer.
        corners: {corner: texts}.
        length: Tokens in a row and in a sequence.
        path: The Arrow file of the rows.
        parts: The number of parts in a sequence.
        max_sequences: Maximum number of sequences, spread evenly over all of them.
    """
    from datasets import Dataset, concatenate_datasets

    tokens = {name: tokenization.documents(tokenizer, texts) for name, texts in corners.items()}
    documents, sources = [], []
    for name, part in tokens.items():
        documents += part
        sources += [name] * len(part)
    stream = [token for ids in documents for token in ids]
    size = min(length, len(stream))
    starts = range(0, len(stream) - size + 1, size)
    sequences = [stream[start : start + size] for start in starts]
    if len(sequences) > max_sequences:
        chosen = [place * len(sequences) // max_sequences for place in range(max_sequences)]
        sequences = [sequences[place] for place in chosen]
    places = _position_names(size, parts)
    plan = packing.pack([len(ids) for ids in documents], length)
    names = [*corners, *dict.fromkeys(places)]
    rows = packing.write_rows(path, plan, documents, sources=sources, names=names)
    numbers = rows.features["sources"].feature.str2int(places)
    joined = []
    for ids in sequences:
        row = {"input_ids": ids, "labels": ids, "seq_lengths": [size], "sources": numbers}
        joined.append(row)
    return concatenate_datasets([rows, Dataset.from_list(joined, features=rows.features)])


def _position_names(size: int, parts: int) -> list[str]:
    """Return the name of the part that each place of a sequence belongs to.

    Args:
        size: Tokens in the sequence.
        parts: How many equal parts it has.

    Returns:
        `position <last place of the part>` for each place.
    """
    edges = [round(number * size / parts) for number in range(1, parts + 1)]
    names = []
    for place in range(size):
        edge = next(edge for edge in edges if place < edge)
        names.append(f"position {edge}")
    return names


def by_position(read: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Return the perplexity per token of each part of the context, before and after training.

    Args:
        read: {source: {step: nats per token}}, from `log.by_source(log, "eval_sources")`.

    Returns:
        {before, after: {last position of a part: perplexity}}.
    """
    parts = {}
    for name, loss_by_step in read.items():
        if name.startswith("position "):
            parts[int(name.removeprefix("position "))] = loss_by_step
    perplexity: dict[str, dict[int, float]] = {"before": {}, "after": {}}
    for position, loss_by_step in sorted(parts.items()):
        first, last = min(loss_by_step), max(loss_by_step)
        perplexity["before"][position] = math.exp(loss_by_step[first])
        perplexity["after"][position] = math.exp(loss_by_step[last])
    return perplexity
