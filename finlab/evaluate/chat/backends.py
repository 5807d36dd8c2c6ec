"""The models that answer in a chat: on this machine, or behind an endpoint.

model = backends.open_backend("runs/smoke/dpo/artifact/model")     # or an adapter, or a URL
for piece in model.stream([{"role": "user", "content": "你好"}], {"max_new_tokens": 64}):
    print(piece, end="")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finlab import paths
from finlab.evaluate import endpoints
from finlab.models import folders, generation, loading, tokenization
from finlab.run import model_card

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEW_TOKENS = 512  # tokens of an answer, where neither the model nor the user sets a number
# {name of a setting in transformers: its name in OpenAI's interface}.
OPENAI_NAMES = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p"}
Settings = dict[str, Any]


class Backend(Protocol):
    """A model that answers.

    Attributes:
        name: Name of the model, as a reader sees it.
    """

    name: str

    def stream(self, messages: list[dict], settings: Settings) -> Iterator[str]:
        """Yield the answer to a dialogue, piece by piece.

        Args:
            messages: The dialogue, which ends with the user.
            settings: max_new_tokens, temperature, top_p; the model's own value is used for a
                missing one.

        Raises:
            ValueError: There is no answer, or the dialogue is longer than the context.
        """


class LocalModel:
    """A model on this machine.

    Args:
        model: The model.
        tokenizer: The tokenizer of `model`, with a chat template.
        name: Name of the model, as a reader sees it; empty takes the name of its folder.

    Raises:
        ValueError: The tokenizer has no chat template.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = ""):
        if not tokenizer.chat_template:
            raise ValueError(
                f"{name or 'the model'} has no chat template, so it is a base and no chat model: "
                "talk to the model of step sft or dpo"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or Path(str(model.name_or_path)).name

    def stream(self, messages: list[dict], settings: Settings) -> Iterator[str]:
        """Yield the answer to a dialogue; see `Backend.stream`."""
        settings = dict(settings)
        own = getattr(self.model.generation_config, "max_new_tokens", None)
        settings.setdefault("max_new_tokens", own or NEW_TOKENS)
        drawn = generation.draws(settings.get("temperature"), settings.get("top_p"))
        if drawn is not None:
            settings["do_sample"] = drawn
        if drawn is False:
            del settings["temperature"]
        return generation.stream_messages(self.model, self.tokenizer, messages, **settings)


class RemoteModel:
    """A model behind an OpenAI-compatible endpoint: `finlab serve`, vLLM, a provider.

    Args:
        base_url: The URL of the endpoint, such as http://localhost:8000/v1.
        name: The model's name at the endpoint; empty takes the first model that it lists.
        key_variable: The environment variable that holds the key; empty for no key.
        timeout: Seconds that the endpoint may be silent.

    Raises:
        ValueError: The endpoint cannot be reached, or lists no model.
    """

    def __init__(self, base_url: str, name: str = "", key_variable: str = "", timeout: float = 120):
        self.client = endpoints.client(base_url, key_variable, timeout, who=name)
        self.base_url = base_url
        self.streams = True
        self.chunks = 0  # number of chunks in the last stream
        self.name = name or self._first_model()

    @property
    def here(self) -> bool:
        """Whether the endpoint is on this machine."""
        return endpoints.is_here(self.base_url)

    def _first_model(self) -> str:
        """Return the name of the first model that the endpoint lists."""
        try:
            listed = [model.id for model in self.client.models.list().data]
        except Exception as error:  # its answer may have any form
            raise ValueError(self._what_happened(error)) from None
        if not listed:
            raise ValueError(f"{self.base_url} lists no model: name one, as model@{self.base_url}")
        return listed[0]

    def stream(self, messages: list[dict], settings: Settings) -> Iterator[str]:
        """Yield the answer to a dialogue; see `Backend.stream`."""
        options = {OPENAI_NAMES[name]: value for name, value in settings.items()}
        try:
            if self.streams:
                self.chunks = 0
                yield from self._pieces(messages, options)
            if not self.streams or not self.chunks:
                # An endpoint that cannot stream sends one whole answer, which gives no chunks.
                self.streams = False
                yield self._whole(messages, options)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(self._what_happened(error)) from None

    def _pieces(self, messages: list[dict], options: dict[str, Any]) -> Iterator[str]:
        """Yield the text that the endpoint streams, piece by piece."""
        import openai

        try:
            stream = self.client.chat.completions.create(
                model=self.name, messages=messages, stream=True, **options
            )
        except openai.BadRequestError as error:
            if "stream" not in str(error):
                raise
            return
        ended = None
        with stream:
            for chunk in stream:
                self.chunks += 1
                if not chunk.choices:
                    continue
                ended = chunk.choices[0].finish_reason or ended
                if chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
        if self.chunks and not ended:
            raise ValueError(f"{self.base_url} broke off in the middle of its answer")

    def _whole(self, messages: list[dict], options: dict[str, Any]) -> str:
        """Return an answer that is sent as a whole."""
        completion = self.client.chat.completions.create(
            model=self.name, messages=messages, **options
        )
        return endpoints.text_of(completion)

    def _what_happened(self, error: Exception) -> str:
        """Return one sentence about a request that failed."""
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, dict) else body
        said = said if isinstance(said, str) else None
        reason = " ".join(str(said or error).split())[:300]
        if type(error).__name__ in ("APIConnectionError", "APITimeoutError"):
            return f"{self.base_url} does not answer ({reason}): is the server running there?"
        return f"{self.base_url} refused: {reason}"


def open_backend(target: str, dtype: str = "", timeout: float = 120) -> Backend:
    """Open the model that answers.

    Args:
        target: The folder of a model or an adapter, a hub id, a URL, or `model@URL#KEY_VARIABLE`.
        dtype: Type of the weights on this machine; empty takes float32 on a CPU and bfloat16 on a
            GPU.
        timeout: Seconds that an endpoint may be silent.

    Raises:
        ValueError: There is no such model.
    """
    if "http://" in target or "https://" in target:
        name, url, variable = endpoints.parts(target)
        return RemoteModel(url, name, variable, timeout)
    folder = paths.resolve(target)
    source = str(folder) if folder.is_dir() else str(folders.fetch(target))
    tokenizer = tokenization.load(source)
    model = loading.load(source, dtype or loading.usual_dtype())
    return LocalModel(
        model, tokenizer, model_card.model_name(folder) if folder.is_dir() else target
    )
