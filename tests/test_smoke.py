"""The smoke run, made once through the command: every step reports what it must, and the model learns what it must."""

import json
import math
import re

import pandas
import pytest

from finlab import recipe, runs


def metrics(smoke, step):
    return json.loads((smoke / step / "metrics.json").read_text(encoding="utf-8"))


def pair(value):
    assert set(value) >= {"before", "after"} and all(math.isfinite(number) for number in value.values())
    return value["before"], value["after"]


def test_every_step_is_complete(smoke):
    for step in recipe.load("smoke").steps:
        found = runs.manifest(smoke / step.name)
        assert found["seconds"] > 0 and found["peak_bytes"] > 1e8 and found["versions"]["torch"]
        assert (smoke / step.name / f"{step.notebook}.ipynb").exists() and list((smoke / step.name / "artifact").iterdir())
        assert not (smoke / step.name / "checkpoints").exists(), "checkpoints of a finished step are dead weight"


def test_corpus(smoke):
    found = metrics(smoke, "corpus")
    assert found["ledger_residual"] == 0 and found["contaminated_documents"] == 1 and found["quarantined_rows"] == 2
    for source, tokens in found["tokens_in"].items():
        assert tokens == found["tokens_out"][source] + sum(found["dropped"].get(source, {}).values()), source
    dropped = found["dropped"]
    assert dropped["cw_news"]["exact duplicate"] > 0 and dropped["cw_encyclopaedia"]["near duplicate in its source"] > 0
    assert dropped["cw_news"]["disclaimers"] > 0 and dropped["cw_community"]["html remnants"] > 0 and dropped["cw_community"]["bad text"] > 0
    assert {row["personal"]: row["count"] for row in found["personal_data"]} == {"身份证号": 10, "手机号": 10, "电子邮箱": 10}
    assert found["exam_items"]["contaminated"] == 1 and found["exam_items"]["clean"] > 400
    for requested, realised in zip(found["mixture_requested"], found["mixture_realised"], strict=True):
        assert all(abs(requested[cell] - realised[cell]) < 0.005 for cell in requested)
    train = pandas.read_parquet(smoke / "corpus/artifact/train")
    assert not set(train.text) & set(pandas.read_parquet(smoke / "corpus/artifact/held_out").text)
    for path in (smoke / "corpus/artifact/cards").glob("*.md"):
        assert path.read_text() == (recipe.ROOT / "data_cards" / path.name).read_text(), f"{path.name}: run finlab with corpus.write_statistics=true"
    planted = train.id.str.contains("figures").sum()
    assert planted >= 6, f"only {planted} of 8 announcements with other figures survived"


def test_tokenizer(smoke):
    found = metrics(smoke, "tokenizer")
    assert found["vocab_after"] > found["vocab_before"] and found["round_trip_failures"] == 0
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
    assert found["tokens"] > 1e6 and found["tokens_per_second"] > 0 and 0 < found["mfu"] < 1.2 and found["packing_fill"] > 0.98
    assert found["trainable_parameters"] > 0 and found["peak_bytes"] > 0


def test_sft(smoke):
    found = metrics(smoke, "sft")
    for stage in ("stage1", "stage2"):
        before, after = pair(found[stage]["eval_loss"])
        assert after < before and found[stage]["eos_supervised_share"] == 1 and 0 < found[stage]["supervised_token_share"] < 1
        assert found[stage]["tokens_per_second"] > 0
    assert found["ended_share"] >= 0.9
    assert found["stage2"]["by_domain"]["general"] == 4 * found["stage2"]["by_domain"]["finance"]


def test_dpo(smoke):
    found = metrics(smoke, "dpo")
    assert found["loss_step0"] == pytest.approx(math.log(2), abs=1e-3)
    assert found["reward_accuracy"]["after"] > 0.8 and found["reward_margin"]["after"] > 0


