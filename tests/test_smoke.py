"""The smoke run, made once: each step reports what it must.

The model learns what it must.
"""

import html
import json
import math
import re
import shutil
import subprocess
import sys

import nbformat
import pandas
import pytest
from openpyxl import load_workbook

from finlab import files, paths
from finlab.run import recipe
from finlab.run.manifests import read_manifest
from tests.conftest import finlab_run, metrics, settings
from tests.test_judge import Server, fill

CORNERS = {"zh_finance", "zh_general", "en_finance", "en_general"}
SCORE_FIELDS = {"model", "benchmark", "version", "shots", "n", "accuracy", "ci_low", "ci_high"}
# Names that are relied on outside this repository: add, do not rename.
METRIC_NAMES = {
    "corpus": """documents_in documents_out tokens_in tokens_out dropped ledger_residual
        mixture_requested mixture_realised contaminated_documents""",
    "tokenizer": "vocab_before vocab_after chars_per_token round_trip_failures",
    "pretrain": """bits_per_character tokens tokens_per_second mfu trainable_parameters peak_bytes
        packing_fill""",
    "sft": "stage1 stage2",
    "dpo": "loss_step0 reward_accuracy reward_margin",
    "quantize": "full int8 nf4 gptq4",
    "evaluate": "scores paired",
    "knowledge": "recall_at_k answered_from cited_share unsupported_share",
    "reasoning": "accuracy reward_std_first_batch clipped_share cap_share kl",
}
PART_NAMES = {  # (step, metric): names in it, or in each of its rows
    ("sft", "stage1"): "eval_loss supervised_token_share eos_supervised_share tokens_per_second",
    ("sft", "stage2"): "eval_loss supervised_token_share eos_supervised_share tokens_per_second",
    ("quantize", "full"): "bytes peak_bytes bits_per_character accuracy tokens_per_second",
    ("quantize", "nf4"): "bytes peak_bytes bits_per_character accuracy tokens_per_second",
    ("evaluate", "scores"): " ".join([*SCORE_FIELDS, "unparsed"]),
    ("reasoning", "accuracy"): "before after",
}


def before_and_after(value):
    assert all(math.isfinite(number) for number in value.values())
    return value["before"], value["after"]


def cards_are_current(folder):
    """The statistics that the run wrote are those in data_cards/."""
    for path in (folder / "corpus/artifact/cards").glob("*.md"):
        committed = (paths.ROOT / "data_cards" / path.name).read_text()
        advice = f"{path.name}: run finlab with corpus.write_statistics=true"
        assert path.read_text() == committed, advice


# --- every step ----------------------------------------------------------------------------------
def test_every_step_is_complete(smoke):
    for step in recipe.load("smoke").steps:
        manifest = read_manifest(smoke / step.name)
        assert manifest["seconds"] > 0
        assert manifest["peak_bytes"] > 1e8
        assert manifest["versions"]["torch"]
        assert (smoke / step.name / f"{step.notebook}.ipynb").exists()
        assert list((smoke / step.name / "artifact").iterdir())


@pytest.mark.parametrize("step", METRIC_NAMES)
def test_metrics_keep_their_names(smoke, step):
    found = metrics(smoke, step)
    assert set(METRIC_NAMES[step].split()) <= set(found)
    assert found["headline"]


@pytest.mark.parametrize(("step", "name"), PART_NAMES)
def test_parts_of_metrics_keep_their_names(smoke, step, name):
    part = metrics(smoke, step)[name]
    rows = part if isinstance(part, list) else [part]
    assert rows
    for row in rows:
        assert set(PART_NAMES[step, name].split()) <= set(row)


def test_checkpoints_of_finished_steps_are_gone(smoke):
    assert not list(smoke.glob("*/checkpoints"))


