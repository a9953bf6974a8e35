"""A strategy before a server: a chat completion is asked for several times, and one answer comes out.

The proxy and a client that is wrapped in code do it alike, and differ in how a body is sent. The request goes out n
times (without `stream` and `n`, a `seed` counted on), the answer that is chosen comes back as its server gave it, with
the usage of all calls added up. A stream becomes one chunk with the whole answer.

    x-tfgrpo-strategy: none     in a request: ask once, and pass through, as without a strategy

Asked once are also requests for several choices, at temperature 0 where answers are compared (all would be the same),
without a user message, and all that are no chat completion. A sample that fails is lost alone; when all fail, the
server's own error is handed on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict

from tfgrpo.errors import InputError, RequestError, TransportError
from tfgrpo.grouping.base import with_words
from tfgrpo.late import bound_to
from tfgrpo.policy.base import Sampling
from tfgrpo.record import CallKey
from tfgrpo.serving.exchange import Tokens, tokens_of
from tfgrpo.serving.refusal import Refused
from tfgrpo.serving.reply import Reply, Send, Unsent
from tfgrpo.strategies.allowance import Pool
from tfgrpo.strategies.base import LOST, Averaged, Checked, Chosen, Strategy
from tfgrpo.types import Completion, FinishReason, Message, Problem, Usage, message_text

HEADER = "x-tfgrpo-strategy"
SAVED = 100  # questions whose savings may be spent at once
_NOT_SENT = ("stream", "stream_options", "n")


class Several:
    """A strategy for every chat completion; `judge` is the model that chooses, "" for the request's own.

    Raises:
        InputError: a strategy that needs a task or reference answers, or a judge at another server.
    """

    def __init__(self, strategy: Strategy, *, judge: str = "") -> None:
        if strategy.oracle:
            raise InputError("oracle looks at reference answers, which a served request does not have; measure with it")
        if judge and not strategy.models:
            raise InputError(f"{strategy.name} asks no judge; a judge's name is for best and tournament")
        if named := [model.name for model in strategy.models if model.policy is not None]:
            raise InputError(
                f"a judge is asked at the same server as the model, with the client's key; got {', '.join(named)}. "
                "Leave caller= out and give the judge's name: strategy_judge="
            )
        self.strategy, self.judge = strategy, judge
        mean = strategy.mean if isinstance(strategy, Averaged) else None
        self._pool = None if mean is None else Pool(mean=mean, kept=mean * SAVED)

    async def check(self) -> None:
        """Tries what chooses on an empty answer, before the first request.

        Raises:
            InputError: it cannot choose without a task.
        """
        if isinstance(self.strategy, Checked):
            await self.strategy.check(Problem(id="check", messages=({"role": "user", "content": ""},)))

    def takes(self, body: Any, headers: Mapping[str, str]) -> bool:
        """Whether a request for a chat completion is to be asked several times."""
        if not isinstance(body, dict) or headers.get(HEADER, "").strip().lower() == "none":
            return False
        messages, compared = body.get("messages"), self.strategy.always > 1 or isinstance(self.strategy, Averaged)
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            return False
        alike = compared and body.get("temperature") == 0
        return body.get("n") in (None, 1) and not alike and any(m.get("role") == "user" for m in messages)

    async def answer(self, body: Mapping[str, Any], send: Send, name: str) -> Reply:
        """The chosen answer, as an answer to the client's request.

        Args:
            body: the request, experiences and all.
            send: the way to the server.
            name: of the request.

        Raises:
            Refused: not one sample got a whole answer.
        """
        asking = _Asking(body=body, send=send, judge=self.judge, pool=self._pool)
        if self._pool is not None:
            self._pool.enter(self.strategy.always)
        problem = Problem(id=name, messages=({"role": "user", "content": _question(body["messages"])},))
        try:
            with bound_to(dict.fromkeys(self.strategy.models, _Judge(asking))):
                chosen = await self.strategy(problem, asking)
        except LOST as error:
            if asking.failed is None:
                raise Refused(502, "upstream_broke", f"no answer could be had: {error}") from None
            if isinstance(asking.failed, Refused):
                raise asking.failed from None
            return asking.failed
        return self._told(asking, chosen)

    async def told(self, body: Mapping[str, Any], send: Send) -> Reply:
        """`answer`, for a client in code: a failure is raised as its own error, or is an answer that says so.

        Raises:
            Exception: not one sample was answered; the first one's error, as the client raised it.
        """
        try:
            return await self.answer(body, send, "request")
        except Unsent as unsent:
            raise unsent.error from None
        except Refused as refused:
            return Reply(status=refused.status, headers=CIMultiDict(refused.headers), body=refused.body())

    def _told(self, asking: _Asking, chosen: Chosen) -> Reply:
        reply, answer = asking.replies[chosen.number]
        whole = {**answer, **({"usage": asking.usage} if asking.usage else {})}
        headers = reply.headers.copy()
        headers.popall("content-encoding", None)
        headers[HEADER] = _ascii(self.strategy.name)
        headers["x-tfgrpo-calls"] = str(asking.calls)
        headers["x-tfgrpo-why"] = _ascii(chosen.why)
        streamed = asking.body.get("stream") is True
        headers["Content-Type"] = "text/event-stream; charset=utf-8" if streamed else "application/json"
        return Reply(
            status=200 if streamed else reply.status,
            headers=headers,
            body=as_stream(whole, with_usage=_wants_usage(asking.body)) if streamed else json.dumps(whole).encode(),
            strategy=self.strategy.name,
            calls=asking.calls,
            why=chosen.why,
        )


@dataclass(kw_only=True)
class _Asking:
    """One request's way to the server: a `Sample`, and what came of it."""

    body: Mapping[str, Any]
    send: Send
    judge: str
    pool: Pool | None
    replies: dict[int, tuple[Reply, dict[str, Any]]] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    failed: Reply | Refused | None = None  # the first failure
    calls: int = 0

    async def __call__(self, number: int, words: str = "") -> Completion:
        asked = {key: value for key, value in self.body.items() if key not in _NOT_SENT}
        if words:
            asked["messages"] = list(with_words(asked["messages"], words))
        if isinstance(asked.get("seed"), int):
            asked["seed"] += number
        reply, answer = await self.asked(asked)
        self.replies[number] = reply, answer
        message = answer["choices"][0]["message"]
        usage = tokens_of(b'"usage":' + json.dumps(answer.get("usage")).encode()) or Tokens()
        return Completion(
            prompt=tuple(asked["messages"]),
            messages=(message,),
            text=message_text(message),
            policy=str(asked.get("model")),
            usage=Usage(prompt_tokens=usage.prompt, completion_tokens=usage.completion, cached_tokens=usage.cached),
            finish_reason=_reason(answer["choices"][0]),
        )

    async def more(self, urgency: float, calls: int) -> bool:
        return self.pool is None or self.pool.more(calls)

    async def asked(self, body: Mapping[str, Any]) -> tuple[Reply, dict[str, Any]]:
        """The reply to one body, and the completion in it.

        Raises:
            TransportError, RequestError: there is none.
        """
        try:
            reply = await self.send(json.dumps(body).encode())
        except Refused as refused:
            self.failed = self.failed or refused
            raise TransportError(refused.message) from None
        self.calls += 1
        if reply.status >= 400:
            self.failed = self.failed or reply
            refused_it = reply.status < 500 and reply.status not in (408, 429)
            raise (RequestError if refused_it else TransportError)(f"the server answered {reply.status}")
        answer = _completion(reply.plain)
        if answer is None:
            self.failed = self.failed or Refused(502, "upstream_broke", "the server's answer is no chat completion")
            raise TransportError("the server's answer is no chat completion")
        usage = answer.get("usage")
        self.usage = added(self.usage, usage) if isinstance(usage, dict) else self.usage
        return reply, answer


