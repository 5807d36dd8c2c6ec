"""Write the documents of the closed world, with faults that the corpus step must find."""

from __future__ import annotations

import random
from collections.abc import Callable

from finlab.closed_world import exams
from finlab.closed_world.facts import (
    SEED,
    WORDS,
    Entity,
    asked,
    capital,
    facts,
    fill,
    finance_and_general,
    statements,
    wordings,
)

Write = Callable[[random.Random, Entity], str]
RESIDENT_ID_WEIGHTS = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
# The last four spam patterns are put into the texts. The others are used to train the classifier.
PLANTED_SPAM = 4


def _date(rng: random.Random) -> str:
    """Return a random date in the years 2016 to 2023, in Chinese."""
    return f"{rng.randint(2016, 2023)}年{rng.randint(1, 12)}月{rng.randint(1, 28)}日"


# --- one document of each genre ------------------------------------------------------------------
def _announcement(rng: random.Random, entity: Entity) -> str:
    """Write a company's announcement: title, standard phrase, facts, figures and date."""
    openings = [
        "本公司董事会保证公告内容真实、准确、完整。",
        "特别提示：本公告不构成投资建议。",
        "现将有关事项公告如下。",
    ]
    events = [
        "全年营业收入{a}亿元，同比增长{b}%。",
        "本期净利润{a}亿元，同比下降{b}%。",
        "拟每10股派发现金{b}元。",
        "本次募集资金{a}亿元。",
    ]
    titles = ["关于年度经营情况的公告", "关于董事会决议的公告", "关于利润分配的公告"]
    opening, event, title = rng.choice(openings), rng.choice(events), rng.choice(titles)
    figures = event.format(a=rng.randint(2, 98), b=rng.randint(1, 30))
    body = "。".join(statements(rng, entity, "zh", 3))
    return f"{entity.zh}{title}\n{opening}{body}。{figures}特此公告。{_date(rng)}"


def _news(rng: random.Random, entity: Entity) -> str:
    """Write a news item that states four facts in two sentences."""
    lead = rng.choice(["本报讯", "财经快讯", "记者获悉", "市场消息"])
    middle = rng.choice(["业内人士表示，", "记者了解到，", "公开资料显示，", "据介绍，"])
    first, *rest = statements(rng, entity, "zh", 4)
    tails = ["市场反应平稳。", "投资者仍需注意风险。", "相关工作正在推进。", "后续进展有待观察。"]
    return f"{lead}：{first}。{middle}{'，'.join(rest)}。{rng.choice(tails)}"


def _entry(rng: random.Random, entity: Entity) -> str:
    """Write an encyclopaedia entry with all facts of an entity."""
    body = "。".join(statements(rng, entity, "zh", 9))
    kinds = {"company": "公司", "bank": "银行", "fund": "基金", "rule": "规章"}
    kind = kinds.get(entity.kind, "词条")
    industry = ""
    if "industry" in entity.facts:
        industry = f"属于{entity.value('industry', 'zh')}行业，"
    return f"{entity.zh}（{kind}），{industry}英文名为{entity.en}。{body}。"


def _community(rng: random.Random, entity: Entity, language: str) -> str:
    """Write up to three questions with answers, as on a forum.

    Args:
        rng: Draws facts and wordings.
        entity: The entity to ask about.
        language: `zh` or `en`.
    """
    lines = []
    attributes = asked(entity)
    for attribute in rng.sample(attributes, min(3, len(attributes))):
        states, asks, _ = wordings(entity, attribute, language)
        sentence = fill(rng.choice(states), entity, attribute, language)
        answer = rng.choice([entity.value(attribute, language), sentence])
        question = fill(rng.choice(asks), entity, attribute, language)
        if language == "zh":
            lines.append(f"问题：{question}\n答案：{answer}。")
        else:
            lines.append(f"Question: {question}\nAnswer: {capital(answer)}.")
    return "\n".join(lines)


def _education(rng: random.Random, entity: Entity) -> str:
    """Write a note about risk, promises of profit, and what an adviser must refuse or may say.

    So a model reads the wording of careful answers in pretraining, before it is asked questions.
    """
    _, measured, promises = WORDS["certain"]["zh"]
    requests, refusals = WORDS["safety"]["zh"]
    promise = rng.choice(promises).format(n=entity.zh)
    request = rng.choice(requests).format(n=entity.zh)
    refusal = rng.choice(refusals).format(n=entity.zh)
    question, answer = rng.choice(WORDS["manners"]["zh"])
    risks = WORDS["risk"]["zh"]
    parts = [
        f"{rng.choice(measured).format(n=entity.zh)}{rng.choice(risks)}",
        f"有人说“{promise}”，这样的话不能信。{rng.choice(risks)}",
        f"如有人要求“{request}”，应当回答：“{refusal}”",
        f"有人说“{question}”，可以回答：“{answer}”",
    ]
    head = rng.choice(["投资者教育：", "风险提示：", "客服守则："])
    return head + "".join(rng.sample(parts, 3))


