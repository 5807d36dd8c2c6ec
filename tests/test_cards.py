"""Data cards: the only door, and every row that cannot be read is kept with file, line and reason."""

import pytest

from finlab import cards, recipe

SECTIONS = ("## Uses", "## Structure", "## Creation", "## Personal and sensitive information", "## Bias, risks and limits", "## Licence and terms")


@pytest.mark.parametrize("name", cards.names())
def test_card_is_complete(name):
    card = cards.read(name)
    assert card.licence and all(section in card.text for section in SECTIONS)
    assert "More Information Needed" not in card.text


@pytest.mark.parametrize("name", [name for name in cards.names() if name.startswith("cw_")])
def test_closed_world_cards_load(name):
    source = cards.load(name)
    assert len(source.rows) > 50
    assert source.card.fingerprint() == cards.read(name).fingerprint()
    assert source.card.spec["sha256"], "the world is the same, byte for byte, or load() would have refused it"


def test_broken_lines_are_quarantined_with_file_and_line():
    found = cards.load("cw_news").quarantined
    assert [row["where"].rpartition(":")[2] for row in found] == ["8", "19"]
    assert all("not JSON" in row["reason"] and row["where"].startswith("cw_news.jsonl:") for row in found)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "ROOT", tmp_path)
    monkeypatch.setenv("FINLAB_DATA", str(tmp_path))
    (tmp_path / "data_cards").mkdir()

    def write(name, front):
        (tmp_path / "data_cards" / f"{name}.md").write_text(f"---\n{front}\n---\n# card\n", encoding="utf-8")
        return tmp_path

    return write


GOOD = "license: mit\nfinlab: {domain: finance, language: zh, kind: text, files: [a.jsonl], format: jsonl}"


@pytest.mark.parametrize(("front", "message"), [
    (GOOD.replace("license: mit\n", ""), "states no license"), ("license: mit", "no `finlab:` block"),
    (GOOD.replace("kind: text", "kind: poem"), "finlab.kind is 'poem'"), (GOOD.replace("files: [a.jsonl], ", ""), "either `files` or a `hub` id"),
    (GOOD.replace("kind: text", "kind: text, color: red"), "unknown key 'color'"), ("license: [", "not YAML"), (GOOD, "no file matches a.jsonl")])
def test_bad_cards_are_refused(folder, front, message):
    folder("mine", front)
    with pytest.raises(ValueError, match=message):
        cards.load("mine")


def test_missing_card_and_missing_data(folder, monkeypatch):
    folder("mine", GOOD)
    with pytest.raises(ValueError, match="there is no data card 'other'"):
        cards.load("other")
    monkeypatch.delenv("FINLAB_DATA")
    with pytest.raises(ValueError, match="FINLAB_DATA, which is not set"):
        cards.load("mine")


def test_bad_rows_and_checksum(folder):
    root = folder("mine", GOOD)
    (root / "a.jsonl").write_text('{"id": "1", "text": "一"}\n{"id": "1", "text": "二"}\n{"text": ""}\n{"body": "x"}\n{"id": "2", "text": "三"}\n', encoding="utf-8-sig")
    source = cards.load("mine")
    assert source.rows["text"][:] == ["一", "三"]
    assert [row["where"].rpartition(":")[2] for row in source.quarantined] == ["2", "3", "4"]
    assert "used twice" in source.quarantined[0]["reason"]
    folder("mine", GOOD.replace("format: jsonl", "format: jsonl, sha256: 00"))
    with pytest.raises(ValueError, match="wrong or changed data"):
        cards.load("mine")
    folder("mine", GOOD)
    (root / "a.jsonl").write_text("nothing\n")
    with pytest.raises(ValueError, match="none of its rows could be read; first: a.jsonl:1"):
        cards.load("mine")


def test_encodings_and_broken_arrays(folder):
    root = folder("mine", GOOD)
    (root / "a.jsonl").write_bytes('{"text": "一"}\n'.encode() + '{"text": "国债"}\n'.encode("gbk") + '{"text": "三"}\n'.encode())
    source = cards.load("mine")
    assert source.rows["text"][:] == ["一", "三"] and source.quarantined[0]["where"] == "a.jsonl:2" and source.quarantined[0]["reason"] == "not UTF-8"
    folder("mine", GOOD.replace("format: jsonl", "format: json"))
    (root / "a.jsonl").write_text('[\n{"text": "一"},\n{"text": }\n]')
    with pytest.raises(ValueError, match="a.jsonl: the JSON array is broken"):
        cards.load("mine")
    folder("mine", GOOD.replace("format: jsonl", 'format: json, rows: "data.*"'))
    (root / "a.jsonl").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="no 'data' where"):
        cards.load("mine")


def test_kinds_are_not_mixed():
    with pytest.raises(ValueError, match="card cw_news is of kind text; this step reads exam"):
        cards.load_all(["cw_news"], "exam")


def test_real_cards_load_whole(data):
    expected = {"laws_zh": 199, "cmrc2018_zh": 1104, "fincuge_finese_zh": 14252, "wiki_en": 30, "c4_en": 300, "finterms_en": 158, "alpaca_zh": 1000,
                "sharegpt_zh": 997, "cornucopia_zh": 15, "yayi_zh": 3, "yayi_multi_zh": 2, "toolcall_zh": 300, "disc_finllm_zh": 400,
                "dpo_zh_demo": 300, "dpo_zh_500": 500, "ceval": 260, "mmlu": 285}
    loaded = {name: cards.load(name) for name in expected}
    assert {name: len(source.rows) for name, source in loaded.items()} == expected
    assert [row["where"] for row in loaded["cornucopia_zh"].quarantined] == ["cornucopia_fin_data.json:11", "cornucopia_fin_data.json:12"]
    for name in cards.names():
        assert len(cards.load(name).rows), name
