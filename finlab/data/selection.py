"""Which dialogues and pairs are learnt, which are held out, and why the rest is left.

Rows are dicts that carry their own account: `read` and `tokens`, their size as read and as it is
now, and `status`, what became of them. A row whose status is "" is still in.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import daft
from daft import DataType, col

from finlab.data import contamination, contradiction, corpus, dedup, dialogues, personal, templates
from finlab.data.cards import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Place = tuple[str, int]  # (group, place in it)
LEARNT, HELD_OUT = "learnt", "held out"
CONTAMINATED = "contaminated by an exam"
PAIR_PARTS = ("prompt", "chosen", "rejected")


# --- rows out of cards ---------------------------------------------------------------------------
def dialogue_rows(
    sources: dict[str, Source],
    safety_cards: Sequence[str],
    task_prefixes: dict[str, str],
    replaced: Counter,
) -> list[Row]:
    """Return the dialogues of cards, personal data replaced.

    Args:
        sources: Loaded dialogue cards by name.
        safety_cards: Those whose dialogues are of the kind safety; of others it is the domain.
        task_prefixes: {card: what its first questions begin with}.
        replaced: The number of replacements by kind is added here.

    Returns:
        Rows {id, card, kind, messages}.
    """
    rows = []
    for name, source in sources.items():
        prefix = task_prefixes.get(name, "")
        for row in source.rows:
            messages = personal.deidentify_messages(row["messages"], replaced)
            kind = "safety" if name in safety_cards else row["domain"]
            messages = dialogues.with_prefix(messages, prefix)
            rows.append({"id": row["id"], "card": name, "kind": kind, "messages": messages})
    return rows


def encode_dialogues(rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> None:
    """Give each dialogue its tokens and labels, as `encoded`, and their number, as `read`.

    A dialogue that the template cannot hold gets the reason as `refused`, and counts no tokens.

    Args:
        rows: Dialogues with `messages`.
        tokenizer: With a chat template.
    """
    encoded = templates.encode_each(tokenizer, [row["messages"] for row in rows])
    for row, (each, reason) in zip(rows, encoded, strict=True):
        row["refused"] = reason
        row["encoded"] = each or {"input_ids": [], "labels": []}
        row["read"] = len(row["encoded"]["input_ids"])


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


def row_text(row: Row) -> str:
    """Return all that is said in a dialogue or a pair, for `screen`."""
    turns = row.get("messages")
    if turns is None:
        turns = [turn for part in PAIR_PARTS for turn in row[part]]
    return "\n".join(turn["content"] for turn in turns)


# --- copies and exam items -----------------------------------------------------------------------
def screen(
    groups: dict[str, list[str]], items: list[dict], threshold: float = 0.85
) -> tuple[dict[str, dict[int, str]], list[dict]]:
    """Look through short texts for copies, near copies and exam items.

    Of copies in several groups the one in the last group stays, since a checked stage comes after a
    broad one; within a group the longest. Two texts are near copies only when their figures and
    directions agree, so the same question about two years is two.

    Args:
        groups: Texts of dialogues or pairs by group, such as a stage or a card.
        items: Exam items, as for `contamination.find_overlaps`.
        threshold: That of `dedup.duplicates`; 0 finds exact copies only.

    Returns:
        {group: {place: reason}} of the texts to leave out, and the overlaps with exams.
    """
    # The last group is numbered first, so that of exact copies its one is the first and stays.
    places = []
    for group in reversed(groups):
        places += [(group, place) for place in range(len(groups[group]))]
    frame = _frame(groups, places)
    if threshold:
        reasons, clusters = dedup.duplicates(frame, threshold)
    else:
        texts = [groups[group][place] for group, place in places]
        reasons, clusters = _exact_copies(texts), []
    _keep_the_last_group(reasons, clusters, places, groups)
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


def _frame(groups: dict[str, list[str]], places: list[Place]) -> daft.DataFrame:
    """Return the texts of groups as a frame of documents, for `dedup`."""
    columns = {
        "number": list(range(len(places))),
        "id": [f"{group}/{place}" for group, place in places],
        "source": [group for group, _ in places],
        "text": [groups[group][place] for group, place in places],
        "dropped": [""] * len(places),
    }
    length = col("text").length().cast(DataType.int64())
    return daft.from_pydict(columns).with_column("tokens_read", length)


def _exact_copies(texts: list[str]) -> dict[int, str]:
    first: dict[int, int] = {}
    reasons = {}
    for number, text in enumerate(texts):
        if first.setdefault(dedup.document_hash(text), number) != number:
            reasons[number] = "exact duplicate"
    return reasons


def _keep_the_last_group(
    reasons: dict[int, str],
    clusters: list[list[int]],
    places: list[Place],
    groups: dict[str, list[str]],
) -> None:
    """Let the document of the last group stay in each cluster, in place of the longest.

    What agreed with the longest may contradict the one that stays; then it stays too.

    Args:
        reasons: {number: why a document goes}, which is changed.
        clusters: Numbers of copies, the longest of each first.
        places: Group and place of each number.
        groups: The texts.
    """

    def text(number: int) -> str:
        group, place = places[number]
        return groups[group][place]

    order = {group: rank for rank, group in enumerate(dict.fromkeys(name for name, _ in places))}
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


# --- admitting rows ------------------------------------------------------------------------------
def admit_dialogues(
    rows: list[Row],
    screened: dict[int, str],
    max_length: int,
    end_id: int,
    single_turn: bool = False,
) -> None:
    """Give each dialogue its status and its size after shortening.

    A dialogue that is too long keeps its first whole exchanges, never half an answer.

    Args:
        rows: Dialogues with `messages` and `encoded` {input_ids, labels}.
        screened: {place: reason} of those to leave out, from `screen`.
        max_length: In tokens.
        end_id: The token that ends an answer.
        single_turn: Leave out dialogues of several exchanges.
    """
    for place, row in enumerate(rows):
        answers = sum(turn["role"] == "assistant" for turn in row["messages"])
        row["status"] = screened.get(place, "") or row["refused"]
        if single_turn and answers > 1:
            row["status"] = "several exchanges"
        shortened = templates.shorten(row["encoded"], max_length, end_id)
        if not row["status"]:
            if shortened is None:
                row["status"] = "longer than max_length"
            else:
                row["encoded"] = shortened
        row["tokens"] = len(row["encoded"]["input_ids"])


def admit_pairs(rows: list[Row], screened: dict[int, str], max_length: int) -> None:
    """Give each preference pair its status and its size. What is too long is left out whole.

    Args:
        rows: Pairs with `encoded` {prompt_ids, chosen_ids, rejected_ids}.
        screened: {place: reason} of those to leave out, from `screen`.
        max_length: Of prompt and answer, in tokens.
    """
    for place, row in enumerate(rows):
        prompt = len(row["encoded"]["prompt_ids"])
        answers = [len(row["encoded"]["chosen_ids"]), len(row["encoded"]["rejected_ids"])]
        row["read"] = row["tokens"] = prompt + sum(answers)
        row["status"] = screened.get(place, "") or row["encoded"]["refused"]
        if not row["status"] and prompt + max(answers) > max_length:
            part = "prompt" if prompt >= max_length else "answer"
            row["status"] = f"{part} longer than max_length"


# --- choosing ------------------------------------------------------------------------------------
def subsample_by_share(kinds: Sequence[str], shares: dict[str, float], seed: int) -> list[int]:
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
    supply = Counter(kinds)
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
    chosen: list[int] = []
    for kind, share in wanted.items():
        places = [place for place, each in enumerate(kinds) if each == kind]
        count = max(1, round(total * share))
        chosen += rng.sample(places, min(len(places), count))
    return sorted(chosen)


def stage_shares(
    rows: list[Row], general_share: float = 0.0, safety_share: float = 0.0
) -> dict[str, float]:
    """Return the shares of a stage's kinds, for `limit_to_shares`.

    Args:
        rows: The stage's rows, each with a `kind`: general, finance or safety.
        general_share: General among general and finance; 0 takes them as they come.
        safety_share: Safety among all.
    """
    kinds = Counter(row["kind"] for row in rows if not row["status"] and row["kind"] != "safety")
    shares = {kind: count / kinds.total() for kind, count in kinds.items()}
    if general_share:
        shares = {"general": general_share, "finance": 1 - general_share}
    # What is not safety shares out the rest.
    others = 1 - safety_share
    shares = {kind: share * others for kind, share in shares.items()}
    if safety_share:
        shares["safety"] = 1 - others
    return shares


def limit_to_shares(
    rows: list[Row], shares: dict[str, float], seed: int, max_rows: int = 0
) -> None:
    """Mark the rows that go beyond the shares of their kinds.

    Args:
        rows: Rows with a `kind`; those that have a status already do not count.
        shares, seed: As for `subsample_by_share`.
        max_rows: At most so many stay; 0 for no limit.
    """
    left = [row for row in rows if not row["status"]]
    chosen = subsample_by_share([row["kind"] for row in left], shares, seed)
    _keep_some(left, chosen, max_rows, seed, "over its share")


def limit_rows(rows: list[Row], max_rows: int, seed: int, status: str) -> None:
    """Mark rows beyond a number with a status.

    Args:
        rows: Those of status "" count.
        max_rows: So many stay, drawn by seed; 0 marks none.
        seed: Draws them.
        status: What the others get.
    """
    left = [row for row in rows if not row["status"]]
    _keep_some(left, range(len(left)), max_rows, seed, status)


def _keep_some(
    rows: list[Row], candidates: Sequence[int], max_rows: int, seed: int, status: str
) -> None:
    """Keep at most so many of the candidates, drawn by seed; 0 keeps them all.

    Every other row gets the status.
    """
    count = min(max_rows or len(candidates), len(candidates))
    kept = set(random.Random(seed).sample(candidates, count))
    for place, row in enumerate(rows):
        if place not in kept:
            row["status"] = status


def split(rows: list[Row], share: float, text_of: Callable[[Row], str]) -> None:
    """Mark the rows that are still in as learnt or held out, by the hash of their own text.

    Args:
        rows: The rows.
        share: The share to hold out.
        text_of: The text that decides. Rows with the same text stay on one side.
    """
    for row in rows:
        if not row["status"]:
            out = dedup.is_held_out(text_of(row), share)
            row["status"] = HELD_OUT if out else LEARNT


def dialogue_text(row: Row) -> str:
    """Return the text that splits dialogues: all messages."""
    return json.dumps(row["messages"], ensure_ascii=False)


def prompt_text(row: Row) -> str:
    """Return the text that splits pairs: the question, so that none held out is learnt."""
    return row["prompt"][-1]["content"]


def of_status(rows: list[Row], status: str) -> list[Row]:
    """Return the rows of one status."""
    return [row for row in rows if row["status"] == status]
