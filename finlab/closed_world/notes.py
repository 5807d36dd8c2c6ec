"""Internal data of a bank in the closed world: customer notes, internal rules, questions.

No model has read these data in training. So if an answer has a figure from a note, the model has
taken it from the note.
"""

from __future__ import annotations

import random

from finlab.closed_world.facts import (
    SEED,
    Entity,
    asked,
    facts,
    fill,
    finance_and_general,
    wordings,
)

Row = dict[str, str]
CUSTOMERS = 30
RATINGS = ("AAA", "AA+", "AA", "AA-", "A+", "A", "BBB+", "BBB")
# {item of a note: (statement, question)}, with {n} for the customer and {v} for the value.
NOTED = {
    "credit": ("{n}在本行的授信额度为{v}", "{n}在本行的授信额度是多少？"),
    "rating": ("本行对{n}的内部评级为{v}", "本行对{n}的内部评级是什么？"),
    "officer": ("{n}的客户经理是{v}", "{n}的客户经理是谁？"),
    "review": ("{n}的下一次复评定于{v}", "{n}的下一次复评在什么时候？"),
}
# Questions that no data of the closed world can answer.
UNKNOWN = (
    "{n}有多少名员工？",
    "{n}的审计机构是哪一家？",
    "{n}昨天的收盘价是多少？",
    "{n}的官方网站地址是什么？",
)
STRANGE = (
    "明天会下雨吗？",
    "红烧肉要炖多久？",
    "怎样训练小狗坐下？",
    "哪部电影得了最佳影片奖？",
    "感冒了应该吃什么药？",
    "从家里到车站怎么走？",
)
RULES = "授信管理办法"
VERSIONS = {  # date: (ceiling, days, years)
    "2019-03-01": ("2亿元", "15个工作日", "1年"),
    "2021-07-01": ("3亿元", "10个工作日", "2年"),
    "2023-09-01": ("5亿元", "7个工作日", "3年"),
}


def _noted(rng: random.Random, officers: list[str]) -> dict[str, str]:
    """Return random values for a note on a customer, {item: value}."""
    return {
        "credit": f"{rng.randint(12, 980) / 10:g}亿元",
        "rating": rng.choice(RATINGS),
        "officer": rng.choice(officers),
        "review": f"{rng.randint(2024, 2026)}年{rng.randint(1, 12)}月{rng.randint(1, 28)}日",
    }


def _customers(seed: int) -> list[tuple[Entity, dict[str, str]]]:
    """Return (customer, values of its note) for each customer of the bank."""
    rng = random.Random(f"{seed}-notes")
    chosen = rng.sample(_companies_and_funds(seed), CUSTOMERS)
    officers = _officers(rng)
    return [(entity, _noted(rng, officers)) for entity in chosen]


def _companies_and_funds(seed: int) -> list[Entity]:
    """Return all entities that may be customers of a bank: companies and funds."""
    finance, _ = finance_and_general(facts(seed))
    return [entity for entity in finance if entity.kind in ("company", "fund")]


def _officers(rng: random.Random) -> list[str]:
    """Return random names for the bank's account managers."""
    surnames = "赵钱孙李周吴郑王冯陈"
    return [f"{rng.choice(surnames)}{given}" for given in ("敏", "凯", "宁", "睿", "珊", "哲")]


def _note(rng: random.Random, name: str, noted: dict[str, str]) -> str:
    """Write the note on a customer, with its sentences in random order.

    Args:
        rng: Draws the order and the date.
        name: Name of the customer.
        noted: {item: value} of the note.
    """
    told = [NOTED[what][0].format(n=name, v=value) for what, value in noted.items()]
    rng.shuffle(told)
    date = f"{rng.randint(2022, 2023)}年{rng.randint(1, 12)}月{rng.randint(1, 28)}日"
    return f"{name}客户档案\n{'。'.join(told)}。\n{date}"


def notes(seed: int = SEED) -> list[Row]:
    """Return the notes on customers as rows {id, text}.

    Args:
        seed: Seed of the closed world. The same seed gives the same notes.
    """
    rng = random.Random(f"{seed}-note-texts")
    rows = []
    for number, (entity, noted) in enumerate(_customers(seed)):
        rows.append({"id": f"客户档案-{number:03d}", "text": _note(rng, entity.zh, noted)})
    return rows


