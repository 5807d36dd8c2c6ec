"""Dialogues: every format in and out, templates that end answers and double no BOS.

Labels on the answers only.
"""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from finlab.data import cards, dialogues, preferences, selection, templates, turns
from finlab.models import generation, sentencepieces, tokenization

TALK = [
    {"role": "user", "content": "什么是A股？"},
    {"role": "assistant", "content": "人民币普通股票。"},
    {"role": "user", "content": "Thank you"},
    {"role": "assistant", "content": "You are welcome."},
]
TEMPLATES = sorted(path.stem for path in templates.TEMPLATES.glob("*.jinja"))
VARIANTS = ["yayi:readme", "xuanyuan:readme", "xuanyuan:bare", "zhilu:demo", "cornucopia:base"]
WEATHER = {
    "name": "price",
    "description": "报价",
    "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
}


# --- formats -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "form", "roles"),
    [
        ({"instruction": "问", "input": "补充", "output": "答"}, "alpaca", ["user", "assistant"]),
        ({"instruction": "问", "response": "答"}, "alpaca", ["user", "assistant"]),
        (
            {"system": "你是助手", "instruction": "问", "input": "", "output": "答"},
            "yayi",
            ["system", "user", "assistant"],
        ),
        (
            {"instruction": "问", "input": "", "output": "答", "history": [["早", "好"]]},
            "disc",
            ["user", "assistant"] * 2,
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "问"},
                    {"from": "yayi", "value": "答"},
                ],
                "system": "",
            },
            "yayi_multi",
            ["user", "assistant"],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "问"},
                    {"from": "gpt", "value": "答"},
                    {"from": "human", "value": "再问"},
                ]
            },
            "sharegpt",
            ["user", "assistant"],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "问"},
                    {"role": "assistant", "content": "答"},
                ]
            },
            "openai",
            ["user", "assistant"],
        ),
    ],
)
def test_formats(row, form, roles):
    made = dialogues.read_dialogue(row)
    assert [turn["role"] for turn in made["messages"]] == roles
    assert made["messages"][-1]["content"] == "答"
    assert made["format"] == form
    assert made["unanswered"] == (1 if "再问" in str(row) else 0)
    assert dialogues.read_dialogue(row, form)["messages"] == made["messages"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "问", "input": "", "output": ""}, "has no answer"),
        ({"question": "问"}, "no dialogue format has the fields question"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "unknown role 'judge'"),
        ({"messages": [{"role": "user", "content": "问"}]}, "no answer"),
        (
            {
                "messages": [
                    {"role": "user", "content": " "},
                    {"role": "assistant", "content": "答"},
                ]
            },
            r"turn 1 \(user\) is empty",
        ),
        ({"messages": [{"role": "assistant", "content": "答"}]}, "take turns"),
        (
            {
                "messages": [
                    {"role": "user", "content": "问"},
                    {"role": "system", "content": "x"},
                    {"role": "assistant", "content": "答"},
                ]
            },
            "take turns",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "问"},
                    {"role": "user", "content": "问"},
                    {"role": "assistant", "content": "答"},
                ]
            },
            "take turns",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "问"},
                    {"role": "tool", "content": "1"},
                    {"role": "assistant", "content": "答"},
                ]
            },
            "answers no function call",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "问"},
                    {"from": "function_call", "value": "price(1)"},
                ]
            },
            "is not a function call",
        ),
    ],
)
def test_bad_dialogues(row, message):
    with pytest.raises(ValueError, match=message):
        dialogues.read_dialogue(row)


def test_a_named_format_must_be_that_format():
    row = {"instruction": "问", "input": "", "output": "答"}
    assert dialogues.read_dialogue(row, "cornucopia")["format"] == "cornucopia"
    with pytest.raises(ValueError, match="the card says sharegpt, but the row looks like alpaca"):
        dialogues.read_dialogue(row, "sharegpt")
    with pytest.raises(ValueError, match="no dialogue format 'gpt': choose one of openai"):
        dialogues.read_dialogue(row, "gpt")


