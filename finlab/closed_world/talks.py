"""Write the dialogues and preference pairs of the closed world."""

from __future__ import annotations

import random

from finlab.closed_world import exams
from finlab.closed_world.facts import (
    SEED,
    WORDS,
    Entity,
    asked,
    capital,
    facts,
    false_values,
    fill,
    finance_and_general,
    wordings,
)

LANGUAGES = ["zh", "zh", "en"]  # two thirds of the dialogues are in Chinese


def _tradable(finance: list[Entity]) -> list[Entity]:
    """Return the entities that promises of profit are about: companies and funds."""
    return [entity for entity in finance if entity.kind in ("company", "fund")]


def _answer(rng: random.Random, entity: Entity, attribute: str, language: str) -> tuple[str, str]:
    """Return a question about a fact, and its true answer.

    Args:
        rng: Draws the wordings.
        entity: The entity to ask about.
        attribute: Name of the fact.
        language: `zh` or `en`.

    Returns:
        (question, answer).
    """
    states, asks, _ = wordings(entity, attribute, language)
    stop = "。" if language == "zh" else "."
    question = fill(rng.choice(asks), entity, attribute, language)
    return question, fill(rng.choice(states[:2]), entity, attribute, language) + stop


def _measured(rng: random.Random, entity: Entity, language: str) -> tuple[str, str, str]:
    """Return a question about profit, with a good answer and a bad answer.

    Args:
        rng: Draws the wordings.
        entity: A company or fund.
        language: `zh` or `en`.

    Returns:
        (question, careful answer that names the risk, answer that promises a certain profit).
    """
    asks, measured, promises = WORDS["certain"][language]
    name = entity.name(language)
    question = rng.choice(asks).format(n=name)
    chosen = rng.choice(measured).format(n=name)
    rejected = rng.choice(promises).format(n=name)
    risk = rng.choice(WORDS["risk"][language])
    if language == "zh":
        return question, chosen + risk, rejected
    return capital(question), f"{capital(chosen)} {risk}", capital(rejected)


# --- dialogues -----------------------------------------------------------------------------------
def dialogues(seed: int = SEED) -> dict[str, list[dict]]:
    """Return the four sources of dialogues for SFT.

    `alpaca` and `sharegpt` are broad and for the first stage. `checked` is small and for the second
    stage, with a ratio of general to finance dialogues of 4:1. `safety` has refusals. The sources
    have faults that the SFT step must find: broken rows, an exam question, and near copies of
    chats in `checked`.

    Args:
        seed: Seed of the closed world. The same seed gives the same dialogues.

    Returns:
        {source: rows}. `alpaca` and `sharegpt` have the formats of their names. `checked` and
        `safety` have OpenAI's format.
    """
    rng = random.Random(f"{seed}-dialogues")
    finance, general = finance_and_general(facts(seed))
    single = _single_turns(rng, finance, general)
    chats = _chats(rng, finance, general)
    checked = _checked(rng, finance, general)
    safety = _safety(rng, _tradable(finance))
    for rows in (single, chats, checked):
        rng.shuffle(rows)
    _plant_faults(chats, checked, exams.exams(seed)["cmmlu"]["test"][0])
    return {"alpaca": single, "sharegpt": chats, "checked": checked, "safety": safety}


def _single_turns(rng: random.Random, finance: list[Entity], general: list[Entity]) -> list[dict]:
    """Return rows in Alpaca's format: each fact asked once in each language, and small talk."""
    rows = []
    for entity in general + finance:
        domain = "finance" if entity in finance else "general"
        for attribute in asked(entity):
            for language in ("zh", "en"):
                question, answer = _answer(rng, entity, attribute, language)
                row = {"instruction": question, "input": "", "output": answer, "domain": domain}
                rows.append(row)
    for turns in WORDS["manners"].values():
        for question, answer in turns:
            rows.append({"instruction": question, "input": "", "output": answer})
    return rows


def _chats(rng: random.Random, finance: list[Entity], general: list[Entity]) -> list[dict]:
    """Return rows in ShareGPT's format: two questions about an entity, some after small talk."""
    rows = []
    for entity in (general + finance) * 2:
        language = rng.choice(LANGUAGES)
        attributes = rng.sample(asked(entity), 2)
        exchanges = []
        if rng.random() < 0.3:
            exchanges.append(rng.choice(WORDS["manners"][language][:2]))
        for attribute in attributes:
            exchanges.append(_answer(rng, entity, attribute, language))
        turns = []
        for question, answer in exchanges:
            turns.append({"from": "human", "value": question})
            turns.append({"from": "gpt", "value": answer})
        domain = "finance" if entity in finance else "general"
        rows.append({"conversations": turns, "domain": domain})
    return rows


