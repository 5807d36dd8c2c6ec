"""Names of people in dialogues.

A recogniser proposes (Baidu's LAC); rules mend its bounds, add what stands behind a cue such as 户名
or before a title such as 先生, and take out companies and words. The words are in `people.yaml`. Of
the packages that were tried LAC found most; the figures are in docs/data.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from finlab.data import latin_names, recogniser

Span = tuple[int, int]  # first character, one past the last
HAN = "\u3400-\u4dbf\u4e00-\u9fff"
MAX_PRIVATE = 300  # characters: longer turns are articles
SHORT = 120  # characters: shorter turns are talk, unless they speak of public people


# --- words ---------------------------------------------------------------------------------------
def _read_words() -> dict[str, list[str]]:
    """Return the lists of people.yaml."""
    text = (Path(__file__).parent / "people.yaml").read_text(encoding="utf-8")
    return {name: words.split() for name, words in yaml.safe_load(text).items()}


WORDS = _read_words()
SURNAMES = set(WORDS["surnames"])
LONG_SURNAMES = set(WORDS["long_surnames"])
WORDLIKE = set(WORDS["wordlike_surnames"])
PUBLIC_PERSONS = set(WORDS["public_persons"])


def _any(name: str) -> str:
    """Return a pattern that matches any word of one of the lists, the longer ones first."""
    return "(?:" + "|".join(sorted(WORDS[name], key=len, reverse=True)) + ")"


TITLES = _any("titles")
NOT_NAMES = re.compile(f"^{_any('not_names')}")
COMPANIES = re.compile(f"^{_any('companies')}")
PRIVATE = re.compile(_any("private_words"))
PUBLIC_TALK = re.compile(_any("public_words"))
ORGANISATION = re.compile(
    rf"^(?:[^\W在去到回来从跟是的]{{0,2}}{_any('organisations')}|[路街店厂村镇县市区省港湾城])"
)
PUBLIC = re.compile(
    r"总书记|总理|主席|部长|省长|市长|总统|首相|将军"
)  # who bears it is no private person
# Signs that no given name has: a word was taken for a name.
NO_GIVEN_NAME = re.compile(
    r"[您你我他她在的了吗呢们某这那就都不没很把被让着绑号位些吧啊谢謝]|.好$|年生$|人$"
)
# A person without a listed surname ends like a word.
WORD_ENDING = re.compile(r"[人户客师员家者姐爸妈秘佛神帝哥某女男版群行部局所板牌股]$|老板$")

# --- cues ----------------------------------------------------------------------------------------
_GAP = r"[\s:：是叫为，,、\"“「《(（】<]{0,3}"
_WORDLIKE = "".join(word for word in sorted(WORDLIKE) if len(word) == 1)
_SURNAME = f"(?:{_any('long_surnames')}|[{''.join(sorted(SURNAMES))}])"
_GIVEN = rf"(?:(?!{TITLES})[{HAN}])"
# Two characters where the phrase ends with them (户名牛福来), else as few as can be.
_FULL = rf"{_SURNAME} ?(?:{_GIVEN}{{2}}(?=[^{HAN}]|$)|{_GIVEN}{{1,2}}?)"
_WHOLE = rf"{_SURNAME}[{HAN}]{{1,2}}"
_ENDS = rf"(?=[^{HAN}]|$|{TITLES}|{_any('name_ends')})"
BEHIND_ROLE = re.compile(rf"{_any('roles')}{_GAP}({_FULL}){_ENDS}")
# Any other office: 查勘员孙磊. The recogniser must see a person too.
BEHIND_OFFICE = re.compile(
    rf"(?:[{HAN}]{{1,4}}(?:[人员长工]|师(?!傅))|由|变更为){_GAP}({_FULL}){_ENDS}"
)
BEHIND_STRONG = re.compile(rf"(?:{_any('strong_cues')}|(?<![{HAN}])[致自署]){_GAP}({_FULL}){_ENDS}")
# 阿依古丽·买买提
DOTTED = re.compile(
    rf"(?:(?<![{HAN}])|(?<=[人户是叫给和名我找由者员父母转]))"
    rf"(?![叫是为])([{HAN}]{{2,6}}?(?:[·•・‧][{HAN}]{{2,8}}?)+){_ENDS}"
)
# Behind these even a name without a listed surname is one.
NAMED = re.compile(
    r"(?:我叫|名叫|(?:姓名|户名|收款人|收件人|联系人|申请人|投资者|持有人)[:：])\s?"
    rf"([{HAN}]{{2,4}})(?=[^{HAN}]|$)"
)
KEYED = re.compile(
    rf"(?:[nN]ame|nm|owner|holder)[\"']?\s*[:=]\s*[\"']?([{HAN}]{{2,4}})(?=[^{HAN}]|$)"
)
# A field of a form: 复核：于洋；
FIELD = re.compile(
    rf"[{HAN}）)]{{0,5}}[人员者名核批办方长主户字师签][）)]?[:：=]\s?({_WHOLE})(?=[^{HAN}]|$|[男女])"
)
# At every place: of 别找申主任 the name may begin at 别 or at 申.
BEFORE_TITLE = re.compile(
    rf"(?!(?<=[谢謝])[谢謝])(?=({_SURNAME}(?:[{HAN}]{{1,2}})??)(?= ?{TITLES}))"
)
WORD_BEGINS = re.compile(
    rf"(?:^|[^{HAN}]|[和与跟给向对为由是请找叫问让替帮把了到户的好位谢天们后致办务])$"
)
SURNAME_SAID = re.compile(
    rf"(?<!不是)(?:免贵|[我他她])?(?<!不)姓({_SURNAME})(?=[^{HAN}]|$|的|员工|客户|叫)"
    rf"|(?<![款收付甲乙丙{HAN}])({_SURNAME})(?=某[^{HAN}]|某某|某[称诉与和])"
    # 联系人涂某, and 毕某就是不还: no 某 of another kind (某些, 某种) is behind these.
    rf"|(?:(?<![{HAN}])|(?<=[人员户告被由与和对]))((?![{_WORDLIKE}]){_SURNAME})(?=某(?![些种个天时人一次年月日]))"
)
# A person whom LAC sees without a surname: 晓敏, 阿强, 小詹.
GIVEN_ALONE = re.compile(rf"[{''.join(WORDS['given_names'])}][{HAN}]|[小阿][{HAN}]")
KIN_BEFORE = re.compile(
    rf"(?:^|[^{HAN}]|[跟和与给让叫问找是]|{_any('roles')}|我[哥姐弟妹]|[晚天午今昨早])$"
)
# 芳姐, and not 小姐.
GIVEN_AND_TITLE = re.compile(rf"([^小大老空师表堂学二三四五六七八九][{HAN}]?)(?:姐|哥|叔|姨|嫂)")
ADDRESSED = re.compile(
    rf"(?:^|[，,。！!？?；;：:\s])([小阿大老]{_SURNAME})(?=[，,]\s*(?:你|您|我|麻烦|帮|把|请)|[你您])"
)
FAMILIAR = re.compile(f"[小老]{_any('common_surnames')}")
FAMILIAR_ALONE = re.compile(
    rf"(?:(?<![{HAN}])|(?<=[个给让和跟的叫工里]))({FAMILIAR.pattern})"
    rf"(?=[^{HAN}]|[你我他她给在说也还把亏就都和去])"
)
NOT_FAMILIAR = re.compile(_any("familiar_words"))
CUE_BEFORE = re.compile(rf"(?:^|{_any('roles')}|{_any('strong_cues')}|和|与|跟|给)$")
# Lists: 潘志刚、杜鹃、葛亮
_LIST_SIGN = r"(?:\s*[、，,；;/]\s*|\s+)(?:\d{1,2}[.、．]\s*)?"
_REMARK = rf"(?:（[{HAN}]{{1,4}}）)?"
NEXT_IN_LIST = re.compile(rf"{_REMARK}{_LIST_SIGN}({_WHOLE})(?=[^{HAN}]|$|[和与及两等])")
LAST_IN_LIST = re.compile(rf"(?:^|[^{HAN}])({_WHOLE}){_REMARK}{_LIST_SIGN}$")
# Beside numbers: 薛冰 13812345678
BEFORE_NUMBER = re.compile(
    rf"(?:^|[^{HAN}])({_SURNAME} ?[{HAN}]{{1,2}})[\s，,、（(|/:：男女]{{1,4}}"
    r"(?:手机|电话|身份证|卡号)?[\s号:：]*$"
)
BEHIND_NUMBER = re.compile(rf"[\s，,、|/]{{0,3}}({_WHOLE})(?=[^{HAN}]|$)")


# --- can it be a name ----------------------------------------------------------------------------
def surname_length(name: str) -> int:
    """Return how many characters of a name are its surname: 2, 1, or 0 for none that is listed."""
    if name[:2] in LONG_SURNAMES:
        return 2
    return 1 if name[:1] in SURNAMES else 0


def _is_company(text: str, start: int, end: int) -> bool:
    """Tell whether a span is the short name of a listed company, or a part of it.

    Args:
        text: The text.
        start: The first place of a span.
        end: One past its last.
    """
    company = COMPANIES.match(text[start:])
    return bool(company) and company.end() >= end - start


def _is_word(text: str, start: int, end: int) -> bool:
    """Tell whether a span is a word, a company or an office, and no private person's name.

    Args:
        text: The text.
        start: The first place of a span.
        end: One past its last.
    """
    name = text[start:end].replace(" ", "")
    if NOT_NAMES.match(name) or _is_company(text, start, end) or name in PUBLIC_PERSONS:
        return True
    if NO_GIVEN_NAME.search(name[surname_length(name) :]):
        return True
    return bool(ORGANISATION.match(text[end : end + 6]) or PUBLIC.match(text[end:]))


def _is_part_of_a_word(text: str, start: int, end: int) -> bool:
    """Tell whether a span is a part of a place or an organisation that LAC sees: 墨西(哥).

    Args:
        text: The text.
        start: The first place of a span.
        end: One past its last.
    """
    for word, tag, place in recogniser.tagged(text):
        inside = place <= start and end <= place + len(word) and end - start < len(word)
        if inside and tag in ("LOC", "ORG"):
            return True
    return False


def _is_name(text: str, start: int, end: int) -> bool:
    """Tell whether a span can be a name: a listed surname and one or two characters more.

    Args:
        text: The text.
        start: The first place of a span.
        end: One past its last.
    """
    name = text[start:end].replace(" ", "").replace("\u3000", "")
    surname = surname_length(name)
    if not surname or not 1 <= len(name) - surname <= 2 or not re.fullmatch(f"[{HAN}]+", name):
        return False
    if name[0] in WORDLIKE and not _seen_by_recogniser(text, start, end):
        return False
    return not _is_word(text, start, end)


def _seen_by_recogniser(text: str, start: int, end: int) -> bool:
    """Tell whether LAC sees a person that begins where a span does, or before.

    Args:
        text: The text.
        start: The first place of a span.
        end: One past its last.
    """
    for word, tag, place in recogniser.tagged(text):
        if tag == "PER" and place <= start < place + len(word):
            return True
    return False


def _is_rare_name(text: str, start: int, end: int) -> bool:
    """Tell whether a person that LAC sees has a name without a listed surname: 卓玛拉姆, 巴特尔.

    Args:
        text: The text.
        start: The first place of a span.
        end: One past its last.
    """
    name = text[start:end]
    if not re.fullmatch(f"[{HAN}]{{3,5}}", name) or (len(name) < 4 and surname_length(name)):
        return False
    return not WORD_ENDING.search(name) and not _is_word(text, start, end)


# --- finding -------------------------------------------------------------------------------------
def names(text: str, numbers: Sequence[Span] = ()) -> list[Span]:
    """Return where the names of people stand in a text, in order, none over another.

    Args:
        text: A turn of a dialogue.
        numbers: Where telephones, identity and card numbers stand: a name is often beside one.
    """
    private = bool(numbers) or _is_private(text)
    spans = _names_by_cue(text, private)
    spans += _names_before_titles(text)
    spans += _familiar_names(text)
    spans += _names_beside(text, numbers)
    if private:
        spans += [match.span(1) for match in DOTTED.finditer(text)]
        spans += latin_names.find(text)
        spans += _recognised_names(text)
    return _everywhere(text, _with_lists(text, _apart(spans)))


def _recognised_names(text: str) -> list[Span]:
    """Return the persons that LAC finds, with their bounds mended."""
    spans = []
    words = recogniser.tagged(text)
    for number, (word, tag, start) in enumerate(words):
        if tag != "PER":
            continue
        end = start + len(_without_verb(word))
        if _is_given_alone(text, start, end):
            spans.append((start, end))
            continue
        called = GIVEN_AND_TITLE.fullmatch(word)
        if called and KIN_BEFORE.search(text[:start]):
            spans.append((start, start + len(called[1])))
            continue
        title = re.search(rf"{TITLES}$", word)
        if title and title.start():
            end = start + title.start()
        before, _, place = words[number - 1] if number else ("", "", 0)
        # 戴 | 小红: the surname was cut off.
        cut_off = before in SURNAMES or before in LONG_SURNAMES
        if cut_off and place + len(before) == start and len(word) <= 2:
            if not surname_length(word) or len(word) == 1:
                start = place
        surname_alone = end - start == 1 and text[start] in SURNAMES
        rare = CUE_BEFORE.search(text[:start]) and _is_rare_name(text, start, end)
        if _is_name(text, start, end) or rare:
            spans.append((start, end))
        elif surname_alone and (title or re.match(TITLES, text[end:])):
            spans.append((start, end))
    return spans


def _without_verb(word: str) -> str:
    """Return a person that LAC sees without the verb that it took for a part: 扎西次仁来电."""
    if len(word) < 4:
        return word
    return re.sub(r"(?:来电|致电|反映|表示|来|说)$", "", word)


def _is_given_alone(text: str, start: int, end: int) -> bool:
    """Tell whether a person that LAC sees is one without a surname: 你跟晓敏说.

    Args:
        text: The text.
        start: The first place of a span.
        end: One past its last.
    """
    name = text[start:end]
    if not GIVEN_ALONE.fullmatch(name) or NOT_FAMILIAR.match(name) or name in PUBLIC_PERSONS:
        return False
    return bool(KIN_BEFORE.search(text[:start])) and not ORGANISATION.match(text[end : end + 6])


def _is_private(text: str) -> bool:
    """Tell whether a turn speaks of people's own affairs, and not of public persons."""
    if len(text) <= MAX_PRIVATE and PRIVATE.search(text):
        return True
    return len(text) <= SHORT and not PUBLIC_TALK.search(text)


