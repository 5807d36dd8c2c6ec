"""A font with just the Chinese characters of a page, inside the page.

A page must read the same on a machine without Chinese fonts, and load nothing from elsewhere. Noto
Sans CJK is under the SIL Open Font License, which allows to embed it.
"""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

FIRST_CHINESE = 0x2E80  # what lies below has its glyphs in every font


def chinese_font_file() -> Path:
    """Return the font file with Chinese glyphs that comes with the `mplfonts` package."""
    import mplfonts

    return Path(mplfonts.__file__).parent / "fonts" / "NotoSansCJKsc-Regular.otf"


def chinese_of(text: str) -> str:
    """Return the characters of a text that need a Chinese font, each once, in order."""
    return "".join(sorted({letter for letter in text if ord(letter) >= FIRST_CHINESE}))


def embedded(text: str) -> str:
    """Return a CSS rule with a font that holds the Chinese characters of a text; "" for none.

    Args:
        text: Of the page.
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
    """Return a font file in WOFF2 with these characters.

    Args:
        letters: What it must hold. Those that the font lacks are left out.
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
