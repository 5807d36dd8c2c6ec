"""Write what a run measured to notebooks/results/, and the README's table from it.

python -m tests.results_table runs/smoke runs/real-tiny runs/forgetting
"""

import json
import sys
from pathlib import Path

from finlab import paths
from finlab.run import report

RESULTS = paths.NOTEBOOKS / "results"
KEPT = (
    "characters per token, zh_finance",
    "characters per token, en",
    "bits per character",
    "evaluation loss",
    "answers that end",
    "loss at step 0",
    "held-out reward",
    "general : finance",
    "exam accuracy",
    "int8",
    "nf4",
    "gptq4",
    "full",
    "accuracy, ",
)


def write(run_dir: Path) -> Path:
    """Write the main results of a run with its command, versions and device."""
    steps = report._steps(run_dir)
    manifests = [found for found, _, _ in steps]
    record = {
        "command": f"finlab run {run_dir.name}",
        "device": manifests[-1]["device"],
        "versions": manifests[-1]["versions"],
        "git_commit": manifests[-1]["git_commit"],
        "finished": manifests[-1]["finished"],
        "seconds": sum(found["seconds"] for found in manifests),
        "peak_bytes": max(found["peak_bytes"] for found in manifests),
        "rows": report.rows(run_dir),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{run_dir.name}.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def markdown() -> str:
    """Return the README's tables from the results files."""
    text = ""
    for name in ("smoke", "real-tiny"):
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text += f"`{found['command']}` on {found['device']}: {found['seconds']:.0f} s of notebooks, peak {found['peak_bytes'] / 1e9:.1f} GB.\n\n| {name} | quantity | value |\n|---|---|---|\n"
        text += (
            "".join(
                f"| {step} | {quantity} | {value} |\n"
                for step, quantity, value in found["rows"]
                if quantity.startswith(KEPT)
            )
            + "\n"
        )
    return text


def corpus_markdown() -> str:
    """Return the README's table of what the corpus step takes, from corpus.json."""
    found = json.loads((RESULTS / "corpus.json").read_text(encoding="utf-8"))
    text = f"`{found['command']}` on {found['device']}: JSON lines in, Parquet out, on text made of the real Chinese sources' sentences with 15% copies; datatrove {found['datatrove']} runs\n"
    text += (
        "its four MinHash stages on the same input with the same characters, bands and rows.\n\n"
    )
    text += "| MB of text | documents | whole step, MB/s | peak memory, GB | duplicates alone, times datatrove's speed | whole step, times datatrove's MinHash | kept, difference |\n|---|---|---|---|---|---|---|\n"
    for row in found["sizes"]:
        peer = (
            f"{row['duplicates_against_datatrove']:.1f} | {row['whole_against_datatrove']:.1f} | {row['kept_difference']:.2%}"
            if "datatrove" in row
            else "– | – | –"
        )
        text += f"| {row['megabytes']:g} | {row['documents']:,} | {row['megabytes_per_second']:.1f} | {row['whole']['peak_bytes'] / 1e9:.1f} | {peer} |\n"
    text += f"\nCounting tokens comes on top: {found['tokens_megabytes_per_second']:.1f} MB/s with Llama's tokenizer. De-identification on the {found['personal_lines']} labelled lines of `tests/personal_data.txt`:\n\n"
    text += "| kind | precision | recall | of |\n|---|---|---|---|\n"
    text += "".join(
        f"| {kind} | {row['precision']:.3f} | {row['recall']:.3f} | {row['right'] + row['missed']} |\n"
        for kind, row in found["personal"].items()
    )
    return text


def tokenizer_markdown() -> str:
    """Return the README's tables of what the tokenizer step takes, from tokenizer.json."""
    found = json.loads((RESULTS / "tokenizer.json").read_text(encoding="utf-8"))
    text = f"`{found['command']}` on {found['device']}, each job in a process of its own.\n\n| job | seconds | peak memory, GB |\n|---|---|---|\n"
    text += "".join(
        f"| {row['pieces']:,} {kind} pieces from {found['megabytes']} MB of text | {row['seconds']:.0f} | {row['peak_bytes'] / 1e9:.1f} |\n"
        for kind, row in found["pieces"].items()
    )
    text += "".join(
        f"| merge and grow tables to {row['rows'][0]:,} x {row['rows'][1]:,}, {kind} | {row['seconds']:.0f} | {row['peak_bytes'] / 1e9:.1f} |\n"
        for kind, row in found["grow"].items()
    )
    rates = found["encode"]["llama"]["megabytes_per_second"]
    text += f"\nEncoding Chinese with Llama and the published pieces: {rates['encode']:.1f} MB/s; the library's `encode_batch` {rates['encode_batch']:.1f}, "
    text += f"its call {rates['call']:.1f}, SentencePiece {rates['sentencepiece']:.1f}.\n\nAt the proportions of a 7B with 23,296 new rows, on two cores:\n\n"
    text += "| what learns of the embeddings | trainable | adapter, MB | peak memory, GB | tokens/s | slower than none, median [quartiles] |\n|---|---|---|---|---|---|\n"
    for way, speed in (
        (way, found["embeddings"]["speed"][way]) for way in ("none", "new_rows", "full")
    ):
        row, (low, _, high) = found["embeddings"][way], speed["quartiles"]
        text += f"| {way} | {row['trainable']:,} | {row['adapter_bytes'] / 1e6:.1f} | {row['peak_bytes'] / 1e9:.2f} | {speed['tokens_per_second']:.0f} | {speed['slower_than_none']:+.1%} [{low:+.1%}, {high:+.1%}] |\n"
    return text


def training_markdown() -> str:
    """Return the README's table of what a pretraining step takes, from training.json (and training-gpu.json, where a GPU was at hand)."""
    found = json.loads((RESULTS / "training.json").read_text(encoding="utf-8"))
    plan, ways = found["plan"], found["ways"]
    text = f"`{found['command']}` on {found['device']}: random documents with the real corpus' lengths, rows of {plan['length']:,}, LoRA r{plan['rank']} and trained embeddings\non a Llama with a 7B's proportions, an eighth as wide and half as deep.\n\n"
    text += "| way | tokens/s, padding not counted | peak memory, GB |\n|---|---|---|\n"
    names = {
        "ours": "`training.fit`",
        "bare": "a bare PyTorch loop, the same rows",
        "padded": "plain TRL, padded batches",
    }
    text += "".join(
        f"| {names[way]} | {row['tokens_per_second']:,.0f} | {row['peak_bytes'] / 1e9:.2f} |\n"
        for way, row in ways.items()
    )
    text += f"\nAgainst the bare loop {found['ours_against_bare']:+.1%} in time; against padded batches {found['ours_against_padded']:.1f} times the tokens per second (medians of three turns). "
    text += (
        "Tokens and seconds: "
        + "; ".join(f"{row['tokens']:,} in {row['seconds']:.0f} s" for row in found["sizes"])
        + ".\n"
    )
    gpu = RESULTS / "training-gpu.json"
    if gpu.exists():
        measured = json.loads(gpu.read_text(encoding="utf-8"))
        text += f"\n`{measured['command']}` on {measured['device']}:\n\n| shape | embeddings | tokens/s | MFU | peak memory, GB | times plain TRL |\n|---|---|---|---|---|---|\n"
        text += "".join(
            f"| {row['shape']} | {row['embeddings']} | {row['ours']['tokens_per_second']:,.0f} | {row['ours']['mfu']:.1%} | {row['ours']['peak_bytes'] / 1e9:.1f} "
            f"| {row['ours_against_padded']:.2f} |\n"
            for row in measured["rows"]
        )
    return text


def write_forgetting(run_dir: Path) -> None:
    """Write what each way of pretraining in a run of the recipe `forgetting` gained and forgot."""
    steps = [
        (manifest, metrics)
        for manifest, metrics, _ in report._steps(run_dir)
        if manifest["notebook"] == "03_lora_pretraining"
    ]
    last = steps[-1][0]
    rows = [
        {
            "step": manifest["step"],
            "bits_per_character": found["bits_per_character"],
            "trainable_parameters": found["trainable_parameters"],
            "tokens_per_second": found["tokens_per_second"],
            "seconds": manifest["seconds"],
        }
        for manifest, found in steps
    ]
    record = {
        "command": "finlab run forgetting",
        **{name: last[name] for name in ("device", "versions", "git_commit", "finished")},
        "rows": rows,
    }
    (RESULTS / "forgetting.json").write_text(
        json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def forgetting_markdown() -> str:
    """Return the README's table of gain and forgetting, from forgetting.json."""
    found = json.loads((RESULTS / "forgetting.json").read_text(encoding="utf-8"))
    corners = ("zh_finance", "zh_general", "en_finance", "en_general", "own")
    text = f"`{found['command']}` on {found['device']}, bits per character of held-out text.\n\n| | {' | '.join(corners)} | trained |\n|---{'|---' * (len(corners) + 1)}|\n"
    text += f"| before | {' | '.join(format(found['rows'][0]['bits_per_character'][corner]['before'], '.2f') for corner in corners)} | |\n"
    for row in found["rows"]:
        text += f"| {row['step']} | {' | '.join(format(row['bits_per_character'][corner]['after'], '.2f') for corner in corners)} | {row['trainable_parameters']:,} |\n"
    return text


def replace(text: str, name: str, table: str) -> str:
    """Return a text with a table put between its markers."""
    head, rest = text.split(f"<!-- {name}:begin -->\n")
    return f"{head}<!-- {name}:begin -->\n{table}<!-- {name}:end -->{rest.split(f'<!-- {name}:end -->')[1]}"


def sft_markdown() -> str:
    """Return the README's table of how fast dialogues are prepared and learnt, from sft.json."""
    found = json.loads((RESULTS / "sft.json").read_text(encoding="utf-8"))
    packed, padded = found["training"]["packed"], found["training"]["padded"]
    text = f"`{found['command']}` on {found['device']}: {packed['dialogues']} dialogues with the lengths of the real ShareGPT file (cut at {found['plan']['length']:,}), packed: {packed['tokens_per_second']:,.0f} tokens/s, "
    text += f"padded by plain TRL: {padded['tokens_per_second']:,.0f}; {found['packed_against_padded']:.1f} times the speed (median of three turns) at {packed['peak_bytes'] / 1e9:.1f} against {padded['peak_bytes'] / 1e9:.1f} GB.\n\n"
    text += "| rendering and tokenising | dialogues | dialogues/s | peak memory, GB |\n|---|---|---|---|\n"
    names = {
        "ours": "`chat.encode`",
        "trl": "TRL's own preparation",
        "trl, two processes": "TRL's, `dataset_num_proc=2`",
    }
    return text + "".join(
        f"| {names[way]} | {row['dialogues']:,} | {row['dialogues_per_second']:,.0f} | {row['peak_bytes'] / 1e9:.1f} |\n"
        for way, row in found["preparation"].items()
    )


def exams_markdown() -> str:
    """Return the README's sentence of how fast exams are answered, from exams.json."""
    found = json.loads((RESULTS / "exams.json").read_text(encoding="utf-8"))
    ours, theirs = found["ours"], found["hflm"]
    return (
        f"`{found['command']}` on {found['device']}: {found['questions']} questions of CMMLU ({', '.join(found['subjects'])}), {found['shots']} shots, a small random Llama under Llama's vocabulary, float32:\n"
        f"{ours['questions_per_second']:.1f} questions/s against {theirs['questions_per_second']:.1f} of the harness's HFLM, {found['ratio']:.1f} times; {ours['tokens_encoded']:,} tokens read of {theirs['tokens_sent']:,} sent;\n"
        f"{found['predictions_equal']} of {found['questions']} predictions equal, log-probabilities at most {found['largest_difference']:.0e} apart.\n"
    )


TABLES = {
    "exams": exams_markdown,
    "sft": sft_markdown,
    "results": markdown,
    "corpus": corpus_markdown,
    "tokenizer": tokenizer_markdown,
    "training": training_markdown,
    "forgetting": forgetting_markdown,
}


def main() -> None:
    for folder in sys.argv[1:]:
        (write_forgetting if Path(folder).name == "forgetting" else write)(paths.ROOT / folder)
    path = paths.ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = replace(text, name, table())
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
