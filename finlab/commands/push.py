"""`finlab push`: a model and its card to the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from finlab import paths
from finlab.run import model_card


def add(commands: argparse._SubParsersAction) -> None:
    """Add the words of this module to the parser."""
    push = commands.add_parser("push", help="publish a model with its card on the hub")
    push.add_argument("folder", help="a model's or an adapter's folder in a run")
    push.add_argument("repository", nargs="?", default="", help="owner/name on the hub")
    push.add_argument("--public", action="store_true", help="everyone may see it; else private")
    push.add_argument(
        "--commercial-use-checked",
        action="store_true",
        help="publish although a licence of its data forbids commercial use, or states nothing",
    )
    push.add_argument("--print", action="store_true", help="print the card, and publish nothing")
    push.set_defaults(function=_push)


def _push(arguments: argparse.Namespace) -> int:
    """Publish a model; say where it is."""
    folder = paths.resolve(arguments.folder)
    if not any((folder / name).exists() for name in model_card.MODEL_FILES):
        raise ValueError(
            f"{folder} holds neither a model nor an adapter: name a folder with config.json or "
            "adapter_config.json, such as runs/smoke/dpo/artifact/model"
        )
    card = model_card.complete(folder)
    if arguments.print:
        print(card)
        return 0
    owner, _, name = arguments.repository.partition("/")
    if not owner or not name:
        raise ValueError(f"'{arguments.repository}' is no repository: write owner/name")
    _require_licences(card, arguments.public and not arguments.commercial_use_checked)
    print(_publish(folder, arguments.repository, card, private=not arguments.public))
    return 0


def _require_licences(card: str, strict: bool) -> None:
    """Refuse to show the world a model whose data's licences ask for a second look.

    Args:
        card: The model card.
        strict: Whether to refuse.
    """
    for sign in ("**No commercial use**", "states no licence"):
        if strict and sign in card:
            line = next(line for line in card.splitlines() if sign in line)
            raise ValueError(
                f"{line} Publish it privately (without --public), or read the licence and add "
                "--commercial-use-checked"
            )


def _publish(folder: Path, repository: str, card: str, private: bool) -> str:
    """Upload a folder, with a card in place of its README, and return its address.

    Args:
        folder: The model's.
        repository: owner/name.
        card: The model card.
        private: Whether others may not see it.

    Raises:
        ValueError: The hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    operations = [CommitOperationAdd("README.md", card.encode("utf-8"))]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        # base.json names a place on this machine.
        if path.is_file() and name not in ("README.md", "base.json", "serve.json"):
            operations.append(CommitOperationAdd(name, path))
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(repository, operations, commit_message="Publish with finlab")
    except Exception as error:  # the hub's errors have no common class
        reason = " ".join(str(error).split())[:300]
        hint = "set HF_TOKEN to a token that may write" if "401" in reason else "try again"
        raise ValueError(f"{repository} was not published ({reason}): {hint}") from None
    return str(done.repo_url if hasattr(done, "repo_url") else repository)
