"""The recipe `real-tiny`: a genuinely pretrained base on data made by others."""

import pytest

from tests.conftest import metrics
from tests.slow.test_recipes import learns, run
from tests.test_smoke import cards_are_current

REAL = {
    "corpus.tokens": "500000",
    "tokenizer.trial_steps": "4",
    "pretrain.held_out_texts": "40",
    "pretrain.held_out_reads": "2",
    "sft.max_dialogues": "300",
    "sft.epochs": "[1.0, 1.0]",
    "dpo.max_pairs": "200",
    "dpo.exam_items": "8",
    "dpo.held_out_texts": "10",
    "evaluate.exam_items": "20",
    "quantize.exam_items": "30",
}


@pytest.fixture(scope="module")
def real(data, tmp_path_factory):
    """A genuinely pretrained base on text, dialogues, pairs and exams made by others."""
    folder = tmp_path_factory.mktemp("real") / "run"
    run("real-tiny", folder, REAL)
    return folder


def test_real_text(real):
    assert metrics(real, "corpus")["ledger_residual"] == 0
    cards_are_current(real)


def test_real_pretraining_learns_chinese(real):
    found = metrics(real, "tokenizer")
    assert found["round_trip_failures"] == 0
    spread = found["chars_per_token"]["zh_finance"]
    assert spread["after"] > 2 * spread["before"]
    bits = metrics(real, "pretrain")["bits_per_character"]
    assert set(bits) == {"zh_finance", "zh_general", "en_finance", "en_general", "own"}
    for corner in ("zh_finance", "zh_general"):
        assert bits[corner]["after"] < 0.5 * bits[corner]["before"]


def test_forgetting_of_what_the_base_knew_is_seen(real):
    own = metrics(real, "pretrain")["bits_per_character"]["own"]
    assert own["after"] > own["before"]


def test_real_dialogues_and_pairs(real):
    found = metrics(real, "sft")
    for stage in ("stage1", "stage2"):
        learns(found[stage])
    assert abs(metrics(real, "dpo")["loss_step0"] - 0.6931) < 1e-3


def test_real_exams(real):
    found = metrics(real, "evaluate")
    benchmarks = {line["benchmark"] for line in found["scores"]}
    assert benchmarks == {"ceval", "cmmlu", "fineval", "fineva", "financeiq", "mmlu"}
    sizes = {
        name: (exam["subjects"], exam["subjects_published"])
        for name, exam in found["exams"].items()
    }
    assert sizes["ceval"] == (52, 52)
    assert sizes["cmmlu"] == (10, 67)
    assert sizes["fineval"] == (6, 34)
    assert sizes["fineva"] == (33, 33)
    assert all(len(exam["sha256"]) == 64 for exam in found["exams"].values())
