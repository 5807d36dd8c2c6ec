"""Documents as Daft frames: read documents, apply changes to them, and save them.

A frame has one row for each document:

    number        its place in the reading order, from 0
    id, source, domain, language, text
    tokens_read   number of tokens of the text as it was read
    tokens        number of tokens of the text now
    losses        the tokens that each rule removed, [{reason, tokens}]
    personal      the kinds of personal data that were replaced
    dropped       why the document was dropped, or ""

Rows are marked and never removed. For each row, tokens_read = tokens + the sum of its losses. The
same functions run in this process or on a Ray cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import daft
import numpy
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
from daft import DataType, col

if TYPE_CHECKING:
    from finlab.data.card_schema import Card

Row = TypeVar("Row")
Count = Callable[[list[str]], list[int]]  # returns how many tokens each text has
Columns = dict[str, list]  # a batch of documents, column by column
Change = Callable[[Columns], None]  # changes the columns of a batch in place

LOSS = DataType.list(DataType.struct({"reason": DataType.string(), "tokens": DataType.int64()}))
CHANGED = {  # the columns that a change may write
    "text": DataType.string(),
    "tokens": DataType.int64(),
    "losses": LOSS,
    "personal": DataType.list(DataType.string()),
    "dropped": DataType.string(),
}
READ_BATCH = 2_000_000  # characters that are written to Parquet at a time
PART_BYTES = 64_000_000  # bytes of memory that one Parquet file takes when it is read
BATCH_TOKENS = 1_000_000  # tokens that a Python function gets at a time
FEW_TOKENS = 20_000_000  # with fewer tokens, starting processes costs more time than it saves


def choose_runner(runner: str = "native", address: str | None = None) -> None:
    """Choose where frames are computed.

    Args:
        runner: `native` for this process, `ray` for a Ray cluster.
        address: Address of the cluster; None uses RAY_ADDRESS, or starts a local cluster.

    Raises:
        ValueError: The runner has another name, or this process already uses the other runner.
    """
    if runner not in ("native", "ray"):
        raise ValueError(f"the runner is 'native' or 'ray', not '{runner}'")
    try:
        if runner == "ray":
            daft.set_runner_ray(address, noop_if_initialized=True)
        else:
            daft.set_runner_native()
    except Exception as error:
        raise ValueError(
            f"frames cannot be computed on '{runner}': {error}; "
            "restart the kernel where it was begun with another"
        ) from None


def characters(texts: list[str]) -> list[int]:
    """Return the number of characters of each text, to count with if there is no tokenizer."""
    return [len(text) for text in texts]


# --- reading and saving --------------------------------------------------------------------------
def read(
    sources: Iterable[tuple[Card, Iterator[dict]]], folder: Path, count: Count
) -> daft.DataFrame:
    """Write the rows of sources to Parquet in batches, and return them as one frame.

    Args:
        sources: Pairs of a card and its rows {id, text}, as from `cards.stream`.
        folder: Folder for the Parquet files of each source, see `Parts`.
        count: Returns how many tokens each text has.

    Raises:
        ValueError: A source has no rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for card, stream in sources:
        first = number
        with Parts(folder, card.name) as parts:
            for rows in batches(stream, READ_BATCH, lambda row: len(row["text"])):
                parts.write(_table(card, rows, number, count))
                number += len(rows)
        if number == first:
            raise ValueError(
                f"source {card.name} is empty: none of its rows could be read; "
                "see the quarantined rows, or take it out of the cards"
            )
    frame = open_folder(folder)
    new_columns = {
        "tokens": col("tokens_read"),
        "dropped": daft.lit(""),
        "losses": daft.lit(None).cast(LOSS),
        "personal": daft.lit(None).cast(CHANGED["personal"]),
    }
    return frame.with_columns(new_columns)


class Parts:
    """Writes rows to several Parquet files, `<name>-00000.parquet` and so on.

    Daft decodes a whole file before other functions work on it. If all rows were in one file,
    memory would have to hold all of them.

        with Parts(folder, "cw_news") as parts:
            parts.write(table)

    Args:
        folder: Folder of the files.
        name: First part of the files' names.
    """

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.name = name
        self.count = 0
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._bytes = 0

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, table: pyarrow.Table) -> None:
        """Write rows to the current file, or to a new file if the current one is full."""
        if self._bytes >= PART_BYTES:
            self._close()
        if self._writer is None:
            path = self.folder / f"{self.name}-{self.count:05d}.parquet"
            self._writer = pyarrow.parquet.ParquetWriter(path, table.schema, compression="zstd")
            self.count += 1
        self._writer.write_table(table)
        self._bytes += table.nbytes

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        self._bytes = 0


def _table(card: Card, rows: list[dict], first: int, count: Count) -> pyarrow.Table:
    """Return rows as an Arrow table.

    Args:
        card: The card of the source, with its name, domain and language.
        rows: Rows {id, text}.
        first: Document number of the first row; the other rows get the next numbers.
        count: Returns how many tokens each text has.
    """
    texts = [row["text"] for row in rows]
    numbers = range(first, first + len(rows))
    columns = {
        "number": pyarrow.array(numbers, pyarrow.int64()),
        "id": [row["id"] for row in rows],
        "source": [card.name] * len(rows),
        "domain": [card.domain] * len(rows),
        "language": [card.language] * len(rows),
        "text": texts,
        "tokens_read": pyarrow.array(count(texts), pyarrow.int64()),
    }
    return pyarrow.table(columns)


