"""Find names of people in Latin letters, as in: Dear Michael, Kevin Zhou说."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

# The lists of given names and of surnames in Latin letters, from people.yaml.
_LISTS = yaml.safe_load((Path(__file__).parent / "people.yaml").read_text(encoding="utf-8"))
GIVEN = set(_LISTS["latin_given_names"].split())
SURNAMES = set(_LISTS["latin_surnames"].split())

_NAME = r"[A-Z][a-z]{1,14}(?:[ .][A-Z][a-z]{0,14}){0,2}"
_CUES = (
    r"(?:我叫|我是|姓名|户名|联系人|收件人|致|[Dd]ear|[Hh]i|[Tt]his is|I['’]?m|I am"
    r"|[Mm]y name is|attn:?|[Aa]pplicant:?|[Bb]eneficiary:?|[Cc]ontact:?|[Dd]river:?|[Aa]gent"
    r"|colleague"
    r"|assistant is|file for|[Hh]older:?|[Nn]ame:?|英文名|[Rr]egards,?|[Ss]incerely,?|[Cc]ustomer|客户"
    r"|[Ii]nsured|[Aa]sk for|申请人|投资者|投保人|被保险人|借款人|持卡人|受益人|收款人|委托人|开户人"
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
        r"(?:姓名|拼音|英文名|name(?: on it| is)?)[\s:：]{0,2}"
        r"([A-Z]{2,12}(?:[ /][A-Z]{2,12}){1,2})(?![A-Z])"
    ),
)
PUBLIC = {
    "Warren Buffett",
    "Peter Lynch",
    "Jerome Powell",
    "Janet Yellen",
    "Elon Musk",
    "Bill Gates",
    "Steve Jobs",
    "Tim Cook",
    "Jack Ma",
    "Ray Dalio",
    "George Soros",
    "Benjamin Graham",
    "Charlie Munger",
    "Milton Friedman",
    "Adam Smith",
    "Ben Bernanke",
    "Alan Greenspan",
    "Christine Lagarde",
    "Donald Trump",
    "Joe Biden",
    "Mark Zuckerberg",
    "Jeff Bezos",
    "Jensen Huang",
    "Sam Altman",
    "Satoshi Nakamoto",
    "Harry Markowitz",
    "William Sharpe",
    "Morgan Stanley",
    "Charles Schwab",
    "Jane Street",
    "Thomson Reuters",
    "Philip Morris",
}
WORDS = re.compile(r"(?<![A-Za-z@._-])[A-Z][a-z]+(?: [A-Z][a-z]*){0,2}(?![A-Za-z@_])")
# A name with one of these words after it is a company's name: Charles Schwab Corp, Wang Capital.
COMPANY_BEHIND = re.compile(
    r"\s?(?:[A-Z]{2,}|Inc|Ltd|LLC|Corp|Capital|Bank|Fund|Group|Co\b|Partners|Securities|Holdings"
    r"|Trust|Index|Street|Road|Avenue|基金|证券|银行|公司|集团|资本|指数|理论|模型|曲线|比率|效应|定律)"
)
NOT_A_NAME = re.compile(
    r"^(?:Mr|Ms|Mrs|Dr|Visa|Master|Please|Our|The|My|Best|Dear|Customer|Order|Ticker|See|Article"
    r"|Market|China|Bank|Apple|Windows|Android|Excel|Word|Java|Python|Google|Tesla|Alipay|Hong|Kong"
    r"|Beijing|Shanghai|Thanks|Hello|Team|Sir|Madam|Support|Service|All|Colleagues)\b"
)


def find(text: str) -> list[tuple[int, int]]:
    """Find the names in Latin letters in a text.

    Args:
        text: A turn of a dialogue.

    Returns:
        (index of the first character, index after the last) of each name.
    """
    spans = []
    for pattern in PATTERNS:
        for match in pattern.finditer(text):
            if not NOT_A_NAME.match(match[1]):
                spans.append(match.span(1))
    return spans + _listed(text)


def _listed(text: str) -> list[tuple[int, int]]:
    """Find names with a listed given name or surname, such as Peter那单 or Zhao Lei.

    A single word must be a listed given name.

    Args:
        text: A turn of a dialogue.

    Returns:
        (index of the first character, index after the last) of each name.
    """
    spans = []
    for match in WORDS.finditer(text):
        words = match[0].split()
        has_surname = len(words) > 1 and not SURNAMES.isdisjoint((words[0], words[-1]))
        known = words[0] in GIVEN or has_surname
        whole_name = match[0] not in PUBLIC and not NOT_A_NAME.match(match[0])
        if known and whole_name and not COMPANY_BEHIND.match(text[match.end() :]):
            spans.append(match.span())
    return spans
