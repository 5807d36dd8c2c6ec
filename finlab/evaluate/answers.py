"""Read the option out of a written answer. Nothing is guessed.

    letter_of("<think>A？不对。</think>答案是B。选择A的同学混淆了资本市场工具。", list("ABCD"))    # 1

Thinking is cut first. Then claims are collected, in four strengths: a marked answer such as
\\boxed{B} beats `答案是B`, that beats `选B`, that beats `B正确`. Among claims of the greatest strength
there must be one letter only. What stands before a change of mind (不对, wait) does not count where
a claim follows it. A text without a claim may begin with its letter, or end with a sentence that
speaks well of one option alone.
"""

from __future__ import annotations

import re
import unicodedata

LETTERS = "ABCDEFGHIJ"

# --- what is cut or unwrapped first --------------------------------------------------------------
THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.S | re.I)
LONE_END = re.compile(r"^.*</(?:think|thinking|thought|reasoning)>", re.S | re.I)
LONE_START = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.I)
LATEX = re.compile(r"\\(?:text|textbf|mathbf|mathrm|rm|bf)\s*\{([^{}]*)\}")
HTML_TAG = re.compile(r"</?(?:b|i|u|strong|em|span|p|font|mark|code|br)\b[^<>]*>", re.I)
# What a model's own template or a runaway generation leaves: <|assistant|>, [/INST], </s>.
TEMPLATE_MARK = re.compile(r"<\|[\w ]{1,30}\|>|\[/?INST\]|</?s>")
NEXT_QUESTION = re.compile(
    r"\n\s*(?:(?:(?i:question|q)\s*\d*|题目|題目|問題|问题|下一题|下一題)\s*[:：]|第\s*\d+\s*[题題]"
    r"|\d{1,3}\s*[.、．][^\n]{4,}\n\s*[(（]?A[.、．)）:：])"
)
# A question that says its own answer: 这不就是A么.
RHETORICAL = re.compile(r"不(就是|正是)(\W*[A-J](?:项|選項|选项)?)\W*[么吗嘛嗎麼]")
MARKDOWN = re.compile(r"[*$`#]|^>|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])", re.M)

# --- claims --------------------------------------------------------------------------------------
# One letter or several: B, BD, B、D, B or D. Not A股, A类, Plan B's, "a company".
_JOIN = r"\s*[)）]?\s*(?:[、/&和与與及或]|and|or|[,，](?=\s*[A-J]\s*(?:[,，.。}]|\Z)))+\s*[(（]?\s*"
_NO_OPTION = (
    r"(?![A-Za-z0-9%+])(?!\s*[=*^]|\s/\s)(?!['’](?:s|re)\b)"
    r"(?!\s?(?:股|轮|輪|类|類|级|級|型|座|公司|银行|方(?![法面])|栋|区|座|组|組|班|企业|的(?!可能|理由|原因|依据)))"
    r"(?!-[A-Za-z])"
)
# In English, an A that begins a phrase is an article: "a company", "A bond".
_NO_ARTICLE = (
    r"(?!(?<=[Aa])[ \t]+(?!(?:because|since|as|is|and|or|for|but|here|not|with|which|due|given|if"
    r"|would|should|was|seems|must|has|to|in|on|by|based|that|it|fits|holds|stands|makes|survives"
    r"|alone|wins|captures|describes|says|does|follows|can|could|remains|applies|works|instead"
    r"|then)\b)[a-z])"
)
# Before a letter: 维生素A, Class A and the like name no option.
_NAMED = (
    r"(?<!维生素)(?<![A-Za-z0-9])(?<!(?i:class) )(?<!(?i:vitamin) )(?<!(?i:plan) )(?<!(?i:type) )"
)
LETTER = rf"{_NAMED}(?P<letters>[A-Ja-j](?:(?:{_JOIN})?[A-J])*){_NO_OPTION}{_NO_ARTICLE}"
CAPITAL = LETTER.replace("[A-Ja-j]", "[A-J]", 1)
_QUOTE = "\"'“”‘’「『【《（(\\[<"
_CLOSE = "\"'”’」』】》）)\\]>"
_IS = (
    rf"(?:应该|應該|应当|應當|应|應|该|該|当|改|也|恰好|正好|刚好|就|便|即|只能|可能|显然|是|为|為|选项|選項|选择|選擇|选|選|项|項|"
    rf"[:：=\s{_QUOTE}{_CLOSE}—→-]|(?i:\b)(?:is|was|should|must|be|to|has|got|gotta|clearly"
    rf"|therefore|thus|"
    rf"indeed|the|[Oo]ption|[Cc]hoice|letter|answer|correct|definitely|simply|to this question"
    rf"|for this question|落在|定在|锁定)\b|['’]s\b)*"
)
_OPTION = r"(?:\s*(?:选项|選項|项|項|选|選))?"

