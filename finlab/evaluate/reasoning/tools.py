"""Run the tools that a model calls, from a table of functions, and score its calls.

    box = Toolbox([calculator(), lookup(rows)])
    box.run({"name": "calculate", "arguments": {"sum": "19+43"}})     # "62"
    box.run({"name": "delete_all", "arguments": {}})                  # an error, as an observation
    converse(model, tokenizer, messages, box)                         # calls, observations, answer

What a model writes is read as JSON and looked up in the table. No part of it is evaluated, imported
or passed to a shell. A call is refused if its arguments are not those that the tool declares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finlab.data import templates
from finlab.evaluate import statistics
from finlab.models import sampling
from finlab.models.sampling import Budget
from finlab.train.reward import arithmetic, lists, reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST_OBSERVATION = 2000  # characters
MOST_CALLS = 8  # calls that are read from one message
TYPES = {"string": str, "number": (int, float), "integer": int, "boolean": bool}


# --- the table -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: Name under which the model calls the tool.
        description: What the tool does, in words for the prompt.
        arguments: {name: JSON type}, where a type is string, number, integer or boolean. A call
            must give all arguments.
        function: Takes the arguments and returns an observation. The message of a ValueError or
            ArithmeticError becomes an observation too.
    """

    name: str
    description: str
    arguments: dict[str, str]
    function: Callable[..., str]

    def schema(self) -> dict[str, Any]:
        """Return the tool as OpenAI's JSON schema."""
        properties = {name: {"type": kind} for name, kind in self.arguments.items()}
        parameters = {"type": "object", "properties": properties}
        parameters["required"] = list(self.arguments)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


class Toolbox:
    """The table of the tools that a model may call.

    Args:
        tools: The tools.
    """

    def __init__(self, tools: Sequence[Tool]):
        self.tools = {tool.name: tool for tool in tools}

    def schemas(self) -> list[dict[str, Any]]:
        """Return all tools as JSON schemas, for a chat template."""
        return [tool.schema() for tool in self.tools.values()]

    def run(self, call: dict[str, Any]) -> str:
        """Return the observation that a call gives, or a text that says why it failed.

        Args:
            call: {name, arguments}.
        """
        tool = self.tools.get(call["name"])
        if tool is None:
            return f"error: there is no tool '{call['name']}'; there are {', '.join(self.tools)}"
        fault = _fault(tool, call["arguments"])
        if fault:
            return f"error: {tool.name} {fault}"
        try:
            return str(tool.function(**call["arguments"]))[:LONGEST_OBSERVATION]
        except (ValueError, ArithmeticError) as error:
            return f"error: {error}"


def _fault(tool: Tool, given: dict[str, Any]) -> str:
    """Return what is wrong with the arguments of a call; empty if nothing is wrong."""
    for name in given:
        if name not in tool.arguments:
            return f"has no argument '{name}'; it takes {', '.join(tool.arguments)}"
    for name, kind in tool.arguments.items():
        if name not in given:
            return f"needs the argument '{name}'"
        right = isinstance(given[name], TYPES[kind])
        if not right or (isinstance(given[name], bool) and kind != "boolean"):
            return f"wants a {kind} as '{name}'"
    return ""


def calculator(name: str = "calculate") -> Tool:
    """Return a tool that computes an arithmetic expression."""

    def calculate(sum: str) -> str:
        value = arithmetic.value(sum)
        if value.denominator == 1:
            return str(value.numerator)
        return f"{float(value):.6g}"

    return Tool(name, "计算一个算式，如 (120-100)/100", {"sum": "string"}, calculate)


def lookup(rows: Sequence[dict[str, str]], name: str = "look_up") -> Tool:
    """Return a tool that looks a value up in a table.

    Args:
        rows: Rows {name, item, value}.
        name: Name of the tool.
    """
    table = {(row["name"], row["item"]): row["value"] for row in rows}

    def look_up(name: str, item: str) -> str:
        if (name, item) not in table:
            raise ValueError(f"nothing is known of '{item}' of '{name}'")
        return table[name, item]

    arguments = {"name": "string", "item": "string"}
    return Tool(name, "查询一家公司的一项资料", arguments, look_up)


# --- calls in texts ------------------------------------------------------------------------------
def calls_in(text: str) -> list[dict[str, Any]]:
    """Return the calls {name, arguments} of a message; other text is left out.

    At most MOST_CALLS blocks are read. A block that is not a call in JSON is left out.

    Args:
        text: The message. Only `<tool_call>` blocks after its thinking are read.
    """
    found = []
    for block in lists.TOOL_CALL.findall(reading.after_thinking(text))[:MOST_CALLS]:
        for name, arguments in lists.calls_of(reading.json_value(block)) or []:
            found.append({"name": name, "arguments": json.loads(arguments)})
    return found


