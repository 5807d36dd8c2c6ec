"""Data cards: the only door.

Every row that cannot be read is kept with file, line and reason.
"""

import json
import re

import pytest

from finlab import paths
from finlab.data import cards, corpus_statistics

SECTIONS = (
    "## Uses",
    "## Structure",
    "## Creation",
    "## Personal and sensitive information",
    "## Bias, risks and limits",
    "## Licence and terms",
)


@pytest.mark.parametrize("name", cards.names())
def test_card_is_complete(name):
    card = cards.read(name)
    assert card.licence
    assert all(section in card.text for section in SECTIONS)
    assert "More Information Needed" not in card.text


@pytest.mark.parametrize("name", [name for name in cards.names() if name.startswith("cw_")])
def test_closed_world_cards_load(name):
    source = cards.load(name)
    # The house rule is one document in three versions, and the notes are one a customer.
    least = {"cw_house_rules": 3, "cw_notes": 30}.get(name, 51)
    assert len(source.rows) >= least
    assert cards.fingerprint(source.card) == cards.fingerprint(cards.read(name))
    assert source.card.spec["sha256"], (
        "the world is the same, byte for byte, or load() would have refused it"
    )


def test_broken_lines_are_quarantined_with_file_and_line():
    found = cards.load("cw_news").quarantined
    assert [row["where"].rpartition(":")[2] for row in found] == ["8", "19"]
    assert all(
        "not JSON" in row["reason"] and row["where"].startswith("cw_news.jsonl:") for row in found
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("FINLAB_DATA", str(tmp_path))
    (tmp_path / "data_cards").mkdir()

    def write(name, front):
        (tmp_path / "data_cards" / f"{name}.md").write_text(
            f"---\n{front}\n---\n# card\n", encoding="utf-8"
        )
        return tmp_path

    return write


GOOD = "license: mit\nfinlab: {domain: finance, language: zh, kind: text, files: [a.jsonl], format: jsonl}"


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (GOOD.replace("license: mit\n", ""), "states no license"),
        ("license: mit", "no `finlab:` block"),
        (GOOD.replace("kind: text", "kind: poem"), "finlab.kind is 'poem'"),
        (GOOD.replace("files: [a.jsonl], ", ""), "either `files` or a `hub` id"),
        (GOOD.replace("kind: text", "kind: text, color: red"), "unknown key 'color'"),
        (GOOD.replace("kind: text", "kind: text, max_bytes: 9"), "max_bytes is for rows that are"),
        (GOOD.replace("format: jsonl", "format: hub"), "'hub', so name the dataset in `hub:`"),
        (GOOD.replace("files: [a.jsonl]", "hub: a/b, config: c"), "so write `format: hub`"),
        ("license: [", "not YAML"),
        (GOOD, "no file matches a.jsonl"),
    ],
)
def test_bad_cards_are_refused(folder, front, message):
    folder("mine", front)
    with pytest.raises(ValueError, match=message):
        cards.load("mine")


def test_missing_card_and_missing_data(folder, monkeypatch):
    folder("mine", GOOD)
    with pytest.raises(ValueError, match="there is no data card 'other'"):
        cards.load("other")
    monkeypatch.delenv("FINLAB_DATA")
    with pytest.raises(ValueError, match="FINLAB_DATA, which is not set"):
        cards.load("mine")


def test_files_of_one_name_in_two_folders_keep_their_rows_apart(folder):
    root = folder("mine", GOOD.replace("a.jsonl", '"*/x/a.jsonl"'))
    for name in ("one", "two"):
        (root / name / "x").mkdir(parents=True)
        rows = [{"text": f"{name} 的第 {number} 行"} for number in (1, 2)]
        rows.append({"id": "7", "text": f"{name} 的第七篇"})
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (root / name / "x" / "a.jsonl").write_text(text, encoding="utf-8")
    ids = cards.load("mine").rows["id"][:]
    assert ids == [
        "mine/x/a.jsonl:1",
        "mine/x/a.jsonl:2",
        "mine/7",
        "mine/x/a.jsonl#2:1",
        "mine/x/a.jsonl#2:2",
        "mine/7@x/a.jsonl#2:3",
    ]


