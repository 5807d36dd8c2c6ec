"""Tokenizers: equal to SentencePiece, old ids kept, exact round trips, English untouched.

For both kinds of base.
"""

from collections import Counter

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finlab.closed_world import texts
from finlab.data import cards
from finlab.models import sentencepieces, tokenization, vocabulary

TEXTS = [row["text"] for rows in texts.documents().values() for row in rows[:60]]
ENGLISH = [text for text in TEXTS if text.isascii()]
CHINESE = [text for text in TEXTS if not text.isascii()]


@pytest.fixture(scope="module")
def base():
    return sentencepieces.fast(sentencepieces.train(ENGLISH + CHINESE[:40], 900))


def test_fast_equals_sentencepiece():
    model = sentencepieces.train(TEXTS, 1500)
    slow, fast = sentencepiece.SentencePieceProcessor(model_proto=model), sentencepieces.fast(model)
    for text in TEXTS + ["两个  空格", "emoji 😀", "\n", ""]:
        assert fast(text, add_special_tokens=False)["input_ids"] == slow.encode(text), text


def test_extension(base, tmp_path):
    candidates = [
        piece
        for piece in sentencepieces.pieces(sentencepieces.train(CHINESE, 1500))
        if vocabulary.is_chinese(piece)
    ]
    new = vocabulary.choose(candidates, base.get_vocab(), 400)
    assert len(new) == 400
    assert all(set(piece) <= set(base.get_vocab()) | set(new) for piece in new)
    grown, added = vocabulary.extend(base, new)
    assert len(grown) == len(base) + len(added) + 1
    assert grown.pad_token == "<pad>"
    assert grown.convert_ids_to_tokens(list(range(len(base)))) == base.convert_ids_to_tokens(
        list(range(len(base)))
    )
    assert [grown(text)["input_ids"] for text in ENGLISH] == [
        base(text)["input_ids"] for text in ENGLISH
    ]
    assert tokenization.chars_per_token(grown, CHINESE) > 1.3 * tokenization.chars_per_token(
        base, CHINESE
    )
    assert not tokenization.round_trip_failures(grown, TEXTS + ["两个  空格", " 前后 "])
    grown.save_pretrained(tmp_path)
    again = tokenization.load(tmp_path)
    assert [again(text)["input_ids"] for text in TEXTS[:50]] == [
        grown(text)["input_ids"] for text in TEXTS[:50]
    ]
    file = sentencepieces.merge(
        sentencepieces.train(ENGLISH + CHINESE[:40], 900), [*added, "<pad>"], ["<pad>"]
    )
    twice, more = vocabulary.extend(again, ["证券监察署条例"])
    assert (
        tokenization.agreement(sentencepieces.merge(file, more), twice, [*TEXTS, "证券监察署条例"])
        == 1
    )
    assert more == ["证券监察署条例"]
    assert twice.convert_tokens_to_ids("证券监察署条例") == len(again)


def test_documents_have_their_ends(base):
    ids = tokenization.encode(base, ["hello"])[0]
    assert ids[0] == base.bos_token_id
    assert ids[-1] == base.eos_token_id
    assert ids.count(base.bos_token_id) == 1


def test_slow_and_fast_agree_with_latin_pieces_too(base):
    """A new piece opens new ways to old ones (Wi + th = With).

    The fast tokenizer must know them all.
    """
    model = sentencepieces.train(ENGLISH + CHINESE[:40], 900)
    pieces = sentencepieces.pieces(
        sentencepieces.train(
            CHINESE + [text.upper() for text in ENGLISH] + ENGLISH[::2], 1400, "unigram"
        )
    )
    grown, added = vocabulary.extend(base, pieces)
    assert any(piece.isascii() and len(piece) > 1 for piece in added)
    slow = sentencepieces.merge(model, [*added, "<pad>"], ["<pad>"])
    assert tokenization.agreement(slow, grown, TEXTS + ["With 银行 within", "  两个  空格 "]) == 1
    processor = sentencepiece.SentencePieceProcessor(model_proto=slow)
    assert processor.get_piece_size() == len(grown)
    assert processor.is_control(len(grown) - 1)
    assert processor.encode("<pad>") != [len(grown) - 1]


