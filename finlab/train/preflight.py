"""Preflight: check in seconds, before training starts, for problems often found too late.

The checks, and the issue threads that they come from, are listed in docs/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from finlab.data import templates
from finlab.data.templates import IGNORE
from finlab.train import collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Document = tuple[list[int], list[int]]  # (token ids, labels)
CHECKED_ROWS = 2000
# Largest allowed difference between the logits of a packed document and of the document alone.
ISOLATION_ERROR = {torch.float32: 1e-3}
ISOLATION_ERROR_16_BITS = 0.25


class Refused(ValueError):
    """A preflight check failed, so training does not start.

    The message names all checks that failed and what was found, so one run shows all problems.
    """


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: The condition that was checked, in words.
        ok: Whether the condition holds.
        found: What was found, in words and figures.
    """

    name: str
    ok: bool
    found: str


def require(checks: list[Check]) -> list[Check]:
    """Return the checks if none has failed.

    Args:
        checks: The checks, from `preflight`.

    Raises:
        Refused: Some checks have failed. The error names them.
    """
    failed = [f"{check.name} ({check.found})" for check in checks if not check.ok]
    if failed:
        raise Refused("training does not start: it must hold that " + "; ".join(failed))
    return checks


def isolation_error(model: PreTrainedModel, first: list[int], second: list[int]) -> float:
    """Return how much packing changes the logits of a document; 0 means that it is isolated.

    The packed documents go through the collator and the attention that training uses. The single
    document goes through the model without them.

    Args:
        model: The model.
        first: Token ids of a document.
        second: Token ids of another document, which is packed after the first one. Its logits are
            compared.

    Returns:
        The largest absolute difference of logits.
    """
    was_training = model.training
    model.eval()
    ids = first + second
    row = {"input_ids": ids, "labels": ids, "seq_lengths": [len(first), len(second)]}
    with torch.inference_mode():
        single = torch.tensor([second], device=model.device)
        alone = model(input_ids=single, use_cache=False).logits[0].float()
        with collate.packing_attention(model):
            batch = collate.collator(model, 0)([row])
            del batch["labels"]
            for name, value in batch.items():
                if torch.is_tensor(value):
                    batch[name] = value.to(model.device)
            logits = model(**batch, use_cache=False).logits
        packed = logits[0, len(first) :].float()
    model.train(was_training)
    return (packed - alone).abs().max().item()


def preflight(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Any) -> list[Check]:
    """Check a model and packed rows before training.

    Args:
        model: The model as it will be trained.
        tokenizer: The tokenizer of the model.
        rows: Packed rows {input_ids, labels, seq_lengths}. The first 2,000 rows are checked.
    """
    looked_at = [dict(row) for _, row in zip(range(CHECKED_ROWS), rows)]
    documents: list[Document] = []
    for row in looked_at:
        for start, size in collate.document_spans(row):
            span = slice(start, start + size)
            documents.append((row["input_ids"][span], row["labels"][span]))
    checks = _check_model(model, tokenizer)
    checks += _check_rows(model, looked_at)
    checks += _check_documents(tokenizer, documents)
    checks += _check_isolation(model, looked_at, documents)
    return checks


