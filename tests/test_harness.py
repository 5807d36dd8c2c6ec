"""Exams: read whole or refused, the harness's scores from fewer tokens.

Nothing cut silently, no model gets another's answers.
"""

import copy
import csv
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM

from finlab import files, paths
from finlab.data import cards, exam_coverage, exam_layouts, templates
from finlab.evaluate import answers, ask_lm, prefix_lm, score_cache, statistics
from finlab.evaluate.exam_tasks import GENERATED, _included_task, content_hash
from finlab.evaluate.exams import all_tasks, answer_exams, parse_setting, prepare
from finlab.models import generation, loading, sentencepieces, tokenization, vocabulary
from tests.test_cards import folder  # noqa: F401

EXAM = "pretty_name: x\nlicense: mit\nfinlab: {domain: finance, language: zh, kind: exam, files: [exam/*/*.csv], format: ceval}"


class Source:
    """Rows in memory behind a card of the project, for what needs no files."""

    def __init__(self, rows, card="cw_ceval", quarantined=()):
        self.rows, self.card, self.quarantined = rows, cards.read(card), list(quarantined)


def item(
    number, split="val", answer=None, question="", choices=("临江", "云梧市", "海晏", "岭西区")
):
    return {
        "id": f"mine/{split}/s/{number}",
        "subject": "s",
        "subject_name": "会计",
        "split": split,
        "question": question or f"第{number}题，澄江重工在哪里？",
        "choices": list(choices),
        "letters": ["是", "否"] if list(choices) == ["是", "否"] else list("ABCDE"[: len(choices)]),
        "answer": number % 4 if answer is None else answer,
    }


@pytest.fixture
def source():
    return {"mine": Source([item(n) for n in range(12)] + [item(n, "dev") for n in range(3)])}


@pytest.fixture(scope="module")
def small(data):
    """A random Llama with the real Chinese-LLaMA-2 tokenizer.

    Wide enough that no two options tie.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=55296,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.08,
        )
    ).eval()
    return model, tokenization.load(data / "tokenizers/chinese-llama-2-55296")


# --- cards ---------------------------------------------------------------------------------------
PUBLISHED = {name: layout.subjects for name, layout in exam_layouts.layouts().items()}


def harness_lm(model, tokenizer, batch_size, max_length):
    """The harness's own model class, as ours must agree with it."""
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=max_length,
        add_bos_token=True,
        softmax_dtype="float32",
    )


def test_published_sizes():
    totals = {
        name: {
            split: sum(sizes.get(split, 0) for sizes in subjects.values())
            for split in ("dev", "val", "test")
        }
        for name, subjects in PUBLISHED.items()
    }
    assert totals == {
        "ceval": {"dev": 260, "val": 1346, "test": 12342},
        "cmmlu": {"dev": 335, "val": 0, "test": 11582},
        "mmlu": {"dev": 285, "val": 0, "test": 14042},
        "fineval": {"dev": 170, "val": 1151, "test": 0},
        "financeiq": {"dev": 50, "val": 0, "test": 7123},
        "fineva": {"dev": 0, "val": 0, "test": 8444},
    }
    assert [
        len(PUBLISHED[name])
        for name in ("ceval", "cmmlu", "mmlu", "fineval", "financeiq", "fineva")
    ] == [52, 67, 57, 34, 10, 33]


@pytest.mark.parametrize(
    "name, subjects, dev, items, labelled",
    [
        ("ceval", 52, 260, 260, 260),
        ("cmmlu", 10, 335, 1878, 1878),
        ("mmlu", 57, 285, 285, 285),
        ("fineval", 6, 170, 320, 320),
        ("financeiq", 1, 50, 88, 88),
        ("fineva", 33, 0, 8444, 2343),
    ],
)
def test_real_benchmarks_are_read_whole(data, name, subjects, dev, items, labelled):
    source = cards.load(name)
    found = exam_coverage.coverage(source)
    assert (found["subjects"], found["items"], found["items"] - found["unlabelled"]) == (
        subjects,
        items,
        labelled,
    )
    assert not source.quarantined
    assert sum(row["split"] == "dev" for row in source.rows) == dev
    assert (found["repeated"], found["in_examples"]) == {
        "cmmlu": (1, 0),
        "fineva": (73, 0),
        "mmlu": (1, 0),
    }.get(name, (0, 0))
    assert all(
        row["subject_name"]
        and "_" not in row["subject_name"]
        and len(row["choices"]) in (2, 3, 4, 5)
        for row in source.rows
    )


