"""Control tokens that stand in a text, such as a literal `</s>`, stay text.

A strike-through tag `<s>` in a web page, or `<|im_end|>` in a question, must not become the token
that begins or ends a document: the model would learn to stop there, and whoever writes a question
could give it orders. Here a text is encoded with the tokenizer's special tokens spelt in pieces. In
a dialogue, only the template's own tokens count; transformers' `mark_control_tokens` tells the two
apart.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers.utils import chat_template_utils

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# transformers puts these around a control token that stands in a message.
MARKS = chat_template_utils._CONTROL_TOKEN_START, chat_template_utils._CONTROL_TOKEN_END


@contextlib.contextmanager
def as_text(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Temporarily let a tokenizer spell special tokens in pieces, as it does any text."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        yield
    finally:
        backend.encode_special_tokens = before


def names(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the special tokens of a tokenizer, such as `<s>`, `</s>` and `<|im_end|>`.

    Tokens that a tokenizer knows as a whole but does not call special, such as Qwen's
    `<tool_call>`, are the words of a dialogue and stay tokens.
    """
    added = tokenizer.added_tokens_decoder.values()
    return tuple(token.content for token in added if token.special)


def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    """Return a pattern that finds any special token of a tokenizer."""
    return chat_template_utils._get_control_token_patterns(names(tokenizer))[0]


def found_in(tokenizer: PreTrainedTokenizerBase, value: Any) -> bool:
    """Tell whether a text, or any text inside messages, holds a special token.

    Args:
        tokenizer: Knows the special tokens.
        value: A text, or messages.
    """
    return _holds(_pattern(tokenizer), value)


def _holds(pattern: re.Pattern, value: Any) -> bool:
    """Tell whether a text, or any text inside messages, holds a special token or a mark.

    Args:
        pattern: Finds the special tokens.
        value: A text, or messages.
    """
    if isinstance(value, str):
        return bool(pattern.search(value)) or any(mark in value for mark in MARKS)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds(pattern, each) for each in value)
    return False


def mark(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> list[dict]:
    """Return messages whose special tokens are marked as text.

    Args:
        tokenizer: Knows the special tokens.
        messages: {role, content}.

    Returns:
        Messages to be rendered by a chat template, and then encoded by `encode_rendered`.
    """
    return chat_template_utils.mark_control_tokens(messages, _pattern(tokenizer))


def is_marked(rendered: str) -> bool:
    """Tell whether a rendered text holds marks."""
    return any(mark in rendered for mark in MARKS)


def encode_rendered(
    tokenizer: PreTrainedTokenizerBase, rendered: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode a rendered dialogue; what is marked is spelt in pieces.

    The ids are those of transformers' `encode_marked_chat`.

    Args:
        tokenizer: The tokenizer.
        rendered: What a chat template made of messages from `mark`.

    Returns:
        The token ids, and of each its first place in `rendered` and one past its last.
    """
    backend = tokenizer.backend_tokenizer
    tokens = chat_template_utils._get_control_token_patterns(names(tokenizer))[1]
    ids: list[int] = []
    places: list[tuple[int, int]] = []
    start = 0
    for match in [*tokens.finditer(rendered), None]:
        plain = rendered[start : match.start() if match else len(rendered)]
        _add_piece(backend, plain, start, ids, places)
        if match is None:
            break
        if match[1]:
            with as_text(tokenizer):
                _add_piece(backend, match[1], match.start(1), ids, places)
        start = match.end()
    return ids, places


def _add_piece(
    backend: Any, piece: str, start: int, ids: list[int], places: list[tuple[int, int]]
) -> None:
    """Encode a piece of a text, and add its ids and their places.

    Args:
        backend: The fast tokenizer.
        piece: The text.
        start: Where it begins in the whole text.
        ids, places: What is added to.
    """
    if not piece:
        return
    # Behind a newline, SentencePiece adds no space before the piece; the newline goes again.
    lead = "\n" if ids else ""
    encoding = backend.encode(lead + piece, add_special_tokens=False)
    newline = backend.encode("\n", add_special_tokens=False).ids if lead else []
    skipped = len(newline)
    if encoding.ids[:skipped] != newline:
        encoding, skipped, lead = backend.encode(piece, add_special_tokens=False), 0, ""
    ids += encoding.ids[skipped:]
    shift = start - len(lead)
    for first, last in encoding.offsets[skipped:]:
        places.append((max(start, first + shift), max(start, last + shift)))
