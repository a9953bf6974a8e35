"""Short pieces of writing that have no reference answer: a judge compares the answers of a group in a tournament.

Ranks within a group say which answer is better and teach from that (ArenaRL, arXiv 2601.06487). They cannot measure
progress, since their mean is always one half; a single answer, as in evaluations and gates, is graded by the same judge
with the same rubric. Keep `test_samples` at 1 for that reason.
"""

from __future__ import annotations

import random

from tasks._generated import generate
from tasks._generated import problem as generated
from tasks._judged import late_caller
from tasks._people import CITIES, NAMES, THINGS
from tfgrpo.late import LateCaller
from tfgrpo.policy import Policy
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.judge import judge as graded
from tfgrpo.rewards.tournament import Topology, tournament
from tfgrpo.task import Task
from tfgrpo.types import Problem

RUBRIC = (
    "The text does exactly what was asked, with all names and things that were given, and keeps to the stated length. "
    "It is concrete and original, reads well aloud, and holds no filler, no list and no remark about itself."
)

ASKS = (
    "Write a birthday greeting for {name}, who collects {thing}, in two sentences.",
    "Describe an early morning at the market of {city}, where {name} sells {thing}, in three sentences.",
    "Explain to a child of six in three sentences why {name} stores {thing} in a dry place.",
    "Write a polite note in which {name} asks the neighbour in {city} to bring back the {thing}, in two sentences.",
    "Write the first three sentences of a story that begins in {city} with a box of {thing} and ends with {name}.",
    "Write an advertisement of two sentences for the {thing} of {name} from {city}.",
    "Apologise in two sentences to {name} for {thing} that arrived in {city} too late.",
    "Tell in three sentences how {name} learned to repair {thing} in {city}.",
)


def task(
    *,
    learn: int = 40,
    gate: int = 20,
    test: int = 30,
    seed: int = 0,
    judge: str | Policy | LateCaller | None = None,
    rubric: str = RUBRIC,
    topology: Topology = "auto",
    margin: float = 0.0,
    judge_tokens: int = 400,
) -> Task:
    """Generated requests for two or three sentences; the answers of a group meet in a tournament.

    Args:
        judge: the model that compares, asked through the run's record and budget. Without one it is the model that
            writes, which likes its own style: the report then says so. A group of N answers costs `comparisons(N)`
            matches of two calls each. It must be able to write JSON: the packaged model is too small for that.
        rubric: by which answers are compared, and graded where one stands alone.
        topology: "auto" is a round robin up to 4 answers and seeded elimination above.
        margin: scores no further apart than this tie.
        judge_tokens: the most that one verdict may be long.

    Raises:
        InputError: an unknown topology, or a negative margin.
    """
    late = LateCaller() if judge is None else late_caller(judge)
    alone = graded(late, rubric=rubric, show_reference=False, max_tokens=judge_tokens)
    learning, gating, testing = generate(_make, (learn, gate, test), seed)
    return Task(
        name="open_ended",
        learn=learning,
        gate=gating,
        test=testing,
        reward=tournament(late, rubric=rubric, topology=topology, margin=margin, alone=alone, max_tokens=judge_tokens),
        objective=f"Write so that a judge with this rubric prefers the text: {rubric}",
        sampling=Sampling(temperature=1.0, max_tokens=160),
        models=(late,),
        grader_only=True,
    )


def _make(draw: random.Random) -> Problem:
    drawn = {"name": draw.choice(NAMES), "city": draw.choice(CITIES), "thing": draw.choice(THINGS)}
    return generated(draw.choice(ASKS).format(**drawn), None)
