"""The smoke run, made once through the command: every step reports what it must, and the model learns what it must."""

import html
import json
import math
import re
import shutil
import subprocess
import sys

import pandas
import pytest

from finlab import paths
from finlab.run import recipe
from finlab.run.step import read_manifest


def metrics(smoke, step):
    return json.loads((smoke / step / "metrics.json").read_text(encoding="utf-8"))


def pair(value):
    assert set(value) >= {"before", "after"}
    assert all(math.isfinite(number) for number in value.values())
    return value["before"], value["after"]


def test_every_step_is_complete(smoke):
    for step in recipe.load("smoke").steps:
        found = read_manifest(smoke / step.name)
        assert found["seconds"] > 0
        assert found["peak_bytes"] > 1e8
        assert found["versions"]["torch"]
        assert (smoke / step.name / f"{step.notebook}.ipynb").exists()
        assert list((smoke / step.name / "artifact").iterdir())
        assert not (smoke / step.name / "checkpoints").exists(), (
            "checkpoints of a finished step are dead weight"
        )


def test_corpus(smoke):
    found = metrics(smoke, "corpus")
    assert found["ledger_residual"] == 0
    assert found["contaminated_documents"] == 1
    assert found["quarantined_rows"] == 2
    for source, tokens in found["tokens_in"].items():
        assert tokens == found["tokens_out"][source] + sum(
            found["dropped"].get(source, {}).values()
        ), source
    dropped = found["dropped"]
    assert dropped["cw_news"]["exact duplicate"] > 0
    assert dropped["cw_encyclopaedia"]["near duplicate in its source"] > 0
    assert dropped["cw_news"]["disclaimers"] > 0
    assert dropped["cw_community"]["html remnants"] > 0
    assert dropped["cw_community"]["bad text"] > 0
    assert {row["personal"]: row["count"] for row in found["personal_data"]} == {
        "身份证号": 10,
        "手机号": 10,
        "电子邮箱": 10,
    }
    assert found["exam_items"]["contaminated"] == 1
    assert found["exam_items"]["clean"] > 400
    for requested, realised in zip(
        found["mixture_requested"], found["mixture_realised"], strict=True
    ):
        assert all(abs(requested[cell] - realised[cell]) < 0.005 for cell in requested)
    train = pandas.read_parquet(smoke / "corpus/artifact/train")
    assert not set(train.text) & set(pandas.read_parquet(smoke / "corpus/artifact/held_out").text)
    for path in (smoke / "corpus/artifact/cards").glob("*.md"):
        assert path.read_text() == (paths.ROOT / "data_cards" / path.name).read_text(), (
            f"{path.name}: run finlab with corpus.write_statistics=true"
        )
    planted = train.id.str.contains("figures").sum()
    assert planted >= 6, f"only {planted} of 8 announcements with other figures survived"


def test_tokenizer(smoke):
    found = metrics(smoke, "tokenizer")
    assert found["vocab_after"] > found["vocab_before"]
    assert found["round_trip_failures"] == 0
    before, after = pair(found["chars_per_token"]["zh_finance"])
    assert after > 1.5 * before
    before, after = pair(found["chars_per_token"]["en"])
    assert after == before


def test_pretraining_learns_finance_and_keeps_the_rest(smoke):
    found = metrics(smoke, "pretrain")
    for corner in ("zh_finance", "en_finance"):
        before, after = pair(found["bits_per_character"][corner])
        assert after < 0.75 * before
    for corner in ("zh_general", "en_general"):
        before, after = pair(found["bits_per_character"][corner])
        assert after < 1.05 * before
    assert found["tokens"] > 1e6
    assert found["tokens_per_second"] > 0
    assert 0 < found["mfu"] < 1.2
    assert found["packing_fill"] > 0.98
    assert found["trainable_parameters"] > 0
    assert found["peak_bytes"] > 0


def test_sft(smoke):
    found = metrics(smoke, "sft")
    for stage in ("stage1", "stage2"):
        before, after = pair(found[stage]["eval_loss"])
        assert after < before
        assert found[stage]["eos_supervised_share"] == 1
        assert 0 < found[stage]["supervised_token_share"] < 1
        assert found[stage]["tokens_per_second"] > 0
    assert found["ended_share"] >= 0.9
    assert found["quarantined_rows"] == 4
    assert found["contaminated_dialogues"] == 1