def test_a_missing_or_short_subject_is_refused(data, tmp_path, monkeypatch):
    shutil.copytree(data / "exams/cmmlu", tmp_path / "exams/cmmlu")
    monkeypatch.setenv("FINLAB_DATA", str(tmp_path))
    spec = dict(cards.read("cmmlu").spec)
    spec.pop("sha256")

    def covered(**changes):
        card = cards.Card("cmmlu", "mit", spec | changes, "")
        rows, bad = [], []
        rows.extend(cards.stream(card, bad))
        return exam_coverage.coverage(cards.Source(card, rows, bad))

    with pytest.raises(
        ValueError,
        match=r"card cmmlu lacks 57 parts of cmmlu, such as anatomy \(test\).*partial: true",
    ):
        covered(partial=False)
    assert covered()["subjects"] == 10
    path = tmp_path / "exams/cmmlu/test/agronomy.csv"
    table = list(csv.reader(open(path, encoding="utf-8-sig", newline="")))
    table[5][-1] = "F"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(table)
    with pytest.raises(
        ValueError,
        match=r"agronomy \(test\) has 168 of 169; set aside: agronomy.csv:row 4: needs a question, 4 options and an answer A-D",
    ):
        covered()
    (tmp_path / "exams/cmmlu/test/wine.csv").write_text(path.read_text())
    with pytest.raises(ValueError, match="wine is none of its subjects"):
        covered()


def test_layouts_with_traps(folder):  # noqa: F811
    root = folder("mine", EXAM)
    (root / "exam/val").mkdir(parents=True)
    (root / "exam/val/tax_val.csv").write_text(
        '\ufeffid,question,A,B,C,D,answer\n0,"第一行\n第二行，税率？",1,2,3,4,D \n1,空,1,,3,4,A\n2,好,1,2,3,4,E\n3,好,1,2,3,4,\n4,短,1,2\n',
        encoding="utf-8",
    )
    source = cards.load("mine")
    assert [row["answer"] for row in source.rows] == [3]
    assert source.rows[0]["question"] == "第一行\n第二行，税率？"
    assert [row["where"] for row in source.quarantined] == [
        f"tax_val.csv:row {number}" for number in (1, 2, 3, 4)
    ]
    (root / "exam/test").mkdir()
    (root / "exam/test/tax_test.csv").write_text(
        "id,question,A,B,C,D\n0,未公布答案,1,2,3,4\n", encoding="utf-8"
    )
    assert [row["answer"] for row in cards.load("mine").rows] == [-1, 3], (
        "C-Eval's test comes without answers"
    )
    (root / "exam/test/tax_test.csv").write_text(
        "id,文,A,B,C,D,answer\n0,问,1,2,3,4,A\n", encoding="utf-8"
    )
    with pytest.raises(
        ValueError, match="tax_test.csv: no column question, which the layout ceval has"
    ):
        cards.load("mine")
    (root / "exam/test/tax_test.csv").write_bytes(
        "id,question,A,B,C,D\n0,企业所得税率是多少,1,2,3,4\n".encode("gb18030")
    )
    with pytest.raises(ValueError, match="tax_test.csv: not UTF-8.*GB18030"):
        cards.load("mine")
    (root / "exam/test/tax_test.csv").unlink()
    folder("mine", EXAM.replace("format: ceval", "format: mmlu"))
    (root / "exam/val/tax_val.csv").write_text("What?,1,2,3,4,C\n", encoding="utf-8")
    assert [(row["question"], row["answer"]) for row in cards.load("mine").rows] == [
        ("What?", 2)
    ], "MMLU's own files have no header"
    folder("mine", EXAM.replace("format: ceval", "format: ceval, benchmark: cevil"))
    with pytest.raises(ValueError, match="finlab.benchmark is 'cevil'"):
        cards.read("mine")


# --- prompts -------------------------------------------------------------------------------------
def test_official_prompt_to_the_letter(data, tmp_path):
    exam = prepare(cards.load_all(["cmmlu"], "exam"), tmp_path, "official", 1)["cmmlu"]
    task = exam.tasks["cmmlu_official_00"]
    doc = next(iter(task.test_docs()))
    assert exam.prompt == "cmmlu/official@1"
    assert len(exam.items) == 1878
    assert exam.coverage["subjects_published"] == 67
    context = task.fewshot_context(doc, 1)
    assert context.startswith("以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n题目：")
    assert context.count("题目：") == 2
    assert context.endswith("\n答案是：")
    assert f"\nA. {doc['choices'][0]}\nB. {doc['choices'][1]}\nC. " in context
    assert context.split("\n答案是：")[1].startswith(tuple("ABCD"))
    ceval = prepare(
        cards.load_all(["fineval"], "exam"), tmp_path / "f", "official", 5, max_items=6
    )["fineval"]
    text = ceval.tasks["fineval_official_00"].fewshot_context(
        next(iter(ceval.tasks["fineval_official_00"].test_docs())), 5
    )
    assert text.startswith("以下是中国关于会计学考试的单项选择题，请选出其中的正确答案。\n\n")
    assert text.count("\n答案：") == 6


