"""Data cards: all data is read through them.

A card is a Hugging Face dataset card, `data_cards/<name>.md`. Its YAML front matter has a `license`
and one `finlab:` block:

    finlab:
      domain: finance            # finance or general
      language: zh               # zh or en
      kind: text                 # text, dialogue, preference, exam, question, or label
                                 # (texts with `bad: true` or `bad: false`)
      files: [text/laws/**/*.md] # globs below FINLAB_DATA (or below `root: closed_world` or
                                 # `root: data_cards`); or `hub: owner/name`; or, for data that is
                                 # not public, `stand_in: name` of the most similar public card
      format: markdown           # jsonl, json, csv, tsv, xlsx, text, markdown, parquet, arrow,
                                 # html, pdf, docx, or the layout of an exam, such as ceval
      benchmark: fineval         # name of this published exam, to check its sizes (optional)
      partial: true              # the files hold only some of the exam's subjects (optional)
      rows: "data.*.context"     # where the rows are in a JSON file (optional)
      dialogue: disc             # the format of dialogues, a name of dialogues.FORMATS; without it
                                 # the format of each row is detected (optional)
      text: input                # the field that holds the text (default `text`); doc.body for a
                                 # field inside another, 1 for a position in a list
      answers: {kind: letters}   # the kind of the gold answer, for questions whose chain gives the
                                 # gold in a box after its thinking (optional)
      encoding: gb18030          # if not UTF-8; files may be .gz, .zst, .bz2 or .zip
      rules: {min_chars: 20}     # thresholds and rules of cleaning, see finlab.data.cleaning
      knowledge: true            # books and encyclopaedias: read first in a knowledge-first mixture
      sha256: ...                # SHA-256 of the files' contents, which is then checked (optional)
      source_url: https://...    # page that describes the data, or where to get it (optional)
      bytes: 5.55e+9             # size of the download, as published (optional)
      text_bytes: 2.0e+10        # size of the unpacked text (optional; default: same as `bytes`)
      tokens: 1.5e+9             # size in tokens, if somebody has counted (optional)

    With `hub: owner/name`, for data on the Hugging Face hub (see `hub`):

      config: cmn_Hani           # with `split: train` and `format: hub`: rows are streamed
      revision: 9f2c...          # a commit, a branch or a tag; a commit never changes
      data_files: [data/*.gz]    # instead of config and split: files of the repository, which are
                                 # read as `format` says
      where: {kind: [财经]}      # only rows with one of these values in a column (streamed rows)
      max_bytes: 2.0e+10         # stop after this many bytes of rows (streamed rows)

    source = cards.load("cw_news")   # source.rows: a Dataset; source.quarantined: unreadable rows
    rows = cards.stream(cards.read("cw_news"), quarantined)   # the same rows, one by one
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finlab import files, paths, yaml_text
from finlab.data import (
    card_files,
    card_schema,
    exam_layouts,
    file_text,
    hub,
    own_exams,
    readers,
    schemas,
)
from finlab.data.card_schema import Card
from finlab.run import keys

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Source:
    """A loaded card.

    Attributes:
        card: The card.
        rows: Its rows, in the schema of its kind, see `load`.
        quarantined: The rows that could not be read, {where, reason, row}.
    """

    card: Card
    rows: Dataset
    quarantined: list[dict] = field(default_factory=list)


def files_of(card: Card) -> list[Path]:
    """Return the files of a card, sorted; files of a hub card are fetched if they are missing.

    Raises:
        ValueError: No file matches, or FINLAB_DATA is not set.
    """
    return hub.files(card) if "hub" in card.spec else card_files.found(card)


def fingerprint(card: Card) -> str:
    """Return a hash of a card and of its files' names, sizes and times.

    For a hub card, only the card itself is hashed, and nothing is fetched.

    Raises:
        ValueError: The card's data is not public, or its files are missing.
    """
    if "stand_in" in card.spec:
        raise ValueError(
            f"card {card.name}: its data are not public; the nearest that are public: "
            f"{card.spec['stand_in']}: name that card in the recipe, or run its twin, RECIPE-open"
        )
    listing = "" if "hub" in card.spec else files.fingerprint(card_files.found(card))
    return files.digest(card.licence, card.spec, listing)[:16]


# --- reading a card ------------------------------------------------------------------------------
def names() -> list[str]:
    """Return the names of all cards."""
    stems = [path.stem for path in paths.data_cards().glob("*.md")]
    return sorted(stem for stem in stems if not stem.startswith("_") and stem != "README")


def read(name: str) -> Card:
    """Read and check one card.

    Raises:
        ValueError: The card is missing, states no valid licence, or its `finlab:` block is not
            valid. The error names the file and the key.
    """
    if not card_schema.is_name(name):
        raise ValueError(
            f"the data card {name!r} is not a name: "
            f"give the name of a file in {paths.data_cards()}, "
            "without .md; a name that is a number or a date would be read as one"
        )
    path = paths.data_cards() / f"{name}.md"
    if not path.exists():
        raise ValueError(
            f"there is no data card '{name}' in {paths.data_cards()}: "
            f"write {path.name} first (no card, no data)"
        )
    front, text = yaml_text.front_matter(path)
    licence = card_schema.check_licence(front, path)
    spec = front.get("finlab")
    if not isinstance(spec, dict):
        raise ValueError(f"{path}: the card has no `finlab:` block")
    card_schema.check_spec(spec, path)
    return Card(name, licence, spec, text)


# --- reading data --------------------------------------------------------------------------------
def _raw_rows(card: Card, path: Path, quarantined: list[dict]) -> file_text.Rows:
    """Yield (place, row) for each row of one file or stream, unchanged.

    Args:
        card: The card, which says how to read the rows.
        path: The file; for a streamed card, the hub id.
        quarantined: Rows that cannot be read are added here.
    """
    options = file_text.Options(
        encoding=card.spec.get("encoding", "utf-8-sig"), rows=card.spec.get("rows", "*")
    )
    if card.spec["format"] in exam_layouts.layouts():
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
        return
    if card.spec["format"] == "hub":
        rows = hub.rows(card)
    else:
        rows = readers.READERS[card.spec["format"]](path, quarantined, options)
    if card.kind != "exam":
        yield from rows
        return
    published = bool(card.spec.get("benchmark"))
    for item in own_exams.read_items(path, rows, card.name, quarantined, published):
        yield 0, item


def _files(card: Card, quarantined: list[dict]) -> Iterator[tuple[Path, file_text.Rows]]:
    """Yield each file of a card with its rows; for a streamed card, its hub id with all rows.

    Args:
        card: The card.
        quarantined: Rows that cannot be read are added here.

    Raises:
        ValueError: A file is missing, or the SHA-256 in the card does not match.
    """
    if card.spec["format"] == "hub":
        path = Path(card.spec["hub"])
        yield path, _raw_rows(card, path, quarantined)
        return
    found = files_of(card)
    if "sha256" in card.spec:
        actual = files.sha256(found)
        if actual != card.spec["sha256"]:
            raise ValueError(
                f"card {card.name}: its files have sha256 {actual}, the card says "
                f"{card.spec['sha256']}: wrong or changed data"
            )
    for path in found:
        if path.suffix != ".zip":
            yield path, _raw_rows(card, path, quarantined)
            continue
        with tempfile.TemporaryDirectory() as folder:
            for member in readers.unpack(path, Path(folder) / path.stem):
                yield member, _raw_rows(card, member, quarantined)


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
    # Hashes of the ids that a source gives. The ids themselves take twice the memory.
    taken: set[int] = set()
    names: set[int] = set()
    any_row = False
    for path, rows in _files(card, quarantined):
        name = schemas.free_id(f"{path.parent.name}/{path.name}", names)
        for place, row in rows:
            where = f"{name}:{place}" if place else name
            try:
                plain = schemas.SCHEMAS[card.kind](card.name, card.spec, row, where)
                _check_characters(plain)
            except ValueError as error:
                quarantined.append({"where": where, "reason": str(error), "row": _shown(row)})
                continue
            except (KeyError, AttributeError, TypeError, RecursionError) as error:
                reason = f"the row has another shape than a {card.kind} ({error!r})"
                quarantined.append({"where": where, "reason": reason, "row": _shown(row)})
                continue
            # An id made from the row's place is unique, so it needs no check.
            if plain["id"] != f"{card.name}/{where}":
                plain["id"] = schemas.free_id(plain["id"], taken, f"@{where}")
            any_row = True
            yield plain
    if not any_row:
        first = ""
        if quarantined:
            first = f"; first: {quarantined[0]['where']}: {quarantined[0]['reason']}"
        raise ValueError(f"card {card.name}: none of its rows could be read{first}")


def _check_characters(row: dict) -> None:
    """Raise ValueError if a row has half a character, that is, one half of a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise ValueError(
            f"it holds half a character ({half!a}): the text was cut within an emoji or the like"
        ) from None


