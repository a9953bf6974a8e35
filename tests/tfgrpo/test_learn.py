"""The training-free arm end to end against a real loopback server: it learns, it stays in budget, it resumes."""

import asyncio
import json

import flagworld
import pytest
from servers import Fault

import experience_store
import tfgrpo
import tfgrpo.errors
from experience_store import Edit
from tfgrpo import Budget, alearn
from tfgrpo.errors import AuthError, InputError, TransportError
from tfgrpo.record import RunRecord


def options(server, tmp_path, **changes):
    fields = {
        "model": "openai/solver",  # a name without the server's port, so that every run draws the same seeds
        "store": str(tmp_path / "store"),
        "budget": Budget(calls=400),
        "runs": tmp_path / "runs",
        "concurrency": 16,
    }
    return {**fields, **changes}


@pytest.fixture
def server(chat_server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chat_server.answer = flagworld.answer
    experience_store.open(tmp_path / "store", embedder="hashing").close()
    return chat_server


def served(tmp_path, ref="head"):
    with experience_store.open(tmp_path / "store") as store:
        return store.render(ref)


async def test_it_learns_and_says_by_how_much(server, tmp_path):
    report = await alearn(flagworld.flag_task(), **options(server, tmp_path))
    assert report.accepted
    assert report.gain.low > 0
    assert report.after.mean > report.before.mean + 0.3
    assert report.gate["verdict"] == "helps"
    assert flagworld.expected_accuracy(served(tmp_path)) > 0.6
    assert report.mixed_share_before > 0.2
    assert report.total["solver_calls"] <= 400
    assert "gain" in str(report)


async def test_no_answer_of_a_test_problem_reaches_critic_or_store(server, tmp_path):
    task = flagworld.flag_task(learn=flagworld.problems(0, 10), test=flagworld.problems(10, 20), gate=())
    await alearn(task, **options(server, tmp_path, budget=Budget(calls=120)))
    for problem in task.test:
        land = problem.question.split()[-1].rstrip("?")
        assert land not in served(tmp_path)
        critic_calls = [r for r in server.requests if r.get("response_format")]
        assert critic_calls
        assert not any(land in flagworld.words_of(r) for r in critic_calls)


@pytest.mark.parametrize("calls", [40, 97, 400])
async def test_never_one_call_over_the_budget(server, tmp_path, calls):
    await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(calls=calls)))
    solver = [r for r in server.requests if not r.get("response_format")]
    assert len(solver) <= calls
    assert len(solver) >= 0.5 * calls


async def test_a_second_time_it_only_says_what_it_found(server, tmp_path):
    first = await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(calls=100)))
    asked = len(server.requests)
    again = await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(calls=100)))
    assert len(server.requests) == asked
    assert again.notices[-1] == "finished before; nothing was asked again"
    assert again.final == first.final
    fresh = await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(calls=100), new=True))
    assert len(server.requests) > asked
    assert fresh.folder.endswith("-2")


async def test_equal_seeds_give_equal_runs_whatever_the_speed(server, tmp_path):
    def run(name, **changes):
        store = experience_store.open(tmp_path / name / "store", embedder="hashing")
        return alearn(flagworld.flag_task(), **options(server, tmp_path, store=store, runs=tmp_path / name, **changes))

    one = await run("one")
    server.latency_s = 0.002
    two = await run("two")
    assert [row["text"] for row in one.learned] == [row["text"] for row in two.learned]
    assert one.curve == two.curve
    other = await run("three", seed=5)
    assert other.curve != one.curve


