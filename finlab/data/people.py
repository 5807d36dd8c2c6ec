"""Find names of people in dialogues.

A recogniser (Baidu's LAC) proposes names. Rules correct where they begin and end, add names after a
word such as 户名 or before a title such as 先生, and remove companies and other words. The word lists
are in `people.yaml`. Of the packages that were tried, LAC found the most names; the figures are in
docs/data.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from finlab.data import latin_names, recogniser
from finlab.data import name_cues as cues

Span = tuple[int, int]  # (index of the first character, index after the last)
MAX_PRIVATE = 300  # characters; a longer turn is an article
SHORT = 120  # characters; a turn up to this length is private, unless it is about public persons


# --- can it be a name ----------------------------------------------------------------------------
def surname_length(name: str) -> int:
    """Return the length of a name's surname: 2, 1, or 0 if it has no listed surname."""
    if name[:2] in cues.LONG_SURNAMES:
        return 2
    return 1 if name[:1] in cues.SURNAMES else 0


def _is_company(text: str, start: int, end: int) -> bool:
    """Tell whether a span is the short name of a listed company, or a part of it.

    Args:
        text: The text.
        start: Index of the span's first character.
        end: Index after its last character.
    """
    company = cues.COMPANIES.match(text[start:])
    return bool(company) and company.end() >= end - start


def _is_word(text: str, start: int, end: int) -> bool:
    """Tell whether a span is a word, a company or an office, not the name of a private person.

    Args:
        text: The text.
        start: Index of the span's first character.
        end: Index after its last character.
    """
    name = text[start:end].replace(" ", "")
    if cues.NOT_NAMES.match(name) or _is_company(text, start, end) or name in cues.PUBLIC_PERSONS:
        return True
    if cues.NO_GIVEN_NAME.search(name[surname_length(name) :]):
        return True
    if cues.ORGANISATION.match(text[end : end + 6]):
        return True
    return cues.PUBLIC.match(text[end:]) is not None


def _is_part_of_a_word(text: str, start: int, end: int) -> bool:
    """Tell whether a span is a part of a location or organisation that LAC finds: 墨西(哥).

    Args:
        text: The text.
        start: Index of the span's first character.
        end: Index after its last character.
    """
    for word, tag, place in recogniser.tagged(text):
        inside = place <= start and end <= place + len(word) and end - start < len(word)
        if inside and tag in ("LOC", "ORG"):
            return True
    return False


def _is_name(text: str, start: int, end: int) -> bool:
    """Tell whether a span can be a name: a listed surname and one or two more characters.

    Args:
        text: The text.
        start: Index of the span's first character.
        end: Index after its last character.
    """
    name = text[start:end].replace(" ", "").replace("\u3000", "")
    surname = surname_length(name)
    if not surname or not 1 <= len(name) - surname <= 2 or not re.fullmatch(f"[{cues.HAN}]+", name):
        return False
    if name[0] in cues.WORDLIKE and not _seen_by_recogniser(text, start, end):
        return False
    return not _is_word(text, start, end)


def _seen_by_recogniser(text: str, start: int, end: int) -> bool:
    """Tell whether LAC finds a person that covers the first character of a span.

    Args:
        text: The text.
        start: Index of the span's first character.
        end: Index after its last character.
    """
    for word, tag, place in recogniser.tagged(text):
        if tag == "PER" and place <= start < place + len(word):
            return True
    return False


def _is_rare_name(text: str, start: int, end: int) -> bool:
    """Tell whether a person that LAC finds can have a name without a listed surname: 卓玛拉姆.

    Args:
        text: The text.
        start: Index of the span's first character.
        end: Index after its last character.
    """
    name = text[start:end]
    if not re.fullmatch(f"[{cues.HAN}]{{3,5}}", name) or (len(name) < 4 and surname_length(name)):
        return False
    return not cues.WORD_ENDING.search(name) and not _is_word(text, start, end)


