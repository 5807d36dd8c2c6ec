"""Which dialogues and pairs are learnt, which are held out, and why the rest is left.

What becomes of each row stands in its `accounts.Account`, by its place; the texts may lie on disk.
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
Place = tuple[str, int]  # (group, place in it)
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
BATCH = 10_000  # texts that are written at once


# --- pairs ---------------------------------------------------------------------------------------
def pair_rows(source: Source, replaced: Counter) -> list[Row]:
    """Return the preference pairs of a card, personal data replaced.

    The number of replacements by kind is added to `replaced`.

    Returns:
        Rows {id, prompt, chosen, rejected}, the last three of messages.
    """
    rows = []
    for row in source.rows:
        pair = {"id": row["id"]}
        for part in PAIR_PARTS:
            pair[part] = personal.deidentify_messages(row[part], replaced)
        rows.append(pair)
    return rows


def pair_text(row: Row) -> str:
    """Return all that is said in a pair, for `screen`."""
    return "\n".join(turn["content"] for part in PAIR_PARTS for turn in row[part])


# --- copies and exam items -----------------------------------------------------------------------
def screen(
    groups: dict[str, Sequence[str]],
    items: list[dict],
    threshold: float = 0.85,
    folder: Path | None = None,
) -> tuple[dict[str, dict[int, str]], list[dict]]:
    """Look through short texts for copies, near copies and exam items.

    Of copies in several groups the one in the last group stays, since a checked stage comes after a
    broad one; within a group the longest. Two texts are near copies only when their figures and
    directions agree, so the same question about two years is two.

    Args:
        groups: Texts of dialogues or pairs by group, such as a stage or a card.
        items: Exam items, as for `contamination.find_overlaps`.
        threshold: That of `dedup.duplicates`; 0 finds exact copies only.
        folder: Where texts and signatures lie meanwhile; None takes the system's folder for such.

    Returns:
        {group: {place: reason}} of the texts to leave out, and the overlaps with exams.
    """
    with tempfile.TemporaryDirectory(dir=folder) as workspace:
        return _screened(groups, items, threshold, Path(workspace))


def _screened(
    groups: dict[str, Sequence[str]], items: list[dict], threshold: float, workspace: Path
) -> tuple[dict[str, dict[int, str]], list[dict]]:
    """Do what `screen` does, with a folder for what lies on disk meanwhile."""
    # The last group is numbered first, so that of exact copies its one is the first and stays.
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
    """Which text of which group each number means.

    Args:
        sizes: The number of texts of each group, in the order of the numbers.
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
    """Yield the texts of groups as rows of TEXTS, some at a time."""
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
    """Return {number: reason} of the texts that another one before them equals."""
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
    """Let the document of the last group stay in each cluster, in place of the longest.

    What agreed with the longest may contradict the one that stays; then it stays too.

    Args:
        reasons: {number: why a document goes}, which is changed.
        clusters: Numbers of copies, the longest of each first.
        places: Group and place of each number.
        groups: The texts, in the order of their numbers.
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
    """Return the account of preference pairs. What is too long is left out whole.

    Args:
        encoded: From `templates.encode_pairs`.
        screened: {place: reason} of those to leave out, from `screen`.
        max_length: Of prompt and answer, in tokens.
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
    """Return the places of as many rows as can stand in the given shares, in order.

    XuanYuan's second stage is {"general": 0.8, "finance": 0.2}. Rows of a kind without a share are
    left out.

    Args:
        kinds: The kind of each row.
        shares: {kind: share}; they need not sum to one.
        seed: Draws the rows.

    Raises:
        ValueError: A kind that has a share is not there.
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
        account: The stage's rows, each with a kind: general, finance or safety.
        general_share: General among general and finance; 0 takes them as they come.
        safety_share: Safety among all.
    """
    counts = numpy.bincount(account.kinds[account.still_in()], minlength=len(KINDS)).tolist()
    kinds = {kind: count for kind, count in zip(KINDS, counts, strict=True) if count}
    kinds.pop("safety", None)
    shares = {kind: count / sum(kinds.values()) for kind, count in kinds.items()}
    if general_share:
        shares = {"general": general_share, "finance": 1 - general_share}
    # What is not safety shares out the rest.
    others = 1 - safety_share
    shares = {kind: share * others for kind, share in shares.items()}
    if safety_share:
        shares["safety"] = 1 - others
    return shares


def limit_to_shares(
    account: Account, shares: dict[str, float], seed: int, max_rows: int = 0
) -> None:
    """Mark the rows that go beyond the shares of their kinds.

    Args:
        account: Rows with a kind; those that have a status already do not count.
        shares, seed: As for `subsample_by_share`.
        max_rows: At most so many stay; 0 for no limit.
    """
    places = account.still_in()
    kinds = numpy.array(KINDS, object)[account.kinds[places]]
    chosen = places[subsample_by_share(kinds, shares, seed)]
    account.mark(numpy.setdiff1d(places, _some(chosen, max_rows, seed)), "over its share")


def limit_rows(accounts: Sequence[Account], max_rows: int, seed: int, status: str) -> None:
    """Mark rows beyond a number with a status.

    Args:
        accounts: Of all cards, taken together.
        max_rows: So many stay, drawn by seed; 0 marks none.
        seed: Draws them.
        status: What the others get.
    """
    places = [account.still_in() for account in accounts]
    firsts = numpy.cumsum([0, *map(len, places)])
    kept = _some(numpy.arange(firsts[-1]), max_rows, seed)
    for account, own, first in zip(accounts, places, firsts, strict=False):
        inside = kept[(kept >= first) & (kept < first + len(own))] - first
        account.mark(numpy.setdiff1d(own, own[inside]), status)


def _some(candidates: numpy.ndarray, max_rows: int, seed: int) -> numpy.ndarray:
    """Return at most so many of the candidates, drawn by seed; 0 returns them all."""
    if not max_rows or max_rows >= len(candidates):
        return candidates
    return candidates[random.Random(seed).sample(range(len(candidates)), max_rows)]


def epochs_of(count: int, epochs: int, seed: int) -> list[int]:
    """Return the order in which rows are learnt over several epochs, each shuffled by itself.

    A trainer that shuffles anew in every epoch does not find its order again when it resumes
    within a later one (TRL's RepeatSampler), so the whole order is drawn beforehand.

    Args:
        count: Rows.
        epochs: So many times each.
        seed: Draws the order.
    """
    order: list[int] = []
    for epoch in range(epochs):
        rng = numpy.random.default_rng([seed, epoch])
        order += rng.permutation(count).tolist()
    return order


def split(account: Account, share: float, texts: Iterable[str]) -> None:
    """Mark the rows that are still in as learnt or held out, by the hash of their own text.

    Args:
        account: The rows.
        share: The share to hold out.
        texts: Of the rows that are still in, in order. Rows with the same text stay on one side.
    """
    places = account.still_in()
    out = [dedup.is_held_out(text, share) for text in texts]
    account.mark(places[numpy.array(out, bool)], HELD_OUT)
    account.mark(places, LEARNT)


def prompt_text(row: Row) -> str:
    """Return the text that splits pairs: the question, so that none held out is learnt."""
    return row["prompt"][-1]["content"]
