"""How fast the corpus step is, and how much memory it takes.

Also how it compares with datatrove's MinHash on the same input.

    # 50, 200 and 800 MB, and 1 GB for its memory; writes notebooks/results/corpus.json
    python -m benchmarks.corpus_speed
    # only the whole step, to see how it grows: adds to notebooks/results/corpus_scale.json
    python -m benchmarks.corpus_speed scale 1000

The input is made of sentences of the real Chinese texts (FINLAB_DATA), with exact copies (5%) and
near copies (10%) of earlier documents. Everything is measured: reading JSON lines, cleaning,
de-identification, duplicates, 3,386 exam items, writing Parquet. Here a character counts as a
token; the cost of a tokenizer is measured separately.
"""

from __future__ import annotations

import collections
import json
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import daft

from benchmarks.watching import Laps, watched
from finlab import paths
from finlab.data import cards, contamination, corpus, dedup, frames
from finlab.models import sentencepieces
from finlab.run import environment

TEXTS = ("laws_zh", "cfbenchmark_zh", "fincuge_finese_zh", "fincuge_finnl_zh", "cmrc2018_zh")
EXAMS = ("ceval", "cmmlu", "fineval", "financeiq", "mmlu")
BANDS, ROWS = 14, 8  # datatrove's values
PEER_SIZES = (50, 200, 800)  # megabytes
LARGEST = 1000  # measured without datatrove
RESULTS = paths.NOTEBOOKS / "results"


# --- the input -----------------------------------------------------------------------------------
def sentences(texts: list[str]) -> list[str]:
    """Return the sentences of some texts that are neither very short nor very long."""
    found = [sentence for text in texts for sentence in re.findall(r"[^。\n]+[。\n]?", text)]
    return [sentence for sentence in found if 8 < len(sentence) < 200]


def documents(seed: int = 1) -> Iterator[str]:
    """Yield documents without end: 5% are exact copies of earlier ones, 10% near copies."""
    rng = random.Random(seed)
    texts = [text for name in TEXTS for text in cards.load(name).rows["text"][:]]
    pool = sentences(texts)
    letters = "".join(texts[:50])
    earlier: collections.deque[str] = collections.deque(maxlen=5000)
    while True:
        kind = rng.random() if earlier else 1.0
        if kind < 0.05:
            yield rng.choice(earlier)
            continue
        if kind < 0.15:
            yield changed(rng.choice(earlier), letters, rng)
            continue
        text = "".join(rng.choices(pool, k=max(1, int(rng.lognormvariate(1.9, 0.9)))))
        if rng.random() < 0.1:
            earlier.append(text)
        yield text


