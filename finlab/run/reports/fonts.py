"""Embed a font into a page that has only the Chinese characters of this page.

A page must look the same on a machine without Chinese fonts, and must not load other files. The
license of Noto Sans CJK, the SIL Open Font License, allows embedding.
"""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

FIRST_CHINESE = 0x2E80  # characters below this are assumed to be in every font


def chinese_font_file() -> Path:
    """Return the font file with Chinese glyphs that comes with the `mplfonts` package."""
    import mplfonts

    return Path(mplfonts.__file__).parent / "fonts" / "NotoSansCJKsc-Regular.otf"


def chinese_of(text: str) -> str:
    """Return the characters of a text that need a Chinese font, sorted and each once."""
    return "".join(sorted({letter for letter in text if ord(letter) >= FIRST_CHINESE}))


def embedded(text: str) -> str:
    """Return a CSS rule with a font for the Chinese characters of a text; "" if it has none.

    Args:
        text: The text of the page.
    """
    letters = chinese_of(text)
    if not letters:
        return ""
    data = base64.b64encode(_subset(letters)).decode()
    return (
        "@font-face { font-family: 'Finlab Han'; "
        f"src: url(data:font/woff2;base64,{data}) format('woff2') }}"
    )


def _subset(letters: str) -> bytes:
    """Return a WOFF2 font file that has only the given characters.

    Args:
        letters: The characters. A character that the font does not have is left out.
    """
    from fontTools import subset

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    options = subset.Options(flavor="woff2", layout_features=[], hinting=False)
    font = subset.load_font(str(chinese_font_file()), options)
    chosen = subset.Subsetter(options)
    chosen.populate(text=letters)
    chosen.subset(font)
    buffer = io.BytesIO()
    subset.save_font(font, buffer, options)
    return buffer.getvalue()
