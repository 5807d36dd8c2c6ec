"""Mixtures and packing: token shares on two axes, ramps, weights, caps, refusal of what cannot be met, no token lost."""

import random

import pytest

from finlab import corpus, mixture, training


def world(seed=0, sources=1):
    rng = random.Random(seed)
    return [{"source": f"{domain}_{language}_{number}", "domain": domain, "language": language, "tokens": rng.randint(20, 200)}
            for domain, language in mixture.CELLS for number in range(sources) for _ in range(400)]


def test_shares_are_met_within_half_a_point_on_both_axes():
    plan = mixture.phases(400_000, [0.9, 0.8], [0.75])
    order, realised = mixture.draw(world(), plan, seed=1)
    assert len(order) == 2
    for phase, general in zip(realised, [0.9, 0.8]):
        assert abs(phase["realised"]["zh_general"] + phase["realised"]["en_general"] - general) < 0.005
        assert abs(phase["realised"]["zh_general"] + phase["realised"]["zh_finance"] - 0.75) < 0.005
    assert order == mixture.draw(world(), plan, seed=1)[0] and order != mixture.draw(world(), plan, seed=2)[0]


def test_a_ramp_is_a_line_from_corner_to_corner():
    plan = mixture.phases(1_000_000, [0.9, 0.8], [2 / 3, 0.5], ramp=10)
    general = [phase["shares"]["zh_general"] + phase["shares"]["en_general"] for phase in plan]
    assert general == pytest.approx([0.895 - 0.01 * number for number in range(10)])
    assert plan[0]["shares"]["zh_finance"] == pytest.approx(0.105 * (2 / 3 - 1 / 120))
    assert mixture.phases(90, [0.9, 0.5, 0.7], [1.0], ramp=4)[2]["shares"]["zh_general"] == pytest.approx(0.55)
    _, realised = mixture.draw(world(sources=3), plan, seed=1)
    assert all(abs(phase["realised"][cell] - phase["requested"][cell]) < 0.005 for phase in realised for cell in phase["requested"])


def test_each_document_is_read_once_before_any_is_read_twice():
    documents = [document | {"tokens": 100} for document in world()]
    order, realised = mixture.draw(documents, mixture.phases(80_000, [0.5], [0.5]), seed=1)
    assert len(set(order[0])) == len(order[0])
    assert all(epochs <= 1 for epochs in realised[0]["epochs"].values())
    order, realised = mixture.draw(documents, mixture.phases(200_000, [0.5, 0.4], [0.5]), seed=1)
    times = [sum(order, []).count(number) for number in range(400)]
    assert set(times) == {1} or set(times) <= {1, 2} and sum(times) == pytest.approx(450, abs=3)
    assert realised[1]["sources"]["general_zh_0"]["epochs"] == pytest.approx(sum(times) / 400)


def test_weights_share_a_cell_and_caps_pass_the_rest_on():
    documents = [document | {"tokens": 100} for document in world(sources=2)]
    plan = mixture.phases(100_000, [0.5], [0.5])
    weights = {source: 3.0 if source.endswith("0") else 1.0 for source in {document["source"] for document in documents}}
    _, realised = mixture.draw(documents, plan, seed=1, weights=weights)
    assert realised[0]["sources"]["finance_zh_0"]["tokens"] == pytest.approx(18_750, abs=100)
    _, realised = mixture.draw(documents, plan, seed=1, weights=weights, source_epochs={"finance_zh_0": 0.25})
    assert realised[0]["sources"]["finance_zh_0"]["tokens"] == 10_000 and realised[0]["sources"]["finance_zh_1"]["tokens"] == 15_000
    with pytest.raises(ValueError, match="the mixture names source 'finance_xx'"):
        mixture.draw(documents, plan, seed=1, weights={"finance_xx": 1.0})
    cells = {document["source"]: mixture.label((document["domain"], document["language"])) for document in documents}
    golden = mixture.by_weight(1000, {"finance_zh_0": 94, "finance_en_0": 33, "general_zh_0": 70}, cells)
    with pytest.raises(ValueError, match="the mixture names source 'absent'"):
        mixture.by_weight(1000, {"absent": 9}, cells)
    assert golden[0]["shares"] == pytest.approx({"zh_finance": 94 / 197, "en_finance": 33 / 197, "zh_general": 70 / 197, "en_general": 0})


