"""Prepare dialogues of cards for a training stage: read, de-identify and tokenise them.

    frame = conversations.read(cards_of_stage, folder / "read", quarantined)
    stage = conversations.prepare(frame, tokenizer, folder / "stage1")   # see `stages`

Rows are written to disk as they are read; only their ids are kept in memory. Replacing personal
data, rendering and tokenising are done in one pass of Daft, in this process, in several processes
or on a Ray cluster.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import daft
import numpy
import pyarrow
from daft import DataType, col

from finlab.data import arrow_files, cards, dialogues, frames, personal, templates
from finlab.data.card_schema import Card
from finlab.data.stages import Dialogues, Messages
from finlab.data.templates import IGNORE

if TYPE_CHECKING:
    from datasets import Features
    from transformers import PreTrainedTokenizerBase

READ = pyarrow.schema(
    {
        "number": pyarrow.int64(),
        "id": pyarrow.string(),
        "card": pyarrow.string(),
        "kind": pyarrow.string(),
        "format": pyarrow.string(),
        "unanswered": pyarrow.int64(),
        "messages": pyarrow.string(),
        "tokens_read": pyarrow.int64(),
    }
)
PREPARED = {
    "messages": DataType.string(),
    "personal": DataType.list(DataType.string()),
    "input_ids": DataType.list(DataType.int32()),
    "learnt": DataType.list(DataType.bool()),
    "answers": DataType.int64(),
    "refused": DataType.string(),
}
BATCH = 10_000  # how many dialogues are written at a time
FEW_CHARACTERS = 4_000_000  # with fewer, starting processes costs more time than it saves


# --- reading -------------------------------------------------------------------------------------
def read(
    cards_read: Sequence[Card],
    folder: Path,
    quarantined: dict[str, list[dict]],
    safety_cards: Sequence[str] = (),
) -> daft.DataFrame:
    """Write the dialogues of cards to Parquet in batches, and return them as one frame.

    Args:
        cards_read: The dialogue cards.
        folder: Folder for the Parquet files of each card.
        quarantined: {card: rows}; rows that cannot be read are added here, {where, reason, row}.
        safety_cards: Names of the cards whose dialogues have the kind safety. The kind of other
            dialogues is their domain.

    Returns:
        Rows {number, id, card, kind, format, unanswered, messages (JSON), tokens_read}. Here
        `tokens_read` is the number of characters of the JSON.

    Raises:
        ValueError: As in `cards.stream`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for card in cards_read:
        stream = cards.stream(card, quarantined.setdefault(card.name, []))
        with frames.Parts(folder, card.name) as parts:
            for rows in frames.batches(stream, BATCH, lambda row: 1, BATCH):
                kind = "safety" if card.name in safety_cards else ""
                batch = []
                for row in rows:
                    batch.append(_as_read(row, number, card.name, kind or row["domain"]))
                    number += 1
                parts.write(pyarrow.Table.from_pylist(batch, schema=READ))
    return frames.open_folder(folder)


def _as_read(row: dict, number: int, card: str, kind: str) -> dict:
    """Return a dialogue as a row with the schema READ.

    Args:
        row: A row from `cards.stream`.
        number: Number of the dialogue in the stage, from 0.
        card: Name of the card.
        kind: Kind of the dialogue: general, finance or safety.
    """
    messages = json.dumps(row["messages"], ensure_ascii=False)
    own = {name: row[name] for name in ("id", "format", "unanswered")}
    place = {"number": number, "card": card, "kind": kind}
    return {**own, **place, "messages": messages, "tokens_read": len(messages)}


def overview(frame: daft.DataFrame) -> list[dict]:
    """Return a row for each card: {card, format, dialogues, unanswered turns, first question}."""
    sums = frame.groupby("card", "format").agg(
        col("number").min().alias("first"),
        col("number").count().alias("dialogues"),
        col("unanswered").sum(),
    )
    found: dict[str, dict] = {}
    for row in sums.sort("first").to_pylist():
        line = found.setdefault(row["card"], {"card": row["card"], "format": ""})
        if not line["format"]:
            [messages] = frames.pick(frame, [row["first"]], "messages")["messages"]
            question = json.loads(messages)[0]["content"][:60]
            line |= {"dialogues": 0, "unanswered turns": 0, "first question": question}
        if line["format"]:
            line["format"] += ", "
        line["format"] += row["format"]
        line["dialogues"] += row["dialogues"]
        line["unanswered turns"] += row["unanswered"]
    return list(found.values())


