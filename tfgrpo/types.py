"""The nouns that travel: Problem -> Prompt -> Completion -> Rollout -> Group.

All are frozen, so that what was measured cannot change afterwards. A stage that adds something returns a new
record; nothing is filled in later and no field means "not yet".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Message = Mapping[str, Any]
"""One chat message in the OpenAI shape: `{"role": "user", "content": "..."}`, with `tool_calls` where there are any."""

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "unknown"]

AIDS = frozenset({"hint", "draft", "anchor"})
"""Kinds of origin that bring something about their own problem which the same problem, when served, would not have."""


def message_text(message: Message) -> str:
    """The words of one message, whether its content is a string, a list of parts, or missing."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question with what is needed to score an answer to it.

    `answer` and `meta` reach rewards and critics and never the policy. `variants` are other wordings of the last
    user message that ask for the same answer.

    Example:
        >>> Problem(id="p1", messages=({"role": "user", "content": "2 + 3?"},), answer="5").question
        '2 + 3?'
    """

    id: str
    messages: tuple[Message, ...]
    answer: Any = None
    variants: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The words of the last user message."""
        return next((message_text(m) for m in reversed(self.messages) if m.get("role") == "user"), "")


def as_they_are(messages: Sequence[Message]) -> Sequence[Message]:
    """The dress of a prompt without experiences: the same messages object."""
    return messages


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What one rollout is really asked: the messages, which wording it is, which experiences stand in it.

    An agent writes messages of its own: it starts from `bare`, and `dress` puts the same experiences into them.
    """

    messages: tuple[Message, ...]
    variant: int = 0  # the sub-group: 0 is the problem's own wording, v > 0 is `problem.variants[v - 1]`
    experiences: tuple[str, ...] = ()  # labels such as "E17@3", in the order in which they stand
    origin: str = ""  # how it differs from the bare problem: "hint/2", "draft", "role/teacher"
    bare: tuple[Message, ...] = field(default=(), compare=False)  # without experiences; () where `messages` is bare
    dress: Callable[[Sequence[Message]], Sequence[Message]] = field(default=as_they_are, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one call as the provider counted them. Cached and reasoning tokens are parts of the other two."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # share of prompt_tokens read from the provider's prompt cache
    reasoning_tokens: int = 0  # share of completion_tokens that the user never sees
    estimated: bool = False  # the provider told no usage; these are our own estimates

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            estimated=self.estimated or other.estimated,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of tokens that is trained on as a whole or not at all; `logps` are nats of the sampled tokens."""

    token_ids: tuple[int, ...]
    train: bool
    logps: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer as it was paid for: what was really asked, what came back, and what it cost.

    `cost_usd` is None when the price is unknown; it is never 0 for that reason. A truncated, empty or refused
    reply is a Completion and is scored; a transport failure is none.
    """

    prompt: tuple[Message, ...]
    messages: tuple[Message, ...]  # produced: usually one assistant message; more when tools were called
    text: str
    policy: str  # "openai/gpt-4.1-mini"
    model: str = ""  # the name the server returned
    usage: Usage = Usage()
    cost_usd: float | None = None
    finish_reason: FinishReason = "stop"
    latency_s: float = 0.0
    segments: tuple[Segment, ...] = ()
    variant: int = 0  # as in its `Prompt`; told by whoever asked, not part of the recorded reply
    origin: str = ""  # as in its `Prompt`

    def answering(self, prompt: Prompt) -> Completion:
        """The same reply, marked with the sub-group and the origin of the prompt it answers."""
        if (self.variant, self.origin) == (prompt.variant, prompt.origin):
            return self
        return replace(self, variant=prompt.variant, origin=prompt.origin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A number, its named parts, and words for the critic. A part that is missing is *not applicable*, never 0.

    Example:
        >>> Score(value=1.0, parts={"correct": 1.0}).success
        True
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    feedback: str = ""
    solved: bool | None = None  # set by a reward whose success is not `value >= 1`

    @property
    def success(self) -> bool:
        """Whether the answer counts as right: `solved` where the reward said so, else `value >= 1`."""
        return self.value >= 1.0 if self.solved is None else self.solved


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A completion and its score, never one without the other."""

    completion: Completion
    score: Score
    experiences: tuple[str, ...] = ()  # labels that stood in the prompt
    stage: int = 0  # which asking of its group it answers
    sample: int = -1  # its number in the group, under which its reply is on record; -1 where nobody was asked

    @property
    def variant(self) -> int:
        """The sub-group of the group: which wording, role or hint level it answers."""
        return self.completion.variant

    @property
    def kind(self) -> str:
        """The first part of its origin: "hint" of "hint/2"; "" for the bare problem."""
        return self.completion.origin.partition("/")[0]

    @property
    def aided(self) -> bool:
        """Whether its prompt helped with this very problem, so that it tells nothing about how a served one fares."""
        return self.kind in AIDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The rollouts of one problem that are compared with each other.

    `index` is the group's number in its run, `version` the store version it was sampled under, `missing` how many
    rollouts were lost to transport failures or to a reward that could not score them. `earlier` are answers of
    earlier stages that left the group: drafts, and failures that were asked again with a hint.
    """

    problem: Problem
    rollouts: tuple[Rollout, ...]
    index: int = 0
    version: int = 0
    missing: int = 0
    earlier: tuple[Rollout, ...] = ()
    asked: int = 0  # answers asked for, of all stages

    @property
    def unaided(self) -> tuple[Rollout, ...]:
        """The answers to the problem as it would be served, of all stages: what evidence and curves are made of."""
        return tuple(r for r in (*self.earlier, *self.rollouts) if not r.aided)

    @property
    def mixed(self) -> bool:
        """Whether the group holds both solved and unsolved rollouts."""
        return len({r.score.success for r in self.rollouts}) == 2
