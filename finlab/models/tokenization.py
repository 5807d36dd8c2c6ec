"""Load tokenizers, encode with them, measure them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from finlab.data import control_tokens, encoding, frames
from finlab.models import sentencepieces

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

BATCH = 1000  # texts encoded at a time
THINKING_SWITCH = "enable_thinking"  # the variable of Qwen3's chat template, and of others
THINKING_OFF = f"{{%- set {THINKING_SWITCH} = false -%}}"


def load(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, a hub id or a SentencePiece file.

    A folder that holds only a SentencePiece file is read as such: transformers 5 would order its
    merges by id, not by score.

    Raises:
        ValueError: There is no tokenizer.
    """
    from transformers import AutoTokenizer

    if str(source).endswith(".model"):
        return sentencepieces.fast(Path(source))
    folder = Path(source)
    if folder.is_dir() and not (folder / "tokenizer.json").exists():
        if (folder / "tokenizer.model").exists():
            return sentencepieces.fast(folder / "tokenizer.model")
    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:  # a broken file raises what its reader raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise ValueError(
            f"no tokenizer in '{source}': it needs tokenizer.json or tokenizer.model ({reason})"
        ) from None


def switch_thinking_off(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a chat template that has a switch for thinking, as Qwen3's, begin answers without it.

    Where models are compared with no budget for thinking, one that thinks would be cut off in the
    middle of a thought.

    Args:
        tokenizer: Its template is changed in memory; one without the switch is left as it is.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and THINKING_SWITCH in template:
        tokenizer.chat_template = THINKING_OFF + template


# --- encoding ------------------------------------------------------------------------------------
def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that fills up rows: the end token where there is no pad token."""
    pad = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad


def plain(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text without special tokens; a literal `</s>` is spelt in pieces.

    Args:
        tokenizer: The tokenizer; a fast one works on all cores.
        texts: Any number: they are encoded a batch at a time.
    """
    backend = tokenizer.backend_tokenizer
    rows = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        with control_tokens.as_text(tokenizer):
            encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        rows += [encoding.ids for encoding in encodings]
    return rows


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text as a document: BOS, text, EOS, where the tokenizer has them.

    Args:
        tokenizer: The tokenizer.
        texts: Documents.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [bos + ids + eos for ids in plain(tokenizer, texts)]


def documents(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the ids of texts as documents to be measured: every character is predicted.

    Qwen has no BOS, so the end of another document stands before its first token.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
    """
    first = [tokenizer.eos_token_id] if tokenizer.bos_token_id is None else []
    return [first + ids for ids in encode(tokenizer, texts)]


def encoded(tokenizer: PreTrainedTokenizerBase, folder: Path, cache: Path) -> Dataset:
    """Encode the documents of a corpus step's Parquet folder: one pass in Daft.

    It runs in this process, in several, or on a Ray cluster; see `frames.choose_runner`.

    Args:
        tokenizer: The tokenizer.
        folder: The folder, such as the step's `train`.
        cache: Where the tokens are written.

    Returns:
        A data set on disk in the documents' order: source, domain, language, tokens (a count) and
        input_ids (int32, with BOS and EOS).
    """
    return encoding.encode(functools.partial(encode, tokenizer), folder, cache)


def replay_documents(
    tokenizer: PreTrainedTokenizerBase, folder: Path, tokens: float, seed: int
) -> list[list[int]]:
    """Return documents of pretraining text, about so many tokens, to learn beside others.

    Args:
        tokenizer: The tokenizer.
        folder: A corpus step's `train` folder.
        tokens: How many; the document that reaches the number is the last.
        seed: Draws the documents.
    """
    # The corpus step counted with the base's tokenizer, which may have cut other text.
    texts = frames.sample_texts(folder, 4 * tokens, seed)
    taken: list[list[int]] = []
    total = 0
    for ids in documents(tokenizer, texts):
        if total >= tokens:
            break
        taken.append(ids)
        total += len(ids)
    return taken


# --- measures ------------------------------------------------------------------------------------
def chars_per_token(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Return characters per token over texts; special tokens do not count.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
    """
    tokens = sum(map(len, plain(tokenizer, texts)))
    return sum(map(len, texts)) / max(tokens, 1)


def round_trip_failures(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """Return the texts that decoding does not give back exactly.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
    """
    failures = []
    for text, ids in zip(texts, plain(tokenizer, texts), strict=True):
        if tokenizer.decode(ids, skip_special_tokens=False) != text:
            failures.append(text)
    return failures


def agreement(model: bytes, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Return the share of texts that SentencePiece cuts exactly as the fast tokenizer does.

    Args:
        model: The bytes of a SentencePiece file.
        tokenizer: The fast tokenizer.
        texts: The texts.
    """
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_proto=model).encode(texts)
    ours = plain(tokenizer, texts)
    same = sum(one == other for one, other in zip(theirs, ours, strict=True))
    return same / max(len(texts), 1)