def test_the_merged_file_stands_beside_the_fast_tokenizer(base, tmp_path):
    (tmp_path / "base.model").write_bytes(sentencepieces.train(ENGLISH + CHINESE[:40], 900))
    grown, _ = vocabulary.extend(
        base, vocabulary.choose(["证券监察署", "券监", "监察署", "察署"], base.get_vocab(), 20)
    )
    grown.add_special_tokens({"additional_special_tokens": ["<|Human|>"]})
    grown.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(sentencepieces.slow(tmp_path / "base.model", grown))
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenization.plain(again, TEXTS) == tokenization.plain(grown, TEXTS)
    assert tokenization.agreement((tmp_path / "tokenizer.model").read_bytes(), again, TEXTS) == 1
    assert sentencepieces.slow(tmp_path / "none.model", grown) is None


def byte_level_base(texts, size=420, cut=None, **settings):
    backend = Tokenizer(models.BPE(**settings))
    backend.pre_tokenizer, backend.decoder = (
        cut or pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            special_tokens=["<|endoftext|>", "<|pad|>"],
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|pad|>"
    )


LLAMA3_CUT = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            pattern=__import__("tokenizers").Regex(
                r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
            ),
            behavior="isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


@pytest.mark.parametrize(
    "settings", [{}, {"cut": LLAMA3_CUT, "ignore_merges": True}], ids=["qwen", "llama3"]
)
def test_byte_level_base_learns_on(settings, tmp_path):
    base = byte_level_base(ENGLISH + CHINESE[:5], **settings)
    merges = vocabulary.learn(base, CHINESE, 500)
    grown, added = vocabulary.extend(base, merges)
    assert len(added) == 500
    assert len(grown) == len(base) + 500
    assert grown.pad_token == base.pad_token
    assert grown.eos_token == "<|endoftext|>"
    assert grown.convert_ids_to_tokens(list(range(len(base)))) == base.convert_ids_to_tokens(
        list(range(len(base)))
    )
    others = [*ENGLISH, "emoji 😀 naïve — “quoted” 12,345", "カタカナ 한국어 ЖЖ"]
    assert tokenization.plain(grown, others) == tokenization.plain(base, others), (
        "no merge may touch what is not Chinese"
    )
    assert tokenization.chars_per_token(grown, CHINESE) > 2 * tokenization.chars_per_token(
        base, CHINESE
    )
    assert not tokenization.round_trip_failures(grown, [*TEXTS, *others, "罕见字龘䶮", " 前后 "])
    grown.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenization.plain(again, TEXTS) == tokenization.plain(grown, TEXTS)
    twice, more = vocabulary.extend(again, vocabulary.learn(again, CHINESE, 20))
    assert len(more) == 20
    assert tokenization.chars_per_token(twice, CHINESE) > tokenization.chars_per_token(
        grown, CHINESE
    )


def test_learnt_merges_are_bpe():
    """Against BPE by its definition.

    Each merge is the most frequent pair of what the merges before it left (ties aside).
    """
    base = byte_level_base(ENGLISH)
    texts = CHINESE[:300]
    characters = vocabulary.learn(base, texts, 900, words=False)
    merges = vocabulary.learn(base, texts, 900)
    words = [merge for merge in merges if merge not in set(characters)]
    assert merges[: len(characters)] == characters
    assert len(words) > 10
    current, _ = vocabulary.extend(base, characters)
    for left, right in words[:10]:
        pairs = Counter()
        for row in current.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
            text = [current.decode([number]) for number in row.ids]
            last = None
            for place in range(len(row.ids) - 1):
                joined = row.word_ids[place] == row.word_ids[place + 1] and all(
                    map(vocabulary.is_chinese, text[place : place + 2])
                )
                pair = (row.tokens[place], row.tokens[place + 1])
                if joined and not (
                    last == place - 1 and pair[0] == pair[1] == row.tokens[place - 1]
                ):  # 哈哈哈 holds the pair once
                    pairs[pair] += 1
                    last = place
        assert pairs[(left, right)] >= 0.98 * max(pairs.values()), (left, right)
        current, _ = vocabulary.extend(current, [(left, right)])


