"""Rollouts through a server that is given the weights: what is sent, what comes back, what must never go unnoticed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file
from tinymodel import WORDS, save_tiny
from tinyvllm import TinyVLLM
from transformers import AutoConfig

from hybrid.answers import Batch
from hybrid.engines import Needed, open_rollouts
from hybrid.losses import resolve_loss
from hybrid.model import load_trainable
from hybrid.rollouts import LiveRollouts, Rollouts, Worker
from hybrid.settings import DriftError, RolloutError, Settings
from hybrid.trainer import Trainer
from hybrid.vllm_weights import Source
from hybrid.writing import Writer
from tfgrpo.advantage import Table, resolve_advantage
from tfgrpo.errors import InputError, RequestError, TransportError
from tfgrpo.policy.base import Sampling
from tfgrpo.types import Completion, Group, Problem, Rollout, Score

TOLD = {"segments": True, "tempered": True}
HOT = 0.7


@dataclasses.dataclass
class World:
    """A trainer, a server, and what connects them."""

    needed: Needed
    server: TinyVLLM
    stack: AsyncExitStack
    words: list[str]

    async def rollouts(self, **changes: Any) -> Rollouts:
        settings = dataclasses.replace(self.needed.settings, **changes)
        return await open_rollouts(self.stack, dataclasses.replace(self.needed, settings=settings))

    async def step(self, rollouts: Rollouts) -> dict[str, float]:
        """One update from twelve answers, the longer half of which is rewarded."""
        answers = await asyncio.gather(*(rollouts.complete(m, s) for m, s in requests(12)))
        batch = batch_of(answers)
        return await self.needed.worker(lambda: self.needed.trainer.update(batch, max_tokens=9))


Make = Callable[..., Any]


@pytest_asyncio.fixture
async def world_of(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def make(lr: float = 5e-3, served: dict[str, Any] | None = None, **options: Any) -> World:
            folder = save_tiny(tmp_path / "model", **options)
            server = await TinyVLLM(folder, **(served or {})).start()
            stack.push_async_callback(server.stop)
            settings = Settings(
                dtype="float32", device="cpu", threads=1, lr=lr, timeout_s=5.0, rollouts=f"{server.url}#tiny"
            )
            worker = Worker()
            stack.push_async_callback(worker.aclose)
            loaded = load_trainable(folder, settings)
            trainer = Trainer(loaded, resolve_loss("dapo"), settings, temperature=HOT)
            words: list[str] = []
            out = tmp_path / "out"
            out.mkdir()
            needed = Needed(
                loaded=loaded,
                trainer=trainer,
                writer=Writer(loaded, trainer.ranks, trainer.whole),
                worker=worker,
                settings=settings,
                out=out,
                tell=lambda *, words, said=words: said.append(words),
            )
            return World(needed, server, await stack.enter_async_context(AsyncExitStack()), words)

        yield make


def requests(count: int) -> list[tuple[list[dict[str, str]], Sampling]]:
    return [
        (
            [{"role": "user", "content": " ".join(WORDS[: 2 + n // 4])}],
            Sampling(seed=n, max_tokens=3 + n % 7, temperature=HOT, extra=TOLD),
        )
        for n in range(count)
    ]


def batch_of(answers: list[Completion]) -> Batch:
    scored = [Rollout(completion=a, score=Score(value=float(a.usage.completion_tokens > 5))) for a in answers]
    group = Group(problem=Problem(id="p", messages=({"role": "user", "content": "one"},)), rollouts=tuple(scored))
    return Batch.of([group], resolve_advantage("grpo").columns(Table.of([group])))


def folders_of(world: World) -> list[str]:
    """Where the server was told to find weights."""
    return [b["kwargs"]["weights_path"] for _, b in world.server.orders if b.get("method") == "reload_weights"]


def there(folders: list[str]) -> list[str]:
    return [folder for folder in folders if Path(folder).exists()]


def same_weights(world: World) -> bool:
    mine = world.needed.loaded.model.state_dict()
    return all(torch.equal(tensor, mine[name]) for name, tensor in world.server.state().items())


# -- what is sent and what comes back ---------------------------------------------------------------------------------


async def test_the_same_answers_as_the_decoder_in_this_process(world_of: Make) -> None:
    """At temperature 0 there is one answer: tokens, log-probs, text, ends and counts must be those of the decoder."""
    world = await world_of()
    far = await world.rollouts()
    near = LiveRollouts(world.needed.writer, world.needed.worker)
    stops = [(), (WORDS[3],), ("no such word",), tuple(WORDS[10:13])]
    reasons = set()
    for n in range(24):
        messages = [{"role": "user", "content": " ".join(WORDS[n % 5 : n % 5 + 3])}]
        sampling = Sampling(temperature=0.0, max_tokens=1 + n % 12, stop=stops[n % 4], extra=TOLD)
        one, other = await far.complete(messages, sampling), await near.complete(messages, sampling)
        assert one.segments[0] == other.segments[0]
        assert one.segments[1].token_ids == other.segments[1].token_ids
        assert one.segments[1].logps == pytest.approx(other.segments[1].logps, abs=1e-4)
        for name in ("prompt", "messages", "text", "usage", "finish_reason", "cost_usd"):
            assert getattr(one, name) == getattr(other, name)
        reasons.add(one.finish_reason)
    assert reasons == {"stop", "length"}
    assert one.policy == "vllm/model@step-0"


async def test_tokens_go_and_nothing_else_decides(world_of: Make) -> None:
    world = await world_of()
    rollouts = await world.rollouts()
    messages = [{"role": "user", "content": "which number"}]
    answer = await rollouts.complete(messages, Sampling(seed=7, max_tokens=500, temperature=HOT, extra=TOLD))
    sent = world.server.requests[-1]
    prompt = list(world.needed.loaded.prompt_ids(messages))
    assert sent["prompt"] == prompt and sent["max_tokens"] == 96 - len(prompt)  # the context of the server
    assert (sent["seed"], sent["temperature"], sent["top_p"], sent["logprobs"]) == (7, HOT, 1.0, 0)
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"], sent["stop_token_ids"]) == (0, 0.0, 1.0, [2])
    assert list(answer.segments[0].token_ids) == prompt


async def test_context_and_options_that_cannot_be(world_of: Make) -> None:
    world = await world_of(served={"context": 20})
    rollouts = await world.rollouts()
    with pytest.raises(RequestError, match="reads 1 to 19"):
        await rollouts.complete([{"role": "user", "content": "one " * 30}], Sampling())
    for sampling in (
        Sampling(temperature=0.5, extra={"segments": True}),
        Sampling(top_p=0.9, extra=TOLD),
        Sampling(extra={"grammar": "x"}),
    ):
        with pytest.raises(RequestError, match=r"tempered|option"):
            await rollouts.complete([{"role": "user", "content": "one"}], sampling)


async def test_no_more_requests_than_the_server_has_rows_for(world_of: Make) -> None:
    world = await world_of(served={"rows": 3})
    for changes, most in (({}, 6), ({"max_rows": 2}, 2)):
        rollouts = await world.rollouts(**changes)
        world.server.peak_in_flight, world.server.latency_s = 0, 0.2
        await asyncio.gather(*(rollouts.complete(m, s) for m, s in requests(8)))
        world.server.latency_s = 0.0
        assert world.server.peak_in_flight == most


async def test_one_look_at_the_mark_serves_all_answers_before_it(world_of: Make) -> None:
    world = await world_of(served={"rows": 50})
    rollouts = await world.rollouts()
    world.server.looks, world.server.latency_s = 0, 0.2
    await asyncio.gather(*(rollouts.complete(m, s) for m, s in requests(12)))
    assert 1 <= world.server.looks < 6


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
async def test_weights_follow_every_update(world_of: Make, tied: bool) -> None:
    world = await world_of(tie_word_embeddings=tied)
    before = {name: tensor.clone() for name, tensor in world.needed.loaded.model.state_dict().items()}
    rollouts = await world.rollouts()
    assert same_weights(world)  # and the trial with other weights has left no trace in the trainer
    assert all(torch.equal(before[name], tensor) for name, tensor in world.needed.loaded.model.state_dict().items())
    for step in (1, 2):
        metrics = await world.step(rollouts)
        assert metrics["parity_mean"] < 1e-3 and not same_weights(world)
        await rollouts.renew(step)
        assert same_weights(world)
        answer = await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=2))
        assert answer.policy.endswith(f"@step-{step}")
    marks = [body["new_version"] for path, body in world.server.orders if path == "/update_weight_version"]
    assert [mark.rpartition("tfgrpo-")[2].partition("-")[2] for mark in marks] == [
        "trial, on its way", "trial", "step-0, on its way", "step-0",
        "step-1, on its way", "step-1", "step-2, on its way", "step-2",
    ]  # fmt: skip
    paths = [path for path, _ in world.server.orders]
    assert paths[:7] == [
        "/pause", "/update_weight_version", "/collective_rpc", "/collective_rpc", "/reset_prefix_cache",
        "/update_weight_version", "/resume",
    ]  # fmt: skip
    folders = folders_of(world)
    assert len(set(folders)) == 4 and not there(folders)
    await world.stack.aclose()
    assert not there([str(Path(folders[0]).parent)])


async def test_a_folder_of_weights_has_the_head_of_a_shared_embedding_and_can_be_read(
    world_of: Make, tmp_path: Path
) -> None:
    needed = (await world_of(tie_word_embeddings=True)).needed
    source = Source(needed.loaded, needed.trainer, needed.worker)
    await source.save(tmp_path / "weights")
    await source.save_shape(tmp_path / "shape")
    files = list((tmp_path / "weights").glob("*.safetensors"))
    found = {name: tensor for path in files for name, tensor in load_file(path).items()}
    state = needed.loaded.model.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in files)
    assert source.size == sum(tensor.nbytes for tensor in found.values())
    config = AutoConfig.from_pretrained(tmp_path / "shape")
    assert config.tie_word_embeddings is False and config.architectures == ["LlamaForCausalLM"]
    assert needed.loaded.model.config.tie_word_embeddings is True
    with pytest.raises(RolloutError, match=r"could not be written to .*\.json"):
        await source.save(tmp_path / "shape" / "config.json" / "weights")


async def test_weights_that_were_not_renewed_are_stopped_by_the_parity_gate(world_of: Make) -> None:
    world = await world_of()
    rollouts = await world.rollouts()
    await world.step(rollouts)
    kept = {name: tensor.clone() for name, tensor in world.needed.loaded.model.state_dict().items()}
    with pytest.raises(DriftError, match="other weights than those that are trained"):
        await world.step(rollouts)
    assert all(torch.equal(kept[name], tensor) for name, tensor in world.needed.loaded.model.state_dict().items())
    await rollouts.renew(1)
    assert (await world.step(rollouts))["parity_mean"] < 1e-3


@pytest.mark.parametrize("part", ["lm_head", "model.embed_tokens", "model.layers.1.", "model.norm", "model"])
async def test_a_server_that_keeps_a_part_of_its_weights_is_found_before_the_first_answer(
    world_of: Make, part: str
) -> None:
    world = await world_of()
    world.server.model.load_state_dict(world.needed.loaded.model.state_dict())  # it starts with the right ones
    world.server.keeps = part
    with pytest.raises(RolloutError, match=r"\(trial\) and answers with others"):
        await world.rollouts()


async def test_a_packed_head_of_a_shared_embedding_is_found(world_of: Make) -> None:
    """What vLLM 0.32 does on a CPU."""
    world = await world_of(tie_word_embeddings=True)
    world.server.keeps = "lm_head"
    with pytest.raises(RolloutError, match="shares its output head"):
        await world.rollouts()


async def test_a_server_that_lost_the_weights_is_noticed_by_the_next_answer(world_of: Make) -> None:
    world = await world_of(lr=1e-9)  # far too little for any comparison of log-probs
    rollouts = await world.rollouts()
    world.server.mark = "default"
    with pytest.raises(RolloutError, match=r"'default' instead of 'tfgrpo-.*-step-0'.*same command"):
        await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=2))
    await rollouts.renew(1)
    assert await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=2))


@pytest.mark.parametrize(
    ("path", "fault", "words"),
    [
        ("/collective_rpc", 500, "did not obey /collective_rpc: planned fault"),
        ("/pause", 404, "did not obey /pause"),
        ("/update_weight_version", 400, "did not obey /update_weight_version"),
        ("/resume", 500, "did not obey /resume"),
        ("cache", 1, "keeps states of prompts"),
        ("/collective_rpc", "hang", "no complete reply within"),
    ],
)
async def test_a_handover_that_fails_says_what_to_do(world_of: Make, path: str, fault: Any, words: str) -> None:
    world = await world_of()
    rollouts = await world.rollouts(timeout_s=1.0)
    world.server.faults[path] = fault
    with pytest.raises(RolloutError, match=words) as caught:
        await rollouts.renew(1)
    assert "Start that server again" in str(caught.value) and "the same command goes on" in str(caught.value)
    if path == "/collective_rpc":
        assert world.server.paused and world.server.mark.endswith("on its way")
    assert not there(folders_of(world))


# -- replies that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token_ids": None}, "0 token ids"),
        ({"token_ids": [5]}, "1 token ids and [23] log-probs"),
        ({"logprobs": None}, "and 0 log-probs"),
        ({"logprobs": {"token_logprobs": [None, None, None]}}, "log-probs"),
        ({"prompt_token_ids": [1, 2, 3]}, "answered one of 3"),
        ({"token_ids": [4] * 9, "logprobs": {"token_logprobs": [-1.0] * 9}}, "with 9: it must take"),
    ],
)
async def test_an_answer_that_says_too_little_ends_the_run(world_of: Make, change: dict[str, Any], words: str) -> None:
    world = await world_of()
    rollouts = await world.rollouts()
    world.server.bend = lambda choice: {**choice, **change}
    with pytest.raises(RolloutError, match=words):
        await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=3, seed=1, extra=TOLD))


async def test_an_answer_that_was_broken_off_is_asked_for_again(world_of: Make) -> None:
    world = await world_of()
    rollouts = await world.rollouts()
    ends = ["abort", None]
    world.server.bend = lambda choice: {**choice, "finish_reason": ends.pop(0)} if ends else choice
    answer = await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=3, seed=1))
    assert answer.usage.completion_tokens <= 3 and not ends
    ends += ["abort"] * 3
    with pytest.raises(TransportError, match=r"after 3 tries.*broke the answer off"):
        await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=3, seed=1))


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (500, TransportError, "after 3 tries: planned fault"),
        (400, RequestError, "planned fault"),
        ("hang", TransportError, "raise timeout_s"),
    ],
)
async def test_no_reply_is_missing_data(world_of: Make, fault: Any, error: type[Exception], words: str) -> None:
    world = await world_of()
    rollouts = await world.rollouts(timeout_s=0.5)
    world.server.faults["/v1/completions"] = fault
    with pytest.raises(error, match=words):
        await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=3))
    world.server.faults.clear()
    assert await rollouts.complete([{"role": "user", "content": "one"}], Sampling(max_tokens=3))


# -- servers that cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "changes", "words"),
    [
        ({"name": "another"}, {}, r"serves no model 'tiny'; it serves: another"),
        ({"logprobs_mode": "raw_logprobs"}, {}, "VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode"),
        ({}, {"share": "/nowhere"}, "no such room in /nowhere"),
        ({}, {"rollouts": "http://127.0.0.1:9/v1#tiny"}, "does not answer /v1/models"),
        ({}, {"rollouts": "http://127.0.0.1:9/v1"}, "HOST:PORT/v1#NAME"),
        ({}, {"rollouts": "vlm"}, "did you mean 'vllm'"),
    ],
)
async def test_what_cannot_be_used_is_refused_at_once(
    world_of: Make, served: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    world = await world_of(served=served)
    with pytest.raises(InputError, match=words):
        await world.rollouts(**changes)
    assert not world.server.orders


async def test_a_server_without_development_endpoints_is_refused(world_of: Make) -> None:
    world = await world_of()
    world.server.faults["/server_info"] = 404
    with pytest.raises(InputError, match="does not answer /server_info"):
        await world.rollouts()


async def test_weights_go_through_the_folder_that_is_shared(world_of: Make, tmp_path: Path) -> None:
    world = await world_of()
    shared = tmp_path / "shared"
    shared.mkdir()
    await world.rollouts(share=str(shared))
    found = [
        body["kwargs"]["weights_path"] for _, body in world.server.orders if body.get("method") == "reload_weights"
    ]
    assert all(Path(folder).parent.parent == shared for folder in found)
    await world.stack.aclose()
    assert not list(shared.iterdir())
