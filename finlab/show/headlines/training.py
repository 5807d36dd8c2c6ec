"""The headlines of pretraining, SFT, DPO, quantization and throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finlab.evaluate import statistics
from finlab.run.headline import Headline, Line, Picture, Words
from finlab.show.headlines.wording import CHANCE, change, chinese, interval, named, scored

if TYPE_CHECKING:
    from finlab.show.figures import Drawing

FORMATS = ("full", "int8", "nf4", "gptq4", "awq4", "fp8")
LOST_BY_HALF = 1.05  # a corner whose bits grow by more than 5% is named as the price


def of_pretraining(metrics: dict[str, Any], figure: Drawing) -> Headline:
    """Return the headline of notebook 03.

    Args:
        metrics: The metrics of the notebook.
        figure: The figure of the bits per character before and after.
    """
    bits = metrics["bits_per_character"]
    lines = []
    for name, pair in bits.items():
        lines.append(Line(named("bits per character", "每字符比特数", name), change(pair)))
    if lines:
        first = lines[0]
        sentence = _gain_and_price(bits)
        lines[0] = Line(first.quantity, first.value, sentence, weight=5)
    speed = f"{metrics['tokens_per_second']:,.0f}"
    lines.append(Line(Words("tokens per second", "每秒词元数"), speed))
    title = Words("Bits per character before and after pretraining", "预训练前后的每字符比特数")
    return Headline(lines, [Picture(title, figure)])


def _gain_and_price(bits: dict[str, dict[str, float]]) -> Words:
    """Return a sentence on what pretraining gained, and which corners the model reads worse.

    Args:
        bits: {corner: {before, after}}.
    """
    ratios = {name: pair["after"] / pair["before"] for name, pair in bits.items()}
    best = min(ratios, key=ratios.get)
    worse = [name for name, ratio in ratios.items() if ratio > LOST_BY_HALF]
    gained = 1 - ratios[best]
    en = f"Pretraining reads {best} with {gained:.0%} fewer bits per character"
    zh = f"预训练后，{chinese(best)}的每字符比特数少了 {gained:.0%}"
    if gained < 0.01:
        en, zh = "Pretraining made no text easier to read", "预训练没有让任何文本更易读"
    if worse:
        told = ", ".join(f"{name} {ratios[name] - 1:+.0%}" for name in worse)
        told_zh = "，".join(f"{chinese(name)} {ratios[name] - 1:+.0%}" for name in worse)
        return Words(f"{en}; the price is {told}.", f"{zh}；代价是{told_zh}。")
    return Words(f"{en}, and no other text more than 5% worse.", f"{zh}，其他文本变差都不超过 5%。")


def of_sft(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 04.

    Args:
        metrics: The metrics of the notebook.
    """
    stages = [stage for stage in ("stage1", "stage2") if stage in metrics]
    lines = []
    for stage in stages:
        lines.append(
            Line(named("evaluation loss", "评测损失", stage), change(metrics[stage]["eval_loss"]))
        )
    for stage in stages:
        ratios = []
        shares = metrics[stage]["shares"]
        for unit in ("dialogues", "tokens"):
            general, finance = (shares[kind][f"by {unit}"] for kind in ("general", "finance"))
            ratios.append(f"{general:.2f} : {finance:.2f} of the {unit}")
        lines.append(Line(named("general : finance", "通用 : 金融", stage), ", ".join(ratios)))
    ended = metrics["ended_share"]
    lines.append(Line(Words("answers that end by themselves", "自行结束的回答"), f"{ended:.2f}"))
    warnings = []
    refusals = metrics.get("refusals")
    if refusals:
        asked, refused = refusals["asked"], refusals["refused"]
        lines.append(
            Line(Words("held-out requests that are refused", "留出的应拒请求中被拒绝的"),
                 f"{refused} / {asked}")
        )  # fmt: skip
    if ended < 0.9:
        warnings.append(
            Words(
                f"Only {ended:.0%} of the held-out answers end by themselves; the rest run into "
                "the limit.",
                f"留出问题的回答只有 {ended:.0%} 自行结束，其余写到上限才停。",
            )
        )
    return Headline(lines, warnings=warnings)


