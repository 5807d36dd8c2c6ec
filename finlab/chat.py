"""Dialogues: every format in and out, chat templates, and labels that cover the answers only.

    talk = chat.dialogue({"instruction": "什么是A股？", "input": "", "output": "人民币普通股票。"})   # {messages, format, unanswered}
    words.chat_template = chat.template("zhilu")
    rows = chat.encode(words, [talk["messages"]])       # [{input_ids, labels}], -100 wherever the user or the system speaks

Whatever the format, a dialogue becomes messages {role, content} with the roles system, user and assistant in turn. Templates are the Jinja files
in `finlab/templates/`, with `{% generation %}` around what the model must produce; the same file renders training rows and prompts, and
is saved with the tokenizer. Sources of the strings: ZhiLu's README, XuanYuan's conversation.py, YAYI's consts.py and trainer_multi_rounds.py,
Cornucopia's templates/*.json, Qwen2.5's template for tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy

TEMPLATES = Path(__file__).parent / "templates"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "yayi": "assistant", "assistant": "assistant", "system": "system",
         "function_call": "call", "observation": "tool", "tool": "tool"}
IGNORE = -100  # the label torch's cross entropy leaves out

# name: (fields a row must have, who may speak); a row is of the first format that fits
FORMATS = {
    "openai": ({"messages"}, {"system", "user", "assistant", "tool"}),
    "sharegpt": ({"conversations"}, {"system", "human", "gpt"}),
    "yayi_multi": ({"conversations"}, {"system", "human", "yayi"}),
    "toolcall": ({"conversations"}, {"system", "human", "gpt", "function_call", "observation"}),
    "disc": ({"instruction", "output", "history"}, set()),
    "yayi": ({"system", "instruction", "output"}, set()),
    "alpaca": ({"instruction", "output"}, set()),
    "cornucopia": ({"instruction", "input", "output"}, set()),  # the same fields as Alpaca, so it is only ever named by a card
}

# the text of Qwen2.5's template, so that a base that knows tools meets what it knows
TOOLS = ("# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> "
         "XML tags:\n<tools>\n{tools}\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
         "<tool_call></tool_call> XML tags:\n<tool_call>\n{{\"name\": <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>")
PASSAGES = ("作为一名金融领域专家，请回答下面的问题。下面的材料仅供参考。\n（注意：1、材料可能与问题无关，请忽略无关材料，并基于已有知识回答问题。 "
            "2、尽量不要直接复制材料内容作为答案，而应该将材料内容作为事件的补充与潜在分析，启发思考）。3、请直接给出分析和答案，无需给出具体参考了哪篇文档）；\n")
PASSAGE = re.compile(r"参考材料 ?(\d+)[:：]\n")
CANNOT = r"can(?:no|')t"
REFUSAL = re.compile(r"(?:抱歉|对不起|很遗憾)[^。！!\n]{0,40}(?:不能|无法|不可以|不会|不便)|"
                     r"(?:我|本助手)(?:不能|无法|不会|不可以)(?:为您|为你|帮您|帮你|提供|编造|协助|参与|回答|透露)|"
                     rf"(?:[Ss]orry|apologi[sz]e)[^.!\n]{{0,60}}(?:{CANNOT}|not able|unable|won't)|"
                     rf"I (?:{CANNOT}|won't|am (?:not able|unable) to) (?:help|assist|provide|share|answer)")


# --- formats in -----------------------------------------------------------------------------------------------------
def _speakers(row: dict) -> set:
    turns = row.get("messages", row.get("conversations")) or []
    return {turn.get("from", turn.get("role")) for turn in turns if isinstance(turn, dict)}


def detect(row: dict) -> str:
    """Return the name of the first of FORMATS that a row fits; raise ValueError with its fields or with who speaks."""
    speaking = _speakers(row)
    for name, (fields, speakers) in FORMATS.items():
        if fields <= set(row) and speaking <= speakers:
            return name
    if unknown := speaking - set(ROLES):
        raise ValueError(f"unknown role {min(map(repr, unknown))}; known are {', '.join(ROLES)}")
    raise ValueError(f"no dialogue format has the fields {', '.join(map(str, row))}" + (f" with {', '.join(sorted(speaking))}" if speaking else ""))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is empty" if value in (None, "") or isinstance(value, str) else f"{what} is not text")
    return value


def _call(call: object) -> str:
    """Return a function call, OpenAI's or bare, as the text that the assistant writes."""
    call = json.loads(call) if isinstance(call, str) else call
    call = call.get("function", call)
    arguments = call["arguments"]
    call = {"name": call["name"], "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _turns(turns: list[dict]) -> list[dict]:
    """Return turns of any format as messages; function calls and what the tools returned become text between tags, as in Qwen2.5."""
    result: list[dict] = []
    for number, turn in enumerate(turns, 1):
        speaker, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if speaker not in ROLES:
            raise ValueError(f"turn {number}: unknown role {speaker!r}; known are {', '.join(ROLES)}")
        role, called = ROLES[speaker], turn.get("tool_calls") or []
        if role == "call":
            role, called, text = "assistant", [text], ""
        try:
            parts = [text] if text or not called else []
            text = "\n".join([*parts, *map(_call, called)])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"turn {number} ({speaker}) is no function call: a name and arguments in JSON are needed") from None
        text = _text(text, f"turn {number} ({speaker})")
        if role == "tool":
            role, text = "user", f"<tool_response>\n{text}\n</tool_response>"
            if result and result[-1]["content"].startswith("<tool_response>"):  # several answers to several calls
                result[-1]["content"] += "\n" + text
                continue
            if not result or not result[-1]["content"].rstrip().endswith("</tool_call>"):
                raise ValueError(f"turn {number} ({speaker}) answers no function call")
        result.append({"role": role, "content": text})
    return result


