"""Dialogues on disk: the same tokens as in memory, an account that closes, rows that are gathered."""

from __future__ import annotations

import json
from collections import Counter

import daft
import numpy
import pytest

from finlab.data import (
    accounts,
    cards,
    conversations,
    dialogues,
    packing,
    personal,
    planned,
    selection,
    stages,
    templates,
)
from finlab.models import tokenization

NAMES = ["cw_alpaca", "cw_sharegpt", "cw_safety"]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = templates.chat_template("plain")
    return tokenizer


@pytest.fixture
def stage(tmp_path, tokenizer):
    """The closed world's dialogues as a stage."""
    read = cards.read_all(NAMES, "dialogue")
    frame = conversations.read(read, tmp_path / "read", {}, ["cw_safety"])
    prefixes = {"cw_sharegpt": "【金融】"}
    return conversations.prepare(frame, tokenizer, tmp_path / "stage", prefixes)


def plainly(tokenizer) -> tuple[list[dict], Counter]:
    """Return the same dialogues with the same words, done one by one in memory."""
    rows = []
    replaced: Counter = Counter()
    for name in NAMES:
        for row in cards.load(name).rows:
            messages = personal.deidentify_messages(row["messages"], replaced)
            prefix = "【金融】" if name == "cw_sharegpt" else ""
            messages = dialogues.with_prefix(messages, prefix)
            kind = "safety" if name == "cw_safety" else row["domain"]
            rows.append({"id": row["id"], "kind": kind, "messages": messages})
    encoded = templates.encode(tokenizer, [row["messages"] for row in rows])
    for row, ids in zip(rows, encoded, strict=True):
        row |= ids
    return rows, replaced


def test_a_stage_on_disk_is_what_it_is_in_memory(stage, tokenizer):
    rows, replaced = plainly(tokenizer)
    assert len(stage) == len(rows) > 300
    assert stage.rows["id"][:] == [row["id"] for row in rows]
    assert stage.personal == replaced
    kinds = [accounts.KINDS[code] for code in stage.account.kinds]
    assert kinds == [row["kind"] for row in rows]
    assert set(kinds) == set(accounts.KINDS)
    for place, labelled in enumerate(stage.labelled(numpy.arange(len(rows)))):
        assert stage.messages(place) == rows[place]["messages"]
        assert labelled["input_ids"].tolist() == rows[place]["input_ids"].tolist()
        assert labelled["labels"].tolist() == rows[place]["labels"].tolist()
    texts = stages.Texts(stage)
    whole = ["\n".join(turn["content"] for turn in row["messages"]) for row in rows]
    assert list(texts) == whole
    assert texts[7] == whole[7]


