"""Exams with PrefixLM, compared with the harness's HFLM: `make bench`."""

import pytest

from benchmarks import exam_speed


@pytest.mark.bench
def test_exam_speed(data):
    found = exam_speed.measure(("college_actuarial_science",), most=40)
    assert (
        found["questions"] == 40 == found["predictions_equal"]
        and len(found["letters_chosen"]) > 1
        and found["largest_difference"] < 1e-3
    )
    assert (
        found["ratio"] > 2 and found["ours"]["tokens_encoded"] < 0.4 * found["hflm"]["tokens_sent"]
    )
