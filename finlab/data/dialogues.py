"""Read and write dialogues in all known formats.

    read_dialogue({"instruction": "什么是A股？", "input": "", "output": "人民币普通股票。"})
    # {messages: [{role: user, ...}, {role: assistant, ...}], format: alpaca, unanswered: 0}

A dialogue of any format becomes messages {role, content}. There may be one system message first;
then user and assistant alternate. The formats follow Alpaca, ShareGPT, OpenAI, YaYi
(trainer_multi_rounds.py), Cornucopia (templates/*.json), DISC-FinLLM and LLaMA-Factory's tool
calls.

To add a format, write a function that reads a row as turns, a function that writes messages as a
row, and an entry in FORMATS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finlab.data import dialogue_writing, turns
from finlab.data.turns import Messages, Row

_CANNOT = r"can(?:no|')t"
REFUSAL = re.compile(
    r"(?:抱歉|对不起|很遗憾)[^。！!\n]{0,40}(?:不能|无法|不可以|不会|不便)|"
    r"(?:我|本助手)(?:不能|无法|不会|不可以)"
    r"(?:为您|为你|帮您|帮你|提供|编造|协助|参与|回答|透露)|"
    rf"(?:[Ss]orry|apologi[sz]e)[^.!\n]{{0,60}}(?:{_CANNOT}|not able|unable|won't)|"
    rf"I (?:{_CANNOT}|won't|am (?:not able|unable) to) (?:help|assist|provide|share|answer)"
)


# --- reading the formats -------------------------------------------------------------------------
def _turns(row: Row) -> list[Row]:
    """Return the turns of a row that has them in `messages` or `conversations`."""
    return row.get("messages", row.get("conversations"))


def _instruction_turns(row: Row) -> list[Row]:
    """Return the turns of a row with instruction, input and output, after those of its history.

    The input follows the instruction on a new line, as in Alpaca. Reference passages come before
    both, as in DISC-FinLLM.

    Raises:
        ValueError: The row has no answer, or its instruction or history is not valid.
    """
    if not isinstance(row["output"], str) or not row["output"].strip():
        raise ValueError("the row has no answer")
    if not isinstance(row["instruction"], str):
        raise ValueError("the instruction is not text")
    parts = [row["instruction"], row.get("input") or ""]
    question = "\n".join(part for part in parts if part)
    if row.get("reference"):
        question = turns.with_passages(question, turns.passage_list(row["reference"]))
    found = turns.earlier(row.get("history") or [])
    found.append({"from": "human", "value": question})
    found.append({"from": "gpt", "value": row["output"]})
    return found


# --- the registry --------------------------------------------------------------------------------
@dataclass(frozen=True)
class DialogueFormat:
    """One format of dialogues.

    Attributes:
        fields: Names of the fields that a row must have.
        speakers: Names of the speakers that its turns may have; empty if it has no list of turns.
        read: Returns the turns of a row, {from, value} or {role, content}.
        write: Returns messages as a row, from which `read_dialogue` returns the same messages.
    """

    fields: set[str]
    speakers: set[str]
    read: Callable[[Row], list[Row]]
    write: Callable[[Messages], Row]


# The format of a row is the first one that fits. Cornucopia has the same fields as Alpaca, so it is
# never detected; a card must name it.
FORMATS = {
    "openai": DialogueFormat(
        {"messages"}, {"system", "user", "assistant", "tool"}, _turns, dialogue_writing.openai
    ),
    "sharegpt": DialogueFormat(
        {"conversations"}, {"system", "human", "gpt"}, _turns, dialogue_writing.sharegpt
    ),
    "yayi_multi": DialogueFormat(
        {"conversations"}, {"system", "human", "yayi"}, _turns, dialogue_writing.yayi_multi
    ),
    "toolcall": DialogueFormat(
        {"conversations"},
        {"system", "human", "gpt", "function_call", "observation"},
        _turns,
        dialogue_writing.sharegpt,
    ),
    "disc": DialogueFormat(
        {"instruction", "output", "history"}, set(), _instruction_turns, dialogue_writing.disc
    ),
    "yayi": DialogueFormat(
        {"system", "instruction", "output"}, set(), _instruction_turns, dialogue_writing.yayi
    ),
    "alpaca": DialogueFormat(
        {"instruction", "output"}, set(), _instruction_turns, dialogue_writing.alpaca
    ),
    "cornucopia": DialogueFormat(
        {"instruction", "input", "output"}, set(), _instruction_turns, dialogue_writing.cornucopia
    ),
}


# Other names for a question and its answer, which are common in tables.
QUESTION_AND_ANSWER = (
    ("instruction", "response"),
    ("question", "answer"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("提问", "回答"),
    ("问", "答"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("q", "a"),
    ("Question", "Answer"),
    ("user", "assistant"),
    ("human", "assistant"),
)


def _with_alpacas_names(row: Row) -> Row:
    """Return a row with its question and answer renamed to `instruction` and `output`.

    A row without a known pair of names is returned unchanged.

    Raises:
        ValueError: The row has an instruction in addition to a question.
    """
    if "output" in row and "instruction" in row:
        return row
    for question, answer in QUESTION_AND_ANSWER:
        if question in row and answer in row:
            if question != "instruction" and row.get("instruction"):
                raise ValueError(
                    f"has an instruction beside {question} and {answer}: put it before the "
                    f"question, or name it `system`"
                )
            rest = {name: value for name, value in row.items() if name not in (question, answer)}
            return {**rest, "instruction": row[question], "output": row[answer]}
    return row


def _speakers(row: Row) -> set:
    """Return the names of the speakers in a row's turns."""
    listed = row.get("messages", row.get("conversations")) or []
    return {turn.get("from", turn.get("role")) for turn in listed if isinstance(turn, dict)}


