"""Evaluation: known values of the statistics, bits per character by hand, batch invariance, exams through the harness."""

import math

import pytest
import torch

from finlab import evaluate, model, quantize, tokenizer


def test_wilson_and_mcnemar_on_known_values():
    low, high = evaluate.wilson(673, 1346)
    assert (round(low, 4), round(high, 4)) == (0.4733, 0.5267)
    first = [True] * 10 + [False] * 25 + [True] * 65
    second = [False] * 10 + [True] * 25 + [True] * 65
    found = evaluate.mcnemar(first, second)
    assert round(found["p"], 4) == 0.0167 and found["difference"] == pytest.approx(0.15)
    assert (found["ci_high"] - found["ci_low"]) / 2 == pytest.approx(1.96 * math.sqrt(35 - 225 / 100) / 100)
    assert evaluate.mcnemar([True], [True])["p"] == 1


def test_bits_per_character_by_hand(tiny):
    network, words = model.load(tiny), tokenizer.load(tiny)
    texts = ["澄江重工", "The head office is in Linjiang.", "短"]
    nats = 0.0
    for ids in tokenizer.encode(words, texts):
        row = torch.tensor([ids])
        with torch.inference_mode():
            nats += network(row, labels=row).loss.item() * (len(ids) - 1)
    expected = nats / math.log(2) / sum(map(len, texts))
    assert evaluate.bits_per_character(network, words, texts) == pytest.approx(expected, rel=1e-5)
    assert evaluate.bits_per_character(network, words, texts, batch_tokens=8) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def exam(tmp_path):
    items = [{"id": f"q{n}", "subject": "s", "question": f"第{n}题，澄江重工在哪里？", "choices": ["临江", "云梧市", "海晏", "岭西区"], "answer": n % 4} for n in range(12)]
    return evaluate.write_tasks({"mine": items}, tmp_path / "tasks", {"mine": "zh"}), tmp_path / "tasks", items


def test_exam_choices_are_scored_as_by_hand(tiny, exam):
    tasks, folder, items = exam
    network, words = model.load(tiny), tokenizer.load(tiny)
    records = {record["id"]: record for record in evaluate.exams(network, words, tasks, folder, batch_size=5)}
    assert len(records) == 12
    for item in items[:3]:
        prompt = f"问题：{item['question']}\n答案："
        for choice, score in zip(item["choices"], records[item["id"]]["scores"]):
            start = len(words(prompt)["input_ids"])
            ids = words(prompt + choice)["input_ids"]
            scores = model.logits(network, ids).log_softmax(-1)
            assert score == pytest.approx(sum(scores[place - 1, ids[place]].item() for place in range(start, len(ids))), abs=1e-3)
    again = evaluate.exams(network, words, tasks, folder, batch_size=1)
    assert [record["chosen"] for record in again] == [records[record["id"]]["chosen"] for record in again], "batch size must not matter"


def test_scores_hold_n_and_interval():
    records = [{"benchmark": "a", "right": n < 30} for n in range(40)]
    line = evaluate.scores("m", records)[0]
    assert (line["n"], line["accuracy"], line["unparsed"], line["shots"]) == (40, 0.75, 0, 0) and line["ci_low"] < 0.75 < line["ci_high"]


def test_items_fall_back_to_few_shot_parts():
    class Source:
        def __init__(self, *splits):
            self.rows = [{"split": split} for split in splits]

    found = evaluate.read_items({"whole": Source("dev", "val"), "part": Source("dev", "dev")})
    assert len(found["whole"]) == 1 and len(found["part"]) == 2


def test_quantization_measures(tiny):
    network = model.load(tiny)
    same = quantize.logit_error(network, network, [[1, 5, 9]])
    assert abs(same["kl"]) < 1e-6 and same["same_top"] == 1
    other = model.load(tiny)
    other.lm_head.weight.data += torch.randn_like(other.lm_head.weight) * 0.1
    assert quantize.logit_error(network, other, [[1, 5, 9]])["kl"] > 1e-4
    assert quantize.weight_bytes(tiny) == (tiny / "model.safetensors").stat().st_size
    assert quantize.generation_speed(network, [1, 5], 4, 1) > 0
    quantize.require_gptq_widths(network.config, 32)
    with pytest.raises(ValueError, match="intermediate_size is 172"):
        network.config.intermediate_size = 172
        quantize.require_gptq_widths(network.config, 32)