def test_sft_accounts_for_every_dialogue(smoke):
    """The ledger closes; the planted copies, exam item and unanswered question are found; stage 2 has its shares."""
    found = metrics(smoke, "sft")
    for stage in ("stage1", "stage2"):
        lines = {line["what"]: line for line in found["ledger"] if line["group"] == stage}
        read, cut = lines.pop("read"), lines.pop("shortened, and below")
        assert read["rows"] == sum(line["rows"] for line in lines.values())
        assert read["tokens"] == cut["tokens"] + sum(line["tokens"] for line in lines.values())
        if stage == "stage1":
            assert lines["near duplicate across sources"]["rows"] == 6
            assert lines["contaminated by an exam"]["rows"] == 1
    shares = found["stage2"]["shares"]
    assert shares["general"]["dialogues"] == pytest.approx(
        4 * shares["finance"]["dialogues"], rel=0.12
    ), "4:1, but for the split"
    assert 0.07 < shares["safety"]["by dialogues"] < 0.13
    assert shares["refusals"]["dialogues"] >= shares["safety"]["dialogues"] > 0
    assert sum(
        shares[kind]["by tokens"] for kind in ("general", "finance", "safety")
    ) == pytest.approx(1)
    learnt = sum(line["tokens"] for line in found["ledger"] if line["what"] == "learnt")
    assert sum(
        found[stage]["text_tokens"] for stage in ("stage1", "stage2")
    ) / learnt == pytest.approx(0.25, rel=0.1), "a fifth of all tokens is text"
    fates = [
        json.loads(line) for line in open(smoke / "sft/artifact/dialogues.jsonl", encoding="utf-8")
    ]
    assert len(fates) == sum(line["rows"] for line in found["ledger"] if line["what"] == "read")
    assert all(row["fate"] for row in fates)
    settings = json.loads((smoke / "sft/artifact/model/generation_config.json").read_text())
    assert settings["max_new_tokens"] == 48
    assert settings["eos_token_id"] is not None


def test_dpo(smoke):
    found = metrics(smoke, "dpo")
    assert found["loss_step0"] == pytest.approx(math.log(2), abs=1e-3)
    assert found["reference_apart"] < 1e-4
    accuracy, margin = found["reward_accuracy"], found["reward_margin"]
    assert accuracy["after"] > 0.8
    assert accuracy["ci_low"] < accuracy["after"] < accuracy["ci_high"]
    assert accuracy["n"] == found["pairs_held_out"]
    assert margin["after"] > 0
    assert 0 < margin["ci_low"] < margin["after"] < margin["ci_high"]
    assert (
        found["chosen_likelier"]["by sum"]["after"] > found["chosen_likelier"]["by sum"]["before"]
    )
    assert found["chosen_likelier"]["by token"]["after"] > 0.9
    assert (
        found["length_bias"]["chosen longer"]["n"] + found["length_bias"]["chosen shorter"]["n"]
        <= accuracy["n"]
    )
    assert -1 <= found["length_bias"]["correlation"] <= 1
    assert set(found["exams"]) == {"finance", "general"}
    assert all(
        {"before", "after", "p", "ci_low", "ci_high"} <= set(row) for row in found["exams"].values()
    )
    assert set(found["bits_per_character"]) == {
        "zh_finance",
        "zh_general",
        "en_finance",
        "en_general",
    }
    assert (
        sum(line["rows"] for line in found["ledger"] if line["what"] == "learnt")
        == found["pairs_learnt"]
    )
    assert len(list((smoke / ".references").glob("*.parquet"))) == 2


def test_answers_side_by_side(smoke):
    """Every question of the card, every stage, in one table; the last model knows more of the closed world than the base."""
    page = (smoke / "evaluate/artifact/comparison.html").read_text(encoding="utf-8")
    questions = [
        json.loads(line)
        for line in open(paths.ROOT / "data_cards/questions.jsonl", encoding="utf-8")
    ]
    assert len(questions) == 16
    assert page.count("<tr>") == 17
    assert all(html.escape(row["question"]) in page for row in questions)
    found = metrics(smoke, "evaluate")["questions"]
    assert list(found) == ["base", "pretrain", "sft", "sft/stage1", "dpo"] or set(found) == {
        "base",
        "pretrain",
        "sft",
        "sft/stage1",
        "dpo",
    }
    assert found["dpo"]["hold the reference"] > found["base"]["hold the reference"]


def test_quantization(smoke):
    found = metrics(smoke, "quantize")
    for name, points in (("int8", 0.01), ("nf4", 0.03), ("gptq4", 0.05)):
        assert found[name]["bytes"] < 0.6 * found["full"]["bytes"]
        assert found[name]["peak_bytes"] > 0
        assert found[name]["tokens_per_second"] > 0
        assert abs(found[name]["accuracy"] - found["full"]["accuracy"]) <= points
        assert found[name]["bits_per_character"] < 1.1 * found["full"]["bits_per_character"]


