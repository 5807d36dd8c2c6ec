"""A writer of questions and answers that replaces a model in the smoke run.

It knows only the facts of the closed world. Like a model it makes mistakes: some questions say
该公司 without a name, and some answers have the value of another entity. The filters must find them.
"""

from __future__ import annotations

import re
import zlib

from finlab.closed_world.facts import SEED, Entity, asked, facts, fill, wordings

ERRS = 7  # one in this many questions or answers is wrong


def write(messages: list[dict]) -> str:
    """Answer a prompt of `self_qa` with questions about a passage, or with an answer.

    Args:
        messages: Messages {role, content}, as an endpoint gets them.
    """
    prompt = messages[-1]["content"]
    question = re.search(r"^问题：(.+)$", prompt, re.M)
    if question:
        return _answer(question[1], _chance(prompt))
    count = int(re.search(r"写出(\d+)个", prompt)[1])
    return _questions(prompt.partition("资料：")[2], count)


def _chance(text: str) -> int:
    """Return a number from 0 to ERRS - 1 that depends only on the text."""
    return zlib.crc32(text.encode()) % ERRS


def _entities() -> list[Entity]:
    return facts(SEED)


def _questions(passage: str, count: int) -> str:
    """Return at most `count` questions that a passage answers, one per line."""
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
    """Return the answer to a question; if `chance` is 0, with the value of another entity."""
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
    """Return a different value of the attribute, from another entity of the same kind."""
    own = entity.value(attribute, "zh")
    alike = [other for other in _entities() if other.kind == entity.kind]
    return next(
        other.value(attribute, "zh") for other in alike if other.value(attribute, "zh") != own
    )