@pytest.mark.parametrize(
    "card, native",
    [
        ("cmmlu", "cmmlu/cmmlu_{}.yaml"),
        ("ceval", "ceval/ceval-valid_{}.yaml"),
        ("mmlu", "mmlu/default/mmlu_{}.yaml"),
    ],
)
def test_the_harness_prompt_is_the_harnesss_own(data, tmp_path, card, native):
    """Their task over the rows as they come from the hub, and ours over our lines.

    The same text and the same answers.
    """
    from pathlib import Path

    import datasets
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    made = prepare(cards.load_all([card], "exam"), tmp_path, "harness", 0, max_items=5)[card]
    for ours in made.tasks.values():
        docs = list(ours.test_docs())
        names = {
            "cmmlu": ("Question", "Answer"),
            "ceval": ("question", "answer"),
            "mmlu": ("question", "answer"),
        }[card]
        rows = [
            {
                names[0]: doc["question"],
                "choices": doc["choices"],
                **dict(zip("ABCD", doc["choices"])),
                names[1]: doc["answer"] if card == "mmlu" else "ABCD"[doc["answer"]],
            }
            for doc in docs
        ]
        config = load_yaml(Path(lm_eval.tasks.__file__).parent / native.format(docs[0]["subject"]))
        split = config.get("test_split") or config["validation_split"]
        config |= {
            "custom_dataset": lambda rows=rows, split=split, **_: {
                split: datasets.Dataset.from_list(rows),
                "dev": datasets.Dataset.from_list(rows),
            }
        }
        theirs = ConfigurableTask(config=config)
        for doc, row in zip(docs, rows, strict=True):
            assert ours.fewshot_context(doc, 0) == theirs.fewshot_context(row, 0)
            assert ours.doc_to_target(doc) == theirs.doc_to_target(row)
            assert ours.doc_to_choice(doc) == theirs.doc_to_choice(row)
            assert ours.config.target_delimiter == theirs.config.target_delimiter == " "


def test_items_that_stand_twice_are_counted():
    rows = [
        item(1),
        item(1) | {"id": "again", "answer": 0},
        item(2),
        item(2, "dev"),
        item(3, "dev"),
    ]
    found = exam_coverage.coverage(Source(rows))
    assert (found["items"], found["repeated"], found["in_examples"]) == (3, 1, 1)


def test_wrong_settings_are_named(source, tmp_path):
    assert parse_setting("official:5") == ("official", 5, "joint")
    assert parse_setting("harness:0:sum") == ("harness", 0, "sum")
    for wrong in ("official", "offical:5", "text:x", "text:0:loud", "text:0:raw:1"):
        with pytest.raises(ValueError, match="not a setting of an exam"):
            parse_setting(wrong)
    with pytest.raises(ValueError, match="4 shots asked, subject s has 3 examples"):
        prepare(source, tmp_path, "official", 4)
    with pytest.raises(
        ValueError, match="the harness has no tasks for fineval; it has ceval, cmmlu, mmlu"
    ):
        _included_task(cards.read("fineval"), "accounting", "harness")
    bare = prepare({"mine": Source([item(1), item(2)])}, tmp_path / "b", "official", 5)["mine"]
    assert bare.shots == 0, "Fin-Eva has no examples, and the score says 0 shots"
    with pytest.raises(ValueError, match="none of its 1 items has an answer"):
        prepare({"mine": Source([item(1, answer=-1)])}, tmp_path)


def test_the_harness_command_line_runs_the_same_tasks(tiny, source, tmp_path):
    """What a step leaves in tasks/ is read by lm_eval itself, as its vLLM backend would.

    The figure is the same.
    """
    exams = prepare(source, tmp_path / "tasks", "text", 1)
    mine = answer_exams(
        prefix_lm.PrefixLM(loading.load(tiny), tokenization.load(tiny), all_tasks(exams)), exams
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lm_eval",
            "--model",
            "hf",
            "--model_args",
            f"pretrained={tiny},dtype=float32,add_bos_token=True",
            "--device",
            "cpu",
            "--include_path",
            str(tmp_path / "tasks"),
            "--tasks",
            "cw_ceval_text",
            "--output_path",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not any(record["fault"] for record in mine)
    assert any(record["right"] for record in mine)
    found = json.loads(next((tmp_path / "out").rglob("results*.json")).read_text())["results"]
    assert found["cw_ceval_text"]["acc,none"] == pytest.approx(
        statistics.accuracy(mine)["accuracy"]
    )


# --- scores --------------------------------------------------------------------------------------
def test_choices_are_scored_as_by_hand(tiny, source, tmp_path):
    exams = prepare(source, tmp_path)
    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    records = answer_exams(prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams)), exams)
    assert len(records) == 12
    assert {record["shots"] for record in records} == {0}
    for row, record in list(zip(exams["mine"].items, records, strict=True))[:3]:
        prompt = f"问题：{row['question']}\n答案："
        for choice, score in zip(row["choices"], record["scores"], strict=True):
            start, ids = (
                len(tokenizer(prompt)["input_ids"]),
                tokenizer(prompt + choice)["input_ids"],
            )
            logits = generation.logits(model, ids).log_softmax(-1)
            assert score == pytest.approx(
                sum(logits[place - 1, ids[place]].item() for place in range(start, len(ids))),
                abs=1e-3,
            )
        assert record["right"] == (record["chosen"] == row["answer"])
    again = answer_exams(
        prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams), batch_tokens=1), exams
    )
    assert [record["chosen"] for record in again] == [record["chosen"] for record in records], (
        "batch size must not matter"
    )


