"""From a chat reply as JSON to the text, messages, usage and finish reason of a `Completion`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfgrpo.policy.base import Price
from tfgrpo.policy.tokens import estimate_tokens, text_tokens
from tfgrpo.policy.wire import Failure, failure_of_status
from tfgrpo.types import Completion, FinishReason, Message, Usage, message_text

FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "refusal": "content_filter",
}


KEPT = ("tool_calls", "function_call", "refusal", "audio", "annotations", "thinking_blocks")
"""Fields of a reply that an agent needs, or must send back for the conversation to go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a completion says about the question: who was asked what, at which price, and how long it took."""

    policy: str
    prompt: tuple[Message, ...]
    price: Price | None
    latency_s: float


def completion_of(reply: Mapping[str, Any], asked: Asked) -> Completion | Failure:
    """The completion, or a failure for a reply that holds no answer.

    A refused, empty or truncated answer is a completion: it was given, and it is scored.
    """
    choices = reply.get("choices")
    if not isinstance(choices, Sequence) or not choices or not isinstance(choices[0], Mapping):
        return _no_answer(reply)
    choice = choices[0]
    raw = choice.get("message") or {}
    message = produced_message(raw)
    refusal = raw.get("refusal")
    text = message_text(message) or (refusal if isinstance(refusal, str) else "")
    reason = "content_filter" if refusal else FINISH_REASONS.get(str(choice.get("finish_reason")).lower(), "unknown")
    usage = usage_of(reply.get("usage"), asked.prompt, text + _calls(message))
    price = asked.price
    cost = None if price is None else price.cost_usd(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    return Completion(
        prompt=asked.prompt,
        messages=(message,),
        text=text,
        policy=asked.policy,
        model=str(reply.get("model") or ""),
        usage=usage,
        cost_usd=cost,
        finish_reason=reason,
        latency_s=asked.latency_s,
    )


def produced_message(raw: Mapping[str, Any]) -> Message:
    """The assistant message with what matters later: content, all of `KEPT`, and reasoning where it is told."""
    message: dict[str, Any] = {"role": "assistant", "content": encodable(raw.get("content"))}
    for name in KEPT:
        if raw.get(name):
            message[name] = encodable(raw[name])
    reasoning = raw.get("reasoning_content") or raw.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        message["reasoning_content"] = encodable(reasoning)
    return message


def _calls(message: Message) -> str:
    """The tool calls as text, which is what their tokens are estimated by."""
    return json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""


def encodable(value: Any) -> Any:
    r"""The value with lone surrogates, which JSON can spell (`"\ud800"`) and UTF-8 cannot, as the sign for unknown."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, list) else value


def usage_of(raw: Any, prompt: Sequence[Message], text: str) -> Usage:
    """Tokens as the provider counted them; our own careful estimate, marked as such, where it told none."""
    if not isinstance(raw, Mapping) or not raw.get("prompt_tokens"):
        return Usage(prompt_tokens=estimate_tokens(prompt), completion_tokens=text_tokens(text), estimated=True)
    prompt_tokens, completion_tokens = _count(raw, "prompt_tokens"), _count(raw, "completion_tokens")
    reasoning = _count(raw.get("completion_tokens_details"), "reasoning_tokens")
    if reasoning and _count(raw, "total_tokens") == prompt_tokens + completion_tokens + reasoning:
        completion_tokens += reasoning  # some providers count reasoning beside the completion; it is paid like it
    cached = _count(raw.get("prompt_tokens_details"), "cached_tokens") or _count(raw, "prompt_cache_hit_tokens")
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=min(cached, prompt_tokens),
        reasoning_tokens=min(reasoning, completion_tokens),
    )


def _count(raw: Any, name: str) -> int:
    value = raw.get(name) if isinstance(raw, Mapping) else None
    return int(value) if isinstance(value, int | float) else 0


def _no_answer(reply: Mapping[str, Any]) -> Failure:
    """Some gateways answer 200 with an error inside."""
    error = reply.get("error")
    if isinstance(error, Mapping):
        status = error.get("code")
        return failure_of_status(status if isinstance(status, int) else 502, {}, str(error), reply)
    return Failure(kind="lost", words=f"the reply holds no choices, only {sorted(map(str, reply))}")
