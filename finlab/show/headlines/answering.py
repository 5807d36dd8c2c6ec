"""The headlines of evaluation, knowledge and reasoning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finlab.run.headline import Headline, Line, Picture, Words
from finlab.show.headlines.wording import CHANCE, chinese, named, scored, verdict_on

if TYPE_CHECKING:
    from finlab.show.figures import Drawing


def of_evaluation(
    metrics: dict[str, Any],
    last: str,
    letters: str,
    written: str,
    figures: dict[str, Drawing | None],
) -> Headline:
    """Return the headline of notebook 07.

    Args:
        metrics: The metrics of the notebook.
        last: Name of the last full model of the run.
        letters: The setting that asks for a letter, such as `official:5`.
        written: The setting in which the model writes its answers, such as `generate:0`.
        figures: The figures `accuracy` and `gain`; None for a missing figure.
    """
    lines = []
    for domain, models in metrics["by_domain"].items():
        for name, score in models.items():
            value = scored(score)
            if score.get("no_answer"):
                value += f", {score['no_answer']} without an answer"
            words = Words(f"accuracy, {domain}, {name}", f"准确率，{chinese(domain)}，{name}")
            lines.append(Line(words, value))
    lines += _verdicts(metrics, last)
    judgement = metrics["judgement"]
    if judgement["n"]:
        words = Words(f"win rate of the candidate, judged by {judgement['judge']}", "候选模型胜率")
        lines.append(Line(words, scored(judgement, "win_rate")))
    warnings = _letters_at_chance(metrics, last, letters)
    warnings += _unparsed(metrics["scores"], last, written)
    return Headline(lines, _pictures(figures), warnings)


def _pictures(figures: dict[str, Drawing | None]) -> list[Picture]:
    """Return the figures that exist, with titles, for the first page."""
    titles = {
        "accuracy": Words("Accuracy by stage, with 95% intervals", "各阶段准确率及 95% 区间"),
        "gain": Words("What was gained, what was forgotten", "得到了什么，忘掉了什么"),
    }
    found = []
    for name, figure in figures.items():
        if figure is not None:
            found.append(Picture(titles[name], figure))
    return found


def _verdicts(metrics: dict[str, Any], last: str) -> list[Line]:
    """Return a line for each domain: what all steps together gained, and which model was best.

    Args:
        metrics: The metrics of notebook 07.
        last: Name of the last full model of the run.
    """
    lines = []
    weights = {"finance": 9, "general": 8}
    for domain, models in metrics["by_domain"].items():
        first = next(iter(models))
        moved = metrics["moved"].get(last, {}).get(domain)
        if moved is None:
            continue
        said = verdict_on(moved)
        begin, end = models[first]["accuracy"], models[last]["accuracy"]
        en = f"{domain.capitalize()} questions: {begin:.0%} right before, {end:.0%} after ("
        zh = f"{chinese(domain)}题：之前答对 {begin:.0%}，之后 {end:.0%}（"
        en, zh = f"{en}{said.en})", f"{zh}{said.zh}）"
        if models[last]["ci_low"] <= CHANCE <= models[last]["ci_high"]:
            en, zh = f"{en}, which guessing gives too", f"{zh}，乱猜也是这个水平"
        best = _best(models)
        if models[best]["ci_low"] > end:
            peak = models[best]["accuracy"]
            en += f"; {best} was better, {peak:.0%}: later steps gave some of it up"
            zh += f"；{best} 曾达到 {peak:.0%}，后面的步骤又丢掉了一部分"
        value = f"{moved['difference']:+.3f} [{moved['ci_low']:+.3f}, {moved['ci_high']:+.3f}]"
        words = named(f"{last} against {first}", f"{last} 对 {first}", domain)
        lines.append(Line(words, value, Words(f"{en}.", f"{zh}。"), weights.get(domain, 4)))
    return lines


def _best(models: dict[str, dict[str, Any]]) -> str:
    """Return the name of the full model with the highest accuracy."""
    full = [name for name in models if not name.startswith("quantize")]
    return max(full, key=lambda name: models[name]["accuracy"])


def _letters_at_chance(metrics: dict[str, Any], model: str, setting: str) -> list[Words]:
    """Return a warning where the model does no better than guessing a letter.

    Args:
        metrics: The metrics of notebook 07.
        model: Name of the model.
        setting: The setting that asks for a letter.
    """
    if setting.startswith("text"):
        return []  # no letters are asked for
    scores = metrics["scores"]
    lines = [each for each in scores if each["model"] == model and each["setting"] == setting]
    at_chance = [each for each in lines if each["ci_low"] <= CHANCE <= each["ci_high"]]
    if not at_chance:
        return []
    share = f"{len(at_chance)} / {len(lines)}"
    en = f"Asked for a letter ({setting}), {model} is at chance on {share} exams"
    zh = f"要求选字母时（{setting}），{model} 在 {share} 个考试上与乱猜无异"
    if any(models[model]["ci_low"] > CHANCE for models in metrics["by_domain"].values()):
        en += ": it knows facts and has not learnt that A stands for an option"
        zh += "：它记住了事实，却没有学会字母代表哪个选项"
    return [Words(f"{en}.", f"{zh}。")]


def _unparsed(scores: list[dict[str, Any]], model: str, setting: str) -> list[Words]:
    """Return a warning where written answers name no option.

    Args:
        scores: All score lines.
        model: Name of the model.
        setting: The setting in which the model writes its answers.
    """
    lines = [each for each in scores if each["model"] == model and each["setting"] == setting]
    asked = sum(each["n"] for each in lines)
    lost = sum(each["unparsed"] for each in lines)
    if not lost:
        return []
    return [
        Words(
            f"Asked in chat ({setting}), {lost} of {asked} written answers name no option; they "
            "count as wrong. A small model answers in words of its own.",
            f"用对话方式提问时（{setting}），{asked} 个书面回答中有 {lost} 个没有给出选项，按答错计。"
            "小模型会用自己的话作答。",
        )
    ]


def of_knowledge(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 08.

    Args:
        metrics: The metrics of the notebook.
    """
    accuracy = metrics["accuracy"]
    alone = accuracy["without"]["value"]
    guarded = accuracy.get("guarded", accuracy["without"])["value"]
    sentence = Words(
        f"With documents at hand, {guarded:.0%} of the questions are answered right and with "
        f"sources, {alone:.0%} without them.",
        f"查阅资料后，{guarded:.0%} 的问题答对并注明出处；不查时为 {alone:.0%}。",
    )
    lines = []
    for way, score in accuracy.items():
        words = Words(f"right answers, {way}", f"答对比例，{way}")
        weighs = way == "guarded"
        value = scored(score, "value")
        lines.append(Line(words, value, sentence if weighs else None, 7 if weighs else 0))
    for base, row in metrics["recall_at_k"].items():
        value = f"{row['recall at 1']:.3f}, n {row['questions']}"
        lines.append(Line(Words(f"recall at 1, {base}", f"前 1 召回率，{base}"), value))
    tiers = ", ".join(f"{tier} {count}" for tier, count in metrics["answered_from"].items())
    lines.append(Line(Words("questions answered from", "答案来自"), tiers))
    share = metrics["unsupported_share"]
    lines.append(
        Line(
            Words("sentences of the model that its passages do not support", "模型句子中无依据的"),
            f"{share:.2f}",
        )
    )
    warnings = []
    if share > 0.1:
        warnings.append(
            Words(
                f"{share:.0%} of the sentences that the tuned model writes by itself have no "
                "support in its passages: serve it guarded.",
                f"微调模型自己写的句子有 {share:.0%} 得不到资料支持：部署时请启用校验。",
            )
        )
    return Headline(lines, warnings=warnings)


