"""`finlab push`: publish a model and its card on the Hugging Face hub."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from finlab import files, paths
from finlab.run import model_card

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
PUBLISHED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "quantize_config.json",
)


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
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
    """Publish a model, and print its address."""
    folder = paths.resolve(arguments.folder)
    if not any((folder / name).exists() for name in model_card.MODEL_FILES):
        raise ValueError(
            f"{folder} holds neither a model nor an adapter: name a folder with config.json or "
            "adapter_config.json, such as runs/smoke/dpo/artifact/model"
        )
    card = model_card.complete(folder, arguments.repository)
    if arguments.print:
        print(card)
        return 0
    if not REPOSITORY.fullmatch(arguments.repository):
        raise ValueError(f"'{arguments.repository}' is not a repository: write owner/name")
    _require_licences(card, arguments.public and not arguments.commercial_use_checked)
    print(_publish(folder, arguments.repository, card, arguments.public))
    return 0


def _require_licences(card: str, strict: bool) -> None:
    """Raise an error if the licences of a model's data must be checked before publishing it.

    Args:
        card: The model card.
        strict: Whether to raise the error; False does nothing.

    Raises:
        ValueError: A licence forbids commercial use, or a data card states no licence.
    """
    for sign in ("**No commercial use**", "states no licence"):
        if strict and sign in card:
            line = next(line for line in card.splitlines() if sign in line)
            raise ValueError(
                f"{line} Publish it privately (without --public), or read the licence and add "
                "--commercial-use-checked"
            )


def _publish(folder: Path, repository: str, card: str, public: bool) -> str:
    """Upload a model, with a card as its README, and return its address.

    Args:
        folder: Folder of the model.
        repository: Name of the repository, owner/name.
        card: The model card, in Markdown.
        public: Whether everyone may see the model.

    Raises:
        ValueError: The hub refuses or cannot be reached, or the repository exists and is public
            although `public` is false.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    wanted = {"README.md": card.encode("utf-8")} | _files(folder)
    operations = [CommitOperationAdd(name, content) for name, content in wanted.items()]
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        there = api.model_info(repository)
        if not there.private and not public:
            raise ValueError(
                f"{repository} is there already, and everyone can see it: add --public, or name "
                "another repository"
            )
        # Delete the files of an earlier model.
        for sibling in there.siblings or []:
            if sibling.rfilename not in wanted and sibling.rfilename != ".gitattributes":
                operations.append(CommitOperationDelete(sibling.rfilename))
        done = api.create_commit(repository, operations, commit_message="Publish with finlab")
    except ValueError:
        raise
    except Exception as error:  # errors of the hub have no common base class
        reason = " ".join(str(error).split())[:300]
        hint = "set HF_TOKEN to a token that may write" if "401" in reason else "try again"
        raise ValueError(f"{repository} was not published ({reason}): {hint}") from None
    return str(done.repo_url)


def _files(folder: Path) -> dict[str, Path | bytes]:
    """Return the files to publish: only the files that are needed to load the model.

    Args:
        folder: Folder of the model. Links and other files, such as notes of this machine, are not
            published.

    Returns:
        {name in the repository: local file, or content}.
    """
    found: dict[str, Path | bytes] = {}
    for pattern in PUBLISHED:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                found[path.name] = path
    if "adapter_config.json" in found:
        config = files.read_json(folder / "adapter_config.json")
        # A path on this machine is useless for others, so it is removed.
        if Path(str(config.get("base_model_name_or_path", ""))).is_absolute():
            config["base_model_name_or_path"] = ""
        text = json.dumps(config, ensure_ascii=False, indent=2)
        found["adapter_config.json"] = text.encode("utf-8")
    return found
