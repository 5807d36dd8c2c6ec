"""The corpus step compared with datatrove on the same input, at a size that takes a minute."""

import pytest

from benchmarks import corpus_speed


@pytest.mark.bench
def test_corpus_step_is_fast_and_keeps_what_datatrove_keeps(data, tmp_path):
    pytest.importorskip("datatrove", reason="datatrove comes with the bench extra")
    found = corpus_speed.compare(150, tmp_path)
    print(found)
    assert found["duplicates_against_datatrove"] >= 2
    # Ours also looks for contradictions, with a model of names.
    assert found["whole_against_datatrove"] >= 0.25
    assert found["kept_difference"] <= 0.005
    assert found["whole"]["residual"] == 0
    assert found["whole"]["peak_bytes"]["with mapped files"] < 2e9
