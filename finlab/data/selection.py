"""Decide which dialogues and pairs are learnt, held out or left out, and why.

The status of each row is kept in an `accounts.Account`, by the row's index. The texts may be on
disk.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import daft
import numpy
import pyarrow

from finlab.data import contamination, contradiction, corpus, dedup, frames, personal
from finlab.data.accounts import HELD_OUT, KINDS, LEARNT, Account
from finlab.data.cards import Source

Row = dict[str, Any]
Place = tuple[str, int]  # (group, index in the group)
CONTAMINATED = "contaminated by an exam"
PAIR_PARTS = ("prompt", "chosen", "rejected")
TEXTS = pyarrow.schema(
    {
        "number": pyarrow.int64(),
        "id": pyarrow.string(),
        "source": pyarrow.string(),
        "text": pyarrow.string(),
        "tokens_read": pyarrow.int64(),
        "dropped": pyarrow.string(),
    }
)
BATCH = 10_000  # how many texts are written at a time


# --- pairs ---------------------------------------------------------------------------------------
def pair_rows(source: Source, replaced: Counter) -> list[Row]:
    """Return the preference pairs of a card, with personal data replaced.

    Args:
        source: The loaded card.
        replaced: {kind: number of replacements}; the replacements here are added to it.

    Returns:
        Rows {id, prompt, chosen, rejected}; the last three are lists of messages.
    """
    rows = []
    for row in source.rows:
        pair = {"id": row["id"]}
        for part in PAIR_PARTS:
            pair[part] = personal.deidentify_messages(row[part], replaced)
        rows.append(pair)
    return rows


def pair_text(row: Row) -> str:
    """Return the text of all messages of a pair, for `screen`."""
    return "\n".join(turn["content"] for part in PAIR_PARTS for turn in row[part])


# --- copies and exam items -----------------------------------------------------------------------
def screen(
    groups: dict[str, Sequence[str]],
    items: list[dict],
    threshold: float = 0.85,
    folder: Path | None = None,
) -> tuple[dict[str, dict[int, str]], list[dict]]:
    """Search short texts for copies, near copies and exam items.

    If copies are in several groups, the copy in the last group is kept, because later stages have
    better checked data than earlier ones. Within a group, the longest copy is kept. Two texts are
    near copies only if their figures and directions agree, so the same question about two
    different years counts as two questions.

    Args:
        groups: {group: texts of its dialogues or pairs}; a group is, for example, a stage or a
            card.
        items: Exam items, as for `contamination.find_overlaps`; empty skips the search for them.
        threshold: Jaccard similarity, as for `dedup.duplicates`; 0 finds only exact copies.
        folder: Where temporary texts and signatures are written; None uses the system's temporary
            folder.

    Returns:
        ({group: {index: reason}} of the texts to leave out, the overlaps with exams).
    """
    with tempfile.TemporaryDirectory(dir=folder) as workspace:
        return _screened(groups, items, threshold, Path(workspace))


def _screened(
    groups: dict[str, Sequence[str]], items: list[dict], threshold: float, workspace: Path
) -> tuple[dict[str, dict[int, str]], list[dict]]:
    """Do what `screen` does, with `workspace` as the folder for temporary files."""
    # The last group is numbered first. Of exact copies the first is kept, which is then the copy
    # in the last group.
    ordered = {group: groups[group] for group in reversed(groups)}
    places = Numbering({group: len(texts) for group, texts in ordered.items()})
    frame = _frame(ordered, workspace / "texts")
    if threshold:
        reasons, clusters = dedup.duplicates(frame, threshold, workspace=workspace / "signatures")
    else:
        reasons, clusters = _exact_copies(ordered), []
    _keep_the_last_group(reasons, clusters, places, ordered)
    overlaps = []
    if items:
        overlaps = contamination.find_overlaps(corpus.mark(frame, reasons), items)
    for record in overlaps:
        if record["verdict"] == "contaminated":
            reasons[record["number"]] = CONTAMINATED
    found: dict[str, dict[int, str]] = {group: {} for group in groups}
    for number, reason in reasons.items():
        group, place = places[number]
        found[group][place] = reason
    return found, overlaps


class Numbering:
    """Maps the number of a text to (group, index in the group).

    Args:
        sizes: {group: how many texts it has}, in the order of the numbers.
    """

    def __init__(self, sizes: dict[str, int]):
        self.groups = list(sizes)
        self.firsts = numpy.cumsum([0, *sizes.values()])

    def __getitem__(self, number: int) -> Place:
        rank = int(numpy.searchsorted(self.firsts, number, "right")) - 1
        return self.groups[rank], int(number - self.firsts[rank])


def _frame(groups: dict[str, Sequence[str]], folder: Path) -> daft.DataFrame:
    """Write the texts of groups as documents, for `dedup`, and return them as a frame."""
    folder.mkdir()
    with frames.Parts(folder, "texts") as parts:
        for batch in _documents(groups):
            parts.write(pyarrow.Table.from_pylist(batch, schema=TEXTS))
    return frames.open_folder(folder)


def _documents(groups: dict[str, Sequence[str]]) -> Iterator[list[dict]]:
    """Yield the texts of groups in batches, as rows with the schema TEXTS."""
    number = 0
    for group, texts in groups.items():
        place = 0
        for batch in frames.batches(texts, frames.READ_BATCH, max_rows=BATCH):
            rows = []
            for text in batch:
                row = {"number": number, "id": f"{group}/{place}", "source": group, "text": text}
                rows.append({**row, "tokens_read": len(text), "dropped": ""})
                number, place = number + 1, place + 1
            yield rows


def _exact_copies(groups: dict[str, Sequence[str]]) -> dict[int, str]:
    """Return {number: reason} of the texts that are equal to an earlier text."""
    seen: set[int] = set()
    reasons = {}
    texts = (text for group in groups.values() for text in group)
    for number, text in enumerate(texts):
        own = dedup.document_hash(text)
        if own in seen:
            reasons[number] = "exact duplicate"
        seen.add(own)
    return reasons


def _keep_the_last_group(
    reasons: dict[int, str],
    clusters: list[list[int]],
    places: Numbering,
    groups: dict[str, Sequence[str]],
) -> None:
    """Keep the document of the last group in each cluster, instead of the longest one.

    A member that agreed with the longest document may contradict the document that is kept now.
    Then this member is kept too.

    Args:
        reasons: {number: why the document is left out}; changed in place.
        clusters: Numbers of the copies in each cluster, the longest document first.
        places: Gives the group and index of each number.
        groups: {group: texts}, in the order of their numbers: the last group comes first.
    """

    def text(number: int) -> str:
        group, place = places[number]
        return groups[group][place]

    order = {group: rank for rank, group in enumerate(groups)}
    for members in clusters:

        def rank(number: int, members: list[int] = members) -> tuple[int, int]:
            return order[places[number][0]], members.index(number)

        kept = min(members, key=rank)
        if kept == members[0]:
            continue
        reasons[members[0]] = reasons.pop(kept)
        for number in members:
            if number != kept and contradiction.contradicts(text(kept), text(number)):
                del reasons[number]


# --- admitting pairs -----------------------------------------------------------------------------
def admit_pairs(encoded: list[dict], screened: dict[int, str], max_length: int) -> Account:
    """Return the account of preference pairs; a pair that is too long is left out, not cut.

    Args:
        encoded: The pairs from `templates.encode_pairs`.
        screened: {index: reason} of the pairs to leave out, from `screen`.
        max_length: How many tokens a prompt and one answer may have together.
    """
    prompts = numpy.array([len(pair["prompt_ids"]) for pair in encoded], numpy.int64)
    chosen = numpy.array([len(pair["chosen_ids"]) for pair in encoded], numpy.int64)
    rejected = numpy.array([len(pair["rejected_ids"]) for pair in encoded], numpy.int64)
    account = Account(prompts + chosen + rejected)
    for place, reason in screened.items():
        account.mark([place], reason)
    for place, pair in enumerate(encoded):
        if pair["refused"]:
            account.mark([place], pair["refused"])
    account.mark(numpy.flatnonzero(prompts >= max_length), "prompt longer than max_length")
    whole = prompts + numpy.maximum(chosen, rejected)
    account.mark(numpy.flatnonzero(whole > max_length), "answer longer than max_length")
    return account


# --- choosing ------------------------------------------------------------------------------------
def subsample_by_share(
    kinds: Sequence[str] | numpy.ndarray, shares: dict[str, float], seed: int
) -> numpy.ndarray:
    """Choose as many rows as possible so that their kinds have the given shares.

    The shares of XuanYuan's second stage are {"general": 0.8, "finance": 0.2}. Rows of a kind
    without a share are left out.

    Args:
        kinds: Kind of each row.
        shares: {kind: share}; the shares need not sum to one.
        seed: Seed of the random choice.

    Returns:
        Indices of the chosen rows, in order.

    Raises:
        ValueError: A kind with a share has no rows, or no kind has a share.
    """
    kinds = numpy.asarray(kinds, object)
    supply = Counter(kinds.tolist())
    total_share = sum(shares.values())
    wanted = {kind: share / total_share for kind, share in shares.items() if share > 0}
    for kind, share in wanted.items():
        if not supply[kind]:
            raise ValueError(
                f"a share of {share:.0%} {kind} is asked for, but the cards hold "
                f"{dict(supply) or 'nothing'}: add a card, or take the share out"
            )
    if not wanted:
        raise ValueError("no row is left to choose from: see the reasons in the ledger")
    total = min(supply[kind] / share for kind, share in wanted.items())
    rng = random.Random(seed)
    chosen = []
    for kind, share in wanted.items():
        places = numpy.flatnonzero(kinds == kind)
        count = min(len(places), max(1, round(total * share)))
        chosen.append(places[rng.sample(range(len(places)), count)])
    return numpy.sort(numpy.concatenate(chosen))


def stage_shares(
    account: Account, general_share: float = 0.0, safety_share: float = 0.0
) -> dict[str, float]:
    """Return the shares of a stage's kinds, for `limit_to_shares`.

    Args:
        account: The rows of the stage, each with a kind: general, finance or safety.
        general_share: Share of general rows among general and finance rows; 0 uses the shares that
            the rows have.
        safety_share: Share of safety rows among all rows; 0 leaves safety rows out.

    Returns:
        {kind: share}.
    """
    counts = numpy.bincount(account.kinds[account.still_in()], minlength=len(KINDS)).tolist()
    kinds = {kind: count for kind, count in zip(KINDS, counts, strict=True) if count}
    kinds.pop("safety", None)
    shares = {kind: count / sum(kinds.values()) for kind, count in kinds.items()}
    if general_share:
        shares = {"general": general_share, "finance": 1 - general_share}
    # General and finance share what is left after the safety share.
    others = 1 - safety_share
    shares = {kind: share * others for kind, share in shares.items()}
    if safety_share:
        shares["safety"] = 1 - others
    return shares


def limit_to_shares(
    account: Account, shares: dict[str, float], seed: int, max_rows: int = 0
) -> None:
    """Mark rows as left out so that the others have the given shares of kinds.

    Args:
        account: Rows with a kind; rows that already have a status do not count.
        shares, seed: As for `subsample_by_share`.
        max_rows: How many rows may be kept at most; 0 for no limit.
    """
    places = account.still_in()
    kinds = numpy.array(KINDS, object)[account.kinds[places]]
    chosen = places[subsample_by_share(kinds, shares, seed)]
    account.mark(numpy.setdiff1d(places, _some(chosen, max_rows, seed)), "over its share")


def limit_rows(accounts: Sequence[Account], max_rows: int, seed: int, status: str) -> None:
    """Keep at most `max_rows` rows of several accounts, and mark the others with a status.

    Args:
        accounts: Accounts of all cards; their rows are counted together.
        max_rows: How many rows to keep, chosen at random; 0 keeps all.
        seed: Seed of the random choice.
        status: Status of the rows that are not kept.
    """
    places = [account.still_in() for account in accounts]
    firsts = numpy.cumsum([0, *map(len, places)])
    kept = _some(numpy.arange(firsts[-1]), max_rows, seed)
    for account, own, first in zip(accounts, places, firsts, strict=False):
        inside = kept[(kept >= first) & (kept < first + len(own))] - first
        account.mark(numpy.setdiff1d(own, own[inside]), status)


def _some(candidates: numpy.ndarray, max_rows: int, seed: int) -> numpy.ndarray:
    """Return at most `max_rows` random candidates; with `max_rows` 0, return all of them."""
    if not max_rows or max_rows >= len(candidates):
        return candidates
    return candidates[random.Random(seed).sample(range(len(candidates)), max_rows)]


def epochs_of(count: int, epochs: int, seed: int) -> list[int]:
    """Return the order in which rows are learnt over several epochs, shuffled in each epoch.

    The whole order is drawn before training. A trainer that shuffles again in every epoch (TRL's
    RepeatSampler) cannot restore its order when it resumes within a later epoch.

    Args:
        count: Number of rows.
        epochs: How many times each row is learnt.
        seed: Seed of the shuffling.

    Returns:
        Indices of the rows, `count * epochs` of them.
    """
    order: list[int] = []
    for epoch in range(epochs):
        rng = numpy.random.default_rng([seed, epoch])
        order += rng.permutation(count).tolist()
    return order


def split(account: Account, share: float, texts: Iterable[str]) -> None:
    """Mark the rows without a status as learnt or held out, by the hash of their text.

    Args:
        account: The account of the rows.
        share: The share to hold out, from 0 to 1.
        texts: Text of each row without a status, in order. Rows with the same text get the same
            status.
    """
    places = account.still_in()
    out = [dedup.is_held_out(text, share) for text in texts]
    account.mark(places[numpy.array(out, bool)], HELD_OUT)
    account.mark(places, LEARNT)


def prompt_text(row: Row) -> str:
    """Return the last question of a pair, the text by which `split` decides.

    So all pairs with the same question are learnt, or all are held out.
    """
    return row["prompt"][-1]["content"]
