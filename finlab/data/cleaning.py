"""Cleaning: the named rules that change a text, in order, and the reasons to drop a text.

The rules are functions in `cleaning_rules`. To add a rule, write a function there and a line in
`rules` that names it. The ledger uses the same name.
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
    "max_repeated_lines": 0.5,  # share of characters in lines that repeat an earlier line
    "min_compression": 0.06,  # compressed size over size; a text below it repeats itself
}
RULE_KEYS = {*THRESHOLDS, "simplify", "drop_text", "drop_lines", "blocked_words"}

HAN_RUN = re.compile(f"[{HAN}]+")
LATIN_RUN = re.compile(r"[A-Za-z]+")


# --- the rules in their order --------------------------------------------------------------------
def rules(settings: Settings | None = None) -> dict[str, Rule]:
    """Return the rules of a source in the order they are applied, {name: function}.

    Args:
        settings: The `rules:` block of a card; None for no settings. `simplify: true` adds the
            conversion from traditional to simplified Chinese (OpenCC t2s). `drop_text` and
            `drop_lines` are lists of regular expressions. A match of `drop_text` is replaced by a
            new line. A line that `drop_lines` matches is removed.
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
        named_rules: The rules, from `rules`; None uses the rules without settings.

    Returns:
        (name of the rule, text after it) for each rule that changed the text.
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
    """Return why a whole document is dropped after cleaning, or an empty string to keep it.

    Args:
        text: The cleaned text.
        language: Language of the source, `zh` or `en`.
        settings: The `rules:` block of a card; its thresholds override THRESHOLDS.
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
    """Return why a text is dropped because of its letters, or an empty string to keep it.

    Args:
        text: The text.
        language: Language of the source, `zh` or `en`.
        limits: The thresholds, with the keys of THRESHOLDS.
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
    """Tell whether too large a share of a text is in repeated lines."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 8:
        return False
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    return repeated > max_share * len(text)


def _repeats_itself(text: str, min_compression: float) -> bool:
    """Tell whether a text compresses so well that it must repeat itself."""
    if len(text) < 200:
        return False
    # Most texts have 60 different characters in a sample of 200, and need no compression.
    if len(set(text[:: 1 + len(text) // 200])) >= 60:
        return False
    data = text[:20000].encode()
    return len(zlib.compress(data, 1)) < min_compression * len(data)
