"""Tell whether two answers say the same in other words, or say different things.

    verdict("成立于1999年。", "成立时间是1999年。")     # "other words"
    verdict("成立于1989年。", "成立于1999年。")         # "other facts"
    verdict("抱歉，我不能回答。", "成立于1999年。")     # "another answer"

It compares an answer with one reference. A right answer that gives other facts than the reference
does not count as the same. Use it to sort answers for a reader, not to score a model.
"""

from __future__ import annotations

from rapidfuzz import fuzz

from finlab.data.contradiction import contradicts

SAME = "same"
OTHER_WORDS = "other words"
OTHER_FACTS = "other facts"
ANOTHER = "another answer"
FAILURES = (OTHER_FACTS, ANOTHER)
ALIKE = 45.0  # minimum similarity of characters, of 100, for two answers to be compared


def verdict(answer: str, reference: str) -> str:
    """Return how an answer differs from its reference.

    Args:
        answer: The answer of the model.
        reference: The answer in the dialogue.

    Returns:
        SAME if the two are equal to the letter; OTHER_WORDS if no figure, direction or name
        contradicts; OTHER_FACTS if one contradicts; ANOTHER if the two are too different to be
        compared.
    """
    answer, reference = answer.strip(), reference.strip()
    if answer == reference:
        return SAME
    if fuzz.ratio(answer, reference) < ALIKE:
        return ANOTHER
    return OTHER_FACTS if contradicts(answer, reference) else OTHER_WORDS