@pytest.mark.parametrize(
    "card, prompt, shots, most",
    [
        ("cmmlu", "official", 5, 16),
        ("cmmlu", "harness", 2, 8),
        ("fineval", "official", 3, 8),
        ("financeiq", "text", 0, 6),
    ],
)
def test_predictions_are_the_harnesss(data, small, tmp_path, card, prompt, shots, most):
    """Against HFLM in float32 on real items.

    Every prediction, for a fraction of the tokens, whatever the batch.
    """
    model, tokenizer = small
    exams = prepare(cards.load_all([card], "exam"), tmp_path, prompt, shots, most)
    theirs = answer_exams(
        harness_lm(model, tokenizer, batch_size=8, max_length=2048),
        exams,
    )
    for batch_tokens in (8192, 700):
        scorer = prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams), batch_tokens=batch_tokens)
        ours = answer_exams(scorer, exams)
        assert [record["chosen"] for record in ours] == [record["chosen"] for record in theirs]
        assert (
            max(
                abs(a - b)
                for one, other in zip(ours, theirs)
                for a, b in zip(one["scores"], other["scores"])
            )
            < 1e-4
        )
        assert shots < 5 or scorer.counts["encoded"] < 0.8 * scorer.counts["sent"]
    assert len(set(record["chosen"] for record in ours)) > 1


def test_mmlu_as_the_harness_on_the_real_base(data, tmp_path):
    folder_ = data / "models/stories260K-hf"
    model, tokenizer = loading.load(folder_), tokenization.load(folder_)
    exams = prepare(cards.load_all(["mmlu"], "exam"), tmp_path, "harness", 0)
    scorer = prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams))
    ours = answer_exams(scorer, exams)
    theirs = answer_exams(
        harness_lm(model, tokenizer, batch_size=16, max_length=512),
        exams,
    )
    fit = [number for number, record in enumerate(ours) if record["fault"] != "too long"]
    assert len(ours) == 285
    assert 200 < len(fit) < 285
    assert all(ours[number]["chosen"] == theirs[number]["chosen"] for number in fit)
    assert all(not record["right"] for record in ours if record["fault"] == "too long"), (
        "HFLM cuts these from the left and scores them"
    )
    assert scorer.counts["unequal_letters"] > 200, (
        "on 512 pieces ` A` and ` B` are not equally long, which is reported"
    )


def test_prefix_gives_the_logits_of_the_whole(small):
    model, tokenizer = small
    head, tails = (
        tokenizer("以下是关于会计的单项选择题。\n\n题目：一\n答案是：A\n\n")["input_ids"],
        [
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in ("题目：短\n答案是：", "题目：这一道题比较长一些\n答案是：")
        ],
    )
    scorer = prefix_lm.PrefixLM(model, tokenizer, {})
    with torch.inference_mode():
        prefix = model(torch.tensor([head]), use_cache=True).past_key_values
        found = scorer._read([tuple(tail) for tail in tails], prefix, 1)
        again = scorer._read([tuple(tail) for tail in tails], prefix, 1)
    for row, tail in zip(found, tails):
        assert (
            row[-1] - generation.logits(model, head + tail)[-1].log_softmax(-1)
        ).abs().max() < 1e-4
    assert torch.equal(found, again), "the prefix must not be changed by being used"


@pytest.mark.parametrize("kind", ["MistralForCausalLM", "Gemma3ForCausalLM", "Qwen2ForCausalLM"])
def test_a_sliding_window_is_kept_with_a_prefix_and_in_batches(tiny, source, tmp_path, kind):
    """Mistral, Gemma 3 and Qwen 2 count the window by places in the cache.

    Padding before the questions would use it up.
    """
    import transformers

    torch.manual_seed(0)
    shape = {
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    window = {} if kind.startswith("Qwen") else {"sliding_window": 24}
    model = getattr(transformers, kind)(
        getattr(
            transformers,
            kind.replace("ForCausalLM", "Config" if not kind.startswith("Gemma") else "TextConfig"),
        )(**shape, **window)
    ).eval()
    tokenizer, rows = (
        tokenization.load(tiny),
        [item(n, "dev") for n in range(3)]
        + [item(n, question="澄江重工" * (1 + n) + "？") for n in range(6)],
    )
    exams = prepare({"mine": Source(rows)}, tmp_path, "official", 2)
    theirs = answer_exams(
        harness_lm(model, tokenizer, batch_size=1, max_length=512),
        exams,
    )
    scorer = prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams))
    ours = answer_exams(scorer, exams)
    assert scorer.counts["encoded"] < 0.7 * scorer.counts["sent"]
    assert (
        max(
            abs(a - b)
            for one, other in zip(ours, theirs)
            for a, b in zip(one["scores"], other["scores"])
        )
        < 1e-3
    )


