"""Our training step, compared with a bare loop and with padded batches.

Also how its time grows with the number of tokens.
"""

import pytest

from benchmarks import training_speed


@pytest.mark.bench
def test_training_speed():
    found = training_speed.cpu()
    print(found)
    assert found["ours_against_bare"] <= 0.10 and found["ours_against_padded"] >= 2
    rates = [size["tokens"] / size["seconds"] for size in found["sizes"]]
    assert max(rates) < 1.5 * min(rates), "time must be linear in tokens"
