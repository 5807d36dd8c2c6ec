"""Answers that code checks: a table of written cases, texts around an answer, and properties."""

import json
import random
import time
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from finlab.train.reward import quantities, reading
from finlab.train.reward.gold import Gold
from finlab.train.reward.verify import KINDS, check, require_sound

TABLE = yaml.safe_load(Path(__file__).with_name("verifier_cases.yaml").read_text(encoding="utf-8"))
CASES = []
for entry in TABLE:
    gold = Gold(entry["kind"], entry["gold"], "answer", entry.get("options", {}))
    CASES += [(gold, answer, True) for answer in entry["right"]]
    CASES += [(gold, answer, False) for answer in entry["wrong"]]
BOXED = [case for case in CASES if case[0].kind not in ("entities", "tools", "names")]


def within(answer: str) -> str:
    return f"<think>先想一想，也许是别的。</think>\n<answer>{answer}</answer>"


# --- the table -----------------------------------------------------------------------------------
def test_the_table_is_large_and_covers_every_kind():
    assert len(CASES) >= 400
    assert {gold.kind for gold, _, _ in CASES} == set(KINDS)


@pytest.mark.parametrize(
    ("gold", "answer", "right"), CASES, ids=[f"{g.kind}-{g.answer}-{a}"[:70] for g, a, _ in CASES]
)
def test_case(gold, answer, right):
    verdict = check(within(answer), gold)
    assert verdict.right is right, verdict
    assert bool(verdict.why) is not right


def test_a_box_holds_the_same_answers():
    for gold, answer, right in BOXED:
        boxed = Gold(gold.kind, gold.answer, "box", gold.options)
        text = within(f"所以答案是 \\boxed{{{answer}}}。")
        assert check(text, boxed).right is right, (gold, answer)


def test_every_gold_passes_its_own_check():
    require_sound([gold for gold, _, _ in CASES])
    with pytest.raises(
        ValueError, match="1 golds cannot be checked; the first is number 2: number"
    ):
        require_sound([Gold("number", "5"), Gold("number", "69,07")])
    with pytest.raises(ValueError, match="is not a kind of answer: write one of letters, truth"):
        check("x", Gold("poem", "x"))


# --- where an answer stands ----------------------------------------------------------------------
B = Gold("letters", "B", "box", {"choices": 4})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>x</think><answer>\\boxed{B}</answer>", True),
        ("<think>x</think>\\boxed{B}", True),
        ("\\boxed{B}", True),
        # The last box counts, also where an earlier one is right.
        ("<answer>\\boxed{A}，不对，\\boxed{B}</answer>", True),
        ("<answer>\\boxed{B}，不对，\\boxed{A}</answer>", False),
        # A box in the thinking alone is no answer.
        ("<think>\\boxed{B}</think><answer>B</answer>", False),
        ("<think>\\boxed{B}", False),
        ("<think>x</think><think>\\boxed{B}", False),
        # A box outside the answer, where there is one.
        ("<think>x</think>\\boxed{B}<answer>见上</answer>", False),
        # An answer that is cut off.
        ("<think>x</think><answer>\\boxed{B", False),
        ("<think>x</think><answer>\\boxed{\\text{B}}</answer>", True),
        ("", False),
        ("B", False),
        # All options, with the right one among them.
        ("<answer>\\boxed{A,B,C,D}</answer>", False),
        ("<answer>\\boxed{A} \\boxed{B} \\boxed{C}</answer>", False),
        ("<answer>\\boxed{}</answer>", False),
    ],
)
def test_where_the_answer_stands(text, right):
    assert check(text, B).right is right


@pytest.mark.parametrize(
    ("text", "formed"),
    [
        ("<think>a</think>\n<answer>\\boxed{B}</answer>", True),
        ("<think>\na\nb\n</think><answer>所以\\boxed{B}</answer>\n", True),
        ("<think></think><answer>\\boxed{B}</answer>", False),
        ("<think>a</think><answer></answer>", False),
        ("<think>a</think><answer>B</answer>", False),
        ("<think>a</think><answer>\\boxed{A}\\boxed{B}</answer>", False),
        ("<think>a</think><answer>\\boxed{B}</answer><answer>\\boxed{C}</answer>", False),
        ("<think>a<think>b</think><answer>\\boxed{B}</answer>", False),
        ("a<think>b</think><answer>\\boxed{B}</answer>", False),
        ("<think>a</think><answer>\\boxed{B}</answer> and more", False),
    ],
)
def test_the_form(text, formed):
    assert reading.well_formed(text) is formed


def test_a_form_without_content_pays_nothing():
    """Form alone is no answer."""
    text = "<think>因为</think><answer>\\boxed{?}</answer>"
    assert reading.well_formed(text)
    assert not check(text, B).right


