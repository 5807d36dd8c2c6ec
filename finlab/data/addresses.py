"""Find postal addresses in dialogues: a location found by LAC, up to house number and room."""

from __future__ import annotations

import re

from finlab.data import recogniser
from finlab.data.recogniser import Word

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
# Words that an address consists of.
PARTS = re.compile(
    r"(?:[\dA-Za-z〇一二三四五六七八九十百甲乙丙丁附之副\-—－#、]+|号楼?|號|栋|幢|棟|座|单元|單元|室|楼|樓"
    r"|层|房|门|户|弄|巷|组|段|村|路|街|道|大街|大道|小区|花园|苑|里|胡同|街道|镇|乡|区|县|市|省|东|南|西|北|中"
    r"|城|大厦|公寓|家园|人家|宿舍|委会|附近)+"
)
HOUSE_WORD = re.compile(
    rf"[{HAN}]{{0,5}}[A-Za-z]?\d*[A-Za-z]?(?:号|號|栋|幢|棟|座|单元|室|楼|期|区)"
)
# A location is an address if it has a street or village (STREET), and a number in it (HOUSE).
HOUSE = re.compile(
    r"\d+[A-Za-z]?(?:-\d+)?\s*(?:号|號|弄|栋|幢|棟|座|单元|室|楼|房|门|组|村)|\d+-\d+"
)
STREET = re.compile(r"路|街|道|巷|弄|胡同|里|村|镇|乡|小区|花园|苑|大厦|公寓|区")
DISTRICT = re.compile(rf"[{HAN}]{{1,6}}[区市县]")
OTHER_TAGS = ("r", "p", "c", "u", "xc", "PER", "TIME", "d")  # these tags end an address
GAP = 8  # how many characters may be between two parts of an address
SHORTEST = 6  # characters of the shortest address


def addresses(text: str) -> list[tuple[int, int]]:
    """Find the postal addresses in a text.

    Args:
        text: A turn of a dialogue.

    Returns:
        (index of the first character, index after the last) of each address, in order.
    """
    # Most texts have no house number or no street, so the slow recogniser is not needed for them.
    if not (HOUSE.search(text) and STREET.search(text)):
        return []
    spans = []
    words = recogniser.tagged(text)
    number = 0
    while number < len(words):
        word, tag, start = words[number]
        if tag != "LOC" and not (tag == "ORG" and DISTRICT.match(word)):
            number += 1
            continue
        number, end = _end(words, number)
        address = text[start:end]
        if HOUSE.search(address) and STREET.search(address) and len(address) >= SHORTEST:
            spans.append((start, end))
    return spans


def _end(words: tuple[Word, ...], number: int) -> tuple[int, int]:
    """Find the end of an address from its first word.

    An address may contain a few other words, such as a building's name, if a house number or
    another location follows them: 都市印象B座2207.

    Args:
        words: The words of the text.
        number: Index of the address's first word in `words`.

    Returns:
        (index of the first word after the address, index of the character after the address).
    """
    word, _, start = words[number]
    end = start + len(word)
    number += 1
    while number < len(words):
        skipped = _next_part(words, number, end)
        if skipped is None:
            break
        number += skipped
        word, _, place = words[number]
        end = place + len(word)
        number += 1
    return number, end


def _next_part(words: tuple[Word, ...], number: int, end: int) -> int | None:
    """Return how many words come before the next part of an address; None if it has ended.

    Args:
        words: The words of the text.
        number: Index in `words` of the first word after the address so far.
        end: Index of the character after the address so far.
    """
    for ahead, (word, tag, place) in enumerate(words[number : number + 4]):
        if tag == "w" and word not in "-—－#、":
            return None
        goes_on = tag == "LOC" or PARTS.fullmatch(word) or HOUSE_WORD.match(word)
        if goes_on and place - end <= GAP:
            return ahead
        if tag in OTHER_TAGS:
            return None
    return None
