"""Mixtures and packing: token shares on two axes, refusal of what cannot be met, no token lost."""

import random

import pytest

from finlab import mixture


def world(seed=0):
    rng = random.Random(seed)
    return [{"domain": domain, "language": language, "tokens": rng.randint(20, 200)} for domain, language in mixture.CELLS for _ in range(400)]


def test_shares_are_met_within_half_a_point():
    plan = mixture.phases(400_000, [0.9, 0.8], 0.75)
    order, realised = mixture.draw(world(), plan, seed=1)
    assert len(order) == 2
    for phase, general in zip(realised, [0.9, 0.8]):
        assert abs(phase["realised"]["zh_general"] + phase["realised"]["en_general"] - general) < 0.005
        assert abs(phase["realised"]["zh_general"] + phase["realised"]["zh_finance"] - 0.75) < 0.005
    assert order == mixture.draw(world(), plan, seed=1)[0] and order != mixture.draw(world(), plan, seed=2)[0]


def test_each_document_is_read_once_before_any_is_read_twice():
    documents = [document | {"tokens": 100} for document in world()]
    order, realised = mixture.draw(documents, mixture.phases(80_000, [0.5], 0.5), seed=1)
    assert len(set(order[0])) == len(order[0])
    assert all(epochs <= 1 for epochs in realised[0]["epochs"].values())


def test_infeasible_targets_are_explained():
    finance = [document for document in world() if document["domain"] == "finance"]
    with pytest.raises(ValueError, match="tokens of zh_general, but no source holds any"):
        mixture.draw(finance, mixture.phases(1000, [0.5], 0.5), seed=1)
    with pytest.raises(ValueError, match="at most 2 epochs are allowed"):
        mixture.draw(world(), mixture.phases(10_000_000, [0.5], 0.5), seed=1, most_epochs=2)
    with pytest.raises(ValueError, match="between 0 and 1, not 1.5"):
        mixture.phases(1000, [1.5], 0.5)


def test_packing_keeps_every_token_and_fills_rows():
    rng = random.Random(0)
    sequences = [[rng.randint(3, 99) for _ in range(min(2000, int(rng.lognormvariate(4, 1)) + 1))] for _ in range(3000)]
    rows = mixture.pack(sequences, 512)
    assert sorted(token for row in rows for token in row["input_ids"]) == sorted(token for ids in sequences for token in ids)
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) <= 512 for row in rows)
    assert mixture.fill(rows, 512) > 0.995
    whole = {tuple(ids) for ids in sequences if len(ids) <= 512}
    found = {tuple(row["input_ids"][start:start + size]) for row in rows for start, size in __import__("finlab.training", fromlist=["x"])._spans(row)}
    assert whole <= found, "a document that fits must stay whole"


def test_packing_carries_labels():
    rows = mixture.pack([[1, 2, 3], [4, 5]], 5, [[-100, 2, 3], [-100, 5]])
    assert rows == [{"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "seq_lengths": [3, 2]}]