@pytest.mark.parametrize("after", [1, 150, 260])
async def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_end(server, tmp_path, after):
    async def whole(name):
        with experience_store.open(tmp_path / name, embedder="hashing") as store:
            return await alearn(
                flagworld.flag_task(), **options(server, tmp_path, store=store, runs=tmp_path / f"{name}-runs")
            )

    straight = await whole("straight")
    asked = server.counts.copy()
    server.counts.clear()
    server.fault_of = lambda body, number: Fault(401) if number > after else None
    with pytest.raises(AuthError):
        await whole("stopped")
    answered_before = server.replies
    server.fault_of = None
    resumed = await whole("stopped")
    assert [row["text"] for row in resumed.learned] == [row["text"] for row in straight.learned]
    assert resumed.curve == straight.curve
    assert resumed.gain == straight.gain
    assert server.replies - answered_before + after >= sum(asked.values())
    assert sum(server.counts.values()) <= sum(asked.values()) + 4 * 16  # 16 in flight; a loaded machine stops later


async def test_a_dead_server_stops_the_run_and_loses_nothing(server, tmp_path):
    server.fault_of = lambda body, number: Fault(500) if number > 80 else None
    model = tfgrpo.connect(f"{server.url}#solver", max_retries=0)
    with pytest.raises(TransportError, match="the same command goes on"):
        await alearn(flagworld.flag_task(), **options(server, tmp_path, model=model))
    await model.aclose()
    (folder,) = (tmp_path / "runs").iterdir()
    with RunRecord.open(folder, read_only=True) as record:
        assert len(list(record.calls())) == 80


async def test_a_failing_reward_costs_its_own_answer_only(server, tmp_path):
    @tfgrpo.reward
    def sometimes(problem, completion):
        if completion.text.endswith("brown."):
            raise KeyError("the user's bug")
        return problem.answer in completion.text

    report = await alearn(flagworld.flag_task(reward=sometimes), **options(server, tmp_path, budget=Budget(calls=100)))
    assert report.missing > 0
    with RunRecord.open(report.folder, read_only=True) as record:
        assert any("the user's bug" in e.data["error"] for e in record.events("reward_failed"))


async def test_malformed_critics_cost_their_own_group_only(server, tmp_path):
    def answer(body):
        if body.get("response_format") and flagworld.luck(json.dumps(body)) < 0.4:
            return "I would rather not."
        return flagworld.answer(body)

    server.answer = answer
    report = await alearn(flagworld.flag_task(), **options(server, tmp_path))
    assert report.accepted
    with RunRecord.open(report.folder, read_only=True) as record:
        assert list(record.events("critic_failed"))


async def test_a_harmful_critic_leaves_the_store_as_it_was(server, tmp_path):
    def answer(body):
        if body.get("response_format"):
            land = flagworld.re.search(r"flag of (\w+)\?", flagworld.words_of(body))[1]
            return json.dumps({"edits": [{"op": "add", "text": f"The flag of {land} is brown."}]})
        return flagworld.answer(body)

    server.answer = answer
    with experience_store.open(tmp_path / "store") as store:
        store.commit(
            [Edit(op="add", text=f"The flag of {land} is {flagworld.colour_of(land)}.") for land in flagworld.LANDS[:3]]
        )
    before = served(tmp_path)
    report = await alearn(flagworld.flag_task(), **options(server, tmp_path))
    assert flagworld.expected_accuracy(served(tmp_path)) >= flagworld.expected_accuracy(before)
    assert report.gain is None or not report.gain.high < 0


async def test_nothing_to_learn_is_said(server, tmp_path):
    server.answer = lambda body: '{"edits": []}' if body.get("response_format") else "It is brown."
    report = await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(calls=200)))
    assert not report.accepted
    assert "nothing was accepted" in str(report)
    assert report.start == report.final == 0


async def test_without_informative_groups_the_critic_is_never_asked(server, tmp_path):
    server.answer = lambda body: f"It is {' '.join(flagworld.COLOURS)}."
    report = await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(calls=600)))
    assert report.informative_share == 0
    assert "critic" not in report.spend
    assert report.stopped == "two epochs taught nothing new"


