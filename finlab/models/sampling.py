"""Many completions at once, with a budget for the thinking apart from that for the answer.

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
        answer: For the answer; without a budget for thinking, for all of it.
        thinking: For the thinking. When it is spent, `</think>` is written in the model's place and
            the answer begins. 0 leaves thinking and answer one budget.
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
    """What a model wrote to a prompt.

    Attributes:
        text: Without special tokens.
        tokens: How many it wrote, its end token among them.
        ended: Whether it ended by itself.
        capped: Whether its thinking was cut off by the budget.
    """

    text: str
    tokens: int
    ended: bool
    capped: bool


class ThinkingBudget(LogitsProcessor):
    """Close the thinking where its budget is spent, and end an answer that spends its own.

    Args:
        tokenizer: Reads whether the thinking has ended.
        prompt: Tokens of the padded prompts.
        budget: In tokens.
        close: The tokens of `</think>`.
        ends: The tokens that end an answer; the first is written where one is cut.
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
        self.closed_at: torch.Tensor | None = None  # tokens written when the thinking ended, or -1
        self.forced: torch.Tensor | None = None  # whose thinking was closed
        self.cut: torch.Tensor | None = None  # whose answer was ended

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token possible where a budget is spent.

        Args:
            input_ids: [rows, tokens].
            scores: [rows, vocabulary].
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

        Where `</think>` is spelt in pieces, its last one may hold what follows, such as `>` and a
        newline in one token; so the text is read, and not the tokens.

        Args:
            input_ids: [rows, tokens].
            written: Tokens behind the prompt.
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
            scores: [rows, vocabulary], changed in place.
            rows: Which ones, [rows] of bool.
            token: The token.
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
    """Return completions of prompts. The random state of a training around it is left alone.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompts: Token ids of each.
        budget: Of tokens.
        samples: Completions of each prompt.
        temperature: 0 takes the likeliest token; one sample is then as good as many.
        seed: Draws the tokens.
        batch_tokens: At most so many at once.

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
    # Prompts of like lengths go together, so that little is padding.
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
    """Return how many tokens a completion may have in all."""
    if not budget.thinking:
        return budget.answer
    # Those of `</think>`, and the end token that a cut answer gets.
    close = len(tokenizer.encode(THINKING_ENDS, add_special_tokens=False))
    return budget.thinking + close + budget.answer + 1


def room_for_prompt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: Budget
) -> int:
    """Return how many tokens a question may have beside its completion.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        budget: Of the completion.
    """
    return model.config.max_position_embeddings - _most_tokens(tokenizer, budget)


def _require_room(model: PreTrainedModel, prompts: list[list[int]], most: int) -> None:
    """Refuse completions that would not fit the model's context."""
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
    """Return the places of the prompts of each batch.

    Args:
        order: Places of the prompts, the shortest first.
        prompts: Their tokens.
        most: Tokens that may follow.
        samples: Completions of each.
        batch_tokens: At most so many at once; one prompt goes in any case.
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
    """Return the tokens that end an answer: the tokenizer's first, then the model's others."""
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
    # The model's own settings, such as Qwen's repetition penalty, would score another policy.
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
