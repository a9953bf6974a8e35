"""Rollouts on the live weights: the same answers for the same requests, log-probs of the weights as they are now."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from tinymodel import WORDS, save_tiny

from hybrid.model import load_trainable
from hybrid.parallel import Ranks
from hybrid.rollouts import LiveRollouts, Worker, training_sampling
from hybrid.settings import Settings
from hybrid.writing import Writer, check_decoder, shares
from tfgrpo.errors import InputError, RequestError, TransportError
from tfgrpo.policy.base import Sampling
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.types import Completion

EXACT = Settings(dtype="float32", device="cpu", threads=1)
TOLD = {"segments": True, "tempered": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker()
    yield made
    await made.aclose()


def writer_of(loaded: LoadedModel, **options: Any) -> Writer:
    return Writer(loaded, Ranks(), nullcontext, **options)


def live(loaded: LoadedModel, worker: Worker, **options: Any) -> LiveRollouts:
    return LiveRollouts(writer_of(loaded, **options), worker)


def ask(words: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": " ".join(WORDS[:words])}]


def requests(count: int) -> list[tuple[list[dict[str, str]], Sampling]]:
    return [
        (ask(17 + n // 4), Sampling(seed=n, max_tokens=3 + n % 7, temperature=0.7, extra=TOLD)) for n in range(count)
    ]


async def answers(rollouts: LiveRollouts, asked: list[tuple[list[dict[str, str]], Sampling]]) -> list[Completion]:
    return await asyncio.gather(*(rollouts.complete(m, s) for m, s in asked))


def true_logps(loaded: LoadedModel, completion: Completion) -> list[float]:
    prompt, written = (s.token_ids for s in completion.segments)
    mask = torch.ones(len(prompt) + len(written), len(prompt) + len(written), dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[*prompt, *written]]), attention_mask=mask).logits[0]
    logps = torch.log_softmax(logits[len(prompt) - 1 : -1] / 0.7, -1)
    return logps.gather(-1, torch.tensor(written)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("decoder", ["slots", "static"])
async def test_equal_requests_make_equal_waves(folder: Path, worker: Worker, decoder: str) -> None:
    loaded = load_trainable(folder, EXACT)
    first = await answers(live(loaded, worker, max_rows=6, decoder=decoder), requests(20))
    again = live(loaded, worker, max_rows=6, decoder=decoder)
    second = [(await answers(again, requests(20)))[n] for n in range(20)]
    assert [c.segments for c in first] == [c.segments for c in second]  # log-probs to the last bit
    assert len({c.segments[1].token_ids for c in first}) > 10
    for one in first:
        assert list(one.segments[1].logps) == pytest.approx(true_logps(loaded, one), abs=1e-4)
        assert one.policy.endswith("@step-0") and one.cost_usd == 0.0


async def test_late_requests_form_a_wave_of_their_own(folder: Path, worker: Worker) -> None:
    rollouts = live(load_trainable(folder, EXACT), worker)

    async def twice(n: int) -> tuple[Completion, Completion]:
        one = await rollouts.complete(ask(3), Sampling(seed=n, max_tokens=4))
        return one, await rollouts.complete(ask(4), Sampling(seed=n, max_tokens=4))

    done = await asyncio.gather(*(twice(n) for n in range(5)))
    assert len({one.latency_s for one, _ in done}) == len({two.latency_s for _, two in done}) == 1
    await rollouts.aclose()


async def test_decoders_write_the_same(folder: Path, worker: Worker) -> None:
    """Greedy, with a nucleus and with stop strings too, in more waves than one."""
    loaded = load_trainable(folder, EXACT)
    asked = [
        *requests(20),
        *((ask(9), Sampling(seed=n, max_tokens=9, temperature=0, extra={"segments": True})) for n in range(2)),
        *((ask(9), Sampling(seed=n, max_tokens=9, top_p=0.6)) for n in range(5)),
        *((ask(9), Sampling(seed=n, max_tokens=30, temperature=3, stop=("two", "is a"))) for n in range(9)),
    ]
    slots = live(loaded, worker, max_rows=7, decoder="slots")
    static = live(loaded, worker, max_rows=7, decoder="static")
    for one, other in zip(await answers(static, asked), await answers(slots, asked), strict=True):
        assert (one.text, one.finish_reason, one.usage) == (other.text, other.finish_reason, other.usage)
        for mine, theirs in zip(one.segments, other.segments, strict=True):
            assert mine.token_ids == theirs.token_ids
            assert list(mine.logps) == pytest.approx(list(theirs.logps), abs=1e-4)


def test_the_decoder_is_chosen_by_the_device(folder: Path, tmp_path: Path) -> None:
    loaded = load_trainable(folder, EXACT)
    assert writer_of(loaded).decoder == "slots"
    assert writer_of(dataclasses.replace(loaded, device="cuda")).decoder == "static"
    moving = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    other = load_trainable(save_tiny(tmp_path, rope_parameters=moving), EXACT)
    assert writer_of(dataclasses.replace(other, device="cuda")).decoder == "slots"
    with pytest.raises(InputError, match="'slots'"):
        writer_of(other, decoder="static")
    with pytest.raises(InputError, match="did you mean 'static'"):
        check_decoder("statick")


@pytest.mark.parametrize("decoder", ["slots", "static"])
async def test_changed_weights_need_a_renewal(folder: Path, worker: Worker, decoder: str) -> None:
    """The decoder keeps states of prompts: without `renew` it would go on from prompts that old weights have read."""
    loaded = load_trainable(folder, EXACT)
    rollouts = live(loaded, worker, decoder=decoder)
    before = await answers(rollouts, requests(8))
    with torch.no_grad():
        for p in loaded.model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))

    def gap(done: list[Completion]) -> float:
        pairs = [(c.segments[1].logps, true_logps(loaded, c)) for c in done]
        return max(abs(a - b) for told, true in pairs for a, b in zip(told, true, strict=True))

    assert gap(await answers(rollouts, requests(8))) > 0.05
    await rollouts.renew(3)
    renewed = await answers(rollouts, requests(8))
    assert gap(renewed) < 1e-4
    assert renewed[0].policy.endswith("@step-3")
    assert [c.segments for c in renewed] != [c.segments for c in before]


async def test_what_cannot_be_asked_is_refused(folder: Path, worker: Worker) -> None:
    rollouts = live(load_trainable(folder, EXACT), worker)
    with pytest.raises(RequestError, match="has 1"):
        await rollouts.complete([{"role": "user", "content": "one " * 100}], Sampling())
    with pytest.raises(RequestError, match="option"):
        await rollouts.complete(ask(1), Sampling(extra={"grammar": "x"}))


@pytest.mark.parametrize("decoder", ["slots", "static"])
async def test_a_failing_model_loses_its_wave_and_no_more(folder: Path, worker: Worker, decoder: str) -> None:
    loaded = load_trainable(folder, EXACT)
    rollouts = live(loaded, worker, decoder=decoder)
    broken = loaded.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    lost = await asyncio.gather(*(rollouts.complete(m, s) for m, s in requests(3)), return_exceptions=True)
    assert all(isinstance(e, TransportError) and "out of memory" in str(e) for e in lost)
    broken.remove()
    assert len(await answers(rollouts, requests(3))) == 3


@pytest.mark.parametrize("decoder", ["slots", "static"])
async def test_somebody_who_leaves_costs_nothing(folder: Path, worker: Worker, decoder: str) -> None:
    rollouts = live(load_trainable(folder, EXACT), worker, decoder=decoder)
    gone = asyncio.create_task(rollouts.complete(ask(2), Sampling(max_tokens=60, temperature=3)))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await rollouts.complete(ask(2), Sampling(max_tokens=3))).usage.completion_tokens <= 3


def test_training_needs_the_whole_distribution() -> None:
    assert training_sampling(Sampling(temperature=0.6)).extra == TOLD
    for sampling in (Sampling(temperature=0), Sampling(top_p=0.9)):
        with pytest.raises(InputError, match="whole distribution"):
            training_sampling(sampling)


def test_groups_stay_together_on_one_process() -> None:
    prompts = [(1,)] * 5 + [(2,)] * 3 + [(3,)] * 2
    assert shares(prompts, 2) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert shares(prompts[:5], 2) == [[0, 1, 2, 3, 4], []]
