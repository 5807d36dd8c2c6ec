"""The headlines of each step for the report's first page, in English and Chinese."""

from finlab.show.headlines.answering import of_evaluation, of_knowledge, of_reasoning
from finlab.show.headlines.preparing import of_base, of_corpus, of_tokenizer
from finlab.show.headlines.training import (
    of_dpo,
    of_pretraining,
    of_quantization,
    of_sft,
    of_throughput,
)
from finlab.show.headlines.wording import verdict_on

__all__ = [
    "of_base",
    "of_corpus",
    "of_dpo",
    "of_evaluation",
    "of_knowledge",
    "of_pretraining",
    "of_quantization",
    "of_reasoning",
    "of_sft",
    "of_throughput",
    "of_tokenizer",
    "verdict_on",
]