def test_executed_notebooks_hold_no_errors_and_no_noise(smoke):
    for path in smoke.glob("*/*.ipynb"):
        for cell in nbformat.read(path, 4).cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error", path
                if output.output_type == "stream":
                    # The last cell says that the step is complete, and nothing else is printed.
                    assert output.text.startswith("Step '"), f"{path.name}: {output.text[:300]}"
                    assert output.text.count("\n") == 1


# --- the corpus ----------------------------------------------------------------------------------
def test_corpus_accounts_for_every_token(smoke):
    found = metrics(smoke, "corpus")
    assert found["ledger_residual"] == 0
    for source, tokens in found["tokens_in"].items():
        dropped = sum(found["dropped"].get(source, {}).values())
        assert tokens == found["tokens_out"][source] + dropped, source


def test_corpus_finds_what_was_planted(smoke):
    found = metrics(smoke, "corpus")
    assert found["contaminated_documents"] == 1
    assert found["quarantined_rows"] == 2
    dropped = found["dropped"]
    assert dropped["cw_news"]["exact duplicate"] > 0
    assert dropped["cw_encyclopaedia"]["near duplicate in its source"] > 0
    assert dropped["cw_news"]["disclaimers"] > 0
    assert dropped["cw_community"]["html remnants"] > 0
    assert dropped["cw_community"]["bad text"] > 0
    personal = {row["personal"]: row["count"] for row in found["personal_data"]}
    assert personal == {"身份证号": 10, "手机号": 10, "电子邮箱": 10}
    assert found["exam_items"]["contaminated"] == 1
    assert found["exam_items"]["clean"] > 400


def test_the_mixture_is_what_was_asked_for(smoke):
    found = metrics(smoke, "corpus")
    phases = zip(found["mixture_requested"], found["mixture_realised"], strict=True)
    for requested, realised in phases:
        for cell, share in requested.items():
            assert abs(share - realised[cell]) < 0.005


def test_held_out_text_is_not_learnt(smoke):
    train = pandas.read_parquet(smoke / "corpus/artifact/train")
    held_out = pandas.read_parquet(smoke / "corpus/artifact/held_out")
    assert not set(train.text) & set(held_out.text)


def test_announcements_with_other_figures_are_no_duplicates(smoke):
    train = pandas.read_parquet(smoke / "corpus/artifact/train")
    assert train.id.str.contains("figures").sum() >= 6  # of 8; some are held out


def test_the_cards_hold_the_statistics_of_this_run(smoke):
    cards_are_current(smoke)


# --- tokenizer and pretraining -------------------------------------------------------------------
def test_tokenizer(smoke):
    found = metrics(smoke, "tokenizer")
    assert found["vocab_after"] > found["vocab_before"]
    assert found["round_trip_failures"] == 0
    before, after = before_and_after(found["chars_per_token"]["zh_finance"])
    assert after > 1.5 * before
    before, after = before_and_after(found["chars_per_token"]["en"])
    assert after == before


def test_pretraining_learns_finance_and_keeps_the_rest(smoke):
    bits = metrics(smoke, "pretrain")["bits_per_character"]
    for corner in ("zh_finance", "en_finance"):
        before, after = before_and_after(bits[corner])
        assert after < 0.75 * before
    for corner in ("zh_general", "en_general"):
        before, after = before_and_after(bits[corner])
        assert after < 1.05 * before


def test_pretraining_is_metered(smoke):
    found = metrics(smoke, "pretrain")
    assert found["tokens"] > 1e6
    assert found["tokens_per_second"] > 0
    assert 0 < found["mfu"] < 1.2
    assert found["packing_fill"] > 0.98
    assert found["trainable_parameters"] > 0
    assert found["peak_bytes"] > 0


# --- supervised fine-tuning ----------------------------------------------------------------------
def test_both_stages_of_sft_learn(smoke):
    found = metrics(smoke, "sft")
    for stage in ("stage1", "stage2"):
        before, after = before_and_after(found[stage]["eval_loss"])
        assert after < before
        assert found[stage]["eos_supervised_share"] == 1
        assert 0 < found[stage]["supervised_token_share"] < 1
        assert found[stage]["tokens_per_second"] > 0
    assert found["ended_share"] >= 0.8


