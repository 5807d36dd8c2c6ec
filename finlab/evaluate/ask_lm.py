"""A model class of lm-evaluation-harness for endpoints, which give no log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lm_eval.api.model import LM

from finlab.evaluate.guarded_lm import without_system

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class AskLM(LM):
    """A model of the harness that passes each question to a function, such as an endpoint.

    Args:
        ask: Function from messages to the answer, or to None for a failure, such as an `Endpoint`.
        workers: How many questions are asked at the same time.
    """

    tokenizer_name = ""
    chat = True

    def __init__(self, ask: Callable[[list[dict]], str | None], workers: int = 4):
        super().__init__()
        self.ask = ask
        self.workers = workers

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool = True) -> str:
        """Return the messages as JSON text, which `generate_until` turns back into messages."""
        return json.dumps(without_system(messages), ensure_ascii=False)

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[str | None]:
        """Return the answer to each request; None where no answer came."""

        def answer(request: Instance) -> str | None:
            return self.ask(json.loads(request.args[0]))

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(answer, requests))

    def loglikelihood(self, requests: list[Instance]) -> list:
        """Raise ValueError: an endpoint cannot say how likely a given answer is."""
        raise ValueError(
            "an endpoint gives no log-probabilities of a given answer: "
            "score it with the prompt generate"
        )

    loglikelihood_rolling = loglikelihood
