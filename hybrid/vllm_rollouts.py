"""Rollouts by a vLLM server: prompts go there as tokens, tokens come back with their log-probs, weights follow updates.

Both sides speak tokens, so that what is trained on is what was written: the prompt is what the trainer's tokenizer
makes of the messages, and the answer's text is what it makes of the tokens that came back.

How far it repeats itself: vLLM draws every answer by its own seed, but which requests share a batch, and which
beginnings are cached, depends on the moment they arrive, and batches round differently. Asked again on a CPU, 32 of 32
answers came back to the last bit, 40 of 40 with the same tokens where some had to queue, and 31 of 32 where the first
round found an empty cache. So a run that is started again goes on from the same weights, data and seeds, to answers
like those of an uninterrupted run and not surely the same; `live` promises the same to the last bit.

In-process vLLM that shares a GPU with the trainer (sleep mode) is not covered, and nothing here has run on a GPU yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from hybrid.settings import RolloutError
from hybrid.vllm_server import Facts, Server
from hybrid.vllm_weights import Source, hand_over
from tfgrpo.errors import RequestError
from tfgrpo.policy.base import Price, Sampling
from tfgrpo.policy.local import check_sampling, completion_of, row_of, with_schema
from tfgrpo.policy.prices import FREE
from tfgrpo.policy.retry import Retries
from tfgrpo.policy.wire import Failure, Outcome, error_of
from tfgrpo.types import Completion, Message

if TYPE_CHECKING:
    from hybrid.engines import Needed
    from tfgrpo.policy.local_engine import Row

Start: TypeAlias = Callable[[AsyncExitStack, "Needed", Source], Awaitable[Server]]
"""Starts or finds a server; the stack closes what it needs."""
MAX_RETRIES = 2
BACKOFF_S = 0.5
QUEUED = 2  # requests at the server for each answer that it writes: the next one is there when a row is free
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What a server might otherwise take from the model's folder, and log-probs would not be the model's any more."""
PROBE = ({"role": "user", "content": "Name some numbers and some words."},)
PROBE_TOKENS = 16
SLACK = 2.0  # times `drift`, for the mean over the few tokens of a probe
ENDS = frozenset({"stop", "length"})