def test_answer_tokens(data, small):
    model, tokenizer = small
    ids = {
        policy: prefix_lm.PrefixLM(model, tokenizer, {}, policy)._pair("答案：", "B")
        for policy in prefix_lm.POLICIES
    }
    names = {policy: tokenizer.convert_ids_to_tokens(tail) for policy, (_, tail, _) in ids.items()}
    assert names == {"joint": ["B"], "raw": ["B"], "first": ["▁B"], "sum": ["▁B", "B"]}
    assert tokenizer.convert_ids_to_tokens(
        prefix_lm.PrefixLM(model, tokenizer, {})._pair("答案：", " B")[1]
    ) == ["▁B"], "the harness's delimiter"
    assert ids["sum"][2]
    assert not ids["joint"][2]
    with pytest.raises(ValueError, match="no answer-token policy 'loud'"):
        prefix_lm.PrefixLM(model, tokenizer, {}, "loud")


def test_summed_letters_are_scored_as_by_hand(data, small, tmp_path):
    model, tokenizer = small
    exams = prepare(cards.load_all(["fineval"], "exam"), tmp_path, "official", 2, max_items=3)
    records = answer_exams(prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams), "sum"), exams)
    task = exams["fineval"].tasks["fineval_official_00"]
    logits = generation.logits(
        model, tokenizer(task.fewshot_context(next(iter(task.test_docs())), 2))["input_ids"]
    )[-1].log_softmax(-1)
    for letter, score in zip("ABCD", records[0]["scores"]):
        assert score == pytest.approx(
            sum(
                logits[tokenizer.convert_tokens_to_ids(token)].item()
                for token in (letter, f"▁{letter}")
            ),
            abs=1e-3,
        )
    assert records[0]["prompt"] == "fineval/official@1+sum"


# --- what does not fit, what is kept -------------------------------------------------------------
def test_examples_are_dropped_whole_and_counted(tiny, tmp_path):
    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    rows = [item(n, "dev") for n in range(3)] + [
        item(0),
        item(1, question="澄江重工" * 20, answer=1),
        item(2, question="澄江重工" * 60, answer=0),
    ]
    exams = prepare({"mine": Source(rows)}, tmp_path, "text", 3)
    scorer = prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams))
    seen = []
    read = scorer._read

    def watched(lines, prefix, keep):
        size = prefix.get_seq_length() if prefix else 0
        seen.extend(size + len(line) for line in lines)
        return read(lines, prefix, keep)

    scorer._read = watched
    records = answer_exams(scorer, exams)
    assert max(seen) <= 128
    assert records[0]["examples"] > records[1]["examples"] > 0
    assert records[0]["fault"] == records[1]["fault"] == ""
    assert records[2]["fault"] == "too long", "A is right, but nothing was answered"
    assert records[2]["chosen"] == -1, "A is right, but nothing was answered"
    assert not records[2]["right"], "A is right, but nothing was answered"
    task = exams["mine"].tasks["cw_ceval_text_00"]
    docs = list(task.test_docs())
    by_hand = tokenizer(
        task.fewshot_context(docs[1], records[1]["examples"]) + docs[1]["choices"][0]
    )["input_ids"]
    more = tokenizer(
        task.fewshot_context(docs[1], records[1]["examples"] + 1) + max(docs[1]["choices"], key=len)
    )["input_ids"]
    assert len(by_hand) <= 128 < len(more)
    line = statistics.scores("m", records)[0]
    assert (line["shots"], line["shortened"], line["too_long"], line["n"]) == (3, 2, 1, 3)


def test_no_model_gets_anothers_answers(tiny, source, tmp_path):
    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    exams = prepare(source, tmp_path / "tasks")

    def asked(model, **more):
        scorer = prefix_lm.PrefixLM(
            model,
            tokenizer,
            all_tasks(exams),
            store=score_cache.open_score_cache(tmp_path / "store", model),
            **more,
        )
        return answer_exams(scorer, exams), scorer.counts

    first, counts = asked(model)
    assert counts["kept"] == 0
    assert counts["encoded"] > 0
    again, counts = asked(loading.load(tiny))
    assert counts["kept"] == 48, "nothing is scored twice"
    assert counts["encoded"] == 0, "nothing is scored twice"
    assert again == first, "nothing is scored twice"
    other = copy.deepcopy(model)
    other.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1e-3
    assert asked(other)[1]["kept"] == 0, "one changed weight is another model"
    assert asked(copy.deepcopy(model).to(torch.bfloat16))[1]["kept"] == 0
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        copy.deepcopy(model),
        LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False),
    )
    scores, counts = asked(adapted)
    assert counts["kept"] == 0
    assert scores != first
    torch.manual_seed(0)
    stronger = get_peft_model(
        copy.deepcopy(model),
        LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False),
    )
    assert asked(stronger)[1]["kept"] == 0, "the same matrices with another alpha are another model"
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert score_cache.identity(model) == score_cache.identity(loading.load(tiny)), (
        "being used changes nothing"
    )


