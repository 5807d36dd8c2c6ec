"""A chat over several turns, with history, undo, sources, and a file to save it in.

talk = Talk(backends.open_backend("runs/smoke/dpo/artifact/model"))
talk.answer("恒信银行的总部在哪里？")
talk.answer("它是哪一年成立的？")       # the model sees the turn before
talk.save(Path("talk.jsonl"))          # a row that a dialogue card can read
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from finlab import files
from finlab.evaluate.chat.backends import Backend, Settings
from finlab.evaluate.knowledge import citing, tiers
from finlab.evaluate.knowledge.index import Index
from finlab.evaluate.knowledge.tiers import Found, Tier

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all except tab and newline
BASES = ("domain", "customer")  # the bases of a knowledge step, in the order they are asked
PASSAGES = 2  # passages in a prompt


@dataclass
class Knowledge:
    """The knowledge bases that a chat searches.

    Attributes:
        tiers: The bases, in the order in which they are asked.
        passages: How many passages go into the prompt.
    """

    tiers: list[Tier]
    passages: int = PASSAGES

    def consult(self, question: str) -> Found:
        """Return the passages that the bases hold on a question."""
        date = tiers.date_of(question)
        return tiers.consult(question, self.tiers, self.passages, date)


def open_knowledge(sources: list[str], threshold: float | None = None) -> Knowledge:
    """Open the bases that a user names.

    Args:
        sources: Folders of knowledge steps, or single .sqlite files.
        threshold: Minimum coverage of a question's wording, from 0 to 1, at which a base answers.
            None takes the threshold that the knowledge step measured.

    Raises:
        ValueError: A base does not exist, or its threshold was not measured.
    """
    found = []
    for source in sources:
        place = Path(source).expanduser()
        files_of = [place]
        if place.is_dir():
            folder = place / "artifact" if (place / "artifact").is_dir() else place
            files_of = [folder / f"{name}.sqlite" for name in BASES]
            files_of = [path for path in files_of if path.exists()]
        if not files_of or not files_of[0].is_file():
            raise ValueError(
                f"no knowledge base at {source}: name a .sqlite file, or the folder of a "
                "knowledge step such as runs/smoke/knowledge"
            )
        for path in files_of:
            _require_base(path)
            least = threshold if threshold is not None else _measured_threshold(path)
            found.append(Tier(path.stem, Index(path), least))
    return Knowledge(found)


def _require_base(path: Path) -> None:
    """Raise ValueError if a file is not an intact base.

    Without this check, `Index` would rename the file and start an empty base.

    Args:
        path: The file.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        ) as base:
            [(state,)] = base.execute("PRAGMA quick_check(1)")
            base.execute("SELECT 1 FROM passages LIMIT 1")
    except sqlite3.Error as error:
        state = str(error)
        if "locked" in state:
            return
    else:
        if state == "ok":
            return
    raise ValueError(
        f"{path} is not a whole knowledge base ({state}): run the knowledge step again, or name "
        "another file"
    )


def _measured_threshold(path: Path) -> float:
    """Return the threshold that the knowledge step measured for a base."""
    metrics = path.parent.parent / "metrics.json"
    if metrics.exists():
        try:
            measured = files.read_json(metrics).get("thresholds", {})
        except ValueError:
            raise ValueError(f"{metrics} is damaged: run the knowledge step again") from None
        if path.stem in measured:
            return float(measured[path.stem]["threshold"])
    raise ValueError(
        f"{path}: from which coverage on it answers has not been measured; notebook 08 measures "
        "it, or say --threshold 0.6"
    )


def clean(text: str) -> str:
    """Return a text with "?" for each half character (surrogate) that a terminal gave."""
    return text.encode("utf-8", "replace").decode("utf-8")


def readable(pieces: Iterator[str]) -> Iterator[str]:
    """Yield pieces of an answer that are safe to show in a terminal and to save in a file.

    A character whose two halves come in two pieces is joined. A single half becomes "\ufffd".
    Control characters, which could change the terminal, are left out.

    Args:
        pieces: The pieces in the order in which they come.
    """
    held = ""
    for piece in pieces:
        piece = held + piece
        held = piece[-1:] if "\ud800" <= piece[-1:] <= "\udbff" else ""
        piece = piece[: len(piece) - len(held)]
        piece = piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        piece = CONTROL.sub("", piece)
        if piece:
            yield piece
    if held:
        yield "\ufffd"


