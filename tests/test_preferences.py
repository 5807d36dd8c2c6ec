"""Preferences: the reference is the SFT model and is read once.

Every loss begins where it must, and what is reported has intervals.
"""

import json
import math
import shutil

import pytest
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from finlab.data import cards, dedup, selection, templates
from finlab.evaluate import likelihood, statistics
from finlab.models import loading, tokenization
from finlab.train import fit, log
from finlab.train.preference import ReferenceCache

LONG = [
    {"role": "system", "content": "你是助手"},
    {"role": "user", "content": "谁"},
    {"role": "assistant", "content": "董事长"},
]


def pairs(count=8):
    return [
        {
            "prompt": [*(LONG if number % 2 else []), {"role": "user", "content": f"问题{number}"}],
            "chosen": [{"role": "assistant", "content": "临江市"}],
            "rejected": [{"role": "assistant", "content": "沈怀瑾" * (1 + number % 3)}],
        }
        for number in range(count)
    ]


def words_of(folder):
    tokenizer = tokenization.load(folder)
    tokenizer.chat_template = templates.chat_template("plain")
    return tokenizer


def go(folder, out, lora=True, references=None, epochs=1.0, launch="", **settings):
    rows = Dataset.from_list(pairs())
    fields = {
        "learning_rate": 5e-3,
        "max_length": 128,
        "per_device_train_batch_size": 1 if launch else 2,
    } | settings
    args = DPOConfig(
        output_dir=str(out / "out"),
        num_train_epochs=epochs,
        per_device_eval_batch_size=4,
        logging_steps=1,
        seed=3,
        bf16=False,
        precompute_ref_log_probs=bool(references),
        gradient_checkpointing=False,
        report_to="none",
        dataloader_pin_memory=False,
        save_steps=50,
        **fields,
    )
    trainer = fit.fit(
        DPOTrainer,
        log=out / "log.jsonl",
        extensions=[ReferenceCache(references)] if references else [],
        model=loading.load(folder),
        args=args,
        train_dataset=rows,
        eval_dataset=rows.select(range(2, 8)),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if lora else None,
        processing_class=words_of(folder),
        launch=launch,
        processes=2 * bool(launch),
    )
    return trainer, log.eval_losses(out / "log.jsonl")


def kept(file):
    return Dataset.from_parquet(str(file), keep_in_memory=True).to_dict()


def test_pairs_are_tokenised_as_trl_does(tiny, tmp_path):
    trainer, _ = go(tiny, tmp_path, references=tmp_path / "kept")
    ours = templates.encode_pairs(words_of(tiny), pairs())
    for row, theirs in zip(ours, trainer.train_dataset, strict=True):
        assert not row["refused"]
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            assert row[name] == theirs[name]
    assert all(row["chosen_ids"][-1] == row["rejected_ids"][-1] == 2 for row in ours), (
        "both answers end with the end token"
    )


@pytest.mark.parametrize("lora", [True, False])
def test_the_reference_is_the_sft_model_and_is_read_once(tiny, tmp_path, monkeypatch, lora):
    passes = []
    compute = DPOTrainer.compute_ref_log_probs
    monkeypatch.setattr(
        DPOTrainer,
        "compute_ref_log_probs",
        lambda self, *arguments: passes.append(1) or compute(self, *arguments),
    )
    first, losses = go(tiny, tmp_path / "first", lora, tmp_path / "kept", epochs=2.0)
    assert len(passes) == 6, (
        "8 training pairs by 2 and 6 held-out pairs by 4, once each, though there are two epochs and two evaluations"
    )
    assert losses["before"] == pytest.approx(math.log(2), abs=1e-5)
    assert losses["after"] < 0.6
    ids = templates.encode_pairs(words_of(tiny), pairs()[2:])
    found, used = (
        likelihood.answer_log_probs(loading.load(tiny), ids, batch_tokens=64),
        kept(first.references["eval"]),
    )
    for number, mine in enumerate(found):
        assert mine["chosen"] == pytest.approx(used["ref_chosen_logps"][number], abs=1e-4)
        assert mine["rejected"] == pytest.approx(used["ref_rejected_logps"][number], abs=1e-4)
    files = {file.name for file in (tmp_path / "kept").iterdir()}
    again, _ = go(tiny, tmp_path / "again", lora, tmp_path / "kept", beta=0.5, loss_type=["ipo"])
    assert len(passes) == 6
    assert {file.name for file in (tmp_path / "kept").iterdir()} == files
    assert again.references == first.references
    assert all(file.suffix == ".parquet" for file in (tmp_path / "kept").iterdir())


def test_the_key_knows_weights_lengths_and_words(tiny, tmp_path):
    first, _ = go(tiny, tmp_path / "a", references=tmp_path / "kept")
    shorter, _ = go(tiny, tmp_path / "b", references=tmp_path / "kept", max_length=100)
    other = loading.load(tiny)
    other.lm_head.weight.data[5] += 0.1
    other.save_pretrained(tmp_path / "other")
    words_of(tiny).save_pretrained(tmp_path / "other")
    changed, _ = go(tmp_path / "other", tmp_path / "c", references=tmp_path / "kept")
    assert (
        len({first.references["eval"], shorter.references["eval"], changed.references["eval"]}) == 3
    )
    shutil.copytree(tiny, tmp_path / "moved")
    moved, _ = go(tmp_path / "moved", tmp_path / "d", references=tmp_path / "kept")
    assert moved.references == first.references, "the same weights elsewhere are the same reference"


