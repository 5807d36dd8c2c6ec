"""A ledger of dialogues and preference pairs: what happened to each row, and its tokens.

    account = Account(read=[9, 4, 7])
    account.mark([2], "longer than max_length")
    account.mark(account.still_in(), LEARNT)
    status_ledger({"stage1": account})

An account holds columns of numbers only, so ten million rows take 130 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy

from finlab import files

LEARNT, HELD_OUT = "learnt", "held out"
KINDS = ("general", "finance", "safety")


class Account:
    """The size of each row as read, its size now, and its status: what happened to it.

    Attributes:
        read: Number of tokens of each row as read, int32 [rows].
        tokens: Number of tokens of each row now, after shortening, int32 [rows].
        kinds: Index of each row's kind in KINDS, int8 [rows]; None if rows have no kind.
    """

    def __init__(self, read: Sequence[int] | numpy.ndarray, kinds: numpy.ndarray | None = None):
        self.read = numpy.asarray(read, numpy.int32)
        self.tokens = self.read.copy()
        self.kinds = kinds
        self._statuses = [""]
        self._codes = numpy.zeros(len(self.read), numpy.int32)

    def __len__(self) -> int:
        return len(self.read)

    def mark(self, places: Sequence[int] | numpy.ndarray, status: str) -> None:
        """Give rows a status; a row that already has one keeps it.

        Args:
            places: Indices of the rows.
            status: What happened to them, such as LEARNT or a reason to leave them out.
        """
        if status not in self._statuses:
            self._statuses.append(status)
        places = numpy.asarray(places, numpy.int64)
        open_places = places[self._codes[places] == 0]
        self._codes[open_places] = self._statuses.index(status)

    def still_in(self) -> numpy.ndarray:
        """Return the indices of the rows without a status, int64, in order."""
        return self.of("")

    def of(self, status: str) -> numpy.ndarray:
        """Return the indices of the rows with a given status, int64, in order."""
        if status not in self._statuses:
            return numpy.empty(0, numpy.int64)
        return numpy.flatnonzero(self._codes == self._statuses.index(status))

    def status(self, place: int) -> str:
        """Return the status of a row; an empty string if it has none yet."""
        return self._statuses[self._codes[place]]

    def counts(self) -> dict[str, int]:
        """Return how many rows have each status, the most common first."""
        counts = numpy.bincount(self._codes, minlength=len(self._statuses))
        found = {status: int(counts[code]) for code, status in enumerate(self._statuses)}
        ordered = sorted(found.items(), key=lambda item: -item[1])
        return {status: count for status, count in ordered if count}


def status_ledger(groups: dict[str, Account]) -> list[dict]:
    """Return ledger lines that account for every row and token of each group.

    The lines of a group are: what was read, what was cut from long rows, then each status.

    Args:
        groups: {group: account}.

    Returns:
        Lines {group, what, rows, tokens}.

    Raises:
        ValueError: A row has no status, so the account does not close.
    """
    lines = []
    for group, account in groups.items():
        missing = len(account.still_in())
        if missing:
            raise ValueError(
                f"{missing} rows of {group} have no status: the account does not close"
            )
        read = int(account.read.sum(dtype=numpy.int64))
        cut = account.read - account.tokens
        lines.append({"group": group, "what": "read", "rows": len(account), "tokens": read})
        line = {"group": group, "what": "cut from the ends of long ones"}
        line["tokens"] = int(cut.sum(dtype=numpy.int64))
        lines.append({**line, "rows": int((cut != 0).sum())})
        for status, count in account.counts().items():
            tokens = int(account.tokens[account.of(status)].sum(dtype=numpy.int64))
            lines.append({"group": group, "what": status, "rows": count, "tokens": tokens})
    return lines


def write_status(path: Path, groups: dict[str, tuple[Iterable[str], Account]]) -> None:
    """Write the status of each row as JSON lines {group, id, kind, status, read, tokens}.

    Args:
        path: The file to write.
        groups: {group: (ids of its rows, their account)}. If the account has no kinds, its lines
            have no `kind`.
    """
    files.write_jsonl(path, _status_lines(groups))


def _status_lines(groups: dict[str, tuple[Iterable[str], Account]]) -> Iterator[dict]:
    """Yield the lines that `write_status` writes."""
    for group, (ids, account) in groups.items():
        for place, identity in enumerate(ids):
            line = {"group": group, "id": identity}
            if account.kinds is not None:
                line["kind"] = KINDS[account.kinds[place]]
            line["status"] = account.status(place)
            line["read"] = int(account.read[place])
            line["tokens"] = int(account.tokens[place])
            yield line