def test_knowledge_is_read_first():
    documents = [document | {"tokens": 100} for document in world(sources=2)]
    _, realised = mixture.draw(documents, mixture.phases(240_000, [0.5, 0.5, 0.5, 0.5], [0.5]), seed=1, knowledge=["general_zh_1"])
    read = [phase["sources"]["general_zh_1"]["tokens"] for phase in realised]
    assert read == [15_000, 15_000, 0, 0], "the knowledge source is used up before the broad one begins"
    assert [phase["sources"]["general_zh_0"]["tokens"] for phase in realised] == [0, 0, 15_000, 15_000]


def test_infeasible_targets_are_explained():
    finance = [document for document in world() if document["domain"] == "finance"]
    with pytest.raises(ValueError, match="tokens of zh_general, but no source holds any"):
        mixture.draw(finance, mixture.phases(1000, [0.5], [0.5]), seed=1)
    with pytest.raises(ValueError, match=r"lower tokens to ([\d,]+), allow 5\d\.\d epochs, or add") as caught:
        mixture.draw(world(), mixture.phases(10_000_000, [0.5], [0.5]), seed=1, most_epochs=2)
    feasible = int(str(caught.value).split("lower tokens to ")[1].split(", allow")[0].replace(",", ""))
    mixture.draw(world(), mixture.phases(feasible, [0.5], [0.5]), seed=1, most_epochs=2)
    with pytest.raises(ValueError, match="between 0 and 1, not 1.5"):
        mixture.phases(1000, [1.5], [0.5])
    with pytest.raises(ValueError, match="2 general shares and 3 Chinese shares"):
        mixture.phases(1000, [0.5, 0.6], [0.5, 0.4, 0.3])
    with pytest.raises(ValueError, match="phase 1 of 1,000 tokens cannot meet 25.0% of"):
        mixture.draw([document | {"tokens": 900} for document in world()], mixture.phases(1000, [0.5], [0.5]), seed=1)


def test_the_account_of_a_mixture_closes():
    documents = world(sources=2)
    order, realised = mixture.draw(documents, mixture.phases(300_000, [0.8], [0.3]), seed=1)
    rows = mixture.account(documents, order)
    assert corpus.residual(rows) == 0 and sum(row["tokens"] for row in rows if row["reason"] == "drawn") == realised[0]["tokens"]
    assert any(row["tokens"] < 0 for row in rows if row["reason"] == "read again") and any(row["tokens"] for row in rows if row["reason"] == "not drawn")


def test_packing_keeps_every_token_and_fills_rows():
    rng = random.Random(0)
    sequences = [[rng.randint(3, 99) for _ in range(min(2000, int(rng.lognormvariate(4, 1)) + 1))] for _ in range(3000)]
    rows = mixture.pack(sequences, 512)
    assert sorted(token for row in rows for token in row["input_ids"]) == sorted(token for ids in sequences for token in ids)
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) <= 512 for row in rows)
    assert mixture.fill(rows, 512) > 0.995
    whole = {tuple(ids) for ids in sequences if len(ids) <= 512}
    found = {tuple(row["input_ids"][start:start + size]) for row in rows for start, size in training._spans(row)}
    assert whole <= found, "a document that fits must stay whole"


def test_packing_carries_labels():
    rows = mixture.pack([[1, 2, 3], [4, 5]], 5, [[-100, 2, 3], [-100, 5]])
    assert rows == [{"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "seq_lengths": [3, 2]}]
