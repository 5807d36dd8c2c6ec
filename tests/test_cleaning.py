"""Cleaning: rules that spare figures, checked identities, names after cues.

Precision and recall on the labelled set.
"""

import html
import html.entities
import random
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from finlab.data import cleaning, cleaning_rules, personal, personal_checks


def cleaned(text, settings=None):
    steps = cleaning.clean_text(text, cleaning.rules(settings))
    return (steps[-1][1] if steps else text), [rule for rule, _ in steps]


def test_cleaning_never_touches_figures():
    text = "营业收入12.35亿元，同比增长8.0%，代码600519，每10股派3.5元，日期2023-10-28，ＳＴ６００，Ａ１级，重５ｋｇ，１２３，卡号138****5678。"
    assert cleaned(text) == (text, [])


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("ＡＢ股公告", "AB股公告", "wide letters"),
        ("甲\u3000乙", "甲 乙", "wide letters"),
        ("公告\u200b内容\ufeff", "公告内容", "control characters"),
        ("会议通过,决议有效;详见附件", "会议通过，决议有效；详见附件", "narrow punctuation"),
        ("1,234.5,见表:12", "1,234.5,见表:12", None),
        ("---\ntitle: 某法\ndate: 2020-01-01\n---\n正文第一条", "正文第一条", "front matter"),
        ("⾦融⼯具", "金融工具", "unicode form"),
        ("。中 国 证 监 会。", "。中国证监会。", "spaced characters"),
        ("第一章 总则", "第一章 总则", None),
        ("公告。。。。。。。", "公告。。。", "repeated symbols"),
        ("正文<br/>&nbsp;内容<p>段</p>", "正文\n\u00a0内容\n段", "html remnants"),
        ("<td>甲</td><td>乙</td>", "甲  乙", "html remnants"),
        ("一<b>字</b>不差 <custom>", "一字不差 <custom>", "html remnants"),
        ("第 一 二 三 四", "第 一 二 三 四", None),
        ("营收增长5%，不构成投资建议。完", "营收增长5%，不构成投资建议。完", None),
        ("甲5（不构成投资建议）6乙", "甲5 6乙", "disclaimers"),
        ("甲1\ufffd2乙丙丁戊己庚辛壬癸子丑", "甲1 2乙丙丁戊己庚辛壬癸子丑", "mojibake lines"),
        ("若a<b且b>c", "若a<b且b>c", None),
        ("若<s 时亏1元，而>s 时盈2元。", "若<s 时亏1元，而>s 时盈2元。", None),
        ("当 A<B 且 C>D 时，收益为5%。", "当 A<B 且 C>D 时，收益为5%。", None),
        ("P<S 时付100亿元。Q>R", "P<S 时付100亿元。Q>R", None),
        ("<a href='x' target=_blank disabled>链</a >接", "链接", "html remnants"),
        ("上一页 下一页\n正文", "正文", "navigation lines"),
        ("正文\n责任编辑：某某", "正文", "disclaimers"),
        ("股价上涨。以上内容不构成投资建议。成交放大。", "股价上涨。成交放大。", "disclaimers"),
        ("公司声明，本次收购不构成重大资产重组。", "公司声明，本次收购不构成重大资产重组。", None),
        ("正文\n锟斤拷锟斤拷", "正文", "mojibake lines"),
        ("甲  \n\n\n\n乙 ", "甲\n\n乙", "blank space"),
    ],
)
def test_every_rule_does_its_work_and_no_more(before, after, rule):
    text, applied = cleaned(before)
    assert text == after
    assert rule in applied if rule else not applied