def test_tool_calls_are_the_same_from_every_format_and_through_the_template():
    """Glaive's roles, OpenAI's objects, and the template's own rendering of tools: one text."""
    shared = {
        "conversations": [
            {"from": "human", "value": "查价"},
            {"from": "function_call", "value": '{"name": "price", "arguments": {"code": "中"}}'},
            {"from": "observation", "value": '{"yuan": 3}'},
            {"from": "gpt", "value": "三元。"},
        ],
        "tools": json.dumps([WEATHER]),
    }
    function = {"name": "price", "arguments": '{"code": "中"}'}
    opened = {
        "messages": [
            {"role": "user", "content": "查价"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "function": function}],
            },
            {"role": "tool", "content": '{"yuan": 3}'},
            {"role": "assistant", "content": "三元。"},
        ],
        "tools": [{"type": "function", "function": WEATHER}],
    }
    ours = dialogues.read_dialogue(shared)["messages"]
    assert dialogues.read_dialogue(shared)["format"] == "toolcall"
    assert dialogues.read_dialogue(opened)["messages"] == ours
    assert [turn["role"] for turn in ours] == ["system", "user", "assistant", "user", "assistant"]
    assert render("chatml", ours) == render("chatml", opened["messages"], tools=opened["tools"])
    twice = [
        *opened["messages"][:2],
        opened["messages"][2],
        {"role": "tool", "content": "4"},
        opened["messages"][3],
    ]
    assert render("chatml", dialogues.read_dialogue({"messages": twice})["messages"]) == render(
        "chatml", twice
    )


def test_converters_lead_back():
    system = [{"role": "system", "content": "你是厨师"}]
    for form in ("openai", "sharegpt", "yayi_multi"):
        for messages in (TALK, system + TALK):
            assert (
                dialogues.read_dialogue(dialogues.write_dialogue(messages, form), form)["messages"]
                == messages
            )
    assert dialogues.read_dialogue(dialogues.write_dialogue(TALK, "disc"))["messages"] == TALK
    alone = dialogues.exchanges(system + TALK)
    assert [len(messages) for messages in alone] == [3, 3]
    assert dialogues.joined(alone) == system + TALK
    for form in ("alpaca", "cornucopia", "yayi"):
        assert (
            dialogues.read_dialogue(dialogues.write_dialogue(TALK[:2], form), form)["messages"]
            == TALK[:2]
        )
        with pytest.raises(ValueError, match="holds one exchange and the dialogue has 2"):
            dialogues.write_dialogue(TALK, form)
    assert (
        dialogues.read_dialogue(dialogues.write_dialogue(alone[0], "yayi"))["messages"] == alone[0]
    )
    with pytest.raises(ValueError, match="no place for a system message"):
        dialogues.write_dialogue(alone[0], "alpaca")
    with pytest.raises(ValueError, match="different system messages"):
        dialogues.joined([TALK, system + TALK])


def test_passages_lead_back():
    text = turns.with_passages("港股为何上涨？", ["《甲》\n资金流入。", "乙"])
    assert turns.passages(text) == (
        "港股为何上涨？",
        ["《甲》\n资金流入。", "乙"],
    )
    assert turns.passages("港股为何上涨？") == ("港股为何上涨？", [])
    assert (
        dialogues.read_dialogue(
            {
                "instruction": "港股为何上涨？",
                "output": "答",
                "reference": ["《甲》\n资金流入。", "乙"],
            }
        )["messages"][0]["content"]
        == text
    )


def test_prefixes_and_refusals():
    once = dialogues.with_prefix(TALK, "【金融领域任务】")
    assert once[0]["content"] == "【金融领域任务】什么是A股？"
    assert once[1:] == TALK[1:]
    assert dialogues.with_prefix(once, "【金融领域任务】") == once
    for text in (
        "抱歉，我不能编造内幕消息。",
        "对不起，作为助手我无法提供这样的建议。",
        "Sorry, I cannot share inside information.",
        "I can't help with that.",
    ):
        assert dialogues.refuses(
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]
        ), text
    assert not dialogues.refuses(TALK)
    assert not dialogues.refuses(
        [{"role": "assistant", "content": "投资不能只看收益，也要看风险。"}]
    )


