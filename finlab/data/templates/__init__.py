"""Chat templates, and labels that cover the answers only.

    tokenizer.chat_template = templates.chat_template("zhilu")
    rows = templates.encode(tokenizer, [messages])   # [{input_ids, labels}]; -100 is not learnt

A template is a Jinja file beside this one, with `{% generation %}` around what the model must
produce. The same file renders training rows and prompts, and is saved with the tokenizer. Sources
of the strings: ZhiLu's README, XuanYuan's conversation.py, YAYI's consts.py and
trainer_multi_rounds.py, Cornucopia's templates/*.json, Qwen2.5's template for tools, and the
published templates of Qwen3 and of DeepSeek-R1's distilled models for thinking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from finlab.data import control_tokens
from finlab.data.templates.rendering import Rendered, left_out, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent
IGNORE = -100  # the label that torch's cross entropy leaves out
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
BATCH = 1000  # dialogues rendered at a time
Row = dict[str, numpy.ndarray]


# --- templates -----------------------------------------------------------------------------------
def chat_template(name: str) -> str:
    """Return the Jinja text of a chat template.

    Args:
        name: A template's name, or `name:variant` where two strings are in circulation:
            `yayi:readme` ends the prompt without a newline; `xuanyuan:readme` has the system
            message of the model card (one more space) and `xuanyuan:bare` none (the 13B's);
            `zhilu:demo` joins later turns without end and begin tokens; `cornucopia:base` is its
            ori_template.

    Raises:
        ValueError: There is no such template. The error lists the known names.
    """
    stem, _, variant = name.partition(":")
    variants = {}
    for path in sorted(TEMPLATES.glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        variants[path.stem] = list(dict.fromkeys(re.findall(r"variant [!=]= '(\w+)'", text)))
    if stem not in variants or (variant and variant not in variants[stem]):
        known = list(variants)
        for each, others in variants.items():
            known += [f"{each}:{other}" for other in others]
        raise ValueError(f"there is no chat template '{name}': choose one of {', '.join(known)}")
    text = (TEMPLATES / f"{stem}.jinja").read_text(encoding="utf-8")
    return f"{{%- set variant = '{variant}' -%}}\n{text}"


def missing_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> list[str]:
    """Return the marks of a template, such as <|im_end|>, that a tokenizer spells in pieces.

    Args:
        tokenizer: With a chat template.
        template: Its Jinja text.
    """
    missing = []
    for token in dict.fromkeys(re.findall(r"<\|\w+\|>", template)):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            missing.append(token)
    return missing


def same_prompt(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a prompt in use begins as a dialogue in training does, token by token.

    Whatever differs, such as a space or a newline, the model has never seen (LLaMA-Factory #8720).
    """
    question = {"role": "user", "content": "什么是A股？"}
    # Where the prompt opens the thinking, an answer without any is another case.
    thought = "<think>先想一想。</think>" if thinking_opened(tokenizer) else ""
    answer = {"role": "assistant", "content": f"{thought}人民币普通股票。"}
    trained = _ids(tokenizer, [[question, answer]])[0]
    used = _ids(tokenizer, [[question]], add_generation_prompt=True)[0]
    return trained[: len(used)] == used


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[int]:
    """Return the token ids of a dialogue that the assistant goes on from, as in use.

    Args:
        tokenizer: With a chat template.
        messages: The dialogue.
    """
    return _ids(tokenizer, [messages], add_generation_prompt=True)[0]


def thinking_opened(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the thinking that the generation prompt opens, such as DeepSeek-R1's `<think>\\n`.

    A completion then begins inside the thinking, and whoever reads it must put this before it.

    Args:
        tokenizer: With a chat template.
    """
    prompt = render(tokenizer, [[{"role": "user", "content": "什么是A股？"}]], True)[0].text
    place = prompt.rfind("<think>")
    return prompt[place:] if place >= 0 and "</think>" not in prompt[place:] else ""


def _ids(
    tokenizer: PreTrainedTokenizerBase, dialogues: list, add_generation_prompt: bool = False
) -> list[list[int]]:
    """Return the token ids of dialogues; special tokens in their words stay text.

    Args:
        tokenizer: With a chat template.
        dialogues: Each a list of messages.
        add_generation_prompt: End as a prompt in use.
    """
    return [row.ids for row in render(tokenizer, dialogues, add_generation_prompt)]


def _reason_against(row: Rendered, messages: list[dict]) -> str:
    """Return what is wrong with a rendered dialogue; empty for nothing.

    Args:
        row: The rendered dialogue.
        messages: The dialogue.
    """
    role = left_out(row.text, messages)
    if role:
        return f"the chat template leaves out the {role} message"
    if row.joined:
        return f"the tokenizer joins the prompt and the answer in one token, {row.joined!r}"
    return ""


# --- encoding ------------------------------------------------------------------------------------
def encode(tokenizer: PreTrainedTokenizerBase, dialogues: Iterable[list[dict]]) -> list[Row]:
    """Render and tokenise dialogues, whole (see `shorten`).

    Labels are the ids where the assistant speaks, its end token included, and -100 elsewhere:

        input_ids   <s> 问题 ： 什么 ... 答案 ： 人民币 普通 股票 。 </s>
        labels     -100 -100 -100 -100 ... -100 -100 人民币 普通 股票 。 </s>

    Args:
        tokenizer: With a chat template.
        dialogues: Each a list of messages.

    Returns:
        {input_ids, labels} for each dialogue, int32 [tokens].

    Raises:
        ValueError: The template marks nothing as the assistant's, does not end its answers with
            the tokenizer's end token, or cannot hold a dialogue.
    """
    rows = []
    for number, (row, reason) in enumerate(encode_each(tokenizer, dialogues), 1):
        if row is None:
            raise ValueError(
                f"dialogue {number}: {reason}: choose another template, or set it aside"
            )
        rows.append(row)
    return rows


def encode_each(
    tokenizer: PreTrainedTokenizerBase, dialogues: Iterable[list[dict]]
) -> list[tuple[Row | None, str]]:
    """Render and tokenise dialogues as `encode` does; one that cannot be learnt has a reason.

    A template must render every word that it is given, and an answer must begin with a token of its
    own, since in use the prompt ends before it.

    Args:
        tokenizer: With a chat template.
        dialogues: Each a list of messages.

    Returns:
        (row, "") for each dialogue, or (None, why not).

    Raises:
        ValueError: The template marks nothing as the assistant's, or does not end its answers with
            the tokenizer's end token.
    """
    if not GENERATION.search(tokenizer.chat_template or ""):
        raise ValueError(
            "the chat template marks no token as the assistant's: "
            "put {% generation %} around the answer and its end"
        )
    dialogues = list(dialogues)
    rows: list[tuple[Row | None, str]] = []
    for first in range(0, len(dialogues), BATCH):
        part = dialogues[first : first + BATCH]
        for messages, rendered in zip(part, _render_each(tokenizer, part), strict=True):
            if isinstance(rendered, str):
                rows.append((None, rendered))
                continue
            reason = _reason_against(rendered, messages)
            if reason:
                rows.append((None, reason))
                continue
            row = _labelled(
                numpy.array(rendered.ids, numpy.int32), numpy.array(rendered.said, bool)
            )
            _check_row(tokenizer, row, len(rows) + 1)
            rows.append((row, ""))
    return rows


def _render_each(tokenizer: PreTrainedTokenizerBase, dialogues: list) -> list[Rendered | str]:
    """Return each dialogue rendered, or why the template refuses it.

    Args:
        tokenizer: With a chat template.
        dialogues: Each a list of messages.
    """
    try:
        return list(render(tokenizer, dialogues))
    except ValueError as error:
        if len(dialogues) == 1:
            return [str(error)]
        return [_render_each(tokenizer, [messages])[0] for messages in dialogues]


def _labelled(ids: numpy.ndarray, mask: numpy.ndarray) -> Row:
    """Return ids with labels that are set where the mask holds.

    Args:
        ids: int32 [tokens].
        mask: bool [tokens].
    """
    return {"input_ids": ids, "labels": numpy.where(mask, ids, numpy.int32(IGNORE))}


def _check_row(tokenizer: PreTrainedTokenizerBase, row: Row, number: int) -> None:
    """Refuse a dialogue whose answers the template does not mark.

    Args:
        tokenizer: The tokenizer, for the error.
        row: {input_ids, labels}.
        number: The dialogue's place.
    """
    if (row["labels"] == IGNORE).all():
        raise ValueError(
            f"the chat template marks no token of dialogue {number} as the assistant's: "
            "put {% generation %} around its answers"
        )
    if tokenizer.eos_token_id not in row["input_ids"]:
        raise ValueError(
            "the chat template does not end answers with the tokenizer's end token "
            f"{tokenizer.eos_token!r}, so a model would never stop: add its tokens in notebook 02 "
            "(special_tokens, end_token), or choose another template"
        )


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[dict]
) -> list[dict[str, list[int]]]:
    """Render and tokenise preference pairs as TRL does.

    An answer begins where the two texts part.

    Args:
        tokenizer: With a chat template.
        pairs: {prompt, chosen, rejected}, each a list of messages.

    Returns:
        {prompt_ids, chosen_ids, rejected_ids} for each pair, and as `refused` why it cannot be
        learnt, empty where it can.
    """
    rows = []
    for pair in pairs:
        row = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": [], "refused": ""}
        rows.append(row)
        row["refused"] = _pair_refusal(tokenizer, pair)
        if row["refused"]:
            continue
        prompt = _ids(tokenizer, [pair["prompt"]], True)[0]
        chosen, rejected = _ids(
            tokenizer, [pair["prompt"] + pair["chosen"], pair["prompt"] + pair["rejected"]]
        )
        shared = _common_beginning(prompt, chosen, rejected)
        row["prompt_ids"] = prompt[:shared]
        row["chosen_ids"] = chosen[shared:]
        row["rejected_ids"] = rejected[shared:]
    return rows


def _pair_refusal(tokenizer: PreTrainedTokenizerBase, pair: dict) -> str:
    """Return why a preference pair cannot be learnt; empty where it can.

    Args:
        tokenizer: With a chat template.
        pair: {prompt, chosen, rejected}.
    """
    messages = [*pair["prompt"], *pair["chosen"], *pair["rejected"]]
    if control_tokens.found_in(tokenizer, messages):
        # TRL renders pairs itself, and would read it as a token.
        return "a special token of the tokenizer stands in its words"
    for side in ("chosen", "rejected"):
        whole = [*pair["prompt"], *pair[side]]
        rendered = _render_each(tokenizer, [whole])[0]
        if isinstance(rendered, str):
            return rendered
        role = left_out(rendered.text, whole)
        if role:
            return f"the chat template leaves out the {role} message"
    return ""


def _common_beginning(*sequences: list[int]) -> int:
    """Return how many tokens all sequences begin with alike."""
    for place, tokens in enumerate(zip(*sequences)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, sequences))


def shorten(row: Row, max_length: int, end_id: int) -> Row | None:
    """Return the whole exchanges of a row that fit, up to the end token of an answer.

    Args:
        row: A row of `encode`.
        max_length: In tokens.
        end_id: The token that ends an answer.

    Returns:
        The row itself if it fits; None where not even its first exchange does.
    """
    if len(row["input_ids"]) <= max_length:
        return row
    labels = row["labels"]
    ends_here = labels[:max_length] == end_id
    question_follows = labels[1 : max_length + 1] == IGNORE
    ends = numpy.flatnonzero(ends_here & question_follows)
    if not len(ends):
        return None
    return {name: values[: ends[-1] + 1] for name, values in row.items()}


def shares(rows: Iterable[Row], end_id: int) -> dict[str, float]:
    """Return how much of rows is learnt.

    Args:
        rows: Rows with labels.
        end_id: The token that ends an answer.

    Returns:
        supervised_token_share, and eos_supervised_share: the share of answers (runs of supervised
        labels) whose end token is supervised. It must be 1.
    """
    supervised = total = answers = ended = 0
    for row in rows:
        labels = numpy.asarray(row["labels"])
        learnt = labels != IGNORE
        last = learnt & numpy.append(~learnt[1:], True)
        supervised += int(learnt.sum())
        total += len(labels)
        answers += int(last.sum())
        ended += int((labels[last] == end_id).sum())
    return {
        "supervised_token_share": supervised / max(total, 1),
        "eos_supervised_share": ended / max(answers, 1),
    }
