"""Models behind an OpenAI-compatible endpoint: OpenAI, vLLM, `transformers serve`, ..."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finlab.files import JsonlStore, digest

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletion

MAX_WAIT = 60.0  # maximum number of seconds between two tries
PASSING = (408, 409, 429)  # status codes of temporary failures, besides 5xx
# The errors that a malformed answer raises when it is read.
NO_ANSWER = (ValueError, TypeError, AttributeError, IndexError, KeyError, RecursionError)
SPEC = re.compile(r"(?:(.+)@)?(https?://[^#]+)(?:#(\w+))?")  # model@url#VARIABLE
NO_ENDPOINT = (
    "'{spec}' is not an endpoint: write model@url, such as "
    "gpt-4o@https://api.openai.com/v1, and #VARIABLE where a key is needed"
)
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


CHARACTERS_A_TOKEN = 1.5  # characters of Chinese in one token, for the estimate of costs


def cost(prompt_tokens: float, answer_tokens: float, price: tuple[float, float]) -> float:
    """Return what requests cost, in the currency of the price.

    Args:
        prompt_tokens: Tokens in all prompts.
        answer_tokens: Tokens in all answers.
        price: Price of a million tokens in a prompt and in an answer.
    """
    return (prompt_tokens * price[0] + answer_tokens * price[1]) / 1e6


class NoAnswer(ValueError):
    """An endpoint answered, but not with text in OpenAI's form."""


def is_openai(base_url: str) -> bool:
    """Tell whether an address is OpenAI's own."""
    return urlsplit(base_url).hostname == "api.openai.com"


def is_here(base_url: str) -> bool:
    """Tell whether an address is on this machine."""
    return urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")


def text_of(completion: Any, thinking: bool = False) -> str:
    """Return the text of a completion.

    Args:
        completion: A completion in OpenAI's form.
        thinking: Whether to put the thinking before the answer, between `<think>` and `</think>`.
            Servers return it in a field of its own (`reasoning_content` of DeepSeek, `reasoning`
            of vLLM).

    Raises:
        NoAnswer: The completion has another form, no text, or half a character in its text.
    """
    try:
        message = completion.choices[0].message
        text = message.content
        if thinking:
            text = _with_thinking(message, text)
    except (AttributeError, IndexError, TypeError, KeyError):
        shown = " ".join(str(completion).split())[:80]
        raise NoAnswer(f"the endpoint answers in another form than OpenAI's: {shown!r}") from None
    if not isinstance(text, str) or not text.strip():
        raise NoAnswer("the endpoint gave an answer without text")
    if HALF_CHARACTER.search(text):
        raise NoAnswer("the endpoint gave an answer with half a character in it")
    return text


def _with_thinking(message: Any, text: str | None) -> str | None:
    """Return an answer with the thinking before it; thinking alone gets no `</think>`."""
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if not isinstance(thought, str) or not thought.strip():
        return text
    if not text:
        return f"<think>\n{thought.strip()}"
    return f"<think>\n{thought.strip()}\n</think>\n{text}"


def client(base_url: str, key_variable: str = "", timeout: float = 60, who: str = "") -> OpenAI:
    """Return OpenAI's client for an endpoint.

    It sends only the key that was named, follows no redirect, and does not retry by itself.

    Args:
        base_url: The URL of the endpoint.
        key_variable: The environment variable that holds the key; empty sends no key.
        timeout: Time limit in seconds.
        who: Name of the model for the error message.

    Raises:
        ValueError: The environment variable of the key is not set.
    """
    from openai import DefaultHttpxClient, OpenAI

    key = os.environ.get(key_variable, "") if key_variable else ""
    if key_variable and not key:
        raise ValueError(
            f"{who or 'the model'} at {base_url} wants a key: export {key_variable}=... "
            "(a key never stands in a recipe or a cell)"
        )
    made = OpenAI(
        api_key=key or "none",
        base_url=base_url,
        timeout=timeout,
        max_retries=0,
        # A redirect would send the request and its headers to another server.
        # A server on this machine needs no proxy.
        http_client=DefaultHttpxClient(
            follow_redirects=False, timeout=timeout, trust_env=not is_here(base_url)
        ),
    )
    if not is_openai(base_url):
        # The client takes these from the environment and sends them to any endpoint.
        for name_of_header in ("organization", "project", "admin_api_key"):
            if hasattr(made, name_of_header):
                setattr(made, name_of_header, None)
    return made


