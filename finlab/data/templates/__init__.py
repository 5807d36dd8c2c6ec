"""Chat templates, and labels that cover only the answers.

    tokenizer.chat_template = templates.chat_template("zhilu")
    rows = templates.encode(tokenizer, [messages])   # [{input_ids, labels}]; -100 is not learnt

A template is a Jinja file in this folder, with `{% generation %}` around the text that the model
must produce. The same file renders training rows and prompts, and is saved with the tokenizer. The
strings are taken from ZhiLu's README, XuanYuan's conversation.py, YAYI's consts.py and
trainer_multi_rounds.py, Cornucopia's templates/*.json, Qwen2.5's template (for tools), and the
published templates of Qwen3 and of the distilled DeepSeek-R1 models (for thinking).
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
IGNORE = -100  # the label that PyTorch's cross entropy ignores
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
BATCH = 1000  # dialogues rendered at a time
Row = dict[str, numpy.ndarray]


# --- templates -----------------------------------------------------------------------------------
def chat_template(name: str) -> str:
    """Return the Jinja text of a chat template.

    Args:
        name: Name of a template, or `name:variant` if there are several versions of it.
            `yayi:readme` ends the prompt without a newline. `xuanyuan:readme` has the system
            message of the model card (with one more space), and `xuanyuan:bare` has no system
            message (as in the 13B model). `zhilu:demo` joins later turns without end and begin
            tokens. `cornucopia:base` is the ori_template of Cornucopia.

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
    """Return the marks of a template, such as <|im_end|>, that are not single tokens.

    Args:
        tokenizer: The tokenizer that encodes the marks.
        template: Jinja text of the template.
    """
    missing = []
    for token in dict.fromkeys(re.findall(r"<\|\w+\|>", template)):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            missing.append(token)
    return missing