MARKED, ANSWER, CHOICE, VERDICT = 4, 3, 2, 1
CLAIMS = [
    (MARKED, rf"\\boxed\s*\{{{_IS}{LETTER}"),
    (MARKED, rf"<answer>[\s{_QUOTE}]*{LETTER}"),
    (
        MARKED,
        r"[\"'](?:answer|final_answer|correct_answer|correct_option|choice|option|答案|选项)[\"']"
        rf"\s*[:：]\s*[\[\s{_QUOTE}]*{LETTER}",
    ),
    (MARKED, rf"(?:最终|最終|最后|最後)(?:的)?(?:答案|选择|選擇){_IS}{LETTER}"),
    (MARKED, rf"(?i:\bfinal(?: answer| choice)?){_IS}{LETTER}(?-i:)"),
    (ANSWER, rf"(?:答案|正解|结论|結論|正确选项|正確選項|正确的选项|正確的選項|答){_IS}{LETTER}"),
    (
        ANSWER,
        rf"(?i:\b(?:answer|ans\.?|conclusion(?=\W{1, 6}[A-J]\W*(?:\n|$))|(?:correct|right|best) (?:option|choice|one)|"
        r"my (?:choice|pick|answer|guess|vote)|(?m:^)(?:choice|option|result)(?=\s*[:=]))(?!\w))"
        rf"{_IS}{LETTER}",
    ),
    (ANSWER, rf"(?i:\banswer is not) [A-J],? but (?:rather )?{LETTER}"),
    # The last line is a letter alone, or ends with one behind a colon: "so: C", "Gas: A) Oxygen".
    (ANSWER, rf"(?m:^)(?:[^\w\n]|(?i:option)|选项|選項)*{CAPITAL}[{_CLOSE}.。]*\s*\Z"),
    (
        ANSWER,
        rf"(?<![A-J])[:：][ \t]*[{_QUOTE}]*{CAPITAL}(?:[{_CLOSE}.。]*|[).．、(][^\nA-J]{{0,40}})\s*\Z",
    ),
    (ANSWER, rf"[。.!！]\s+[{_QUOTE}]*{CAPITAL}[{_CLOSE}.。]*\s*\Z"),
    (
        ANSWER,
        rf"(?:由|从|從) ?[A-J]{_OPTION} ?(?:改|换|換|修正|更正)(?:为|為|成|选|選|到) ?{LETTER}",
    ),
    (ANSWER, rf"(?i:chang\w+|switch\w*|revis\w+)[^.\n]{{0,20}} from [A-J] to {LETTER}"),
    (ANSWER, rf"(?:确定|決定|决定|最终|最后|坚持|坚定地?|果断)(?:选|選)(?:择|擇|了)?{_IS}{LETTER}"),
    (CHOICE, rf"[,，](?:而|就)?是{CAPITAL}(?=[。.!！]?\s*(?:\Z|\n))"),
    (ANSWER, rf"(?i:\bso the answer), is [{_QUOTE}]*{CAPITAL}"),
    (CHOICE, rf"(?:选|選)(?:择|擇)?(?:项|項)?{CAPITAL}{_OPTION}的?(?:理由|原因|依据|根据)"),
    (CHOICE, rf"(?i:in (?:a word|short|sum|brief)|bottom line|tl;?dr|my verdict)[:,] {CAPITAL}"),
    (
        CHOICE,
        r"(?i:\b(?:one|treatment|statement|option|definition|description)[^.\n]{0,30} "
        rf"(?:described|given|stated|listed|found|shown) in) (?:option )?[{_QUOTE}]*{CAPITAL}",
    ),
    (
        VERDICT,
        rf"{CAPITAL}[{_CLOSE}]*[^,，。;；A-J]{{0,20}}[,，]?即?[为為是]本[题題]的?(?:正确|正確)?答案",
    ),
    (
        VERDICT,
        rf"\b(?i:option )?{CAPITAL}[{_CLOSE}]* is (?:the )?(?i:(?:in)?correct statement|(?:false|wrong"
        r"|untrue|true) statement|exception|better\b)",
    ),
    # Of "which of these is wrong?" the answer is the wrong one.
    (
        CHOICE,
        r"(?:故|所以|因此|综上|綜上|可见|可見|从而|由此)[，,]?(?:本题|本題|该题|此题)?(?:中|里)?"
        rf"(?:不)?(?:正确|正確|错误|錯誤|恰当|妥当|合适|属于|成立|符合题意)(?:的|者)"
        rf"(?:选项|選項|一项|一項|说法|說法|表述|叙述|敘述)?{_IS}{CAPITAL}",
    ),
    (
        CHOICE,
        r"(?:归入|歸入|归为|歸為|归于|歸於|划入|列入|落入|属于|屬於)"
        rf"{_IS}{CAPITAL}{_OPTION}(?=[{_CLOSE}]*(?:[。.！!\s]|$))",
    ),
    (CHOICE, rf"(?<!当)(?<!當)(?:选择|選擇|选|選|填|涂|答)(?!项|項|案)(?:的|定|填)?{_IS}{LETTER}"),
    (
        CHOICE,
        rf"(?:所以|因此|故|综上|綜上|于是|從而|从而|剩下|只剩|即)[，,：:\s]*{_IS}{CAPITAL}{_OPTION}(?=[。.！!\s]|$)",
    ),
    (
        CHOICE,
        rf"(?:应该|應該|应当|應當|应|應|而|就|还是|維持|维持|回到|只能|大概|觉得|覺得|认为|認為|估计|倾向于|傾向於|对应|對應)(?:的|于|於)?(?:选项"
        rf"|選項)?{_IS}{CAPITAL}",
    ),
    (
        CHOICE,
        r"(?i:\bI(?:['’]d| would|['’]ll| will|['’]m)?(?: still| therefore| also| have to)? "
        r"(?:say|pick|choose|go with|going with|select|answer|vote for|believe it is"
        r"|think it['’]?s|"
        r"staying with|stick with|sticking with|settle on|settling on|landing on|leaning towards?))"
        rf"{_IS}{CAPITAL}",
    ),
    (
        CHOICE,
        rf"(?i:\b(?:so|hence|thus|therefore|leaving|leaves|probably|likely|belongs to|makes it"
        rf"|making|back to|points to|matches"
        rf"|corresponds to))[,:]?{_IS}{CAPITAL}(?=\s*[{_CLOSE}]*\s*(?:[.!。,，;；]|$))",
    ),
    (
        CHOICE,
        rf"(?i:\b(?:it|that)(?:['’]s| is| must be| has to be| would be"
        rf"| should be)) (?:option )?[{_QUOTE}]*{CAPITAL}",
    ),
    (CHOICE, rf"(?i:\banswer (?:would|could|might|may) be) [{_QUOTE}]*{CAPITAL}"),
    (
        VERDICT,
        rf"(?:只有|唯有|仅|僅)?(?:选项|選項)?{CAPITAL}{_OPTION}[{_CLOSE}]*(?:的(?:说法|说法|表述|叙述))?(?:两个选项的表述)?"
        r"(?:才|应该|應該|都|均|皆|是|为|為|最)*(?:更?恰当|更?合适|更准确|正确(?!的?[吗么?])|正確(?!的?[嗎么?])|对的|對的|对。|是对|当选|當選|(?<=[是为為])答案|(?:(?:本|此|这|該"
        r"|该)?(?:题|題)的?(?:正确|正確|最佳)?|正确|正確|最佳)(?:答案|选项|選項)|符合题意|符合題意|符合题目|正解|准确|合适)",
    ),
    (
        VERDICT,
        r"(?:正确|正確|错误|錯誤|不正确|有误|有誤|不对|不符合?|不属于|符合题意|符合題意|不包括|成立|合适|合適)(?:的|者)"
        rf"(?:选项|選項|一项|一項|说法|說法|表述|叙述|敘述|是哪一项)?{_IS}{CAPITAL}",
    ),
    (VERDICT, rf"\b{CAPITAL} alone\b"),
    (VERDICT, rf"[,，]\s*(?<![A-J][,，])(?<![A-J][,，] ){CAPITAL}[.。]?\s*\Z"),
    (VERDICT, rf"(?:与|與|即|属于|屬於|归为|对应|為|为){CAPITAL}{_OPTION}(?:一致|相符|吻合)"),
    (
        VERDICT,
        rf"\b(?i:option )?{CAPITAL}[{_CLOSE}]* (?i:is|must be|should be|seems|looks)(?: clearly"
        rf"| definitely| the| my| your| most)* "
        r"(?i:correct|right|best|likely|answer|strongest|response|choice|pick)\b",
    ),
    (
        VERDICT,
        r"(?i:\b(?:false|incorrect|wrong|true|correct|untrue|inaccurate|right) "
        rf"(?:statement|option|one|choice|item) is) (?:option )?[{_QUOTE}]*{CAPITAL}",
    ),
]
CLAIM_PATTERNS = [(strength, re.compile(pattern)) for strength, pattern in CLAIMS]

