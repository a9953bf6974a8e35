"""Every preset that is listed completes one tiny run with a real model, so that none is listed that cannot run.

The packaged model answers; it is right now and then, which is enough: what is checked is that a run with the preset
comes to its end, that answers were scored, and that the preset was really used.
"""

import asyncio
import dataclasses
import json

import pytest

import experience_store
from tfgrpo import Budget, LateCaller, Problem, Sampling, Score, Task, alearn, connect, reward
from tfgrpo.methods import KINDS, presets
from tfgrpo.record import RunRecord
from tfgrpo.rewards.simple import contains

pytestmark = pytest.mark.slow

GROUP, CALLS, TOKENS = 4, 8, 8
MORE_CALLS = {"hints": 16, "hints_replace_one": 16}  # what one group may ask for
ELSEWHERE = {"strategy"}  # which asks and does not learn: strategies/test_real.py
ROWS = [(kind.name, name) for kind in KINDS if kind.name not in ELSEWHERE for name in presets(kind)]
NUMBERS = [(12, 57, 31), (84, 23, 40), (15, 66, 61), (73, 38, 90)]
SCHEMA = "CREATE TABLE town (name TEXT, people INTEGER); INSERT INTO town VALUES ('Ulm', 12), ('Aix', 30);"
CALL = {"name": "largest", "arguments": {"numbers": [1, 2]}}
OBJECT = {"type": "object", "properties": {"largest": {"type": "integer"}}, "required": ["largest"]}


def largest(shown):
    """One problem that brings whatever a preset may need."""
    a, b, c = shown
    top, step = max(shown), f"Compare {a} with {b} first."
    return Problem(
        id=f"largest-{a}-{b}-{c}",
        messages=({"role": "user", "content": f"What is the largest of these numbers: {a}, {b}, {c}?"},),
        answer=str(top),
        variants=(f"Which of {a}, {b}, {c} is the largest?", f"Name the largest number among {a}, {b} and {c}."),
        meta={
            "hints": [step, f"{step} Then compare the larger one with {c}.", "Read the numbers digit by digit."],
            "solution": f"{top} is larger than the other two. The answer is {top}.",
            "entities": [str(top)],
            "token_budget": 8,
            "difficulty": 6,
        },
    )


def asked(name, text, answer, **meta):
    return Problem(id=name, messages=({"role": "user", "content": text},), answer=answer, meta=meta)


PROBLEMS = tuple(largest(shown) for shown in NUMBERS)
QUERIES = tuple(
    asked(f"sql-{n}", f"{SCHEMA}\nWrite one SQL query: {text}", sql, schema=SCHEMA)
    for n, (text, sql) in enumerate(
        [("how many towns are there?", "SELECT count(*) FROM town"), ("list the names.", "SELECT name FROM town")]
    )
)
TOOLS = (asked("tool-1", 'Reply with {"name": "largest", "arguments": {"numbers": [1, 2]}} only.', [CALL]),)
OWN_PROBLEMS = {
    "sql_execution": QUERIES,
    "sql_partial": QUERIES,
    "sql_contrastive": QUERIES,
    "tool_calls": TOOLS,
    "json_schema": (asked("json-1", 'Reply with {"largest": 57} only.', '{"largest": 57}'),),
}


@reward
def in_parts(problem, completion):
    """A score with all the parts and columns that some advantage reads."""
    right, brief = float(problem.answer in completion.text), 1.0 / (1 + len(completion.text.split()))
    parts = {"right": right, "brief": brief, "weight/right": 0.8, "weight/brief": 0.2, "entities": brief, "fine": brief}
    return Score(value=right, parts=parts, feedback="" if right else f"It is {problem.answer}.")


@pytest.fixture(scope="module")
def policy():
    made = connect("local/smollm2")
    yield made
    asyncio.run(made.aclose())


def task_of(**changes):
    fields = {
        "name": "tiny",
        "learn": PROBLEMS,
        "reward": in_parts,
        "sampling": Sampling(temperature=0.8, max_tokens=TOKENS, extra={"segments": True}),
        "critic": "examples",
    }
    return Task(**{**fields, **changes})


