"""Generate completions, answers and samples with a model, and compute its logits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from finlab.data import templates
from finlab.models import tokenization

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

LEAST_TEMPERATURE = 0.01  # lower temperatures make the logits overflow; they count as 0
ANSWER_TOKENS = 256  # by default transformers stops after 20; Qwen's models set no limit
WHOLE_NUMBERS = ("_k", "_tokens", "_beams", "_token_id")  # settings with these endings are ints


def padded(rows: list[list[int]], pad: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of token ids as one padded batch.

    Args:
        rows: Token ids of each row.
        pad: Id of the token that fills up shorter rows.
        left: Pad on the left, as generation needs it. False pads on the right.

    Returns:
        (ids, attention mask), each int64 [rows, tokens of the longest row].
    """
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        begin = length - len(row) if left else 0
        ids[number, begin : begin + len(row)] = torch.tensor(row)
        mask[number, begin : begin + len(row)] = 1
    return ids, mask


def logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Return the logits of one sequence.

    Args:
        model: The model.
        ids: Token ids of the sequence.

    Returns:
        The logits after each token, float32 [tokens, vocabulary].
    """
    with torch.inference_mode():
        return model(torch.tensor([ids], device=model.device)).logits[0].float()


def complete_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, new_tokens: int
) -> str:
    """Return what a model writes after a text, with greedy decoding.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.
        text: The text to continue. No end token is put after it.
        new_tokens: Most tokens to write.
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
    """Return texts that a model writes without a prompt.

    They replace the model's training text where that is not published. The model starts from BOS,
    or from EOS if its tokenizer has no BOS, as Qwen's.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.
        count: How many texts to write. Empty ones are left out of the result.
        new_tokens: Most tokens of each text.
        seed: Seed for drawing the tokens.
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
        tokenizer: The tokenizer; its begin, end and pad tokens are written into the config.
        settings: {name of the setting: value} from a recipe. `do_sample` is on if a temperature,
            top_p or top_k is given.

    Raises:
        ValueError: GenerationConfig does not know one of the names.
    """
    from transformers import GenerationConfig

    unknown = set(settings) - set(vars(GenerationConfig()))
    if unknown:
        raise ValueError(
            f"generation: '{min(unknown)}' is not a setting of transformers' GenerationConfig"
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


def draws(temperature: float | None, top_p: float | None) -> bool | None:
    """Return whether tokens are sampled; None where the model's own settings decide.

    Args:
        temperature: The requested temperature, or None. Below LEAST_TEMPERATURE the most likely
            token is taken.
        top_p: The requested top_p, or None. Given without a temperature, it turns sampling on.
    """
    if temperature is not None:
        return temperature >= LEAST_TEMPERATURE
    return None if top_p is None else True


def answer_messages(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    **options: Any,
) -> tuple[str, bool]:
    """Let a chat model answer.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model, with a chat template.
        messages: The dialogue so far, ending with the user.
        **options: For `model.generate`: a generation_config, max_new_tokens, ... Where neither
            these nor the model's own settings limit the length of an answer, ANSWER_TOKENS does.

    Returns:
        The text, and whether the model ended it with its end token.
    """
    settings = options.get("generation_config") or model.generation_config
    if settings.max_new_tokens is None and settings.max_length is None:
        options.setdefault("max_new_tokens", ANSWER_TOKENS)
    prompt = templates.prompt_ids(tokenizer, messages)
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    new = out[0, ids.shape[1] :]
    ended = bool(len(new)) and new[-1].item() == tokenizer.eos_token_id
    return tokenizer.decode(new, skip_special_tokens=True).strip(), ended


def stream_messages(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    max_new_tokens: int,
    **options: Any,
) -> Iterator[str]:
    """Let a chat model answer, and yield the answer piece by piece.

    The model stops when the caller stops reading.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model, with a chat template.
        messages: The dialogue so far, ending with the user.
        max_new_tokens: Most tokens of the answer. It is shorter where the context is full earlier.
        **options: For `model.generate`: temperature, top_p, ...

    Raises:
        ValueError: The dialogue fills the model's context, or the model fails while it answers.
    """
    from transformers import StoppingCriteriaList, TextIteratorStreamer

    prompt = templates.prompt_ids(tokenizer, messages)
    room = room_for_answer(model, len(prompt))
    ids = torch.tensor([prompt], device=model.device)
    stopped = threading.Event()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    failures: list[Exception] = []

    def write() -> None:
        try:
            with torch.inference_mode():
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=min(max_new_tokens, room),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([lambda *_: stopped.is_set()]),
                    pad_token_id=tokenizer.pad_token_id,
                    **options,
                )
        except Exception as error:  # raised again below, in the caller's thread
            failures.append(error)
            streamer.end()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield from streamer
    finally:
        stopped.set()
        writer.join()
    if failures:
        reason = " ".join(str(failures[0]).split())[:200] or type(failures[0]).__name__
        raise ValueError(f"the model cannot answer: {reason}") from failures[0]


def room_for_answer(model: PreTrainedModel, prompt_tokens: int) -> int:
    """Return how many tokens an answer may have after a prompt.

    Args:
        model: The model.
        prompt_tokens: Number of tokens of the prompt.

    Raises:
        ValueError: The prompt fills the context.
    """
    context = model.config.max_position_embeddings
    if prompt_tokens >= context:
        raise ValueError(
            f"the dialogue has {prompt_tokens:,} tokens, and the model reads {context:,}: "
            "take back the last questions, start again, or ask a shorter one"
        )
    return context - prompt_tokens