# --- precision and recall ------------------------------------------------------------------------
def test_listing_all_tools_has_full_recall_and_little_precision():
    gold = Gold("names", ["a", "b"], "answer")
    verdict = check(within("a;b;" + ";".join(f"t{n}" for n in range(29))), gold)
    assert (verdict.right, verdict.recall) == (False, 1.0)
    assert verdict.precision == 2 / 31
    nothing = check(within("[]"), gold)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0.0, 0.0, 0.0)
    assert check(within("[]"), Gold("names", [], "answer")).f1 == 1.0


def test_part_of_the_letters():
    verdict = check("\\boxed{ABD}", Gold("letters", "ABC"))
    assert (verdict.precision, verdict.recall) == (2 / 3, 2 / 3)


# --- properties ----------------------------------------------------------------------------------
UNITS = [("元", 1), ("万元", 10**4), ("亿元", 10**8), ("千元", 10**3)]


def test_a_value_is_the_same_in_every_unit():
    draw = random.Random(3)
    for _ in range(400):
        amount = draw.randrange(1, 10**12)
        one, other = draw.sample(UNITS, 2)
        first = f"{_decimal(Fraction(amount, one[1]))}{one[0]}"
        second = f"{_decimal(Fraction(amount, other[1]))}{other[0]}"
        assert quantities.same(quantities.read(first), quantities.read(second)), (first, second)
        tenfold = f"{_decimal(Fraction(10 * amount, other[1]))}{other[0]}"
        assert not quantities.same(quantities.read(first), quantities.read(tenfold))
        assert not quantities.same(quantities.read(f"-{first}"), quantities.read(second))


def _decimal(value: Fraction) -> str:
    text = f"{float(value):.12f}".rstrip("0").rstrip(".")
    whole, _, rest = text.partition(".")
    return f"{int(whole):,}" + (f".{rest}" if rest else "")


def test_percent_is_never_a_hundred_times_itself():
    draw = random.Random(4)
    for _ in range(300):
        value = draw.randrange(1, 10**4) / 100
        share = quantities.read(f"{value}%")
        assert quantities.same(share, quantities.read(f"{value}%"))
        assert not quantities.same(share, quantities.read(f"{value}"))
        assert not quantities.same(share, quantities.read(f"{100 * value}%"))


def test_letters_do_not_care_for_order_or_separators():
    draw = random.Random(5)
    for _ in range(200):
        letters = draw.sample("ABCDEF", draw.randint(1, 6))
        gold = Gold("letters", "".join(sorted(letters)), "box", {"choices": 6})
        draw.shuffle(letters)
        said = draw.choice(["", ",", "、", " ", "；"]).join(letters)
        assert check(f"\\boxed{{{said}}}", gold).right
        others = set("ABCDEF") - set(letters)
        if others:
            assert not check(f"\\boxed{{{said}{min(others)}}}", gold).right


def test_hostile_text_is_read_quickly_and_is_never_right():
    began = time.perf_counter()
    for text in (
        "\\boxed{" * 20_000,
        "\\boxed{" + "{" * 20_000 + "}" * 20_000 + "}",
        "<answer>" * 20_000,
        "[" * 100_000,
        '{"a":' * 50_000,
        "\\boxed{" + "9" * 100_000 + "}",
        "<think>" * 50_000 + "\\boxed{B}",
        "\\text{" * 10_000 + "\\boxed{C}" + "}" * 10_000,
    ):
        for gold in (
            B,
            Gold("number", "5"),
            Gold("tools", [{"name": "a", "arguments": {}}], "answer"),
        ):
            assert not check(text, gold).right
    assert time.perf_counter() - began < 10


# --- real golds ----------------------------------------------------------------------------------
def test_real_golds_of_finova(data):
    """Compliance golds are all checkable; of the reasoning ones the typo 69,07 is found."""
    folder = data / "exams/finova"
    rows = json.loads((folder / "安全合规.json").read_text(encoding="utf-8"))
    require_sound([Gold("truth", row["ground_truth"]) for row in rows])
    rows = json.loads((folder / "复杂金融问题.json").read_text(encoding="utf-8"))
    golds = [row["ground_truth"] for row in rows if ";" in row["ground_truth"]]
    numbers = [text for text in golds if any(sign.isdigit() for sign in text)]
    bad = []
    for text in numbers:
        try:
            require_sound([Gold("numbers", text)])
        except ValueError:
            bad.append(text)
    assert bad == ["69,07;287644.75"]
    assert len(numbers) >= 9


def test_real_golds_of_cflue(data):
    rows = json.loads((data / "exams/cflue/knowledge.json").read_text(encoding="utf-8"))
    golds = [Gold("letters", row["answer"], "box", {"choices": 6}) for row in rows]
    require_sound(golds)
    assert len(golds) > 700
