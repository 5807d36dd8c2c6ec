"""Corpus: frames whose ledger closes, verified duplicates, exams found in the text.

A split that stays.
"""

import json
import os
import random
import subprocess
import sys
import textwrap
from collections import Counter
from types import SimpleNamespace

import daft
import pyarrow.parquet
import pytest
from daft import col

from finlab.data import (
    accounts,
    cards,
    cleaning,
    cleaning_rules,
    contamination,
    corpus,
    corpus_samples,
    corpus_statistics,
    dedup,
    frames,
    personal,
    selection,
)


@pytest.fixture
def frame(tmp_path):
    """Make a frame of texts, given by source: {source: [text]} or [text]."""

    def make(texts, language="zh", domain="finance"):
        sources = texts if isinstance(texts, dict) else {"s": texts}
        read = [
            (
                SimpleNamespace(name=name, domain=domain, language=language),
                iter(
                    [{"id": f"{name}/{number}", "text": text} for number, text in enumerate(found)]
                ),
            )
            for name, found in sources.items()
        ]
        return frames.read(read, tmp_path / f"read{random.random()}", frames.characters)

    return make


def dropped(frame):
    return {row["number"]: row["dropped"] for row in frame.select("number", "dropped").to_pylist()}


def test_the_ledger_closes_and_names_every_loss(frame):
    texts = [
        "澄江重工的公告内容很长很长。",
        "短",
        "1234567890 1234567890",
        "\x00澄江重工的另一份公告内容。　ＡＢ",
        "正文如下：手机号13812345678。",
        "急！加微信领牛股",
    ]
    scorer = corpus.scorer(lambda texts: [float("微信" in text) for text in texts], 0.5, "bad text")
    found = frames.transform(
        frame(texts),
        corpus.cleaner(frames.characters),
        scorer,
        corpus.deidentifier(frames.characters),
    )
    assert dropped(found) == {
        0: "",
        1: "too short",
        2: "too few letters",
        3: "",
        4: "",
        5: "bad text",
    }
    rows = {row["reason"]: row for row in corpus.ledger(found)}
    assert rows["read"]["documents"] == 6
    assert rows["read"]["tokens"] == sum(map(len, texts))
    assert rows["control characters"]["tokens"] == 1
    assert rows["too short"]["tokens"] == 1
    assert rows["bad text"]["tokens"] == 8
    assert rows["de-identification"]["tokens"] == 11 - len("[手机号]")
    assert rows["wide letters"]["tokens"] == 0
    assert corpus.residual(list(rows.values())) == 0
    rows["kept"]["tokens"] += 1
    assert corpus.residual(list(rows.values())) == 1, "the ledger must notice a token too many"


def test_a_source_sets_its_own_thresholds(frame):
    found = frames.transform(
        frame({"a": ["短的文字"], "b": ["短的文字"]}),
        corpus.cleaner(frames.characters, {"a": {"min_chars": 2}}),
    )
    assert dropped(found) == {0: "", 1: "too short"}


def test_samples_show_the_place_of_the_change(frame):
    original = frame(
        ["很长的开头" * 20 + "ＡＢ股" + "很长的结尾" * 20, "联系13812345678办理业务", "短"]
    )
    found = frames.transform(
        original, corpus.cleaner(frames.characters), corpus.deidentifier(frames.characters)
    )
    shown = {row["rule"]: row for row in corpus_samples.samples(original, found)}
    assert "ＡＢ股" in shown["wide letters"]["before"]
    assert "AB股" in shown["wide letters"]["after"]
    assert "[手机号]" in shown["de-identification"]["after"]
    assert shown["too short"]["before"] == "短"


def test_exact_and_near_duplicates(frame):
    base = "澄江重工关于年度经营情况的公告。本公司董事会保证公告内容真实、准确、完整。全年营业收入35亿元，同比增长12%。特此公告。"
    texts = [
        base,
        base.replace("。", "。 "),
        base + "由编辑部整理。",
        base.replace("35", "36"),
        base.replace("年度", "二〇二三年").replace("公告。", "二〇二二年公告。", 1),
        "栖霞新能源总部位于雁门市，主要生产储能电池，董事长是柳怀瑾，成立于1994年。",
    ]
    reasons, clusters = dedup.duplicates(frame(texts), 0.8)
    assert reasons == {1: "exact duplicate", 0: "near duplicate in its source"}, (
        "other figures are another document"
    )
    assert clusters == [[2, 0]], "other figures are another document"
    reasons, _ = dedup.duplicates(frame(texts), 0.8, keep_other_figures=False)
    assert set(reasons) >= {0, 1, 3}
    assert 2 not in reasons
    assert 5 not in reasons


