"""From which answers a lesson was read, and whether those hold text that somebody else may have written.

The hashes of a group's answers go with every edit into the store (`experience_store.origin`). `verify` follows them
back to the records of the run: the answers must be there, with the scores that they got.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experience_store import Edit, Experience
from experience_store.origin import Check, check, digest, origin
from experience_store.types import content_hash
from tfgrpo.record import FILE_NAME, RunRecord
from tfgrpo.types import Completion, Group, Message, Rollout, message_text

OBSERVATION = "Observation:"


def answer_hash(completion: Completion) -> str:
    """SHA-256 of what was really asked and all that was answered."""
    return digest([list(completion.prompt), list(completion.messages)])


def with_origin(edits: Sequence[Edit], group: Group, *, run: str, outside: bool = True) -> tuple[Edit, ...]:
    """The edits with the answers that they were read from; tainted where those hold text from outside.

    Args:
        edits: what a critic made of the group.
        group: what it read.
        run: the run's name.
        outside: whether the tools of the task's agent bring in text that others may have written.
    """
    read = {
        "group": group.index,
        "problem": group.problem.id,
        "rollouts": [_read(r) for r in group.rollouts],
    }
    tainted = untrusted(group, outside=outside)
    return tuple(_marked(edit, run, [read], tainted) for edit in edits)


def _read(rollout: Rollout) -> dict[str, Any]:
    given = {"given": True} if rollout.kind == "anchor" else {}  # a reference that nobody was asked for
    return {"answer": answer_hash(rollout.completion), "score": rollout.score.value, **given}


def inheriting(merged: Sequence[Edit], proposals: Sequence[Edit]) -> list[Edit]:
    """Edits that a critic made of several proposals come from the answers of all of them, and share their taint."""
    origins = [e.source["origin"] for e in proposals if "origin" in e.source]
    groups = list({g["group"]: g for o in origins for g in o["groups"]}.values())
    if not groups:
        return list(merged)
    run, tainted = str(origins[0]["run"]), any(e.taint == "untrusted" for e in proposals)
    return [e if "origin" in e.source else _marked(e, run, groups, tainted) for e in merged]


def _marked(edit: Edit, run: str, groups: Sequence[Mapping[str, Any]], tainted: bool) -> Edit:
    if edit.op not in ("add", "revise"):
        return edit
    made = origin(content_hash(edit.kind, edit.text, edit.question), run, groups)
    taint = "untrusted" if tainted else edit.taint
    return replace(edit, source={**edit.source, "origin": made}, taint=taint)


def untrusted(group: Group, *, outside: bool = True) -> bool:
    """Whether a group holds text that neither the task nor the model wrote: users' problems, results of tools.

    A problem says it by `meta["untrusted"]`, a column of its data.
    """
    if group.problem.meta.get("untrusted"):
        return True
    answers = (*group.earlier, *group.rollouts)
    return outside and any(_is_result(m) for rollout in answers for m in rollout.completion.messages)


def _is_result(message: Message) -> bool:
    if message.get("role") == "tool":
        return True
    return message.get("role") == "user" and message_text(message).startswith(OBSERVATION)


# -- checking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was checked. `answers` counts those that were found in the records of their run, with their score."""

    checks: tuple[Check, ...]
    answers: int = 0
    missing_runs: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if c.state == "broken")

    def as_json(self) -> dict[str, Any]:
        entries = [{"label": c.label, "state": c.state, **({"why": c.why} if c.why else {})} for c in self.checks]
        return {"entries": entries, "answers_found": self.answers, "runs_not_here": list(self.missing_runs)}

    def __str__(self) -> str:
        states = [c.state for c in self.checks]
        named = (("whole", "whole"), ("unknown", "without a known origin"), ("erased", "erased"), ("broken", "BROKEN"))
        counts = [f"{states.count(state)} {words}" for state, words in named if state in states]
        lines = [f"{len(states)} entries: {', '.join(counts) or 'none'}"]
        lines += [f"  {c.label}: {c.why}" for c in self.broken]
        if self.answers:
            lines.append(f"{self.answers} answers were found in the records of their runs, with these scores")
        if self.missing_runs:
            lines.append(f"not checked against {', '.join(self.missing_runs)}: no such run in that folder")
        return "\n".join(lines)


def verify(experiences: Sequence[Experience], runs: str | Path | None = None) -> Verified:
    """Checks every experience's own chain, and with `runs` also that its answers are on record with their scores.

    Args:
        experiences: of a version or an exported file, whose own hashes were checked when it was read.
        runs: the folder of run folders.

    Raises:
        RunStateError: a run's record is damaged.
    """
    checks: list[Check] = []
    known: dict[str, Recorded | None] = {}
    answers = 0
    for experience in experiences:
        found = check(experience)
        if found.state == "whole" and runs is not None:
            made = experience.source["origin"]
            run = str(made["run"])
            if run not in known:
                known[run] = Recorded.of(Path(runs) / run)
            record = known[run]
            if record is not None:
                answers += sum(len(group["rollouts"]) for group in made["groups"])
                why = record.objection(made["groups"])
                found = replace(found, state="broken", why=why) if why else found
        checks.append(found)
    missing = tuple(sorted(run for run, record in known.items() if record is None))
    return Verified(checks=tuple(checks), answers=answers, missing_runs=missing)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run's answers by hash, and the scores of each group."""

    answers: frozenset[str]
    scores: Mapping[int, Sequence[float]]

    @staticmethod
    def of(folder: Path) -> Recorded | None:
        """None where there is no such run."""
        if not (folder / FILE_NAME).is_file():
            return None
        with RunRecord.open(folder, read_only=True) as record:
            answers = frozenset(answer_hash(c) for c in _completions(record))
            scores = {
                int(e.data["group"]): [float(r["score"]) for r in e.data["rollouts"]]
                for e in record.events("group_done")
            }
        return Recorded(answers, scores)

    def objection(self, groups: Sequence[Mapping[str, Any]]) -> str:
        """Why the record does not bear out what is said of its groups; "" where it does."""
        for group in groups:
            rollouts = group["rollouts"]
            if any(r["answer"] not in self.answers for r in rollouts if not r.get("given")):
                return f"an answer of group {group['group']} is not on record"
            left = list(self.scores.get(int(group["group"]), ()))
            for rollout in rollouts:
                if rollout.get("given"):
                    continue
                if rollout["score"] not in left:
                    return f"a score of group {group['group']} is not the one on record"
                left.remove(rollout["score"])
        return ""


def _completions(record: RunRecord) -> Iterator[Completion]:
    yield from (call.completion for call in record.calls("solve"))
    yield from record.answers()