def test_both_preference_shapes():
    prompt = [{"from": "human", "value": "稳赚吗"}]
    first = preferences.read_preference(
        {
            "conversations": prompt,
            "chosen": {"from": "gpt", "value": "不"},
            "rejected": {"from": "gpt", "value": "是"},
        }
    )
    assert (
        first
        == preferences.read_preference({"conversations": prompt, "chosen": "不", "rejected": "是"})
        == preferences.read_preference({"prompt": "稳赚吗", "chosen": "不", "rejected": "是"})
    )
    more = [*prompt, {"from": "gpt", "value": "为何"}, {"from": "human", "value": "快说"}]
    assert [
        turn["role"]
        for turn in preferences.read_preference(
            {"conversations": more, "chosen": "不", "rejected": "是"}
        )["prompt"]
    ] == ["user", "assistant", "user"]
    for row, message in (
        ({"conversations": prompt, "chosen": "是", "rejected": "是 "}, "two different"),
        ({"conversations": prompt, "chosen": "", "rejected": "是"}, "an answer is empty"),
        ({"conversations": more[:2], "chosen": "不", "rejected": "是"}, "the user be last"),
    ):
        with pytest.raises(ValueError, match=message):
            preferences.read_preference(row)


REAL = {
    "alpaca_zh": ("alpaca", 1000, 1000),
    "cornucopia_zh": ("cornucopia", 15, 15),
    "yayi_zh": ("yayi", 3, 3),
    "yayi_multi_zh": ("yayi_multi", 2, 4),
    "sharegpt_zh": ("sharegpt", 997, 4324),
    "toolcall_zh": ("toolcall", 298, 934),
    "disc_finllm_zh": ("disc", 400, 457),
}

