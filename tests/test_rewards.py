"""Sums that are read without running anything, and rewards for GRPO."""

import json
import pickle
import time
from fractions import Fraction
from types import SimpleNamespace

import pytest

from finlab.train.reward import arithmetic, functions, verify
from finlab.train.reward.gold import Gold, from_json

GOLD = json.dumps({"kind": "number", "answer": "62", "unit": "亿元"}, ensure_ascii=False)
THINK = "<think>想</think>"


# --- sums ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(3.5-1)*4", Fraction(10)),
        ("（３．５－１）×４", Fraction(10)),
        ("12×8%", Fraction(24, 25)),
        ("1,200÷2", Fraction(600)),
        ("-3+5", Fraction(2)),
        ("1/3", Fraction(1, 3)),
        ("0.1+0.2", Fraction(3, 10)),
    ],
)
def test_the_value_of_a_sum(text, value):
    assert arithmetic.value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('id')",
        "2**9999999",
        "9" * 300,
        "1/0",
        "1+",
        "x+1",
        "[1][0]",
        "1 if 1 else 2",
        "True+1",
        "1j*2",
        "'a'*3",
        "abs(-1)",
        "",
        "(" * 90 + ")" * 90,
    ],
)
def test_anything_else_is_refused(text):
    began = time.perf_counter()
    with pytest.raises(ValueError, match="sum|divides"):
        arithmetic.value(text)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9+3=12，1+4+1=6", [True, True]),
        ("9+3=13，1+4+1=6", [False, True]),
        ("19+43：9+3=12", [True]),
        ("10/3=3.33，10/3=3.34", [True, False]),
        ("10/3≈3.3", [True]),
        ("(120-100)/100×100%=20%", [True]),
        ("增长率=(120-100)/100=20%，同比120/100=1.3", [True, False]),
        ("20/8=2.5亿元", [True]),
        ("12×8%=0.96，12×8%=96", [True, False]),
        ("2024-05-07=周二", []),
        ("净利润是6.2亿元", []),
        ("1+2=3+4", []),
        # Powers, functions and names are no sums that are read here.
        ("1.05^2*100=110.25，10^3*2=2000", []),
        ("3²+4²=25", []),
        ("e^(0.05*2)=1.105，ln(2)+1=1.69，√16+2=6", []),
        ("Q1+20=50", []),
        ("净利润19+43=62", [True]),
    ],
)
def test_sums_that_a_text_states(text, found):
    assert [each.right for each in arithmetic.equations(text)] == found


def test_hostile_chains_are_read_quickly():
    began = time.perf_counter()
    for text in ("1+" * 20_000 + "1=2", "(" * 20_000, "1=" * 20_000, "9" * 100_000 + "+1=2"):
        arithmetic.equations(text)
    assert time.perf_counter() - began < 5


# --- rewards -------------------------------------------------------------------------------------
def paid(reward, text, length=10):
    return reward.score(text, GOLD, length)


def test_form_is_a_gate_and_no_bonus():
    right = functions.Right()
    assert paid(right, f"{THINK}<answer>\\boxed{{62}}</answer>") == 1
    assert paid(right, f"{THINK}<answer>\\boxed{{61}}</answer>") == 0
    assert paid(right, "\\boxed{62}") == 0
    assert paid(functions.Correct(), "\\boxed{62}") == 1
    assert paid(functions.Formed(), f"{THINK}<answer>\\boxed{{61}}</answer>") == 1


def test_length_costs_only_near_the_limit():
    short = functions.Short(80, 100)
    assert [paid(short, "x", length) for length in (10, 80, 90, 100, 200)] == [0, 0, -0.5, -1, -1]
    with pytest.raises(ValueError, match="must lie between 0 and max_completion_length, 100"):
        functions.Short(100, 100)


def test_thinking_that_the_template_opened_is_put_back():
    said = "想</think><answer>\\boxed{62}</answer>"
    assert paid(functions.Right(), said) == 0
    reward = functions.Right("<think>\n")
    assert reward([[{"role": "assistant", "content": said}]], gold=[GOLD]) == [1.0]


def test_a_reward_takes_what_trl_gives_and_travels_to_other_processes():
    reward = pickle.loads(pickle.dumps(functions.build(["right"])[0]))
    texts = [f"{THINK}<answer>\\boxed{{62}}</answer>", "?"]
    earned = reward(
        completions=texts,
        gold=[GOLD, GOLD],
        completion_ids=[[1], [2, 3]],
        prompts=["a", "b"],
        trainer_state=None,
    )
    assert earned == [1.0, 0.0]
    assert reward.__name__ == "right"


def test_an_unknown_reward_names_those_that_are_known():
    with pytest.raises(ValueError, match="no reward 'rigth': choose among right, correct"):
        functions.build(["rigth"])


def test_what_is_paid_although_wrong_is_caught():
    watched = functions.Watched(functions.Contains(), functions.Right())
    logged = {}
    texts = ["<think>6 61 62 63", f"{THINK}<answer>\\boxed{{62}}</answer>", "?"]
    earned = watched(
        texts,
        [GOLD] * 3,
        [[1]] * 3,
        log_metric=logged.__setitem__,
        trainer_state=SimpleNamespace(global_step=4),
    )
    assert earned == [1.0, 1.0, 0.0]
    assert logged == {"paid_but_wrong": 1 / 3}
    assert watched.caught == [{"step": 4, "completion": texts[0], "answer": "62"}]


@pytest.mark.parametrize(
    "gold",
    [
        Gold("number", "62", "box", {"unit": "亿元"}),
        Gold("number", "-3.5%"),
        Gold("letters", "AC", "box", {"choices": 4}),
        Gold("truth", "是"),
        Gold("date", "2024年5月7日"),
        Gold("numbers", "40.1;18.3"),
        Gold("letters", "B", "answer"),
        Gold("names", ["基金对比", "行情查询"], "answer"),
    ],
)
def test_probes_are_paid_as_they_say(gold):
    for what, text, pays in verify.probes(gold):
        assert verify.check(text, gold).right is pays, what


def test_a_gold_keeps_its_options_in_json():
    gold = from_json('{"kind": "letters", "answer": "A", "where": "line", "choices": 4}')
    assert gold == Gold("letters", "A", "line", {"choices": 4})
