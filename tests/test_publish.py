"""Publishing: the card says what a model is and may be used for, and the hub gets all of it."""

import json
import shutil
import subprocess

import pytest
import yaml

from finlab import files
from finlab.run import integrity, model_card
from tests.conftest import FINLAB
from tests.upload_server import UploadHub

SCORE = {
    "model": "dpo",
    "benchmark": "cw_ceval",
    "prompt": "ceval/text@1",
    "shots": 0,
    "n": 134,
    "accuracy": 0.6119,
    "ci_low": 0.527,
    "ci_high": 0.690,
}
VERDICTS = {
    "all": {"n": 436, "accuracy": 0.546},
    "clean": {"n": 435, "accuracy": 0.547},
    "contaminated": {"n": 1, "accuracy": 0.0},
}


@pytest.fixture
def run(tmp_path, chat_model):
    """A run with a finished dpo step and the evaluation of it."""
    folder = tmp_path / "bank"
    model = folder / "dpo/artifact/model"
    model.parent.mkdir(parents=True)
    shutil.copytree(chat_model, model)
    (model / "base.json").write_text("{}")
    files.write_json(folder / "run.json", {"recipe": "yayi-7b-open"})
    manifest = {
        "step": "dpo",
        "key": "k1",
        "notebook": "05_dpo",
        "parameters": {
            "learning_rate": 1e-5,
            "beta": 0.1,
            "preference_cards": ["x"],
            "run_dir": "r",
        },
        "versions": {"trl": "1.16.0"},
        "device": "one H200",
        "base": "meta-llama/Llama-2-7b-hf",
        "licences": {"alpaca_zh": "apache-2.0"},
        "artifact": integrity.seal(folder / "dpo/artifact"),
    }
    files.write_json(folder / "dpo/manifest.json", manifest)
    evaluation = {
        "notebook": "07_evaluation",
        "step": "evaluate",
        "inputs": {"steps": {"dpo": "k1"}},
    }
    (folder / "evaluate").mkdir()
    files.write_json(folder / "evaluate/manifest.json", evaluation)
    other = SCORE | {"model": "sft", "accuracy": 0.1}
    metrics = {"scores": [SCORE, other], "by_verdict": {"dpo": VERDICTS}}
    files.write_json(folder / "evaluate/metrics.json", metrics)
    return folder


def change(run, **values):
    path = run / "dpo/manifest.json"
    files.write_json(path, files.read_json(path) | values)


# --- the card ------------------------------------------------------------------------------------
def test_a_card_holds_what_the_run_knows(run):
    card = model_card.complete(run / "dpo/artifact/model")
    _, front, text = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["base_model"] == "meta-llama/Llama-2-7b-hf"
    assert metadata["license"] == "other"
    [entry] = metadata["model-index"][0]["results"]
    assert entry["dataset"]["name"] == "cw_ceval"
    assert entry["metrics"][0]["value"] == 0.6119
    assert "recipe `yayi-7b-open`" in text
    assert "| alpaca_zh | apache-2.0 |" in text
    assert "| learning_rate | 1e-05 |" in text
    assert "preference_cards" not in text
    assert "| cw_ceval | 0 | 0.612 | 0.527 to 0.690 | 134 | ceval/text@1 |" in text
    assert "1 of 436 items stand in the training text" in text
    assert "Without them the accuracy is 0.547." in text
    assert "investment advice" in text
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == [
        "## Uses",
        "## Bias, risks and limitations",
        "## Licence and terms",
        "## How to get started",
        "## Training data",
        "## Training procedure",
        "## Evaluation",
    ]


def test_scores_of_an_earlier_model_are_left_out(run):
    change(run, key="k2")
    card = model_card.complete(run / "dpo/artifact/model")
    assert "0.612" not in card
    assert "Not scored in this run, or not since it was made again." in card


def test_names_of_models():
    for folder, name in (
        ("runs/bank/dpo/artifact/model", "dpo"),
        ("runs/bank/sft/artifact/stage1/model", "sft/stage1"),
        ("runs/bank/quantize/artifact/nf4", "quantize/nf4"),
        ("somewhere/Qwen3-8B", "Qwen3-8B"),
    ):
        assert model_card.model_name(model_card.Path(folder)) == name


# --- finlab push ---------------------------------------------------------------------------------
@pytest.fixture
def hub(tmp_path):
    served = UploadHub(tmp_path / "hub", "hf_secret")
    (tmp_path / "hub").mkdir()
    yield served
    served.close()


