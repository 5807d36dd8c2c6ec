"""What our server answers differently from transformers': one model, and clear refusals.

It is imported only where the packages for serving are installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from jinja2 import TemplateError
from transformers.cli.serving import chat_completion
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager

from finlab.models import generation

if TYPE_CHECKING:
    from fastapi.responses import JSONResponse, StreamingResponse
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

NEW_TOKENS = 1024  # of an answer, where neither the request nor the model says
BAD_REQUEST = (ValueError, KeyError, TypeError, AttributeError, TemplateError)


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

    def load_model_and_processor(
        self, *_: Any, **__: Any
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model and its tokenizer."""
        return self.model, self.tokenizer

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict]:
        """Return the list of models, in OpenAI's form."""
        return [{"id": self.force_model, "object": "model", "owned_by": "finlab", "created": 0}]


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


class ChatHandler(ChatCompletionHandler):
    """Answers chats, and refuses in one sentence what it cannot answer."""

    async def handle_request(self, body: dict, request_id: str) -> StreamingResponse | JSONResponse:
        """Answer a request; see transformers' handler.

        Args:
            body: In OpenAI's form.
            request_id: Of the request.

        Raises:
            HTTPException: 400, with a sentence.
        """
        try:
            self._fit(body)
            return await super().handle_request(body, request_id)
        except HTTPException:
            raise
        except BAD_REQUEST as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise HTTPException(400, f"the request cannot be answered: {reason}") from None

    def _fit(self, body: dict) -> None:
        """Give the answer the room that the prompt leaves; refuse a prompt without room.

        Args:
            body: The request, changed in place.
        """
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise ValueError("it needs messages, a list of {role, content}")
        model, tokenizer = self.model_manager.model, self.model_manager.tokenizer
        modality = self.model_manager.get_model_modality(model, processor=tokenizer)
        prompt = tokenizer.apply_chat_template(
            self.get_processor_inputs_from_messages(messages, modality),
            add_generation_prompt=True,
            tools=body.get("tools"),
            tokenize=True,
            return_dict=True,
        )
        own = getattr(model.generation_config, "max_new_tokens", None) or NEW_TOKENS
        asked = body.pop("max_completion_tokens", None) or body.get("max_tokens") or own
        left = generation.room_for_answer(model, len(prompt["input_ids"]))
        body["max_tokens"] = min(int(asked), left)

    def _build_generation_config(
        self, body: dict, model_generation_config: GenerationConfig, use_cb: bool = False
    ) -> GenerationConfig:
        """Return the settings of an answer; a temperature turns sampling on."""
        config = super()._build_generation_config(body, model_generation_config, use_cb)
        if body.get("temperature") is not None:
            config.do_sample = float(body["temperature"]) > 0
        return config