def test_character_level_takes_characters_alone():
    base = byte_level_base(ENGLISH)
    grown, added = vocabulary.extend(base, vocabulary.learn(base, CHINESE, 300, words=False))
    read = [grown.decode([grown.convert_tokens_to_ids(piece)]) for piece in added]
    assert len(added) <= 300
    assert all(len(text) == 1 for text in read)
    assert sum(map(vocabulary.is_chinese, read)) > 100
    most, _ = Counter(
        char for text in CHINESE for char in text if vocabulary.is_chinese(char)
    ).most_common(1)[0]
    assert most in read
    assert len(tokenization.plain(grown, [most])[0]) == 1
    half = vocabulary.learn(base, CHINESE, 300, words=False, character_coverage=0.5)
    assert len(half) < len(added)


def test_bad_kinds_of_base():
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    )
    with pytest.raises(
        ValueError, match="is WordPiece with neither byte fallback nor byte-level cutting"
    ):
        vocabulary.extend(plain, ["证券"])
    unigram = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(
            models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0, byte_fallback=True)
        )
    )
    with pytest.raises(ValueError, match="is Unigram"):
        vocabulary.extend(unigram, ["证券"])
    with pytest.raises(
        ValueError,
        match="cannot learn 5,000 pieces: .* characters of text give [0-9,]+ that occur twice",
    ):
        vocabulary.learn(byte_level_base(ENGLISH), CHINESE[:30], 5000)


def test_memory_is_bounded_by_a_sample():
    some = list(sentencepieces.sampled(TEXTS, 2000, 1))
    assert 1000 < sum(map(len, some)) < 3000
    assert (
        some
        == list(sentencepieces.sampled(TEXTS, 2000, 1))
        != list(sentencepieces.sampled(TEXTS, 2000, 2))
    )
    assert (
        list(sentencepieces.sampled(TEXTS, 0))
        == list(sentencepieces.sampled(TEXTS, 10**9))
        == TEXTS
    )
    long = ("".join(CHINESE) * 3)[
        :40000
    ] + "鑫鑫鑫鑫"  # behind the length at which SentencePiece leaves a sentence out
    assert "鑫" in sentencepieces.pieces(sentencepieces.train([long], 1500, character_coverage=1.0))


def test_bad_input(base, tmp_path):
    with pytest.raises(ValueError, match="lower the number of pieces, or add text"):
        sentencepieces.train(["太少"], 5000)
    junk = tmp_path / "junk.model"
    junk.write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        sentencepieces.pieces(junk)
    with pytest.raises(ValueError, match="only a SentencePiece BPE model"):
        sentencepieces.fast(sentencepieces.train(TEXTS, 1200, "unigram"))
    with pytest.raises(ValueError, match="no tokenizer in"):
        tokenization.load(tmp_path)


def test_chinese_pieces():
    assert vocabulary.is_chinese("证券")
    assert vocabulary.is_chinese("▁银行")
    assert not vocabulary.is_chinese("A股")
    assert not vocabulary.is_chinese("bank")


REAL = {
    "laws_zh": "zh",
    "cfbenchmark_zh": "zh",
    "fincuge_finnl_zh": "zh",
    "fincuge_finese_zh": "zh",
    "cmrc2018_zh": "zh",
    "wiki_en": "en",
    "c4_en": "en",
    "finterms_en": "en",
    "tatqa_en": "en",
}


@pytest.fixture(scope="module")
def real(data):
    """Every real text by card."""
    return {name: cards.load(name).rows["text"][:] for name in REAL}


@pytest.fixture(scope="module")
def llama(data):
    return sentencepieces.fast(data / "tokenizers/llama-32000.model")


def spread(found):
    return [(text, language) for name, language in REAL.items() for text in found[name]]


def test_real_llama_is_sentencepieces(data, llama, real):
    assert len(llama) == 32000
    assert (
        tokenization.agreement(
            (data / "tokenizers/llama-32000.model").read_bytes(),
            llama,
            [text for text, _ in spread(real)],
        )
        == 1
    )


