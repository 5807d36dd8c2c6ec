"""A tiny chat model that has learnt four turns by heart, one of them a call of a tool.

What servers and chats do with a model can be seen on it: its answers are known, and they end.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finlab.data import templates
from finlab.models import sentencepieces, vocabulary

SENTENCES = [
    "澄江重工总部位于临江市。",
    "The head office is in Linjiang.",
    "问题：谁是董事长？\n答案：沈怀瑾。",
]
TOOL = {
    "type": "function",
    "function": {
        "name": "price",
        "description": "报价",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
    },
}
WHERE = [{"role": "user", "content": "恒信银行在哪里？"}]
IN_TOWN = "在临江市。"
WHEN = [
    *WHERE,
    {"role": "assistant", "content": IN_TOWN},
    {"role": "user", "content": "哪一年成立？"},
]
IN_YEAR = "1996年。"
PRICE = [{"role": "user", "content": "报一下600000的价。"}]
CALL = '<tool_call>\n{"name": "price", "arguments": {"code": "600000"}}\n</tool_call>'
CONTEXT = 1024


def write(folder: Path) -> Path:
    """Train the model, and save it with its tokenizer.

    Args:
        folder: Where it goes.
    """
    tokenizer = _tokenizer()
    rows = []
    for messages, answer, tools in (
        (WHERE, IN_TOWN, None),
        (WHEN, IN_YEAR, None),
        (PRICE, CALL, [TOOL]),
    ):
        rows.append(_row(tokenizer, messages, answer, tools))
    model = _model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        for ids, labels in rows:
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer():
    """Return a tokenizer with Qwen's template and its marks."""
    pieces = sentencepieces.train(SENTENCES * 20, 330)
    tokenizer, _ = vocabulary.extend(sentencepieces.fast(pieces), [])
    marks = {"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"}
    tokenizer.add_special_tokens(marks)
    tokenizer.chat_template = templates.chat_template("chatml")
    return tokenizer


def _model(tokenizer) -> LlamaForCausalLM:
    """Return a random tiny Llama."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _row(tokenizer, messages: list[dict], answer: str, tools: list | None) -> tuple:
    """Return ids and labels of an answer after its prompt, as a server renders it."""
    prompt = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    said = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    labels = [templates.IGNORE] * len(prompt) + said
    return torch.tensor([prompt + said]), torch.tensor([labels])
