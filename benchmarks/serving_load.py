"""The server behind the proxies of serving.py, and the client before them: bare asyncio protocols that cost little.

python benchmarks/serving_load.py upstream LATENCY_S                            # prints its port
python benchmarks/serving_load.py load PORT COUNT IN_FLIGHT STREAM SPREAD_S     # prints seconds of each request
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

ANSWER = "First the parts are added up, then the sum is doubled, and so on until nothing is left to do. " * 4
CHUNKS, CHUNK_S = 20, 0.25
REPLY = json.dumps({
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1200, "completion_tokens": 90, "total_tokens": 1290,
              "prompt_tokens_details": {"cached_tokens": 1024}},
}).encode()  # fmt: skip
PIECE = b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'  # noqa: E501
LAST = b"data: [DONE]\n\n"


def request(n: int, *, stream: bool = False) -> bytes:
    """A chat request as openai-python sends it."""
    system = "Answer the question. Think step by step, keep to the point, and end with the answer. " * 8
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Question {n}: {'data ' * 60}"}]
    body = json.dumps({"model": "m", "messages": messages, "temperature": 1.0, "max_tokens": 256, "stream": stream})
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-bench\r\n"
        "Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: OpenAI/Python 2.25\r\n"
        "x-stainless-lang: python\r\nx-stainless-os: Linux\r\nx-stainless-runtime: CPython\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body.encode()


# -- the server behind the proxies ------------------------------------------------------------------------------------


class Upstream(asyncio.Protocol):
    """Answers every request after a fixed time; one that asks for a stream gets pieces at fixed times."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s, self.held = latency_s, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.out: Any = transport

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.held) < end + 4 + size:
                return
            body, self.held = self.held[end + 4 : end + 4 + size], self.held[end + 4 + size :]
            streamed = b'"stream":true' in body or b'"stream": true' in body
            loop = asyncio.get_running_loop()
            loop.call_later(self.latency_s, self.stream if streamed else self.answer)

    def answer(self) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(REPLY)}\r\n\r\n"
        self.out.write(head.encode() + REPLY)

    def stream(self, left: int = CHUNKS) -> None:
        if left == CHUNKS:
            self.out.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = PIECE if left else LAST
        self.out.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" + (b"" if left else b"0\r\n\r\n"))
        if left:
            asyncio.get_running_loop().call_later(CHUNK_S, self.stream, left - 1)


async def serve_upstream(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(latency_s), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# -- the client -------------------------------------------------------------------------------------------------------


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"no answer: {head[:300]!r}")
    at = head.find(b"content-length:")
    if at >= 0:
        return await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


async def load(port: int, count: int, in_flight: int, *, stream: bool = False, spread_s: float = 0.0) -> list[float]:
    """Seconds of each request, in a closed loop of `in_flight` connections that stay open.

    With a server of fixed latency they would all ask at the same moment for ever, so they begin one after the other.
    """
    taken: list[float] = []
    numbers = iter(range(count))
    expected = (CHUNKS * PIECE + LAST) if stream else REPLY

    async def worker(late_s: float) -> None:
        await asyncio.sleep(late_s)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        for n in numbers:
            data = request(n, stream=stream)
            begun = time.perf_counter()
            writer.write(data)
            body = await answer_of(reader)
            taken.append(time.perf_counter() - begun)
            if body != expected and b"choices" not in body:
                raise RuntimeError(f"another answer: {body[:200]!r}")
        writer.close()

    await asyncio.gather(*(worker(spread_s * n / in_flight) for n in range(in_flight)))
    return taken


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    if what == "upstream":
        asyncio.run(serve_upstream(float(numbers[0])))
    else:
        port, count, in_flight, stream = map(int, numbers[:4])
        found = load(port, count, in_flight, stream=bool(stream), spread_s=float(numbers[4]))
        print(json.dumps(asyncio.run(found)))
