"""The arms of a comparison on the same held-out problems: measured, set side by side, and one of them recommended.

Legend: P problems, K samples of each. An arm is measured in blocks of problems, the same order for all, and every block
is on record when it is done. Where a budget ends early, arms are compared on the problems that both have seen; which
ones these are does not depend on any score.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tfgrpo.agents.solver import solver_of
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller
from tfgrpo.errors import BudgetExhausted, TransportError
from tfgrpo.evaluation import Comparison, Evaluation, bare, compare, evaluate_problems
from tfgrpo.events import EventLog
from tfgrpo.late import bound
from tfgrpo.policy import Policy
from tfgrpo.record import RunRecord
from tfgrpo.rewards.calling import metrics_to
from tfgrpo.stats import Array
from tfgrpo.task import Task
from tfgrpo.types import Problem, Prompt, Usage

ROWS_AT_ONCE = 64  # answers of one block, about
WEIGHTS = "weights"
"""The purpose under which answers of trained weights are recorded."""
SURE = 0.05
"""Several arms are compared, so each p value must lie below SURE divided by the number of comparisons (Bonferroni)."""
EQUAL = 0.05
"""An arm that is taken because it is cheaper must not be worse by more than this, with its whole interval."""
CHEAPER = 0.9
"""Measured paces differ by a few per cent from one measurement to the next."""
ORDER = ("base", "library", "untrained", "trained", "trained_library")
"""From the arm that changes least: where costs are equal or unknown, the earlier one is the simpler one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """One arm as far as it was measured; `seconds` is what its answers took, beside each other."""

    name: str
    model: str
    done: Evaluation
    seconds: float
    local: bool  # it ran on this machine
    finished: bool = True

    @property
    def answers(self) -> int:
        """Samples that were drawn."""
        return int(self.done.scores.size)

    @property
    def pace_s(self) -> float:
        """Seconds of one answer, beside others."""
        return self.seconds / max(1, self.answers)

    @property
    def prompt_tokens(self) -> float:
        """Of a call, on average."""
        return self.done.usage.prompt_tokens / max(1, self.answers)

    def call_usd(self, gpu_usd_per_hour: float | None) -> float | None:
        """Dollars of one answer; None: unknown."""
        if self.local:
            return None if gpu_usd_per_hour is None else self.pace_s * gpu_usd_per_hour / 3600
        return None if self.done.cost_usd is None else self.done.cost_usd / max(1, self.answers)

    def as_json(self) -> dict[str, Any]:
        """For the record."""
        d = self.done
        return {
            **{name: getattr(self, name) for name in ("name", "model", "seconds", "local", "finished")},
            "problems": list(d.problems),
            "scores": _listed(d.scores),
            "success": _listed(d.success),
            "lost": [d.missing, d.unscored, d.unpriced],
            "usage": [d.usage.prompt_tokens, d.usage.completion_tokens, d.usage.cached_tokens],
            "cost_usd": d.cost_usd,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Arm:
        """From the record."""
        missing, unscored, unpriced = data["lost"]
        prompt, completion, cached = data["usage"]
        done = Evaluation(
            problems=tuple(data["problems"]),
            scores=_array(data["scores"]),
            success=_array(data["success"]),
            missing=missing,
            unscored=unscored,
            unpriced=unpriced,
            usage=Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached),
            cost_usd=data["cost_usd"],
        )
        plain = {name: data[name] for name in ("name", "model", "seconds", "local", "finished")}
        return Arm(**plain, done=done)


def _listed(values: Array) -> list[list[float | None]]:
    return [[None if math.isnan(v) else float(v) for v in row] for row in values]


