"""Mixtures: token targets on two axes (general:finance, zh:en) by phase, the documents that meet them, and packing.

    phases = mixture.phases(tokens=300_000, general_shares=[0.5, 0.3], zh_share=0.6)
    order, realised = mixture.draw(documents, phases, seed=17)
    rows = mixture.pack([ids for each document in order], length=512)
"""

from __future__ import annotations

import bisect
import random
from collections import Counter, defaultdict

CELLS = [(domain, language) for domain in ("general", "finance") for language in ("zh", "en")]


def label(cell: tuple[str, str]) -> str:
    """Return a cell's name, such as `zh_finance`."""
    return f"{cell[1]}_{cell[0]}"


def phases(tokens: int, general_shares: list[float], zh_share: float) -> list[dict]:
    """Return equal phases, one per general share, each {tokens, shares: {cell name: share}}.

    XuanYuan-70B: general_shares 0.9 falling to 0.8 (9:1 to 4:1), zh_share 0.75; ZhiLu-13B: 2/3 and 2/3.
    Raises ValueError for a share outside 0..1.
    """
    for share in [*general_shares, zh_share]:
        if not 0 <= share <= 1:
            raise ValueError(f"a share must lie between 0 and 1, not {share}")
    result = []
    for general in general_shares:
        by_domain = {"general": general, "finance": 1 - general}
        by_language = {"zh": zh_share, "en": 1 - zh_share}
        shares = {label((domain, language)): by_domain[domain] * by_language[language] for domain, language in CELLS}
        result.append({"tokens": tokens // len(general_shares), "shares": shares})
    return result


def draw(documents: list[dict], plan: list[dict], seed: int, most_epochs: float = 0) -> tuple[list[list[int]], list[dict]]:
    """Draw documents for each phase; return (document numbers in order by phase, one record per phase).

    Each cell is read in its own shuffled order, going on where the last phase stopped and shuffled anew when it is used up. A
    record is {tokens, requested, realised, epochs}: token shares by cell, and how often each cell has been read so far.
    Raises ValueError when a cell with a share has no documents, or would be read more than `most_epochs` times (0: no limit).
    """
    supply = defaultdict(list)
    for number, document in enumerate(documents):
        supply[label((document["domain"], document["language"]))].append(number)
    tokens = {cell: sum(documents[number]["tokens"] for number in numbers) for cell, numbers in supply.items()}
    wanted = Counter()
    for phase in plan:
        for cell, share in phase["shares"].items():
            wanted[cell] += share * phase["tokens"]
    for cell, amount in wanted.items():
        if amount and not supply[cell]:
            raise ValueError(f"the mixture asks for {amount:,.0f} tokens of {cell}, but no source holds any: add a card or set its share to 0")
        if most_epochs and amount > most_epochs * tokens.get(cell, 0):
            raise ValueError(f"the mixture asks for {amount:,.0f} tokens of {cell}; {tokens[cell]:,} are there and at most {most_epochs} epochs are allowed")
    rng, queues, used = random.Random(seed), {}, Counter()

    def take(cell: str) -> int:
        if not queues.get(cell):
            queues[cell] = rng.sample(supply[cell], len(supply[cell]))
        return queues[cell].pop()

    orders, records = [], []
    for phase in plan:
        chosen, spent = [], Counter()
        for cell, share in sorted(phase["shares"].items()):
            budget = share * phase["tokens"]
            while budget and spent[cell] < budget:
                number = take(cell)
                if spent[cell] + documents[number]["tokens"] / 2 > budget and chosen:
                    break
                chosen.append(number)
                spent[cell] += documents[number]["tokens"]
        rng.shuffle(chosen)
        used += spent
        total = sum(spent.values()) or 1
        orders.append(chosen)
        records.append({"tokens": total, "requested": phase["shares"], "realised": {cell: spent[cell] / total for cell in phase["shares"]},
                        "epochs": {cell: used[cell] / tokens[cell] for cell in used if tokens.get(cell)}})
    return orders, records


def pack(sequences: list[list[int]], length: int, labels: list[list[int]] | None = None, seed: int = 0) -> list[dict]:
    """Pack token sequences into rows of at most `length` by best fit decreasing over the whole set, then shuffle the rows.

    Documents stay whole where they fit; longer ones are cut into pieces of `length`, every token kept. Rows are {input_ids,
    labels, seq_lengths}; documents are told apart by seq_lengths (position ids restart). Pack each phase of a schedule by itself.
    """
    pieces = []
    for number, ids in enumerate(sequences):
        marks = labels[number] if labels else ids
        pieces += [(ids[start:start + length], marks[start:start + length]) for start in range(0, len(ids), length)]
    rooms: list[tuple[int, int]] = []  # (room left, row), sorted
    bins: list[list[tuple[list[int], list[int]]]] = []
    for ids, marks in sorted(pieces, key=lambda piece: -len(piece[0])):
        place = bisect.bisect_left(rooms, (len(ids), -1))
        if place < len(rooms):
            room, index = rooms.pop(place)
        else:
            room, index = length, len(bins)
            bins.append([])
        bins[index].append((ids, marks))
        if room > len(ids):
            bisect.insort(rooms, (room - len(ids), index))
    random.Random(seed).shuffle(bins)
    return [{"input_ids": [token for ids, _ in row for token in ids], "labels": [token for _, marks in row for token in marks],
             "seq_lengths": [len(ids) for ids, _ in row]} for row in bins]


def fill(rows: list[dict], length: int) -> float:
    """Return the share of row places that hold tokens."""
    return sum(len(row["input_ids"]) for row in rows) / max(len(rows) * length, 1)
