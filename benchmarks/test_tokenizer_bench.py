"""What training the new rows costs, compared with training no embeddings.

The proportions are those of a 7B.
"""

import pytest

from benchmarks import tokenizer_speed


@pytest.mark.bench
def test_new_rows_cost_at_most_three_percent(tmp_path):
    found = {
        kind: tokenizer_speed.measured("embeddings", tmp_path, kind)
        for kind in (*tokenizer_speed.WAYS, "speed")
    }
    print(found)
    assert found["speed"]["new_rows"]["slower_than_none"] <= 0.03
    assert (
        found["new_rows"]["adapter_bytes"] < 0.6 * found["full"]["adapter_bytes"]
        and found["new_rows"]["trainable"] < found["full"]["trainable"]
    )
