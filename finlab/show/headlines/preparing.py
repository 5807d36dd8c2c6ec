"""The headlines of base, corpus and tokenizer."""

from __future__ import annotations

from typing import Any

from finlab.run.headline import Headline, Line, Words
from finlab.show.headlines.wording import change, named


def of_base(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 00.

    Args:
        metrics: The metrics of the notebook.
    """
    before, after = (metrics["bits_per_character"][when] for when in ("before", "after"))
    lines = [Line(Words("parameters", "参数量"), f"{metrics['parameters']:,}")]
    if before != after:
        words = Words("bits per character, held-out general text", "每字符比特数，留出的通用文本")
        lines.append(Line(words, f"{before:.3f} → {after:.3f}"))
    else:
        words = Words("bits per character, general text", "每字符比特数，通用文本")
        lines.append(Line(words, f"{after:.3f}"))
    lines.append(
        Line(Words("characters per token", "每词元字符数"), f"{metrics['chars_per_token']:.2f}")
    )
    return Headline(lines)


def of_corpus(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 01.

    Args:
        metrics: The metrics of the notebook.
    """
    tokens_in = sum(metrics["tokens_in"].values())
    tokens_out = sum(metrics["tokens_out"].values())
    lines = [
        Line(Words("tokens in → out", "词元数：读入 → 保留"), f"{tokens_in:,} → {tokens_out:,}"),
        Line(Words("ledger residual", "账本余额"), str(metrics["ledger_residual"])),
        Line(
            Words("contaminated documents", "含考题的文档"),
            str(metrics["contaminated_documents"]),
        ),
    ]
    warnings = []
    if metrics["quarantined_rows"]:
        count = metrics["quarantined_rows"]
        warnings.append(
            Words(
                f"{count} rows of the corpus could not be read and were set aside.",
                f"语料中有 {count} 行无法读取，已单独存放。",
            )
        )
    return Headline(lines, warnings=warnings)


def of_tokenizer(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 02.

    Args:
        metrics: The metrics of the notebook.
    """
    sizes = f"{metrics['vocab_before']:,} → {metrics['vocab_after']:,}"
    lines = [Line(Words("vocabulary", "词表"), sizes)]
    for name, pair in metrics["chars_per_token"].items():
        lines.append(Line(named("characters per token", "每词元字符数", name), change(pair, 2)))
    return Headline(lines)
