"""A small world in which learned text matters: what flag a made-up country has. Solver and critic in one function.

The solver knows nothing: it is right when the fact stands in its prompt, and one time in five by luck. The critic
writes the fact when it sees the correct answer, and every fourth time a wrong one. Both are pure functions of the
request.
"""

import hashlib
import json
import re

from tfgrpo import Problem, Sampling, Task
from tfgrpo.rewards.simple import contains

COLOURS = ["red", "blue", "green", "white", "black", "yellow", "purple", "orange"]
LANDS = [a + b for a in ("Am", "Bel", "Cor", "Dal", "Er") for b in ("avia", "oria", "unda", "esh")]


def luck(*parts):
    return int(hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:8], 16) / 2**32


def colour_of(land):
    return COLOURS[int(luck("colour", land) * len(COLOURS))]


def problems(start, stop, name="flag"):
    lands = [(i, LANDS[i % len(LANDS)]) for i in range(start, stop)]
    return tuple(
        Problem(
            id=f"{name}-{i}",
            messages=({"role": "user", "content": f"Question {i}. Which colour has the flag of {land}?"},),
            answer=colour_of(land),
        )
        for i, land in lands
    )


def flag_task(**changes):
    fields = {
        "name": "flags",
        "learn": problems(0, 40),
        "gate": problems(40, 60),
        "test": problems(60, 100),
        "reward": contains(),
        "sampling": Sampling(max_tokens=16),
    }
    return Task(**{**fields, **changes})


def words_of(body):
    return "\n".join(str(m["content"]) for m in body["messages"])


def answer(body):
    """What the server says to a solver call, or to a critic call (those ask for a schema)."""
    return _critic(body) if body.get("response_format") else _solver(body)


def _solver(body):
    land = re.search(r"flag of (\w+)\?", body["messages"][-1]["content"])[1]
    told = re.findall(rf"The flag of {land} is (\w+)", words_of(body))
    if told:
        return f"It is {told[0]}."
    if luck("solve", json.dumps(body, sort_keys=True)) < 0.2:
        return f"It is {colour_of(land)}."
    return "It is brown."


def _critic(body):
    text = words_of(body)
    land = re.search(r"flag of (\w+)\?", text)[1]
    wrong = luck("critic", json.dumps(body, sort_keys=True)) < 0.25
    colour = "brown" if wrong else colour_of(land)
    edit = {"op": "add", "id": "", "text": f"The flag of {land} is {colour}.", "reason": "seen"}
    return json.dumps({"edits": [edit]})


def expected_accuracy(text):
    """The share of all lands whose right colour stands in the text and no wrong one."""
    told = {land: re.findall(rf"The flag of {land} is (\w+)", text) for land in LANDS}
    return sum(bool(c) and set(c) == {colour_of(land)} for land, c in told.items()) / len(LANDS)
