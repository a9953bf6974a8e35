"""From the calls of one rollout to its trajectory: what was first asked, and everything that followed, in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tfgrpo.types import Completion, Message, Segment

FORGIVEN = frozenset({"reasoning_content"})  # what agents may leave out when they send a message back
EMPTY: tuple[object, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call: the agent's own messages, without experiences, and the reply."""

    asked: tuple[Message, ...]
    reply: Completion


def produced(exchanges: Sequence[Exchange]) -> tuple[Message, ...]:
    """Every message after the first request: replies, tool results, further questions, each once.

    A request that goes on from an earlier conversation adds what is new in it; one that starts another conversation
    (a sub-agent, a fresh attempt) adds all of it. The order is that in which the requests were made.
    """
    chains: list[list[str]] = []
    found: list[Message] = []
    for number, exchange in enumerate(exchanges):
        names = [_identity(m) for m in exchange.asked]
        known = max((_common(chain, names) for chain in chains), default=0)
        if number:
            found += exchange.asked[known:]
        found += exchange.reply.messages
        chains.append([*names, *(_identity(m) for m in exchange.reply.messages)])
    return tuple(found)


def segments(exchanges: Sequence[Exchange]) -> tuple[Segment, ...]:
    """The token data of a conversation as one row; () where some call has none or does not go on from the last one.

    Example: a second prompt (1, 2, 3, 4, 5) after the prompt (1, 2) and the reply (3, 4) adds the segment (5,).
    """
    row: list[Segment] = []
    ids: tuple[int, ...] = ()
    for exchange in exchanges:
        parts = exchange.reply.segments
        if len(parts) != 2 or parts[0].token_ids[: len(ids)] != ids:
            return ()
        prompt, reply = parts
        fresh = prompt.token_ids[len(ids) :]
        row += [Segment(token_ids=fresh, train=False), reply]
        ids = (*prompt.token_ids, *reply.token_ids)
    return tuple(row)


def _common(chain: Sequence[str], names: Sequence[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(chain, names, strict=False)) if a != b), min(len(chain), len(names)))


def _identity(message: Message) -> str:
    kept = {key: value for key, value in message.items() if key not in FORGIVEN and value not in EMPTY}
    return json.dumps(kept, sort_keys=True, default=str)
