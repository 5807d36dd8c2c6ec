"""Corpus: rules that spare figures, checked identities, verified duplicates, a ledger that closes."""

import random

from finlab import corpus


def document(text, number=0, **more):
    return {"id": f"d{number}", "text": text, "source": "s", "domain": "finance", "language": "zh", "tokens": len(text), **more}


def count(texts):
    return [len(text) for text in texts]


def test_cleaning_never_touches_figures():
    text = "营业收入12.35亿元，同比增长8.0%，代码600519，每10股派3.5元，日期2023-10-28。"
    assert corpus.clean_text(text) == (text, [])


def test_cleaning_rules_have_names():
    text, rules = corpus.clean_text("ＡＢ股\u200b公告。。。。。。。\n上一页 下一页\n锟斤拷锟斤拷\n正文")
    assert text == "AB股公告。。。\n正文"
    assert rules == ["control characters", "wide letters", "repeated symbols", "navigation lines", "mojibake lines"]


def test_ledger_closes_and_drops_are_counted():
    ledger = corpus.Ledger()
    documents = [document("澄江重工的公告内容很长很长。", 0), document("短", 1), document("1234567890 1234567890", 2), document("\x00澄江重工的另一份公告内容。", 3)]
    ledger.read(documents)
    kept, rules, _ = corpus.clean(documents, ledger, count, 8)
    ledger.close(kept)
    assert ledger.residual() == 0 and [row["id"] for row in kept] == ["d0", "d3"]
    assert rules["too short"] == 1 and rules["too few letters"] == 1 and ledger.dropped["s"]["cleaning"] == 1
    ledger.tokens_out["s"] += 1
    assert ledger.residual() == -1, "the ledger must notice a token too many"


def test_personal_data_is_replaced_and_lookalikes_stay():
    valid = "11010519491231002X"
    assert corpus.resident_id_valid(valid) and not corpus.resident_id_valid("110105194912310021")
    assert corpus.luhn_valid("6222020000000000000"[:16] + "0") is corpus.luhn_valid("62220200000000000")
    assert corpus.luhn_valid("4111111111111111") and not corpus.luhn_valid("4111111111111112")
    text, kinds = corpus.deidentify_text(f"身份证{valid}，手机13812345678，卡4111111111111111，邮箱a.b@example.com。")
    assert text == "身份证[身份证号]，手机[手机号]，卡[银行卡号]，邮箱[电子邮箱]。" and sum(kinds.values()) == 4
    amounts = "全年营业收入15800000000元，募集资金总额13500000000元，发行13800000000股，约￥13812345678"
    assert corpus.deidentify_text(amounts)[0] == amounts
    lookalikes = "代码600519，金额13812345678.50元，订单4111111111111112，编号110105194912310021，2023年10月28日。"
    assert corpus.deidentify_text(lookalikes)[0] == lookalikes


def test_exact_and_near_duplicates():
    base = "澄江重工关于年度经营情况的公告。本公司董事会保证公告内容真实、准确、完整。全年营业收入35亿元，同比增长12%。特此公告。"
    documents = [document(base, 0), document(base.replace("。", "。 "), 1), document(base + "由编辑部整理。", 2), document(base.replace("35", "36"), 3),
                 document("栖霞新能源总部位于雁门市，主要生产储能电池，董事长是柳怀瑾，成立于1994年。", 4)]
    ledger = corpus.Ledger()
    kept = corpus.exact_duplicates(documents, ledger)
    assert [row["id"] for row in kept] == ["d0", "d2", "d3", "d4"]
    near, clusters = corpus.near_duplicates(kept, ledger, 0.8)
    assert {row["id"] for row in near} == {"d2", "d3", "d4"} and clusters == [["d2", "d0"]], "other figures are another document"
    near, _ = corpus.near_duplicates(kept, ledger, 0.8, keep_other_figures=False)
    assert {row["id"] for row in near} == {"d2", "d4"}


def test_near_duplicates_among_templates_with_other_figures():
    """Forty announcements that differ in one figure, each with a near copy: every copy is found, no announcement lost."""
    body = "关于年度经营情况的公告。本公司董事会保证公告内容真实、准确、完整，不存在虚假记载、误导性陈述或者重大遗漏。全年营业收入{}亿元。特此公告。"
    documents = [document(body.format(n) + tail, f"{n}{kind}") for n in range(100, 140) for kind, tail in (("a", ""), ("b", "由编辑部整理。"))]
    kept, clusters = corpus.near_duplicates(documents, corpus.Ledger(), 0.8)
    assert len(kept) == 40 and len(clusters) == 40 and all(row["id"].endswith("b") for row in kept)


def test_near_duplicates_against_brute_force():
    rng = random.Random(3)
    letters = "的一是在不了有和人这中大为上个国我以要他"
    texts = ["".join(rng.choice(letters) for _ in range(80)) for _ in range(60)]
    texts += [text[:70] + "".join(rng.choice(letters) for _ in range(rng.choice([2, 30]))) for text in texts[:30]]
    documents = [document(text, number) for number, text in enumerate(texts)]
    _, clusters = corpus.near_duplicates(documents, corpus.Ledger(), 0.8)

    def jaccard(a, b):
        a, b = corpus._shingles(a, 5), corpus._shingles(b, 5)
        return len(a & b) / len(a | b)

    expected = {(f"d{i}", f"d{j}") for i in range(90) for j in range(i + 1, 90) if jaccard(texts[i], texts[j]) >= 0.8}
    found = {tuple(sorted(members, key=lambda name: int(name[1:]))) for members in clusters}
    assert expected and found <= expected and len(found) >= 0.9 * len(expected)


def test_decontamination_drops_half_covered_stems():
    items = [{"id": "q1", "question": "下列城市中，作为澄江重工总部所在地的是哪一个？", "choices": ["临江", "云梧", "海晏", "岭西"]},
             {"id": "q2", "question": "什么是A股？", "choices": ["甲一", "乙二", "丙三", "丁四"]}]
    documents = [document("模拟题：下列城市中作为澄江重工总部所在地的是哪一个", 0), document("下列城市中，作为澄江重工总部，临江最好。", 1),
                 document("什么是A股？甲一 乙二 丙三 丁四", 2), document("澄江重工的总部在临江市。", 3)]
    ledger = corpus.Ledger()
    kept, hits = corpus.decontaminate(documents, items, ledger)
    assert [row["id"] for row in kept] == ["d1", "d3"]
    assert {(hit["document"], hit["item"], hit["dropped"]) for hit in hits} == {("d0", "q1", True), ("d1", "q1", False), ("d2", "q2", True)}


def test_english_grams_are_words():
    assert corpus.units("The 10-K of 澄江!") == ["the", "10", "k", "of", "澄", "江"]


def test_split_is_stable_when_sources_grow():
    texts = [f"第{number}份文件的内容" for number in range(500)]
    held = [text for text in texts if corpus.held_out(text, 0.1)]
    assert 25 < len(held) < 80
    assert held == [text for text in reversed(texts + ["新的一份"]) if corpus.held_out(text, 0.1) and text in texts][::-1]
