"""Calibration texts of a quantiser: GPTQ and AWQ keep the errors on these texts small."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from finlab.models import tokenization

if TYPE_CHECKING:
    import pandas
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Rows = list[dict[str, torch.Tensor]]


def choose(documents: pandas.DataFrame, count: int, finance: float, seed: int) -> list[str]:
    """Draw calibration texts from training documents, evenly over languages.

    Args:
        documents: The documents, with the columns domain, language and text.
        count: How many texts to draw.
        finance: Share of finance texts among them, 0 to 1. The others are general texts.
        seed: Seed for drawing the texts.

    Returns:
        The texts. They are fewer than `count` where a domain has too few texts in a language, and
        may be a few more because numbers are rounded up.

    Raises:
        ValueError: A domain with a share above 0 has no text.
    """
    texts: list[str] = []
    for domain, share in (("finance", finance), ("general", 1 - finance)):
        of_domain = documents[documents.domain == domain]
        wanted = math.ceil(count * share)
        if wanted and of_domain.empty:
            raise ValueError(
                f"no {domain} text to calibrate on: "
                f"set calibration_finance to {0 if domain == 'finance' else 1}"
            )
        languages = of_domain.language.unique()
        for language in languages:
            of_language = of_domain[of_domain.language == language]
            each = min(-(-wanted // len(languages)), len(of_language))
            texts += of_language.sample(each, random_state=seed).text.tolist()
    return texts


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> Rows:
    """Return texts as rows for a quantiser: one row for each text, cut to a length.

    Args:
        tokenizer: The tokenizer of the model.
        texts: The texts.
        max_length: Most tokens of a row; the rest of the text is cut off.

    Returns:
        A row {input_ids, attention_mask} for each text, each tensor int64 [1, tokens].
    """
    rows = []
    for ids in tokenization.encode(tokenizer, texts):
        row = torch.tensor([ids[:max_length]])
        rows.append({"input_ids": row, "attention_mask": torch.ones_like(row)})
    return rows


def tokens(rows: Rows) -> int:
    """Return how many tokens the rows have in total."""
    return sum(row["input_ids"].numel() for row in rows)


def require_enough(rows: Rows, config: PretrainedConfig) -> None:
    """Raise an error if there are fewer calibration tokens than a layer has columns.

    GPTQ computes the rounding with a square matrix over the columns of a layer. With fewer tokens,
    this matrix has no data for some columns, and they are rounded without guidance.

    Args:
        rows: Calibration rows from `encode`.
        config: The config of the model.

    Raises:
        ValueError: There are fewer calibration tokens than columns in the widest layer.
    """
    widest = max(config.hidden_size, config.intermediate_size)
    found = tokens(rows)
    if found < widest:
        raise ValueError(
            f"the calibration texts have {found:,} tokens, and the widest layer {widest:,} "
            "columns: raise calibration_texts or calibration_tokens, or give more text"
        )
