"""Calculate sums in text without running code, and check sums in a chain of thought.

value("(3.5-1)*4")                     # Fraction(10)
wrong(equations("9+3=13，1+4+1=6"))     # [Equation("9+3", ..., right=False)]
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass
from fractions import Fraction

from finlab.train.reward import quantities

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST = 200  # most characters of a sum
SIGNS = str.maketrans({"×": "*", "÷": "/", "（": "(", "）": ")"})
EQUALS = re.compile(r"[=≈]")
SUM_SIGNS = frozenset("0123456789.,+-*/()% ")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# What separates two sums: a comma, or a space without an operator next to it, as after a list
# number.
APART = re.compile(r",|(?<=[\d.)%])\s+(?=[\d(])")
OPERATION = re.compile(r"[\d)%]\s*[-+*/]\s*[\d(]")
RESULT = re.compile(r"\s*(-?\d+(?:,\d{3})*(?:\.\d+)?%?)(?![\d.]|\s*[-+*/(])")
POWERS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]")
NO_SUM = frozenset("^√}_!")
PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
ROUNDED = Fraction(1, 100)  # largest relative error of a result after ≈


@dataclass(frozen=True)
class Equation:
    """A sum that a text states.

    Attributes:
        text: The equation as the text has it, such as `9+3=12`.
        right: Whether the equation is true.
    """

    text: str
    right: bool


def value(text: str) -> Fraction:
    """Return the value of a sum of numbers with + - * / and brackets.

    No code is run. The text is parsed into a syntax tree, and a tree with anything else in it is an
    error.

    Args:
        text: The sum, such as `(3.5-1)*4` or `12×8%`.

    Raises:
        ValueError: The text is not a sum, is too long, or divides by zero.
    """
    cleaned = quantities.plain(text).translate(SIGNS).replace(",", "").strip()
    cleaned = PERCENT.sub(r"(\1/100)", cleaned)
    if len(cleaned) > LONGEST:
        raise ValueError(f"the sum has {len(cleaned)} characters, and at most {LONGEST} are read")
    try:
        return _value(ast.parse(cleaned, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is not a sum of numbers") from None
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by zero") from None


def _value(node: ast.AST) -> Fraction:
    """Return the value of a part of a sum.

    Args:
        node: A number, a part with a sign before it, or an operation on two parts.

    Raises:
        ValueError: The node is anything else.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        found = _value(node.operand)
        return -found if isinstance(node.op, ast.USub) else found
    number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    if number:
        return Fraction(str(node.value))
    raise ValueError("a sum holds numbers, + - * / and brackets, and nothing else")


def equations(text: str) -> list[Equation]:
    """Return the equations in a text, such as `9+3=12`, each with whether it is true.

    Args:
        text: A chain of thought.
    """
    # Powers are not supported here, and NFKC would turn 3² into 32.
    text = quantities.plain(POWERS.sub("^", text)).translate(SIGNS)
    found = []
    for sign in EQUALS.finditer(text):
        left = _sum_before(text, sign.start())
        result = RESULT.match(text, sign.end())
        if not result or not OPERATION.search(left):
            continue
        try:
            holds = _holds(value(left), value(result[1]), sign[0], result[1])
        except ValueError:
            continue  # not a sum, for example because a bracket is not closed
        found.append(Equation(f"{left}{sign[0]}{result[1]}", holds))
    return found


def _sum_before(text: str, end: int) -> str:
    """Return the part of a text before an equals sign that may be a sum; empty if there is none.

    Args:
        text: The text.
        end: Index of the equals sign. At most LONGEST characters before it are read.
    """
    begin = end
    while begin > max(0, end - LONGEST) and text[begin - 1] in SUM_SIGNS:
        begin -= 1
    if begin and (text[begin - 1] in NO_SUM or _is_latin(text[begin - 1])):
        return ""  # only the end of another expression: 1.05^2*100, ln(2)+1, Q1+20
    return APART.split(THOUSANDS.sub("", text[begin:end]))[-1].strip()


def _is_latin(sign: str) -> bool:
    """Tell whether a character is a Latin letter, as in the name of a function."""
    return sign.isascii() and sign.isalpha()


def _holds(left: Fraction, right: Fraction, sign: str, written: str) -> bool:
    """Tell whether a written result equals its sum; its last digit may be rounded.

    Args:
        left: Value of the sum.
        right: Value of the written result.
        sign: `=` or `≈`.
        written: The result as written.
    """
    places = len(written.rstrip("%").partition(".")[2])
    step = Fraction(1, 10**places) * (Fraction(1, 100) if written.endswith("%") else 1)
    # A whole result of a sum with a whole value is not rounded.
    rounded = places or left.denominator != 1
    allowed = step / 2 if rounded else Fraction(0)
    if sign == "≈":
        allowed = max(allowed, abs(left) * ROUNDED)
    return abs(left - right) <= allowed


def wrong(found: list[Equation]) -> list[Equation]:
    """Return the equations that are not true."""
    return [equation for equation in found if not equation.right]
