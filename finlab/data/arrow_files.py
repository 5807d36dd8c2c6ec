"""Data sets as Arrow files, which are memory-mapped: training reads from disk as it goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pyarrow
import pyarrow.dataset

if TYPE_CHECKING:
    from datasets import Dataset, Features

BATCH = 10_000  # rows that are copied at once


def write(
    path: Path, features: Features, batches: Iterable[dict[str, list] | pyarrow.Table]
) -> Dataset:
    """Write batches to an Arrow file as they come.

    Args:
        path: The file.
        features: The columns' types.
        batches: {column: values}, or tables of these columns.

    Returns:
        The dataset, memory-mapped.
    """
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = features.arrow_schema
    # By rename: a data set that still maps an earlier file keeps it.
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
    """Return the rows of a Parquet folder, in no order, as a memory-mapped data set.

    Args:
        folder: Written by Daft.
        path: The Arrow file to write.
        features: The columns' types.
    """
    stored = pyarrow.dataset.dataset(str(folder))
    names = list(features)

    def batches() -> Iterator[pyarrow.Table]:
        for batch in stored.to_batches(columns=names, batch_size=BATCH):
            yield pyarrow.Table.from_batches([batch])

    return write(path, features, batches())


def in_order(folder: Path, path: Path, features: Features) -> Dataset:
    """Return the rows of a Parquet folder by their `number`, as a memory-mapped data set.

    Args:
        folder: Written by Daft, whose files have random names and are read one after another.
        path: The Arrow file to write.
        features: The columns' types, `number` among them, which is left out of the data set.
    """
    rows = copied(folder, path, features)
    order = numpy.argsort(rows.with_format("numpy")["number"][:], kind="stable")
    return rows.select(order).remove_columns("number")