def changed(text: str, letters: str, rng: random.Random) -> str:
    """Return a text with one character in a hundred replaced."""
    characters = list(text)
    for _ in range(max(1, len(text) // 100)):
        characters[rng.randrange(len(text))] = rng.choice(letters)
    return "".join(characters)


def make(path: Path, megabytes: float) -> int:
    """Write JSON lines {id, text} of about this many megabytes (UTF-8 bytes of text).

    Return the number of documents.
    """
    size = number = 0
    with open(path, "w", encoding="utf-8") as file:
        for number, text in enumerate(documents(), 1):
            row = {"id": str(number), "text": text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            size += len(text.encode())
            if size >= megabytes * 1e6:
                break
    return number


def rows(path: Path) -> Iterator[dict]:
    """Yield the rows of JSON lines."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read(path: Path, folder: Path) -> daft.DataFrame:
    """Return the documents of JSON lines as a frame."""
    card = SimpleNamespace(name="bench", domain="finance", language="zh")
    return frames.read([(card, rows(path))], folder / "read", frames.characters)


# --- the jobs ------------------------------------------------------------------------------------
def work(path: Path, folder: Path) -> dict:
    """Run the corpus step on a file; return seconds by stage and what was found."""
    items = [row for name in EXAMS for row in cards.load(name).rows]
    count = frames.characters
    frames.choose_runner("native")
    laps = Laps(folder)
    frame = read(path, folder)
    laps.end("read")
    frame = frames.transform(frame, corpus.cleaner(count), corpus.deidentifier(count))
    frame = frames.save(frame, folder / "cleaned")
    laps.end("clean and de-identify")
    reasons, _ = dedup.duplicates(frame, workspace=folder / "signs")
    laps.end("duplicates")
    hits = contamination.find_overlaps(corpus.mark(frame, reasons), items)
    laps.end("exams")
    for hit in hits:
        if hit["verdict"] == "contaminated":
            reasons[hit["number"]] = "contaminated by an exam"
    marked = frames.save(corpus.mark(frame, reasons, 0.05), folder / "marked")
    laps.end("write")
    return {
        "seconds": laps.seconds,
        "total": laps.total,
        "residual": corpus.residual(corpus.ledger(marked)),
        "dropped": len(reasons),
    }


def like_for_like(path: Path, folder: Path) -> dict:
    """Deduplicate as datatrove does: every candidate pair counts, whatever its figures."""
    frames.choose_runner("native")
    laps = Laps(folder)
    frame = read(path, folder)
    settings = {"bands": BANDS, "rows": ROWS, "keep_other_figures": False}
    reasons, _ = dedup.duplicates(frame, 0, **settings, workspace=folder / "signs")
    frames.save(corpus.mark(frame, reasons), folder / "marked")
    laps.end("duplicates")
    return {"seconds": laps.seconds, "total": laps.total, "dropped": len(reasons)}


class Characters:
    """A word tokenizer for datatrove, with one word for each character.

    datatrove's own tokenizer for Chinese needs spaCy and jieba.
    """

    def word_tokenize(self, text: str) -> list[str]:
        """Return the characters of a text."""
        return list("".join(text.split()))


def datatrove(path: Path, folder: Path) -> dict:
    """Deduplicate with datatrove's four MinHash stages on two processes.

    Numbers and punctuation stay in, as in our step.
    """
    import xxhash
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.text import TextNormConfig

    minhash.load_word_tokenizer = lambda language: Characters()
    # datatrove's own function passes a str, which xxhash 4 refuses.
    minhash.create_hash_func = lambda config: lambda text: xxhash.xxh64_intdigest(text.encode())
    laps = Laps(folder)
    split, signs, buckets, remove, out = (
        str(folder / name) for name in ("input", "signs", "buckets", "remove", "out")
    )
    _in_two(path, Path(split))
    plain = {"remove_punctuation": False, "norm_unicode_diacritics": False, "norm_numbers": False}
    config = minhash.MinhashConfig(
        n_grams=5,
        num_buckets=BANDS,
        hashes_per_bucket=ROWS,
        norm_config=TextNormConfig(**plain),
    )
    reader = JsonlReader(split)
    stages = [
        (2, [reader, minhash.MinhashDedupSignature(signs, config)]),
        (BANDS, [minhash.MinhashDedupBuckets(signs, buckets, config=config)]),
        (1, [minhash.MinhashDedupCluster(buckets, remove, config=config)]),
        (2, [reader, minhash.MinhashDedupFilter(remove), JsonlWriter(out, compression=None)]),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        logs = str(folder / f"logs{number}")
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=2, logging_dir=logs).run()
    laps.end("duplicates")
    kept = 0
    for file in Path(out).glob("*.jsonl"):
        with open(file, encoding="utf-8") as written:
            kept += sum(1 for _ in written)
    return {"seconds": laps.seconds, "total": laps.total, "kept": kept}


def _in_two(path: Path, folder: Path) -> None:
    """Write the lines of a file in turn to two files, for two tasks."""
    folder.mkdir()
    with (
        open(path, encoding="utf-8") as file,
        open(folder / "0.jsonl", "w", encoding="utf-8") as even,
        open(folder / "1.jsonl", "w", encoding="utf-8") as odd,
    ):
        for number, line in enumerate(file):
            (even, odd)[number % 2].write(line)


JOBS = {"work": work, "like_for_like": like_for_like, "datatrove": datatrove}


# --- measuring -----------------------------------------------------------------------------------
def measured(job: str, path: Path, folder: Path) -> dict:
    """Run a job in its own process; return its result and its peak memory."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    told = watched(["benchmarks.corpus_speed", job, str(path), str(folder)], folder)
    shutil.rmtree(folder)
    return told


def tokens(path: Path, megabytes: float = 20) -> float:
    """Return the megabytes per second at which Llama's tokenizer counts."""
    make(path, megabytes)
    file = Path(os.environ["FINLAB_DATA"]) / "tokenizers/llama-32000.model"
    tokenizer = sentencepieces.fast(file).backend_tokenizer
    texts = [row["text"] for row in rows(path)]
    path.unlink()
    begun = time.time()
    for first in range(0, len(texts), 2000):
        tokenizer.encode_batch_fast(texts[first : first + 2000], add_special_tokens=False)
    return megabytes / (time.time() - begun)


def compare(megabytes: float, folder: Path, peer: bool = True) -> dict:
    """Return the figures of one size.

    Args:
        megabytes: Megabytes of text.
        folder: The folder for temporary files.
        peer: Also measure only the duplicates, against datatrove's MinHash.
    """
    path = folder / f"{megabytes:g}.jsonl"
    count = make(path, megabytes)
    whole = measured("work", path, folder / "work")
    record = {
        "megabytes": megabytes,
        "documents": count,
        "whole": whole,
        "megabytes_per_second": megabytes / whole["total"],
    }
    if peer:
        own = measured("like_for_like", path, folder / "like_for_like")
        other = measured("datatrove", path, folder / "datatrove")
        kept = count - own["dropped"]
        record |= {
            "like_for_like": own,
            "datatrove": other,
            "whole_against_datatrove": other["total"] / whole["total"],
            "duplicates_against_datatrove": other["total"] / own["total"],
            "kept_difference": abs(kept - other["kept"]) / other["kept"],
        }
    path.unlink()
    return record


def record_of(command: str) -> dict:
    """Return where a record was measured, and with what."""
    return {
        "command": command,
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write(path: Path, record: dict) -> None:
    """Write a record of results."""
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path)


def scale(megabytes: float) -> None:
    """Measure the whole step at one size, and add it to the other sizes in the results."""
    with tempfile.TemporaryDirectory() as folder:
        found = compare(megabytes, Path(folder), peer=False)
    path = RESULTS / "corpus_scale.json"
    known = json.loads(path.read_text(encoding="utf-8"))["sizes"] if path.exists() else []
    own = record_of(f"python -m benchmarks.corpus_speed scale {megabytes:g}")
    # Each size says when and with what it was measured, since sizes are measured one by one.
    sizes = [size for size in known if size["megabytes"] != megabytes] + [own | found]
    sizes.sort(key=lambda size: size["megabytes"])
    write(path, record_of("python -m benchmarks.corpus_speed scale MEGABYTES") | {"sizes": sizes})


def main() -> None:
    """Do what the command line says: one job, one size, or all sizes compared with datatrove."""
    if sys.argv[1:2] == ["scale"]:
        scale(float(sys.argv[2]))
        return
    if sys.argv[1:]:
        job, path, folder = sys.argv[1:]
        print(json.dumps(JOBS[job](Path(path), Path(folder))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counting = tokens(folder / "tokens.jsonl")
        sizes = [compare(megabytes, folder) for megabytes in PEER_SIZES]
        sizes.append(compare(LARGEST, folder, peer=False))
    record = record_of("python -m benchmarks.corpus_speed")
    record["datatrove"] = metadata.version("datatrove")
    record["tokens_megabytes_per_second"] = counting
    write(RESULTS / "corpus.json", record | {"sizes": sizes})


if __name__ == "__main__":
    main()
