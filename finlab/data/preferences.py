"""Preference pairs: a prompt of one turn or several, a chosen answer and a rejected one."""

from __future__ import annotations

from typing import Any

from finlab.data import turns
from finlab.data.turns import Messages, Row


def read_preference(row: Row) -> dict[str, Messages]:
    """Turn one preference row into TRL's conversational form.

    Reads the shapes in circulation: chosen and rejected as text or as a message, after
    `conversations` (or TRL's `prompt`) of one turn or several; or each as the whole dialogue, whose
    turns before the last answer become the prompt.

    Returns:
        {prompt, chosen, rejected}, each a list of messages.

    Raises:
        ValueError: Roles are out of order, or the answers are empty or equal.
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
        # Each side holds the whole dialogue, the prompt of the row at its beginning or not.
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
    """Return the turns before an answer, and the answer.

    Args:
        value: Text, a message, or a list of messages.
        name: `chosen` or `rejected`, for errors.

    Raises:
        ValueError: It ends with a question, or its answer is empty.
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
