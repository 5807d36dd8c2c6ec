"""Read the option out of a written answer. Nothing is guessed.

    letter_of("<think>A？不对。</think>答案是B。选择A的同学混淆了资本市场工具。", list("ABCD"))    # 1

Thinking is removed first. Then claims of four strengths are collected. From strong to weak, they
are: a marked answer such as \\boxed{B}, then `答案是B`, then `选B`, then `B正确`. The claims of the
greatest strength must name one letter only. Text before a change of mind (不对, wait) does not
count if a claim follows. A text without a claim may begin with its letter, or end with a sentence
that approves of only one option.
"""

from __future__ import annotations

import re
import unicodedata

from finlab.evaluate import answer_claims

LETTERS = "ABCDEFGHIJ"
MOST_CHANGES = 20  # changes of mind that are read; a model that repeats itself makes hundreds

# --- what is cut or unwrapped first --------------------------------------------------------------
THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.S | re.I)
LONE_END = re.compile(r"^.*</(?:think|thinking|thought|reasoning)>", re.S | re.I)
LONE_START = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.I)
LATEX = re.compile(r"\\(?:text|textbf|mathbf|mathrm|rm|bf)\s*\{([^{}]*)\}")
HTML_TAG = re.compile(r"</?(?:b|i|u|strong|em|span|p|font|mark|code|br)\b[^<>]*>", re.I)
# Marks of a template that a model writes as text: <|assistant|>, [/INST], </s>.
TEMPLATE_MARK = re.compile(r"<\|[\w ]{1,30}\|>|\[/?INST\]|</?s>")
NEXT_QUESTION = re.compile(
    r"\n\s*(?:(?:(?i:question|q)\s*\d*|题目|題目|問題|问题|下一题|下一題)\s*[:：]|第\s*\d+\s*[题題]"
    r"|\d{1,3}\s*[.、．][^\n]{4,}\n\s*[(（]?A[.、．)）:：])"
)
# A question that contains its own answer: 这不就是A么.
RHETORICAL = re.compile(r"不(就是|正是)(\W*[A-J](?:项|選項|选项)?)\W*[么吗嘛嗎麼]")
MARKDOWN = re.compile(r"[*$`#]|^>|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])", re.M)

# --- texts without a claim -----------------------------------------------------------------------
MENTION = re.compile(answer_claims.CAPITAL.replace("A-J", "A-HJ"))  # an I is mostly the pronoun
SENTENCE = re.compile(r"[。！!？?；;\n]|\.(?=\s|$)")
CLAUSE = re.compile(r"[，,：:]|(?i:\b(?:but|and|which means|hence|while)\b)")
NONE_RIGHT = re.compile(
    r"没有(?:一个|任何)?(?:正确)?(?:的)?(?:选项|答案)|都不(?:对|正确|合适|是)|均不(?:对|正确)|无法|無法|不知道"
    r"|难以|难说|不(?:太)?确定|以上(?:皆|都|均)"
    r"|(?i:none of|all of the above|cannot|can['’]t|unable|not sure which|depends)"
)
# A lower-case letter counts where it begins a text of one line: c. 信用风险.
LOWER_BEGINS = re.compile(r"[(（]?([a-j])[)）.．、]\s*\S[^\n]{0,80}")
BARE = re.compile(r"\W*(?:(?i:option|choice)|选项|選項|选择|第)?\W*([A-Ja-j])\W*(?:项|选项)?\W*")
LETTER_LIST = re.compile(
    r"[\"'](?:answers?|答案)[\"']\s*[:：]\s*\[\s*[\"'][A-J][\"'](?:\s*,\s*[\"'][A-J][\"'])+"
)
DENIED = re.compile(
    r"(?:不能选|不该选|不应选|不选|排除|(?i:rule out|can['’]t be|cannot be))\s*(?P<one>[A-J])(?![A-Za-z])"
    r"|(?P<other>\b[A-J]) (?i:can['’]t be|cannot be|is wrong|is incorrect)"
)
HEDGED = re.compile(r"(?i:toss-?up|coin flip)|可能[是为為]?\W?[A-J][^。\n]{0,8}(?:也|或)有?可能")
NONE_LEFT = re.compile(
    r"(?:难以|難以|无法|無法)(?:取舍|取捨|抉择|判断|确定)|没有(?:一个|任何)(?:正确)?(?:的)?选项|(?i:none of the (?:options"
    r"|choices) (?:is|are))"
)
# A sentence that discusses one option after another: B选项：市场风险是指……
OPTION_WALK = re.compile(
    r"\W*(?:(?i:option) [A-J]\b|(?:选项|選項)?[A-J](?:选项|選項|项|項|\s*[:：]))"
)
# All options are refused: None of the options A, B, C, or D is correct.
ALL_REFUSED = re.compile(
    r"(?i:\bnone of (?:the |these )?(?:options|choices|answers)\b)[^.;\n]{0,30}"
)
# A long text without punctuation at its end, or one that ends inside a phrase, was cut off.
CUT_OFF = re.compile(r"(?:[，,：:为是]|(?i:\b(?:the|which|is|are|because|of|and|that|to|a)))\s*$")
ENDED = re.compile(rf"[。.!！?？;；…}}{answer_claims.CLOSE}]\s*$|[A-J]\s*$")
LONG = 80  # characters
SPEAKS_ILL = re.compile(
    r"[不错錯误誤非未没沒無无別吗嗎?？]|(?<!分)别|排除|相反|极端|忽略|忘|题目|之一|如果|假如|假设|若|请从|以为|考生|同学"
    r"|(?i:\b(?:not|no|wrong|incorrect|false|never|neither|nor|fails?|rules? out|eliminat\w+|except"
    r"|unlike|if|choosing|people|students|some|first answer|rather than|trap|tempting"
    r"|distractor|confus\w+|maybe|both)\b|n['’]t)"
)
SPEAKS_WELL = re.compile(
    r"(?<!因)[为為]|[是对對選选填写投定故即属屬]|所以|因此|可见|可見|答案|正确|正確|符合|吻合|匹配|相符|当选|當選|胜出"
    r"|站得住|要找|为准|成立|合适|最|得到"
    r"|(?i:\b(?:is|was|be|fits?|answers?|correct|right|select\w*|choos\w+|chose|choice|option"
    r"|pick\w*"
    r"|mark|support\w*|holds?|stands?|lean\w*|left|leaves|survives|makes sense|true|response|settle"
    r"|go|says?|states?|listed|match\w*|describes?|captures?|it)\b)"
)
# Words of a conclusion, in a sentence that compares several options.
CONCLUDES = re.compile(
    r"所以|因此|故|可见|可見|最后|最终|还是|就(?:是|选|写|填)|才是|胜出|相符|得到|答案|为准|选它|当选|只能|只有"
    r"|(?i:\b(?:so|hence|thus|therefore|survives|left|leaves|remains|answer|choose|pick|mark"
    r"|must be"
    r"|choice|final|scenario|stays|it is|it must|is (?:listed|what))\b)"
)
OPTION_VERDICT = re.compile(
    r"(?:^|[\n;；。.])[^\w\n]*(?:选项|選項|(?i:option) )?((?:[A-J][、,，]?)+)[^\w\n√×✓✗✘❌✅]{1,3}(?:项)?\s*"
    r"((?i:incorrect|correct|wrong|right|false|true|no|yes)|不?正[确確]|[错錯][误誤]?|[对對]|不?符合|排除"
    r"|[√×✓✔✗✘❌✅])"
)
SIGN_BEFORE = re.compile(r"(?m:^)\W*?([✅✓✔√❌✗✘×])\W*([A-J])\b")
RIGHT = re.compile(r"(?i:correct|right|true|yes)|正[确確]|[对對]|符合|[√✓✔✅]")

