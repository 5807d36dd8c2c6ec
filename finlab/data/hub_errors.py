"""What the hub's libraries raise, in one sentence; and patience where a network fails."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from finlab.data import hub_state
from finlab.data.card_schema import Card

WAITS = (1, 2, 4, 8, 16)  # seconds before the next attempt, where the hub does not answer
Report = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Repository:
    """What is asked of the hub.

    Attributes:
        who: Who asks, for errors: a card or a model.
        hub: Its id, owner/name.
        revision: As asked for.
        kind: `dataset` or `model`.
        progress: Returns what grows while it is fetched.
    """

    who: str
    hub: str
    revision: str
    kind: str
    progress: Callable[[], Any]

    @property
    def page(self) -> str:
        """Its page on the hub."""
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"https://huggingface.co/{folder}{self.hub}"


def of_card(card: Card) -> Repository:
    """Return the repository of a hub card."""
    return Repository(
        f"card {card.name}",
        card.spec["hub"],
        card.spec.get("revision", "main"),
        "dataset",
        lambda: hub_state.progress(card),
    )


def quiet(line: str) -> None:
    """Report nothing."""


@contextlib.contextmanager
def _told_plainly(wanted: Repository) -> Iterator[None]:
    """Turn what the hub's libraries raise into one sentence that says what to do.

    Raises:
        ValueError: The address is wrong, or one must ask for access.
    """
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    hub, revision = wanted.hub, wanted.revision
    try:
        yield
    except errors.LocalEntryNotFoundError:
        raise  # the network's doing, see `_refuse_if_final`
    except errors.GatedRepoError:
        raise ValueError(gated(wanted)) from None
    except errors.RevisionNotFoundError:
        raise ValueError(
            f"{wanted.who}: {hub} has no revision '{revision}' any more: correct `revision:`"
        ) from None
    except (errors.RepositoryNotFoundError, DatasetNotFoundError) as error:
        if isinstance(error, DatasetNotFoundError) and "gated" in str(error):
            raise ValueError(gated(wanted)) from None
        raise ValueError(
            f"{wanted.who}: the hub has no {wanted.kind} '{hub}', or it is private: correct its "
            "id, or set HF_TOKEN to the token of somebody who may read it"
        ) from None
    except errors.EntryNotFoundError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{wanted.who}: {hub} lacks a file at revision '{revision}' ({reason})"
        ) from None


def gated(wanted: Repository) -> str:
    """Return what to do about a repository that must be asked for."""
    return (
        f"{wanted.who}: {wanted.hub} is gated: ask for access at {wanted.page}, "
        "then set HF_TOKEN to your token"
    )


def _passing_errors() -> tuple[type[Exception], ...]:
    """Return what a network raises and another attempt may mend."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    return httpx2.HTTPError, HfHubHTTPError, OSError, EOFError


def is_of_network(error: BaseException | None) -> bool:
    """Tell whether a failure of the network stands behind an error.

    `datasets` lists no files where the hub does not answer, and then says that there are none.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    while error is not None:
        if isinstance(error, (httpx2.TransportError, LocalEntryNotFoundError)):
            return True
        if isinstance(error, HfHubHTTPError) and error.response.status_code >= 500:
            return True
        error = error.__cause__ or error.__context__
    return False


def _refuse_if_final(wanted: Repository, error: Exception) -> None:
    """Raise what another attempt does not mend: a refusal, or a full disk.

    Args:
        wanted: What is asked for.
        error: What was raised.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ValueError(
            f"{wanted.who}: the disk is full: free some, or set FINLAB_CACHE and HF_HOME to "
            "folders on another disk; what came so far is kept"
        ) from error

    # A file whose headers the network kept back is looked for on this machine, and "not found".
    unseen = isinstance(error, LocalEntryNotFoundError)
    if isinstance(error, FileNotFoundError) and not unseen:
        raise error
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        raise error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None and 400 <= status < 500 and status not in (408, 416, 429):
        raise error


def persist(wanted: Repository, attempt: Callable[[], Result], report: Report) -> Result:
    """Call a function until it succeeds, with a pause behind each failure of the network.

    What is no failure of the network becomes one sentence that says what to do.

    Args:
        wanted: What is asked for.
        attempt: Works as far as it comes. What it has kept when it raises is kept.
        report: Gets a line about each failure.

    Returns:
        What the function returns.

    Raises:
        ValueError: The address is wrong, or one must ask for access.
        ConnectionError: It failed as often as there are WAITS, and nothing came in between; or
            HF_HUB_OFFLINE is set.
    """
    import huggingface_hub

    if huggingface_hub.is_offline_mode():
        raise ConnectionError(
            f"{wanted.who}: HF_HUB_OFFLINE is set, and {wanted.hub} is not here yet: run "
            "`finlab data RECIPE --fetch` on a machine with a network and bring its FINLAB_CACHE "
            "and HF_HOME, or unset it"
        )
    failures = 0
    while True:
        before = wanted.progress()
        try:
            with _told_plainly(wanted):
                return attempt()
        except _passing_errors() as error:
            _refuse_if_final(wanted, error)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        if wanted.progress() > before:
            failures = 0
        if failures == len(WAITS):
            raise ConnectionError(
                f"{wanted.who}: the hub does not answer for {wanted.hub} ({reason}): "
                "what came so far is kept; run the same command again later"
            )
        report(f"{wanted.who}: {reason}; trying again in {WAITS[failures]} s")
        time.sleep(WAITS[failures])
        failures += 1


def pinned_revision(card: Card, index: dict[str, Any]) -> str:
    """Return the commit that a card's revision names; from the first time on it stays.

    Args:
        card: The card.
        index: Of its folder, which is changed.

    Raises:
        ValueError: There is no such dataset or revision, or it is gated and no token is set.
    """
    import huggingface_hub

    if index.get("revision"):
        return index["revision"]
    info = huggingface_hub.HfApi().dataset_info(
        card.spec["hub"], revision=card.spec.get("revision", "main")
    )
    if info.gated and not huggingface_hub.get_token():
        raise ValueError(gated(of_card(card)))
    index["revision"] = info.sha
    return info.sha
