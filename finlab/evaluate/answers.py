"""Read the option out of a written answer. Nothing is guessed."""

from __future__ import annotations

import re
import unicodedata

LETTERS = "ABCDEFGHIJ"
# A claim such as 答案是B, 选B, or the answer is B; but not 不选B, nor A股 or A类.
CLAIM = re.compile(
    r"(?<![不非没未勿])(?<!不应)(?<!不能)(?<!不该)(?<!不可)(?<!不会)"
    r"(?:答案|选项(?=\s*[是为：:应])|选择|选(?!项)|[Aa]nswer|[Oo]ption)"
    r"(?:[是为选应该项：:\s“\"'（(【\[]|is)*"
    r"([A-J](?:[、,，和与及/\s]*(?:or|and|或)?\s*[A-J](?![A-Za-z]))*)"
    r"(?![A-Za-z股轮类级型座])"
)
# A letter at the beginning of a line, with a mark behind it or nothing.
LINE_BEGINS = re.compile(r"[\s（(【\[]*([A-J])(?=\s*(?:[.．。:：)）】\]]|$))")
MARKDOWN = re.compile(r"[*$`_]")


def letter_of(text: str | None, letters: list[str]) -> int | None:
    """Return the option that a written answer names.

    The last claim counts, else a letter with which the text begins when no other line begins with
    another. Where the options are words, such as 是 and 否, the text has to begin with one of them.

    Args:
        text: The answer; None for none.
        letters: The options as they were offered: A, B, ... or words.

    Returns:
        The option's index; None when the text names none, several, or one that was not there.
    """
    text = MARKDOWN.sub("", unicodedata.normalize("NFKC", text or "")).strip()
    if letters[0] not in LETTERS:
        for number, word in enumerate(letters):
            if text.startswith(word):
                return number
        return None
    named = _named_letters(text)
    if len(named) != 1:
        return None
    letter = named.pop()
    return letters.index(letter) if letter in letters else None


def _named_letters(text: str) -> set[str]:
    """Return the letters that a text names as its answer."""
    claims = CLAIM.findall(text)
    if claims:
        return set(re.findall("[A-J]", claims[-1]))
    if not LINE_BEGINS.match(text):
        return set()
    beginnings = [LINE_BEGINS.match(line) for line in text.splitlines()]
    return {match[1] for match in beginnings if match}
