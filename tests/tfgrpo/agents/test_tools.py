"""Functions as tools: the schema, the checking, and errors that a model can read."""

import asyncio
from typing import Literal

import pytest

from tfgrpo.agents import tool_of
from tfgrpo.errors import BudgetExhausted, InputError


def weather(city: str, unit: Literal["C", "F"] = "C", days: list[int] | None = None) -> dict:
    """The weather of a city.

    Several lines are kept.

    Args:
        city: its name.
        days (list): which days.

    Returns:
        name: not an argument.
    """
    if city == "Nowhere":
        raise LookupError("no such city")
    return {"city": city, "unit": unit, "days": days}


async def slow(n: int) -> str:
    """Waits."""
    await asyncio.sleep(0)
    return "x" * n


def test_the_schema_comes_from_signature_and_docstring():
    spec = tool_of(weather).spec["function"]
    assert spec["name"] == "weather" and spec["description"] == "The weather of a city.\n\nSeveral lines are kept."
    properties = spec["parameters"]["properties"]
    assert properties["city"] == {"description": "its name.", "title": "City", "type": "string"}
    assert properties["unit"]["enum"] == ["C", "F"] and properties["days"]["description"] == "which days."
    assert spec["parameters"]["required"] == ["city"] and spec["parameters"]["additionalProperties"] is False
    assert tool_of(tool_of(weather)).name == "weather"


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ('{"city": "Bergen"}', '{"city": "Bergen", "unit": "C", "days": null}'),
        ({"city": "Bergen", "days": ["1"]}, '{"city": "Bergen", "unit": "C", "days": [1]}'),
        ('{"city": "Ber\ngen"}', '{"city": "Ber\\ngen", "unit": "C", "days": null}'),
        ({"city": "Nowhere"}, "error: LookupError: no such city"),
        ({"city": "Bergen", "unit": "K"}, "error: unit: Input should be 'C' or 'F'"),
        ({"town": "Bergen"}, "error: city: Field required; town: Extra inputs are not permitted"),
        ("[1]", "error: TypeError: the arguments are a JSON object, got list"),
        ("{", "error: JSONDecodeError"),
    ],
)
async def test_results_and_errors_are_text(arguments, result):
    assert (await tool_of(weather).call(arguments)).startswith(result)


async def test_async_tools_long_results_and_what_stops_the_run():
    def broke() -> str:
        """Fails."""
        raise BudgetExhausted("no")

    assert await tool_of(slow).call({"n": 3}) == "xxx"
    assert "2000 characters left out" in await tool_of(slow).call({"n": 10_000})
    with pytest.raises(BudgetExhausted):
        await tool_of(broke).call({})


def bare(x: int) -> int:
    return x


def untyped(x) -> int:
    """About."""
    return x


def starred(*x: int) -> int:
    """About."""
    return len(x)


@pytest.mark.parametrize(
    ("function", "words"), [(bare, "no docstring"), (untyped, "annotation for 'x'"), (starred, "no \\*")]
)
def test_what_a_model_could_not_use_is_refused(function, words):
    with pytest.raises(InputError, match=words):
        tool_of(function)