def _names_by_cue(text: str, private: bool) -> list[Span]:
    """Return the names behind a role, a cue or a field's name.

    Args:
        text: The text.
        private: Whether it speaks of people's own affairs.
    """
    spans = []
    for pattern in (BEHIND_STRONG, BEHIND_ROLE):
        for match in pattern.finditer(text):
            if _is_name(text, *match.span(1)):
                spans.append(_widened(text, match.span(1)))
    starts = {place for _, tag, place in recogniser.tagged(text) if tag == "PER"}
    for match in BEHIND_OFFICE.finditer(text):
        if private and match.start(1) in starts and _is_name(text, *match.span(1)):
            spans.append(_widened(text, match.span(1)))
    for match in [*NAMED.finditer(text), *KEYED.finditer(text)]:
        if not _is_word(text, *match.span(1)):
            spans.append(match.span(1))
    for match in FIELD.finditer(text):
        if _is_name(text, *match.span(1)):
            spans.append(match.span(1))
    return spans


def _names_before_titles(text: str) -> list[Span]:
    """Return the names before 先生, 经理 and the like, and behind 姓."""
    starts = {place for _, _, place in recogniser.tagged(text)}
    spans = []
    for match in BEFORE_TITLE.finditer(text):
        start, end = match.span(1)
        if start not in starts and not WORD_BEGINS.search(text[:start]):
            continue
        surname_alone = len(match[1]) == surname_length(match[1])
        word = NOT_NAMES.match(text[start : start + 3]) or _is_part_of_a_word(text, start, end)
        if not word and (surname_alone or _is_name(text, start, end)):
            spans.append((start, end))
    for match in SURNAME_SAID.finditer(text):
        spans.append(match.span(match.lastindex))
    return spans


