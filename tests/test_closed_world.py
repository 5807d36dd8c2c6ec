"""The closed world: deterministic, varied, and with exams whose wording stands in no training text."""

import hashlib
import json

from finlab import closed_world, corpus


def test_the_same_seed_gives_the_same_world(tmp_path):
    def digest(folder):
        return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())).hexdigest()

    first, second = closed_world.write(tmp_path / "a"), closed_world.write(tmp_path / "b")
    assert digest(first) == digest(second)
    assert digest(closed_world.write(tmp_path / "c", seed=1)) != digest(first)
    assert closed_world.write(tmp_path / "a") == first


def test_every_fact_is_stated_in_several_wordings():
    for language, table in closed_world.WORDINGS.items():
        for key, (states, asks, _) in table.items():
            assert len(states) >= 3 and asks, key
    text = "\n".join(row["text"] for rows in closed_world.documents().values() for row in rows)
    for entity in closed_world.facts():
        for attribute in closed_world._asked(entity):
            found = sum(closed_world._fill(pattern, entity, attribute, "zh") in text for pattern in closed_world.WORDINGS["zh"][f"{entity.kind}.{attribute}"][0])
            assert found >= 2, f"{entity.zh} {attribute} is stated in {found} wordings"


def test_no_exam_wording_in_the_training_text():
    rows = [(row["id"], row["text"]) for part in closed_world.documents().values() for row in part]
    talks = closed_world.dialogues()
    rows += [(f"talk-{number}", json.dumps(row, ensure_ascii=False))
             for number, row in enumerate(talks["alpaca"] + talks["sharegpt"] + talks["checked"] + closed_world.preferences())]
    items = [{"id": f"{name}-{split}-{number}", "question": item["question"], "choices": [item[letter] for letter in "ABCD"]}
             for name, splits in closed_world.exams().items() for split, part in splits.items() for number, item in enumerate(part)]
    exams = corpus.Exams(items)
    hits = {name: hit for (name, _), found in zip(rows, exams.hits([text for _, text in rows]), strict=True) for hit in found}
    dropped = {name for name, hit in hits.items() if hit["covered"] >= (1 if exams.short[hit["item"]] else 0.5)}
    assert len(dropped) == 1 and "exam" in dropped.pop(), "only the planted document may hold an exam item"


def test_exams_are_fair():
    for name, splits in closed_world.exams().items():
        for split, items in splits.items():
            for item in items:
                assert len({item[letter] for letter in "ABCD"}) == 4 and item["answer"] in "ABCD"
        scored = list(splits.values())[1]
        for letter in "ABCD":
            share = sum(item["answer"] == letter for item in scored) / len(scored)
            assert 0.1 < share < 0.45, f"{name}: always {letter} would score {share}"
        assert not {item["question"] for item in list(splits.values())[0]} & {item["question"] for item in scored}


def test_the_right_answer_is_true():
    table = {(entity.zh, value[0]) for entity in closed_world.facts() for value in entity.facts.values()}
    for item in closed_world.exams()["ceval"]["val"]:
        named = [(name, value) for name, value in table if name in item["question"] and value == item[item["answer"]]]
        assert named, item


def test_stage_two_is_four_to_one_and_pairs_differ():
    checked = closed_world.dialogues()["checked"][:-6]  # the last six are planted copies of chats
    assert len({json.dumps(row) for row in checked}) == len(checked) == 350
    assert sum(row["domain"] == "general" for row in checked) == 4 * sum(row["domain"] == "finance" for row in checked)
    for row in closed_world.preferences():
        assert row["chosen"]["value"] != row["rejected"]["value"]
