"""Texts that a quantiser looks at: GPTQ and AWQ keep small the errors that these texts show."""

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
        documents: With the columns domain, language and text.
        count: How many texts.
        finance: The share of finance among them, 0 to 1.
        seed: Draws them.

    Returns:
        Fewer texts than asked for, where a domain and language has too few.

    Raises:
        ValueError: There is no text of a domain that was asked for.
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
    """Return texts as a quantiser takes them: one row each, cut to a length.

    Args:
        tokenizer: The model's.
        texts: The texts.
        max_length: Of a row, in tokens.

    Returns:
        {input_ids, attention_mask}, int64 [1, tokens] each.
    """
    rows = []
    for ids in tokenization.encode(tokenizer, texts):
        row = torch.tensor([ids[:max_length]])
        rows.append({"input_ids": row, "attention_mask": torch.ones_like(row)})
    return rows


def tokens(rows: Rows) -> int:
    """Return how many tokens rows have."""
    return sum(row["input_ids"].numel() for row in rows)


def require_enough(rows: Rows, config: PretrainedConfig) -> None:
    """Refuse fewer calibration tokens than a layer has columns.

    GPTQ solves for the roundings with a square matrix of the columns. Fewer tokens leave columns
    that no token shows, and those are rounded blindly.

    Args:
        rows: Of `encode`.
        config: The model's.

    Raises:
        ValueError: There are too few.
    """
    widest = max(config.hidden_size, config.intermediate_size)
    found = tokens(rows)
    if found < widest:
        raise ValueError(
            f"the calibration texts have {found:,} tokens, and the widest layer {widest:,} "
            "columns: raise calibration_texts or calibration_tokens, or give more text"
        )