# --- finding -------------------------------------------------------------------------------------
def names(text: str, numbers: Sequence[Span] = ()) -> list[Span]:
    """Return the spans of people's names in a text, in order; they do not overlap.

    Args:
        text: A turn of a dialogue.
        numbers: Spans of telephone, identity and card numbers. A name is often next to one.
    """
    private = bool(numbers) or _is_private(text)
    spans = _names_by_cue(text, private)
    spans += _names_before_titles(text)
    spans += _familiar_names(text)
    spans += _names_beside(text, numbers)
    if private:
        spans += [match.span(1) for match in cues.DOTTED.finditer(text)]
        spans += latin_names.find(text)
        spans += _recognised_names(text)
    return _everywhere(text, _with_lists(text, _apart(spans)))


def _recognised_names(text: str) -> list[Span]:
    """Return the spans of the persons that LAC finds, with corrected start and end."""
    spans = []
    words = recogniser.tagged(text)
    for number, (word, tag, start) in enumerate(words):
        if tag != "PER":
            continue
        end = start + len(_without_verb(word))
        if _is_given_alone(text, start, end):
            spans.append((start, end))
            continue
        called = cues.GIVEN_AND_TITLE.fullmatch(word)
        if called and cues.KIN_BEFORE.search(text[:start]):
            spans.append((start, start + len(called[1])))
            continue
        title = re.search(rf"{cues.TITLES}$", word)
        if title and title.start():
            end = start + title.start()
        before, _, place = words[number - 1] if number else ("", "", 0)
        # 戴 | 小红: LAC has separated the surname from the name.
        cut_off = before in cues.SURNAMES or before in cues.LONG_SURNAMES
        if cut_off and place + len(before) == start and len(word) <= 2:
            if not surname_length(word) or len(word) == 1:
                start = place
        surname_alone = end - start == 1 and text[start] in cues.SURNAMES
        rare = cues.CUE_BEFORE.search(text[:start]) and _is_rare_name(text, start, end)
        if _is_name(text, start, end) or rare:
            spans.append((start, end))
        elif surname_alone and (title or re.match(cues.TITLES, text[end:])):
            spans.append((start, end))
    return spans


def _without_verb(word: str) -> str:
    """Return a person that LAC finds, without a verb at the end, as in 扎西次仁来电."""
    if len(word) < 4:
        return word
    return re.sub(r"(?:来电|致电|反映|表示|来|说)$", "", word)


def _is_given_alone(text: str, start: int, end: int) -> bool:
    """Tell whether a person that LAC finds is a given name without a surname: 你跟晓敏说.

    Args:
        text: The text.
        start: Index of the span's first character.
        end: Index after its last character.
    """
    name = text[start:end]
    if (
        not cues.GIVEN_ALONE.fullmatch(name)
        or cues.NOT_FAMILIAR.match(name)
        or name in cues.PUBLIC_PERSONS
    ):
        return False
    return bool(cues.KIN_BEFORE.search(text[:start])) and not cues.ORGANISATION.match(
        text[end : end + 6]
    )


def _is_private(text: str) -> bool:
    """Tell whether a turn is about private matters, not about public persons."""
    if len(text) <= MAX_PRIVATE and cues.PRIVATE.search(text):
        return True
    return len(text) <= SHORT and not cues.PUBLIC_TALK.search(text)


def _names_by_cue(text: str, private: bool) -> list[Span]:
    """Return the spans of names after a role, a cue word or the name of a field.

    Args:
        text: The text.
        private: Whether the text is about private matters, see `_is_private`.
    """
    spans = []
    for pattern in (cues.BEHIND_STRONG, cues.BEHIND_ROLE):
        for match in pattern.finditer(text):
            if _is_name(text, *match.span(1)):
                spans.append(_widened(text, match.span(1)))
    # The recogniser is slow, so it is used only if a cue was found.
    for match in cues.BEHIND_OFFICE.finditer(text) if private else ():
        person = (match.start(1), "PER") in _word_starts(text)
        if person and _is_name(text, *match.span(1)):
            spans.append(_widened(text, match.span(1)))
    for match in [*cues.NAMED.finditer(text), *cues.KEYED.finditer(text)]:
        if not _is_word(text, *match.span(1)):
            spans.append(match.span(1))
    for match in cues.FIELD.finditer(text):
        if _is_name(text, *match.span(1)):
            spans.append(match.span(1))
    return spans


