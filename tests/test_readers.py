"""Files as people have them: read, or refused in one sentence that says how to mend it."""

import gzip
import json
import zipfile

import openpyxl
import pytest

from finlab import paths
from finlab.data import cards, own_exams

FIRST = "甲公司今日公告称，拟回购不超过一亿元股份。"
SECOND = "乙银行发布三季报，净息差环比持平。"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a file as a card of its own: load(name, content, format, **more of the card)."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("FINLAB_DATA", str(tmp_path))
    (tmp_path / "data_cards").mkdir()

    def read(name, content=None, form="csv", kind="text", **more):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = content.encode()
        if content is not None:
            path.write_bytes(content)
        spec = {"domain": "finance", "language": "zh", "kind": kind, "format": form}
        spec |= {"files": [f"data/{name}"], **more}
        card = f"---\nlicense: other\nfinlab: {json.dumps(spec, ensure_ascii=False)}\n---\n"
        (tmp_path / "data_cards" / "mine.md").write_text(card, encoding="utf-8")
        return cards.load("mine")

    return read


def texts(source):
    return source.rows["text"][:]


@pytest.mark.parametrize(
    "content",
    [
        f",title,text\n0,a,{FIRST}\n1,b,{SECOND}\n",  # pandas' index
        f"title,text,\na,{FIRST},\nb,{SECOND},\n",  # a comma at the end
        f"title;text\na;{FIRST}\nb;{SECOND}\n",
        f"title\ttext\na\t{FIRST}\nb\t{SECOND}\n",
        f"\ufefftitle, text \na,{FIRST}\nb,{SECOND}\n",
        f'title,text\r\na,"{FIRST}"\r\n\r\nb,"{SECOND}"\r\n',
    ],
)
def test_tables_of_many_writers_are_read(load, content):
    source = load("a.csv", content)
    assert texts(source) == [FIRST, SECOND]
    assert not source.quarantined


def test_a_quote_that_is_not_closed_costs_one_row(load):
    source = load("a.csv", f'title,text\na,"{FIRST}\nb,{SECOND}\nc,"第三\n行"\n')
    assert texts(source) == [SECOND, "第三\n行"]
    assert [row["where"] for row in source.quarantined] == ["a.csv:2"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030"])
def test_json_lines_in_any_encoding(load, encoding):
    content = "".join(
        json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in (FIRST, SECOND)
    )
    assert texts(load("a.jsonl", content.encode(encoding), "jsonl", encoding=encoding)) == [
        FIRST,
        SECOND,
    ]


def test_json_that_runs_over_lines_or_lies_in_an_object(load):
    rows = [{"text": FIRST}, {"text": SECOND}]
    pretty = "\n".join(json.dumps(row, ensure_ascii=False, indent=1) for row in rows)
    for name, content, form in (
        ("pretty.jsonl", pretty, "jsonl"),
        ("data.json", json.dumps({"code": 0, "data": rows}), "json"),
        ("byid.json", json.dumps({"1": rows[0], "2": rows[1]}), "json"),
        ("lists.json", "\n".join(json.dumps(["t", row["text"]]) for row in rows), "json"),
    ):
        more = {"text": 1} if name == "lists.json" else {}
        assert texts(load(name, content, form, **more)) == [FIRST, SECOND], name
    assert texts(load("one.json", json.dumps({"title": "t", "text": FIRST}), "json")) == [FIRST]
    nested = json.dumps([{"doc": {"body": FIRST}}])
    assert texts(load("n.json", nested, "json", text="doc.body")) == [FIRST]


def test_only_newlines_end_a_line_of_text(load):
    lines = ["第一\u2028篇\u0085还是\x0c第一", "第二篇"]
    assert texts(load("a.txt", "\n".join(lines), "text")) == lines
    rows = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines)
    assert texts(load("a.jsonl", rows, "jsonl")) == lines


def test_shards_whose_ids_begin_anew_lose_nothing(load, tmp_path):
    for shard in range(2):
        rows = [json.dumps({"id": str(n), "text": f"第{shard}片第{n}篇"}) for n in range(5)]
        (tmp_path / "data" / "s").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "s" / f"{shard}.jsonl").write_text("\n".join(rows))
    source = load("s/*.jsonl", None, "jsonl")
    assert len(source.rows) == 10
    assert len(set(source.rows["id"][:])) == 10
    assert not source.quarantined


