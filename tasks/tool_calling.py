"""Turn a request into calls of functions with named arguments; four levels, the last without any fitting function."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from tasks._generated import Maker, generate, problem
from tasks._people import CITIES, NAMES, THINGS, WORDS
from tfgrpo.errors import InputError
from tfgrpo.policy.base import Sampling
from tfgrpo.rewards.tool_calls import tool_calls
from tfgrpo.task import Task
from tfgrpo.types import Problem

LEVELS = (1, 2, 3, 4)
SYSTEM = """You can call these functions:
{tools}
Reply with a JSON list of the calls that the request needs, in its order, and nothing else. \
Form of a list with one call: [{{"name": "get_time", "arguments": {{"zone": "UTC", "hours": 24}}}}]. \
If no function fits, reply with []."""
TOOLS = (
    'get_weather(city: string, day: "today" or "tomorrow")',
    "set_timer(minutes: integer, label: string): rings after some minutes",
    'set_alarm(time: "HH:MM" of 24 hours, label: string): rings at a time of day',
    "send_message(to: string, text: string)",
    "add_to_list(item: string, quantity: integer): puts things on the shopping list",
    'find_train(origin: string, destination: string, arrive_by: "HH:MM" of 24 hours)',
    'convert_money(amount: number, source: "EUR", "USD" or "GBP", target: "EUR", "USD" or "GBP")',
    'book_table(city: string, people: integer, time: "HH:MM" of 24 hours)',
)

CURRENCIES = {"EUR": "euros", "USD": "dollars", "GBP": "pounds"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One wish in several wordings and the calls that it needs."""

    wordings: tuple[str, ...]
    calls: tuple[Mapping[str, object], ...]


def task(*, learn: int = 60, gate: int = 30, test: int = 80, seed: int = 0, level: int | None = None) -> Task:
    """Requests that name all values (1), that need them converted (2), two in one (3), or none that fits (4)."""
    if level not in (None, *LEVELS):
        raise InputError(f"tool_calling has the levels {', '.join(map(str, LEVELS))}; got level={level!r}")
    learning, gating, testing = generate(_maker(level), (learn, gate, test), seed)
    return Task(
        name="tool_calling",
        learn=learning,
        gate=gating,
        test=testing,
        reward=tool_calls(explicit=True),
        objective="Reply with exactly the function calls that the request needs, with exact names and values.",
        sampling=Sampling(temperature=0.7, max_tokens=160),
        grader_only=True,
    )


def _maker(level: int | None) -> Maker:
    system = SYSTEM.format(tools="\n".join(TOOLS))
    kinds = {1: _plain, 2: _converted, 3: _double, 4: _impossible}

    def make(draw: random.Random) -> Problem:
        chosen = level or draw.choice(LEVELS)
        asked = kinds[chosen](draw)
        first, *others = draw.sample(asked.wordings, len(asked.wordings))
        calls = list(asked.calls)
        made = problem(first, calls, system=system, gold=json.dumps(calls), level=chosen)
        return dataclasses.replace(made, variants=tuple(others))

    return make


def _call(name: str, **arguments: object) -> Mapping[str, object]:
    return {"name": name, "arguments": arguments}


def _plain(draw: random.Random) -> Asked:
    city, other = draw.sample(CITIES, 2)
    person, thing, word = draw.choice(NAMES), draw.choice(THINGS), draw.choice(WORDS)
    count, minutes, day = draw.randint(2, 60), draw.randint(2, 90), draw.choice(("today", "tomorrow"))
    time = f"{draw.randint(10, 22)}:{draw.choice(('00', '15', '30', '45'))}"
    return draw.choice((
        Asked((f"What will the weather be like in {city} {day}?", f"Tell me the weather {day} in {city}."),
              (_call("get_weather", city=city, day=day),)),
        Asked((f'Ring in {minutes} minutes and call it "{word}".', f'A timer of {minutes} minutes, label "{word}".'),
              (_call("set_timer", minutes=minutes, label=word),)),
        Asked((f"Put {count} {thing} on my shopping list.", f"Add {thing} to the list, {count} of them."),
              (_call("add_to_list", item=thing, quantity=count),)),
        Asked((f"Reserve a table for {count % 9 + 2} people in {city} at {time}.",
               f"In {city}, {time}: a table for {count % 9 + 2} people, please."),
              (_call("book_table", city=city, people=count % 9 + 2, time=time),)),
        Asked((f"Find a train from {city} to {other} that arrives by {time}.",
               f"I have to be in {other} by {time}; look for a train from {city}."),
              (_call("find_train", origin=city, destination=other, arrive_by=time),)),
        Asked((f'Send {person} the message "{word} is ready".', f'Text "{word} is ready" to {person}.'),
              (_call("send_message", to=person, text=f"{word} is ready"),)),
    ))  # fmt: skip


def _converted(draw: random.Random) -> Asked:
    city, thing, word = draw.choice(CITIES), draw.choice(THINGS), draw.choice(WORDS)
    hour, dozens, people = draw.randint(2, 10), draw.randint(2, 6), draw.randint(2, 7)
    source, target = draw.sample(sorted(CURRENCIES), 2)
    amount = draw.randint(3, 95) * 10
    return draw.choice((
        Asked((f'Wake me at half past {hour} in the evening, label "{word}".',
               f'Set an alarm called "{word}" for half past {hour} pm.'),
              (_call("set_alarm", time=f"{hour + 12}:30", label=word),)),
        Asked((f'Start a timer "{word}" of {hour} hours.', f'In {hour} hours, ring a timer with the label "{word}".'),
              (_call("set_timer", minutes=60 * hour, label=word),)),
        Asked((f"We need {dozens} dozen {thing}, put them on the list.", f"List: {thing}, {dozens} dozen."),
              (_call("add_to_list", item=thing, quantity=12 * dozens),)),
        Asked((f"How much is {amount} {CURRENCIES[source]} in {CURRENCIES[target]}?",
               f"I have {amount} {CURRENCIES[source]} and want {CURRENCIES[target]}."),
              (_call("convert_money", amount=amount, source=source, target=target),)),
        Asked((f"A table in {city} for me and {people} friends, {hour} in the evening.",
               f"Book dinner in {city} at {hour} pm for {people} friends and me."),
              (_call("book_table", city=city, people=people + 1, time=f"{hour + 12}:00"),)),
    ))  # fmt: skip


def _double(draw: random.Random) -> Asked:
    first, second = _plain(draw), draw.choice((_plain, _converted))(draw)
    join = draw.choice((" Then: ", " And after that: "))
    wordings = tuple(a + join + b for a, b in zip(first.wordings, second.wordings, strict=True))
    return Asked(wordings, (*first.calls, *second.calls))


def _impossible(draw: random.Random) -> Asked:
    city, thing, person, count = draw.choice(CITIES), draw.choice(THINGS), draw.choice(NAMES), draw.randint(2, 60)
    return draw.choice((
        Asked((f"Please paint {count} {thing} blue.", f"I want {count} {thing} painted in blue."), ()),
        Asked((f"What is the phone number of {person}?", f"Look up the phone number of {person}."), ()),
        Asked((f"How many people live in {city}?", f"Tell me the population of {city}."), ()),
        Asked((f"Take {count} {thing} off my shopping list.", f"Remove {count} {thing} from the list again."), ()),
    ))  # fmt: skip
