"""Published sets of finance questions: read as they are, scored by their authors' rule and by ours."""

import json

import pytest

from benchmarks import answer_sets as benchmark
from finlab.evaluate import answer_sets, official_scores
from finlab.train.reward import verify


@pytest.fixture(scope="module")
def sets(data):
    return {name: answer_sets.load(name, data / "exams") for name in answer_sets.SETS}


def scores(sets, name, text):
    """Return the mean of the authors' score and of ours for one answer to all items."""
    items, _ = sets[name]
    score = official_scores.SCORERS[name]
    theirs = [score(text, item.raw) for item in items]
    ours = [verify.check(text, item.gold).right for item in items]
    return sum(theirs) / len(items), sum(ours) / len(items)


def test_every_set_is_read_and_its_golds_are_sound(sets):
    assert sum(len(items) for items, _ in sets.values()) > 3000
    unsound = {name: [item.raw for item in bad] for name, (_, bad) in sets.items() if bad}
    # FinEval-KR's final answers are prose; what holds one number is checked.
    prose = unsound.pop("fineval_kr")
    assert len(sets["fineval_kr"][0]) > len(prose)
    assert set(unsound) == {"finova_reasoning", "bizfin_time"}
    assert unsound["finova_reasoning"] == ["69,07;287644.75"]
    assert len(unsound["bizfin_time"]) == 1  # a broken fragment of JSON


@pytest.mark.parametrize("name", answer_sets.SETS)
def test_the_gold_itself_is_right_by_both_rules(sets, name):
    items, _ = sets[name]
    for item in items:
        text = benchmark._gold(item, items)
        official = official_scores.SCORERS.get(name)
        assert official is None or official(text, item.raw) == 1, item.raw
        assert verify.check(text, item.gold).right, item.raw


def test_naming_all_tools_is_right_for_finova_and_wrong_for_us(sets):
    items, _ = sets["finova_tools"]
    text = benchmark._all_names(items[0], items)
    assert scores(sets, "finova_tools", text) == (1.0, 0.0)


def test_words_that_deny_are_no_agreement(sets):
    theirs, ours = scores(sets, "finova_compliance", "不是。")
    assert theirs > 0.5
    assert ours == 0


def test_missing_entities_cost_something(sets):
    """Finova pays for one entity of several; ours counts what is missing."""
    item = next(item for item in sets["finova_ner"][0] if len(item.gold.answer) > 2)
    text = json.dumps(item.gold.answer[:1], ensure_ascii=False)
    assert official_scores.SCORERS["finova_ner"](text, item.raw) == 1
    verdict = verify.check(text, item.gold)
    assert not verdict.right
    assert verdict.precision == 1 and verdict.recall < 0.5


def test_a_lost_sign_and_a_hundredfold_are_wrong(sets):
    items = {item.raw: item for item in sets["finova_reasoning"][0]}
    item = items["10000;-8000"]
    lost = "\\boxed{10000;8000}"
    assert official_scores.SCORERS["finova_reasoning"](lost, item.raw) == 1
    assert not verify.check(lost, item.gold).right
    for item in items.values():
        text = benchmark._hundredfold(item, [])
        if text is not None and item.raw.strip("0;."):
            assert not verify.check(text, item.gold).right, item.raw


def test_honest_digits_are_no_fault(sets):
    """BizFinBench compares within 1e-6 with golds of four places."""
    item = next(item for item in sets["bizfin_numerical"][0] if item.raw == "14.8065")
    text = '{"cot": "", "answer": 14.80652}'
    assert official_scores.SCORERS["bizfin_numerical"](text, item.raw) == 0
    assert verify.check(text, item.gold).right
    assert not verify.check('{"cot": "", "answer": 14.8067}', item.gold).right


def test_letters_in_another_order_are_the_same(sets):
    item = next(item for item in sets["cflue_knowledge"][0] if item.raw == "AB")
    assert official_scores.SCORERS["cflue_knowledge"]("答案：BA", item.raw) == 0
    assert verify.check("答案：BA", item.gold).right


def test_a_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="the set finova_ner is not at"):
        answer_sets.load("finova_ner", tmp_path)
    with pytest.raises(ValueError, match="there is no set 'x': choose one of finova_ner"):
        answer_sets.load("x", tmp_path)
