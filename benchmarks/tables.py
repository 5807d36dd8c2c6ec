"""Write what a run measured to notebooks/results/, and make the tables of the documents.

    python -m benchmarks.tables runs/smoke runs/real-tiny runs/forgetting

Without a folder, only the tables are written. A table is between `<!-- NAME:begin -->` and
`<!-- NAME:end -->` in the document that DOCUMENTS names.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from finlab import files, paths
from finlab.run.reports import results

RESULTS = paths.NOTEBOOKS / "results"
# The table of a run shows the quantities with names that begin like this.
KEPT = (
    "characters per token, zh_finance",
    "characters per token, en",
    "bits per character",
    "evaluation loss",
    "answers that end",
    "loss at step 0",
    "held-out reward",
    "better answer likelier",
    "reward accuracy",
    "reward margin",
    "general : finance",
    "exam accuracy",
    "int8",
    "nf4",
    "gptq4",
    "fp8",
    "full",
    "held-out questions",
    "calls of tools",
    "paid although wrong",
    "accuracy, ",
    "recall at 1",
    "right answers",
)
CORNERS = ("zh_finance", "zh_general", "en_finance", "en_general", "own")
TRAINING_WAYS = {
    "ours": "`fit`",
    "bare": "a bare PyTorch loop, the same rows",
    "padded": "plain TRL, padded batches",
}
PREPARATION_WAYS = {
    "ours": "`templates.encode`",
    "trl": "TRL's own preparation",
    "trl, two processes": "TRL's, `dataset_num_proc=2`",
}


def table(head: list[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def measured(name: str) -> dict[str, Any]:
    """Return the content of a results file."""
    return files.read_json(RESULTS / f"{name}.json")


def gigabytes(row: dict[str, Any], digits: int = 1) -> str:
    """Return the peak memory of a measurement in GB."""
    return f"{row['peak_bytes'] / 1e9:.{digits}f}"


def mapped_gigabytes(row: dict) -> str:
    """Return the peak memory of a watched job, mapped files included, in GB."""
    return f"{row['peak_bytes']['with mapped files'] / 1e9:.1f}"


# --- results of runs -----------------------------------------------------------------------------
def write_results(name: str, record: dict[str, Any]) -> None:
    """Write a results file, indented, in the form in which it is committed."""
    text = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    files.write_text(RESULTS / f"{name}.json", text)


def write_run(run_dir: Path) -> None:
    """Write the main results of a run, with its command, versions and device."""
    manifests = [manifest for manifest, _, _ in results.finished_steps(run_dir)]
    last = manifests[-1]
    record = {
        "command": f"finlab run {run_dir.name}",
        "device": last["device"],
        "versions": last["versions"],
        "git_commit": last["git_commit"],
        "finished": last["finished"],
        "seconds": sum(manifest["seconds"] for manifest in manifests),
        "peak_bytes": max(manifest["peak_bytes"] for manifest in manifests),
        "rows": results.rows(run_dir),
    }
    write_results(run_dir.name, record)


def write_forgetting(run_dir: Path) -> None:
    """Write what each way of pretraining in a run of the recipe `forgetting` gained and forgot."""
    rows = []
    for manifest, metrics, _ in results.finished_steps(run_dir):
        if manifest["notebook"] != "03_lora_pretraining":
            continue
        last = manifest
        row = {
            "step": manifest["step"],
            "bits_per_character": metrics["bits_per_character"],
            "trainable_parameters": metrics["trainable_parameters"],
            "tokens_per_second": metrics["tokens_per_second"],
            "seconds": manifest["seconds"],
        }
        rows.append(row)
    record = {"command": "finlab run forgetting"}
    for name in ("device", "versions", "git_commit", "finished"):
        record[name] = last[name]
    write_results("forgetting", {**record, "rows": rows})


# --- the exercises ---------------------------------------------------------------------------------
def exercise_table(notebook: str) -> str:
    """Return the results of a notebook's things to try.

    Args:
        notebook: Its number, such as `03`.
    """
    rows = []
    for name, tries in measured("exercises")["tries"].items():
        if not name.startswith(f"{notebook}."):
            continue
        for each in tries:
            told = [f"{what} {_short(value)}" for what, value in each.items() if what != "setting"]
            rows.append([name.partition(".")[2], each["setting"], "; ".join(told)])
    return table(["to try", "setting", "what came out"], rows)


def _short(value: Any) -> str:
    """Return a value, with three decimals if it has decimals."""
    return (
        f"{value:.3f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else value
    )


# --- tables --------------------------------------------------------------------------------------
def results_tables() -> str:
    """Return the main results of the smoke run and of the run on real text."""
    text = ""
    for name in ("smoke", "real-tiny"):
        found = measured(name)
        text += (
            f"`{found['command']}` on {found['device']}: {found['seconds']:.0f} s of notebooks, "
            f"peak {gigabytes(found)} GB.\n\n"
        )
        rows = [row for row in found["rows"] if row[1].startswith(KEPT)]
        text += table([name, "quantity", "value"], rows) + "\n"
    return text


def forgetting_table() -> str:
    """Return what each way of pretraining gained and forgot."""
    found = measured("forgetting")
    before = [found["rows"][0]["bits_per_character"][corner]["before"] for corner in CORNERS]
    rows = [["before", *(f"{bits:.2f}" for bits in before), ""]]
    for row in found["rows"]:
        after = [f"{row['bits_per_character'][corner]['after']:.2f}" for corner in CORNERS]
        rows.append([row["step"], *after, f"{row['trainable_parameters']:,}"])
    return (
        f"`{found['command']}` on {found['device']}, bits per character of held-out text.\n\n"
        + table(["", *CORNERS, "trained"], rows)
    )


def corpus_table() -> str:
    """Return what the corpus step takes, compared with datatrove."""
    found = measured("corpus")
    sizes = []
    for row in found["sizes"]:
        line = [
            f"{row['megabytes']:g}",
            f"{row['documents']:,}",
            f"{row['megabytes_per_second']:.1f}",
            mapped_gigabytes(row["whole"]),
        ]
        if "datatrove" in row:
            line += [
                f"{row['duplicates_against_datatrove']:.1f}",
                f"{row['whole_against_datatrove']:.1f}",
                f"{row['kept_difference']:.2%}",
            ]
        else:
            line += ["–"] * 3
        sizes.append(line)
    head = [
        "MB of text",
        "documents",
        "whole step, MB/s",
        "peak memory, GB",
        "duplicates alone, times datatrove's speed",
        "whole step, times datatrove's MinHash",
        "kept, difference",
    ]
    return (
        f"`{found['command']}` on {found['device']}: JSON lines in, Parquet out, on text made of "
        "the real Chinese\nsources' sentences with 15% copies; "
        f"datatrove {found['datatrove']} runs its four MinHash stages on the same\ninput with the "
        "same characters, bands and rows.\n\n"
        + table(head, sizes)
        + f"\nCounting tokens comes on top: {found['tokens_megabytes_per_second']:.1f} MB/s with "
        "Llama's tokenizer.\n"
    )


def tokenizer_tables() -> str:
    """Return what the tokenizer step takes, and what trained embeddings cost."""
    found = measured("tokenizer")
    jobs = []
    for kind, row in found["pieces"].items():
        job = f"{row['pieces']:,} {kind} pieces from {found['megabytes']} MB of text"
        jobs.append([job, f"{row['seconds']:.0f}", gigabytes(row)])
    for kind, row in found["grow"].items():
        rows, width = row["rows"]
        job = f"merge and grow tables to {rows:,} x {width:,}, {kind}"
        jobs.append([job, f"{row['seconds']:.0f}", gigabytes(row)])
    ways = []
    for way in ("none", "new_rows", "full"):
        row, speed = found["embeddings"][way], found["embeddings"]["speed"][way]
        low, _, high = speed["quartiles"]
        line = [
            way,
            f"{row['trainable']:,}",
            f"{row['adapter_bytes'] / 1e6:.1f}",
            gigabytes(row, 2),
            f"{speed['tokens_per_second']:.0f}",
            f"{speed['slower_than_none']:+.1%} [{low:+.1%}, {high:+.1%}]",
        ]
        ways.append(line)
    head = [
        "what learns of the embeddings",
        "trainable",
        "adapter, MB",
        "peak memory, GB",
        "tokens/s",
        "slower than none, median [quartiles]",
    ]
    rates = found["encode"]["llama"]["megabytes_per_second"]
    return (
        f"`{found['command']}` on {found['device']}, each job in a process of its own.\n\n"
        + table(["job", "seconds", "peak memory, GB"], jobs)
        + f"\nEncoding Chinese with Llama and the published pieces: {rates['encode']:.1f} MB/s; "
        f"the library's\n`encode_batch` {rates['encode_batch']:.1f}, its call "
        f"{rates['call']:.1f}, SentencePiece {rates['sentencepiece']:.1f}.\n\n"
        "At the proportions of a 7B with 23,296 new rows, on two cores:\n\n" + table(head, ways)
    )


def training_table() -> str:
    """Return what a pretraining step takes; also on a GPU, if it was measured."""
    found = measured("training")
    plan = found["plan"]
    ways = []
    for way, row in found["ways"].items():
        ways.append([TRAINING_WAYS[way], f"{row['tokens_per_second']:,.0f}", gigabytes(row, 2)])
    sizes = [f"{row['tokens']:,} in {row['seconds']:.0f} s" for row in found["sizes"]]
    text = (
        f"`{found['command']}` on {found['device']}: random documents with the real corpus' "
        f"lengths,\nrows of {plan['length']:,}, LoRA r{plan['rank']} and trained embeddings on a "
        "Llama with a 7B's proportions, an eighth as wide and half\nas deep.\n\n"
        + table(["way", "tokens/s, padding not counted", "peak memory, GB"], ways)
        + f"\nAgainst the bare loop {found['ours_against_bare']:+.1%} in time; against padded "
        f"batches {found['ours_against_padded']:.1f} times the tokens per second\n(medians of "
        f"three turns). Tokens and seconds: {'; '.join(sizes)}.\n"
    )
    if not (RESULTS / "training-gpu.json").exists():
        return text
    on_gpu = measured("training-gpu")
    rows = []
    for row in on_gpu["rows"]:
        ours = row["ours"]
        line = [
            row["shape"],
            row["embeddings"],
            f"{ours['tokens_per_second']:,.0f}",
            f"{ours['mfu']:.1%}",
            gigabytes(ours),
            f"{row['ours_against_padded']:.2f}",
        ]
        rows.append(line)
    head = ["shape", "embeddings", "tokens/s", "MFU", "peak memory, GB", "times plain TRL"]
    return text + f"\n`{on_gpu['command']}` on {on_gpu['device']}:\n\n" + table(head, rows)


def sft_table() -> str:
    """Return how fast dialogues are prepared and trained on."""
    found = measured("sft")
    packed, padded = found["training"]["packed"], found["training"]["padded"]
    rows = []
    for way, row in found["preparation"].items():
        line = [
            PREPARATION_WAYS[way],
            f"{row['dialogues']:,}",
            f"{row['dialogues_per_second']:,.0f}",
            gigabytes(row),
        ]
        rows.append(line)
    head = ["rendering and tokenising", "dialogues", "dialogues/s", "peak memory, GB"]
    return (
        f"`{found['command']}` on {found['device']}: {packed['dialogues']} dialogues with the "
        f"lengths of the real\nShareGPT file (cut at {found['plan']['length']:,}), packed: "
        f"{packed['tokens_per_second']:,.0f} tokens/s, padded by plain TRL: "
        f"{padded['tokens_per_second']:,.0f};\n{found['packed_against_padded']:.1f} times the "
        f"speed (median of three turns) at {gigabytes(packed)} against {gigabytes(padded)} GB.\n\n"
        + table(head, rows)
    )


def exams_sentence() -> str:
    """Return how fast exams are answered, and how equal the answers are."""
    found = measured("exams")
    ours, theirs = found["ours"], found["hflm"]
    return (
        f"`{found['command']}` on {found['device']}: {found['questions']} questions of CMMLU\n"
        f"({', '.join(found['subjects'])}), {found['shots']} shots, a small random Llama under "
        "Llama's vocabulary,\nfloat32: "
        f"{ours['questions_per_second']:.1f} questions/s against "
        f"{theirs['questions_per_second']:.1f} of the harness's HFLM, {found['ratio']:.1f} times; "
        f"{ours['tokens_encoded']:,}\ntokens read of {theirs['tokens_sent']:,} sent; "
        f"{found['predictions_equal']} of {found['questions']} predictions equal, "
        f"log-probabilities at most {found['largest_difference']:.0e}\napart.\n"
    )


def corpus_scale_table() -> str:
    """Return how the corpus step grows."""
    found = measured("corpus_scale")
    rows = []
    for size in found["sizes"]:
        whole = size["whole"]
        seconds = [whole["seconds"][stage] for stage in ("clean and de-identify", "duplicates")]
        row = [f"{size['megabytes']:,.0f}", f"{size['documents']:,}", f"{whole['total']:,.0f}"]
        row += [f"{each:,.0f}" for each in seconds]
        rate = f"{size['megabytes_per_second']:.1f}"
        rows.append([*row, rate, mapped_gigabytes(whole), size["git_commit"]])
    head = ["MB of text", "documents", "seconds", "cleaning", "duplicates", "MB/s"]
    return f"`{found['command']}` on {found['device']}.\n\n" + table(
        [*head, "peak memory, GB", "commit"], rows
    )


def dialogues_table() -> str:
    """Return what the data of instruction tuning costs from disk."""
    found = measured("dialogues")
    rows = []
    for size in found["sizes"]:
        seconds = size["seconds"]
        peaks = size["peak_bytes_by_stage"]
        row = [f"{size['dialogues']:,}", "one, short" if size["brief"] else "one to three"]
        row += [f"{size['tokens'] / 1e6:,.1f}", f"{size['total']:,.0f}"]
        row.append(f"{seconds['read']:,.0f}" if "read" in seconds else "apart")
        for stage in ("personal data, rendering, tokens", "copies and exams"):
            memory = peaks[stage]["anonymous"] / 1e9
            row.append(f"{seconds[stage]:,.0f} ({memory:.1f})")
        rows.append([*row, f"{size['peak_bytes']['anonymous'] / 1e9:.1f}"])
    head = ["dialogues", "exchanges", "million tokens", "seconds", "read"]
    head += ["personal data, tokens (GB)", "copies, exams (GB)", "peak memory, GB"]
    return f"`{found['command']}` on {found['device']}.\n\n" + table(head, rows)


def retrieval_table() -> str:
    """Return how well and how fast passages are found."""
    found = measured("retrieval")
    rows = []
    for row in found["rows"]:
        line = [row["set"], row["engine"], f"{row['passages']:,}", row["questions"]]
        line += [f"{row[name]:.3f}" for name in ("recall_at_1", "recall_at_5", "mrr_at_10")]
        line += [f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f}", f"{row['build_seconds']:.0f}"]
        changes = "–"
        if "add_ms" in row:
            changes = f"{row['add_ms']:.1f} / {row['delete_ms']:.1f}"
        rows.append([*line, changes])
    head = [
        "questions of",
        "engine",
        "passages",
        "questions",
        "recall at 1",
        "recall at 5",
        "MRR at 10",
    ]
    head += ["ms, p50 / p95", "seconds to build", "ms to add / delete one"]
    return f"`{found['command']}` on {found['device']}.\n\n" + table(head, rows)


RESULTS_PAGE = Path("docs/results.md")
REASONING_PAGE = Path("docs/reasoning.md")
BENCHMARKS_PAGE = Path("benchmarks/README.md")


def serving_table() -> str:
    """Return how many requests `finlab serve` answers."""
    found = measured("serving")
    rows = []
    for row in found["rows"]:
        speeds = [f"{row['requests_per_second']:.1f}", f"{row['tokens_per_second']:.0f}"]
        waits = f"{row['median_ms']:.0f} / {row['p95_ms']:.0f}"
        rows.append([row["clients"], row["requests"], *speeds, waits])
    head = ["clients", "requests", "requests/s", "tokens/s", "ms, median / p95"]
    return f"`{found['command']}` on {found['device']}.\n\n" + table(head, rows)


def answer_sets_table() -> str:
    """Return what trivial answers score on published sets."""
    found = measured("answer_sets")
    rows = []
    for row in found["rows"]:
        scores = []
        for name in ("official", "ours", "f1"):
            scores.append("none" if row[name] is None else f"{row[name]:.3f}")
        rows.append([row["set"], row["items"], row["unsound"], row["answer"], *scores])
    head = ["set", "items", "golds that cannot be checked", "answer", "official", "ours", "our F1"]
    return f"`{found['command']}` on {found['device']}.\n\n" + table(head, rows)


def forgetting_ways_table() -> str:
    """Return what keeps a model from forgetting while it learns to reason."""
    found = measured("forgetting_ways")
    corners = [name for name, value in found["rows"][0].items() if isinstance(value, dict)]
    rows = []
    for row in found["rows"]:
        right = f"{row['accuracy']:.2f} [{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}]"
        nats = f"{row['chain_nats']:.2f} [{row['chain_low']:.2f}, {row['chain_high']:.2f}]"
        bits = []
        for corner in corners:
            each = row[corner]
            bits.append(f"{each['bits']:.2f} [{each['low']:.2f}, {each['high']:.2f}]")
        rows.append([row["way"], right, nats, *bits])
    head = ["way", "right answers", "nats a chain token", *corners]
    sentence = (
        f"`{found['command']}` on {found['device']}: {found['tokens']:,} tokens each, the same "
        f"LoRA, {found['held_out']} held-out questions; the corners are bits per character of "
        "held-out text, with 95% intervals.\n\n"
    )
    return sentence + table(head, rows)


EXERCISES = {
    f"exercises-{number}": functools.partial(exercise_table, number)
    for number in ("00", "01", "02", "03", "04", "05", "06", "08")
}
DOCUMENTS: dict[Path, dict[str, Callable[[], str]]] = {
    Path("docs/exercises.md"): EXERCISES,
    Path("docs/zh/exercises.md"): EXERCISES,
    REASONING_PAGE: {"forgetting_ways": forgetting_ways_table},
    RESULTS_PAGE: {"results": results_tables, "forgetting": forgetting_table},
    BENCHMARKS_PAGE: {
        "corpus": corpus_table,
        "corpus_scale": corpus_scale_table,
        "dialogues": dialogues_table,
        "retrieval": retrieval_table,
        "serving": serving_table,
        "answer_sets": answer_sets_table,
        "tokenizer": tokenizer_tables,
        "training": training_table,
        "sft": sft_table,
        "exams": exams_sentence,
    },
}


def replace(text: str, name: str, block: str) -> str:
    """Return a text with a block between its markers."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    return head + begin + block + end + rest.split(end)[1]


def main() -> None:
    """Write the results of the runs that the command line names, and all tables."""
    for folder in sys.argv[1:]:
        write = write_forgetting if Path(folder).name == "forgetting" else write_run
        write(paths.ROOT / folder)
    for document, blocks in DOCUMENTS.items():
        text = (paths.ROOT / document).read_text(encoding="utf-8")
        for name, make in blocks.items():
            text = replace(text, name, make())
        files.write_text(paths.ROOT / document, text)


if __name__ == "__main__":
    main()
