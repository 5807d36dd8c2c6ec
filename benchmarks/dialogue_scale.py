"""Data for instruction tuning from disk: seconds by stage, and memory, at growing sizes.

    # adds one size to notebooks/results/dialogues.json
    python -m benchmarks.dialogue_scale 200000
    python -m benchmarks.dialogue_scale 10000000 brief
    # keeps what it reads; if it was read before, takes that and measures only the rest
    python -m benchmarks.dialogue_scale 10000000 brief /tmp/read

The dialogues are made of pieces of the real Chinese texts (FINLAB_DATA); 5% are exact copies of
others and 5% near copies. Everything that notebook 04 does before training counts: reading JSON
lines through a card, replacing personal data, rendering, tokenising, screening for copies and 3,386
exam items, shares, the split and the plan of packed rows. `brief` dialogues have one exchange each,
and no names are looked for in them: a recogniser that reads every question takes hours for ten
million dialogues on two cores, and its memory does not grow with their number.
"""

from __future__ import annotations

import collections
import json
import os
import platform
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.corpus_speed import EXAMS, TEXTS
from benchmarks.watching import Laps, watched
from finlab import files, paths
from finlab.data import (
    accounts,
    cards,
    conversations,
    frames,
    packing,
    planned,
    selection,
    stages,
    templates,
)
from finlab.models import sentencepieces, vocabulary
from finlab.run import environment

RESULTS = paths.NOTEBOOKS / "results" / "dialogues.json"
CARD = """---
license: mit
finlab:
  domain: finance
  language: zh
  kind: dialogue
  files: [dialogues.jsonl]
  format: jsonl
---
"""


def pieces(pattern: str, shortest: int, longest: int) -> list[str]:
    """Return pieces of the real Chinese texts that match a pattern, such as sentences.

    Args:
        pattern: The pattern of one piece.
        shortest, longest: The limits of the length, in characters.
    """
    found = []
    for name in TEXTS:
        for text in cards.load(name).rows["text"][:]:
            found += re.findall(pattern, text)
    return [piece for piece in found if shortest <= len(piece.strip()) <= longest]


def long_dialogue(rng: random.Random, said: list[str]) -> list[dict]:
    """Return one to three exchanges of whole sentences."""
    messages = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        question, *answer = rng.choices(said, k=rng.choice([2, 3, 4, 5]))
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": "".join(answer)})
    return messages


def brief_dialogue(rng: random.Random, said: list[str]) -> list[dict]:
    """Return one exchange of seven clauses.

    Clauses are used, not sentences: if ten million dialogues were made of twenty thousand
    sentences, each would share a sentence with a thousand others. Real dialogues do not.
    """
    clauses = rng.choices(said, k=7)
    question = "，".join(clauses[:2]) + "？"
    answer = "，".join(clauses[2:]) + "。"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def invented(count: int, brief: bool = False, seed: int = 2) -> Iterator[list[dict]]:
    """Yield dialogues made of real text; one in ten is a copy or a near copy.

    Args:
        count: The number of dialogues.
        brief: Make them with `brief_dialogue`, otherwise with `long_dialogue`.
        seed: The seed of the draws.
    """
    if brief:
        said, new_dialogue = pieces(r"[^，。；：！？\s]+", 6, 20), brief_dialogue
    else:
        said, new_dialogue = pieces(r"[^。\n]+。?", 8, 80), long_dialogue
    rng = random.Random(seed)
    earlier: collections.deque[list[dict]] = collections.deque(maxlen=1000)
    for _ in range(count):
        kind = rng.random() if earlier else 1.0
        if kind < 0.05:
            yield rng.choice(earlier)
            continue
        if kind < 0.1:
            *turns, last = rng.choice(earlier)
            yield [*turns, last | {"content": last["content"] + "谢谢。"}]
            continue
        messages = new_dialogue(rng, said)
        earlier.append(messages)
        yield messages


