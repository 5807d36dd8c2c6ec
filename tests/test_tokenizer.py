"""Tokenizers: equal to SentencePiece, old ids kept, exact round trips, English untouched."""

import json

import pytest
import sentencepiece

from finlab import closed_world, tokenizer

TEXTS = [row["text"] for rows in closed_world.documents().values() for row in rows[:60]]
ENGLISH = [text for text in TEXTS if text.isascii()]
CHINESE = [text for text in TEXTS if not text.isascii()]


@pytest.fixture(scope="module")
def base():
    return tokenizer.fast(tokenizer.train(ENGLISH + CHINESE[:40], 900))


def test_fast_equals_sentencepiece():
    model = tokenizer.train(TEXTS, 1500)
    slow, fast = sentencepiece.SentencePieceProcessor(model_proto=model), tokenizer.fast(model)
    for text in TEXTS + ["两个  空格", "emoji 😀", "\n", ""]:
        assert fast(text, add_special_tokens=False)["input_ids"] == slow.encode(text), text


def test_extension(base, tmp_path):
    candidates = [piece for piece in tokenizer.pieces(tokenizer.train(CHINESE, 1500)) if tokenizer.chinese(piece)]
    new = tokenizer.choose(candidates, base.get_vocab(), 400)
    assert len(new) == 400 and all(set(piece) <= set(base.get_vocab()) | set(new) for piece in new)
    grown, added = tokenizer.extend(base, new)
    assert len(grown) == len(base) + len(added) + 1 and grown.pad_token == "<pad>"
    assert grown.convert_ids_to_tokens(list(range(len(base)))) == base.convert_ids_to_tokens(list(range(len(base))))
    assert [grown(text)["input_ids"] for text in ENGLISH] == [base(text)["input_ids"] for text in ENGLISH]
    assert tokenizer.chars_per_token(grown, CHINESE) > 1.3 * tokenizer.chars_per_token(base, CHINESE)
    assert not tokenizer.round_trip_failures(grown, TEXTS + ["两个  空格", " 前后 "])
    grown.save_pretrained(tmp_path)
    again = tokenizer.load(tmp_path)
    assert [again(text)["input_ids"] for text in TEXTS[:50]] == [grown(text)["input_ids"] for text in TEXTS[:50]]
    twice, more = tokenizer.extend(again, ["证券监察署条例"])
    assert more == ["证券监察署条例"] and twice.convert_tokens_to_ids("证券监察署条例") == len(again)


def test_documents_have_their_ends(base):
    ids = tokenizer.encode(base, ["hello"])[0]
    assert ids[0] == base.bos_token_id and ids[-1] == base.eos_token_id and ids.count(base.bos_token_id) == 1


def test_bad_input(base, tmp_path):
    with pytest.raises(ValueError, match="lower the vocabulary size or add text"):
        tokenizer.train(["太少"], 5000)
    junk = tmp_path / "junk.model"
    junk.write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        tokenizer.pieces(junk)
    with pytest.raises(ValueError, match="only a SentencePiece BPE model"):
        tokenizer.fast(tokenizer.train(TEXTS, 1200, "unigram"))
    with pytest.raises(ValueError, match="no tokenizer in"):
        tokenizer.load(tmp_path)


def test_chinese_pieces():
    assert tokenizer.chinese("证券") and tokenizer.chinese("▁银行") and not tokenizer.chinese("A股") and not tokenizer.chinese("bank")


def test_real_llama_and_its_published_extension(data):
    base = tokenizer.fast(data / "tokenizers/llama-32000.model")
    assert len(base) == 32000
    slow = sentencepiece.SentencePieceProcessor(model_file=str(data / "tokenizers/llama-32000.model"))
    english = [json.loads(line)["text"] for line in open(data / "text/en_general/c4_demo.jsonl", encoding="utf-8")][:60]
    chinese = [p["context"] for part in json.loads((data / "text/zh_general/cmrc2018_trial.json").read_text())["data"] for p in part["paragraphs"]][:60]
    assert [base(text, add_special_tokens=False)["input_ids"] for text in english + chinese] == [slow.encode(text) for text in english + chinese]
    pieces = tokenizer.pieces(data / "tokenizers/chinese_sp-20000.model")
    grown, added = tokenizer.extend(base, pieces, pad_token="")
    assert len(added) == 17953 and len(grown) == 49953
    assert tokenizer.chars_per_token(grown, chinese) > 1.9 * tokenizer.chars_per_token(base, chinese)
    careful, _ = tokenizer.extend(base, [piece for piece in pieces if tokenizer.chinese(piece)])
    assert [careful(text)["input_ids"] for text in english] == [base(text)["input_ids"] for text in english]
    assert not tokenizer.round_trip_failures(grown, english + chinese)
    first = tokenizer.load(data / "tokenizers/chinese-llama-2-55296")
    assert first.convert_ids_to_tokens(list(range(32000))) == base.convert_ids_to_tokens(list(range(32000)))
    assert first.convert_ids_to_tokens(32000) == "<pad>"


def test_byte_level_base_is_refused(data):
    from transformers import PreTrainedTokenizerFast

    base = PreTrainedTokenizerFast(tokenizer_file=str(data / "tokenizers/minimind-6400.json"))
    with pytest.raises(ValueError, match="without byte fallback"):
        tokenizer.extend(base, ["证券"])
