"""Generate many completions at once, with separate budgets for thinking and answer.

found = complete(model, tokenizer, prompts, Budget(answer=64, thinking=512), samples=8)
found[0][0].text, found[0][0].tokens, found[0][0].ended, found[0][0].capped
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor

from finlab.data.templates.rendering import THINKING_ENDS
from finlab.models import generation, tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 65_536  # prompts and completions of one batch, padding included


@dataclass(frozen=True)
class Budget:
    """How many tokens a completion may have.

    Attributes:
        answer: Tokens of the answer, at least 1. If `thinking` is 0, tokens of the whole
            completion.
        thinking: Tokens of the thinking. After that many, `</think>` is inserted and the answer
            begins. 0 means that thinking and answer share the budget `answer`.
    """

    answer: int
    thinking: int = 0

    def __post_init__(self) -> None:
        if self.answer < 1 or self.thinking < 0:
            raise ValueError(
                f"a budget of {self.thinking} tokens of thinking and {self.answer} of answer: "
                "the answer needs one at least"
            )


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        text: The completion without special tokens.
        tokens: How many tokens the model wrote, including its end token.
        ended: Whether the model ended by itself.
        capped: Whether the budget cut off the thinking.
    """

    text: str
    tokens: int
    ended: bool
    capped: bool


class ThinkingBudget(LogitsProcessor):
    """Close the thinking when its budget is used up, and likewise end the answer.

    Args:
        tokenizer: Decodes tokens, to see whether the thinking has ended.
        prompt: Number of tokens of a padded prompt; all prompts of the batch have this length.
        budget: How many tokens the thinking and the answer may have.
        close: Token ids of `</think>`.
        ends: Token ids that end an answer. The first is written where an answer is cut.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: int,
        budget: Budget,
        close: list[int],
        ends: list[int],
    ):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.budget = budget
        self.close = torch.tensor(close)
        self.ends = torch.tensor(ends)
        self.closed_at: torch.Tensor | None = None  # [rows]: tokens up to `</think>`, or -1
        self.forced: torch.Tensor | None = None  # [rows] of bool: the thinking was closed here
        self.cut: torch.Tensor | None = None  # [rows] of bool: the answer was ended here

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Allow only one token in the rows whose budget is used up.

        Args:
            input_ids: Token ids of prompts and completions so far, [rows, tokens].
            scores: Logits of the next token, [rows, vocabulary], changed in place.
        """
        written = input_ids.shape[1] - self.prompt
        if self.closed_at is None:
            self.closed_at = torch.full((len(input_ids),), -1, device=input_ids.device)
            self.forced = torch.zeros_like(self.closed_at, dtype=torch.bool)
            self.cut = self.forced.clone()
            self.close = self.close.to(input_ids.device)
            self.ends = self.ends.to(input_ids.device)
        size = len(self.close)
        self._note_closed(input_ids, written)
        open_still = self.closed_at < 0
        finished = torch.isin(input_ids[:, self.prompt :], self.ends).any(dim=1)
        place = written - self.budget.thinking
        if 0 <= place < size:
            if place == 0:
                self.forced = open_still & ~finished
            self._allow_only(scores, self.forced & open_still, int(self.close[place]))
        spent = ~open_still & ~finished & (written - self.closed_at >= self.budget.answer)
        self.cut |= spent
        self._allow_only(scores, spent, int(self.ends[0]))
        return scores

    def _note_closed(self, input_ids: torch.Tensor, written: int) -> None:
        """Note the rows whose thinking has just ended.

        Where `</think>` is several tokens, the last of them may also hold the text that follows,
        such as `>` and a newline in one token. So the decoded text is searched, not the tokens.

        Args:
            input_ids: Token ids of prompts and completions so far, [rows, tokens].
            written: Number of tokens after the prompt.
        """
        size = len(self.close)
        if size == 1:
            if written:
                just = (input_ids[:, -1] == self.close[0]) & (self.closed_at < 0)
                self.closed_at[just] = written
            return
        tail = min(written, size + 3)
        for row in torch.nonzero(self.closed_at < 0).flatten().tolist() if tail else []:
            text = self.tokenizer.decode(input_ids[row, -tail:])
            if THINKING_ENDS in text.replace(" ", ""):
                self.closed_at[row] = written

    @staticmethod
    def _allow_only(scores: torch.Tensor, rows: torch.Tensor, token: int) -> None:
        """Make one token the only possible one in some rows.

        Args:
            scores: Logits of the next token, [rows, vocabulary], changed in place.
            rows: The rows to change, [rows] of bool.
            token: Id of the token that stays possible.
        """
        scores[rows] = -torch.inf
        scores[rows, token] = 0.0


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    budget: Budget,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[Completion]]:
    """Return completions of prompts.

    The random state of PyTorch is restored afterwards, so a training that calls this is unchanged.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.
        prompts: Token ids of each prompt.
        budget: How many tokens a completion may have.
        samples: How many completions each prompt gets.
        temperature: Sampling temperature. 0 takes the most likely token, so that all samples would
            be equal.
        seed: Seed for drawing the tokens.
        batch_tokens: Most tokens in a batch, prompts, completions and padding together.

    Returns:
        `samples` completions for each prompt, in the order of the prompts.

    Raises:
        ValueError: A prompt with its completion is longer than the model's context, or several
            samples are asked for at temperature 0.
    """
    if samples > 1 and not temperature:
        raise ValueError(f"{samples} samples at temperature 0 are one: raise the temperature")
    most = _most_tokens(tokenizer, budget)
    _require_room(model, prompts, most)
    # Prompts of similar length go together, so that there is little padding.
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found: list[list[Completion]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for places in _batches(order, prompts, most, samples, batch_tokens):
            rows = [prompts[place] for place in places for _ in range(samples)]
            written = _write(model, tokenizer, rows, budget, most, temperature)
            for number, place in enumerate(places):
                found[place] = written[number * samples : (number + 1) * samples]
    model.train(was_training)
    return found


def _most_tokens(tokenizer: PreTrainedTokenizerBase, budget: Budget) -> int:
    """Return how many tokens a completion may have in total."""
    if not budget.thinking:
        return budget.answer
    # The tokens of `</think>` and the end token of a cut answer are added.
    close = len(tokenizer.encode(THINKING_ENDS, add_special_tokens=False))
    return budget.thinking + close + budget.answer + 1


def room_for_prompt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: Budget
) -> int:
    """Return how many tokens a prompt may have, so that its completion still fits the context.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.
        budget: How many tokens the completion may have.
    """
    return model.config.max_position_embeddings - _most_tokens(tokenizer, budget)


