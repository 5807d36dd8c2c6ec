"""Packed rows that are put together when training reads them; the disk holds only the plan.

    rows = planned.rows(folder / "rows.arrow", plan, tokens, documents)
    rows[7]     # {input_ids, labels, seq_lengths, sources}, from the encoded documents

The plan takes twelve bytes for each document. Packed rows would take eight bytes for each token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pyarrow

from finlab.data import arrow_files, packing
from finlab.data.columns import Documents
from finlab.data.packing import Plan
from finlab.data.templates import IGNORE

if TYPE_CHECKING:
    from datasets import Dataset

WRITE_ROWS = 100_000  # how many rows of a plan are written at a time
SILENT = -1  # document number of a row that teaches nothing: all its labels are IGNORE


def rows(
    path: Path, plan: Plan, tokens: Dataset, documents: Documents, buckets: Sequence[int] = ()
) -> Dataset:
    """Write the plan of rows to an Arrow file, and return a dataset of the rows.

    Args:
        path: The file to write.
        plan: The plan from `packing.pack_phases`.
        tokens: The encoded documents {input_ids}, in the order of their numbers. Dialogues also
            have `learnt`, which says for each token whether the loss counts it.
        documents: Sizes and sources of the same documents; training reports the loss of each
            source.
        buckets: The same buckets as for `pack_phases`; each row then has the length of its bucket.

    Returns:
        A memory-mapped dataset of rows {input_ids, labels, seq_lengths, sources}, and `bucket` if
        there are buckets.
    """
    from datasets import ClassLabel, Features, List, Value

    columns: dict[str, Any] = {
        "documents": List(Value("int32")),
        "starts": List(Value("int32")),
        "seq_lengths": List(Value("int32")),
        "sources": List(ClassLabel(names=documents.sources)),
    }
    if buckets:
        columns["bucket"] = Value("int32")
        bucket_of = packing.row_buckets(plan, buckets).astype(numpy.int32)

    def batches() -> Iterator[dict[str, Any]]:
        for first in range(0, len(plan), WRITE_ROWS):
            bounds = plan.bounds[first : first + WRITE_ROWS + 1]
            span = slice(bounds[0], bounds[-1])
            offsets = pyarrow.array((bounds - bounds[0]).astype(numpy.int32))

            def listed(values: numpy.ndarray, offsets: pyarrow.Array = offsets) -> pyarrow.Array:
                return pyarrow.ListArray.from_arrays(offsets, pyarrow.array(values))

            numbers = plan.documents[span]
            batch = {
                "documents": listed(numbers),
                "starts": listed(plan.starts[span]),
                "seq_lengths": listed(plan.sizes[span]),
                "sources": listed(documents.codes[numbers].astype(numpy.int64)),
            }
            if buckets:
                batch["bucket"] = bucket_of[first : first + len(bounds) - 1]
            yield batch

    written = arrow_files.write(path, Features(columns), batches())
    return written.with_transform(Gather(tokens))


class Gather:
    """Fetches the tokens of rows, one batch at a time.

    Attributes:
        names: Names of the columns of a document that are read.
        tokens: The encoded documents, as an Arrow dataset.
    """

    def __init__(self, tokens: Dataset):
        self.names = [name for name in ("input_ids", "learnt") if name in tokens.column_names]
        self.tokens = tokens.select_columns(self.names).with_format("arrow")

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Return the rows {input_ids, labels, seq_lengths, sources, bucket} of a batch of the plan.

        Args:
            batch: {column: values} of rows of the plan.
        """
        if "documents" not in batch:
            return batch  # the caller has selected other columns only
        found: dict[str, list] = {"input_ids": [], "labels": []}
        for numbers, starts, sizes in zip(
            batch["documents"], batch["starts"], batch["seq_lengths"], strict=True
        ):
            if list(numbers) == [SILENT]:
                ids = [0] * sum(sizes)
                labels = [IGNORE] * len(ids)
            else:
                ids, labels = self._row(numbers, starts, sizes)
            found["input_ids"].append(ids)
            found["labels"].append(labels)
        kept = ("seq_lengths", "sources", "bucket")
        return found | {name: batch[name] for name in kept if name in batch}

    def _row(
        self, numbers: list[int], starts: list[int], sizes: list[int]
    ) -> tuple[list[int], list[int]]:
        """Return the tokens of a row's pieces, one piece after another, and their labels.

        Args:
            numbers: Document number of each piece.
            starts: Index of the first token of each piece in its document.
            sizes: Number of tokens of each piece.
        """
        documents = self.tokens[list(numbers)]
        row: dict[str, list] = {name: [] for name in self.names}
        for place, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            for name in self.names:
                row[name] += documents[name][place].values[start : start + size].to_pylist()
        ids = row["input_ids"]
        if "learnt" not in row:
            return ids, ids
        learnt = zip(ids, row["learnt"], strict=True)
        return ids, [token if counts else IGNORE for token, counts in learnt]
