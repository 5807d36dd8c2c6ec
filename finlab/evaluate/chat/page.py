"""A web page to chat on, for a colleague without a terminal: Gradio's chat component.

It talks to the same endpoint as every other client, and loads nothing from the network.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finlab.evaluate.chat.backends import RemoteModel

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import ChatInterface

PATH = "/page"
NOTE = (
    "模型会出错，内容不构成投资建议。请勿输入客户个人信息。 "
    "The model makes mistakes. Nothing here is investment advice. Enter no personal data."
)
EXAMPLES = ["请用一句话介绍你自己。", "什么是市盈率？"]


def require() -> None:
    """Raise ValueError if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("--page needs Gradio: pip install -e '.[page]' in the checkout")


def build(url: str, name: str) -> ChatInterface:
    """Return the chat page.

    Args:
        url: The URL of the endpoint, such as http://127.0.0.1:8000/v1.
        name: The name of the model at the endpoint.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    def respond(message: str, history: list[dict]) -> Iterator[str]:
        model = RemoteModel(url, name)
        earlier = [{"role": turn["role"], "content": _text(turn["content"])} for turn in history]
        said = ""
        try:
            for piece in model.stream([*earlier, {"role": "user", "content": message}], {}):
                said += piece
                yield said
        except ValueError as error:
            raise gradio.Error(str(error)) from None

    return gradio.ChatInterface(
        respond,
        # Leave out Gradio's button that shares a chat with the public.
        chatbot=gradio.Chatbot(show_label=False, buttons=["copy", "copy_all"], height="60vh"),
        title=f"finlab · {name}",
        description=NOTE,
        examples=EXAMPLES,
        cache_examples=False,
        analytics_enabled=False,
    )


def _text(content: object) -> str:
    """Return the text of a turn, which Gradio stores as text or as a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(part.get("text", "") for part in parts if isinstance(part, dict))


def mount(server: FastAPI, url: str, name: str) -> FastAPI:
    """Add the chat page to a server, under /page.

    Args:
        server: The server.
        url: The URL of its endpoint.
        name: The name of the model at the endpoint.
    """
    require()
    import gradio

    # Use the system's fonts, since Gradio's own are fetched from Google.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return gradio.mount_gradio_app(
        server, build(url, name), path=PATH, theme=theme, footer_links=[]
    )