def test_several_processes_prepare_the_same(stage, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(conversations, "FEW_CHARACTERS", 0)
    read = cards.read_all(NAMES[:1], "dialogue")
    frame = conversations.read(read, tmp_path / "again", {})
    again = conversations.prepare(frame, tokenizer, tmp_path / "several")
    assert again.rows["messages"][:] == stage.rows["messages"][: len(again)]
    assert again.rows["input_ids"][:] == stage.rows["input_ids"][: len(again)]


def test_names_are_left_in_where_they_are_not_looked_for(tmp_path, tokenizer):
    said = "我叫王建国，手机13812345678，住上海市浦东新区世纪大道100号。"
    turns = [{"role": "user", "content": said}, {"role": "assistant", "content": "您好。"}]
    text = json.dumps(turns, ensure_ascii=False)
    row = {"number": 0, "id": "1", "card": "a", "kind": "finance", "tokens_read": len(text)}
    frame = daft.from_pylist([{**row, "messages": text}])
    found = {}
    for find_names in (True, False):
        folder = tmp_path / str(find_names)
        stage = conversations.prepare(frame, tokenizer, folder, find_names=find_names)
        found[find_names] = stage.messages(0)[0]["content"]
    assert found[True] == "我叫[姓名]，手机[手机号]，住[地址]。"
    assert found[False] == "我叫王建国，手机[手机号]，住上海市浦东新区世纪大道100号。"


def test_the_recogniser_reads_no_article(monkeypatch):
    """It is slow, so only short talk and cues ask for it."""

    def refuse(text):
        raise AssertionError(f"the recogniser was asked for {text[:20]}")

    monkeypatch.setattr(personal.people_names.recogniser, "tagged", refuse)
    article = "人民币普通股票是在境内上市、以人民币交易的股票，每股面值相同。" * 20
    assert personal.find(article, people=True) == []
    with pytest.raises(AssertionError, match="the recogniser was asked"):
        personal.find("我叫王建国。", people=True)


def test_the_overview_names_each_card(tmp_path):
    quarantined: dict = {}
    read = cards.read_all(NAMES, "dialogue")
    frame = conversations.read(read, tmp_path / "read", quarantined)
    found = conversations.overview(frame)
    assert [row["card"] for row in found] == NAMES
    assert [row["dialogues"] for row in found] == [len(cards.load(name).rows) for name in NAMES]
    first = cards.load("cw_sharegpt").rows[0]["messages"][0]["content"]
    assert found[1]["first question"] == first[:60]
    assert [len(quarantined[name]) for name in NAMES] == [
        len(cards.load(name).quarantined) for name in NAMES
    ]


def test_what_is_too_long_keeps_whole_exchanges(stage, tokenizer):
    eos = tokenizer.eos_token_id
    limit = int(numpy.median(stage.account.read))
    stage.admit({3: "near duplicate in its source"}, limit, eos)
    account = stage.account
    assert account.status(3) == "near duplicate in its source"
    over = account.of("longer than max_length")
    assert len(over) > 10
    cut = numpy.flatnonzero(account.tokens < account.read)
    assert len(cut) > 0
    for row in stage.labelled(account.still_in()):
        assert len(row["input_ids"]) <= limit
        assert row["labels"][-1] == eos or row["labels"][-2] == eos


def test_several_exchanges_and_shares(stage, tokenizer):
    stage.admit({}, 10_000, tokenizer.eos_token_id, single_turn=True)
    account = stage.account
    several = {place for place, row in enumerate(stage.rows["answers"][:]) if row > 1}
    assert set(account.of("several exchanges").tolist()) == several
    assert several
    selection.limit_to_shares(account, {"general": 0.5, "finance": 0.5}, seed=1, max_rows=60)
    selection.split(account, 0.2, stage.split_texts())
    ledger = accounts.status_ledger({"stage1": account})
    assert sum(line["rows"] for line in ledger[2:]) == len(stage)
    learnt, held_out = account.of(accounts.LEARNT), account.of(accounts.HELD_OUT)
    assert len(learnt) + len(held_out) == 60
    shares = stage.learnt_shares()
    assert shares["safety"]["dialogues"] == 0
    assert shares["general"]["by dialogues"] + shares["finance"]["by dialogues"] == 1


def test_gathered_rows_are_those_that_would_be_written(stage, tokenizer, tmp_path):
    stage.admit({}, 60, tokenizer.eos_token_id)
    places = stage.account.still_in()
    texts = [[5, 6, 7, 8], [9, 10]]
    tokens, documents, numbers = stages.to_pack(stage, places, texts, tmp_path / "text.arrow")
    plan = packing.pack_phases(documents.tokens, [numbers], 64, seed=3)
    gathered = planned.rows(tmp_path / "plan.arrow", plan, tokens, documents)
    encoded = list(stage.labelled(places))
    encoded += [{"input_ids": ids, "labels": ids} for ids in texts]
    kinds = [accounts.KINDS[stage.account.kinds[place]] for place in places] + ["text", "text"]
    written = packing.write_rows(
        tmp_path / "rows.arrow",
        packing.pack([len(row["input_ids"]) for row in encoded], 64, seed=3),
        [row["input_ids"] for row in encoded],
        [row["labels"] for row in encoded],
        kinds,
        names=[*accounts.KINDS, "text"],
    )
    assert len(gathered) == len(written) > 10
    assert list(gathered) == list(written)


def test_a_wrong_template_is_refused_in_one_sentence(tmp_path, tokenizer):
    frame = conversations.read(cards.read_all(NAMES[:1], "dialogue"), tmp_path / "read", {})
    before = tokenizer.chat_template
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    try:
        with pytest.raises(ValueError, match="marks no token as the assistant's"):
            conversations.prepare(frame, tokenizer, tmp_path / "stage")
    finally:
        tokenizer.chat_template = before
