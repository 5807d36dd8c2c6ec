"""Write dialogues in the formats of others, for `finlab.data.dialogues`.

    yayi([{"role": "user", "content": "什么是A股？"}, {"role": "assistant", "content": "…"}])
    # {instruction: 什么是A股？, input: "", output: …, system: ""}

Each function takes the messages of a dialogue and returns a row. A format that has no place for a
system message or for several exchanges refuses them, so that nothing is lost.
"""

from __future__ import annotations

from finlab.data import turns
from finlab.data.turns import Messages, Row


def openai(messages: Messages) -> Row:
    """Return messages as OpenAI's {messages}."""
    return {"messages": messages}


def _conversation(messages: Messages, assistant: str) -> list[Row]:
    """Return messages as turns {from, value}.

    Args:
        messages: The messages of a dialogue, without a system message.
        assistant: Name of the assistant in the format, such as `gpt`.
    """
    names = {"user": "human", "assistant": assistant}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages]


def sharegpt(messages: Messages) -> Row:
    """Return messages as ShareGPT's {conversations, system}; `system` is left out if empty."""
    system, talk = turns.split_system(messages)
    row: Row = {"conversations": _conversation(talk, "gpt")}
    return {**row, "system": system} if system else row


def yayi_multi(messages: Messages) -> Row:
    """Return messages as a row of YaYi's trainer_multi_rounds.py."""
    system, talk = turns.split_system(messages)
    return {"conversations": _conversation(talk, "yayi"), "system": system}


def _instruction(talk: Messages) -> Row:
    """Return one exchange as {instruction, input, output}."""
    question, answer = talk[-2]["content"], talk[-1]["content"]
    return {"instruction": question, "input": "", "output": answer}


def _refuse_system(name: str, system: str) -> None:
    """Raise ValueError if there is a system message, for a format that cannot hold one.

    Args:
        name: Name of the format, for the error.
        system: Text of the system message; empty if there is none.
    """
    if system:
        raise ValueError(
            f"{name} has no place for a system message: "
            "take it out, or write yayi, sharegpt or openai"
        )


def _refuse_several(name: str, talk: Messages) -> None:
    """Raise ValueError if there are several exchanges, for a format that holds only one.

    Args:
        name: Name of the format, for the error.
        talk: The messages without the system message.
    """
    if len(talk) > 2:
        raise ValueError(
            f"{name} holds one exchange and the dialogue has {len(talk) // 2}: "
            "split it with dialogues.exchanges"
        )


def alpaca(messages: Messages, name: str = "alpaca") -> Row:
    """Return one exchange as a row of Alpaca.

    Args:
        messages: The messages of a dialogue with one exchange.
        name: Name of the format, for the error.
    """
    system, talk = turns.split_system(messages)
    _refuse_several(name, talk)
    _refuse_system(name, system)
    return _instruction(talk)


def cornucopia(messages: Messages) -> Row:
    """Return one exchange as a row of Cornucopia, which has Alpaca's fields."""
    return alpaca(messages, "cornucopia")


def yayi(messages: Messages) -> Row:
    """Return one exchange as a row of YaYi's single-turn data.

    The row has Alpaca's fields and `system`.
    """
    system, talk = turns.split_system(messages)
    _refuse_several("yayi", talk)
    return {**_instruction(talk), "system": system}


def disc(messages: Messages) -> Row:
    """Return a dialogue as a row of DISC-FinLLM, with earlier exchanges in `history`.

    Reference passages remain in the text of the questions.
    """
    system, talk = turns.split_system(messages)
    _refuse_system("disc", system)
    history = []
    for at in range(0, len(talk) - 2, 2):
        history.append([talk[at]["content"], talk[at + 1]["content"]])
    return {**_instruction(talk), "history": history}