@dataclass(frozen=True, slots=True)
class _Judge:
    """What chooses, asked through the client's own connection; its prompts want JSON in words."""

    asking: _Asking

    async def complete(self, messages: Sequence[Message], key: CallKey, sampling: Sampling) -> Completion:
        """One verdict; options that a model refuses are left out the second time."""
        bare = {"model": self.asking.judge or self.asking.body.get("model"), "messages": list(messages)}
        try:
            _, answer = await self.asking.asked({**bare, "temperature": 0, "max_tokens": sampling.max_tokens})
        except RequestError:
            _, answer = await self.asking.asked(bare)
        message = answer["choices"][0]["message"]
        return Completion(prompt=tuple(messages), messages=(message,), text=message_text(message), policy="judge")


def added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Two usages added up, entry by entry.

    Example:
        >>> added({"prompt_tokens": 3, "details": {"cached": 1}}, {"prompt_tokens": 4, "details": {"cached": 2}})
        {'prompt_tokens': 7, 'details': {'cached': 3}}
    """
    total = dict(a)
    for key, value in b.items():
        known = total.get(key)
        if isinstance(value, Mapping):
            total[key] = added(known if isinstance(known, Mapping) else {}, value)
        elif _is_number(value):
            total[key] = value + (known if _is_number(known) else 0)
        else:
            total.setdefault(key, value)
    return total


def as_stream(answer: Mapping[str, Any], *, with_usage: bool) -> bytes:
    """A whole completion as the events of a stream: one chunk with everything, one with the reason, the end.

    Example:
        >>> done = {"id": "c", "choices": [{"index": 0, "message": {"content": "5"}, "finish_reason": "stop"}]}
        >>> as_stream(done, with_usage=False).count(b"data: ")
        3
    """
    usual = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    head = {**usual, "object": "chat.completion.chunk"}
    choice = answer["choices"][0]
    delta = {"role": "assistant", **choice["message"]}
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls) if isinstance(call, dict)]
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}]},
    ]
    chunks += [{**head, "choices": [], "usage": answer["usage"]}] if with_usage and "usage" in answer else []
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def _wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def _completion(body: bytes | None) -> dict[str, Any] | None:
    """The completion in an answer, None where it is none."""
    try:
        found = json.loads(body or b"")
    except (ValueError, RecursionError):
        return None
    choices = found.get("choices") if isinstance(found, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return found if isinstance(message, dict) and _is_message(message) else None


def _question(messages: Sequence[Message]) -> str:
    """What is asked, for a judge: the only message, or the conversation so far without the system's words."""
    said = [m for m in messages if m.get("role") not in ("system", "developer")]
    if len(said) == 1:
        return message_text(said[0])
    return "\n\n".join(f"{m.get('role')}: {message_text(m)}" for m in said)


def _is_message(item: Any) -> bool:
    """Whether something can be said of it: content is words, parts or nothing."""
    if not isinstance(item, dict):
        return False
    content = item.get("content")
    return content is None or isinstance(content, str) or _is_parts(content)


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) for part in content)


def _reason(choice: Mapping[str, Any]) -> FinishReason:
    return "length" if choice.get("finish_reason") == "length" else "stop"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ascii(text: str) -> str:
    """Fit for a header."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:200]
