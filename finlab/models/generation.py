"""What a model writes: completions, answers, samples; and its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from finlab.data import templates
from finlab.models import tokenization

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

WHOLE_NUMBERS = ("_k", "_tokens", "_beams", "_token_id")  # endings of settings that are ints


def logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Return the logits of one sequence.

    Args:
        model: The model.
        ids: Token ids.

    Returns:
        float32 [tokens, vocabulary].
    """
    with torch.inference_mode():
        return model(torch.tensor([ids], device=model.device)).logits[0].float()


def complete_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, new_tokens: int
) -> str:
    """Return what a model writes after a text, greedily.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        text: What it goes on from, without an end token.
        new_tokens: So many.
    """
    ids = tokenization.plain(tokenizer, [text])[0]
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    batch = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    new_tokens: int,
    seed: int,
) -> list[str]:
    """Return texts that a model writes by itself: a stand-in for its unpublished training text.

    It starts from BOS, or from EOS where it has no BOS, as Qwen.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        count: So many texts.
        new_tokens: Of each, at most.
        seed: Draws the tokens.
    """
    torch.manual_seed(seed)
    start = tokenizer.bos_token_id
    if start is None:
        start = tokenizer.eos_token_id
    ids = torch.full((count, 1), start, device=model.device)
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=True,
            top_k=0,
            temperature=1.0,
            pad_token_id=tokenizer.eos_token_id,
        )
    texts = tokenizer.batch_decode(out, skip_special_tokens=True)
    return [text for text in texts if text.strip()]


def generation_config(
    tokenizer: PreTrainedTokenizerBase, settings: dict[str, float]
) -> GenerationConfig:
    """Return a GenerationConfig to be saved with a model.

    Args:
        tokenizer: Gives the begin, end and pad tokens.
        settings: A recipe's values. `do_sample` is on where a temperature, top_p or top_k is given.

    Raises:
        ValueError: GenerationConfig does not know one of the names.
    """
    from transformers import GenerationConfig

    unknown = set(settings) - set(vars(GenerationConfig()))
    if unknown:
        raise ValueError(
            f"generation: '{min(unknown)}' is no setting of transformers' GenerationConfig"
        )
    values: dict[str, Any] = {
        "do_sample": bool({"temperature", "top_p", "top_k"} & set(settings)),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    # A recipe's values are all floats.
    for name, value in settings.items():
        values[name] = int(value) if name.endswith(WHOLE_NUMBERS) else value
    return GenerationConfig(**values)


def answer_messages(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    **options: Any,
) -> tuple[str, bool]:
    """Let a chat model answer.

    Args:
        model: The model.
        tokenizer: With a chat template.
        messages: The dialogue so far, ending with the user.
        **options: For `model.generate`: a generation_config, max_new_tokens, ...

    Returns:
        The text, and whether it ended by itself, with its end token.
    """
    prompt = templates.prompt_ids(tokenizer, messages)
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    new = out[0, ids.shape[1] :]
    ended = bool(len(new)) and new[-1].item() == tokenizer.eos_token_id
    return tokenizer.decode(new, skip_special_tokens=True).strip(), ended