def desk_talks(seed: int = SEED, count: int = 360) -> list[dict]:
    """Return questions at a bank's desk with the notes that were looked up, in DISC's format.

    The questions are about entities that are not customers in `notes`, and every row has new random
    values. So the value in an answer can only come from the note in the same row.

    Args:
        seed: Seed of the closed world. The same seed gives the same rows.
        count: Number of rows.

    Returns:
        Rows {instruction, input, output, history, reference}.
    """
    rng = random.Random(f"{seed}-desk")
    finance, general = finance_and_general(facts(seed))
    known = {entity.zh for entity, _ in _customers(seed)}
    others = [entity.zh for entity in finance + general if entity.zh not in known]
    others = [name for name in others if "《" not in name]
    rows = []
    for _ in range(count):
        name, stranger = rng.sample(others, 2)
        officers = _officers(rng)
        noted = _noted(rng, officers)
        what = rng.choice(sorted(noted))
        statement, question = NOTED[what]
        passages = [_note(rng, name, noted), _note(rng, stranger, _noted(rng, officers))]
        rng.shuffle(passages)
        row = {
            "instruction": question.format(n=name),
            "input": "",
            "output": statement.format(n=name, v=noted[what]) + "。",
            "history": [],
            "reference": passages,
        }
        rows.append(row)
    return rows


def names(seed: int = SEED) -> list[Row]:
    """Return a table of the market's names as rows {name, kind, code, others}.

    Args:
        seed: Seed of the closed world. The same seed gives the same table.
    """
    finance, _ = finance_and_general(facts(seed))
    rows = []
    people: dict[str, None] = {}
    for number, entity in enumerate(finance):
        code = f"{600100 + number}" if entity.kind == "company" else ""
        row = {"name": entity.zh, "kind": entity.kind, "code": code, "others": entity.en}
        rows.append(row)
        for attribute in ("chair", "president", "manager"):
            if attribute in entity.facts:
                people[entity.value(attribute, "zh")] = None
    for person in people:
        rows.append({"name": person, "kind": "person", "code": "", "others": ""})
    return rows


def rules() -> dict[str, str]:
    """Return the versions of the bank's internal rule, {file name: Markdown}."""
    found = {}
    for date, (ceiling, days, years) in VERSIONS.items():
        articles = [
            "第一条 为了规范授信业务，防范信用风险，制定本办法。",
            f"第二条 对单一客户的授信总额不得超过{ceiling}。",
            f"第三条 授信申请应当在{days}内审批完毕。",
            f"第四条 授信期限最长为{years}，到期前应当复评。",
        ]
        found[f"{RULES}({date}).md"] = "\n\n".join([f"# {RULES}", "## 第一章 总则", *articles, ""])
    return found


def questions(seed: int = SEED) -> list[Row]:
    """Return questions for the three tiers, as rows {question, reference, domain, from}.

    `from` names the tier that has the answer: `domain`, `customer` or `none`. A question about the
    rule names a year, which determines the version of the rule.

    Args:
        seed: Seed of the closed world. The same seed gives the same questions.
    """
    rng = random.Random(f"{seed}-knowledge-questions")
    finance, _ = finance_and_general(facts(seed))
    rows: list[Row] = []

    def add(question: str, reference: str, tier: str) -> None:
        row = {"question": question, "reference": reference, "domain": "finance", "from": tier}
        rows.append(row)

    known = [(entity, attribute) for entity in finance for attribute in asked(entity)]
    for entity, attribute in rng.sample(known, 80):
        question = fill(rng.choice(wordings(entity, attribute, "zh")[1]), entity, attribute, "zh")
        add(question, entity.value(attribute, "zh"), "domain")
    for entity, noted in _customers(seed):
        for name in rng.sample(sorted(noted), 2):
            add(NOTED[name][1].format(n=entity.zh), noted[name], "customer")
    for (ceiling, days, _), year in zip(VERSIONS.values(), (2020, 2022, 2024), strict=True):
        add(f"{year}年，{RULES}规定对单一客户的授信总额不得超过多少？", ceiling, "customer")
        add(f"{year}年，按{RULES}，授信申请应当在多久内审批完毕？", days, "customer")
    for entity in rng.sample(finance, 40):
        add(rng.choice(UNKNOWN).format(n=entity.zh), "", "none")
    for question in STRANGE:
        add(question, "", "none")
    rng.shuffle(rows)
    return rows
