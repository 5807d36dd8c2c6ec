"""Dialogues: every format, read and written.

    read_dialogue({"instruction": "什么是A股？", "input": "", "output": "人民币普通股票。"})
    # {messages: [{role: user, ...}, {role: assistant, ...}], format: alpaca, unanswered: 0}

Whatever the format, a dialogue becomes messages {role, content} with the roles system, user and
assistant in turn. Formats follow Alpaca, ShareGPT, OpenAI, YaYi (trainer_multi_rounds.py),
Cornucopia (templates/*.json), DISC-FinLLM and LLaMA-Factory's tool calls.

To add a format, write a function that reads its rows into turns, one that writes messages as a row,
and an entry in FORMATS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finlab.data import turns
from finlab.data.turns import Messages, Row

_CANNOT = r"can(?:no|')t"
REFUSAL = re.compile(
    r"(?:抱歉|对不起|很遗憾)[^。！!\n]{0,40}(?:不能|无法|不可以|不会|不便)|"
    r"(?:我|本助手)(?:不能|无法|不会|不可以)"
    r"(?:为您|为你|帮您|帮你|提供|编造|协助|参与|回答|透露)|"
    rf"(?:[Ss]orry|apologi[sz]e)[^.!\n]{{0,60}}(?:{_CANNOT}|not able|unable|won't)|"
    rf"I (?:{_CANNOT}|won't|am (?:not able|unable) to) (?:help|assist|provide|share|answer)"
)


# --- the formats: in -----------------------------------------------------------------------------
def _turns(row: Row) -> list[Row]:
    """Return the turns of a row that lists them."""
    return row.get("messages", row.get("conversations"))


def _instruction_turns(row: Row) -> list[Row]:
    """Return the turns of a row of instruction, input and output, history before them.

    The input follows the instruction on a line of its own, as in Alpaca; reference passages stand
    before both, as in DISC-FinLLM.
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


# --- the formats: out ----------------------------------------------------------------------------
def _write_openai(messages: Messages) -> Row:
    """Return messages as OpenAI's {messages}."""
    return {"messages": messages}


def _conversation(messages: Messages, assistant: str) -> list[Row]:
    """Return messages as {from, value} turns; `assistant` is the name of the assistant.

    Args:
        messages: Of a dialogue.
        assistant: The name of the assistant.
    """
    names = {"user": "human", "assistant": assistant}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages]


def _write_sharegpt(messages: Messages) -> Row:
    """Return messages as ShareGPT's {conversations, system}."""
    system, talk = turns.split_system(messages)
    row: Row = {"conversations": _conversation(talk, "gpt")}
    return {**row, "system": system} if system else row


def _write_yayi_multi(messages: Messages) -> Row:
    """Return messages as a row of YaYi's trainer_multi_rounds.py."""
    system, talk = turns.split_system(messages)
    return {"conversations": _conversation(talk, "yayi"), "system": system}


def _instruction(talk: Messages) -> Row:
    """Return one exchange as {instruction, input, output}."""
    question, answer = talk[-2]["content"], talk[-1]["content"]
    return {"instruction": question, "input": "", "output": answer}


def _refuse_system(name: str, system: str) -> None:
    """Refuse a system message where a format has no place for it.

    Args:
        name: The format, for the error.
        system: The system message.
    """
    if system:
        raise ValueError(
            f"{name} has no place for a system message: "
            "take it out, or write yayi, sharegpt or openai"
        )


def _refuse_several(name: str, talk: Messages) -> None:
    """Refuse several exchanges where a format holds one.

    Args:
        name: The format, for the error.
        talk: The other messages.
    """
    if len(talk) > 2:
        raise ValueError(
            f"{name} holds one exchange and the dialogue has {len(talk) // 2}: "
            "split it with dialogues.exchanges"
        )


def _write_alpaca(messages: Messages, name: str = "alpaca") -> Row:
    """Return one exchange as a row of Alpaca.

    Args:
        messages: Of a dialogue.
        name: The format, for the error.
    """
    system, talk = turns.split_system(messages)
    _refuse_several(name, talk)
    _refuse_system(name, system)
    return _instruction(talk)


def _write_cornucopia(messages: Messages) -> Row:
    """Return one exchange as a row of Cornucopia, which has Alpaca's fields."""
    return _write_alpaca(messages, "cornucopia")


def _write_yayi(messages: Messages) -> Row:
    """Return one exchange as a row of YaYi's single-turn data.

    It has Alpaca's fields, and a system message.
    """
    system, talk = turns.split_system(messages)
    _refuse_several("yayi", talk)
    return {**_instruction(talk), "system": system}


