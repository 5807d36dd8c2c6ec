"""What is written from documents: sifted, counted, linked, and looked over by people."""

from __future__ import annotations

import pandas
import pytest

from finlab.closed_world import writer
from finlab.data import cards, dialogues
from finlab.evaluate.endpoints import Endpoint
from finlab.evaluate.knowledge import linking, passages, self_qa
from finlab.evaluate.knowledge.linking import Name
from finlab.evaluate.knowledge.passages import Passage
from tests.test_judge import Server

GIVEN = Passage(
    "a#0",
    "a",
    "",
    0,
    9,
    "甲公司由李敏担任董事长。甲公司全年收入为12亿元，新材料业务同比增长9%。",
    "甲公司",
)


def row(question: str, answer: str | None) -> dict:
    return {"passage": GIVEN, "question": question, "answer": answer}


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("甲公司全年收入是多少？", "甲公司全年收入为12亿元。", ""),
        ("甲公司的情况如何？", "甲公司由李敏担任董事长\n甲公司全年收入为12亿元。", ""),
        ("甲公司的新材料业务增长多少？", "甲公司的新材料业务同比增长9%。", ""),
        ("甲公司全年收入是多少？", "甲公司全年收入为12亿元。甲公司由李敏担任董事长。", ""),
        ("该公司全年收入是多少？", "甲公司全年收入为12亿元。", self_qa.REFERS_TO_NOTHING),
        ("它的收入是多少呢？", "甲公司全年收入为12亿元。", self_qa.REFERS_TO_NOTHING),
        ("上述公司的董事长是谁？", "李敏担任董事长。", self_qa.REFERS_TO_NOTHING),
        ("甲公司全年收入是多少？", None, self_qa.NO_ANSWER),
        ("甲公司全年收入是多少？", " ", self_qa.NO_ANSWER),
        ("根据资料，甲公司收入是多少？", "甲公司全年收入为12亿元。", self_qa.OF_THE_SOURCE),
        ("甲公司全年收入是多少？", "文中提到，甲公司收入为12亿元。", self_qa.OF_THE_SOURCE),
        ("甲公司全年收入是多少？", "甲公司全年收入为21亿元。", self_qa.NOT_SUPPORTED),
        ("甲公司的总部在哪里？", "甲公司的总部设在临江市的中心。", self_qa.NOT_SUPPORTED),
        ("甲公司全年收入是多少？", "我不知道。", self_qa.NOT_SUPPORTED),
    ],
)
def test_each_fault_has_its_name(question, answer, reason):
    assert self_qa.fault(row(question, answer)) == reason


def test_copies_and_exam_items_go_and_the_account_closes():
    answer = "甲公司全年收入为12亿元，新材料业务同比增长9%。"
    rows = [
        row("甲公司全年收入是多少，新材料业务增长多少？", answer),
        row("甲公司全年收入是多少，新材料业务增长多少？", answer),
        row("下列关于甲公司全年收入和新材料业务增长的说法，正确的是哪一项？", answer),
        row("该公司的收入是多少？", answer),
    ]
    item = {
        "id": "exam/1",
        "question": "下列关于甲公司全年收入和新材料业务增长的说法，正确的是哪一项？",
        "choices": ["甲", "乙", "丙", "丁"],
    }
    account = self_qa.sift(rows, [item])
    assert account.counts() == {
        "kept": 1,
        "exact duplicate": 1,
        "contaminated by an exam": 1,
        self_qa.REFERS_TO_NOTHING: 1,
    }
    messages = self_qa.dialogue(rows[0])["messages"]
    assert dialogues.read_dialogue({"messages": messages})["messages"] == messages


def test_the_closed_worlds_writer_errs_and_is_caught():
    card = cards.read("cw_encyclopaedia")
    pool = []
    for document in passages.from_rows(card, cards.stream(card, [])):
        pool += passages.split(document)
    rows = list(self_qa.write(pool[:80], writer.write, 2))
    assert len(rows) == 160
    counts = self_qa.sift(rows, []).counts()
    assert counts["kept"] > 60
    assert counts[self_qa.REFERS_TO_NOTHING] > 5
    assert counts[self_qa.NOT_SUPPORTED] > 3
    assert sum(counts.values()) == 160


def test_an_endpoint_writes_and_a_rerun_costs_nothing(tmp_path):
    server = Server()
    server.replies = [
        "1. 问题：甲公司全年收入是多少？\n2、问题：甲公司的董事长是谁？\n说明：略",
        "甲公司全年收入为12亿元。",
        "甲公司由李敏担任董事长。",
    ]
    for calls in (3, 0):
        endpoint = Endpoint("m", server.url, store=tmp_path / "store.jsonl")
        rows = list(self_qa.write([GIVEN], endpoint, 2))
        asked = [each["question"] for each in rows]
        assert asked == ["甲公司全年收入是多少？", "甲公司的董事长是谁？"]
        assert self_qa.sift(rows, []).counts() == {"kept": 2}
        assert endpoint.calls == calls
    server.http.shutdown()


def test_the_cost_is_counted_before_anything_is_asked():
    plan = self_qa.estimate([GIVEN] * 10, 3, (2.0, 6.0))
    assert plan["requests"] == 40
    assert plan["cost"] == pytest.approx(
        (plan["prompt tokens"] * 2 + plan["answer tokens"] * 6) / 1e6, rel=1e-3
    )
    assert self_qa.estimate([], 3)["cost"] == 0


