"""Reading an answer: normal forms, numbers, the final answer, and never the echoed question."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from tfgrpo.errors import RewardError
from tfgrpo.types import Completion, Problem

MAX_CHARS = 20_000
"""No more of an answer than its last this many characters is read: a bound on the work one answer can cause."""
_NUMBER_CHARS = 4_000

_DASHES = str.maketrans({"−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-"})
_NUMBER = re.compile(
    r"""
    (?<![\w/]) (?<!\d\.) (?P<sign>[-+]?) [$€£]? (?P<sign2>[-+]?)
    (?: (?P<whole>\d+) \s+ (?P<num1>\d+) / (?P<den1>\d+)                 # 1 1/2
      | (?P<num>\d+) \s?/\s? (?P<den>\d+)                                # 3/4
      | (?P<decimal> (?: \d{1,3}(?:,\d{3})+ | \d+ ) (?:\.\d+)? | (?<!\.)\.\d+ ) (?P<exp>[eE][-+]?\d{1,4})?
    )
    (?! \d | /\d | \.\d | , \d{3} (?!\d) ) (?P<percent> \s?% )?
    """,
    re.VERBOSE,
)
_PLAIN = re.compile(r"[-+]?(?:\d+\s*/\s*\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it stood in a text; `percent` when a % followed."""

    value: Fraction
    percent: bool = False

    @property
    def readings(self) -> tuple[Fraction, ...]:
        """50 % can be meant as 50 and as 1/2."""
        return (self.value, self.value / 100) if self.percent else (self.value,)


def normal(text: str, *, ignore_case: bool = True, ignore_space: bool = True, ignore_punctuation: bool = False) -> str:
    """The form in which two texts are compared."""
    text = unicodedata.normalize("NFKC", text).strip()
    if ignore_case:
        text = text.casefold()
    if ignore_punctuation:
        text = "".join(" " if unicodedata.category(c).startswith("P") else c for c in text)
    return " ".join(text.split()) if ignore_space else text


def without_echo(answer: str, problem: Problem) -> str:
    """The end of the answer, without any repetition of the question in it.

    A model that only repeats "Which is largest: 3, 5, 9?" has not answered 9. Questions of one or two words stay,
    and so does a question that the accepted answer itself contains.
    """
    answer = answer[-MAX_CHARS:]
    for question in (problem.question, *problem.variants):
        words = question.split()
        plain = " ".join(words).casefold()
        if len(words) > 2 and plain in " ".join(answer.split()).casefold() and not _holds(problem.answer, plain):
            answer = re.sub(r"\s+".join(map(re.escape, words)), " ", answer, flags=re.IGNORECASE)
    return answer.strip()


def _holds(gold: Any, plain_question: str) -> bool:
    return isinstance(gold, str) and plain_question in " ".join(gold.split()).casefold()


def answer_text(problem: Problem, completion: Completion) -> str:
    """What the rewards on text read of a completion."""
    return without_echo(without_thought(completion.text), problem)


def without_thought(answer: str) -> str:
    """What follows a thought at the beginning of an answer; a thought that was never closed is no answer's beginning.

    Example:
        >>> without_thought("<think>3 or 5? 5.</think> 5"), without_thought("5 <think>")
        (' 5', '5 <think>')
    """
    if not answer.lstrip().startswith("<think>"):
        return answer
    _, closed, rest = answer.partition("</think>")
    return rest if closed else answer


def golds(problem: Problem, name: str) -> tuple[str, ...]:
    """The accepted answers as texts; a list of answers means any of them.

    Raises:
        RewardError: the problem has none.
    """
    if problem.answer is None:
        raise RewardError(f"reward {name!r} needs an answer to compare with; problem {problem.id!r} has none")
    several = isinstance(problem.answer, Sequence) and not isinstance(problem.answer, str)
    return tuple(gold_text(a) for a in (problem.answer if several else [problem.answer]))


def gold_text(answer: Any) -> str:
    """An answer from a file as text: 14.0 reads "14"."""
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return str(answer)


def numbers(text: str) -> list[Number]:
    """All numbers of a text in order: 1,234.5  -3  $7  1/2  1 1/2  1e-3  50%."""
    return [number for match in _matches(text) if (number := _number(match)) is not None]


def last_number(text: str) -> Number | None:
    """The last number of a text, which is where answers usually end."""
    return next((number for match in reversed(_matches(text)) if (number := _number(match)) is not None), None)


def _matches(text: str) -> list[re.Match[str]]:
    return list(_NUMBER.finditer(_without_latex(text[-_NUMBER_CHARS:].translate(_DASHES))))


def plain_number(text: str) -> Fraction | None:
    """The number when the text is nothing else than one, without unit or percent sign."""
    text = text.translate(_DASHES).strip().strip("$").strip().removesuffix(".")
    if len(text) > 60 or not _PLAIN.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").replace(" ", "").partition("/")
    return _ratio(numerator, denominator or "1")


def _without_latex(text: str) -> str:
    text = re.sub(r"\\[dt]?frac\s*\{(-?\d+)\}\s*\{(\d+)\}", r" \1/\2", text)
    return (
        re.sub(r"\\[!,;:]|\{,\}", lambda m: "," if m[0] == "{,}" else "", text).replace("\\%", "%").replace("\\$", "$")
    )


def _number(match: re.Match[str]) -> Number | None:
    part = match.groupdict()
    if part["whole"]:
        fraction, whole = _ratio(part["num1"], part["den1"]), _ratio(part["whole"], "1")
        value = None if fraction is None or whole is None else whole + fraction
    elif part["num"]:
        value = _ratio(part["num"], part["den"])
    else:
        value = _ratio(part["decimal"].replace(",", "") + (part["exp"] or ""), "1")
    if value is None:
        return None
    negative = "-" in (part["sign"], part["sign2"])
    return Number(-value if negative else value, bool(part["percent"]))


def _ratio(numerator: str, denominator: str) -> Fraction | None:
    if len(numerator) + len(denominator) > 400:
        return None
    try:
        return Fraction(Decimal(numerator)) / Fraction(Decimal(denominator))
    except (InvalidOperation, ZeroDivisionError, OverflowError):
        return None


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, braces balanced; None when there is none.

    Example:
        >>> boxed(r"so \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return None