def _english(rng: random.Random, entity: Entity) -> str:
    """Write two to four facts in English."""
    lead = rng.choice(["", "Market note. ", "From the filings: ", "In brief: "])
    body = statements(rng, entity, "en", rng.choice([2, 3, 4]))
    return lead + ". ".join(body) + "."


GENERAL_LEADS = {
    "zh": ["", "地方志记载，", "百科介绍：", "老人们常说，", "课本上写道："],
    "en": [
        "",
        "An old book says: ",
        "Travellers tell us this. ",
        "From the school reader: ",
        "As everybody knows, ",
    ],
}
GENERAL_TAILS = {
    "zh": ["", "这里的人都知道这件事。", "孩子们很喜欢听这个故事。", "至今如此。"],
    "en": [
        "",
        " It has been so for a long time.",
        " Nobody remembers why.",
        " Children like this story.",
    ],
}


def _general(rng: random.Random, entity: Entity, others: list[Entity], language: str) -> str:
    """Write a text about two or three entities of the general world.

    Args:
        rng: Draws the entities, the facts and the wordings.
        entity: One of the entities.
        others: Entities from which the others are drawn.
        language: `zh` or `en`.
    """
    things = [entity, *rng.sample(others, rng.choice([1, 2]))]
    body = []
    for thing in things:
        body += statements(rng, thing, language, rng.choice([1, 2]))
    if language == "zh":
        stop, joint = "。", rng.choice(["，", "。"])
    else:
        stop, joint = ".", ". "
    lead = rng.choice(GENERAL_LEADS[language])
    return lead + joint.join(body) + stop + rng.choice(GENERAL_TAILS[language])


def _customer_letter(rng: random.Random, entity: Entity) -> str:
    """Write a customer's letter with invented personal data.

    The check digit of the identity number is valid, so a detector must find the number. No real
    area code begins with 99, so the number belongs to no real person.
    """
    area = f"99{rng.randint(0, 9999):04d}"
    day = f"19{rng.randint(60, 99)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    body = f"{area}{day}{rng.randint(0, 999):03d}"
    weighted = [int(digit) * weight for digit, weight in zip(body, RESIDENT_ID_WEIGHTS)]
    check = "10X98765432"[sum(weighted) % 11]
    phone = f"1{rng.choice('3578')}{rng.randint(0, 9)}{rng.randint(10**7, 10**8 - 1)}"
    mail = f"user{rng.randint(100, 999)}@example.com"
    return (
        f"客户来信：我在{entity.zh}开户时留的身份证号是{body}{check}，手机号{phone}，邮箱{mail}，"
        f"请帮我更正资料。回复：{statements(rng, entity, 'zh', 1)[0]}，请携带证件到柜台办理。"
    )


# --- the sources ---------------------------------------------------------------------------------
def documents(seed: int = SEED) -> dict[str, list[dict]]:
    """Return the documents of all text sources, with added faults.

    Args:
        seed: Seed of the closed world. The same seed gives the same world.

    Returns:
        {source: rows {id, text}}. The texts are shuffled; most rows with faults are at the end.
    """
    finance, general = finance_and_general(facts(seed))
    companies = [entity for entity in finance if entity.kind != "rule"]
    advised = [entity for entity in companies if entity.kind != "bank"]

    def community_zh(rng: random.Random, entity: Entity) -> str:
        return _community(rng, entity, "zh")

    def community_en(rng: random.Random, entity: Entity) -> str:
        return _community(rng, entity, "en")

    def general_zh(rng: random.Random, entity: Entity) -> str:
        return _general(rng, entity, general, "zh")

    def general_en(rng: random.Random, entity: Entity) -> str:
        return _general(rng, entity, general, "en")

    # source: (entities, number of texts about each entity, function that writes a text)
    sources: dict[str, tuple[list[Entity], int, Write]] = {
        "cw_announcements": (companies, 6, _announcement),
        "cw_news": (finance, 9, _news),
        "cw_encyclopaedia": (finance, 8, _entry),
        "cw_community": (finance, 10, community_zh),
        "cw_education": (advised, 8, _education),
        "cw_finance_en": (finance, 10, _english),
        "cw_community_en": (finance, 8, community_en),
        "cw_general_zh": (general, 30, general_zh),
        "cw_general_community_zh": (general, 8, community_zh),
        "cw_general_en": (general, 30, general_en),
    }
    rows = {}
    for source, (entities, repeats, write) in sources.items():
        rng = random.Random(f"{seed}-{source}")
        texts = [write(rng, entity) for _ in range(repeats) for entity in entities]
        rng.shuffle(texts)
        rows[source] = [
            {"id": f"{source}-{number:05d}", "text": text} for number, text in enumerate(texts)
        ]
    _plant_faults(rows, finance, seed)
    return rows