@pytest.mark.parametrize(
    ("losses", "weights", "start"),
    [
        (["sigmoid"], None, math.log(2)),
        (["ipo"], None, 25.0),
        (["apo_zero"], None, 1.0),
        (["apo_down"], None, 1.0),
        (["sigmoid_norm"], None, math.log(2)),
        (["hinge"], None, 1.0),
        (["sigmoid", "sft"], [1.0, 0.2], None),
    ],
)
def test_every_loss_begins_where_it_must(tiny, tmp_path, losses, weights, start):
    _, found = go(
        tiny, tmp_path, references=tmp_path / "kept", loss_type=losses, loss_weights=weights
    )
    records = log.read_log(tmp_path / "log.jsonl")
    assert (
        abs(next(record for record in records if "eval_loss" in record)["eval_rewards/chosen"])
        < 1e-5
    )
    if start is None:  # ln 2 and a fifth of the chosen answers' loss
        ids = templates.encode_pairs(words_of(tiny), pairs()[2:])
        chosen = likelihood.answer_log_probs(loading.load(tiny), ids)
        start = math.log(2) - 0.2 * sum(row["chosen"] for row in chosen) / sum(
            len(row["chosen_ids"]) for row in ids
        )
    assert found["before"] == pytest.approx(start, rel=1e-4)
    assert found["after"] < found["before"]


def test_what_is_reported_of_held_out_pairs():
    ids = [
        {"prompt_ids": [1], "chosen_ids": [2] * size, "rejected_ids": [2] * 3}
        for size in (5, 6, 2, 1)
    ]
    old = [{"chosen": -5.0, "rejected": -3.0}] * 4
    new = [
        {"chosen": -3.0, "rejected": -4.0},
        {"chosen": -4.0, "rejected": -4.0},
        {"chosen": -6.0, "rejected": -3.0},
        {"chosen": -5.0, "rejected": -3.0},
    ]
    found = statistics.preferences(old, new, ids, beta=0.1)
    assert found["accuracy"]["value"] == 0.5, "a tie is a miss"
    assert found["accuracy"]["n"] == 4, "a tie is a miss"
    assert found["margin"]["value"] == pytest.approx(0.1 * (3 + 2 - 1 + 0) / 4)
    assert found["margin"]["ci_low"] < found["margin"]["value"] < found["margin"]["ci_high"]
    assert found["length_bias"]["chosen longer"]["value"] == 1.0
    assert found["length_bias"]["chosen shorter"]["value"] == 0.0
    assert found["length_bias"]["correlation"] > 0.5
    assert found["chosen_likelier"] == {
        "by sum": {"before": 0.0, "after": 0.25},
        "by token": {"before": 0.25, "after": 0.5},
    }
    json.dumps(found)
    low, high = statistics.bootstrap([1.0] * 50 + [0.0] * 50)
    assert 0.38 < low < 0.42
    assert 0.58 < high < 0.62
    assert statistics.bootstrap([2.0]) == (2.0, 2.0)


def test_real_duplicates_across_the_two_files_are_found(data):
    """26 prompts of one file stand in the other.

    23 of them with the same system message and answers: those are one pair each.
    """
    groups = {
        name: [
            "\n".join(
                turn["content"] for part in ("prompt", "chosen", "rejected") for turn in row[part]
            )
            for row in cards.load(name).rows
        ]
        for name in ("dpo_zh_demo", "dpo_zh_500")
    }
    found, _ = selection.screen(groups, [])
    shared = {dedup.document_hash(text) for text in groups["dpo_zh_demo"]} & {
        dedup.document_hash(text) for text in groups["dpo_zh_500"]
    }
    assert len(shared) == 23
    assert sum(reason == "exact duplicate" for reason in found["dpo_zh_demo"].values()) >= 23
    left = [
        text
        for name, texts in groups.items()
        for place, text in enumerate(texts)
        if place not in found[name]
    ]
    assert len({dedup.document_hash(text) for text in left}) == len(left)
    assert 750 < len(left) <= 777


def test_another_trainer_needs_no_change(tiny, tmp_path):
    """TRL's KTOTrainer, which no notebook uses, trains through `fit` as it is."""
    from trl import KTOConfig, KTOTrainer

    rows = []
    for pair in pairs():
        rows.append({"prompt": pair["prompt"], "completion": pair["chosen"], "label": True})
        rows.append({"prompt": pair["prompt"], "completion": pair["rejected"], "label": False})
    args = KTOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        logging_steps=1,
        seed=3,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        dataloader_pin_memory=False,
    )
    fit.fit(
        KTOTrainer,
        log=tmp_path / "log.jsonl",
        model=loading.load(tiny),
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:8]),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        processing_class=words_of(tiny),
    )
    losses = [row["loss"] for row in log.read_log(tmp_path / "log.jsonl") if "loss" in row]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    after = log.eval_losses(tmp_path / "log.jsonl")
    assert after["after"] < after["before"]
