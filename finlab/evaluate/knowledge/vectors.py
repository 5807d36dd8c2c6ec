"""A knowledge base in LanceDB: full text and vectors, for bases that outgrow one file.

    index = VectorIndex(folder / "laws.lance", load_embedder("BAAI/bge-small-zh-v1.5"))
    index.add(documents)
    index.search("内幕交易的罚款", count=5)     # the same methods as `index.Index`

Words and meaning are searched separately, and the two rankings are joined by reciprocal rank fusion
(Cormack et al., SIGIR 2009). LanceDB stores a base in a folder or in an object store. The extra
`knowledge` installs LanceDB and sentence-transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from finlab.evaluate.knowledge.index import Hit, Index, digest_of, grams
from finlab.evaluate.knowledge.passages import Document, Passage, in_force, split
from finlab.evaluate.knowledge.tiers import Searchable

if TYPE_CHECKING:
    import pyarrow

Embed = Callable[[list[str]], numpy.ndarray]  # texts to unit vectors, float32 [texts, size]
Score = Callable[[str, list[str]], list[float]]  # a question and texts to a score for each
RECIPROCAL = 60  # the constant of reciprocal rank fusion, as published
AT_ONCE = 2000  # passages that are embedded and written at once
TABLE = "passages"
NAMES = [field.name for field in fields(Passage)]


def _load(kind: str, source: str, what: str) -> Any:
    """Load a model of sentence-transformers.

    Args:
        kind: Name of the class in the library.
        source: A folder or a hub id.
        what: The kind of model that an error message names.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: There is no such model.
    """
    try:
        import sentence_transformers
    except ImportError:
        raise ImportError(
            f"the {what} model needs sentence-transformers: pip install -e '.[knowledge]'"
        ) from None
    try:
        return getattr(sentence_transformers, kind)(source)
    except Exception as error:  # a broken folder can raise any error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise ValueError(f"no {what} model in '{source}' ({reason})") from None


def load_embedder(source: str) -> Embed:
    """Return the function that turns texts into vectors; raises as `_load` does.

    Args:
        source: A folder or a hub id of a sentence-transformers model.
    """
    model = _load("SentenceTransformer", source, "embedding")

    def embed(texts: list[str]) -> numpy.ndarray:
        return model.encode(
            texts, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )

    return embed


def load_reranker(source: str) -> Score:
    """Return the function that scores how well texts answer a question; raises as `_load` does.

    Args:
        source: A folder or a hub id of a cross-encoder for sentence-transformers.
    """
    model = _load("CrossEncoder", source, "reranking")

    def score(question: str, texts: list[str]) -> list[float]:
        pairs = [(question, text) for text in texts]
        return [float(each) for each in model.predict(pairs, show_progress_bar=False)]

    return score


class Reranked:
    """A source whose passages are sorted by a second model.

    Args:
        source: The index to search.
        score: Function that scores how well texts answer a question.
        depth: How many passages are scored for each passage that is wanted.
    """

    def __init__(self, source: Searchable, score: Score, depth: int = 4):
        self.source = source
        self.score = score
        self.depth = depth

    def search(self, query: str, count: int = 5, date: str = "") -> list[Hit]:
        """Return the passages that answer a question best, as `Index.search` does."""
        hits = self.source.search(query, self.depth * count, date)
        if not hits:
            return []
        passages = [passage for passage, _ in hits]
        scores = self.score(query, [passage.text for passage in passages])
        order = sorted(range(len(hits)), key=lambda place: -scores[place])
        return [(passages[place], scores[place]) for place in order[:count]]


def open_base(
    path: Path, embedder: str = "", cut: Callable[[Document], list[Passage]] = split
) -> Index | VectorIndex:
    """Open a knowledge base: in one SQLite file, or in LanceDB where an embedder is named.

    Args:
        path: Path of the base, without a suffix.
        embedder: A folder or hub id of an embedding model; empty searches words only.
        cut: Function that cuts a document into passages.
    """
    if not embedder:
        return Index(path.with_suffix(".sqlite"), cut)
    return VectorIndex(path.with_suffix(".lance"), load_embedder(embedder), cut)


class VectorIndex:
    """A knowledge base in LanceDB.

    Args:
        path: Folder of the base; it is created if it is missing.
        embed: Function that turns texts into vectors.
        cut: Function that cuts a document into passages.
    """

    def __init__(self, path: Path, embed: Embed, cut: Callable[[Document], list[Passage]] = split):
        try:
            import lancedb
        except ImportError:
            raise ImportError("this base needs LanceDB: pip install -e '.[knowledge]'") from None
        self.embed = embed
        self.cut = cut
        size = embed(["一"]).shape[1]
        self._table = lancedb.connect(str(path)).create_table(
            TABLE, schema=_schema(size), exist_ok=True
        )

    def __len__(self) -> int:
        return self._table.count_rows()

    def close(self) -> None:
        """Do nothing, since LanceDB keeps no file open."""

    # --- writing ---------------------------------------------------------------------------------
    def add(self, documents: Iterable[Document]) -> Counter:
        """Add documents, as `Index.add` does.

        Args:
            documents: Any number of documents.

        Returns:
            How many were `added`, `replaced` and `unchanged`.

        Raises:
            ValueError: A document is empty or binary, or two documents have the same id.
        """
        known = self._digests()
        counts: Counter = Counter()
        seen: set[str] = set()
        pending: list[tuple[Passage, str]] = []
        try:
            for document in documents:
                if document.id in seen:
                    raise ValueError(f"two documents have the id {document.id}: give each its own")
                seen.add(document.id)
                digest = digest_of(document, self.cut)
                if known.get(document.id) == digest:
                    counts["unchanged"] += 1
                    continue
                for passage in self.cut(document):
                    pending.append((passage, digest))
                counts["replaced" if document.id in known else "added"] += 1
                if len(pending) >= AT_ONCE:
                    self._write(pending, known)
                    pending = []
        finally:
            self._write(pending, known)
            if len(self):
                self._table.create_fts_index("grams", replace=True, base_tokenizer="whitespace")
        return counts

    def _digests(self) -> dict[str, str]:
        """Return {document: digest} of the documents in the base."""
        table = self._table.search().select(["document", "digest"]).limit(len(self) or 1).to_arrow()
        return dict(zip(table["document"].to_pylist(), table["digest"].to_pylist(), strict=True))

    def _write(self, pending: list[tuple[Passage, str]], known: dict[str, str]) -> None:
        """Write passages with their bigrams and vectors, and delete the ones they replace.

        Args:
            pending: (passage, digest of its document) of each passage.
            known: {document: digest} of the documents that were there before.
        """
        if not pending:
            return
        vectors = self.embed([passage.searched for passage, _ in pending])
        rows = []
        for (passage, digest), vector in zip(pending, vectors, strict=True):
            row = asdict(passage) | {"digest": digest, "vector": vector.tolist()}
            rows.append(row | {"grams": " ".join(grams(passage.searched))})
        # Delete the old passages only now, when all rows that replace them are ready.
        for document in {row["document"] for row in rows} & set(known):
            self.delete(document)
        self._table.add(rows)

    def delete(self, document: str) -> bool:
        """Delete a document with all its passages, and return whether it was there."""
        before = len(self)
        self._table.delete(f"document = {_quoted(document)}")
        return len(self) < before

    # --- reading ---------------------------------------------------------------------------------
    def get(self, identity: str) -> Passage | None:
        """Return a passage by its id; None where there is none."""
        rows = self._table.search().where(f"id = {_quoted(identity)}").limit(1).to_list()
        return _passage(rows[0]) if rows else None

    def search(self, query: str, count: int = 5, date: str = "") -> list[Hit]:
        """Return the passages that fit a question best, by words and by meaning.

        Args:
            query: The question.
            count: Maximum number of passages to return.
            date: The day that the question is about, see `Index.search`.

        Returns:
            (passage, score), the best first; a score is the sum of reciprocal ranks.
        """
        if not len(self):
            return []
        wanted = 8 * count
        [vector] = self.embed([query])
        rankings = [self._table.search(vector).limit(wanted).to_list()]
        words = " ".join(grams(query))
        if words:
            rankings.append(self._table.search(words, query_type="fts").limit(wanted).to_list())
        scores: Counter = Counter()
        found: dict[str, Passage] = {}
        for ranking in rankings:
            for rank, row in enumerate(ranking, 1):
                found[row["id"]] = _passage(row)
                scores[row["id"]] += 1 / (RECIPROCAL + rank)
        hits = [(found[identity], score) for identity, score in scores.most_common()]
        return [hit for hit in hits if self._in_force(hit[0], date)][:count]

    def _in_force(self, passage: Passage, date: str) -> bool:
        """Tell whether a passage's document is the version of its work in force on a date."""
        if not passage.work:
            return True
        same = f"work = {_quoted(passage.work)}"
        versions = self._table.search().where(same).select(["date"]).limit(len(self))
        dates = versions.to_arrow()["date"].to_pylist()
        return passage.date == in_force(dates, date)


def _schema(size: int) -> pyarrow.Schema:
    """Return the columns of a base whose vectors have `size` dimensions."""
    import pyarrow

    whole = {"start", "end"}
    columns = {name: pyarrow.int64() if name in whole else pyarrow.string() for name in NAMES}
    columns |= {"digest": pyarrow.string(), "grams": pyarrow.string()}
    return pyarrow.schema(columns | {"vector": pyarrow.list_(pyarrow.float32(), size)})


def _passage(row: dict[str, Any]) -> Passage:
    """Return a row of the table as a passage."""
    return Passage(**{name: row[name] for name in NAMES})


def _quoted(text: str) -> str:
    """Return a text in quotes, as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