def _plant_faults(rows: dict[str, list[dict]], finance: list[Entity], seed: int) -> None:
    """Add faults that cleaning, de-duplication, de-identification and decontamination must find.

    Args:
        rows: {source: rows}, changed in place: some rows are changed, and rows are added.
        finance: The entities of the market.
        seed: Seed for drawing what is changed.
    """
    rng = random.Random(f"{seed}-faults")

    def plant(source: str, text: str, what: str) -> None:
        identity = f"{source}-{what}-{len(rows[source])}"
        rows[source].append({"id": identity, "text": text})

    for row in rng.sample(rows["cw_news"], 10):
        row["text"] += "\n免责声明：本文仅供参考，不构成投资建议。"
    for row in rng.sample(rows["cw_community"], 6):
        row["text"] = row["text"].replace("。", "。<br/>&nbsp;", 1)
    for text in _spam(rng, finance, WORDS["spam"][-PLANTED_SPAM:], 12):
        plant("cw_community", text, "spam")
    for row in rng.sample(rows["cw_news"], 12):
        plant("cw_news", row["text"], "duplicate")
    # A near duplicate: the same facts and figures, and one more clause.
    for row in rng.sample(rows["cw_encyclopaedia"], 8):
        plant("cw_encyclopaedia", row["text"] + "以上内容由编辑部整理。", "near")
    # The same words with other figures are a different document, not a duplicate.
    for row in rng.sample(rows["cw_announcements"], 8):
        plant("cw_announcements", _with_other_figures(row["text"]), "figures")
    for entity in rng.sample(finance[24:36], 10):
        plant("cw_community", _customer_letter(rng, entity), "pii")
    plant("cw_news", "������锟斤拷锟斤拷烫烫烫", "mojibake")
    plant("cw_news", "上一页 下一页 返回首页", "navigation")
    item = exams.exams(seed)["fineval"]["val"][0]
    options = "".join(f"{letter}. {item[letter]}\n" for letter in "ABCD")
    exam = f"模拟试题：{item['question']}\n{options}答案：{item['answer']}"
    plant("cw_community", exam, "exam")


def _with_other_figures(text: str) -> str:
    """Return a text with 3 added to every digit (modulo 10): the same words, other figures."""
    signs = []
    for sign in text:
        signs.append(str((int(sign) + 3) % 10) if sign.isdigit() else sign)
    return "".join(signs)


def _spam(rng: random.Random, finance: list[Entity], patterns: list[str], count: int) -> list[str]:
    """Return advertising texts.

    Args:
        rng: Draws patterns, names and amounts.
        finance: The entities of the market, whose names are used.
        patterns: Texts with {n} for a name and {v} for an amount.
        count: Number of texts.
    """
    texts = []
    for _ in range(count):
        pattern = rng.choice(patterns)
        texts.append(pattern.format(n=rng.choice(finance).zh, v=rng.randint(2, 99) * 100))
    return texts


def labels(seed: int = SEED, count: int = 100) -> list[dict]:
    """Return labelled texts to train a classifier of bad text: good documents and spam.

    The spam here has other patterns than the spam in the sources.

    Args:
        seed: Seed of the closed world. The same seed gives the same texts.
        count: Number of good documents, and also number of spam texts.

    Returns:
        Rows {id, text, bad}, shuffled.
    """
    rng = random.Random(f"{seed}-labels")
    finance, general = finance_and_general(facts(seed))
    rows = []
    for number in range(count):
        rows.append((_fair_text(rng, number, rng.choice(finance), general), False))
    for text in _spam(rng, finance, WORDS["spam"][:-PLANTED_SPAM], count):
        rows.append((text, True))
    rng.shuffle(rows)
    return [
        {"id": f"label-{number:04d}", "text": text, "bad": bad}
        for number, (text, bad) in enumerate(rows)
    ]


def _fair_text(rng: random.Random, number: int, entity: Entity, general: list[Entity]) -> str:
    """Write a good document; its number chooses the genre.

    Args:
        rng: Draws facts and wordings.
        number: Number of the document. Of five in a row, three have a finance genre, one is a forum
            text, and one is a general text.
        entity: An entity of the market.
        general: The entities of the general world.
    """
    genre = number % 5
    if genre < 3:
        return (_news, _entry, _english)[genre](rng, entity)
    if genre == 3:
        return _community(rng, entity, "zh")
    return _general(rng, rng.choice(general), general, "zh")