def _check_order(turns: list[dict], last: str) -> list[dict]:
    talk = [turn["role"] for turn in turns]
    talk = talk[1:] if talk[:1] == ["system"] else talk
    if last == "assistant" and "assistant" not in talk:
        raise ValueError("the dialogue has no answer")
    if talk != [("user", "assistant")[number % 2] for number in range(len(talk))] or talk[-1:] != [last]:
        raise ValueError(f"user and assistant must take turns after at most one system message, and the {last} be last; found {' '.join(talk)}")
    return turns


def with_tools(messages: list[dict], tools: str | list[dict] | None) -> list[dict]:
    """Return messages whose system message offers tools, JSON schemas or JSON text of them; without tools they stay as they are."""
    tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools or []
    if not tools:
        return messages
    lines = "\n".join(json.dumps(tool if "function" in tool else {"type": "function", "function": tool}, ensure_ascii=False) for tool in tools)
    system, rest = (messages[0]["content"] + "\n\n", messages[1:]) if messages[:1] and messages[0]["role"] == "system" else ("", messages)
    return [{"role": "system", "content": system + TOOLS.format(tools=lines)}, *rest]


def with_passages(question: str, passages: Sequence[str]) -> str:
    """Return a question with reference passages before it, in DISC-FinLLM's words."""
    return PASSAGES + "".join(f"参考材料 {number}:\n{text}\n\n" for number, text in enumerate(passages, 1)) + f"问题： {question}"


def passages(text: str) -> tuple[str, list[str]]:
    """Return (question, reference passages) of an instruction in DISC-FinLLM's words; without passages (the text, [])."""
    head, mark, question = text.rpartition("问题：")
    parts = PASSAGE.split(head)
    return (question.strip(), [part.strip() for part in parts[2::2]]) if mark and len(parts) > 2 else (text, [])


