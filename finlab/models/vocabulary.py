"""Extend a base's vocabulary with new pieces or merges.

    grown, added = vocabulary.extend(base, vocabulary.choose(candidates, base.get_vocab(), 600))

There are two kinds of base:

- **SentencePiece style** (Llama): `extend` follows the published rule of Chinese-LLaMA-Alpaca
  (scripts/merge_tokenizer). It appends every new piece that the base lacks. The new pieces have
  priority over the base's merges.
- **Byte-level** (Qwen, Llama 3): `learn` continues BPE training after the base's last merge, and
  `extend` appends the learnt merges after the base's merges.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from finlab.models import sentencepieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Merge = tuple[str, str]
BATCH = 1000  # texts encoded at a time
PRIVATE = 0x10000  # first of the characters that replace tokens while merges are learnt
MAX_TOKENS = 16  # most base tokens in a new piece, like SentencePiece's max_sentencepiece_length
KEPT_SETTINGS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "model_max_length",
    "padding_side",
)


# --- Chinese -------------------------------------------------------------------------------------
def _is_han(char: str) -> bool:
    """Tell whether a character is Chinese."""
    return "\u4e00" <= char <= "\u9fff"


def is_chinese(piece: str) -> bool:
    """Tell whether a piece holds a Chinese character and no Latin letter.

    Adding such a piece cannot change how English is cut.

    Args:
        piece: A piece, as its tokenizer spells it.
    """
    latin = any(char.isascii() and char.isalpha() for char in piece)
    return any(map(_is_han, piece)) and not latin


def choose(candidates: Iterable[str], known: Iterable[str], max_pieces: int) -> list[str]:
    """Return candidates that are not known, each with the characters it is built from.

    BPE can build a piece only if the vocabulary has all its characters. So missing characters are
    added too, and they count towards `max_pieces`.

    Args:
        candidates: Pieces, best first.
        known: The pieces of the base's vocabulary.
        max_pieces: Most pieces to return.
    """
    known = set(known)
    chosen: dict[str, None] = {}
    for piece in candidates:
        parts = dict.fromkeys([*piece, piece])
        needed = [part for part in parts if part not in known and part not in chosen]
        if len(chosen) + len(needed) <= max_pieces:
            chosen |= dict.fromkeys(needed)
    return list(chosen)


# --- extending -----------------------------------------------------------------------------------
def is_byte_level(base: PreTrainedTokenizerFast) -> bool:
    """Tell whether a base is byte-level BPE; False means BPE with byte fallback.

    Raises:
        ValueError: The base is of another kind. Its vocabulary cannot be extended without changing
            how it cuts other text.
    """
    backend = getattr(base, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the base tokenizer ({type(base).__name__}) has no tokenizer.json form: "
            "save it as a fast tokenizer first"
        )
    layout = json.loads(backend.to_str())
    model, cutting = layout["model"], layout["pre_tokenizer"] or {}
    if model["type"] == "BPE":
        if model.get("byte_fallback"):
            return False
        cuts = cutting.get("pretokenizers", [cutting] if cutting else [])
        if any(cut["type"] == "ByteLevel" for cut in cuts):
            return True
    raise ValueError(
        f"the base tokenizer is {model['type']} with neither byte fallback nor byte-level cutting: "
        "only BPE of the Llama family (SentencePiece) or of the Qwen and Llama 3 family "
        "(byte-level) can be extended; take another base or max_new=0"
    )


def extend(
    base: PreTrainedTokenizerFast,
    new: Iterable[str] | Iterable[Merge],
    pad_token: str = "<pad>",
) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Append the new pieces that a base lacks. The base's ids do not change.

    Args:
        base: The fast tokenizer of the base.
        new: For a SentencePiece base, pieces. They have priority over the base's merges, and
            earlier pieces over later ones. A piece can be built only from two known pieces;
            `choose` adds the characters that are needed. For a byte-level base, merges from
            `learn`, which come after the base's own.
        pad_token: Pad token to add if the base has none; empty adds none.

    Returns:
        The extended fast tokenizer, and the pieces that were added.

    Raises:
        ValueError: The base is of another kind, or its ids have gaps.
    """
    layout = json.loads(base.backend_tokenizer.to_str())
    byte_level, model = is_byte_level(base), layout["model"]
    vocabulary = model["vocab"]
    # Added tokens are entered into the vocabulary too, so that the ids have no gaps.
    for token in layout["added_tokens"]:
        vocabulary.setdefault(token["content"], token["id"])
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(
            f"the base's {len(vocabulary)} token ids are not 0 to {len(vocabulary) - 1}: "
            "its tokenizer.json has gaps or doubles"
        )
    new = list(dict.fromkeys(new))
    pieces = map("".join, new) if byte_level else new
    added = [piece for piece in dict.fromkeys(pieces) if piece not in vocabulary]
    for piece in added:
        vocabulary[piece] = len(vocabulary)
    old_merges = []
    for merge in model["merges"]:
        old_merges.append(merge if isinstance(merge, list) else merge.split(" "))
    if byte_level:
        model["merges"] = old_merges + [list(merge) for merge in new]
    else:
        scores = {piece: float(-number) for number, piece in enumerate(added)}
        first = sentencepieces.merges_of(vocabulary, scores)
        model["merges"] = first + _with_new_splits(old_merges, vocabulary, set(added))
    settings = {name: getattr(base, name) for name in KEPT_SETTINGS}
    extended = sentencepieces.wrap_layout(layout, **settings)
    extended.chat_template = base.chat_template
    if pad_token and extended.pad_token is None:
        extended.add_special_tokens({"pad_token": pad_token})
    return extended, added