@dataclass
class Conversation:
    """A question, the calls that a model made, their observations, and the answer.

    Attributes:
        messages: All messages. They end with the assistant's answer or, if there is none, with its
            last calls, which were not run.
        calls: {name, arguments} of each call.
        observations: The observation of each call, in the same order.
        answer: The last message; empty if the model was still calling tools at the end.
    """

    messages: list[dict[str, str]]
    calls: list[dict[str, Any]] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)
    answer: str = ""


def converse(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    box: Toolbox,
    budget: Budget,
    rounds: int = 3,
) -> Conversation:
    """Let a model answer with tools: run its calls, and continue with their observations.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`, with a chat template.
        messages: The dialogue so far, ending with the user.
        box: The tools.
        budget: How many tokens each message may have.
        rounds: How many messages may make calls. The message after them should answer; calls in it
            are not run, and the conversation then has no answer.
    """
    talk = Conversation(list(messages))
    opening = templates.thinking_opened(tokenizer)
    for number in range(rounds + 1):
        prompt = templates.prompt_ids(tokenizer, talk.messages)
        [[written]] = sampling.complete(model, tokenizer, [prompt], budget)
        said = (opening + written.text).strip()
        talk.messages.append({"role": "assistant", "content": said})
        calls = calls_in(said)
        if not calls:
            talk.answer = said
        if not calls or number == rounds:
            break
        given = [box.run(call) for call in calls]
        talk.calls += calls
        talk.observations += given
        blocks = [f"<tool_response>\n{each}\n</tool_response>" for each in given]
        talk.messages.append({"role": "user", "content": "\n".join(blocks)})
    return talk


# --- how well a model calls ----------------------------------------------------------------------
@dataclass(frozen=True)
class Turn:
    """A turn of the assistant in a dialogue, with or without calls of tools.

    Attributes:
        history: The messages before the turn.
        gold: The calls that the turn makes, {name, arguments}; empty where it makes none.
    """

    history: list[dict[str, str]]
    gold: list[dict[str, Any]]


def turns_of(dialogues: Sequence[list[dict[str, str]]]) -> list[Turn]:
    """Return every turn of the assistant, with the calls that it should make.

    Args:
        dialogues: Lists of messages, with calls as `<tool_call>` blocks.
    """
    found = []
    for messages in dialogues:
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                found.append(Turn(messages[:place], calls_in(message["content"])))
    return found


def score(turns: Sequence[Turn], texts: Sequence[str]) -> dict[str, float]:
    """Return precision and recall of tool names and of whole calls, and of exact turns.

    A model that calls every tool has full recall and low precision. A scorer that asks only
    whether the right tools are among the called ones does not notice this.

    Args:
        turns: From `turns_of`.
        texts: What a model wrote at each turn.

    Returns:
        {n, exact, ci_low, ci_high, name_precision, name_recall, call_precision, call_recall,
        called_needlessly}. exact is the share of turns with the same calls as the gold, which may
        be no call at all. called_needlessly is the share of turns with a call, among the turns
        whose gold has none.

    Raises:
        ValueError: `turns` is empty.
    """
    if not turns:
        raise ValueError("no turn of the assistant to score: the dialogues hold none")
    hits: Counter[str] = Counter()
    exact = needless = silent = 0
    for turn, text in zip(turns, texts, strict=True):
        made, gold = calls_in(text), turn.gold
        for what, key in (("name", _name), ("call", _whole)):
            one, other = Counter(map(key, made)), Counter(map(key, gold))
            hits[f"{what} hits"] += (one & other).total()
            hits[f"{what} made"] += one.total()
            hits[f"{what} gold"] += other.total()
        exact += Counter(map(_whole, made)) == Counter(map(_whole, gold))
        silent += not gold
        needless += bool(made) and not gold
    low, high = statistics.wilson(exact, len(turns))
    found = {"n": len(turns), "exact": exact / len(turns), "ci_low": low, "ci_high": high}
    for what in ("name", "call"):
        found[f"{what}_precision"] = hits[f"{what} hits"] / max(hits[f"{what} made"], 1)
        found[f"{what}_recall"] = hits[f"{what} hits"] / max(hits[f"{what} gold"], 1)
    return found | {"called_needlessly": needless / max(silent, 1)}


def _name(call: dict[str, Any]) -> str:
    """Return the key by which tool names are counted: the name of the called tool."""
    return call["name"]


def _whole(call: dict[str, Any]) -> str:
    """Return the key by which whole calls are counted: tool and arguments, as JSON."""
    return json.dumps(call, sort_keys=True, ensure_ascii=False)


def write_calls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    budget: Budget,
) -> list[str]:
    """Return what a model writes at each turn, after the original dialogue before the turn.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`, with a chat template.
        turns: From `turns_of`.
        budget: How many tokens a message may have.
    """
    prompts = [templates.prompt_ids(tokenizer, turn.history) for turn in turns]
    opening = templates.thinking_opened(tokenizer)
    written = sampling.complete(model, tokenizer, prompts, budget)
    return [opening + group[0].text for group in written]