# --- topics, names, relations --------------------------------------------------------------------
def test_names_are_linked_to_their_codes(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text(
        "name,kind,code,others\n甲公司,company,600001,甲股份|Jia\n甲,company,600009,\n李敏,person,,\n",
        encoding="utf-8-sig",
    )
    names = linking.read_names(path)
    assert names[0] == Name("甲公司", "company", "600001", ("甲股份", "Jia"))
    text = "甲股份由李敏担任董事长，甲公司又名Jia。"
    mentions = linking.link([Passage("p", "p", "", 0, 9, text)], names)
    assert [text[each.start : each.end] for each in mentions] == ["甲股份", "李敏", "甲公司", "Jia"]
    assert {each.name.code for each in mentions} == {"600001", ""}


def test_relations_have_their_direction_and_sentence():
    names = [Name("甲公司", "company"), Name("乙公司", "company"), Name("李敏", "person")]
    text = "李敏担任甲公司董事长。甲公司拟收购乙公司。天气很好。"
    given = [Passage("p", "p", "", 0, 9, text, "公告")]
    found = linking.relations(given, linking.link(given, names))
    told = {(each["subject"], each["relation"], each["object"]) for each in found}
    assert told == {("甲公司", "is chaired by", "李敏"), ("甲公司", "acquires", "乙公司")}
    sentences = {each["relation"]: each["sentence"] for each in found}
    assert sentences["acquires"] == "甲公司拟收购乙公司。"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,code\n甲,1\n", "has no column kind"),
        ("name,kind\n ,company\n", "row 2: the name is empty"),
    ],
)
def test_a_wrong_table_of_names_is_refused(tmp_path, content, message):
    path = tmp_path / "names.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        linking.read_names(path)


def test_one_way_to_write_two_names_is_refused():
    names = [Name("甲公司", "company", "1", ("甲",)), Name("甲银行", "bank", "2", ("甲",))]
    with pytest.raises(ValueError, match="'甲' stands for 甲公司 and for 甲银行"):
        linking.link([GIVEN], names)


def test_people_correct_relations_on_a_sheet(tmp_path):
    rows = [
        {
            "subject": "甲",
            "relation": "acquires",
            "object": "乙",
            "sentence": "s",
            "reference": "r",
        },
        {
            "subject": "丙",
            "relation": "acquires",
            "object": "丁",
            "sentence": "s",
            "reference": "r",
        },
    ]
    path = linking.write_sheet(tmp_path / "sheets", rows)
    assert linking.read_sheet(path) == []
    sheet = pandas.read_excel(path, dtype=str, keep_default_na=False)
    sheet["right"] = ["yes", "否"]
    sheet.to_excel(path, index=False)
    assert linking.write_sheet(tmp_path / "sheets", rows) == path, "what is filled in stays"
    judged = linking.read_sheet(path)
    assert [row["right"] for row in judged] == [True, False]
    [row] = linking.checked_rows(judged, rows)
    assert (row["judged"], row["right"], row["share"]) == (2, 1, 0.5)
    assert 0 < row["ci_low"] < 0.5 < row["ci_high"] < 1
    with pytest.raises(ValueError, match="'丙 acquires 丁', which was not found here"):
        linking.checked_rows(judged, rows[:1])
    sheet["right"] = ["maybe", ""]
    sheet.to_excel(path, index=False)
    with pytest.raises(ValueError, match="row 2: right is 'maybe'"):
        linking.read_sheet(path)
    for name in ("broken.xlsx", "sheet.ods", "sheet.xls"):
        broken = tmp_path / name
        broken.write_bytes(b"not a spreadsheet")
        with pytest.raises(ValueError, match="not a spreadsheet that can be read"):
            linking.read_sheet(broken)


def test_topics_and_classes():
    texts = ["基金净值上涨，基金经理看好债券基金。"] * 8 + ["银行贷款利率下调，银行放贷增加。"] * 8
    given = [Passage(str(n), "d", "", 0, 9, f"{text}{n}") for n, text in enumerate(texts)]
    labels, rows = linking.topics(given, 2, 1)
    assert len(set(labels[:8])) == len(set(labels[8:])) == 1
    assert labels[0] != labels[8]
    assert sorted(row["passages"] for row in rows) == [8, 8]
    classifier, scores = linking.classify(given, ["fund"] * 8 + ["bank"] * 8, 1)
    assert scores == {"accuracy": 1.0, "commonest": 0.5}
    assert classifier.predict(["银行利率"]) == ["bank"]


def test_a_sheet_holds_no_formula_and_no_control_sign(tmp_path):
    row = {"subject": "甲", "relation": "r", "object": "乙", "reference": "r"}
    rows = [{**row, "sentence": "=1+1"}, {**row, "sentence": "换页\x0c符"}]
    path = linking.write_sheet(tmp_path, rows)
    told = pandas.read_excel(path, dtype=str)["sentence"].tolist()
    assert told == ["'=1+1", "换页 符"]


def test_a_manager_keeps_nothing_in_custody():
    names = [Name("稳健基金", "fund"), Name("恒信公司", "company")]
    given = [Passage("p", "p", "", 0, 9, "稳健基金由恒信公司管理。")]
    found = linking.relations(given, linking.link(given, names))
    assert [each["relation"] for each in found] == ["is managed by"]


def test_a_class_of_one_is_refused():
    given = [Passage(str(n), "d", "", 0, 9, "银行贷款") for n in range(3)]
    with pytest.raises(ValueError, match="class 'b' has one passage"):
        linking.classify(given, ["a", "a", "b"], 1)
