"""Learning with every grouping against a loopback server: budget, resume, evidence that hints do not confound."""

import asyncio
import json
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import flagworld
import pytest
from servers import Fault

import experience_store
from experience_store import Edit, Layout
from tfgrpo import Budget, alearn, estimate
from tfgrpo.critic.examples import ExampleCritic
from tfgrpo.errors import AuthError, InputError
from tfgrpo.events import EventLog
from tfgrpo.grouping import GROUPINGS, hints, repeat
from tfgrpo.learner import ExperienceLearner, comparable, informative
from tfgrpo.plan import share_out
from tfgrpo.record import RunRecord
from tfgrpo.task import Task
from tfgrpo.types import Completion, Group, Problem, Prompt, Rollout, Score


def with_hints(problem):
    land = flagworld.re.search(r"flag of (\w+)\?", problem.question)[1]
    told = ["Think of its history.", "Think of its coast.", f"The flag of {land} is {problem.answer}."]
    return replace(problem, meta={"hints": told, "solution": f"The flag of {land} is {problem.answer}."})


def task(**changes):
    fields = {"learn": tuple(map(with_hints, flagworld.problems(0, 40)))}
    return flagworld.flag_task(**{**fields, **changes})


def answer(body):
    """As in flagworld; asked for wordings it gives a good one, a leaking one and one of another question."""
    text = flagworld.words_of(body)
    if "other wordings" in text:
        number, land = flagworld.re.search(r"Question (\d+)\. Which colour has the flag of (\w+)\?", text).groups()
        good = f"Question {number}. What is the colour of the flag of {land}?"
        leak = f"Question {number}. Is {flagworld.colour_of(land)} the colour of the flag of {land}?"
        other = f"Question {int(number) + 1}. Which colour has the flag of {land}?"
        return json.dumps({"wordings": [leak, other, good]})
    return flagworld.answer(body)


def options(tmp_path, **changes):
    fields = {
        "model": "openai/solver",
        "store": str(tmp_path / "store"),
        "budget": Budget(calls=240),
        "runs": tmp_path / "runs",
        "concurrency": 16,
        "group": 4,
    }
    return {**fields, **changes}


@pytest.fixture
def server(chat_server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chat_server.answer = answer
    experience_store.open(tmp_path / "store", embedder="hashing").close()
    return chat_server


def solver_calls(server):
    return [r for r in server.requests if not r.get("response_format")]


# -- budget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("calls", [61, 110])
async def test_never_one_call_over_the_budget_and_the_test_stays_paid(server, tmp_path, grouping, calls):
    report = await alearn(task(grouping=grouping), **options(tmp_path, budget=Budget(calls=calls)))
    assert len(solver_calls(server)) <= calls
    assert report.before is not None and report.before.missing == 0
    assert report.methods["grouping"] == grouping
    assert report.groups > 0


@pytest.mark.parametrize("calls", [40, 97, 240, 600])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_plan_pays_for_whole_groups_at_their_most(calls, levels):
    staged = task(grouping=partial(hints, levels=levels))
    shares = share_out(Budget(calls=calls), staged, group_size=4, samples=1, price=None)
    assert shares.group_answers == 4 * (1 + levels)
    used = shares.answers + 2 * shares.gate_pairs + shares.test_calls
    assert used == calls and shares.groups == shares.answers // shares.group_answers
    assert "or more groups of 4" in shares.words(4)


def test_a_budget_that_may_not_pay_for_one_staged_group_is_refused():
    with pytest.raises(InputError, match="up to 16 answers"):
        share_out(Budget(calls=15), task(grouping="hints"), group_size=4, samples=1, price=None)
    share_out(Budget(calls=15), task(), group_size=4, samples=1, price=None)


async def test_what_a_group_does_not_need_pays_for_more_groups(server, tmp_path):
    """Every answer is right, so that no hint is asked for: as many groups as without hints."""
    server.answer = lambda body: f"It is {' '.join(flagworld.COLOURS)}."
    staged = await alearn(task(grouping="hints", test=(), gate=()), **options(tmp_path, budget=Budget(calls=120)))
    assert staged.groups == 120 // 4 - 3  # the last ones could not have been finished at their most
    assert staged.stopped == ""


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grouping", "after"),
    [("hints", 1), ("hints", 40), ("hints", 85), ("hints_replace_one", 40), ("best_draft", 30), ("paraphrases", 20)],
)
async def test_a_staged_run_that_is_stopped_anywhere_goes_on_to_the_same_end(server, tmp_path, grouping, after):
    async def whole(name):
        with experience_store.open(tmp_path / name, embedder="hashing") as store:
            where = {"store": store, "runs": tmp_path / f"{name}-runs", "budget": Budget(calls=100)}
            return await alearn(task(grouping=grouping), **options(tmp_path, **where))

    straight = await whole("straight")
    replies = server.replies
    server.fault_of = lambda body, number: Fault(401) if number > replies + after else None
    with pytest.raises(AuthError):
        await whole("stopped")
    server.fault_of = None  # what was refused was never replied to
    resumed = await whole("stopped")
    assert [row["text"] for row in resumed.learned] == [row["text"] for row in straight.learned]
    assert resumed.curve == straight.curve and resumed.gain == straight.gain
    assert resumed.groups == straight.groups and resumed.rollouts == straight.rollouts
    assert replies <= server.replies - replies <= replies + 16


