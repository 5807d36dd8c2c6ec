"""`finlab chat`: chat in the terminal or in a pipe, or answer a file of questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finlab import files

if TYPE_CHECKING:
    from finlab.evaluate.chat.talk import Talk

HELP = """\
/system TEXT   set the system message (without TEXT: show it)
/clear         start again
/undo          take back the last question and its answer
/history       show what was said
/save FILE     add the talk to a file of JSON lines that a dialogue card reads
/exit          leave (also Ctrl-D)"""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    chat = commands.add_parser("chat", help="talk with a model, an adapter or an endpoint")
    chat.add_argument(
        "target", help="a model's folder, an adapter's, a hub id, a URL, or model@URL#KEY_VARIABLE"
    )
    chat.add_argument("--system", default="", help="the system message")
    chat.add_argument(
        "--knowledge",
        action="append",
        default=[],
        metavar="BASE",
        help="answer from a knowledge base, with sources: a knowledge step's folder or a .sqlite",
    )
    chat.add_argument(
        "--threshold", type=float, help="from which coverage on a base answers (0 to 1)"
    )
    chat.add_argument(
        "--passages-leave",
        action="store_true",
        help="send passages of the base to an endpoint that is not on this machine",
    )
    chat.add_argument("--max-new-tokens", type=int, help="of an answer")
    chat.add_argument("--temperature", type=float, help="0 always takes the likeliest token")
    chat.add_argument("--top-p", type=float)
    chat.add_argument("--file", default="", help="answer the questions of a file, and leave")
    chat.add_argument("--out", default="", help="where the answers to --file go (JSON lines)")
    chat.set_defaults(function=_chat)


def _chat(arguments: argparse.Namespace) -> int:
    """Chat until the user leaves; return 1 if a question got no answer, else 0."""
    settings = _settings(arguments)
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold {arguments.threshold}: write a share from 0 to 1")
    if bool(arguments.file) != bool(arguments.out):
        raise ValueError("--file and --out belong together: name the questions and the answers")
    questions = []
    if arguments.file:
        from finlab.evaluate.chat import batch

        if Path(arguments.out).exists() and Path(arguments.out).samefile(arguments.file):
            raise ValueError("--out would write over the questions: name another file")
        questions = batch.read_questions(Path(arguments.file))
    from finlab.evaluate.chat import backends, talk
    from finlab.run import environment

    environment.quiet()
    knowledge = None
    if arguments.knowledge:
        knowledge = talk.open_knowledge(arguments.knowledge, arguments.threshold)
    model = backends.open_backend(arguments.target)
    away = isinstance(model, backends.RemoteModel) and not model.here
    if knowledge and away and not arguments.passages_leave:
        raise ValueError(
            f"passages of the base would go to {model.base_url}: use a model on this machine, or "
            "say --passages-leave"
        )
    talking = talk.Talk(model, arguments.system, settings, knowledge)
    if questions:
        return _answer_file(talking, questions, Path(arguments.out))
    return _converse(talking)


def _settings(arguments: argparse.Namespace) -> dict[str, float]:
    """Return {name: value} of the settings that the user gave.

    Raises:
        ValueError: A setting is out of its range.
    """
    found = {}
    for name, least, most in (
        ("max_new_tokens", 1, 1_000_000),
        ("temperature", 0, 10),
        ("top_p", 0, 1),
    ):
        value = getattr(arguments, name)
        if value is None:
            continue
        if not least <= value <= most:
            words = name.replace("_", "-")
            raise ValueError(f"--{words} {value}: write a number from {least} to {most:,}")
        found[name] = value
    return found


def _answer_file(talking: Talk, questions: list[str], out: Path) -> int:
    """Answer a file of questions, and print each answer.

    Args:
        talking: The chat.
        questions: The questions.
        out: File for the answers, as JSON lines.

    Returns:
        1 if a question got no answer, else 0.
    """
    from finlab.evaluate.chat import batch

    for row in batch.answer_file(talking, questions, out):
        print(f"{row['question'][:60]}\n  {row.get('error') or row['answer']}", flush=True)
    rows = files.read_jsonl(out)
    failed = sum("error" in row for row in rows)
    print(f"{len(rows)} questions in {out}; {failed} without an answer")
    if failed:
        print("the same command asks those again")
    return 1 if failed else 0


# --- a talk --------------------------------------------------------------------------------------
def _converse(talking: Talk) -> int:
    """Read questions and commands until the user leaves; return the exit status."""
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        print(f"talking with {talking.model.name}; /help lists the commands", flush=True)
    failed = 0
    for line in _lines(on_terminal):
        if not line.strip():
            continue
        if line.startswith("/"):
            if line.split()[0] in ("/exit", "/quit"):
                break
            failed += not _obey(talking, line)
            continue
        failed += not _say(talking, line)
    return 1 if failed and not on_terminal else 0


def _lines(on_terminal: bool) -> Iterator[str]:
    """Yield the lines that the user writes.

    Args:
        on_terminal: Whether the user types on a terminal. Then prompt_toolkit reads the lines. It
            knows the width of Chinese characters, so the cursor of an input method is at the right
            place.
    """
    if not on_terminal:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        for line in sys.stdin:
            yield line.rstrip("\r\n").removeprefix("\ufeff")
        return
    from prompt_toolkit import PromptSession

    session: PromptSession = PromptSession()
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _say(talking: Talk, question: str) -> bool:
    """Print the answer to a question piece by piece; return whether there was an answer.

    Ctrl-C stops the answer, and the chat continues.
    """
    pieces = talking.ask(question)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        pieces.close()
        print("\n(stopped; what was said so far is kept)")
    except ValueError as error:
        print(f"finlab: {error}", file=sys.stderr)
        return False
    for source in talking.sources():
        print(f"    {source}")
    sys.stdout.flush()
    return True


def _obey(talking: Talk, line: str) -> bool:
    """Execute a command such as `/undo`; return whether it succeeded."""
    command, _, words = line.partition(" ")
    words = words.strip()
    try:
        if command == "/help":
            print(HELP)
        elif command == "/clear":
            talking.clear()
            print("(started again)")
        elif command == "/undo":
            print(f"(taken back: {talking.undo()})")
        elif command == "/history":
            _show_history(talking)
        elif command == "/save":
            print(f"(saved to {talking.save(Path(words or 'talk.jsonl'))})")
        elif command == "/system":
            talking.system = words or talking.system
            print(f"(system: {talking.system or 'as the template has it'})")
        else:
            raise ValueError(f"there is no command {command}; /help lists them")
    except (ValueError, OSError) as error:
        print(f"finlab: {error}", file=sys.stderr)
        return False
    return True


def _show_history(talking: Talk) -> None:
    """Print the messages of the chat so far."""
    for message in talking.messages:
        sign = ">" if message["role"] == "user" else " "
        print(f"{sign} {message['content']}")
