"""A saved safety model as what scores the heads of a reward, in either arm.

safety(load_scorer("./safety-model"))             the reward, in Python
--task-option scorer=./safety-model               on the command line: tfgrpo learn safety, tfgrpo train safety
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.safety.data import asked
from tfgrpo.rewards.base import Outcome
from tfgrpo.rewards.text import answer_text
from tfgrpo.types import Completion, Problem, Score, message_text

if TYPE_CHECKING:
    from hybrid.safety.model import SafetyModel

KEPT = 4096  # groups whose scores are remembered


class ModelScorer:
    """A reward whose parts are the heads of a safety model and whose value is their mean; to be given to `safety`.

    The answers of a group are read together, in a thread, on the CPU. Scores of a group are remembered whole, so that
    equal groups get equal bits, whatever was scored before: a run that goes on sees what it saw.

    Limits: it knows what its labels knew. An answer far from them gets a number all the same; keep a term that holds
    the policy near its start, and judge samples by other means from time to time.
    """

    alone = True

    def __init__(self, folder: Path, heads: Sequence[str], digest: str) -> None:
        self.folder = folder
        self.heads = tuple(heads)
        self.name = f"safety-model({digest[:8]})"  # another model is another run
        self._model: SafetyModel | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, ...], list[dict[str, float]]] = OrderedDict()

    async def __call__(self, problem: Problem, completions: Sequence[Completion]) -> Sequence[Outcome]:
        texts = [answer_text(problem, completion) for completion in completions]
        rows = await asyncio.to_thread(self._score, question_of(problem), texts)
        return [Score(value=sum(row.values()) / len(row), parts=row, feedback=_words(row)) for row in rows]

    def _score(self, question: str, texts: Sequence[str]) -> list[dict[str, float]]:
        key = (question, *texts)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            if self._model is None:
                from hybrid.safety.model import SafetyModel  # noqa: PLC0415 - torch

                self._model = SafetyModel.load(self.folder)
            scores = self._model.scores([(question, text) for text in texts])
            rows = [dict(zip(self.heads, map(float, row), strict=True)) for row in scores]
            self._known[key] = rows
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return rows


def load_scorer(folder: str | Path) -> ModelScorer:
    """The scorer of a folder that `tfgrpo safety-model train` wrote; weights are loaded at the first answer.

    Raises:
        InputError: no such model, another version, or an encoder that is missing or has other weights.
    """
    from hybrid.safety.model import described, digest  # noqa: PLC0415 - torch

    place = Path(folder)
    return ModelScorer(place, described(place)["heads"], digest(place))


def question_of(problem: Problem) -> str:
    """What the model is told was asked: system messages, and the turns up to the last question.

    Example:
        >>> from tfgrpo.types import Problem
        >>> said = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"})
        >>> question_of(Problem(id="p", messages=said))
        'Be brief.\\n\\n2 + 3?'
    """
    system = "\n\n".join(message_text(m) for m in problem.messages if m.get("role") in ("system", "developer"))
    turns = [message_text(m) for m in problem.messages if m.get("role") not in ("system", "developer")]
    return asked(system, "\n".join(turns))


def _words(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in row.items()) + "."