def dialogue(row: dict, form: str = "") -> dict:
    """Turn one row of any of FORMATS into {messages, format, unanswered}; messages are [{role, content}, ...], ending with an answer.

    `form` names the format (a data card's `dialogue:`), else it is detected. `history` (DISC: pairs of question and answer) stands before the
    instruction, `reference` (a list of passages) goes into it, `tools` into the system message. Turns after the last answer are left out and
    counted as `unanswered`. Raises ValueError for another format, empty turns, unknown roles, roles out of order and a row without an answer.
    """
    row = row | {"output": row["response"]} if "response" in row and "output" not in row else row
    found = detect(row)
    if form and (form not in FORMATS or not FORMATS[form][0] <= set(row) or not _speakers(row) <= FORMATS[form][1]):
        raise ValueError(f"the card says {form}, but the row looks like {found}" if form in FORMATS else
                         f"there is no dialogue format '{form}': choose one of {', '.join(FORMATS)}")
    if "instruction" in row:
        if not (row["output"] or "").strip():
            raise ValueError("the row has no answer")
        question = "\n".join(part for part in (row["instruction"], row.get("input") or "") if part)
        question = with_passages(question, row["reference"]) if row.get("reference") else question
        pairs = [*(row.get("history") or []), (question, row["output"])]
        turns = [{"from": who, "value": text} for pair in pairs for who, text in zip(("human", "gpt"), pair, strict=True)]
    else:
        turns = row.get("messages", row.get("conversations"))
    turns = _turns(turns)
    if row.get("system"):
        turns = [{"role": "system", "content": _text(row["system"], "the system message")}, *turns]
    turns, total = with_tools(turns, row.get("tools")), len(turns)
    while turns and turns[-1]["role"] == "user":
        turns = turns[:-1]
    return {"messages": _check_order(turns, "assistant"), "format": form or found, "unanswered": max(0, total - len(turns))}


def preference(row: dict) -> dict:
    """Turn one preference row into {prompt, chosen, rejected}, each a list of messages (TRL's conversational form).

    Reads both shapes in circulation, chosen and rejected as objects or as strings, after `conversations` (or TRL's `prompt`) of one turn or
    several. Raises ValueError for roles out of order, empty answers and answers that are equal.
    """
    def answer(value: object) -> str:
        value = value[-1] if isinstance(value, list) and value else value
        return _text(value if isinstance(value, str) else value.get("value", value.get("content")), "an answer")

    turns = row.get("conversations", row.get("prompt"))
    prompt = _check_order(_turns([{"from": "human", "value": turns}] if isinstance(turns, str) else turns), "user")
    chosen, rejected = answer(row["chosen"]), answer(row["rejected"])
    if chosen.strip() == rejected.strip():
        raise ValueError("chosen and rejected must be two different answers")
    if row.get("system"):
        prompt = [{"role": "system", "content": row["system"]}, *prompt]
    return {"prompt": prompt, "chosen": [{"role": "assistant", "content": chosen}], "rejected": [{"role": "assistant", "content": rejected}]}


