"""What the steps say on the report's first page: true at any size, in both languages."""

import pytest

from finlab import show
from finlab.show import headlines


def score(accuracy, low, high, n=100):
    return {"accuracy": accuracy, "ci_low": low, "ci_high": high, "n": n, "no_answer": 0}


def change(difference, low, high):
    return {"difference": difference, "ci_low": low, "ci_high": high}


def evaluation(last=0.55, best=0.70, low=0.66, letters_low=0.2, unparsed=8):
    """What notebook 07 measures, of three models and two domains."""
    models = {
        "base": score(0.25, 0.2, 0.3),
        "pretrain": score(best, low, best + 0.04),
        "dpo": score(last, last - 0.04, last + 0.04),
    }
    line = {"benchmark": "exam", "n": 8, "accuracy": 0.3, "ci_high": 0.4}
    scores = [
        {**line, "model": "dpo", "setting": "official:5", "ci_low": letters_low, "unparsed": 0},
        {**line, "model": "dpo", "setting": "generate:0", "ci_low": 0.0, "unparsed": unparsed},
    ]
    return {
        "by_domain": {"finance": models, "general": models},
        "moved": {"dpo": {"finance": change(0.3, 0.2, 0.4), "general": change(0.3, -0.1, 0.4)}},
        "judgement": {"n": 0},
        "scores": scores,
    }


def told(metrics):
    return headlines.of_evaluation(metrics, "dpo", "official:5", "generate:0", {"gain": None})


def sentences(headline):
    return [line.sentence for line in headline.lines if line.weight]


def test_the_verdict_names_gain_interval_and_what_was_given_up():
    finance, general = sentences(told(evaluation()))
    assert finance.en == (
        "Finance questions: 25% right before, 55% after (a gain beyond chance); pretrain was "
        "better, 70%: later steps gave some of it up."
    )
    assert "超出偶然的提升" in finance.zh
    assert "pretrain 曾达到 70%" in finance.zh
    assert "not told from no change" in general.en
    # Where the best is not surely better, nothing was given up.
    finance, _ = sentences(told(evaluation(low=0.5)))
    assert "gave some of it up" not in finance.en


def test_chance_and_unparsed_answers_are_warnings():
    found = told(evaluation())
    assert [words.en[:30] for words in found.warnings] == [
        "Asked for a letter (official:5",
        "Asked in chat (generate:0), 8 ",
    ]
    assert told(evaluation(letters_low=0.26, unparsed=0)).warnings == []


def test_a_model_from_elsewhere_is_no_stage_of_the_run():
    metrics = evaluation()
    for models in metrics["by_domain"].values():
        models["other/model"] = score(0.9, 0.85, 0.95)
    finance, _ = sentences(told(metrics))
    assert "55% after" in finance.en


def test_no_letters_are_blamed_where_none_were_asked_for():
    metrics = evaluation(unparsed=0)
    metrics["scores"][0]["setting"] = "text:0"
    found = headlines.of_evaluation(metrics, "dpo", "text:0", "generate:0", {})
    assert found.warnings == []


@pytest.mark.parametrize(
    "bits, said",
    [
        ({"zh_finance": {"before": 4.0, "after": 2.0}}, "50% fewer bits"),
        (
            {
                "zh_finance": {"before": 4.0, "after": 2.0},
                "own": {"before": 1.0, "after": 1.2},
            },
            "the price is own +20%",
        ),
        ({"zh_finance": {"before": 1.0, "after": 1.0}}, "made no text easier"),
    ],
)
def test_pretraining_tells_gain_and_price(bits, said):
    metrics = {"bits_per_character": bits, "tokens_per_second": 10.0}
    (sentence,) = sentences(headlines.of_pretraining(metrics, show.bars(bits, "bits")))
    assert said in sentence.en
    assert sentence.zh


def dpo(low, high):
    pair = {"before": 0.9, "after": 0.95}
    value = {"value": 0.8, "ci_low": 0.7, "ci_high": 0.9, "n": 10}
    exam = {"before": 0.6, "after": 0.5, "difference": -0.1, "p": 0.01}
    return {
        "chosen_likelier": {"by token": pair},
        "reward_accuracy": {"before": 0.0, "after": 0.8, **value},
        "reward_margin": value,
        "loss_step0": 0.6931,
        "exams": {"finance": {**exam, "ci_low": low, "ci_high": high}},
    }


def test_dpo_tells_the_preference_by_likelihood_and_what_it_cost():
    found = headlines.of_dpo(dpo(-0.2, -0.01))
    assert found.lines[0].value == "0.900 → 0.950"
    # Every margin is 0 before training, so an accuracy of 0 there says nothing.
    assert all("0.000 →" not in line.value for line in found.lines)
    assert "DPO cost 0.100 of accuracy in finance" in found.warnings[0].en
    assert headlines.of_dpo(dpo(-0.2, 0.01)).warnings == []


def test_verdicts_on_differences():
    assert headlines.verdict_on(change(0.1, 0.01, 0.2)).en == "a gain beyond chance"
    assert headlines.verdict_on(change(-0.1, -0.2, -0.01)).en == "a loss beyond chance"
    assert headlines.verdict_on(change(0.1, -0.01, 0.2)).zh == "与没有变化分不开"


def quantized(accuracy):
    row = {"bytes": 100, "bits_per_character": 1.0, "accuracy": accuracy}
    return {
        "full": row,
        "nf4": {**row, "bytes": 40},
        "choice": {"format": "nf4", "why": "it is the smallest"},
        "paired": {"nf4": {"n": 200}},
    }


def test_a_format_is_not_praised_where_the_exams_tell_nothing():
    (sentence,) = sentences(headlines.of_quantization(quantized(0.6)))
    assert sentence.en.startswith("Serve it as nf4: 40% of the bytes")
    (sentence,) = sentences(headlines.of_quantization(quantized(0.27)))
    assert "no better than guessing" in sentence.en


def test_a_score_at_chance_is_called_so():
    finance, _ = sentences(told(evaluation(last=0.27, low=0.2)))
    assert "which guessing gives too" in finance.en
    assert "乱猜" in finance.zh
