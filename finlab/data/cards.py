"""Data cards: the only door through which data enters.

A card is a Hugging Face dataset card, `data_cards/<name>.md`. Its YAML front matter has a `license`
and one `finlab:` block:

    finlab:
      domain: finance            # finance or general
      language: zh               # zh or en
      kind: text                 # text, dialogue, preference, exam, question, or label
                                 # (texts with `bad: true` or `bad: false`)
      files: [text/laws/**/*.md] # globs below FINLAB_DATA (or below `root: closed_world` or
                                 # `root: data_cards`); or `hub: owner/name`
      format: markdown           # jsonl, json, csv, tsv, text, markdown, parquet, arrow, html,
                                 # pdf, or the layout of an exam, such as ceval or cmmlu
      benchmark: fineval         # the published exam that this is: its sizes are checked (optional)
      partial: true              # only some of its subjects (optional)
      rows: "data.*.context"     # where the rows are in a JSON file (optional)
      dialogue: disc             # the format of dialogues, a name of dialogues.FORMATS; without it
                                 # each row's own is detected (optional)
      text: input                # the field that holds the text (default `text`)
      encoding: gb18030          # of the files, where it is not UTF-8; they may be .gz or .zst
      rules: {min_chars: 20}     # thresholds and rules of cleaning, see finlab.data.cleaning
      knowledge: true            # books and encyclopaedias: read first in a knowledge-first mixture
      sha256: ...                # of the files' contents; checked when it is there (optional)

    source = cards.load("cw_news")   # source.rows: a datasets.Dataset; source.quarantined: the rest
    rows = cards.stream(cards.read("cw_news"), quarantined)   # the same rows, one by one
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import DatasetCard

from finlab import files, paths
from finlab.data import cleaning, dialogues, exam_layouts, readers, schemas
from finlab.run import step

if TYPE_CHECKING:
    from datasets import Dataset

LANGUAGES = ("zh", "en")
OTHER_KEYS = (
    "files",
    "root",
    "hub",
    "rows",
    "text",
    "sha256",
    "split",
    "benchmark",
    "partial",
    "encoding",
    "rules",
    "knowledge",
    "dialogue",
)


@dataclass(frozen=True)
class Card:
    """A data card: its name, its licence, its `finlab:` block and its Markdown text.

    Attributes:
        name: Its file's name.
        licence: As the card states it.
        spec: The `finlab:` block.
        text: What stands below it, in Markdown.
    """

    name: str
    licence: str
    spec: dict[str, Any]
    text: str

    @property
    def domain(self) -> str:
        """`finance` or `general`."""
        return self.spec["domain"]

    @property
    def language(self) -> str:
        """`zh` or `en`."""
        return self.spec["language"]

    @property
    def kind(self) -> str:
        """What its rows are, a name of schemas.SCHEMAS."""
        return self.spec["kind"]

    def paths(self) -> list[Path]:
        """Return the files of the card, sorted.

        Raises:
            ValueError: No file matches, or FINLAB_DATA is not set.
        """
        root = _root(self)
        found: set[Path] = set()
        for pattern in self.spec["files"]:
            found.update(map(Path, glob.glob(str(root / pattern), recursive=True)))
        if not found:
            raise ValueError(
                f"card {self.name}: no file matches {', '.join(self.spec['files'])} below {root}: "
                "correct the card or FINLAB_DATA"
            )
        return sorted(found)

    def fingerprint(self) -> str:
        """Return a hash of the card and of its files' names, sizes and times."""
        listing = "" if "hub" in self.spec else files.fingerprint(self.paths())
        return files.digest(self.licence, self.spec, listing)[:16]


@dataclass
class Source:
    """A loaded card: its rows, and what could not be read, each with file, line and reason."""

    card: Card
    rows: Dataset
    quarantined: list[dict] = field(default_factory=list)


def _root(card: Card) -> Path:
    """Return the folder that the globs of a card start from."""
    if card.spec.get("root") == "closed_world":
        return paths.CLOSED_WORLD
    if card.spec.get("root") == "data_cards":
        return paths.data_cards()
    folder = paths.real_data()
    if folder is None:
        raise ValueError(
            f"card {card.name} reads files below FINLAB_DATA, which is not set: "
            "export FINLAB_DATA=/folder/with/the/data"
        )
    return folder