@dataclass
class Talk:
    """A dialogue with a model.

    Attributes:
        model: The model that answers.
        system: The system message; empty uses the template's own.
        settings: max_new_tokens, temperature, top_p; the model's own value is used for a missing
            one.
        knowledge: The bases that are searched for each question; None for none.
        messages: The messages so far, without the system message.
        found: What the bases gave for the last question; None without bases.
    """

    model: Backend
    system: str = ""
    settings: Settings = field(default_factory=dict)
    knowledge: Knowledge | None = None
    messages: list[dict] = field(default_factory=list)
    found: Found | None = None

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer to a question, piece by piece.

        An answer that breaks off is kept as far as it came. If an answer never began, neither the
        question nor the answer is kept.

        Args:
            question: What the user says.

        Raises:
            ValueError: There is no answer, or the chat is longer than the model's context.
        """
        question = clean(question).strip()
        if not question:
            raise ValueError("the question is empty: write something")
        self.found = self.knowledge.consult(question) if self.knowledge else None
        pieces = self._looked_up(question) if self.found else self._plain(question)
        said = ""
        try:
            for piece in readable(pieces):
                said += piece
                yield piece
        finally:
            if said.strip():
                turn = {"role": "assistant", "content": said.strip()}
                self.messages += [{"role": "user", "content": question}, turn]
        if not said.strip():
            raise ValueError(f"{self.model.name} ended its answer at once: ask in other words")

    def answer(self, question: str) -> str:
        """Return the whole answer to a question."""
        return "".join(self.ask(question)).strip()

    def reply(self, question: str) -> str:
        """Return the answer, or a sentence that says why there is none. Made for notebooks."""
        try:
            return self.answer(question)
        except ValueError as error:
            return str(error)

    def _plain(self, question: str) -> Iterator[str]:
        """Yield the model's answer without passages."""
        last = {"role": "user", "content": question}
        return self.model.stream([*self._opening(), *self.messages, last], self.settings)

    def _looked_up(self, question: str) -> Iterator[str]:
        """Yield an answer that its passages support; it is checked before it is shown.

        Args:
            question: The question. The model sees it with its passages but without earlier turns,
                since it was tuned on one question at a time.
        """
        if not self.found.hits:
            yield citing.NOT_FOUND[citing.language_of(question)]
            return
        prompt = citing.prompt(question, self.found.passages)
        said = "".join(self.model.stream([*self._opening(), *prompt], self.settings))
        yield citing.guarded(said.strip(), self.found.passages, question)

    def _opening(self) -> list[dict]:
        """Return the system message in a list; empty if there is none."""
        system = clean(self.system)
        return [{"role": "system", "content": system}] if system else []

    def sources(self) -> list[str]:
        """Return the sources that the last answer cites, one line for each."""
        if not self.found or not self.messages:
            return []
        said = self.messages[-1]["content"]
        lines = []
        for number, passage in enumerate(self.found.passages, 1):
            if f"[{number}]" in said:
                link = f" {passage.url}" if getattr(passage, "url", "") else ""
                lines.append(f"[{number}] {passage.reference}{link} ({self.found.tier})")
        return lines

    def undo(self) -> str:
        """Remove the last question and its answer, and return the question.

        Raises:
            ValueError: Nothing was said yet.
        """
        if not self.messages:
            raise ValueError("nothing was said yet, so there is nothing to take back")
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        self.found = None
        return question

    def clear(self) -> None:
        """Remove all messages; the system message stays."""
        self.messages = []
        self.found = None

    def save(self, path: Path) -> Path:
        """Append the chat to a file of JSON lines, as one row that a dialogue card can read.

        Args:
            path: The file; the rows that it already has stay.

        Raises:
            ValueError: Nothing was said yet, or the file cannot be written.
        """
        if not self.messages:
            raise ValueError("nothing was said yet, so there is nothing to save")
        path = Path(path).expanduser()
        if path.is_dir() or not os.access(path.parent if not path.exists() else path, os.W_OK):
            raise ValueError(f"{path} cannot be written: name a file in a folder that exists")
        files.append_jsonl(path, {"messages": [*self._opening(), *self.messages]})
        return path
