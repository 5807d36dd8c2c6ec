"""Tokenizers: train vocabularies, extend a base with new pieces or merges, measure what it buys.

    model = tokenizer.train(texts, vocab_size=1200)            # a SentencePiece protobuf
    base = tokenizer.fast(model)                               # a Llama-style fast tokenizer
    grown, added = tokenizer.extend(base, tokenizer.pieces(model_zh))
    slow = tokenizer.merge(model, added)                       # the same as SentencePiece's own file

A base is one of two kinds. SentencePiece style (Llama): `extend` follows the published rule of Chinese-LLaMA-Alpaca
(scripts/merge_tokenizer): every new piece that the base does not have is appended and wins over the base's merges. Byte-level
(Qwen, Llama 3): `learn` goes on with BPE where the base's merges end, and `extend` appends those merges behind the base's.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

SPACE = "▁"
SENTENCE = 16384  # characters: SentencePiece leaves out longer sentences without a word, so they are cut
BATCH = 1000  # texts encoded at a time
PRIVATE = 0x10000  # where the characters begin that stand for tokens while merges are learnt
LONGEST = 16  # tokens of the base in a learnt piece, as SentencePiece's max_sentencepiece_length
SPECIALS = ("<unk>", "<s>", "</s>")


def train(texts: Iterable[str], vocab_size: int, model_type: str = "bpe", character_coverage: float = 1.0, most_characters: int = 0, seed: int = 0) -> bytes:
    """Train a SentencePiece model with byte fallback and split digits; return its protobuf bytes.

    `model_type` is bpe, unigram or char; `character_coverage` the share of the text whose characters get pieces. With
    `most_characters` a random part of the texts of about that size is read, which bounds memory (some 50 bytes a character).
    Raises ValueError with both numbers when the texts are too few for the size.
    """
    import sentencepiece

    parts = (text[start:start + SENTENCE] for text in sampled(texts, most_characters, seed) for start in range(0, len(text), SENTENCE))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=parts, model_writer=model, vocab_size=vocab_size, model_type=model_type, byte_fallback=True,
            character_coverage=character_coverage, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True, max_sentence_length=4 * SENTENCE, num_threads=2, minloglevel=2)
    except RuntimeError as error:
        raise ValueError(f"cannot train {vocab_size:,} pieces: {' '.join(str(error).split())}; lower the vocabulary size or add text") from None
    return model.getvalue()


def sampled(texts: Iterable[str], most_characters: int, seed: int = 0) -> Iterable[str]:
    """Return a random part of the texts with about so many characters, in their order; all of them when 0 or when they are fewer."""
    if not most_characters:
        return texts
    texts = list(texts)
    share = most_characters / max(sum(map(len, texts)), 1)
    rng = random.Random(seed)
    return texts if share >= 1 else [text for text in texts if rng.random() < share]


def _proto(data: bytes | Path) -> object:
    from sentencepiece import sentencepiece_model_pb2 as schema

    proto = schema.ModelProto()
    if not isinstance(data, bytes) and not Path(data).is_file():
        raise ValueError(f"there is no SentencePiece file at {data}")
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


def _with_new_splits(merges: list[list[str]], vocabulary: dict[str, int], fresh: set[str]) -> list[list[str]]:
    """Return the base's merges, and beside the first of each piece the splits of it that only new pieces make possible."""
    found, seen = [], set()
    for left, right in merges:
        found.append([left, right])
        piece = left + right
        splits = [] if piece in seen else [[piece[:cut], piece[cut:]] for cut in range(1, len(piece))]
        found += [[a, b] for a, b in splits if (a in fresh or b in fresh) and a in vocabulary and b in vocabulary]
        seen.add(piece)
    return found