def test_bad_rows_and_checksum(folder):
    root = folder("mine", GOOD)
    (root / "a.jsonl").write_text(
        '{"id": "1", "text": "一"}\n{"id": "1", "text": "二"}\n{"text": ""}\n{"body": "x"}\n{"id": "2", "text": "三"}\n',
        encoding="utf-8-sig",
    )
    source = cards.load("mine")
    assert source.rows["text"][:] == ["一", "二", "三"], "an id that repeats loses no row"
    assert len(set(source.rows["id"][:])) == 3
    assert [row["where"].rpartition(":")[2] for row in source.quarantined] == ["3", "4"]
    folder("mine", GOOD.replace("format: jsonl", "format: jsonl, sha256: none"))
    with pytest.raises(ValueError, match="wrong or changed data"):
        cards.load("mine")
    folder("mine", GOOD)
    (root / "a.jsonl").write_text("nothing\n")
    with pytest.raises(ValueError, match="none of its rows could be read; first: a.jsonl:1"):
        cards.load("mine")


def test_encodings_and_broken_arrays(folder):
    root = folder("mine", GOOD)
    (root / "a.jsonl").write_bytes(
        '{"text": "一"}\n'.encode()
        + '{"text": "国债"}\n'.encode("gbk")
        + '{"text": "三"}\n'.encode()
    )
    source = cards.load("mine")
    assert source.rows["text"][:] == ["一", "三"]
    assert source.quarantined[0]["where"] == "a.jsonl:2"
    assert source.quarantined[0]["reason"].startswith("not UTF-8: it reads as GB18030")
    folder("mine", GOOD.replace("format: jsonl", "format: json"))
    (root / "a.jsonl").write_text('[\n{"text": "一"},\n{"text": }\n]')
    with pytest.raises(ValueError, match="a.jsonl: the JSON array is broken"):
        cards.load("mine")
    folder("mine", GOOD.replace("format: jsonl", 'format: json, rows: "data.*"'))
    (root / "a.jsonl").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="no 'data' where"):
        cards.load("mine")


def test_kinds_are_not_mixed():
    with pytest.raises(ValueError, match="card cw_news is of kind text; this step reads exam"):
        cards.load_all(["cw_news"], "exam")


def test_real_cards_load_whole(data):
    expected = {
        "laws_zh": 199,
        "cmrc2018_zh": 1104,
        "fincuge_finese_zh": 14252,
        "wiki_en": 30,
        "c4_en": 300,
        "finterms_en": 158,
        "alpaca_zh": 1000,
        "sharegpt_zh": 997,
        "cornucopia_zh": 15,
        "yayi_zh": 3,
        "yayi_multi_zh": 2,
        "toolcall_zh": 298,
        "disc_finllm_zh": 400,
        "dpo_zh_demo": 300,
        "dpo_zh_500": 500,
        "ceval": 260,
        "mmlu": 285,
    }
    loaded = {name: cards.load(name) for name in expected}
    assert {name: len(source.rows) for name, source in loaded.items()} == expected
    assert [row["where"] for row in loaded["cornucopia_zh"].quarantined] == [
        "cornucopia_fin_data.json:11",
        "cornucopia_fin_data.json:12",
    ]
    for name in cards.names():
        # Cards of the hub need a network, and `mine` is for a person's own text.
        if "files" in cards.read(name).spec and name != "mine":
            assert len(cards.load(name).rows), name


def texts(folder, front, files):
    root = folder("mine", front)
    for name, content in files.items():
        (root / name).write_bytes(content)
    source = cards.load("mine")
    return source.rows["text"][:], source.quarantined


def test_packed_files_tables_and_other_encodings(folder):
    import gzip

    import pyarrow
    import pyarrow.parquet

    lines = '{"text": "国债"}\n{"text": "基金"}\nnot json\n'.encode()
    packed = pyarrow.compress(lines, codec="zstd", asbytes=True)
    found, bad = texts(
        folder,
        GOOD.replace("a.jsonl", "'*.gz', '*.zst'"),
        {"a.jsonl.gz": gzip.compress(lines), "b.jsonl.zst": packed},
    )
    assert found == ["国债", "基金"] * 2
    assert [row["where"] for row in bad] == [
        "a.jsonl.gz:3",
        "b.jsonl.zst:3",
    ]
    assert bad[0]["row"] == "not json"
    table = 'id,text\n1,"国债,\n两行"\n2,基金,多\n3,"股票"\n4\n'
    form = GOOD.replace("format: jsonl", "format: csv")
    found, bad = texts(
        folder, form.replace("a.jsonl", "a.csv"), {"a.csv": b"\xef\xbb\xbf" + table.encode()}
    )
    assert found == ["国债,\n两行", "股票"]
    assert [row["where"] for row in bad] == ["a.csv:4", "a.csv:6"]
    assert "2 fields of the header" in bad[0]["reason"]
    with pytest.raises(
        ValueError,
        match="a.csv: not UTF-8 at byte 11: it reads as GB18030; write `encoding: gb18030` in the card",
    ):
        texts(folder, form.replace("a.jsonl", "a.csv"), {"a.csv": table.encode("gb18030")})
    found, _ = texts(
        folder,
        form.replace("a.jsonl", "a.csv").replace("format: csv", "format: csv, encoding: gb18030"),
        {"a.csv": table.encode("gb18030")},
    )
    assert found[0] == "国债,\n两行"
    found, _ = texts(
        folder,
        form.replace("a.jsonl", "a.tsv").replace("csv", "tsv"),
        {"a.tsv": "text\t年\n国债\t2023\n".encode()},
    )
    assert found == ["国债"]
    root = folder("mine", form.replace("a.jsonl", "a.parquet").replace("csv", "parquet"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["国债", None, "基金"]}), root / "a.parquet")
    source = cards.load("mine")
    assert source.rows["text"][:] == ["国债", "基金"]
    assert source.quarantined[0]["where"].endswith("a.parquet:2")


