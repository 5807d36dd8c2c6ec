"""Write numbers and names as headlines show them."""

from __future__ import annotations

from typing import Any

from finlab.run.headline import Words

CHANCE = 0.25  # the accuracy of guessing among four options
NAMES = {
    "finance": "金融",
    "general": "通用",
    "zh_finance": "中文金融",
    "en_finance": "英文金融",
    "zh_general": "中文通用",
    "en_general": "英文通用",
    "en": "英文",
    "own": "底座自写文本",
    "before": "之前",
    "after": "之后",
}


def chinese(name: str) -> str:
    """Return the Chinese name of a domain or corner; the name itself if it has none."""
    return NAMES.get(name, name)


def named(en: str, zh: str, name: str) -> Words:
    """Return the words `en, name`, and the same in Chinese.

    Args:
        en: What is measured.
        zh: The same in Chinese.
        name: The domain, corner or stage for which it is measured.
    """
    return Words(f"{en}, {name}", f"{zh}，{chinese(name)}")


def change(pair: dict[str, float], digits: int = 3) -> str:
    """Return the values of a pair as `before → after`."""
    return f"{pair['before']:.{digits}f} → {pair['after']:.{digits}f}"


def interval(value: dict[str, Any]) -> str:
    """Return the ends of an interval, and the number of cases, as text."""
    return f"[{value['ci_low']:.3f}, {value['ci_high']:.3f}], n {value['n']}"


def scored(value: dict[str, Any], key: str = "accuracy") -> str:
    """Return a value with its interval, as text.

    Args:
        value: {key, ci_low, ci_high, n}.
        key: The key of the value.
    """
    return f"{value[key]:.3f} {interval(value)}"


def verdict_on(difference: dict[str, Any]) -> Words:
    """Return words that say whether a difference is more than chance.

    Args:
        difference: {difference, ci_low, ci_high}.
    """
    if difference["ci_low"] > 0:
        return Words("a gain beyond chance", "超出偶然的提升")
    if difference["ci_high"] < 0:
        return Words("a loss beyond chance", "超出偶然的下降")
    return Words("not told from no change", "与没有变化分不开")