class VLLMRollouts:
    """`Rollouts` of a vLLM server.

    Example:
        >>> async with AsyncExitStack() as stack:                                              # doctest: +SKIP
        ...     rollouts = await VLLMRollouts.opened(stack, needed, own_server)
        ...     answer = await rollouts.complete(messages, Sampling(extra={"segments": True}))
        ...     await rollouts.renew(1)
    """

    def __init__(self, source: Source, server: Server, facts: Facts, *, at_once: int | None = None) -> None:
        loaded = source.loaded
        self._source, self._server = source, server
        self._loaded = replace(loaded, context=min(loaded.context, facts.context))
        self._name = f"vllm/{loaded.name}"
        self._slots = asyncio.Semaphore(at_once or QUEUED * facts.rows)
        self._retries = Retries(max_retries=MAX_RETRIES, backoff_s=BACKOFF_S)
        self._run = uuid4().hex[:8]
        self._mark, self._step = "", 0
        self._looking = asyncio.Lock()
        self._arrived = self._seen = 0

    @staticmethod
    async def opened(stack: AsyncExitStack, needed: Needed, start: Start) -> VLLMRollouts:
        """Rollouts of a server that was shown to take weights, and has those of the trainer; the stack closes it.

        Raises:
            InputError: the server cannot be started, reached or used.
            RolloutError: it does not take the weights.
        """
        begun = time.monotonic()
        source = Source(needed.loaded, needed.trainer, needed.worker)
        needed.tell(words=f"getting a vLLM server ready ({needed.settings.rollouts}); a new one takes a minute or two")
        server = await start(stack, needed, source)
        rollouts = VLLMRollouts(source, server, await server.facts(), at_once=needed.settings.max_rows)
        async with source.other_weights():
            await rollouts._renewed("trial")
        await rollouts.renew(0)
        needed.tell(words=f"answers by {rollouts.name} at {server.where}, ready in {time.monotonic() - begun:.0f} s")
        return rollouts

    @property
    def name(self) -> str:
        return self._name

    @property
    def price(self) -> Price:
        return FREE

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """One answer, with tokens and log-probs where `Sampling.extra` asks for "segments".

        Raises:
            RequestError: the prompt is longer than the model's context, or an option is not known here.
            TransportError: no reply after all retries.
            RolloutError: the server has lost the weights, or says less than training needs: its answers are worthless.
        """
        check_sampling(self.name, sampling)
        _check_logprobs(self.name, sampling)
        asked = with_schema(messages, sampling)
        row = row_of(self._loaded, self._loaded.prompt_ids(asked), sampling)
        body = self._body(row, sampling)
        async with self._slots:
            begun = time.perf_counter()
            reply = await self._reply(body)
            took = time.perf_counter() - begun
        ended = self._fill(row, reply)
        done = completion_of(self._loaded, row, asked, sampling)
        reason = "stop" if ended == "stop" else done.finish_reason  # it sees strings in text that it decodes bit by bit
        return replace(done, policy=f"{self.name}@step-{self._step}", finish_reason=reason, latency_s=took)

    async def renew(self, step: int) -> None:
        """Gives the server the weights as they are now, and has it show that it took them.

        Raises:
            RolloutError: it did not; says why, and what to do.
        """
        await self._renewed(f"step-{step}")
        self._step = step

    async def aclose(self) -> None:
        """Nothing: what was opened belongs to the stack of `opened`."""

    # -- weights ------------------------------------------------------------------------------------------------------

    async def _renewed(self, which: str) -> None:
        mark = f"tfgrpo-{self._run}-{which}"
        await hand_over(self._server, self._source, mark)
        self._mark = mark
        trainer = self._source.trainer
        sampling = Sampling(
            temperature=trainer.scores.temperature,
            max_tokens=PROBE_TOKENS,
            seed=0,
            extra={"segments": True, "tempered": True},
        )
        row = row_of(self._loaded, self._loaded.prompt_ids(PROBE), sampling)
        reply = await self._reply({**self._body(row, sampling), "ignore_eos": True, "stop_token_ids": []})
        self._fill(row, reply)
        gap = await self._source.gap(completion_of(self._loaded, row, PROBE, sampling))
        allowed = SLACK * trainer.drift
        if not gap <= allowed:
            raise RolloutError(
                f"{self._server.where} was given new weights ({which}) and answers with others: the log-probs of "
                f"{len(row.tokens)} tokens are {gap:.3g} nats from the trainer's on average, allowed are {allowed:g}. "
                f"A server that keeps a part of its weights cannot be used. Of a model that shares its output head "
                f"with the input embedding, serve a copy with a head of its own, or let training start the server "
                f"(rollouts=vllm), which does that. If only its arithmetic is coarser, raise the setting drift"
            )

    async def _look(self) -> Failure | None:
        """After an answer has arrived: it came from the weights that were handed over. One look serves all before it.

        Raises:
            RolloutError: the mark is another one.
        """
        self._arrived += 1
        ticket = self._arrived
        async with self._looking:
            if self._seen >= ticket:
                return None
            newest = self._arrived
            found = await self._server.mark()
            if isinstance(found, Failure):
                return found
            if found != self._mark:
                raise RolloutError(
                    f"{self._server.where} has other weights than those of step {self._step}: their mark is {found!r} "
                    f"instead of {self._mark!r}, so the server was started again or somebody else gave it weights. Its "
                    f"answers since then were not used; the same command hands the weights over and goes on"
                )
            self._seen = newest
            return None

    # -- one answer ---------------------------------------------------------------------------------------------------

    def _body(self, row: Row, sampling: Sampling) -> dict[str, Any]:
        return {
            **NEUTRAL,
            "model": self._server.model,
            "prompt": list(row.prompt),
            "max_tokens": row.max_tokens,
            "temperature": row.temperature,
            "top_p": row.top_p,
            "stop": list(sampling.stop),
            "stop_token_ids": sorted(self._loaded.stop_ids),
            "logprobs": 0,
            "return_token_ids": True,
            **({} if sampling.seed is None else {"seed": sampling.seed}),
        }

    async def _reply(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The reply's only choice, from the weights that were handed over last."""
        outcome, tries = await self._retries.run(partial(self._send, body))
        if isinstance(outcome, Failure):
            raise error_of(outcome, self._server.model, self._server.where, tries)
        return outcome

    async def _send(self, body: Mapping[str, Any]) -> Outcome:
        outcome = await self._server.wire.call("/completions", self._server.timeout_s, body=body)
        if not isinstance(outcome, Failure):
            outcome = await self._look() or _choice(outcome)
        if isinstance(outcome, Failure) and (words := self._server.last_words()):
            raise RolloutError(
                f"the vLLM server at {self._server.where} ended.{words}The same command starts another one and goes on "
                f"from the last checkpoint"
            )
        return outcome

    def _fill(self, row: Row, choice: Mapping[str, Any]) -> str:
        """The tokens and log-probs of a choice in the row; why it ended.

        Raises:
            RolloutError: it lacks some, or answers another prompt.
        """
        tokens, read = _list(choice, "token_ids"), _list(choice, "prompt_token_ids")
        logps = _list(choice.get("logprobs") or {}, "token_logprobs")
        if not tokens or len(tokens) != len(logps) or not all(isinstance(logp, int | float) for logp in logps):
            raise RolloutError(
                f"{self._server.where} answered with {len(tokens)} token ids and {len(logps)} log-probs, and training "
                f"needs as many of both: the server must know return_token_ids (vLLM 0.32 does)"
            )
        if read != list(row.prompt) or len(tokens) > row.max_tokens:
            raise RolloutError(
                f"{self._server.where} was asked a prompt of {len(row.prompt)} tokens for at most {row.max_tokens}, "
                f"and answered one of {len(read)} with {len(tokens)}: it must take prompts and limits as they are"
            )
        row.tokens, row.logps = [int(token) for token in tokens], [float(logp) for logp in logps]
        return str(choice["finish_reason"])


def _choice(reply: Mapping[str, Any]) -> Outcome:
    """The answer in a reply, or why there is none: one that the server broke off is no answer."""
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        return Failure(kind="lost", words=f"the reply holds no choices, only {sorted(map(str, reply))}")
    if choice.get("finish_reason") not in ENDS:
        return Failure(kind="lost", words=f"the server broke the answer off ({choice.get('finish_reason')})")
    return choice


def _check_logprobs(name: str, sampling: Sampling) -> None:
    """Refuses log-probs that the server does not tell."""
    told = sampling.extra.get("segments")
    hot = sampling.temperature not in (0.0, 1.0) and not sampling.extra.get("tempered")
    if told and (hot or sampling.top_p < 1):
        raise RequestError(
            f"{name} tells log-probs of the distribution that it draws from; with segments give top_p 1, and "
            f"temperature 1 or tempered, got top_p={sampling.top_p} and temperature={sampling.temperature}"
        )


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    """What stands under a name; empty where it is no list."""
    found = values.get(name)
    return found if isinstance(found, list) else []
