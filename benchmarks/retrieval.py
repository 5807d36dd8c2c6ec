"""Retrieval: how often the right passage comes first, and how fast, compared with bm25s.

    # needs FINLAB_DATA; about six minutes; writes notebooks/results/retrieval.json
    python -m benchmarks.retrieval

Quality: 1,500 CMRC questions among its 1,104 paragraphs; 61 finance questions of DISC-FinLLM among
their passages and the articles of the Chinese finance laws. A text that occurs twice counts as one.
Speed: the same CMRC questions among 250,000 passages, and among a million. These are the
paragraphs, and passages made of sentences from the real Chinese texts. bm25s gets the same bigrams.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import random
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy

from finlab import paths
from finlab.data import cards
from finlab.evaluate.knowledge import passages, tiers
from finlab.evaluate.knowledge.index import Index, grams
from finlab.evaluate.knowledge.passages import Document
from finlab.run import environment

TEXTS = ("laws_zh", "cfbenchmark_zh", "fincuge_finese_zh", "fincuge_finnl_zh")
QUESTIONS = 1500
SIZES = (250_000, 1_000_000)
Question = tuple[str, set[str]]  # a question, and the texts that answer it


def cmrc() -> tuple[list[str], list[Question]]:
    """Return CMRC's paragraphs, and each question with the paragraph that answers it."""
    found: dict[str, list[str]] = {}
    folder = Path(os.environ["FINLAB_DATA"]) / "text/zh_general"
    for path in sorted(folder.glob("cmrc2018_*.json")):
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                asked = found.setdefault(paragraph["context"], [])
                asked += [each["question"] for each in paragraph["qas"]]
    questions = [(each, {text}) for text, asked in found.items() for each in asked]
    return list(found), random.Random(0).sample(questions, QUESTIONS)


def disc() -> tuple[list[str], list[Question]]:
    """Return DISC's passages and the laws' articles, and questions with their passages."""
    path = Path(os.environ["FINLAB_DATA"]) / "retrieval/disc_retriever_eval.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    questions = []
    texts: dict[str, None] = {}
    for row in rows:
        gold = {text for text, _ in row["reference"]}
        texts |= dict.fromkeys(gold)
        questions.append((row["question"], gold))
    card = cards.read("laws_zh")
    for document in passages.from_rows(card, cards.stream(card, [])):
        texts |= dict.fromkeys(passage.text for passage in passages.split(document))
    return list(texts), questions


def made(count: int) -> Iterator[str]:
    """Yield passages made of sentences from real Chinese texts; no two are equal."""
    rng = random.Random(1)
    texts = [text for name in TEXTS for text in cards.load(name).rows["text"][:]]
    sentences = []
    for text in texts:
        found = re.findall(r"[^。\n]+[。\n]?", text)
        sentences += [sentence for sentence in found if 8 < len(sentence) < 200]
    for number in range(count):
        yield "".join(rng.choices(sentences, k=rng.randint(2, 6))) + f"（{number}）"


def documents(texts: Iterator[str] | list[str]) -> Iterator[Document]:
    """Yield each text as a document with one passage."""
    for number, text in enumerate(texts):
        yield Document(str(number), text)


def asked(search: Callable[[str], list[str]], questions: list[Question]) -> dict:
    """Return recall, mean reciprocal rank and milliseconds of a search over questions.

    Args:
        search: Returns texts, the best first.
        questions: The questions, with the texts that answer them.
    """
    places = []
    seconds = []
    for question, gold in questions:
        begun = time.perf_counter()
        found = search(question)
        seconds.append(time.perf_counter() - begun)
        right = [place for place, text in enumerate(dict.fromkeys(found), 1) if text in gold]
        places.append(min(right, default=0))
    low, high = numpy.percentile(seconds, [50, 95])
    return {
        "questions": len(questions),
        "recall_at_1": tiers.recall_at(places, 1),
        "recall_at_5": tiers.recall_at(places, 5),
        "mrr_at_10": tiers.mean_reciprocal_rank(places),
        "p50_ms": 1000 * float(low),
        "p95_ms": 1000 * float(high),
    }


def ours(path: Path, texts: Iterator[str] | list[str], questions: list[Question]) -> dict:
    """Measure our index."""
    begun = time.perf_counter()
    # Each text is already a passage.
    index = Index(path, cut=functools.partial(passages.split, max_characters=10**9))
    index.add(documents(texts))
    built = time.perf_counter() - begun

    def search(question: str) -> list[str]:
        return [passage.text for passage, _ in index.search(question, 10)]

    search(questions[0][0])
    found = asked(search, questions)
    begun = time.perf_counter()
    index.add([Document("one more", "新增的一份文件，关于一家公司的公告。")])
    added = time.perf_counter() - begun
    begun = time.perf_counter()
    index.delete("one more")
    deleted = time.perf_counter() - begun
    found |= {"passages": len(index), "build_seconds": built}
    found |= {"bytes": path.stat().st_size, "add_ms": 1000 * added, "delete_ms": 1000 * deleted}
    index.close()
    return found


def bm25s(texts: list[str], questions: list[Question]) -> dict:
    """Measure bm25s over the same bigrams."""
    import bm25s as library

    begun = time.perf_counter()
    vocabulary: dict[str, int] = {}
    ids = []
    for text in texts:
        ids.append([vocabulary.setdefault(gram, len(vocabulary)) for gram in grams(text)])
    retriever = library.BM25()
    retriever.index((ids, vocabulary), show_progress=False)
    built = time.perf_counter() - begun

    def search(question: str) -> list[str]:
        wanted = [gram for gram in grams(question) if gram in vocabulary]
        places, _ = retriever.retrieve([wanted], k=10, show_progress=False)
        return [texts[place] for place in places[0]]

    search(questions[0][0])
    return asked(search, questions) | {"passages": len(texts), "build_seconds": built}


def main() -> None:
    """Measure quality and speed, and write the result."""
    rows = []
    paragraphs, questions = cmrc()
    articles, finance = disc()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, texts, each in (("CMRC", paragraphs, questions), ("DISC", articles, finance)):
            row = ours(folder / f"{what}.sqlite", texts, each)
            rows.append({"set": what, "engine": "finlab", **row})
            rows.append({"set": what, "engine": "bm25s", **bm25s(texts, each)})
        for size in SIZES:
            texts = [*paragraphs, *made(size - len(paragraphs))]
            row = ours(folder / f"{size}.sqlite", texts, questions)
            rows.append({"set": f"CMRC among {size:,}", "engine": "finlab", **row})
            if size == SIZES[0]:
                row = bm25s(texts, questions)
                rows.append({"set": f"CMRC among {size:,}", "engine": "bm25s", **row})
            print(json.dumps(rows[-2:], indent=1), flush=True)
    record = {
        "command": "python -m benchmarks.retrieval",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "characters": statistics.mean(len(text) for text in texts),
        "rows": rows,
    }
    path = paths.NOTEBOOKS / "results" / "retrieval.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
