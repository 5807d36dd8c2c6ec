"""Tell whether two nearly equal texts name different people, places or organisations.

The Chinese entity model of `recogniser` reads both texts at the places where they differ. It is
slow, so `contradiction` asks it last.
"""

from __future__ import annotations

import re

from finlab.data import recogniser
from finlab.data.facts import Reading

ENTITY_TAGS = ("PER", "LOC", "ORG", "nz")
# Words that a short name leaves out: 同光(半导体)股份, 萍乡(市)中(级人民法)院.
LEFT_OUT = re.compile(
    r"半导体|科技|药业|制药|实业|集团|电子|控股|股份|有限|生物|新材|材料|汽车|技术|环保|能源|医药|智能|网络|信息|传媒|国际"
    r"|中国|人民|监督|管理|委员会|发展|建设|工程|证券|登记|注册"
)
OFFICE = re.compile(r"(?:局|法院|中院|高院|委|委员会|部|中心|医院|署|院|厅|所|政府)$")
LONGEST_PART = 4  # tokens; a longer change is not the middle of a name
CONTEXT = 12  # characters on each side that the recogniser gets too


def names_differ(left: tuple[Reading, slice], right: tuple[Reading, slice]) -> bool:
    """Tell whether both texts have a name at a place, and the names differ.

    Args:
        left: The first text, and the slice of its tokens that differ.
        right: The second text, and the slice of its tokens that differ.
    """
    (one, here), (other, there) = left, right
    if not one.tokens[here] or not other.tokens[there]:  # only one text says something here
        return _stands_inside_a_name(*left) or _stands_inside_a_name(*right)
    ours = _names(*left)
    if not ours:
        return False  # so the slow model is not needed for the other text
    theirs = _names(*right)
    for name in ours:
        for another in theirs:
            if name not in another and another not in name:
                return not (set(ours) & set(theirs))
    return False


def _stands_inside_a_name(reading: Reading, place: slice) -> bool:
    """Tell whether words that only one text has are the middle of a name: 中信(建投)证券.

    Args:
        reading: The text.
        place: The slice of its tokens that the other text does not have.
    """
    text, changed = reading.text, reading.tokens[place]
    if not 2 <= len(changed) <= LONGEST_PART:
        return False
    start, end = changed[0].start, changed[-1].end
    first = max(0, start - CONTEXT)
    for word, tag, at in recogniser.tagged(text[first : end + CONTEXT]):
        if tag in ENTITY_TAGS and first + at < start and end < first + at + len(word):
            shortened = OFFICE.search(word) or LEFT_OUT.search(text[start:end])
            return not shortened
    return False


def _names(reading: Reading, place: slice) -> list[str]:
    """Return the names in a text that overlap with a place where it differs from another text.

    Args:
        reading: The text.
        place: The slice of its tokens that differ.
    """
    text, changed = reading.text, reading.tokens[place]
    start, end = changed[0].start, changed[-1].end
    first = max(0, start - CONTEXT)
    context = text[first : end + CONTEXT]
    found = []
    for word, tag, at in recogniser.tagged(context):
        begins, stops = first + at, first + at + len(word)
        spelt = not word.isdigit()  # a stock code is not a name
        if tag in ENTITY_TAGS and spelt and begins < end and start < stops:
            found.append(word)
    return found