async def test_own_winning_answers_become_examples(server, tmp_path):
    def answer(body):
        messages = body["messages"]
        if len(messages) > 1:
            return (
                flagworld._solver({**body, "messages": messages[-1:]})
                if flagworld.luck(str(body)) < 0.3
                else (f"It is {flagworld.colour_of(messages[-1]['content'].split()[-1].rstrip('?'))}.")
            )
        return flagworld._solver(body)

    server.answer = answer
    report = await alearn(flagworld.flag_task(critic="examples"), **options(server, tmp_path, budget=Budget(calls=600)))
    assert report.accepted
    assert len(report.learned) == 1
    assert report.learned[0]["kind"] == "example"
    learned_from = {p.id for p in flagworld.flag_task().learn}
    assert report.learned[0]["source"]["problem"] in learned_from
    assert "critic" not in report.spend


async def test_the_paper_preset_runs_its_three_stages(server, tmp_path):
    def answer(body):
        text = flagworld.words_of(body)
        if text.startswith("Summarise one attempt"):
            return "1. It guessed."
        if body.get("response_format"):
            land = flagworld.re.search(r"flag of (\w+)", text)[1]
            op = {"operation": "add", "id": "", "content": f"The flag of {land} is {flagworld.colour_of(land)}."}
            return json.dumps({"operations": [op]})
        return flagworld._solver(body)

    server.answer = answer
    report = await alearn(
        flagworld.flag_task(), **options(server, tmp_path, critic="paper", gate="none", budget=Budget(calls=160))
    )
    starts = [flagworld.words_of(r).split(".")[0] for r in server.requests]
    summaries = sum(s.startswith("Summarise one attempt") for s in starts)
    assert summaries > 0
    assert sum(s.startswith("Several attempts") for s in starts) == summaries // 3
    assert report.gate_words == "off"
    assert report.learned


async def test_bad_arguments_are_refused_before_anything_is_asked(server, tmp_path):
    with pytest.raises(InputError, match="do not pay for one group"):
        await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(calls=2)))
    with pytest.raises(InputError, match="lessons"):
        await alearn(flagworld.flag_task(), **options(server, tmp_path, critic="lesson"))
    with pytest.raises(InputError, match="price"):
        await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=Budget(usd=1.0)))
    assert server.requests == []


async def test_the_sync_form_says_to_await_inside_a_loop(server, tmp_path):
    with pytest.raises(InputError, match=r"await tfgrpo\.alearn"):
        tfgrpo.learn(flagworld.flag_task(), **options(server, tmp_path))


async def test_an_interrupt_says_how_to_go_on(server, tmp_path):
    server.latency_s = 0.05
    task = asyncio.create_task(alearn(flagworld.flag_task(), **options(server, tmp_path)))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(tfgrpo.errors.Interrupted, match="the same command goes on"):
        await task


async def test_scores_outside_0_to_1_are_clipped_as_evidence_and_said(server, tmp_path):
    @tfgrpo.reward
    def plus_or_minus_ten(problem, completion):
        return 10.0 if problem.answer in completion.text else -10.0

    report = await alearn(
        flagworld.flag_task(reward=plus_or_minus_ten), **options(server, tmp_path, budget=Budget(calls=150))
    )
    with RunRecord.open(report.folder, read_only=True) as record:
        assert len(list(record.events("reward_clipped"))) == 1
    assert all(-1 <= row["effect"] <= 1 for row in report.learned)


@pytest.mark.parametrize("budget", [Budget(calls=0), Budget(tokens=0), Budget(seconds=0.0)], ids=str)
async def test_a_budget_of_nothing_asks_nothing_and_says_so(server, tmp_path, budget):
    if budget.seconds is None:
        with pytest.raises(InputError, match="do not pay for one group"):
            await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=budget))
        assert not (tmp_path / "runs").exists()
    else:
        report = await alearn(flagworld.flag_task(), **options(server, tmp_path, budget=budget))
        assert "stopped   the budget is used up" in str(report) and report.final == report.start
    assert not server.requests
