"""What a teacher reads: the student's own prompt and an answer that was right, or what the reward said, through the
model's chat template; then the student's own tokens, one for one.

What does not fit is cut out of what is shown, from its middle, where an answer says least; the question and the
student's tokens are never touched. Where nothing can be shown any more, the rollout is not taught.

The teacher's prompts of a group begin alike. What they have in common becomes the shared prompt of the packed row, the
rest stands before the answer as tokens that are not trained on, so that it is computed once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid.answers import Batch
from hybrid.distill import Distill
from hybrid.packing import Sample
from hybrid.routing import NOBODY, routes
from tfgrpo.errors import RequestError
from tfgrpo.policy.local_loading import LoadedModel
from tfgrpo.types import Group, Message, message_text

THINKING = re.compile(r"<think(ing)?>.*?</think(ing)?>", re.DOTALL)
THOUGHT = re.compile(r".*</think(ing)?>", re.DOTALL)  # a template may have opened the block
LEAST_SHOWN = 4  # tokens of what is shown, below which it is not worth a teacher
ATTEMPTS = 6
CUT = " ... "


def with_teachers(
    batch: Batch, groups: Sequence[Group], spec: Distill, loaded: LoadedModel, seed: Sequence[int]
) -> Batch:
    """The batch with a teacher's sample for every rollout that is taught, those without a route out of the loss.

    Args:
        batch: as `Batch.of` made it of the groups.
        groups: with the messages, answers and words that a teacher is shown.
        spec: what is distilled.
        loaded: the model's tokenizer and context.
        seed: decides which right answers are shown.
    """
    rollouts = [r for group in groups for r in group.rollouts]
    labels = [n for n, group in enumerate(groups) for _ in group.rollouts]
    said = [r.score.feedback.strip() for r in rollouts]
    made = routes(batch.success, labels, said=[bool(s) for s in said], in_loss=batch.in_loss, spec=spec, seed=seed)
    writer = Writer(loaded, spec)
    prompts: dict[int, tuple[int, ...]] = {}
    for n in made.taught.nonzero()[0].tolist():
        sibling = made.sibling[n]
        written = writer.prompt(
            rollouts[n].completion.prompt,
            solution="" if sibling == NOBODY else rollouts[sibling].completion.text,
            feedback=said[n] if made.feedback[n] else "",
            room=loaded.context - len(batch.samples[n].tokens),
        )
        if written is not None:
            prompts[n] = written
    lost = [n for n in made.taught.nonzero()[0].tolist() if n not in prompts]
    made = made.without(lost, spec)
    return replace(
        batch,
        teachers=teachers_under(batch.samples, prompts, labels),
        in_loss=made.taught | made.policy,
        counts={**made.counts(), "route/cut": float(writer.cut), "route/too_long": float(len(lost))},
    )


def teachers_under(
    samples: Sequence[Sample], prompts: Mapping[int, tuple[int, ...]], labels: Sequence[int]
) -> tuple[Sample | None, ...]:
    """The students' samples under other prompts, [N]; those of a group share what their prompts have in common."""
    of_group: dict[int, list[tuple[int, ...]]] = {}
    for n, prompt in prompts.items():
        of_group.setdefault(labels[n], []).append(prompt)
    shared = {label: _alike(group) for label, group in of_group.items()}
    return tuple(
        under(sample, prompts[n], shared[labels[n]]) if n in prompts else None for n, sample in enumerate(samples)
    )


