"""What our server does differently from transformers': one model, few routes.

It is imported only where the packages for serving are installed.
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

from finlab.models import generation

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NEW_TOKENS = 1024  # of an answer, where neither the request nor the model says
MAX_BODY = 4 << 20  # bytes of a request
MOST_READ = 64 << 20  # bytes that are heard out, so that a client can read why it is refused
LOOK_EVERY = 0.25  # seconds between two looks whether a client is still there
# What a request may hold. A chat template or a generation_config of a client's own could keep the
# server busy for ever, or fill its memory.
FIELDS = frozenset(
    "messages model stream max_tokens max_completion_tokens temperature top_p seed stop tools "
    "frequency_penalty presence_penalty n user stream_options tool_choice parallel_tool_calls "
    "chat_template_kwargs".split()
)
TEMPLATE_FIELDS = ("enable_thinking",)
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
    """Return a server with three routes: chats, the list of models, health.

    transformers' server has more: it would load other models, reset itself, and take audio.

    Args:
        name: By which clients ask for the model.
        model: The model.
        tokenizer: Its tokenizer.
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
        HTTPException: It is too large, or no JSON object.
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
        name: By which clients ask for it.
        model: The model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__(model_timeout=-1)
        self.force_model = name
        self.model = model
        self.tokenizer = tokenizer

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """Return the name as it is: there are no revisions."""
        return model_id

    def load_model_and_processor(
        self, *_: Any, **__: Any
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model and its tokenizer."""
        return self.model, self.tokenizer


class WholeStreamer(DirectStreamer):
    """A streamer that shows half a call of a tool as text, which transformers' own drops."""

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
        """Send an item on; before the end, what no item has held."""
        if isinstance(item, str):
            self._said += item
        elif item is not None:
            self._raw = self._said = ""  # a whole call, or thinking
        elif self._parser is not None:
            rest = self._raw.removeprefix(self._said)
            if rest.lstrip().startswith("<tool_call>"):
                super()._enqueue(rest)
        super()._enqueue(item)


class Manager(GenerateManager):
    """Generates one answer after another, and leaves one whose client has gone.

    Attributes:
        gone: Requests whose clients have gone.
    """

    def __init__(self):
        super().__init__()
        self.gone: set[str] = set()

    def generate_streaming(self, *arguments: Any, **options: Any) -> tuple:
        """Start a streamed answer; see transformers' manager."""
        from transformers.cli.serving import utils

        plain = utils.DirectStreamer
        utils.DirectStreamer = WholeStreamer  # its class is fixed in transformers' function
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
        """Return a whole answer; see transformers' manager."""
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
    """Holds our manager.

    Args:
        manager: It.
    """

    def __init__(self, manager: Manager):
        super().__init__()
        self.manager = manager

    def get_manager(self, model_id: str, use_cb: bool = False) -> Manager:
        """Return the manager of the one model."""
        return self.manager


# --- chats ---------------------------------------------------------------------------------------
def parsed_or_raw(*arguments: Any, cleaned_content: str = "", **options: Any) -> tuple:
    """Return content, thinking and calls of an answer; one whose call is broken off as it is.

    transformers' own reader fails on half a call, and the request with it.

    Args:
        *arguments: Of transformers' reader.
        cleaned_content: The answer without special tokens.
        **options: Of transformers' reader.
    """
    try:
        return _parse(*arguments, cleaned_content=cleaned_content, **options)
    except ValueError:
        return cleaned_content, None, None


_parse = chat_completion.parse_assistant_message
chat_completion.parse_assistant_message = parsed_or_raw


def _require(body: dict) -> None:
    """Refuse a request that asks for what is not to be had here.

    Args:
        body: The request.

    Raises:
        ValueError: A field is not known, or out of its range.
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
        """Answer a request; see transformers' handler.

        Args:
            body: In OpenAI's form.
            request_id: Of the request.

        Raises:
            HTTPException: 400, with a sentence.
        """
        try:
            _require(body)
            # Not on the loop: other clients are heard while a long prompt is read.
            await asyncio.to_thread(self._fit, body)
            return await super().handle_request(body, request_id)
        except HTTPException:
            raise
        except Exception as error:  # whatever a request brings about, the server stays up
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            logger.warning("refused: %s", reason)
            raise HTTPException(400, f"the request cannot be answered: {reason}") from None

    def _fit(self, body: dict) -> None:
        """Give the answer the room that the prompt leaves; refuse a prompt without room.

        Args:
            body: The request, changed in place.
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