def test_the_published_extension(data, llama, real):
    """Llama and Chinese-LLaMA's 20,000 pieces.

    49,953, slow and fast equal on every real text, about twice as many characters in a token.
    """
    pieces = sentencepieces.pieces(data / "tokenizers/chinese_sp-20000.model")
    grown, added = vocabulary.extend(llama, pieces, pad_token="")
    slow = sentencepieces.merge(data / "tokenizers/llama-32000.model", pieces)
    assert len(added) == 17953
    assert len(grown) == 49953
    assert sentencepiece.SentencePieceProcessor(model_proto=slow).get_piece_size() == 49953
    texts = [text for text, _ in spread(real)]
    assert tokenization.agreement(slow, grown, texts) == 1
    assert not tokenization.round_trip_failures(grown, texts)
    for name, language in REAL.items():
        before, after = (tokenization.chars_per_token(each, real[name]) for each in (llama, grown))
        if language == "zh":
            assert 0.63 < before < 0.72, (name, before, after)
            assert 1.38 < after < 1.60, (name, before, after)


def test_english_is_untouched_by_chinese_pieces(data, llama, real):
    pieces = [
        piece
        for piece in sentencepieces.pieces(data / "tokenizers/chinese_sp-20000.model")
        if vocabulary.is_chinese(piece)
    ]
    grown, _ = vocabulary.extend(llama, pieces)
    english = [
        text
        for text, language in spread(real)
        if language == "en" and not any(map(vocabulary.is_chinese, text))
    ]
    assert len(english) > 1800
    assert tokenization.plain(grown, english) == tokenization.plain(llama, english)


def test_chinese_llama_2(data, llama, real):
    """Its first 32,000 pieces are Llama's, <pad> is 32,000, and English costs what it did.

    Its tied scores no list of merges can hold.
    """
    folder = data / "tokenizers/chinese-llama-2-55296"
    words = tokenization.load(folder)
    assert len(words) == 55296
    assert words.convert_ids_to_tokens(32000) == "<pad>"
    assert tokenization.encode(words, ["a"])[0][0] == 1
    assert words.convert_ids_to_tokens(list(range(32000))) == llama.convert_ids_to_tokens(
        list(range(32000))
    )
    english = [text for text, language in spread(real) if language == "en" and text.isascii()]
    assert sum(map(len, tokenization.plain(words, english))) == sum(
        map(len, tokenization.plain(llama, english))
    )
    sample = real["cmrc2018_zh"][:200]
    slow = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(
        sample
    )
    fast = tokenization.plain(words, sample)
    assert abs(sum(map(len, fast)) / sum(map(len, slow)) - 1) < 0.005
    assert fast != slow


def test_published_sizes_come_out(llama, real):
    """YaYi's Llama-2 form has 32,005 tokens, XuanYuan's 39,438.

    7,437 characters and a pad token.
    """
    words, _ = vocabulary.extend(llama, [])
    words.add_special_tokens(
        {"additional_special_tokens": ["<|System|>", "<|Human|>", "<|YaYi|>", "<|End|>"]}
    )
    assert len(words) == 32005
    characters = [chr(number) for number in range(0x4E00, 0x9FA6)]
    grown, _ = vocabulary.extend(llama, vocabulary.choose(characters, llama.get_vocab(), 7437))
    assert len(grown) == 39438


def test_real_byte_level_base(data, real):
    """minimind's 6,400 tokens, extended by merges learnt on half of the real Chinese text."""
    base = PreTrainedTokenizerFast(tokenizer_file=str(data / "tokenizers/minimind-6400.json"))
    chinese = [text for text, language in spread(real) if language == "zh"]
    merges = vocabulary.learn(base, chinese[::2], 4000, character_coverage=0.9995)
    grown, added = vocabulary.extend(base, merges)
    assert len(added) == 4000
    assert len(grown) == 10401
    assert not tokenization.round_trip_failures(grown, [text for text, _ in spread(real)])
    english = [
        text
        for text, language in spread(real)
        if language == "en" and not any(map(vocabulary.is_chinese, text))
    ]
    assert tokenization.plain(grown, english) == tokenization.plain(base, english)
    assert tokenization.chars_per_token(grown, chinese[1::2]) > 1.25 * tokenization.chars_per_token(
        base, chinese[1::2]
    )
