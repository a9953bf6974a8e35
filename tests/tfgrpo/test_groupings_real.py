"""Every grouping in a tiny real run: the packaged model answers, is hinted, refines and plays roles."""

import asyncio
from dataclasses import replace

import pytest

import experience_store
from tasks.largest_of_three import task as largest
from tfgrpo import Budget, alearn, connect
from tfgrpo.grouping import GROUPINGS, most_calls, resolve_grouping
from tfgrpo.record import RunRecord

pytestmark = pytest.mark.slow
GROUP = 4
USED = {
    "paraphrases": {"", "variant"},
    "context_reset": {"", "variant"},
    "roles": {"role"},
    "hints": {"hint"},
    "hints_replace_one": {"", "hint"},
    "best_draft": {"draft"},
    "anchors": {"", "anchor"},
    "token_budget": {"budget"},
    "optional_thinking": {"thought"},
}


@pytest.fixture(scope="module")
def policy():
    made = connect("local/smollm2")
    yield made
    asyncio.run(made.aclose())


def with_help(problem):
    a, b, c = problem.meta["shown"]
    return replace(
        problem,
        variants=(f"Of {a}, {b} and {c}, name the largest number.",),
        meta={
            "hints": [f"Compare {a} with {b} first.", "Look at the first digit of each."],
            "solution": f"The largest is {problem.answer}.",
        },
    )


@pytest.mark.parametrize("grouping", GROUPINGS)
async def test_a_tiny_run_with_the_packaged_model_comes_to_its_end(policy, tmp_path, grouping):
    source = largest(learn=6, gate=0, test=2)
    task = replace(source, learn=tuple(map(with_help, source.learn)), grouping=grouping)
    most = most_calls(resolve_grouping(grouping, n=GROUP), task.learn)
    calls = 2 * most + 12
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        report = await alearn(
            task, model=policy, store=store, budget=Budget(calls=calls), group=GROUP, runs=tmp_path / "runs"
        )
    assert report.groups >= 1 and report.rollouts > 0 and report.before is not None
    assert report.total["solver_calls"] <= calls
    with RunRecord.open(report.folder, read_only=True) as record:
        replies = list(record.calls("solve"))
        groups = [e.data for e in record.events("group_done")]
    assert len({(c.key.epoch, c.key.sample) for c in replies}) == len(replies)
    origins = {row.get("origin", "").partition("/")[0] for g in groups for row in g["rollouts"]}
    asked = {c.completion.prompt[-1]["content"] for c in replies}
    print(grouping, calls, report.groups, report.rollouts, sorted(origins), report.mixed_share)
    expected = USED.get(grouping, {""}) - {"variant", "anchor"}
    assert origins & expected
    if "variant" in USED.get(grouping, ()):
        assert any(text.startswith("Of ") for text in asked)
