"""Whether a text that a model is shown gives the answer away. By strings only: a paraphrased answer is not seen."""

from __future__ import annotations

import re

from tfgrpo.types import Problem

SHORT = 2
"""An answer of at most so many characters is in many texts by chance; it leaks only where it is called the answer."""


def leaks(text: str, answer: str) -> bool:
    r"""Whether `text` tells `answer`: boxed or called the answer, or, when it is longer than two characters, anywhere.

    Case and white space do not matter; a longer answer must stand there as a whole word or number.
    Source: the gate of HiLL, arXiv 2604.00698 (code); whole words are ours, so that 123 does not leak through 51230.

    Example:
        >>> leaks("Add 2 to both sides; x is 5.", "5"), leaks("Add 5 to both sides.", "5")
        (True, False)
        >>> leaks("It begins with Par.", "Paris"), leaks("It is PARIS.", "Paris")
        (False, True)
    """
    gold = _plain(answer)
    if not gold:
        return False
    words, exact = _plain(text), re.escape(gold)
    if re.search(r"\\boxed\s*\{\s*" + exact + r"\s*\}", words):
        return True
    if len(gold) > SHORT:
        return re.search(r"(?<!\w)" + exact + r"(?!\w)", words) is not None
    called = r"(?:=|\banswer(?: is|:)?|\bresult(?: is|:)?|\bequals|\bis|\bget|\bgives)\s*\$?"
    return re.search(called + exact + r"(?![\w]|[.,]\d)", words) is not None


def gold_texts(problem: Problem) -> tuple[str, ...]:
    """The accepted answers as plain texts; none where the answer is a structure or missing.

    Example:
        >>> gold_texts(Problem(id="p", messages=(), answer=["Paris", 7.0]))
        ('paris', '7')
    """
    answer = problem.answer
    several = answer if isinstance(answer, list | tuple) else [answer]
    texts = [str(int(a)) if isinstance(a, float) and a.is_integer() else str(a) for a in several if _is_plain(a)]
    return tuple(text for text in map(_plain, texts) if text)


def _is_plain(answer: object) -> bool:
    return isinstance(answer, str | int | float) and not isinstance(answer, bool)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip()