SEPARATORS = [
    *(chr(code) for code in range(0x20)),
    *(chr(code) for code in range(0x7F, 0xA1)),
    *(chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cf", "Zs")),
    "\u2028",
    "\u2029",
    "\ue000",
    "\uf8ff",
    "\ufe0f",
    "（不构成投资建议）",
    *(f"&{name}" for name in html.entities.html5 if name.endswith(";")),
    *(f"<{tag}>" for tag in cleaning_rules.TAG_NAMES),
    *(f"</{tag}>" for tag in cleaning_rules.TAG_NAMES),
    *(f"<{tag.upper()} class='x' />" for tag in cleaning_rules.TAG_NAMES),
]


# Without those that stand for a figure themselves, such as &frac12; and &sup2;.
SEPARATORS = [each for each in SEPARATORS if not cleaning_rules.figures_of(html.unescape(each))]


@pytest.mark.parametrize(("first", "second"), [("2022", "2023"), ("1.5", "-2.5%"), ("５", "７")])
def test_what_separates_two_figures_leaves_them_apart(first, second):
    glued = []
    for separator in SEPARATORS:
        result, _ = cleaned(f"年份{first}{separator}{second}亿元")
        if first + second in result or first not in result or second not in result:
            glued.append((separator, result))
    assert not glued


def test_cleaning_keeps_the_figures_of_texts_mixed_at_random():
    draw = random.Random(1)
    for _ in range(3000):
        text, figures = "报告", []
        for _ in range(draw.randint(1, 8)):
            part = draw.choice(["2023", "1.5", "第3条", "甲", "word", "一 二", "。", "５％"])
            separators = "".join(draw.choices(SEPARATORS, k=draw.randint(1, 3)))
            text += part + separators
            figures += cleaning_rules.figures_of(part)
        assert cleaning_rules.figures_of(cleaned(text + "完")[0]) == figures, text


def test_a_transcript_keeps_its_speakers():
    lines = []
    for number in range(6):
        lines += ["投资者：", f"第{number}条产线何时投产？", "某某股份董秘：", "请以公告为准。"]
    lines += ["√适用 □不适用", "|---|---|"] * 5
    text = "\n".join(lines)
    assert cleaned(text)[0] == text


def test_mojibake_is_repaired_where_the_bytes_survived():
    text = "中国证监会发布新规则"
    assert cleaned(text.encode().decode("latin-1"))[0] == text
    even = "上海银行今年年报公告"  # an even number of bytes survives the reading as GBK
    assert cleaned(even.encode().decode("gb18030"))[0] == even


def test_cards_set_rules():
    assert cleaned("臺灣證券市場", {"simplify": True}) == (
        "台湾证券市场",
        ["traditional to simplified"],
    )
    assert cleaned("正文\n本站原创 编号7\n完", {"drop_lines": ["本站原创"]}) == (
        "正文\n完",
        ["lines of this source"],
    )
    assert cleaned("标题[[+_+]]正文", {"drop_text": [r"(?:\[\[\+_\+\]\])+"]}) == (
        "标题\n正文",
        ["marks of this source"],
    )
    page = "\n".join(f"年度报告全文\n第{number}节的内容" for number in range(6))
    assert cleaned(page)[0].count("年度报告全文") == 1
    table = "\n".join(["合计 - 100", "其他内容"] * 3 + ["合计 - 100"] * 3)
    assert cleaned(table)[0].count("合计 - 100") == 6, "rows with figures are not page headers"


@pytest.mark.parametrize(
    ("text", "language", "settings", "reason"),
    [
        ("", "zh", {}, "empty after cleaning"),
        ("短文", "zh", {}, "too short"),
        ("短文", "zh", {"min_chars": 2}, ""),
        ("1234567890 1234567890", "zh", {}, "too few letters"),
        ("The annual report of the company.", "zh", {}, "another language"),
        ("美股白银股拉升，Silvercorp Metals(SVM)涨2.69%", "zh", {}, ""),
        ("The annual report of the company.", "en", {}, ""),
        ("同样的一行文字很长很长\n" * 9, "zh", {}, "repeated lines throughout"),
        ("买它买它" * 200, "zh", {}, "too repetitive"),
        ("本店代开发票，欢迎来电咨询。", "zh", {"blocked_words": ["代开发票"]}, "blocked word"),
    ],
)
def test_documents_are_dropped_for_a_named_reason(text, language, settings, reason):
    assert cleaning.drop_reason(text, language, settings) == reason


def test_check_digits():
    assert personal_checks.resident_id_valid("11010519491231002X")
    assert not personal_checks.resident_id_valid("110105194912310021")
    assert personal_checks.credit_code_valid("91350100M000100Y43")
    assert not personal_checks.credit_code_valid("91350100M000100Y44")
    assert personal_checks.luhn_valid("4111111111111111")
    assert not personal_checks.luhn_valid("4111111111111112")


MARK = re.compile(r"\[([^|\[\]]+)\|([^\]]+)\]")
KINDS = (
    "姓名",
    "手机号",
    "固定电话",
    "身份证号",
    "银行卡号",
    "账号",
    "地址",
    "车牌号",
    "护照号",
    "微信号",
    "QQ号",
    "电子邮箱",
    "统一社会信用代码",
)


# The least share found, where it is less than nine in ten.
FEWEST_FOUND = {
    ("personal_data.txt", "姓名"): 0.88,
    ("personal_frozen.txt", "姓名"): 0.85,
    ("personal_frozen.txt", "账号"): 0.75,
    ("personal_frozen.txt", "微信号"): 0.8,
}


def labelled(name: str) -> list[tuple[str, set[tuple[str, int, int]]]]:
    """Return (text, {(kind, start, end)}) of a labelled file, where data stands as [kind|what]."""
    rows = []
    for line in (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        text, spans, end = "", set(), 0
        for match in MARK.finditer(line):
            text += line[end : match.start()]
            spans.add((match[1], len(text), len(text) + len(match[2])))
            text += match[2]
            end = match.end()
        rows.append((text + line[end:], spans))
    return rows


def measure(name: str) -> dict[str, dict[str, float]]:
    """Return {kind: {n, precision, recall}} on a labelled file.

    What is found counts as right where it touches a mark of its kind, and a mark as found where the
    whole of it is replaced.
    """
    marks, hits, found, right = Counter(), Counter(), Counter(), Counter()
    for text, expected in labelled(name):
        spans = personal.find(text, people=True)
        for kind, start, end in expected:
            marks[kind] += 1
            hits[kind] += any(first <= start and end <= last for _, first, last in spans)
        for kind, first, last in spans:
            found[kind] += 1
            meant = [(start, end) for other, start, end in expected if other == kind]
            right[kind] += any(first < end and start < last for start, end in meant)
    figures = {}
    for kind in KINDS:
        precision = right[kind] / max(found[kind], 1)
        recall = hits[kind] / max(marks[kind], 1)
        figures[kind] = {"n": marks[kind], "precision": precision, "recall": recall}
    return figures


@pytest.mark.parametrize("name", ["personal_data.txt", "personal_frozen.txt"])
def test_precision_and_recall_on_labelled_lines(name):
    figures = measure(name)
    for kind, row in figures.items():
        shares = f"{row['precision']:.3f} {row['recall']:.3f}"
        print(f"{name} {kind}: {row['n']} {shares}")
    for kind, row in figures.items():
        assert row["n"] >= 4, f"{kind} needs more examples"
        assert row["precision"] >= 0.9, (kind, row)
        assert row["recall"] >= FEWEST_FOUND.get((name, kind), 0.9), (kind, row)


def test_numbers_that_only_look_like_personal_data_stay():
    rng = random.Random(1)
    for _ in range(2000):
        digits = rng.randint(5, 12)
        amount = f"{rng.randint(1, 10**digits) / 100:.2f}"
        code = f"{rng.randint(0, 999999):06d}"
        year, month, day = rng.randint(1990, 2030), rng.randint(1, 12), rng.randint(1, 28)
        shares = rng.randint(10**10, 2 * 10**10)
        date = f"{year}-{month:02d}-{day:02d}"
        text = f"营业收入{amount}元，代码{code}，日期{date}，股数{shares}股。"
        assert personal.deidentify_text(text) == (text, Counter())


def test_dialogues_lose_names_and_reports_keep_them():
    text = "客户王小明先生来电"
    assert personal.deidentify_text(text)[0] == text
    counts = Counter()
    assert personal.deidentify_messages([{"role": "user", "content": text}], counts) == [
        {"role": "user", "content": "客户[姓名]先生来电"}
    ]
    assert counts == {"姓名": 1}


def test_opencc_is_loaded_only_where_a_text_is_converted(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)
    cleaning_rules._simplifier.cache_clear()
    rules = cleaning.rules({"simplify": True})
    assert "traditional to simplified" in rules
    with pytest.raises(ImportError, match=r"pip install -e '.\[chinese\]'"):
        cleaning.clean_text("銀行", rules)