def _check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Check]:
    """Check the weights, the pad token, the size of the tables and whether they are tied."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    tied = bool(model.config.tie_word_embeddings)
    are_one = "tied" if head is table else "apart"
    says = "tied" if tied else "untied"
    rows, tokens = table.shape[0], len(tokenizer)
    return [
        Check(
            "weights are float32 or bfloat16",
            model.dtype in (torch.float32, torch.bfloat16),
            str(model.dtype),
        ),
        Check(
            "the pad token is not the end token",
            pad is not None and pad != eos,
            f"pad {pad}, end {eos}",
        ),
        Check(
            "the model has a row for every token",
            rows >= tokens,
            f"{rows} rows, {tokens} tokens",
        ),
        Check(
            "tied tables are one table",
            not tied or head is table,
            f"{are_one}, the config says {says}",
        ),
    ]


def _check_rows(model: PreTrainedModel, rows: list[dict]) -> list[Check]:
    """Check that rows fit the model, have consistent lengths, and have supervised tokens."""
    context = model.config.max_position_embeddings
    table_rows = model.get_input_embeddings().weight.shape[0]
    longest = max(len(row["input_ids"]) for row in rows)
    longest_document = max(max(row["seq_lengths"]) for row in rows)
    highest = max(max(row["input_ids"]) for row in rows)
    whole = silent = 0
    for row in rows:
        tokens = sum(row["seq_lengths"])
        whole += tokens == len(row["input_ids"]) == len(row["labels"])
        silent += all(label == IGNORE for label in row["labels"])
    return [
        Check(
            "rows fit the context",
            longest_document <= context,
            f"longest row {longest}, context {context}",
        ),
        Check("row lengths add up", whole == len(rows), f"{len(rows)} rows"),
        Check(
            "every token has a row",
            highest < table_rows,
            f"highest token {highest}, {table_rows} rows",
        ),
        Check("every row has a supervised token", silent == 0, f"{silent} rows without"),
    ]


def _check_documents(tokenizer: PreTrainedTokenizerBase, documents: list[Document]) -> list[Check]:
    """Check that answers have a supervised end token, and that prompts are the same as in use.

    Args:
        tokenizer: The tokenizer.
        documents: (token ids, labels) of each document in the rows.
    """
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    ending = [{"labels": labels} for ids, labels in documents if eos in ids]
    ended = templates.shares(ending, eos)["eos_supervised_share"]
    # A document with unsupervised tokens after the first one is a dialogue.
    dialogues = [ids for ids, labels in documents if IGNORE in labels[1:]]
    cut = sum(eos not in ids[-4:] for ids in dialogues)
    doubled = sum(list(ids[:2]) == [bos, bos] for ids, _ in documents)
    checks = [
        Check(
            "every end token is supervised",
            bool(ending) and ended == 1,
            f"{ended:.1%} of the answers in {len(ending)} documents",
        ),
        Check(
            "no answer's end is cut away",
            cut == 0,
            f"{cut} of {len(dialogues)} dialogues",
        ),
    ]
    if dialogues and tokenizer.chat_template:
        check = Check(
            "a prompt has the same tokens in training and in use",
            templates.same_prompt(tokenizer),
            "the template's generation prompt",
        )
        checks.append(check)
    checks.append(Check("no document begins with two BOS", doubled == 0, f"{doubled} documents"))
    inside = sum(_ends_inside(ids, labels, bos, eos) for ids, labels in documents)
    checks.append(
        Check("no text holds a begin or end token inside", inside == 0, f"{inside} documents")
    )
    return checks


def _ends_inside(ids: list[int], labels: list[int], bos: int | None, eos: int | None) -> bool:
    """Tell whether an end token is inside supervised text, or a begin token inside a plain text.

    This happens if a literal `</s>` in a text was encoded as the end token. The model would learn
    to stop there.

    Args:
        ids: Token ids of a document.
        labels: Labels of the document. The answers of a dialogue are runs of supervised labels.
        bos, eos: Ids of the tokenizer's begin and end tokens; None if it has none.
    """
    is_text = IGNORE not in labels[1:]
    for place, token in enumerate(ids[:-1]):
        learnt_on = labels[place] != IGNORE and labels[place + 1] != IGNORE
        if token == eos != bos and learnt_on:
            return True
        if token == bos != eos and place > 1 and is_text:
            return True
    return False


def _check_isolation(
    model: PreTrainedModel, rows: list[dict], documents: list[Document]
) -> list[Check]:
    """Check with the model itself that packed documents do not influence each other.

    Args:
        model: The model.
        rows: Packed rows.
        documents: (token ids, labels) of their documents. The two shortest documents with more than
            3 tokens are packed together.

    Returns:
        One check. No check if there are fewer than two such documents, or if a token has no row.
    """
    highest = max(max(row["input_ids"]) for row in rows)
    shortest = sorted((ids for ids, _ in documents if len(ids) > 3), key=len)[:2]
    if len(shortest) < 2 or highest >= model.get_input_embeddings().weight.shape[0]:
        return []
    error = isolation_error(model, *shortest)
    allowed = ISOLATION_ERROR.get(model.dtype, ISOLATION_ERROR_16_BITS)
    found = f"logits differ by {error:.1e}, allowed {allowed}"
    return [Check("packed documents do not see each other", error <= allowed, found)]
