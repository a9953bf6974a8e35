"""Learning from agents end to end, against a real loopback server; agents written for the openai package, unchanged."""

import flagworld
import pytest

import experience_store
import tfgrpo
from tfgrpo import Budget, alearn
from tfgrpo.agents import Agent
from tfgrpo.record import RunRecord


async def flag_agent(problem, client):
    """As one would write it with `AsyncOpenAI`: it names its own model and builds its own messages."""
    messages = [{"role": "system", "content": "You know flags."}, *problem.messages]
    draft = await client.chat.completions.create(model="gpt-4o-mini", messages=messages, temperature=0.7)
    messages.append(draft.choices[0].message)
    messages.append({"role": "user", "content": f"Please check. {problem.messages[-1]['content']}"})
    final = await client.chat.completions.create(model="gpt-4o-mini", messages=messages, temperature=0.0)
    return final.choices[0].message.content.strip()


AGENT = Agent(run=flag_agent, max_calls=2)


@pytest.fixture
def server(chat_server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chat_server.answer = flagworld.answer
    experience_store.open(tmp_path / "store", embedder="hashing").close()
    return chat_server


def options(tmp_path, **changes):
    return {
        "model": "openai/solver", "store": str(tmp_path / "store"), "budget": Budget(calls=600),
        "runs": tmp_path / "runs", "concurrency": 16, **changes,
    }  # fmt: skip


def solver_calls(server):
    return [body for body in server.requests if not body.get("response_format")]


async def test_unchanged_agent_code_is_learnt_from(server, tmp_path):
    report = await alearn(flagworld.flag_task(agent=AGENT), **options(tmp_path))
    assert report.accepted and report.gain.low > 0
    calls = solver_calls(server)
    assert len(calls) <= 600 and report.total["solver_calls"] == len(calls)
    learned = [body for body in calls if "Notes from earlier problems" in str(body["messages"])]
    assert learned and all(body["messages"][0]["content"].startswith("You know flags.") for body in learned)
    assert all(body["model"] == "solver" for body in calls)
    critic = [body for body in server.requests if body.get("response_format")]
    assert any("[user] Please check." in flagworld.words_of(body) for body in critic)
    folder = report.folder
    with RunRecord.open(folder, read_only=True) as record:
        shown = [r["experiences"] for e in record.events("group_done") for r in e.data["rollouts"]]
    assert any(shown) and not all(shown)


@pytest.mark.parametrize("calls", [60, 131])
async def test_never_one_call_over_and_most_of_the_budget_is_used(server, tmp_path, calls):
    await alearn(flagworld.flag_task(agent=AGENT), **options(tmp_path, budget=Budget(calls=calls)))
    assert 0.5 * calls <= len(solver_calls(server)) <= calls


async def test_the_plan_divides_by_the_calls_of_an_answer(server, tmp_path):
    events = []
    task = flagworld.flag_task(agent=AGENT)
    await alearn(task, **options(tmp_path, budget=Budget(calls=60), on_event=events.append))
    started = next(e for e in events if e.name == "started")
    assert task.calls_per_answer == 2 and started.data["groups"] <= 10
    with pytest.raises(tfgrpo.errors.InputError, match="answers of up to 2 calls"):
        await alearn(task, **options(tmp_path, budget=Budget(calls=5)))


async def test_an_agent_that_breaks_now_and_then_costs_only_its_own_rollouts(server, tmp_path):
    async def fragile(problem, client):
        text = await client.complete(problem.messages)
        return text if "red" not in text else text[10**6]

    events = []
    task = flagworld.flag_task(agent=fragile)
    report = await alearn(task, **options(tmp_path, on_event=events.append))
    failed = [e for e in events if e.name == "agent_failed"]
    assert failed and __file__ in failed[0].data["line"] and "IndexError" in failed[0].data["error"]
    assert report.missing > 0 and report.rollouts > report.missing


async def test_evaluation_and_reuse(server, tmp_path):
    task = flagworld.flag_task(agent=AGENT)
    first = await tfgrpo.aevaluate(task, model="openai/solver", runs=tmp_path)
    asked = len(server.requests)
    again = await tfgrpo.aevaluate(task, model="openai/solver", runs=tmp_path, reuse=True)
    other = await tfgrpo.aevaluate(flagworld.flag_task(), model="openai/solver", runs=tmp_path)
    assert (again.after, asked) == (first.after, 80) and other.folder != first.folder