def test_first_within_a_source_then_across(frame):
    base = "澄江重工关于年度经营情况的公告。本公司董事会保证公告内容真实、准确、完整。全年营业收入稳步增长，各项业务进展顺利。特此公告。"
    reasons, clusters = dedup.duplicates(
        frame(
            {
                "a": [base, base + "完。"],
                "b": [base + "由编辑部整理。", "完全不同的另一篇文章，讲的是山川河流。"],
            }
        ),
        0.8,
    )
    assert reasons == {
        0: "near duplicate in its source",
        1: "near duplicate across sources",
    }
    assert clusters == [[1, 0], [2, 1]]


def test_announcements_that_differ_only_in_figures_dates_or_codes_stay(frame):
    """Forty announcements that differ in one figure, each with a near copy.

    Every copy is found, no announcement lost.
    """
    body = "关于年度经营情况的公告。本公司董事会保证公告内容真实、准确、完整，不存在虚假记载、误导性陈述或者重大遗漏。全年营业收入{}亿元。特此公告。"
    texts = [
        body.format(number) + tail for number in range(100, 140) for tail in ("", "由编辑部整理。")
    ]
    reasons, clusters = dedup.duplicates(frame(texts), 0.8)
    assert set(reasons) == set(range(0, 80, 2))
    assert len(clusters) == 40
    changes = [
        ("600519", "600518"),
        ("2023年5月6日", "2023年5月7日"),
        ("第十二次", "第十三次"),
        ("SH", "SZ"),
        ("12.5%", "12.6%"),
        ("增长12", "下降12"),
    ]
    long = "股票代码SH600519，2023年5月6日召开第十二次会议，增长12.5%。" + body
    reasons, _ = dedup.duplicates(
        frame([long] + [long.replace(*change) for change in changes]), 0.8
    )
    assert not reasons


def test_a_copy_without_the_figure_does_not_make_two_documents_one(frame):
    body = "关于年度经营情况的公告。本公司董事会保证公告内容真实、准确、完整，不存在虚假记载、误导性陈述或者重大遗漏。{}特此公告。"
    texts = [body.format("净利1亿元。编者按。"), body.format(""), body.format("净利2亿元。")]
    reasons, clusters = dedup.duplicates(frame(texts), 0.8)
    assert reasons == {1: "near duplicate in its source"}, "the two that contradict both stay"
    assert len(clusters) == 1


def test_near_duplicates_against_brute_force(frame):
    rng = random.Random(3)
    letters = "的一是在不了有和人这中大为上个国我以要他"
    texts = ["".join(rng.choice(letters) for _ in range(80)) for _ in range(60)]
    texts += [
        text[:70] + "".join(rng.choice(letters) for _ in range(rng.choice([2, 30])))
        for text in texts[:30]
    ]

    def jaccard(a, b):
        a, b = dedup.shingles(a, 5), dedup.shingles(b, 5)
        return len(a & b) / len(a | b)

    expected = {
        (i, j) for i in range(90) for j in range(i + 1, 90) if jaccard(texts[i], texts[j]) >= 0.8
    }
    _, clusters = dedup.duplicates(frame(texts), 0.8, keep_other_figures=False)
    found = {tuple(sorted(members)) for members in clusters}
    assert expected
    assert found <= expected
    assert len(found) >= 0.9 * len(expected)


QUESTIONS = [
    {
        "id": "x/1",
        "question": "下列城市中，作为澄江重工总部所在地的是哪一个？",
        "choices": ["临江", "云梧", "海晏", "岭西"],
    },
    {"id": "x/2", "question": "什么是A股？", "choices": ["甲一", "乙二", "丙三", "丁四"]},
]


def test_documents_that_hold_exam_items(frame):
    found = frame(
        [
            "模拟题：下列城市中作为澄江重工总部所在地的是哪一个",
            "下列城市中，作为澄江重工总部，临江最好。",
            "什么是A股？甲一 乙二 丙三 丁四",
            "什么是A股？",
            "澄江重工的总部在临江市。",
        ]
    )
    hits = contamination.find_overlaps(found, QUESTIONS)
    assert {(hit["number"], hit["item"], hit["verdict"]) for hit in hits} == {
        (0, "x/1", "contaminated"),
        (1, "x/1", "suspect"),
        (2, "x/2", "contaminated"),
    }
    assert hits[0]["passage"] == "下列城市中作为澄江重工总部"
    assert hits[1]["passage"] == "下列城市中，作为澄江重工总部"
    assert contamination.marked_items(QUESTIONS, hits) == {
        "x/1": "contaminated",
        "x/2": "contaminated",
    }
    assert contamination.marked_items(QUESTIONS, hits[1:2]) == {"x/1": "suspect", "x/2": "clean"}


