"""Model-written code: it computes, it is limited, it sees and leaves nothing."""

import asyncio
import os
import socket
import sys
import time

import psutil
import pytest
from servers import tool_call

from tfgrpo import Problem, Sampling, connect
from tfgrpo.agents import AgentCaller, PythonLimits, PythonRunner, python_tool, react, tool_of
from tfgrpo.budget import Ledger
from tfgrpo.caller import Caller, CallKey
from tfgrpo.errors import InputError
from tfgrpo.types import Prompt

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix only")
SHORT = PythonLimits(seconds=1.0, memory_mb=128)


def available():
    """The isolations that this system grants."""

    def granted(isolation):
        try:
            return asyncio.run(PythonRunner(isolation=isolation).isolation()) == isolation
        except InputError:
            return False

    return [isolation for isolation in ("namespaces", "process") if granted(isolation)]


@pytest.fixture(scope="module")
def granted():
    return available()


@pytest.fixture(params=["namespaces", "process"])
def runner(request, granted):
    if request.param not in granted:
        pytest.skip(f"no isolation by {request.param} here")
    return PythonRunner(limits=SHORT, isolation=request.param, concurrency=2)


@pytest.fixture
def walled(granted):
    if "namespaces" not in granted:
        pytest.skip("no namespaces here")
    return PythonRunner(limits=SHORT, isolation="namespaces")


@pytest.mark.parametrize(
    ("code", "text", "ok"),
    [
        ("x = 6\nx * 7", "42", True),
        ("print(1)\n2", "1\n2", True),
        ("x = 1", "[no output: print what you want to see]", True),
        ("print('ä' * 3)", "äää", True),
        ("", "[no output: print what you want to see]", True),
        ("import sys; print(1); sys.exit(3)", "1", False),
        ("def f(:", "SyntaxError: invalid syntax", False),
        ("x = 1\nx / 0", "ZeroDivisionError: division by zero", False),
        ("input()", "EOFError: EOF when reading a line", False),
        ("import decimal, fractions, itertools, math, random, re, collections; math.comb(5, 2)", "10", True),
        ("open('a', 'w').write('kept'); open('a').read()", "'kept'", True),
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(5)'])\nNone", "5", True),
    ],
)
async def test_output_and_the_value_of_the_last_line(runner, code, text, ok):
    ran = await runner.run(code)
    assert ran.text.endswith(text) and ran.ok is ok
    assert "python_worker" not in ran.text and ran.text.count("Traceback") <= 1


@pytest.mark.parametrize(
    ("code", "words", "within_s"),
    [
        ("while True: pass", "stopped after 1 s", 8),
        ("import time; time.sleep(60)", "stopped after 1 s", 8),
        ("import signal\nfor n in (1, 2, 14, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass", "1 s", 8),
        ("x = bytearray(10**10)", "MemoryError", 8),
        ("x = []\nwhile True: x.append('a' * 10**7)", "MemoryError", 8),
        ("while True: print('y' * 10_000)", "it printed more than 32 MB", 12),
        ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "stopped after 1 s", 10),
        ("for i in range(10**4): print(i)", "characters left out", 8),
    ],
    ids=["loop", "sleep", "signals", "memory", "growth", "flood", "forks", "long"],
)
async def test_limits(runner, code, words, within_s):
    started = time.monotonic()
    ran = await runner.run(code)
    assert words in ran.text and len(ran.text) < SHORT.output_chars + 200
    assert time.monotonic() - started < within_s
    assert family() == []


def family():
    """Processes of this test that are still there, zombies included."""
    return [p for p in psutil.Process().children(recursive=True) if "python_worker" in " ".join(_command(p))]


def _command(process):
    try:
        return [process.status(), *process.cmdline()] if process.status() != "zombie" else ["python_worker"]
    except psutil.NoSuchProcess:
        return []


async def test_the_number_of_processes_is_limited(runner):
    code = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0:
            time.sleep(30)
        made += 1
except OSError:
    pass
made"""
    assert int((await runner.run(code)).text) < 200


SEEN = """
import os, stat
def size(n):
    try:
        about = os.fstat(n)
        return about.st_size if stat.S_ISREG(about.st_mode) else 0
    except OSError:
        return 0