def test_sft_accounts_for_every_dialogue(smoke):
    ledger = metrics(smoke, "sft")["ledger"]
    for stage in ("stage1", "stage2"):
        lines = {line["what"]: line for line in ledger if line["group"] == stage}
        read = lines.pop("read")
        shortened = lines.pop("cut from the ends of long ones")
        assert read["rows"] == sum(line["rows"] for line in lines.values())
        tokens = sum(line["tokens"] for line in lines.values())
        assert read["tokens"] == shortened["tokens"] + tokens
    rows = files.read_jsonl(smoke / "sft/artifact/dialogues.jsonl")
    assert len(rows) == sum(line["rows"] for line in ledger if line["what"] == "read")
    assert all(row["status"] for row in rows)


def test_sft_finds_what_was_planted(smoke):
    found = metrics(smoke, "sft")
    rows = {line["what"]: line["rows"] for line in found["ledger"] if line["group"] == "stage1"}
    assert rows["near duplicate across sources"] == 6
    assert rows["contaminated by an exam"] == 1
    assert found["quarantined_rows"] == 4
    assert found["contaminated_dialogues"] == 1


def test_the_second_stage_has_its_shares(smoke):
    found = metrics(smoke, "sft")
    shares = found["stage2"]["shares"]
    # 4:1, but for what is held out
    four_times = 4 * shares["finance"]["dialogues"]
    assert shares["general"]["dialogues"] == pytest.approx(four_times, rel=0.12)
    assert 0.07 < shares["safety"]["by dialogues"] < 0.13
    assert shares["refusals"]["dialogues"] >= shares["safety"]["dialogues"] > 0
    kinds = ("general", "finance", "safety")
    assert sum(shares[kind]["by tokens"] for kind in kinds) == pytest.approx(1)


def test_a_fifth_of_the_tokens_is_pretraining_text(smoke):
    found = metrics(smoke, "sft")
    learnt = sum(line["tokens"] for line in found["ledger"] if line["what"] == "learnt")
    text = found["stage1"]["text_tokens"] + found["stage2"]["text_tokens"]
    assert text / learnt == pytest.approx(0.25, rel=0.1)


def test_the_tuned_model_says_how_to_generate(smoke):
    config = files.read_json(smoke / "sft/artifact/model/generation_config.json")
    assert config["max_new_tokens"] == 48
    assert config["eos_token_id"] is not None


# --- preferences ---------------------------------------------------------------------------------
def test_dpo_begins_at_the_reference(smoke):
    found = metrics(smoke, "dpo")
    assert found["loss_step0"] == pytest.approx(math.log(2), abs=1e-3)
    assert found["reference_apart"] < 1e-4
    assert len(list((smoke / ".references").glob("*.parquet"))) == 2


def test_dpo_prefers_what_it_should(smoke):
    found = metrics(smoke, "dpo")
    accuracy = found["reward_accuracy"]
    assert accuracy["after"] > 0.75
    assert accuracy["ci_low"] < accuracy["after"] < accuracy["ci_high"]
    assert accuracy["n"] == found["pairs_held_out"]
    margin = found["reward_margin"]
    assert 0 < margin["ci_low"] < margin["after"] < margin["ci_high"]
    likelier = found["chosen_likelier"]
    assert likelier["by sum"]["after"] > likelier["by sum"]["before"]
    assert likelier["by token"]["after"] > 0.9


