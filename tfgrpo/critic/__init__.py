"""Critics: from scored groups to proposed edits. `CriticSpec` turns what a user writes into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experience_store import Layout
from tfgrpo.caller import Caller
from tfgrpo.critic.base import Critic, MalformedReply, Reading
from tfgrpo.critic.examples import ExampleCritic
from tfgrpo.critic.lessons import LessonCritic
from tfgrpo.critic.paper import PaperCritic
from tfgrpo.errors import unknown_name

__all__ = ["CRITICS", "Critic", "CriticSpec", "MalformedReply", "Reading"]

MAX_TOKENS = 1200
"""Of one reply of a critic; a small model that rambles needs less, one that reasons at length needs more."""

CRITICS: dict[str, Callable[[Caller, int], Critic]] = {
    "lessons": lambda caller, max_tokens: LessonCritic(caller, max_tokens=max_tokens),
    "paper": lambda caller, max_tokens: PaperCritic(caller, max_tokens=max_tokens),
    "examples": lambda caller, max_tokens: ExampleCritic(),
    "references": lambda caller, max_tokens: ExampleCritic(references=True),
}

ONE_EXAMPLE = Layout(placement="turns", max_entries=1)
LAYOUTS = {"examples": ONE_EXAMPLE, "references": ONE_EXAMPLE}
"""Where a critic's entries stand unless the task says otherwise; others take the store's default."""


@dataclass(frozen=True, slots=True)
class CriticSpec:
    """Which critic, and which model it asks.

    Example:
        >>> str(CriticSpec.parse("paper", "openai/gpt-4.1")), str(CriticSpec.parse("openai/gpt-4.1", "local/smollm2"))
        ('paper:openai/gpt-4.1', 'lessons:openai/gpt-4.1')
    """

    kind: str
    model: str
    max_tokens: int = MAX_TOKENS

    @staticmethod
    def parse(text: str, solver: str) -> CriticSpec:
        """A row of `CRITICS`, a model's name, or "kind:model"; the model is the solver where none is given."""
        kind, _, model = text.partition(":")
        if kind in CRITICS:
            return CriticSpec(kind, model or solver)
        if "/" in text:
            return CriticSpec("lessons", text)
        raise unknown_name("critic", text, [*CRITICS, "a model's name"])

    def __str__(self) -> str:
        if self.kind in LAYOUTS:
            return self.kind
        limit = "" if self.max_tokens == MAX_TOKENS else f", {self.max_tokens} tokens"
        return f"{self.kind}:{self.model}{limit}"

    @property
    def layout(self) -> Layout:
        """The layout that suits the critic's entries."""
        return LAYOUTS.get(self.kind, Layout())

    def build(self, caller: Caller) -> Critic:
        """The critic itself."""
        return CRITICS[self.kind](caller, self.max_tokens)