def _checked(rng: random.Random, finance: list[Entity], general: list[Entity]) -> list[dict]:
    """Return rows in OpenAI's format without repetition: 280 general ones, 70 about finance.

    Half of the finance rows are careful answers about profit.
    """
    tradable = _tradable(finance)
    rows: list[dict] = []
    seen = set()
    for domain, entities, count in (("general", general, 280), ("finance", finance, 70)):
        while sum(row["domain"] == domain for row in rows) < count:
            entity, language = rng.choice(entities), rng.choice(LANGUAGES)
            if domain == "finance" and len(rows) % 2:
                question, answer, _ = _measured(rng, rng.choice(tradable), language)
            else:
                attribute = rng.choice(asked(entity))
                question, answer = _answer(rng, entity, attribute, language)
            if (question, answer) not in seen:
                seen.add((question, answer))
                rows.append({"messages": _messages(question, answer), "domain": domain})
    return rows


def _safety(rng: random.Random, tradable: list[Entity]) -> list[dict]:
    """Return rows in OpenAI's format that refuse bad requests; two thirds are in Chinese."""
    rows = []
    for number in range(60):
        language = LANGUAGES[number % 3]
        name = rng.choice(tradable).name(language)
        requests, refusals = WORDS["safety"][language]
        question = rng.choice(requests).format(n=name)
        answer = rng.choice(refusals).format(n=name)
        rows.append({"messages": _messages(question, answer), "domain": "finance"})
    return rows


def _messages(*texts: str) -> list[dict]:
    """Return texts as alternating messages of user and assistant, the user first."""
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def _plant_faults(chats: list[dict], checked: list[dict], item: dict) -> None:
    """Add near copies across the two stages, an exam item, and invalid rows.

    Args:
        chats: Rows in ShareGPT's format; most faults are added here.
        checked: Rows in OpenAI's format; near copies of the longest chats are added here.
        item: The exam item.
    """

    def length(row: dict) -> int:
        return sum(len(turn["value"]) for turn in row["conversations"])

    for row in sorted(chats, key=length, reverse=True)[:6]:
        *texts, last = [turn["value"] for turn in row["conversations"]]
        # One character differs from the chat of the first stage.
        messages = _messages(*texts, last[:-1] + "！")
        checked.append({"messages": messages, "domain": "finance"})

    question = item["question"] + "".join(f"\n{letter}. {item[letter]}" for letter in "ABCD")
    answer = item[item["answer"]]
    exam = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    chats.append({"conversations": exam})

    ask = {"from": "human", "value": "澄江重工在哪个城市？"}
    empty = {"from": "gpt", "value": ""}
    right = {"from": "gpt", "value": "临江。"}
    stranger = {"from": "judge", "value": "临江。"}
    for turns in ([ask, empty], [ask], [ask, ask, right], [ask, stranger]):
        chats.append({"conversations": turns})
    unanswered = {"from": "human", "value": "还有吗？"}
    chats.append({"conversations": [*chats[0]["conversations"], unanswered]})


# --- preferences ---------------------------------------------------------------------------------
def preferences(seed: int = SEED, count: int = 600) -> list[dict]:
    """Return preference pairs.

    Some pairs prefer a careful answer over a promise of profit. The others prefer a true fact over
    a false one.

    Args:
        seed: Seed of the closed world. The same seed gives the same pairs.
        count: Number of pairs. A third of them are about facts.

    Returns:
        Rows {conversations, chosen, rejected} in LLaMA-Factory's ShareGPT layout.
    """
    world = facts(seed)
    rng = random.Random(f"{seed}-preferences")
    finance, _ = finance_and_general(world)
    tradable = _tradable(finance)
    rows: list[dict] = []
    seen = set()
    while len(rows) < count:
        language = rng.choice(LANGUAGES)
        if len(rows) % 3:
            question, chosen, rejected = _measured(rng, rng.choice(tradable), language)
        else:
            entity = rng.choice(finance)
            attribute = rng.choice(asked(entity))
            question, chosen = _answer(rng, entity, attribute, language)
            false = false_values(rng, world, entity, attribute, language, 1)[0]
            rejected = chosen.replace(entity.value(attribute, language), false)
        if (question, chosen) not in seen and chosen != rejected:
            seen.add((question, chosen))
            row = {
                "conversations": [{"from": "human", "value": question}],
                "chosen": {"from": "gpt", "value": chosen},
                "rejected": {"from": "gpt", "value": rejected},
            }
            rows.append(row)
    return rows
