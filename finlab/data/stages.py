"""The prepared dialogues of a training stage: which ones are learnt, and their packing.

    stage = conversations.prepare(frame, tokenizer, folder)     # a Dialogues
    stage.admit(screened, max_length, tokenizer.eos_token_id)
    stage.account.still_in()   # indices of the dialogues that are not ruled out, a NumPy array
    stage.messages(7)          # dialogue 7 as it is learnt, with personal data replaced

Text and tokens are kept on disk. A dialogue takes about twenty bytes of memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pyarrow
import pyarrow.compute

from finlab.data import arrow_files, dialogues, frames, templates
from finlab.data.accounts import KINDS, LEARNT, Account
from finlab.data.columns import Documents
from finlab.data.templates import IGNORE

if TYPE_CHECKING:
    from datasets import Dataset

Messages = list[dict]
BATCH = 10_000  # how many dialogues are read at a time
REPLAYED = "text"  # the kind of pretraining text, in addition to KINDS


class Dialogues:
    """The dialogues of a stage.

    Args:
        rows: One row a dialogue, on disk: {id, card, kind, messages (JSON), personal, input_ids,
            learnt, answers, refused}.

    Attributes:
        rows: The argument `rows`.
        account: Sizes and status of each dialogue, see `accounts.Account`.
        personal: {kind of personal data: how many pieces of it were replaced}.
    """

    def __init__(self, rows: Dataset):
        self.rows = rows
        sizes = numpy.empty(len(rows), numpy.int32)
        kinds = numpy.empty(len(rows), numpy.int8)
        self.personal: Counter = Counter()
        names = pyarrow.array(KINDS)
        for first, table in self._tables(["kind", "input_ids", "personal"]):
            span = slice(first, first + len(table))
            sizes[span] = pyarrow.compute.list_value_length(table["input_ids"]).to_numpy()
            kinds[span] = pyarrow.compute.index_in(table["kind"], names).to_numpy()
            found = pyarrow.compute.list_flatten(table["personal"])
            self.personal.update(found.to_pylist())
        self.account = Account(sizes, kinds)

    def __len__(self) -> int:
        return len(self.rows)

    def _tables(
        self, names: list[str], places: numpy.ndarray | None = None
    ) -> Iterator[tuple[int, pyarrow.Table]]:
        """Yield columns of the rows in batches: (position of the batch's first row, table).

        Args:
            names: Names of the columns.
            places: Indices of the rows to read; None reads all rows in order. The positions that
                are yielded count within `places`.
        """
        chosen = self.rows.select_columns(names).with_format("arrow")
        wanted = range(len(self.rows)) if places is None else places
        for first in range(0, len(wanted), BATCH):
            yield first, chosen[wanted[first : first + BATCH]]

    def messages(self, place: int) -> Messages:
        """Return the messages of a dialogue as they are learnt."""
        return json.loads(self.rows[int(place)]["messages"])

    def split_texts(self) -> Iterator[str]:
        """Yield the messages of each dialogue without a status, as JSON text.

        The hash of this text decides whether a dialogue is learnt or held out.
        """
        for _, table in self._tables(["messages"], self.account.still_in()):
            yield from table["messages"].to_pylist()

    def admit(
        self,
        screened: dict[int, str],
        max_length: int,
        end_id: int,
        single_turn: bool = False,
    ) -> None:
        """Leave out dialogues that cannot be learnt, and shorten those that are too long.

        A dialogue that is too long keeps its first whole exchanges, never half an answer.

        Args:
            screened: {index: reason} of the dialogues to leave out, from `selection.screen`.
            max_length: How many tokens a dialogue may have.
            end_id: Id of the token that ends an answer.
            single_turn: Whether to leave out dialogues of several exchanges.
        """
        account = self.account
        if single_turn:
            answers = self.rows.with_format("numpy")["answers"][:]
            account.mark(numpy.flatnonzero(answers > 1), "several exchanges")
        for place, reason in screened.items():
            account.mark([place], reason)
        for first, table in self._tables(["refused"]):
            reasons = table["refused"].to_pylist()
            for place in (place for place, reason in enumerate(reasons) if reason):
                account.mark([first + place], reasons[place])
        places = account.still_in()
        places = places[account.read[places] > max_length]
        for place, row in zip(places, self.labelled(places), strict=True):
            shortened = templates.shorten(row, max_length, end_id)
            if shortened is None:
                account.mark([place], "longer than max_length")
            else:
                account.tokens[place] = len(shortened["input_ids"])

    def labelled(self, places: numpy.ndarray) -> Iterator[templates.Row]:
        """Yield dialogues as {input_ids, labels}, each int32 [tokens], cut to the size learnt.

        Args:
            places: Indices of the dialogues.
        """
        sizes = iter(self.account.tokens[places])
        for _, table in self._tables(["input_ids", "learnt"], places):
            for ids, learnt in zip(table["input_ids"], table["learnt"], strict=True):
                span = slice(next(sizes))
                row_ids = ids.values.to_numpy()[span]
                mask = learnt.values.to_numpy(zero_copy_only=False)[span]
                yield {"input_ids": row_ids, "labels": numpy.where(mask, row_ids, IGNORE)}

    def learnt_shares(self) -> dict[str, dict[str, float]]:
        """Return how much of each kind is learnt, and how many of these dialogues refuse.

        Returns:
            {kind: {dialogues, by dialogues, by tokens}} for general, finance and safety.
            `dialogues` is a count; `by dialogues` and `by tokens` are shares from 0 to 1. The key
            `refusals` has {dialogues, by dialogues}: dialogues of any kind that refuse, recognised
            by their words.
        """
        places = self.account.of(LEARNT)
        tokens = self.account.tokens[places].astype(numpy.int64)
        kinds = self.account.kinds[places]
        shares = {}
        for code, kind in enumerate(KINDS):
            own = kinds == code
            shares[kind] = {
                "dialogues": int(own.sum()),
                "by dialogues": float(own.sum() / max(len(places), 1)),
                "by tokens": float(tokens[own].sum() / max(tokens.sum(), 1)),
            }
        refusing = 0
        for _, table in self._tables(["messages"], places):
            said = map(json.loads, table["messages"].to_pylist())
            refusing += sum(map(dialogues.refuses, said))
        shares["refusals"] = {"dialogues": refusing, "by dialogues": refusing / max(len(places), 1)}
        return shares


class Texts(Sequence[str]):
    """The text of all turns of each dialogue, as a sequence for `selection.screen`.

    Args:
        stage: The dialogues.
    """

    def __init__(self, stage: Dialogues):
        self.stage = stage

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, place: int) -> str:
        return _said(self.stage.rows[int(place)]["messages"])

    def __iter__(self) -> Iterator[str]:
        for _, table in self.stage._tables(["messages"]):
            yield from map(_said, table["messages"].to_pylist())


def _said(messages: str) -> str:
    """Return the text of all turns of a dialogue, from its JSON."""
    return "\n".join(turn["content"] for turn in json.loads(messages))


# --- packing -------------------------------------------------------------------------------------
def to_pack(
    stage: Dialogues, places: numpy.ndarray, texts: Iterable[list[int]], path: Path
) -> tuple[Dataset, Documents, numpy.ndarray]:
    """Return what `packing.pack_phases` and `planned.rows` need to pack dialogues and texts.

    Args:
        stage: The dialogues.
        places: Indices of the dialogues to pack.
        texts: Token ids of the pretraining texts to learn together with them. A text has no
            question, so all of its tokens are learnt.
        path: The Arrow file that the texts are written to.

    Returns:
        (rows {input_ids, learnt} of all dialogues, then of all texts; their sizes and kinds; the
        numbers of the rows to pack, int32).
    """
    from datasets import Features, List, Value, concatenate_datasets

    features = Features({"input_ids": List(Value("int32")), "learnt": List(Value("bool"))})

    def batches() -> Iterator[dict[str, list]]:
        for batch in frames.batches(texts, frames.READ_BATCH):
            learnt = [numpy.ones(len(ids), bool) for ids in batch]
            yield {"input_ids": batch, "learnt": learnt}

    replayed = arrow_files.write(path, features, batches())
    tokens = concatenate_datasets([stage.rows.select_columns(list(features)), replayed])
    lengths = [len(ids) for ids in replayed["input_ids"]]
    sizes = numpy.concatenate([stage.account.tokens, numpy.array(lengths, numpy.int32)])
    names = [*KINDS, REPLAYED]
    codes = numpy.full(len(sizes), len(KINDS), numpy.int16)
    codes[: len(stage)] = stage.account.kinds
    numbers = numpy.concatenate([places, numpy.arange(len(stage), len(sizes))])
    documents = Documents(sizes, codes, names, names)
    return tokens, documents, numbers.astype(numpy.int32)
