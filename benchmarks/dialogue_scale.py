"""Instruction tuning's data from disk: seconds by stage, and memory, at growing numbers.

    # writes notebooks/results/dialogues.json; ten minutes on two cores
    python -m benchmarks.dialogue_scale
    python -m benchmarks.dialogue_scale 50000     # one size, printed

The dialogues are invented, of one to three exchanges; 5% are exact copies of others and 5% near
ones. All that notebook 04 does before training counts: reading JSON lines through a card, replacing
personal data, rendering, tokenising, screening for copies and 3,386 exam items (FINLAB_DATA),
shares, the split and the plan of packed rows.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.corpus_speed import EXAMS
from finlab import files, paths
from finlab.closed_world import talks
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

SIZES = (50_000, 200_000)
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


def invented(count: int, seed: int = 2) -> Iterator[list[dict]]:
    """Yield dialogues about the closed world, no two alike but for the copies.

    Args:
        count: How many.
        seed: Draws them.
    """
    exchanges = [(row["instruction"], row["output"]) for row in talks.dialogues()["alpaca"]]
    rng = random.Random(seed)
    earlier: list[list[dict]] = []
    for number in range(count):
        kind = rng.random() if earlier else 1.0
        if kind < 0.05:
            yield rng.choice(earlier)
            continue
        if kind < 0.1:
            *turns, last = rng.choice(earlier)
            yield [*turns, last | {"content": last["content"] + "谢谢。"}]
            continue
        messages = []
        for place in range(rng.choice([1, 1, 2, 3])):
            question, answer = rng.choice(exchanges)
            if not place:
                question = f"第{number}号问题：{question}"
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer * rng.randint(1, 6)})
        earlier = [*earlier[-999:], messages]
        yield messages


def work(count: int, folder: Path) -> dict:
    """Prepare so many dialogues for training, and return seconds by stage and what was found."""
    path = folder / "dialogues.jsonl"
    files.write_jsonl(path, ({"messages": messages} for messages in invented(count)))
    (folder / "cards").mkdir()
    (folder / "cards/invented.md").write_text(CARD, encoding="utf-8")
    items = [row for name in EXAMS for row in cards.load(name).rows]
    paths.data_cards = lambda: folder / "cards"
    os.environ["FINLAB_DATA"] = str(folder)
    texts = [turn["content"] for messages in invented(2000) for turn in messages]
    tokenizer, _ = vocabulary.extend(sentencepieces.fast(sentencepieces.train(texts, 4000)), [])
    tokenizer.chat_template = templates.chat_template("zhilu")
    frames.choose_runner("native")
    seconds: dict[str, float] = {}
    begun = time.time()

    def lap(stage: str) -> None:
        seconds[stage] = round(time.time() - begun - sum(seconds.values()), 2)

    frame = conversations.read(cards.read_all(["invented"], "dialogue"), folder / "read", {})
    lap("read")
    stage = conversations.prepare(frame, tokenizer, folder / "stage")
    lap("personal data, rendering, tokens")
    screened, _ = selection.screen({"stage1": stages.Texts(stage)}, items, folder=folder)
    lap("copies and exams")
    stage.admit(screened["stage1"], 4096, tokenizer.eos_token_id)
    account = stage.account
    selection.limit_to_shares(account, selection.stage_shares(account), seed=1)
    selection.split(account, 0.01, stage.split_texts())
    lap("shares and split")
    places = account.of(accounts.LEARNT)
    tokens, documents, numbers = stages.to_pack(stage, places, [], folder / "text.arrow")
    plan = packing.pack_phases(documents.tokens, [numbers], 4096, seed=1)
    rows = planned.rows(folder / "rows.arrow", plan, tokens, documents)
    lap("packed to 4,096")
    return {
        "dialogues": count,
        "tokens": int(account.read.sum(dtype="int64")),
        "seconds": seconds,
        "total": round(sum(seconds.values()), 2),
        "dropped": len(screened["stage1"]),
        "rows": len(rows),
        "ledger": accounts.status_ledger({"stage1": account}),
    }


def anonymous_bytes(process: psutil.Process) -> int:
    """Return the memory of a process that no file stands behind, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    for line in status.splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def measured(count: int) -> dict:
    """Run one size in a process of its own, and watch the memory of it and its children."""
    folder = Path(tempfile.mkdtemp(prefix="dialogues-"))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dialogue_scale", "work", str(count), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"DAFT_PROGRESS_BAR": "0"},
    )
    peaks = {"anonymous": 0, "with mapped files": 0}

    def watch() -> None:
        while process.poll() is None:
            found = dict.fromkeys(peaks, 0)
            try:
                parent = psutil.Process(process.pid)
                for each in [parent, *parent.children(recursive=True)]:
                    found["anonymous"] += anonymous_bytes(each)
                    found["with mapped files"] += each.memory_full_info().pss
            except (psutil.Error, OSError):
                continue
            for name, value in found.items():
                peaks[name] = max(peaks[name], value)
            time.sleep(0.3)

    thread = threading.Thread(target=watch)
    thread.start()
    said = process.communicate()[0]
    thread.join()
    shutil.rmtree(folder, ignore_errors=True)
    if process.returncode:
        raise RuntimeError(f"{count} dialogues failed: run `work {count} FOLDER` to see why")
    return json.loads(said.splitlines()[-1]) | {"peak_bytes": peaks}


def main() -> None:
    """Measure the sizes, or one of them."""
    if sys.argv[1:2] == ["work"]:
        print(json.dumps(work(int(sys.argv[2]), Path(sys.argv[3])), ensure_ascii=False))
        return
    if sys.argv[1:]:
        print(json.dumps(measured(int(sys.argv[1])), ensure_ascii=False, indent=1))
        return
    record = {
        "command": "python -m benchmarks.dialogue_scale",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sizes": [measured(count) for count in SIZES],
    }
    path = paths.NOTEBOOKS / "results" / "dialogues.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
