"""What experiences and hints reached, counted on groups that are made by hand."""

import flagworld
from scripted import ScriptedPolicy

import experience_store
import tfgrpo
from tfgrpo.reach import Reach
from tfgrpo.types import Completion, Group, Problem, Rollout, Score


def rollout(value, *, experiences=(), origin="", stage=0):
    completion = Completion(prompt=(), messages=(), text="", policy="m", origin=origin)
    return Rollout(completion=completion, score=Score(value=value), experiences=experiences, stage=stage)


def group(problem, *rollouts, earlier=()):
    return Group(problem=Problem(id=problem, messages=()), rollouts=rollouts, earlier=earlier)


def counted(*groups):
    reach = Reach()
    for one in groups:
        reach.add([one])
    return reach.as_json()


def test_groups_with_experiences_and_without_a_right_answer():
    told = {"experiences": ("E1@1",)}
    found = counted(
        group("a", rollout(0.0), rollout(0.0)),  # nothing stood in its prompts
        group("b", rollout(0.0, **told), rollout(0.0)),
        group("c", rollout(0.0, **told), rollout(1.0)),
        group("d", rollout(1.0, **told)),
    )
    assert (found["told"], found["told_wrong"]) == (3, 1)


def test_hints_that_help_and_what_is_left_of_them_later():
    failed = (rollout(0.0), rollout(0.0))
    hinted = (rollout(1.0, origin="hint/1", stage=1), rollout(0.0, origin="hint/1", stage=1))
    found = counted(
        group("a", *hinted, earlier=failed),
        group("a", rollout(0.0), rollout(1.0), rollout(0.0)),  # later, without a hint
        group("b", rollout(0.0, origin="hint/1", stage=1), earlier=failed),
        group("b", rollout(1.0), rollout(1.0)),  # was never solved with a hint: tells nothing of transfer
    )
    assert (found["hinted"], found["hinted_right"]) == (3, 1)
    assert (found["again"], found["again_right"]) == (3, 1)


def test_a_run_counts_them(tmp_path):
    def answer(messages, sampling):
        body = {"messages": list(messages), "seed": sampling.seed}
        return flagworld.answer({**body, "response_format": 1} if sampling.schema else body)

    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        report = tfgrpo.learn(flagworld.flag_task(), model=ScriptedPolicy(answer), store=store,
                              budget=tfgrpo.Budget(calls=200), runs=tmp_path / "runs")  # fmt: skip
    assert 0 < report.counts["told_wrong"] < report.counts["told"] <= report.groups
    assert report.counts["hinted"] == report.counts["again"] == 0
    assert tfgrpo.Report.from_json(report.as_json()).counts == report.counts
