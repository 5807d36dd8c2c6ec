"""The differences between our server and the server of transformers: one model, few routes.

Import this module only where the packages for serving are installed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import uuid
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from transformers import StoppingCriteriaList
from transformers.cli.serving import chat_completion
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import DirectStreamer, GenerateManager, GenerationState

from finlab.models import generation, tokenization

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NEW_TOKENS = 1024  # most tokens of an answer, if neither the request nor the model sets a limit
MAX_BODY = 4 << 20  # most bytes of a request
MOST_READ = 64 << 20  # bytes read of a request that is too large, so that the client gets the error
LOOK_EVERY = 0.25  # seconds between two checks whether the client is still connected
# The fields that a request may have. A client's own chat template or generation_config could keep
# the server busy forever, or fill its memory.
FIELDS = frozenset(
    "messages model stream max_tokens max_completion_tokens temperature top_p seed stop tools "
    "frequency_penalty presence_penalty n user stream_options tool_choice parallel_tool_calls "
    "chat_template_kwargs".split()
)
TEMPLATE_FIELDS = (tokenization.THINKING_SWITCH,)
LIMITS = {  # field: (least, most)
    "max_tokens": (1, 1_000_000),
    "max_completion_tokens": (1, 1_000_000),
    "temperature": (0, 2),
    "top_p": (0.0, 1),
    "n": (1, 1),
    "seed": (0, 2**32 - 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}


# --- the app -------------------------------------------------------------------------------------
def build(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> FastAPI:
    """Return a server with three routes: chat completions, the list of models, health.

    The server of transformers has more routes: it can load other models, reset itself, and take
    audio.

    Args:
        name: The name by which clients request the model.
        model: The model.
        tokenizer: The tokenizer of the model.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    manager = Manager()
    handler = ChatHandler(OneModel(name, model, tokenizer), State(manager))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        body = await _body(request)
        answer = asyncio.create_task(handler.handle_request(body, request_id))
        while not (await asyncio.wait([answer], timeout=LOOK_EVERY))[0]:
            if await request.is_disconnected():
                manager.gone.add(request_id)
        return await answer

    @app.get("/v1/models")
    def models() -> dict:
        listed = {"id": name, "object": "model", "owned_by": "finlab", "created": 0}
        return {"object": "list", "data": [listed]}

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok"}

    app.add_exception_handler(404, _refused)
    app.add_exception_handler(405, _refused)
    app.add_exception_handler(HTTPException, _refused)
    return app


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """Return an error in OpenAI's form."""
    status = getattr(error, "status_code", 400)
    said = str(getattr(error, "detail", error)).encode("utf-8", "replace").decode()
    content = {"error": {"message": said, "type": "invalid_request_error"}}
    return JSONResponse(content, status_code=status)


async def _body(request: Request) -> dict:
    """Return the JSON object of a request.

    Raises:
        HTTPException: The request is too large, or it is not a JSON object.
    """
    content = bytearray()
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= MAX_BODY:
            content += part
        elif size > MOST_READ:
            break
    if size > MAX_BODY:
        raise HTTPException(413, f"the request is larger than {MAX_BODY >> 20} MB: shorten it")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the request is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return body


