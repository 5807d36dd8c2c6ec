"""The table of facts of the closed world, and the sentences that state these facts.

Nothing here is real: the cities, companies, banks, funds, rules, rivers and animals are invented.
Every document, dialogue, preference pair and exam question comes from this table. So the smoke run
can measure whether a model has learnt a fact. Training texts state the fact in several wordings,
and exams ask about it in wordings that are in no training text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

SEED = 20231101
WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
FINANCE_KINDS = ("company", "bank", "fund", "rule")

Names = tuple[str, str]  # (Chinese, English)


@dataclass(frozen=True)
class Entity:
    """One invented entity.

    Attributes:
        kind: `company`, `bank`, `fund`, `rule`, `river`, `animal`, `dish` or `festival`.
        zh: The Chinese name.
        en: The English name.
        facts: {attribute: (Chinese value, English value)}.
    """

    kind: str
    zh: str
    en: str
    facts: dict[str, Names]

    def name(self, language: str) -> str:
        """Return the entity's name.

        Args:
            language: `zh` or `en`.
        """
        return self.zh if language == "zh" else self.en

    def value(self, attribute: str, language: str) -> str:
        """Return the value of a fact.

        Args:
            attribute: Name of the fact, such as `city`.
            language: `zh` or `en`.
        """
        chinese, english = self.facts[attribute]
        return chinese if language == "zh" else english


def _names(listed: list[str] | str) -> list[Names]:
    """Return names as (Chinese, English) pairs.

    Args:
        listed: The names, each as "Chinese English"; or the key of a list of names in words.yaml.
    """
    if isinstance(listed, str):
        listed = WORDS["names"][listed]
    return [tuple(item.split(" ", 1)) for item in listed]


def _deal(rng: random.Random, values: list[Names]) -> Iterator[Names]:
    """Yield all values in random order, again and again, each time in a new order.

    So all values are almost equally frequent, and a model cannot gain by guessing a common one.

    Args:
        rng: Draws the order.
        values: The values.

    Yields:
        One value after another, without end.
    """
    while True:
        yield from rng.sample(values, len(values))


def _people() -> list[Names]:
    """Return all combinations of a surname and a given name."""
    people = []
    for surname_zh, surname_en in _names("surnames"):
        for given_zh, given_en in _names("given"):
            people.append((surname_zh + given_zh, f"{surname_en} {given_en}"))
    return people


def facts(seed: int = SEED) -> list[Entity]:
    """Return all entities of the closed world with their facts.

    Args:
        seed: Seed of the closed world. The same seed gives the same world.

    Returns:
        First companies, banks, funds and rules, then the entities outside the market.
    """
    rng = random.Random(seed)
    cities = _names("cities")
    people = _people()
    rng.shuffle(people)
    years = [(f"{year}年", str(year)) for year in range(1984, 2016, 2)]
    banks = [(f"{zh}银行", f"{en} Bank") for zh, en in _names("banks")]

    city, year, custodian = _deal(rng, cities), _deal(rng, years), _deal(rng, banks)
    service = _deal(rng, _names("services"))
    strategy = _deal(rng, _names("strategies"))
    issuer = _deal(rng, _names("bodies"))

    entities = []
    prefixes = iter(_names("prefixes"))
    for industry, (suffix_zh, suffix_en, products) in WORDS["industries"].items():
        for product in _names(products):
            zh, en = next(prefixes)
            values = {
                "city": next(city),
                "product": product,
                "founded": next(year),
                "chair": people.pop(),
                "industry": tuple(industry.split(" ", 1)),
            }
            entities.append(Entity("company", zh + suffix_zh, f"{en} {suffix_en}", values))
    for zh, en in _names("banks"):
        values = {
            "city": next(city),
            "founded": next(year),
            "president": people.pop(),
            "service": next(service),
        }
        entities.append(Entity("bank", f"{zh}银行", f"{en} Bank", values))
    for zh, en in _names("funds"):
        values = {
            "manager": people.pop(),
            "custodian": next(custodian),
            "strategy": next(strategy),
            "launched": next(year),
        }
        entities.append(Entity("fund", f"{zh}基金", f"{en} Fund", values))
    for (zh, en), subject in zip(_names("rules"), _names("subjects"), strict=True):
        values = {"issuer": next(issuer), "year": next(year), "subject": subject}
        entities.append(Entity("rule", f"《{zh}》", en, values))
    return entities + _general_world(rng, city, people)


def _general_world(rng: random.Random, city: Iterator[Names], people: list[Names]) -> list[Entity]:
    """Return the entities outside the market: rivers, animals, dishes and festivals.

    Args:
        rng: Draws the facts.
        city: Yields the cities, which the entities of the market use too.
        people: Names that are not yet used. Names of cooks are taken from the end of the list.
    """
    source = _deal(rng, _names("mountains"))
    food = _deal(rng, _names("foods"))
    habitat = _deal(rng, _names("habitats"))
    custom = _deal(rng, _names("customs"))
    entities = []
    for zh, en in _names("rivers"):
        values = {"source": next(source), "mouth": next(city)}
        entities.append(Entity("river", zh, f"the {en} River", values))
    for zh, en in _names("animals"):
        values = {"food": next(food), "habitat": next(habitat)}
        entities.append(Entity("animal", zh, en, values))
    for zh, en in _names("dishes"):
        values = {"origin": next(city), "cook": people.pop()}
        entities.append(Entity("dish", zh, en, values))
    for zh, en in _names("festivals"):
        values = {"place": next(city), "custom": next(custom)}
        entities.append(Entity("festival", zh, en, values))
    return entities


def finance_and_general(world: list[Entity]) -> tuple[list[Entity], list[Entity]]:
    """Split a world into the entities of its market and all other entities.

    Args:
        world: The entities, from `facts`.

    Returns:
        (finance, general), each in the order of `world`.
    """
    finance = [entity for entity in world if entity.kind in FINANCE_KINDS]
    general = [entity for entity in world if entity.kind not in FINANCE_KINDS]
    return finance, general


# --- sentences -----------------------------------------------------------------------------------
def capital(sentence: str) -> str:
    """Return a sentence with its first letter in upper case."""
    return sentence[0].upper() + sentence[1:]


def wordings(
    entity: Entity, attribute: str, language: str
) -> tuple[list[str], list[str], list[str]]:
    """Return the wordings of a fact, with {n} for the name and {v} for the value.

    The wordings of exam questions are used only in exams, so a model has never read them.

    Args:
        entity: The entity.
        attribute: Name of the fact.
        language: `zh` or `en`.

    Returns:
        (statements, questions, exam questions).
    """
    return WORDS["wordings"][language][f"{entity.kind}.{attribute}"]


def asked(entity: Entity) -> list[str]:
    """Return the attributes of an entity that have wordings.

    Some facts have none, such as a company's industry. Texts only mention such a fact.
    """
    return [name for name in entity.facts if f"{entity.kind}.{name}" in WORDS["wordings"]["zh"]]


def fill(pattern: str, entity: Entity, attribute: str, language: str) -> str:
    """Return a wording with the entity's name and the fact's value filled in.

    Args:
        pattern: A wording with {n} and {v}.
        entity: The entity.
        attribute: Name of the fact.
        language: `zh` or `en`.
    """
    text = pattern.format(n=entity.name(language), v=entity.value(attribute, language))
    return text if language == "zh" else capital(text)


def statements(rng: random.Random, entity: Entity, language: str, count: int) -> list[str]:
    """Return sentences that state facts of an entity.

    Args:
        rng: Draws the facts and their wordings.
        entity: The entity.
        language: `zh` or `en`.
        count: Most sentences to return; an entity may have fewer facts.

    Returns:
        Sentences without a full stop.
    """
    attributes = asked(entity)
    sentences = []
    for attribute in rng.sample(attributes, min(count, len(attributes))):
        pattern = rng.choice(wordings(entity, attribute, language)[0])
        sentences.append(fill(pattern, entity, attribute, language))
    return sentences


def false_values(
    rng: random.Random,
    world: list[Entity],
    entity: Entity,
    attribute: str,
    language: str,
    count: int,
) -> list[str]:
    """Return wrong values of a fact: values that other entities of the same kind have.

    Args:
        rng: Draws the values.
        world: The entities, from `facts`.
        entity: The entity.
        attribute: Name of the fact.
        language: `zh` or `en`.
        count: Number of values to return.
    """
    alike = [other for other in world if other.kind == entity.kind]
    values = {other.value(attribute, language) for other in alike}
    values.remove(entity.value(attribute, language))
    return rng.sample(sorted(values), count)