class Endpoint:
    """A model behind an endpoint, called with messages.

    Temporary failures (429, 5xx, time-outs) are tried again, after the wait that the endpoint asks
    for, or else after a growing wait. OpenAI's client can retry by itself, but it does not count
    retries against a limit on requests. A call that fails, or returns no text, gives None. It is
    counted as an error and never stored.

    Args:
        name: Name of the model.
        base_url: The URL of the endpoint.
        store: A file that keeps the answers, so that a rerun costs nothing; None keeps them in
            memory only.
        key_variable: The environment variable that holds the key; empty sends no key. Never write
            a key into a recipe.
        per_minute: Maximum number of requests in a minute; 0 for no limit.
        timeout: Time limit of a request in seconds.
        retries: How often a failed request is tried again.
        thinking: Whether the answer comes with its thinking, see `text_of`.
        **settings: Settings of the request: temperature, max_tokens, ...

    Attributes:
        calls, errors: Number of requests sent, and of calls that failed.
        reason: Why the first failed call failed; empty if none failed.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        store: Path | None = None,
        key_variable: str = "",
        per_minute: int = 0,
        timeout: float = 60,
        retries: int = 5,
        thinking: bool = False,
        **settings: Any,
    ):
        self.client = client(base_url, key_variable, timeout, who=name)
        self.name = name
        self.base_url = base_url
        self.settings = {"temperature": 0, "max_tokens": 1024} | settings
        self.store = JsonlStore(store)
        self.retries = retries
        self.thinking = thinking
        self.calls = 0
        self.errors = 0
        self.reason = ""
        self._lock = threading.Lock()
        self._next = 0.0  # when the next request may be sent
        self._gap = 60 / per_minute if per_minute else 0.0

    def __call__(self, messages: list[dict]) -> str | None:
        """Return the answer to messages; None if no answer came."""
        from openai import OpenAIError

        asked = [self.base_url, self.name, self.settings, messages]
        # Without "thinking" the key is as in older runs, so answers already paid for are found.
        key = digest(*asked, "thinking") if self.thinking else digest(*asked)
        kept = self.store.get(key)
        if kept is not None:
            return kept
        try:
            text = text_of(self._send(messages), self.thinking)
        except (OpenAIError, *NO_ANSWER) as error:
            with self._lock:
                self.errors += 1
                what = " ".join(str(error).split())[:200]
                kind = "" if isinstance(error, NoAnswer) else f"{type(error).__name__}: "
                self.reason = self.reason or f"{kind}{what}"
            return None
        with self._lock:
            self.store.put({key: text})
        return text

    def _send(self, messages: list[dict]) -> ChatCompletion:
        """Send a request, and send it again after a temporary failure.

        Every attempt counts against the limit on requests; the client's own retries would not.

        Args:
            messages: The messages of a chat.
        """
        from openai import APIConnectionError, APIStatusError

        for attempt in range(self.retries + 1):
            self._wait_for_turn()
            try:
                return self.client.chat.completions.create(
                    model=self.name, messages=messages, **self.settings
                )
            except (APIConnectionError, APIStatusError) as error:
                # A time-out is a connection error, and has no status.
                status = getattr(error, "status_code", 500)
                may_pass = status in PASSING or status >= 500
                if not may_pass or attempt == self.retries:
                    raise
                wait = _wait_asked_for(error)
            time.sleep(min(0.5 * 2**attempt if wait is None else wait, MAX_WAIT))
        raise AssertionError("the loop returns or raises")

    def _wait_for_turn(self) -> None:
        """Wait until the limit on requests allows the next one, counted over all threads."""
        with self._lock:
            now = time.monotonic()
            wait = max(0.0, self._next - now)
            self._next = max(self._next, now) + self._gap
            self.calls += 1
        time.sleep(wait)


def _wait_asked_for(error: Exception) -> float | None:
    """Return the seconds that an endpoint asks to wait; None if it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = headers.get("retry-after", "")
    return float(asked) if SECONDS.fullmatch(asked.strip()) else None


def open_endpoint(spec: str, **options: Any) -> Endpoint:
    """Return the endpoint that a recipe names.

    Args:
        spec: `model@url`, such as `gpt-4o@https://api.openai.com/v1`. `#NAME` after the URL names
            the environment variable of its key, as in
            `qwen-plus@https://dashscope.aliyuncs.com/compatible-mode/v1#DASHSCOPE_API_KEY`. Without
            `#NAME`, api.openai.com gets the key in OPENAI_API_KEY, and other endpoints get no key.
        **options: Other arguments of `Endpoint`.

    Raises:
        ValueError: `spec` has another form, or the key is not set.
    """
    name, url, variable = parts(spec)
    if not name:
        raise ValueError(NO_ENDPOINT.format(spec=spec))
    return Endpoint(name, url, key_variable=variable, **options)


def parts(spec: str) -> tuple[str, str, str]:
    """Return the model's name, the URL and the key's variable of an endpoint's description.

    Args:
        spec: `model@url#VARIABLE`, where `model@` and `#VARIABLE` may be missing.

    Raises:
        ValueError: `spec` has another form.
    """
    found = SPEC.fullmatch(spec)
    if not found:
        raise ValueError(NO_ENDPOINT.format(spec=spec))
    name, url, variable = (part or "" for part in found.groups())
    if not variable and is_openai(url):
        variable = "OPENAI_API_KEY"
    return name, url, variable
