"""How a budget is shared out before the first call: test, gate, and as many groups as the rest pays for."""

from __future__ import annotations

from dataclasses import dataclass

from tfgrpo.budget import Budget
from tfgrpo.errors import InputError
from tfgrpo.grouping import Staged, grouping_of, most_calls
from tfgrpo.policy.base import Price
from tfgrpo.policy.tokens import estimate_tokens
from tfgrpo.task import Task

DEFAULT_CALLS = 600
TEST_SHARE = 0.35
GATE_SHARE = 0.08
LIKELY_SHARE_OF_MAX_TOKENS = 0.3
CRITIC_TOKENS = (1500, 300)  # prompt and completion of one critic call, roughly
CRITIC_CALLS_PER_GROUP = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Answers of each part; an agent's answer is several calls.

    `answers` are for learning. They pay for `groups` groups at their most; where a grouping asks in stages, groups that
    need fewer leave room for more of them.
    """

    groups: int
    gate_pairs: int
    test_problems: int
    test_samples: int
    test_answers: int = 0  # of one test problem: its samples, and what probes ask beside them
    calls_each: int = 1  # of one answer, at most
    group_answers: int = 0  # of one group, at most
    answers: int = 0  # of all groups together

    @property
    def test_calls(self) -> int:
        """Before and after together."""
        return 2 * self.test_problems * (self.test_answers or self.test_samples) * self.calls_each

    def words(self, group_size: int) -> str:
        """The estimate that is shown before a run starts."""
        staged = self.answers > self.groups * self.group_answers or self.group_answers > group_size
        groups = f"up to {self.groups} groups of {group_size}"
        if staged:
            groups = f"{self.groups} or more groups of {group_size} (each up to {self.group_answers} answers)"
        return (
            f"{groups}, {self.gate_pairs} gate pairs, "
            f"{self.test_problems} test problems x {self.test_samples} before and after"
        )


def share_out(budget: Budget, task: Task, *, group_size: int, samples: int, price: Price | None) -> Shares:
    """Divide the solver calls that a budget allows.

    A budget of calls is divided exactly; an agent's answer counts as the calls it costs at most. Dollars and tokens are
    turned into calls by an estimate (a third of `max_tokens`, a critic call for most groups); the ledger holds the
    line whatever the estimate was worth. A group counts as the answers that it may ask for at most.

    Raises:
        InputError: the budget does not pay for one group, or the task's grouping is not known or not possible.
    """
    grouping = grouping_of(task.grouping, group_size)
    most = most_calls(grouping, task.learn)
    calls = _solver_calls(budget, task, most, price) // task.calls_per_answer
    each = task.answers_per_test(samples)
    test = min(len(task.test), int(TEST_SHARE * calls) // (2 * each))
    gate = min(len(task.gate), int(GATE_SHARE * calls) // 2)
    room = calls - 2 * test * each - 2 * gate
    groups = room // most
    if groups < 1:
        raise InputError(
            f"the budget allows about {calls} {_unit(task)}, which do not pay for one group of "
            f"{most if most == group_size else f'up to {most} answers'}; raise it, or lower the group size"
        )
    return Shares(
        groups=groups,
        gate_pairs=gate,
        test_problems=test,
        test_samples=samples,
        test_answers=each,
        calls_each=task.calls_per_answer,
        group_answers=most,
        answers=room if isinstance(grouping, Staged) else groups * most,
    )


def _unit(task: Task) -> str:
    return "solver calls" if task.calls_per_answer == 1 else f"answers of up to {task.calls_per_answer} calls"


def typical_call(task: Task) -> tuple[float, float]:
    """Tokens of prompt and completion of one solver call, roughly."""
    problems = task.learn[:64]
    prompt = sum(estimate_tokens(p.messages) for p in problems) / max(1, len(problems))
    return prompt, LIKELY_SHARE_OF_MAX_TOKENS * task.sampling.max_tokens


def _solver_calls(budget: Budget, task: Task, group_answers: int, price: Price | None) -> int:
    prompt, answer = typical_call(task)
    critic = CRITIC_CALLS_PER_GROUP / group_answers
    limits = [budget.calls] if budget.calls is not None else []
    if budget.tokens is not None:
        limits.append(int(budget.tokens / (prompt + answer + critic * sum(CRITIC_TOKENS))))
    if budget.usd is not None and price is not None:
        each = price.cost_usd(int(prompt), int(answer)) + critic * price.cost_usd(*CRITIC_TOKENS)
        if each > 0:
            limits.append(int(budget.usd / each))
    return min(limits, default=DEFAULT_CALLS)
