"""Evaluation: bits per character, intervals and paired tests."""

from __future__ import annotations

import math
from pathlib import Path


def bits_per_character(model: object, tokenizer: object, texts: list[str], max_length: int = 0, batch_tokens: int = 8192) -> float:
    """Return the bits the model needs per character of the texts, each read as a document with BOS and EOS.

    Comparable across tokenizers, which perplexity per token is not. Texts longer than the context are read in pieces. Batches
    hold up to `batch_tokens` tokens with padding; the log-probabilities are summed in float32.
    """
    import torch

    limit = max_length or model.config.max_position_embeddings
    pieces = sorted((ids for row in documents(tokenizer, texts) for ids in _cut(row, limit)), key=len)
    nats, position = 0.0, 0
    while position < len(pieces):
        count = 1
        while position + count < len(pieces) and (count + 1) * len(pieces[position + count]) <= batch_tokens:
            count += 1
        batch = pieces[position:position + count]
        longest = len(batch[-1])
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=model.device)
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=model.device)
        with torch.inference_mode():
            scores = model(ids, attention_mask=real).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(batch), -1)
        nats += (losses * real[:, 1:]).sum().item()
        position += count
    return nats / math.log(2) / max(sum(map(len, texts)), 1)


def answer_log_probs(model: object, pairs: list[dict], batch_tokens: int = 8192) -> list[dict[str, float]]:
    """Return {chosen, rejected}, the log-probability of each pair's answers after their prompt, in nats, summed over tokens.

    Pairs are those of `chat.encode_pairs`. A plain forward pass and a float32 softmax: nothing of a trainer's, so it can prove one.
    """
    import torch

    rows = [(number, side, pair["prompt_ids"], pair[f"{side}_ids"]) for number, pair in enumerate(pairs) for side in ("chosen", "rejected")]
    rows.sort(key=lambda row: len(row[2]) + len(row[3]))
    found: list[dict[str, float]] = [{} for _ in pairs]
    model.eval()
    while rows:
        longest = len(rows[-1][2]) + len(rows[-1][3])
        part = rows[-max(1, batch_tokens // longest):]
        del rows[-len(part):]
        sizes = torch.tensor([len(prompt) + len(answer) for _, _, prompt, answer in part], device=model.device)
        ids = torch.tensor([prompt + answer + [0] * (longest - len(prompt) - len(answer)) for _, _, prompt, answer in part], device=model.device)
        real = (torch.arange(longest, device=model.device) < sizes[:, None]).long()
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits
        for place, (number, side, prompt, answer) in enumerate(part):
            span = logits[place, len(prompt) - 1:len(prompt) + len(answer) - 1].float().log_softmax(-1)
            found[number][side] = span.gather(1, ids[place, len(prompt):len(prompt) + len(answer), None]).sum().item()
    return found


def documents(tokenizer: object, texts: list[str]) -> list[list[int]]:
    """Return the ids of texts as documents to be measured: every character is predicted from something.

    Qwen has no BOS, so the end of another document stands there.
    """
    from finlab import tokenizer as tokenizers

    first = [tokenizer.eos_token_id] if tokenizer.bos_token_id is None else []
    return [first + ids for ids in tokenizers.encode(tokenizer, texts)]


def _cut(ids: list[int], limit: int) -> list[list[int]]:
    pieces = [ids[start:start + limit] for start in range(0, len(ids), limit)]
    return [piece for piece in pieces if len(piece) > 1]


def held_out_rows(tokenizer: object, corners: dict[str, list[str]], length: int, path: Path, parts: int = 8, most: int = 32) -> object:
    """Return held-out texts as packed rows of `length` tokens whose loss `training.fit` reports by corner, and by position in the context.

    Each corner's documents are packed under its name. For the positions all texts are joined, each with its BOS and EOS, and cut into sequences of
    `length` tokens (or one, as long as the texts last) that attend to all that stands before; up to `most` of them, evenly over the whole, are
    read. Their tokens belong to `parts` equal parts, named `position N` by the last. A model that uses its context reads later positions at
    least as well as early ones, and one beyond its trained context worse.
    """
    from datasets import Dataset, concatenate_datasets

    from finlab import mixture

    tokens = {name: documents(tokenizer, texts) for name, texts in corners.items()}
    flat = [ids for part in tokens.values() for ids in part]
    stream = [token for ids in flat for token in ids]
    size = min(length, len(stream))
    long = [stream[start:start + size] for start in range(0, len(stream) - size + 1, size)]
    long = [long[place * len(long) // most] for place in range(most)] if len(long) > most else long
    edges = [round(number * size / parts) for number in range(1, parts + 1)]
    places = [next(f"position {edge}" for edge in edges if place < edge) for place in range(size)]
    sources = [name for name, part in tokens.items() for _ in part]
    rows = mixture.write(path, mixture.pack(list(map(len, flat)), length), flat, sources=sources, names=[*corners, *dict.fromkeys(places)])
    numbers = rows.features["sources"].feature.str2int(places)
    joined = [{"input_ids": row, "labels": row, "seq_lengths": [size], "sources": numbers} for row in long]
    return concatenate_datasets([rows, Dataset.from_list(joined, features=rows.features)])


def by_position(read: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Return {before, after: {last position of a part: perplexity per token}} from `training.by_source(log, "eval_sources")`."""
    parts = {int(name.removeprefix("position ")): steps for name, steps in read.items() if name.startswith("position ")}
    return {when: {position: math.exp(steps[choose(steps)]) for position, steps in sorted(parts.items())} for when, choose in (("before", min), ("after", max))}


# --- statistics -----------------------------------------------------------------------------------------------------
def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share of `right` in `n`."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def bootstrap(values: list[float], seed: int = 0, draws: int = 4000) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the mean of values."""
    import numpy

    values, rng = numpy.asarray(values, float), numpy.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)] if len(values) else [0.0]
    return tuple(float(value) for value in numpy.quantile(means, [0.025, 0.975]))


def preferences(reference: list[dict], policy: list[dict], pairs: list[dict], beta: float) -> dict:
    """Compare a policy with its reference on held-out pairs, by `answer_log_probs` of both; pairs are those of `chat.encode_pairs`.

    Returns reward accuracy (ties are misses) and margin with n and 95% intervals (Wilson, bootstrap), the share of pairs whose chosen answer
    is the likelier one {before, after} by the sum and by the token, and the length bias: accuracy where the chosen answer is longer and where
    it is shorter, and Spearman's correlation of margin and difference in length (None where either does not vary).
    """
    from scipy.stats import spearmanr

    n = len(pairs)
    margins = [beta * ((new["chosen"] - old["chosen"]) - (new["rejected"] - old["rejected"])) for old, new in zip(reference, policy, strict=True)]
    longer = [len(pair["chosen_ids"]) - len(pair["rejected_ids"]) for pair in pairs]

    def share(hits: list[bool]) -> dict:
        low, high = wilson(sum(hits), len(hits))
        return {"value": sum(hits) / max(len(hits), 1), "ci_low": low, "ci_high": high, "n": len(hits)}

    def likelier(found: list[dict], by_token: bool) -> float:
        sizes = [(len(pair["chosen_ids"]), len(pair["rejected_ids"])) if by_token else (1, 1) for pair in pairs]
        return sum(each["chosen"] / chosen > each["rejected"] / rejected for each, (chosen, rejected) in zip(found, sizes, strict=True)) / max(n, 1)

    low, high = bootstrap(margins)
    varied = len(set(margins)) > 1 and len(set(longer)) > 1
    return {"accuracy": share([margin > 0 for margin in margins]), "margin": {"value": sum(margins) / max(n, 1), "ci_low": low, "ci_high": high, "n": n},
            "chosen_likelier": {how: {"before": likelier(reference, by), "after": likelier(policy, by)} for how, by in (("by sum", False), ("by token", True))},
            "length_bias": {"chosen longer": share([margin > 0 for margin, more in zip(margins, longer) if more > 0]),
                            "chosen shorter": share([margin > 0 for margin, more in zip(margins, longer) if more < 0]),
                            "correlation": float(spearmanr(margins, longer).statistic) if varied else None}}


def mcnemar(first: list[bool], second: list[bool]) -> dict:
    """Compare two models on the same items: exact two-sided McNemar p, and the difference with its 95% interval.

    `first` and `second` tell, item by item, who was right. Worked value: 10 against 25 discordant items give p = 0.0167.
    """
    from scipy.stats import binomtest

    n = len(first)
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    discordant, difference = only_first + only_second, (only_second - only_first) / n
    error = math.sqrt(max(discordant - (only_second - only_first) ** 2 / n, 0)) / n
    p = binomtest(only_first, discordant).pvalue if discordant else 1.0
    return {"n": n, "difference": difference, "ci_low": difference - 1.96 * error, "ci_high": difference + 1.96 * error, "p": p,
            "only_first": only_first, "only_second": only_second}


def paired(first: list[dict], second: list[dict]) -> dict:
    """Compare the records of two models (`harness.answers`) on the same items: `mcnemar`, and the bootstrap interval of the difference.

    Raises ValueError when the two did not answer the same items under the same prompt.
    """
    import numpy

    one, other = ({(record["prompt"], record["id"]): record["right"] for record in records} for records in (first, second))
    if one.keys() != other.keys():
        raise ValueError(f"the models answered different items: {len(one.keys() ^ other.keys())} stand on one side only, so they cannot be compared pairwise")
    found = mcnemar([one[item] for item in one], [other[item] for item in one])
    n, lost, won = found["n"], found["only_first"], found["only_second"]
    draws = numpy.random.default_rng(0).multinomial(n, [lost / n, won / n, 1 - (lost + won) / n], 10_000)
    low, high = numpy.quantile((draws[:, 1] - draws[:, 0]) / n, [0.025, 0.975])
    return found | {"bootstrap_low": float(low), "bootstrap_high": float(high)}


def holm(values: list[float]) -> list[float]:
    """Return p values adjusted for being many (Holm 1979): what is below 0.05 stays so for the whole family."""
    order, adjusted, least = sorted(range(len(values)), key=values.__getitem__), [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = least
    return adjusted


def accuracy(records: list[dict]) -> dict:
    """Return micro accuracy {n, accuracy, ci_low, ci_high} (Wilson) and macro {macro, macro_low, macro_high, subjects} of records.

    Macro is the plain mean over subjects, its interval a bootstrap within each subject, so that no subject drops out of a draw.
    """
    import numpy

    n, right, by = len(records), sum(record["right"] for record in records), {}
    for record in records:
        by.setdefault((record["benchmark"], record["subject"]), []).append(record["right"])
    low, high = wilson(right, n)
    rng = numpy.random.default_rng(0)
    draws = sum(rng.binomial(len(hits), sum(hits) / len(hits), 10_000) / len(hits) for hits in by.values()) / max(len(by), 1)
    macro_low, macro_high = numpy.quantile(draws, [0.025, 0.975])
    macro = sum(sum(hits) / len(hits) for hits in by.values()) / max(len(by), 1)
    return {"n": n, "accuracy": right / max(n, 1), "ci_low": low, "ci_high": high,
            "macro": macro, "macro_low": float(macro_low), "macro_high": float(macro_high), "subjects": len(by)}


def scores(model: str, records: list[dict]) -> list[dict]:
    """Return one line per benchmark and prompt: {model, benchmark, prompt, version, shots}, `accuracy`, and what was no answer.

    Records are of one setting (prompt, shots and answer token): two settings of a model are two lists.
    `unparsed`, `too_long`, `failed` and `alike` count items that are wrong for that reason (see `harness.answers`), `shortened` those asked with
    fewer examples than the others since the context was full, `ties` those whose two best options were equally likely (the first counts).
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        groups.setdefault((record["benchmark"], record["prompt"]), []).append(record)
    lines = []
    for (benchmark, prompt), part in sorted(groups.items()):
        shots, faults = part[0]["shots"], [record["fault"] for record in part]
        lines.append({"model": model, "benchmark": benchmark, "prompt": prompt, "version": prompt.rpartition("@")[2], "shots": shots, **accuracy(part),
                      "unparsed": faults.count("unparsed"), "too_long": faults.count("too long"), "failed": faults.count("failed"),
                      "alike": faults.count("options alike"), "ties": sum(record["tie"] for record in part),
                      "shortened": sum(record["examples"] < shots and record["fault"] != "too long" for record in part)})
    return lines


def baselines(items: list[dict]) -> dict:
    """Return {chance, letter, always}: the accuracy of guessing, and of always choosing the letter that is right most often."""
    from collections import Counter

    letter, count = Counter("ABCDEFGHIJ"[item["answer"]] for item in items).most_common(1)[0]
    return {"chance": sum(1 / len(item["choices"]) for item in items) / len(items), "letter": letter, "always": count / len(items)}


def published(benchmarks: set[str]) -> list[dict]:
    """Return the published scores on benchmarks, {system, benchmark, split, shots, score (percent), source, compare}, from `published.yaml`."""
    import yaml

    lines = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))
    return [line for line in lines if line["benchmark"] in benchmarks]


def by_verdict(records: list[dict], verdicts: dict[str, str]) -> dict[str, dict]:
    """Return `accuracy` on all items and on those whose text stands in no training text (clean), in parts (suspect) or mostly (contaminated)
    or which nobody has looked for (unchecked)."""
    parts = {name: [record for record in records if name in ("all", verdicts.get(record["id"], "unchecked"))]
             for name in ("all", "clean", "suspect", "contaminated", "unchecked")}
    return {name: accuracy(part) for name, part in parts.items() if part}
