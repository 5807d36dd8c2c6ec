"""A knowledge base in one SQLite file: full-text search over character bigrams.

    index = Index(folder / "laws.sqlite")
    index.add(documents)
    index.search("内幕交易的罚款是多少", count=5)     # [(passage, score)], the best first

Overlapping bigrams of characters find Chinese text better than words of a dictionary (measured in
benchmarks/README.md). Many processes may read while one writes. A document is added as a whole or
not at all, so a killed run can continue where it stopped.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from finlab import files
from finlab.evaluate.knowledge.passages import Document, Passage, in_force, split

Hit = tuple[Passage, float]  # (passage, score): higher is better

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
RUN = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
COMMIT = 2000  # passages that are written in one transaction
POSTINGS = 2500  # maximum number of passages that the bigrams of one query may match, added up
FEWEST = 4  # bigrams of a query that are always used, even if they are frequent
SAMPLE = 20_000  # passages on which the frequency of bigrams is measured
FREQUENT = 0.002  # share of passages; for rarer bigrams no frequency is stored
GROWTH = 1.3  # a base that has grown or shrunk by this factor is sampled again
MAPPED = 2**32  # bytes of the file that may be mapped into memory
WAIT = 30.0  # seconds that a writer waits for another one

SCHEMA = """
CREATE TABLE IF NOT EXISTS documents(
    id TEXT PRIMARY KEY, work TEXT, date TEXT, digest TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS works ON documents(work, date);
CREATE TABLE IF NOT EXISTS passages(
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, document TEXT, section TEXT, start INT, end INT,
    text TEXT, title TEXT, date TEXT, licence TEXT, source TEXT, url TEXT, work TEXT
);
CREATE INDEX IF NOT EXISTS of_document ON passages(document);
CREATE VIRTUAL TABLE IF NOT EXISTS grams USING fts5(text, content='', tokenize='unicode61');
CREATE TABLE IF NOT EXISTS frequencies(gram TEXT PRIMARY KEY, share REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
COLUMNS = ", ".join(field.name for field in fields(Passage))


def grams(text: str) -> list[str]:
    """Return the bigrams of each run of Chinese characters, and the words of other letters.

    Args:
        text: Any text; letter case does not count.
    """
    found = []
    for match in RUN.finditer(text.lower()):
        run = match[0]
        if run[0] < "\u3400":
            found.append(run)
        elif len(run) == 1:
            found.append(run)
        else:
            found += [run[place : place + 2] for place in range(len(run) - 1)]
    return found


class Index:
    """A knowledge base on disk.

    Args:
        path: The SQLite file; it is created if it is missing. A broken file is renamed to
            `<name>.broken`, and an empty base takes its place.
        cut: Function that cuts a document into passages.

    Attributes:
        path, cut: As in Args.
        broken: New path of a broken file; None if the file was not broken.
    """

    def __init__(self, path: Path, cut: Callable[[Document], list[Passage]] = split):
        self.path = Path(path)
        self.cut = cut
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.broken: Path | None = None
        try:
            self._connection = self._open()
        except sqlite3.OperationalError as error:
            # A full disk, a folder with this name, another writer: the file itself is not broken.
            raise ValueError(f"{self.path} cannot be opened as an index: {error}") from None
        except sqlite3.DatabaseError as error:
            self.broken = self._put_aside()
            print(
                f"{self.path} is not a whole index ({error}): it was put aside as "
                f"{self.broken.name}; its documents are added again"
            )
            self._connection = self._open()

    def _put_aside(self) -> Path:
        """Rename a broken file, and the files that belong to it, to a name that is free."""
        number = 0
        while (aside := self.path.with_name(f"{self.path.name}.broken{number or ''}")).exists():
            number += 1
        self.path.replace(aside)
        for ending in ("-wal", "-shm"):
            beside = self.path.with_name(self.path.name + ending)
            if beside.exists():
                beside.replace(aside.with_name(aside.name + ending))
        return aside

    def _open(self) -> sqlite3.Connection:
        """Open the file, and make its tables where they are missing."""
        connection = sqlite3.connect(self.path, timeout=WAIT, check_same_thread=False)
        try:
            # Readers can continue while a writer works.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            # Search reads a length for every passage that it scores, from memory if there is room.
            connection.execute(f"PRAGMA mmap_size={MAPPED}")
            [(state,)] = connection.execute("PRAGMA quick_check(1)")
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            with connection:
                connection.executescript(SCHEMA)
        except sqlite3.OperationalError as error:
            connection.close()
            if "fts5" in str(error):
                raise ImportError(
                    "this Python's SQLite has no FTS5: use Python from python.org or conda, or "
                    "keep the base in LanceDB (pip install -e '.[knowledge]')"
                ) from None
            raise
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __len__(self) -> int:
        [(count,)] = self._connection.execute("SELECT count(*) FROM passages")
        return count

    # --- writing ---------------------------------------------------------------------------------
    def add(self, documents: Iterable[Document]) -> Counter:
        """Add documents; a document that is already there unchanged is left as it is.

        Args:
            documents: Any number of documents; only a few are in memory at a time.

        Returns:
            How many were `added`, `replaced` (the same id with another content) and `unchanged`.

        Raises:
            ValueError: A document is empty or binary, or two documents have the same id. The
                documents before it have been added.
        """
        counts: Counter = Counter()
        seen: set[int] = set()
        pending: list[tuple[Document, str, list[Passage]]] = []
        size = 0
        try:
            for document in documents:
                own = files.hash64(document.id)
                if own in seen:
                    raise ValueError(
                        f"two documents have the id {document.id}: give each its own, such as its "
                        "path"
                    )
                seen.add(own)
                digest = digest_of(document, self.cut)
                state = self._state(document.id, digest)
                counts[state] += 1
                if state == "unchanged":
                    continue
                pending.append((document, digest, self.cut(document)))
                size += len(pending[-1][2])
                if size >= COMMIT:
                    self._write(pending)
                    pending, size = [], 0
        finally:
            self._write(pending)
        self._sample()
        return counts

    def _state(self, identity: str, digest: str) -> str:
        """Return whether a document is to be `added` or `replaced`, or is `unchanged`."""
        query = "SELECT digest FROM documents WHERE id = ?"
        row = self._connection.execute(query, (identity,)).fetchone()
        if row is None:
            return "added"
        return "unchanged" if row[0] == digest else "replaced"

    def _write(self, pending: list[tuple[Document, str, list[Passage]]]) -> None:
        """Write documents in one transaction.

        Args:
            pending: (document, digest, passages) of each document.
        """
        with self._transaction() as connection:
            for document, digest, passages in pending:
                state = self._state(document.id, digest)
                if state == "unchanged":
                    continue  # another writer has added it
                if state == "replaced":
                    self._remove(document.id)
                row = (document.id, document.work, document.date, digest)
                connection.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", row)
                for passage in passages:
                    marks = ", ".join("?" * len(fields(Passage)))
                    insert = f"INSERT INTO passages({COLUMNS}) VALUES ({marks})"
                    number = connection.execute(insert, _values(passage)).lastrowid
                    insert = "INSERT INTO grams(rowid, text) VALUES (?, ?)"
                    connection.execute(insert, (number, _indexed(passage)))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Lock the file for writing; after an error, the file is as it was before."""
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    def delete(self, document: str) -> bool:
        """Delete a document with all its passages.

        Args:
            document: Id of the document.

        Returns:
            Whether it was there.
        """
        with self._transaction():
            return self._remove(document)

    def _remove(self, document: str) -> bool:
        """Delete a document within a transaction, and return whether it was there."""
        connection = self._connection
        query = f"SELECT number, {COLUMNS} FROM passages WHERE document = ?"
        for number, *values in connection.execute(query, (document,)).fetchall():
            # A full-text table without content needs the old text to delete an entry.
            forget = "INSERT INTO grams(grams, rowid, text) VALUES ('delete', ?, ?)"
            connection.execute(forget, (number, _indexed(Passage(*values))))
        connection.execute("DELETE FROM passages WHERE document = ?", (document,))
        gone = connection.execute("DELETE FROM documents WHERE id = ?", (document,))
        return gone.rowcount > 0

    def _sample(self) -> None:
        """Measure on some passages which bigrams are frequent, if the base has changed in size."""
        count = len(self)
        before = self._fact("sampled", 0)
        if not count or before / GROWTH < count < before * GROWTH:
            return
        [(last,)] = self._connection.execute("SELECT max(number) FROM passages")
        numbers = random.Random(0).sample(range(1, last + 1), min(SAMPLE, last))
        found: Counter = Counter()
        sampled = 0
        for number in sorted(numbers):
            query = f"SELECT {COLUMNS} FROM passages WHERE number = ?"
            row = self._connection.execute(query, (number,)).fetchone()
            if row:
                sampled += 1
                found.update(set(_indexed(Passage(*row)).split()))
        rows = []
        for gram, times in found.items():
            if times / sampled >= FREQUENT:
                rows.append((gram, times / sampled))
        with self._transaction() as connection:
            connection.execute("DELETE FROM frequencies")
            connection.executemany("INSERT INTO frequencies VALUES (?, ?)", rows)
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('sampled', ?)", (count,))
            connection.execute("INSERT INTO grams(grams) VALUES ('optimize')")

    def _fact(self, name: str, default: Any) -> Any:
        """Return a fact that the base stores about itself; `default` if there is none."""
        query = "SELECT value FROM facts WHERE name = ?"
        row = self._connection.execute(query, (name,)).fetchone()
        return row[0] if row else default

    # --- reading ---------------------------------------------------------------------------------
    def get(self, identity: str) -> Passage | None:
        """Return a passage by its id; None where there is none."""
        query = f"SELECT {COLUMNS} FROM passages WHERE id = ?"
        row = self._connection.execute(query, (identity,)).fetchone()
        return Passage(*row) if row else None

    def search(self, query: str, count: int = 5, date: str = "") -> list[Hit]:
        """Return the passages that fit a question best.

        If a work has several versions, only the one in force on the date counts: the newest
        version up to that date. If all versions are later, it is the oldest one.

        Args:
            query: The question.
            count: Maximum number of passages to return.
            date: The day that the question is about, such as 2018-06-30; empty for today.

        Returns:
            (passage, score), the best first. A score is BM25 over bigrams; it grows with the length
            of the question, so scores of two questions cannot be compared (see `tiers.coverage`).
        """
        wanted = self._rarest(grams(query))
        if not wanted:
            return []
        match = " OR ".join(f'"{gram}"' for gram in wanted)
        find = "SELECT rowid, -rank FROM grams WHERE grams MATCH ? ORDER BY rank LIMIT ?"
        # Versions that are not in force are dropped, so ask for more rows if too few are left.
        limit = 4 * count
        while True:
            rows = self._connection.execute(find, (match, limit)).fetchall()
            hits = self._hits(rows, count, date)
            if len(hits) == count or len(rows) < limit:
                return hits
            limit *= 4

    def _hits(self, rows: list[tuple[int, float]], count: int, date: str) -> list[Hit]:
        """Return the first passages of found rows that are in force.

        Args:
            rows: (number, score) of passages, the best first.
            count: Maximum number of passages to return.
            date: The day that the question is about; empty for none.
        """
        hits: list[Hit] = []
        for number, score in rows:
            query = f"SELECT {COLUMNS} FROM passages WHERE number = ?"
            row = self._connection.execute(query, (number,)).fetchone()
            if row is None:
                continue
            passage = Passage(*row)
            if self._in_force(passage, date):
                hits.append((passage, score))
            if len(hits) == count:
                break
        return hits

    def _rarest(self, wanted: list[str]) -> list[str]:
        """Return the rarest bigrams of a query, as many as the limit POSTINGS allows.

        Frequent bigrams, such as 公司 and 的规, cost most of the time and say little.
        """
        unique = list(dict.fromkeys(wanted))
        marks = ", ".join("?" * len(unique))
        query = f"SELECT gram, share FROM frequencies WHERE gram IN ({marks})"
        shares = dict(self._connection.execute(query, unique))
        size = self._fact("sampled", 0)
        unique.sort(key=lambda gram: shares.get(gram, 0.0))
        chosen: list[str] = []
        postings = 0.0
        for gram in unique:
            postings += shares.get(gram, 0.0) * size
            if postings > POSTINGS and len(chosen) >= FEWEST:
                break
            chosen.append(gram)
        return chosen

    def _in_force(self, passage: Passage, date: str) -> bool:
        """Tell whether a passage's document is the version of its work in force on a date."""
        if not passage.work:
            return True
        query = "SELECT date FROM documents WHERE work = ? ORDER BY date"
        dates = [row[0] for row in self._connection.execute(query, (passage.work,))]
        return passage.date == in_force(dates, date)


def digest_of(document: Document, cut: Callable[[Document], list[Passage]]) -> str:
    """Return a hash of a document and of how it is cut, which decides its passages.

    Args:
        document: The document.
        cut: Function that cuts it. The settings of a `functools.partial` go into the hash.
    """
    return files.digest(_values(document), getattr(cut, "keywords", {}))


def _values(row: Document | Passage) -> tuple:
    """Return the values of a document or passage, in the order of its fields."""
    return tuple(vars(row).values())


def _indexed(passage: Passage) -> str:
    """Return the searched text of a passage as bigrams, separated by spaces."""
    return " ".join(grams(passage.searched))