# --- one model -----------------------------------------------------------------------------------
class OneModel(ModelManager):
    """A manager of one model that is loaded already.

    Args:
        name: The name by which clients request the model.
        model: The model.
        tokenizer: The tokenizer of the model.
    """

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__(model_timeout=-1)
        self.force_model = name
        self.model = model
        self.tokenizer = tokenizer

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """Return the name unchanged, because there are no revisions."""
        return model_id

    def load_model_and_processor(
        self, *_: Any, **__: Any
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model and its tokenizer."""
        return self.model, self.tokenizer


class WholeStreamer(DirectStreamer):
    """A streamer that sends an unfinished tool call as text; transformers' own drops it."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._raw = ""
        self._said = ""
        self._decode = self._decode_stream
        self._decode_stream = self

    def step(self, tokenizer: Any, token_id: int) -> str | None:
        """Return the text of a token, and remember it."""
        text = self._decode.step(tokenizer, token_id)
        self._raw += text or ""
        return text

    def _enqueue(self, item: Any) -> None:
        """Send an item on; at the end, first send an unfinished tool call as text."""
        if isinstance(item, str):
            self._said += item
        elif item is not None:
            self._raw = self._said = ""  # the item is a whole tool call, or thinking
        elif self._parser is not None:
            rest = self._raw.removeprefix(self._said)
            if rest.lstrip().startswith("<tool_call>"):
                super()._enqueue(rest)
        super()._enqueue(item)


class Manager(GenerateManager):
    """Generates one answer after another, and stops an answer when its client disconnects.

    Attributes:
        gone: Ids of the requests whose clients have disconnected.
    """

    def __init__(self):
        super().__init__()
        self.gone: set[str] = set()

    def generate_streaming(self, *arguments: Any, **options: Any) -> tuple:
        """Start a streamed answer; see GenerateManager in transformers."""
        from transformers.cli.serving import utils

        plain = utils.DirectStreamer
        utils.DirectStreamer = WholeStreamer  # it cannot be given as an argument
        try:
            return super().generate_streaming(*arguments, **options)
        finally:
            utils.DirectStreamer = plain

    async def generate_non_streaming(
        self,
        model: PreTrainedModel,
        processor: PreTrainedTokenizerBase,
        inputs: dict,
        gen_config: GenerationConfig,
        request_id: str,
    ) -> tuple[str, int, Any]:
        """Return a whole answer; see GenerateManager in transformers."""
        stop = StoppingCriteriaList([lambda *_: request_id in self.gone])
        sequences = await self.async_submit(
            model.generate,
            **inputs,
            generation_config=gen_config,
            tokenizer=processor,
            stopping_criteria=stop,
        )
        self.gone.discard(request_id)
        length = inputs["input_ids"].shape[-1]
        new = sequences[0, length:]
        return processor.decode(new, skip_special_tokens=True), length, new


class State(GenerationState):
    """The generation state of transformers, with our manager.

    Args:
        manager: The manager that generates all answers.
    """

    def __init__(self, manager: Manager):
        super().__init__()
        self.manager = manager

    def get_manager(self, model_id: str, use_cb: bool = False) -> Manager:
        """Return the manager of the one model."""
        return self.manager


# --- chats ---------------------------------------------------------------------------------------
def parsed_or_raw(*arguments: Any, cleaned_content: str = "", **options: Any) -> tuple:
    """Return (content, thinking, tool calls) of an answer.

    An answer with an unfinished tool call is returned as content, unchanged. The function in
    transformers raises an error there, and the whole request fails.

    Args:
        *arguments: Arguments of `parse_assistant_message` in transformers.
        cleaned_content: The answer without special tokens.
        **options: Options of `parse_assistant_message` in transformers.
    """
    try:
        return _parse(*arguments, cleaned_content=cleaned_content, **options)
    except ValueError:
        return cleaned_content, None, None


_parse = chat_completion.parse_assistant_message
chat_completion.parse_assistant_message = parsed_or_raw


def _require(body: dict) -> None:
    """Raise an error if a request asks for something that this server does not offer.

    Args:
        body: The request. Whole numbers given as floats are changed to integers in place.

    Raises:
        ValueError: A field is unknown or out of its range, or there are no messages.
    """
    unknown = sorted(set(body) - FIELDS)
    if unknown:
        raise ValueError(f"Unexpected fields in the request: {', '.join(unknown)}")
    for name, (least, most) in LIMITS.items():
        value = body.get(name)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"{name} can be a number from {least:g} to {most:g}")
        if isinstance(least, int) and name != "temperature" and "penalty" not in name:
            body[name] = int(value)
    options = body.get("chat_template_kwargs") or {}
    if not isinstance(options, dict) or set(options) - set(TEMPLATE_FIELDS):
        raise ValueError(f"chat_template_kwargs can hold {', '.join(TEMPLATE_FIELDS)} alone")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("it needs messages, a list of {role, content}")


class ChatHandler(ChatCompletionHandler):
    """Answers chats, and refuses in one sentence what it cannot answer."""

    async def handle_request(self, body: dict, request_id: str) -> Response:
        """Answer a request; see ChatCompletionHandler in transformers.

        Args:
            body: The request in OpenAI's form.
            request_id: Id of the request.

        Raises:
            HTTPException: Status 400, with one sentence that says what is wrong.
        """
        try:
            _require(body)
            # In a thread, so that the server can serve other clients during a long prompt.
            await asyncio.to_thread(self._fit, body)
            return await super().handle_request(body, request_id)
        except HTTPException:
            raise
        except Exception as error:  # the server must survive any error of a request
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            logger.warning("refused: %s", reason)
            raise HTTPException(400, f"the request cannot be answered: {reason}") from None

    def _fit(self, body: dict) -> None:
        """Set `max_tokens` to at most the room that the prompt leaves in the context.

        Args:
            body: The request, changed in place.

        Raises:
            ValueError: The prompt fills the context.
        """
        model, tokenizer = self.model_manager.model, self.model_manager.tokenizer
        modality = self.model_manager.get_model_modality(model, processor=tokenizer)
        prompt = tokenizer.apply_chat_template(
            self.get_processor_inputs_from_messages(body["messages"], modality),
            add_generation_prompt=True,
            tools=body.get("tools"),
            tokenize=True,
            return_dict=True,
            **body.get("chat_template_kwargs") or {},
        )
        own = getattr(model.generation_config, "max_new_tokens", None) or NEW_TOKENS
        asked = body.pop("max_completion_tokens", None) or body.get("max_tokens") or own
        left = generation.room_for_answer(model, len(prompt["input_ids"]))
        body["max_tokens"] = min(asked, left)

    def _build_generation_config(
        self, body: dict, model_generation_config: GenerationConfig, use_cb: bool = False
    ) -> GenerationConfig:
        """Return the settings of an answer; a temperature or top_p turns sampling on."""
        config = super()._build_generation_config(body, model_generation_config, use_cb)
        drawn = generation.draws(body.get("temperature"), body.get("top_p"))
        if drawn is not None:
            config.do_sample = drawn
        if drawn is False:
            config.temperature = 1.0
        return config
