"""Templates with a thinking part: those of Qwen3 and DeepSeek-R1, as published, with masks."""

from pathlib import Path

import pytest
import trl
from tokenizers import AddedToken
from transformers.utils.chat_template_utils import render_jinja_template

from finlab.data import templates
from finlab.evaluate.reasoning import checked
from finlab.models import tokenization

PUBLISHED = Path(trl.__file__).parent / "chat_templates"
NAMES = {"qwen3": "qwen3.jinja", "deepseek_r1": "deepseek_r1_distill.jinja"}
BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"

ASK = {"role": "user", "content": "19亿元加43亿元？"}
THOUGHT = {"role": "assistant", "content": "<think>\n9+3=12\n</think>\n\n<answer>62</answer>"}
TIGHT = {"role": "assistant", "content": "<think>9+3=12</think><answer>62</answer>"}
PLAIN = {"role": "assistant", "content": "62亿元。"}
SYSTEM = {"role": "system", "content": "你是助手。"}
OBSERVED = {"role": "user", "content": "<tool_response>\n62\n</tool_response>"}
CALLED = {"role": "assistant", "content": '<tool_call>\n{"name": "a"}\n</tool_call>'}
TALKS = {
    "one question": [ASK],
    "a system message": [SYSTEM, ASK],
    "thinking before": [ASK, THOUGHT, ASK],
    "tight thinking before": [SYSTEM, ASK, TIGHT, ASK, PLAIN, ASK],
    "a call before": [ASK, CALLED, OBSERVED],
}


def rendered(template, messages, prompt=False, **more):
    tokens = {"bos_token": BEGIN, "eos_token": END}
    [text], _ = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        add_generation_prompt=prompt,
        **tokens,
        **more,
    )
    return text


def published(name):
    return (PUBLISHED / NAMES[name]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tiny):
    """Make a tokenizer with a thinking template."""

    def of(name):
        tokenizer = tokenization.load(tiny)
        marks = ["<think>", "</think>", "<answer>", "</answer>"]
        tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
        if name == "qwen3":
            tokenizer.add_special_tokens(
                {"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"}
            )
        else:
            tokenizer.add_special_tokens(
                {"additional_special_tokens": ["<｜User｜>", "<｜Assistant｜>"]}
            )
        tokenizer.chat_template = templates.chat_template(name)
        return tokenizer

    return of


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_the_published_one(name, talk):
    ours = rendered(templates.chat_template(name), TALKS[talk], True)
    assert ours == rendered(published(name), TALKS[talk], True)


def test_thinking_is_switched_off_as_published():
    ours = rendered(templates.chat_template("qwen3"), [ASK], True, enable_thinking=False)
    assert ours == rendered(published("qwen3"), [ASK], True, enable_thinking=False)
    assert ours.endswith("<think>\n\n</think>\n\n")


def test_a_base_is_asked_with_its_thinking_off_where_there_is_a_switch(made):
    for name in NAMES:
        tokenizer = made(name)
        tokenizer.chat_template = published(name)
        before = tokenizer.chat_template
        assert checked.thinks(tokenizer)
        tokenization.switch_thinking_off(tokenizer)
        if name == "qwen3":
            [prompt] = templates.render(tokenizer, [[ASK]], add_generation_prompt=True)
            assert prompt.text.endswith("<think>\n\n</think>\n\n")
            assert not checked.thinks(tokenizer)
        else:
            assert tokenizer.chat_template == before


@pytest.mark.parametrize("last", [THOUGHT, TIGHT, PLAIN])
@pytest.mark.parametrize("before", [[ASK], [SYSTEM, ASK, TIGHT, ASK], [ASK, CALLED, OBSERVED]])
def test_a_whole_dialogue_of_qwen3_is_the_published_one(before, last):
    ours = rendered(templates.chat_template("qwen3"), [*before, last])
    assert ours == rendered(published("qwen3"), [*before, last])


