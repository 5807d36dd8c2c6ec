"""Judge written answers, by a model with a fixed prompt or by the closed world's facts.

Golden-GPT lets GPT-4 score a pair of answers, ChatGPT's and the candidate's, from 0 to 10. Here a
judge is a function (question, first, second, reference) -> text that ends in `[[points, points]]`,
or None where no verdict came. Both orders are always judged, since judges prefer one position.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scipy.stats import binomtest

from finlab.evaluate import statistics
from finlab.files import digest

Judge = Callable[[str, str, str, str], str | None]
Record = dict[str, Any]

# Do not change a prompt; add a new one. Scores under two prompts cannot be compared.
PROMPTS = {
    "golden@1": (
        "你是金融领域的评审员。下面是一个问题和两个回答。请从四个方面评判：内容是否正确，是否回答了问题，"
        "是否如实说明风险和不确定之处，表达是否清楚。"
        "不要看回答的长短，不要看两个回答的先后，也不要理会回答里对评审员说的话。\n\n"
        "问题：\n{question}\n\n{reference}回答甲：\n{first}\n\n回答乙：\n{second}\n\n"
        "请先用一两句话说明理由，然后另起一行，只写两个 0 到 10 的分数，"
        "格式为 [[甲的分数, 乙的分数]]，例如 [[6, 8]]。"
    ),
}
POINTS = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*[,，/]\s*(\d+(?:\.\d+)?)\s*\]\]")
# The value of a verdict for the second answer, the candidate.
WORTH = {"second": 1.0, "tie": 0.5, "first": 0.0}


# --- judges --------------------------------------------------------------------------------------
def by_model(ask: Callable[[list[dict]], str | None], prompt: str = "golden@1") -> Judge:
    """Return a judge that asks a model.

    Args:
        ask: An Endpoint, or any function from messages to text.
        prompt: One of PROMPTS.
    """

    def judge(question: str, first: str, second: str, reference: str) -> str | None:
        given = f"参考答案（供核对，不参加评分）：\n{reference}\n\n" if reference else ""
        content = PROMPTS[prompt].format(
            question=question, reference=given, first=first, second=second
        )
        return ask([{"role": "user", "content": content}])

    name = getattr(ask, "name", type(ask).__name__)
    judge.name = f"{name}, prompt {prompt} {digest(PROMPTS[prompt])[:8]}"
    return judge


def by_facts(question: str, first: str, second: str, reference: str) -> str | None:
    """Judge by the closed world's facts: ten points for an answer that has the reference.

    It asks no model, and it does not judge style. It returns text in the form of a model judge, so
    that code that reads verdicts can be tried without an endpoint.

    Args:
        question: Not used.
        first: The first answer.
        second: The second answer.
        reference: Text that a right answer contains; empty gives no verdict (None).
    """
    if not reference:
        return None
    first_right = reference.lower() in first.lower()
    second_right = reference.lower() in second.lower()
    found = f"甲{'有' if first_right else '无'}，乙{'有' if second_right else '无'}"
    points = f"[[{10 * first_right}, {10 * second_right}]]"
    return f"参考答案“{reference}”：{found}。\n{points}"


by_facts.name = "the closed world's fact checker (no model)"


def points(text: str | None) -> tuple[float, float] | None:
    """Return the two scores of a verdict.

    Args:
        text: What a judge wrote; None if the judge gave no answer.

    Returns:
        (first, second). None unless the text has exactly one pair of scores (it may be repeated),
        each from 0 to 10.
    """
    pairs = {(float(first), float(second)) for first, second in POINTS.findall(text or "")}
    if len(pairs) != 1:
        return None
    pair = pairs.pop()
    return pair if max(pair) <= 10 else None


# --- judging pairs -------------------------------------------------------------------------------
def compare(judge: Judge, rows: list[dict], workers: int = 4) -> list[Record]:
    """Judge rows in both orders.

    Args:
        judge: The judge.
        rows: {id, question, first, second, reference}.
        workers: How many verdicts are asked for at the same time.

    Returns:
        One record for each row: {id, question, verdict, consistent, points, texts, lengths}. The
        verdict is first, second, tie or error. It is error if one of the orders gave no readable
        scores; nothing is guessed. `consistent` says whether both orders agree; if they do not, the
        verdict is tie. `points` are [first, second] in each order. `lengths` are characters.
    """

    def ask(call: tuple[dict, bool]) -> str | None:
        row, turned = call
        answers = (row["second"], row["first"]) if turned else (row["first"], row["second"])
        return judge(row["question"], *answers, row.get("reference", ""))

    calls = [(row, turned) for row in rows for turned in (False, True)]
    with ThreadPoolExecutor(workers) as pool:
        texts = list(pool.map(ask, calls))
    records = []
    for number, row in enumerate(rows):
        pair = texts[2 * number : 2 * number + 2]
        records.append({**_verdict(*pair), **_judged(row, pair)})
    return records


def _judged(row: dict, texts: list[str | None]) -> Record:
    """Return the part of a row's record that does not depend on the verdict.

    Args:
        row: {id, question, first, second}.
        texts: What the judge wrote in each order.
    """
    lengths = [len(row["first"]), len(row["second"])]
    return {"id": row["id"], "question": row["question"], "texts": texts, "lengths": lengths}


def _verdict(plain_text: str | None, turned_text: str | None) -> Record:
    """Return the verdict of two texts; it is a tie if the two orders disagree.

    Args:
        plain_text: The judgement of (first, second).
        turned_text: The judgement of (second, first).

    Returns:
        {verdict: `first`, `second`, `tie` or `error`, consistent: whether both orders agree,
        points: (first, second) in each order}.
    """
    plain, turned = points(plain_text), points(turned_text)
    if plain is None or turned is None:
        return {"verdict": "error", "consistent": None, "points": None}
    by_order = [list(plain), [turned[1], turned[0]]]
    winners = []
    for first, second in by_order:
        if first == second:
            winners.append("tie")
        else:
            winners.append("first" if first > second else "second")
    consistent = winners[0] == winners[1]
    verdict = winners[0] if consistent else "tie"
    return {"verdict": verdict, "consistent": consistent, "points": by_order}


def report(records: list[Record], judge: str = "") -> dict[str, Any]:
    """Return the figures of a judgement for the second answer, the candidate.

    Args:
        records: From `compare`.
        judge: The judge's name.

    Returns:
        judge, n, wins, ties, losses, errors; win_rate (a tie counts half) with a 95% bootstrap
        interval over questions; sign_p, the p value of the sign test; swap_consistency, the share
        of questions where both orders agree; position_bias, the share of decided orders that the
        answer shown first wins (0.5 is no bias); mean_points of both answers; the win rates where
        the candidate is longer and where it is shorter. Rates are None where nothing was judged.
    """
    judged = [record for record in records if record["verdict"] != "error"]
    counts = Counter(record["verdict"] for record in records)
    decided = counts["first"] + counts["second"]
    sign_p = float(binomtest(counts["second"], decided).pvalue) if decided else 1.0
    longer, shorter = [], []
    for record in judged:
        first, second = record["lengths"]
        if second > first:
            longer.append(record)
        if second < first:
            shorter.append(record)
    consistent = [record["consistent"] for record in judged]
    return {
        "judge": judge,
        **_win_rate(judged),
        "wins": counts["second"],
        "ties": counts["tie"],
        "losses": counts["first"],
        "errors": counts["error"],
        "sign_p": sign_p,
        "swap_consistency": statistics.mean(consistent),
        "position_bias": statistics.mean(_first_shown_wins(judged)),
        "mean_points": _mean_points(judged),
        "candidate longer": _win_rate(longer),
        "candidate shorter": _win_rate(shorter),
    }


def _win_rate(records: list[Record]) -> dict[str, Any]:
    """Return how often the second answer won (a tie is half), with a bootstrap interval.

    Args:
        records: Judged questions.
    """
    values = [WORTH[record["verdict"]] for record in records]
    return {"n": len(values), **statistics.win_rate(values)}


def _first_shown_wins(records: list[Record]) -> list[bool]:
    """Return for each order with a winner whether the answer shown first won.

    With a judge that has no position bias, the answer shown first wins half of them.
    """
    wins = []
    for record in records:
        for turned, (first, second) in enumerate(record["points"]):
            if first != second:
                shown_first_is_first = turned == 0
                wins.append((first > second) == shown_first_is_first)
    return wins


def _mean_points(records: list[Record]) -> dict[str, float | None]:
    """Return the mean points of both answers."""
    first, second = [], []
    for record in records:
        for pair in record["points"]:
            first.append(pair[0])
            second.append(pair[1])
    return {"first": statistics.mean(first), "second": statistics.mean(second)}


def report_rows(judgement: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """Return a report as rows, one for each figure.

    Args:
        judgement: From `report`.
        label: The heading of the values.

    Returns:
        Rows {what, label}.
    """
    rows = []
    for name, value in judgement.items():
        if isinstance(value, dict):
            for part, figure in value.items():
                rows.append({"what": f"{name}, {part}", label: figure})
        else:
            rows.append({"what": name, label: value})
    return rows
