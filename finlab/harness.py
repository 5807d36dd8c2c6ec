"""Exams under lm-evaluation-harness: tasks over local files, and a model class that reads each few-shot prefix once.

    exams = harness.prepare(cards.load_all(["cmmlu"], "exam"), folder, prompt="official", shots=5)
    scorer = harness.PrefixLM(model, tokenizer, exams, store=harness.kept(folder, model))
    answers = harness.answers(scorer, exams)            # one record per item

The folder holds what the harness's own command line reads, on any of its backends:
`lm_eval --model vllm --model_args pretrained=MODEL --include_path FOLDER --tasks cmmlu_official`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM

from finlab import cards
from finlab.store import Store, key

VERSION = 2  # of the scorer: raise it whenever a score could change
PROMPTS = {
    "text": "each option's text after the question, no letters and no options shown: for base models of any size",
    "official": "the benchmark's own prompt, scored by the letter",
    "harness": "lm-evaluation-harness's own task (C-Eval, CMMLU, MMLU), scored by ` A`",
    "generate": "the model writes, the letter is read out of it (FinanceIQ's protocol): for chat models",
    "reason": "as generate, asked to think step by step first (FinEval's)",
}
POLICIES = {
    "joint": "prompt and letter tokenised together, the tail that differs (the harness's way; with its delimiter, ` A`)",
    "raw": "the token `A` by its name (CMMLU's hf_causal_model.py)",
    "first": "the first token of `A` encoded alone, `▁A` for Llama (C-Eval's llama.py)",
    "sum": "the sum of the log-probabilities of `A` alone and of the last token of `：A` (Chinese-LLaMA-Alpaca-2, FinEval, ZhiLu)",
}
GENERATED = ("generate", "reason")  # prompts answered in writing
NO_ANSWER = (-1.0e9, False)  # finite, since the harness takes a softmax of what it gets
SHORTEST_PREFIX = 8  # tokens; below it reading a shared prefix on its own is not worth a forward pass


@dataclass
class Exam:
    """A benchmark made ready: its scored items, the harness's task objects by name, and what a score on it must be reported with."""

    name: str
    prompt: str  # such as cmmlu/official@1
    shots: int
    items: list[dict]
    tasks: dict[str, object]
    coverage: dict
    generated: bool


def setting(text: str) -> tuple[str, int, str]:
    """Return (prompt, shots, answer-token policy) of a setting such as `text:0`, `official:5` or `official:5:sum`; raise ValueError for another."""
    prompt, shots, policy = (text.split(":") + ["joint"])[:3] if text.count(":") in (1, 2) else ("", "", "")
    if prompt not in PROMPTS or not shots.isdigit() or policy not in POLICIES:
        raise ValueError(f"'{text}' is no setting of an exam: write prompt:shots or prompt:shots:policy, such as official:5:sum; "
                         f"prompts are {', '.join(PROMPTS)}, policies {', '.join(POLICIES)}")
    return prompt, int(shots), policy


# --- tasks over local files -----------------------------------------------------------------------------------------
def prepare(sources: dict[str, cards.Source], folder: Path, prompt: str = "text", shots: int = 0, most: int = 0) -> dict[str, Exam]:
    """Write harness tasks over the items of exam cards, one for each subject with examples, and return {card: Exam} with the tasks loaded.

    Scored are the labelled items of `val` and `test`, where a card has them, else those of `dev`. A card that is left without examples is asked
    without, and its Exam says so. `most` takes so many of each exam, evenly over it (0: all). Each item goes to a JSON line {id, subject,
    subject_name, split, question, choices, letters, answer, source, licence}, whose hash stands in `coverage`. Raises ValueError for an unknown
    prompt, more shots than examples, and an exam that is not whole.
    """
    from lm_eval.tasks import TaskManager

    if prompt not in PROMPTS:
        raise ValueError(f"there is no prompt '{prompt}': write one of {', '.join(PROMPTS)}")
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: _write(source, folder / name, prompt, shots, most) for name, source in sources.items()}
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it logs what is set on purpose: shots over the defaults
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return {name: Exam(name, tasks=manager.load(made.pop("names"))["tasks"], generated=prompt in GENERATED, **made) for name, made in written.items()}