def test_html_and_pdf_keep_their_tables(folder):
    pytest.importorskip("trafilatura", reason="the documents extra is not installed")
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Table

    page = (
        "<html><head><title>公告</title></head><body><nav>首页 | 关于我们</nav><article><h1>年度报告</h1><p>"
        + "本公司全年经营稳健，各项业务进展顺利。" * 6
        + "</p><table><tr><th>项目</th><th>金额</th></tr><tr><td>营业收入</td><td>35.6亿元</td></tr></table><p>"
        + "特此公告，请投资者留意。" * 6
        + "</p></article></body></html>"
    )
    found, _ = texts(
        folder,
        GOOD.replace("a.jsonl", "a.html").replace("format: jsonl", "format: html"),
        {"a.html": page.encode()},
    )
    assert "本公司全年经营稳健" in found[0]
    assert "| 营业收入 | 35.6亿元 |" in found[0]
    assert "关于我们" not in found[0]

    root = folder(
        "mine", GOOD.replace("a.jsonl", "'*.pdf'").replace("format: jsonl", "format: pdf")
    )
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    style = ParagraphStyle("zh", fontName="STSong-Light", fontSize=11, leading=16, wordWrap="CJK")
    grid = Table(
        [["项目", "本期金额"], ["营业收入", "3,560,000.00"], ["净利润", "-12.5"]],
        style=[
            ("FONTNAME", (0, 0), (-1, -1), "STSong-Light"),
            ("GRID", (0, 0), (-1, -1), 0.5, colors.black),
        ],
    )
    body = (
        "报告期内公司实现营业收入稳步增长主要得益于新能源业务的快速发展以及海外市场的持续开拓同时公司加强了成本管理。"
        * 3
    )
    SimpleDocTemplate(str(root / "a.pdf"), pagesize=A4).build(
        [
            Paragraph("年度报告摘要", style),
            Paragraph(body, style),
            grid,
            Paragraph("以上数据未经审计。", style),
        ]
    )
    (root / "b.pdf").write_bytes(b"%PDF-1.4 broken")
    source = cards.load("mine")
    text = source.rows["text"][0]
    assert body in text, "lines broken at the margin are joined"
    assert "| 项目 | 本期金额 |\n|---|---|\n| 营业收入 | 3,560,000.00 |\n| 净利润 | -12.5 |" in text
    assert text.index("年度报告摘要") < text.index("| 项目") < text.index("以上数据未经审计。")
    assert source.quarantined[0]["where"] == "b.pdf"
    assert "cannot be read" in source.quarantined[0]["reason"]


def test_labels_rules_and_statistics(folder):
    label = GOOD.replace("kind: text", "kind: label")
    root = folder("mine", label)
    (root / "a.jsonl").write_text('{"text": "一", "bad": true}\n{"text": "二"}\n', encoding="utf-8")
    source = cards.load("mine")
    assert source.rows["bad"][:] == [True]
    assert "bad: true" in source.quarantined[0]["reason"]
    folder("mine", GOOD.replace("format: jsonl", "format: jsonl, rules: {min_char: 3}"))
    with pytest.raises(
        ValueError, match="unknown rule 'min_char' in finlab.rules; it knows blocked_words"
    ):
        cards.read("mine")
    path = root / "data_cards/mine.md"
    path.write_text(path.read_text() + "\n## Uses\n\nMany.\n")
    folder_card = cards.Card("mine", "mit", {}, "")
    path.write_text(corpus_statistics.with_statistics(folder_card, {"documents": 3}))
    path.write_text(
        corpus_statistics.with_statistics(folder_card, {"documents": 4, "years": "2019–2021"})
    )
    content = path.read_text()
    assert content.count("finlab:statistics -->") == 2
    assert "| documents | 4 |\n| years | 2019–2021 |" in content
    assert content.endswith("## Uses\n\nMany.\n")


