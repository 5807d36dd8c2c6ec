"""Near copies at any size: pairs in order, texts on disk, each pair judged once."""

import functools
import multiprocessing
import pickle
from types import SimpleNamespace

import daft
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


def test_a_document_that_was_not_fetched_is_not_found(frame, tmp_path):
    texts = Texts(frame, numpy.array([3, 5]), tmp_path)
    for number in (2, 4, 6):
        with pytest.raises(KeyError):
            texts[number]


def test_what_a_killed_process_left_is_removed(frame, tmp_path):
    left = tmp_path / "signs" / "texts-killed"
    left.mkdir(parents=True)
    (left / "texts.arrow").write_bytes(b"text")
    dedup.duplicates(frame, 0.8, workspace=tmp_path / "signs")
    assert not left.exists()


def test_a_pair_comes_once_where_it_is_judged_first():
    of_forms = numpy.array([[7, 9], [2, 5], [1, 3]])
    beside = numpy.array([[7, 9], [2, 3]])
    again = numpy.array([[2, 3], [2, 5]])
    found = candidates._each_once({3: [of_forms], 0: [beside, again]})
    assert {rank: pairs.tolist() for rank, pairs in found.items()} == {
        0: [[7, 9], [2, 3], [2, 5]],
        3: [[1, 3]],
    }


def test_pairs_are_judged_by_processes_of_their_own(frame, tmp_path, monkeypatch):
    texts = Texts(frame, numpy.arange(80), tmp_path)
    pairs = numpy.array([[2, 3], [0, 1], [1, 2]])
    expected = [[0, 1], [2, 3]]
    assert dedup._verified(texts, pairs, 0.8, 5, True).tolist() == expected
    monkeypatch.setattr(dedup, "FEW_PAIRS", 0)
    assert dedup._verified(texts, pairs, 0.8, 5, True).tolist() == expected


@pytest.mark.parametrize("pair_bytes", [1000, 10**9])
def test_memory_changes_nothing(frame, tmp_path, monkeypatch, pair_bytes):
    monkeypatch.setattr(dedup, "MEMORY_A_PAIR", pair_bytes)
    reasons, found = dedup.duplicates(frame, 0.8, workspace=tmp_path / "signs")
    assert reasons == dict.fromkeys(range(0, 80, 2), "near duplicate in its source")
    assert sorted(map(sorted, found)) == [[number, number + 1] for number in range(0, 80, 2)]


def test_the_corpus_is_read_once_for_the_pairs_of_a_pass(frame, tmp_path, monkeypatch):
    """However many groups are judged, or the time would grow with the square of the corpus."""
    fetched = []

    class Counted(Texts):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            fetched.append(len(self.numbers))

    monkeypatch.setattr(dedup, "Texts", Counted)
    dedup.duplicates(frame, 0.8, workspace=tmp_path / "signs")
    assert len(fetched) == 2, "one for the pairs of a source, one for those across sources"


class OnlyThese:
    """A judge to whom two documents are copies, and no others."""

    takes_all = keep_other_figures = False

    def __init__(self, copies):
        self.pairs = numpy.array([copies])
        self.asked = 0

    def texts(self, numbers):
        return None

    def copies(self, texts, pairs):
        self.asked += len(pairs)
        return pairs[numpy.isin(clusters.pair_keys(pairs), clusters.pair_keys(self.pairs))]


def test_a_form_of_thousands_does_not_hide_a_copy():
    """Nine thousand documents share one band; of two that are copies, a further one tells."""
    rng = numpy.random.default_rng(1)
    count = 9000
    draw = functools.partial(rng.integers, 2**63, size=count, dtype=numpy.uint64)
    columns = {"number": numpy.arange(count), "source": numpy.ones(count, numpy.uint64)}
    columns |= {"figures_0": draw(), "figures_1": draw()}
    columns |= {"key_0": numpy.ones(count, numpy.uint64), "key_1": draw(), "key_2": draw()}
    columns["key_1"][8000] = columns["key_1"][1000]
    signed = clusters.Signed(columns["number"], numpy.ones(count, int), columns["source"])
    judge = OnlyThese((1000, 8000))
    nothing = numpy.empty(0, numpy.int64)
    pairs = candidates.candidate_pairs(daft.from_pydict(columns), nothing, True, 3, 10**6)
    assert dedup._near_copies(pairs, signed, True, judge) == [[1000, 8000]]
    assert judge.asked > 200_000


def test_documents_of_a_form_are_given_up():
    """In every band they share their bucket: after forty refusals they are compared no more."""
    count = 1000
    same = numpy.ones(count, numpy.uint64)
    columns = {"number": numpy.arange(count), "source": same}
    columns |= {"figures_0": same, "figures_1": same}
    columns |= {f"key_{band}": same + numpy.uint64(band) for band in range(10)}
    rng = numpy.random.default_rng(1)
    for band in range(10):  # other neighbours in each
        columns[f"key_{band}"] += rng.integers(20, size=count, dtype=numpy.uint64) * 100
    signed = clusters.Signed(columns["number"], numpy.ones(count, int), columns["source"])
    judge = OnlyThese((0, 0))
    nothing = numpy.empty(0, numpy.int64)
    pairs = candidates.candidate_pairs(daft.from_pydict(columns), nothing, True, 10, 10**6)
    assert dedup._near_copies(pairs, signed, True, judge) == []
    assert judge.asked < 45 * count, "of some 150 pairs that each stands in"


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