def test_a_killed_scoring_goes_on(tiny, source, tmp_path):
    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    exams = prepare(source, tmp_path / "tasks")
    whole = answer_exams(prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams)), exams)
    scorer, calls = (
        prefix_lm.PrefixLM(
            model,
            tokenizer,
            all_tasks(exams),
            batch_tokens=60,
            store=score_cache.open_score_cache(tmp_path / "store", model),
        ),
        [],
    )

    def dies(*arguments, read=scorer._read):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return read(*arguments)

    scorer._read = dies
    with pytest.raises(KeyboardInterrupt):
        answer_exams(scorer, exams)
    file = next((tmp_path / "store").iterdir())
    with open(file, "a") as opened:
        opened.write('["half a li')
    scorer = prefix_lm.PrefixLM(
        model,
        tokenizer,
        all_tasks(exams),
        batch_tokens=60,
        store=score_cache.open_score_cache(tmp_path / "store", model),
    )
    records = answer_exams(scorer, exams)
    assert 0 < scorer.counts["kept"] < 48
    assert [record["chosen"] for record in records] == [record["chosen"] for record in whole]
    lines = open(file).read().splitlines()
    keys = [json.loads(line)[0] for line in lines if line != '["half a li']
    assert len(keys) == len(set(keys)) == 48 == len(lines) - 1
    assert len(files.JsonlStore(file).values) == 48


# --- written answers -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text, letter",
    [
        ("B", "B"),
        ("B。因为利率上升。", "B"),
        ("答案是：C", "C"),
        ("答案：（D）", "D"),
        ("所以答案是A。", "A"),
        ("先看A，再看B。所以答案是B。", "B"),
        ("The answer is C.", "C"),
        ("选B", "B"),
        ("答案为 “D”", "D"),
        ("A. 临江\n因为总部在那里", "A"),
        ("**B**", "B"),
        ("答案是**C**", "C"),
        ("Ｂ", "B"),
        ("The correct option is B", "B"),
        ("选项B正确，因为利率上升", "B"),
        ("答案是B。\n解析：选项A错误", "B"),
        ("选B而不选A", "B"),
        ("A、C", None),
        ("A,C", None),
        ("A or B", None),
        ("A bond is a debt.", None),
        ("A is wrong.", None),
        ("不应选A", None),
        ("选项B正确，选项A错误", "B"),
        ("答案不是A", None),
        ("", None),
        (None, None),
        ("不知道", None),
        ("A股市场上涨", None),
        ("应选择A股基金", None),
        ("答案是A和B", None),
        ("答案是ABD", None),
        ("A. 临江\nB. 云梧市", None),
        ("答案是E", None),
        ("ChatGPT failed", None),
        ("Because of tax", None),
        ("BANK", None),
        ("我认为应该是临江", None),
    ],
)
def test_letters_are_read_and_never_guessed(text, letter):
    assert answers.letter_of(text, list("ABCD")) == ("ABCD".index(letter) if letter else None)


def test_letters_of_labelled_answers():
    """1,240 answers as models write them, half of them adversarial, in both languages."""
    path = Path(__file__).parent / "answers.jsonl"
    wrong, unread = [], []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        number = answers.letter_of(row["text"], list("ABCD"))
        letter = None if number is None else "ABCD"[number]
        if letter is None and row["want"]:
            unread.append(row)
        elif letter != row["want"]:
            wrong.append((letter, row))
    assert len(wrong) <= 0.005 * len(rows), wrong
    assert len(unread) <= 0.03 * len(rows), unread


def test_yes_and_no_are_read():
    assert [answers.letter_of(text, ["是", "否"]) for text in ("是", "否。不合规", "不是", "")] == [
        0,
        1,
        None,
        None,
    ]


def test_an_endpoints_failure_is_no_answer(source, tmp_path):
    exams = prepare(source, tmp_path, "generate")
    seen = []

    def ask(messages):
        seen.append(messages)
        return [None, "我不知道", "答案是B", "C"][len(seen) % 4]

    records = answer_exams(ask_lm.AskLM(ask, workers=1), exams)
    assert len(records) == 12
    assert [record["fault"] for record in records].count("failed") == 3
    assert [record["fault"] for record in records].count("unparsed") == 3
    assert all(
        not record["right"] and record["chosen"] == -1 for record in records if record["fault"]
    )
    assert records[0]["prompt"] == "ceval/generate@1+chat"
    assert seen[0][-1]["role"] == "user"
    assert "题目：" in seen[0][-1]["content"]
    with pytest.raises(ValueError, match="an endpoint gives no log-probabilities"):
        answer_exams(ask_lm.AskLM(ask), prepare(source, tmp_path / "t"))