def test_bad_rows_are_set_aside_or_refused():
    quarantined = {"cw_sharegpt": cards.load("cw_sharegpt").quarantined}
    found = cards.quarantined_rows(quarantined)
    assert [row["where"].rpartition(":")[2] for row in found] == [
        "178",
        "179",
        "180",
        "181",
    ]
    assert all(row["card"] == "cw_sharegpt" for row in found)
    with pytest.raises(
        ValueError,
        match=r"4 rows cannot be read \(dialogues/sharegpt.jsonl:178: turn 2 \(gpt\) is empty.*set bad_rows to quarantine",
    ):
        cards.quarantined_rows(quarantined, "refuse")
    with pytest.raises(ValueError, match="bad_rows is 'ignore'"):
        cards.quarantined_rows({}, "ignore")


def test_questions_have_a_domain_and_say_who_asked():
    rows = cards.load("questions").rows
    assert len(rows) == 16
    assert set(rows["domain"]) == {"finance", "general"}
    assert {"ZhiLu", "Cornucopia", "XuanYuan", "YaYi", "closed world"} == set(rows["from"])
    assert "怎么炒股才能稳赚不赔？" in rows["question"][:]
    assert "什么是A股？" in rows["question"][:]


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (GOOD.replace("mit", "' '"), "states no license"),
        (GOOD.replace("mit", "free-for-all"), "the license is 'free-for-all'"),
        (GOOD.replace("mit", "[mit]"), "the license is"),
        (GOOD.replace("[a.jsonl]", "[../../etc/passwd]"), "without .. and not absolute"),
        (GOOD.replace("[a.jsonl]", "[/etc/passwd]"), "without .. and not absolute"),
        (GOOD.replace("[a.jsonl]", "a.jsonl"), "finlab.files is 'a.jsonl'"),
        (GOOD.replace("[a.jsonl]", "[1]"), "finlab.files.0 is 1"),
        (GOOD.replace("kind: text", "kind: text, root: nowhere"), "finlab.root is 'nowhere'"),
        (GOOD.replace("kind: text", "kind: text, partial: maybe"), "finlab.partial is 'maybe'"),
        (GOOD.replace("kind: text", "kind: text, encoding: gb-x"), "finlab.encoding is 'gb-x'"),
        (GOOD.replace("kind: text", "kind: [text]"), "finlab.kind is"),
        (
            GOOD.replace("jsonl}", "jsonl, rules: {drop_text: ['(']}}"),
            "is not a regular expression",
        ),
        (GOOD.replace("jsonl}", "jsonl, rules: {min_chars: many}}"), "finlab.rules.min_chars"),
        (GOOD.replace("jsonl}", "jsonl, rules: [1]}"), "finlab.rules is"),
        (GOOD + "\nlicense: mit", "line 4: not YAML: the key 'license' is written twice"),
        ("a: &a [1]\nb: *a\n" + GOOD, "the alias *a"),
    ],
)
def test_what_a_card_may_hold(folder, front, message):
    folder("mine", front)
    with pytest.raises(ValueError, match=re.escape(message) if "(" not in message else message):
        cards.read("mine")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".x", 2023, True, "2023", "1e5", "2024-01-01", "nan"]
)
def test_a_cards_name_is_a_name(folder, name):
    folder("mine", GOOD)
    with pytest.raises(ValueError, match="is not a name"):
        cards.read(name)


def test_a_card_reads_nothing_outside_its_root(folder, tmp_path_factory):
    root = folder("mine", GOOD)
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.jsonl"
    secret.write_text('{"text": "秘密"}\n', encoding="utf-8")
    (root / "a.jsonl").symlink_to(secret)
    with pytest.raises(ValueError, match="lies outside"):
        cards.load("mine")


def test_brackets_in_the_data_folder_are_brackets(folder, tmp_path, monkeypatch):
    folder("mine", GOOD)
    data = tmp_path / "[2024] 研报 {a}"
    data.mkdir()
    (data / "a.jsonl").write_text('{"text": "一"}\n', encoding="utf-8")
    monkeypatch.setenv("FINLAB_DATA", str(data))
    assert cards.load("mine").rows["text"][:] == ["一"]