def work(count: int, brief: bool, folder: Path, kept: Path) -> dict:
    """Prepare `count` dialogues for training; return seconds by stage and what was found.

    Args:
        count: The number of dialogues.
        brief: As for `invented`.
        folder: The folder for all files.
        kept: The folder of the dialogues as they were read. If it exists, nothing is read.
    """
    items = [row for name in EXAMS for row in cards.load(name).rows]
    texts = [turn["content"] for messages in invented(2000) for turn in messages]
    if not kept.exists():
        path = folder / "dialogues.jsonl"
        files.write_jsonl(path, ({"messages": messages} for messages in invented(count, brief)))
        (folder / "cards").mkdir()
        (folder / "cards/invented.md").write_text(CARD, encoding="utf-8")
        paths.data_cards = lambda: folder / "cards"
        os.environ["FINLAB_DATA"] = str(folder)
    tokenizer, _ = vocabulary.extend(sentencepieces.fast(sentencepieces.train(texts, 4000)), [])
    tokenizer.chat_template = templates.chat_template("zhilu")
    frames.choose_runner("native")
    laps = Laps(folder)
    if kept.exists():
        frame = frames.open_folder(kept)
    else:
        frame = conversations.read(cards.read_all(["invented"], "dialogue"), kept, {})
        laps.end("read")
    stage = conversations.prepare(frame, tokenizer, folder / "stage", find_names=not brief)
    laps.end("personal data, rendering, tokens")
    screened, _ = selection.screen({"stage1": stages.Texts(stage)}, items, folder=folder)
    laps.end("copies and exams")
    stage.admit(screened["stage1"], 4096, tokenizer.eos_token_id)
    account = stage.account
    selection.limit_to_shares(account, selection.stage_shares(account), seed=1)
    selection.split(account, 0.01, stage.split_texts())
    laps.end("shares and split")
    places = account.of(accounts.LEARNT)
    tokens, documents, numbers = stages.to_pack(stage, places, [], folder / "text.arrow")
    plan = packing.pack_phases(documents.tokens, [numbers], 4096, seed=1)
    rows = planned.rows(folder / "rows.arrow", plan, tokens, documents)
    laps.end("packed to 4,096")
    return {
        "dialogues": count,
        "brief": brief,
        "tokens": int(account.read.sum(dtype="int64")),
        "seconds": laps.seconds,
        "total": laps.total,
        "dropped": len(screened["stage1"]),
        "rows": len(rows),
        "ledger": accounts.status_ledger({"stage1": account}),
    }


def measured(count: int, brief: bool, kept: str = "") -> dict:
    """Run one size in its own process; watch the memory of the process and its children."""
    with tempfile.TemporaryDirectory(prefix="dialogues-") as folder:
        length = "brief" if brief else "long"
        size = ["work", str(count), length, folder, kept or f"{folder}/read"]
        return watched(["benchmarks.dialogue_scale", *size], Path(folder))


def main() -> None:
    """Measure one size, and add it to the other sizes in the results."""
    if sys.argv[1:2] == ["work"]:
        _, _, count, length, folder, kept = sys.argv
        found = work(int(count), length == "brief", Path(folder), Path(kept))
        print(json.dumps(found, ensure_ascii=False))
        return
    count, brief = int(sys.argv[1]), "brief" in sys.argv[2:3]
    size = {
        "command": " ".join(["python -m benchmarks.dialogue_scale", *sys.argv[1:]]),
        "git_commit": environment.git_commit(),
        **measured(count, brief, *sys.argv[3:4]),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    kept = [row for row in record.get("sizes", []) if row["command"] != size["command"]]
    record = {
        "command": "python -m benchmarks.dialogue_scale COUNT",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "finished": size["finished"],
        "sizes": sorted([*kept, size], key=lambda row: row["dialogues"]),
    }
    text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    RESULTS.write_text(text, encoding="utf-8")
    print(json.dumps(size, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
