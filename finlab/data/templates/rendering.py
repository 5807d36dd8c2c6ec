"""Render dialogues as text and tokens, and mark the tokens that the assistant says.

rendered = render(tokenizer, [messages])[0]
rendered.text     # <s>问题：什么是A股？\n答案：人民币普通股票。</s>
rendered.ids      # [1, 8, 15, ...]
rendered.said     # [False, False, ..., True, True]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jinja2
from transformers.utils import chat_template_utils

from finlab.data import control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict]
THINKING_ENDS = "</think>"


@dataclass
class Rendered:
    """A dialogue as a chat template writes it.

    Attributes:
        text: The rendered text. Special tokens that occur in the messages are marked in it.
        ids: Token ids of the text.
        said: For each token, whether the assistant says it; empty for a generation prompt.
        joined: Text of a token that lies across the beginning of an answer, such as two newlines;
            empty if every answer begins with a new token. At inference the prompt ends before the
            answer, so there the model would get other tokens than in training.
    """

    text: str
    ids: list[int]
    said: list[bool] = field(default_factory=list)
    joined: str = ""


def render(
    tokenizer: PreTrainedTokenizerBase,
    dialogues: list[Messages],
    add_generation_prompt: bool = False,
) -> list[Rendered]:
    """Render and tokenise dialogues with the tokenizer's chat template.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        dialogues: The dialogues, each a list of messages {role, content}.
        add_generation_prompt: Whether to end with the text that comes before an answer, as at
            inference.

    Raises:
        ValueError: The template refuses a dialogue, for example because of an unknown role.
    """
    marked = []
    for messages in dialogues:
        holds = control_tokens.found_in(tokenizer, messages)
        marked.append(control_tokens.mark(tokenizer, messages) if holds else messages)
    try:
        texts, spans = chat_template_utils.render_jinja_template(
            conversations=marked,
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=not add_generation_prompt,
            add_generation_prompt=add_generation_prompt,
            **tokenizer.special_tokens_map,
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses a dialogue: {error}") from None
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    # An earlier call with split_special_tokens, as in exams that are answered by letters, leaves
    # this setting on. Then the template's own <s> would be split into pieces.
    backend.encode_special_tokens = False
    rendered = []
    for number, encoding in enumerate(backend.encode_batch(texts, add_special_tokens=False)):
        text, ids, places = texts[number], encoding.ids, encoding.offsets
        if control_tokens.is_marked(text):
            ids, places = control_tokens.encode_rendered(tokenizer, text)
        row = Rendered(text, ids)
        if not add_generation_prompt:
            _mark_answers(row, places, spans[number])
        rendered.append(row)
    return rendered


def _mark_answers(
    row: Rendered, places: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> None:
    """Mark the tokens that the assistant says.

    Args:
        row: The rendered dialogue; its `said` and `joined` are set.
        places: (start, end) of each token in the text, as character indices.
        spans: (start, end) of each answer in the text, from the template's `{% generation %}`.
    """
    row.said = [False] * len(row.ids)
    token = 0
    for start, end in spans:
        while token < len(places) and places[token][0] < start:
            if places[token][1] > start:
                row.joined = row.text[slice(*places[token])]
            token += 1
        while token < len(places) and places[token][0] < end:
            row.said[token] = True
            token += 1


def left_out(text: str, messages: Messages) -> str:
    """Return the role of the first message whose content is missing from a rendered text.

    Thinking is searched only in the last answer, without the line breaks around it. Templates
    drop the thinking of earlier turns, and use their own line breaks.

    Args:
        text: The rendered text, from `Rendered.text`.
        messages: The messages that were rendered.

    Returns:
        The role; an empty string if all content is in the text.
    """
    place = 0
    for mark in control_tokens.MARKS:
        text = text.replace(mark, "")
    for number, message in enumerate(messages):
        last = number == len(messages) - 1
        for words in _words_of(message, last):
            found = text.find(words, place if message["role"] != "system" else 0)
            if found < 0:
                return message["role"]
            if message["role"] != "system":
                place = found + len(words)
    return ""


def _words_of(message: dict, last: bool) -> list[str]:
    """Return the parts of a message that its rendered text must contain.

    Args:
        message: The message {role, content}.
        last: Whether it is the last message of the dialogue.
    """
    content = (message.get("content") or "").strip()
    thought, end, said = content.rpartition(THINKING_ENDS)
    if message["role"] != "assistant" or not end:
        return [content]
    thought = thought.replace("<think>", "").strip()
    return [thought, said.strip()] if last else [said.strip()]