class Grader:
    """The packaged model as a judge. It is too small to write JSON: its words are put into the form that was asked
    for, and their number stands for the grade."""

    def __init__(self, policy):
        self.policy, self.name, self.price = policy, f"{policy.name} as a judge", policy.price

    async def complete(self, messages, sampling):
        reply = await self.policy.complete(messages, Sampling(temperature=0.8, max_tokens=TOKENS, seed=sampling.seed))
        fields = sampling.schema["properties"].items()
        grade = 1 + len(reply.text) % 5
        filled = {name: reply.text if kind["type"] == "string" else grade for name, kind in fields}
        text = json.dumps(filled)
        return dataclasses.replace(reply, text=text, messages=({"role": "assistant", "content": text},))


def scored(kind, name, policy):
    """The reward of a row with what it cannot do without, and the models it asks."""
    judge = LateCaller(Grader(policy))
    options = {
        "judge": {"caller": judge},
        "tournament": {"caller": judge},
        "safety": {"caller": judge},
        "json_schema": {"schema": OBJECT},
        "regex": {"pattern": r"(\d+)"},
        "ps_grpo": {"with_": contains()},
        "multi_role": {"with_": contains()},
        "cosine_length": {"with_": contains()},
        "pixelthink": {"with_": contains()},
        "trapezoid": {"knots": (1, 2, 8, 16)},
        "weighted": {"parts": {"right": (contains(), 1.0), "parts": (in_parts, 0.5)}},
        "conditional": {
            "parts": {"right": (contains(), 1.0), "parts": (in_parts, 0.5)},
            "only_if": {"parts": ("right", 1.0)},
        },
        "gated": {"parts": {"right": (contains(), 1.0), "parts": (in_parts, 0.5)}, "gate": "right"},
    }
    made = presets(next(k for k in KINDS if k.name == kind))[name].make(**options.get(name, {}))
    fields = {"reward": made, "learn": OWN_PROBLEMS.get(name, PROBLEMS)}
    if name in ("ps_grpo", "information_consistency"):  # wordings, and answers that were not cut off
        ending = dataclasses.replace(task_of().sampling, stop=(" is", ".", ":"))
        return {**fields, "grouping": "paraphrases", "sampling": ending}
    return {**fields, "models": (judge,) if name in ("judge", "tournament", "safety") else ()}


def with_preset(kind, name, policy):
    """The tiny task with one thing changed."""
    if kind in ("reward", "aggregation"):
        return task_of(**scored(kind, name, policy))
    if kind in ("advantage", "grouping", "sampler"):
        return task_of(**{kind: name})
    if kind == "filter":
        from tfgrpo.advantage import center, chain, resolve_filter

        return task_of(advantage=chain(center(), resolve_filter(name)))
    assert (kind, name) == ("schedule", "length_budget"), f"how does a {kind} run? Say so here"
    return task_of(grouping="token_budget")


async def learned(task, policy, folder, calls):
    with experience_store.open(folder / "store", embedder="hashing") as store:
        return await alearn(
            task, model=policy, store=store, budget=Budget(calls=calls), group=GROUP, runs=folder / "runs", gate="none"
        )


@pytest.mark.parametrize(("kind", "name"), ROWS, ids=["/".join(row) for row in ROWS])
def test_it_runs(kind, name, policy, tmp_path):
    task = with_preset(kind, name, policy)
    calls = MORE_CALLS.get(name, CALLS)
    report = asyncio.run(learned(task, policy, tmp_path, calls))
    assert report.groups >= 1 and report.rollouts >= GROUP - 1
    assert all(0 <= row["solver_calls"] <= calls for row in report.spend.values())
    with RunRecord.open(report.folder, read_only=True) as record:
        assert not list(record.events("reward_failed"))
        assert list(record.calls("solve"))
        assert bool(list(record.calls("judge"))) == bool(task.models)
