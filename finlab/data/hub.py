"""Fetch data from the Hugging Face hub once, and keep it on this machine.

A card with `hub: owner/name` is read in one of two ways:

    config, split    `datasets` streams the rows. They are written in parts, each with the position
                     in the stream after it, so a killed run continues after its last part
    data_files       whole files of the repository are fetched. After a lost connection, a file
                     continues at the last byte; after a killed process, it is fetched from the
                     beginning. A file is checked against the hash that the hub gives, after it is
                     fetched and again whenever it has changed

    hub.fetch(card)             # fetch what is missing; hub_state.held(card) says what is here
    hub.rows(card)              # the rows of a streamed card
    hub.files(card)             # the files of a card with data_files

Both are kept in a folder of the cache (see `paths.cache`). Its name depends on the card's address,
so another revision has another folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from finlab import files as records
from finlab.data import hub_errors, hub_files, hub_state
from finlab.data.card_schema import Card
from finlab.data.file_text import Rows
from finlab.data.hub_errors import Report
from finlab.run import locks

if TYPE_CHECKING:
    from datasets import IterableDataset

# Bytes of JSON lines in a part before compression. A killed run loses at most this much.
PART_BYTES = 32_000_000
LONGEST_FETCH = 24 * 3600  # seconds to wait for another process that is fetching
# After this many rows, kept or not, the position in the stream is written down.
PART_ROWS = 200_000


# --- what other modules call ---------------------------------------------------------------------
def fetch(card: Card, report: Report = hub_errors.quiet) -> None:
    """Fetch the missing data of a hub card; data that is already here is not fetched again.

    Args:
        card: The card.
        report: Called with lines about the progress.

    Raises:
        ValueError: The card's address is wrong, a file is damaged, or the disk is too small.
        ConnectionError: The hub does not answer. What was fetched so far is kept.
    """
    if card.spec.get("data_files"):
        files(card, report)
        return
    for _ in rows(card, report):
        pass


def rows(card: Card, report: Report = hub_errors.quiet) -> Rows:
    """Yield (row number from 1, row) of a streamed card, from the cache and then from the hub.

    Args:
        card: The card.
        report: Called with lines about the progress.

    Raises:
        ValueError, ConnectionError: As for `fetch`.
    """
    place = 0
    for part_rows in _parts(card, report):
        for row in part_rows:
            place += 1
            yield place, row


def files(card: Card, report: Report = hub_errors.quiet) -> list[Path]:
    """Return the files that a card's `data_files` name; missing files are fetched first.

    Args:
        card: The card.
        report: Called with lines about the progress.

    Raises:
        ValueError, ConnectionError: As for `fetch`.
    """
    folder = hub_state.folder(card)
    index = hub_state.read_index(folder)
    if index["complete"] and not hub_files.damaged(folder, index):
        hub_files.remember_times(folder, index)
    else:
        if locks.is_held(folder):
            report(f"{card.name}: another process fetches it, and is waited for")
        with locks.holding(folder, seconds=LONGEST_FETCH):
            hub_files.forget_damaged(card, folder, report)
            if not hub_state.read_index(folder)["complete"]:
                wanted = hub_errors.of_card(card)
                hub_errors.persist(wanted, lambda: hub_files.fetch(card, folder, report), report)
            index = hub_state.read_index(folder)
    return [folder / "files" / name for name in sorted(index["files"])]


# --- streamed rows -------------------------------------------------------------------------------
def _parts(card: Card, report: Report) -> Iterator[Iterable[dict]]:
    """Yield the rows of each part: first the parts that are here, then the new parts.

    Args:
        card: The card.
        report: Called with lines about the progress.
    """
    folder = hub_state.folder(card)
    read = 0
    patience = LONGEST_FETCH
    while True:
        # A part that the index names never changes, so it can be read without a lock.
        index = hub_state.read_index(folder)
        for part in index["parts"][read:]:
            yield _read_part(folder, part, card)
            read += 1
            patience = LONGEST_FETCH
        if index["complete"]:
            return
        try:
            locks.hold(folder)
        except locks.Busy:
            # Another process is fetching. Its parts are read as soon as they are written.
            if patience == LONGEST_FETCH:
                report(f"{card.name}: another process fetches it, and is waited for")
            if patience == 0:
                raise
            patience -= 1
            time.sleep(1)
            continue
        try:
            if len(hub_state.read_index(folder)["parts"]) == read:
                yield from _new_parts(card, folder, report)
                return
        finally:
            locks.release(folder)


def _read_part(folder: Path, part: dict[str, Any], card: Card) -> Iterator[dict]:
    """Check the hash of a part, then yield its rows.

    Args:
        folder: The card's folder in the cache.
        part: The part's record in the index, {file, digest, rows, bytes}.
        card: The card, for errors.
    """
    path = folder / part["file"]
    if not path.exists() or records.file_digest(path) != part["digest"]:
        raise ValueError(
            f"card {card.name}: {path} is missing or changed since it was written: "
            f"delete {folder} and fetch it again"
        )
    with pyarrow.input_stream(str(path), compression="zstd") as file:
        for line in file.read().split(b"\n"):
            yield json.loads(line)


def _new_parts(card: Card, folder: Path, report: Report) -> Iterator[list[dict]]:
    """Yield the rows that are not here yet, one part at a time, after the part is on disk.

    Args:
        card: The card.
        folder: The card's folder in the cache, locked by this process.
        report: Called with lines about the progress.
    """
    stream: Iterator[list[dict]] | None = None

    def next_part() -> list[dict]:
        nonlocal stream
        if stream is None:
            stream = _stream_parts(card, folder, report)
        try:
            return next(stream, [])
        except BaseException:
            # A generator that has raised cannot continue. A new one begins after the last part.
            stream = None
            raise

    while not hub_state.read_index(folder)["complete"]:
        yield hub_errors.persist(hub_errors.of_card(card), next_part, report)


def _stream_parts(card: Card, folder: Path, report: Report) -> Iterator[list[dict]]:
    """Stream the rows that come after the last part, and write them in new parts.

    Args:
        card: The card.
        folder: The card's folder in the cache.
        report: Called with one line for each part.

    Yields:
        The rows of each new part, exactly as they can be read from it later.
    """
    index = hub_state.read_index(folder)
    stream = _open_stream(card, index)
    if index["state"]:
        stream.load_state_dict(index["state"])
    limit = card.spec.get("max_bytes") or float("inf")
    where = card.spec.get("where", {})
    held = sum(part["bytes"] for part in index["parts"])
    lines: list[bytes] = []
    size = read = 0
    for row in stream:
        read += 1
        if _is_wanted(row, where):
            line = json.dumps(row, ensure_ascii=False, default=str)
            # Half a character (a lone surrogate) is written as its JSON escape.
            lines.append(line.encode("utf-8", "backslashreplace"))
            size += len(lines[-1])
        full = held + size >= limit
        if full or size >= PART_BYTES or read >= PART_ROWS:
            _write_part(folder, index, lines, size, stream.state_dict(), complete=full)
            yield [json.loads(line) for line in lines]
            held += size
            report(f"{card.name}: {records.size_text(held)} of rows are here")
            lines, size, read = [], 0, 0
            if full:
                return
    _write_part(folder, index, lines, size, stream.state_dict(), complete=True)
    yield [json.loads(line) for line in lines]


def _open_stream(card: Card, index: dict[str, Any]) -> IterableDataset:
    """Open a card's dataset as a stream of rows, with the columns that are needed.

    Args:
        card: The card.
        index: The index of its folder; its `revision` is set.

    Raises:
        ValueError: The dataset cannot be streamed with this config and split.
        ConnectionError: The hub does not answer.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    revision = hub_errors.pinned_revision(card, index)
    split = card.spec.get("split", "train")
    try:
        stream = datasets.load_dataset(
            card.spec["hub"],
            card.spec.get("config"),
            split=split,
            revision=revision,
            streaming=True,
        )
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        if hub_errors.is_of_network(error):
            raise ConnectionError(str(error)) from error
        if isinstance(error, DatasetNotFoundError):
            raise  # it does not exist or is gated; `persist` makes the error for the user
        reason = str(error).strip().splitlines()[0][:300]
        raise ValueError(
            f"card {card.name}: {card.spec['hub']} cannot be streamed ({reason}): "
            "correct `config:` or `split:`"
        ) from None
    wanted = _needed_columns(card)
    present = stream.column_names
    if wanted and present and set(wanted) <= set(present):
        return stream.select_columns(wanted)
    return stream