# Before a claim, in its clause: it is denied, supposed, or somebody else's.
DENIED_BEFORE = re.compile(
    r"(?:不|非|没|沒|未|勿|别|別|莫|无法|無法|不应|不能|不该|不可|不会|不要|并非|而不|排除"
    r"|(?i:\b(?:not|never|don['’]t|can['’]t|cannot|isn['’]t|neither|nor|wouldn['’]t"
    r"|shouldn['’]t))[ \w]{0,12})\s*$"
)
SUPPOSED = re.compile(
    r"很多人|不少人|多数人|多數人|教材|课本|書本|书上|当时的|當時的|公布的|网上给出|有些|補習|补习|[您你他她]们?(?:提到|说|說|給|给的?|选|選|认为|認為|觉得)|用户|用戶|客户认为|题库|网上|流传|据说|旧版|旧教材|先前想|原本|有人认为|起初|一开始|一開始|以为|以為|有人|有的人|考生|同学|误|誤"
    r"|请|請|(?i:\b(?:you suggested|proposed|suggested|disagree|thinks|colleague|answer keys?|at first|first answer|initially"
    r"|people|students|some|many|you asked))\b"
)
FIRST_GLANCE = re.compile(
    r"乍看|乍一看|初看|粗看|一眼看去|(?i:\bat first\b|\binitially\b|\bon the surface\b|\bfirst guess\b)"
)
# The whole sentence supposes something: each of its claims holds only then.
CONDITION = re.compile(
    r"如果(?!一定要|必须|必須|非要|硬要|只能)|假如|假设|假設|若(?!干)|要是|倘若|即使|(?i:\b(?:if(?! I ha(?:d|ve) to)|suppose|assuming"
    r"|unless)\b)"
)
# Behind a claim: it is judged wrong, or it names those who chose.
DENIED_BEHIND = re.compile(
    r"^\s*(?:项|項|选项|選項)?(?:也|都|均|皆|就|是|则|的)*\s*"
    r"(?:[与與和][^，。,;；\n]{0,14}(?:不符|矛盾|不一致|无关)|不对|不對|错|錯|不正确|不行|有误|不合|吗|嗎|么|呢|[?？]|的(?!理由|原因|依据)|作废|还是|還是|(?i:is (?:wrong|incorrect|false|not)))"
)
# A claim that goes on as a list of all options names none of them.
OPTIONS_LISTED = re.compile(r"A[).、．:：][^\n]{1,40}\bB[).、．:：][^\n]{1,40}\bC[).、．:：]")
CHANGED_MIND = re.compile(
    r"(?:^|[。！!？?，,…．.\s])(?:不对|不對|不，|等等|等一下|且慢|更正|修正|重新(?:计算|考虑|审题|看)|再想想|改为|改選|改选)"
    r"|(?:回答|答案|计算)有误|(?i:\b(?:actually|wait|hold on|on second thought|on reflection|correction"
    r"|corrected answer|scratch that|I was wrong|my mistake|correct myself|"
    r"let me re))"
)
# --- texts without a claim -----------------------------------------------------------------------
MENTION = re.compile(CAPITAL.replace("A-J", "A-HJ"))  # an I is mostly the pronoun
SENTENCE = re.compile(r"[。！!？?；;\n]|\.(?=\s|$)")
CLAUSE = re.compile(r"[，,：:]|(?i:\b(?:but|and|which means|hence|while)\b)")
NONE_RIGHT = re.compile(
    r"没有(?:一个|任何)?(?:正确)?(?:的)?(?:选项|答案)|都不(?:对|正确|合适|是)|均不(?:对|正确)|无法|無法|不知道"
    r"|难以|难说|不(?:太)?确定|以上(?:皆|都|均)"
    r"|(?i:none of|all of the above|cannot|can['’]t|unable|not sure which|depends)"
)
# A lower-case letter counts where it opens a text of one line: c. 信用风险.
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
# An option that is walked through: B选项：市场风险是指……
OPTION_WALK = re.compile(
    r"\W*(?:(?i:option) [A-J]\b|(?:选项|選項)?[A-J](?:选项|選項|项|項|\s*[:：]))"
)
# All are refused: None of the options A, B, C, or D is correct.
ALL_REFUSED = re.compile(
    r"(?i:\bnone of (?:the |these )?(?:options|choices|answers)\b)[^.;\n]{0,30}"
)
# A long text without a mark at its end, or one that ends in the middle of a phrase, was cut off.
CUT_OFF = re.compile(r"(?:[，,：:为是]|(?i:\b(?:the|which|is|are|because|of|and|that|to|a)))\s*$")
ENDED = re.compile(rf"[。.!！?？;；…}}{_CLOSE}]\s*$|[A-J]\s*$")
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
# What ends a sentence that weighs several options.
CONCLUDES = re.compile(
    r"所以|因此|故|可见|可見|最后|最终|还是|就(?:是|选|写|填)|才是|胜出|相符|得到|答案|为准|选它|当选|只能|只有"
    r"|(?i:\b(?:so|hence|thus|therefore|survives|left|leaves|remains|answer|choose|pick|mark"
    r"|must be"
    r"|choice|final|scenario|stays|it is|it must|is (?:listed|what))\b)"
)
OPTION_VERDICT = re.compile(
    r"(?:^|[\n;；。.])[^\w\n]*(?:选项|選項|(?i:option) )?((?:[A-J][、,，]?)+)[^\w\n√×✓✗✘❌✅]{1,3}(?:项)?\s*"
    r"((?i:incorrect|correct|wrong|right|false|true|no|yes)|不?正[确確]|[错錯][误誤]?|[对對]|不?符合|排除|[√×✓✔✗✘❌✅])"
)
SIGN_BEFORE = re.compile(r"(?m:^)\W*?([✅✓✔√❌✗✘×])\W*([A-J])\b")
RIGHT = re.compile(r"(?i:correct|right|true|yes)|正[确確]|[对對]|符合|[√✓✔✅]")

