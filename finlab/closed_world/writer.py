"""A writer of questions and answers for the smoke run, in the place of a model.

It knows the closed world's facts and nothing else. Like a model it errs: some of its questions say
该公司 without a name, and some of its answers give another thing's value, so that the filters have
something to find.
"""

from __future__ import annotations

import re
import zlib

from finlab.closed_world.facts import SEED, Entity, asked, facts, fill, wordings

ERRS = 7  # one in so many


def write(messages: list[dict]) -> str:
    """Answer a prompt of `self_qa`: questions to a passage, or the answer to one.

    Args:
        messages: As an endpoint gets them.
    """
    prompt = messages[-1]["content"]
    question = re.search(r"^问题：(.+)$", prompt, re.M)
    if question:
        return _answer(question[1], _chance(prompt))
    count = int(re.search(r"写出(\d+)个", prompt)[1])
    return _questions(prompt.partition("资料：")[2], count)


def _chance(text: str) -> int:
    """Return a number that a text always draws."""
    return zlib.crc32(text.encode()) % ERRS


def _entities() -> list[Entity]:
    return facts(SEED)


def _questions(passage: str, count: int) -> str:
    """Return questions that a passage answers, a line each."""
    lines = []
    for entity in _entities():
        if entity.zh not in passage:
            continue
        for attribute in asked(entity):
            if entity.value(attribute, "zh") not in passage:
                continue
            question = fill(wordings(entity, attribute, "zh")[1][0], entity, attribute, "zh")
            if not _chance(question):
                question = question.replace(entity.zh, "该公司")
            lines.append(f"问题：{question}")
    return "\n".join(lines[:count])


def _answer(question: str, chance: int) -> str:
    """Return the answer to a question, sometimes with another thing's value."""
    for entity in _entities():
        for attribute in asked(entity):
            for wording in wordings(entity, attribute, "zh")[1]:
                if fill(wording, entity, attribute, "zh") != question:
                    continue
                told = fill(wordings(entity, attribute, "zh")[0][0], entity, attribute, "zh")
                if not chance:
                    told = told.replace(entity.value(attribute, "zh"), _other(entity, attribute))
                return f"{told}。"
    return "我不知道。"


def _other(entity: Entity, attribute: str) -> str:
    """Return the value that another thing of the kind has."""
    own = entity.value(attribute, "zh")
    alike = [other for other in _entities() if other.kind == entity.kind]
    return next(
        other.value(attribute, "zh") for other in alike if other.value(attribute, "zh") != own
    )
