"""Mixtures: token targets on two axes (general:finance, zh:en) by phase, the documents that meet them, and packing.

    phases = mixture.phases(tokens=300_000, general_shares=[0.9, 0.8], zh_shares=[0.75], ramp=4)
    order, realised = mixture.draw(documents, phases, seed=17)
    plan = mixture.pack(sizes, length=512)                 # which document goes into which row: sizes only, so it is quick
    rows = mixture.write(folder / "rows.arrow", plan, tokens)  # a datasets.Dataset on disk
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

CELLS = [(domain, language) for domain in ("general", "finance") for language in ("zh", "en")]


def label(cell: tuple[str, str]) -> str:
    """Return a cell's name, such as `zh_finance`."""
    return f"{cell[1]}_{cell[0]}"


def phases(tokens: int, general_shares: list[float], zh_shares: list[float], ramp: int = 0) -> list[dict]:
    """Return equal phases {tokens, shares: {cell name: share}}, one per share given; a single share holds for all phases.

    With `ramp` the shares are the corners of a line, cut into so many phases. XuanYuan-70B: general_shares 0.9 to 0.8 (9:1 to 4:1),
    zh_shares 0.75; ZhiLu-13B: 2/3 and 2/3. Raises ValueError for a share outside 0..1 and for axes of different lengths.
    """
    for share in [*general_shares, *zh_shares]:
        if not 0 <= share <= 1:
            raise ValueError(f"a share must lie between 0 and 1, not {share}")
    count = ramp or max(len(general_shares), len(zh_shares))
    if not ramp and {len(general_shares), len(zh_shares)} - {1, count}:
        raise ValueError(f"there are {len(general_shares)} general shares and {len(zh_shares)} Chinese shares: give one per phase, or one for all")
    result = []
    for number in range(count):
        general, zh = (_at(shares, number, count, bool(ramp)) for shares in (general_shares, zh_shares))
        by = {"general": general, "finance": 1 - general, "zh": zh, "en": 1 - zh}
        result.append({"tokens": tokens // count, "shares": {label((domain, language)): by[domain] * by[language] for domain, language in CELLS}})
    return result


def _at(shares: list[float], number: int, count: int, ramp: bool) -> float:
    if len(shares) == 1 or not ramp:
        return shares[min(number, len(shares) - 1)]
    place = (number + 0.5) / count * (len(shares) - 1)  # the middle of the phase
    left = min(int(place), len(shares) - 2)
    return shares[left] + (place - left) * (shares[left + 1] - shares[left])


def by_weight(tokens: int, weights: dict[str, float], cells: dict[str, str]) -> list[dict]:
    """Return one phase whose cells have the shares that a table of sources gives them, as Golden-GPT's 27 sources in billions of tokens.

    `cells` {source: cell name} tells where each source belongs. Raises ValueError for a source that is not there.
    """
    _known(weights, cells)
    shares = Counter({label(cell): 0.0 for cell in CELLS})
    for source, weight in weights.items():
        shares[cells[source]] += weight / sum(weights.values())
    return [{"tokens": tokens, "shares": dict(shares)}]


def _by_cell(amounts: dict[str, float], cells: dict[str, str]) -> Counter:
    """Return amounts by source as sums by cell."""
    sums = Counter()
    for source, amount in amounts.items():
        sums[cells[source]] += amount
    return sums


def _known(named: Iterable[str], sources: Iterable[str]) -> None:
    for source in sorted(set(named) - set(sources)):
        raise ValueError(f"the mixture names source '{source}', which is not in the corpus: it holds {', '.join(sorted(sources))}")


def _targets(plan: list[dict], supply: Counter, cells: dict[str, str], weights: dict[str, float], caps: dict[str, float],
             first: Iterable[str]) -> list[Counter]:
    """Return the tokens wanted of each source in each phase.

    A cell's tokens are shared by weight; a source at its cap passes the rest on to the others of its
    cell; sources in `first` are used up before the others begin. Raises ValueError, with what would be feasible, for too little supply.
    """
    wanted = Counter()
    for phase in plan:
        wanted.update({cell: share * phase["tokens"] for cell, share in phase["shares"].items()})
    members = {cell: [source for source in supply if cells[source] == cell and weights[source]] for cell in wanted}
    _check_supply(plan, wanted, {cell: sum(caps[source] for source in found) for cell, found in members.items()}, supply, cells)
    whole = Counter()
    for cell, found in members.items():
        left, free = wanted[cell], found
        while free:
            total = sum(weights[source] for source in free)
            parts = {source: left * weights[source] / total for source in free}
            full = [source for source in free if parts[source] > caps[source]]
            whole.update({source: caps[source] for source in full} if full else parts)
            left -= sum(caps[source] for source in full)
            free = [source for source in free if full and source not in full]
    result, used = [], Counter()
    for phase in plan:
        targets = Counter()
        for cell, share in phase["shares"].items():
            room = share * phase["tokens"]
            early = [source for source in members[cell] if source in set(first)]
            for group in (early, [source for source in members[cell] if source not in early]) if early else (members[cell],):
                rest = {source: whole[source] - used[source] for source in group}
                part = min(room, sum(rest.values()))
                targets.update({source: part * amount / (sum(rest.values()) or 1) for source, amount in rest.items()})
                room -= part
        used += targets
        result.append(targets)
    return result


def _check_supply(plan: list[dict], wanted: Counter, most: dict[str, float], supply: Counter, cells: dict[str, str]) -> None:
    total, held = sum(phase["tokens"] for phase in plan), _by_cell(supply, cells)
    for cell, amount in wanted.items():
        there = held[cell]
        if amount and not there:
            raise ValueError(f"the mixture asks for {amount:,.0f} tokens of {cell}, but no source holds any: add a card or set its share to 0")
        if amount > most[cell] * (1 + 1e-9):
            feasible = total * min(most[name] / part for name, part in wanted.items() if part)
            raise ValueError(f"the mixture asks for {amount:,.0f} tokens of {cell}; {there:,} are there, {most[cell]:,.0f} within the epochs allowed: "
                             f"lower tokens to {feasible:,.0f}, allow {amount / there:.1f} epochs, or add {amount - most[cell]:,.0f} tokens of {cell}")


def draw(documents: list[dict], plan: list[dict], seed: int, most_epochs: float = 0, weights: dict[str, float] | None = None,
         source_epochs: dict[str, float] | None = None, knowledge: Iterable[str] = (), tolerance: float = 0.005) -> tuple[list[list[int]], list[dict]]:
    """Draw documents {source, domain, language, tokens} for each phase; return (document numbers in order by phase, one record per phase).

    Each source is read in its own shuffled order, going on where the last phase stopped and shuffled anew when it is used up, so the
    seed alone fixes the order and a run can go on at any place in it. `most_epochs` (0: no limit) and `source_epochs` {source: epochs}
    cap repetition, `weights` {source: weight} share a cell among its sources (none given: by their tokens), `knowledge` names the sources to read first.
    A record is {tokens, requested, realised, epochs, sources}: token shares by cell, and by source the tokens of the phase and how
    often the source has been read so far. Raises ValueError for what the supply cannot meet, and when a cell misses its share by more
    than `tolerance` because documents are too long for the phase.
    """
    numbers, cells = defaultdict(list), {}
    for number, document in enumerate(documents):
        numbers[document["source"]].append(number)
        cells[document["source"]] = label((document["domain"], document["language"]))
    supply = Counter({source: sum(documents[number]["tokens"] for number in found) for source, found in numbers.items()})
    limits = {source: (source_epochs or {}).get(source, most_epochs) or float("inf") for source in supply}
    _known([*(weights or ()), *(source_epochs or ())], supply)  # a knowledge source may have lost all its text
    shared = {source: (weights or supply).get(source, 0.0) for source in supply}
    targets = _targets(plan, supply, cells, shared, {source: limits[source] * supply[source] for source in supply}, knowledge)
    rng, queues, used, due = random.Random(seed), defaultdict(list), Counter(), Counter()
    orders, records = [], []
    for number, (phase, wanted) in enumerate(zip(plan, targets, strict=True), 1):
        chosen, spent = [], Counter()
        for source in sorted(wanted):
            due[source] += wanted[source]
            taken = _take(documents, numbers[source], queues[source], due[source] - used[source], rng)
            amount = sum(documents[document]["tokens"] for document in taken)
            chosen += taken
            used[source] += amount
            spent[source] += amount
        rng.shuffle(chosen)
        orders.append(chosen)
        total = sum(spent.values()) or 1
        drawn, read, held = (_by_cell(amounts, cells) for amounts in (spent, used, supply))
        realised = {cell: drawn[cell] / total for cell in phase["shares"]}
        worst = max(realised, key=lambda cell: abs(realised[cell] - phase["shares"][cell]))
        if abs(realised[worst] - phase["shares"][worst]) > tolerance:
            longest = max(document["tokens"] for document in documents if cells[document["source"]] == worst)
            raise ValueError(f"phase {number} of {phase['tokens']:,} tokens cannot meet {phase['shares'][worst]:.1%} of {worst}: whole documents make "
                             f"{realised[worst]:.1%} (the longest has {longest:,} tokens); raise tokens or use fewer phases")
        records.append({"tokens": total, "requested": phase["shares"], "realised": realised,
                        "epochs": {cell: read[cell] / max(held[cell], 1) for cell in phase["shares"]},
                        "sources": {source: {"tokens": spent[source], "epochs": used[source] / max(supply[source], 1)} for source in sorted(supply)}})
    return orders, records


def _take(documents: list[dict], numbers: list[int], queue: list[int], budget: float, rng: random.Random, look: int = 200) -> list[int]:
    """Take documents from a source's queue (refilled in a new order when empty) that come as near to a budget of tokens as they can."""
    taken = []
    while budget > 0:
        if not queue:
            queue += rng.sample(numbers, len(numbers))
        size = documents[queue[-1]]["tokens"]
        if size > budget:  # the last of them: the one that fits best among the next
            place = min(range(max(0, len(queue) - look), len(queue)), key=lambda place: abs(budget - documents[queue[place]]["tokens"]))
            if abs(budget - documents[queue[place]]["tokens"]) >= budget:
                break
            queue.append(queue.pop(place))
            size = documents[queue[-1]]["tokens"]
        taken.append(queue.pop())
        budget -= size
    return taken


def thin(kinds: Sequence[str], shares: dict[str, float], seed: int) -> list[int]:
    """Return the places of the most rows whose kinds stand in the given shares, drawn by seed, in their order.

    XuanYuan's second stage is {"general": 0.8, "finance": 0.2}. Rows of a kind without a share are left out. Raises ValueError when a wanted kind
    is not there.
    """
    supply = Counter(kinds)
    wanted = {kind: share / sum(shares.values()) for kind, share in shares.items() if share > 0}
    if absent := [kind for kind in wanted if not supply[kind]]:
        raise ValueError(f"a share of {wanted[absent[0]]:.0%} {absent[0]} is asked for, but the cards hold {dict(supply) or 'nothing'}: add a card, "
                         "or take the share out")
    total = min(supply[kind] / share for kind, share in wanted.items())
    rng, chosen = random.Random(seed), []
    for kind, share in wanted.items():
        places = [place for place, each in enumerate(kinds) if each == kind]
        chosen += rng.sample(places, min(len(places), max(1, round(total * share))))
    return sorted(chosen)


def account(documents: list[dict], orders: list[list[int]]) -> list[dict]:
    """Return the ledger of a mixture, rows {source, reason, documents, tokens}: `read`, less `not drawn`, plus `read again`, is `drawn`."""
    times, rows = Counter(number for order in orders for number in order), defaultdict(lambda: defaultdict(Counter))
    for number, document in enumerate(documents):
        for reason, count in (("read", 1), ("not drawn", int(not times[number])), ("read again", min(0, 1 - times[number])), ("drawn", times[number])):
            rows[document["source"]][reason].update(documents=abs(count), tokens=count * document["tokens"])
    return [{"source": source, "reason": reason, **counts} for source, reasons in sorted(rows.items()) for reason, counts in reasons.items()]


Piece = tuple[int, int, int]  # a document's number, where the piece begins in it, how many tokens it has


def bins(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return groups of item numbers whose sizes sum to at most `length`: best fit decreasing, ties in order.

    Rooms are whole numbers, so the open groups with one room left are a stack, and the rooms that exist are the bits of one integer: the
    smallest room that fits is its lowest bit from the size on. Time is linear in items, times length / 64.
    """
    import numpy

    stacks: list[list[int]] = [[] for _ in range(length + 1)]
    rooms, groups = 0, []
    for item in numpy.argsort(-numpy.asarray(sizes, dtype=numpy.int64), kind="stable").tolist():
        size = int(sizes[item])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            group = stacks[room].pop()
            if not stacks[room]:
                rooms ^= 1 << room
            groups[group].append(item)
        else:
            room, group = length, len(groups)
            groups.append([item])
        if room > size:
            stacks[room - size].append(group)
            rooms |= 1 << (room - size)
    return groups


def pack(sizes: Sequence[int], length: int, seed: int = 0, buckets: Sequence[int] = (), step_rows: int = 1, begin: int = 0) -> list[list[Piece]]:
    """Pack documents of `sizes` tokens into rows of at most `length` by best fit decreasing over the whole set, then shuffle the rows.

    Documents stay whole where they fit; longer ones are cut into pieces of `length`, every token kept. A row is a list of pieces (document
    number, start, size), the longest first. Pack each phase of a schedule by itself. With `buckets` (XuanYuan2: 2048, 4096, 8192, 16384)
    each step of `step_rows` rows draws one bucket, which is the smallest that holds a row's longest document, so that all devices of a
    step do equal work; `begin` rows came before. Rows that fill no whole step of their bucket stand at the phase's ends.
    """
    pieces: list[Piece] = [(number, start, min(length, size - start)) for number, size in enumerate(sizes) for start in range(0, size, length)]
    rows, rng = [[pieces[item] for item in group] for group in bins([size for _, _, size in pieces], length)], random.Random(seed)
    rng.shuffle(rows)
    if not buckets:
        return rows
    steps, rest, kinds = [], [], defaultdict(list)
    for row in rows:
        kinds[bucket(row, buckets)].append(row)
    for kind in sorted(kinds):
        whole = len(kinds[kind]) - len(kinds[kind]) % step_rows
        steps += [kinds[kind][start:start + step_rows] for start in range(0, whole, step_rows)]
        rest += kinds[kind][whole:]
    rng.shuffle(steps)
    ordered = [row for step in steps for row in step]
    head = min(-begin % step_rows, len(rows))
    while len(rest) < head:
        rest.append(ordered.pop())
    return rest[:head] + ordered + rest[head:]


def bucket(row: list[Piece], buckets: Sequence[int]) -> int:
    """Return the smallest of `buckets` that holds a row's longest document, 0 where none does."""
    longest = max(size for _, _, size in row)
    return min((limit for limit in buckets if limit >= longest), default=0)


def fill(plan: list[list[Piece]], length: int) -> float:
    """Return the share of row places that hold tokens."""
    return sum(size for row in plan for _, _, size in row) / max(len(plan) * length, 1)


def write(path: Path, plan: list[list[Piece]], tokens: Sequence[Sequence[int]], labels: Sequence[Sequence[int]] | None = None,
          sources: Sequence[str] | None = None, buckets: Sequence[int] = (), names: Sequence[str] = ()) -> object:
    """Write packed rows to an Arrow file, a thousand at a time, and return it as a memory-mapped datasets.Dataset.

    `tokens` (and `labels`, by default the tokens) are indexed by document; a datasets column will do, so a corpus need not fit in memory.
    Rows are {input_ids, labels, seq_lengths}: documents are told apart by seq_lengths (position ids restart). `sources` names the
    source of each document: rows then carry it per piece, as class labels (of `names`, by default the sources), and training reports the loss
    of each. With `buckets` a row also carries the length of its bucket.
    """
    import numpy
    from datasets import ClassLabel, Features, List, Value

    features = {"input_ids": List(Value("int32")), "labels": List(Value("int32")), "seq_lengths": List(Value("int32"))}
    if sources is not None:
        features["sources"] = List(ClassLabel(names=list(names) or sorted(set(sources))))
        numbers = {name: number for number, name in enumerate(features["sources"].feature.names)}
    if buckets:
        features["bucket"] = Value("int32")
    features = Features(features)

    def cut(values: Sequence[Sequence[int]], row: list[Piece]) -> object:
        return numpy.concatenate([values[number][start:start + size] for number, start, size in row], dtype=numpy.int32, casting="unsafe")

    def batches() -> Iterator[dict]:
        for first in range(0, len(plan), 1000):
            part = plan[first:first + 1000]
            batch = {"input_ids": [cut(tokens, row) for row in part], "seq_lengths": [[size for _, _, size in row] for row in part]}
            batch["labels"] = [cut(labels, row) for row in part] if labels is not None else batch["input_ids"]
            if sources is not None:
                batch["sources"] = [[numbers[sources[number]] for number, _, _ in row] for row in part]
            if buckets:
                batch["bucket"] = [bucket(row, buckets) for row in part]
            yield batch

    return stream(path, features, batches())


def stream(path: Path, features: object, batches: Iterable[dict]) -> object:
    """Write batches {column: values} to an Arrow file as they come, and return it as a memory-mapped datasets.Dataset."""
    import pyarrow
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, features.arrow_schema) as sink:
        for batch in batches:
            sink.write_table(pyarrow.table(batch, schema=features.arrow_schema))
    return Dataset.from_file(str(path))


def packed(path: Path, tokens: Sequence[Sequence[int]], length: int, labels: Sequence[Sequence[int]] | None = None, seed: int = 0) -> object:
    """Pack token lists (see `pack`) and write the rows (see `write`): for sets that fit in memory."""
    return write(path, pack([len(ids) for ids in tokens], length, seed), tokens, labels)
