"""Packing: documents into rows of equal length, cut nowhere but where they must be.

    plan = packing.pack(sizes, length=512)                    # sizes only, so it is quick
    rows = packing.write_rows(folder / "rows.arrow", plan, tokens)  # a datasets.Dataset on disk

Documents are told apart by `seq_lengths`. A row of three documents of 4, 2 and 2 tokens:

    input_ids      a1 a2 a3 a4 | b1 b2 | c1 c2
    seq_lengths    4             2       2
    position_ids    0  1  2  3    0  1    0  1      (train.collate makes them)
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from datasets import Dataset, Features

Piece = tuple[int, int, int]  # a document's number, where the piece begins in it, its tokens
Plan = list[list[Piece]]  # the pieces of each row, the longest first
Tokens = Sequence[Sequence[int]]  # token ids by document; a datasets column will do
WRITE_ROWS = 1000  # rows that are written at once


# --- the plan ------------------------------------------------------------------------------------
def bins(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Group items so that the sizes of each group sum to at most `length`.

    Best fit decreasing: the largest item first, each into the fullest group that still takes it.
    Room left is a whole number, so the open groups with one room are a stack, and the rooms that
    exist are the bits of one integer: the smallest room that fits is its lowest bit from the size
    on. Time is linear in the items, times length / 64.

    Returns:
        Groups of item numbers.
    """
    groups: list[list[int]] = []
    open_groups: list[list[int]] = [[] for _ in range(length + 1)]  # by room left
    rooms = 0
    largest_first = numpy.argsort(-numpy.asarray(sizes, dtype=numpy.int64), kind="stable")
    for item in largest_first.tolist():
        size = int(sizes[item])
        fitting = rooms >> size
        if fitting:
            lowest_bit = fitting & -fitting
            room = size + lowest_bit.bit_length() - 1
            group = open_groups[room].pop()
            if not open_groups[room]:
                rooms ^= 1 << room
            groups[group].append(item)
        else:
            room, group = length, len(groups)
            groups.append([item])
        left = room - size
        if left > 0:
            open_groups[left].append(group)
            rooms |= 1 << left
    return groups


def pack(
    sizes: Sequence[int],
    length: int,
    seed: int = 0,
    buckets: Sequence[int] = (),
    step_rows: int = 1,
    begin: int = 0,
) -> Plan:
    """Plan which document goes into which row.

    Documents stay whole where they fit; longer ones are cut into pieces of `length`, every token
    kept. Rows are shuffled. Pack each phase of a schedule by itself.

    Args:
        sizes: The tokens of each document.
        length: The tokens of a row.
        seed: Shuffles the rows.
        buckets: Lengths such as XuanYuan2's 2048, 4096, 8192, 16384. The rows of a step then
            belong to one bucket, so that all devices do equal work; a row's bucket is the smallest
            that holds its longest document.
        step_rows: The rows of a step, with buckets.
        begin: The rows that came before, with buckets.

    Returns:
        The pieces of each row. Rows that fill no whole step of their bucket stand at the ends.
    """
    pieces: list[Piece] = []
    for number, size in enumerate(sizes):
        for start in range(0, size, length):
            pieces.append((number, start, min(length, size - start)))
    groups = bins([size for _, _, size in pieces], length)
    rows = [[pieces[item] for item in group] for group in groups]
    rng = random.Random(seed)
    rng.shuffle(rows)
    if not buckets:
        return rows
    return _order_by_bucket(rows, buckets, step_rows, begin, rng)


def pack_phases(
    sizes: Sequence[int],
    phases: list[list[int]],
    length: int,
    seed: int = 0,
    buckets: Sequence[int] = (),
    step_rows: int = 1,
) -> Plan:
    """Plan the rows of a schedule, phase by phase.

    Args:
        sizes: The tokens of each document.
        phases: The numbers of the documents of each phase, in order.
        length, seed, buckets, step_rows: As for `pack`.
    """
    plan: Plan = []
    for number, phase in enumerate(phases):
        phase_sizes = [sizes[document] for document in phase]
        begin = len(plan)
        rows = pack(phase_sizes, length, seed + number, buckets, step_rows, begin)
        for row in rows:
            # The rows of a phase count its own documents.
            plan.append([(phase[place], start, size) for place, start, size in row])
    return plan


