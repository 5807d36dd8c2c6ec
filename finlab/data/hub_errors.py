"""Turn errors of the hub's libraries into one sentence, and retry when the network fails."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from finlab.data import hub_state
from finlab.data.card_schema import Card

WAITS = (1, 2, 4, 8, 16)  # seconds to wait before each retry, if the hub does not answer
Report = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Repository:
    """A repository on the hub from which something is fetched.

    Attributes:
        who: The card or model that needs it, for errors: `card NAME` or `model ID`.
        hub: Id of the repository, owner/name.
        revision: The revision that is wanted: a commit, a branch or a tag.
        kind: `dataset` or `model`.
        progress: Returns a value that grows as long as something is fetched.
    """

    who: str
    hub: str
    revision: str
    kind: str
    progress: Callable[[], Any]

    @property
    def page(self) -> str:
        """Return the address of its page on the hub."""
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
    """Report nothing; the default for `report`."""


@contextlib.contextmanager
def _told_plainly(wanted: Repository) -> Iterator[None]:
    """Replace errors of the hub's libraries by one sentence that says what to do.

    Args:
        wanted: The repository.

    Raises:
        ValueError: The id or revision is wrong, or the user must ask for access.
    """
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    hub, revision = wanted.hub, wanted.revision
    try:
        yield
    except errors.LocalEntryNotFoundError:
        raise  # caused by the network, see `_refuse_if_final`
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
    """Return the error for a gated repository: how to ask for access."""
    return (
        f"{wanted.who}: {wanted.hub} is gated: ask for access at {wanted.page}, "
        "then set HF_TOKEN to your token"
    )


def _passing_errors() -> tuple[type[Exception], ...]:
    """Return the types of network errors after which another attempt may succeed."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    return httpx2.HTTPError, HfHubHTTPError, OSError, EOFError


def is_of_network(error: BaseException | None) -> bool:
    """Tell whether an error was caused by a failure of the network.

    If the hub does not answer, `datasets` gets no list of files, and then says that there are no
    files. So all causes of the error are checked.

    Args:
        error: The error; None for no error.
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
    """Raise an error that another attempt does not fix, such as a refusal or a full disk.

    Args:
        wanted: The repository.
        error: The error that was raised.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ValueError(
            f"{wanted.who}: the disk is full: free some, or set FINLAB_CACHE and HF_HOME to "
            "folders on another disk; what came so far is kept"
        ) from error

    # If the network did not return a file's headers, the library searches on this machine and
    # raises "not found". This is not final.
    unseen = isinstance(error, LocalEntryNotFoundError)
    if isinstance(error, FileNotFoundError) and not unseen:
        raise error
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        raise error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None and 400 <= status < 500 and status not in (408, 416, 429):
        raise error


def persist(wanted: Repository, attempt: Callable[[], Result], report: Report) -> Result:
    """Call a function until it succeeds, with a pause after each failure of the network.

    Other errors become one sentence that says what to do.

    Args:
        wanted: The repository.
        attempt: The function to call. What it has stored before it raises is kept.
        report: Called with one line about each failure.

    Returns:
        The result of `attempt`.

    Raises:
        ValueError: The id or revision is wrong, the user must ask for access, or the disk is full.
        ConnectionError: The first attempt and one retry for each of WAITS failed, without any
            progress; or HF_HUB_OFFLINE is set.
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
    """Return the commit that a card's revision names; the first answer is kept in the index.

    Args:
        card: The card.
        index: The index of its folder, see `hub_state`; its `revision` is set.

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
