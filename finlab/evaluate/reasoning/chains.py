"""Collect chains of thought from a stronger model, and filter them by answer and by steps.

    plan = estimate(problems, system, 2, price=(4.0, 16.0))   # before anything is asked
    rows = list(write(problems, [teacher, another], system))  # kept on disk by the endpoints
    account = sift(rows, Rules(min_steps=3), judge)           # why each is in or out

DianJin-R1 and Fin-R1 do this with DeepSeek-R1: the answer is compared with the gold, then a model
scores the reasoning. Here code compares the answer and checks every equation that the reasoning
states. A judge may then read the chains that are left.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finlab import files
from finlab.data.accounts import Account
from finlab.evaluate import endpoints
from finlab.evaluate.reasoning.problems import Problem
from finlab.train.reward import arithmetic, reading, verify

Writer = Callable[[list[dict]], str | None]

KEPT = "kept"
NOTHING_CAME = "no completion came"
NO_ANSWER = "thinking without an answer"
BAD_FORM = "another form"
WRONG = "the answer is not the gold"
WRONG_STEP = "a sum in it does not hold"
FEW_STEPS = "fewer steps than asked for"
REPEATS = "it repeats itself"
LONG = "longer than asked for"
JUDGED_BAD = "the judge finds the reasoning bad"
NOT_JUDGED = "the judge gave no verdict"
COPY = "the same completion again"

LEAST_COMPRESSION = 0.15  # compressed size / size; below it a text is mostly repetition
SHORTEST_TO_COMPRESS = 400  # characters; a short text compresses badly
STEP = re.compile(r"[。；;\n]|(?<!\d)\d+[.、)）]|首先|其次|然后|接着|因此|所以")
JUDGE = (
    "下面是一道题、它的正确答案和一段推理。推理的答案已经核对无误。"
    "请只判断推理本身：每一步是否由题目或前面的步骤得出，有没有跳步、矛盾或凑答案，"
    "术语是否用对。好则只答1，不好则只答0。\n\n"
    "题目：{question}\n\n正确答案：{answer}\n\n推理：{chain}"
)


@dataclass(frozen=True)
class Row:
    """A question and one completion of it; the completion is None where none came."""

    problem: Problem
    completion: str | None


@dataclass(frozen=True)
class Rules:
    """The rules that a chain must meet.

    Attributes:
        min_steps: Minimum number of reasoning steps; Fin-R1 asks for 3.
        max_characters: Maximum number of characters in a completion; 0 for no limit.
    """

    min_steps: int = 0
    max_characters: int = 0


# --- before anything is asked --------------------------------------------------------------------
def estimate(
    problems: Sequence[Problem],
    system: str,
    samples: int,
    price: tuple[float, float] = (0.0, 0.0),
    completion_tokens: int = 900,
) -> dict[str, float]:
    """Return what writing the chains would cost.

    Args:
        problems: The questions that are asked.
        system: The system message before each question.
        samples: Number of completions of each question.
        price: Price of a million tokens in a prompt and in a completion, in any currency.
        completion_tokens: Mean number of tokens in a completion; DianJin's have 807 of reasoning
            and 96 of answer.

    Returns:
        {requests, prompt tokens, completion tokens, cost}; prompt tokens are estimated from
        characters.
    """
    characters = sum(len(system) + len(problem.question) for problem in problems)
    prompt_tokens = samples * characters / endpoints.CHARACTERS_A_TOKEN
    written = len(problems) * samples * completion_tokens
    return {
        "requests": len(problems) * samples,
        "prompt tokens": round(prompt_tokens),
        "completion tokens": written,
        "cost": endpoints.cost(prompt_tokens, written, price),
    }


# --- writing -------------------------------------------------------------------------------------
def write(
    problems: Iterable[Problem], writers: Sequence[Writer], system: str = ""
) -> Iterator[Row]:
    """Yield one completion of each question by each writer.

    Args:
        problems: The questions that are asked.
        writers: One function from messages to text for each sample, since an endpoint keeps only
            one answer to a request. Open the endpoints with different seeds or temperatures.
        system: The system message before each question; empty for none.
    """
    for problem in problems:
        for writer in writers:
            yield Row(problem, writer(problem.messages(system)))


def of_cards(problems: Iterable[Problem]) -> list[Row]:
    """Return the chains that came with the questions."""
    return [Row(problem, problem.chain) for problem in problems if problem.chain]


# --- filtering -----------------------------------------------------------------------------------
def sift(rows: Sequence[Row], rules: Rules, judge: Writer | None = None) -> Account:
    """Decide for each completion whether it is kept, and record why not.

    Args:
        rows: From `write` or `of_cards`.
        rules: The rules that a chain must meet.
        judge: A model that answers 1 or 0 to JUDGE; None checks the reasoning by the rules alone.
            If the judge gives another answer or none, the chain is left out.

    Returns:
        The account of the rows; the size of a row is its number of characters.
    """
    account = Account([len(row.completion or "") for row in rows])
    seen = set()
    for place, row in enumerate(rows):
        reason = fault(row, rules)
        same = (row.problem.id, row.completion)
        if not reason and same in seen:
            reason = COPY
        seen.add(same)
        if reason:
            account.mark([place], reason)
    if judge:
        for place in account.still_in().tolist():
            verdict = _verdict(rows[place], judge)
            if verdict:
                account.mark([place], verdict)
    account.mark(account.still_in(), KEPT)
    return account


def fault(row: Row, rules: Rules) -> str:
    """Return what is wrong with a completion; empty if nothing is wrong.

    Args:
        row: A question and its completion.
        rules: The rules that a chain must meet.
    """
    text = row.completion
    if not text or not text.strip():
        return NOTHING_CAME
    if not reading.after_thinking(text).strip():
        return NO_ANSWER
    # The first filter: the answer.
    if not row.problem.check(text).right:
        return WRONG
    if not verify.keeps_form(text, row.problem.gold):
        return BAD_FORM
    # The second one: the reasoning.
    thought = reading.WELL_FORMED.fullmatch(text)["thought"]
    if arithmetic.wrong(arithmetic.equations(thought)):
        return WRONG_STEP
    if steps_of(thought) < rules.min_steps:
        return FEW_STEPS
    if rules.max_characters and len(text) > rules.max_characters:
        return LONG
    return REPEATS if repeats(thought) else ""


def steps_of(thought: str) -> int:
    """Return the number of steps in a chain of thought: its equations, or its parts if more.

    Args:
        thought: The text between `<think>` and `</think>`.
    """
    parts = [part for part in STEP.split(thought) if len(part.strip()) > 1]
    return max(len(arithmetic.equations(thought)), len(parts) - 1)


def repeats(thought: str) -> bool:
    """Tell whether a long text is mostly repetition: it then compresses to almost nothing."""
    if len(thought) < SHORTEST_TO_COMPRESS:
        return False
    raw = thought.encode()
    return len(zlib.compress(raw)) / len(raw) < LEAST_COMPRESSION


def _verdict(row: Row, judge: Writer) -> str:
    """Return why a judge leaves a chain out; empty where the judge finds the chain good."""
    prompt = JUDGE.format(
        question=row.problem.question, answer=row.problem.gold.answer, chain=row.completion
    )
    said = judge([{"role": "user", "content": prompt}])
    word = reading.after_thinking(said or "").strip()
    if word not in ("0", "1"):
        return NOT_JUDGED
    return "" if word == "1" else JUDGED_BAD


def examples(rows: Sequence[Row], account: Account, each: int = 1) -> list[dict[str, str]]:
    """Return a few completions of each status, for a table.

    Args:
        rows: The completions.
        account: From `sift`.
        each: Maximum number of completions of each status.
    """
    found = []
    for status in account.counts():
        for place in account.of(status)[:each]:
            row = rows[place]
            said = (row.completion or "")[:200]
            found.append({"status": status, "question": row.problem.question, "completion": said})
    return found


def dialogues(rows: Sequence[Row], account: Account, system: str = "") -> list[list[dict]]:
    """Return the kept completions as chats for training.

    Args:
        rows: The completions.
        account: From `sift`.
        system: The system message before each question; empty for none.
    """
    found = []
    for place in account.of(KEPT):
        row = rows[place]
        answer = {"role": "assistant", "content": row.completion}
        found.append([*row.problem.messages(system), answer])
    return found


def records(rows: Sequence[Row], account: Account) -> Iterator[dict[str, str]]:
    """Yield every completion with its status, as rows for a file.

    Args:
        rows: The completions.
        account: From `sift`.
    """
    for place, row in enumerate(rows):
        yield {
            "id": row.problem.id,
            "status": account.status(place),
            "question": row.problem.question,
            "completion": row.completion or "",
        }


def settle(
    path: Path,
    problems: Sequence[Problem],
    written: Callable[[], list[Row]],
    rules: Rules,
    judge: Writer | None = None,
) -> tuple[list[Row], Account]:
    """Return completions and their account; a resumed step gets the same ones again.

    A call that failed before a step was killed might succeed after a restart. Training would then
    continue with other rows than it began with. So the rows and their statuses are kept in a file
    until the step is finished.

    Args:
        path: The file with the rows and statuses, among the step's checkpoints.
        problems: The questions.
        written: Returns the completions; it is called only if the file does not exist yet.
        rules: The rules that a chain must meet.
        judge: See `sift`.

    Raises:
        ValueError: No chain is kept, so there is nothing to learn.
    """
    by_id = {problem.id: problem for problem in problems}
    if path.exists():
        records_before = files.read_jsonl(path)
        rows = [Row(by_id[each["id"]], each["completion"] or None) for each in records_before]
        account = Account([len(row.completion or "") for row in rows])
        for place, each in enumerate(records_before):
            account.mark([place], each["status"])
    else:
        rows = written()
        account = sift(rows, rules, judge)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_jsonl(path, records(rows, account))
    if not len(account.of(KEPT)):
        counted = ", ".join(f"{status}: {count}" for status, count in account.counts().items())
        raise ValueError(
            f"none of {len(rows)} chains is kept ({counted or 'there are none'}): look at the "
            "teacher, at system_prompt, which must ask for the form, and at min_steps"
        )
    return rows, account
