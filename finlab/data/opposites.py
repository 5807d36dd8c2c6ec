"""Words and terms that exclude each other in texts about one thing: 涨 and 跌, 买入 and 持有."""

from __future__ import annotations

UP = set("涨升增扩高强多好盈赚入买热快宽优胜赢攀")
DOWN = set("跌降减缩低弱空坏亏损出卖冷慢紧劣败输滑落")
# A text says only one term of each row: ratings, the progress of a plan, the result of a vote.
ONE_OF = [
    set(row.split())
    for row in (
        "买入 增持 推荐 强烈推荐 谨慎推荐 持有 中性 观望 减持 卖出 优于大市 跑赢行业",
        "拟 将 已 正在 计划",
        "同意 反对 弃权 否决",
        "首次 再次 第二次 最后一次",
        "年初 年末 年中",
        "月初 月末 月中 月底",
        "开盘 收盘 盘中",
        "核准 终止 中止 驳回",
        "不低于 不超过 不高于 不少于",
        "维持 上调 下调",
        "否认 证实 承认",
        "正面 稳定 负面",
        "受理 获批 批准上市 注册证书",
        "签署 解除 终止 履行完毕",
        "补充质押 解除质押 办理质押",
        "启动 完成 终止 暂停",
    )
]
OPPOSITES = (
    "底初 末初 溢折 "
    "涨跌 升降 增减 盈亏 买卖 多空 入出 上下 正负 高低 强弱 收付 借贷 胜败 赢输 扩缩 松紧 同环 首再 好空 甲乙 甲丙 乙丙 男女"
    " 前后 内外 南北 东西 早晚 大小 长短 进出 开关 停复 利弊 优劣 快慢 加减 宽紧 热冷 存取 新旧 最次 持抛 是否 有无 已未"
    " 申赎 认弃 主从 父子 母子 左右 春秋 夏冬 会不 可不 能不 将未 涨降 升跌 增降 增跌 增亏 盈损 赚亏 赚赔 董监 参众 逊好 逊优 逊强 沪深 陆港 今去 今明 昨今 去明"
).split()
OPPOSITE = {frozenset(pair) for pair in OPPOSITES}
# A text says only one member of each group at one place: 周一 or 周五, March or April, $ or €.
GROUPS = [
    set("一二三四五六七八九十"),
    set("$€£¥"),
    set("monday tuesday wednesday thursday friday saturday sunday".split()),
    set(
        "january february march april may june july august september october november"
        " december".split()
    ),
    set("jan feb mar apr jun jul aug sep sept oct nov dec".split()),
]
OPPOSITE_WORDS = {
    frozenset(pair.split("/"))
    for pair in (
        "up/down rise/fall rises/falls rose/fell risen/fallen increase/decrease "
        "increased/decreased gain/loss "
        "profit/loss buy/sell bought/sold long/short bullish/bearish higher/lower first/second "
        "first/third "
        "january/february beat/miss inflow/outflow inflows/outflows upgrade/downgrade "
        "upgraded/downgraded"
    ).split()
}
OPPOSITE_TERMS = [
    tuple(pair.split("/"))
    for pair in (
        "低于/超过 低/超 少于/多于 回笼/投放 提前/推迟 扩大/收窄 扩大/缩小 上市/退市 开盘/收盘 同意/反对 通过/否决 批准/驳回 取消/恢复"
        " 获得/失去 原告/被告 买方/卖方 增加/减少 上升/下降 扭亏/续亏 中标/落选 复牌/停牌 解除/新增 质押/解押 收购/出售 买入/卖出"
        " 补充/解除 受理/证书 签署/解除 签订/解除 签署/终止 签订/终止 冻结/解冻 可转债/定向增发 可转债/非公开 可转债/配股 可转债/优先股 可转债/定增 公司债/定增 "
        "定增/配股 受理/批准 受理/获批"
        " 定向增发/配股 公司债/中期票据 公司债/可转债 短期融资券/中期票据 增资/减资 合并/分立 设立/注销 控股/参股 胜诉/败诉 立案/结案"
        " 正式/意向 框架/正式 候选/正式 申请/撤回 逾期/兑付"
    ).split()
]


def words(ours: list[str], theirs: list[str]) -> bool:
    """Tell whether a word or character of one text is the opposite of one of the other text.

    Args:
        ours: Words or characters that only the first text has.
        theirs: Words or characters that only the second text has.
    """
    rises, falls = UP.intersection(ours), DOWN.intersection(ours)
    they_rise, they_fall = UP.intersection(theirs), DOWN.intersection(theirs)
    if (rises and not falls and they_fall - they_rise) or (falls and not rises and they_rise):
        return True
    for group in GROUPS:
        said, they_say = group.intersection(ours), group.intersection(theirs)
        if said and they_say and not said & they_say:
            return True
    for first in ours:
        for second in theirs:
            pair = frozenset((first, second))
            if pair in OPPOSITE or pair in OPPOSITE_WORDS:
                return True
    return False


def terms(one: str, other: str) -> bool:
    """Tell whether two texts say terms that exclude each other.

    Args:
        one: The part of the first text that differs.
        other: The part of the second text that differs.
    """
    for row in ONE_OF:
        ours = {term for term in row if term in one}
        theirs = {term for term in row if term in other}
        if ours and theirs and not ours & theirs:
            return True
    for first, second in OPPOSITE_TERMS:
        if _says(first, second, one, other) or _says(second, first, one, other):
            return True
    return False


def _says(first: str, second: str, one: str, other: str) -> bool:
    """Tell whether `one` says only the first of two opposite terms, and `other` only the second.

    Args:
        first: A term.
        second: Its opposite.
        one: The part of the first text that differs.
        other: The part of the second text that differs.
    """
    return first in one and second in other and second not in one and first not in other