def _require_room(model: PreTrainedModel, prompts: list[list[int]], most: int) -> None:
    """Raise an error if a prompt and its completion do not fit the model's context."""
    context = model.config.max_position_embeddings
    longest = max(map(len, prompts), default=0)
    if longest + most > context:
        raise ValueError(
            f"the longest question has {longest:,} tokens and {most:,} may follow, and the model "
            f"reads {context:,}: lower the budget, or leave long questions out"
        )


def _batches(
    order: list[int], prompts: list[list[int]], most: int, samples: int, batch_tokens: int
) -> list[list[int]]:
    """Return the indices of the prompts of each batch.

    Args:
        order: Indices of the prompts, the shortest first.
        prompts: Token ids of each prompt.
        most: How many tokens may follow a prompt.
        samples: How many completions each prompt gets.
        batch_tokens: Most tokens in a batch. A batch has at least one prompt, even if it is larger.
    """
    batches: list[list[int]] = []
    for place in order:
        size = len(prompts[place]) + most
        if batches and (len(batches[-1]) + 1) * samples * size <= batch_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that end an answer: the tokenizer's first, then the model's others."""
    others = model.generation_config.eos_token_id
    if others is None:
        others = []
    listed = others if isinstance(others, list) else [others]
    return list(dict.fromkeys([tokenizer.eos_token_id, *listed]))


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[list[int]],
    budget: Budget,
    most: int,
    temperature: float,
) -> list[Completion]:
    """Return one completion for each row of a batch."""
    pad = tokenization.pad_token(tokenizer)
    ids, mask = generation.padded(rows, pad, left=True)
    length = ids.shape[1]
    ends, limits = _end_tokens(model, tokenizer), None
    # The model's own settings, such as Qwen's repetition penalty, would measure another policy.
    options: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "num_beams": 1}
    if temperature:
        # top_k 0 and top_p 1: the policy itself is sampled, as in GRPO.
        options |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    if budget.thinking:
        close = tokenizer.encode(THINKING_ENDS, add_special_tokens=False)
        limits = ThinkingBudget(tokenizer, length, budget, close, ends)
        options["logits_processor"] = [limits]
    out = model.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=most,
        pad_token_id=pad,
        eos_token_id=ends,
        **options,
    )
    written = out[:, length:].tolist()
    forced = cut = [False] * len(rows)
    if limits is not None:
        forced, cut = limits.forced.tolist(), limits.cut.tolist()
    found = []
    for number, tokens in enumerate(written):
        places = [place for place, token in enumerate(tokens) if token in ends]
        if places:
            tokens = tokens[: places[0] + 1]
        ended = bool(places) and not cut[number]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        found.append(Completion(text, len(tokens), ended, forced[number]))
    return found