def same_prompt(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a prompt at inference has the same tokens as in training.

    A model has never seen a prompt with another space or newline (LLaMA-Factory #8720).

    Args:
        tokenizer: A tokenizer with a chat template.
    """
    question = {"role": "user", "content": "什么是A股？"}
    # If the prompt opens the thinking, the answer must have thinking too to be comparable.
    thought = "<think>先想一想。</think>" if thinking_opened(tokenizer) else ""
    answer = {"role": "assistant", "content": f"{thought}人民币普通股票。"}
    trained = _ids(tokenizer, [[question, answer]])[0]
    used = _ids(tokenizer, [[question]], add_generation_prompt=True)[0]
    return trained[: len(used)] == used


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[int]:
    """Return the token ids of a prompt: a dialogue up to where the assistant's answer begins.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The messages before the answer.
    """
    return _ids(tokenizer, [messages], add_generation_prompt=True)[0]


def thinking_opened(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the thinking that the generation prompt opens, such as DeepSeek-R1's `<think>\\n`.

    A completion then begins inside the thinking. To read it, put the returned text before it.

    Args:
        tokenizer: A tokenizer with a chat template.

    Returns:
        The end of the prompt from `<think>` on; empty if the prompt does not open the thinking.
    """
    prompt = render(tokenizer, [[{"role": "user", "content": "什么是A股？"}]], True)[0].text
    place = prompt.rfind("<think>")
    return prompt[place:] if place >= 0 and "</think>" not in prompt[place:] else ""


def _ids(
    tokenizer: PreTrainedTokenizerBase, dialogues: list, add_generation_prompt: bool = False
) -> list[list[int]]:
    """Return the token ids of dialogues; special tokens in messages are encoded as text.

    Args:
        tokenizer: A tokenizer with a chat template.
        dialogues: The dialogues, each a list of messages.
        add_generation_prompt: Whether to end with the text that comes before an answer.
    """
    return [row.ids for row in render(tokenizer, dialogues, add_generation_prompt)]


def _reason_against(row: Rendered, messages: list[dict]) -> str:
    """Return why a rendered dialogue cannot be learnt; empty if it can.

    Args:
        row: The rendered dialogue.
        messages: The messages of the dialogue.
    """
    role = left_out(row.text, messages)
    if role:
        return f"the chat template leaves out the {role} message"
    if row.joined:
        return f"the tokenizer joins the prompt and the answer in one token, {row.joined!r}"
    return ""


# --- encoding ------------------------------------------------------------------------------------
def encode(tokenizer: PreTrainedTokenizerBase, dialogues: Iterable[list[dict]]) -> list[Row]:
    """Render and tokenise dialogues without cutting them (`shorten` cuts them).

    A label is the token id where the assistant speaks, including its end token, and -100 elsewhere:

        input_ids   <s> 问题 ： 什么 ... 答案 ： 人民币 普通 股票 。 </s>
        labels     -100 -100 -100 -100 ... -100 -100 人民币 普通 股票 。 </s>

    Args:
        tokenizer: A tokenizer with a chat template.
        dialogues: The dialogues, each a list of messages.

    Returns:
        {input_ids, labels} for each dialogue, int32 [tokens].

    Raises:
        ValueError: The template marks no token as the assistant's, does not end answers with the
            tokenizer's end token, or cannot render a dialogue completely.
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
    """Render and tokenise dialogues as `encode` does, with a reason for each refused dialogue.

    A dialogue is refused if the template leaves out a part of it. It is also refused if an answer
    does not begin with a new token, because at inference the prompt ends before the answer.

    Args:
        tokenizer: A tokenizer with a chat template.
        dialogues: The dialogues, each a list of messages.

    Returns:
        For each dialogue (row, ""), or (None, reason) if it cannot be learnt.

    Raises:
        ValueError: The template marks no token as the assistant's, or does not end answers with
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
    """Return each dialogue rendered, or as text the reason why the template refuses it.

    Args:
        tokenizer: A tokenizer with a chat template.
        dialogues: The dialogues, each a list of messages.
    """
    try:
        return list(render(tokenizer, dialogues))
    except ValueError as error:
        if len(dialogues) == 1:
            return [str(error)]
        return [_render_each(tokenizer, [messages])[0] for messages in dialogues]


def _labelled(ids: numpy.ndarray, mask: numpy.ndarray) -> Row:
    """Return {input_ids, labels}; a label is the token id where the mask is True, else -100.

    Args:
        ids: Token ids, int32 [tokens].
        mask: Whether each token is learnt, bool [tokens].
    """
    return {"input_ids": ids, "labels": numpy.where(mask, ids, numpy.int32(IGNORE))}


def _check_row(tokenizer: PreTrainedTokenizerBase, row: Row, number: int) -> None:
    """Raise ValueError if the template marks no answer, or does not end it with the end token.

    Args:
        tokenizer: The tokenizer, which has the end token.
        row: The dialogue as {input_ids, labels}.
        number: Number of the dialogue, from 1, for the error.
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

    The prompt is the common beginning of the prompt's tokens and the tokens of both dialogues.

    Args:
        tokenizer: A tokenizer with a chat template.
        pairs: The pairs {prompt, chosen, rejected}, each value a list of messages.

    Returns:
        {prompt_ids, chosen_ids, rejected_ids, refused} for each pair. `refused` says why the pair
        cannot be learnt; it is empty if the pair can be learnt.
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
    """Return why a preference pair cannot be learnt; empty if it can.

    Args:
        tokenizer: A tokenizer with a chat template.
        pair: The pair {prompt, chosen, rejected}, each value a list of messages.
    """
    messages = [*pair["prompt"], *pair["chosen"], *pair["rejected"]]
    if control_tokens.found_in(tokenizer, messages):
        # TRL renders pairs itself, and would encode these words as a special token.
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
    """Return the number of tokens at the beginning that all sequences share."""
    for place, tokens in enumerate(zip(*sequences)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, sequences))


def shorten(row: Row, max_length: int, end_id: int) -> Row | None:
    """Return the first whole exchanges of a row that fit, up to the end token of an answer.

    Args:
        row: A row {input_ids, labels} from `encode`.
        max_length: How many tokens the row may have.
        end_id: Id of the token that ends an answer.

    Returns:
        The shortened row; the row itself if it fits; None if its first exchange does not fit.
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
    """Return the share of tokens that are learnt, and of answers whose end token is learnt.

    Args:
        rows: Rows with labels.
        end_id: Id of the token that ends an answer.

    Returns:
        {supervised_token_share, eos_supervised_share}. The second is the share of answers (runs of
        supervised labels) whose end token is supervised; it must be 1.
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