# A letter at the beginning of a line, followed by punctuation, by nothing or by Chinese text.
LINE_BEGINS = re.compile(
    r"[^\w\\{|]*([A-J])(?![)）]\s*[、,，和与與及或])(?=[\"'”’」』]?\s*(?:[!！.．。:：(（)）】\]—–]|-\s"
    r"|[、,，](?!\s*(?:[A-J]|and|or))|$)|[ \t]+(?![和与與或及跟皆均都])[\u4e00-\u9fff])"
)


def letter_of(text: str | None, letters: list[str]) -> int | None:
    """Return the option that a written answer names.

    Where the options are words, such as 是 and 否, the text has to begin with one of them, or have
    it after `答案：`.

    Args:
        text: The answer; None if no answer came.
        letters: The options as they were offered: A, B, ... or words.

    Returns:
        The index of the option; None if the text names none, several, or one that was not offered.
    """
    text = _conclusion(unicodedata.normalize("NFKC", text or ""))
    if letters[0] not in LETTERS:
        return _word_of(text, letters)
    named = _named_letters(text)
    if len(named) != 1:
        return None
    letter = named.pop()
    return letters.index(letter) if letter in letters else None


def without_thinking(text: str) -> str:
    """Return a text without its thinking; thinking that never ends is cut to the end."""
    text = THOUGHT.sub("", text)
    text = LONE_END.sub("", text)
    start = LONE_START.search(text)
    return text[: start.start()] if start else text


def _conclusion(text: str) -> str:
    """Return a text without its thinking, and without marks of Markdown, LaTeX and HTML."""
    text = TEMPLATE_MARK.sub("", without_thinking(text)).strip()
    following = NEXT_QUESTION.search(text)
    if following:  # the model continues with a question of its own
        text = text[: following.start()]
    text = MARKDOWN.sub("", text)
    text = RHETORICAL.sub(r"\1\2", text)
    text = LATEX.sub(r"\1", text)
    return HTML_TAG.sub("", text).strip()


def _word_of(text: str, words: list[str]) -> int | None:
    """Return the index of the word that a text begins with, or gives as its answer.

    Args:
        text: The conclusion.
        words: The options.
    """
    claim = re.search(r"(?:答案|判断|结论)(?:是|为)?\s*[:：]\s*(.*)", text)
    for start in (text, claim[1] if claim else ""):
        for number, word in enumerate(words):
            if start.startswith(word):
                return number
    return None


