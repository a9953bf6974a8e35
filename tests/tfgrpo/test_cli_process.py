"""The real command in a process of its own: a real Ctrl-C, a real kill, a pipe that closes, a dead server."""

import json
import os
import signal
import subprocess
import sys

import pytest
from cli import empty_store, flag_file, learn_args, served

TFGRPO = (sys.executable, "-m", "tfgrpo.cli.main")
pytestmark = pytest.mark.slow


def start(args, **options):
    """With Ctrl-C as a shell in the foreground leaves it, also where the tests run in the background."""
    return subprocess.Popen(
        [*TFGRPO, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


def wait_for(server, replies):
    """Until the server has answered so many calls."""
    import time

    deadline = time.monotonic() + 60
    while server.replies < replies and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.replies >= replies


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_stopped_run_goes_on_and_asks_nothing_twice(sent, code, tmp_path):
    empty_store(tmp_path)
    with served(latency_s=0.1) as server:
        args = learn_args(tmp_path, server, calls=200)
        process = start(args)
        wait_for(server, 40)
        process.send_signal(sent)
        returned, out, err = finish(process)
        assert (returned, out) == (code, "")
        if sent != signal.SIGKILL:
            assert "the same command goes on" in err
        code, out, err = finish(start(args))
        assert code == 0, err
        assert "replies are on record and are not asked for again" in err
        assert "  gate  " in out
        repeated = sum(server.counts.values()) - len(server.counts)
        assert repeated <= 16 + 2  # what was in flight when it stopped
        asked = sum(server.counts.values())
        code, out, err = finish(start((*args, "--json")))
        assert (code, err, sum(server.counts.values())) == (0, "", asked)
        assert json.loads(out)["notices"][-1] == "finished before; nothing was asked again"


def test_a_dead_server_is_told_and_costs_nothing(tmp_path):
    empty_store(tmp_path)
    with served() as server:
        args = learn_args(tmp_path, server, calls=40)
    code, out, err = finish(start(args))  # nobody listens there any more
    assert (code, out) == (3, "")
    assert "tfgrpo: error: " in err and "the same command goes on here" in err


def test_a_pipe_that_closes_is_no_error(tmp_path):
    store = empty_store(tmp_path)
    process = start(("store", "log", store, "--json"))
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err and "BrokenPipe" not in err


def test_everything_by_hand_once(tmp_path):
    """Learn, look, measure and export from a folder of one's own, with the defaults for places."""
    empty_store(tmp_path).rename(tmp_path / "experience")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with served() as server:
        solver = (flag_file(tmp_path).name, "--reward", "contains", "--model", f"{server.url}#solver")

        def run(*args):
            code, out, err = finish(start(args, cwd=tmp_path, env=environment))
            assert code == 0, err
            return out

        report = json.loads(run("learn", *solver, "--budget-calls", 200, "--json"))
        assert report["store"] == "./experience" and report["final"] > 0
        assert f"v{report['final']}" in run("store", "log", "./experience")
        measured = run("evaluate", *solver, "--store", f"./experience@v{report['final']}", "--samples", 4)
        assert "no experiences" in measured and "Pass@4" in measured
        run("store", "export", f"./experience@v{report['final']}", "library.json")
        assert "finished" in run("runs")
        run("report", "last")