# --- reading a card ------------------------------------------------------------------------------
def names() -> list[str]:
    """Return the names of all cards."""
    stems = [path.stem for path in paths.data_cards().glob("*.md")]
    return sorted(stem for stem in stems if not stem.startswith("_") and stem != "README")


def read(name: str) -> Card:
    """Read and check one card.

    Raises:
        ValueError: The card is missing, states no licence, or has a key out of place. The error
            names the file and the key.
    """
    path = paths.data_cards() / f"{name}.md"
    if not path.exists():
        raise ValueError(
            f"there is no data card '{name}' in {paths.data_cards()}: "
            f"write {path.name} first (no card, no data)"
        )
    try:
        card = DatasetCard(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: the front matter is not YAML: {reason}") from None
    except ValueError:
        raise ValueError(f"{path}: the front matter is not made of `key: value` lines") from None
    front = card.data.to_dict()
    if not front:
        raise ValueError(f"{path}: begin the card with YAML front matter between two lines of ---")
    if not front.get("license"):
        raise ValueError(
            f"{path}: the card states no license, so the data stays out: add a `license:` line"
        )
    spec = front.get("finlab")
    if not isinstance(spec, dict):
        raise ValueError(f"{path}: the card has no `finlab:` block")
    _check_spec(spec, path)
    return Card(name, str(front["license"]), spec, card.text)


def _check_spec(spec: dict[str, Any], path: Path) -> None:
    """Refuse a block with an unknown key or value, or without one that is required.

    Args:
        spec: The `finlab:` block.
        path: The card's file, for errors.
    """
    required = {
        "kind": set(schemas.SCHEMAS),
        "domain": set(schemas.DOMAINS),
        "language": set(LANGUAGES),
        "format": {*readers.READERS, *exam_layouts.layouts(), "hub"},
    }
    known = {*required, *OTHER_KEYS}
    for key in set(spec) - known:
        raise ValueError(
            f"{path}: unknown key '{key}' in the finlab block; it knows {', '.join(sorted(known))}"
        )
    for key, allowed in required.items():
        _check_choice(spec.get(key), key, allowed, path)
    if "dialogue" in spec:
        _check_choice(spec["dialogue"], "dialogue", dialogues.FORMATS, path)
    if "benchmark" in spec:
        _check_choice(spec["benchmark"], "benchmark", exam_layouts.layouts(), path)
    for rule in sorted(set(spec.get("rules") or {}) - cleaning.RULE_KEYS):
        raise ValueError(
            f"{path}: unknown rule '{rule}' in finlab.rules; "
            f"it knows {', '.join(sorted(cleaning.RULE_KEYS))}"
        )
    if ("files" in spec) == ("hub" in spec):
        raise ValueError(f"{path}: name either `files` or a `hub` id in the finlab block")


def _check_choice(value: Any, key: str, allowed: Iterable[str], path: Path) -> None:
    """Refuse a value that is none of those allowed."""
    if not isinstance(value, str) or value not in allowed:
        choices = ", ".join(sorted(allowed))
        raise ValueError(f"{path}: finlab.{key} is {value!r}; write one of {choices}")


# --- reading data --------------------------------------------------------------------------------
def _raw_rows(card: Card, path: Path, quarantined: list[dict]) -> readers.Rows:
    """Yield the rows of one file as they stand there, with their places.

    Args:
        card: Says how to read.
        path: The file.
        quarantined: Rows that cannot be read are added here.
    """
    options = readers.Options(
        encoding=card.spec.get("encoding", "utf-8-sig"), rows=card.spec.get("rows", "*")
    )
    if card.kind != "exam":
        yield from readers.READERS[card.spec["format"]](path, quarantined, options)
        return
    items = exam_layouts.read_exam(
        path,
        card.spec["format"],
        card.spec.get("benchmark", ""),
        card.name,
        options.encoding,
        quarantined,
    )
    for item in items:
        yield 0, item


def _hub_rows(card: Card) -> readers.Rows:
    """Yield the rows of a dataset on the hub, streamed."""
    import datasets

    split = card.spec.get("split", "train")
    yield from enumerate(datasets.load_dataset(card.spec["hub"], split=split, streaming=True), 1)


def _files(card: Card, quarantined: list[dict]) -> Iterator[tuple[Path, readers.Rows]]:
    """Yield each file of a card with its rows; of a hub card, its id with all rows.

    Args:
        card: The card.
        quarantined: Rows that cannot be read are added here.
    """
    if "hub" in card.spec:
        yield Path(card.spec["hub"]), _hub_rows(card)
        return
    found = card.paths()
    if "sha256" in card.spec:
        actual = files.sha256(found)
        if actual != card.spec["sha256"]:
            raise ValueError(
                f"card {card.name}: its files have sha256 {actual}, the card says "
                f"{card.spec['sha256']}: wrong or changed data"
            )
    for path in found:
        yield path, _raw_rows(card, path, quarantined)


def stream(card: Card, quarantined: list[dict]) -> Iterator[dict]:
    """Yield the rows of a card one by one, in the schema of its kind.

    Args:
        card: The card.
        quarantined: Rows that cannot be read are added here, {where, reason, row}.

    Yields:
        Rows as described in `load`.

    Raises:
        ValueError: A file is missing, a checksum is wrong, or no row could be read.
    """
    seen = set()
    for path, rows in _files(card, quarantined):
        name = f"{path.parent.name}/{path.name}"
        for place, row in rows:
            where = f"{name}:{place}" if place else name
            try:
                plain = schemas.SCHEMAS[card.kind](card.name, card.spec, row, where)
                if plain["id"] in seen:
                    raise ValueError(f"the id {plain['id']} is used twice")
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                quarantined.append({"where": where, "reason": str(error), "row": str(row)})
                continue
            seen.add(plain["id"])
            yield plain
    if not seen:
        first = ""
        if quarantined:
            first = f"; first: {quarantined[0]['where']}: {quarantined[0]['reason']}"
        raise ValueError(f"card {card.name}: none of its rows could be read{first}")


def load(name: str) -> Source:
    """Load the data of a card. Rows that cannot be read are set aside, with file and line.

    Rows have one schema for each kind:

        text        {id, text}
        label       {id, text, bad}
        dialogue    {id, messages, format, unanswered, domain}
        preference  {id, prompt, chosen, rejected}, each a list of messages
        question    {id, question, domain, reference, from}
        exam        {id, subject, subject_name, split, question, choices, letters, answer}; the
                    answer is an index, -1 where it is not published

    Raises:
        ValueError: As in `read` and `stream`.
    """
    import datasets

    card = read(name)
    quarantined: list[dict] = []
    rows = datasets.Dataset.from_list(list(stream(card, quarantined)))
    return Source(card, rows, quarantined)


def read_all(card_names: list[str], kind: str) -> list[Card]:
    """Read several cards of one kind.

    Args:
        card_names: Names of cards.
        kind: A name of schemas.SCHEMAS.

    Raises:
        ValueError: One of them is wrong, or of another kind.
    """
    found = [read(name) for name in card_names]
    for card in found:
        if card.kind != kind:
            raise ValueError(
                f"card {card.name} is of kind {card.kind}; this step reads {kind} cards"
            )
    return found


def load_all(card_names: list[str], kind: str) -> dict[str, Source]:
    """Load several cards of one kind; raises as `read_all` does.

    Args:
        card_names: Names of cards.
        kind: A name of schemas.SCHEMAS.

    Returns:
        {name: source}.
    """
    return {card.name: load(card.name) for card in read_all(card_names, kind)}


def quarantined_rows(sources: dict[str, Source], bad_rows: str = "quarantine") -> list[dict]:
    """Return what could not be read of several sources, {card, where, reason, row}.

    Args:
        sources: Loaded cards by name.
        bad_rows: `quarantine` sets such rows aside; `refuse` stops on them.

    Raises:
        ValueError: There are such rows and `bad_rows` is `refuse`, or it is another word.
    """
    if bad_rows not in ("quarantine", "refuse"):
        raise ValueError(
            f"bad_rows is '{bad_rows}': write quarantine (set aside and count) or refuse"
        )
    found = []
    for name, source in sources.items():
        found += [{"card": name, **row} for row in source.quarantined]
    if found and bad_rows == "refuse":
        first = "; ".join(f"{row['where']}: {row['reason']}" for row in found[:3])
        raise ValueError(
            f"{len(found)} rows cannot be read ({first}): "
            "mend the files, or set bad_rows to quarantine"
        )
    return found


# A step's key knows a card by this fingerprint, and refuses a wrong card before anything runs.
step.use_card_fingerprints(lambda name: read(name).fingerprint())
