"""A fictional bilingual market: one table of facts, and every smoke-size source written from it.

Nothing here is real: the cities, companies, banks, funds, rules, rivers and animals are invented. Because every
document, dialogue, preference pair and exam question comes from `facts`, the smoke run can tell whether a model
learnt something: a fact is stated in several genres and wordings, and asked in wordings that stand in no training text.

    folder = closed_world.write(Path("runs/closed_world"))   # JSON lines, JSON and CSV files, as real sources come

The data cards `data_cards/cw_*.md` point at these files.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

SEED = 20231101

WORDS = yaml.safe_load((Path(__file__).parent / "closed_world.yaml").read_text(encoding="utf-8"))
WORDINGS, RISK, CERTAIN, MANNERS, SAFETY = (WORDS[name] for name in ("wordings", "risk", "certain", "manners", "safety"))


def _pairs(items: list[str] | str) -> list[tuple[str, str]]:
    """Return (Chinese, English) pairs of a list of names in closed_world.yaml."""
    return [tuple(item.split(" ", 1)) for item in (WORDS["names"][items] if isinstance(items, str) else items)]


@dataclass(frozen=True)
class Entity:
    """One invented thing: its kind, its two names and its facts {attribute: (zh value, en value)}."""

    kind: str
    zh: str
    en: str
    facts: dict[str, tuple[str, str]]


FINANCE_KINDS = ("company", "bank", "fund", "rule")


def facts(seed: int = SEED) -> list[Entity]:
    """Return the table of facts behind everything in this module; the same seed gives the same world."""
    rng = random.Random(seed)
    cities = _pairs("cities")
    people = [(a + b, f"{c} {d}") for a, c in _pairs("surnames") for b, d in _pairs("given")]
    rng.shuffle(people)
    years = [(f"{year}年", str(year)) for year in range(1984, 2016, 2)]
    entities = []

    def add(kind: str, zh: str, en: str, **values: tuple[str, str]) -> None:
        entities.append(Entity(kind, zh, en, values))

    def deal(pool: list[tuple[str, str]]):
        """Deal values like cards, reshuffled when the pack is empty: no value is so common that guessing it pays."""
        while True:
            yield from rng.sample(pool, len(pool))

    city, year, custodian = deal(cities), deal(years), deal([(f"{zh}银行", f"{en} Bank") for zh, en in _pairs("banks")])
    service, strategy, body, source, food, habitat, custom = (
        deal(_pairs(names)) for names in ("services", "strategies", "bodies", "mountains", "foods", "habitats", "customs"))
    prefixes = _pairs("prefixes")
    for industry_number, (industry, (suffix_zh, suffix_en, products)) in enumerate(WORDS["industries"].items()):
        for product_number, product in enumerate(_pairs(products)):
            zh, en = prefixes[industry_number * 3 + product_number]
            add("company", zh + suffix_zh, f"{en} {suffix_en}", city=next(city), product=product, founded=next(year),
                chair=people.pop(), industry=tuple(industry.split(" ", 1)))
    for zh, en in _pairs("banks"):
        add("bank", zh + "银行", f"{en} Bank", city=next(city), founded=next(year), president=people.pop(),
            service=next(service))
    for zh, en in _pairs("funds"):
        add("fund", zh + "基金", f"{en} Fund", manager=people.pop(), custodian=next(custodian),
            strategy=next(strategy), launched=next(year))
    for (zh, en), subject in zip(_pairs("rules"), _pairs("subjects"), strict=True):
        add("rule", f"《{zh}》", en, issuer=next(body), year=next(year), subject=subject)
    for zh, en in _pairs("rivers"):
        add("river", zh, f"the {en} River", source=next(source), mouth=next(city))
    for zh, en in _pairs("animals"):
        add("animal", zh, en, food=next(food), habitat=next(habitat))
    for zh, en in _pairs("dishes"):
        add("dish", zh, en, origin=next(city), cook=people.pop())
    for zh, en in _pairs("festivals"):
        add("festival", zh, en, place=next(city), custom=next(custom))
    return entities


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _fill(pattern: str, entity: Entity, attribute: str, language: str) -> str:
    name, value = (entity.zh, entity.facts[attribute][0]) if language == "zh" else (entity.en, entity.facts[attribute][1])
    text = pattern.format(n=name, v=value)
    return text if language == "zh" else _capital(text)


def _wordings(entity: Entity, attribute: str, language: str) -> tuple[list[str], list[str], list[str]]:
    return WORDINGS[language][f"{entity.kind}.{attribute}"]


def _asked(entity: Entity) -> list[str]:
    return [attribute for attribute in entity.facts if f"{entity.kind}.{attribute}" in WORDINGS["zh"]]


def _date(rng: random.Random) -> str:
    return f"{rng.randint(2016, 2023)}年{rng.randint(1, 12)}月{rng.randint(1, 28)}日"


# --- documents -----------------------------------------------------------------------------------------------------
def _statements(rng: random.Random, entity: Entity, language: str, count: int) -> list[str]:
    chosen = rng.sample(_asked(entity), min(count, len(_asked(entity))))
    return [_fill(rng.choice(_wordings(entity, attribute, language)[0]), entity, attribute, language) for attribute in chosen]


def _announcement(rng: random.Random, entity: Entity) -> str:
    opening = rng.choice(["本公司董事会保证公告内容真实、准确、完整。", "特别提示：本公告不构成投资建议。", "现将有关事项公告如下。"])
    event = rng.choice(["全年营业收入{a}亿元，同比增长{b}%。", "本期净利润{a}亿元，同比下降{b}%。", "拟每10股派发现金{b}元。", "本次募集资金{a}亿元。"])
    title = rng.choice(["关于年度经营情况的公告", "关于董事会决议的公告", "关于利润分配的公告"])
    figures = event.format(a=rng.randint(2, 98), b=rng.randint(1, 30))
    return f"{entity.zh}{title}\n{opening}" + "。".join(_statements(rng, entity, "zh", 3)) + f"。{figures}特此公告。{_date(rng)}"


def _news(rng: random.Random, entity: Entity) -> str:
    lead = rng.choice(["本报讯", "财经快讯", "记者获悉", "市场消息"])
    middle = rng.choice(["业内人士表示，", "记者了解到，", "公开资料显示，", "据介绍，"])
    body = _statements(rng, entity, "zh", 4)
    tail = rng.choice(["市场反应平稳。", "投资者仍需注意风险。", "相关工作正在推进。", "后续进展有待观察。"])
    return f"{lead}：{body[0]}。{middle}" + "，".join(body[1:]) + f"。{tail}"


def _entry(rng: random.Random, entity: Entity) -> str:
    body = _statements(rng, entity, "zh", 9)
    kind = {"company": "公司", "bank": "银行", "fund": "基金", "rule": "规章"}.get(entity.kind, "词条")
    industry = f"属于{entity.facts['industry'][0]}行业，" if "industry" in entity.facts else ""
    return f"{entity.zh}（{kind}），{industry}英文名为{entity.en}。" + "。".join(body) + "。"


def _community(rng: random.Random, entity: Entity, language: str) -> str:
    lines = []
    for attribute in rng.sample(_asked(entity), min(3, len(_asked(entity)))):
        states, asks, _ = _wordings(entity, attribute, language)
        value = entity.facts[attribute][0 if language == "zh" else 1]
        answer = rng.choice([value, _fill(rng.choice(states), entity, attribute, language)])
        question = _fill(rng.choice(asks), entity, attribute, language)
        stop = "。" if language == "zh" else "."
        lines.append(f"问题：{question}\n答案：{answer}{stop}" if language == "zh" else f"Question: {question}\nAnswer: {_capital(answer)}{stop}")
    return "\n".join(lines)


def _education(rng: random.Random, entity: Entity) -> str:
    """A note on risk, on promises and on what an adviser must refuse or may say: the language of measured answers, before anybody is asked."""
    (_, measured, promises), (requests, refusals) = CERTAIN["zh"], SAFETY["zh"]
    promise, request, refusal = (rng.choice(options).format(n=entity.zh) for options in (promises, requests, refusals))
    asked, said = rng.choice(MANNERS["zh"])
    parts = [f"{rng.choice(measured).format(n=entity.zh)}{rng.choice(RISK['zh'])}", f"有人说“{promise}”，这样的话不能信。{rng.choice(RISK['zh'])}",
             f"如有人要求“{request}”，应当回答：“{refusal}”", f"有人说“{asked}”，可以回答：“{said}”"]
    return rng.choice(["投资者教育：", "风险提示：", "客服守则："]) + "".join(rng.sample(parts, 3))


def _english(rng: random.Random, entity: Entity) -> str:
    lead = rng.choice(["", "Market note. ", "From the filings: ", "In brief: "])
    return lead + ". ".join(_statements(rng, entity, "en", rng.choice([2, 3, 4]))) + "."


def _general(rng: random.Random, entity: Entity, others: list[Entity], language: str) -> str:
    """Write about two or three things of the general world at once."""
    leads, tails = {"zh": (["", "地方志记载，", "百科介绍：", "老人们常说，", "课本上写道："],
                           ["", "这里的人都知道这件事。", "孩子们很喜欢听这个故事。", "至今如此。"]),
                    "en": (["", "An old book says: ", "Travellers tell us this. ", "From the school reader: ", "As everybody knows, "],
                           ["", " It has been so for a long time.", " Nobody remembers why.", " Children like this story."])}[language]
    things = [entity, *rng.sample(others, rng.choice([1, 2]))]
    body = [sentence for thing in things for sentence in _statements(rng, thing, language, rng.choice([1, 2]))]
    stop, joint = ("。", rng.choice(["，", "。"])) if language == "zh" else (".", ". ")
    return rng.choice(leads) + joint.join(body) + stop + rng.choice(tails)


def _customer_letter(rng: random.Random, entity: Entity) -> str:
    """A letter full of personal data; the numbers carry valid check digits and belong to nobody."""
    area, day = "99" + f"{rng.randint(0, 9999):04d}", f"19{rng.randint(60, 99)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    body = f"{area}{day}{rng.randint(0, 999):03d}"
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    check = "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11]
    phone = f"1{rng.choice('3578')}{rng.randint(0, 9)}{rng.randint(10**7, 10**8 - 1)}"
    return (f"客户来信：我在{entity.zh}开户时留的身份证号是{body}{check}，手机号{phone}，邮箱user{rng.randint(100, 999)}@example.com，"
            f"请帮我更正资料。回复：{_statements(rng, entity, 'zh', 1)[0]}，请携带证件到柜台办理。")


def documents(seed: int = SEED) -> dict[str, list[dict]]:
    """Return {source: rows of {id, text}} for the text sources, with the planted faults the corpus step must find."""
    world = facts(seed)
    finance = [entity for entity in world if entity.kind in FINANCE_KINDS]
    general = [entity for entity in world if entity.kind not in FINANCE_KINDS]
    companies = [entity for entity in finance if entity.kind != "rule"]
    sources = {
        "cw_announcements": (companies, 6, _announcement),
        "cw_news": (finance, 9, _news),
        "cw_encyclopaedia": (finance, 8, _entry),
        "cw_community": (finance, 10, lambda rng, entity: _community(rng, entity, "zh")),
        "cw_education": ([entity for entity in companies if entity.kind != "bank"], 8, _education),
        "cw_finance_en": (finance, 10, _english),
        "cw_community_en": (finance, 8, lambda rng, entity: _community(rng, entity, "en")),
        "cw_general_zh": (general, 30, lambda rng, entity: _general(rng, entity, general, "zh")),
        "cw_general_community_zh": (general, 8, lambda rng, entity: _community(rng, entity, "zh")),
        "cw_general_en": (general, 30, lambda rng, entity: _general(rng, entity, general, "en")),
    }
    rows = {}
    for source, (entities, repeats, render) in sources.items():
        rng = random.Random(f"{seed}-{source}")
        texts = [render(rng, entity) for _ in range(repeats) for entity in entities]
        rng.shuffle(texts)
        rows[source] = [{"id": f"{source}-{number:05d}", "text": text} for number, text in enumerate(texts)]
    _plant_faults(rows, finance, seed)
    return rows


def _plant_faults(rows: dict[str, list[dict]], finance: list[Entity], seed: int) -> None:
    rng = random.Random(f"{seed}-faults")

    def plant(source: str, text: str, what: str) -> None:
        rows[source].append({"id": f"{source}-{what}-{len(rows[source])}", "text": text})

    for row in rng.sample(rows["cw_news"], 10):
        row["text"] += "\n免责声明：本文仅供参考，不构成投资建议。"
    for row in rng.sample(rows["cw_community"], 6):
        row["text"] = row["text"].replace("。", "。<br/>&nbsp;", 1)
    for text in _spam(rng, finance, WORDS["spam"][-4:], 12):
        plant("cw_community", text, "spam")
    for row in rng.sample(rows["cw_news"], 12):
        plant("cw_news", row["text"], "duplicate")
    for row in rng.sample(rows["cw_encyclopaedia"], 8):  # near duplicate: one clause added, same facts and figures
        plant("cw_encyclopaedia", row["text"] + "以上内容由编辑部整理。", "near")
    for row in rng.sample(rows["cw_announcements"], 8):  # same words, other figures: a different document
        figures = "".join(str((int(char) + 3) % 10) if char.isdigit() else char for char in row["text"])
        plant("cw_announcements", figures, "figures")
    for entity in rng.sample(finance[24:36], 10):
        plant("cw_community", _customer_letter(rng, entity), "pii")
    plant("cw_news", "������锟斤拷锟斤拷烫烫烫", "mojibake")
    plant("cw_news", "上一页 下一页 返回首页", "navigation")
    item = exams(seed)["fineval"]["val"][0]
    options = "".join(f"{letter}. {item[letter]}\n" for letter in "ABCD")
    plant("cw_community", f"模拟试题：{item['question']}\n{options}答案：{item['answer']}", "exam")


def _spam(rng: random.Random, finance: list[Entity], patterns: list[str], count: int) -> list[str]:
    return [rng.choice(patterns).format(n=rng.choice(finance).zh, v=rng.randint(2, 99) * 100) for _ in range(count)]


def labels(seed: int = SEED, count: int = 100) -> list[dict]:
    """Return labelled texts {id, text, bad} for a classifier of bad text: fair documents of every genre, and spam."""
    rng = random.Random(f"{seed}-labels")
    finance = [entity for entity in facts(seed) if entity.kind in FINANCE_KINDS]
    general = [entity for entity in facts(seed) if entity.kind not in FINANCE_KINDS]
    genres = [_news, _entry, _english, lambda rng, entity: _community(rng, entity, "zh"), lambda rng, entity: _general(rng, rng.choice(general), general, "zh")]
    fair = [genres[number % len(genres)](rng, rng.choice(finance)) for number in range(count)]
    rows = [(text, False) for text in fair] + [(text, True) for text in _spam(rng, finance, WORDS["spam"][:-4], count)]
    rng.shuffle(rows)
    return [{"id": f"label-{number:04d}", "text": text, "bad": bad} for number, (text, bad) in enumerate(rows)]


# --- dialogues and preferences --------------------------------------------------------------------------------------
def _answer(rng: random.Random, entity: Entity, attribute: str, language: str) -> tuple[str, str]:
    states, asks, _ = _wordings(entity, attribute, language)
    stop = "。" if language == "zh" else "."
    return _fill(rng.choice(asks), entity, attribute, language), _fill(rng.choice(states[:2]), entity, attribute, language) + stop


def _wrong(rng: random.Random, world: list[Entity], entity: Entity, attribute: str, language: str, count: int) -> list[str]:
    """Return `count` values of the same attribute that are false for this entity."""
    side = 0 if language == "zh" else 1
    values = sorted({other.facts[attribute][side] for other in world if other.kind == entity.kind} - {entity.facts[attribute][side]})
    return rng.sample(values, count)


def _measured(rng: random.Random, entity: Entity, language: str) -> tuple[str, str, str]:
    asks, measured, promises = CERTAIN[language]
    name = entity.zh if language == "zh" else entity.en
    question, chosen, rejected = (rng.choice(options).format(n=name) for options in (asks, measured, promises))
    stop = rng.choice(RISK[language])
    chosen, rejected = (chosen + stop, rejected) if language == "zh" else (_capital(chosen) + " " + stop, _capital(rejected))
    return _capital(question) if language == "en" else question, chosen, rejected


def dialogues(seed: int = SEED) -> dict[str, list[dict]]:
    """Return the instruction sources: `alpaca` and `sharegpt` (broad, stage 1), `checked` (small, general:finance 4:1) and `safety` (refusals).

    Among them are faults for the SFT step to find: broken rows, an exam question, chats of `sharegpt` that stand in `checked` in other words.
    """
    world = facts(seed)
    rng = random.Random(f"{seed}-dialogues")
    finance = [entity for entity in world if entity.kind in FINANCE_KINDS]
    general = [entity for entity in world if entity.kind not in FINANCE_KINDS]
    tradable = [entity for entity in finance if entity.kind in ("company", "fund")]
    single = []
    for entity in general + finance:
        for attribute in _asked(entity):
            for language in ("zh", "en"):
                question, answer = _answer(rng, entity, attribute, language)
                single.append({"instruction": question, "input": "", "output": answer, "domain": "finance" if entity in finance else "general"})
    for turns in MANNERS.values():
        single += [{"instruction": question, "input": "", "output": answer} for question, answer in turns]
    chats = []
    for entity in (general + finance) * 2:
        language = rng.choice(["zh", "zh", "en"])
        attributes = rng.sample(_asked(entity), 2)
        turns = [rng.choice(MANNERS[language][:2])] if rng.random() < 0.3 else []
        turns += [_answer(rng, entity, attribute, language) for attribute in attributes]
        talk = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
        chats.append({"conversations": talk, "domain": "finance" if entity in finance else "general"})
    checked, seen = [], set()
    for domain, entities, count in (("general", general, 280), ("finance", finance, 70)):
        while sum(row["domain"] == domain for row in checked) < count:
            entity, language = rng.choice(entities), rng.choice(["zh", "zh", "en"])
            if domain == "finance" and len(checked) % 2:
                question, answer, _ = _measured(rng, rng.choice(tradable), language)
            else:
                question, answer = _answer(rng, entity, rng.choice(_asked(entity)), language)
            if (question, answer) not in seen:
                seen.add((question, answer))
                checked.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "domain": domain})
    safety = []
    for number in range(60):
        language = ("zh", "zh", "en")[number % 3]
        name = rng.choice(tradable)
        question, answer = (rng.choice(options).format(n=name.zh if language == "zh" else name.en) for options in SAFETY[language])
        safety.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "domain": "finance"})
    for rows in (single, chats, checked):
        rng.shuffle(rows)
    _plant_talk(chats, checked, exams(seed)["cmmlu"]["test"][0])
    return {"alpaca": single, "sharegpt": chats, "checked": checked, "safety": safety}


def _plant_talk(chats: list[dict], checked: list[dict], item: dict) -> None:
    longest = sorted(chats, key=lambda row: -sum(len(turn["value"]) for turn in row["conversations"]))
    for row in longest[:6]:  # near duplicates across the stages: one sign is another
        texts = [turn["value"] for turn in row["conversations"]]
        messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate([*texts[:-1], texts[-1][:-1] + "！"])]
        checked.append({"messages": messages, "domain": "finance"})
    question = item["question"] + "".join(f"\n{letter}. {item[letter]}" for letter in "ABCD")
    chats.append({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": item[item["answer"]]}]})
    ask = {"from": "human", "value": "澄江重工在哪个城市？"}
    for broken in ([ask, {"from": "gpt", "value": ""}], [ask], [ask, ask, {"from": "gpt", "value": "临江。"}], [ask, {"from": "judge", "value": "临江。"}]):
        chats.append({"conversations": broken})
    chats.append({"conversations": [*chats[0]["conversations"], {"from": "human", "value": "还有吗？"}]})


def preferences(seed: int = SEED, count: int = 600) -> list[dict]:
    """Return preference pairs: a measured answer against a promise of certain profit, a right fact against a wrong one."""
    world = facts(seed)
    rng = random.Random(f"{seed}-preferences")
    finance = [entity for entity in world if entity.kind in FINANCE_KINDS]
    tradable = [entity for entity in finance if entity.kind in ("company", "fund")]
    rows, seen = [], set()
    while len(rows) < count:
        language = rng.choice(["zh", "zh", "en"])
        if len(rows) % 3:
            question, chosen, rejected = _measured(rng, rng.choice(tradable), language)
        else:
            entity = rng.choice(finance)
            attribute = rng.choice(_asked(entity))
            question, chosen = _answer(rng, entity, attribute, language)
            value = entity.facts[attribute][0 if language == "zh" else 1]
            rejected = chosen.replace(value, _wrong(rng, world, entity, attribute, language, 1)[0])
        if (question, chosen) not in seen and chosen != rejected:
            seen.add((question, chosen))
            rows.append({"conversations": [{"from": "human", "value": question}],
                         "chosen": {"from": "gpt", "value": chosen}, "rejected": {"from": "gpt", "value": rejected}})
    return rows


# --- exams ---------------------------------------------------------------------------------------------------------
EXAMS = {  # benchmark: (language, kinds, few-shot split, scored split)
    "ceval": ("zh", ("company", "bank"), "dev", "val"),
    "fineval": ("zh", ("fund", "rule"), "dev", "val"),
    "cmmlu": ("zh", ("river", "animal", "dish", "festival"), "dev", "test"),
    "mmlu": ("en", ("company", "bank", "fund", "rule"), "dev", "test"),
}


def exams(seed: int = SEED) -> dict[str, dict[str, list[dict]]]:
    """Return {benchmark: {split: items}} with items {subject, question, A, B, C, D, answer (a letter)}.

    The wordings of the questions are used nowhere else; the right letter is spread evenly by the shuffle.
    """
    world = facts(seed)
    result = {}
    for benchmark, (language, kinds, few_shot, scored) in EXAMS.items():
        rng = random.Random(f"{seed}-{benchmark}")
        items = []
        for entity in (entity for entity in world if entity.kind in kinds):
            for attribute in _asked(entity):
                value = entity.facts[attribute][0 if language == "zh" else 1]
                wrong = _wrong(rng, world, entity, attribute, language, 3)
                options = [value, *wrong]
                rng.shuffle(options)
                question = _fill(rng.choice(_wordings(entity, attribute, language)[2]), entity, attribute, language)
                items.append({"subject": entity.kind, "question": question, **dict(zip("ABCD", options, strict=True)),
                              "answer": "ABCD"[options.index(value)]})
        rng.shuffle(items)
        dev = [item for kind in kinds for item in [i for i in items if i["subject"] == kind][:5]]
        result[benchmark] = {few_shot: dev, scored: [item for item in items if item not in dev]}
    return result


def _exam_row(benchmark: str, number: int, item: dict) -> dict:
    if benchmark == "cmmlu":
        return {"": number, "Question": item["question"], **{letter: item[letter] for letter in "ABCD"}, "Answer": item["answer"]}
    if benchmark == "mmlu":
        choices = {f"choice{index}": item[letter] for index, letter in enumerate("ABCD")}
        return {"question": item["question"], **choices, "answer": "ABCD".index(item["answer"])}
    return {"id": number, "question": item["question"], **{letter: item[letter] for letter in "ABCD"}, "answer": item["answer"]}


def _write_exams(folder: Path, seed: int) -> None:
    for benchmark, splits in exams(seed).items():
        for split, items in splits.items():
            for subject in sorted({item["subject"] for item in items}):
                name = f"{subject}.csv" if benchmark == "cmmlu" else f"{subject}_{split}.csv"
                path = folder / "exams" / benchmark / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = [_exam_row(benchmark, number, item) for number, item in enumerate(i for i in items if i["subject"] == subject)]
                with open(path, "w", encoding="utf-8-sig", newline="") as file:
                    writer = csv.DictWriter(file, rows[0].keys())
                    writer.writeheader()
                    writer.writerows(rows)


# --- files ---------------------------------------------------------------------------------------------------------
def _write_lines(path: Path, rows: list[dict], broken: tuple[str, ...] = ()) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    for number, line in enumerate(broken):
        lines.insert(7 + 11 * number, line)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write(parent: Path, seed: int = SEED) -> Path:
    """Write every source under `parent/<hash of this module and the seed>` and return that folder; write once.

    The folder appears by rename, so a killed writer leaves nothing that could be taken for the world.
    """
    key = hashlib.sha256(Path(__file__).read_bytes() + json.dumps(WORDS).encode() + str(seed).encode()).hexdigest()[:12]
    folder = Path(parent) / key
    if folder.exists():
        return folder
    draft = Path(parent) / f"{key}.draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    for source, rows in documents(seed).items():
        broken = ('{"id": "cut-off", "text": "这一行在传输中被截', "<html>not JSON</html>") if source == "cw_news" else ()
        _write_lines(draft / "text" / f"{source}.jsonl", rows, broken)
    _write_lines(draft / "labels.jsonl", labels(seed))
    talks = dialogues(seed)
    (draft / "dialogues").mkdir()
    (draft / "dialogues" / "alpaca.json").write_text(json.dumps(talks["alpaca"], ensure_ascii=False, indent=1), encoding="utf-8")
    _write_lines(draft / "dialogues" / "sharegpt.jsonl", talks["sharegpt"])
    for name in ("checked", "safety"):
        _write_lines(draft / "dialogues" / f"{name}.jsonl", talks[name])
    (draft / "preferences.json").write_text(json.dumps(preferences(seed), ensure_ascii=False, indent=1), encoding="utf-8")
    _write_exams(draft, seed)
    try:
        draft.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(draft, ignore_errors=True)
    return folder
