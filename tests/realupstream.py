"""What must hold with `tfgrpo serve` and `tfgrpo.wrap` before a server with a real model, whichever it is."""

import asyncio
import json

import openai
from aiohttp import ClientSession
from pydantic import BaseModel
from upstreams import library, serving

import tfgrpo

FACT = "Dock Amber handles fragile parcels."
ASK = [{"role": "user", "content": "Which dock handles fragile parcels?"}]


class Unit(BaseModel):
    """A form with two contents only, so that a small model cannot but end."""

    unit: bool


FUNCTION = {
    "name": "convert",
    "strict": True,
    "parameters": {**Unit.model_json_schema(), "additionalProperties": False},
}
TOOL = {"type": "function", "function": FUNCTION}


async def holds(url, model, folder, *, idle, calls_tools):
    """Asks by openai-python, directly and through the proxy.

    Args:
        url: of the server.
        model: its name there.
        folder: for the library.
        idle: (text of the server's own page) -> whether it works on nothing; with the page's path, as a pair.
        calls_tools: whether its model calls a tool that it is told to call.
    """
    place = library(folder, FACT)
    async with (
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as direct,
        serving("--store", place, "--upstream", url, "--log", "none") as process,
        openai.AsyncOpenAI(base_url=process.url, api_key="none", max_retries=0) as client,
    ):
        assert [m.id async for m in client.models.list()] == [m.id async for m in direct.models.list()]
        await _the_notes_arrive(direct, client, model, place)
        await _a_stream_comes_in_pieces(client, model)
        await _forms_of_answers(client, model, calls_tools=calls_tools)
        await _its_errors_are_its_own(direct, client, model)
        await _who_goes_away_stops_it(client, model, url, idle)
    async with tfgrpo.wrap(openai.AsyncOpenAI(base_url=url, api_key="none"), place, strategy="vote:3") as client:
        reply = await client.chat.completions.create(model=model, messages=ASK, max_tokens=8, seed=1)
        assert reply.choices[0].message.content and client.experience.last.calls == 3
        assert reply.usage.prompt_tokens % 3 == 0 and 3 <= reply.usage.completion_tokens <= 24


async def _the_notes_arrive(direct, client, model, place):
    """The server counts as many tokens as in the prompt with the notes, and not those of the bare one."""
    with tfgrpo.follow(place) as notes:
        noted = notes(ASK)
    options = {"model": model, "max_tokens": 12, "temperature": 0}
    bare = await direct.chat.completions.create(messages=ASK, **options)
    told = await direct.chat.completions.create(messages=noted, **options)
    raw = await client.chat.completions.with_raw_response.create(messages=ASK, **options)
    reply = raw.parse()
    assert raw.headers["x-tfgrpo-experiences"] == "E1@1" and reply.choices[0].message.content
    assert reply.usage.prompt_tokens == told.usage.prompt_tokens > bare.usage.prompt_tokens
    ask = {"model": model, "input": ASK[0]["content"], "max_output_tokens": 12}
    answer = await client.responses.create(**ask)
    assert answer.output_text and answer.usage.input_tokens == reply.usage.prompt_tokens
    events = [event async for event in await client.responses.create(**ask, stream=True)]
    assert events[0].type == "response.created" and len([e for e in events if e.type.endswith("text.delta")]) > 2


async def _a_stream_comes_in_pieces(client, model):
    pieces = await client.chat.completions.create(
        model=model, messages=ASK, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in pieces]
    said = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(said) > 2 and "".join(said).strip()
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert [c.usage.completion_tokens <= 12 for c in chunks if c.usage] == [True]


async def _forms_of_answers(client, model, *, calls_tools):
    given = {"model": model, "messages": ASK, "max_tokens": 100, "temperature": 0}
    parsed = await client.chat.completions.parse(**given, response_format=Unit)
    assert isinstance(parsed.choices[0].message.parsed, Unit)
    choice = {"type": "function", "function": {"name": "convert"}}
    reply = await client.chat.completions.create(**given, tools=[TOOL], tool_choice=choice)
    calls = reply.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == ["convert"] * calls_tools
    assert all(Unit.model_validate_json(call.function.arguments) for call in calls)
    with_odds = await client.chat.completions.create(**{**given, "max_tokens": 2}, logprobs=True)
    assert len(with_odds.choices[0].logprobs.content) == 2


async def _its_errors_are_its_own(direct, client, model):
    told = []
    for asked in (direct, client):
        try:
            await asked.chat.completions.create(model=model, messages=ASK, temperature="hot")
        except openai.APIStatusError as error:
            told.append((error.status_code, json.dumps(error.body)))
    assert len(told) == 2 and told[0] == told[1]


async def _who_goes_away_stops_it(client, model, url, idle):
    """A long answer that nobody reads any longer is not written to its end."""
    path, is_idle = idle
    pieces = await client.chat.completions.create(
        model=model, messages=ASK, max_tokens=1200, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(aiter(pieces))
    async with ClientSession(url.removesuffix("/v1")) as session:

        async def at_rest():
            async with session.get(path) as response:
                return is_idle(await response.text())

        assert not await at_rest()
        await pieces.close()
        for _ in range(50):
            if await at_rest():
                return
            await asyncio.sleep(0.1)
    raise AssertionError("the server still writes an answer for nobody")