def test_a_chat_model_writes_and_is_not_asked_twice(tiny, source, tmp_path):

    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    model.config.max_position_embeddings = 256
    with pytest.raises(ValueError, match="no chat template"):
        prefix_lm.PrefixLM(model, tokenizer, {}, chat=True)
    tokenizer.chat_template = templates.chat_template("xuanyuan:bare")
    exams = prepare(source, tmp_path / "tasks", "generate", max_items=3)
    first = prefix_lm.PrefixLM(
        model,
        tokenizer,
        all_tasks(exams),
        chat=True,
        store=score_cache.open_score_cache(tmp_path / "store", model),
    )
    records = answer_exams(first, exams)
    again = prefix_lm.PrefixLM(
        model,
        tokenizer,
        all_tasks(exams),
        chat=True,
        store=score_cache.open_score_cache(tmp_path / "store", model),
    )
    assert answer_exams(again, exams) == records
    assert again.counts["kept"] == 3
    assert all(record["fault"] in ("", "unparsed") for record in records)
    model.config.max_position_embeddings = 70
    assert {
        record["fault"]
        for record in answer_exams(
            prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams), chat=True), exams
        )
    } == {"too long"}


@pytest.mark.parametrize(("prompt", "tokens"), [("generate", 64), ("reason", 512)])
def test_a_model_that_thinks_is_not_stopped_by_a_short_answer_s_rules(
    tiny, source, tmp_path, monkeypatch, prompt, tokens
):
    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    model.config.max_position_embeddings = 4096
    tokenizer.chat_template = templates.chat_template("xuanyuan:bare")
    exams = prepare(source, tmp_path / "tasks", prompt, max_items=1)
    asked = []
    thought = "<think>\n题目：先看A。\n\n不对</think>\n\n答案是B。"

    def write(self, requests, **more):
        asked.extend(request.args[1] for request in requests)
        return [thought] * len(requests)

    monkeypatch.setattr(HFLM, "generate_until", write)
    for thinking in (0, 1000):
        scorer = prefix_lm.PrefixLM(
            model, tokenizer, all_tasks(exams), chat=True, thinking=thinking
        )
        [record] = answer_exams(scorer, exams)
        assert record["chosen"] == 1
    short, long = asked
    assert (short["max_gen_toks"], short["until"]) == (tokens, ["题目："])
    assert short["repetition_penalty"] == 1.1
    assert (long["max_gen_toks"], long["until"]) == (1000 + tokens, [])
    assert long["repetition_penalty"] == 1.0


@pytest.mark.parametrize(
    ("written", "chosen"), [("先看A。</think>答案是B。", 1), ("先看A，答案是C，再想想", -1)]
)
def test_a_thinking_that_the_prompt_opens_is_not_read_as_the_answer(
    tiny, source, tmp_path, monkeypatch, written, chosen
):
    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    model.config.max_position_embeddings = 4096
    tokenizer.chat_template = templates.chat_template("deepseek_r1")
    exams = prepare(source, tmp_path / "tasks", "generate", max_items=1)
    monkeypatch.setattr(HFLM, "generate_until", lambda self, requests, **more: [written])
    scorer = prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams), chat=True)
    [record] = answer_exams(scorer, exams)
    assert record["chosen"] == chosen


def test_numbered_answers_go_as_far_as_the_options():
    layout = SimpleNamespace(answer="answer")
    names = exam_layouts._answer_names({"answer": "4"}, layout, list("abcde"))
    assert names == {"0": 0, "1": 1, "2": 2, "3": 3, "4": 4}


def test_written_answers_follow_their_settings(tiny, source, tmp_path):
    """Other generation settings or another end token are other answers.

    The exam's instruction reaches a template that knows no system; BOS stands once.
    """

    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    model.config.max_position_embeddings = 512
    tokenizer.chat_template = templates.chat_template("cornucopia")
    exams = prepare(source, tmp_path / "tasks", "generate", max_items=2)

    def asked():
        scorer = prefix_lm.PrefixLM(
            model,
            tokenizer,
            all_tasks(exams),
            chat=True,
            store=score_cache.open_score_cache(tmp_path / "store", model),
        )
        answer_exams(scorer, exams)
        return scorer

    assert asked().counts["kept"] == 0
    assert asked().counts["kept"] == 2
    model.generation_config.no_repeat_ngram_size = 2
    assert asked().counts["kept"] == 0
    rendered = asked().apply_chat_template(
        [{"role": "system", "content": "请给出选项。\n\n"}, {"role": "user", "content": "题目"}]
    )
    assert "请给出选项。\n\n题目" in rendered
    for name in ("cornucopia", "zhilu", "xuanyuan", "yayi"):
        tokenizer.chat_template = templates.chat_template(name)
        turns = [{"role": "user", "content": "题目"}]
        ids = asked().tok_encode(
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )
        assert ids == list(
            tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        ), f"{name}: not as it was trained"