def test_dpo_reports_what_else_moved(smoke):
    found = metrics(smoke, "dpo")
    bias = found["length_bias"]
    pairs = bias["chosen longer"]["n"] + bias["chosen shorter"]["n"]
    assert pairs <= found["reward_accuracy"]["n"]
    assert -1 <= bias["correlation"] <= 1
    assert set(found["exams"]) == {"finance", "general"}
    for row in found["exams"].values():
        assert {"before", "after", "p", "ci_low", "ci_high"} <= set(row)
    assert set(found["bits_per_character"]) == CORNERS
    learnt = sum(line["rows"] for line in found["ledger"] if line["what"] == "learnt")
    assert learnt == found["pairs_learnt"]


# --- quantization --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "points", "dearer"),
    [("int8", 0.01, 1.01), ("nf4", 0.03, 1.06), ("gptq4", 0.05, 1.06), ("fp8", 0.01, 1.01)],
)
def test_quantization(smoke, name, points, dearer):
    """No format is sure to lose more points of accuracy than these, nor reads text much worse.

    Four of the 392 questions are a point, so the text tells more than the questions do.
    """
    found = metrics(smoke, "quantize")
    full, small = found["full"], found[name]
    assert small["bytes"] < 0.6 * full["bytes"]
    assert small["peak_bytes"] > small["bytes"]
    assert small["tokens_per_second"] > 0
    assert small["tokens_per_second_8"] > small["tokens_per_second"]
    assert found["paired"][name]["ci_high"] >= -points
    assert small["bits_per_character"] <= dearer * full["bits_per_character"]
    assert set(small["bits_by_cell"]) == CORNERS
    blocks = found["by_block"][name]
    assert len(blocks) == 4
    # The blocks' errors, one at a time, come to about the error of all of them.
    assert 0.3 * small["kl"] < sum(blocks.values()) < 3 * small["kl"]
    assert found["full_precision"][name] == ["lm_head.weight", "model.embed_tokens.weight"]


def test_finance_text_is_what_finance_needs_to_be_calibrated_on(smoke):
    found = metrics(smoke, "quantize")["calibration"]
    assert set(found) == {"mixture", "finance", "general", "one sentence"}
    finance = {name: bits["zh_finance"] for name, bits in found.items()}
    assert finance["finance"] < finance["general"]
    assert finance["finance"] < finance["one sentence"]
    assert found["general"]["zh_general"] < found["one sentence"]["zh_general"]


def test_the_gate_names_a_format(smoke):
    choice = metrics(smoke, "quantize")["choice"]
    assert choice["format"] in ("full", "int8", "nf4", "gptq4", "fp8")
    assert choice["why"]


def test_the_gate_refuses_what_loses_too_much(smoke):
    """With nothing allowed, a format that loses for certain stops the step."""
    from finlab.evaluate import gate

    compared = metrics(smoke, "quantize")["paired"]
    gate.require(compared, 0.05)
    lost = {"difference": -0.2, "p": 1e-9, "only_first": 80, "only_second": 2}
    with pytest.raises(ValueError, match="nf4 loses 0.200 of accuracy"):
        gate.require({"nf4": compared["nf4"] | lost}, 0.05)


def test_models_carry_a_card_and_no_calibration_text(smoke):
    for name in ("int8", "nf4", "gptq4", "fp8"):
        folder = smoke / "quantize/artifact" / name
        assert "recipe `smoke`" in (folder / "README.md").read_text(encoding="utf-8")
        settings = files.read_json(folder / "config.json")["quantization_config"]
        assert not settings.get("dataset")


# --- evaluation ----------------------------------------------------------------------------------
def test_exams_from_chance_to_knowledge(smoke):
    finance = metrics(smoke, "evaluate")["by_domain"]["finance"]
    assert finance["base"]["ci_low"] < 0.25 < finance["base"]["ci_high"]
    assert finance["dpo"]["ci_low"] > 0.25
    assert finance["dpo"]["accuracy"] >= 0.5


