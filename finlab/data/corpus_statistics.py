"""Statistics of each source of a corpus: text lengths, languages and years."""

from __future__ import annotations

from typing import Any

import daft
import pandas
from daft import col

from finlab import paths
from finlab.data.card_schema import Card

STATISTICS = ("<!-- finlab:statistics -->", "<!-- /finlab:statistics -->")
YEAR = r"((?:19|20)\d\d)\s?[年./-]"


def statistics(frame: daft.DataFrame) -> list[dict[str, Any]]:
    """Return the statistics of each source.

    Args:
        frame: Documents with source, domain, language, tokens and text.

    Returns:
        One row a source: the numbers of documents, characters and tokens, the lengths in
        characters (10th, 50th and 90th percentile), characters per token, the share of letters
        that are Chinese, the share of documents that name a year, and the 25th and 75th percentile
        of these years.
    """
    text = col("text")
    measured = frame.select(
        "source",
        "domain",
        "language",
        "tokens",
        text.length().alias("characters"),
        text.regexp_count(r"[\u4e00-\u9fff]").alias("han"),
        text.regexp_count(r"[A-Za-z]").alias("latin"),
        text.regexp_extract(YEAR, 1).alias("year"),
    )
    return [
        _source_statistics(source, part) for source, part in measured.to_pandas().groupby("source")
    ]


def _source_statistics(source: str, part: pandas.DataFrame) -> dict[str, Any]:
    """Return the statistics of one source, as a row.

    Args:
        source: Name of the source.
        part: Its documents, with the columns that `statistics` measures.
    """
    years = part.year[part.year != ""].dropna().astype(int)
    years_text = "–"
    if len(years):
        years_text = f"{int(years.quantile(0.25))}–{int(years.quantile(0.75))}"
    low, middle, high = part.characters.quantile([0.1, 0.5, 0.9])
    letters = part.han.sum() + part.latin.sum()
    return {
        "source": source,
        "corner": f"{part.language.iloc[0]}_{part.domain.iloc[0]}",
        "documents": len(part),
        "characters": int(part.characters.sum()),
        "tokens": int(part.tokens.sum()),
        "length p10": int(low),
        "length p50": int(middle),
        "length p90": int(high),
        "chars per token": float(part.characters.sum() / max(part.tokens.sum(), 1)),
        "chinese letters": float(part.han.sum() / max(letters, 1)),
        "with a year": len(years) / len(part),
        "years": years_text,
    }


# Ledger reasons whose share a data card shows, in percent of the tokens read.
CARD_LOSSES = (
    "exact duplicate",
    "near duplicate in its source",
    "near duplicate across sources",
    "contaminated by an exam",
    "kept",
)


def card_figures(statistics_row: dict[str, Any], tokens: dict[str, int]) -> dict[str, str]:
    """Return the figures of a source, formatted as its data card shows them.

    Args:
        statistics_row: The source's row from `statistics`.
        tokens: {reason: number of tokens} from the source's ledger, with the key `read`.
    """
    figures = {}
    for name, value in statistics_row.items():
        if isinstance(value, float):
            figures[name] = f"{value:,.2f}"
        elif isinstance(value, int):
            figures[name] = f"{value:,}"
        elif name != "source":
            figures[name] = value
    for reason in CARD_LOSSES:
        share = tokens.get(reason, 0) / tokens["read"]
        figures[f"{reason}, % of tokens"] = f"{100 * share:.2f}"
    return figures


# --- statistics in a card ------------------------------------------------------------------------
def with_statistics(card: Card, figures: dict[str, Any]) -> str:
    """Return the content of a card's file with a table of figures between its markers.

    In a card without markers, the table is put before the section `## Uses`.

    Args:
        card: The card.
        figures: {name of the figure: value}.
    """
    content = (paths.data_cards() / f"{card.name}.md").read_text(encoding="utf-8")
    lines = ["| what | figure |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in figures.items()]
    begin, end = STATISTICS
    block = "\n".join([begin, *lines, end])
    if begin not in content:
        return content.replace("\n## Uses", f"\n{block}\n\n## Uses", 1)
    before, rest = content.split(begin, 1)
    _, after = rest.split(end, 1)
    return before + block + after
