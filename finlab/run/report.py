"""The report of a run: one HTML file with results, accounts and the notebooks."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finlab import files
from finlab.run import integrity
from finlab.run.step import read_manifest

Metrics = dict[str, Any]
Line = tuple[str, str]  # (quantity, value)

STYLE = """
:root { --ink: #1b2733; --faint: #5d6b78; --line: #d9dfe5; --accent: #b03a2e }
body {
  font: 15px/1.6 "Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei",
    system-ui, sans-serif;
  color: var(--ink); max-width: 1080px; margin: 0 auto; padding: 24px;
}
h1 { font-size: 28px; margin: .2em 0 }
h2 { border-bottom: 2px solid var(--line); padding-bottom: 4px; margin-top: 2em }
nav {
  position: sticky; top: 0; background: #fff; border-bottom: 1px solid var(--line);
  padding: 8px 0; z-index: 2;
}
nav a { margin-right: 14px; color: var(--accent); text-decoration: none; white-space: nowrap }
table { border-collapse: collapse; margin: 8px 0; font-size: 14px }
th, td { border: 1px solid var(--line); padding: 4px 9px; vertical-align: top }
th { background: #f4f6f8 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
pre {
  background: #f7f8fa; border: 1px solid var(--line); padding: 8px 10px; overflow-x: auto;
  font-size: 12.5px; white-space: pre-wrap; overflow-wrap: anywhere;
}
.jp-InputArea pre, .input_area pre, .highlight pre { border-left: 3px solid var(--line) }
img { max-width: 100%; height: auto }
.faint { color: var(--faint) }
.prompt, .jp-InputPrompt, .jp-OutputPrompt, .anchor-link { display: none }
details { margin: 10px 0 }
summary { cursor: pointer; font-weight: 600; font-size: 17px }
.jp-RenderedHTMLCommon table { display: table }
.output_stderr pre, .jp-RenderedText[data-mime-type$=stderr] pre { background: #fdf3f2 }
"""


# --- the main results of each step ---------------------------------------------------------------
def _change(pair: dict[str, float], digits: int = 3) -> str:
    """Return `before → after`."""
    return f"{pair['before']:.{digits}f} → {pair['after']:.{digits}f}"


def _interval(value: dict[str, Any]) -> str:
    """Return a value with its interval."""
    return f"[{value['ci_low']:.3f}, {value['ci_high']:.3f}], n {value['n']}"


def _corpus(metrics: Metrics) -> list[Line]:
    """Return the main results of the corpus step."""
    tokens_in = sum(metrics["tokens_in"].values())
    tokens_out = sum(metrics["tokens_out"].values())
    return [
        ("tokens in → out", f"{tokens_in:,} → {tokens_out:,}"),
        ("ledger residual", str(metrics["ledger_residual"])),
        ("contaminated documents", str(metrics["contaminated_documents"])),
    ]


def _tokenizer(metrics: Metrics) -> list[Line]:
    """Return the main results of the tokenizer step."""
    lines = [("vocabulary", f"{metrics['vocab_before']:,} → {metrics['vocab_after']:,}")]
    for name, pair in metrics["chars_per_token"].items():
        lines.append((f"characters per token, {name}", _change(pair, 2)))
    return lines


def _pretrain(metrics: Metrics) -> list[Line]:
    """Return the main results of pretraining."""
    lines = []
    for name, pair in metrics["bits_per_character"].items():
        lines.append((f"bits per character, {name}", _change(pair)))
    lines.append(("tokens per second", f"{metrics['tokens_per_second']:,.0f}"))
    return lines


def _sft(metrics: Metrics) -> list[Line]:
    """Return the main results of both SFT stages."""
    stages = [stage for stage in ("stage1", "stage2") if stage in metrics]
    lines = []
    for stage in stages:
        lines.append((f"evaluation loss, {stage}", _change(metrics[stage]["eval_loss"])))
    for stage in stages:
        shares = metrics[stage]["shares"]
        ratios = []
        for unit in ("dialogues", "tokens"):
            general = shares["general"][f"by {unit}"]
            finance = shares["finance"][f"by {unit}"]
            ratios.append(f"{general:.2f} : {finance:.2f} of the {unit}")
        lines.append((f"general : finance, {stage}", ", ".join(ratios)))
    lines.append(("answers that end by themselves", f"{metrics['ended_share']:.2f}"))
    return lines


def _dpo(metrics: Metrics) -> list[Line]:
    """Return the main results of DPO."""
    lines = [("loss at step 0", f"{metrics['loss_step0']:.4f}")]
    for name in ("reward_accuracy", "reward_margin"):
        value = metrics[name]
        label = f"held-out {name.replace('_', ' ')}"
        lines.append((label, f"{_change(value)} {_interval(value)}"))
    for domain, exam in metrics["exams"].items():
        lines.append((f"exam accuracy, {domain}", f"{_change(exam)}, p {exam['p']:.2f}"))
    return lines


def _quantize(metrics: Metrics) -> list[Line]:
    """Return the main results of quantization."""
    lines = []
    for name in ("full", "int8", "nf4", "gptq4", "awq4", "fp8"):
        if name not in metrics:
            continue
        row = metrics[name]
        value = f"{row['bytes']:,}, {row['bits_per_character']:.3f}, {row['accuracy']:.3f}"
        lines.append((f"{name}: bytes, bits per character, accuracy", value))
    lines.append(("format to take", f"{metrics['choice']['format']}: {metrics['choice']['why']}"))
    return lines


def _evaluate(metrics: Metrics) -> list[Line]:
    """Return the main results of evaluation."""
    lines = []
    for domain, models in metrics["by_domain"].items():
        for name, score in models.items():
            value = f"{score['accuracy']:.3f} {_interval(score)}"
            if score.get("no_answer"):
                value += f", {score['no_answer']} without an answer"
            lines.append((f"accuracy, {domain}, {name}", value))
    judgement = metrics["judgement"]
    if judgement["n"]:
        label = f"win rate of the candidate, judged by {judgement['judge']}"
        lines.append((label, f"{judgement['win_rate']:.3f} {_interval(judgement)}"))
    return lines


def _knowledge(metrics: Metrics) -> list[Line]:
    """Return the main results of knowledge augmentation."""
    lines = []
    for base, row in metrics["recall_at_k"].items():
        lines.append((f"recall at 1, {base}", f"{row['recall at 1']:.3f}, n {row['questions']}"))
    tiers = [f"{tier} {count}" for tier, count in metrics["answered_from"].items()]
    lines.append(("questions answered from", ", ".join(tiers)))
    for way, score in metrics["accuracy"].items():
        lines.append((f"right answers, {way}", f"{score['value']:.3f} {_interval(score)}"))
    label = "sentences of the model that its passages do not support"
    lines.append((label, f"{metrics['unsupported_share']:.2f}"))
    return lines


def _reasoning(metrics: Metrics) -> list[Line]:
    """Return the main results of reasoning."""
    lines = []
    for when, name in (("before", "after SFT on chains"), ("after", "after reinforcement")):
        score = metrics["accuracy"][when]
        value = f"{score['accuracy']:.3f} {_interval(score)}"
        lines.append((f"held-out questions, {name}", f"{value}, cut off {score['cap_share']:.1%}"))
    for name, score in metrics["tools"].items():
        value = f"{score['call_precision']:.2f}, {score['call_recall']:.2f}"
        lines.append((f"calls of tools, precision and recall, {name}", value))
    for corner, of_model in metrics["bits_per_character"].items():
        values = " → ".join(f"{value:.3f}" for value in of_model.values())
        lines.append((f"bits per character, {corner}: chat model, SFT, GRPO", values))
    if metrics["paid_but_wrong"] is not None:
        paid = f"{metrics['paid_but_wrong']:.0%} of the last completions"
        lines.append(("paid although wrong, by a reward that can be gamed", paid))
    return lines


HEADLINES: dict[str, Callable[[Metrics], list[Line]]] = {
    "01_corpus_stats": _corpus,
    "02_tokenizer_extension": _tokenizer,
    "03_lora_pretraining": _pretrain,
    "04_two_stage_sft": _sft,
    "05_dpo": _dpo,
    "06_quantization": _quantize,
    "07_evaluation": _evaluate,
    "08_knowledge": _knowledge,
    "10_reasoning": _reasoning,
}


# --- a run as rows -------------------------------------------------------------------------------
def finished_steps(run_dir: Path) -> list[tuple[dict, Metrics, Path]]:
    """Return (manifest, metrics, folder) of the complete steps of a run, in the order they ran.

    A step whose metrics cannot be read any more is left out.
    """
    found = []
    for path in Path(run_dir).glob("*/manifest.json"):
        manifest = read_manifest(path.parent)
        if manifest is None or path.parent.name.endswith(".previous"):
            continue
        try:
            metrics = files.read_json(path.parent / "metrics.json")
        except (OSError, ValueError):
            continue
        found.append((manifest, metrics, path.parent))
    return sorted(found, key=lambda step: (step[0]["notebook"], step[0]["finished"]))


def history(run_dir: Path, manifest: dict[str, Any]) -> str:
    """Return a note on a step made from an earlier result, or kept although stale; or nothing.

    Args:
        run_dir: The run.
        manifest: Of the step.
    """
    earlier = integrity.outdated(Path(run_dir), manifest, read_manifest)
    if earlier:
        return f"made from an earlier {earlier} than stands here"
    accepted = manifest.get("accepted")
    return f"accepted although {'; '.join(accepted['why'])}" if accepted else ""


def rows(run_dir: Path) -> list[tuple[str, str, str]]:
    """Return the main results of a run.

    Args:
        run_dir: The run's folder.

    Returns:
        (step, quantity, value) lines, in the order the steps ran.
    """
    lines = []
    for manifest, metrics, _ in finished_steps(run_dir):
        note = history(run_dir, manifest)
        if note:
            lines.append((manifest["step"], "attention", note))
        headline = HEADLINES.get(manifest["notebook"])
        if headline is None:
            continue
        for quantity, value in headline(metrics):
            lines.append((manifest["step"], quantity, value))
    return lines


def text_table(run_dir: Path) -> str:
    """Return the main results as aligned text for a terminal.

    Args:
        run_dir: The run's folder.
    """
    lines = rows(run_dir)
    if not lines:
        names = [manifest["step"] for manifest, _, _ in finished_steps(run_dir)]
        return f"finished: {', '.join(names)}" if names else "no step has results yet"
    step_width = max(len(step) for step, _, _ in lines)
    name_width = max(len(quantity) for _, quantity, _ in lines)
    aligned = []
    for step, quantity, value in lines:
        aligned.append(f"{step:<{step_width}}  {quantity:<{name_width}}  {value}")
    return "\n".join(aligned)


# --- the page ------------------------------------------------------------------------------------
def _notebook_html(path: Path, prefix: str) -> str:
    """Return an executed notebook as HTML without scripts.

    Args:
        path: The notebook.
        prefix: Put before its ids, so that they are unique on the page.
    """
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", anchor_link_text="")
    body, _ = exporter.from_notebook_node(nbformat.read(path, 4))
    body = re.sub(r"<script.*?</script>", "", body, flags=re.S)
    # A link to the next notebook stays on the page.
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="#\1"', body)
    return re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)


def _html_table(head: list[str], body: list[str]) -> str:
    """Return rows of cells, given as HTML, as a table."""
    cells = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><tr>{cells}</tr>{''.join(body)}</table>"


def _results_table(run_dir: Path) -> str:
    """Return the main results as an HTML table."""
    body = []
    for row in rows(run_dir):
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in row)
        body.append(f"<tr>{cells}</tr>")
    return _html_table(["step", "quantity", "value"], body)


def _steps_table(run_dir: Path, steps: list[tuple[dict, Metrics, Path]]) -> str:
    """Return how long each step took, what it needed, and what it stands on.

    Args:
        run_dir: The run.
        steps: From `finished_steps`.
    """
    body = []
    for manifest, _, _ in steps:
        name = manifest["step"]
        cells = [
            f"<td><a href='#{name}'>{name}</a></td>",
            f"<td>{manifest['notebook']}</td>",
            f"<td class=n>{manifest['seconds']:.0f}</td>",
            f"<td class=n>{manifest['peak_bytes'] / 1e9:.2f}</td>",
            f"<td>{html.escape(manifest['device'])}</td>",
            f"<td>{manifest['finished'][:19].replace('T', ' ')}</td>",
            f"<td>{html.escape(history(run_dir, manifest))}</td>",
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = ["step", "notebook", "seconds", "peak GB", "device", "finished", ""]
    return _html_table(head, body)


def _section(manifest: dict, folder: Path) -> str:
    """Return a step's part of the page: its executed notebook.

    Args:
        manifest: Of the step.
        folder: The step's.
    """
    step, notebook = manifest["step"], manifest["notebook"]
    path = folder / f"{notebook}.ipynb"
    body = "<p class=faint>The executed notebook was not kept (run in JupyterLab).</p>"
    if path.exists():
        body = _notebook_html(path, step)
    return (
        f"<section id='{step}'><h2 id='{notebook}'>{step}</h2>"
        f"<details open><summary>{notebook}</summary>{body}</details></section>"
    )


def write(run_dir: Path) -> Path:
    """Write `report.html` into the folder of a run.

    The page is one file: it holds no script and loads nothing from elsewhere.

    Returns:
        The path of the page.

    Raises:
        ValueError: The run has no complete step.
    """
    run_dir = Path(run_dir)
    steps = finished_steps(run_dir)
    if not steps:
        raise ValueError(f"{run_dir} holds no finished step: run a recipe there first")
    last = steps[-1][0]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    links = ["<a href='#results'>results</a>"]
    sections = []
    for manifest, _, folder in steps:
        links.append(f"<a href='#{manifest['step']}'>{manifest['step']}</a>")
        sections.append(_section(manifest, folder))
    name = html.escape(run_dir.name)
    made_with = html.escape(f"commit {last['git_commit']} · Python {last['python']} · {versions}")
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>finlab: {name}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>finlab run: {name}</h1>
<p class=faint>{made_with}</p>
<nav>{"".join(links)}</nav>
<h2 id="results">Results</h2>
{_results_table(run_dir)}
<h2>Steps</h2>
{_steps_table(run_dir, steps)}
{"".join(sections)}
</body>
</html>"""
    return files.write_text(run_dir / "report.html", page)