def test_quantization(smoke):
    found = metrics(smoke, "quantize")
    for name, points in (("int8", 0.01), ("nf4", 0.03), ("gptq4", 0.05)):
        assert found[name]["bytes"] < 0.6 * found["full"]["bytes"] and found[name]["peak_bytes"] > 0 and found[name]["tokens_per_second"] > 0
        assert abs(found[name]["accuracy"] - found["full"]["accuracy"]) <= points
        assert found[name]["bits_per_character"] < 1.1 * found["full"]["bits_per_character"]


def test_exams_from_chance_to_knowledge(smoke):
    found = metrics(smoke, "evaluate")
    for line in found["scores"]:
        assert {"model", "benchmark", "version", "shots", "n", "accuracy", "ci_low", "ci_high", "unparsed"} <= set(line)
        assert line["ci_low"] <= line["accuracy"] <= line["ci_high"]
    finance = found["by_domain"]["finance"]
    assert finance["base"]["ci_low"] < 0.25 < finance["base"]["ci_high"], "the base must start at chance"
    assert finance["dpo"]["ci_low"] > 0.25 and finance["dpo"]["accuracy"] >= 0.55
    answers = [json.loads(line) for line in open(smoke / "evaluate/artifact/answers.jsonl", encoding="utf-8")]
    assert len(answers) == sum(line["n"] for line in found["scores"])


def test_report_and_terminal(smoke):
    page = (smoke / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and not re.search(r'(src|href)="https?://', page.split("</style>")[1].replace('href="https://github', ""))
    for step in recipe.load("smoke").steps:
        assert f"id='{step.name}'" in page
    assert page.count("data:image/png") >= 8 and "答案：" in page
    said = (smoke / "said.txt").read_text()
    assert "report: " in said and "accuracy, finance, dpo" in said and "Traceback" not in said and "WARNING" not in said


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
    command = [sys.executable, "-m", "papermill", str(recipe.NOTEBOOKS / "01_corpus_stats.ipynb"), "out.ipynb", "-p", "run_dir", str(tmp_path / "run"), "-p", "min_chars", "12"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run/corpus/metrics.json").read_text())["ledger_residual"] == 0


def test_options_of_the_corpus_notebook(smoke, tmp_path):
    """A perplexity filter by the base, a ramp on both axes, knowledge first and an epoch cap; and a target that no supply can meet."""
    import shutil
    import subprocess
    import sys

    shutil.copytree(smoke / "base", tmp_path / "run/base", symlinks=True)
    options = ("{text_cards: [cw_news, cw_encyclopaedia, cw_general_zh, cw_general_en], exam_cards: [cw_cmmlu], label_cards: [], most_bits: 5.0, tokens: 40000, "
               "general_shares: [1.0], zh_shares: [0.3, 0.7], ramp_phases: 4, knowledge_first: true, source_epochs: {cw_general_zh: 1.0}, most_epochs: 2.0}")
    command = [sys.executable, "-m", "papermill", str(recipe.NOTEBOOKS / "01_corpus_stats.ipynb"), str(tmp_path / "out.ipynb"), "-p", "run_dir", str(tmp_path / "run")]
    done = subprocess.run([*command, "-y", options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "run/corpus/metrics.json").read_text())
    assert found["dropped"]["cw_news"]["perplexity"] > 0.9 * found["tokens_in"]["cw_news"] and "perplexity" not in found["dropped"]["cw_general_en"]
    zh = [phase["zh_general"] for phase in found["mixture_realised"]]
    assert zh == pytest.approx([0.35, 0.45, 0.55, 0.65], abs=0.005)
    assert json.loads((tmp_path / "run/corpus/artifact/mixture.json").read_text())["knowledge"] == ["cw_encyclopaedia"]
    shutil.rmtree(tmp_path / "run/corpus")
    done = subprocess.run([*command, "-y", options.replace("general_shares: [1.0]", "general_shares: [0.5]")], capture_output=True, text=True)
    assert done.returncode != 0 and "tokens of zh_finance, but no source holds any: add a card" in done.stderr
    assert not (tmp_path / "run/corpus/manifest.json").exists()
