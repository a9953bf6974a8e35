"""A scripted model behind either API of OpenAI, whole or streamed, that does better with the note in its prompt."""

import json

import openai
from aiohttp import web
from upstreams import NOTE, completion

ASK = [{"role": "user", "content": "5 km in m?"}]
TOOL = {"type": "function", "function": {"name": "convert", "parameters": {"type": "object", "properties": {}}}}


async def answer(request, body):
    """A chat or a response, whole or streamed; its words are the first 40 characters of what stands before them."""
    if request.method == "GET":
        return web.json_response(
            {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}
        )
    data = json.loads(body)
    if request.path.endswith("/responses"):
        return await _response(request, data)
    if request.path.endswith("/embeddings"):
        return web.json_response({"object": "list", "model": "m", "data": []})
    words = "5000" if NOTE in str(data["messages"]) else "bare"
    if data.get("response_format"):
        words = '{"metres": 5000}'
    if not data.get("stream"):
        reply = completion(words)
        if data.get("tools"):
            call = {"id": "call-1", "type": "function", "function": {"name": "convert", "arguments": "{}"}}
            reply["choices"][0] |= {"finish_reason": "tool_calls"}
            reply["choices"][0]["message"] |= {"content": None, "tool_calls": [call]}
        return web.json_response(reply)
    pieces = [{"role": "assistant", "content": ""}, *({"content": c} for c in words)]
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [{**base, "choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return await stream(request, [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"])


async def _response(request, data):
    words = "5000" if NOTE in str(data.get("instructions")) + str(data["input"]) else "bare"
    if data.get("text", {}).get("format"):
        words = '{"metres": 5000}'
    text = {"type": "output_text", "text": words, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    if data.get("tools"):
        item = {"id": "fc_1", "type": "function_call", "call_id": "call-1", "name": "convert", "arguments": "{}"}
    usage = {
        "input_tokens": 9, "output_tokens": 1, "total_tokens": 10, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    whole = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [item],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage,
    }  # fmt: skip
    if not data.get("stream"):
        return web.json_response(whole)
    place = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
    events = [{"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}}]
    events.append({"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}})
    events.append({"type": "response.content_part.added", **place, "part": {**text, "text": ""}})
    events += [{"type": "response.output_text.delta", **place, "delta": c, "logprobs": []} for c in words]
    events.append({"type": "response.completed", "response": whole})
    events = [{**event, "sequence_number": n} for n, event in enumerate(events)]
    return await stream(request, [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events])


async def stream(request, pieces):
    out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await out.prepare(request)
    for piece in pieces:
        await out.write(piece.encode())
    return out


def sync_client(upstream, **options):
    return openai.OpenAI(base_url=upstream.url, api_key="sk-client", **options)


def async_client(upstream, **options):
    return openai.AsyncOpenAI(base_url=upstream.url, api_key="sk-client", **options)
