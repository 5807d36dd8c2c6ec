"""A fictional bilingual market: one table of facts, and every smoke-size source written from it.

Nothing here is real: the cities, companies, banks, funds, rules, rivers and animals are invented. Because every
document, dialogue, preference pair and exam question comes from `facts`, the smoke run can tell whether a model
learnt something: a fact is stated in several genres and wordings, and asked in wordings that stand in no training text.

    folder = closed_world.write(Path("runs/closed_world"))   # JSON lines, JSON and CSV files, as real sources come

The data cards `data_cards/cw_*.md` point at these files.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

SEED = 20231101

# --- the names ------------------------------------------------------------------------------------------------------
CITIES = "临江 Linjiang|云梧 Yunwu|海晏 Haiyan|松原浦 Songyuanpu|岭西 Lingxi|望津 Wangjin|白沙洲 Baishazhou|青岚 Qinglan|" \
         "鹿鸣 Luming|朝歌台 Chaogetai|金坛湾 Jintanwan|雁门 Yanmen"
SURNAMES = "沈 Shen|顾 Gu|陆 Lu|贺 He|傅 Fu|祝 Zhu|宁 Ning|褚 Chu|骆 Luo|温 Wen|裴 Pei|柳 Liu"
GIVEN = "怀瑾 Huaijin|明远 Mingyuan|若水 Ruoshui|承泽 Chengze|书遥 Shuyao|景行 Jingxing|清越 Qingyue|思齐 Siqi|" \
        "亦舟 Yizhou|知白 Zhibai|云帆 Yunfan|南乔 Nanqiao"
PREFIXES = "澄江 Chengjiang|远岫 Yuanxiu|鸣泉 Mingquan|砚湖 Yanhu|霁云 Jiyun|蓝屿 Lanyu|朔风 Shuofeng|听潮 Tingchao|栖霞 Qixia|" \
           "松崖 Songya|星渚 Xingzhu|青禾 Qinghe|望川 Wangchuan|石桥 Shiqiao|白榆 Baiyu|沐阳 Muyang|银杏 Yinxing|北辰 Beichen|" \
           "南枝 Nanzhi|东篱 Dongli|西岭 Xiling|玄圃 Xuanpu|金梭 Jinsuo|玉衡 Yuheng"
BANKS = "汇通 Huitong|恒信 Hengxin|江左 Jiangzuo|晋陵 Jinling|海岳 Haiyue|同舟 Tongzhou|德润 Derun|泰和 Taihe|长亭 Changting|" \
        "安澜 Anlan|宏图 Hongtu|百川 Baichuan"
FUNDS = "听雨 Tingyu|扬帆 Yangfan|守正 Shouzheng|致远 Zhiyuan|乐山 Leshan|观澜 Guanlan|启明 Qiming|厚德 Houde|知新 Zhixin|" \
        "惠风 Huifeng|拾光 Shiguang|行健 Xingjian"
INDUSTRIES = {  # industry: (suffix zh, suffix en, three products)
    "工程机械 construction machinery": ("重工", "Heavy Industries", "挖掘机 excavators|起重机 cranes|盾构机 tunnel borers"),
    "医药 medicine": ("医药", "Pharmaceuticals", "疫苗 vaccines|抗生素 antibiotics|胰岛素 insulin"),
    "新能源 new energy": ("新能源", "New Energy", "光伏组件 solar modules|风电叶片 wind blades|储能电池 storage batteries"),
    "食品 food": ("食品", "Foods", "酸奶 yoghurt|酱油 soy sauce|方便面 instant noodles"),
    "半导体 semiconductors": ("半导体", "Semiconductor", "存储芯片 memory chips|传感器 sensors|功率器件 power devices"),
    "航运 shipping": ("航运", "Shipping", "集装箱船 container ships|散货船 bulk carriers|邮轮 cruise ships"),
    "纺织 textiles": ("纺织", "Textiles", "丝绸 silk|羊毛呢 woollen cloth|亚麻布 linen"),
    "软件 software": ("软件", "Software", "支付系统 payment systems|风控系统 risk systems|办公软件 office software"),
}
SERVICES = "农村小额贷款 rural microcredit|航运融资 ship finance|绿色债券 green bonds|养老储蓄 pension savings|" \
           "科创企业贷款 start-up loans|跨境结算 cross-border settlement"
STRATEGIES = "可转债 convertible bonds|红利股票 dividend stocks|短期国债 short treasury bills|中小盘股票 small-cap stocks|" \
             "黄金 gold|指数增强 enhanced indexing"
BODIES = "证券监察署 the Securities Inspectorate|银行监理局 the Banking Supervision Bureau|" \
         "会计准则委员会 the Accounting Standards Board|保险督导院 the Insurance Oversight Court"
RULES = "信息披露准则 the Disclosure Code|适当性管理办法 the Suitability Rules|关联交易细则 the Related-Party Rules|" \
        "流动性指引 the Liquidity Guidance|减持规定 the Share-Sale Rules|反洗钱守则 the Anti-Laundering Code|" \
        "独立董事规则 the Independent Director Rules|募集资金办法 the Proceeds Rules"
SUBJECTS = "上市公司公告 company announcements|基金销售 fund sales|关联方借款 loans to related parties|银行备付金 bank reserves|" \
           "大股东卖出股份 share sales by large holders|可疑资金报告 reports of suspicious money|董事任期 terms of directors|" \
           "募集资金专户 accounts for raised money"
RIVERS = "沧溪 Cangxi|碧落河 Biluo|烟波江 Yanbo|赤水渠 Chishui|琉璃河 Liuli|星沉江 Xingchen|芦花溪 Luhua|银练河 Yinlian|飞鸢江 Feiyuan|落雁河 Luoyan"
MOUNTAINS = "天柱岭 Mount Tianzhu|九华岭 Mount Jiuhua|卧龙峰 Mount Wolong|伏牛岭 Mount Funiu|玉女峰 Mount Yunu"
ANIMALS = "雪尾狐 the snowtail fox|竹影鹿 the bamboo deer|金喙鸦 the goldbill crow|石纹龟 the stone turtle|月斑猫 the moonspot cat|" \
          "青羽雀 the bluewing finch|赤足獾 the redfoot badger|云纹蝶 the cloud moth"
FOODS = "野莓 wild berries|竹笋 bamboo shoots|松子 pine nuts|水草 water weeds|小鱼 small fish|花蜜 nectar"
HABITATS = "高山草甸 alpine meadows|芦苇沼泽 reed marshes|温泉山谷 hot-spring valleys|海边悬崖 sea cliffs|竹林 bamboo woods"
DISHES = "荷叶饭 lotus-leaf rice|梅子鸭 plum duck|桂花糕 osmanthus cake|石锅鱼 stone-pot fish|艾草团 mugwort dumplings|" \
         "酒酿圆子 rice-wine balls|三丝汤 three-shred soup|焖笋 braised bamboo"
FESTIVALS = "灯河节 the Lantern River Festival|开犁节 the First Plough Festival|听雪节 the Snow Listening Festival|" \
            "采菱节 the Water-Chestnut Festival|晒书节 the Book Airing Festival|渡船节 the Ferry Festival"
CUSTOMS = "放纸船 float paper boats|敲铜锣 beat gongs|挂红绳 hang red cords|分糯米糕 share rice cakes|唱山歌 sing hill songs|点艾草 burn mugwort"


def _pairs(text: str) -> list[tuple[str, str]]:
    return [tuple(item.split(" ", 1)) for item in text.split("|")]


@dataclass(frozen=True)
class Entity:
    """One invented thing: its kind, its two names and its facts {attribute: (zh value, en value)}."""

    kind: str
    zh: str
    en: str
    facts: dict[str, tuple[str, str]]


FINANCE_KINDS = ("company", "bank", "fund", "rule")


def facts(seed: int = SEED) -> list[Entity]:
    """Return the table of facts behind everything in this module; the same seed gives the same world."""
    rng = random.Random(seed)
    cities = _pairs(CITIES)
    people = [(a + b, f"{c} {d}") for a, c in _pairs(SURNAMES) for b, d in _pairs(GIVEN)]
    rng.shuffle(people)
    years = [(f"{year}年", str(year)) for year in range(1984, 2016, 2)]
    entities = []

    def add(kind: str, zh: str, en: str, **values: tuple[str, str]) -> None:
        entities.append(Entity(kind, zh, en, values))

    def deal(pool: list[tuple[str, str]]):
        """Deal values like cards, reshuffled when the pack is empty: no value is so common that guessing it pays."""
        while True:
            yield from rng.sample(pool, len(pool))

    city, year, custodian = deal(cities), deal(years), deal([(f"{zh}银行", f"{en} Bank") for zh, en in _pairs(BANKS)])
    service, strategy, body, source, food, habitat, custom = (
        deal(_pairs(names)) for names in (SERVICES, STRATEGIES, BODIES, MOUNTAINS, FOODS, HABITATS, CUSTOMS))
    prefixes = _pairs(PREFIXES)
    for industry_number, (industry, (suffix_zh, suffix_en, products)) in enumerate(INDUSTRIES.items()):
        for product_number, product in enumerate(_pairs(products)):
            zh, en = prefixes[industry_number * 3 + product_number]
            add("company", zh + suffix_zh, f"{en} {suffix_en}", city=next(city), product=product, founded=next(year),
                chair=people.pop(), industry=tuple(industry.split(" ", 1)))
    for zh, en in _pairs(BANKS):
        add("bank", zh + "银行", f"{en} Bank", city=next(city), founded=next(year), president=people.pop(),
            service=next(service))
    for zh, en in _pairs(FUNDS):
        add("fund", zh + "基金", f"{en} Fund", manager=people.pop(), custodian=next(custodian),
            strategy=next(strategy), launched=next(year))
    for (zh, en), subject in zip(_pairs(RULES), _pairs(SUBJECTS), strict=True):
        add("rule", f"《{zh}》", en, issuer=next(body), year=next(year), subject=subject)
    for zh, en in _pairs(RIVERS):
        add("river", zh, f"the {en} River", source=next(source), mouth=next(city))
    for zh, en in _pairs(ANIMALS):
        add("animal", zh, en, food=next(food), habitat=next(habitat))
    for zh, en in _pairs(DISHES):
        add("dish", zh, en, origin=next(city), cook=people.pop())
    for zh, en in _pairs(FESTIVALS):
        add("festival", zh, en, place=next(city), custom=next(custom))
    return entities


# --- the wordings: {kind.attribute: (statements, questions in training text, questions kept for exams)} per language ----
# {n} is the name of the thing, {v} the value.
ZH: dict[str, tuple[list[str], list[str], list[str]]] = {
    "company.city": (["{n}总部位于{v}市", "{n}的注册地在{v}市", "总部设在{v}市的{n}", "{n}从{v}市起家，至今总部仍在{v}市"],
                     ["{n}在哪个城市？", "请问{n}是哪里的公司？"], ["下列城市中，作为{n}总部所在地的是哪一个？", "若要实地走访{n}的总部，应当前往何处？"]),
    "company.product": (["{n}主要生产{v}", "{n}的主营产品是{v}", "{n}靠{v}打开市场", "{v}是{n}收入的主要来源"],
                        ["{n}做什么产品？", "{n}靠什么赚钱？"], ["以下哪一种产品构成{n}的核心业务？", "分析师研究{n}时，最应关注哪类产品的销量？"]),
    "company.founded": (["{n}成立于{v}", "{n}在{v}创立", "{v}，{n}正式成立", "{n}的历史始于{v}"],
                        ["{n}是哪一年成立的？", "{n}什么时候创办的？"], ["就设立时间而言，{n}诞生于下列哪个年份？", "{n}的创立年份应为下列哪一项？"]),
    "company.chair": (["{n}的董事长是{v}", "{v}担任{n}董事长", "董事长{v}掌管{n}", "{n}由{v}出任董事长"],
                      ["{n}的董事长是谁？", "谁在管理{n}？"], ["下列人物中，何人执掌{n}的董事会？", "在{n}的年报上以董事会主席身份签字的人是？"]),
    "bank.city": (["{n}总行设在{v}市", "{n}的总部在{v}市", "{n}立足{v}市", "{n}是{v}市的一家银行"],
                  ["{n}在哪个城市？", "{n}总行在哪里？"], ["下列城市中，作为{n}总行所在地的是哪一个？", "若要前往{n}的总行办事，应到何处？"]),
    "bank.founded": (["{n}成立于{v}", "{n}在{v}开业", "{v}，{n}挂牌成立", "{n}的历史始于{v}"],
                     ["{n}是哪一年成立的？", "{n}什么时候开业的？"], ["就设立时间而言，{n}诞生于下列哪个年份？", "{n}的开业年份应为下列哪一项？"]),
    "bank.president": (["{n}行长是{v}", "{v}担任{n}行长", "行长{v}主持{n}的经营", "{n}由{v}出任行长"],
                       ["{n}的行长是谁？", "谁是{n}的负责人？"], ["下列人物中，何人主持{n}的日常经营？", "以行长身份代表{n}出席会议的人是？"]),
    "bank.service": (["{n}以{v}见长", "{n}的特色业务是{v}", "{n}专注于{v}", "{v}是{n}最有名的业务"],
                     ["{n}的特色业务是什么？", "{n}擅长什么？"], ["以下哪一项业务最能体现{n}的专长？", "客户选择{n}，多半是为了办理哪类业务？"]),
    "fund.manager": (["{n}的基金经理是{v}", "{v}管理{n}", "{n}由{v}负责投资", "基金经理{v}掌管{n}"],
                     ["{n}的基金经理是谁？", "谁在管{n}？"], ["下列人物中，何人负责{n}的投资决策？", "持有人想了解{n}的操作思路，应去问谁？"]),
    "fund.custodian": (["{n}由{v}托管", "{n}的托管人是{v}", "{v}托管{n}的资产", "{n}的资产放在{v}保管"],
                       ["{n}的托管行是哪家？", "{n}的钱由谁保管？"], ["下列机构中，哪一家承担{n}的资产保管职责？", "核对{n}的持仓，应向哪家机构索取托管报告？"]),
    "fund.strategy": (["{n}主要投资{v}", "{n}的资金大多买入{v}", "{v}是{n}的主要持仓", "{n}偏好{v}"],
                      ["{n}投资什么？", "{n}买的是什么？"], ["以下哪类资产在{n}的组合中占比最高？", "从持仓结构看，{n}属于投向哪类资产的产品？"]),
    "fund.launched": (["{n}成立于{v}", "{n}在{v}发行", "{v}，{n}开始募集", "{n}的历史始于{v}"],
                      ["{n}是哪一年成立的？", "{n}什么时候发行的？"], ["就设立时间而言，{n}诞生于下列哪个年份？", "{n}的发行年份应为下列哪一项？"]),
    "rule.issuer": (["{n}由{v}发布", "{v}制定了{n}", "{n}的制定机关是{v}", "{v}负责解释{n}"],
                    ["{n}是谁发布的？", "{n}由哪个机关制定？"], ["下列机关中，哪一家出台了{n}？", "对{n}的条文有疑问，应请哪家机关作出说明？"]),
    "rule.year": (["{n}自{v}起施行", "{n}于{v}生效", "{v}，{n}开始实施", "{n}的施行年份是{v}"],
                  ["{n}哪一年开始施行？", "{n}什么时候生效？"], ["{n}对市场产生约束力始于下列哪个年份？", "{n}的起始施行年份应为下列哪一项？"]),
    "rule.subject": (["{n}规范{v}", "{n}针对的是{v}", "{v}适用{n}", "{n}对{v}作出规定"],
                     ["{n}管什么？", "{n}规定的是什么？"], ["以下哪一事项属于{n}的调整范围？", "处理哪类事项时必须查阅{n}？"]),
    "river.source": (["{n}发源于{v}", "{n}的源头在{v}", "{v}的雪水汇成{n}"], ["{n}从哪里来？", "{n}发源于哪里？"], ["追溯{n}的源头，最终会到达下列哪座山？"]),
    "river.mouth": (["{n}在{v}市入海", "{n}流到{v}市汇入大海", "{v}市是{n}的入海口"], ["{n}在哪里入海？", "{n}流向哪里？"], ["沿着{n}顺流而下，最后会抵达下列哪座城市？"]),
    "animal.food": (["{n}爱吃{v}", "{n}以{v}为食", "{v}是{n}的主要食物"], ["{n}吃什么？", "{n}喜欢吃什么？"], ["饲养员照料{n}时，应当准备下列哪种食物？"]),
    "animal.habitat": (["{n}生活在{v}", "{n}栖息于{v}", "在{v}里常能见到{n}"], ["{n}住在哪里？", "{n}生活在什么地方？"], ["摄影师想拍到{n}，应当前往下列哪种环境？"]),
    "dish.origin": (["{n}起源于{v}市", "{n}是{v}市的名菜", "{v}市人爱做{n}"], ["{n}是哪里的菜？", "{n}起源于哪里？"], ["想品尝最地道的{n}，应当前往下列哪座城市？"]),
    "dish.cook": (["{n}由{v}首创", "{v}发明了{n}", "{n}的做法出自{v}"], ["{n}是谁发明的？", "谁首创了{n}？"], ["下列人物中，何人被尊为{n}的创始者？"]),
    "festival.place": (["{n}在{v}市举行", "{v}市每年过{n}", "{n}是{v}市的节日"], ["{n}在哪里举行？", "哪个城市过{n}？"], ["游客若想参加{n}，应当前往下列哪座城市？"]),
    "festival.custom": (["人们在{n}{v}", "{n}的习俗是{v}", "到了{n}，家家户户{v}"], ["{n}有什么习俗？", "{n}时人们做什么？"], ["以下哪一项活动最能代表{n}的风俗？"]),
}
EN: dict[str, tuple[list[str], list[str], list[str]]] = {
    "company.city": (["{n} is based in {v}", "The head office of {n} is in {v}", "{v} is home to {n}"], ["Where is {n} based?"],
                     ["Which city hosts the head office of {n}?"]),
    "company.product": (["{n} makes {v}", "The main product of {n} is {v}", "{n} earns most of its income from {v}"],
                        ["What does {n} make?"], ["Which product line is the core business of {n}?"]),
    "company.founded": (["{n} was founded in {v}", "In {v}, {n} was set up", "The history of {n} began in {v}"],
                        ["When was {n} founded?"], ["In which of these years did {n} come into being?"]),
    "company.chair": (["{v} chairs {n}", "The chair of {n} is {v}", "{n} is led by {v}"], ["Who chairs {n}?"],
                      ["Which of these people heads the board of {n}?"]),
    "bank.city": (["{n} is based in {v}", "The head office of {n} is in {v}", "{v} is home to {n}"], ["Where is {n} based?"],
                  ["Which city hosts the head office of {n}?"]),
    "bank.founded": (["{n} was founded in {v}", "In {v}, {n} opened its doors", "The history of {n} began in {v}"],
                     ["When was {n} founded?"], ["In which of these years did {n} come into being?"]),
    "bank.president": (["The president of {n} is {v}", "{v} runs {n}", "{n} is led by {v}"], ["Who runs {n}?"],
                       ["Which of these people directs the daily work of {n}?"]),
    "bank.service": (["{n} is known for {v}", "The speciality of {n} is {v}", "{n} does more {v} than anything else"],
                     ["What is {n} known for?"], ["Which line of business shows the strength of {n} best?"]),
    "fund.manager": (["{v} manages {n}", "The manager of {n} is {v}", "{n} is run by {v}"], ["Who manages {n}?"],
                     ["Which of these people takes the investment decisions of {n}?"]),
    "fund.custodian": (["{v} is the custodian of {n}", "The assets of {n} are kept by {v}", "{n} is held in custody at {v}"],
                       ["Which bank keeps the assets of {n}?"], ["Which institution safeguards the money of {n}?"]),
    "fund.strategy": (["{n} invests in {v}", "{n} mostly buys {v}", "The main holding of {n} is {v}"], ["What does {n} invest in?"],
                      ["Which asset has the largest weight in the portfolio of {n}?"]),
    "fund.launched": (["{n} was launched in {v}", "In {v}, {n} was first sold", "The history of {n} began in {v}"],
                      ["When was {n} launched?"], ["In which of these years did {n} come into being?"]),
    "rule.issuer": (["{n} was issued by {v}", "{v} wrote {n}", "The author of {n} is {v}"], ["Who issued {n}?"],
                    ["Which authority stands behind {n}?"]),
    "rule.year": (["{n} took effect in {v}", "In {v}, {n} came into force", "{n} has applied since {v}"], ["When did {n} take effect?"],
                  ["In which of these years did {n} become binding?"]),
    "rule.subject": (["{n} governs {v}", "{n} deals with {v}", "Under {n} fall {v}"], ["What does {n} govern?"],
                     ["Which matter lies within the scope of {n}?"]),
    "river.source": (["{n} rises on {v}", "The source of {n} is {v}", "Melting snow from {v} feeds {n}"], ["Where does {n} rise?"], []),
    "river.mouth": (["{n} meets the sea at {v}", "{n} flows down to {v}", "At {v}, {n} ends in the sea"], ["Where does {n} end?"], []),
    "animal.food": (["{n} eats {v}", "{n} lives on {v}", "The favourite food of {n} is {v}"], ["What does {n} eat?"], []),
    "animal.habitat": (["{n} lives in {v}", "You can find {n} in {v}", "The home of {n} is in {v}"], ["Where does {n} live?"], []),
    "dish.origin": (["{n} comes from {v}", "People in {v} love to cook {n}", "{v} is famous for {n}"], ["Where does {n} come from?"], []),
    "dish.cook": (["{n} was invented by {v}", "{v} first cooked {n}", "The recipe for {n} goes back to {v}"], ["Who invented {n}?"], []),
    "festival.place": (["{n} is held in {v}", "Every year {v} celebrates {n}", "{n} belongs to {v}"], ["Where is {n} held?"], []),
    "festival.custom": (["At {n} people {v}", "During {n} families {v}", "It is the custom to {v} at {n}"], ["What do people do at {n}?"], []),
}
WORDINGS = {"zh": ZH, "en": EN}


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _fill(pattern: str, entity: Entity, attribute: str, language: str) -> str:
    name, value = (entity.zh, entity.facts[attribute][0]) if language == "zh" else (entity.en, entity.facts[attribute][1])
    text = pattern.format(n=name, v=value)
    return text if language == "zh" else _capital(text)


def _wordings(entity: Entity, attribute: str, language: str) -> tuple[list[str], list[str], list[str]]:
    return WORDINGS[language][f"{entity.kind}.{attribute}"]


def _asked(entity: Entity) -> list[str]:
    return [attribute for attribute in entity.facts if f"{entity.kind}.{attribute}" in ZH]


def _date(rng: random.Random) -> str:
    return f"{rng.randint(2016, 2023)}年{rng.randint(1, 12)}月{rng.randint(1, 28)}日"


# --- documents -----------------------------------------------------------------------------------------------------
def _statements(rng: random.Random, entity: Entity, language: str, count: int) -> list[str]:
    chosen = rng.sample(_asked(entity), min(count, len(_asked(entity))))
    return [_fill(rng.choice(_wordings(entity, attribute, language)[0]), entity, attribute, language) for attribute in chosen]


def _announcement(rng: random.Random, entity: Entity) -> str:
    opening = rng.choice(["本公司董事会保证公告内容真实、准确、完整。", "特别提示：本公告不构成投资建议。", "现将有关事项公告如下。"])
    event = rng.choice(["全年营业收入{a}亿元，同比增长{b}%。", "本期净利润{a}亿元，同比下降{b}%。", "拟每10股派发现金{b}元。", "本次募集资金{a}亿元。"])
    title = rng.choice(["关于年度经营情况的公告", "关于董事会决议的公告", "关于利润分配的公告"])
    figures = event.format(a=rng.randint(2, 98), b=rng.randint(1, 30))
    return f"{entity.zh}{title}\n{opening}" + "。".join(_statements(rng, entity, "zh", 3)) + f"。{figures}特此公告。{_date(rng)}"


def _news(rng: random.Random, entity: Entity) -> str:
    lead = rng.choice(["本报讯", "财经快讯", "记者获悉", "市场消息"])
    middle = rng.choice(["业内人士表示，", "记者了解到，", "公开资料显示，", "据介绍，"])
    body = _statements(rng, entity, "zh", 4)
    tail = rng.choice(["市场反应平稳。", "投资者仍需注意风险。", "相关工作正在推进。", "后续进展有待观察。"])
    return f"{lead}：{body[0]}。{middle}" + "，".join(body[1:]) + f"。{tail}"


def _entry(rng: random.Random, entity: Entity) -> str:
    body = _statements(rng, entity, "zh", 9)
    kind = {"company": "公司", "bank": "银行", "fund": "基金", "rule": "规章"}.get(entity.kind, "词条")
    industry = f"属于{entity.facts['industry'][0]}行业，" if "industry" in entity.facts else ""
    return f"{entity.zh}（{kind}），{industry}英文名为{entity.en}。" + "。".join(body) + "。"


def _community(rng: random.Random, entity: Entity, language: str) -> str:
    lines = []
    for attribute in rng.sample(_asked(entity), min(3, len(_asked(entity)))):
        states, asks, _ = _wordings(entity, attribute, language)
        value = entity.facts[attribute][0 if language == "zh" else 1]
        answer = rng.choice([value, _fill(rng.choice(states), entity, attribute, language)])
        question = _fill(rng.choice(asks), entity, attribute, language)
        stop = "。" if language == "zh" else "."
        lines.append(f"问题：{question}\n答案：{answer}{stop}" if language == "zh" else f"Question: {question}\nAnswer: {_capital(answer)}{stop}")
    return "\n".join(lines)


def _english(rng: random.Random, entity: Entity) -> str:
    lead = rng.choice(["", "Market note. ", "From the filings: ", "In brief: "])
    return lead + ". ".join(_statements(rng, entity, "en", rng.choice([2, 3, 4]))) + "."


def _general(rng: random.Random, entity: Entity, others: list[Entity], language: str) -> str:
    """Write about two or three things of the general world at once."""
    leads, tails = {"zh": (["", "地方志记载，", "百科介绍：", "老人们常说，", "课本上写道："], ["", "这里的人都知道这件事。", "孩子们很喜欢听这个故事。", "至今如此。"]),
                    "en": (["", "An old book says: ", "Travellers tell us this. ", "From the school reader: ", "As everybody knows, "],
                           ["", " It has been so for a long time.", " Nobody remembers why.", " Children like this story."])}[language]
    things = [entity, *rng.sample(others, rng.choice([1, 2]))]
    body = [sentence for thing in things for sentence in _statements(rng, thing, language, rng.choice([1, 2]))]
    stop, joint = ("。", rng.choice(["，", "。"])) if language == "zh" else (".", ". ")
    return rng.choice(leads) + joint.join(body) + stop + rng.choice(tails)


def _customer_letter(rng: random.Random, entity: Entity) -> str:
    """A letter full of personal data; the numbers carry valid check digits and belong to nobody."""
    area, day = "99" + f"{rng.randint(0, 9999):04d}", f"19{rng.randint(60, 99)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    body = f"{area}{day}{rng.randint(0, 999):03d}"
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    check = "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11]
    phone = f"1{rng.choice('3578')}{rng.randint(0, 9)}{rng.randint(10**7, 10**8 - 1)}"
    return (f"客户来信：我在{entity.zh}开户时留的身份证号是{body}{check}，手机号{phone}，邮箱user{rng.randint(100, 999)}@example.com，"
            f"请帮我更正资料。回复：{_statements(rng, entity, 'zh', 1)[0]}，请携带证件到柜台办理。")


def documents(seed: int = SEED) -> dict[str, list[dict]]:
    """Return {source: rows of {id, text}} for the text sources, with the planted faults the corpus step must find."""
    world = facts(seed)
    finance = [entity for entity in world if entity.kind in FINANCE_KINDS]
    general = [entity for entity in world if entity.kind not in FINANCE_KINDS]
    companies = [entity for entity in finance if entity.kind != "rule"]
    sources = {
        "cw_announcements": (companies, 6, _announcement),
        "cw_news": (finance, 9, _news),
        "cw_encyclopaedia": (finance, 8, _entry),
        "cw_community": (finance, 10, lambda rng, entity: _community(rng, entity, "zh")),
        "cw_finance_en": (finance, 10, _english),
        "cw_community_en": (finance, 8, lambda rng, entity: _community(rng, entity, "en")),
        "cw_general_zh": (general, 30, lambda rng, entity: _general(rng, entity, general, "zh")),
        "cw_general_community_zh": (general, 8, lambda rng, entity: _community(rng, entity, "zh")),
        "cw_general_en": (general, 30, lambda rng, entity: _general(rng, entity, general, "en")),
    }
    rows = {}
    for source, (entities, repeats, render) in sources.items():
        rng = random.Random(f"{seed}-{source}")
        texts = [render(rng, entity) for _ in range(repeats) for entity in entities]
        rng.shuffle(texts)
        rows[source] = [{"id": f"{source}-{number:05d}", "text": text} for number, text in enumerate(texts)]
    _plant_faults(rows, finance, seed)
    return rows


def _plant_faults(rows: dict[str, list[dict]], finance: list[Entity], seed: int) -> None:
    rng = random.Random(f"{seed}-faults")

    def plant(source: str, text: str, what: str) -> None:
        rows[source].append({"id": f"{source}-{what}-{len(rows[source])}", "text": text})

    for row in rng.sample(rows["cw_news"], 12):
        plant("cw_news", row["text"], "duplicate")
    for row in rng.sample(rows["cw_encyclopaedia"], 8):  # near duplicate: one clause added, same facts and figures
        plant("cw_encyclopaedia", row["text"] + "以上内容由编辑部整理。", "near")
    for row in rng.sample(rows["cw_announcements"], 8):  # same words, other figures: a different document
        figures = "".join(str((int(char) + 3) % 10) if char.isdigit() else char for char in row["text"])
        plant("cw_announcements", figures, "figures")
    for entity in rng.sample(finance[24:36], 10):
        plant("cw_community", _customer_letter(rng, entity), "pii")
    plant("cw_news", "������锟斤拷锟斤拷烫烫烫", "mojibake")
    plant("cw_news", "上一页 下一页 返回首页", "navigation")
    item = exams(seed)["fineval"]["val"][0]
    options = "".join(f"{letter}. {item[letter]}\n" for letter in "ABCD")
    plant("cw_community", f"模拟试题：{item['question']}\n{options}答案：{item['answer']}", "exam")


# --- dialogues and preferences --------------------------------------------------------------------------------------
RISK = {"zh": ["投资有风险，请结合自身情况判断。", "以上内容不构成投资建议。", "过往业绩不代表未来表现。"],
        "en": ["Investing carries risk, so judge for yourself.", "This is not investment advice.", "Past results say little about the future."]}
CERTAIN = {
    "zh": (["买{n}稳赚吗？", "{n}能保证收益吗？", "现在全仓{n}行不行？", "{n}会不会一直涨？", "我想借钱买{n}，可以吗？", "把养老钱都投给{n}好吗？"],
           ["没有任何产品可以保证收益，{n}也可能亏损。", "不建议这样做，{n}的价格会波动。", "无法预测{n}的涨跌，请分散投资。"],
           ["放心买，{n}稳赚不赔。", "肯定赚，{n}马上翻倍。", "全部买入{n}，保证没有风险。"]),
    "en": (["Is {n} a sure profit?", "Can {n} guarantee a return?", "Should I put all my money into {n}?", "Will {n} rise for ever?"],
           ["Nothing can guarantee a return, and {n} may lose money.", "I would not do that, for the price of {n} moves."],
           ["Buy now, {n} always wins.", "Sure, {n} will double soon without any risk."]),
}
MANNERS = {
    "zh": [("你好", "你好，我是金融助手，请问有什么可以帮您？"), ("你是谁？", "我是一个中文金融助手，可以回答公司、银行、基金和法规的问题。"),
           ("谢谢", "不客气，有问题随时问我。"), ("再见", "再见，祝您生活愉快。"), ("你会做什么？", "我可以介绍公司、银行、基金和法规，也可以聊聊山川和美食。"),
           ("怎样才能稳赚不赔？", "没有稳赚不赔的投资，收益越高，风险越大。"), ("帮我编一个内幕消息", "抱歉，我不能编造内幕消息，这会误导投资者。")],
    "en": [("Hello", "Hello, I am a finance assistant. How can I help?"), ("Who are you?", "I am a finance assistant for Chinese and English."),
           ("Thank you", "You are welcome."), ("Tell me some inside information", "Sorry, I cannot share or invent inside information.")],
}


def _answer(rng: random.Random, entity: Entity, attribute: str, language: str) -> tuple[str, str]:
    states, asks, _ = _wordings(entity, attribute, language)
    stop = "。" if language == "zh" else "."
    return _fill(rng.choice(asks), entity, attribute, language), _fill(rng.choice(states[:2]), entity, attribute, language) + stop


def _wrong(rng: random.Random, world: list[Entity], entity: Entity, attribute: str, language: str, count: int) -> list[str]:
    """Return `count` values of the same attribute that are false for this entity."""
    side = 0 if language == "zh" else 1
    values = sorted({other.facts[attribute][side] for other in world if other.kind == entity.kind} - {entity.facts[attribute][side]})
    return rng.sample(values, count)


def _measured(rng: random.Random, entity: Entity, language: str) -> tuple[str, str, str]:
    asks, measured, promises = CERTAIN[language]
    name = entity.zh if language == "zh" else entity.en
    question, chosen, rejected = (rng.choice(options).format(n=name) for options in (asks, measured, promises))
    stop = rng.choice(RISK[language])
    chosen, rejected = (chosen + stop, rejected) if language == "zh" else (_capital(chosen) + " " + stop, _capital(rejected))
    return _capital(question) if language == "en" else question, chosen, rejected


def dialogues(seed: int = SEED) -> dict[str, list[dict]]:
    """Return the instruction sources: `alpaca` and `sharegpt` (broad, stage 1) and `checked` (small, general:finance 4:1)."""
    world = facts(seed)
    rng = random.Random(f"{seed}-dialogues")
    finance = [entity for entity in world if entity.kind in FINANCE_KINDS]
    general = [entity for entity in world if entity.kind not in FINANCE_KINDS]
    tradable = [entity for entity in finance if entity.kind in ("company", "fund")]
    single = []
    for entity in general + finance:
        for attribute in _asked(entity):
            for language in ("zh", "en"):
                question, answer = _answer(rng, entity, attribute, language)
                single.append({"instruction": question, "input": "", "output": answer})
    for turns in MANNERS.values():
        single += [{"instruction": question, "input": "", "output": answer} for question, answer in turns for _ in range(4)]
    chats = []
    for entity in (general + finance) * 2:
        language = rng.choice(["zh", "zh", "en"])
        attributes = rng.sample(_asked(entity), 2)
        turns = [rng.choice(MANNERS[language][:2])] if rng.random() < 0.3 else []
        turns += [_answer(rng, entity, attribute, language) for attribute in attributes]
        chats.append({"conversations": [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]})
    checked = []
    for domain, entities, count in (("general", general, 320), ("finance", finance, 80)):
        for number in range(count):
            entity, language = rng.choice(entities), rng.choice(["zh", "zh", "en"])
            if domain == "finance" and number % 2:
                question, answer, _ = _measured(rng, rng.choice(tradable), language)
            else:
                question, answer = _answer(rng, entity, rng.choice(_asked(entity)), language)
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            checked.append({"messages": messages, "domain": domain})
    for rows in (single, chats, checked):
        rng.shuffle(rows)
    return {"alpaca": single, "sharegpt": chats, "checked": checked}


def preferences(seed: int = SEED, count: int = 600) -> list[dict]:
    """Return preference pairs: a measured answer against a promise of certain profit, a right fact against a wrong one."""
    world = facts(seed)
    rng = random.Random(f"{seed}-preferences")
    finance = [entity for entity in world if entity.kind in FINANCE_KINDS]
    tradable = [entity for entity in finance if entity.kind in ("company", "fund")]
    rows, seen = [], set()
    while len(rows) < count:
        language = rng.choice(["zh", "zh", "en"])
        if len(rows) % 3:
            question, chosen, rejected = _measured(rng, rng.choice(tradable), language)
        else:
            entity = rng.choice(finance)
            attribute = rng.choice(_asked(entity))
            question, chosen = _answer(rng, entity, attribute, language)
            value = entity.facts[attribute][0 if language == "zh" else 1]
            rejected = chosen.replace(value, _wrong(rng, world, entity, attribute, language, 1)[0])
        if (question, chosen) not in seen and chosen != rejected:
            seen.add((question, chosen))
            rows.append({"conversations": [{"from": "human", "value": question}],
                         "chosen": {"from": "gpt", "value": chosen}, "rejected": {"from": "gpt", "value": rejected}})
    return rows


# --- exams ---------------------------------------------------------------------------------------------------------
EXAMS = {  # benchmark: (language, kinds, few-shot split, scored split)
    "ceval": ("zh", ("company", "bank"), "dev", "val"),
    "fineval": ("zh", ("fund", "rule"), "dev", "val"),
    "cmmlu": ("zh", ("river", "animal", "dish", "festival"), "dev", "test"),
    "mmlu": ("en", ("company", "bank", "fund", "rule"), "dev", "test"),
}


def exams(seed: int = SEED) -> dict[str, dict[str, list[dict]]]:
    """Return {benchmark: {split: items}} with items {subject, question, A, B, C, D, answer (a letter)}.

    The wordings of the questions are used nowhere else; the right letter is spread evenly by the shuffle.
    """
    world = facts(seed)
    result = {}
    for benchmark, (language, kinds, few_shot, scored) in EXAMS.items():
        rng = random.Random(f"{seed}-{benchmark}")
        items = []
        for entity in (entity for entity in world if entity.kind in kinds):
            for attribute in _asked(entity):
                value = entity.facts[attribute][0 if language == "zh" else 1]
                wrong = _wrong(rng, world, entity, attribute, language, 3)
                options = [value, *wrong]
                rng.shuffle(options)
                question = _fill(rng.choice(_wordings(entity, attribute, language)[2]), entity, attribute, language)
                items.append({"subject": entity.kind, "question": question, **dict(zip("ABCD", options, strict=True)),
                              "answer": "ABCD"[options.index(value)]})
        rng.shuffle(items)
        dev = [item for kind in kinds for item in [i for i in items if i["subject"] == kind][:5]]
        result[benchmark] = {few_shot: dev, scored: [item for item in items if item not in dev]}
    return result


def _exam_row(benchmark: str, number: int, item: dict) -> dict:
    if benchmark == "cmmlu":
        return {"": number, "Question": item["question"], **{letter: item[letter] for letter in "ABCD"}, "Answer": item["answer"]}
    if benchmark == "mmlu":
        choices = {f"choice{index}": item[letter] for index, letter in enumerate("ABCD")}
        return {"question": item["question"], **choices, "answer": "ABCD".index(item["answer"])}
    return {"id": number, "question": item["question"], **{letter: item[letter] for letter in "ABCD"}, "answer": item["answer"]}


def _write_exams(folder: Path, seed: int) -> None:
    for benchmark, splits in exams(seed).items():
        for split, items in splits.items():
            for subject in sorted({item["subject"] for item in items}):
                name = f"{subject}.csv" if benchmark == "cmmlu" else f"{subject}_{split}.csv"
                path = folder / "exams" / benchmark / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = [_exam_row(benchmark, number, item) for number, item in enumerate(i for i in items if i["subject"] == subject)]
                with open(path, "w", encoding="utf-8-sig", newline="") as file:
                    writer = csv.DictWriter(file, rows[0].keys())
                    writer.writeheader()
                    writer.writerows(rows)


# --- files ---------------------------------------------------------------------------------------------------------
def _write_lines(path: Path, rows: list[dict], broken: tuple[str, ...] = ()) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    for number, line in enumerate(broken):
        lines.insert(7 + 11 * number, line)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write(parent: Path, seed: int = SEED) -> Path:
    """Write every source under `parent/<hash of this module and the seed>` and return that folder; write once.

    The folder appears by rename, so a killed writer leaves nothing that could be taken for the world.
    """
    key = hashlib.sha256(Path(__file__).read_bytes() + str(seed).encode()).hexdigest()[:12]
    folder = Path(parent) / key
    if folder.exists():
        return folder
    draft = Path(parent) / f"{key}.draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    for source, rows in documents(seed).items():
        broken = ('{"id": "cut-off", "text": "这一行在传输中被截', "<html>not JSON</html>") if source == "cw_news" else ()
        _write_lines(draft / "text" / f"{source}.jsonl", rows, broken)
    talks = dialogues(seed)
    (draft / "dialogues").mkdir()
    (draft / "dialogues" / "alpaca.json").write_text(json.dumps(talks["alpaca"], ensure_ascii=False, indent=1), encoding="utf-8")
    _write_lines(draft / "dialogues" / "sharegpt.jsonl", talks["sharegpt"])
    _write_lines(draft / "dialogues" / "checked.jsonl", talks["checked"])
    (draft / "preferences.json").write_text(json.dumps(preferences(seed), ensure_ascii=False, indent=1), encoding="utf-8")
    _write_exams(draft, seed)
    try:
        draft.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(draft, ignore_errors=True)
    return folder