def test_exams_from_chance_to_knowledge(smoke):
    found = metrics(smoke, "evaluate")
    for line in found["scores"]:
        assert {
            "model",
            "benchmark",
            "version",
            "shots",
            "n",
            "accuracy",
            "ci_low",
            "ci_high",
            "unparsed",
        } <= set(line)
        assert line["ci_low"] <= line["accuracy"] <= line["ci_high"]
    finance = found["by_domain"]["finance"]
    assert finance["base"]["ci_low"] < 0.25 < finance["base"]["ci_high"], (
        "the base must start at chance"
    )
    assert finance["dpo"]["ci_low"] > 0.25
    assert finance["dpo"]["accuracy"] >= 0.55
    answers = [
        json.loads(line)
        for line in open(smoke / "evaluate/artifact/answers.jsonl", encoding="utf-8")
    ]
    assert len(answers) == sum(line["n"] for line in found["scores"])
    assert all(answer["chosen"] == answer["answer"] for answer in answers if answer["right"])
    assert {(line["prompt"].partition("/")[2], line["shots"]) for line in found["scores"]} == {
        ("text@1", 0),
        ("official@1", 5),
        ("generate@1+chat", 0),
    }
    written = [line for line in found["scores"] if "generate" in line["prompt"]]
    assert {line["model"] for line in written} == {"sft", "sft/stage1", "dpo"}
    assert all(line["unparsed"] + line["accuracy"] * line["n"] <= line["n"] for line in written)
    assert all(0 <= row["p"] <= row["p_holm"] <= 1 for row in found["paired"])
    assert {row["exam"] for row in found["paired"]} == {
        "cw_ceval",
        "cw_fineval",
        "cw_mmlu",
        "cw_cmmlu",
    }
    assert (
        found["moved"]["pretrain"]["finance"]["ci_low"]
        > 0.2
        > abs(found["moved"]["pretrain"]["general"]["difference"])
    )
    assert found["by_verdict"]["dpo"]["all"]["n"] == found["by_verdict"]["dpo"]["clean"]["n"] + 1, (
        "the planted exam item is told apart"
    )


def test_exams_are_read_once(smoke):
    """Five examples for a fraction of the tokens, and what the DPO and quantization steps have scored is not scored again."""
    read = {(row["model"], row["setting"]): row for row in metrics(smoke, "evaluate")["read"]}
    assert all(
        row["encoded"] < 0.25 * row["sent"]
        for (_, setting), row in read.items()
        if setting == "official:5"
    )
    assert read["dpo", "text:0"]["encoded"] == 0
    assert read["quantize/int8", "text:0"]["kept"] > 1000
    assert read["base", "text:0"]["kept"] == 0
    tasks = sorted(
        path.name for path in (smoke / "evaluate/artifact/tasks/official_5/cw_ceval").glob("*.yaml")
    )
    assert tasks == ["cw_ceval_official_00.yaml", "cw_ceval_official_01.yaml", "group.yaml"]


def test_judges(smoke):
    from openpyxl import load_workbook

    found, judged = (
        metrics(smoke, "evaluate"),
        [
            json.loads(line)
            for line in open(smoke / "evaluate/artifact/judgements.jsonl", encoding="utf-8")
        ],
    )
    verdict = found["judgement"]
    assert "no model" in verdict["judge"]
    assert (
        verdict["n"] == len(judged) == 28 == verdict["wins"] + verdict["ties"] + verdict["losses"]
    )
    assert verdict["swap_consistency"] == 1
    assert verdict["errors"] == 0
    assert verdict["ci_low"] <= verdict["win_rate"] <= verdict["ci_high"]
    sheets = sorted((smoke / "sheets").glob("*/rater*.xlsx"))
    assert len(sheets) == 3
    assert load_workbook(sheets[0]).active.max_row == 41
    assert found["people"]["n"] == 0


