"""Numbers and names as headlines say them."""

from __future__ import annotations

from typing import Any

from finlab.run.headline import Words

CHANCE = 0.25  # of four options
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
    """Return the Chinese name of a domain or corner; the name itself where none is known."""
    return NAMES.get(name, name)


def named(en: str, zh: str, name: str) -> Words:
    """Return `en, name` and its Chinese.

    Args:
        en: What is measured.
        zh: The same in Chinese.
        name: Of what.
    """
    return Words(f"{en}, {name}", f"{zh}，{chinese(name)}")


def change(pair: dict[str, float], digits: int = 3) -> str:
    """Return `before → after`."""
    return f"{pair['before']:.{digits}f} → {pair['after']:.{digits}f}"


def interval(value: dict[str, Any]) -> str:
    """Return the ends of an interval, and the number of cases."""
    return f"[{value['ci_low']:.3f}, {value['ci_high']:.3f}], n {value['n']}"


def scored(value: dict[str, Any], key: str = "accuracy") -> str:
    """Return a value with its interval.

    Args:
        value: {key, ci_low, ci_high, n}.
        key: What the value is called.
    """
    return f"{value[key]:.3f} {interval(value)}"


def verdict_on(difference: dict[str, Any]) -> Words:
    """Say whether a difference is more than chance.

    Args:
        difference: {difference, ci_low, ci_high}.
    """
    if difference["ci_low"] > 0:
        return Words("a gain beyond chance", "超出偶然的提升")
    if difference["ci_high"] < 0:
        return Words("a loss beyond chance", "超出偶然的下降")
    return Words("not told from no change", "与没有变化分不开")
