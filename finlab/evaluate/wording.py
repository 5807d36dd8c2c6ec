"""Whether two answers say the same in other words, or say other things.

    verdict("成立于1999年。", "成立时间是1999年。")     # "other words"
    verdict("成立于1989年。", "成立于1999年。")         # "other facts"
    verdict("抱歉，我不能回答。", "成立于1999年。")     # "another answer"

It compares an answer with one reference, so a right answer that gives other facts than the
reference counts as another one. It is there to sort answers for a reader, not to score a model.
"""

from __future__ import annotations

from rapidfuzz import fuzz

from finlab.data.contradiction import contradicts

SAME = "same"
OTHER_WORDS = "other words"
OTHER_FACTS = "other facts"
ANOTHER = "another answer"
FAILURES = (OTHER_FACTS, ANOTHER)
ALIKE = 45.0  # of 100, the least likeness in characters of two answers to one question


def verdict(answer: str, reference: str) -> str:
    """Return how an answer stands to its reference.

    Args:
        answer: Of the model.
        reference: Of the dialogue.

    Returns:
        SAME to the letter; OTHER_WORDS where no figure, direction or name contradicts; OTHER_FACTS
        where one does; ANOTHER where the two share too little to be compared.
    """
    answer, reference = answer.strip(), reference.strip()
    if answer == reference:
        return SAME
    if fuzz.ratio(answer, reference) < ALIKE:
        return ANOTHER
    return OTHER_FACTS if contradicts(answer, reference) else OTHER_WORDS