def _shown(row: Any) -> str:
    """Return a row as text for the quarantine, at most 2,000 characters of it."""
    try:
        return str(row)[:2000].encode("utf-8", "backslashreplace").decode()
    except RecursionError:
        return "(nested too deeply to be shown)"


def load(name: str) -> Source:
    """Load the data of a card; rows that cannot be read are set aside with file and line.

    The schema of the rows depends on the card's kind:

        text        {id, text}
        label       {id, text, bad}
        dialogue    {id, messages, format, unanswered, domain}
        preference  {id, prompt, chosen, rejected}, the last three each a list of messages
        question    {id, question, domain, reference, from, gold, chain}
        exam        {id, subject, subject_name, split, question, choices, letters, answer}; the
                    answer is an index, -1 if it is not published

    Raises:
        ValueError: As in `read` and `stream`.
    """
    import datasets

    card = read(name)
    quarantined: list[dict] = []
    rows = datasets.Dataset.from_list(list(stream(card, quarantined)))
    return Source(card, rows, quarantined)


def limited(card: Card, max_bytes: dict[str, float]) -> Card:
    """Return a card with a new `max_bytes` if one is given for it; else the card unchanged.

    Args:
        card: The card.
        max_bytes: {name of a card: how many bytes of rows to stream before stopping}.

    Raises:
        ValueError: A limit is given, but the card is not streamed.
    """
    limit = max_bytes.get(card.name)
    if limit is None:
        return card
    if card.spec["format"] != "hub":
        raise ValueError(
            f"source_bytes names card {card.name}, which is not streamed from the hub and is read "
            "whole: take it out"
        )
    return replace(card, spec=card.spec | {"max_bytes": limit})


