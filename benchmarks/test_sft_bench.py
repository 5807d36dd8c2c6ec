"""Compare packed with padded dialogues, and our preparation with TRL's: `make bench`."""

import pytest

from benchmarks import sft_speed


@pytest.mark.bench
def test_sft_speed():
    packed, padded = (sft_speed.measured("training", way) for way in ("packed", "padded"))
    assert (
        packed["tokens_per_second"] > 1.2 * padded["tokens_per_second"]
        and packed["tokens"] == padded["tokens"]
    )
    ours, trl = (sft_speed.measured("preparation", way) for way in ("ours", "trl"))
    assert ours["dialogues_per_second"] > trl["dialogues_per_second"]
