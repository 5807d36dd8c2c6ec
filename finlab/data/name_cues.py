"""Patterns to find names of people: surnames, titles, words before and after a name, lists.

The words are in `people.yaml`. The module `people` uses the patterns together.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

HAN = "\u3400-\u4dbf\u4e00-\u9fff"


# --- words ---------------------------------------------------------------------------------------
def _read_words() -> dict[str, list[str]]:
    """Return the word lists of people.yaml, {name of the list: words}."""
    text = (Path(__file__).parent / "people.yaml").read_text(encoding="utf-8")
    return {name: words.split() for name, words in yaml.safe_load(text).items()}


WORDS = _read_words()
SURNAMES = set(WORDS["surnames"])
LONG_SURNAMES = set(WORDS["long_surnames"])
WORDLIKE = set(WORDS["wordlike_surnames"])
PUBLIC_PERSONS = set(WORDS["public_persons"])


def any_of(name: str) -> str:
    """Return a pattern that matches any word of a list, longer words first.

    Args:
        name: Name of the list in people.yaml.
    """
    return "(?:" + "|".join(sorted(WORDS[name], key=len, reverse=True)) + ")"


TITLES = any_of("titles")
NOT_NAMES = re.compile(f"^{any_of('not_names')}")
COMPANIES = re.compile(f"^{any_of('companies')}")
PRIVATE = re.compile(any_of("private_words"))
PUBLIC_TALK = re.compile(any_of("public_words"))
ORGANISATION = re.compile(
    rf"^(?:[^\W在去到回来从跟是的]{{0,2}}{any_of('organisations')}|[路街店厂村镇县市区省港湾城])"
)
PUBLIC = re.compile(
    r"总书记|总理|主席|部长|省长|市长|总统|首相|将军"
)  # a person with one of these titles is not a private person
# No given name has these characters. A match means that a word was taken for a name.
NO_GIVEN_NAME = re.compile(
    r"[您你我他她在的了吗呢们某这那就都不没很把被让着绑号位些吧啊谢謝]|.好$|年生$|人$"
)
# A supposed name without a listed surname is a word if it ends like this.
WORD_ENDING = re.compile(r"[人户客师员家者姐爸妈秘佛神帝哥某女男版群行部局所板牌股]$|老板$")

# --- cues ----------------------------------------------------------------------------------------
_GAP = r"[\s:：是叫为，,、\"“「《(（】<]{0,3}"
_WORDLIKE = "".join(word for word in sorted(WORDLIKE) if len(word) == 1)
_SURNAME = f"(?:{any_of('long_surnames')}|[{''.join(sorted(SURNAMES))}])"
_GIVEN = rf"(?:(?!{TITLES})[{HAN}])"
# A given name has two characters if the phrase ends after them (户名牛福来), else as few as possible.
_FULL = rf"{_SURNAME} ?(?:{_GIVEN}{{2}}(?=[^{HAN}]|$)|{_GIVEN}{{1,2}}?)"
_WHOLE = rf"{_SURNAME}[{HAN}]{{1,2}}"
_ENDS = rf"(?=[^{HAN}]|$|{TITLES}|{any_of('name_ends')})"
BEHIND_ROLE = re.compile(rf"{any_of('roles')}{_GAP}({_FULL}){_ENDS}")
# Any other job title: 查勘员孙磊. Here the recogniser must find a person too.
BEHIND_OFFICE = re.compile(
    rf"(?:[{HAN}]{{1,4}}(?:[人员长工]|师(?!傅))|由|变更为){_GAP}({_FULL}){_ENDS}"
)
BEHIND_STRONG = re.compile(
    rf"(?:{any_of('strong_cues')}|(?<![{HAN}])[致自署]){_GAP}({_FULL}){_ENDS}"
)
# 阿依古丽·买买提
DOTTED = re.compile(
    rf"(?:(?<![{HAN}])|(?<=[人户是叫给和名我找由者员父母转]))"
    rf"(?![叫是为])([{HAN}]{{2,6}}?(?:[·•・‧][{HAN}]{{2,8}}?)+){_ENDS}"
)
# After these words, even a name without a listed surname is accepted.
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
# A lookahead, so that matches may overlap: in 别找申主任 the name may begin at 别 or at 申.
BEFORE_TITLE = re.compile(
    rf"(?!(?<=[谢謝])[谢謝])(?=({_SURNAME}(?:[{HAN}]{{1,2}})??)(?= ?{TITLES}))"
)
WORD_BEGINS = re.compile(
    rf"(?:^|[^{HAN}]|[和与跟给向对为由是请找叫问让替帮把了到户的好位谢天们后致办务])$"
)
SURNAME_SAID = re.compile(
    rf"(?<!不是)(?:免贵|[我他她])?(?<!不)姓({_SURNAME})(?=[^{HAN}]|$|的|员工|客户|叫)"
    rf"|(?<![款收付甲乙丙{HAN}])({_SURNAME})(?=某[^{HAN}]|某某|某[称诉与和])"
    # 联系人涂某 and 毕某就是不还, but not if 某 begins another word (某些, 某种).
    rf"|(?:(?<![{HAN}])|(?<=[人员户告被由与和对]))((?![{_WORDLIKE}]){_SURNAME})(?=某(?![些种个天时人一次年月日]))"
)
# A person without a surname that LAC finds: 晓敏, 阿强, 小詹.
GIVEN_ALONE = re.compile(rf"[{''.join(WORDS['given_names'])}][{HAN}]|[小阿][{HAN}]")
KIN_BEFORE = re.compile(
    rf"(?:^|[^{HAN}]|[跟和与给让叫问找是]|{any_of('roles')}|我[哥姐弟妹]|[晚天午今昨早])$"
)
# 芳姐, but not 小姐.
GIVEN_AND_TITLE = re.compile(rf"([^小大老空师表堂学二三四五六七八九][{HAN}]?)(?:姐|哥|叔|姨|嫂)")
ADDRESSED = re.compile(
    rf"(?:^|[，,。！!？?；;：:\s])([小阿大老]{_SURNAME})(?=[，,]\s*(?:你|您|我|麻烦|帮|把|请)|[你您])"
)
FAMILIAR = re.compile(f"[小老]{any_of('common_surnames')}")
FAMILIAR_ALONE = re.compile(
    rf"(?:(?<![{HAN}])|(?<=[个给让和跟的叫工里]))({FAMILIAR.pattern})"
    rf"(?=[^{HAN}]|[你我他她给在说也还把亏就都和去])"
)
NOT_FAMILIAR = re.compile(any_of("familiar_words"))
CUE_BEFORE = re.compile(rf"(?:^|{any_of('roles')}|{any_of('strong_cues')}|和|与|跟|给)$")
# Lists: 潘志刚、杜鹃、葛亮
_LIST_SIGN = r"(?:\s*[、，,；;/]\s*|\s+)(?:\d{1,2}[.、．]\s*)?"
_REMARK = rf"(?:（[{HAN}]{{1,4}}）)?"
NEXT_IN_LIST = re.compile(rf"{_REMARK}{_LIST_SIGN}({_WHOLE})(?=[^{HAN}]|$|[和与及两等])")
LAST_IN_LIST = re.compile(rf"(?:^|[^{HAN}])({_WHOLE}){_REMARK}{_LIST_SIGN}$")
# Next to a number: 薛冰 13812345678
BEFORE_NUMBER = re.compile(
    rf"(?:^|[^{HAN}])({_SURNAME} ?[{HAN}]{{1,2}})[\s，,、（(|/:：男女]{{1,4}}"
    r"(?:手机|电话|身份证|卡号)?[\s号:：]*$"
)
BEHIND_NUMBER = re.compile(rf"[\s，,、|/]{{0,3}}({_WHOLE})(?=[^{HAN}]|$)")
