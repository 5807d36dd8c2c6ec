"""The first real run of docs/first_run.md, word for word, with a tiny base from a loopback hub."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from finlab import files, paths
from finlab.data import exam_layouts
from tests.hub_server import Hub

PAGE = paths.ROOT / "docs" / "first_run.md"
COMMANDS = re.findall(r"^\$ (.+)$", PAGE.read_text(encoding="utf-8"), re.M)
SENTENCES = [
    "央行公告称本月公开市场操作规模扩大。",
    "公司全年营业收入同比增长百分之八。",
    "市盈率是股价除以每股收益。",
    "The central bank kept its policy rate unchanged this month.",
]


def texts(count: int, first: int = 0) -> list[str]:
    found = []
    for number in range(first, first + count):
        parts = [SENTENCES[(number + place) % 4] for place in range(24)]
        found.append(f"第{number}篇报道：{''.join(parts)}共{number * 7}亿元。")
    return found


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def tiny_base(folder: Path) -> dict[str, bytes]:
    """Return the files of a small Llama that nobody has trained."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words.train_from_iterator(texts(200), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def exam(benchmark: str) -> bytes:
    """Return a zip file with as many made-up items as the exam has, in its layout."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for subject, sizes in exam_layouts.published_subjects(benchmark).items():
            for split in ("dev", "val"):
                table = "id,question,A,B,C,D,answer,explanation\n"
                for number in range(sizes.get(split, 0)):
                    letter = "ABCD"[number % 4]
                    question = f"{subject}{split}第{number}题选哪一项"
                    table += f"{number},{question},甲{number},乙{number},丙{number},丁{number},{letter},\n"
                archive.writestr(f"{split}/{subject}_{split}.csv", table)
    return sink.getvalue()


@pytest.fixture
def shop(tmp_path):
    """A hub with all that the recipe asks for, and a person's own text."""
    hub = Hub(tmp_path / "hub")
    hub.add("Qwen/Qwen3-8B", tiny_base(tmp_path / "base"), kind="models")
    wiki = {}
    for language, first in (("zh", 100_000), ("en", 200_000)):
        wiki[f"20231101.{language}/train.jsonl"] = lines(
            [{"id": str(n), "text": text} for n, text in enumerate(texts(60, first))]
        )
    names = "\n".join(
        f"- config_name: 20231101.{each}\n  data_files: 20231101.{each}/*.jsonl"
        for each in ("zh", "en")
    )
    hub.add("wikimedia/wikipedia", wiki | {"README.md": f"---\nconfigs:\n{names}\n---\n".encode()})
    talks = [
        {"instruction": f"请解释第{n}个问题：什么是市盈率？", "input": "", "output": text}
        for n, text in enumerate(texts(80, 3000))
    ]
    for name in ("shibing624/alpaca-zh", "Maciel/FinCUGE-Instruction"):
        hub.add(name, {"train.jsonl": lines(talks), "README.md": b"---\n---\n"})
        talks = [{**row, "instruction": f"{row['instruction']}（财经）"} for row in talks]
    hub.add("ceval/ceval-exam", {"ceval-exam.zip": exam("ceval")})
    hub.add("SUFE-AIFLM-Lab/FinEval", {"FinEval.zip": exam("fineval")})
    own = tmp_path / "home" / "data" / "mine"
    own.mkdir(parents=True)
    (own / "a.jsonl").write_bytes(lines([{"text": text} for text in texts(3000)]))
    yield hub
    hub.close()


@pytest.fixture
def checkout(tmp_path):
    """A checkout of the project, with the environment that the tests run in."""
    root = tmp_path / "project"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "results")
    shutil.copytree(paths.ROOT, root, ignore=ignored)
    card = root / "data_cards" / "ceval_full.md"
    text = card.read_text(encoding="utf-8")
    # The hub of the tests has one commit, and it is another.
    card.write_text(re.sub(r"  revision: .*\n", "", text), encoding="utf-8")
    recipe = root / "notebooks/recipes/first-run.yaml"
    # transformers trains in bfloat16 on a GPU alone.
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("bfloat16", "float32"))
    return root


def test_eight_commands_word_for_word(shop, checkout, tmp_path):
    assert len(COMMANDS) == 8
    assert COMMANDS[:2] == ["make install", "source .venv/bin/activate"]
    folder = Path(sys.executable).parent
    environment = os.environ | shop.environment(tmp_path / "cache")
    environment |= {
        "HOME": str(tmp_path / "home"),
        "FINLAB_ROOT": str(checkout),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HF_HUB_DOWNLOAD_TIMEOUT": "10",
    }
    # The environment is there already; all further commands run in one shell, as typed.
    said = []
    export = COMMANDS[2]
    for command in COMMANDS[3:]:
        done = subprocess.run(
            ["bash", "-c", f"{export}; {command}"],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
        )
        said.append(done.stdout)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    (tmp_path / "transcript.txt").write_text("\n".join(said), encoding="utf-8")
    data, plan, run, status, answer = said
    assert "missing" not in data
    assert "alpaca_gpt4_zh: cc-by-nc-4.0 forbids commercial use" in data
    assert "GPU-hours" in plan
    assert "report: " in run
    assert status.count("finished") == 6
    assert answer.strip()
    artifact = checkout / "runs/first-run/sft/artifact/model"
    assert "**No commercial use**" in (artifact / "README.md").read_text(encoding="utf-8")
    metrics = files.read_json(checkout / "runs/first-run/pretrain/metrics.json")
    own_text = metrics["bits_per_character"]["zh_finance"]
    assert own_text["after"] < own_text["before"]
