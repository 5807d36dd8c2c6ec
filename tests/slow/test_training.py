"""Training that takes long: compiled, and a reference that two processes share."""

import math

import pytest
from trl import SFTTrainer

from finlab.models import loading, tokenization
from finlab.train.log import read_log
from tests.test_preferences import go, kept
from tests.test_training import NEW_ROWS_PLAIN, fit_packed, settings
from tests.test_training import rows_for as rows_for


def test_two_processes_share_the_reference(tiny, tmp_path):
    one, alone = go(tiny, tmp_path / "one", references=tmp_path / "kept")
    two, both = go(tiny, tmp_path / "two", references=tmp_path / "other", launch="ddp")
    assert both["before"] == pytest.approx(math.log(2), abs=1e-4)
    assert both["after"] == pytest.approx(alone["after"], rel=0.05)
    assert {name: file.name for name, file in two.references.items()} == {
        name: file.name for name, file in one.references.items()
    }
    for side, values in kept(two.references["train"]).items():
        assert values == pytest.approx(kept(one.references["train"])[side], abs=1e-4)


def test_compiled_training_has_the_same_losses(tiny, tmp_path, rows_for):
    tokenizer, losses = tokenization.load(tiny), {}
    for compiled in (False, True):
        log = tmp_path / f"{compiled}.jsonl"
        fit_packed(
            SFTTrainer,
            log=log,
            model=loading.load(tiny),
            args=settings(tmp_path / str(compiled), max_steps=3, torch_compile=compiled),
            train_dataset=rows_for(tokenizer),
            peft_config=NEW_ROWS_PLAIN,
            processing_class=tokenizer,
        )
        losses[compiled] = [record["loss"] for record in read_log(log) if "loss" in record]
        assert any("sources" in record for record in read_log(log))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
