"""Tools that a model calls, from a table of functions, and how well it calls them.

    box = Toolbox([calculator(), lookup(rows)])
    box.run({"name": "calculate", "arguments": {"sum": "19+43"}})     # "62"
    box.run({"name": "delete_all", "arguments": {}})                  # an error, as an observation
    converse(model, tokenizer, messages, box)                         # calls, observations, answer

What a model writes is read as JSON and looked up in the table. Nothing of it is evaluated, imported
or handed to a shell, and a call with other arguments than the tool declares is refused.
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
MOST_CALLS = 8  # of one message
TYPES = {"string": str, "number": (int, float), "integer": int, "boolean": bool}


# --- the table -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: What it is called by.
        description: What it does, for the prompt.
        arguments: {name: JSON type}: string, number, integer or boolean; all are needed.
        function: Returns an observation; a ValueError or ArithmeticError becomes one too.
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
    """The tools that a model may call, and nothing else.

    Args:
        tools: The tools.
    """

    def __init__(self, tools: Sequence[Tool]):
        self.tools = {tool.name: tool for tool in tools}

    def schemas(self) -> list[dict[str, Any]]:
        """Return all tools as JSON schemas, for a chat template."""
        return [tool.schema() for tool in self.tools.values()]

    def run(self, call: dict[str, Any]) -> str:
        """Return what a call gives: an observation, or why there is none.

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
    """Return what is wrong with the arguments of a call; empty for nothing."""
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
    """Return a tool that computes a sum of numbers."""

    def calculate(sum: str) -> str:
        value = arithmetic.value(sum)
        if value.denominator == 1:
            return str(value.numerator)
        return f"{float(value):.6g}"

    return Tool(name, "计算一个算式，如 (120-100)/100", {"sum": "string"}, calculate)


def lookup(rows: Sequence[dict[str, str]], name: str = "look_up") -> Tool:
    """Return a tool that looks a value up in a table.

    Args:
        rows: {name, item, value}.
        name: Of the tool.
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
    """Return the calls of a message, {name, arguments}; what is no call in JSON is left out.

    Args:
        text: With `<tool_call>` blocks, behind its thinking if it has any.
    """
    found = []
    for block in lists.TOOL_CALL.findall(reading.after_thinking(text))[:MOST_CALLS]:
        for name, arguments in lists.calls_of(reading.json_value(block)) or []:
            found.append({"name": name, "arguments": json.loads(arguments)})
    return found


@dataclass
class Conversation:
    """A question, the calls that a model made, what they gave, and its answer.

    Attributes:
        messages: All of it, ending with the assistant.
        calls: {name, arguments} of each call.
        observations: What each gave.
        answer: The last message; empty where the model was still calling at the end.
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
    """Let a model answer with tools: its calls are run, and it goes on with what they gave.

    Args:
        model: The model.
        tokenizer: With a chat template.
        messages: The dialogue so far, ending with the user.
        box: The tools.
        budget: Of tokens, for each message.
        rounds: Messages with calls at most.
    """
    talk = Conversation(list(messages))
    opening = templates.thinking_opened(tokenizer)
    for _ in range(rounds + 1):
        prompt = templates.prompt_ids(tokenizer, talk.messages)
        [[written]] = sampling.complete(model, tokenizer, [prompt], budget)
        said = (opening + written.text).strip()
        talk.messages.append({"role": "assistant", "content": said})
        calls = calls_in(said)
        if not calls:
            talk.answer = said
            return talk
        given = [box.run(call) for call in calls]
        talk.calls += calls
        talk.observations += given
        blocks = [f"<tool_response>\n{each}\n</tool_response>" for each in given]
        talk.messages.append({"role": "user", "content": "\n".join(blocks)})
    return talk


# --- how well a model calls ----------------------------------------------------------------------
@dataclass(frozen=True)
class Turn:
    """A place in a dialogue where the assistant calls tools, or need not.

    Attributes:
        history: The messages before.
        gold: The calls that stand there, {name, arguments}; empty where it only speaks.
    """

    history: list[dict[str, str]]
    gold: list[dict[str, Any]]


def turns_of(dialogues: Sequence[list[dict[str, str]]]) -> list[Turn]:
    """Return every turn of the assistant, with the calls that it should make.

    Args:
        dialogues: Messages, with calls as `<tool_call>` blocks.
    """
    found = []
    for messages in dialogues:
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                found.append(Turn(messages[:place], calls_in(message["content"])))
    return found


def score(turns: Sequence[Turn], texts: Sequence[str]) -> dict[str, float]:
    """Return how well calls are made: names and whole calls, with precision and recall.

    A model that calls every tool has full recall and little precision; a scorer that asks only
    whether the right tools are among those called does not see it.

    Args:
        turns: From `turns_of`.
        texts: What a model wrote at each.

    Returns:
        {n, exact, ci_low, ci_high, name_precision, name_recall, call_precision, call_recall,
        called_needlessly}: exact is the share of turns with the same calls as the gold, none
        included, and called_needlessly the share of the turns without a call where one was made.

    Raises:
        ValueError: There is no turn.
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
    """Return what a call is counted by: its tool."""
    return call["name"]


def _whole(call: dict[str, Any]) -> str:
    """Return what a call is counted by: its tool and its arguments."""
    return json.dumps(call, sort_keys=True, ensure_ascii=False)


def write_calls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    budget: Budget,
) -> list[str]:
    """Return what a model writes at each turn, the dialogue before it being as it was.

    Args:
        model: The model.
        tokenizer: With a chat template.
        turns: From `turns_of`.
        budget: Of tokens.
    """
    prompts = [templates.prompt_ids(tokenizer, turn.history) for turn in turns]
    opening = templates.thinking_opened(tokenizer)
    written = sampling.complete(model, tokenizer, prompts, budget)
    return [opening + group[0].text for group in written]