def test_overlaps_agree_with_brute_force():
    rng = random.Random(7)
    letters = "金融市场利率汇率风险abc 银行证券123，。"
    texts = ["".join(rng.choice(letters) for _ in range(rng.randint(0, 400))) for _ in range(60)]
    items = [
        {
            "id": f"q/{number}",
            "question": text[40 : 40 + rng.randint(20, 60)],
            "choices": ["甲"] * 4,
        }
        for number, text in enumerate(texts)
        if len(text) > 120
    ]
    items = [item for item in items if len(contamination.Units([item["question"]]).codes) >= 13]

    def grams(text):
        import re

        units = re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", text.lower())
        return {tuple(units[first : first + 13]) for first in range(len(units) - 12)}

    index = [grams(item["question"]) for item in items]
    expected = [
        {
            number: len(grams(text) & own) / len(own)
            for number, own in enumerate(index)
            if grams(text) & own
        }
        for text in texts
    ]
    got = [
        {hit["item"]: hit["covered"] for hit in found}
        for found in contamination.ExamIndex(items).hits(texts)
    ]
    assert len(items) > 20
    assert got == [pytest.approx(row) for row in expected]
    assert any(expected)


def test_a_benchmark_that_leaks_wholly_is_refused(frame):
    items = [
        {
            "id": f"exam/{number}",
            "question": f"第{number}题：下列关于银行存款准备金制度的说法正确的是哪一项",
            "choices": list("甲乙丙丁"),
        }
        for number in range(30)
    ]
    with pytest.raises(
        ValueError,
        match="source s holds 30 of the 30 items of exam card exam: it is the benchmark itself",
    ):
        contamination.find_overlaps(frame(["。".join(item["question"] for item in items)]), items)


def test_english_grams_are_words():
    units = contamination.Units(["The 10-K of 澄江! the", "10 k"])
    assert [units.passage(number, 1) for number in range(len(units.codes))] == [
        "the",
        "10",
        "k",
        "of",
        "澄",
        "江",
        "the",
        "10",
        "k",
    ]
    assert units.codes[0] == units.codes[6]
    assert units.codes[1] == units.codes[7]
    assert len(set(units.codes.tolist())) == 6


def test_split_is_stable_when_sources_grow(frame):
    texts = [f"第{number}份文件的内容" for number in range(500)]
    held = [text for text in texts if dedup.is_held_out(text, 0.1)]
    assert 25 < len(held) < 80
    grown = corpus.mark(frame(list(reversed(texts)) + ["新的一份文件"]), {}, 0.1)
    assert (
        held
        == [
            row["text"]
            for row in grown.where(col("dropped") == "held out").sort("number").to_pylist()
            if row["text"] in texts
        ][::-1]
    )


def test_statistics_of_a_source(frame):
    (found,) = corpus_statistics.statistics(frame(["2023年10月公告内容", "ABCD公告内容共十二个字"]))
    assert (
        found["documents"],
        found["characters"],
        found["length p50"],
        found["with a year"],
        found["years"],
    ) == (2, 25, 12, 0.5, "2023–2023")
    assert found["chinese letters"] == pytest.approx(15 / 19)
    assert found["chars per token"] == 1
    assert found["corner"] == "zh_finance"


def test_batches_hold_long_documents_in_bounds(frame):
    sizes = [
        len(batch)
        for batch in frames.batches(iter(["长" * 900_000] * 7 + ["短"] * 4100), 2_000_000)
    ]
    assert sizes == [3, 3, 2000, 2000, 101]
    assert frames.batch_settings(frame(["长" * 500_000] * 3)) == {
        "batch_size": 8,
        "use_process": False,
    }
    assert frames.batch_settings(frame(["短文"] * 3))["batch_size"] == 1024