def _write(source: cards.Source, folder: Path, prompt: str, shots: int, most: int) -> dict:
    card, rows = source.card, list(source.rows)
    coverage = cards.coverage(source)
    scored = [row for row in rows if row["split"] != "dev" and row["answer"] >= 0] or [row for row in rows if row["answer"] >= 0]
    if not scored:
        raise ValueError(f"card {card.name}: none of its {len(rows)} items has an answer, so nothing can be scored")
    examples = defaultdict(list)
    for row in rows:
        if row["split"] == "dev" and scored[0]["split"] != "dev":
            examples[row["subject"]].append(row)
    scored = [scored[place * len(scored) // most] for place in range(most)] if 0 < most < len(scored) else scored
    few = min((len(examples[row["subject"]]) for row in scored), default=0)
    if shots > few and any(examples.values()):
        short = min(scored, key=lambda row: len(examples[row["subject"]]))["subject"]
        raise ValueError(f"card {card.name}: {shots} shots asked, subject {short} has {few} examples in its `dev` split: ask for at most {few}")
    shots = min(shots, few)
    folder.mkdir(exist_ok=True)
    names, version, parts = [], None, defaultdict(list)
    for row in scored:  # a subject has its own examples, and in the harness its own instruction; without either one task holds all
        parts[row["subject"] if shots or prompt == "harness" else card.name].append(row)
    for number, (subject, part) in enumerate(parts.items()):
        name = f"{card.name}_{prompt}_{number:02d}"
        files = {"test": part, "dev": examples[subject]}
        include = _include(card, subject, prompt)
        for split, held in files.items():
            lines = [json.dumps(_line(row, card), ensure_ascii=False) for row in held]
            (folder / f"{name}.{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        paths = {split: str(folder / f"{name}.{split}.jsonl") for split, held in files.items() if held}
        task = {"task": name, "task_alias": subject, "tag": None, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": paths},
                "validation_split": None, "test_split": "test", "fewshot_split": "dev" if shots else None, "num_fewshot": shots,
                "doc_to_target": "letter" if prompt in GENERATED else "answer"}
        version = _version(include)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"include": str(include), **task}, allow_unicode=True), encoding="utf-8")
        names.append(name)
    metric = "exact_match" if prompt in GENERATED else "acc"
    group = {"group": f"{card.name}_{prompt}", "task": names, "aggregate_metric_list": [{"metric": metric, "weight_by_size": True}]}
    (folder / "group.yaml").write_text(yaml.safe_dump(group, allow_unicode=True), encoding="utf-8")
    return {"prompt": f"{_family(card)}/{prompt}@{version}", "shots": shots, "items": scored, "names": names,
            "coverage": coverage | {"scored": len(scored), "sha256": content_hash(scored + [row for part in examples.values() for row in part])}}


def content_hash(items: list[dict]) -> str:
    """Return the SHA-256 of what is asked and answered in items, whatever file they came from."""
    asked = sorted(json.dumps([item["subject"], item["split"], item["question"], item["choices"], item["answer"]], ensure_ascii=False) for item in items)
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()


def _family(card: cards.Card) -> str:
    return card.spec.get("benchmark", card.spec["format"])


def _line(row: dict, card: cards.Card) -> dict:
    letters = list(row["choices"]) if row["choices"] == ["是", "否"] else list("ABCDEFGHIJ"[:len(row["choices"])])
    columns = dict(zip("ABCDEFGHIJ", row["choices"])) | {"Question": row["question"]}  # the names that the harness's own tasks use
    return {**row, "letters": letters, "letter": letters[row["answer"]], "source": card.name, "licence": card.licence, **columns}