def test_excel_word_and_zip_are_read(load, tmp_path):
    import docx

    book = openpyxl.Workbook()
    for row in (["title", "text"], ["a", FIRST], [None, None], ["b", SECOND]):
        book.active.append(row)
    (tmp_path / "data").mkdir(exist_ok=True)
    book.save(tmp_path / "data" / "a.xlsx")
    assert texts(load("a.xlsx", None, "xlsx")) == [FIRST, SECOND]
    document = docx.Document()
    document.add_paragraph(FIRST)
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "净利", "1.5亿元"
    document.save(tmp_path / "data" / "a.docx")
    text = texts(load("a.docx", None, "docx"))[0]
    assert FIRST in text
    assert "| 净利 | 1.5亿元 |" in text
    with zipfile.ZipFile(tmp_path / "data" / "a.zip", "w") as archive:
        archive.writestr("b.csv", f"text\n{SECOND}\n")
        archive.writestr("a.csv", f"text\n{FIRST}\n")
    source = load("a.zip", None, "csv")
    assert texts(source) == [FIRST, SECOND]
    assert source.rows["id"][:] == ["mine/a/a.csv:2", "mine/a/b.csv:2"]


@pytest.mark.parametrize(
    ("name", "content", "form", "message"),
    [
        ("a.csv", "text,text\na,b\n", "csv", "names 'text' twice"),
        ("a.csv", f"a,{FIRST}\nb,{SECOND}\n", "csv", "seems to have no header line"),
        ("a.csv", "", "csv", "the file is empty"),
        ("a.csv", "title,text\n", "csv", "a header and no rows"),
        (
            "a.csv",
            f"标题,正文\na,{FIRST}\n",
            "csv",
            "its fields are 标题, 正文: name the right one",
        ),
        ("a.csv", b"PK\x03\x04\xff\xff\x81", "csv", "it is an Excel, Word or zip file"),
        ("a.jsonl", json.dumps([1, FIRST]), "jsonl", "name the place, as in `text: 1`"),
        ("a.jsonl", '{"text": 123}', "jsonl", "it holds int, and not text"),
        ("a.json", '{"a": [{"text": "x"}], "b": [{"text": "y"}]}', "json", "say in the card which"),
        ("a.parquet", "text\n", "parquet", "not a whole Parquet file"),
        ("a.xlsx", "text\n", "xlsx", "not an Excel file"),
        ("a.docx", "text\n", "docx", "the Word file cannot be read"),
        ("a.zip", "text\n", "csv", "it cannot be unpacked"),
        ("a.csv.gz", gzip.compress(FIRST.encode() * 99)[:-9], "csv", "it cannot be unpacked"),
        ("a.jsonl", '{"text": "' + "\\ud83d" + '"}', "jsonl", "half a character"),
        ("a.jsonl", "[" * 200_000, "jsonl", "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(load, name, content, form, message):
    with pytest.raises(ValueError, match=message):
        load(name, content, form)


def test_rows_before_damage_are_kept(load):
    lines = [json.dumps({"text": f"第{n}篇{n * n}"}) for n in range(20_000)]
    whole = gzip.compress("\n".join([*lines, ""]).encode())
    source = load("a.jsonl.gz", whole[:-20_000], "jsonl")
    assert len(source.rows) > 100
    assert "damaged" in source.quarantined[-1]["reason"]


def test_a_bomb_is_not_unpacked(load, tmp_path):
    bomb = gzip.compress(b"0" * 150_000_000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        load("a.csv.gz", bomb)
    with zipfile.ZipFile(tmp_path / "data" / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", b"0" * 150_000_000)
    with pytest.raises(ValueError, match="times its size"):
        load("a.zip", None)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "1+1?", "A": "一", "B": "二", "C": "三", "answer": "b"},
        {"题目": "1+1?", "选项A": "一", "选项B": "二", "选项C": "三", "答案": "(B)"},
        {"question": "1+1?", "options": ["一", "二", "三"], "answer": 1},
        {"question": "1+1?", "choices": "{'A': '一', 'B': '二', 'C': '三'}", "answer": "B"},
        {"question": "1+1?", "option_a": "一", "option_b": "二", "option_c": "三", "answer": "二"},
        {
            "question": "1+1?",
            "options": [{"key": letter, "value": text} for letter, text in zip("ABC", "一二三")],
            "answer": "B",
        },
    ],
)
def test_exams_of_ones_own(row):
    item = own_exams.read_item(row, first=0)
    assert item == {
        "question": "1+1?",
        "choices": ["一", "二", "三"],
        "letters": list("ABC"),
        "answer": 1,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 2, 3], [0, 1, 2]),  # a 3 of three options: they count from 1
        ([0, 1, 2], [0, 1, 2]),
        ([1, 2, 0], [1, 2, 0]),
        (["1", "3"], [0, 2]),
        ([1, 2], []),  # nothing tells
        ([1.0, 0.0], [1, 0]),  # as a spreadsheet gives them
    ],
)
def test_numbers_of_answers_count_from_what_the_file_says(tmp_path, given, expected):
    rows = []
    for place, answer in enumerate(given):
        rows.append((place, {"question": "?", "options": ["甲", "乙", "丙"], "answer": answer}))
    quarantine = []
    items = list(own_exams.read_items(tmp_path / "tax.csv", iter(rows), "mine", quarantine))
    assert [item["answer"] for item in items] == expected
    assert len(quarantine) == len(given) - len(expected)
    assert all("count from 0 or from 1" in row["reason"] for row in quarantine)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "1?", "A": "1", "B": "2", "answer": "AB"}, "several right answers"),
        ({"question": "1?", "A": "1", "answer": "A"}, "has 1 options"),
        ({"question": "1?", "A": "1", "C": "2", "answer": "A"}, "begin at A, skip none"),
        ({"question": "1?", "A": "1", "B": "2", "answer": "C"}, "the answer 'C' is none of A, B"),
        ({"ask": "1?"}, "no question"),
        ({"question": "1?", "options": ["甲", None], "answer": "A"}, "a text is wanted"),
        (
            {"question": "1?", "options": ["3", "2"], "answer": 2},
            "its place or its text|the option's",
        ),
    ],
)
def test_items_that_are_none(row, message):
    with pytest.raises(ValueError, match=message):
        own_exams.read_item(row)


