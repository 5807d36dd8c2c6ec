"""Preference pairs: a prompt of one or several turns, a chosen answer and a rejected answer."""

from __future__ import annotations

from typing import Any

from finlab.data import turns
from finlab.data.turns import Messages, Row


def read_preference(row: Row) -> dict[str, Messages]:
    """Turn one preference row into TRL's conversational form.

    It reads the common forms. In one form, `chosen` and `rejected` are each a text or a message,
    and the prompt is in `conversations` (or TRL's `prompt`). In the other form, they are each the
    whole dialogue, and the turns before the last answer become the prompt.

    Returns:
        {prompt, chosen, rejected}, each a list of messages.

    Raises:
        ValueError: The roles are out of order, the answers are empty or equal, or the turns before
            the two answers differ.
    """
    prompt: Messages = []
    asked = row.get("conversations", row.get("prompt"))
    if isinstance(asked, str):
        asked = [{"from": "human", "value": asked}]
    if asked:
        prompt = turns.to_messages(asked)
    chosen_turns, chosen = _preferred(row["chosen"], "chosen")
    rejected_turns, rejected = _preferred(row["rejected"], "rejected")
    if chosen_turns != rejected_turns:
        raise ValueError(
            "chosen and rejected are two different dialogues: they must share all turns before "
            "the last answer"
        )
    if chosen_turns:
        # Each side holds the whole dialogue, with or without the row's prompt at its beginning.
        begins_alike = chosen_turns[: len(prompt)] == prompt
        prompt = chosen_turns if begins_alike else [*prompt, *chosen_turns]
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        prompt = [{"role": "system", "content": system}, *prompt]
    turns.check_order(prompt, "user")
    if chosen.strip() == rejected.strip():
        raise ValueError("chosen and rejected must be two different answers")
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _preferred(value: Any, name: str) -> tuple[Messages, str]:
    """Return the turns before the last answer, and this answer.

    Args:
        value: A text, a message, or a list of messages.
        name: `chosen` or `rejected`, for errors.

    Raises:
        ValueError: The value has another form, does not end with an answer, or the answer is
            empty.
    """
    if isinstance(value, str):
        return [], turns.require_text(value, "an answer")
    if isinstance(value, dict):
        value = [value]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(turn, dict) for turn in value)
    ):
        raise ValueError(f"{name} is neither text nor a list of messages")
    if not any("from" in turn or "role" in turn for turn in value):
        value = [{"from": "gpt", **value[-1]}]
    messages = turns.to_messages(value)
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError(f"{name} does not end with an answer of the assistant")
    return messages[:-1], messages[-1]["content"]