def test_scores_are_whole_and_settings_are_named(smoke):
    scores = metrics(smoke, "evaluate")["scores"]
    for line in scores:
        assert set(line) >= SCORE_FIELDS | {"unparsed"}
        assert line["ci_low"] <= line["accuracy"] <= line["ci_high"]
    used = {(line["prompt"].partition("/")[2], line["shots"]) for line in scores}
    assert used == {("text@1", 0), ("official@1", 5), ("generate@1+chat", 0)}
    written = [line for line in scores if "generate" in line["prompt"]]
    assert {line["model"] for line in written} == {"sft", "sft/stage1", "dpo"}
    for line in written:
        assert line["unparsed"] + line["accuracy"] * line["n"] <= line["n"]


def test_every_answer_is_kept(smoke):
    answers = files.read_jsonl(smoke / "evaluate/artifact/answers.jsonl")
    scores = metrics(smoke, "evaluate")["scores"]
    assert len(answers) == sum(line["n"] for line in scores)
    assert all(row["chosen"] == row["answer"] for row in answers if row["right"])


def test_differences_are_tested_in_pairs(smoke):
    found = metrics(smoke, "evaluate")
    assert all(0 <= row["p"] <= row["p_holm"] <= 1 for row in found["paired"])
    exams = {row["exam"] for row in found["paired"]}
    assert exams == {"cw_ceval", "cw_fineval", "cw_mmlu", "cw_cmmlu"}
    moved = found["moved"]["pretrain"]
    assert moved["finance"]["ci_low"] > 0.2 > abs(moved["general"]["difference"])


def test_the_planted_exam_item_is_told_apart(smoke):
    verdicts = metrics(smoke, "evaluate")["by_verdict"]["dpo"]
    assert verdicts["all"]["n"] == verdicts["clean"]["n"] + 1


def test_five_examples_are_encoded_once(smoke):
    for row in metrics(smoke, "evaluate")["read"]:
        if row["setting"] == "official:5":
            assert row["encoded"] < 0.25 * row["sent"]


def test_what_earlier_steps_scored_is_not_scored_again(smoke):
    read = {(row["model"], row["setting"]): row for row in metrics(smoke, "evaluate")["read"]}
    assert read["dpo", "text:0"]["encoded"] == 0
    assert read["quantize/int8", "text:0"]["kept"] > 1000
    assert read["base", "text:0"]["kept"] == 0


def test_the_tasks_that_were_scored_are_kept(smoke):
    folder = smoke / "evaluate/artifact/tasks/official_5/cw_ceval"
    names = sorted(path.name for path in folder.glob("*.yaml"))
    assert names == ["cw_ceval_official_00.yaml", "cw_ceval_official_01.yaml", "group.yaml"]


def test_answers_side_by_side(smoke):
    page = (smoke / "evaluate/artifact/comparison.html").read_text(encoding="utf-8")
    questions = files.read_jsonl(paths.ROOT / "data_cards/questions.jsonl")
    assert len(questions) == 16
    assert page.count("<tr>") == 17
    assert all(html.escape(row["question"]) in page for row in questions)
    found = metrics(smoke, "evaluate")["questions"]
    assert set(found) == {"base", "pretrain", "sft", "sft/stage1", "dpo"}
    assert found["dpo"]["hold the reference"] > found["base"]["hold the reference"]


def test_a_judge_without_a_model_compares_with_references(smoke):
    verdict = metrics(smoke, "evaluate")["judgement"]
    judged = files.read_jsonl(smoke / "evaluate/artifact/judgements.jsonl")
    assert "no model" in verdict["judge"]
    assert verdict["n"] == len(judged) == 28
    assert verdict["wins"] + verdict["ties"] + verdict["losses"] == 28
    assert verdict["swap_consistency"] == 1
    assert verdict["errors"] == 0
    assert verdict["ci_low"] <= verdict["win_rate"] <= verdict["ci_high"]


def test_sheets_for_raters(smoke):
    sheets = sorted((smoke / "sheets").glob("*/rater*.xlsx"))
    assert len(sheets) == 3
    assert load_workbook(sheets[0]).active.max_row == 41
    assert metrics(smoke, "evaluate")["people"]["n"] == 0


