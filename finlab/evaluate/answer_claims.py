"""Find the claims in a written answer, such as `答案是B`, `选B`, `B正确`, and their strength.

    find("有人选A，但答案是B")    # [(ANSWER, 9, {"B"})]

Claims that are denied, only supposed, or made by somebody else are left out. The module `answers`
chooses among the others.
"""

from __future__ import annotations

import re

# One letter or several: B, BD, B、D, B or D. Not A股, A类, Plan B's, "a company".
# Each part may match white space at one place only; otherwise the search would try every split.
_JOIN = (
    r"(?:\s*[)）])?\s*(?:[、/&和与與及或]|and|or|[,，](?=\s*[A-J]\s*(?:[,，.。}]|\Z)))"
    r"\s*(?:and\s+|or\s+)?(?:[(（]\s*)?"
)
_NO_OPTION = (
    r"(?![A-Za-z0-9%+])(?!\s*[=*^]|\s/\s)(?!['’](?:s|re)\b)"
    r"(?!\s?(?:股|轮|輪|类|類|级|級|型|座|公司|银行|方(?![法面])|栋|区|座|组|組|班|企业|的(?!可能|理由|原因|依据)))"
    r"(?!-[A-Za-z])"
)
# In English, an A that begins a phrase is the article: "a company", "A bond".
_NO_ARTICLE = (
    r"(?!(?<=[Aa])[ \t]+(?!(?:because|since|as|is|and|or|for|but|here|not|with|which|due|given|if"
    r"|would|should|was|seems|must|has|to|in|on|by|based|that|it|fits|holds|stands|makes|survives"
    r"|alone|wins|captures|describes|says|does|follows|can|could|remains|applies|works|instead"
    r"|then)\b)[a-z])"
)
# What must not stand before a letter: 维生素A, Class A and similar words name no option.
_NAMED = (
    r"(?<!维生素)(?<![A-Za-z0-9])(?<!(?i:class) )(?<!(?i:vitamin) )(?<!(?i:plan) )(?<!(?i:type) )"
)
LETTER = rf"{_NAMED}(?P<letters>[A-Ja-j](?:(?:{_JOIN})?[A-J]){{0,9}}){_NO_OPTION}{_NO_ARTICLE}"
CAPITAL = LETTER.replace("[A-Ja-j]", "[A-J]", 1)
_QUOTE = "\"'“”‘’「『【《（(\\[<"
CLOSE = "\"'”’」』】》）)\\]>"
_IS = (
    rf"(?:应该|應該|应当|應當|应|應|该|該|当|改|也|恰好|正好|刚好|就|便|即|只能|可能|显然|是|为|為|选项|選項|选择|選擇|选|選|项|項|"
    rf"[:：=\s{_QUOTE}{CLOSE}—→-]|(?i:\b)(?:is|was|should|must|be|to|has|got|gotta|clearly"
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
        rf"(?i:\b(?:answer|ans\.?|conclusion(?=\W{{1,6}}[A-J]\W*(?:\n|$))|(?:correct|right"
        rf"|best) (?:option|choice|one)|"
        r"my (?:choice|pick|answer|guess|vote)|(?m:^)(?:choice|option|result)(?=\s*[:=]))(?!\w))"
        rf"{_IS}{LETTER}",
    ),
    (ANSWER, rf"(?i:\banswer is not) [A-J],? but (?:rather )?{LETTER}"),
    # The last line is a letter alone, or ends with one after a colon: "so: C", "Gas: A) Oxygen".
    (ANSWER, rf"(?m:^)(?:[^\w\n]|(?i:option)|选项|選項)*{CAPITAL}[{CLOSE}.。]*\s*\Z"),
    (
        ANSWER,
        rf"(?<![A-J])[:：][ \t]*[{_QUOTE}]*{CAPITAL}(?:[{CLOSE}.。]*|[).．、(][^\nA-J]{{0,40}})\s*\Z",
    ),
    (ANSWER, rf"[。.!！]\s+[{_QUOTE}]*{CAPITAL}[{CLOSE}.。]*\s*\Z"),
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
        rf"{CAPITAL}[{CLOSE}]*[^,，。;；A-J]{{0,20}}[,，]?即?[为為是]本[题題]的?(?:正确|正確)?答案",
    ),
    (
        VERDICT,
        rf"\b(?i:option )?{CAPITAL}[{CLOSE}]* is (?:the )?(?i:(?:in)?correct statement|(?:false"
        rf"|wrong"
        r"|untrue|true) statement|exception|better\b)",
    ),
    # For the question "which of these is wrong?", the answer is the wrong option.
    (
        CHOICE,
        r"(?:故|所以|因此|综上|綜上|可见|可見|从而|由此)[，,]?(?:本题|本題|该题|此题)?(?:中|里)?"
        rf"(?:不)?(?:正确|正確|错误|錯誤|恰当|妥当|合适|属于|成立|符合题意)(?:的|者)"
        rf"(?:选项|選項|一项|一項|说法|說法|表述|叙述|敘述)?{_IS}{CAPITAL}",
    ),
    (
        CHOICE,
        r"(?:归入|歸入|归为|歸為|归于|歸於|划入|列入|落入|属于|屬於)"
        rf"{_IS}{CAPITAL}{_OPTION}(?=[{CLOSE}]*(?:[。.！!\s]|$))",
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
        rf"|corresponds to))[,:]?{_IS}{CAPITAL}(?=\s*[{CLOSE}]*\s*(?:[.!。,，;；]|$))",
    ),
    (
        CHOICE,
        rf"(?i:\b(?:it|that)(?:['’]s| is| must be| has to be| would be"
        rf"| should be)) (?:option )?[{_QUOTE}]*{CAPITAL}",
    ),
    (CHOICE, rf"(?i:\banswer (?:would|could|might|may) be) [{_QUOTE}]*{CAPITAL}"),
    (
        VERDICT,
        rf"(?:只有|唯有|仅|僅)?(?:选项|選項)?{CAPITAL}{_OPTION}[{CLOSE}]*(?:的(?:说法|说法|表述|叙述))?(?:两个选项的表述)?"
        r"(?:才|应该|應該|都|均|皆|是|为|為|最)*(?:更?恰当|更?合适|更准确|正确(?!的?[吗么?])|正確(?!的?[嗎么?])|对的|對的|对。|是对|当选"
        r"|當選|(?<=[是为為])答案|(?:(?:本|此|这|該"
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
        rf"\b(?i:option )?{CAPITAL}[{CLOSE}]* (?i:is|must be|should be|seems|looks)(?: clearly"
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

# Words before a claim, in its clause: the claim is denied, supposed, or somebody else's.
DENIED_BEFORE = re.compile(
    r"(?:不|非|没|沒|未|勿|别|別|莫|无法|無法|不应|不能|不该|不可|不会|不要|并非|而不|排除"
    r"|(?i:\b(?:not|never|don['’]t|can['’]t|cannot|isn['’]t|neither|nor|wouldn['’]t"
    r"|shouldn['’]t))[ \w]{0,12})\s*$"
)
SUPPOSED = re.compile(
    r"很多人|不少人|多数人|多數人|教材|课本|書本|书上|当时的|當時的|公布的|网上给出|有些|補習|补习|[您你他她]们?(?:提到|说|說|給|给的?|选|選|认为|認為|觉得)"
    r"|用户|用戶|客户认为|题库|网上|流传|据说|旧版|旧教材|先前想|原本|有人认为|起初|一开始|一開始|以为|以為|有人|有的人|考生|同学|误|誤"
    r"|请|請|(?i:\b(?:you suggested|proposed|suggested|disagree|thinks|colleague|answer keys?"
    r"|at first|first answer|initially"
    r"|people|students|some|many|you asked))\b"
)
FIRST_GLANCE = re.compile(
    r"乍看|乍一看|初看|粗看|一眼看去|(?i:\bat first\b|\binitially\b|\bon the surface\b|\bfirst guess\b)"
)
# The whole sentence supposes something: its claims hold only under that condition.
CONDITION = re.compile(
    r"如果(?!一定要|必须|必須|非要|硬要|只能)|假如|假设|假設|若(?!干)|要是|倘若|即使|(?i:\b(?:if(?! I ha(?:d|ve) to)|suppose"
    r"|assuming"
    r"|unless)\b)"
)
# Words after a claim: the claim is judged wrong, or it names people who chose the option.
DENIED_BEHIND = re.compile(
    r"^\s*(?:项|項|选项|選項)?(?:也|都|均|皆|就|是|则|的)*\s*"
    r"(?:[与與和][^，。,;；\n]{0,14}(?:不符|矛盾|不一致|无关)|不对|不對|错|錯|不正确|不行|有误|不合|吗|嗎|么|呢|[?？]|的(?!理由|原因|依据)"
    r"|作废|还是|還是|(?i:is (?:wrong|incorrect|false|not)))"
)
# A claim that continues as a list of all options names no option.
OPTIONS_LISTED = re.compile(r"A[).、．:：][^\n]{1,40}\bB[).、．:：][^\n]{1,40}\bC[).、．:：]")
CHANGED_MIND = re.compile(
    r"(?:^|[。！!？?，,…．.\s])(?:不对|不對|不，|等等|等一下|且慢|更正|修正|重新(?:计算|考虑|审题|看)|再想想|改为|改選|改选)"
    r"|(?:回答|答案|计算)有误|(?i:\b(?:actually|wait|hold on|on second thought|on reflection|correction"
    r"|corrected answer|scratch that|I was wrong|my mistake|correct myself|"
    r"let me re))"
)
CLAUSE_SIGNS = "。！!？?；;，,\n"


def find(text: str) -> list[tuple[int, int, set[str]]]:
    """Return the claims of a text that are neither denied nor supposed.

    Returns:
        (strength, place, letters) of each claim: MARKED, ANSWER, CHOICE or VERDICT, the index in
        `text` of the first letter, and the set of letters.
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
