"""Let a model write questions and answers from documents: XuanYuan's Self-QA, filtered.

    plan = estimate(passages, questions_each=3, price=(2.0, 6.0))     # before anything is asked
    rows = write(passages, writer, questions_each=3)
    account = sift(rows, exam_items)                                  # why each is in or out

`writer` is any function from messages to a text, such as an `endpoints.Endpoint`. An endpoint keeps
its answers on disk, so a killed run continues where it stopped and pays for nothing twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from finlab.data import selection
from finlab.data.accounts import Account
from finlab.evaluate import endpoints
from finlab.evaluate.knowledge import citing
from finlab.evaluate.knowledge.passages import Passage

Writer = Callable[[list[dict]], str | None]
Row = dict[str, Any]  # {passage, question, answer}

ASK = (
    "下面是一段资料。请写出{count}个只凭这段资料就能回答的问题，角度尽量不同。"
    "读者看不到资料，所以不要用“这”“该”“上述”等需要上文才能明白的词，要写出名称。"
    "每行一个，以“问题：”开头。\n\n资料：\n{text}"
)
ANSWER = (
    "资料：\n{text}\n\n问题：{question}\n\n"
    "请根据资料完整地回答，保持其中的数字、日期和名称不变，不要提到资料本身。"
)
LINE = re.compile(r"^\s*(?:\d+[.、)）]\s*)?问题\s*\d*\s*[:：]\s*(.+?)\s*$", re.M)
# Words that refer to something that a reader has not seen.
REFERS = re.compile(
    r"^(?:这|该|它|他|她|此|其(?!他|余)|本(?:公司|办法|文|次|条)|上述|前述|以上)"
    r"|(?:这|该|上述)(?:个|家|只|种|项|些|份|段|篇|公司|基金|银行|办法)"
)
SPEAKS_OF_SOURCE = re.compile(
    r"(?:根据|按照|依据|以上|上述|这[段份篇]|该[段份篇]|所给)(?:的)?(?:资料|材料|文章|文本|内容)"
    r"|(?:资料|材料|文章|文本|原文|文)[中里](?:并?[没未]有?)?(?:提[到及]|指出|说|写|给出)"
)
SHORTEST = 6  # minimum number of characters in a question

REFERS_TO_NOTHING = "a pronoun refers to nothing"
OF_THE_SOURCE = "it speaks of the source"
NO_ANSWER = "no answer came"
NOT_SUPPORTED = "the passage does not support the answer"
WRITTEN = "kept"


# --- before anything is asked --------------------------------------------------------------------
def estimate(
    passages: Sequence[Passage],
    questions_each: int,
    price: tuple[float, float] = (0.0, 0.0),
    answer_characters: int = 120,
) -> dict[str, float]:
    """Return what writing the questions and answers would cost.

    Args:
        passages: The passages to write about.
        questions_each: Number of questions for each passage.
        price: Price of a million tokens in a prompt and in an answer, in any currency.
        answer_characters: Mean number of characters in an answer.

    Returns:
        {requests, prompt tokens, answer tokens, cost}; tokens are estimated from characters.
    """
    characters = sum(len(passage.text) for passage in passages)
    asking = len(passages) * len(ASK) + characters
    answering = questions_each * (len(passages) * len(ANSWER) + characters)
    prompt_tokens = (asking + answering) / endpoints.CHARACTERS_A_TOKEN
    written = len(passages) * questions_each * (answer_characters + 30)
    answer_tokens = written / endpoints.CHARACTERS_A_TOKEN
    return {
        "requests": len(passages) * (1 + questions_each),
        "prompt tokens": round(prompt_tokens),
        "answer tokens": round(answer_tokens),
        "cost": endpoints.cost(prompt_tokens, answer_tokens, price),
    }


# --- writing -------------------------------------------------------------------------------------
def write(passages: Iterable[Passage], writer: Writer, questions_each: int) -> Iterator[Row]:
    """Yield questions about passages, with their answers.

    Args:
        passages: The passages to write about.
        writer: The model that writes, as a function from messages to text.
        questions_each: How many questions to ask for, for each passage.

    Yields:
        Rows {passage, question, answer}; the answer is None if no answer came.
    """
    for passage in passages:
        asked = writer(_user(ASK.format(count=questions_each, text=passage.text)))
        for question in questions_in(asked or "")[:questions_each]:
            answer = writer(_user(ANSWER.format(text=passage.text, question=question)))
            yield {"passage": passage, "question": question, "answer": answer}


def _user(text: str) -> list[dict]:
    """Return a text as messages."""
    return [{"role": "user", "content": text}]


def questions_in(text: str) -> list[str]:
    """Return the questions of a model's answer, each once."""
    return list(dict.fromkeys(LINE.findall(text)))


# --- sifting -------------------------------------------------------------------------------------
def sift(rows: Sequence[Row], items: list[dict], threshold: float = 0.85) -> Account:
    """Decide for each question and answer whether it is kept, and record why not.

    Args:
        rows: From `write`.
        items: Exam items, whose questions must not be in the training data.
        threshold: Minimum Jaccard similarity of near copies, from 0 to 1.

    Returns:
        The account of the rows; the size of a row is the characters of its question and answer.
    """
    sizes = [len(row["question"]) + len(row["answer"] or "") for row in rows]
    account = Account(sizes)
    for place, row in enumerate(rows):
        reason = fault(row)
        if reason:
            account.mark([place], reason)
    left = account.still_in().tolist()
    texts = [f"{rows[place]['question']}\n{rows[place]['answer']}" for place in left]
    if texts:
        found, _ = selection.screen({"written": texts}, items, threshold)
        for place, reason in found["written"].items():
            account.mark([left[place]], reason)
    account.mark(account.still_in(), WRITTEN)
    return account


def fault(row: Row) -> str:
    """Return what is wrong with a question and its answer; empty if nothing is wrong.

    Args:
        row: From `write`.
    """
    question, answer = row["question"], row["answer"]
    if len(question) < SHORTEST or REFERS.search(question):
        return REFERS_TO_NOTHING
    if not answer or not answer.strip():
        return NO_ANSWER
    if SPEAKS_OF_SOURCE.search(question) or SPEAKS_OF_SOURCE.search(answer):
        return OF_THE_SOURCE
    # The passage must support every sentence and every figure.
    cited = re.sub(r"([。！？!?]|$)", r"\1[1]", answer.strip(), flags=re.M)
    checked = citing.check(cited, [row["passage"]])
    faults = [each for sentence in checked.sentences for each in sentence.faults]
    if faults or not checked.sentences:
        return NOT_SUPPORTED
    return ""


def dialogue(row: Row) -> dict[str, list[dict]]:
    """Return a row as OpenAI's {messages}, which a dialogue card reads."""
    answer = {"role": "assistant", "content": row["answer"].strip()}
    return {"messages": [*_user(row["question"]), answer]}


def examples(rows: Sequence[Row], account: Account, each: int = 2) -> list[dict[str, str]]:
    """Return a few rows of each status, for a table.

    Args:
        rows: From `write`.
        account: From `sift`.
        each: Maximum number of rows of each status.
    """
    found = []
    for status in account.counts():
        for place in account.of(status)[:each]:
            row = rows[place]
            said = {"question": row["question"], "answer": row["answer"] or ""}
            found.append({"status": status, **said, "passage": row["passage"].text[:80]})
    return found