def read_all(
    card_names: list[str], kind: str, max_bytes: dict[str, float] | None = None
) -> list[Card]:
    """Read several cards of one kind.

    Args:
        card_names: Names of the cards.
        kind: The kind that all cards must have, a key of `schemas.SCHEMAS`.
        max_bytes: As for `limited`; None sets no new limit.

    Raises:
        ValueError: A card is not valid or of another kind, or `max_bytes` names a card that is
            not in `card_names`.
    """
    limits = max_bytes or {}
    for name in set(limits) - set(card_names):
        raise ValueError(f"source_bytes names card {name}, which this step does not read")
    found = [limited(read(name), limits) for name in card_names]
    for card in found:
        if card.kind != kind:
            raise ValueError(
                f"card {card.name} is of kind {card.kind}; this step reads {kind} cards"
            )
    return found


def load_all(card_names: list[str], kind: str) -> dict[str, Source]:
    """Load several cards of one kind.

    Args:
        card_names: Names of the cards.
        kind: The kind that all cards must have, a key of `schemas.SCHEMAS`.

    Returns:
        {name of the card: its loaded source}.

    Raises:
        ValueError: As in `read_all` and `load`.
    """
    return {card.name: load(card.name) for card in read_all(card_names, kind)}


def quarantined_rows(
    quarantined: dict[str, list[dict]], bad_rows: str = "quarantine"
) -> list[dict]:
    """Return the rows of several cards that could not be read, {card, where, reason, row}.

    Args:
        quarantined: {name of the card: rows that `stream` set aside}.
        bad_rows: `quarantine` returns these rows; `refuse` raises an error if there are any.

    Raises:
        ValueError: There are such rows and `bad_rows` is `refuse`, or `bad_rows` is another word.
    """
    if bad_rows not in ("quarantine", "refuse"):
        raise ValueError(
            f"bad_rows is '{bad_rows}': write quarantine (set aside and count) or refuse"
        )
    found = []
    for name, rows in quarantined.items():
        found += [{"card": name, **row} for row in rows]
    if found and bad_rows == "refuse":
        first = "; ".join(f"{row['where']}: {row['reason']}" for row in found[:3])
        raise ValueError(
            f"{len(found)} rows cannot be read ({first}): "
            "fix the files, or set bad_rows to quarantine"
        )
    return found


# The key of a step uses the fingerprint of each card. A card that is not valid is refused before
# anything runs.
keys.use_cards(lambda name: fingerprint(read(name)), lambda name: read(name).licence)
