"""The chat client of one rollout: it looks like `openai.AsyncOpenAI` and asks through the run's record and budget.

Whatever model an agent names, the run's model answers. The experiences of the rollout's prompt are put into every
request, so the agent's code does not know of them. A call that must end the rollout (a limit, the budget, a lost reply)
is remembered here as well as raised, because agents catch exceptions and try again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal

from tfgrpo.agents.base import Agent
from tfgrpo.agents.shapes import Shaped, chat_completion, plain_json, plain_message
from tfgrpo.agents.trajectory import Exchange
from tfgrpo.caller import Caller, CallKey, call_digest, prompt_digest
from tfgrpo.errors import InputError, RequestError, TransportError
from tfgrpo.events import STOPS_THE_RUN
from tfgrpo.policy.base import Sampling
from tfgrpo.types import Completion, Message, Prompt, Usage

Ended = Literal["", "calls", "tokens", "time", "context", "failed", "over"]
"""Why no further call is made: a limit, a call that failed for good, or the rollout is over."""

TRANSPORT = frozenset({"timeout", "extra_headers", "extra_query"})  # of the connection, which is not the agent's
RENAMED = {"max_completion_tokens": "max_tokens"}
SAMPLING = frozenset({"temperature", "max_tokens", "top_p", "seed"})
TOO_LONG = ("context", "too long", "too many tokens", "Shorten it")


class Stopped(asyncio.CancelledError):
    """Ends the rollout from within a call. No `Exception`, so that an agent's `except Exception` lets it pass."""