def _with_new_splits(
    merges: list[list[str]], vocabulary: dict[str, int], new: set[str]
) -> list[list[str]]:
    """Return the base's merges, and the merges of old pieces that new pieces make possible.

    For example, with the new piece `Wi` the old piece `With` can also come from `Wi` + `th`.
    Without this merge a fast tokenizer would cut text differently from SentencePiece.

    Args:
        merges: The base's merges.
        vocabulary: {piece: id} of the extended tokenizer.
        new: The new pieces.
    """
    found, seen = [], set()
    for left, right in merges:
        found.append([left, right])
        piece = left + right
        if piece in seen:
            continue
        seen.add(piece)
        for one, other in sentencepieces.splits(piece):
            made_new = one in new or other in new
            if made_new and one in vocabulary and other in vocabulary:
                found.append([one, other])
    return found


# --- learning merges on a byte-level base --------------------------------------------------------
def learn(
    base: PreTrainedTokenizerFast,
    texts: list[str],
    max_new: int,
    words: bool = True,
    character_coverage: float = 1.0,
) -> list[Merge]:
    """Learn Chinese BPE merges on top of a byte-level base's own.

    First come the characters that the base spells with several tokens, the most frequent first.
    Then come pairs of tokens that consist only of Chinese characters, chosen by BPE training
    (Sennrich et al. 2016). No merge changes how other text is cut.

    Args:
        base: The tokenizer of the base.
        texts: Chinese texts.
        max_new: Most new pieces.
        words: Also learn pieces of several characters.
        character_coverage: Share of the text's Chinese characters that one token must spell, 0 to
            1.

    Returns:
        Merges in their order, for `extend`.

    Raises:
        ValueError: With `words`, the texts give fewer than `max_new` pieces.
    """
    merges = _character_merges(base, texts, max_new, character_coverage)
    grown, found = extend(base, merges, "")
    if not words or len(found) >= max_new:
        return merges
    pairs = _pair_merges(grown, texts, max_new - len(found))
    new_pieces = {left + right for left, right in pairs} - set(grown.get_vocab())
    count = len(found) + len(new_pieces)
    if count < max_new:
        raise ValueError(
            f"cannot learn {max_new:,} pieces: {sum(map(len, texts)):,} characters of text give "
            f"{count:,} that occur twice; lower max_new or add text"
        )
    return merges + pairs


def _character_merges(
    base: PreTrainedTokenizerFast, texts: list[str], max_new: int, coverage: float
) -> list[Merge]:
    """Return the merges that spell each frequent character with one token.

    Args:
        base: A byte-level tokenizer.
        texts: The texts in which characters are counted.
        max_new: Most new pieces.
        coverage: Share of the texts' Chinese characters that one token must spell, 0 to 1.
    """
    counts = Counter(char for text in texts for char in text if _is_han(char))
    uncovered = coverage * counts.total()
    known = set(base.get_vocab())
    merges: list[Merge] = []
    for char, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        if uncovered <= 0:
            break
        uncovered -= count
        parts = base.backend_tokenizer.encode(char, add_special_tokens=False).tokens
        steps = [("".join(parts[:end]), parts[end]) for end in range(1, len(parts))]
        new = {left + right for left, right in steps} - known
        if len(new) > max_new:
            break
        max_new -= len(new)
        known |= new
        merges += steps
    return list(dict.fromkeys(merges))


def _chinese_ids(base: PreTrainedTokenizerFast) -> set[int]:
    """Return the ids of the tokens that consist only of Chinese characters."""
    decoded = base.batch_decode([[number] for number in range(len(base))])
    found = set()
    for number, text in enumerate(decoded):
        if text and all(map(_is_han, text)):
            found.add(number)
    return found


def _pair_merges(base: PreTrainedTokenizerFast, texts: list[str], max_new: int) -> list[Merge]:
    """Return merges of Chinese tokens, counted by `tokenizers.BpeTrainer`.

    Each Chinese token is replaced by one private character. So the trainer's merges of characters
    are merges of tokens. Everything else becomes a space, and merges never cross spaces.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    names = base.convert_ids_to_tokens(list(range(len(base))))
    chinese_ids = _chinese_ids(base)

    def marked_texts() -> Iterator[str]:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            for row in base.backend_tokenizer.encode_batch(batch, add_special_tokens=False):
                signs, last_word = [], None
                for number, word in zip(row.ids, row.word_ids, strict=True):
                    if word != last_word:  # merges never cross the boundary between words
                        signs.append(" ")
                    signs.append(chr(PRIVATE + number) if number in chinese_ids else " ")
                    last_word = word
                yield "".join(signs)

    alphabet = [chr(PRIVATE + number) for number in sorted(chinese_ids)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + max_new + max_new // 10,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=alphabet,
        max_token_length=MAX_TOKENS,
    )
    counter = Tokenizer(models.BPE())
    counter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    counter.train_from_iterator(marked_texts(), trainer)

    def spell(signs: str) -> str:
        return "".join(names[ord(sign) - PRIVATE] for sign in signs)

    known, new = set(names), set()
    merges: list[Merge] = []
    for left, right in json.loads(counter.to_str())["model"]["merges"]:
        left, right = spell(left), spell(right)
        # A piece that the base already has needs no new row.
        new |= {left + right} - known
        if len(new) > max_new:
            break
        merges.append((left, right))
    return list(dict.fromkeys(merges))