def of_dpo(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 05.

    The preference is reported by likelihood, before and after. Reward accuracy has no value before,
    since every margin is 0 at step 0.

    Args:
        metrics: The metrics of the notebook.
    """
    likelier = metrics["chosen_likelier"]["by token"]
    lines = [
        Line(
            Words("better answer likelier (by token), held out", "更偏向好回答（按词元），留出"),
            change(likelier),
        ),
        Line(
            Words("reward accuracy after DPO, held out", "DPO 后的奖励准确率，留出"),
            scored(metrics["reward_accuracy"], "value"),
        ),
        Line(
            Words("reward margin after DPO, held out", "DPO 后的奖励间隔，留出"),
            f"{metrics['reward_margin']['value']:.3f} {interval(metrics['reward_margin'])}",
        ),
        Line(Words("loss at step 0", "第 0 步的损失"), f"{metrics['loss_step0']:.4f}"),
    ]
    for domain, exam in metrics["exams"].items():
        value = f"{change(exam)}, p {exam['p']:.2f}"
        lines.append(Line(named("exam accuracy", "考试准确率", domain), value))
    return Headline(lines, warnings=_cost_of_dpo(metrics["exams"]))


def _cost_of_dpo(exams: dict[str, dict[str, Any]]) -> list[Words]:
    """Return a warning for each domain in which DPO has lost more than chance explains.

    Args:
        exams: {domain: paired comparison of the models before and after DPO}.
    """
    found = []
    for domain, exam in exams.items():
        if exam["ci_high"] < 0:
            lost = -exam["difference"]
            found.append(
                Words(
                    f"DPO cost {lost:.3f} of accuracy in {domain}, more than chance explains.",
                    f"DPO 让{chinese(domain)}准确率下降 {lost:.3f}，不能用偶然解释。",
                )
            )
    return found


def of_quantization(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 06.

    Args:
        metrics: The metrics of the notebook.
    """
    choice = metrics["choice"]["format"]
    share = metrics[choice]["bytes"] / metrics["full"]["bytes"]
    if choice == "full":
        sentence = Words(
            f"Keep the full model: {metrics['choice']['why']}.",
            "保留全精度模型：没有一种格式能证明损失在允许范围内，需要更多题目。",
        )
    else:
        sentence = Words(
            f"Serve it as {choice}: {share:.0%} of the bytes, and any loss stays within what was "
            "allowed.",
            f"可以用 {choice} 部署：只占 {share:.0%} 的字节，损失在允许范围内。",
        )
    if _at_chance(metrics):
        sentence = Words(
            "The full model answers no better than guessing, so the exams cannot tell the formats "
            "apart: decide by bits per character.",
            "全精度模型的考试成绩与乱猜无异，考试分不出各种格式：请看每字符比特数再定。",
        )
    lines = [Line(Words("format to take", "建议的格式"), choice, sentence, weight=6)]
    for name in FORMATS:
        if name not in metrics:
            continue
        row = metrics[name]
        value = f"{row['bytes']:,}, {row['bits_per_character']:.3f}, {row['accuracy']:.3f}"
        words = Words(
            f"{name}: bytes, bits per character, accuracy", f"{name}：字节、每字符比特数、准确率"
        )
        lines.append(Line(words, value))
    return Headline(lines)


def _at_chance(metrics: dict[str, Any]) -> bool:
    """Tell whether the interval of the full model's accuracy begins at or below chance.

    Args:
        metrics: The metrics of notebook 06.
    """
    asked = next((each["n"] for each in metrics["paired"].values()), 0)
    right = round(metrics["full"]["accuracy"] * asked)
    low, _ = statistics.wilson(right, asked)
    return low <= CHANCE


def of_throughput(metrics: dict[str, Any]) -> Headline:
    """Return the headline of notebook 09.

    Args:
        metrics: The metrics of the notebook.
    """
    best = max(metrics["ladder"], key=lambda row: row["tokens_per_second"])
    plan = metrics["plan"]
    hours = Words(
        f"hours of {plan['recipe']} on {plan['gpus']} x {plan['gpu']}, by the plan",
        f"{plan['recipe']} 在 {plan['gpus']} 张 {plan['gpu']} 上的小时数（按计划）",
    )
    return Headline(
        [
            Line(Words("fastest rung here", "此处最快的一级"), best["rung"]),
            Line(
                Words(
                    "tokens per second there, times plain TRL", "每秒词元数，相对原样 TRL 的倍数"
                ),
                f"{best['tokens_per_second']:,.0f}, {best['times plain TRL']:.2f}",
            ),
            Line(hours, f"{plan['hours']:.1f}"),
        ]
    )