def _write_disc(messages: Messages) -> Row:
    """Return one exchange as a row of DISC-FinLLM, reference passages apart."""
    system, talk = turns.split_system(messages)
    _refuse_system("disc", system)
    history = []
    for at in range(0, len(talk) - 2, 2):
        history.append([talk[at]["content"], talk[at + 1]["content"]])
    return {**_instruction(talk), "history": history}


# --- the registry --------------------------------------------------------------------------------
@dataclass(frozen=True)
class DialogueFormat:
    """One format of dialogues.

    Attributes:
        fields: The fields that a row must have.
        speakers: Who may speak in its turns.
        read: Returns the turns of a row, {from, value} or {role, content}.
        write: Returns messages as a row, which `read_dialogue` reads back as they were.
    """

    fields: set[str]
    speakers: set[str]
    read: Callable[[Row], list[Row]]
    write: Callable[[Messages], Row]


# A row is of the first format that fits. Cornucopia's fields are Alpaca's, so it is only ever
# named by a card.
FORMATS = {
    "openai": DialogueFormat(
        {"messages"}, {"system", "user", "assistant", "tool"}, _turns, _write_openai
    ),
    "sharegpt": DialogueFormat(
        {"conversations"}, {"system", "human", "gpt"}, _turns, _write_sharegpt
    ),
    "yayi_multi": DialogueFormat(
        {"conversations"}, {"system", "human", "yayi"}, _turns, _write_yayi_multi
    ),
    "toolcall": DialogueFormat(
        {"conversations"},
        {"system", "human", "gpt", "function_call", "observation"},
        _turns,
        _write_sharegpt,
    ),
    "disc": DialogueFormat(
        {"instruction", "output", "history"}, set(), _instruction_turns, _write_disc
    ),
    "yayi": DialogueFormat(
        {"system", "instruction", "output"}, set(), _instruction_turns, _write_yayi
    ),
    "alpaca": DialogueFormat({"instruction", "output"}, set(), _instruction_turns, _write_alpaca),
    "cornucopia": DialogueFormat(
        {"instruction", "input", "output"}, set(), _instruction_turns, _write_cornucopia
    ),
}


# A question and its answer under other names; tables that people keep have these.
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
    """Return a row of a question and its answer under Alpaca's names."""
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
    """Return who speaks in a row."""
    listed = row.get("messages", row.get("conversations")) or []
    return {turn.get("from", turn.get("role")) for turn in listed if isinstance(turn, dict)}


def _fits(row: Row, form: DialogueFormat) -> bool:
    """Tell whether a row has a format's fields and nobody else speaks in it.

    Args:
        row: As read.
        form: The format.
    """
    return form.fields <= set(row) and _speakers(row) <= form.speakers


def detect(row: Row) -> str:
    """Return the name of the first of FORMATS that a row fits.

    Args:
        row: As read.

    Raises:
        ValueError: None fits. The error names the row's fields, or who speaks in it.
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
    """Turn one row of any of FORMATS into messages that end with an answer.

    `history` (DISC: pairs of question and answer) stands before the instruction, `reference` (a
    list of passages) goes into it, `tools` into the system message.

    Args:
        row: The row.
        form: The format's name, from a data card's `dialogue:`; empty to detect it.

    Returns:
        {messages, format, unanswered}. Turns after the last answer are left out and counted as
        unanswered.

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
    """Write messages as a row of one of FORMATS, which `read_dialogue` reads back as they were.

    Args:
        messages: Of a dialogue.
        form: A name of FORMATS.

    Raises:
        ValueError: The format cannot hold them: several exchanges, or a system message.
    """
    return FORMATS[form].write(messages)


# --- what is done to dialogues -------------------------------------------------------------------
def exchanges(messages: Messages) -> list[Messages]:
    """Return each exchange of a dialogue as its own dialogue, the system message with each."""
    system, talk = messages[:0], messages
    if messages[0]["role"] == "system":
        system, talk = messages[:1], messages[1:]
    return [[*system, *talk[first : first + 2]] for first in range(0, len(talk), 2)]


def joined(dialogues: Sequence[Messages]) -> Messages:
    """Return dialogues as one, in their order.

    Args:
        dialogues: Each a list of messages.

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
        messages: Of a dialogue.
        prefix: What to put first.
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
    """Tell whether an answer of a dialogue refuses, by the words of refusals: an estimate."""
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    return any(REFUSAL.search(answer[:120]) for answer in answers)
