"""Tokenizers: train SentencePiece vocabularies, extend a BPE base with new pieces, measure what it buys.

    proto = tokenizer.train(texts, vocab_size=1200)
    base = tokenizer.fast(proto)                        # a Llama-style fast tokenizer
    merged, added = tokenizer.extend(base, tokenizer.pieces(proto_zh))

`extend` follows the published rule of Chinese-LLaMA-Alpaca (scripts/merge_tokenizer): every new piece that the base does not
have is appended and wins over the base's merges. It works on any `tokenizers` BPE with byte fallback, so Llama's SentencePiece
file and a saved tokenizer.json take the same way. Byte-level BPE (Qwen, Llama 3) is refused, in words.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

SPACE = "▁"
SPECIALS = ("<unk>", "<s>", "</s>")


def train(texts: Iterable[str], vocab_size: int, model_type: str = "bpe", character_coverage: float = 1.0, seed_sentences: int = 0) -> bytes:
    """Train a SentencePiece model with byte fallback and split digits; return its protobuf bytes.

    `model_type` is bpe, unigram or char. Raises ValueError with both numbers when the texts are too few for the size.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, vocab_size=vocab_size, model_type=model_type, byte_fallback=True,
            character_coverage=character_coverage, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True, input_sentence_size=seed_sentences, shuffle_input_sentence=bool(seed_sentences),
            max_sentence_length=65536, num_threads=2, minloglevel=2)
    except RuntimeError as error:
        raise ValueError(f"cannot train {vocab_size} pieces: {' '.join(str(error).split())}; lower the vocabulary size or add text") from None
    return model.getvalue()


def _proto(data: bytes | Path) -> object:
    from sentencepiece import sentencepiece_model_pb2 as schema

    proto = schema.ModelProto()
    try:
        proto.ParseFromString(data if isinstance(data, bytes) else Path(data).read_bytes())
    except Exception:
        raise ValueError(f"{data if isinstance(data, Path) else 'the data'} is not a SentencePiece model") from None
    if not proto.pieces:
        raise ValueError(f"{data if isinstance(data, Path) else 'the data'} is not a SentencePiece model: it has no pieces")
    return proto


def pieces(data: bytes | Path) -> list[str]:
    """Return the ordinary pieces of a SentencePiece model, best first for BPE (no control, byte or unknown pieces)."""
    return [piece.piece for piece in _proto(data).pieces if piece.type == piece.NORMAL]


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[list[str]]:
    """Return BPE merges for scored pieces: every split of a piece into two known pieces, best score first."""
    found = []
    for piece, score in scores.items():
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece)) if piece[:cut] in vocabulary and piece[cut:] in vocabulary]
        found += [(-score, vocabulary[left], vocabulary[right], left, right) for left, right in splits]
    return [[left, right] for _, _, _, left, right in sorted(found)]


def fast(data: bytes | Path) -> object:
    """Return the fast tokenizer of a SentencePiece BPE model, laid out as Llama's: byte fallback, `▁` before the text, BOS first.

    Raises ValueError for a unigram model, whose segmentation BPE merges cannot express.
    """
    from transformers import PreTrainedTokenizerFast

    proto = _proto(data)
    if proto.trainer_spec.model_type != 2:
        raise ValueError("only a SentencePiece BPE model can be a base; use a unigram model as a source of new pieces")
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    specials = [{"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                 "special": True} for token in SPECIALS]
    layout = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                    {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [vocabulary["<s>"]], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
                                                     {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary, "merges": _merges(vocabulary, scores)},
    }
    return _wrap(layout, PreTrainedTokenizerFast, {})


def _wrap(layout: dict, kind: type, settings: dict) -> object:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(json.dumps(layout, ensure_ascii=False))
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | settings
    return kind(tokenizer_object=backend, clean_up_tokenization_spaces=False, **specials)


def extend(base: object, new_pieces: Iterable[str], pad_token: str = "<pad>") -> tuple[object, list[str]]:
    """Append the pieces that the base lacks, in their order, and a pad token if it has none of its own; return (tokenizer, added pieces).

    Ids of the base stay as they are. New pieces win over the base's merges, earlier ones first. A piece is reachable when two
    known pieces make it up; parts it needs and nobody has are not invented.
    Raises ValueError when the base is not a BPE with byte fallback, or its ids have gaps.
    """
    from transformers import PreTrainedTokenizerFast

    layout = json.loads(base.backend_tokenizer.to_str())
    model = layout["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback"):
        raise ValueError(f"the base tokenizer is {model['type']} without byte fallback (byte-level?); this step extends SentencePiece-style BPE only")
    vocabulary = model["vocab"]
    for token in layout["added_tokens"]:  # give added tokens their place in the vocabulary, so ids stay without gaps
        vocabulary.setdefault(token["content"], token["id"])
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(f"the base's {len(vocabulary)} token ids are not 0 to {len(vocabulary) - 1}: its tokenizer.json has gaps or doubles")
    added = [piece for piece in dict.fromkeys(new_pieces) if piece not in vocabulary]
    for piece in added:
        vocabulary[piece] = len(vocabulary)
    rank = {piece: float(-number) for number, piece in enumerate(added)}
    model["merges"] = _merges(vocabulary, rank) + [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    extended = _wrap(layout, PreTrainedTokenizerFast, {"bos_token": base.bos_token, "eos_token": base.eos_token, "unk_token": base.unk_token})
    extended.chat_template = base.chat_template
    if pad_token:
        extended.add_special_tokens({"pad_token": pad_token})
    return extended, added


def load(source: str | Path) -> object:
    """Load a tokenizer from a folder, a hub id or a SentencePiece file; raise ValueError when there is none."""
    from transformers import AutoTokenizer

    if str(source).endswith(".model"):
        return fast(Path(source))
    folder = Path(source)
    if folder.is_dir() and not (folder / "tokenizer.json").exists() and (folder / "tokenizer.model").exists():
        return fast(folder / "tokenizer.model")
    try:
        return AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"no tokenizer in '{source}': it needs tokenizer.json or tokenizer.model ({str(error).strip().splitlines()[0][:150]})") from None


def choose(candidates: Iterable[str], known: Iterable[str], most: int) -> list[str]:
    """Return up to `most` candidates that are not known, each with the single characters it is built from.

    A BPE piece whose characters are missing can never be reached, so characters count against `most` too.
    """
    known, chosen = set(known), {}
    for piece in candidates:
        needed = [part for part in dict.fromkeys([*piece, piece]) if part not in known and part not in chosen]
        if len(chosen) + len(needed) <= most:
            chosen |= dict.fromkeys(needed)
    return list(chosen)


def chinese(piece: str) -> bool:
    """Tell whether a piece holds a CJK character and no Latin letter, so adding it cannot change English."""
    return any("\u4e00" <= char <= "\u9fff" for char in piece) and not any(char.isascii() and char.isalpha() for char in piece)


def encode(tokenizer: object, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text as a document: BOS, text, EOS (BOS and EOS where the tokenizer has them)."""
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return [bos + ids + eos for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def chars_per_token(tokenizer: object, texts: list[str]) -> float:
    """Return characters per token over texts (no special tokens counted)."""
    tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return sum(map(len, texts)) / max(tokens, 1)


def round_trip_failures(tokenizer: object, texts: list[str]) -> list[str]:
    """Return the texts that decoding does not give back exactly."""
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [text for text, row in zip(texts, ids, strict=True) if tokenizer.decode(row, skip_special_tokens=False) != text]
