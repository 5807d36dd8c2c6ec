"""How fast the corpus step is, how much memory it takes.

How it compares with datatrove's MinHash on the same input.

    # 50, 200 and 800 MB, and 1 GB for its memory; writes notebooks/results/corpus.json
    python -m benchmarks.corpus_speed
    # the whole step alone, to see how it grows; writes notebooks/results/corpus_scale.json
    python -m benchmarks.corpus_speed scale 200 1000

The input is made of sentences of the real Chinese texts (FINLAB_DATA), with exact copies (5%) and
near copies (10%) of earlier documents. Everything counts: reading JSON lines, cleaning, de-
identification, duplicates, 3,386 exam items, writing Parquet. Tokens are counted in characters
here: what a tokenizer costs beside it is measured by itself.
"""

import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from benchmarks.memory import memory_of
from finlab import paths
from finlab.data import cards, contamination, corpus, dedup, frames
from finlab.models import sentencepieces
from finlab.run import environment

TEXTS = ("laws_zh", "cfbenchmark_zh", "fincuge_finese_zh", "fincuge_finnl_zh", "cmrc2018_zh")
EXAMS = ("ceval", "cmmlu", "fineval", "financeiq", "mmlu")
BANDS, ROWS = 14, 8  # datatrove's


def make(path: Path, megabytes: float, seed: int = 1) -> int:
    """Write JSON lines {id, text} of about so many megabytes (UTF-8 bytes of text).

    Return the number of documents.
    """

    rng = random.Random(seed)
    texts = [text for name in TEXTS for text in cards.load(name).rows["text"][:]]
    sentences = [
        found
        for text in texts
        for found in re.findall(r"[^。\n]+[。\n]?", text)
        if 8 < len(found) < 200
    ]
    letters, earlier, size, number = "".join(texts[:50]), [], 0, 0
    with open(path, "w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            kind = rng.random() if earlier else 1.0
            text = (
                rng.choice(earlier)
                if kind < 0.15
                else "".join(rng.choices(sentences, k=max(1, int(rng.lognormvariate(1.9, 0.9)))))
            )
            if 0.05 <= kind < 0.15:  # near copies: a few characters changed
                for _ in range(max(1, len(text) // 100)):
                    place = rng.randrange(len(text))
                    text = text[:place] + rng.choice(letters) + text[place + 1 :]
            elif kind >= 0.15 and rng.random() < 0.1:
                earlier = [*earlier[-4999:], text]
            file.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
            size, number = size + len(text.encode()), number + 1
    return number


def rows(path: Path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def work(path: Path, folder: Path) -> dict:
    """Run the corpus step on a file; return seconds by stage and what was found."""

    items = [row for name in EXAMS for row in cards.load(name).rows]
    frames.choose_runner("native")
    begun, seconds = time.time(), {}

    def lap(stage: str) -> None:
        seconds[stage] = round(time.time() - begun - sum(seconds.values()), 2)

    frame = frames.read(
        [(SimpleNamespace(name="bench", domain="finance", language="zh"), rows(path))],
        folder / "read",
        frames.characters,
    )
    lap("read")
    frame = frames.save(
        frames.transform(
            frame, corpus.cleaner(frames.characters), corpus.deidentifier(frames.characters)
        ),
        folder / "cleaned",
    )
    lap("clean and de-identify")
    reasons, _ = dedup.duplicates(frame, workspace=folder / "signs")
    lap("duplicates")
    hits = contamination.find_overlaps(corpus.mark(frame, reasons), items)
    lap("exams")
    reasons |= {
        hit["number"]: "contaminated by an exam" for hit in hits if hit["verdict"] == "contaminated"
    }
    marked = frames.save(corpus.mark(frame, reasons, 0.05), folder / "marked")
    lap("write")
    return {
        "seconds": seconds,
        "total": round(sum(seconds.values()), 2),
        "residual": corpus.residual(corpus.ledger(marked)),
        "dropped": len(reasons),
    }


def like_for_like(path: Path, folder: Path) -> dict:
    """Deduplicate as datatrove does: every candidate pair counts, figures or not."""

    frames.choose_runner("native")
    begun = time.time()
    frame = frames.read(
        [(SimpleNamespace(name="bench", domain="finance", language="zh"), rows(path))],
        folder / "read",
        frames.characters,
    )
    reasons, _ = dedup.duplicates(
        frame, 0, bands=BANDS, rows=ROWS, keep_other_figures=False, workspace=folder / "signs"
    )
    frames.save(corpus.mark(frame, reasons), folder / "marked")
    return {"total": round(time.time() - begun, 2), "dropped": len(reasons)}


class Characters:
    """datatrove's word tokenizer, one word a character.

    Its own for Chinese needs spaCy and jieba.
    """

    def word_tokenize(self, text: str) -> list[str]:
        return list("".join(text.split()))


def datatrove(path: Path, folder: Path) -> dict:
    """Deduplicate with datatrove's four MinHash stages on two processes.

    Numbers and punctuation left in, as ours has them.
    """
    import xxhash
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.text import TextNormConfig

    minhash.load_word_tokenizer = lambda language: Characters()
    minhash.create_hash_func = lambda config: (
        lambda text: xxhash.xxh64_intdigest(text.encode())
    )  # its own hands str over, which xxhash 4 refuses
    split = folder / "input"
    split.mkdir(parents=True)
    begun = time.time()
    with (
        open(path, encoding="utf-8") as file,
        open(split / "0.jsonl", "w") as even,
        open(split / "1.jsonl", "w") as odd,
    ):
        for number, line in enumerate(file):
            (even, odd)[number % 2].write(line)
    same = TextNormConfig(
        remove_punctuation=False, norm_unicode_diacritics=False, norm_numbers=False
    )
    config = minhash.MinhashConfig(
        n_grams=5, num_buckets=BANDS, hashes_per_bucket=ROWS, norm_config=same
    )
    stages = [
        (
            2,
            [JsonlReader(str(split)), minhash.MinhashDedupSignature(str(folder / "signs"), config)],
        ),
        (
            BANDS,
            [
                minhash.MinhashDedupBuckets(
                    str(folder / "signs"), str(folder / "buckets"), config=config
                )
            ],
        ),
        (
            1,
            [
                minhash.MinhashDedupCluster(
                    str(folder / "buckets"), str(folder / "remove"), config=config
                )
            ],
        ),
        (
            2,
            [
                JsonlReader(str(split)),
                minhash.MinhashDedupFilter(str(folder / "remove")),
                JsonlWriter(str(folder / "out"), compression=None),
            ],
        ),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=2, logging_dir=str(folder / f"logs{number}")
        ).run()
    kept = sum(1 for file in (folder / "out").glob("*.jsonl") for _ in open(file, encoding="utf-8"))
    return {"total": round(time.time() - begun, 2), "kept": kept}


def measured(job: str, path: Path, folder: Path) -> dict:
    """Run a job in a process of its own.

    Return what it says and the peak memory of it and its children, with mapped files and without.
    """
    shutil.rmtree(folder, ignore_errors=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.corpus_speed", job, str(path), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"DAFT_PROGRESS_BAR": "0"},
    )
    peak = {"anonymous": 0, "with mapped files": 0}

    def watch() -> None:
        while process.poll() is None:
            for name, value in memory_of(process.pid).items():
                peak[name] = max(peak[name], value)
            time.sleep(0.3)

    thread = threading.Thread(target=watch)
    thread.start()
    said = process.communicate()[0]
    thread.join()
    shutil.rmtree(folder, ignore_errors=True)
    if process.returncode:
        raise RuntimeError(
            f"{job} failed: run python -m benchmarks.corpus_speed {job} {path} {folder} to see why"
        )
    memory = {
        "peak_bytes": peak["with mapped files"],
        "peak_anonymous_bytes": peak["anonymous"],
    }
    return json.loads(said.splitlines()[-1]) | memory


def tokens(path: Path, megabytes: float = 20) -> float:
    """Return the megabytes per second at which Llama's tokenizer counts."""

    make(path, megabytes)
    tokenizer = sentencepieces.fast(
        Path(os.environ["FINLAB_DATA"]) / "tokenizers/llama-32000.model"
    ).backend_tokenizer
    texts = [row["text"] for row in rows(path)]
    path.unlink()
    begun = time.time()
    for first in range(0, len(texts), 2000):
        tokenizer.encode_batch_fast(texts[first : first + 2000], add_special_tokens=False)
    return megabytes / (time.time() - begun)


def compare(megabytes: float, folder: Path, peer: bool = True) -> dict:
    """Return the figures of one size.

    The whole step, and with `peer` duplicates alone against datatrove's MinHash.
    """
    path = folder / f"{megabytes:g}.jsonl"
    documents = make(path, megabytes)
    whole = measured("work", path, folder / "work")
    record = {
        "megabytes": megabytes,
        "documents": documents,
        "whole": whole,
        "megabytes_per_second": megabytes / whole["total"],
    }
    own, other = (
        [measured(job, path, folder / job) for job in ("like_for_like", "datatrove")]
        if peer
        else (None, None)
    )
    path.unlink()
    return (
        record
        if not peer
        else record
        | {
            "like_for_like": own,
            "datatrove": other,
            "whole_against_datatrove": other["total"] / whole["total"],
            "duplicates_against_datatrove": other["total"] / own["total"],
            "kept_difference": abs(documents - own["dropped"] - other["kept"]) / other["kept"],
        }
    )


def scale(sizes: list[float]) -> None:
    """Measure the whole step at some sizes in megabytes, and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        found = [compare(megabytes, Path(folder), peer=False) for megabytes in sizes]
    record = {
        "command": f"python -m benchmarks.corpus_speed scale {' '.join(f'{each:g}' for each in sizes)}",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sizes": found,
    }
    path = paths.NOTEBOOKS / "results" / "corpus_scale.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path)


def main() -> None:
    if sys.argv[1:2] == ["scale"]:
        scale([float(each) for each in sys.argv[2:]])
        return
    if len(sys.argv) == 4:
        print(
            json.dumps(
                {"work": work, "like_for_like": like_for_like, "datatrove": datatrove}[sys.argv[1]](
                    Path(sys.argv[2]), Path(sys.argv[3])
                )
            )
        )
        return
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as folder:
        counting = tokens(Path(folder) / "tokens.jsonl")
        sizes = [
            compare(megabytes, Path(folder), peer=megabytes < 1000)
            for megabytes in (50, 200, 800, 1000)
        ]
    record = {
        "datatrove": version("datatrove"),
        "tokens_megabytes_per_second": counting,
        "command": "python -m benchmarks.corpus_speed",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%d"),
        "sizes": sizes,
    }
    path = paths.NOTEBOOKS / "results" / "corpus.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path.read_text())


if __name__ == "__main__":
    main()