def test_examples_of_text_prompts_are_the_same_for_everyone(source, tmp_path):
    task = prepare(
        {"mine": Source(source["mine"].rows + [item(n, "dev") for n in range(20, 40)])},
        tmp_path,
        "text",
        3,
    )["mine"].tasks["cw_ceval_text_00"]
    doc = next(iter(task.test_docs()))
    assert len({task.fewshot_context(doc, 3) for _ in range(5)}) == 1
    assert "第0题" in task.fewshot_context(doc, 3).split("\n\n")[0]


def test_a_scored_model_can_be_freed(tiny, source, tmp_path):
    import gc
    import weakref

    exams, model = prepare(source, tmp_path), loading.load(tiny)
    scorer, watched = (
        prefix_lm.PrefixLM(model, tokenization.load(tiny), all_tasks(exams)),
        weakref.ref(model.model.layers[0].mlp.up_proj.weight),
    )
    answer_exams(scorer, exams)
    gc.disable()
    try:
        del scorer, model
        assert watched() is None, "two models of 70B do not fit at once"
    finally:
        gc.enable()


def test_two_identical_options_are_never_right(tiny, tmp_path):
    rows = [
        item(0, answer=1, choices=("临江", "海晏", "海晏", "云梧市")),
        item(1, answer=0, choices=("临江", "海晏", "海晏", "云梧市")),
    ]
    exams = prepare({"mine": Source(rows)}, tmp_path)
    records = answer_exams(
        prefix_lm.PrefixLM(loading.load(tiny), tokenization.load(tiny), all_tasks(exams)), exams
    )
    assert records[0]["fault"] == "options alike"
    assert not records[0]["right"]
    assert records[1]["fault"] == ""
    assert statistics.scores("m", records)[0]["alike"] == 1


@pytest.mark.gpu
def test_predictions_are_the_harnesss_on_a_gpu(tmp_path):
    """In float32 and bfloat16 on CUDA, with a prefix, padding and batches.

    What HFLM predicts, up to ties within the type's own error.
    """
    rows = [item(n, "dev") for n in range(5)] + [
        item(n, question=f"第{n}题：" + "澄江重工" * (n % 7 + 1)) for n in range(64)
    ]
    tokenizer, _ = vocabulary.extend(
        sentencepieces.fast(
            sentencepieces.train(
                [row["question"] + "".join(row["choices"]) for row in rows] * 5, 330
            )
        ),
        [],
    )
    exams = prepare({"mine": Source(rows)}, tmp_path, "official", 5)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config).eval().cuda()
    for dtype, far in ((torch.float32, 1e-3), (torch.bfloat16, 0.3)):
        model = model.to(dtype)
        theirs = answer_exams(
            harness_lm(model, tokenizer, batch_size=8, max_length=2048),
            exams,
        )
        ours = answer_exams(
            prefix_lm.PrefixLM(model, tokenizer, all_tasks(exams), batch_tokens=2000), exams
        )
        for one, other in zip(ours, theirs, strict=True):
            pairs = zip(one["scores"], other["scores"], strict=True)
            assert max(abs(a - b) for a, b in pairs) < far
            top, second = sorted(other["scores"])[:-3:-1]
            assert one["chosen"] == other["chosen"] or top - second < 2 * far


def test_the_content_hash_follows_what_is_asked():
    rows = [item(n) for n in range(3)]
    assert content_hash(rows) == content_hash([row | {"id": "other"} for row in reversed(rows)])
    assert content_hash(rows) != content_hash([rows[0] | {"answer": 3}, *rows[1:]])


def test_every_prompt_has_its_file():
    for language in ("zh", "en"):
        assert all(
            (paths.ROOT / f"finlab/evaluate/tasks/{prompt}_{language}.yaml").exists()
            for prompt in ("text", *GENERATED)
        )
    for name in exam_layouts.layouts():
        assert (paths.ROOT / f"finlab/evaluate/tasks/official_{name}.yaml").exists()


def test_exams_lie_in_a_folder_of_any_name(source, tmp_path):
    place = tmp_path / "[2024] 研报 {a}*"
    place.mkdir()
    (exam,) = prepare(source, place, "official").values()
    assert exam.tasks


@pytest.mark.parametrize(
    "text",
    [
        "Wait, let me check the figures again. " * 300,
        "等等，不对，让我再想想。" * 300,
        "A, " * 300 + "x",
        "A or " * 300 + "x",
        "选" * 3000,
        "答案 " * 2000,
    ],
)
def test_a_model_that_runs_in_circles_is_read_in_a_moment(text):
    began = time.perf_counter()
    assert answers.letter_of(text, list("ABCD")) is None
    assert time.perf_counter() - began < 5


def test_an_exam_of_ones_own_has_no_official_prompt(source, tmp_path):
    (own,) = source.values()
    spec = {name: value for name, value in own.card.spec.items() if name != "benchmark"}
    own.card = dataclasses.replace(own.card, spec=spec | {"format": "csv"})
    with pytest.raises(ValueError, match="has no official prompt: ask it with text or generate"):
        prepare({"own": own}, tmp_path, "official")