async def test_speed_does_not_change_a_staged_run(server, tmp_path):
    def run(name):
        store = experience_store.open(tmp_path / name / "store", embedder="hashing")
        where = {"store": store, "runs": tmp_path / name, "budget": Budget(calls=100)}
        return alearn(task(grouping="hints"), **options(tmp_path, **where))

    one = await run("one")
    server.latency_s = 0.003
    two = await run("two")
    assert one.curve == two.curve
    assert [row["text"] for row in one.learned] == [row["text"] for row in two.learned]


# -- what is learned --------------------------------------------------------------------------------------------------


async def test_with_hints_it_learns_and_the_curve_is_without_them(server, tmp_path):
    report = await alearn(task(grouping="hints"), **options(tmp_path, budget=Budget(calls=500)))
    assert report.accepted and report.gain.low > 0
    assert report.curve[0]["reward"] <= 0.5  # hinted groups end at 1.0
    assert "methods   grouping hints" in str(report)


async def test_hinted_answers_are_no_evidence(server, tmp_path):
    """A library that only repeats what hints say, in a world where bare answers are always wrong, shows no effect."""

    def only_hints(body):
        if body.get("response_format"):
            return json.dumps({"edits": [{"op": "add", "text": "Think of its coast before you answer."}]})
        hinted = "Hint: The flag" in flagworld.words_of(body)
        return flagworld._solver(body) if hinted else "It is brown."

    server.answer = only_hints
    report = await alearn(task(grouping="hints"), **options(tmp_path, budget=Budget(calls=400)))
    with RunRecord.open(report.folder, read_only=True) as record:
        hinted = [e for e in record.events("group_done") if any(r.get("origin") for r in e.data["rollouts"])]
        assert hinted
        assert any(r["score"] == 1.0 for e in hinted for r in e.data["rollouts"])
    assert not report.accepted
    assert max(point["reward"] for point in report.curve) == 0.0


def rollout(value, *, origin="", stage=0, variant=0, experiences=()):
    reply = Completion(prompt=(), messages=(), text="x", policy="m", origin=origin, variant=variant)
    return Rollout(completion=reply, score=Score(value=value), experiences=experiences, stage=stage)


def group(rollouts, earlier=()):
    return Group(problem=Problem(id="p", messages=()), rollouts=tuple(rollouts), earlier=tuple(earlier))


def test_only_answers_that_were_dealt_together_are_compared():
    bare = [rollout(0.0), rollout(0.0)]
    aided = [rollout(1.0, origin="hint/1", stage=1), rollout(1.0, origin="anchor", stage=1)]
    again = [rollout(1.0, stage=1), rollout(0.0, stage=1)]
    assert comparable(group(aided, bare)) == [bare]
    assert comparable(group(again, bare)) == [bare, again]
    wordings = [rollout(0.0), rollout(1.0, variant=1)]
    assert comparable(group(wordings)) == [wordings]
    parts = [rollout(0.0, origin="role/a"), rollout(1.0, origin="role/b"), rollout(1.0)]
    assert comparable(group(parts)) == [parts[:2], parts[2:]]


def test_a_hint_that_saved_everybody_teaches():
    hinted = [rollout(1.0, origin="hint/1", stage=1)] * 2
    assert informative(group(hinted, [rollout(0.0)] * 2), [0.0, 0.0])
    assert not informative(group(hinted), [0.0, 0.0])


def test_later_prompts_show_what_was_in_question_when_the_group_was_planned(tmp_path):
    with experience_store.open(tmp_path / "s", embedder="hashing") as store:
        version = store.commit([Edit(op="add", text=f"Note {n}.", trial=True) for n in range(3)])
        learner = ExperienceLearner(
            store=store, start=version, critic=ExampleCritic(), problems=flagworld.problems(0, 4), layout=Layout(),
            events=EventLog(), run_id="r",
        )  # fmt: skip
        problem = flagworld.problems(0, 1)[0]
        plan = learner.plan(7, problem, repeat(4)(problem, 7))
        before = plan.fill(1, repeat(4)(problem, 7))
        learner.snapshot = store.at(store.commit([Edit(op="add", text="A later note.")]).number)
        learner._adopt(learner.snapshot)
        assert plan.fill(1, repeat(4)(problem, 7)) == before
        assert plan.fill(2, repeat(4)(problem, 7)) != before  # a coin of its own
        assert all("A later note." not in flagworld.words_of({"messages": p.messages}) for p in before)
        shown = [set(p.experiences) for p in before]
        assert all(sum(label in s for s in shown) == 2 for label in set().union(*shown))


# -- wordings ---------------------------------------------------------------------------------------------------------