# --- the report ----------------------------------------------------------------------------------
def test_the_report_is_one_file_with_every_step(smoke):
    page = (smoke / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    body = page.split("</style>")[1].replace('href="https://github', "")
    assert not re.search(r'(src|href)="https?://', body)
    for step in recipe.load("smoke").steps:
        assert f"id='{step.name}'" in page
    assert page.count("data:image/png") >= 8
    assert "答案：" in page


def test_the_terminal_shows_results_and_no_warnings(smoke):
    printed = (smoke / "output.txt").read_text()
    assert "report: " in printed
    assert "accuracy, finance, dpo" in printed
    assert "Traceback" not in printed
    assert "WARNING" not in printed


# --- notebooks with other parameters -------------------------------------------------------------
def papermill(folder, *options):
    notebook = paths.NOTEBOOKS / "01_corpus_stats.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb"]
    command += ["-p", "run_dir", str(folder / "run"), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_plain_papermill_on_a_real_notebook(smoke, tmp_path):
    shutil.copytree(smoke / "base", tmp_path / "run/base", symlinks=True)
    done = papermill(tmp_path, "-p", "min_chars", "12")
    assert done.returncode == 0, done.stderr[-2000:]
    assert metrics(tmp_path / "run", "corpus")["ledger_residual"] == 0


OPTIONS = """{
    text_cards: [cw_news, cw_encyclopaedia, cw_general_zh, cw_general_en],
    exam_cards: [cw_cmmlu], label_cards: [], max_bits: 5.0, tokens: 40000,
    general_shares: [1.0], zh_shares: [0.3, 0.7], ramp_phases: 4,
    knowledge_first: true, source_epochs: {cw_general_zh: 1.0}, max_epochs: 2.0}"""


def test_a_perplexity_filter_a_ramp_and_knowledge_first(smoke, tmp_path):
    shutil.copytree(smoke / "base", tmp_path / "run/base", symlinks=True)
    done = papermill(tmp_path, "-y", OPTIONS)
    assert done.returncode == 0, done.stderr[-2000:]
    found = metrics(tmp_path / "run", "corpus")
    assert found["dropped"]["cw_news"]["perplexity"] > 0.9 * found["tokens_in"]["cw_news"]
    assert "perplexity" not in found["dropped"]["cw_general_en"]
    shares = [phase["zh_general"] for phase in found["mixture_realised"]]
    assert shares == pytest.approx([0.35, 0.45, 0.55, 0.65], abs=0.005)
    mixture = files.read_json(tmp_path / "run/corpus/artifact/mixture.json")
    assert mixture["knowledge"] == ["cw_encyclopaedia"]


def test_a_target_that_no_supply_can_meet_is_refused(smoke, tmp_path):
    shutil.copytree(smoke / "base", tmp_path / "run/base", symlinks=True)
    wrong = OPTIONS.replace("general_shares: [1.0]", "general_shares: [0.5]")
    done = papermill(tmp_path, "-y", wrong)
    assert done.returncode != 0
    assert "tokens of zh_finance, but no source holds any: add a card" in done.stderr
    assert not (tmp_path / "run/corpus/manifest.json").exists()


def test_endpoints_a_judge_and_raters_through_the_notebook(smoke, tmp_path):
    """A model over HTTP beside ours, another as judge, two people; nobody is asked twice."""
    server = Server()
    server.replies = [429]
    folder = tmp_path / "run"
    for step in ("base", "corpus", "sft", "dpo"):
        shutil.copytree(smoke / step, folder / step, symlinks=True)
    spec = f"m@{server.url}"
    values = {
        "models_from": "[dpo]",
        "compared": "[dpo]",
        "settings": '["official:2"]',
        "exam_items": "4",
        "written_items": "2",
        "judge_items": "3",
        "raters": "2",
        "endpoints": f'["{spec}"]',
        "judged": f'[dpo, "{spec}"]',
        "judge_endpoint": f"j@{server.url}",
        "exam_cards": "[cw_ceval, cw_cmmlu]",
    }

    def evaluate(**more):
        given = {f"evaluate.{name}": value for name, value in (values | more).items()}
        finlab_run("smoke", "--only", "evaluate", "--run-dir", folder, *settings(given))
        return metrics(folder, "evaluate")

    first = evaluate()
    asked = len(server.seen)
    assert {line["model"] for line in first["scores"]} == {"dpo", spec}
    verdict = first["judgement"]
    assert verdict["n"] == 19
    assert verdict["judge"].startswith("j, prompt golden@1")
    # The judge gives [[7, 4]] whatever stands first.
    assert verdict["ties"] == 19
    assert verdict["position_bias"] == 1
    # exam answers, chat answers, judgements in both orders, checked questions, and the reply 429
    assert asked == 4 + 19 + 38 + 40 + 1
    [row] = [row for row in first["checked"] if row["model"] == spec]
    assert (row["n"], row["cap_share"]) == (40, None)
    assert "[[7, 4]]" in (folder / "evaluate/artifact/comparison.html").read_text(encoding="utf-8")

    sheets = sorted((folder / "sheets").glob("*/rater*.xlsx"))
    for sheet in sheets:
        fill(
            sheet,
            lambda one, other: "乙" if one.startswith("[[") else "甲",
            更好的写法=lambda one, other: "应当先说风险。",
        )
    second = evaluate(filled_sheets=json.dumps([str(sheet) for sheet in sheets]))
    assert len(server.seen) == asked
    people = second["people"]
    assert (people["n"], people["bad"], people["kappa"]) == (19, 19, None)
    assert second["sheet_faults"] == []
    pairs = files.read_jsonl(folder / "evaluate/artifact/feedback_preferences.jsonl")
    assert len(pairs) == 57
    for row in pairs:
        better = row["chosen"]["value"] == "应当先说风险。"
        assert better or row["rejected"]["value"] == "[[7, 4]]"


# --- knowledge -----------------------------------------------------------------------------------
def test_knowledge_answers_from_the_right_tier(smoke):
    found = metrics(smoke, "knowledge")
    for base in ("domain", "customer"):
        assert found["recall_at_k"][base]["recall at 1"] > 0.95
    assert set(found["answered_from"]) == {"domain", "customer", "search", "none"}
    assert found["answered_from"]["search"] == 0
    held = {row["the answer is in"]: row for row in found["decisions"]}
    assert held["customer"]["customer"] > 0.8 * sum(list(held["customer"].values())[1:])
    assert held["none"]["none"] > 0.8 * sum(list(held["none"].values())[1:])


def test_what_a_reader_gets_is_supported_and_right_more_often(smoke):
    found = metrics(smoke, "knowledge")
    assert found["by_way"]["guarded"]["unsupported_share"] == 0
    assert found["by_way"]["guarded"]["cited_share"] == 1
    assert found["by_way"]["without"]["cited_share"] == 0
    # 0.21 to 0.35 in three runs; a tiny model's share differs from machine to machine.
    assert found["gain_over_none"]["guarded"]["difference"] > 0.05
    assert found["gain_over_none"]["quoted"]["p"] < 0.01
    # What the model invents is caught, and counted.
    assert found["caught"] > 0
    assert 0 < found["unsupported_share"] < 1


def test_knowledge_leaves_what_its_table_says(smoke):
    artifact = smoke / "knowledge/artifact"
    for name in ("domain.sqlite", "customer.sqlite", "relations.jsonl", "model/config.json"):
        assert (artifact / name).exists(), name
    assert len(list((smoke / "sheets").glob("relations-*.xlsx"))) == 1
    answers = files.read_jsonl(artifact / "answers.jsonl")
    cited = [row for row in answers if row["sources"]]
    assert all("《" in row["sources"] and row["passages"] for row in cited)
    assert len(cited) > 20
    written = files.read_jsonl(artifact / "written.jsonl")
    assert len(written) == metrics(smoke, "knowledge")["written"]["kept"] > 30
    assert all(
        [turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in written
    )


# --- reasoning -----------------------------------------------------------------------------------
def test_reinforcement_raises_held_out_answers(smoke):
    """The whole interval after reinforcement lies above the SFT model's share."""
    found = metrics(smoke, "reasoning")
    before, after = found["accuracy"]["before"], found["accuracy"]["after"]
    assert before["n"] == after["n"] >= 150
    assert after["ci_low"] > before["accuracy"]
    assert found["gained"]["p"] < 0.01
    assert found["reward_std_first_batch"] > 0
    assert 0 < found["kl"] < 1
    assert found["clipped_share"] < 0.2


def test_the_filters_find_the_faults_that_were_planted(smoke):
    found = metrics(smoke, "reasoning")["chains"]
    assert found["the answer is not the gold"] > 30
    assert found["a sum in it does not hold"] > 10
    assert found["thinking without an answer"] > 10
    assert found["kept"] > 1800


def test_the_policy_thinks_longer_because_it_pays(smoke):
    log = files.read_jsonl(smoke / "reasoning/log.jsonl")
    steps = [line for line in log if line.get("stage") == "grpo" and "reward" in line]
    lengths = [line["completions/mean_length"] for line in steps]
    assert sum(lengths[-5:]) > 1.1 * sum(lengths[:5])
    readings = [line["held_out"] for line in steps if "held_out" in line]
    assert len(readings) >= 5


def test_a_gamed_reward_is_paid_for_wrong_answers(smoke):
    """The paid share stays above the right one, and what was paid is kept."""
    log = files.read_jsonl(smoke / "reasoning/log.jsonl")
    steps = [line for line in log if line.get("stage") == "hack" and "reward" in line]
    first, last = steps[:5], steps[len(steps) // 2 :]

    def wrongly_paid(part):
        return sum(line["paid_but_wrong"] for line in part) / len(part)

    assert wrongly_paid(last) > wrongly_paid(first) + 0.02
    for line in steps:
        gap = line["rewards/contains/mean"] - line["rewards/right/mean"]
        assert gap == pytest.approx(line["paid_but_wrong"], abs=1e-3)


def test_reasoning_costs_little_of_what_was_known(smoke):
    for corner, of_model in metrics(smoke, "reasoning")["bits_per_character"].items():
        assert of_model["GRPO"] < 1.5 * of_model["chat model"], corner
        assert of_model["GRPO"] < 1.1 * of_model["SFT"], corner


def test_the_best_of_several_costs_and_gains(smoke):
    rows = metrics(smoke, "reasoning")["best_of"]
    verifier = {row["k"]: row for row in rows if row["by"] == "verifier"}
    assert verifier[8]["accuracy"] > verifier[1]["accuracy"]
    assert verifier[8]["tokens"] > 6 * verifier[1]["tokens"]
    assert {row["by"] for row in rows} == {"verifier", "majority", "reward model"}
    assert metrics(smoke, "reasoning")["reward_model"]["ci_low"] > 0.5


def test_tools_are_called_by_name_and_arguments(smoke):
    for row in metrics(smoke, "reasoning")["tools"].values():
        assert row["name_recall"] > 0.8
        assert row["name_precision"] > 0.8
        assert row["call_recall"] <= row["name_recall"]


def test_chat_models_answer_checked_questions(smoke):
    rows = metrics(smoke, "evaluate")["checked"]
    assert {row["model"] for row in rows} == {"sft/stage1", "sft", "dpo"}
    assert all(0 <= row["cap_share"] <= 1 for row in rows)
    # Nobody has taught them the form, and the table says so.
    assert all(row["read_share"] < 0.2 for row in rows)
