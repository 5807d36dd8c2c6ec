"""Names of people in Latin letters: Dear Michael, Kevin Zhou说."""

from __future__ import annotations

import re

_NAME = r"[A-Z][a-z]{1,14}(?:[ .][A-Z][a-z]{0,14}){0,2}"
_CUES = (
    r"(?:我叫|我是|姓名|户名|联系人|收件人|致|[Dd]ear|[Hh]i|[Tt]his is|I['’]?m|I am"
    r"|[Mm]y name is|attn:?|[Aa]pplicant:?|[Bb]eneficiary:?|[Cc]ontact:?|[Dd]river:?|[Aa]gent"
    r"|colleague"
    r"|assistant is|file for|[Hh]older:?|[Nn]ame:?|英文名|[Rr]egards,?|[Ss]incerely,?|[Cc]ustomer|客户"
    r"|同事|好的)[\s:：，,]{0,2}"
    r"|(?:Mr|Ms|Mrs|Miss|Dr)\.? "
)
PATTERNS = (
    re.compile(rf"(?:{_CUES}){{1,2}}({_NAME})(?![a-zA-Z])"),
    re.compile(
        rf"(?<![A-Za-z\[])({_NAME})"
        r"(?=说|你|您|在吗|先生|女士|小姐| called| says|['’]s (?:account|card|policy))"
    ),
    re.compile(
        r"(?:姓名|拼音|name(?: on it| is)?)[\s:：]{0,2}([A-Z]{2,12}[ /][A-Z]{2,12})(?![A-Z])"
    ),
)
NOT_A_NAME = re.compile(
    r"^(?:Mr|Ms|Mrs|Dr|Visa|Master|Please|Our|The|My|Best|Dear|Customer|Order|Ticker|See|Article"
    r"|Market|China|Bank|Apple|Windows|Android|Excel|Word|Java|Python|Google|Tesla|Alipay|Hong|Kong"
    r"|Beijing|Shanghai|Thanks|Hello|Team|Sir|Madam|Support|Service|All|Colleagues)\b"
)


def find(text: str) -> list[tuple[int, int]]:
    """Return where names in Latin letters stand: first character, one past the last.

    Args:
        text: A turn of a dialogue.
    """
    spans = []
    for pattern in PATTERNS:
        for match in pattern.finditer(text):
            if not NOT_A_NAME.match(match[1]):
                spans.append(match.span(1))
    return spans