# --- formats out, and what is done to dialogues ---------------------------------------------------------------------
def exchanges(messages: list[dict]) -> list[list[dict]]:
    """Return each exchange of a dialogue as a dialogue of its own, the system message with each: several turns to single ones."""
    system, talk = (messages[:1], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
    return [[*system, *talk[first:first + 2]] for first in range(0, len(talk), 2)]


def joined(dialogues: Sequence[list[dict]]) -> list[dict]:
    """Return dialogues as one, in their order: single turns to several. Raises ValueError when their system messages differ."""
    systems = {tuple(turn["content"] for turn in messages if turn["role"] == "system") for messages in dialogues}
    if len(systems) > 1:
        raise ValueError("dialogues with different system messages cannot be one dialogue")
    talk = [turn for messages in dialogues for turn in messages if turn["role"] != "system"]
    return [*({"role": "system", "content": text} for text in systems.pop()), *talk]


def row(messages: list[dict], form: str) -> dict:
    """Write messages as a row of one of FORMATS, which `dialogue` reads back as they were.

    Raises ValueError where the format cannot hold them: several exchanges (see `exchanges`) or a system message.
    """
    system, talk = (messages[0]["content"], messages[1:]) if messages[0]["role"] == "system" else ("", messages)
    fields, speakers = FORMATS[form]
    if form == "openai":
        return {"messages": messages}
    if "conversations" in fields:
        names = {"user": "human", "assistant": "yayi" if "yayi" in speakers else "gpt"}
        turns = [{"from": names[turn["role"]], "value": turn["content"]} for turn in talk]
        return {"conversations": turns} | ({"system": system} if system or form == "yayi_multi" else {})
    if len(talk) > 2 and form != "disc":
        raise ValueError(f"{form} holds one exchange and the dialogue has {len(talk) // 2}: split it with chat.exchanges")
    if system and form != "yayi":
        raise ValueError(f"{form} has no place for a system message: take it out, or write yayi, sharegpt or openai")
    made = {"instruction": talk[-2]["content"], "input": "", "output": talk[-1]["content"]}
    history = {"history": [[talk[at]["content"], talk[at + 1]["content"]] for at in range(0, len(talk) - 2, 2)]} if form == "disc" else {}
    return made | history | ({"system": system} if form == "yayi" else {})


def with_prefix(messages: list[dict], prefix: str) -> list[dict]:
    """Return a dialogue whose first question begins with a task prefix (YaYi's 【金融领域任务】), once."""
    first = next(place for place, turn in enumerate(messages) if turn["role"] == "user")
    if not prefix or messages[first]["content"].startswith(prefix):
        return messages
    return [turn | ({"content": prefix + turn["content"]} if place == first else {}) for place, turn in enumerate(messages)]


def refuses(messages: list[dict]) -> bool:
    """Tell whether an answer of a dialogue refuses, by the words that refusals use in Chinese and English; an estimate."""
    return any(turn["role"] == "assistant" and REFUSAL.search(turn["content"][:120]) for turn in messages)


# --- templates and labels -------------------------------------------------------------------------------------------
def template(name: str) -> str:
    """Return the Jinja text of a chat template, `name` or `name:variant`, where an original has two strings in circulation.

    Variants: `yayi:readme` ends the prompt without a newline; `xuanyuan:readme` has the system message of the model card (one more space),
    `xuanyuan:bare` none (the 13B's); `zhilu:demo` joins later turns without end and begin tokens; `cornucopia:base` is its ori_template.
    Raises ValueError with the known names.
    """
    stem, _, variant = name.partition(":")
    known = {path.stem: re.findall(r"variant [!=]= '(\w+)'", path.read_text(encoding="utf-8")) for path in sorted(TEMPLATES.glob("*.jinja"))}
    if stem not in known or (variant and variant not in known[stem]):
        names = [f"{each}:{other}" for each, others in known.items() for other in dict.fromkeys(others)]
        raise ValueError(f"there is no chat template '{name}': choose one of {', '.join([*known, *names])}")
    return f"{{%- set variant = '{variant}' -%}}\n" + (TEMPLATES / f"{stem}.jinja").read_text(encoding="utf-8")


def missing_tokens(tokenizer: object, chat_template: str) -> list[str]:
    """Return the special tokens that a template writes and a tokenizer would spell in pieces, such as <|im_end|>."""
    return [token for token in dict.fromkeys(re.findall(r"<\|\w+\|>", chat_template)) if len(tokenizer.encode(token, add_special_tokens=False)) != 1]


def encode(tokenizer: object, dialogues: Iterable[list[dict]], batch: int = 1000) -> list[dict]:
    """Render and tokenise dialogues; labels are the ids where the assistant speaks (its end token included), else -100.

    Returns {input_ids, labels}, int32 NumPy arrays, for each, whole: see `shorten`. Raises ValueError when the template marks nothing as the assistant's.
    """
    if not re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.chat_template or ""):
        raise ValueError("the chat template marks no token as the assistant's: put {% generation %} around the answer and its end")
    dialogues, rows = list(dialogues), []
    for first in range(0, len(dialogues), batch):
        made = tokenizer.apply_chat_template(dialogues[first:first + batch], tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        for number, (ids, mask) in enumerate(zip(made["input_ids"], made["assistant_masks"], strict=True), first):
            ids, mask = numpy.array(ids, numpy.int32), numpy.array(mask, bool)
            if not mask.any():
                raise ValueError(f"the chat template marks no token of dialogue {number + 1} as the assistant's: put {{% generation %}} around its answers")
            if tokenizer.eos_token_id not in ids:
                raise ValueError(f"the chat template does not end answers with the tokenizer's end token {tokenizer.eos_token!r}, so a model would never stop: "
                                 "add its tokens in notebook 02 (special_tokens, end_token), or choose another template")
            rows.append({"input_ids": ids, "labels": numpy.where(mask, ids, numpy.int32(IGNORE))})
    return rows


def encode_pairs(tokenizer: object, pairs: Sequence[dict], batch: int = 1000) -> list[dict]:
    """Render and tokenise preference pairs as TRL does: {prompt_ids, chosen_ids, rejected_ids}, an answer beginning where the two texts part."""
    rows = []
    for first in range(0, len(pairs), batch):
        part = pairs[first:first + batch]
        asked = tokenizer.apply_chat_template([pair["prompt"] for pair in part], add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        whole = {side: tokenizer.apply_chat_template([pair["prompt"] + pair[side] for pair in part], tokenize=True, return_dict=True)["input_ids"]
                 for side in ("chosen", "rejected")}
        for prompt, chosen, rejected in zip(asked, whole["chosen"], whole["rejected"], strict=True):
            same = next((place for place, three in enumerate(zip(prompt, chosen, rejected)) if len(set(three)) > 1), min(map(len, (prompt, chosen, rejected))))
            rows.append({"prompt_ids": prompt[:same], "chosen_ids": chosen[same:], "rejected_ids": rejected[same:]})
    return rows


def shorten(row: dict, max_length: int, end_id: int) -> dict | None:
    """Return a row of `encode` if it fits, else the exchanges that do, up to the end token of an answer; None if not even the first fits."""
    if len(row["input_ids"]) <= max_length:
        return row
    labels = row["labels"]
    ends = numpy.flatnonzero((labels[:max_length] == end_id) & (labels[1:max_length + 1] == IGNORE))
    return {name: values[:ends[-1] + 1] for name, values in row.items()} if len(ends) else None


def shares(rows: list[dict], end_id: int) -> dict[str, float]:
    """Return the share of supervised tokens, and the share of answers whose end token is supervised (must be 1).

    An answer is a run of supervised labels; `end_id` is the token that ends a turn.
    """
    supervised = total = answers = ended = 0
    for row in rows:
        labels = numpy.asarray(row["labels"])
        learnt = labels != IGNORE
        last = learnt & numpy.append(~learnt[1:], True)
        supervised, total = supervised + int(learnt.sum()), total + len(labels)
        answers, ended = answers + int(last.sum()), ended + int((labels[last] == end_id).sum())
    return {"supervised_token_share": supervised / max(total, 1), "eos_supervised_share": ended / max(answers, 1)}


def same_prompt(tokenizer: object) -> bool:
    """Tell whether a prompt as it is given in use begins a dialogue as it is trained, token by token.

    Whatever stands between them (a space, a newline, a special token) the model has never seen (LLaMA-Factory #8720).
    """
    question = [{"role": "user", "content": "什么是A股？"}]
    trained = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "人民币普通股票。"}], tokenize=True, return_dict=True)["input_ids"]
    used = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    return trained[:len(used)] == used