BROKEN = {  # what is wrong in the files themselves, by place
    "cornucopia_zh": [
        (f"cornucopia_fin_data.json:{number}", "not JSON: Expecting value") for number in (11, 12)
    ],
    "sharegpt_zh": [
        ("dialogues/sharegpt_zh_1K_format.jsonl:59", "turn 3 (human) is empty"),
        ("dialogues/sharegpt_zh_1K_format.jsonl:780", "the dialogue has no answer"),
    ],
    "toolcall_zh": [
        (
            f"dialogues/glaive_toolcall_zh_demo.json:row {number}",
            "turn 3 (observation) answers no function call",
        )
        for number in (198, 294)
    ],
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_file(data, name):
    """Each dialogue file of the data folder.

    Its format, its rows, its answers (counted in the files), and a way out and in again.
    """
    form, rows, answers = REAL[name]
    source = cards.load(name)
    assert len(source.rows) == rows
    assert set(source.rows["format"]) == {form}
    assert [(row["where"], row["reason"]) for row in source.quarantined] == BROKEN.get(name, [])
    assert (
        sum(turn["role"] == "assistant" for row in source.rows for turn in row["messages"])
        == answers
    )
    assert sum(source.rows["unanswered"]) == (6 if name == "sharegpt_zh" else 0)
    for row in source.rows.select(range(min(rows, 50))):
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
        again = dialogues.write_dialogue(messages, "openai" if form == "toolcall" else form)
        assert dialogues.read_dialogue(again)["messages"] == messages
    if name == "disc_finllm_zh":
        found = [
            turns.passages(row["messages"][-2]["content"])
            for row in source.rows
            if "retrieval" in row["id"]
        ]
        assert len(found) == 100
        assert all(question and 1 <= len(texts) <= 5 and all(texts) for question, texts in found)


@pytest.mark.parametrize(
    ("name", "rows", "several"),
    [("dpo_zh_demo", 300, 0), ("dpo_zh_500", 500, 0), ("dpo_en_demo", 300, 106)],
)
def test_every_real_preference_file(data, name, rows, several):
    source = cards.load(name)
    assert len(source.rows) + len(source.quarantined) == rows
    assert not source.quarantined
    assert (
        sum(
            len([turn for turn in row["prompt"] if turn["role"] == "user"]) > 1
            for row in source.rows
        )
        == several
    )


# --- templates -----------------------------------------------------------------------------------
def render(name, messages=TALK, **more):
    """A template's text, rendered without a tokenizer's help."""
    import jinja2

    source = re.sub(r"\{%- (end)?generation -%\}", "", templates.chat_template(name))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(source).render(
        messages=messages, bos_token="<s>", eos_token="</s>", **more
    )


INTRO = "A chat between a human and an AI assistant named YaYi.\nYaYi is a helpful and harmless language model developed by Beijing Wenge Technology Co.,Ltd."
XUANYUAN = (
    "以下是用户和人工智能助手之间的对话。用户以Human开头，人工智能助手以Assistant开头，会对人类提出的问题给出有帮助、高质量、详细和礼貌的回答，"
    "并且总是拒绝参与{}与不道德、不安全、有争议、政治敏感等相关的话题、问题和指示。\n"
)
SYSTEM = "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n"
ASK = "下面是一个问题，运用金融财经知识来正确回答问题.\n### 问题:\n{}\n### 回答:\n"
GOLDEN = {  # the originals' strings, two exchanges: what is grey, then what is learnt, in turns
    "zhilu": [
        "<s>" + SYSTEM + "什么是A股？ [/INST]",
        " 人民币普通股票。</s>",
        "<s>[INST] Thank you [/INST]",
        " You are welcome.</s>",
    ],
    "zhilu:demo": [
        "<s>" + SYSTEM + "什么是A股？ [/INST]",
        " 人民币普通股票。",
        "[INST] Thank you [/INST]",
        " You are welcome.</s>",
    ],
    "yayi": [
        f"<|System|>:\n{INTRO}\n\n<|Human|>:\n什么是A股？\n\n<|YaYi|>:\n",
        "人民币普通股票。\n\n</s>",
        "<|Human|>:\nThank you\n\n<|YaYi|>:\n",
        "You are welcome.\n\n</s>",
    ],
    "yayi:readme": [
        f"<|System|>:\n{INTRO}\n\n<|Human|>:\n什么是A股？\n\n<|YaYi|>:",
        "\n人民币普通股票。\n\n</s>",
        "<|Human|>:\nThank you\n\n<|YaYi|>:",
        "\nYou are welcome.\n\n</s>",
    ],
    "xuanyuan": [
        "<s>" + XUANYUAN.format("") + " Human: 什么是A股？ Assistant:",
        " 人民币普通股票。</s>",
        "Human: Thank you Assistant:",
        " You are welcome.</s>",
    ],
    "xuanyuan:readme": [
        "<s>" + XUANYUAN.format(" ") + " Human: 什么是A股？ Assistant:",
        " 人民币普通股票。</s>",
        "Human: Thank you Assistant:",
        " You are welcome.</s>",
    ],
    "xuanyuan:bare": [
        "<s>Human: 什么是A股？ Assistant:",
        " 人民币普通股票。</s>",
        "Human: Thank you Assistant:",
        " You are welcome.</s>",
    ],
    "cornucopia": [
        "<s>" + ASK.format("什么是A股？"),
        "人民币普通股票。</s>",
        "<s>" + ASK.format("Thank you"),
        "You are welcome.</s>",
    ],
    "cornucopia:base": [
        "<s>问题：什么是A股？ 回答:",
        "人民币普通股票。</s>",
        "<s>问题：Thank you 回答:",
        "You are welcome.</s>",
    ],
    "plain": [
        "<s>问题：什么是A股？\n答案：",
        "人民币普通股票。</s>",
        "问题：Thank you\n答案：",
        "You are welcome.</s>",
    ],
    "chatml": [
        "<|im_start|>user\n什么是A股？<|im_end|>\n<|im_start|>assistant\n",
        "人民币普通股票。<|im_end|>",
        "\n<|im_start|>user\nThank you<|im_end|>\n<|im_start|>assistant\n",
        "You are welcome.<|im_end|>",
        "\n",
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_published_strings(name):
    assert render(name) == "".join(GOLDEN[name])
    # Those with a thinking part are compared with the published ones in test_thinking.
    assert set(TEMPLATES) | set(VARIANTS) == set(GOLDEN) | {"qwen3", "deepseek_r1"}


def test_a_system_message_takes_the_place_of_the_default():
    turns = [{"role": "system", "content": "你是厨师"}, *TALK[:2]]
    assert render("zhilu", turns).startswith("<s>[INST] <<SYS>>\n你是厨师\n<</SYS>>")
    assert render("yayi", turns).startswith("<|System|>:\n你是厨师\n\n<|Human|>")
    assert render("xuanyuan", turns).startswith("<s>你是厨师 Human: ")
    assert render("chatml", turns).startswith(
        "<|im_start|>system\n你是厨师<|im_end|>\n<|im_start|>user"
    )


def encoded(tokenizer, messages):
    (row,) = templates.encode(tokenizer, [messages])
    return {name: values.tolist() for name, values in row.items()}


def check_encoding(tokenizer, name, ends):
    """A template through a tokenizer.

    The golden pieces and no others are learnt, no BOS is doubled, prompts are prefixes.
    """
    tokenizer.chat_template = templates.chat_template(name)
    row = encoded(tokenizer, TALK)
    golden = [
        piece.replace("<s>", tokenizer.bos_token or "").replace("</s>", tokenizer.eos_token)
        for piece in GOLDEN[name]
    ]
    assert row["input_ids"] == tokenizer("".join(golden), add_special_tokens=False)["input_ids"]
    learnt = tokenizer.decode([label for label in row["labels"] if label != templates.IGNORE])
    flat = str.maketrans("", "", " ")
    assert learnt.translate(flat) == "".join(golden[1::2]).translate(flat)
    found = templates.shares([row], tokenizer.eos_token_id)
    assert found["eos_supervised_share"] == ends
    assert 0 < found["supervised_token_share"] < 1
    bos = tokenizer.bos_token_id
    assert bos is None or not any(
        a == b == bos for a, b in zip(row["input_ids"], row["input_ids"][1:])
    ), "a doubled BOS"
    for talk in (TALK[:1], TALK[:3]):
        prompt = tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        assert row["input_ids"][: len(prompt)] == prompt, (
            "training and inference must render the same prompt"
        )
    assert templates.same_prompt(tokenizer)
    return row


@pytest.mark.parametrize("name", GOLDEN)
def test_templates(tiny, name):
    tokenizer = tokenization.load(tiny)
    if name == "chatml":
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"}
        )
    check_encoding(tokenizer, name, ends=0.5 if name == "zhilu:demo" else 1)


IDS = {  # token ids of the question of the second exchange, as the published models were trained to read it
    "llama-32000.model": {
        "zhilu": [1, 518, 25580, 29962, 3374, 366, 518, 29914, 25580, 29962],
        "xuanyuan": [12968, 29901, 3374, 366, 4007, 22137, 29901],
    },
    "chinese-llama-2-55296/tokenizer.model": {
        "zhilu": [1, 518, 25580, 29962, 3374, 366, 518, 29914, 25580, 29962]
    },
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(
    "file", ["llama-32000.model", "chinese-llama-2-55296/tokenizer.model", "minimind-6400.json"]
)
def test_templates_with_real_tokenizers(data, file, name):
    """Token ids with Llama's, Chinese-LLaMA-2's and a byte-level tokenizer.

    YaYi's and ChatML's tokens added where they belong.
    """
    import sentencepiece
    from transformers import PreTrainedTokenizerFast

    path = data / "tokenizers" / file
    tokenizer = (
        PreTrainedTokenizerFast(
            tokenizer_file=str(path), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        if path.suffix == ".json"
        else sentencepieces.fast(path)
    )
    if name.startswith("yayi"):
        assert templates.missing_tokens(tokenizer, templates.chat_template(name)) == [
            "<|System|>",
            "<|Human|>",
            "<|YaYi|>",
        ]
        tokenizer.add_special_tokens(
            {
                "additional_special_tokens": ["<|System|>", "<|Human|>", "<|YaYi|>"],
                "eos_token": "<|End|>",
            }
        )
    if name == "chatml":
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"}
        )
    assert not templates.missing_tokens(tokenizer, templates.chat_template(name))
    row = check_encoding(tokenizer, name, ends=0.5 if name == "zhilu:demo" else 1)
    if path.suffix == ".model" and not name.startswith(
        ("yayi", "chatml")
    ):  # SentencePiece's own ids, text between special tokens
        plain = sentencepiece.SentencePieceProcessor(model_file=str(path))
        expected = []
        for part in re.split(r"(</?s>)", "".join(GOLDEN[name])):
            expected += (
                [plain.piece_to_id(part)]
                if part in ("<s>", "</s>")
                else plain.encode(part)
                if part
                else []
            )
        if file.startswith(
            "chinese"
        ):  # its pieces tie in score, so a fast tokenizer cuts a few texts elsewhere (README, Limits)
            assert len(expected) <= len(row["input_ids"]) <= len(expected) + 2
            assert row["input_ids"][-5:] == expected[-5:]
        else:
            assert row["input_ids"] == expected
    if golden := IDS.get(file, {}).get(name):
        assert any(
            row["input_ids"][place : place + len(golden)] == golden
            for place in range(len(row["input_ids"]))
        )


def test_what_is_too_long_is_shortened_to_whole_exchanges_or_left_out(tiny):
    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = templates.chat_template("plain")
    (row,) = templates.encode(tokenizer, [TALK])
    first = encoded(tokenizer, TALK[:2])
    assert templates.shorten(row, len(row["input_ids"]), 2) is row
    for length in (len(row["input_ids"]) - 1, len(first["input_ids"])):
        assert {
            name: values.tolist() for name, values in templates.shorten(row, length, 2).items()
        } == first, "what is left is the dialogue without its last exchange, token by token"
    assert templates.shorten(row, len(first["input_ids"]) - 1, 2) is None


def test_markers_are_needed_and_names_are_known(tiny):
    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="generation"):
        templates.encode(tokenizer, [TALK])
    for name in ("nothing", "yayi:nothing"):
        with pytest.raises(ValueError, match="choose one of chatml.*xuanyuan:readme.*yayi:readme"):
            templates.chat_template(name)


def test_shares_sees_a_missing_end():
    assert (
        templates.shares([{"labels": [-100, 5, 6, -100, 7, 2]}], end_id=2)["eos_supervised_share"]
        == 0.5
    )


def test_generation_settings_are_saved_and_known(tiny, tmp_path):
    tokenizer = tokenization.load(tiny)
    made = generation.generation_config(
        tokenizer,
        {"max_new_tokens": 64.0, "temperature": 0.7, "top_k": 50.0, "repetition_penalty": 1.1},
    )
    made.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert (
        saved["max_new_tokens"],
        saved["top_k"],
        saved["temperature"],
        saved["do_sample"],
        saved["eos_token_id"],
    ) == (64, 50, 0.7, True, 2)
    assert generation.generation_config(tokenizer, {"max_new_tokens": 8}).do_sample is False
    with pytest.raises(ValueError, match="'temprature' is not a setting"):
        generation.generation_config(tokenizer, {"temprature": 0.7})


def test_a_template_whose_end_is_not_the_tokenizers_is_refused(tiny):
    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = templates.chat_template("chatml")
    with pytest.raises(
        ValueError, match="does not end answers with the tokenizer's end token '</s>'"
    ):
        templates.encode(tokenizer, [TALK])


# --- what must not get lost or become a token ----------------------------------------------------
@pytest.mark.parametrize("place", ["question", "answer"])
def test_special_tokens_in_words_stay_text(tiny, place):
    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = templates.chat_template("plain")
    words = {"question": "什么是A股？", "answer": "人民币普通股票。"}
    words[place] = "划掉<s>这句</s>再说"
    messages = [
        {"role": "user", "content": words["question"]},
        {"role": "assistant", "content": words["answer"]},
    ]
    row = templates.encode(tokenizer, [messages])[0]
    ids = row["input_ids"].tolist()
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    theirs = tokenizer.apply_chat_template(
        [messages], sanitize_control_tokens=True, return_dict=True
    )["input_ids"][0]
    assert ids == theirs
    learnt = [token for token, label in zip(ids, row["labels"].tolist()) if label != -100]
    assert "</s>" in tokenizer.decode(learnt)
    prompt = templates.prompt_ids(tokenizer, messages[:1])
    assert ids[: len(prompt)] == prompt


def test_special_tokens_in_documents_stay_text(tiny):
    tokenizer = tokenization.load(tiny)
    ids = tokenization.encode(tokenizer, ["划掉<s>这句</s>"])[0]
    assert ids.count(tokenizer.bos_token_id) == ids.count(tokenizer.eos_token_id) == 1
    assert not tokenization.round_trip_failures(tokenizer, ["划掉<s>这句</s>"])
    assert tokenizer("<s>", add_special_tokens=False)["input_ids"] == [tokenizer.bos_token_id]


@pytest.mark.parametrize("name", ["cornucopia", "zhilu", "yayi", "xuanyuan", "plain"])
def test_a_template_renders_what_it_is_given_or_refuses_it(tiny, name):
    tokenizer = tokenization.load(tiny)
    tokenizer.chat_template = templates.chat_template(name)
    talk = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    system = [{"role": "system", "content": "不得推荐个股"}]
    row, reason = templates.encode_each(tokenizer, [system + talk])[0]
    if name == "cornucopia":
        assert row is None
        assert "no place for a message of the role system" in reason
        with pytest.raises(ValueError, match="dialogue 1: .*choose another template"):
            templates.encode(tokenizer, [system + talk])
    else:
        assert "不得推荐个股" in tokenizer.decode(row["input_ids"]).replace(" ", "")
    _, reason = templates.encode_each(tokenizer, [talk + [{"role": "tool", "content": "1"}]])[0]
    assert "no place for a message of the role tool" in reason
    late = [*talk, *system, *talk]
    row, reason = templates.encode_each(tokenizer, [late])[0]
    assert reason or name == "plain"


def test_an_answer_that_the_tokenizer_joins_to_the_prompt_is_refused(data):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(data / "tokenizers" / "minimind-6400.json"),
        bos_token="<s>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
    )
    tokenizer.add_tokens(["\n\n"])  # as Qwen cuts two newlines
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = templates.chat_template("chatml")
    question = {"role": "user", "content": "什么是A股？"}
    rows = templates.encode_each(
        tokenizer,
        [
            [question, {"role": "assistant", "content": "\n人民币普通股票。"}],
            [question, {"role": "assistant", "content": "人民币普通股票。"}],
        ],
    )
    assert rows[0][0] is None
    assert "joins the prompt and the answer in one token" in rows[0][1]
    assert rows[1][0] is not None


def test_calls_in_a_row_and_in_a_list_are_one_turn():
    call = {"name": "price", "arguments": {"code": "1"}}
    for values in ([[call, call]], [call, call]):
        turns = [{"from": "human", "value": "查"}]
        turns += [{"from": "function_call", "value": json.dumps(value)} for value in values]
        turns += [{"from": "observation", "value": "1"}, {"from": "gpt", "value": "好"}]
        messages = dialogues.read_dialogue({"conversations": turns})["messages"]
        assert [turn["role"] for turn in messages] == ["user", "assistant", "user", "assistant"]
        assert messages[1]["content"].count("<tool_call>") == 2


@pytest.mark.parametrize("content", ["", None, "  "])
def test_an_empty_system_message_is_none(content):
    talk = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好。"}]
    row = {"messages": [{"role": "system", "content": content}, *talk]}
    assert dialogues.read_dialogue(row)["messages"] == talk


def test_pairs_of_several_turns_keep_them():
    def talk(*contents):
        roles = ["user", "assistant"] * 3
        return [{"role": role, "content": text} for role, text in zip(roles, contents)]

    row = {
        "prompt": "甲？",
        "chosen": talk("甲？", "乙", "丙？", "好"),
        "rejected": talk("甲？", "乙", "丙？", "坏"),
    }
    pair = preferences.read_preference(row)
    assert pair["prompt"] == talk("甲？", "乙", "丙？")
    assert pair["chosen"][0]["content"] == "好"
    with pytest.raises(ValueError, match="does not end with an answer"):
        preferences.read_preference({**row, "chosen": talk("甲？", "乙", "丙？")})
    with pytest.raises(ValueError, match="must share all turns"):
        preferences.read_preference({**row, "rejected": talk("甲？", "丁", "丙？", "坏")})


def test_history_as_turns_with_roles():
    turn = {"role": "user", "content": "前问"}, {"role": "assistant", "content": "前答"}
    row = {"instruction": "问", "output": "答", "history": list(turn)}
    messages = dialogues.read_dialogue(row)["messages"]
    assert [message["content"] for message in messages] == ["前问", "前答", "问", "答"]


def test_a_single_passage_is_one_passage():
    row = {"instruction": "问", "output": "答", "reference": "年报正文"}
    question = dialogues.read_dialogue(row)["messages"][0]["content"]
    assert turns.passages(question) == ("问", ["年报正文"])


def test_a_single_tool_is_one_tool():
    tool = {"name": "price", "parameters": {}}
    row = {"instruction": "问", "output": "答", "tools": tool}
    system = dialogues.read_dialogue(row)["messages"][0]["content"]
    assert json.dumps({"type": "function", "function": tool}, ensure_ascii=False) in system


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"history": "[]"}, "its history is neither pairs"),
        ({"history": [["只有问"]]}, "its history is neither pairs"),
        ({"reference": [1]}, "its reference is neither a text"),
        ({"tools": "none"}, "its tools are not JSON"),
        ({"tools": ["price"]}, "its tools are not a list of functions"),
    ],
)
def test_fields_of_another_shape_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        dialogues.read_dialogue({"instruction": "问", "output": "答", **more})