def push(hub, tmp_path, *words, token="hf_secret"):
    environment = hub.environment(tmp_path / "cache", HF_TOKEN=token)
    return subprocess.run(
        [*FINLAB, "push", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_a_model_is_published_with_its_card(run, hub, tmp_path):
    model = run / "dpo/artifact/model"
    done = push(hub, tmp_path, model, "bank/finance-7b")
    assert done.returncode == 0, done.stderr
    assert "bank/finance-7b" in done.stdout
    there = tmp_path / "hub/models/bank/finance-7b"
    assert hub.private == {"bank/finance-7b": True}
    assert (there / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "| cw_ceval | 0 | 0.612" in (there / "README.md").read_text(encoding="utf-8")
    # What names places on this machine stays here.
    assert not (there / "base.json").exists()
    # The run's own files are as they were.
    sealed = json.loads((run / "dpo/manifest.json").read_text())["artifact"]
    assert integrity.damage(run / "dpo/artifact", sealed, thorough=True) == ""
    again = push(hub, tmp_path, model, "bank/finance-7b")
    assert again.returncode == 0
    assert [name for name, _ in hub.commits] == ["bank/finance-7b"] * 2
    assert 'from_pretrained("bank/finance-7b")' in (there / "README.md").read_text("utf-8")


def test_only_what_loading_needs_is_published(run, hub, tmp_path):
    model = run / "dpo/artifact/model"
    (model / ".ipynb_checkpoints").mkdir()
    (model / ".ipynb_checkpoints/config.json").write_text("{}")
    (model / "notes.txt").write_text("secret")
    (model / "generation_config.json").unlink()
    (model / "generation_config.json").symlink_to("/etc/hostname")
    assert push(hub, tmp_path, model, "bank/x").returncode == 0
    there = tmp_path / "hub/models/bank/x"
    names = {path.name for path in there.rglob("*")}
    assert "model.safetensors" in names
    assert not names & {"notes.txt", ".ipynb_checkpoints", "generation_config.json", "serve.json"}
    # What an earlier model has left goes.
    (there / "model-00001-of-00002.safetensors").write_bytes(b"old")
    assert push(hub, tmp_path, model, "bank/x").returncode == 0
    assert not (there / "model-00001-of-00002.safetensors").exists()


def test_a_repository_that_everyone_sees_is_no_private_place(run, hub, tmp_path):
    (tmp_path / "hub/models/bank/open").mkdir(parents=True)
    done = push(hub, tmp_path, run / "dpo/artifact/model", "bank/open")
    assert done.returncode == 2
    assert "everyone can see it" in done.stderr
    assert not hub.commits


def test_a_card_names_no_place_of_its_authors(run):
    change(
        run,
        base="/home/alice/models/secret",
        parameters={
            "base": "/home/alice/models/secret",
            "judge": "qwen@http://10.1.2.3:8000/v1#BANK_KEY",
            "beta": 0.1,
        },
    )
    card = model_card.complete(run / "dpo/artifact/model")
    assert "alice" not in card
    assert "10.1.2.3" not in card
    assert "base_model" not in card
    assert "| beta | 0.1 |" in card


def test_a_quantised_model_says_what_rounding_has_cost(run):
    change(run, step="dpo")
    lost = {"n": 400, "difference": -0.02, "ci_low": -0.04, "ci_high": 0.0}
    figures = {"bytes": 1000, "accuracy": 0.55}
    metrics = {"model": figures, "paired": {"model": lost}}
    files.write_json(run / "dpo/metrics.json", metrics)
    card = model_card.complete(run / "dpo/artifact/model")
    assert "On 400 exam questions its accuracy is 0.550, -0.020 [-0.040, +0.000]" in card
    (run / "dpo/metrics.json").write_text("{broken")
    with pytest.raises(ValueError, match="metrics.json is damaged"):
        model_card.complete(run / "dpo/artifact/model")


def test_a_licence_that_forbids_use_is_no_public_model(run, hub, tmp_path):
    change(run, licences={"yayi_zh": "cc-by-nc-4.0"})
    model = run / "dpo/artifact/model"
    done = push(hub, tmp_path, model, "bank/x", "--public")
    assert done.returncode == 2
    assert "it was trained on yayi_zh, whose licence is cc-by-nc-4.0" in done.stderr
    assert not hub.commits
    assert push(hub, tmp_path, model, "bank/x").returncode == 0
    assert (
        push(hub, tmp_path, model, "bank/y", "--public", "--commercial-use-checked").returncode == 0
    )
    assert hub.private == {"bank/x": True, "bank/y": False}
    card = (tmp_path / "hub/models/bank/y/README.md").read_text(encoding="utf-8")
    assert "license: cc-by-nc-4.0" in card


def test_a_push_that_cannot_be_says_why_and_shows_no_token(run, hub, tmp_path):
    model = run / "dpo/artifact/model"
    done = push(hub, tmp_path, model, "bank/x", token="hf_wrong_one")
    assert done.returncode == 2
    assert "set HF_TOKEN to a token that may write" in done.stderr
    assert "hf_wrong_one" not in done.stdout + done.stderr
    done = push(hub, tmp_path, model, "no-owner")
    assert "'no-owner' is not a repository: write owner/name" in done.stderr
    done = push(hub, tmp_path, run, "bank/x")
    assert "holds neither a model nor an adapter" in done.stderr
    (run / "dpo/manifest.json").unlink()
    done = push(hub, tmp_path, model, "bank/x")
    assert "step dpo of" in done.stderr and "is not finished" in done.stderr
    assert done.returncode == 2
    printed = push(hub, tmp_path, model, "--print")
    assert printed.returncode == 2