def test_a_fifth_option_is_not_dropped(load):
    header = "id,question,A,B,C,D,E,answer\n"
    rows = "0,哪项？,股票,债券,票据,基金,期货,C\n1,哪项？,股票,债券,票据,基金,,c\n"
    source = load("val/finance_val.csv", header + rows, "ceval", "exam")
    assert source.rows["answer"][:] == [2]
    assert "has an option E, where ceval has 4" in source.quarantined[0]["reason"]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-8-sig"])
def test_a_byte_order_mark_counts_more_than_the_card(load, encoding):
    content = f'\ufeff{{"text": "{FIRST}"}}\n{{"text": "{SECOND}"}}\n'
    source = load("a.jsonl", content, "jsonl", encoding=encoding)
    assert texts(source) == [FIRST, SECOND]
    assert not source.quarantined


def test_an_encoding_has_several_names(load):
    content = f'{{"text": "{FIRST}"}}\n{{"text": "{SECOND}"}}\n'.encode("utf-16-le")
    assert texts(load("a.jsonl", content, "jsonl", encoding="UTF-16LE")) == [FIRST, SECOND]


def test_three_files_of_one_name_keep_their_rows(load, tmp_path):
    for year in (2019, 2020, 2021):
        path = tmp_path / f"data/{year}/q1/report.md"
        path.parent.mkdir(parents=True)
        path.write_text(f"{year}年报告", encoding="utf-8")
    source = load("**/*.md", None, "markdown")
    assert len(set(source.rows["id"][:])) == 3


@pytest.mark.parametrize(
    ("name", "content", "form", "more", "message"),
    [
        ("a.json", '"abc"', "json", {}, "holds str where the card's `rows`"),
        ("a.json", '{"data": null}', "json", {"rows": "data.*"}, "holds NoneType"),
        ("a.jsonl.gz", "no gzip", "jsonl", {}, "cannot be unpacked"),
    ],
)
def test_files_of_another_shape_are_named(load, name, content, form, more, message):
    with pytest.raises(ValueError, match=message):
        load(name, content, form, **more)


def test_a_key_may_look_like_a_number(load):
    content = json.dumps({"2020": [{"text": FIRST}], "2021": [{"text": SECOND}]})
    assert texts(load("a.json", content, "json", rows="2020.*")) == [FIRST]


def test_a_card_may_have_the_line_ends_of_windows(load, tmp_path):
    load("a.txt", FIRST, "text")
    card = tmp_path / "data_cards/mine.md"
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n"))
    assert texts(cards.load("mine")) == [FIRST]


def test_a_published_exam_numbers_its_answers_from_0(tmp_path):
    """MMLU's file has all subjects, and options that are numbers themselves."""
    rows = [
        (1, {"question": "1+0?", "subject": "algebra", "choices": ["4", "1", "0"], "answer": 1}),
        (2, {"question": "0+0?", "subject": "us law", "choices": ["4", "1", "0"], "answer": 2}),
    ]
    path = tmp_path / "all" / "validation-00000-of-00001.parquet"
    quarantine = []
    items = list(own_exams.read_items(path, iter(rows), "mmlu", quarantine, published=True))
    assert [(item["subject"], item["split"], item["answer"]) for item in items] == [
        ("algebra", "val", 1),
        ("us_law", "val", 2),
    ]
    assert not quarantine
    list(own_exams.read_items(path, iter(rows), "mine", quarantine))
    assert "may be the option's place or its text" in quarantine[0]["reason"]
