"""lm-evaluation-harness's model class, where a literal `</s>` in a prompt stays text.

Exam items and few-shot examples come from files that others wrote. A special token written in one
of them must not end the prompt or start a message of another role.
"""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from finlab.data import control_tokens

ENCODED_TEXTS = 8  # how many recent texts are kept: all answers of an item follow the same prompt


def without_system(messages: list[dict]) -> list[dict]:
    """Return the messages with the system message moved to the start of the first question."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    question = messages[1] | {"content": messages[0]["content"] + messages[1]["content"]}
    return [question, *messages[2:]]


class GuardedLM(HFLM):
    """The harness's HFLM, where only the chat template can put special tokens into a prompt.

    Attributes:
        chat: Whether prompts are rendered by the chat template.
    """

    def __init__(self, *, chat: bool, **settings: Any):
        super().__init__(**settings)
        self.chat = chat
        self._encoded: dict[tuple, list[int]] = {}

    def apply_chat_template(
        self, chat_history: list[dict], add_generation_prompt: bool = True
    ) -> str:
        """Return messages as one text, with the exam's instruction in the first question.

        Args:
            chat_history: Messages {role, content}.
            add_generation_prompt: Whether the text ends where the model's answer begins.
        """
        messages = without_system(chat_history)
        if control_tokens.found_in(self.tokenizer, messages):
            messages = control_tokens.mark(self.tokenizer, messages)
        return super().apply_chat_template(messages, add_generation_prompt)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **more: Any
    ) -> list[int]:
        """Return the token ids of a text; recent texts are kept and not encoded again.

        Args:
            string: The text.
            add_special_tokens: Whether a begin token comes first; None uses the model's setting.
        """
        asked = string, add_special_tokens, *sorted(more.items())
        if asked not in self._encoded:
            while len(self._encoded) > ENCODED_TEXTS:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[asked] = self._encode(string, add_special_tokens, **more)
        return self._encoded[asked]

    def _encode(self, string: str, add_special_tokens: bool | None, **more: Any) -> list[int]:
        """Return the token ids of a text; the arguments are those of `tok_encode`."""
        if control_tokens.is_marked(string):
            return control_tokens.encode_rendered(self.tokenizer, string)[0]
        if self.chat:
            return super().tok_encode(string, add_special_tokens, **more)
        with_bos = self.add_bos_token if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode(
            string, add_special_tokens=bool(with_bos), split_special_tokens=True
        )

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token ids of texts and their attention mask, both int64 [texts, longest].

        Args:
            strings: The texts.
            padding_side: Side on which shorter texts are padded, `left` or `right`.
            left_truncate_len: How many of the last tokens of each text are kept; None keeps all.
            truncation: Not used: a prompt that does not fit is never asked.
        """
        rows = [self.tok_encode(string) for string in strings]
        if left_truncate_len:
            rows = [row[-left_truncate_len:] for row in rows]
        batch = self.tokenizer.pad(
            {"input_ids": rows}, padding=True, padding_side=padding_side, return_tensors="pt"
        )
        return batch["input_ids"], batch["attention_mask"]
