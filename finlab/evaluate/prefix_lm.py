"""A model class for lm-evaluation-harness that reads each few-shot prefix once.

    scorer = PrefixLM(model, tokenizer, tasks, store=score_cache.open_score_cache(folder, model))

It gives the scores of the harness's own class (HFLM) for a fraction of the tokens.
benchmarks/README.md says how many tokens it saves, and how close the scores are.
"""

from __future__ import annotations

import copy
import os
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import torch

from finlab.data import templates
from finlab.evaluate.guarded_lm import GuardedLM
from finlab.files import JsonlStore, digest

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

POLICIES = {
    "joint": "prompt and letter tokenised together, the tail that differs (the harness's way; "
    "with its delimiter, ` A`)",
    "raw": "the token `A` by its name (CMMLU's hf_causal_model.py)",
    "first": "the first token of `A` encoded alone, `▁A` for Llama (C-Eval's llama.py)",
    "sum": "the sum of the log-probabilities of `A` alone and of the last token of `：A` "
    "(Chinese-LLaMA-Alpaca-2, FinEval, ZhiLu)",
}
Score = tuple[float, bool]  # (log-probability in nats, whether it is the likeliest)
NO_ANSWER: Score = (-1.0e9, False)  # finite, since the harness takes a softmax of the scores
MIN_PREFIX = 8  # tokens; a shorter shared prefix is not worth a forward pass of its own
LETTER = re.compile("[A-J]")


