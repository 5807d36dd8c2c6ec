"""Dialogues: every format in, templates that end answers and double no BOS, labels on the answers only."""

import pytest

from finlab import chat, tokenizer

TALK = [{"role": "user", "content": "什么是A股？"}, {"role": "assistant", "content": "人民币普通股票。"},
        {"role": "user", "content": "Thank you"}, {"role": "assistant", "content": "You are welcome."}]
TEMPLATES = sorted(path.stem for path in chat.TEMPLATES.glob("*.jinja"))


@pytest.mark.parametrize(("row", "roles"), [
    ({"instruction": "问", "input": "补充", "output": "答"}, ["user", "assistant"]),
    ({"system": "你是助手", "instruction": "问", "input": "", "output": "答"}, ["system", "user", "assistant"]),
    ({"conversations": [{"from": "human", "value": "问"}, {"from": "yayi", "value": "答"}], "system": ""}, ["user", "assistant"]),
    ({"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}, {"from": "human", "value": "再问"}]}, ["user", "assistant"]),
    ({"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}, ["user", "assistant"])])
def test_formats(row, roles):
    turns = chat.messages(row)
    assert [turn["role"] for turn in turns] == roles and turns[-1]["content"] == "答"


@pytest.mark.parametrize(("row", "message"), [
    ({"instruction": "问", "input": "", "output": ""}, "is empty"), ({"question": "问"}, "no dialogue format has the fields question"),
    ({"messages": [{"role": "judge", "content": "x"}]}, "unknown role 'judge'"),
    ({"messages": [{"role": "user", "content": "问"}]}, "no answer"),
    ({"messages": [{"role": "assistant", "content": "答"}]}, "take turns"),
    ({"messages": [{"role": "user", "content": "问"}, {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}, "take turns")])
def test_bad_dialogues(row, message):
    with pytest.raises(ValueError, match=message):
        chat.messages(row)


def test_both_preference_shapes():
    prompt = [{"from": "human", "value": "稳赚吗"}]
    first = chat.preference({"conversations": prompt, "chosen": {"from": "gpt", "value": "不"}, "rejected": {"from": "gpt", "value": "是"}})
    assert first == chat.preference({"conversations": prompt, "chosen": "不", "rejected": "是"})
    with pytest.raises(ValueError, match="two different"):
        chat.preference({"conversations": prompt, "chosen": "是", "rejected": "是"})


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(tiny, name):
    words = tokenizer.load(tiny)
    if name == "chatml":
        words.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
    words.chat_template = chat.template(name)
    row = chat.encode(words, TALK)
    text = words.decode([label for label in row["labels"] if label != chat.IGNORE])
    assert "人民币普通股票。" in text and "You are welcome." in text and "什么是" not in text and "Thank" not in text
    found = chat.shares([row], words.eos_token_id)
    assert found["eos_supervised_share"] == 1 and 0 < found["supervised_token_share"] < 1
    bos = words.bos_token_id
    assert not any(a == b == bos for a, b in zip(row["input_ids"], row["input_ids"][1:])), "a doubled BOS"
    prompt = words.apply_chat_template(TALK[:1], add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt, "training and inference must render the same prompt"
    assert row["labels"][len(prompt)] != chat.IGNORE or row["labels"][len(prompt) + 1] != chat.IGNORE


def test_too_long_is_left_out_and_markers_are_needed(tiny):
    words = tokenizer.load(tiny)
    words.chat_template = chat.template("plain")
    assert chat.encode(words, TALK, max_length=5) is None
    words.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="generation"):
        chat.encode(words, TALK)
    with pytest.raises(ValueError, match="choose one of chatml"):
        chat.template("nothing")


def test_shares_sees_a_missing_end():
    assert chat.shares([{"labels": [-100, 5, 6, -100, 7, 2]}], end_id=2)["eos_supervised_share"] == 0.5


def test_published_strings():
    """The exact strings of the originals, rendered without a tokenizer's help."""
    import jinja2

    def render(name):
        source = chat.template(name).replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
        return jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source).render(messages=TALK, bos_token="<s>", eos_token="</s>")

    assert render("cornucopia").startswith("<s>下面是一个问题，运用金融财经知识来正确回答问题.\n### 问题:\n什么是A股？\n### 回答:\n人民币普通股票。</s>")
    assert render("zhilu").startswith("<s>[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n什么是A股？ [/INST] 人民币普通股票。</s><s>[INST] Thank you [/INST]")
    assert render("xuanyuan").endswith(" Human: 什么是A股？ Assistant: 人民币普通股票。</s>Human: Thank you Assistant: You are welcome.</s>")
    assert "\n\n<|Human|>:\n什么是A股？\n\n<|YaYi|>:\n人民币普通股票。\n\n</s>\n\n<|Human|>:" in render("yayi")
