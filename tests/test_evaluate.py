"""Evaluation: known values of the statistics, bits per character by hand."""

import math

import pytest
import torch

from finlab.data import cards
from finlab.evaluate import likelihood, published, statistics
from finlab.models import loading, tokenization


def test_wilson_and_mcnemar_on_known_values():
    low, high = statistics.wilson(673, 1346)
    assert (round(low, 4), round(high, 4)) == (0.4733, 0.5267)
    first = [True] * 10 + [False] * 25 + [True] * 65
    second = [False] * 10 + [True] * 25 + [True] * 65
    found = statistics.mcnemar(first, second)
    assert round(found["p"], 4) == 0.0167
    assert found["difference"] == pytest.approx(0.15)
    assert (found["ci_high"] - found["ci_low"]) / 2 == pytest.approx(
        1.96 * math.sqrt(35 - 225 / 100) / 100
    )
    assert statistics.mcnemar([True], [True])["p"] == 1


def test_bits_per_character_by_hand(tiny):
    model, tokenizer = loading.load(tiny), tokenization.load(tiny)
    texts = ["澄江重工", "The head office is in Linjiang.", "短"]
    nats = 0.0
    for ids in tokenization.encode(tokenizer, texts):
        row = torch.tensor([ids])
        with torch.inference_mode():
            nats += model(row, labels=row).loss.item() * (len(ids) - 1)
    expected = nats / math.log(2) / sum(map(len, texts))
    assert likelihood.bits_per_character(model, tokenizer, texts) == pytest.approx(
        expected, rel=1e-5
    )
    assert likelihood.bits_per_character(model, tokenizer, texts, batch_tokens=8) == pytest.approx(
        expected, rel=1e-5
    )


def record(number, right, subject="s", benchmark="a", fault="", **more):
    return {
        "benchmark": benchmark,
        "prompt": f"{benchmark}/official@1",
        "id": f"{benchmark}/{number}",
        "subject": subject,
        "shots": 5,
        "examples": 5,
        "right": right,
        "fault": fault,
        "tie": False,
    } | more


def test_scores_hold_n_intervals_and_what_was_no_answer():
    records = [record(n, n < 30, "big") for n in range(38)] + [
        record(38, False, "small", fault="unparsed"),
        record(39, True, "small", examples=3, tie=True),
    ]
    line = statistics.scores("m", records)[0]
    assert (line["n"], line["accuracy"], line["shots"], line["prompt"], line["version"]) == (
        40,
        31 / 40,
        5,
        "a/official@1",
        "1",
    )
    assert line["ci_low"] < line["accuracy"] < line["ci_high"]
    assert line["macro"] == pytest.approx((30 / 38 + 1 / 2) / 2)
    assert line["subjects"] == 2
    assert (
        line["unparsed"],
        line["too_long"],
        line["failed"],
        line["ties"],
        line["shortened"],
    ) == (1, 0, 0, 1, 1)
    assert line["macro_high"] - line["macro_low"] > line["ci_high"] - line["ci_low"], (
        "two items decide half of the macro mean"
    )
    sure = statistics.accuracy(
        [record(n, subject == "x", subject) for subject in "xy" for n in range(5)]
    )
    assert sure["macro_low"] == sure["macro_high"] == 0.5, (
        "no subject leaves the draw, so nothing varies"
    )


def test_macro_interval_as_by_hand():
    """For subjects of n items the variance is the mean of p(1-p)/n over the square of their number."""
    records = [
        record(n, n % 2 == 0, f"s{part}", id=f"{part}-{n}") for part in range(4) for n in range(50)
    ]
    found, half = statistics.accuracy(records), 1.96 * math.sqrt(0.25 / 50 / 4)
    assert found["macro_high"] - 0.5 == pytest.approx(half, abs=0.01)
    assert 0.5 - found["macro_low"] == pytest.approx(half, abs=0.01)


def test_models_are_compared_on_the_same_items_only():
    first = [record(n, n < 10 or n >= 35) for n in range(100)]
    second = [record(n, n >= 10) for n in reversed(range(100))]
    found = statistics.paired(first, second)
    assert (found["n"], found["only_first"], found["only_second"]) == (100, 10, 25)
    assert round(found["p"], 4) == 0.0167
    assert found["bootstrap_low"] == pytest.approx(found["ci_low"], abs=0.02)
    assert found["bootstrap_high"] == pytest.approx(found["ci_high"], abs=0.02)
    with pytest.raises(ValueError, match="answered different items: 2 stand on one side only"):
        statistics.paired(first, [*second[1:], record(500, True)])
    with pytest.raises(ValueError, match="different items"):
        statistics.paired(first, [row | {"prompt": "a/text@1"} for row in second])


def test_holm_on_known_values():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.6]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_baselines_and_verdicts():
    items = [{"choices": "abcd", "answer": n} for n in (2, 2, 1, 0)] + [
        {"choices": "ab", "answer": 2 - 1}
    ]
    assert statistics.baselines(items) == {
        "chance": pytest.approx(0.3),
        "letter": "C",
        "always": 0.4,
    }
    records = [record(n, n < 2) for n in range(4)]
    found = statistics.by_verdict(records, {"a/0": "contaminated", "a/1": "clean", "a/2": "clean"})
    assert {name: (part["n"], part["accuracy"]) for name, part in found.items()} == {
        "all": (4, 0.5),
        "clean": (2, 0.5),
        "contaminated": (1, 1.0),
        "unchecked": (1, 0.0),
    }


def test_always_one_letter_on_fineval(data):
    """27.1 on the whole of FinEval's val.

    90 of 320 on the six subjects at hand, counted by `cut` and `sort`.
    """

    found = statistics.baselines(
        [row for row in cards.load("fineval").rows if row["split"] == "val"]
    )
    assert found == {"chance": 0.25, "letter": "C", "always": 90 / 320}


def test_a_score_on_what_was_trained_on_says_so():
    found = published.published_scores({"cflue_knowledge"})
    flagged = {line["system"] for line in found if line.get("contaminated")}
    assert flagged == {"DianJin-R1-7B", "DianJin-R1-32B"}
    # The control: a general model of the same size, under the same prompt.
    same = {line["system"] for line in found if line["source"] == "DianJin-R1 README"}
    assert {"Qwen2.5-7B-Instruct", "Qwen2.5-32B-Instruct"} <= same


def test_published_scores_name_their_source():
    found = published.published_scores({"cmmlu", "financeiq"})
    assert {line["benchmark"] for line in found} == {"cmmlu", "financeiq"}
    assert all(line["source"] and line["compare"] and 20 < line["score"] < 100 for line in found)
    assert (
        next(
            line["score"] for line in found if line["system"] == "ZhiLu-13B" and line["shots"] == 0
        )
        == 57.14
    )
    assert published.published_scores({None}) == []


def test_gains_are_compared_on_items_that_both_could_read():
    def record(number, right, fault=""):
        return {
            "prompt": "text",
            "id": number,
            "right": right,
            "fault": fault,
            "benchmark": "b",
            "subject": "s",
        }

    short = [record(0, False, "too long"), record(1, True), record(2, False, "unparsed")]
    long = [record(0, True), record(1, True), record(2, True)]
    result = statistics.paired(short, long)
    assert (result["n"], result["unread"], result["difference"]) == (2, 1, 0.5)
    assert statistics.accuracy(short)["no_answer"] == 2
    nothing = statistics.paired(short[:1], long[:1])
    assert (nothing["n"], nothing["unread"], nothing["p"]) == (0, 1, 1.0)
