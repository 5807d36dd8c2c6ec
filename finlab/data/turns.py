"""Convert turns of any format to messages, with tools and reference passages.

Messages are {role, content} with the roles system, user and assistant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
Messages = list[dict[str, str]]  # {role, content}

# Names of speakers in the known formats, and the role of each. `call` and `tool` are converted.
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "yayi": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "call",
    "observation": "tool",
    "tool": "tool",
}

# The text of Qwen2.5's template, so that a base model that knows tools gets the text it knows.
TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n{tools}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)
# The words of DISC-FinLLM before reference passages.
PASSAGES = (
    "作为一名金融领域专家，请回答下面的问题。下面的材料仅供参考。\n"
    "（注意：1、材料可能与问题无关，请忽略无关材料，并基于已有知识回答问题。 "
    "2、尽量不要直接复制材料内容作为答案，而应该将材料内容作为事件的补充与潜在分析，启发思考）。"
    "3、请直接给出分析和答案，无需给出具体参考了哪篇文档）；\n"
)
PASSAGE_HEAD = re.compile(r"参考材料 ?(\d+)[:：]\n")


# --- turns into messages -------------------------------------------------------------------------
def require_text(value: Any, what: str) -> str:
    """Return a value after checking that it is text.

    Args:
        value: The value in a row.
        what: Name of the value, for the error.

    Raises:
        ValueError: The value is missing, blank or not text.
    """
    if value in (None, "") or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{what} is empty")
    if not isinstance(value, str):
        raise ValueError(f"{what} is not text")
    return value


def _call_text(call: Any) -> str:
    """Return a function call as the text that the assistant writes.

    Args:
        call: OpenAI's {function: {name, arguments}}, or only {name, arguments}, or either as JSON
            text.
    """
    if isinstance(call, str):
        call = json.loads(call)
    call = call.get("function", call)
    arguments = call["arguments"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    content = {"name": call["name"], "arguments": arguments}
    return f"<tool_call>\n{json.dumps(content, ensure_ascii=False)}\n</tool_call>"


def _assistant_text(text: str | None, calls: list[Any], where: str) -> str:
    """Return the assistant's words and function calls as one text.

    Args:
        text: The assistant's words; None or empty if it only calls functions.
        calls: The function calls.
        where: Name of the turn, for errors.
    """
    parts = [text] if text or not calls else []
    try:
        parts += [_call_text(call) for call in calls]
        return "\n".join(parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{where} is not a function call: a name and arguments in JSON are needed"
        ) from None


def to_messages(turns: list[Row]) -> Messages:
    """Return turns of any format as messages.

    Function calls and the results of tools become text between tags, as in Qwen2.5.

    Args:
        turns: The turns, {from, value} or {role, content}, maybe with `tool_calls`.

    Raises:
        ValueError: A speaker is unknown, a turn is empty or not text, or a function call or tool
            result is not valid.
    """
    messages: Messages = []
    for number, turn in enumerate(turns, 1):
        speaker = turn.get("from", turn.get("role"))
        text = turn.get("value", turn.get("content"))
        where = f"turn {number} ({speaker})"
        if speaker not in ROLES:
            known = ", ".join(ROLES)
            raise ValueError(f"turn {number}: unknown role {speaker!r}; known are {known}")
        role, calls = ROLES[speaker], turn.get("tool_calls") or []
        if role == "system" and (text is None or (isinstance(text, str) and not text.strip())):
            continue  # an empty system message is skipped
        goes_on = role == "call" and _ends_with_call(messages)
        if role == "call":
            role, text, calls = "assistant", "", _listed_calls(text)
        if calls:
            text = _assistant_text(text, calls, where)
        text = require_text(text, where)
        if role == "tool":
            _add_tool_response(messages, text, where)
        elif goes_on:
            messages[-1]["content"] += "\n" + text
        else:
            messages.append({"role": role, "content": text})
    return messages


def _ends_with_call(messages: Messages) -> bool:
    """Tell whether the last message is the assistant's and ends with a function call."""
    last = messages[-1] if messages else {"role": "", "content": ""}
    return last["role"] == "assistant" and last["content"].rstrip().endswith("</tool_call>")


def _listed_calls(call: Any) -> list[Any]:
    """Return the function calls of a turn as a list.

    Args:
        call: One call or a list of calls, parsed or as JSON text.
    """
    parsed = call
    if isinstance(call, str):
        try:
            parsed = json.loads(call)
        except ValueError:
            return [call]
    return parsed if isinstance(parsed, list) and parsed else [call]