print(sorted(os.environ))
[n for n in range(3, 64) if size(n)]"""


async def test_no_environment_and_no_open_file_reaches_the_code(runner, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with (tmp_path / "keys").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        ran = await runner.run(
            "import os\nprint(dict(os.environ))\n[n for n in range(3, 64) if os.path.exists(f'/dev/fd/{n}')]"
        )
    assert "secret" not in ran.text and set(eval(ran.text.splitlines()[0])) <= {
        "LC_ALL",
        "LC_CTYPE",
        "__CF_USER_TEXT_ENCODING",
    }


async def test_a_process_that_leaves_its_group_ends_too(runner):
    code = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv({sys._base_executable!r}, ["python_worker_escaped", "-c", "import time; time.sleep(60)"])
    os._exit(0)
print("parent")"""
    assert (await runner.run(code)).text == "parent"
    assert not [p for p in psutil.process_iter() if "python_worker_escaped" in " ".join(_command(p))]


async def test_walls(walled, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("the key")
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    attempts = {
        f"open({str(secret)!r}).read()": "FileNotFoundError",
        "open('/etc/passwd').read()": "FileNotFoundError",
        "open('/usr/x', 'w')": "Error",
        f"open({sys.base_prefix!r} + '/x', 'w')": "Error",
        f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)": "unreachable",
        "import socket; socket.getaddrinfo('example.org', 80)": "gaierror",
        f"import os; os.kill({os.getpid()}, 9)": "ProcessLookupError",
        "import contextlib, os\nwith contextlib.suppress(OSError): os.kill(1, 9)\n'still here'": "still here",
        "import os; os.setuid(0)": "PermissionError",
        "import os; os.listdir('/proc')": "FileNotFoundError",
    }
    for code, error in attempts.items():
        ran = await walled.run(code)
        assert error in ran.text and "the key" not in ran.text, (code, ran)
    server.close()
    assert (await walled.run("import os; sorted(os.listdir('/tmp') + os.listdir('.'))")).text == "[]"


async def test_a_hundred_at_once_are_right_and_leave_nothing(granted, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tool = tool_of(python_tool(limits=PythonLimits(seconds=20), concurrency=4))
    code = "import os\nopen('mine', 'w').write('{n}')\nprint(open('mine').read(), os.listdir('.'))\nsum(range({n}))"
    texts = await asyncio.gather(*(tool.call({"code": code.format(n=n)}) for n in range(100)))
    assert texts == [f"{n} ['mine']\n{sum(range(n))}" for n in range(100)]
    assert family() == [] and list(tmp_path.iterdir()) == []


async def test_a_cancelled_run_is_killed(granted, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = PythonRunner()
    await runner.isolation()
    task = asyncio.create_task(runner.run("while True: pass"))
    await asyncio.sleep(0.5)
    assert family()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert family() == [] and list(tmp_path.iterdir()) == []


async def test_installed_packages_on_request(granted):
    runner = PythonRunner(packages=True, limits=PythonLimits(memory_mb=4096, processes=64))
    assert (await runner.run("import numpy\nint(numpy.arange(4).sum())")).text == "6"
    assert "No module named 'numpy'" in (await PythonRunner().run("import numpy")).text


def test_one_runner_serves_one_loop_after_the_other(granted):
    runner = PythonRunner(concurrency=1)

    async def twice():
        return [ran.text for ran in await asyncio.gather(runner.run("1"), runner.run("2"))]

    assert asyncio.run(twice()) == asyncio.run(twice()) == ["1", "2"]


async def test_what_the_system_refuses_is_said(granted):
    if "process" in granted:
        pytest.skip("both kinds are granted here")
    with pytest.raises(InputError, match="isolation by process"):
        await PythonRunner(isolation="process").run("1")


def test_the_tool_describes_itself():
    spec = tool_of(python_tool()).spec["function"]
    assert spec["name"] == "python" and list(spec["parameters"]["properties"]) == ["code"]


async def test_a_hundred_rollouts_that_compute_are_a_hundred_right_results(granted, chat_server):
    def answer(body):
        last = body["messages"][-1]
        if last["role"] == "tool":
            return last["content"]
        code = f"open('n', 'w').write('{last['content']}')\nint(open('n').read()) ** 2"
        return tool_call("python", {"code": code})

    chat_server.answer = answer
    asked = [({"role": "user", "content": str(n)},) for n in range(100)]
    problems = [Problem(id=str(n), messages=messages, answer=str(n * n)) for n, messages in enumerate(asked)]
    agent = react([python_tool(limits=PythonLimits(seconds=20), concurrency=4)])
    policy = connect(f"{chat_server.url}#m")
    solver = AgentCaller(Caller(policy, record=None, ledger=Ledger(), concurrency=100), agent)
    keys = [CallKey(purpose="solve", problem=p.id) for p in problems]
    replies = await asyncio.gather(
        *(solver.answer(p, Prompt(messages=p.messages), k, Sampling()) for p, k in zip(problems, keys, strict=True))
    )
    await policy.aclose()
    assert [reply.text for reply in replies] == [problem.answer for problem in problems]
    assert family() == []