def test_an_instruction_beside_a_question_is_not_lost():
    row = {"instruction": "只用一个词回答。", "question": "问", "answer": "答"}
    with pytest.raises(ValueError, match="has an instruction beside question and answer"):
        dialogues.read_dialogue(row)


def test_what_contradicts_the_copy_that_stays_stays_too():
    """The broad stage's long text agrees with both; they contradict each other."""
    body = "公司控股股东拟要约收购其余股份，要约期限为三十个自然日，敬请投资者注意投资风险。" * 3
    long = body + "特此公告。" * 2
    groups = {"stage1": [long, body + "每股8元"], "stage2": [body + "每股5元"]}
    found, _ = selection.screen(groups, [], 0.8)
    assert not found["stage2"]
    assert 1 not in found["stage1"]


def test_a_prompt_is_the_same_after_exams(chat_model):
    """Scoring exams spells special tokens in pieces, and transformers keeps that switch on."""
    tokenizer = tokenization.load(chat_model)
    messages = [{"role": "user", "content": "恒信银行在哪里？"}]
    before = templates.prompt_ids(tokenizer, messages)
    tokenizer.encode("<|im_start|>", split_special_tokens=True)
    assert tokenizer.backend_tokenizer.encode_special_tokens
    assert templates.prompt_ids(tokenizer, messages) == before
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in before


def test_an_answer_is_not_cut_where_nobody_says_how_long_it_may_be(monkeypatch):
    """transformers stops after 20 tokens where a model's settings state no length, as Qwen's do."""
    asked = {}

    class Model:
        device = "cpu"
        generation_config = GenerationConfig()

        def generate(self, ids, **options):
            asked.update(options)
            return torch.cat([ids, torch.tensor([[2]])], dim=1)

    tokenizer = SimpleNamespace(eos_token_id=2, decode=lambda ids, **options: "")
    monkeypatch.setattr(templates, "prompt_ids", lambda tokenizer, messages: [1])
    assert generation.answer_messages(Model(), tokenizer, TALK[:1]) == ("", True)
    assert asked["max_new_tokens"] == generation.ANSWER_TOKENS
    asked.clear()
    stated = GenerationConfig(max_new_tokens=64)
    generation.answer_messages(Model(), tokenizer, TALK[:1], generation_config=stated)
    assert "max_new_tokens" not in asked
