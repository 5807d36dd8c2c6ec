"""The report of a run: one HTML file with the results, each step's account and the executed notebooks."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

STYLE = """
:root{--ink:#1b2733;--faint:#5d6b78;--line:#d9dfe5;--accent:#b03a2e}
body{font:15px/1.6 "Noto Sans CJK SC","Source Han Sans SC","PingFang SC","Microsoft YaHei",system-ui,sans-serif;color:var(--ink);max-width:1080px;margin:0 auto;padding:24px}
h1{font-size:28px;margin:.2em 0}h2{border-bottom:2px solid var(--line);padding-bottom:4px;margin-top:2em}
nav{position:sticky;top:0;background:#fff;border-bottom:1px solid var(--line);padding:8px 0;z-index:2}nav a{margin-right:14px;color:var(--accent);text-decoration:none;white-space:nowrap}
table{border-collapse:collapse;margin:8px 0;font-size:14px}th,td{border:1px solid var(--line);padding:4px 9px;vertical-align:top}th{background:#f4f6f8}
td.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f7f8fa;border:1px solid var(--line);padding:8px 10px;overflow-x:auto;font-size:12.5px;white-space:pre-wrap;overflow-wrap:anywhere}
.jp-InputArea pre,.input_area pre,.highlight pre{border-left:3px solid var(--line)}img{max-width:100%;height:auto}.faint{color:var(--faint)}
.prompt,.jp-InputPrompt,.jp-OutputPrompt{display:none}details{margin:10px 0}summary{cursor:pointer;font-weight:600;font-size:17px}.jp-RenderedHTMLCommon table{display:table}
.anchor-link{display:none}.output_stderr pre,.jp-RenderedText[data-mime-type$=stderr] pre{background:#fdf3f2}
"""


def _steps(run_dir: Path) -> list[tuple[dict, dict, Path]]:
    """Return (manifest, metrics, folder) of the complete steps of a run, in the order in which they finished."""
    found = []
    for file in run_dir.glob("*/manifest.json"):
        if not file.parent.name.endswith(".previous"):
            found.append((json.loads(file.read_text(encoding="utf-8")), json.loads((file.parent / "metrics.json").read_text(encoding="utf-8")), file.parent))
    return sorted(found, key=lambda item: (item[0]["notebook"], item[0]["finished"]))


def _pair(pair: dict, digits: int = 3) -> str:
    return f"{pair['before']:.{digits}f} → {pair['after']:.{digits}f}"


def _corpus(m: dict) -> list[tuple[str, str]]:
    return [("tokens in → out", f"{sum(m['tokens_in'].values()):,} → {sum(m['tokens_out'].values()):,}"), ("ledger residual", str(m["ledger_residual"])),
            ("contaminated documents", str(m["contaminated_documents"]))]


def _tokenizer(m: dict) -> list[tuple[str, str]]:
    return [("vocabulary", f"{m['vocab_before']:,} → {m['vocab_after']:,}"), *((f"characters per token, {name}", _pair(pair, 2)) for name, pair in m["chars_per_token"].items())]


def _pretrain(m: dict) -> list[tuple[str, str]]:
    return [*((f"bits per character, {name}", _pair(pair)) for name, pair in m["bits_per_character"].items()), ("tokens per second", f"{m['tokens_per_second']:,.0f}")]


def _ratio(shares: dict, by: str) -> str:
    return f"{shares['general'][by]:.2f} : {shares['finance'][by]:.2f}"


def _sft(m: dict) -> list[tuple[str, str]]:
    return [(f"evaluation loss, {stage}", _pair(m[stage]["eval_loss"])) for stage in ("stage1", "stage2") if stage in m] + [
        (f"general : finance, {stage}", f"{_ratio(m[stage]['shares'], 'by dialogues')} of the dialogues, {_ratio(m[stage]['shares'], 'by tokens')} of the tokens")
        for stage in ("stage1", "stage2") if stage in m] + [("answers that end by themselves", f"{m['ended_share']:.2f}")]


def _dpo(m: dict) -> list[tuple[str, str]]:
    def within(found: dict) -> str:
        return f"{_pair(found)} [{found['ci_low']:.3f}, {found['ci_high']:.3f}], n {found['n']}"

    return [("loss at step 0", f"{m['loss_step0']:.4f}"), ("held-out reward accuracy", within(m["reward_accuracy"])),
            ("held-out reward margin", within(m["reward_margin"])),
            *((f"exam accuracy, {domain}", f"{_pair(made)}, p {made['p']:.2f}") for domain, made in m["exams"].items())]


def _quantize(m: dict) -> list[tuple[str, str]]:
    return [(f"{name}: bytes, bits per character, accuracy", f"{m[name]['bytes']:,}, {m[name]['bits_per_character']:.3f}, {m[name]['accuracy']:.3f}")
            for name in ("full", "int8", "nf4", "gptq4") if name in m]


def _evaluate(m: dict) -> list[tuple[str, str]]:
    return [(f"accuracy, {domain}, {name}", f"{made['accuracy']:.3f} [{made['ci_low']:.3f}, {made['ci_high']:.3f}], n {made['n']}")
            for domain, models in m["by_domain"].items() for name, made in models.items()] + ([
        (f"win rate of the candidate, judged by {m['judgement']['judge']}", f"{m['judgement']['win_rate']:.3f} "
         f"[{m['judgement']['ci_low']:.3f}, {m['judgement']['ci_high']:.3f}], n {m['judgement']['n']}")] if m["judgement"]["n"] else [])


HEADLINES = {"01_corpus_stats": _corpus, "02_tokenizer_extension": _tokenizer, "03_lora_pretraining": _pretrain, "04_two_stage_sft": _sft, "05_dpo": _dpo,
             "06_quantization": _quantize, "07_evaluation": _evaluate}


def rows(run_dir: Path) -> list[tuple[str, str, str]]:
    """Return (step, quantity, value) lines of the main results of a run."""
    lines = []
    for record, metrics, _ in _steps(run_dir):
        lines += [(record["step"], name, value) for name, value in HEADLINES.get(record["notebook"], lambda m: [])(metrics)]
    return lines


def text_table(run_dir: Path) -> str:
    """Return the main results as aligned text for a terminal."""
    lines = rows(run_dir)
    if not lines:
        return "no step has results yet"
    width = [max(len(line[number]) for line in lines) for number in (0, 1)]
    return "\n".join(f"{step:<{width[0]}}  {name:<{width[1]}}  {value}" for step, name, value in lines)


def _notebook_html(path: Path, prefix: str) -> str:
    import nbformat
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="basic", anchor_link_text="").from_notebook_node(nbformat.read(path, 4))
    body = re.sub(r"<script.*?</script>", "", body, flags=re.S)
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="#\1"', body)  # a link to the next notebook stays on the page
    return re.sub(r'\bid="([^"]+)"', lambda match: f'id="{prefix}-{match[1]}"', body)  # ids must stay unique on one page


def write(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder and return its path: self-contained, no script, nothing loaded from elsewhere.

    Raises ValueError when the run has no complete step.
    """
    steps = _steps(Path(run_dir))
    if not steps:
        raise ValueError(f"{run_dir} holds no finished step: run a recipe there first")
    account = "".join(
        f"<tr><td><a href='#{record['step']}'>{record['step']}</a></td><td>{record['notebook']}</td><td class=n>{record['seconds']:.0f}</td>"
        f"<td class=n>{record['peak_bytes'] / 1e9:.2f}</td><td>{record['device']}</td><td>{record['finished'][:19].replace('T', ' ')}</td></tr>"
        for record, _, _ in steps)
    results = "".join(f"<tr><td>{html.escape(step)}</td><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for step, name, value in rows(Path(run_dir)))
    last = steps[-1][0]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    sections = ""
    for record, _, folder in steps:
        notebook = folder / f"{record['notebook']}.ipynb"
        body = _notebook_html(notebook, record["step"]) if notebook.exists() else "<p class=faint>The executed notebook was not kept (run in JupyterLab).</p>"
        sections += f"<section id='{record['step']}'><h2 id='{record['notebook']}'>{record['step']}</h2><details open><summary>{record['notebook']}</summary>{body}</details></section>"
    links = "<a href='#results'>results</a>" + "".join(f"<a href='#{record['step']}'>{record['step']}</a>" for record, _, _ in steps)
    page = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>finlab: {html.escape(Path(run_dir).name)}</title>
<style>{STYLE}</style></head><body><h1>finlab run: {html.escape(Path(run_dir).name)}</h1>
<p class=faint>commit {last['git_commit']} · Python {last['python']} · {versions}</p><nav>{links}</nav>
<h2 id="results">Results</h2><table><tr><th>step</th><th>quantity</th><th>value</th></tr>{results}</table>
<h2>Steps</h2><table><tr><th>step</th><th>notebook</th><th>seconds</th><th>peak GB</th><th>device</th><th>finished</th></tr>{account}</table>
{sections}</body></html>"""
    draft = Path(run_dir) / "report.html.draft"
    draft.write_text(page, encoding="utf-8")
    return draft.rename(Path(run_dir) / "report.html")