def _include(card: cards.Card, subject: str, prompt: str) -> Path:
    """Return the YAML file that a subject's task stands on: ours, or the harness's own of that subject (of the benchmark, for another's subject)."""
    import lm_eval.tasks

    ours, theirs, family = Path(__file__).parent / "tasks", Path(lm_eval.tasks.__file__).parent, _family(card)
    if prompt == "text" or prompt in GENERATED:
        return ours / f"{prompt}_{card.language}.yaml"
    own = {"ceval": ("ceval", "_default_ceval_yaml", f"ceval-valid_{subject}.yaml"), "cmmlu": ("cmmlu", "_default_template_yaml", f"cmmlu_{subject}.yaml"),
           "mmlu": ("mmlu/default", "_default_template_yaml", f"mmlu_{subject}.yaml")}
    if prompt == "harness":
        if family not in own:
            raise ValueError(f"card {card.name}: the harness has no tasks for {family}; it has {', '.join(own)}: take prompt official")
        place, default, named = own[family]
        return theirs / place / (named if (theirs / place / named).exists() else default)
    return ours / f"official_{family}.yaml"


def _version(include: Path) -> str:
    from lm_eval.tasks._yaml_loader import load_yaml

    return str(load_yaml(include)["metadata"]["version"])


# --- a model class that reads each prefix once ----------------------------------------------------------------------
class PrefixLM(HFLM):
    """The harness's HFLM with the same scores for a fraction of the tokens.

    The longest beginning that all prompts of a task share (its instruction and examples) is read once, and its keys and values serve every
    question; questions are read in batches of up to `batch_tokens` tokens, prefix and padding included; only the last positions' logits are
    computed, their softmax in float32. A prompt that does not fit into the context loses whole examples, the last first, as CMMLU's own
    script does; one that does not fit without examples is not answered. Both are counted, nothing is cut. `policy` is one of POLICIES.

    Answers are kept in `store`, by the tokens of prompt and answer; `harness.kept` opens the store of a model. So a rerun after a kill scores
    nothing twice, and no model gets another's answers.
    """

    def __init__(self, model: object, tokenizer: object, exams: dict[str, Exam], policy: str = "joint", batch_tokens: int = 8192, store: Store | None = None,
                 chat: bool = False, batch_size: int = 16):
        if policy not in POLICIES:
            raise ValueError(f"there is no answer-token policy '{policy}': write one of {', '.join(POLICIES)}")
        if chat and not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template, so exams cannot be asked in chat: save one with it, or set chat to false")
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, softmax_dtype="float32",
                         max_length=getattr(model.config, "max_position_embeddings", None), add_bos_token=not chat and tokenizer.bos_token_id is not None)
        self.encoded: dict[tuple, list[int]] = {}  # of the latest texts: an item's answers follow the same prompt
        self.exam_tasks = {name: task for exam in exams.values() for name, task in exam.tasks.items()}
        self.policy, self.batch_tokens, self.chat = policy, batch_tokens, chat
        self.counts = Counter(sent=0, encoded=0, kept=0, unequal_letters=0)  # tokens sent and encoded; requests kept from the store; items
        self.fates: dict[tuple[str, int], dict] = {}  # (task, number of the item): {shots, too_long}
        self.kept = store or Store(None)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: object) -> list[int]:
        asked = string, add_special_tokens, *sorted(more.items())
        if asked not in self.encoded:
            while len(self.encoded) > 8:
                del self.encoded[next(iter(self.encoded))]
            self.encoded[asked] = super().tok_encode(string, add_special_tokens, **more)
        return self.encoded[asked]

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        return super().apply_chat_template(_without_system(chat_history), add_generation_prompt)

    def _letter_tokens(self, letter: str) -> list[int]:
        """Return the tokens by which a policy other than joint scores a letter; their log-probabilities are added."""
        first, last = (self.tokenizer.encode(text, add_special_tokens=False) for text in (letter, f"：{letter}"))
        tokens = {"raw": [self.tokenizer.convert_tokens_to_ids(letter)], "first": first[:1], "sum": [first[0], last[-1]]}[self.policy]
        if None in tokens or (self.policy == "raw" and tokens[0] == self.tokenizer.unk_token_id):
            raise ValueError(f"the tokenizer has no token '{letter}', which the policy raw scores: take joint")
        return tokens

    def _pair(self, context: str, answer: str) -> tuple[list[int], list[int], bool]:
        """Return (tokens of the prompt, of the answer, is each of these an answer by itself)."""
        if self.policy != "joint" and re.fullmatch("[A-J]", answer.strip()):
            return self.tok_encode(context), self._letter_tokens(answer.strip()), True
        if not context:
            return [self.prefix_token_id], self.tok_encode(answer, add_special_tokens=False), False
        return *self._encode_pair(context, answer), False

    def _fit(self, requests: list, answers: list[str], new_tokens: int = 0) -> tuple[str, list] | None:
        """Return (the prompt, its pairs with the answers) for the requests of one item, with as many examples as fit; None when none fits."""
        task, doc, context = self.exam_tasks.get(requests[0].task_name), requests[0].doc, requests[0].args[0]
        most, found, shots = (task.config.num_fewshot or 0) if task else 0, None, 0
        for shots in range(most, -1, -1):
            if shots < most:
                context = task.fewshot_context(doc, shots, apply_chat_template=self.chat, fewshot_as_multiturn=self.chat,
                                               chat_template=self.apply_chat_template if self.chat else None)
            pairs = [self._pair(context, answer) for answer in answers]
            longest = max((len(ids) + (1 if either else len(tail)) - 1 for ids, tail, either in pairs), default=len(self.tok_encode(context)))
            if longest + new_tokens <= self.max_length:
                found = context, pairs
                break
        self.fates[requests[0].task_name, requests[0].doc_id] = {"shots": shots, "too_long": found is None}
        return found

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability, is it the likeliest) of each request's answer, NO_ANSWER where not even the bare question fits."""
        items, rows = defaultdict(list), [None] * len(requests)
        for number, request in enumerate(requests):
            items[(request.task_name, request.doc_id) if request.doc_id is not None else number].append(number)
        for numbers in items.values():
            part = [requests[number] for number in numbers]
            found = self._fit(part, [request.args[1] for request in part])
            if not found:
                continue
            sizes = {len(tail) for (_, tail, _), request in zip(found[1], part) if len(request.args[1].strip()) == 1}
            self.counts["unequal_letters"] += len(sizes) > 1
            doc = part[0].doc if isinstance(part[0].doc, dict) else {}
            group = part[0].task_name, doc.get("subject"), self.fates[part[0].task_name, part[0].doc_id]["shots"]
            for number, (ids, tail, either) in zip(numbers, found[1]):
                made = key(ids, tail, either)
                rows[number] = {"ids": ids, "tail": tail, "either": either, "group": group, "key": made, "score": self.kept.get(made)}
        self.counts["kept"] += sum(row is not None and row["score"] is not None for row in rows)
        groups = defaultdict(list)
        for row in rows:
            if row and row["score"] is None:
                groups[row["group"]].append(row)
        for group in groups.values():
            self._score(group)
        return [tuple(row["score"]) if row else NO_ANSWER for row in rows]

    def _score(self, rows: list[dict]) -> None:
        """Score rows that begin alike: what they share once, the rest in batches; what a batch gave is stored before the next is read."""
        import torch

        lines = defaultdict(list)
        for row in rows:
            lines[tuple(row["ids"] + ([] if row["either"] else row["tail"][:-1]))].append(row)
        size = min(len(os.path.commonprefix(list(lines))), min(len(row["ids"]) for row in rows) - 1)
        size = size if size >= SHORTEST_PREFIX and len(lines) > 1 else 0
        order = sorted(lines, key=len, reverse=True)
        self.counts["sent"] += sum(map(len, order))
        self.counts["encoded"] += size + sum(len(line) - size for line in order)
        with torch.inference_mode():
            prefix = self.model(torch.tensor([order[0][:size]], device=self.device), use_cache=True, logits_to_keep=1).past_key_values if size else None
            while order:
                part = order[:max(1, self.batch_tokens // len(order[0]))]
                del order[:len(part)]
                keep = max(1 if row["either"] else len(row["tail"]) for line in part for row in lines[line])
                scores = self._read([line[size:] for line in part], size, prefix, keep)
                for line, found in zip(part, scores):
                    for row in lines[line]:
                        row["score"] = _read_off(found, row)
                self.kept.put({row["key"]: row["score"] for line in part for row in lines[line]})

    def _read(self, lines: list[tuple[int, ...]], size: int, prefix: object, keep: int) -> object:
        """Return log-probabilities, float32 [lines, keep, vocabulary], at the last positions of lines that follow a prefix of `size` tokens.

        Lines are padded on the right, where no real token sees the padding (under a sliding window neither), and only each line's own last
        positions go through the head.
        """
        import torch

        longest = max(map(len, lines))
        ids = torch.tensor([list(line) + [0] * (longest - len(line)) for line in lines], device=self.device)
        rows = torch.arange(len(lines), device=self.device)[:, None]
        last = (torch.tensor([[len(line)] for line in lines]) - keep + torch.arange(keep)).clamp(min=0).to(self.device)
        past = copy.deepcopy(prefix)
        if past is not None:
            past.batch_repeat_interleave(len(lines))
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda module, given: (given[0][rows.to(given[0].device), last.to(given[0].device)], *given[1:]))
        try:
            logits = self.model(ids, past_key_values=past, use_cache=past is not None).logits
        finally:
            hook.remove()
        return logits.float().log_softmax(-1)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each prompt, "" where the prompt leaves no room for `max_gen_toks` new tokens."""
        texts, asked = [""] * len(requests), []
        for number, request in enumerate(requests):
            context, settings = request.args
            found = self._fit([request], [], settings.get("max_gen_toks", self.max_gen_toks))
            if not found:
                continue
            made = key("generate", self.tok_encode(found[0]), settings, self.eot_token_id, self.model.generation_config.to_dict())
            if (kept := self.kept.get(made)) is not None:
                texts[number] = kept
                self.counts["kept"] += 1
                continue
            fitted = copy.copy(request)
            fitted.arguments = found[0], settings
            asked.append((number, made, fitted))
        asked.sort(key=lambda each: len(each[2].args[0]), reverse=True)
        step = 4 * int(self.batch_size)
        for start in range(0, len(asked), step):
            part = asked[start:start + step]
            written = super().generate_until([request for _, _, request in part], disable_tqdm=True)
            for (number, _, _), text in zip(part, written):
                texts[number] = text
            self.kept.put({made: text for (_, made, _), text in zip(part, written)})
        return texts


def _read_off(found: object, row: dict) -> tuple[float, bool]:
    tail = row["tail"]
    if row["either"]:
        return found[-1, tail].sum().item(), found[-1].argmax().item() in tail
    span = found[len(found) - len(tail):]
    return sum(span[place, token].item() for place, token in enumerate(tail)), span.argmax(-1).tolist() == tail


def kept(folder: Path, model: object) -> Store:
    """Open the store of a model's answers, a file in `folder` named by `identity`: made once for all settings, since it reads every weight."""
    return Store(folder / f"{identity(model)}.jsonl")


def identity(model: object) -> str:
    """Return the SHA-256 of what decides a model's answers: its tensors as they lie in memory, configuration, adapters, attention, device, scorer."""
    import torch

    digest = hashlib.sha256(json.dumps([VERSION, model.config.to_dict() | {"_name_or_path": ""}, model.config._attn_implementation, model.device.type,
                                        {name: made.to_dict() for name, made in getattr(model, "peft_config", {}).items()}],
                                       sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def _without_system(messages: list[dict]) -> list[dict]:
    """Return messages with the exam's instruction, which the harness makes the system's, at the head of the first question: templates have their own."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    return [messages[1] | {"content": messages[0]["content"] + messages[1]["content"]}, *messages[2:]]


class AskLM(LM):
    """Whatever answers a list of messages (`ask(messages) -> text`, None for a failure), such as an endpoint, under the harness: generation only."""

    tokenizer_name, chat = "", True

    def __init__(self, ask: object, workers: int = 4):
        super().__init__()
        self.ask, self.workers = ask, workers

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool = True) -> str:
        return json.dumps(_without_system(messages), ensure_ascii=False)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str | None]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda request: self.ask(json.loads(request.args[0])), requests))

    def loglikelihood(self, requests: list) -> list:
        raise ValueError("an endpoint gives no log-probabilities of a given answer: score it with the prompt generate")

    loglikelihood_rolling = loglikelihood


# --- answers --------------------------------------------------------------------------------------------------------
CLAIM = re.compile(r"(?<![不非没未勿])(?<!不应)(?<!不能)(?<!不该)(?<!不可)(?<!不会)"
                   r"(?:答案|选项(?=\s*[是为：:应])|选择|选(?!项)|[Aa]nswer|[Oo]ption)(?:[是为选应该项：:\s“\"'（(【\[]|is)*"
                   r"([A-J](?:[、,，和与及/\s]*(?:or|and|或)?\s*[A-J](?![A-Za-z]))*)(?![A-Za-z股轮类级型座])")
BEGINS = re.compile(r"[\s（(【\[]*([A-J])(?=\s*(?:[.．。:：)）】\]]|$))")


def letter_of(text: str | None, letters: list[str]) -> int | None:
    """Return the option that a written answer names, None when it names none, several, or one that was not there. Nothing is guessed.

    The last claim counts (答案是B, 选B, the answer is B; not 不选B), else a letter with which the text begins when no other line begins with
    another. A股, `A is wrong` and the like are not letters. Where the options are 是 and 否, the text has to begin with one of them.
    """
    text = re.sub(r"[*$`_]", "", unicodedata.normalize("NFKC", text or "")).strip()
    if letters == ["是", "否"]:
        return next((number for number, word in enumerate(letters) if text.startswith(word)), None)
    claims = CLAIM.findall(text)
    named = set(re.findall("[A-J]", claims[-1])) if claims else {found[1] for line in text.splitlines() if (found := BEGINS.match(line))}
    begins = bool(claims) or bool(BEGINS.match(text))
    letter = next(iter(named)) if begins and len(named) == 1 else None
    return letters.index(letter) if letter in letters else None


def answers(scorer: LM, exams: dict[str, Exam]) -> list[dict]:
    """Let a scorer (PrefixLM, AskLM or any LM of the harness) answer exams; return one record per item.

    A record is {benchmark, prompt, id, subject, shots, examples, answer, chosen, right, tie, fault} with `scores` (log-probabilities, nats) or
    `text`; `examples` counts the shots that fitted; `chosen` is -1 where there is a fault: too long (for the context), unparsed (names no
    option), failed (no answer came). An item whose right option stands there twice has the fault options alike. None of them is ever right.
    """
    from lm_eval.evaluator import evaluate

    owner = {task: exam for exam in exams.values() for task in exam.tasks}
    tasks = {name: task for exam in exams.values() for name, task in exam.tasks.items()}
    chat, fates, policy = (getattr(scorer, name, default) for name, default in (("chat", False), ("fates", {}), ("policy", "joint")))
    how = f"+{policy}" * (policy != "joint") + "+chat" * chat  # a score under another is another score
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = evaluate(scorer, {"tasks": tasks, "groups": {}, "group_map": {}}, bootstrap_iters=0, apply_chat_template=chat, fewshot_as_multiturn=chat)
    records = []
    for task, exam in owner.items():
        for sample in found["samples"][task]:
            fate = fates.get((task, sample["doc_id"]), {"shots": exam.shots, "too_long": False})
            records.append(_record(exam, sample["doc"], [response[0] for response in sample["resps"]], fate) | {"prompt": exam.prompt + how})
    order = {item["id"]: number for exam in exams.values() for number, item in enumerate(exam.items)}
    return sorted(records, key=lambda record: (record["benchmark"], order[record["id"]]))


def _record(exam: Exam, item: dict, responses: list, fate: dict) -> dict:
    record = {"benchmark": exam.name, "id": item["id"], "subject": item["subject"], "shots": exam.shots, "examples": fate["shots"],
              "answer": item["answer"]}
    if exam.generated:
        text = responses[0]
        chosen = letter_of(text, item["letters"])
        fault = "too long" if fate["too_long"] else "failed" if text is None else "unparsed" if chosen is None else ""
        record |= {"text": text, "tie": False}
    else:
        scores = [float(score[0]) for score in responses]
        chosen = max(range(len(scores)), key=scores.__getitem__)
        fault = "too long" if fate["too_long"] else ""
        record |= {"scores": scores, "tie": not fault and scores.count(scores[chosen]) > 1}
    alike = item["choices"].count(item["choices"][item["answer"]]) > 1
    fault = fault or ("options alike" if alike else "")
    chosen = -1 if chosen is None or fault in ("too long", "failed") else chosen
    return record | {"chosen": chosen, "right": not fault and chosen == item["answer"], "fault": fault}
