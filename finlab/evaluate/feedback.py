"""Turn people's judgements into candidates for the next SFT and preference data."""

from __future__ import annotations

from finlab.data import dialogues
from finlab.evaluate import raters


def feedback(
    judgements: list[raters.Judgement], rows: list[dict], good: float = 8.0
) -> tuple[list[dict], list[dict]]:
    """Return candidates for SFT and preference data, as Golden-GPT uses its scores again.

    A better answer that a rater wrote is an SFT candidate, and it is preferred to both answers. An
    answer with at least `good` points on average is an SFT candidate too. Of the two answers, the
    one that the majority prefers is the chosen one. People should read the candidates before
    training. Cards of kind dialogue and preference can load them.

    Args:
        judgements: From `read_sheets`.
        rows: The rows {id, question, first, second} from which the sheets were written.
        good: Minimum mean points of an SFT candidate, from 0 to 10.

    Returns:
        SFT rows in Alpaca's format, and preference rows.
    """
    row_of = {row["id"]: row for row in rows}
    sft: list[dict] = []
    pairs: list[dict] = []
    for name, verdict in raters.people(judgements)["majority"].items():
        row = row_of[name]
        own = [one for one in judgements if one["id"] == name]
        rewrites = list(dict.fromkeys(one["rewrite"] for one in own if one["rewrite"]))
        for rewrite in rewrites:
            for side in ("first", "second"):
                pairs += _preference(row["question"], rewrite, row[side])
        if verdict != "same":
            other = "first" if verdict == "second" else "second"
            pairs += _preference(row["question"], row[verdict], row[other])
        learnt = list(rewrites)
        for place, side in enumerate(("first", "second")):
            mean = raters.mean_points(own, place)
            if mean is not None and mean >= good and row[side].strip():
                learnt.append(row[side])
        for text in dict.fromkeys(learnt):
            question = {"role": "user", "content": row["question"]}
            answer = {"role": "assistant", "content": text}
            sft.append(dialogues.write_dialogue([question, answer], "alpaca"))
    return sft, pairs


def _preference(question: str, chosen: str, rejected: str) -> list[dict]:
    """Return a list with one preference row; empty if the answers are equal or one is empty.

    Args:
        question: The question.
        chosen: The better answer.
        rejected: The other answer.
    """
    texts = chosen.strip(), rejected.strip()
    if texts[0] == texts[1] or not all(texts):
        return []
    row = {
        "conversations": [{"from": "human", "value": question}],
        "chosen": {"from": "gpt", "value": chosen},
        "rejected": {"from": "gpt", "value": rejected},
    }
    return [row]