class PrefixLM(GuardedLM):
    """The harness's HFLM with the same scores for a fraction of the tokens.

    The longest beginning that all prompts of a task share (its instruction and examples) is read
    once, and its keys and values serve every question:

        instruction + 5 examples | question 1 + A
                                 | question 2 + A
                                 | ...

    Only the logits of the last positions are computed, and their softmax is in float32. If a prompt
    does not fit into the context, whole examples are removed, the last one first, as CMMLU's own
    script does. If it does not fit without any example, the item is not answered. Both cases are
    counted, and no text is cut.

    The store keeps answers under the tokens of prompt and answer, so a rerun after a kill scores
    nothing twice. Each model has a store of its own, so it never gets the answers of another model.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`.
        tasks: {name: task object of the harness}.
        policy: One of POLICIES, which says by which token a letter is scored.
        batch_tokens: Maximum number of tokens in a batch, prefix and padding included.
        store: From `score_cache.open_score_cache`; None keeps answers in memory.
        chat: Whether to ask through the tokenizer's chat template.
        batch_size: Number of prompts in a batch when the model writes its answers.
        thinking: Tokens that a written answer may use for thinking, in addition to the tokens that
            the task allows; 0 for none. If it is not 0, the task's stop words and its repetition
            penalty are off. They are made for short answers, but a chain of thought has many blank
            lines and repeats its words.

    Attributes:
        counts: Number of tokens sent and encoded, of requests answered from the store (`kept`),
            and of items whose letters have unequal numbers of tokens.
        fits: {(task, number of the item): {shots, too_long}} of the last run: how many examples
            fitted, and whether the item did not fit even without examples.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: dict[str, Task],
        policy: str = "joint",
        batch_tokens: int = 8192,
        store: JsonlStore | None = None,
        chat: bool = False,
        batch_size: int = 16,
        thinking: int = 0,
    ):
        if policy not in POLICIES:
            raise ValueError(
                f"there is no answer-token policy '{policy}': write one of {', '.join(POLICIES)}"
            )
        if chat and not tokenizer.chat_template:
            raise ValueError(
                "the tokenizer has no chat template, so exams cannot be asked in chat: "
                "save one with it, or set chat to false"
            )
        super().__init__(
            chat=chat,
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            softmax_dtype="float32",
            max_length=getattr(model.config, "max_position_embeddings", None),
            add_bos_token=not chat and tokenizer.bos_token_id is not None,
        )
        self.tasks = tasks
        self.policy = policy
        self.batch_tokens = batch_tokens
        self.thinking = thinking
        self.store = JsonlStore() if store is None else store
        self.counts = Counter(sent=0, encoded=0, kept=0, unequal_letters=0)
        self.fits: dict[tuple[str, int], dict[str, Any]] = {}

    # --- tokens ---
    def _letter_tokens(self, letter: str) -> list[int]:
        """Return the tokens by which a policy other than joint scores a letter.

        Their log-probabilities are added.
        """
        if self.policy == "raw":
            token = self.tokenizer.convert_tokens_to_ids(letter)
            if token is None or token == self.tokenizer.unk_token_id:
                raise ValueError(
                    f"the tokenizer has no token '{letter}', which the policy raw scores: "
                    "take joint"
                )
            return [token]
        alone = self.tokenizer.encode(letter, add_special_tokens=False)
        if self.policy == "first":
            return alone[:1]
        after_colon = self.tokenizer.encode(f"：{letter}", add_special_tokens=False)
        return [alone[0], after_colon[-1]]

    def _pair(self, context: str, answer: str) -> tuple[list[int], list[int], bool]:
        """Return the tokens of prompt and answer, and whether each answer token stands alone.

        Answer tokens that stand alone are scored at the same position, right after the prompt.
        """
        letter = answer.strip()
        if self.policy != "joint" and LETTER.fullmatch(letter):
            return self.tok_encode(context), self._letter_tokens(letter), True
        if not context:
            tokens = self.tok_encode(answer, add_special_tokens=False)
            return [self.prefix_token_id], tokens, False
        return *self._encode_pair(context, answer), False

    def _fit(
        self, requests: list[Instance], answers: list[str], new_tokens: int = 0
    ) -> tuple[str, list] | None:
        """Return the prompt of an item with as many examples as fit into the context.

        Args:
            requests: The item's requests: one for each option, or a single one if the model writes.
            answers: The options of the item; empty if the model writes.
            new_tokens: How many tokens to leave free for the written answer.

        Returns:
            The prompt, and what `_pair` returns for it and each answer; None if no prompt fits.
        """
        first = requests[0]
        task = self.tasks.get(first.task_name)
        most = (task.config.num_fewshot or 0) if task else 0
        context, found, shots = first.args[0], None, 0
        for shots in range(most, -1, -1):
            if shots < most:
                context = task.fewshot_context(
                    first.doc,
                    shots,
                    apply_chat_template=self.chat,
                    fewshot_as_multiturn=self.chat,
                    chat_template=self.apply_chat_template if self.chat else None,
                )
            pairs = [self._pair(context, answer) for answer in answers]
            if self._tokens_needed(context, pairs) + new_tokens <= self.max_length:
                found = context, pairs
                break
        self.fits[first.task_name, first.doc_id] = {"shots": shots, "too_long": found is None}
        return found

    def _tokens_needed(self, context: str, pairs: list) -> int:
        """Return how many tokens the model reads of a prompt and its longest answer.

        The last token of an answer is never read, since nothing follows it.
        """
        if not pairs:
            return len(self.tok_encode(context))
        sizes = []
        for ids, tail, either in pairs:
            sizes.append(len(ids) + (1 if either else len(tail)) - 1)
        return max(sizes)

    # --- scoring ---
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Score]:
        """Return the score of each request's answer; NO_ANSWER where the question does not fit."""
        numbers_of_item: dict[Any, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            item: Any = number
            if request.doc_id is not None:
                item = request.task_name, request.doc_id
            numbers_of_item[item].append(number)
        rows: list[dict | None] = [None] * len(requests)
        for numbers in numbers_of_item.values():
            for number, row in zip(numbers, self._rows([requests[each] for each in numbers])):
                rows[number] = row
        groups: dict[tuple, list[dict]] = defaultdict(list)
        for row in rows:
            if row is None:
                continue
            if row["score"] is None:
                groups[row["group"]].append(row)
            else:
                self.counts["kept"] += 1
        for group in groups.values():
            self._score(group)
        return [NO_ANSWER if row is None else tuple(row["score"]) for row in rows]

    def _rows(self, requests: list[Instance]) -> list[dict | None]:
        """Return a row to score for each request of one item; None where it does not fit."""
        options = [request.args[1] for request in requests]
        found = self._fit(requests, options)
        if found is None:
            return [None] * len(requests)
        _, pairs = found
        letter_sizes = set()
        for option, (_, tail, _) in zip(options, pairs):
            if len(option.strip()) == 1:
                letter_sizes.add(len(tail))
        self.counts["unequal_letters"] += len(letter_sizes) > 1
        first = requests[0]
        subject = first.doc.get("subject") if isinstance(first.doc, dict) else None
        shots = self.fits[first.task_name, first.doc_id]["shots"]
        rows = []
        for ids, tail, either in pairs:
            key = digest(ids, tail, either)
            row = {
                "ids": ids,
                "tail": tail,
                "either": either,
                # The prompts of a group have a common beginning.
                "group": (first.task_name, subject, shots),
                "key": key,
                "score": self.store.get(key),
            }
            rows.append(row)
        return rows

    def _score(self, rows: list[dict]) -> None:
        """Score rows with a common beginning: read it once, and the rest in batches.

        The scores of a batch are stored before the next batch is read.
        """
        lines: dict[tuple[int, ...], list[dict]] = defaultdict(list)
        for row in rows:
            read = row["ids"] if row["either"] else row["ids"] + row["tail"][:-1]
            lines[tuple(read)].append(row)
        size = self._shared_size(lines, rows)
        order = sorted(lines, key=len, reverse=True)
        self.counts["sent"] += sum(map(len, order))
        self.counts["encoded"] += size + sum(len(line) - size for line in order)
        with torch.inference_mode():
            prefix = self._read_prefix(order[0][:size]) if size else None
            while order:
                batch = order[: max(1, self.batch_tokens // len(order[0]))]
                del order[: len(batch)]
                answered = [row for line in batch for row in lines[line]]
                keep = max(1 if row["either"] else len(row["tail"]) for row in answered)
                log_probs = self._read([line[size:] for line in batch], prefix, keep)
                for line, found in zip(batch, log_probs):
                    for row in lines[line]:
                        row["score"] = _read_off(found, row)
                self.store.put({row["key"]: row["score"] for row in answered})

    def _shared_size(self, lines: dict[tuple[int, ...], list[dict]], rows: list[dict]) -> int:
        """Return how many common tokens of the lines to read only once; 0 if not worth it."""
        shared = len(os.path.commonprefix(list(lines)))
        # At least one token of each prompt stays outside, since its logits are needed.
        shortest = min(len(row["ids"]) for row in rows)
        shared = min(shared, shortest - 1)
        return shared if shared >= MIN_PREFIX and len(lines) > 1 else 0

    def _read_prefix(self, ids: tuple[int, ...]) -> Cache:
        """Return the keys and values of a prefix."""
        batch = torch.tensor([ids], device=self.device)
        return self.model(batch, use_cache=True, logits_to_keep=1).past_key_values

    def _read(self, lines: list[tuple[int, ...]], prefix: Cache | None, keep: int) -> torch.Tensor:
        """Return log-probabilities at the last positions of lines that follow a prefix.

        Lines are padded on the right, so that no real token sees the padding, not even with a
        sliding window. Only the last positions of each line go through the output layer.

        Args:
            lines: Token ids of each line, without the prefix.
            prefix: Keys and values of the prefix; None for no prefix.
            keep: The number of last positions.

        Returns:
            float32 [lines, keep, vocabulary].
        """
        longest = max(map(len, lines))
        padded = [list(line) + [0] * (longest - len(line)) for line in lines]
        ids = torch.tensor(padded, device=self.device)
        sizes = torch.tensor([[len(line)] for line in lines])
        last = (sizes - keep + torch.arange(keep)).clamp(min=0).to(self.device)
        rows = torch.arange(len(lines), device=self.device)[:, None]
        past = copy.deepcopy(prefix)  # reading the lines would lengthen it
        if past is not None:
            past.batch_repeat_interleave(len(lines))

        def keep_last(module: torch.nn.Module, inputs: tuple) -> tuple:
            hidden, *rest = inputs
            return (hidden[rows.to(hidden.device), last.to(hidden.device)], *rest)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(keep_last)
        try:
            out = self.model(ids, past_key_values=past, use_cache=past is not None)
        finally:
            hook.remove()
        return out.logits.float().log_softmax(-1)

    # --- writing ---
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each prompt.

        The text is "" where the prompt leaves no room for the tokens that may be written.
        """
        texts = [""] * len(requests)
        asked = []
        for number, request in enumerate(requests):
            settings = self._writing_settings(request.args[1])
            found = self._fit([request], [], settings["max_gen_toks"])
            if found is None:
                continue
            prompt, _ = found
            key = self._writing_key(prompt, settings)
            written = self.store.get(key)
            if written is not None:
                texts[number] = written
                self.counts["kept"] += 1
                continue
            fitted = copy.copy(request)
            fitted.arguments = prompt, settings
            asked.append((number, key, fitted))
        asked.sort(key=lambda each: len(each[2].args[0]), reverse=True)
        # The texts of a few batches are stored before the next batches are asked.
        step = 4 * int(self.batch_size)
        for start in range(0, len(asked), step):
            part = asked[start : start + step]
            written = super().generate_until([each[2] for each in part], disable_tqdm=True)
            for (number, _, _), text in zip(part, written):
                texts[number] = text
            self.store.put({key: text for (_, key, _), text in zip(part, written)})
        # A prompt that opens the thinking, as DeepSeek-R1's, keeps its mark from what is written.
        opening = templates.thinking_opened(self.tokenizer) if self.chat else ""
        return [opening + text if text else text for text in texts]

    def _writing_settings(self, of_task: dict) -> dict:
        """Return the generation settings of a task, with the tokens for thinking added.

        Args:
            of_task: The `generation_kwargs` of the task.
        """
        tokens = of_task.get("max_gen_toks", self.max_gen_toks)
        if not self.thinking:
            return of_task | {"max_gen_toks": tokens}
        tokens += self.thinking
        return of_task | {"max_gen_toks": tokens, "until": [], "repetition_penalty": 1.0}

    def _writing_key(self, prompt: str, settings: dict) -> str:
        """Return the key under which a written answer is kept."""
        return digest(
            "generate",
            self.tok_encode(prompt),
            settings,
            self.eot_token_id,
            self.model.generation_config.to_dict(),
        )


def _read_off(log_probs: torch.Tensor, row: dict) -> Score:
    """Return the score of an answer from the log-probabilities of a line's last positions.

    Args:
        log_probs: float32 [positions, vocabulary].
        row: A row from `_rows`. `tail` has the tokens of the answer; `either` says that all of them
            are scored at the last position.
    """
    tail = row["tail"]
    if row["either"]:
        last = log_probs[-1]
        return last[tail].sum().item(), last.argmax().item() in tail
    span = log_probs[len(log_probs) - len(tail) :]
    total = sum(span[place, token].item() for place, token in enumerate(tail))
    return total, span.argmax(-1).tolist() == tail
