"""How fast exams are answered.

finlab's PrefixLM is compared with the harness's own HFLM: the same few-shot questions, the same
predictions.

    # needs FINLAB_DATA; about ten minutes on two cores; writes notebooks/results/exams.json
    python -m benchmarks.exam_speed

Two whole CMMLU subjects, five shots, the official prompt; a random Llama with 2,048 tokens of
context and Llama's real vocabulary of 32,000, in float32. HFLM reads eight questions at once, with
its one-token reuse on, which is its default. Ours runs before and after HFLM; the slower one
counts.
"""

import json
import platform
import tempfile
import time
from pathlib import Path

from finlab import paths
from finlab.data import cards
from finlab.evaluate import exams, prefix_lm
from finlab.models import sentencepieces
from finlab.run import environment

SUBJECTS = ("college_actuarial_science", "economics")
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def measure(subjects: tuple[str, ...] = SUBJECTS, most: int = 0, shots: int = 5) -> dict:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = sentencepieces.fast(paths.resolve("$FINLAB_DATA/tokenizers/llama-32000.model"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32_000, max_position_embeddings=2048, initializer_range=0.08, **SHAPE
        )
    ).eval()
    source = cards.load("cmmlu")
    with tempfile.TemporaryDirectory() as folder:
        exam = exams.prepare({"cmmlu": source}, Path(folder), "official", shots)["cmmlu"]
        exam.tasks = {
            name: task
            for name, task in exam.tasks.items()
            if next(iter(task.test_docs()))["subject"] in subjects
        }
        if most:
            for task in exam.tasks.values():
                task.dataset["test"] = task.dataset["test"].select(range(most))

        def timed(scorer: object) -> tuple[float, list[dict]]:
            began = time.perf_counter()
            records = exams.answer_exams(scorer, {"cmmlu": exam})
            return time.perf_counter() - began, records

        ours, found = [], []
        for turn in range(2):
            scorer = prefix_lm.PrefixLM(model, tokenizer, {"cmmlu": exam})
            seconds, records = timed(scorer)
            ours.append(seconds)
            found.append(records)
            if turn == 0:
                theirs = HFLM(
                    pretrained=model,
                    tokenizer=tokenizer,
                    batch_size=8,
                    max_length=2048,
                    add_bos_token=True,
                    softmax_dtype="float32",
                )
                their_seconds, reference = timed(theirs)
    n, slower = len(reference), max(ours)
    apart = max(
        abs(a - b)
        for one, other in zip(found[0], reference, strict=True)
        for a, b in zip(one["scores"], other["scores"], strict=True)
    )
    return {
        "subjects": list(subjects),
        "shots": shots,
        "questions": n,
        "ours": {
            "seconds": ours,
            "questions_per_second": n / slower,
            "tokens_encoded": scorer.counts["encoded"],
        },
        "hflm": {
            "seconds": their_seconds,
            "questions_per_second": n / their_seconds,
            "tokens_sent": scorer.counts["sent"],
        },
        "ratio": their_seconds / slower,
        "predictions_equal": sum(
            one["chosen"] == other["chosen"] for one, other in zip(found[0], reference, strict=True)
        ),
        "largest_difference": apart,
        "letters_chosen": sorted({record["chosen"] for record in reference}),
    }


def main() -> None:

    found = measure()
    record = {
        "command": "python -m benchmarks.exam_speed",
        "device": f"{environment.device()}, {platform.machine()}",
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "shape": SHAPE,
        **found,
    }
    path = paths.ROOT / "notebooks/results/exams.json"
    path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
