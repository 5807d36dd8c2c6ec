"""What people judged, as candidates for the next round of SFT and preference data."""

from __future__ import annotations

from finlab.data import dialogues
from finlab.evaluate import raters


def feedback(
    judgements: list[raters.Judgement], rows: list[dict], good: float = 8.0
) -> tuple[list[dict], list[dict]]:
    """Return candidates for SFT and preference data, as Golden-GPT feeds scores back.

    A better answer that a rater wrote is an SFT candidate, and preferred to both answers. So is an
    answer of at least `good` points on average. A pair is preferred as the majority says.
    Candidates are to be read before they are learnt; cards of kind dialogue and preference read
    them.

    Args:
        judgements: From `read_sheets`.
        rows: {id, question, first, second} that the sheets were written from.
        good: Points.

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
    """Return a preference row in a list; none where the answers are alike or empty.

    Args:
        question: What was asked.
        chosen: The better answer.
        rejected: The other one.
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