def of_reasoning(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 10.

    Args:
        metrics: The metrics of the notebook.
    """
    before, after = metrics["accuracy"]["before"], metrics["accuracy"]["after"]
    said = verdict_on(metrics["gained"])
    sentence = Words(
        f"Reasoning: {before['accuracy']:.0%} of the checkable questions are right after learning "
        f"chains, {after['accuracy']:.0%} after reinforcement ({said.en}).",
        f"推理：学习思维链后答对 {before['accuracy']:.0%}，强化学习后 {after['accuracy']:.0%}"
        f"（{said.zh}）。",
    )
    lines = []
    for score, en, zh in (
        (before, "after SFT on chains", "学习思维链之后"),
        (after, "after reinforcement", "强化学习之后"),
    ):
        value = f"{scored(score)}, cut off {score['cap_share']:.1%}"
        lines.append(Line(Words(f"held-out questions, {en}", f"留出问题，{zh}"), value))
    lines[-1] = Line(lines[-1].quantity, lines[-1].value, sentence, weight=7)
    for name, score in metrics["tools"].items():
        words = Words(
            f"calls of tools, precision and recall, {name}", f"工具调用，精确率与召回率，{name}"
        )
        lines.append(Line(words, f"{score['call_precision']:.2f}, {score['call_recall']:.2f}"))
    for corner, of_model in metrics["bits_per_character"].items():
        values = " → ".join(f"{value:.3f}" for value in of_model.values())
        words = named("bits per character", "每字符比特数", corner)
        lines.append(Line(words, f"{values} ({', '.join(of_model)})"))
    warnings = []
    if metrics["paid_but_wrong"]:
        paid = metrics["paid_but_wrong"]
        words = Words(
            "paid although wrong, by a reward that can be gamed", "被钻空子的奖励：错也得分"
        )
        lines.append(Line(words, f"{paid:.0%} of the last completions"))
    return Headline(lines, warnings=warnings)