CLAUSE_SIGNS = "。！!？?；;，,\n"
# A letter at the beginning of a line, with a mark behind it or nothing.
LINE_BEGINS = re.compile(
    r"[^\w\\{|]*([A-J])(?![)）]\s*[、,，和与與及或])(?=[\"'”’」』]?\s*(?:[!！.．。:：(（)）】\]—–]|-\s"
    r"|[、,，](?!\s*(?:[A-J]|and|or))|$)|[ \t]+(?![和与與或及跟皆均都])[\u4e00-\u9fff])"
)


def letter_of(text: str | None, letters: list[str]) -> int | None:
    """Return the option that a written answer names.

    Where the options are words, such as 是 and 否, the text has to begin with one of them, or say it
    behind `答案：`.

    Args:
        text: The answer; None for none.
        letters: The options as they were offered: A, B, ... or words.

    Returns:
        The option's index; None when the text names none, several, or one that was not there.
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
    """Return a text without its thinking; an empty one where the thinking never ends."""
    text = THOUGHT.sub("", text)
    text = LONE_END.sub("", text)
    start = LONE_START.search(text)
    return text[: start.start()] if start else text


def _conclusion(text: str) -> str:
    """Return what a text says after its thinking, without the marks of Markdown, LaTeX and HTML."""
    text = TEMPLATE_MARK.sub("", without_thinking(text)).strip()
    following = NEXT_QUESTION.search(text)
    if following:  # the model goes on with a question of its own
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
    """Return the letters that a text names as its answer."""
    text = text.strip()
    one_of_all = _only_line_called_right(text)
    if one_of_all:
        return one_of_all
    alone = _letter_alone(text)
    if alone is not None:
        return alone
    for change in reversed([match.end() for match in CHANGED_MIND.finditer(text)]):
        later = _named_letters(text[change:].lstrip("，,。.！! "))
        if later:
            return later
    claimed = _claimed_letters(text)
    if claimed is not None:
        return claimed
    lines = text.splitlines() or [""]
    beginnings = [LINE_BEGINS.match(line) for line in lines]
    begun = [match[1] for match in beginnings if match]
    # A letter alone on the first line, and below it why the others are wrong.
    first = BARE.fullmatch(lines[0])
    if first and begun.count(first[1].upper()) <= 1:
        return {first[1].upper()}
    if beginnings[0] and len(set(begun)) == 1:
        return set(begun)
    return _last_mention(text)


def _letter_alone(text: str) -> set[str] | None:
    """Return the letters of a text that consists of little else; None for any other text."""
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
    claims = _claims(text)
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
    """Return the option that the last sentence with any speaks well of, if it is one alone."""
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
        if CONDITION.search(period) or len(named) > 1 or listed:
            return set()
        denied = {match["one"] or match["other"] for match in DENIED.finditer(text)}
        if named & denied or SPEAKS_ILL.search(clause) or NONE_RIGHT.search(tail):
            return set()
        return named if well.search(tail) else set()
    return set()


def _only_line_called_right(text: str) -> set[str]:
    """Return the letter of the one option that a walk through all of them calls right."""
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
    """Return the option letters that stand in a text."""
    return set(re.findall("[A-J]", "".join(match["letters"] for match in MENTION.finditer(text))))


def _claims(text: str) -> list[tuple[int, int, set[str]]]:
    """Return the claims of a text that are neither denied nor supposed.

    Returns:
        (strength, place, letters) of each.
    """
    found = []
    for strength, pattern in CLAIM_PATTERNS:
        for match in pattern.finditer(text):
            before = text[: match.start()]
            clause = re.split(f"[{CLAUSE_SIGNS}]", before)[-1]
            if DENIED_BEFORE.search(before) or DENIED_BEHIND.match(text[match.end("letters") :]):
                continue
            sentence = re.split(r"[。！!\n]|\.\s|[;；]\s*(?=但|而|然而|but|however)", before)[-1]
            supposed = SUPPOSED.search(clause) or FIRST_GLANCE.search(sentence)
            if strength < MARKED and (supposed or CONDITION.search(sentence)):
                continue
            if OPTIONS_LISTED.match(text[match.start("letters") :]):
                continue
            letters = set(re.findall("[A-J]", match["letters"].upper()))
            found.append((strength, match.start("letters"), letters))
    return found
