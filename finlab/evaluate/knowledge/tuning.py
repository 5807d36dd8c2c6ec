"""Make rows that teach a model to use passages, and to say when they do not help.

    for row in augment(dialogues, index, seed=17):
        row["messages"]      # [passages and question, the answer with its citations]
        row["sort"]          # cited, or not found

DISC-FinLLM is tuned in this way. An answer is kept only if the passages support all its sentences.
Each sentence gets the number of the passage that supports it. In some rows the supporting passages
are removed; the right answer is then that nothing was found.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from finlab.data import turns
from finlab.evaluate.knowledge import citing
from finlab.evaluate.knowledge.passages import Passage
from finlab.evaluate.knowledge.tiers import Searchable

CITED, NOT_FOUND = "cited", "not found"


def augment(
    dialogues: Iterable[list[dict]],
    source: Searchable,
    seed: int,
    count: int = 3,
    not_found_share: float = 0.25,
) -> Iterator[dict]:
    """Yield dialogues of one exchange with passages, and citations in the answer.

    Args:
        dialogues: Lists of messages; dialogues of several exchanges are skipped.
        source: The source that is searched with each question.
        seed: Seed for the order of the passages, and for the choice of rows without an answer.
        count: Maximum number of passages in a row: the supporting ones, and others that were found
            with them.
        not_found_share: Share of rows, from 0 to 1, whose supporting passages are removed.

    Yields:
        Rows {messages, sort, passages}. A dialogue whose answer the passages do not support gives
        no row.
    """
    rng = random.Random(seed)
    for messages in dialogues:
        _, talk = turns.split_system(messages)
        if len(talk) != 2:
            continue
        answer = talk[1]["content"]
        # A dialogue in DISC-FinLLM's format already contains its passages.
        question, texts = turns.passages(talk[0]["content"])
        if texts:
            found = [_of_text(text, number) for number, text in enumerate(texts)]
        else:
            found = [passage for passage, _ in source.search(question, 3 * count)]
        supporting = _supporting(answer, found)
        if not supporting or len(set(supporting)) > count:
            continue
        # Copies and overlapping windows also hold the answer, so they do not count as others.
        others = [passage for passage in found if not _supports_some(answer, passage)]
        if others and rng.random() < not_found_share:
            chosen = others[:count]
            said, sort = citing.NOT_FOUND[citing.language_of(question)], NOT_FOUND
        else:
            kept = list(dict.fromkeys(supporting))[:count]
            chosen = kept + others[: count - len(kept)]
            rng.shuffle(chosen)
            said, sort = cited(answer, chosen), CITED
        prompt = citing.prompt(question, chosen)
        yield {
            "messages": [*prompt, {"role": "assistant", "content": said}],
            "sort": sort,
            "passages": chosen,
        }


def _of_text(text: str, number: int) -> Passage:
    """Return a `Passage` for a text that came with its question.

    Args:
        text: The text; its first line is its title if that line is short.
        number: Its place among the texts of the question, from 0.
    """
    title, _, rest = text.partition("\n")
    if not rest or len(title) > 40:
        title = f"材料{number + 1}"
    return Passage(f"given#{number}", "given", "", 0, len(text), text, title)


def _supporting(answer: str, passages: list[Passage]) -> list[Passage]:
    """Return a supporting passage for each sentence of an answer; empty if one has none."""
    found = []
    for sentence in citing.check(answer, passages).sentences:
        number = _first_support(sentence.text, passages)
        if not number:
            return []
        found.append(passages[number - 1])
    return found


def _supports_some(answer: str, passage: Passage) -> bool:
    """Tell whether a passage supports at least one sentence of an answer."""
    sentences = citing.check(answer, [passage]).sentences
    return any(_first_support(sentence.text, [passage]) for sentence in sentences)


def _first_support(said: str, passages: list[Passage]) -> int:
    """Return the number of the first passage that supports a sentence, from 1; 0 for none."""
    for number in range(1, len(passages) + 1):
        if citing.check(f"{said}[{number}]", passages).supported:
            return number
    return 0


def cited(answer: str, passages: list[Passage]) -> str:
    """Return an answer with a citation after each sentence that a passage supports.

    Args:
        answer: The answer without citations.
        passages: The passages, in the order of their numbers.
    """
    parts = []
    for sentence in citing.check(answer, passages).sentences:
        number = _first_support(sentence.text, passages)
        parts.append(f"{sentence.text}[{number}]" if number else sentence.text)
    return "".join(parts)
