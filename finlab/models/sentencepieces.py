"""SentencePiece models: train them, add pieces, and convert them to fast tokenizers.

model = sentencepieces.train(texts, vocab_size=1200)     # the bytes of a SentencePiece file
base = sentencepieces.fast(model)                        # a Llama-style fast tokenizer
merged = sentencepieces.merge(model, new_pieces)         # the bytes of a larger file
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE = "▁"
SPECIALS = ("<unk>", "<s>", "</s>")
# SentencePiece silently drops longer sentences, so texts are cut into parts of this length.
MAX_SENTENCE = 16384  # characters
BPE = 2  # the number of the model type BPE in SentencePiece


# --- training and reading ------------------------------------------------------------------------
def train(
    texts: Iterable[str],
    vocab_size: int,
    model_type: str = "bpe",
    character_coverage: float = 1.0,
    max_characters: int = 0,
    seed: int = 0,
) -> bytes:
    """Train a SentencePiece model with byte fallback and split digits.

    Args:
        texts: The texts.
        vocab_size: The number of pieces, bytes and special tokens included.
        model_type: bpe, unigram or char.
        character_coverage: Share of the text's characters that get a piece of their own, 0 to 1.
        max_characters: Train on a random part of the texts with about this many characters; 0
            trains on all of them. Training needs about 50 bytes of memory for each character.
        seed: Seed for drawing that part.

    Returns:
        The bytes of the model's file.

    Raises:
        ValueError: SentencePiece cannot train that many pieces, for example because there is too
            little text.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(sampled(texts, max_characters, seed)),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            byte_fallback=True,
            character_coverage=character_coverage,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * MAX_SENTENCE,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        # SentencePiece's messages contain advice, in different words for the same problem.
        fewer = "too high" in reason or "less than" in reason or "smaller" in reason
        if "too small" in reason or "required_chars" in reason:
            advice = "raise the number of pieces, or lower character_coverage"
        elif fewer:
            advice = "lower the number of pieces, or add text"
        else:
            advice = f"SentencePiece says: {reason}"
        raise ValueError(f"cannot train {vocab_size:,} pieces on this text: {advice}") from None
    return model.getvalue()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts in parts of at most MAX_SENTENCE characters."""
    for text in texts:
        for start in range(0, len(text), MAX_SENTENCE):
            yield text[start : start + MAX_SENTENCE]


def sampled(texts: Iterable[str], max_characters: int, seed: int = 0) -> Iterable[str]:
    """Return a random part of the texts, in their order.

    Args:
        texts: All texts.
        max_characters: About how many characters to return. All texts are returned if it is 0 or
            if they have no more characters than that.
        seed: Seed for drawing the texts.
    """
    if not max_characters:
        return texts
    texts = list(texts)
    share = max_characters / max(sum(map(len, texts)), 1)
    if share >= 1:
        return texts
    rng = random.Random(seed)
    return [text for text in texts if rng.random() < share]


def _proto(model: bytes | Path) -> schema.ModelProto:
    """Return the protobuf of a model, given as bytes or as a file."""
    name = str(model) if isinstance(model, Path) else "the data"
    if isinstance(model, Path) and not model.is_file():
        raise ValueError(f"there is no SentencePiece file at {model}")
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(model if isinstance(model, bytes) else model.read_bytes())
    except Exception:
        raise ValueError(f"{name} is not a SentencePiece model") from None
    if not proto.pieces:
        raise ValueError(f"{name} is not a SentencePiece model: it has no pieces")
    return proto


def pieces(model: bytes | Path) -> list[str]:
    """Return the pieces of a model without control and byte pieces; for BPE the best first."""
    return [piece.piece for piece in _proto(model).pieces if piece.type == piece.NORMAL]


# --- merging new pieces --------------------------------------------------------------------------
def merge(base: bytes | Path, new_pieces: Iterable[str], controls: Iterable[str] = ()) -> bytes:
    """Append the pieces that a BPE base lacks, by the published rule.

    The rule comes from Chinese-LLaMA-Alpaca, scripts/merge_tokenizer, with one change. There every
    new piece has the score 0, and of two possible merges the left one wins. A list of merges cannot
    express this, so a fast tokenizer would cut text differently. Here the scores fall with the
    order of the pieces, and all are above the base's scores. So the fast tokenizer with the same
    pieces cuts text in the same way.

    Args:
        base: The base's SentencePiece file, or its bytes.
        new_pieces: Pieces, best first.
        controls: The pieces among them that never come from text, such as a pad token.

    Returns:
        The bytes of the merged file.
    """
    proto = _proto(base)
    known = {piece.piece for piece in proto.pieces}
    new = [piece for piece in dict.fromkeys(new_pieces) if piece not in known]
    controls = set(controls)
    normal, control = proto.pieces[0].NORMAL, proto.pieces[0].CONTROL
    # The new scores are also above the scores of an earlier extension.
    top = max(0.0, *(piece.score for piece in proto.pieces))
    for number, piece in enumerate(new):
        kind = control if piece in controls else normal
        proto.pieces.add(piece=piece, score=top + len(new) - number, type=kind)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString()


def slow(base_file: Path, grown: PreTrainedTokenizerFast) -> bytes | None:
    """Return the SentencePiece file of an extended tokenizer, made from its base's file.

    Args:
        base_file: The tokenizer.model of the base.
        grown: The extended fast tokenizer.

    Returns:
        The bytes of the file; None if `base_file` does not exist.
    """
    if not Path(base_file).exists():
        return None
    first_new = len(_proto(Path(base_file)).pieces)
    new = grown.convert_ids_to_tokens(list(range(first_new, len(grown))))
    return merge(Path(base_file), new, grown.get_added_vocab())


# --- fast tokenizers -----------------------------------------------------------------------------
def splits(piece: str) -> list[tuple[str, str]]:
    """Return all ways to cut a piece in two."""
    return [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]


def merges_of(vocabulary: dict[str, int], scores: dict[str, float]) -> list[list[str]]:
    """Return BPE merges for scored pieces.

    Every split of a piece into two known pieces is a merge. The best score comes first.

    Args:
        vocabulary: {piece: id} of all known pieces.
        scores: {piece: score} of the pieces that the merges must produce.

    Returns:
        Merges [left piece, right piece].
    """
    found = []
    for piece, score in scores.items():
        for left, right in splits(piece):
            if left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], left, right))
    return [[left, right] for *_, left, right in sorted(found)]


def fast(model: bytes | Path) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a BPE model, with the layout of Llama's tokenizer.

    It has byte fallback, puts `▁` before the text, and begins with BOS.

    Raises:
        ValueError: The model is not BPE. For example, BPE merges cannot express how a unigram model
            cuts text.
    """
    proto = _proto(model)
    if proto.trainer_spec.model_type != BPE:
        raise ValueError(
            "only a SentencePiece BPE model can be a base; "
            "use a unigram model as a source of new pieces"
        )
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    layout = _llama_layout(vocabulary, merges_of(vocabulary, scores))
    return wrap_layout(layout, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _llama_layout(vocabulary: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    """Return the content of a tokenizer.json like that of Llama 2.

    Args:
        vocabulary: {piece: id}.
        merges: Pairs of pieces, in the order in which they are merged.
    """
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second_text = {"Sequence": {"id": "B", "type_id": 0}}
    bos_id = vocabulary["<s>"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special_token(token, vocabulary[token]) for token in SPECIALS],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, bos, second_text],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [bos_id], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _special_token(token: str, number: int) -> dict[str, Any]:
    """Return a special token as tokenizer.json lists it."""
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def wrap_layout(layout: dict[str, Any], **options: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer from a tokenizer.json's content; options name its special tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(layout, ensure_ascii=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **options
    )