def test_no_file_is_too_large_to_be_decoded_as_a_whole(frame, tmp_path, monkeypatch):
    """Daft decodes a file ahead of what works on it, so memory would grow with the corpus."""
    monkeypatch.setattr(frames, "PART_BYTES", 2_000_000)
    monkeypatch.setattr(frames, "READ_BATCH", 100_000)
    rng = random.Random(3)
    characters = [chr(code) for code in range(0x4E00, 0x9000)]
    texts = ["".join(rng.choices(characters, k=500)) for _ in range(10_000)]
    found = frame(texts)
    saved = frames.save(found, tmp_path / "saved")
    for folder in (next(tmp_path.glob("read*")), tmp_path / "saved"):
        files = [pyarrow.parquet.read_table(path) for path in folder.glob("*.parquet")]
        assert len(files) >= 5
        assert max(table.nbytes for table in files) < 4_000_000
    assert saved.sort("number").to_pydict()["text"] == texts


def test_bad_runners_and_empty_sources(frame):
    with pytest.raises(ValueError, match="'native' or 'ray', not 'spark'"):
        frames.choose_runner("spark")
    with pytest.raises(ValueError, match="source s is empty"):
        frame([])


WORK = """
    import json, sys
    from pathlib import Path
    from types import SimpleNamespace
    from finlab.closed_world import exams, texts
    from finlab.data import contamination, corpus, dedup, frames
    runner, folder = sys.argv[1], Path(sys.argv[2])
    if runner == "ray":
        import socket
        import ray
        from ray.cluster_utils import Cluster
        # Ray gives a node 30 seconds, and its agent 15 to choose ports, which a busy machine can
        # need for the first imports. So ports are chosen here, and a late node is started again.
        def start(cluster, **settings):
            for attempt in range(4):
                try:
                    return cluster.add_node(**settings, **ports())
                except Exception as error:
                    late = error
            print("LATE", late)
            sys.exit()
        def ports():
            names = "metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent"
            sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
            found = {f"{name}_port": each.getsockname()[1] for name, each in sockets.items()}
            for each in sockets.values():
                each.close()
            return found
        cluster = Cluster()
        size = {"num_cpus": 1, "object_store_memory": 2**27}
        start(cluster, include_dashboard=False, **size)
        start(cluster, **size)
        ray.init(address=cluster.address, log_to_driver=False)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    frames.choose_runner(runner)
    documents = texts.documents()
    sources = []
    for name in ("cw_news", "cw_encyclopaedia", "cw_community"):
        card = SimpleNamespace(name=name, domain="finance", language="zh")
        sources.append((card, iter(documents[name][:150] + documents[name][-30:])))
    count = frames.characters
    frame = frames.read(sources, folder / "read", count)
    changes = corpus.cleaner(count), corpus.deidentifier(count)
    frame = frames.save(frames.transform(frame, *changes), folder / "cleaned")
    reasons, clusters = dedup.duplicates(frame, workspace=folder / "signs")
    items = []
    for number, item in enumerate(exams.exams()["fineval"]["val"]):
        choices = [item[letter] for letter in "ABCD"]
        items.append({"id": f"e/{number}", "question": item["question"], "choices": choices})
    hits = contamination.find_overlaps(corpus.mark(frame, reasons), items)
    frame = frames.save(corpus.mark(frame, reasons, 0.05), folder / "marked", by_source=True)
    kept = frame.select("number", "text", "tokens", "dropped").sort("number").to_pylist()
    print("RESULT" + json.dumps([sorted(reasons.items()), clusters, hits, corpus.ledger(frame), kept], ensure_ascii=False))
"""


def test_ray_gives_the_same_as_this_process(tmp_path):
    """The whole corpus step on a local Ray of two worker nodes, and without Ray.

    Equal to the last document.
    """
    pytest.importorskip("ray", reason="ray comes with the test extra")
    said = {}
    for runner in ("native", "ray"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(WORK), runner, str(tmp_path / runner)],
            capture_output=True,
            text=True,
            timeout=600,
            env=os.environ
            | {
                "DAFT_PROGRESS_BAR": "0",
                "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            },
        )
        if "LATE" in done.stdout:
            pytest.skip(f"the machine is too busy for Ray to start in its time: {done.stdout}")
        assert "RESULT" in done.stdout, done.stdout[-2000:] + done.stderr[-3000:]
        said[runner] = json.loads(done.stdout.split("RESULT")[1])
    assert said["native"] == said["ray"]
    reasons, clusters, hits, ledger, texts = said["ray"]
    assert len(reasons) > 5
    assert len(clusters) > 1
    assert hits
    assert corpus.residual(ledger) == 0
    assert len(texts) > 400