def generation(tokenizer: object, settings: dict) -> object:
    """Return a GenerationConfig of a recipe's values and a tokenizer's begin, end and pad tokens, to be saved with the model.

    `do_sample` is on where a temperature, top_p or top_k is given. Raises ValueError for a name that GenerationConfig does not know.
    """
    from transformers import GenerationConfig

    if unknown := set(settings) - set(vars(GenerationConfig())):
        raise ValueError(f"generation: '{min(unknown)}' is no setting of transformers' GenerationConfig")
    whole = {name: int(value) if name.endswith(("_k", "_tokens", "_beams", "_token_id")) else value for name, value in settings.items()}
    sampled = bool({"temperature", "top_p", "top_k"} & set(settings))
    return GenerationConfig(**{"do_sample": sampled, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
                               "bos_token_id": tokenizer.bos_token_id} | whole)


def answer(model: object, tokenizer: object, turns: list[dict], **generation: object) -> tuple[str, bool]:
    """Let a chat model answer; return the text and whether it ended by itself (with its end token).

    `generation` goes to `model.generate` (a GenerationConfig, max_new_tokens, ...).
    """
    import torch

    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"].to(model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **generation)[0, ids.shape[1]:]
    ended = bool(len(out)) and out[-1].item() == tokenizer.eos_token_id
    return tokenizer.decode(out, skip_special_tokens=True).strip(), ended
