"""Near copies at any size: pairs in order, texts on disk, each pair judged once."""

import multiprocessing
import pickle
from types import SimpleNamespace

import numpy
import pytest

from finlab.data import candidates, clusters, dedup, frames
from finlab.data.fetched import Texts

FORM = "关于年度经营情况的公告。本公司董事会保证公告内容真实、准确、完整，不存在虚假记载。全年营业收入{}亿元。特此公告。"


@pytest.fixture
def frame(tmp_path):
    """Forty announcements of one form in two sources, each with a near copy."""
    texts = []
    for number in range(100, 140):
        texts += [FORM.format(number), FORM.format(number) + "由编辑部整理。"]
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    card = SimpleNamespace(domain="finance", language="zh")
    sources = []
    for name, part in (("a", rows[:50]), ("b", rows[50:])):
        sources.append((SimpleNamespace(name=name, **vars(card)), iter(part)))
    return frames.read(sources, tmp_path / "read", frames.characters)


def _read_elsewhere(stored, numbers, answers):
    texts = pickle.loads(stored)
    answers.put([texts[number] for number in numbers])


def test_texts_are_found_by_number_from_any_process(frame, tmp_path):
    texts = Texts(frame, numpy.array([[70, 3], [3, 12]]), tmp_path)
    expected = [FORM.format(106), FORM.format(135), FORM.format(101) + "由编辑部整理。"]
    assert [texts[number] for number in (12, 70, 3)] == expected
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (pickle.dumps(texts), (12, 70, 3), answers)
    process = context.Process(target=_read_elsewhere, args=arguments)
    process.start()
    assert answers.get(timeout=60) == expected
    process.join()
    assert list(tmp_path.glob("texts-*")), "another process does not delete the file"
    del texts
    assert not list(tmp_path.glob("texts-*"))


def test_a_pair_comes_once_and_where_it_was_first_found():
    first = numpy.array([[7, 9], [2, 5]])
    second = numpy.array([[1, 3], [7, 9], [2, 3]])
    found = candidates._each_once([first, second])
    assert found.tolist() == [[7, 9], [2, 5], [1, 3], [2, 3]]


@pytest.mark.parametrize("at_once, pair_bytes", [(100_000, 1000), (7, 1000), (7, 10**12)])
def test_the_size_of_a_batch_changes_nothing(frame, tmp_path, monkeypatch, at_once, pair_bytes):
    monkeypatch.setattr(dedup, "JUDGED_AT_ONCE", at_once)
    monkeypatch.setattr(dedup, "MEMORY_A_PAIR", pair_bytes)
    reasons, found = dedup.duplicates(frame, 0.8, workspace=tmp_path / "signs")
    assert reasons == dict.fromkeys(range(0, 80, 2), "near duplicate in its source")
    assert sorted(map(sorted, found)) == [[number, number + 1] for number in range(0, 80, 2)]


def test_the_corpus_is_read_once_for_all_pairs(frame, tmp_path, monkeypatch):
    """However many batches are judged, or the time would grow with the square of the corpus."""
    fetched = []

    class Counted(Texts):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            fetched.append(len(self.numbers))

    monkeypatch.setattr(dedup, "Texts", Counted)
    monkeypatch.setattr(dedup, "JUDGED_AT_ONCE", 7)
    dedup.duplicates(frame, 0.8, workspace=tmp_path / "signs")
    assert len(fetched) <= 2, "one for the pairs of a source, one for those across sources"


def test_what_was_judged_is_not_judged_again():
    texts = {
        1: "净利1亿元。编者按。",
        2: "净利。",
        3: "净利2亿元。",
        4: "公告甲",
        5: "公告",
        6: "公",
    }
    asked = []

    def agreeing(_, pairs):
        asked.extend(pairs.tolist())
        return pairs[pairs[:, 1] != 3]

    copies = numpy.array([[1, 2], [2, 3], [4, 5], [4, 6]])
    found = clusters.without_contradictions(
        [[1, 2, 3], [4, 5, 6]], copies, lambda numbers: texts, agreeing
    )
    assert asked == [[1, 3]], "the others are known to agree with the one that stays"
    assert found == [[1, 2], [4, 5, 6]]
    known = clusters.without_contradictions([[4, 5, 6]], copies, None, None)
    assert known == [[4, 5, 6]], "nothing is in doubt, so nothing is fetched"
