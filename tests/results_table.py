"""Write what a run measured to notebooks/results/, and the README's table from it.

    python -m tests.results_table runs/smoke runs/real-tiny
"""

import json
import sys
from pathlib import Path

from finlab import recipe, report

RESULTS = recipe.NOTEBOOKS / "results"
KEPT = ("characters per token, zh_finance", "characters per token, en", "bits per character", "evaluation loss", "answers that end", "loss at step 0",
        "held-out reward accuracy", "int8", "nf4", "gptq4", "full", "accuracy, ")


def write(run_dir: Path) -> Path:
    """Write the main results of a run with its command, versions and device."""
    steps = report._steps(run_dir)
    manifests = [found for found, _, _ in steps]
    record = {"command": f"finlab run {run_dir.name}", "device": manifests[-1]["device"], "versions": manifests[-1]["versions"],
              "git_commit": manifests[-1]["git_commit"], "finished": manifests[-1]["finished"], "seconds": sum(found["seconds"] for found in manifests),
              "peak_bytes": max(found["peak_bytes"] for found in manifests), "rows": report.rows(run_dir)}
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
        text += "".join(f"| {step} | {quantity} | {value} |\n" for step, quantity, value in found["rows"] if quantity.startswith(KEPT)) + "\n"
    return text


def corpus_markdown() -> str:
    """Return the README's table of what the corpus step takes, from corpus.json."""
    found = json.loads((RESULTS / "corpus.json").read_text(encoding="utf-8"))
    text = f"`{found['command']}` on {found['device']}: JSON lines in, Parquet out, on text made of the real Chinese sources' sentences with 15% copies; datatrove {found['datatrove']} runs\n"
    text += "its four MinHash stages on the same input with the same characters, bands and rows.\n\n"
    text += "| MB of text | documents | whole step, MB/s | peak memory, GB | duplicates alone, times datatrove's speed | whole step, times datatrove's MinHash | kept, difference |\n|---|---|---|---|---|---|---|\n"
    for row in found["sizes"]:
        peer = (f"{row['duplicates_against_datatrove']:.1f} | {row['whole_against_datatrove']:.1f} | {row['kept_difference']:.2%}" if "datatrove" in row else "– | – | –")
        text += f"| {row['megabytes']:g} | {row['documents']:,} | {row['megabytes_per_second']:.1f} | {row['whole']['peak_bytes'] / 1e9:.1f} | {peer} |\n"
    text += f"\nCounting tokens comes on top: {found['tokens_megabytes_per_second']:.1f} MB/s with Llama's tokenizer. De-identification on the {found['personal_lines']} labelled lines of `tests/personal_data.txt`:\n\n"
    text += "| kind | precision | recall | of |\n|---|---|---|---|\n"
    text += "".join(f"| {kind} | {row['precision']:.3f} | {row['recall']:.3f} | {row['right'] + row['missed']} |\n" for kind, row in found["personal"].items())
    return text


def replace(text: str, name: str, table: str) -> str:
    """Return a text with a table put between its markers."""
    head, rest = text.split(f"<!-- {name}:begin -->\n")
    return f"{head}<!-- {name}:begin -->\n{table}<!-- {name}:end -->{rest.split(f'<!-- {name}:end -->')[1]}"


def main() -> None:
    for folder in sys.argv[1:]:
        write(recipe.ROOT / folder)
    path = recipe.ROOT / "README.md"
    path.write_text(replace(replace(path.read_text(encoding="utf-8"), "results", markdown()), "corpus", corpus_markdown()), encoding="utf-8")


if __name__ == "__main__":
    main()