def _familiar_names(text: str) -> list[Span]:
    """Return where 小王 and 老李 stand as words of their own."""
    matches = [*FAMILIAR_ALONE.finditer(text), *ADDRESSED.finditer(text)]
    spans = [match.span(1) for match in matches]
    for word, _, place in recogniser.tagged(text):
        if FAMILIAR.fullmatch(word):
            spans.append((place, place + 2))
    return [(start, end) for start, end in spans if not NOT_FAMILIAR.match(text[start:])]


def _names_beside(text: str, numbers: Iterable[Span]) -> list[Span]:
    """Return the names right before or behind a telephone, an identity or a card number.

    Args:
        text: The text.
        numbers: Where the numbers stand.
    """
    spans = []
    for start, end in numbers:
        matches = ((BEFORE_NUMBER.search(text[:start]), 0), (BEHIND_NUMBER.match(text[end:]), end))
        for match, offset in matches:
            if match and _is_name(text, match.start(1) + offset, match.end(1) + offset):
                spans.append((match.start(1) + offset, match.end(1) + offset))
    return spans


def _with_lists(text: str, spans: list[Span]) -> list[Span]:
    """Return spans, and what stands beside them in a list: 潘志刚、杜鹃、葛亮.

    Args:
        text: The text.
        spans: Names that are found.
    """
    found = list(spans)
    waiting = list(spans)
    while waiting:
        start, end = waiting.pop()
        matches = ((NEXT_IN_LIST.match(text[end:]), end), (LAST_IN_LIST.search(text[:start]), 0))
        for match, offset in matches:
            if not match:
                continue
            span = match.start(1) + offset, match.end(1) + offset
            free = all(span[1] <= first or last <= span[0] for first, last in found)
            if free and _is_name(text, *span):
                found.append(span)
                waiting.append(span)
    return sorted(found)


def _widened(text: str, span: Span) -> Span:
    """Return a rule's span with LAC's end, where LAC sees a person that begins there.

    Rules take the shortest name that a stop word can follow: 陈思 of 陈思远.

    Args:
        text: The text.
        span: The name that a rule has found.
    """
    start, end = span
    for word, tag, place in recogniser.tagged(text):
        if tag == "PER" and place == start and len(word) > end - start:
            if _is_name(text, start, place + len(word)):
                return start, place + len(word)
    return span


def _apart(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order; of two that overlap the longer stays."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if all(span[1] <= start or end <= span[0] for start, end in kept):
            kept.append(span)
    return sorted(kept)


def _everywhere(text: str, spans: list[Span]) -> list[Span]:
    """Return spans, and every other place where one of these names stands.

    Args:
        text: The text.
        spans: Names that are found.
    """
    more = list(spans)
    for start, end in spans:
        name = text[start:end]
        if len(name) > 1:
            more += [match.span() for match in re.finditer(re.escape(name), text)]
    return _apart(more)
