"""The closed world: its files are what the generator makes, and its exams are fair."""

import csv
import json

import pytest

from finlab import paths
from finlab.closed_world import exams, generate, talks, texts
from finlab.closed_world.facts import WORDS, asked, facts, fill
from finlab.data import contamination

LETTERS = "ABCD"


def test_the_generator_makes_the_committed_files(tmp_path):
    generate.write(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    committed = [path for path in paths.CLOSED_WORLD.rglob("*") if path.is_file()]
    assert made == sorted(path.relative_to(paths.CLOSED_WORLD) for path in committed)
    for name in made:
        assert (tmp_path / name).read_bytes() == (paths.CLOSED_WORLD / name).read_bytes(), name


def test_another_seed_gives_another_world():
    assert texts.documents(seed=1) != texts.documents()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_fact_has_several_wordings(language):
    for key, (states, asks, _) in WORDS["wordings"][language].items():
        assert len(states) >= 3, key
        assert asks, key


def test_every_fact_is_stated_in_two_wordings_or_more():
    everything = "\n".join(row["text"] for rows in texts.documents().values() for row in rows)
    for entity in facts():
        for attribute in asked(entity):
            states = WORDS["wordings"]["zh"][f"{entity.kind}.{attribute}"][0]
            found = sum(fill(pattern, entity, attribute, "zh") in everything for pattern in states)
            assert found >= 2, f"{entity.zh} {attribute} is stated in {found} wordings"


def test_no_exam_wording_in_the_training_text():
    rows = {row["id"]: row["text"] for part in texts.documents().values() for row in part}
    dialogues = talks.dialogues()
    talk = [*dialogues["alpaca"], *dialogues["sharegpt"], *dialogues["checked"]]
    for number, row in enumerate([*talk, *talks.preferences()]):
        rows[f"talk-{number}"] = json.dumps(row, ensure_ascii=False)
    items = []
    for splits in exams.exams().values():
        for item in (item for part in splits.values() for item in part):
            choices = [item[letter] for letter in LETTERS]
            items.append({"question": item["question"], "choices": choices})
    index = contamination.ExamIndex(items)
    dropped = set()
    for name, overlaps in zip(rows, index.hits(list(rows.values())), strict=True):
        for overlap in overlaps:
            enough = 1 if index.short[overlap["item"]] else 0.5
            if overlap["covered"] >= enough:
                dropped.add(name)
    planted = exams.exams()["cmmlu"]["test"][0]["question"]
    for name in dropped:
        # One document and one chat hold an exam item, for decontamination to find.
        assert "-exam-" in name or planted in rows[name], name
    assert len(dropped) == 2


@pytest.mark.parametrize("name", exams.EXAMS)
def test_an_exam_has_four_different_options_and_one_answer(name):
    for items in exams.exams()[name].values():
        for item in items:
            assert len({item[letter] for letter in LETTERS}) == 4
            assert item["answer"] in LETTERS


@pytest.mark.parametrize("name", exams.EXAMS)
def test_no_letter_scores_by_itself(name):
    _, scored = exams.exams()[name].values()
    for letter in LETTERS:
        share = sum(item["answer"] == letter for item in scored) / len(scored)
        assert 0.1 < share < 0.45, f"always {letter} would score {share}"


@pytest.mark.parametrize("name", exams.EXAMS)
def test_no_scored_question_is_an_example(name):
    examples, scored = exams.exams()[name].values()
    assert not {item["question"] for item in examples} & {item["question"] for item in scored}


def test_the_right_answer_is_true():
    table = {(entity.zh, value[0]) for entity in facts() for value in entity.facts.values()}
    for item in exams.exams()["ceval"]["val"]:
        right = item[item["answer"]]
        assert any(name in item["question"] and value == right for name, value in table), item


def test_stage_two_is_four_to_one():
    checked = talks.dialogues()["checked"][:-6]  # the last six are planted copies of chats
    assert len({json.dumps(row) for row in checked}) == len(checked) == 350
    domains = [row["domain"] for row in checked]
    assert domains.count("general") == 4 * domains.count("finance")


def test_the_answers_of_a_pair_differ():
    for row in talks.preferences():
        assert row["chosen"]["value"] != row["rejected"]["value"]


def test_an_exam_file_is_as_its_benchmark_distributes_it():
    path = paths.CLOSED_WORLD / "exams/mmlu/test/bank_test.csv"
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file))
    assert header == ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