def _needed_columns(card: Card) -> list[str]:
    """Return the names of the columns that a card needs; an empty list for all columns."""
    fields = card.spec.get("text", "text")
    fields = fields if isinstance(fields, list) else [fields]
    if card.kind != "text" or not all(isinstance(name, str) for name in fields):
        return []
    columns = [name.split(".")[0] for name in fields]
    return list(dict.fromkeys([*columns, *card.spec.get("where", {})]))


def _is_wanted(row: dict, where: dict[str, list]) -> bool:
    """Tell whether a row has one of the wanted values in each column of a card's `where`."""
    return all(row.get(column) in values for column, values in where.items())


def _write_part(
    folder: Path,
    index: dict[str, Any],
    lines: list[bytes],
    size: int,
    state: dict[str, Any],
    complete: bool,
) -> None:
    """Write rows as a part, and then the position in the stream after them.

    Args:
        folder: The card's folder in the cache.
        index: The index of the folder; it is changed and written.
        lines: The rows as JSON in UTF-8; with no rows, no part is written.
        size: Total size of `lines` in bytes.
        state: Position of the stream after the last row.
        complete: Whether this is the last part.
    """
    if lines:
        name = f"part-{len(index['parts']):05d}.jsonl.zst"
        draft = folder / f"{name}.draft"
        with pyarrow.output_stream(str(draft), compression="zstd") as file:
            file.write(b"\n".join(lines))
        records.flush_to_disk(draft)
        draft.rename(folder / name)
        digest = records.file_digest(folder / name)
        index["parts"].append({"file": name, "digest": digest, "rows": len(lines), "bytes": size})
    index["state"] = state
    index["complete"] = complete
    hub_state.write_index(folder, index)
