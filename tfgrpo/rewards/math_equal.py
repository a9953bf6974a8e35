r"""1 when the answer means the same number or expression as the reference.

The final answer is read first (the last \boxed{...}, else what follows "####" or "the answer is", else a closing
$formula$, else the last number or the text as a whole), never the echoed question. Plain numbers and equal texts are
decided at once, everything else by the math-verify package in a process of its own, so that no expression can stop the
event loop.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tfgrpo.rewards.base import Reward, reward
from tfgrpo.rewards.simple import verdict
from tfgrpo.rewards.text import Number, answer_text, boxed, golds, last_number, numbers, plain_number
from tfgrpo.rewards.worker import Workers
from tfgrpo.types import Completion, Problem, Score

MAX_EXPRESSION_CHARS = 2_000
_MARKED = re.compile(r"(?:####|(?:final\s+)?answer\s*(?:is|:|=)(?:\s*:)?)[*_\s]*(?P<answer>[^\n]+)", re.IGNORECASE)
_VARIABLE = re.compile(r"\d[a-z]\b|\b[a-z]\s*[-+*^=]|[-+*^=]\s*[a-z]\b")
_FORMULA = re.compile(r"\$([^$]+)\$")
_UNITS = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{[^{}]*\}\s*$|\\%|\^\\circ|\^\{\\circ\}|\\\$|[$\s]|\\[!,;: ]")
_SPACING = re.compile(r"\\left|\\right|\\[!,;: ]|\\(?:text|mathrm|textbf|mbox)\s*(?=\{)|[\s${}*]|\\\$|\.$")


def math_equal(*, timeout_s: float = 5.0) -> Reward:
    """Compares final answers; an expression that takes longer than `timeout_s` to compare counts as wrong.

    Example:
        >>> import asyncio
        >>> problem = Problem(id="p", messages=(), answer="1/2")
        >>> texts = ("It is 0.5.", "The answer is 2/4, not 1/3.", "2")
        >>> said = [Completion(prompt=(), messages=(), text=text, policy="any") for text in texts]
        >>> [score.value for score in asyncio.run(math_equal()(problem, said))]
        [1.0, 1.0, 0.0]
    """

    async def score(problem: Problem, completion: Completion) -> Score:
        accepted = [final_answer(gold)[0] for gold in golds(problem, "math_equal")]
        text = answer_text(problem, completion)
        for gold in accepted:
            right = decided(gold, text)
            if right is None:
                right = await _compared(gold, text, timeout_s)
            if right is None:
                return Score(value=0.0, feedback=f"The answer could not be compared within {timeout_s:g} s.")
            if right:
                return Score(value=1.0)
        return verdict(False, text, accepted[0])

    return reward(score, name="math_equal")


def final_answer(text: str) -> tuple[str, bool]:
    """The final answer of a text, and whether the text marked it as such; unmarked text is returned whole."""
    content = boxed(text)
    if content is not None:
        return content, True
    marked = [m["answer"] for m in _MARKED.finditer(text)]
    if marked:
        return re.split(r"(?<=[^\d\s])\.\s|(?<=\d)\.(?:\s|$)", marked[-1])[0].strip(" .*_"), True
    formulas = [m for m in _FORMULA.finditer(text) if re.search(r"[\d\\]", m[1])]
    if formulas and not re.search(r"\d", text[formulas[-1].end() :]):
        return formulas[-1][1].strip(), True
    return text.strip(), False


def decided(gold: str, text: str) -> bool | None:
    """The verdict where it can be had without algebra: plain numbers, equal texts, words; else None."""
    answer, marked = final_answer(text)
    if final_form(answer) == final_form(gold) and answer:
        return True
    wanted = plain_number(_UNITS.sub("", gold))
    if wanted is None:
        return _same_words(gold, answer, marked) if _is_words(gold) else None
    if not marked:
        number = last_number(text)
        return number is not None and _near(gold, wanted, number)
    single = plain_number(_UNITS.sub("", answer))
    if single is not None:
        return _near(gold, wanted, Number(single, "%" in answer))
    if "\\" in answer or boxed(text) is not None or _VARIABLE.search(answer):
        return None
    found = numbers(answer)
    return bool(found) and _near(gold, wanted, found[-1 if "=" in answer else 0])


def _near(gold: str, wanted: Fraction, got: Number) -> bool:
    readings = Number(wanted, "%" in gold).readings
    return any(abs(w - g) <= Fraction(1, 10**6) for w in readings for g in got.readings)


def final_form(text: str) -> str:
    """An expression without spacing and markup: what two equal answers have in common before any algebra."""
    return _SPACING.sub("", text.strip()).replace("dfrac", "frac").replace("tfrac", "frac").casefold()


def _is_words(gold: str) -> bool:
    """Whether the reference is words or a choice such as (B), on which algebra would compare letters as variables."""
    plain = final_form(gold).strip("()")
    return plain.isalpha() and (len(plain) > 2 or gold.strip().startswith(("(", "\\text")) or plain.upper() in gold)


def _same_words(gold: str, answer: str, marked: bool) -> bool:
    wanted = final_form(gold).strip("()")
    line = answer if marked else (answer.splitlines() or [""])[-1]
    if final_form(line).strip("().") == wanted:
        return True
    words = re.findall(r"\w+", re.sub(r"\\[a-z]+", " ", line).casefold())
    return bool(words) and not boxed(answer) and len(wanted) > 2 and words[-1] == wanted


async def _compared(gold: str, text: str, timeout_s: float) -> bool | None:
    answer, marked = final_answer(text)
    if not answer or max(len(answer if marked else ""), len(gold)) > MAX_EXPRESSION_CHARS:
        return False
    request = {"gold": gold, "answer": answer[-MAX_EXPRESSION_CHARS:], "boxed": marked}
    reply = await _WORKERS.ask(request, timeout_s)
    return None if reply is None else bool(reply["equal"])


_WORKERS = Workers("math_worker.py", purpose="math_equal")
