"""Make batches of packed rows in which documents cannot attend to each other.

There are two ways to separate documents, and the model's attention decides which one is used. SDPA
takes a mask that is built from position ids, and the batch keeps its rows. flash-attn and `varlen`
take the boundaries of documents, and all rows of a batch are joined into one row.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from finlab.data import bins, planned
from finlab.data.templates import IGNORE
from finlab.models import attention
from finlab.train.extensions import Extension

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

Row = dict[str, Any]  # {input_ids, labels, seq_lengths}, optionally sources and bucket


# --- rows ----------------------------------------------------------------------------------------
def document_spans(row: Row) -> list[tuple[int, int]]:
    """Return (start, tokens) of each document of a packed row."""
    starts = itertools.accumulate(row["seq_lengths"], initial=0)
    return list(zip(starts, row["seq_lengths"]))


def sources_by_token(row: Row) -> list[int]:
    """Return the source of each token of a row; the row has a source per document or per token."""
    if len(row["sources"]) == len(row["input_ids"]):
        return row["sources"]
    sources = []
    for source, size in zip(row["sources"], row["seq_lengths"], strict=True):
        sources += [source] * size
    return sources


def _fold(rows: list[Row], length: int) -> list[Row]:
    """Return the documents of rows, packed again into rows of at most `length` tokens."""
    documents = []
    for row in rows:
        for number, (start, size) in enumerate(document_spans(row)):
            document = {
                "input_ids": row["input_ids"][start : start + size],
                "labels": row["labels"][start : start + size],
                "seq_lengths": [size],
            }
            if "sources" in row:
                document["sources"] = [row["sources"][number]]
            documents.append(document)
    folded = []
    for group in bins.groups([each["seq_lengths"][0] for each in documents], length):
        row = {}
        for name in documents[0]:
            row[name] = list(itertools.chain(*(documents[item][name] for item in group)))
        folded.append(row)
    return folded


# --- collators -----------------------------------------------------------------------------------
@dataclass
class RowsCollator:
    """Collate packed rows for SDPA, so that documents cannot attend to each other.

    Position ids restart at each document, and there is no attention mask. transformers then builds
    a block-diagonal mask for each row. Example: a row with the documents a and b and one padding
    token.

        input_ids      a1 a2 a3 a4 b1 b2 pad
        position_ids    0  1  2  3  0  1   0
        labels       -100 a2 a3 a4 -100 b2 -100

    The label of a document's first token is -100, because the token before it belongs to another
    document. Rows of a bucket are first packed again into rows of the bucket's length, because the
    size of the mask is quadratic in the row length.

    Attributes:
        pad_token_id: Id of the token that pads all rows to the length of the longest one.
    """

    pad_token_id: int

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Return input_ids, labels, position_ids and perhaps sources, each int64 [rows, length]."""
        bucket = max(row.get("bucket", 0) for row in rows)
        longest = max(len(row["input_ids"]) for row in rows)
        if 0 < bucket < longest:
            rows = _fold(rows, bucket)
            longest = max(len(row["input_ids"]) for row in rows)

        def padded(values: list[int], filler: int) -> list[int]:
            return list(values) + [filler] * (longest - len(values))

        positions = []
        for row in rows:
            padding = longest - sum(row["seq_lengths"])
            sizes = [*row["seq_lengths"], padding]
            positions.append([place for size in sizes for place in range(size)])
        position_ids = torch.tensor(positions)
        labels = torch.tensor([padded(row["labels"], IGNORE) for row in rows])
        labels[position_ids == 0] = IGNORE
        ids = torch.tensor([padded(row["input_ids"], self.pad_token_id) for row in rows])
        batch = {"input_ids": ids, "labels": labels, "position_ids": position_ids}
        if "sources" in rows[0]:
            sources = [padded(sources_by_token(row), 0) for row in rows]
            batch["sources"] = torch.tensor(sources)
        return batch


@dataclass
class JoinedCollator(DataCollatorForLanguageModeling):
    """TRL's padding-free collator, with the source of each token.

    It joins the rows of a batch into one row, and returns the boundaries of the documents.
    """

    padding_free: bool = True

    def torch_call(self, examples: list[Row]) -> dict[str, torch.Tensor]:
        """Return TRL's batch, and the source of each token if the rows have them.

        Args:
            examples: Packed rows.

        Returns:
            input_ids, labels, position_ids and sources, each [1, tokens].
        """
        batch = super().torch_call(examples)
        if "sources" in examples[0]:
            sources = itertools.chain(*(sources_by_token(row) for row in examples))
            batch["sources"] = torch.tensor([list(sources)])
        return batch


def collator(model: PreTrainedModel, pad_token_id: int) -> Callable[[list[Row]], dict]:
    """Return the collator of packed rows that fits a model's attention."""
    if model.config._attn_implementation in ("sdpa", "eager"):
        return RowsCollator(pad_token_id)
    return JoinedCollator(pad_token_id)


@contextlib.contextmanager
def packing_attention(model: PreTrainedModel, device: str = "") -> Iterator[str]:
    """Temporarily switch a model to an attention that separates packed documents.

    Args:
        model: The model.
        device: Type of the device to train on, such as `cuda`; empty means the model's device.

    Yields:
        The name of this attention, such as "varlen". On exit, the model's own one is restored.
    """
    own = model.config._attn_implementation
    chosen = attention.packed_attention(model, device)
    if chosen != own:
        model.set_attn_implementation(chosen)
    try:
        yield chosen
    finally:
        if chosen != own:
            model.set_attn_implementation(own)


# --- the extension -------------------------------------------------------------------------------
class PackedRows(Extension):
    """Train on packed rows from `packing.write_rows`; documents cannot attend to each other."""

    def training(self, arguments: dict[str, Any]) -> contextlib.AbstractContextManager:
        """Use the attention for packed rows."""
        return packing_attention(arguments["model"], arguments["args"].device.type)

    def prepare(self, arguments: dict[str, Any]) -> None:
        """Set the collator; with several processes, add empty rows to get full batches."""
        args = arguments["args"]
        pad_token_id = arguments["processing_class"].pad_token_id
        arguments["data_collator"] = collator(arguments["model"], pad_token_id)
        args.remove_unused_columns = False  # otherwise the sources of the rows are removed
        batch_sizes = {
            "train_dataset": args.per_device_train_batch_size,
            "eval_dataset": args.per_device_eval_batch_size,
        }
        for name, batch_size in batch_sizes.items():
            if arguments.get(name) is not None and args.world_size > 1:
                arguments[name] = fill_up(arguments[name], args.world_size * batch_size)


def fill_up(rows: Dataset, multiple: int) -> Dataset:
    """Add rows without labels, so that the number of rows is a multiple of a number.

    Several processes can then share the rows without repeating any. accelerate would repeat rows.

    Args:
        rows: Packed rows.
        multiple: The number, such as the rows of a micro-batch over all processes.
    """
    from datasets import Dataset, concatenate_datasets

    missing = -len(rows) % multiple
    if not missing:
        return rows
    silent = {
        "input_ids": [0, 0],
        "labels": [IGNORE, IGNORE],
        "documents": [planned.SILENT],
        "starts": [0],
        "seq_lengths": [2],
        "sources": [0],
        "bucket": 0,
    }
    row = {name: silent[name] for name in rows.column_names}
    more = Dataset.from_list([row] * missing, features=rows.features)
    # Joining removes the format of the rows, so it is set again.
    form = rows.format
    return concatenate_datasets([rows, more]).with_format(form["type"], **form["format_kwargs"])