async def test_wordings_are_made_once_and_no_leak_is_used(server, tmp_path):
    given = options(tmp_path)
    report = await alearn(task(grouping="paraphrases"), **given)
    asked = [r for r in server.requests if "other wordings" in flagworld.words_of(r)]
    assert 0 < len(asked) <= 40 and report.spend["paraphrase"]["calls"] == len(asked)
    assert report.spend["paraphrase"]["solver_calls"] == 0
    for request in asked:
        assert not any(colour in flagworld.words_of(request) for colour in flagworld.COLOURS)
    told = [flagworld.words_of(r) for r in solver_calls(server)]
    assert any("What is the colour of the flag" in text for text in told)
    assert not any("Is " + c + " the colour" in text for text in told for c in flagworld.COLOURS)
    with RunRecord.open(report.folder, read_only=True) as record:
        assert all(len(made["variants"]) == 1 for made in record.get_state("prepared").values())
        assert len(list(record.events("prepared"))) == 1


async def test_no_more_problems_get_wordings_than_groups_can_ask(server, tmp_path):
    await alearn(task(grouping="paraphrases"), **options(tmp_path, budget=Budget(calls=60)))
    shares = share_out(Budget(calls=60), task(), group_size=4, samples=1, price=None)
    assert sum("other wordings" in flagworld.words_of(r) for r in server.requests) == shares.groups < 40


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_identity_of_a_task_has_its_methods_in_it():
    plain = flagworld.flag_task()
    same = flagworld.flag_task(grouping="repeat", advantage="grpo", sampler="least_covered")
    assert plain.fingerprint() == same.fingerprint()
    changes = ({"grouping": "hints"}, {"grouping": partial(hints, levels=2)}, {"advantage": "rloo"}, {"sampler": "vas"})
    assert len({flagworld.flag_task(**c).fingerprint() for c in ({}, *changes)}) == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grouping": "hint"}, "did you mean 'hints'"),
        ({"advantage": "rlo"}, "did you mean 'rloo'"),
        ({"sampler": "vass"}, "did you mean 'vas'"),
        ({"grouping": "hints"}, "solution"),
        ({"grouping": lambda n: lambda problem, number: ()}, "no answer"),
    ],
)
async def test_what_is_not_possible_is_refused_before_anything_is_asked(server, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        await alearn(flagworld.flag_task(**changes), **options(tmp_path))
    with pytest.raises(InputError, match=said):
        estimate(flagworld.flag_task(**changes), model="openai/solver")
    assert server.requests == []


@pytest.mark.parametrize("changes", [{"advantage": "rloo"}, {"sampler": "vas"}, {"sampler": "rollout_gdro"}])
async def test_other_advantages_and_samplers_run_within_the_budget(server, tmp_path, changes):
    report = await alearn(flagworld.flag_task(**changes), **options(tmp_path, budget=Budget(calls=100)))
    assert len(solver_calls(server)) <= 100 and report.before is not None
    (kind, name), *_ = changes.items()
    assert report.as_json()["methods"][kind] == name
    assert f"{kind} {name}" in str(report)


async def test_a_grouping_of_ones_own_in_stages(server, tmp_path):
    class Twice:
        """Asks a failed group once more, as it is."""

        def __init__(self, n):
            self.n, self.max_calls = n, 2 * n

        def __call__(self, problem, number):
            return (Prompt(messages=problem.messages),) * self.n

        def then(self, problem, number, stage, rollouts):
            from tfgrpo.grouping import Stage

            again = stage == 0 and not any(r.score.success for r in rollouts)
            return Stage(prompts=self(problem, number), keep=tuple(range(len(rollouts)))) if again else None

    report = await alearn(flagworld.flag_task(grouping=Twice), **options(tmp_path))
    assert len(solver_calls(server)) <= 240
    with RunRecord.open(report.folder, read_only=True) as record:
        sizes = {len(e.data["rollouts"]) for e in record.events("group_done")}
    assert sizes == {4, 8}


def test_a_task_is_plain_data():
    assert Task(name="t", learn=flagworld.problems(0, 2), reward=flagworld.contains()).methods == {
        "grouping": "repeat",
        "advantage": "grpo",
        "sampler": "least_covered",
    }


# -- kill -9 ----------------------------------------------------------------------------------------------------------

WORKER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import experience_store, json
from tfgrpo import Budget, learn
from test_learn_groupings import task
store = experience_store.open(sys.argv[3] + "/store", embedder="hashing")
report = learn(task(grouping="hints"), model="openai/solver", store=store, budget=Budget(calls=160), group=4,
               runs=sys.argv[3] + "/runs", concurrency=16)
print(json.dumps([report.curve, [row["text"] for row in report.learned], report.groups, report.rollouts]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
async def test_a_staged_run_that_is_killed_walks_the_same_path(server, tmp_path):
    server.latency_s = 0.02
    tests = Path(__file__).parent

    async def start(name):
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, str(tests), str(tests.parent), str(tmp_path / name),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    expected = (await (await start("whole")).communicate())[0]
    assert json.loads(expected)[2] > 3
    for replies in (20, 70, 120):
        worker, goal = await start("killed"), server.replies + replies
        while server.replies < goal and worker.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if worker.returncode is None:
            worker.send_signal(signal.SIGKILL)
        await worker.wait()
    assert (await (await start("killed")).communicate())[0] == expected
