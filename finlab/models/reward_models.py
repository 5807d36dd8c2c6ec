"""Reward models: a language model whose head returns one number for a whole dialogue.

model = load(sft_model, dtype)                       # TRL's RewardTrainer trains it
scores(model, tokenizer, [[question, answer], ...])  # one number for each dialogue
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finlab.data import templates
from finlab.models import generation, tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 64  # dialogues in a batch


def load(source: str | Path, dtype: str = "float32") -> PreTrainedModel:
    """Load a language model as a reward model; the weights of its new head are set to zero.

    Args:
        source: A folder or a hub id.
        dtype: Type of the weights, such as `bfloat16`.

    Returns:
        A model for sequence classification with one label, in evaluation mode.
    """
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        str(source),
        num_labels=1,
        dtype=getattr(torch, dtype),
        trust_remote_code=False,
    )
    # Scores are absolute numbers, so random initial weights of the head would only add noise.
    with torch.no_grad():
        model.score.weight.zero_()
    return model.eval()


def scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[list[dict]],
) -> list[float]:
    """Return the score that a reward model gives to each dialogue.

    Args:
        model: The reward model.
        tokenizer: The tokenizer, with the chat template that the model was trained with.
        dialogues: The dialogues. Each is a list of messages that ends with an answer.
    """
    rows = [row.ids for row in templates.render(tokenizer, list(dialogues))]
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        # The model takes its score at the last token that is not padding.
        config.pad_token_id = tokenization.pad_token(tokenizer)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    found = [0.0] * len(rows)
    for first in range(0, len(order), BATCH):
        places = order[first : first + BATCH]
        values = _score(model, [rows[place] for place in places])
        for place, value in zip(places, values, strict=True):
            found[place] = value
    return found


@torch.inference_mode()
def _score(model: PreTrainedModel, rows: list[list[int]]) -> list[float]:
    """Return the scores of token sequences, padded on the right."""
    pad = model.config.get_text_config().pad_token_id
    ids, mask = generation.padded(rows, pad, left=False)
    out = model(ids.to(model.device), attention_mask=mask.to(model.device))
    return out.logits[:, 0].float().tolist()
