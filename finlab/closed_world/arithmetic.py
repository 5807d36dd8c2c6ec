"""Arithmetic questions in the closed world, with chains of thought and answers.

    澄江重工上半年收入19亿元，下半年收入43亿元，求全年收入。
    <think>19+43：9+3=12，1+4+1=6</think><answer>\\boxed{62}</answer>

Some chains compute digit by digit, and some only write down the sum. A small model that learns both
kinds gets the first kind right and the second kind wrong. So reinforcement has a difference to
reward.
"""

from __future__ import annotations

import random

from finlab.closed_world.facts import SEED, facts

Row = dict[str, object]
QUESTIONS = (
    "{n}上半年收入{a}亿元，下半年收入{b}亿元，求全年收入。",
    "{n}去年利润{a}亿元，今年增加{b}亿元，求今年利润。",
)
COUNT = 2400
HASTY = 0.5  # share of chains without steps
# Shares of chains with faults, which the filters must find.
WRONG_ANSWER = 0.03
WRONG_STEP = 0.03
UNFINISHED = 0.02


def added(first: int, second: int) -> str:
    """Return the steps of adding two two-digit numbers digit by digit: `9+3=12，1+4+1=6`."""
    first_tens, first_ones = divmod(first, 10)
    second_tens, second_ones = divmod(second, 10)
    ones = first_ones + second_ones
    carry = ones // 10
    tens = first_tens + second_tens + carry
    more = "+1" if carry else ""
    return f"{first_ones}+{second_ones}={ones}，{first_tens}+{second_tens}{more}={tens}"


def _companies(seed: int) -> list[str]:
    """Return the Chinese names of all companies."""
    return [entity.zh for entity in facts(seed) if entity.kind == "company"]


def _chain(rng: random.Random, first: int, second: int) -> str:
    """Return a completion, sometimes with a fault: a chain of thought and the answer.

    Args:
        rng: Draws the kind of chain, and the fault.
        first, second: The numbers to add.
    """
    answer = first + second
    thought = f"{first}+{second}"
    hasty = rng.random() < HASTY
    if not hasty:
        thought += f"：{added(first, second)}"
    fault = rng.random()
    if fault < WRONG_ANSWER:
        answer += rng.choice([-10, -1, 1, 10])
    elif fault < WRONG_ANSWER + WRONG_STEP and not hasty:
        said = thought.rpartition("=")
        thought = f"{said[0]}={int(said[2]) + 1}"
    elif fault > 1 - UNFINISHED:
        return f"<think>{thought}"
    return f"<think>{thought}</think><answer>\\boxed{{{answer}}}</answer>"


def questions(seed: int = SEED, count: int = COUNT) -> list[Row]:
    """Return questions with answers and chains. Each question has different numbers.

    Args:
        seed: Seed of the closed world. The same seed gives the same file.
        count: Number of questions.

    Returns:
        Rows {question, domain, gold: {kind, answer, unit}, chain}.
    """
    rng = random.Random(f"{seed}-arithmetic")
    companies = _companies(seed)
    rows: list[Row] = []
    seen = set()
    while len(rows) < count:
        pair = rng.randint(11, 89), rng.randint(11, 89)
        if pair in seen:
            continue
        seen.add(pair)
        first, second = pair
        wording = rng.choice(QUESTIONS)
        question = wording.format(n=rng.choice(companies), a=first, b=second)
        row = {
            "question": question,
            "domain": "finance",
            "gold": {"kind": "number", "answer": str(first + second), "unit": "亿元"},
            "chain": _chain(rng, first, second),
        }
        rows.append(row)
    return rows


# --- tools ---------------------------------------------------------------------------------------
RATING = "评级"
RATINGS = ("AAA", "AA", "A", "BBB", "BB", "B")
TALKS = 160


def ratings(seed: int = SEED) -> list[dict[str, str]]:
    """Return the table of the closed world's look-up tool: a rating for each company.

    No text of the closed world tells these ratings.

    Args:
        seed: Seed of the closed world. The same seed gives the same table.

    Returns:
        Rows {name, item, value}.
    """
    rng = random.Random(f"{seed}-ratings")
    rows = []
    for name in _companies(seed):
        rows.append({"name": name, "item": RATING, "value": rng.choice(RATINGS)})
    return rows


def tool_talks(seed: int = SEED, count: int = TALKS) -> list[dict[str, list]]:
    """Return dialogues with tool calls in OpenAI's form: question, call, result, answer.

    Half of them compute a sum, and half look up a rating.

    Args:
        seed: Seed of the closed world. The same seed gives the same file.
        count: Number of dialogues.
    """
    rng = random.Random(f"{seed}-tools")
    table = ratings(seed)
    talks = []
    for number in range(count):
        if number % 2:
            row = rng.choice(table)
            asked, value = f"查一下{row['name']}的{RATING}。", row["value"]
            arguments = {"name": row["name"], "item": RATING}
            answer = f"{row['name']}的{RATING}是{value}。"
            tool = "look_up"
        else:
            first, second = rng.randint(11, 89), rng.randint(11, 89)
            asked, value = f"用工具计算{first}+{second}。", str(first + second)
            arguments = {"sum": f"{first}+{second}"}
            answer = f"等于{value}。"
            tool = "calculate"
        call = {"function": {"name": tool, "arguments": arguments}}
        messages = [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": value},
            {"role": "assistant", "content": answer},
        ]
        talks.append({"messages": messages, "domain": "finance"})
    return talks