def _named_letters(text: str) -> set[str]:
    """Return the letters that a text names as its answer.

    Text before a change of mind counts only if the text after it names no letter.
    """
    changes = [match.end() for match in answer_claims.CHANGED_MIND.finditer(text)]
    for change in reversed(changes[-MOST_CHANGES:]):
        later = _letters_of(text[change:].lstrip("，,。.！! "))
        if later:
            return later
    return _letters_of(text)


def _letters_of(text: str) -> set[str]:
    """Return the letters that a text without changes of mind names as its answer."""
    text = text.strip()
    one_of_all = _only_line_called_right(text)
    if one_of_all:
        return one_of_all
    alone = _letter_alone(text)
    if alone is not None:
        return alone
    claimed = _claimed_letters(text)
    if claimed is not None:
        return claimed
    lines = text.splitlines() or [""]
    beginnings = [LINE_BEGINS.match(line) for line in lines]
    begun = [match[1] for match in beginnings if match]
    # A letter alone on the first line; the lines below it say why the others are wrong.
    first = BARE.fullmatch(lines[0])
    if first and begun.count(first[1].upper()) <= 1:
        return {first[1].upper()}
    if beginnings[0] and len(set(begun)) == 1:
        return set(begun)
    return _last_mention(text)


def _letter_alone(text: str) -> set[str] | None:
    """Return the letters of a text that is hardly more than letters; None for any other."""
    bare = BARE.fullmatch(text)
    if bare:
        return {bare[1].upper()}
    lower = LOWER_BEGINS.fullmatch(text)
    if lower:
        return {lower[1].upper()}
    repeated = re.fullmatch(r"([A-J])(?:\W+\1)+\W*", text)
    if repeated:
        return {repeated[1]}
    lines = [re.fullmatch(r"[^\w|]*\d*[^\w|]*([A-J])[^\w|]*", line) for line in text.splitlines()]
    letters = {line[1] for line in lines if line}
    if len(letters) > 2 or LETTER_LIST.search(text):
        return set()  # answers to several questions, or several answers
    return None


def _claimed_letters(text: str) -> set[str] | None:
    """Return the letters of the strongest claims; None where a text claims nothing."""
    claims = answer_claims.find(text)
    for match in DENIED.finditer(text):
        letter = match["one"] or match["other"]
        claims = [each for each in claims if each[1] > match.start() or each[2] != {letter}]
    sentences = [each for each in SENTENCE.split(text) if each.strip()]
    last = sentences[-1] if sentences else ""
    refused = ALL_REFUSED.search(text)
    if refused and not any(place > refused.end() for _, place, _ in claims):
        return set()
    if HEDGED.search(last) or (NONE_LEFT.search(last) and not _mentions(last[-8:])):
        return set()
    if not claims:
        return None
    strongest = max(strength for strength, _, _ in claims)
    named: set[str] = set()
    for strength, _, found in claims:
        if strength == strongest:
            named |= found
    return named


def _last_mention(text: str) -> set[str]:
    """Return the one option that the last sentence with options approves of; else none."""
    sentences = SENTENCE.split(text)
    if CUT_OFF.search(text) or (len(text) > LONG and not ENDED.search(text)):
        sentences.pop()
    for sentence in reversed(sentences):
        mentioned = _mentions(sentence)
        if not mentioned:
            continue
        clauses = [each for each in CLAUSE.split(sentence) if _mentions(each)]
        clause = clauses[-1]
        named = _mentions(clause)
        well = SPEAKS_WELL if len(mentioned) == 1 else CONCLUDES
        listed = LINE_BEGINS.match(sentence) and len(_mentions(text)) > 1
        walked = [each for each in sentences if OPTION_WALK.match(each)]
        listed = listed or (len(walked) > 1 and sentence == walked[-1])
        tail = sentence[sentence.rindex(clause) :]
        period = re.split(r"[。！!\n]|\.\s", text[: text.rindex(sentence)])[-1] + sentence
        if answer_claims.CONDITION.search(period) or len(named) > 1 or listed:
            return set()
        denied = {match["one"] or match["other"] for match in DENIED.finditer(text)}
        if named & denied or SPEAKS_ILL.search(clause) or NONE_RIGHT.search(tail):
            return set()
        return named if well.search(tail) else set()
    return set()


def _only_line_called_right(text: str) -> set[str]:
    """Return the letter of the only option called right, in a text that judges several."""
    judged: set[str] = set()
    right: set[str] = set()
    verdicts = OPTION_VERDICT.findall(text)
    verdicts += [(letter, sign) for sign, letter in SIGN_BEFORE.findall(text)]
    for letters, verdict in verdicts:
        judged |= set(re.findall("[A-J]", letters))
        if RIGHT.fullmatch(verdict):
            right |= set(re.findall("[A-J]", letters))
    return right if len(right) == 1 and len(judged) > 2 else set()


def _mentions(text: str) -> set[str]:
    """Return the option letters that a text mentions."""
    return set(re.findall("[A-J]", "".join(match["letters"] for match in MENTION.finditer(text))))
