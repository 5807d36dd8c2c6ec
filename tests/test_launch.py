"""How a job of several processes is described, before any process starts."""

import json
import pickle

import pytest
import yaml
from trl import SFTConfig

from finlab import paths
from finlab.train import job_file, launch, rank


def test_the_configs_are_whole():
    for name in ("ddp", "fsdp2", "zero2", "zero3"):
        config = yaml.safe_load((paths.ACCELERATE_CONFIGS / f"{name}.yaml").read_text())
        if "deepspeed_config" in config:
            file = paths.ROOT / config["deepspeed_config"]["deepspeed_config_file"]
            found = json.loads(file.read_text())["zero_optimization"]
            assert found["stage"] == int(name[-1])
            assert config["deepspeed_config"]["zero3_init_flag"] is (name == "zero3")
            assert found.get("stage3_gather_16bit_weights_on_model_save", name == "zero2"), (
                "else one process could not load what was saved"
            )


def test_machines_that_cannot_find_each_other_are_told(monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "4")
    with pytest.raises(ValueError, match="4 machines need to find each other: export MASTER_ADDR"):
        launch.rendezvous(8)
    for name, value in {
        "SLURM_NODEID": "3",
        "MASTER_ADDR": "node-1",
        "MASTER_PORT": "29511",
    }.items():
        monkeypatch.setenv(name, value)
    assert launch.rendezvous(8) == [
        "--num_processes",
        "32",
        "--num_machines",
        "4",
        "--machine_rank",
        "3",
        "--main_process_ip",
        "node-1",
        "--main_process_port",
        "29511",
    ]
    monkeypatch.delenv("SLURM_NNODES")
    assert launch.rendezvous(3)[:4] == ["--num_processes", "3", "--num_machines", "1"]


def test_processes_that_train_apart_are_refused(monkeypatch):
    """Without gloo accelerate starts as many trainings as processes, each of its own.

    It says nothing of that.
    """
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="of 2 processes 1 see each other"):
        rank.require_all_processes(SFTConfig(report_to="none", bf16=False))


def test_a_job_that_somebody_else_wrote_is_not_read(tmp_path, monkeypatch):
    signature = job_file.write(tmp_path, {"trainer_class": None})
    monkeypatch.setenv(job_file.SIGNATURE, signature)
    assert job_file.read(tmp_path) == {"trainer_class": None}
    (tmp_path / job_file.NAME).write_bytes(pickle.dumps({"trainer_class": print}))
    with pytest.raises(ValueError, match="is not the job that this process was started for"):
        job_file.read(tmp_path)
