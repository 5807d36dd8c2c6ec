"""Load tokenizers, encode texts with them, and measure them."""

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

    If a folder has a SentencePiece file and no tokenizer.json, the SentencePiece file is converted
    here. transformers 5 would order its merges by id instead of by score.

    Raises:
        ValueError: There is no readable tokenizer at `source`.
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
    except Exception as error:  # a broken file can raise any error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise ValueError(
            f"no tokenizer in '{source}': it needs tokenizer.json or tokenizer.model ({reason})"
        ) from None


def switch_thinking_off(tokenizer: PreTrainedTokenizerBase) -> None:
    """Turn off thinking in a chat template that has a switch for it, such as Qwen3's.

    Some comparisons of models have no token budget for thinking. A model that thinks would then be
    cut off in the middle of its thinking.

    Args:
        tokenizer: The tokenizer. Its chat template is changed in memory only. A template without
            the switch is not changed.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and THINKING_SWITCH in template:
        tokenizer.chat_template = THINKING_OFF + template


# --- encoding ------------------------------------------------------------------------------------
def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token to pad rows with: the end token if there is no pad token."""
    pad = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad


def plain(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text, without special tokens.

    A literal `</s>` in a text is encoded as ordinary text.

    Args:
        tokenizer: A fast tokenizer; it uses all cores.
        texts: Any number of texts; they are encoded in batches.
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
    """Return the token ids of each text as a document: BOS, text, EOS.

    BOS or EOS is left out if the tokenizer does not have it.

    Args:
        tokenizer: The tokenizer.
        texts: The text of each document.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [bos + ids + eos for ids in plain(tokenizer, texts)]


def documents(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return token ids of documents for measuring a loss: every character is predicted.

    If there is no BOS, as in Qwen, an EOS is put first. It stands for the end of another document.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
    """
    first = [tokenizer.eos_token_id] if tokenizer.bos_token_id is None else []
    return [first + ids for ids in encode(tokenizer, texts)]


def encoded(tokenizer: PreTrainedTokenizerBase, folder: Path, cache: Path) -> Dataset:
    """Encode the documents in a Parquet folder of a corpus step, in one pass with Daft.

    It runs in this process, in several processes, or on a Ray cluster; see `frames.choose_runner`.

    Args:
        tokenizer: The tokenizer.
        folder: A Parquet folder of the corpus step, such as `train`.
        cache: Folder to write the tokens in.

    Returns:
        A data set on disk in the order of the documents, with the columns source, domain,
        language, tokens (number of tokens) and input_ids (int32, with BOS and EOS).
    """
    return encoding.encode(functools.partial(encode, tokenizer), folder, cache)


def replay_documents(
    tokenizer: PreTrainedTokenizerBase, folder: Path, tokens: float, seed: int
) -> list[list[int]]:
    """Return random documents of pretraining text, to mix into other training data.

    Args:
        tokenizer: The tokenizer.
        folder: A corpus step's `train` folder.
        tokens: About how many tokens to return. The document that reaches this number is the last.
        seed: Seed for drawing the documents.

    Returns:
        Token ids of each document.
    """
    # The corpus step counted tokens with the base's tokenizer, and this one may need more or fewer.
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
    """Return the characters per token of all texts together; special tokens do not count.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
    """
    tokens = sum(map(len, plain(tokenizer, texts)))
    return sum(map(len, texts)) / max(tokens, 1)


def round_trip_failures(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """Return the texts that are different after encoding and decoding.

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
    """Return the share of texts that SentencePiece and the fast tokenizer cut identically.

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
