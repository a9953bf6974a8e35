"""A loopback server that speaks the OpenAI chat protocol, with faults to inject.

Its replies are a pure function of the request body, `seed` included, so that a run that gives every call its own seed
sees the same server whenever and in whatever order it asks. Run as a program it prints its URL and serves until killed.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web


def pure_answer(body):
    """Text from the request alone: the same request gets the same answer."""
    return "answer " + hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


@dataclass
class Fault:
    """What one request gets instead of a reply: a status with a body and headers, or one of the `kind`s."""

    status: int = 500
    body: object = None
    headers: dict = field(default_factory=dict)
    kind: str = "status"  # "status" | "garbage" | "hang" | "drop" | "half"


def tool_call(name, arguments, number=1):
    """A whole assistant message that calls a tool, as `ChatServer.answer` may return it."""
    call = {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def error_body(message, *, code=None, param=None, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ChatServer:
    """Attributes may be changed while it runs.

    `answer(body) -> str | dict` makes the text (or the whole message); `faults` is a list that is used up first, one
    for each request; `fault_of(body, number) -> Fault | None` decides for every request; `refuse` maps a parameter to
    the message of the 400 that it causes; `api_key` makes the server demand it; `max_in_flight` answers 429 above it.
    """

    def __init__(self, answer=pure_answer, *, latency_s=0.0, api_key=None):
        self.answer, self.latency_s, self.api_key = answer, latency_s, api_key
        self.faults, self.refuse, self.fault_of = [], {}, None
        self.usage = True  # or False: no usage in the reply, or a dict that replaces it
        self.model, self.finish_reason, self.max_in_flight = "served-model", "stop", None
        self.requests, self.counts, self.headers, self.paths = [], Counter(), [], []
        self.in_flight = self.peak_in_flight = self.replies = 0
        self.keep_requests = True
        self._runner = None

    async def start(self, port=0):
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/{tail:.*}chat/completions", self._chat)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def stop(self):
        await self._runner.cleanup()

    async def _health(self, request):
        return web.Response(text="ok")

    async def _models(self, request):
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _chat(self, request):
        body = await request.json()
        if self.keep_requests:
            self.requests.append(body)
            self.headers.append(dict(request.headers))
            self.paths.append(request.path_qs)
        self.counts[hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            fault = self._fault(request, body)
            if fault is not None:
                return await self._break(request, fault)
            await asyncio.sleep(self.latency_s)
            self.replies += 1
            return web.json_response(self._reply(body))
        finally:
            self.in_flight -= 1

    def _fault(self, request, body):
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            given = request.headers.get("Authorization", "")
            return Fault(401, error_body(f"Incorrect API key provided: {given}", code="invalid_api_key"))
        if self.faults:
            return self.faults.pop(0)
        if self.max_in_flight is not None and self.in_flight > self.max_in_flight:
            return Fault(429, error_body("Rate limit reached", code="rate_limit_exceeded"))
        for name, message in self.refuse.items():
            if _mentions(body, name):
                return Fault(400, error_body(message, param=name.split(".")[0], code="unsupported_parameter"))
        return self.fault_of(body, sum(self.counts.values())) if self.fault_of else None

    async def _break(self, request, fault):
        if fault.kind == "hang":
            await asyncio.sleep(3600)
        if fault.kind == "drop":
            request.transport.abort()
            return web.Response()
        if fault.kind == "half":
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"id": "x", "choices": [')
            request.transport.abort()
            return response
        if fault.kind == "garbage":
            return web.Response(text="<html>this is no JSON", content_type="text/html")
        if isinstance(fault.body, str):
            return web.Response(status=fault.status, text=fault.body, headers=fault.headers)
        return web.json_response(fault.body or error_body("planned fault"), status=fault.status, headers=fault.headers)

    def _reply(self, body):
        answer = self.answer(body)
        message = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
        reason = "tool_calls" if message.get("tool_calls") else self.finish_reason
        choice = {"index": 0, "message": message, "finish_reason": reason}
        reply = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": [choice],
        }
        if self.usage is True:
            prompt = sum(len(str(m.get("content"))) for m in body["messages"]) // 4 + 4
            completion = len(str(message.get("content"))) // 4 + 1
            reply["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        elif self.usage:
            reply["usage"] = self.usage
        return reply


def _mentions(body, name):
    """`temperature`, or `response_format.json_schema` for one kind of a structured parameter."""
    head, _, kind = name.partition(".")
    return head in body and (not kind or body[head].get("type") == kind)


async def _serve_forever(port, latency_s):
    server = await ChatServer(latency_s=latency_s).start(port)
    server.keep_requests = False
    print(server.url, flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--latency-s", type=float, default=0.0)
    given = options.parse_args()
    asyncio.run(_serve_forever(given.port, given.latency_s))