# --- preparing -----------------------------------------------------------------------------------
def prepare(
    frame: daft.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    task_prefixes: dict[str, str] | None = None,
    find_names: bool = True,
) -> Dialogues:
    """Replace personal data, render and tokenise every dialogue, in one pass.

    A dialogue that cannot be learnt with this template has a reason in `refused`, and no tokens.

    Args:
        frame: The dialogues, from `read`.
        tokenizer: A tokenizer with a chat template.
        folder: Folder that the prepared dialogues are written to.
        task_prefixes: {card: prefix of the first question of each of its dialogues}; None for no
            prefixes.
        find_names: Whether to replace names and addresses of people too.

    Raises:
        ValueError: The template marks no token as the assistant's, or does not end answers with
            the tokenizer's end token.
    """
    prefixes = task_prefixes or {}
    # A wrong template is refused here with a short error, before the work is given to processes.
    templates.encode_each(tokenizer, [_example(frame)])
    settings = frames.batch_settings(frame, few_tokens=FEW_CHARACTERS)

    @daft.func.batch(return_dtype=DataType.struct(PREPARED), unnest=True, **settings)
    def prepared(messages: daft.Series, card: daft.Series) -> daft.Series:
        rows = []
        for text, name in zip(messages.to_pylist(), card.to_pylist(), strict=True):
            kinds: Counter = Counter()
            said = personal.deidentify_messages(json.loads(text), kinds, find_names)
            said = dialogues.with_prefix(said, prefixes.get(name, ""))
            rows.append((said, sorted(kinds.elements())))
        return daft.Series.from_arrow(_prepared(tokenizer, rows))

    kept = frame.select("number", "id", "card", "kind", prepared(col("messages"), col("card")))
    written = folder / "prepared"
    frames.save(kept, written)
    return Dialogues(arrow_files.in_order(written, folder / "dialogues.arrow", _features()))


def _features() -> Features:
    """Return the column types of prepared dialogues."""
    from datasets import Features, List, Value

    return Features(
        {
            "number": Value("int64"),
            "id": Value("string"),
            "card": Value("string"),
            "kind": Value("string"),
            "messages": Value("string"),
            "personal": List(Value("string")),
            "input_ids": List(Value("int32")),
            "learnt": List(Value("bool")),
            "answers": Value("int64"),
            "refused": Value("string"),
        }
    )


def _example(frame: daft.DataFrame) -> Messages:
    """Return the messages of one dialogue of a frame."""
    [messages] = frame.select("messages").limit(1).to_pydict()["messages"]
    return json.loads(messages)


def _prepared(
    tokenizer: PreTrainedTokenizerBase, rows: list[tuple[Messages, list[str]]]
) -> pyarrow.StructArray:
    """Return dialogues as an Arrow column with the fields PREPARED.

    Args:
        tokenizer: A tokenizer with a chat template.
        rows: For each dialogue (messages, kinds of the personal data that were replaced).
    """
    encoded = templates.encode_each(tokenizer, [messages for messages, _ in rows])
    empty = {"input_ids": numpy.empty(0, numpy.int32), "labels": numpy.empty(0, numpy.int32)}
    values: dict[str, list] = {name: [] for name in PREPARED}
    for (messages, kinds), (row, reason) in zip(rows, encoded, strict=True):
        row = row or empty
        values["messages"].append(json.dumps(messages, ensure_ascii=False))
        values["personal"].append(kinds)
        values["input_ids"].append(row["input_ids"])
        values["learnt"].append(row["labels"] != IGNORE)
        values["answers"].append(sum(turn["role"] == "assistant" for turn in messages))
        values["refused"].append(reason)
    arrays = [pyarrow.array(values[name], kind.to_arrow_dtype()) for name, kind in PREPARED.items()]
    return pyarrow.StructArray.from_arrays(arrays, names=list(PREPARED))