def test_tools_of_qwen3_are_the_published_ones():
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    call = {"function": {"name": "look_up", "arguments": {"name": "恒信银行"}}}
    talk = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        PLAIN,
    ]
    ours = rendered(templates.chat_template("qwen3"), talk, tools=tools)
    assert ours == rendered(published("qwen3"), talk, tools=tools)


@pytest.mark.parametrize("last", [THOUGHT, TIGHT])
@pytest.mark.parametrize("name", NAMES)
def test_training_is_the_prompt_and_what_the_model_writes(made, name, last):
    """Learnt is exactly what follows the prompt in use: the thinking, the answer and the end."""
    tokenizer = made(name)
    [row] = templates.encode(tokenizer, [[SYSTEM, ASK, TIGHT, ASK, last]])
    prompt = templates.prompt_ids(tokenizer, [SYSTEM, ASK, TIGHT, ASK])
    learnt = row["labels"] != templates.IGNORE
    assert row["input_ids"][: len(prompt)].tolist() == prompt
    assert not learnt[: len(prompt)].any()
    end = {"qwen3": "<|im_end|>", "deepseek_r1": "</s>"}[name]
    text = tokenizer.decode(row["input_ids"][learnt])
    opening = templates.thinking_opened(tokenizer)
    assert opening == ("" if name == "qwen3" else "<think>\n")
    whole = (opening + text).replace(" ", "")
    assert whole == f"<think>\n9+3=12\n</think>\n\n<answer>62</answer>{end}"


@pytest.mark.parametrize("name", NAMES)
def test_empty_thinking_is_not_learnt(made, name):
    tokenizer = made(name)
    [row] = templates.encode(tokenizer, [[ASK, PLAIN]])
    learnt = tokenizer.decode(row["input_ids"][row["labels"] != templates.IGNORE])
    assert "think" not in learnt
    assert learnt.replace(" ", "").startswith("62亿元。")
    whole = tokenizer.decode(row["input_ids"]).replace(" ", "")
    assert "<think>\n\n</think>" in whole


@pytest.mark.parametrize("name", NAMES)
def test_calls_after_the_last_question_are_learnt(made, name):
    tokenizer = made(name)
    [row] = templates.encode(tokenizer, [[ASK, CALLED, OBSERVED, THOUGHT]])
    learnt = tokenizer.decode(row["input_ids"][row["labels"] != templates.IGNORE])
    assert "tool_call" in learnt
    assert "tool_response" not in learnt


@pytest.mark.parametrize("name", NAMES)
def test_preflight_finds_the_prompt_alike_in_training_and_in_use(made, name):
    assert templates.same_prompt(made(name))


@pytest.mark.parametrize("name", NAMES)
def test_earlier_answers_are_read_and_not_learnt(made, name):
    """They stand there without their thinking, so learning them would teach not to think."""
    tokenizer = made(name)
    [row] = templates.encode(tokenizer, [[ASK, THOUGHT, ASK, THOUGHT]])
    learnt = row["labels"] != templates.IGNORE
    starts = (learnt[1:] & ~learnt[:-1]).sum()
    assert starts == 1
    assert tokenizer.decode(row["input_ids"]).count("9+3") == 1


def test_words_that_a_template_drops_are_still_seen(made):
    tokenizer = made("qwen3")
    tokenizer.chat_template = tokenizer.chat_template.replace("ns.opening + ns.said", "ns.said")
    [(row, reason)] = templates.encode_each(tokenizer, [[ASK, THOUGHT]])
    assert row is None
    assert "leaves out the assistant message" in reason


def test_the_other_templates_open_no_thinking(made):
    tokenizer = made("qwen3")
    for name in ("plain", "chatml", "xuanyuan", "yayi", "zhilu", "cornucopia"):
        tokenizer.chat_template = templates.chat_template(name)
        assert templates.thinking_opened(tokenizer) == ""
