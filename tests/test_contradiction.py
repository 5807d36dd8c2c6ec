"""Near copies that agree, and near copies that contradict each other."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from finlab.data import contradiction, facts

PAIRS = Path(__file__).parent / "near_duplicates.jsonl"
BODY = "公告，控股股东拟在未来六个月内减持公司股份不超过总股本的百分之一，敬请投资者注意风险。"


def values(text):
    """Return the values of a text as (value, unit)."""
    found = facts.tokens(facts.normalise(text))
    return [(token.text, token.unit) for token in found if token.kind == "value"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2,700万元", "2700万元"),
        ("2700万元", "0.27亿元"),
        ("３％", "百分之三"),
        ("1.50亿元", "1.5亿元"),
        ("二〇二二年", "2022年"),
        ("一百二十人", "120人"),
        ("一亿二千万元", "1.2亿元"),
        ("十二亿三千四百五十万元", "12.345亿元"),
        ("一万二千亿元", "1.2万亿元"),
        ("三千亿五千万元", "3000.5亿元"),
        ("一百零二人", "102人"),
        ("三万五元", "3.5万元"),
        ("3亿5000万元", "3.5亿元"),
        ("3亿5千万元", "3.5亿元"),
        ("-3亿5000万元", "-3.5亿元"),
        ("100兆瓦", "100MW"),
    ],
)
def test_a_value_is_the_same_however_it_is_written(one, other):
    assert values(one) == values(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("净利1.5亿元", "净利2.5亿元"),
        ("净利一亿二千万元", "净利一亿三千万元"),
        ("净利3亿2000万元", "净利3亿3000万元"),
        ("净利3亿5000.5万元", "净利350,008,000元"),
        ("净利-3亿5000万元", "净利-2.5亿元"),
        ("变动20%", "变动-20%"),
        ("变动20%", "变动(20%)"),
        ("３月５日", "３月６日"),
        ("上半年净利", "下半年净利"),
        ("第三季度", "第四季度"),
        ("增加3%", "增加3个百分点"),
        ("10亿港元", "10亿美元"),
        ("消息利好", "消息利空"),
        ("股价上涨", "股价下跌"),
        ("已经获批", "尚未获批"),
        ("首次回购", "再次回购"),
        ("同比增长", "环比增长"),
        ("甲方付款给乙方", "乙方付款给甲方"),
        ("壹佰万元", "贰佰万元"),
        ("SH600519", "SZ600519"),
        ("甲增9%，乙增14%", "甲增14%，乙增9%"),
        ("中国银行中标", "工商银行中标"),
        ("March 5, 2024", "April 5, 2024"),
        ("will cut rates", "will not cut rates"),
        ("本周一开会", "本周五开会"),
        ("$5 million", "€5 million"),
        ("LPR+50bp", "LPR-50bp"),
        ("编号123456789012345678901234567890", "编号123456789012345678901234567891"),
        ("控股股东质押6000万股", "控股股东解除质押6000万股"),
        ("拟1亿元-2亿元回购", "拟2亿元-4亿元回购"),
        ("三菱汽车或向日产出售股份", "日产或向三菱汽车出售股份"),
        ("发行12亿元公司债", "发行12亿元中期票据"),
    ],
)
def test_what_contradicts_is_two_documents(one, other):
    assert contradiction.contradicts(one + BODY, other + BODY)
    assert contradiction.contradicts(other + BODY, one + BODY)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("某股份", "某股份(sh601058)"),
        ("某股份", "14日讯，某股份"),
        ("1.58亿元-1.88亿元", "1.58亿元至1.88亿元"),
        ("获批2700万元", "获批2,700万元"),
        ("预降70%—77%", "预降70%-77%"),
        ("三季度净利", "第三季度净利"),
        ("某股份称", "某股份表示"),
        ("净利1.5亿", "净利1.5亿元"),
        ("自15年引入", "自2015年引入"),
        ("净利润为-2570万元", "净利润为亏损2570万元"),
        ("用电1220亿千瓦时", "用电1220亿度"),
        ("某股份公告", "某股份(300624)公告"),
    ],
)
def test_what_only_one_says_contradicts_nothing(one, other):
    assert not contradiction.contradicts(one + BODY, other + BODY)
    assert not contradiction.contradicts(other + BODY, one + BODY)


def text_of(row):
    """Return the real text that a labelled pair begins with."""
    path = Path(os.environ["FINLAB_DATA"]) / row["source"]
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))[row["row"]]
        return content[0] if "finnl" in row["source"] else content[1]
    import datasets

    return datasets.load_from_disk(str(path))["input"][row["row"]]


def edited(text, edits):
    """Return a text with each edit made once; ^ and $ insert at its ends."""
    for old, new in edits:
        if old == "^":
            text = new + text
        elif old == "$":
            text += new
        else:
            text = text.replace(old, new, 1)
    return text


@pytest.mark.skipif(not os.environ.get("FINLAB_DATA"), reason="needs FINLAB_DATA")
def test_labelled_pairs_of_real_texts():
    """Pairs made of real texts by edits; half are one document told twice."""
    wrongly_one = wrongly_two = copies = 0
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        first = text_of(row)
        assert hashlib.sha256(first.encode()).hexdigest().startswith(row["sha"])
        two = contradiction.contradicts(first, edited(first, row["edits"]))
        copies += row["want"] == "one"
        wrongly_one += row["want"] == "two" and not two
        wrongly_two += row["want"] == "one" and two
    recall = 1 - wrongly_two / copies
    precision = (copies - wrongly_two) / (copies - wrongly_two + wrongly_one)
    print(f"{copies} copies: precision {precision:.3f}, recall {recall:.3f}")
    assert recall >= 0.9
    assert precision >= 0.97


def test_long_texts_are_compared_in_a_moment():
    """An annual report with a character more in every sixty."""
    text = "".join(chr(0x4E00 + place * 7 % 2000) for place in range(80_000))
    other = "".join(char + "甲" * (place % 60 == 0) for place, char in enumerate(text))
    began = time.perf_counter()
    assert not contradiction.contradicts(text, other)
    assert time.perf_counter() - began < 10


def test_the_order_of_two_texts_does_not_decide():
    """Equal tokens are aligned from one side, so which text came first decided this pair."""
    one = BODY + "300股，增长5%，增持减持下降5%，下降5%，"
    other = BODY + "300股，增长7%，增长5%，减持下降5%，下降5%，"
    assert contradiction.contradicts(one, other)
    assert contradiction.contradicts(other, one)