def test_real_texts_keep_their_figures_and_little_is_taken_for_personal(data):
    """On the real Chinese texts.

    Cleaning changes no figure outside dropped lines, and de-identification hits almost nothing.
    """
    texts = [
        text
        for name in ("fincuge_finnl_zh", "cfbenchmark_zh")
        for text in cards.load(name).rows["text"][:1500]
    ]
    lines = {"navigation lines", "disclaimers", "mojibake lines", "repeated lines", "html remnants"}
    changed = 0
    for text in texts:
        steps = cleaning.clean_text(text)
        if steps and not lines & {rule for rule, _ in steps}:
            changed += 1
            before, after = cleaning_rules.figures_of(text), cleaning_rules.figures_of(steps[-1][1])
            assert after == before, text
    assert changed > 100
    found = sum((personal.deidentify_text(text)[1] for text in texts), start=Counter())
    print(found)
    assert sum(found.values()) < 0.01 * len(texts), found


def test_screen_keeps_the_checked_copy_and_finds_exams():
    """Copies within and across groups, near ones whose figures agree or differ.

    An exam question.
    """
    talk = "请问这只基金适合什么样的投资者？\n它投资短期国债，波动较小，适合希望保本的稳健投资者，但仍然可能亏损。"
    other = "这家公司2021年的净利润是多少？\n这家公司2021年的净利润为12亿元，同比增长5%，主要来自海外业务的增长。"
    exam = {
        "id": "e/1",
        "question": "下列哪一项属于商业银行的核心一级资本，而不是其他一级资本工具？",
        "choices": ["普通股", "优先股", "永续债", "次级债"],
    }
    groups = {
        "broad": [talk, talk + "。", other, "  " + talk, exam["question"] + "\n普通股"],
        "checked": [talk + "！", other.replace("2021", "2022")],
    }
    found, overlaps = selection.screen(groups, [exam])
    reasons = found["broad"]
    assert found["checked"] == {}
    assert sorted(reasons) == [0, 1, 3, 4]
    assert reasons[3] == "exact duplicate"
    assert reasons[4] == "contaminated by an exam"
    assert {reasons[0], reasons[1]} == {
        "near duplicate in its source",
        "near duplicate across sources",
    }, "the checked one stays, though it is not the longest"
    assert [(record["item"], record["verdict"]) for record in overlaps] == [("e/1", "contaminated")]
    alone, _ = selection.screen(groups, [], threshold=0)
    assert alone == {"broad": {3: "exact duplicate"}, "checked": {}}


def test_fates_close_and_samples_hold_their_tokens(tmp_path):
    account = accounts.Account([9, 4, 7])
    account.tokens[0] = 6
    account.mark([0, 1], accounts.LEARNT)
    account.mark([1, 2], "too long")
    lines = accounts.status_ledger({"s": account})
    assert [(line["what"], line["rows"], line["tokens"]) for line in lines] == [
        ("read", 3, 20),
        ("cut from the ends of long ones", 1, 3),
        ("learnt", 2, 10),
        ("too long", 1, 7),
    ]
    with pytest.raises(ValueError, match="1 rows of s have no status"):
        accounts.status_ledger({"s": accounts.Account([1])})

    import pandas

    whole = pandas.DataFrame(
        {
            "number": range(100),
            "text": [f"文{number}" for number in range(100)],
            "tokens": [10] * 100,
        }
    )
    whole.to_parquet(tmp_path / "a.parquet")
    first, again, other = (frames.sample_texts(tmp_path, 95, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 10
    assert len(set(first)) == 10
    assert frames.sample_texts(tmp_path, 0, 1) == []
    assert first[:5] == frames.sample_texts(tmp_path, 45, 1), (
        "the order is the draw's, so a part of it is a draw too"
    )
    (tmp_path / "parts").mkdir()
    for name, part in (("b", whole[:60]), ("a", whole[60:])):  # Daft's files have random names
        part.to_parquet(tmp_path / f"parts/{name}.parquet")
    assert frames.sample_texts(tmp_path / "parts", 95, 1) == first, (
        "the same text for the same seed, whatever the files are called"
    )


@pytest.mark.parametrize("name", ["[2024] 研报 {a}", 'it\'s "so"', "a*b", "50%20#1"])
@pytest.mark.parametrize("by_source", [False, True])
def test_a_folder_may_have_any_name(tmp_path, name, by_source):
    """Daft takes brackets and braces for a pattern; a file that is replaced must go."""
    folder = tmp_path / name / "saved"
    for source in ("甲", "乙"):
        frame = daft.from_pydict({"number": [0, 1], "source": [source, "[丙]"]})
        saved = frames.save(frame, folder, by_source)
        assert sorted(saved.to_pydict()["source"]) == sorted([source, "[丙]"])