def _array(rows: Sequence[Sequence[float | None]]) -> Array:
    return np.array([[math.nan if v is None else v for v in row] for row in rows], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """The held-out problems in their order, and where the answers to them are kept."""

    task: Task
    problems: tuple[Problem, ...]
    record: RunRecord
    events: EventLog
    concurrency: int
    seed: int

    @property
    def block(self) -> int:
        """Problems of one block."""
        return max(2, -(-ROWS_AT_ONCE // self.task.test_samples))

    def known(self, name: str) -> Arm | None:
        """The arm as far as it is on record."""
        found = self.record.get_state(f"arm/{name}")
        return None if found is None else Arm.from_json(found)

    async def measure(
        self,
        name: str,
        policy: Policy,
        *,
        ledger: Ledger,
        local: bool,
        count: Callable[[Arm | None], int],
        apply: Callable[[Problem], Prompt] = bare,
        weights: bool = False,
        finish: bool = True,
    ) -> Arm | None:
        """Measure an arm on `count(arm so far)` problems; None when the budget did not pay for the first block.

        Without `finish` it can be measured on further problems later.
        Answers of trained `weights` are kept apart, since they are no calls that a budget of calls or tokens limits.

        Raises:
            TransportError: not one answer of a block arrived.
        """
        arm = self.known(name)
        make = partial(
            Caller,
            record=self.record,
            ledger=ledger,
            concurrency=self.concurrency,
            emit=self.events.publish,
            seed=self.seed,
        )
        caller = make(policy)
        while (arm is None or not arm.finished) and (seen := len(arm.done.problems) if arm else 0) < count(arm):
            chosen = self.problems[seen : min(seen + self.block, count(arm))]
            begun = time.monotonic()
            try:
                with bound(self.task.models, partial(make, solver=False), policy), metrics_to(self.events.emit):
                    found = await self._asked(name, chosen, caller, apply, WEIGHTS if weights else "evaluate")
            except BudgetExhausted as error:
                self.events.emit("test_skipped", why=str(error))
                break
            took = time.monotonic() - begun
            fresh = Arm(name=name, model=policy.name, done=found, seconds=took, local=local, finished=False)
            arm = fresh if arm is None else _joined(arm, fresh)
            self.record.put_state(f"arm/{name}", arm.as_json())
            done, total = len(arm.done.problems), count(arm)
            self.events.emit("arm_progress", arm=name, done=done, total=total, words=arm.done.words())
        if arm is not None and finish and not arm.finished:
            arm = replace(arm, finished=True)
            self.record.put_state(f"arm/{name}", arm.as_json())
        return arm

    async def _asked(
        self,
        name: str,
        problems: Sequence[Problem],
        caller: Caller,
        apply: Callable[[Problem], Prompt],
        purpose: str,
    ) -> Evaluation:
        found = await evaluate_problems(
            problems,
            self.task.reward,
            solver_of(caller, self.task.agent),
            apply=apply,
            samples=self.task.test_samples,
            sampling=self.task.sampling,
            epoch=ORDER.index(name),
            purpose=purpose,
        )
        if found.missing + found.unscored == found.scores.size:
            raise TransportError(
                f"not one of {found.scores.size} answers of {caller.policy.name} arrived and was scored; "
                f"the same command goes on here"
            )
        return found


def _joined(arm: Arm, more: Arm) -> Arm:
    """Two blocks of one arm as one."""
    a, b = arm.done, more.done
    cost = None if a.cost_usd is None or b.cost_usd is None else a.cost_usd + b.cost_usd
    done = Evaluation(
        problems=(*a.problems, *b.problems),
        scores=np.concatenate([a.scores, b.scores]),
        success=np.concatenate([a.success, b.success]),
        missing=a.missing + b.missing,
        unscored=a.unscored + b.unscored,
        usage=a.usage + b.usage,
        cost_usd=cost,
        unpriced=a.unpriced + b.unpriced,
    )
    return replace(arm, done=done, seconds=arm.seconds + more.seconds)


# -- side by side ------------------------------------------------------------------------------------------------------


def paired(before: Arm, after: Arm, *, seed: int = 0) -> Comparison:
    """The gain from one arm to the other on the problems that both have seen."""
    common = min(len(before.done.problems), len(after.done.problems))
    return compare(_first(before.done, common), _first(after.done, common), seed=seed)


def _first(done: Evaluation, count: int) -> Evaluation:
    return replace(done, problems=done.problems[:count], scores=done.scores[:count], success=done.success[:count])


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """The arm to use, and why in words."""

    name: str
    why: str


def recommend(arms: Sequence[Arm], *, gpu_usd_per_hour: float | None = None, seed: int = 0) -> Recommendation:
    """The better arm where that is shown, else the cheapest of those among which no difference is shown.

    1. An arm is a candidate when its paired gain over the model as it is lies above 0 and is shown (`_shown`).
    2. Without one it is the model as it is; or a cheaper arm, if its interval rules out a loss of more than EQUAL.
    3. Among candidates, the highest mean leads. The cheapest one of which no loss against it is shown is taken.

    Example: see `tests/hybrid/escalation/test_arms.py`, which has one row for each line.
    """
    base, others = arms[0], arms[1:]
    if not others:
        return Recommendation(name=base.name, why="there is nothing that it could be compared with")
    tests = len(others)
    candidates = [arm for arm in others if _shown(paired(base, arm, seed=seed), tests, 1)]
    if not candidates:
        chosen = _cheapest([base, *(arm for arm in others if _equal(base, arm, seed))], gpu_usd_per_hour)
        why = "nothing is shown to be better than the model as it is"
        if chosen is not base:
            why += f"; this arm is cheaper and about as good: {paired(base, chosen, seed=seed).gain.words(signed=True)}"
        return Recommendation(name=chosen.name, why=why)
    leader = max(candidates, key=lambda arm: arm.done.mean_at_k)
    equal = [a for a in candidates if a is leader or not _shown(paired(a, leader, seed=seed), tests, 1)]
    chosen = _cheapest(equal, gpu_usd_per_hour)
    gain = paired(base, chosen, seed=seed).gain
    why = f"{gain.words(signed=True)} over the model as it is"
    if chosen is not leader:
        why += "; no difference to a dearer arm with a higher mean is shown, so the cheaper one is taken"
    return Recommendation(name=chosen.name, why=why)


def _shown(found: Comparison, tests: int, sign: int) -> bool:
    """Whether a difference of that sign is shown, `tests` comparisons considered."""
    if found.gain.n < 2 or found.inside_noise:
        return False
    return sign * found.gain.mean > 0 and found.p_value < SURE / tests


def _equal(base: Arm, arm: Arm, seed: int) -> bool:
    """Whether a loss of more than EQUAL is ruled out."""
    gain = paired(base, arm, seed=seed).gain
    return gain.n > 1 and gain.low > -EQUAL


def _cheapest(arms: Sequence[Arm], gpu_usd_per_hour: float | None) -> Arm:
    """By dollars of an answer, where they are known and differ by a tenth; else the arm that changes least."""
    chosen, *others = sorted(arms, key=lambda arm: ORDER.index(arm.name))
    for arm in others:
        cost, least = arm.call_usd(gpu_usd_per_hour), chosen.call_usd(gpu_usd_per_hour)
        if cost is not None and least is not None and cost < CHEAPER * least:
            chosen = arm
    return chosen
