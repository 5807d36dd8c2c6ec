"""Encode a corpus as tokens: one pass of Daft over its text, then a sorted Arrow file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import daft
import pyarrow
from daft import DataType, col

from finlab.data import arrow_files, frames

if TYPE_CHECKING:
    from datasets import Dataset

Encode = Callable[[list[str]], list[list[int]]]  # returns the token ids of each text


def encode(encode_texts: Encode, folder: Path, cache: Path) -> Dataset:
    """Encode the documents of a corpus step's Parquet folder.

    Args:
        encode_texts: Returns the token ids of each text. It is sent to other processes and
            machines, so it must be picklable.
        folder: The Parquet folder, such as the step's `train`.
        cache: The folder that the tokens are written to.

    Returns:
        A dataset on disk, sorted by document number, with the columns source, domain, language,
        tokens (how many) and input_ids (int32).
    """
    from datasets import Features, List, Value

    frame = frames.open_sources(folder).with_column("tokens_read", col("tokens"))
    settings = frames.batch_settings(frame)

    @daft.func.batch(return_dtype=DataType.list(DataType.int32()), **settings)
    def ids_of(text: daft.Series) -> daft.Series:
        ids = encode_texts(text.to_pylist())
        return daft.Series.from_arrow(pyarrow.array(ids, pyarrow.large_list(pyarrow.int32())))

    ids = ids_of(col("text"))
    tokens = frame.select("number", "source", "domain", "language", ids.alias("input_ids"))
    count = col("input_ids").list_count("all").cast(DataType.int64())
    written = cache / "documents"
    frames.save(tokens.with_column("tokens", count), written)
    columns = {
        "number": Value("int64"),
        "source": Value("string"),
        "domain": Value("string"),
        "language": Value("string"),
        "tokens": Value("int64"),
        "input_ids": List(Value("int32")),
    }
    return arrow_files.in_order(written, cache / "tokens.arrow", Features(columns))
