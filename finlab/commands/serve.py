"""`finlab serve`: a model over HTTP, and a page to try it on."""

from __future__ import annotations

import argparse
import os

from finlab import paths
from finlab.evaluate.chat.backends import title


def add(commands: argparse._SubParsersAction) -> None:
    """Add the words of this module to the parser."""
    serve = commands.add_parser(
        "serve", help="serve a model over OpenAI's API, with vLLM or transformers"
    )
    serve.add_argument("folder", help="a model's folder, an adapter's, or a hub id")
    serve.add_argument("--name", default="", help="by which clients ask for it")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--engine", default="auto", help="auto (default), vllm or transformers")
    serve.add_argument(
        "--batching",
        action="store_true",
        help="transformers answers many clients at once (a GPU is best)",
    )
    serve.add_argument("--page", action="store_true", help="a web page to chat on, at /page")
    serve.add_argument(
        "--print", action="store_true", help="print the command lines, and start nothing"
    )
    serve.set_defaults(function=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    """Serve a model until it is stopped."""
    from finlab.models import serve

    folder = paths.resolve(arguments.folder)
    chosen = serve.settings(
        folder if folder.is_dir() else arguments.folder,
        arguments.name or (title(folder) if folder.is_dir() else ""),
        arguments.engine,
        arguments.host,
        arguments.port,
        arguments.batching,
    )
    if arguments.print:
        print(serve.shown(serve.vllm_command(chosen)))
        if not chosen.base:
            print(serve.shown(["transformers", "serve", chosen.folder, "--port", str(chosen.port)]))
        return 0
    serve.require_free(chosen.host, chosen.port)
    if chosen.engine == "vllm":
        if arguments.page:
            raise ValueError("--page stands before transformers' server: add --engine transformers")
        serve.require_vllm()
        words = serve.vllm_command(chosen)
        serve.save(chosen)
        print(serve.shown(words), flush=True)
        os.execvp(words[0], words)
    return _serve_with_transformers(chosen, arguments.page)


def _serve_with_transformers(chosen: object, page: bool) -> int:
    """Serve with transformers' server.

    Args:
        chosen: serve.Settings.
        page: Whether to add the page.
    """
    from finlab.models import serve
    from finlab.run import environment

    serve.require_server()
    if page:
        from finlab.evaluate.chat import page as chat_page

        chat_page.require()
    environment.quiet()
    print(f"loading {chosen.folder}", flush=True)
    made = serve.app(chosen)
    if page:
        made = chat_page.mount(made, chosen.url, chosen.name)
    serve.save(chosen)
    print(f"serving {chosen.name} at {chosen.url}; stop with Ctrl-C", flush=True)
    if page:
        print(f"a page to chat on: http://{chosen.host}:{chosen.port}/page", flush=True)
    print(f"talk to it: finlab chat {chosen.url}", flush=True)
    serve.run(made, chosen)
    return 0