def _alike(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens they begin with in common."""
    low, high = min(prompts), max(prompts)
    return next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def under(sample: Sample, prompt: Sequence[int], shared: int | None = None) -> Sample:
    """The tokens of a sample after another prompt, of which the first `shared` tokens are told as such.

    Example:
        >>> one = Sample(prompt=(5, 6), tokens=(1, 2), train=(True, True), logps=(-0.5, -0.1), segment=(0, 0))
        >>> other = under(one, (5, 7, 8), shared=1)
        >>> other.prompt, other.tokens, other.train
        ((5,), (7, 8, 1, 2), (False, False, True, True))
    """
    begin = shared or len(prompt)
    own = tuple(prompt[begin:])
    return Sample(
        prompt=tuple(prompt[:begin]),
        tokens=(*own, *sample.tokens),
        train=(*(False,) * len(own), *sample.train),
        logps=(*(0.0,) * len(own), *sample.logps),
        segment=(*(0,) * len(own), *sample.segment),
    )


@dataclass(slots=True)
class Writer:
    """Writes teachers' prompts for one batch; `cut` counts those from which something was left out."""

    loaded: LoadedModel
    spec: Distill
    cut: int = 0
    _known: dict[str, tuple[int, ...] | None] = field(default_factory=dict)

    def prompt(self, messages: Sequence[Message], *, solution: str, feedback: str, room: int) -> tuple[int, ...] | None:
        """The tokens of a teacher's prompt, at most `room` and `max_prompt`; None if there is no room to show anything.

        Args:
            messages: what the student was asked.
            solution: a right answer, "" for none.
            feedback: what the reward said, "" for nothing.
            room: tokens that the context leaves beside the answer.
        """
        room = min(room, self.spec.max_prompt)
        shown = (self._plain(stripped(solution) if self.spec.strip_thinking else solution), self._plain(feedback))
        whole = self._ids(messages, *shown)
        if whole is not None and len(whole) <= room:
            return whole
        bare = self._ids(messages, *("" if not text else " " for text in shown))
        if bare is None:
            return None
        tokens = [self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in shown]
        left = room - len(bare)
        for _ in range(ATTEMPTS):
            if left < LEAST_SHOWN:
                return None
            share = left / max(1, sum(map(len, tokens)))
            written = self._ids(messages, *(self._shortened(t, int(share * len(t))) for t in tokens))
            if written is not None and len(written) <= room:
                self.cut += 1
                return written
            left = min(left - 1, left * 7 // 8)  # words around a cut are other tokens than inside
        return None

    def _ids(self, messages: Sequence[Message], solution: str, feedback: str) -> tuple[int, ...] | None:
        """The tokens of the whole prompt; None where they do not fit into the context."""
        asked = asked_again(messages, self.spec, solution, feedback)
        key = repr([(m.get("role"), message_text(m)) for m in asked])
        if key not in self._known:
            try:
                self._known[key] = self.loaded.prompt_ids(asked)
            except RequestError:
                self._known[key] = None
        return self._known[key]

    def _plain(self, text: str) -> str:
        """The text without what the chat template would read as the end of a turn."""
        for special in self.loaded.tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text.strip()

    def _shortened(self, tokens: Sequence[int], keep: int) -> str:
        """The beginning and the end of a text."""
        if keep >= len(tokens):
            return self.loaded.text(tokens)
        last = keep // 2
        return self.loaded.text(tokens[: keep - last]) + CUT + self.loaded.text(tokens[len(tokens) - last :])


def asked_again(messages: Sequence[Message], spec: Distill, solution: str, feedback: str) -> tuple[Message, ...]:
    """The messages with what is shown behind the last question.

    Example:
        >>> asked_again([{"role": "user", "content": "2 + 3?"}], Distill(), "It is 5.", "")[0]["content"]
        '2 + 3?\\n\\nA correct answer:\\n\\nIt is 5.\\n\\nAnswer the question.'
    """
    last = max((n for n, m in enumerate(messages) if m.get("role") == "user"), default=len(messages) - 1)
    parts = [message_text(messages[last])]
    if solution:
        parts.append(spec.solution_words.replace("{solution}", solution))
    if feedback:
        parts.append(spec.feedback_words.replace("{feedback}", feedback))
    changed = {**messages[last], "content": "".join([*parts, spec.closing_words])}
    return (*messages[:last], changed, *messages[last + 1 :])


def stripped(text: str) -> str:
    """An answer without its thinking; all of it where nothing else is left.

    Example:
        >>> stripped("<think>Two and three...</think>It is 5."), stripped("...</think> 5"), stripped("5")
        ('It is 5.', '5', '5')
    """
    return THOUGHT.sub("", THINKING.sub("", text)).strip() or text


def trouble(counts: Mapping[str, float], spec: Distill) -> str:
    """What there is to say of a batch in which teaching failed; "" for nothing.

    Example:
        >>> trouble({"route/taught": 0.0, "route/alone": 3.0, "route/too_long": 0.0}, Distill())[:43]
        'nothing to teach with: none of 3 answers th'
    """
    instead = "they take the policy gradient" if spec.others == "policy" else "they are left out"
    alone, long = counts["route/alone"], counts["route/too_long"]
    if alone and not counts["route/taught"] and not long:
        return (
            f"nothing to teach with: none of {alone:.0f} answers that were to be taught has a right sibling in its "
            f"group, or words of the reward; {instead}"
        )
    if long:
        return (
            f"{long:.0f} teachers' prompts do not fit into the model's context (or max_prompt={spec.max_prompt}) "
            f"beside the answer, even without most of what they show; {instead}"
        )
    return ""
