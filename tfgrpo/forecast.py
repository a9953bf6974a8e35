"""What a run of learning will ask and cost, before anything is asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfgrpo.budget import Budget, Ledger
from tfgrpo.critic import CriticSpec
from tfgrpo.grouping import Preparing
from tfgrpo.plan import CRITIC_CALLS_PER_GROUP, CRITIC_TOKENS, DEFAULT_CALLS, Shares, share_out, typical_call
from tfgrpo.policy import Policy, connect
from tfgrpo.policy.base import Price
from tfgrpo.recipe import Recipe
from tfgrpo.task import Task, load_task

JUDGE_TOKENS = (600, 100)  # beside the answer that is judged
PREPARE_TOKENS = (250, 300)  # of one problem's wordings or hints


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Calls of one kind, with their tokens; `usd` is None when the price is unknown."""

    calls: int
    tokens: int
    usd: float | None

    @staticmethod
    def of(calls: int, prompt: float, completion: float, price: Price | None) -> Part:
        usd = None if price is None else price.cost_usd(round(calls * prompt), round(calls * completion))
        return Part(calls=calls, tokens=round(calls * (prompt + completion)), usd=usd)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The plan of a run in calls, tokens and dollars. The calls are an upper limit, the rest is a rough guess."""

    task: str
    model: str
    group: int
    shares: Shares
    parts: Mapping[str, Part]
    budget: Budget

    @property
    def usd(self) -> float | None:
        """Of all parts; None when a price is unknown."""
        known = [part.usd for part in self.parts.values() if part.usd is not None]
        return math.fsum(known) if len(known) == len(self.parts) else None

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "usd": self.usd}

    def __str__(self) -> str:
        lines = [f"{self.task}: {self.model}", f"  plan      {self.shares.words(self.group)}"]
        for name, part in self.parts.items():
            cost = "price unknown" if part.usd is None else f"about ${part.usd:.4f}"
            lines.append(f"  {name:<9} up to {part.calls:,} calls, about {part.tokens:,} tokens, {cost}")
        total = "unknown; a price is given as PROMPT/COMPLETION" if self.usd is None else f"about ${self.usd:.4f}"
        limits = ", ".join(f"{k} {v:g}" for k, v in dataclasses.asdict(self.budget).items() if v is not None)
        return "\n".join(
            [*lines, f"  dollars   {total}", f"  limits    {limits}; no call is made that could cross one"]
        )


def estimate(
    task: Task | str,
    *,
    model: Policy | str,
    critic: Policy | str | None = None,
    budget: Budget | None = None,
    group: int = 3,
) -> Estimate:
    """The estimate for `learn` with the same arguments; asks nothing and writes nothing.

    Raises:
        InputError: what `learn` would refuse: an unknown name, a dollar budget without a price, too small a budget.
    """
    chosen = load_task(task) if isinstance(task, str) else task
    recipe = Recipe.of(chosen, group)
    policy = connect(model) if isinstance(model, str) else model
    limit = budget or Budget(calls=DEFAULT_CALLS)
    reader = critic if critic is None or not isinstance(critic, str) else _reader(critic, policy)
    kind = critic if isinstance(critic, str) else chosen.critic
    asks = reader or (None if CriticSpec.parse(kind, policy.name).kind == "examples" else policy)
    for asked in (policy, asks, *(late.policy for late in chosen.models)):
        if asked is not None:
            Ledger(limit).require_price(asked.name, asked.price)
    shares = share_out(limit, chosen, group_size=group, samples=chosen.test_samples, price=policy.price)
    prompt, answer = typical_call(chosen)
    calls = shares.calls_each * (shares.answers + 2 * shares.gate_pairs) + shares.test_calls
    parts = {"solver": Part.of(calls, prompt, answer, policy.price)}
    if asks is not None:
        parts["critic"] = Part.of(round(CRITIC_CALLS_PER_GROUP * shares.groups), *CRITIC_TOKENS, asks.price)
    if isinstance(recipe.grouping(group)[0], Preparing):
        made = min(len(chosen.learn), shares.answers // group)
        parts["prepare"] = Part.of(made, *PREPARE_TOKENS, (asks or policy).price)
    for late in chosen.models:
        parts["judge"] = Part.of(calls, JUDGE_TOKENS[0] + answer, JUDGE_TOKENS[1], (late.policy or policy).price)
    return Estimate(task=chosen.name, model=policy.name, group=group, shares=shares, parts=parts, budget=limit)


def _reader(critic: str, solver: Policy) -> Policy | None:
    """The policy of a critic that has a model of its own."""
    spec = CriticSpec.parse(critic, solver.name)
    return None if spec.kind == "examples" or spec.model == solver.name else connect(spec.model)
