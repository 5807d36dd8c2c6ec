"""Encode control tokens that occur in a text, such as a literal `</s>`, as ordinary text.

A strike-through tag `<s>` in a web page, or `<|im_end|>` in a question, must not become the token
that begins or ends a document. The model would learn to stop there, and a user could give it
orders in a question. So this module encodes special tokens in a text as ordinary text, in several
pieces. In a dialogue, only the tokens that the template writes are special tokens. The function
`mark_control_tokens` of transformers marks the other ones.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers.utils import chat_template_utils

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# transformers puts these marks around a control token that occurs in a message.
MARKS = chat_template_utils._CONTROL_TOKEN_START, chat_template_utils._CONTROL_TOKEN_END


@contextlib.contextmanager
def as_text(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Make a tokenizer encode special tokens as ordinary text, within a `with` block."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        yield
    finally:
        backend.encode_special_tokens = before


def names(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the special tokens of a tokenizer, such as `<s>`, `</s>` and `<|im_end|>`.

    Added tokens that are not marked as special, such as Qwen's `<tool_call>`, are not in the
    list. They are a part of a dialogue's text and remain single tokens.
    """
    added = tokenizer.added_tokens_decoder.values()
    return tuple(token.content for token in added if token.special)


def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    """Return a pattern that finds any special token of a tokenizer."""
    return chat_template_utils._get_control_token_patterns(names(tokenizer))[0]


def found_in(tokenizer: PreTrainedTokenizerBase, value: Any) -> bool:
    """Tell whether a text, or any text inside messages, holds a special token or a mark.

    Args:
        tokenizer: The tokenizer with the special tokens.
        value: A text, or messages.
    """
    return _holds(_pattern(tokenizer), value)


def _holds(pattern: re.Pattern, value: Any) -> bool:
    """Tell whether a text, or any text inside messages, holds a special token or a mark.

    Args:
        pattern: A pattern that finds the special tokens.
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
    """Return messages in which special tokens are marked as text.

    Args:
        tokenizer: The tokenizer with the special tokens.
        messages: The messages {role, content}.

    Returns:
        The marked messages, to be rendered by a chat template and encoded by `encode_rendered`.
    """
    return chat_template_utils.mark_control_tokens(messages, _pattern(tokenizer))


def is_marked(rendered: str) -> bool:
    """Tell whether a rendered text holds marks of special tokens, see `mark`."""
    return any(mark in rendered for mark in MARKS)


def encode_rendered(
    tokenizer: PreTrainedTokenizerBase, rendered: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode a rendered dialogue; special tokens that are marked are encoded as text.

    The ids are the same as from `encode_marked_chat` of transformers.

    Args:
        tokenizer: The tokenizer.
        rendered: Text that a chat template has rendered from the messages of `mark`.

    Returns:
        (token ids, (start, end) of each token as character indices in `rendered`).
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
    """Encode a piece of a text, and add its token ids and their positions.

    Args:
        backend: The fast tokenizer.
        piece: The piece.
        start: Index of the piece's first character in the whole text.
        ids, places: Token ids and their (start, end) so far; the new ones are added.
    """
    if not piece:
        return
    # After a newline, SentencePiece adds no space before the piece. The newline is removed again.
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
