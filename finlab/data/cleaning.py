"""Cleaning: the named rules that change a text, in their order, and the reasons to drop one.

The rules are functions in `cleaning_rules`. To add one, write it there and give it a line in
`rules`. Its name there is the name in the ledger.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from finlab.data import cleaning_rules
from finlab.data.cleaning_rules import HAN, Rule

Settings = dict[str, Any]  # a card's `rules:` block

THRESHOLDS = {
    "min_chars": 8,
    "min_letters": 0.2,  # share of characters that are Chinese or Latin letters
    "min_language": 0.1,  # share of characters in the source's language
    "max_repeated_lines": 0.5,  # share of characters in lines that stood there before
    "min_compression": 0.06,  # compressed size over size: below it a text repeats itself
}
RULE_KEYS = {*THRESHOLDS, "simplify", "drop_text", "drop_lines", "blocked_words"}

HAN_RUN = re.compile(f"[{HAN}]+")
LATIN_RUN = re.compile(r"[A-Za-z]+")


# --- the rules in their order --------------------------------------------------------------------
def rules(settings: Settings | None = None) -> dict[str, Rule]:
    """Return the rules of a source in their order, {name: function}.

    Args:
        settings: A card's `rules:` block. `simplify: true` adds traditional to simplified (OpenCC
            t2s). `drop_text` and `drop_lines` are lists of regular expressions: the first take out
            a source's own marks and leave a new line, the second its own lines.
    """
    settings = settings or {}
    marks = "|".join(settings.get("drop_text", ()))
    lines = tuple(settings.get("drop_lines", ()))
    found: dict[str, Rule] = {}
    if marks:
        found["marks of this source"] = lambda text: re.sub(marks, "\n", text)
    found["front matter"] = cleaning_rules.drop_front_matter
    found["html remnants"] = cleaning_rules.drop_html
    found["mojibake repaired"] = cleaning_rules.repair_mojibake
    found["unicode form"] = cleaning_rules.unify_unicode
    found["control characters"] = cleaning_rules.drop_control_characters
    found["wide letters"] = cleaning_rules.narrow_letters
    found["narrow punctuation"] = cleaning_rules.widen_punctuation
    found["spaced characters"] = cleaning_rules.join_spaced_characters
    found["repeated symbols"] = cleaning_rules.shorten_repeated_symbols
    if settings.get("simplify"):
        found["traditional to simplified"] = cleaning_rules.simplify
    found["navigation lines"] = cleaning_rules.drop_navigation
    found["disclaimers"] = cleaning_rules.drop_disclaimers
    if lines:
        found["lines of this source"] = cleaning_rules.without_lines(lines)
    found["mojibake lines"] = cleaning_rules.drop_lost_text
    found["repeated lines"] = cleaning_rules.drop_repeated_lines
    found["blank space"] = cleaning_rules.trim_blank_space
    return found


def clean_text(text: str, named_rules: dict[str, Rule] | None = None) -> list[tuple[str, str]]:
    """Clean a text.

    Args:
        text: The text.
        named_rules: The rules, from `rules`; by default those without settings.

    Returns:
        A pair (rule, text after it) for each rule that changed something.
    """
    steps = []
    for name, rule in (named_rules or rules()).items():
        changed = rule(text)
        if changed != text:
            steps.append((name, changed))
            text = changed
    return steps


# --- whole documents -----------------------------------------------------------------------------
def drop_reason(text: str, language: str, settings: Settings | None = None) -> str:
    """Return why a cleaned document is dropped as a whole, or an empty string.

    Args:
        text: The cleaned text.
        language: Of its source, `zh` or `en`.
        settings: A card's `rules:` block; its thresholds replace THRESHOLDS.
    """
    limits = THRESHOLDS | (settings or {})
    if not text:
        return "empty after cleaning"
    if len(text) < limits["min_chars"]:
        return "too short"
    reason = _wrong_letters(text, language, limits)
    if reason:
        return reason
    if _repeats_lines(text, limits["max_repeated_lines"]):
        return "repeated lines throughout"
    if _repeats_itself(text, limits["min_compression"]):
        return "too repetitive"
    if any(word in text for word in limits.get("blocked_words", ())):
        return "blocked word"
    return ""


def _wrong_letters(text: str, language: str, limits: Settings) -> str:
    """Return the reason to drop a text for its letters, or an empty string.

    Args:
        text: The text.
        language: `zh` or `en`.
        limits: The thresholds.
    """
    han = sum(map(len, HAN_RUN.findall(text)))
    if language == "zh" and han >= limits["min_letters"] * len(text):
        return ""
    latin = sum(map(len, LATIN_RUN.findall(text)))
    if han + latin < limits["min_letters"] * len(text):
        return "too few letters"
    own = han if language == "zh" else latin
    return "another language" if own < limits["min_language"] * len(text) else ""


def _repeats_lines(text: str, max_share: float) -> bool:
    """Tell whether too much of a text stands in lines that are repeated."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 8:
        return False
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    return repeated > max_share * len(text)


def _repeats_itself(text: str, min_compression: float) -> bool:
    """Tell whether a text compresses too well to say much."""
    if len(text) < 200:
        return False
    # A sample of 200 characters tells most texts at once: they use many different ones.
    if len(set(text[:: 1 + len(text) // 200])) >= 60:
        return False
    data = text[:20000].encode()
    return len(zlib.compress(data, 1)) < min_compression * len(data)
