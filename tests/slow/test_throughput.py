"""Notebook 09 at its smallest: it measures what it must, under the agreed names."""

from finlab.train import shapes
from tests.conftest import finlab_run, metrics, settings

SMALLEST = {
    "throughput.train_tokens": "3000",
    "throughput.row_length": "512",
    "throughput.lengths": "[256, 512]",
}
NAMES = {"tokens_per_second", "mfu", "hfu", "peak_bytes"}


def test_the_ladder_the_profile_and_the_plan(tmp_path):
    finlab_run("throughput", "--run-dir", tmp_path / "run", *settings(SMALLEST))
    found = metrics(tmp_path / "run", "throughput")
    assert found["gemm_ceiling_tflops"] > 0
    assert found["headline"]
    assert len(found["ladder"]) == 3
    assert len(found["by_length"]) == 2
    for row in [*found["ladder"], *found["by_length"]]:
        assert set(row) >= NAMES
        assert row["tokens_per_second"] > 0
    shares = [row["share"] for row in found["time_by_kind"]]
    assert abs(sum(shares) - 1) < 0.01
    assert found["plan"]["hours"] > 0
    assert shapes.gpu(found["plan"]["gpu"])
