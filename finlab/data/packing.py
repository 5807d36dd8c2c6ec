"""Packing: put documents into rows of equal length, and cut only those that do not fit.

    plan = packing.pack(sizes, length=512)                    # needs only sizes, so it is quick
    rows = packing.write_rows(folder / "rows.arrow", plan, tokens)  # a datasets.Dataset on disk

`seq_lengths` gives the lengths of the documents in a row. For documents of 4, 2 and 2 tokens:

    input_ids      a1 a2 a3 a4 | b1 b2 | c1 c2
    seq_lengths    4             2       2
    position_ids    0  1  2  3    0  1    0  1      (train.collate makes them)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from finlab.data import arrow_files, bins

if TYPE_CHECKING:
    from datasets import Dataset

Piece = tuple[int, int, int]  # (document number, start in the document, number of tokens)
Tokens = Sequence[Sequence[int]]  # token ids of each document; may be a column of a dataset
WRITE_ROWS = 1000  # how many rows are written at a time


# --- the plan ------------------------------------------------------------------------------------
@dataclass
class Plan:
    """A packing plan: which piece of which document is in which row.

    Attributes:
        documents: Document number of each piece, int32 [pieces], row by row; in each row the
            longest piece is first.
        starts: Index of the first token of each piece in its document, int32 [pieces].
        sizes: Number of tokens of each piece, int32 [pieces].
        bounds: Index of the first piece of each row, then the number of pieces, int64 [rows + 1].
    """

    documents: numpy.ndarray
    starts: numpy.ndarray
    sizes: numpy.ndarray
    bounds: numpy.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def row(self, number: int) -> list[Piece]:
        """Return the pieces of a row, each (document, start, number of tokens).

        Args:
            number: Number of the row.
        """
        span = slice(self.bounds[number], self.bounds[number + 1])
        columns = (self.documents, self.starts, self.sizes)
        return list(zip(*(column[span].tolist() for column in columns), strict=True))

    def __iter__(self) -> Iterator[list[Piece]]:
        return (self.row(number) for number in range(len(self)))

    def chosen(self, rows: numpy.ndarray) -> Plan:
        """Return a plan with some of the rows, in a given order.

        Args:
            rows: Numbers of the rows, in the new order.
        """
        counts = numpy.diff(self.bounds)[rows]
        bounds = numpy.concatenate([[0], counts.cumsum()])
        # Index of each piece in this plan: the first piece of its row, then the ones after it.
        moved_by = self.bounds[rows] - bounds[:-1]
        places = numpy.repeat(moved_by, counts) + numpy.arange(bounds[-1])
        return Plan(self.documents[places], self.starts[places], self.sizes[places], bounds)

    def save(self, folder: Path) -> None:
        """Write the plan to a folder, one .npy file for each column."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, column in vars(self).items():
            numpy.save(folder / f"{name}.npy", column)

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Return a plan that `save` wrote, memory-mapped."""
        names = ("documents", "starts", "sizes", "bounds")
        return cls(*(numpy.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


def pack(
    sizes: Sequence[int] | numpy.ndarray,
    length: int,
    seed: int = 0,
    buckets: Sequence[int] = (),
    step_rows: int = 1,
    begin: int = 0,
) -> Plan:
    """Plan which document goes into which row.

    A document that fits into a row is not cut. A longer one is cut into pieces of `length`; no
    token is dropped. The rows are shuffled. Pack each phase of a schedule separately.

    Args:
        sizes: Number of tokens of each document.
        length: Number of tokens of a row.
        seed: Seed of the shuffling.
        buckets: Lengths, such as 2048, 4096, 8192 and 16384 in XuanYuan2. With buckets, all rows of
            a step belong to one bucket, so that all devices do equal work. The bucket of a row is
            the smallest length that its longest document fits into. Empty for no buckets.
        step_rows: Number of rows of an optimiser step; used only with buckets.
        begin: Number of rows before these; used only with buckets.

    Returns:
        The plan. With buckets, rows that do not fill a whole step of their bucket are at the
        beginning and the end.
    """
    documents, starts, pieces = _cut_to(numpy.asarray(sizes, numpy.int32), length)
    order, bin_of, count = bins.assign(pieces, length)
    rng = numpy.random.default_rng(seed)
    # Bins are shuffled into rows first. Then one sort puts the pieces into the order of the rows.
    row_of = rng.permutation(count).astype(numpy.int32)[bin_of]
    bounds = numpy.concatenate([[0], numpy.bincount(row_of, minlength=count).cumsum()])
    digits = bins.digits(row_of)
    del bin_of, row_of  # each may have hundreds of millions of elements
    order = order[bins.sort_by(digits)]
    plan = Plan(documents[order], starts[order], pieces[order], bounds)
    if not buckets:
        return plan
    return plan.chosen(_order_by_bucket(plan, buckets, step_rows, begin, rng))


def _cut_to(
    sizes: numpy.ndarray, length: int
) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Cut documents into pieces of at most `length` tokens.

    Args:
        sizes: Number of tokens of each document, int32.
        length: Number of tokens of a row.

    Returns:
        (document number, start, number of tokens) of each piece, three int32 arrays. An empty
        document has no piece.
    """
    counts = -(-sizes // length)
    documents = numpy.repeat(numpy.arange(len(sizes), dtype=numpy.int32), counts)
    if len(sizes) and counts.max() <= 1:
        whole = sizes if len(documents) == len(sizes) else sizes[sizes > 0]
        return documents, numpy.zeros(len(documents), numpy.int32), whole
    first = numpy.repeat(counts.cumsum(dtype=numpy.int64) - counts, counts)
    starts = ((numpy.arange(len(documents)) - first) * length).astype(numpy.int32)
    return documents, starts, numpy.minimum(length, sizes[documents] - starts)


def pack_phases(
    sizes: numpy.ndarray,
    phases: list[numpy.ndarray],
    length: int,
    seed: int = 0,
    buckets: Sequence[int] = (),
    step_rows: int = 1,
) -> Plan:
    """Plan the rows of a schedule, phase by phase.

    Args:
        sizes: Number of tokens of each document.
        phases: Document numbers of each phase, in order.
        length, seed, buckets, step_rows: As for `pack`.
    """
    plans: list[Plan] = []
    begin = 0
    for number, phase in enumerate(phases):
        plan = pack(sizes[phase], length, seed + number, buckets, step_rows, begin)
        # `pack` numbers the documents within the phase. Change to the numbers among all.
        plan.documents = phase[plan.documents]
        plans.append(plan)
        begin += len(plan)
    return plans[0] if len(plans) == 1 else _joined(plans)


def _joined(plans: list[Plan]) -> Plan:
    """Return one plan with the rows of several plans, one plan after another."""
    bounds = [numpy.zeros(1, numpy.int64)]
    for plan in plans:
        bounds.append(plan.bounds[1:] + bounds[-1][-1])
    return Plan(
        numpy.concatenate([plan.documents for plan in plans]),
        numpy.concatenate([plan.starts for plan in plans]),
        numpy.concatenate([plan.sizes for plan in plans]),
        numpy.concatenate(bounds),
    )


def _order_by_bucket(
    plan: Plan,
    buckets: Sequence[int],
    step_rows: int,
    begin: int,
    rng: numpy.random.Generator,
) -> numpy.ndarray:
    """Order rows so that all rows of a step belong to one bucket.

    Args:
        plan: The plan of the rows.
        buckets: Lengths in tokens.
        step_rows: Number of rows of an optimiser step.
        begin: Number of rows before these. If they end within a step, this step is filled first.
        rng: Draws the order of the steps.

    Returns:
        Numbers of the rows, in the new order.
    """
    bucket_of = row_buckets(plan, buckets)
    steps, rest = [], []
    for limit in numpy.unique(bucket_of):
        same = numpy.flatnonzero(bucket_of == limit)
        whole = len(same) - len(same) % step_rows
        steps.append(same[:whole].reshape(-1, step_rows))
        rest.append(same[whole:])
    ordered = rng.permutation(numpy.concatenate(steps)).reshape(-1)
    left = numpy.concatenate(rest)
    # How many rows fill the step that an earlier phase began.
    head = min(-begin % step_rows, len(plan))
    if len(left) < head:
        missing = head - len(left)
        left = numpy.concatenate([left, ordered[-missing:]])
        ordered = ordered[:-missing]
    return numpy.concatenate([left[:head], ordered, left[head:]])


def row_buckets(plan: Plan, buckets: Sequence[int]) -> numpy.ndarray:
    """Return the bucket of each row: the smallest length that its longest document fits into.

    Args:
        plan: The plan of the rows.
        buckets: Lengths in tokens.

    Returns:
        The length of each row's bucket; 0 if the document is longer than all buckets.
    """
    limits = numpy.array([*sorted(buckets), 0])
    longest = plan.sizes[plan.bounds[:-1]]  # the first piece of a row is its longest
    return limits[numpy.searchsorted(limits[:-1], longest)]


def packing_efficiency(plan: Plan, length: int) -> float:
    """Return the share of token positions in all rows that hold a token, from 0 to 1.

    Args:
        plan: The plan of the rows.
        length: Number of tokens of a row.
    """
    return int(plan.sizes.sum(dtype=numpy.int64)) / max(len(plan) * length, 1)


# --- rows on disk --------------------------------------------------------------------------------
def write_rows(
    path: Path,
    plan: Plan,
    tokens: Tokens,
    labels: Tokens | None = None,
    sources: Sequence[str] | None = None,
    buckets: Sequence[int] = (),
    names: Sequence[str] = (),
) -> Dataset:
    """Write packed rows to an Arrow file, a thousand at a time.

    Args:
        path: The file to write.
        plan: The plan from `pack`.
        tokens: Token ids of each document.
        labels: Labels of each document; None uses its tokens.
        sources: Source of each document; training then reports the loss of each source. None
            writes no sources.
        buckets: The same buckets as for `pack`; each row then has the length of its bucket.
        names: Names of all sources, in order; empty uses the names in `sources`, sorted.

    Returns:
        A memory-mapped dataset of rows {input_ids, labels, seq_lengths}, int32. If given, there are
        also the columns `sources` (class labels, one for each piece) and `bucket`.
    """
    from datasets import ClassLabel, Features, List, Value

    columns: dict[str, Any] = {
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        "seq_lengths": List(Value("int32")),
    }
    source_numbers: dict[str, int] = {}
    if sources is not None:
        listed = list(names) or sorted(set(sources))
        source_numbers = {name: number for number, name in enumerate(listed)}
        columns["sources"] = List(ClassLabel(names=listed))
    bucket_of = numpy.empty(0, numpy.int32)
    if buckets:
        columns["bucket"] = Value("int32")
        bucket_of = row_buckets(plan, buckets)

    def row_batches() -> Iterator[dict[str, list]]:
        for first in range(0, len(plan), WRITE_ROWS):
            part = [plan.row(number) for number in range(first, min(first + WRITE_ROWS, len(plan)))]
            batch = {"input_ids": [_cut(tokens, row) for row in part]}
            batch["labels"] = batch["input_ids"]
            if labels is not None:
                batch["labels"] = [_cut(labels, row) for row in part]
            batch["seq_lengths"] = [[size for _, _, size in row] for row in part]
            if sources is not None:
                batch["sources"] = [
                    [source_numbers[sources[number]] for number, _, _ in row] for row in part
                ]
            if buckets:
                batch["bucket"] = bucket_of[first : first + len(part)]
            yield batch

    return arrow_files.write(path, Features(columns), row_batches())


def _cut(values: Tokens, row: list[Piece]) -> numpy.ndarray:
    """Return the values of a row's pieces, one piece after another, int32.

    Args:
        values: Values of each document, one for each token.
        row: The pieces of the row.
    """
    parts = [values[number][start : start + size] for number, start, size in row]
    return numpy.concatenate(parts, dtype=numpy.int32, casting="unsafe")


def packed(
    path: Path, tokens: Tokens, length: int, labels: Tokens | None = None, seed: int = 0
) -> Dataset:
    """Pack token lists (see `pack`) and write the rows (see `write_rows`), for small sets.

    Args:
        path: The Arrow file to write.
        tokens: Token ids of each document.
        length: Number of tokens of a row.
        labels: Labels of each document; None uses its tokens.
        seed: Seed of the shuffling.
    """
    plan = pack([len(ids) for ids in tokens], length, seed)
    return write_rows(path, plan, tokens, labels)