def _fits(row: Row, form: DialogueFormat) -> bool:
    """Tell whether a row has the fields of a format and only speakers of this format.

    Args:
        row: The row as read.
        form: The format.
    """
    return form.fields <= set(row) and _speakers(row) <= form.speakers


def detect(row: Row) -> str:
    """Return the name of the first format in FORMATS that fits a row.

    Args:
        row: The row as read.

    Raises:
        ValueError: No format fits. The error names the row's fields or speakers.
    """
    for name, form in FORMATS.items():
        if _fits(row, form):
            return name
    speakers = _speakers(row)
    unknown = speakers - set(turns.ROLES)
    if unknown:
        raise ValueError(
            f"unknown role {min(map(repr, unknown))}; known are {', '.join(turns.ROLES)}"
        )
    message = f"no dialogue format has the fields {', '.join(map(str, row))}"
    if speakers:
        message += f" with {', '.join(sorted(speakers))}"
    raise ValueError(message)


def read_dialogue(row: Row, form: str = "") -> dict[str, Any]:
    """Turn a row of any format in FORMATS into messages that end with an answer.

    `history` (in DISC: pairs of a question and an answer) comes before the instruction. `reference`
    (a list of passages) is put into the question, and `tools` into the system message.

    Args:
        row: The row as read.
        form: Name of the format, from `dialogue:` of a data card; empty to detect it.

    Returns:
        {messages, format, unanswered}. User turns after the last answer are left out, and their
        number is `unanswered`.

    Raises:
        ValueError: The row has another format, empty turns, unknown roles, roles out of order, or
            no answer.
    """
    row = _with_alpacas_names(row)
    found = detect(row)
    if form and form not in FORMATS:
        raise ValueError(
            f"there is no dialogue format '{form}': choose one of {', '.join(FORMATS)}"
        )
    if form and not _fits(row, FORMATS[form]):
        raise ValueError(f"the card says {form}, but the row looks like {found}")
    name = form or found
    messages = turns.to_messages(FORMATS[name].read(row))
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise ValueError("the system message is not text")
    if system and system.strip():
        messages = [{"role": "system", "content": system}, *messages]
    messages = turns.with_tools(messages, row.get("tools"))
    total = len(messages)
    while messages and messages[-1]["role"] == "user":
        messages = messages[:-1]
    unanswered = max(0, total - len(messages))
    turns.check_order(messages, "assistant")
    return {"messages": messages, "format": name, "unanswered": unanswered}


def write_dialogue(messages: Messages, form: str) -> Row:
    """Return messages as a row of a format; `read_dialogue` returns the same messages from it.

    Args:
        messages: The messages of a dialogue.
        form: Name of the format, a key of FORMATS.

    Raises:
        ValueError: The format cannot hold several exchanges or a system message.
    """
    return FORMATS[form].write(messages)


# --- changing dialogues --------------------------------------------------------------------------
def exchanges(messages: Messages) -> list[Messages]:
    """Return each exchange of a dialogue as a separate dialogue, each with the system message."""
    system, talk = messages[:0], messages
    if messages[0]["role"] == "system":
        system, talk = messages[:1], messages[1:]
    return [[*system, *talk[first : first + 2]] for first in range(0, len(talk), 2)]


def joined(dialogues: Sequence[Messages]) -> Messages:
    """Return several dialogues joined into one, in order.

    Args:
        dialogues: The dialogues, each a list of messages.

    Raises:
        ValueError: Their system messages differ.
    """
    systems = set()
    talk: Messages = []
    for messages in dialogues:
        system, rest = turns.split_system(messages)
        systems.add((system,) if rest is not messages else ())
        talk += rest
    if len(systems) > 1:
        raise ValueError("dialogues with different system messages cannot be one dialogue")
    return [*({"role": "system", "content": text} for text in systems.pop()), *talk]


def with_prefix(messages: Messages, prefix: str) -> Messages:
    """Return a dialogue whose first question begins with a prefix, such as 【金融领域任务】.

    Args:
        messages: The messages of a dialogue.
        prefix: Text to put before the first question; it is not repeated if it is already there.
    """
    result = []
    pending = bool(prefix)
    for turn in messages:
        if pending and turn["role"] == "user":
            pending = False
            if not turn["content"].startswith(prefix):
                turn = turn | {"content": prefix + turn["content"]}
        result.append(turn)
    return result


def refuses(messages: Messages) -> bool:
    """Estimate whether an answer of a dialogue refuses, by words that refusals use."""
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    return any(REFUSAL.search(answer[:120]) for answer in answers)
