"""Progress: what the events of a run become on a screen."""

import io
from types import SimpleNamespace

from tfgrpo.cli.progress import View, progress
from tfgrpo.events import Event


def event(name, **data):
    return Event(name=name, data=data)


STARTED = event("started", task="flags", model="m", plan="up to 8 groups", groups=8, folder="runs/flags-1", recorded=12)
STEP = event("step_done", step=0, groups=2, reward=0.5, version=1, live=3, calls=9, usd=0.25, unpriced=0)


def test_the_start_says_what_is_planned_and_where_it_goes_on():
    lines = View().see(STARTED)
    assert lines[0] == "flags: m, up to 8 groups"
    assert lines[1] == "run folder runs/flags-1"
    assert "12 replies are on record" in lines[2]


def test_the_state_is_one_line():
    view = View()
    for seen in (STARTED, event("group_done", group=0), event("group_done", group=1), STEP):
        view.see(seen)
    assert view.line() == "groups 2/8, reward 0.50, v1, 3 live, 9 calls, $0.2500"
    view.see(event("test_progress", version="v0", done=3, total=10))
    view.see(event("test_progress", version="v1", done=5, total=10))
    assert view.line().startswith("test 8/20, ")


def test_no_price_shows_no_dollars():
    view = View()
    view.see(event("step_done", step=0, reward=None, version=1, live=0, calls=9, usd=0.0, unpriced=9))
    assert view.status() == "v1, 0 live, 9 calls"


def test_troubles_are_told_three_times_and_then_counted():
    view = View()
    told = [view.see(event("call_failed", problem="p", error="server down")) for _ in range(5)]
    assert [len(lines) for lines in told] == [1, 1, 1, 0, 0]
    assert told[0] == ["note: no reply for problem p: server down"]
    assert told[2][0].endswith("(more of these are only counted)")
    assert "5 lost" in view.status()


def test_nothing_is_shown_for_programs(capsys):
    for args in (SimpleNamespace(json=True, quiet=False), SimpleNamespace(json=False, quiet=True)):
        with progress(args) as listener:
            assert listener is None


def test_plain_lines_where_there_is_no_terminal(capsys):
    with progress(SimpleNamespace(json=False, quiet=False)) as listener:
        listener(STARTED)
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("flags: m")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    with progress(SimpleNamespace(json=False, quiet=False)) as listener:
        for seen in (STARTED, event("group_done", group=0), STEP):
            listener(seen)
        listener(event("learned", groups=8, stopped=""))
        listener(event("test_progress", version="v0", done=3, total=10))
    import sys

    shown = sys.stderr.getvalue()
    assert "groups" in shown and "reward 0.50" in shown and "learned from 8 groups" in shown