@dataclass(kw_only=True, eq=False)
class RecordedClient:
    """What an agent asks: `await client.chat.completions.create(messages=..., tools=..., temperature=...)`.

    Parameters that the task's sampling has (temperature, max_tokens, top_p, seed, stop, response_format) replace it
    for that call; others (tools, tool_choice, ...) go to the server as they are. `stream` and `n` above 1 are refused.

    Example:
        >>> reply = await client.chat.completions.create(model="any", messages=[...], tools=[...])  # doctest: +SKIP
        >>> reply.choices[0].message.tool_calls[0].function.name                                    # doctest: +SKIP
        >>> words = await client.complete("What is 6 * 7?")                                         # doctest: +SKIP
    """

    caller: Caller
    prompt: Prompt
    key: CallKey
    sampling: Sampling
    limits: Agent
    ended: Ended = ""
    failure: BaseException | None = None
    too_long: bool = False  # whether the last refusal said that the conversation has outgrown the model's context
    digests: list[bytes] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    _exchanges: dict[int, Exchange] = field(default_factory=dict)
    _asked: Counter[bytes] = field(default_factory=Counter)
    _calls: int = 0

    @property
    def chat(self) -> RecordedClient:
        """For `client.chat.completions.create`."""
        return self

    @property
    def completions(self) -> RecordedClient:
        """For `client.chat.completions.create`."""
        return self

    @property
    def model(self) -> str:
        """The name of the model that answers."""
        return self.caller.policy.name

    @property
    def exchanges(self) -> list[Exchange]:
        """The calls that were answered, in the order in which they were made."""
        return [self._exchanges[number] for number in sorted(self._exchanges)]

    @property
    def calls_left(self) -> int:
        return self.limits.max_calls - self._calls

    async def complete(self, messages: str | Sequence[Any], **options: Any) -> str:
        """The words of one reply to a question or to messages."""
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        reply = await self.create(messages=asked, **options)
        return str(reply.choices[0].message.content or "")

    async def create(self, *, messages: Sequence[Any], model: str = "", **options: Any) -> Shaped:
        """One reply in the shape of the openai package's `ChatCompletion`.

        Raises:
            RequestError: the server refuses this request; the agent may ask another one.
            TransportError, BudgetExhausted, AuthError: the rollout is over, whatever the agent does about it.
            InputError: what cannot be recorded was asked for: a stream, or several choices.
        """
        asked = tuple(plain_message(m) for m in messages)
        self._check()
        sampling = self._sampling(options)
        number, self._calls = self._calls, self._calls + 1
        sent = tuple(self.prompt.dress(asked))
        reply = await self._ask(sent, self._numbered(sent, sampling), sampling)
        self.usage += reply.usage
        self._exchanges[number] = Exchange(asked, reply)
        return chat_completion(reply, number)

    async def close(self) -> None:
        """Does nothing: the connection is the run's."""

    async def __aenter__(self) -> RecordedClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def with_options(self, **options: Any) -> RecordedClient:
        """The same client: time-outs and retries are the run's."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the recorded client has chat.completions.create and complete; {name!r} is not recorded")

    def _check(self) -> None:
        limit = self.limits.max_tokens
        if not self.ended and self._calls >= self.limits.max_calls:
            self.ended = "calls"
        if not self.ended and limit is not None and self.usage.total_tokens >= limit:
            self.ended = "tokens"
        if self.ended:
            raise Stopped(f"no further call in this rollout: {self.ended}")

    def _numbered(self, sent: tuple[Message, ...], sampling: Sampling) -> CallKey:
        """The key of this request: how often the very same one was asked before, known before anything is awaited."""
        same = call_digest("", prompt_digest(sent), sampling, self.key)
        turn = self._asked[same]
        self._asked[same] += 1
        return replace(self.key, turn=turn)

    def _sampling(self, options: Mapping[str, Any]) -> Sampling:
        try:
            return sampling_of(self.sampling, options)
        except InputError as error:
            raise self._failed(error) from None

    def _failed(self, error: BaseException) -> BaseException:
        """The error, remembered: no agent can go on after it."""
        self.ended, self.failure = "failed", self.failure or error
        return error

    async def _ask(self, sent: tuple[Message, ...], key: CallKey, sampling: Sampling) -> Completion:
        try:
            reply = await self.caller.complete(sent, key, sampling)
        except (TransportError, *STOPS_THE_RUN) as error:
            raise self._failed(error) from None
        except RequestError as error:
            self.too_long = bool(self._exchanges) and any(words in str(error) for words in TOO_LONG)
            raise
        self.digests.append(call_digest(self.caller.policy.name, prompt_digest(sent), sampling, key))
        return reply


def sampling_of(usual: Sampling, options: Mapping[str, Any]) -> Sampling:
    """The sampling of one request: the task's, changed by what the agent passed to `create`.

    Raises:
        InputError: a stream, or several choices.
    """
    given = {RENAMED.get(k, k): v for k, v in options.items() if k not in TRANSPORT and not _is_absent(v)}
    if given.pop("stream", False):
        raise InputError("an agent asked for a stream, which is not recorded; call create without stream=True")
    if given.pop("n", 1) != 1:
        raise InputError("an agent asked for several choices (n); one call is one answer, so call create several times")
    changed: dict[str, Any] = {name: given.pop(name) for name in SAMPLING & given.keys()}
    stop = given.pop("stop", None)
    if stop is not None:
        changed["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    wanted = given.pop("response_format", None)
    schema = _schema(wanted)
    if schema is not None:
        changed["schema"] = schema
    elif isinstance(wanted, Mapping) and wanted.get("type") != "text":
        given["response_format"] = wanted
    extra = {**usual.extra, **plain_json(given.pop("extra_body", None) or {}), **plain_json(given)}
    return replace(usual, **changed, extra=extra)


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    """The JSON schema of a `response_format`, also where it is given as a pydantic model."""
    of_model = getattr(wanted, "model_json_schema", None)
    if callable(of_model):
        found: Mapping[str, Any] = of_model()
        return found
    described = wanted.get("json_schema") if isinstance(wanted, Mapping) else None
    return plain_json(described["schema"]) if isinstance(described, Mapping) and "schema" in described else None


def _is_absent(value: Any) -> bool:
    """None and the openai package's marks for an argument that was not given."""
    return value is None or type(value).__name__ in ("NotGiven", "Omit")