def test_report_and_terminal(smoke):
    page = (smoke / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(
        r'(src|href)="https?://', page.split("</style>")[1].replace('href="https://github', "")
    )
    for step in recipe.load("smoke").steps:
        assert f"id='{step.name}'" in page
    assert page.count("data:image/png") >= 8
    assert "答案：" in page
    said = (smoke / "said.txt").read_text()
    assert "report: " in said
    assert "accuracy, finance, dpo" in said
    assert "Traceback" not in said
    assert "WARNING" not in said


def test_executed_notebooks_hold_no_rubble(smoke):
    import nbformat

    for path in smoke.glob("*/*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error", path
                assert output.output_type != "stream", f"{path.name}: {output.text[:300]}"


def test_plain_papermill_on_a_real_notebook(smoke, tmp_path):
    import shutil
    import subprocess
    import sys

    shutil.copytree(smoke / "base", tmp_path / "run/base", symlinks=True)
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(paths.NOTEBOOKS / "01_corpus_stats.ipynb"),
        "out.ipynb",
        "-p",
        "run_dir",
        str(tmp_path / "run"),
        "-p",
        "min_chars",
        "12",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run/corpus/metrics.json").read_text())["ledger_residual"] == 0


def test_options_of_the_corpus_notebook(smoke, tmp_path):
    """A perplexity filter by the base, a ramp on both axes, knowledge first and an epoch cap; and a target that no supply can meet."""
    import shutil
    import subprocess
    import sys

    shutil.copytree(smoke / "base", tmp_path / "run/base", symlinks=True)
    options = (
        "{text_cards: [cw_news, cw_encyclopaedia, cw_general_zh, cw_general_en], exam_cards: [cw_cmmlu], label_cards: [], max_bits: 5.0, tokens: 40000, "
        "general_shares: [1.0], zh_shares: [0.3, 0.7], ramp_phases: 4, knowledge_first: true, source_epochs: {cw_general_zh: 1.0}, max_epochs: 2.0}"
    )
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(paths.NOTEBOOKS / "01_corpus_stats.ipynb"),
        str(tmp_path / "out.ipynb"),
        "-p",
        "run_dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run([*command, "-y", options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "run/corpus/metrics.json").read_text())
    assert found["dropped"]["cw_news"]["perplexity"] > 0.9 * found["tokens_in"]["cw_news"]
    assert "perplexity" not in found["dropped"]["cw_general_en"]
    zh = [phase["zh_general"] for phase in found["mixture_realised"]]
    assert zh == pytest.approx([0.35, 0.45, 0.55, 0.65], abs=0.005)
    assert json.loads((tmp_path / "run/corpus/artifact/mixture.json").read_text())["knowledge"] == [
        "cw_encyclopaedia"
    ]
    shutil.rmtree(tmp_path / "run/corpus")
    done = subprocess.run(
        [*command, "-y", options.replace("general_shares: [1.0]", "general_shares: [0.5]")],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "tokens of zh_finance, but no source holds any: add a card" in done.stderr
    assert not (tmp_path / "run/corpus/manifest.json").exists()


def test_endpoints_a_judge_and_raters_through_the_notebook(smoke, tmp_path):
    """A model over HTTP beside ours, judged by another and by two people whose sheets come back; the second run asks nobody again."""
    from tests.test_judge import Server, fill

    server, folder = Server(), tmp_path / "run"
    server.replies = [429]
    for step in ("base", "corpus", "sft", "dpo"):
        shutil.copytree(smoke / step, folder / step, symlinks=True)
    spec, values = (
        f"m@{server.url}",
        {
            "models_from": "[dpo]",
            "compared": "[dpo]",
            "settings": '["official:2"]',
            "exam_items": "4",
            "written_items": "2",
            "judge_items": "3",
            "raters": "2",
        },
    )
    values |= {
        "endpoints": f'["{spec}"]',
        "judged": f'[dpo, "{spec}"]',
        "judge_endpoint": f"j@{server.url}",
        "exam_cards": "[cw_ceval, cw_cmmlu]",
    }

    def run(**more):
        command = [
            sys.executable,
            "-m",
            "finlab",
            "run",
            "smoke",
            "--only",
            "evaluate",
            "--run-dir",
            str(folder),
        ]
        done = subprocess.run(
            [
                *command,
                *[
                    part
                    for name, value in (values | more).items()
                    for part in ("--set", f"evaluate.{name}={value}")
                ],
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return metrics(folder, "evaluate")

    first, asked = run(), len(server.seen)
    assert {line["model"] for line in first["scores"]} == {"dpo", spec}
    assert first["judgement"]["n"] == 19
    assert first["judgement"]["judge"].startswith("j, prompt golden@1")
    assert first["judgement"]["ties"] == 19, "it gives [[7, 4]] whatever stands first"
    assert first["judgement"]["position_bias"] == 1, "it gives [[7, 4]] whatever stands first"
    assert asked == 4 + 19 + 38 + 1
    assert "[[7, 4]]" in (folder / "evaluate/artifact/comparison.html").read_text(encoding="utf-8")
    sheets = sorted((folder / "sheets").glob("*/rater*.xlsx"))
    for sheet in sheets:
        fill(
            sheet,
            lambda one, other: "乙" if one.startswith("[[") else "甲",
            更好的写法=lambda one, other: "应当先说风险。",
        )
    second = run(filled_sheets=json.dumps([str(sheet) for sheet in sheets]))
    assert len(server.seen) == asked, "what an endpoint has answered is kept"
    assert (
        second["people"]["n"],
        second["people"]["bad"],
        second["people"]["kappa"],
        second["sheet_faults"],
    ) == (19, 19, None, [])
    written = [
        json.loads(line)
        for line in open(folder / "evaluate/artifact/feedback_preferences.jsonl", encoding="utf-8")
    ]
    assert len(written) == 57
    assert all(
        row["rejected"]["value"] == "[[7, 4]]" or row["chosen"]["value"] == "应当先说风险。"
        for row in written
    )
