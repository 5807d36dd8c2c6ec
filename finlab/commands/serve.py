"""`finlab serve`: serve a model over HTTP, with a web page to try it."""

from __future__ import annotations

import argparse
import os
import socket
from typing import TYPE_CHECKING

from finlab import paths
from finlab.run import model_card

if TYPE_CHECKING:
    from finlab.models.serve import Settings


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand of this module to the parser."""
    serve = commands.add_parser(
        "serve", help="serve a model over OpenAI's API, with vLLM or transformers"
    )
    serve.add_argument("folder", help="a model's folder, an adapter's, or a hub id")
    serve.add_argument("--name", default="", help="by which clients ask for it")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--engine", default="auto", help="auto (default), vllm or transformers")
    serve.add_argument("--page", action="store_true", help="a web page to chat on, at /page")
    serve.add_argument(
        "--print", action="store_true", help="print the command lines, and start nothing"
    )
    serve.set_defaults(function=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    """Serve a model until it is stopped."""
    if not 1 <= arguments.port <= 65535:
        raise ValueError(f"--port {arguments.port}: write a number from 1 to 65535")
    if not arguments.print:
        _require_free(arguments.host, arguments.port)
    from finlab.models import serve

    folder = paths.resolve(arguments.folder)
    name = arguments.name
    if folder.is_dir() and not name:
        name = model_card.model_name(folder).replace("/", "-")
    chosen = serve.settings(
        folder if folder.is_dir() else arguments.folder,
        name,
        arguments.engine,
        arguments.host,
        arguments.port,
    )
    if arguments.print:
        print(serve.shown(serve.vllm_command(chosen)))
        if not chosen.base:
            print(serve.shown(["transformers", "serve", chosen.folder, "--port", str(chosen.port)]))
        return 0
    if chosen.engine == "vllm":
        if arguments.page:
            raise ValueError("--page stands before transformers' server: add --engine transformers")
        serve.require_vllm()
        words = serve.vllm_command(chosen)
        serve.save(chosen)
        print(serve.shown(words), flush=True)
        os.execvp(words[0], words)
    return _serve_with_transformers(chosen, arguments.page)


def _serve_with_transformers(chosen: Settings, page: bool) -> int:
    """Serve a model with the server of transformers.

    Args:
        chosen: How the model is served.
        page: Whether to add the web page.
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
        print(f"a page to chat on: {chosen.url.removesuffix('/v1')}/page", flush=True)
    print(f"talk to it: finlab chat {chosen.url}", flush=True)
    serve.run(made, chosen)
    return 0


def _require_free(host: str, port: int) -> None:
    """Raise an error if a port cannot be used, before the model is loaded, which takes minutes.

    Args:
        host: The address to listen on.
        port: The port to listen on.

    Raises:
        ValueError: The address does not exist, the port is in use, or using it is not allowed.
    """
    try:
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise ValueError(f"--host {host}: this machine has no such address") from None
    except OSError as error:
        raise ValueError(
            f"port {port} on {host} cannot be used ({error.strerror}): choose another with --port"
        ) from None
