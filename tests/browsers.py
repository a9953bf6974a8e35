"""A real headless Chromium, driven over its own DevTools protocol with aiohttp: no driver has to be installed."""

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from aiohttp import ClientSession, WSMsgType

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-default-apps", "--disable-extensions", "--mute-audio"),
)
TIMEOUT_S = 30
CODES = {"Enter": 13, "Escape": 27, "Tab": 9}


@contextlib.asynccontextmanager
async def browsing(width=1280, height=900):
    """One empty tab."""
    with tempfile.TemporaryDirectory(prefix="tfgrpo-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    url = next(t["webSocketDebuggerUrl"] for t in await response.json() if t["type"] == "page")
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    tab = Tab(socket)
                    try:
                        await tab.begin(width, height)
                        yield tab
                    finally:
                        tab.reader.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its helpers are of its own group
            process.wait()


async def _port(file):
    async with asyncio.timeout(TIMEOUT_S):
        while not file.exists() or not file.read_text().strip():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])


class Tab:
    """`requests` are the URLs it asked for, `complaints` what its console said."""

    def __init__(self, socket):
        self.requests, self.complaints = [], []
        self._socket, self._numbers, self._waiting = socket, itertools.count(1), {}
        self._loaded = asyncio.Event()
        self.reader = asyncio.create_task(self._read())

    async def begin(self, width, height):
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.resize(width, height)

    async def _read(self):
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            data = message.json()
            if "id" in data:
                self._waiting.pop(data["id"]).set_result(data)
            else:
                self._told(data["method"], data["params"])

    def _told(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))

    async def send(self, method, **params):
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(TIMEOUT_S):
            answer = await self._waiting[number]
        assert "error" not in answer, answer
        return answer["result"]

    @contextlib.asynccontextmanager
    async def loading(self):
        """What is done inside leads to another page, which is waited for."""
        self._loaded.clear()
        yield
        async with asyncio.timeout(TIMEOUT_S):
            await self._loaded.wait()

    async def open(self, url):
        async with self.loading():
            await self.send("Page.navigate", url=url)

    async def run(self, script):
        """The value of an expression."""
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def press(self, *keys):
        for key in keys:
            code = CODES.get(key, ord(key[0]))
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            for kind in ("keyDown", "keyUp"):
                more = text if kind == "keyDown" else {}
                await self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    async def click(self, selector):
        """With the mouse, in the middle of what the selector finds first."""
        spot = await self.run(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1)

    async def resize(self, width, height=900):
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def prefer(self, scheme):
        """The system's choice of light or dark."""
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, file, *, whole=False):
        answer = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await asyncio.to_thread(Path(file).write_bytes, base64.b64decode(answer["data"]))
