"""Pieces of HTML in two languages. A page shows the language that its reader has chosen."""

from __future__ import annotations

import html
from collections.abc import Sequence

WORDS = {
    "report": ("Report", "报告"),
    "verdict": ("The result in five sentences", "五句话看结果"),
    "figures": ("Three figures", "三张图"),
    "warnings": ("Before you use it", "使用前须知"),
    "cost": ("Time and cost", "时间与成本"),
    "results": ("All main results", "全部主要结果"),
    "sources": ("Data and licences", "数据与许可"),
    "chapters": ("The notebooks", "各步笔记本"),
    "step": ("step", "步骤"),
    "quantity": ("quantity", "指标"),
    "value": ("value", "数值"),
    "seconds": ("seconds", "秒"),
    "memory": ("peak GB", "内存峰值 GB"),
    "device": ("device", "设备"),
    "finished": ("finished", "完成时间"),
    "note": ("note", "备注"),
    "total": ("all steps", "合计"),
    "card": ("card", "数据卡"),
    "licence": ("licence", "许可"),
    "commercial": ("commercial use", "商用"),
    "allowed": ("allowed", "允许"),
    "see licence": ("see the licence", "看许可证"),
    "forbidden": ("forbidden", "禁止"),
    "trained": ("trained on in", "用于训练"),
    "code": ("code", "代码"),
    "contents": ("Contents", "目录"),
    "no notebook": ("The executed notebook was not kept.", "没有保留运行后的笔记本。"),
    "no warnings": ("Nothing speaks against these results.", "没有发现需要提醒之处。"),
    "no verdict": ("No step of this run has told a result yet.", "本次运行还没有步骤报告结果。"),
    "made earlier": (
        "This run was made by an earlier finlab, which kept no sentences: read the notebooks "
        "below, or run the steps again.",
        "本次运行由更早的 finlab 生成，没有结论句：请看下方的笔记本，或重跑各步。",
    ),
    "mixed": (
        "This run mixes steps that do not fit together. Run them again before you use a figure.",
        "本次运行混有互不匹配的步骤。使用任何数字之前，请先重跑它们。",
    ),
    "how": (
        "Sentences and figures come from the notebooks below; every figure was measured in this "
        "run.",
        "以上句子和数字都出自下方的笔记本，每个数字都在本次运行中测得。",
    ),
}


def both(english: str, chinese: str, tag: str = "span") -> str:
    """Return a text in both languages, as HTML.

    Args:
        english: The English text, as plain text.
        chinese: The Chinese text, as plain text.
        tag: Name of the HTML element around each text.
    """
    en, zh = html.escape(english), html.escape(chinese)
    return f"<{tag} class=en lang=en>{en}</{tag}><{tag} class=zh lang=zh>{zh}</{tag}>"


def say(key: str, tag: str = "span") -> str:
    """Return one of the texts in WORDS in both languages.

    Args:
        key: Key of the text in WORDS.
        tag: Name of the HTML element around each text.
    """
    return both(*WORDS[key], tag)


def of_words(words: dict[str, str], tag: str = "span") -> str:
    """Return a text of a headline in both languages.

    Args:
        words: The two texts, {en, zh}.
        tag: Name of the HTML element around each text.
    """
    return both(words["en"], words["zh"], tag)


def table(head: Sequence[str], body: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return rows of cells as an HTML table.

    Args:
        head: Keys of WORDS, one for each column.
        body: The rows; each cell is HTML.
        numbers: Indices of the columns with numbers, which are aligned to the right.
    """
    cells = "".join(f"<th>{say(key)}</th>" for key in head)
    lines = []
    for row in body:
        line = ""
        for place, cell in enumerate(row):
            line += f"<td{' class=n' if place in numbers else ''}>{cell}</td>"
        lines.append(f"<tr>{line}</tr>")
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