def fast(data: bytes | Path) -> object:
    """Return the fast tokenizer of a SentencePiece BPE model, laid out as Llama's: byte fallback, `▁` before the text, BOS first.

    Raises ValueError for a unigram model, whose segmentation BPE merges cannot express.
    """
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
    return _wrap(layout, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def merge(base: bytes | Path, new_pieces: Iterable[str], controls: Iterable[str] = ()) -> bytes:
    """Append the pieces that a SentencePiece BPE base lacks, by the published rule; return the protobuf bytes.

    Source: Chinese-LLaMA-Alpaca, scripts/merge_tokenizer. There every new piece has score 0, and the left one of two wins, which no
    list of merges can say: fast tokenizers then cut otherwise. Here scores fall with the order, all above the base's, so that the
    fast tokenizer of the same pieces agrees. `controls` are pieces that text never makes, such as a pad token.
    """
    proto = _proto(base)
    known, controls = {piece.piece for piece in proto.pieces}, set(controls)
    new = [piece for piece in dict.fromkeys(new_pieces) if piece not in known]
    top = max(0.0, *(piece.score for piece in proto.pieces))  # above those of an earlier extension, too
    for number, piece in enumerate(new):
        proto.pieces.add(piece=piece, score=top + len(new) - number, type=proto.pieces[0].CONTROL if piece in controls else proto.pieces[0].NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString()


def slow(base_file: Path, grown: object) -> bytes | None:
    """Return the SentencePiece protobuf of a grown tokenizer, made from its base's file; None when the base has no such file."""
    if not Path(base_file).exists():
        return None
    start = len(_proto(Path(base_file)).pieces)
    return merge(Path(base_file), grown.convert_ids_to_tokens(list(range(start, len(grown)))), grown.get_added_vocab())


def agreement(model: bytes, tokenizer: object, texts: list[str]) -> float:
    """Return the share of texts that SentencePiece cuts exactly as the fast tokenizer does."""
    import sentencepiece

    cut = sentencepiece.SentencePieceProcessor(model_proto=model).encode(texts)
    return sum(one == other for one, other in zip(cut, plain(tokenizer, texts), strict=True)) / max(len(texts), 1)


def _wrap(layout: dict, **settings: object) -> object:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(layout, ensure_ascii=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings)


def byte_level(base: object) -> bool:
    """Tell whether a base is byte-level BPE (Qwen, Llama 3) rather than BPE with byte fallback (SentencePiece, Llama).

    Raises ValueError for every other kind, since its vocabulary cannot be extended so that text is cut as before.
    """
    backend = getattr(base, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"the base tokenizer ({type(base).__name__}) has no tokenizer.json form: save it as a fast tokenizer first")
    layout = json.loads(backend.to_str())
    model, cut = layout["model"], layout["pre_tokenizer"] or {}
    if model["type"] == "BPE" and model.get("byte_fallback"):
        return False
    if model["type"] == "BPE" and any(part["type"] == "ByteLevel" for part in cut.get("pretokenizers", [cut] if cut else [])):
        return True
    raise ValueError(f"the base tokenizer is {model['type']} with neither byte fallback nor byte-level cutting: only BPE of the Llama family "
                     "(SentencePiece) or of the Qwen and Llama 3 family (byte-level) can be extended; take another base or most_new=0")


def extend(base: object, new: Iterable[str] | Iterable[tuple[str, str]], pad_token: str = "<pad>") -> tuple[object, list[str]]:
    """Append what the base lacks, in its order, and a pad token if it has none of its own; return (fast tokenizer, added pieces).

    `new` are pieces for a SentencePiece base: they win over the base's merges, earlier ones first, and a piece is reachable when
    two known pieces make it up (`choose` adds the characters it needs). For a byte-level base they are merges from `learn`, which come
    after the base's own. Ids of the base stay.
    Raises ValueError when the base is of another kind, or its ids have gaps.
    """
    layout = json.loads(base.backend_tokenizer.to_str())
    bytes_first, model = byte_level(base), layout["model"]
    vocabulary = model["vocab"]
    for token in layout["added_tokens"]:  # give added tokens their place in the vocabulary, so ids stay without gaps
        vocabulary.setdefault(token["content"], token["id"])
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(f"the base's {len(vocabulary)} token ids are not 0 to {len(vocabulary) - 1}: its tokenizer.json has gaps or doubles")
    new = list(dict.fromkeys(new))
    added = [piece for piece in dict.fromkeys(map("".join, new) if bytes_first else new) if piece not in vocabulary]
    for piece in added:
        vocabulary[piece] = len(vocabulary)
    old = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    if bytes_first:
        model["merges"] = [*old, *map(list, new)]
    else:
        model["merges"] = _merges(vocabulary, {piece: float(-number) for number, piece in enumerate(added)}) + _with_new_splits(old, vocabulary, set(added))
    kept = ("bos_token", "eos_token", "unk_token", "pad_token", "model_max_length", "padding_side")
    extended = _wrap(layout, **{name: getattr(base, name) for name in kept})
    extended.chat_template = base.chat_template
    if pad_token and extended.pad_token is None:
        extended.add_special_tokens({"pad_token": pad_token})
    return extended, added


def learn(base: object, texts: list[str], most_new: int, words: bool = True, character_coverage: float = 1.0) -> list[tuple[str, str]]:
    """Learn Chinese BPE merges on top of a byte-level base's own; return them in their order, for `extend`.

    First the characters that the base spells in several tokens, most frequent first until `character_coverage` of the text's
    characters are covered; then, if `words`, pairs of tokens that are Chinese through and through, by the count of BPE training
    (Sennrich et al. 2016; `tokenizers.BpeTrainer` does the counting, one private character standing for each token). No merge touches
    other text. With `words`, raises ValueError when the texts give fewer than `most_new` pieces.
    """
    merges = _characters(base, texts, most_new, character_coverage)
    grown, found = extend(base, merges, "")
    if words and len(found) < most_new:
        pairs = _pairs(grown, texts, most_new - len(found))
        count = len(found) + len(set(map("".join, pairs)) - set(grown.get_vocab()))
        if count < most_new:
            raise ValueError(f"cannot learn {most_new:,} pieces: {sum(map(len, texts)):,} characters of text give {count:,} that occur twice; "
                             "lower most_new or add text")
        merges += pairs
    return merges


def _characters(base: object, texts: list[str], most: int, coverage: float) -> list[tuple[str, str]]:
    counts = Counter(char for text in texts for char in text if _han(char))
    left, known, merges = coverage * counts.total(), set(base.get_vocab()), []
    for char, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        if left <= 0:
            break
        left -= count
        parts = base.backend_tokenizer.encode(char, add_special_tokens=False).tokens
        steps = [("".join(parts[:end]), parts[end]) for end in range(1, len(parts))]
        fresh = {"".join(step) for step in steps} - known
        if len(fresh) > most:
            break
        most, known = most - len(fresh), known | fresh
        merges += steps
    return list(dict.fromkeys(merges))


def _pairs(base: object, texts: list[str], most: int) -> list[tuple[str, str]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    names = base.convert_ids_to_tokens(list(range(len(base))))
    chinese_ids = {number for number, text in enumerate(base.batch_decode([[number] for number in range(len(base))])) if text and all(map(_han, text))}

    def marked() -> Iterator[str]:
        for start in range(0, len(texts), BATCH):
            for row in base.backend_tokenizer.encode_batch(texts[start:start + BATCH], add_special_tokens=False):
                last, line = None, []
                for number, word in zip(row.ids, row.word_ids, strict=True):  # no merge goes over the cuts between words
                    line.append((" " if word != last else "") + (chr(PRIVATE + number) if number in chinese_ids else " "))
                    last = word
                yield "".join(line)

    counter = Tokenizer(models.BPE())
    counter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = [chr(PRIVATE + number) for number in sorted(chinese_ids)]
    counter.train_from_iterator(marked(), trainers.BpeTrainer(vocab_size=len(alphabet) + most + most // 10, min_frequency=2, show_progress=False,
                                                              initial_alphabet=alphabet, max_token_length=LONGEST))
    found, fresh, known = [], set(), set(names)
    for pair in json.loads(counter.to_str())["model"]["merges"]:
        left, right = ("".join(names[ord(char) - PRIVATE] for char in part) for part in pair)
        fresh |= {left + right} - known  # a piece the base reaches by another way needs no new row
        if len(fresh) > most:
            break
        found.append((left, right))
    return list(dict.fromkeys(found))


def _han(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fff"


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
    return any(map(_han, piece)) and not any(char.isascii() and char.isalpha() for char in piece)


def encode(tokenizer: object, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text as a document: BOS, text, EOS (BOS and EOS where the tokenizer has them)."""
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    eos = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return [bos + ids + eos for ids in plain(tokenizer, texts)]


def encoded(tokenizer: object, folder: Path, cache: Path) -> object:
    """Return the documents of a corpus step's Parquet folder, in their order, as a datasets.Dataset on disk in `cache`.

    Columns: source, domain, language, tokens (a count) and input_ids (int32, with BOS and EOS). Encoded a batch at a time.
    """
    import numpy
    import pyarrow.dataset
    from datasets import Features, List, Value

    from finlab import mixture

    features = Features({"number": Value("int64"), "source": Value("string"), "domain": Value("string"), "language": Value("string"), "tokens": Value("int64"),
                         "input_ids": List(Value("int32"))})
    found = pyarrow.dataset.dataset(str(folder), partitioning="hive")

    def batches() -> Iterator[dict]:
        for batch in found.to_batches(columns=["number", "source", "domain", "language", "text"], batch_size=BATCH):
            columns = batch.to_pydict()
            ids = encode(tokenizer, columns.pop("text"))
            yield columns | {"tokens": [len(row) for row in ids], "input_ids": ids}

    rows = mixture.stream(cache / "tokens.arrow", features, batches())
    return rows.select(numpy.argsort(rows["number"][:], kind="stable")).remove_columns("number")


def plain(tokenizer: object, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text without special tokens, on all cores, a batch at a time."""
    return [row.ids for start in range(0, len(texts), BATCH)
            for row in tokenizer.backend_tokenizer.encode_batch_fast(texts[start:start + BATCH], add_special_tokens=False)]


def chars_per_token(tokenizer: object, texts: list[str]) -> float:
    """Return characters per token over texts (no special tokens counted)."""
    tokens = sum(map(len, plain(tokenizer, texts)))
    return sum(map(len, texts)) / max(tokens, 1)


def round_trip_failures(tokenizer: object, texts: list[str]) -> list[str]:
    """Return the texts that decoding does not give back exactly."""
    return [text for text, row in zip(texts, plain(tokenizer, texts), strict=True) if tokenizer.decode(row, skip_special_tokens=False) != text]
