"""Makes the helpers beside this file importable: `from servers import ChatServer`, `from scripted import ...`."""

import sys
from pathlib import Path

import pytest_asyncio
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from servers import ChatServer

settings.register_profile("tests", deadline=None)  # a busy machine is no failure
settings.load_profile("tests")


@pytest_asyncio.fixture
async def chat_server():
    """A running OpenAI-compatible server on a loopback port; set its attributes to inject faults."""
    server = ChatServer()
    await server.start()
    yield server
    await server.stop()
