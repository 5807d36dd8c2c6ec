"""Rows of the embedding and the head for new tokens: their initial values and training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

STARTS = ("subtokens", "mean", "normal")


def resize_vocabulary(
    model: PreTrainedModel,
    base_tokenizer: PreTrainedTokenizerFast,
    grown_tokenizer: PreTrainedTokenizerFast,
    multiple: int = 128,
    start: str = "subtokens",
    seed: int = 0,
) -> PreTrainedModel:
    """Give a model rows for the tokens that a grown tokenizer adds.

    Rows of old tokens keep their values. Some bases, such as Qwen, have more rows than their
    tokenizer has tokens. These rows are used first, and are never removed.

    Args:
        model: The base; it is changed in place.
        base_tokenizer: The tokenizer of the base.
        grown_tokenizer: The extended tokenizer, from `vocabulary.extend`.
        multiple: The number of rows is rounded up to a multiple of this, for tensor cores. The
            extra rows are set to the mean of all old rows.
        start: Initial value of a new row: `subtokens`, the mean of the rows of the tokens that the
            base used to spell it (XuanYuan-13B's report); `mean`, the mean of all old rows;
            `normal`, drawn with the config's initializer_range, as Chinese-LLaMA did.
        seed: Seed for drawing the rows of `normal`.

    Returns:
        The model.

    Raises:
        ValueError: `base_tokenizer` does not belong to the model, `grown_tokenizer` does not
            extend it, or `start` is unknown.
    """
    old_rows = model.get_input_embeddings().weight.shape[0]
    old_size, new_size = len(base_tokenizer), len(grown_tokenizer)
    _check_tokenizers(old_rows, base_tokenizer, grown_tokenizer)
    if start not in STARTS:
        raise ValueError(f"new rows can begin as subtokens, mean or normal, not as '{start}'")
    padded = -(-new_size // multiple) * multiple
    model.resize_token_embeddings(max(old_rows, padded), mean_resizing=False)
    parts = list(old_parts(base_tokenizer, grown_tokenizer).values())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table in _tables(model):
            old = table[:old_size].float()
            table[old_size:] = old.mean(0)
            new = table[old_size:new_size]
            if start == "subtokens" and parts:
                _set_to_mean_of_parts(new, old, parts)
            if start == "normal":
                drawn = torch.randn(len(parts), table.shape[1], generator=generator)
                new.copy_((drawn * model.config.initializer_range).to(table))
    return model


def _tables(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Return the weights of the embedding, and of the head if it is not tied to the embedding."""
    tables = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        tables.append(model.get_output_embeddings().weight)
    return tables


def _check_tokenizers(
    old_rows: int,
    base_tokenizer: PreTrainedTokenizerFast,
    grown_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Raise an error if the base has too few rows or the grown tokenizer changes the base's ids.

    Args:
        old_rows: Number of rows of the base's embedding.
        base_tokenizer: The tokenizer of the base.
        grown_tokenizer: The same tokenizer with new tokens.
    """
    old_size, new_size = len(base_tokenizer), len(grown_tokenizer)
    if old_size > old_rows:
        raise ValueError(
            f"the model has {old_rows:,} rows and the base's tokenizer {old_size:,} tokens: "
            "they do not belong together"
        )
    ids = list(range(old_size))
    old_tokens = base_tokenizer.convert_ids_to_tokens(ids)
    if new_size < old_size or grown_tokenizer.convert_ids_to_tokens(ids) != old_tokens:
        raise ValueError(
            f"the grown tokenizer ({new_size:,} tokens) does not begin with the base's "
            f"{old_size:,}: extend the base's own tokenizer"
        )


def _set_to_mean_of_parts(new: torch.Tensor, old: torch.Tensor, parts: list[list[int]]) -> None:
    """Set each new row to the mean of the old rows of its parts.

    Args:
        new: The new rows, [new tokens, width], changed in place. A row without parts is unchanged.
        old: The base's table, [vocabulary, width].
        parts: For each new token, the ids of the base's tokens that spell it.
    """
    device = new.device
    flat = torch.tensor([part for each in parts for part in each], dtype=torch.long)
    sizes = torch.tensor([0, *map(len, parts)])
    offsets = sizes.cumsum(0)[:-1]
    means = torch.nn.functional.embedding_bag(flat.to(device), old, offsets.to(device), mode="mean")
    known = torch.tensor([bool(each) for each in parts], device=device)
    new[known] = means[known].to(new.dtype)


def old_parts(
    base_tokenizer: PreTrainedTokenizerFast, grown_tokenizer: PreTrainedTokenizerFast
) -> dict[int, list[int]]:
    """Return how the base spells each new token.

    Args:
        base_tokenizer: The tokenizer of the base.
        grown_tokenizer: The same tokenizer with new tokens.

    Returns:
        {new id: ids of the base's tokens}, in the order of the ids.
    """
    ids = list(range(len(base_tokenizer), len(grown_tokenizer)))
    special = grown_tokenizer.get_added_vocab()
    base_model = base_tokenizer.backend_tokenizer.model
    parts = {}
    for number, piece in zip(ids, grown_tokenizer.convert_ids_to_tokens(ids), strict=True):
        if piece in special:  # an added token is written as plain text
            parts[number] = base_tokenizer(piece, add_special_tokens=False)["input_ids"]
        else:  # a piece is written as in the vocabulary
            parts[number] = [token.id for token in base_model.tokenize(piece)]
    return parts


def embedding_settings(
    model: PreTrainedModel, train: str, first_new: int, size: int
) -> dict[str, Any]:
    """Return the LoraConfig settings that train the embedding and the head.

    Tied tables stay tied.

    Args:
        model: The model.
        train: `full` copies and trains both tables (ZhiLu-13B); `new_rows` trains and saves only
            the new rows; `none` trains neither table.
        first_new: Id of the first new token.
        size: Number of all tokens, old and new.

    Raises:
        ValueError: `train` is another word, or it is `new_rows` and there are no new rows.
    """
    tables = [model.get_input_embeddings()]
    if not model.config.tie_word_embeddings:
        tables.append(model.get_output_embeddings())
    names = []
    for table in tables:
        names += [path.rpartition(".")[2] for path, part in model.named_modules() if part is table]
    if train == "none":
        return {}
    if train == "full":
        tied = model.config.tie_word_embeddings
        return {"modules_to_save": names, "ensure_weight_tying": tied}
    if train != "new_rows":
        raise ValueError(f"of the embeddings full, new_rows or none can be trained, not '{train}'")
    if first_new >= size:
        raise ValueError(
            f"there are no new rows to train: the base has {first_new:,} tokens and the tokenizer "
            f"{size:,}; set train_embeddings to none or full"
        )
    rows = list(range(first_new, size))
    return {"trainable_token_indices": {name: rows for name in names}}
