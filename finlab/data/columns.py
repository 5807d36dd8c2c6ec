"""Documents as columns: the source and size of each document, in six bytes a document.

Mixtures of 366 million documents are drawn and packed from these columns, so memory holds no text
and no dict for each document.

    documents = columns.from_table(table)      # {source, domain, language, tokens}, from Arrow
    documents.tokens[7], documents.sources[documents.codes[7]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
import pyarrow
import pyarrow.compute

from finlab.data.supply import label

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 10_000_000  # how many documents' source names are looked up at a time


@dataclass(frozen=True)
class Documents:
    """Source and size of each document; the number of a document is its index in the columns.

    Attributes:
        tokens: Number of tokens of each document, int32.
        codes: Index of each document's source in `sources`, int16.
        sources: Names of the sources, sorted.
        cells: Cell of each source (its domain and language), in the order of `sources`.
    """

    tokens: numpy.ndarray
    codes: numpy.ndarray
    sources: list[str]
    cells: list[str]

    def __len__(self) -> int:
        return len(self.tokens)

    def numbers(self, code: int) -> numpy.ndarray:
        """Return the numbers of a source's documents, int32.

        Args:
            code: Index of the source in `sources`.
        """
        return numpy.flatnonzero(self.codes == code).astype(numpy.int32)


def from_table(table: pyarrow.Table) -> Documents:
    """Return the documents of an Arrow table.

    Args:
        table: A table with the columns source, domain, language and tokens.
    """
    parts = table.select(["source", "domain", "language"])
    kinds = parts.group_by(["source", "domain", "language"]).aggregate([]).to_pylist()
    homes = {kind["source"]: label((kind["domain"], kind["language"])) for kind in kinds}
    sources = sorted(homes)
    names = pyarrow.array(sources, pyarrow.string())
    codes = numpy.empty(len(table), numpy.int16)
    for first in range(0, len(table), BATCH):
        part = table["source"].slice(first, BATCH).cast(pyarrow.string())
        codes[first : first + BATCH] = pyarrow.compute.index_in(part, names).to_numpy()
    tokens = table["tokens"].cast(pyarrow.int32()).to_numpy()
    return Documents(tokens, codes, sources, [homes[source] for source in sources])


def from_rows(rows: list[dict]) -> Documents:
    """Return the documents of rows {source, domain, language, tokens}."""
    names = ("source", "domain", "language", "tokens")
    columns = {name: [row[name] for row in rows] for name in names}
    return from_table(pyarrow.table(columns))


def from_dataset(dataset: Dataset) -> Documents:
    """Return the documents of a dataset of encoded text, without reading the token ids.

    Args:
        dataset: A dataset with the columns source, domain, language and tokens, and maybe others.
    """
    chosen = dataset.select_columns(["source", "domain", "language", "tokens"])
    return from_table(chosen.with_format("arrow")[:])