def _names_before_titles(text: str) -> list[Span]:
    """Return the spans of names before titles such as 先生 and 经理, and after 姓."""
    spans = []
    matches = list(cues.BEFORE_TITLE.finditer(text))
    starts = {place for place, _ in _word_starts(text)} if matches else set()
    for match in matches:
        start, end = match.span(1)
        if start not in starts and not cues.WORD_BEGINS.search(text[:start]):
            continue
        surname_alone = len(match[1]) == surname_length(match[1])
        word = cues.NOT_NAMES.match(text[start : start + 3]) or _is_part_of_a_word(text, start, end)
        if not word and (surname_alone or _is_name(text, start, end)):
            spans.append((start, end))
    for match in cues.SURNAME_SAID.finditer(text):
        spans.append(match.span(match.lastindex))
    return spans


def _word_starts(text: str) -> set[tuple[int, str]]:
    """Return (index of the first character, tag) of each word that the recogniser finds."""
    return {(place, tag) for _, tag, place in recogniser.tagged(text)}


def _familiar_names(text: str) -> list[Span]:
    """Return the spans of familiar names such as 小王 and 老李 that are separate words."""
    matches = [*cues.FAMILIAR_ALONE.finditer(text), *cues.ADDRESSED.finditer(text)]
    spans = [match.span(1) for match in matches]
    if cues.FAMILIAR.search(text):
        for word, _, place in recogniser.tagged(text):
            if cues.FAMILIAR.fullmatch(word):
                spans.append((place, place + 2))
    return [(start, end) for start, end in spans if not cues.NOT_FAMILIAR.match(text[start:])]


def _names_beside(text: str, numbers: Iterable[Span]) -> list[Span]:
    """Return the spans of names directly before or after a number.

    Args:
        text: The text.
        numbers: Spans of telephone, identity and card numbers.
    """
    spans = []
    for start, end in numbers:
        matches = (
            (cues.BEFORE_NUMBER.search(text[:start]), 0),
            (cues.BEHIND_NUMBER.match(text[end:]), end),
        )
        for match, offset in matches:
            if match and _is_name(text, match.start(1) + offset, match.end(1) + offset):
                spans.append((match.start(1) + offset, match.end(1) + offset))
    return spans


def _with_lists(text: str, spans: list[Span]) -> list[Span]:
    """Return spans of names, and of more names in the same list: 潘志刚、杜鹃、葛亮.

    Args:
        text: The text.
        spans: Spans of the names found so far.
    """
    found = list(spans)
    waiting = list(spans)
    while waiting:
        start, end = waiting.pop()
        matches = (
            (cues.NEXT_IN_LIST.match(text[end:]), end),
            (cues.LAST_IN_LIST.search(text[:start]), 0),
        )
        for match, offset in matches:
            if not match:
                continue
            span = match.start(1) + offset, match.end(1) + offset
            free = all(span[1] <= first or last <= span[0] for first, last in found)
            if free and _is_name(text, *span):
                found.append(span)
                waiting.append(span)
    return sorted(found)


def _widened(text: str, span: Span) -> Span:
    """Extend a span that a rule found, if LAC finds a longer name that begins there.

    A rule takes the shortest name that a stop word can follow: 陈思 instead of 陈思远.

    Args:
        text: The text.
        span: The span that a rule has found.

    Returns:
        The longer span, or the span itself.
    """
    start, end = span
    for word, tag, place in recogniser.tagged(text):
        if tag == "PER" and place == start and len(word) > end - start:
            if _is_name(text, start, place + len(word)):
                return start, place + len(word)
    return span


def _apart(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order without overlaps; of two that overlap, the longer is kept."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if all(span[1] <= start or end <= span[0] for start, end in kept):
            kept.append(span)
    return sorted(kept)


def _everywhere(text: str, spans: list[Span]) -> list[Span]:
    """Return spans of names, and of all other occurrences of the same names in the text.

    Args:
        text: The text.
        spans: Spans of the names found so far.
    """
    more = list(spans)
    for start, end in spans:
        name = text[start:end]
        if len(name) > 1:
            more += [match.span() for match in re.finditer(re.escape(name), text)]
    return _apart(more)
