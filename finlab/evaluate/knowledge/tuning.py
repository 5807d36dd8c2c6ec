"""Rows that teach a model to use passages, and to say when they do not help.

    for row in augment(dialogues, index, seed=17):
        row["messages"]      # [passages and question, the answer with its citations]
        row["sort"]          # cited, or not found

So DISC-FinLLM tunes. An answer is kept only where the passages support every sentence of it; each
sentence gets the number of the passage that does. Of some rows the supporting passages are taken
away: then the right answer is that nothing was found.
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
        dialogues: Each a list of messages; those of several exchanges are passed over.
        source: Searched with each question.
        seed: Draws the places of passages, and the rows without an answer.
        count: Passages in a row: the supporting ones, and others that were found beside them.
        not_found_share: Of the rows, those whose supporting passages are taken away.

    Yields:
        Rows {messages, sort, passages}. A dialogue whose answer the passages do not support gives
        none.
    """
    rng = random.Random(seed)
    for messages in dialogues:
        _, talk = turns.split_system(messages)
        if len(talk) != 2:
            continue
        answer = talk[1]["content"]
        # A dialogue in DISC-FinLLM's words brings its passages along.
        question, texts = turns.passages(talk[0]["content"])
        if texts:
            found = [_of_text(text, number) for number, text in enumerate(texts)]
        else:
            found = [passage for passage, _ in source.search(question, 3 * count)]
        supporting = _supporting(answer, found)
        if not supporting or len(set(supporting)) > count:
            continue
        # Copies and windows that overlap hold the answer too: they are no others.
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
    """Return a passage that came with its question as a passage of our own.

    Args:
        text: It begins with its title, where that is a short line.
        number: Its place among the others.
    """
    title, _, rest = text.partition("\n")
    if not rest or len(title) > 40:
        title = f"材料{number + 1}"
    return Passage(f"given#{number}", "given", "", 0, len(text), text, title)


def _supporting(answer: str, passages: list[Passage]) -> list[Passage]:
    """Return a supporting passage for each sentence of an answer; empty where one has none."""
    found = []
    for sentence in citing.check(answer, passages).sentences:
        number = _first_support(sentence.text, passages)
        if not number:
            return []
        found.append(passages[number - 1])
    return found


def _supports_some(answer: str, passage: Passage) -> bool:
    """Tell whether a passage supports a sentence of an answer."""
    sentences = citing.check(answer, [passage]).sentences
    return any(_first_support(sentence.text, [passage]) for sentence in sentences)


def _first_support(said: str, passages: list[Passage]) -> int:
    """Return the number of the first passage that supports a sentence, from 1; 0 for none."""
    for number in range(1, len(passages) + 1):
        if citing.check(f"{said}[{number}]", passages).supported:
            return number
    return 0


def cited(answer: str, passages: list[Passage]) -> str:
    """Return an answer with a citation behind each sentence that a passage supports.

    Args:
        answer: Without citations.
        passages: In the order of their numbers.
    """
    parts = []
    for sentence in citing.check(answer, passages).sentences:
        number = _first_support(sentence.text, passages)
        parts.append(f"{sentence.text}[{number}]" if number else sentence.text)
    return "".join(parts)