def batches(
    rows: Iterable[Row],
    max_size: int,
    size_of: Callable[[Row], int] = len,
    max_rows: int = 2000,
) -> Iterator[list[Row]]:
    """Yield rows in lists.

    Args:
        rows: The rows.
        max_size: A list ends with the row that makes its total size larger than this.
        size_of: Returns the size of a row.
        max_rows: How many rows a list may have.
    """
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += size_of(row)
        if len(batch) == max_rows or size > max_size:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def save(frame: daft.DataFrame, folder: Path, by_source: bool = False) -> daft.DataFrame:
    """Compute a frame, write it to Parquet files, and return a frame that reads these files.

    Args:
        frame: The frame.
        folder: Folder of the files. Earlier Parquet files in it are replaced.
        by_source: Whether to write a subfolder `source=<name>` for each source.
    """
    partition = ["source"] if by_source else None
    # Daft's own overwrite mode does not find files below a folder with brackets in its name.
    before = list(folder.rglob("*.parquet"))
    # Files are as small as those of `Parts`, for the same reason. Text is compressed to about a
    # quarter of its size.
    with daft.execution_config_ctx(parquet_target_filesize=PART_BYTES // 4):
        frame.write_parquet(str(folder), compression="zstd", partition_cols=partition)
    for path in before:
        path.unlink()
    return open_sources(folder) if by_source else open_folder(folder)


def open_sources(folder: Path) -> daft.DataFrame:
    """Return a folder that `save` wrote by source as one frame."""
    return daft.read_parquet(f"{_as_pattern(folder)}/**/*.parquet", hive_partitioning=True)


def open_folder(folder: Path) -> daft.DataFrame:
    """Return the Parquet files of a folder as one frame."""
    return daft.read_parquet(f"{_as_pattern(folder)}/*.parquet")


def _as_pattern(folder: Path) -> str:
    """Return a folder's path for Daft, with a backslash before each character of patterns."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", str(folder))


# --- working through a frame ---------------------------------------------------------------------
def batch_settings(frame: daft.DataFrame, few_tokens: int = FEW_TOKENS) -> dict[str, Any]:
    """Return the settings of `daft.func.batch` for a Python function that processes a frame.

    A batch holds about BATCH_TOKENS tokens, so that long documents fit into memory too. A frame
    with more than `few_tokens` tokens is processed in separate processes; starting them takes
    nearly a second.

    Args:
        frame: The documents.
        few_tokens: A frame with at most this many tokens is processed in this process.

    Returns:
        {batch_size, use_process}.
    """
    tokens = col("tokens_read")
    totals = frame.agg(tokens.sum().alias("tokens"), tokens.count().alias("rows"))
    total = totals.to_pylist()[0]
    mean = (total["tokens"] or 0) / max(total["rows"], 1)
    batch_size = min(1024, max(8, BATCH_TOKENS / max(mean, 1)))
    return {"batch_size": int(batch_size), "use_process": (total["tokens"] or 0) > few_tokens}


def transform(frame: daft.DataFrame, *changes: Change) -> daft.DataFrame:
    """Apply changes to documents, one after another, in a single pass over the text.

    Args:
        frame: The documents.
        *changes: Functions from `corpus.cleaner`, `corpus.deidentifier` and `corpus.scorer`. Each
            changes the columns CHANGED of a batch, and may read `source` and `language`.
    """
    names = [*CHANGED, "source", "language"]
    settings = batch_settings(frame, few_tokens=8_000_000)

    @daft.func.batch(return_dtype=DataType.struct(CHANGED), unnest=True, **settings)
    def changed(*series: daft.Series) -> daft.Series:
        columns = {name: values.to_pylist() for name, values in zip(names, series, strict=True)}
        for change in changes:
            change(columns)
        arrays = []
        for name, kind in CHANGED.items():
            arrays.append(pyarrow.array(columns[name], kind.to_arrow_dtype()))
        struct = pyarrow.StructArray.from_arrays(arrays, names=list(CHANGED))
        return daft.Series.from_arrow(struct)

    rest = [name for name in frame.column_names if name not in CHANGED]
    return frame.select(*rest, changed(*[col(name) for name in names]))


def pick(frame: daft.DataFrame, numbers: Iterable[int], *columns: str) -> dict[str, list]:
    """Return some columns of a few documents.

    Args:
        frame: All documents.
        numbers: Numbers of the documents to return.
        *columns: Names of the columns to return.

    Returns:
        {column: values} for `number` and `columns`, sorted by number.
    """
    wanted = daft.from_pydict({"number": numpy.unique(numpy.fromiter(numbers, numpy.int64))})
    chosen = frame.select("number", *columns).join(wanted, on="number", how="semi")
    return chosen.sort("number").to_pydict()


def sample_texts(folder: Path, tokens: float, seed: int) -> list[str]:
    """Return random texts of a corpus step's `train` folder.

    Args:
        folder: The folder that `save` wrote by source.
        tokens: How many tokens the texts hold together at least, as the corpus step counted them.
        seed: Seed of the random order. The same seed gives the same texts, because documents are
            ordered by number first. The files have random names, so their order is not used.
    """
    dataset = pyarrow.dataset.dataset(str(folder), partitioning="hive")
    table = dataset.to_table(columns=["number", "tokens"])
    by_number = numpy.argsort(table["number"].to_numpy())
    sizes = table["tokens"].to_numpy()
    order = by_number[numpy.random.default_rng(seed).permutation(len(sizes))]
    if tokens <= 0:
        return []
    enough = int(numpy.searchsorted(sizes[order].cumsum(), tokens)) + 1
    chosen = order[:enough]
    # The rows are read in the dataset's own order, and then put into the random order again.
    places = pyarrow.array(numpy.sort(chosen), pyarrow.int64())
    texts = dataset.take(places, columns=["text"])["text"].to_pylist()
    return [texts[rank] for rank in numpy.argsort(numpy.argsort(chosen))]
