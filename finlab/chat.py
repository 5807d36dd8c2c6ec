"""Dialogues: message formats in, chat templates, and labels that cover the answers only.

Templates are the Jinja files in `finlab/templates/`, with `{% generation %}` around what the model must produce; the same
file renders training rows and prompts, and is saved with the tokenizer. Sources of the strings: ZhiLu and XuanYuan
repositories (conversation.py), YAYI (consts.py), Cornucopia (templates/fin_template.json).
"""

from __future__ import annotations

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "yayi": "assistant", "assistant": "assistant", "system": "system",
         "function_call": "assistant", "observation": "user", "tool": "user"}
IGNORE = -100  # the label torch's cross entropy leaves out


def _turns(turns: list[dict]) -> list[dict]:
    result = []
    for number, turn in enumerate(turns, 1):
        speaker, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if speaker not in ROLES:
            raise ValueError(f"turn {number}: unknown role {speaker!r}; known are {', '.join(ROLES)}")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"turn {number} ({speaker}) is empty")
        result.append({"role": ROLES[speaker], "content": text})
    return result


def _check_order(turns: list[dict]) -> list[dict]:
    talk = [turn["role"] for turn in turns if turn["role"] != "system"]
    if not talk or "assistant" not in talk:
        raise ValueError("the dialogue has no answer")
    if talk != [("user", "assistant")[number % 2] for number in range(len(talk))]:
        raise ValueError(f"user and assistant must take turns, found {' '.join(talk)}")
    return turns


def messages(row: dict) -> list[dict]:
    """Turn one row of any of the five systems' formats into [{role, content}, ...], ending with an answer.

    Reads Alpaca and Cornucopia (instruction, input, output), YaYi and ShareGPT (conversations, optional system), OpenAI
    (messages). A trailing user turn without an answer is left out. Raises ValueError for empty turns, unknown roles and roles
    out of order.
    """
    if "messages" in row:
        turns = _turns(row["messages"])
    elif "conversations" in row:
        turns = _turns(row["conversations"])
    elif "instruction" in row:
        question = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
        answer = row.get("output", row.get("response", ""))
        turns = _turns([{"from": "human", "value": question}, {"from": "gpt", "value": answer}])
    else:
        raise ValueError(f"no dialogue format has the fields {', '.join(row)}")
    if row.get("system"):
        if not isinstance(row["system"], str):
            raise ValueError("the system message is not text")
        turns = [{"role": "system", "content": row["system"]}, *turns]
    while turns and turns[-1]["role"] == "user":
        turns = turns[:-1]
    return _check_order(turns)


def preference(row: dict) -> dict:
    """Turn one preference row into {prompt, chosen, rejected}, each a list of messages (TRL's conversational form).

    Reads both shapes in circulation: chosen and rejected as objects or as strings. Raises ValueError when they are equal.
    """
    def answer(value: object) -> str:
        return value if isinstance(value, str) else value.get("value", value.get("content", ""))

    prompt, chosen, rejected = _turns(row["conversations"]), answer(row["chosen"]), answer(row["rejected"])
    if not prompt or prompt[-1]["role"] != "user":
        raise ValueError("the prompt must end with a user turn")
    if not chosen.strip() or not rejected.strip() or chosen == rejected:
        raise ValueError("chosen and rejected must be two different, non-empty answers")
    return {"prompt": prompt, "chosen": [{"role": "assistant", "content": chosen}], "rejected": [{"role": "assistant", "content": rejected}]}


def template(name: str) -> str:
    """Return the Jinja text of a chat template; raise ValueError with the known names."""
    path = TEMPLATES / f"{name}.jinja"
    if not path.exists():
        known = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
        raise ValueError(f"there is no chat template '{name}': choose one of {known}")
    return path.read_text(encoding="utf-8")


def encode(tokenizer: object, turns: list[dict], max_length: int = 0) -> dict | None:
    """Render and tokenise a dialogue; labels are the ids where the assistant speaks (its end token included), else -100.

    Returns {input_ids, labels}, or None when the dialogue is longer than `max_length` tokens (0: no limit): cutting it would
    cut an answer's end away. Raises ValueError when the template marks nothing as the assistant's.
    """
    encoded = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    if not any(mask):
        raise ValueError("the chat template marks no token as the assistant's: put {% generation %} around the answer and its end")
    if max_length and len(ids) > max_length:
        return None
    return {"input_ids": ids, "labels": [token if spoken else IGNORE for token, spoken in zip(ids, mask, strict=True)]}


def shares(rows: list[dict], end_id: int) -> dict[str, float]:
    """Return the share of supervised tokens, and the share of answers whose end token is supervised (must be 1).

    An answer is a run of supervised labels; `end_id` is the token that ends a turn.
    """
    supervised = total = answers = ended = 0
    for row in rows:
        labels = row["labels"]
        total += len(labels)
        supervised += sum(label != IGNORE for label in labels)
        for position, label in enumerate(labels):
            last = position + 1 == len(labels) or labels[position + 1] == IGNORE
            if label != IGNORE and last:
                answers += 1
                ended += label == end_id
    return {"supervised_token_share": supervised / max(total, 1), "eos_supervised_share": ended / max(answers, 1)}


def same_prompt(tokenizer: object) -> bool:
    """Tell whether a prompt as it is given in use begins a dialogue as it is trained, token by token.

    Whatever stands between them (a space, a newline, a special token) the model has never seen (LLaMA-Factory #8720).
    """
    question = [{"role": "user", "content": "什么是A股？"}]
    trained = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "人民币普通股票。"}], tokenize=True, return_dict=True)["input_ids"]
    used = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    return trained[:len(used)] == used


def answer(model: object, tokenizer: object, turns: list[dict], **generation: object) -> tuple[str, bool]:
    """Let a chat model answer; return the text and whether it ended by itself (with its end token).

    `generation` goes to `model.generate` (a GenerationConfig, max_new_tokens, ...).
    """
    import torch

    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"].to(model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **generation)[0, ids.shape[1]:]
    ended = bool(len(out)) and out[-1].item() == tokenizer.eos_token_id
    return tokenizer.decode(out, skip_special_tokens=True).strip(), ended