def _add_tool_response(messages: Messages, text: str, where: str) -> None:
    """Add the result of a tool to a dialogue; several results in a row become one message.

    Args:
        messages: The dialogue so far; changed in place.
        text: The result of the tool.
        where: Name of the turn, for errors.

    Raises:
        ValueError: There is no function call before it.
    """
    text = f"<tool_response>\n{text}\n</tool_response>"
    before = messages[-1]["content"] if messages else ""
    if before.startswith("<tool_response>"):
        messages[-1]["content"] += "\n" + text
    elif before.rstrip().endswith("</tool_call>"):
        messages.append({"role": "user", "content": text})
    else:
        raise ValueError(f"{where} answers no function call")


def check_order(messages: Messages, last: str) -> Messages:
    """Return messages after checking the order of their roles.

    After at most one system message, user and assistant must alternate, and the user is first.

    Args:
        messages: The messages of a dialogue.
        last: Role of the last message, `user` or `assistant`.

    Raises:
        ValueError: The order is another one.
    """
    roles = [message["role"] for message in messages]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if last == "assistant" and "assistant" not in roles:
        raise ValueError("the dialogue has no answer")
    expected = [("user", "assistant")[number % 2] for number in range(len(roles))]
    if roles != expected or roles[-1:] != [last]:
        raise ValueError(
            "user and assistant must take turns after at most one system message, "
            f"and the {last} be last; found {' '.join(roles)}"
        )
    return messages


# --- tools and passages --------------------------------------------------------------------------
def split_system(messages: Messages) -> tuple[str, Messages]:
    """Return (text of the system message, the other messages); the text is "" without one."""
    if messages and messages[0]["role"] == "system":
        return messages[0]["content"], messages[1:]
    return "", messages


def with_tools(messages: Messages, tools: str | list[dict] | None) -> Messages:
    """Return messages with tools offered in the system message; unchanged without tools.

    Args:
        messages: The messages.
        tools: JSON schemas of functions, in OpenAI's form or only the function; or JSON text of
            them; None or empty for no tools.
    """
    tools = _listed_tools(tools)
    if not tools:
        return messages
    lines = []
    for tool in tools:
        schema = tool if "function" in tool else {"type": "function", "function": tool}
        lines.append(json.dumps(schema, ensure_ascii=False))
    system, rest = split_system(messages)
    offer = TOOLS.format(tools="\n".join(lines))
    content = f"{system}\n\n{offer}" if rest is not messages else offer
    return [{"role": "system", "content": content}, *rest]


def _listed_tools(tools: Any) -> list[dict]:
    """Return tools as a list of schemas, from a list, a single schema, or JSON text of either.

    Raises:
        ValueError: The tools have another form.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else []
        except ValueError:
            raise ValueError("its tools are not JSON") from None
    if isinstance(tools, dict):
        tools = [tools]
    if tools is not None and not isinstance(tools, list):
        raise ValueError("its tools are not a list of functions")
    for tool in tools or []:
        if not isinstance(tool, dict):
            raise ValueError("its tools are not a list of functions")
    return tools or []


def earlier(history: Any) -> list[dict]:
    """Return the earlier turns of a dialogue as a list of turns.

    Args:
        history: Pairs of a question and an answer, one such pair, or turns with roles.

    Raises:
        ValueError: The history has another form.
    """
    if isinstance(history, list) and all(isinstance(turn, dict) for turn in history):
        return list(history)
    found = []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(
                "its history is neither pairs of a question and an answer nor turns with roles"
            )
        found.append({"from": "human", "value": pair[0]})
        found.append({"from": "gpt", "value": pair[1]})
    return found


def passage_list(reference: Any) -> list[str]:
    """Return reference passages as a list, from a list of texts or one text.

    Raises:
        ValueError: The reference has another form.
    """
    passages = [reference] if isinstance(reference, str) else reference
    if not isinstance(passages, list) or not all(isinstance(each, str) for each in passages):
        raise ValueError("its reference is neither a text nor a list of texts")
    return passages


def with_passages(question: str, passages: Sequence[str]) -> str:
    """Return a question with reference passages before it, in DISC-FinLLM's words.

    Args:
        question: The question.
        passages: The texts of the passages.
    """
    parts = [f"参考材料 {number}:\n{text}\n\n" for number, text in enumerate(passages, 1)]
    return f"{PASSAGES}{''.join(parts)}问题： {question}"


def passages(text: str) -> tuple[str, list[str]]:
    """Return (question, reference passages) of an instruction in DISC-FinLLM's words.

    For a text without passages, return (text, []).
    """
    head, mark, question = text.rpartition("问题：")
    parts = PASSAGE_HEAD.split(head)
    if not mark or len(parts) < 3:
        return text, []
    return question.strip(), [part.strip() for part in parts[2::2]]
