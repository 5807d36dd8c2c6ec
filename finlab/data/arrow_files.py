"""Datasets as memory-mapped Arrow files, so that training reads its rows from disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pyarrow
import pyarrow.dataset

if TYPE_CHECKING:
    from datasets import Dataset, Features

BATCH = 10_000  # how many rows are copied at a time


def write(
    path: Path, features: Features, batches: Iterable[dict[str, list] | pyarrow.Table]
) -> Dataset:
    """Write batches to an Arrow file, one after another, and return it as a dataset.

    Args:
        path: The file to write.
        features: Names and types of the columns.
        batches: Each a dict {column: values}, or a table with these columns.

    Returns:
        The dataset, memory-mapped.
    """
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = features.arrow_schema
    # Write a draft and rename it: a dataset that still maps an earlier file keeps that file.
    draft = path.with_name(f"{path.name}.draft")
    with pyarrow.OSFile(str(draft), "wb") as file, pyarrow.ipc.new_stream(file, schema) as sink:
        for batch in batches:
            if isinstance(batch, pyarrow.Table):
                sink.write_table(batch.cast(schema))
            else:
                sink.write_table(pyarrow.table(batch, schema=schema))
    draft.replace(path)
    return Dataset.from_file(str(path))


def copied(folder: Path, path: Path, features: Features) -> Dataset:
    """Return the rows of a Parquet folder, in no fixed order, as a memory-mapped dataset.

    Args:
        folder: A folder of Parquet files that Daft wrote.
        path: The Arrow file to write.
        features: Names and types of the columns.
    """
    stored = pyarrow.dataset.dataset(str(folder))
    names = list(features)

    def batches() -> Iterator[pyarrow.Table]:
        for batch in stored.to_batches(columns=names, batch_size=BATCH):
            yield pyarrow.Table.from_batches([batch])

    return write(path, features, batches())


def in_order(folder: Path, path: Path, features: Features) -> Dataset:
    """Return the rows of a Parquet folder, sorted by `number`, as a memory-mapped dataset.

    Args:
        folder: A folder of Parquet files that Daft wrote. Their names are random.
        path: The Arrow file to write.
        features: Names and types of the columns, with `number`. The dataset that is returned has
            no `number`.
    """
    rows = copied(folder, path, features)
    order = numpy.argsort(rows.with_format("numpy")["number"][:], kind="stable")
    return rows.select(order).remove_columns("number")
