"""What retiring found: accuracies side by side, the tests, the tokens saved. A plain record that prints itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.noninferior import Removal
from tfgrpo import stats
from tfgrpo.evaluation import Evaluation
from tfgrpo.report import spent_words
from tfgrpo.stats import Estimate

ARMS = {
    "before_with": "before, with the library",
    "before_without": "before, without",
    "with": "after, with the library",
    "left": "after, with what is left",
    "without": "after, without",
}
CHANGES = {
    "of distillation, without the library": ("before_without", "without"),
    "against the library, before": ("before_with", "without"),
    "of retiring": ("with", "left"),
    "of leaving out everything": ("with", "without"),
}
SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Retirement:
    """Which experiences a distilled model does without.

    `accuracy` and `prompt_tokens` (of one answer, on average, by the model's own tokenizer) are those of test problems
    by the names of `ARMS`, `changes` by those of `CHANGES`, with two-sided 95 % intervals paired by problem.
    """

    task: str
    model: str
    before: str | None
    library: str
    entries: int  # served before
    retired: tuple[str, ...]
    kept: tuple[str, ...]
    tests: tuple[Mapping[str, Any], ...]
    why: str  # nothing, or not everything, could be tested
    margin: float
    samples: int  # of each test problem
    accuracy: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]
    prompt_tokens: Mapping[str, float]
    written: str = ""  # the shorter library
    spend: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by purpose, of all calls of the run
    seconds: float = field(default=0.0, compare=False)  # of the last process

    @staticmethod
    def of(
        *,
        task: str,
        models: tuple[str, str | None],
        library: str,
        ids: Sequence[str],
        removal: Removal,
        arms: Mapping[str, Evaluation],
        margin: float,
        seed: int = 0,
    ) -> Retirement:
        """From the evaluations of test problems by arm, and what the gate problems decided."""
        pairs = {name: pair for name, pair in CHANGES.items() if set(pair) <= set(arms)}
        return Retirement(
            task=task,
            model=models[0],
            before=models[1],
            library=library,
            entries=len(ids),
            retired=removal.retired,
            kept=tuple(name for name in ids if name not in removal.retired),
            tests=tuple(
                {"batch": list(t.batch), "out": list(t.out), **dataclasses.asdict(t.judged), "words": t.judged.words()}
                for t in removal.tests
            ),
            why=removal.why,
            margin=margin,
            samples=next(iter(arms.values())).samples,
            accuracy={name: stats.mean_interval(done.success, seed=seed) for name, done in arms.items()},
            changes={
                name: stats.paired_difference(arms[a].success, arms[b].success, seed=seed)
                for name, (a, b) in pairs.items()
            },
            prompt_tokens={
                name: done.usage.prompt_tokens / max(1, done.scores.size - done.missing) for name, done in arms.items()
            },
        )

    @property
    def saved_tokens(self) -> float:
        """Prompt tokens of one answer that retiring saves, on average."""
        return self.prompt_tokens["with"] - self.prompt_tokens["left"]

    def evidence(self) -> dict[str, Any]:
        """What the shorter version keeps of why it is shorter."""
        told = {name: value.words() for name, value in {**self.accuracy, **self.changes}.items()}
        tests = [{"out": test["out"], "words": test["words"]} for test in self.tests]
        return {"model": self.model, "margin": self.margin, "tests": tests, **told, "saved_tokens": self.saved_tokens}

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, with `saved_tokens` and the result in `words`."""
        return {**dataclasses.asdict(self), "saved_tokens": self.saved_tokens, "words": self.words()}

    def words(self) -> str:
        """In a line."""
        end = f"; {self.saved_tokens:.0f} prompt tokens of an answer saved" if self.retired else ""
        return f"retired {len(self.retired)} of {self.entries} experiences{end}"

    def __str__(self) -> str:
        problems = max(found.n for found in self.accuracy.values())
        lines = [f"{self.task}: {self.words()}", f"  model     {self.model}, library {self.library}"]
        lines.append(f"  accuracy  {problems} test problems x {self.samples}; prompt tokens of an answer")
        for name, found in self.accuracy.items():
            lines.append(f"    {ARMS[name]:<37} {found.words()}, {self.prompt_tokens[name]:.0f} tokens")
        lines.append("  changes   paired by problem")
        lines += [f"    {name:<37} {found.words(signed=True)}" for name, found in self.changes.items()]
        for test in self.tests:
            lines.append(f"  without {_list(test['out'])}: {test['words']}")
        lines += [f"  notice    {self.why}"] if self.why else []
        lines.append(f"  retired   {_list(self.retired)}")
        lines.append(f"  stays     {_list(self.kept)}")
        lines += [f"  written   {self.written}"] if self.written else []
        lines += [f"  spent     {spent_words(self.spend, self.seconds)}"] if self.spend else []
        return "\n".join(lines)


def _list(ids: Sequence[str]) -> str:
    """The ids, shortened in the middle.

    Example:
        >>> _list(["E1", "E2"]), _list([])
        ('E1, E2', 'none')
    """
    if len(ids) > SHOWN:
        return f"{', '.join(ids[: SHOWN // 2])}, ... {ids[-1]} ({len(ids)})"
    return ", ".join(ids) or "none"
