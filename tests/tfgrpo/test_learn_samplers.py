"""A run whose next problem depends on what came back: never over its budget, and the same after a stop."""

import itertools

import flagworld
import pytest
from servers import Fault

import experience_store
from tfgrpo import Budget, alearn
from tfgrpo.errors import AuthError, InputError
from tfgrpo.record import RunRecord
from tfgrpo.samplers import SAMPLERS

CALLS = 150


@pytest.fixture
def server(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    chat_server.answer = flagworld.answer
    return chat_server


async def learned(folder, name, sampler, **changes):
    task = flagworld.flag_task(learn=flagworld.problems(0, 12), test=(), gate=(), sampler=sampler)
    with experience_store.open(folder / name, embedder="hashing") as store:
        return await alearn(
            task, model="openai/solver", store=store, runs=folder / f"{name}-runs", concurrency=16,
            budget=Budget(calls=CALLS), **changes,
        )  # fmt: skip


def asked(report):
    """Problem and number of answers of every group, in order."""
    with RunRecord.open(report.folder, read_only=True) as record:
        keys = sorted((c.key.epoch, c.key.problem) for c in record.calls("solve"))
    return [(problem, len(list(calls))) for (_, problem), calls in itertools.groupby(keys)]


@pytest.mark.parametrize("sampler", [n for n in SAMPLERS if n not in ("least_covered", "uniform")])
async def test_a_run_that_is_stopped_asks_the_same_problems_as_often(server, tmp_path, sampler):
    straight = await learned(tmp_path, "straight", sampler)
    server.fault_of = lambda body, number: Fault(401) if number > 90 else None
    server.counts.clear()
    with pytest.raises(AuthError):
        await learned(tmp_path, "stopped", sampler)
    server.fault_of = None
    resumed = await learned(tmp_path, "stopped", sampler)
    assert asked(resumed) == asked(straight)
    assert resumed.curve == straight.curve
    assert [row["text"] for row in resumed.learned] == [row["text"] for row in straight.learned]
    assert straight.total["solver_calls"] <= CALLS


async def test_ragged_groups_keep_the_mean(server, tmp_path):
    sizes = [n for _, n in asked(await learned(tmp_path, "ragged", "rollout_gdro", group=4))]
    assert len(set(sizes)) > 1 and min(sizes) >= 2
    assert all(total <= 4 * (n + 1) for n, total in enumerate(itertools.accumulate(sizes)))


async def test_samplers_of_different_names_are_different_runs(server, tmp_path):
    first, second = await learned(tmp_path, "one", "uniform"), await learned(tmp_path, "two", "vas")
    assert asked(first) != asked(second)
    assert first.run != second.run


async def test_an_unknown_sampler_costs_nothing(server, tmp_path):
    with pytest.raises(InputError, match="did you mean 'vas'"):
        await learned(tmp_path, "none", "vsa")
    assert not server.requests