def _order_by_bucket(
    rows: Plan, buckets: Sequence[int], step_rows: int, begin: int, rng: random.Random
) -> Plan:
    """Order rows so that the rows of a step fold to one length.

    Args:
        rows: The plan.
        buckets: Lengths in tokens.
        step_rows: Rows of an optimiser step.
        begin: The number of rows before these; the step that they leave open is completed first.
        rng: Draws the order of the steps.
    """
    by_bucket: dict[int, Plan] = defaultdict(list)
    for row in rows:
        by_bucket[bucket(row, buckets)].append(row)
    steps: list[Plan] = []
    rest: Plan = []
    for limit in sorted(by_bucket):
        same = by_bucket[limit]
        whole = len(same) - len(same) % step_rows
        for start in range(0, whole, step_rows):
            steps.append(same[start : start + step_rows])
        rest += same[whole:]
    rng.shuffle(steps)
    ordered = [row for step in steps for row in step]
    # The rows that complete the step which an earlier phase began.
    head = min(-begin % step_rows, len(rows))
    while len(rest) < head:
        rest.append(ordered.pop())
    return rest[:head] + ordered + rest[head:]


def bucket(row: list[Piece], buckets: Sequence[int]) -> int:
    """Return the bucket of a row.

    Args:
        row: Its pieces.
        buckets: Lengths in tokens.

    Returns:
        The smallest that holds the row's longest document, 0 where none does.
    """
    longest = max(size for _, _, size in row)
    return min((limit for limit in buckets if limit >= longest), default=0)


def packing_efficiency(plan: Plan, length: int) -> float:
    """Return the share of row places that hold tokens.

    Args:
        plan: The rows.
        length: Of a row, in tokens.
    """
    tokens = sum(size for row in plan for _, _, size in row)
    return tokens / max(len(plan) * length, 1)


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
        path: The file.
        plan: From `pack`.
        tokens: The token ids of each document.
        labels: The labels of each document; by default its tokens.
        sources: The source of each document; training then reports the loss of each.
        buckets: Those given to `pack`; a row then carries the length of its bucket.
        names: All names of sources, in order; by default those that occur.

    Returns:
        A memory-mapped data set of rows {input_ids, labels, seq_lengths} int32, with `sources`
        (class labels, one a piece) and `bucket` where they were given.
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
    if buckets:
        columns["bucket"] = Value("int32")

    def row_batches() -> Iterator[dict[str, list]]:
        for first in range(0, len(plan), WRITE_ROWS):
            part = plan[first : first + WRITE_ROWS]
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
                batch["bucket"] = [bucket(row, buckets) for row in part]
            yield batch

    return write_arrow(path, Features(columns), row_batches())


def _cut(values: Tokens, row: list[Piece]) -> numpy.ndarray:
    """Return the values of a row's pieces, one after another, int32.

    Args:
        values: Of every document, one value a token.
        row: The pieces.
    """
    parts = [values[number][start : start + size] for number, start, size in row]
    return numpy.concatenate(parts, dtype=numpy.int32, casting="unsafe")


def write_arrow(path: Path, features: Features, batches: Iterable[dict[str, list]]) -> Dataset:
    """Write batches to an Arrow file as they come.

    Args:
        path: The file, written by rename.
        features: The columns' types.
        batches: {column: values}.

    Returns:
        The dataset, memory-mapped.
    """
    import pyarrow
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = features.arrow_schema
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as sink:
        for batch in batches:
            sink.write_table(pyarrow.table(batch, schema=schema))
    return Dataset.from_file(str(path))


def packed(
    path: Path, tokens: Tokens, length: int, labels: Tokens | None = None, seed: int = 0
) -> Dataset:
    """Pack token lists (see `pack`) and write the rows (see `write_rows`), for small sets.

    Args:
        path: The Arrow file.
        tokens: Token ids of each document.
        length: Of a row, in tokens.
        labels: Labels of each document; else its tokens.
        seed: Draws the order of the rows.
    """
    plan = pack([len(ids) for ids in tokens], length, seed)
    return write_rows(path, plan, tokens, labels)
