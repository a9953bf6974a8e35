"""Progress of training: a table on a terminal, a line per step elsewhere, nothing for programs."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tinycounting import OPTIONS, train
from tinymodel import save_tiny

from hybrid.progress import Lines, View, live, progress, step_words
from hybrid.quantities import QUANTITIES, TOPICS, ordered, quantity
from tfgrpo.cli.main import main
from tfgrpo.events import Event


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def event(name: str, **data: Any) -> Event:
    return Event(name=name, data=data)


STARTED = event("started", task="numbers", model="m", setup="float32 on cpu", plan="25 steps of 8 problems x 8 answers",
                folder="out", steps=25, seconds=None, prompts=8)  # fmt: skip


def step(number: int, **changes: float) -> Event:
    usual = {
        "planned": 25, "step": float(number), "reward": 0.1 * number, "success": 0.2, "mixed": 0.5,
        "zero_variance": 0.25, "length": 12.0, "truncated": 0.125, "part/form": 0.75, "updates": number,
        "loss": 0.25, "entropy": 1.5, "kl_k3": 0.0125, "parity_mean": 2e-4, "parity_k3": 1e-6, "clipped_low": 0.01,
        "clipped_high": 0.02, "sampler_capped": 0.005, "grad_norm": 2.0, "tokens_per_s": 250.0, "memory_gib": 2.5,
        "sample_s": 4.0, "update_s": 6.0,
    }  # fmt: skip
    return Event(name="update_done", data={**usual, **changes})


def drawn(*events: Event, width: int = 160) -> str:
    view, out = View(), io.StringIO()
    for seen in events:
        view.see(seen)
    Console(file=out, width=width, force_terminal=True, color_system=None).print(view)
    return out.getvalue()


def test_one_line_holds_what_a_step_came_to() -> None:
    said = step_words(step(3).data)
    for words in ("step 3/25", "reward 0.300", "form 0.750", "mixed 50%", "flat 25%", "length 12", "cut 12%",
                  "loss +0.25", "entropy 1.50", "kl_k3 1.3e-02", "parity 2.0e-04", "clipped below 1.0%", "above 2.0%",
                  "capped 0.5%", "250 tokens/s", "2.5 GiB", "4+6 s"):  # fmt: skip
        assert words in said, said


def test_the_table_shows_every_quantity_that_the_step_has() -> None:
    screen = drawn(STARTED, *(step(n) for n in range(1, 6)))
    for words in ("step 5/25", "3:20 left", "part form", "KL to start (k3)", "1.25e-02 nats",
                  "KL to sampler (k3)", "zero variance", "clipped below", "weights capped", "250 tokens/s",
                  "2.50 GiB", "▁▃▅▆█", "from 0.100", "writing answers"):  # fmt: skip
        assert words in screen, screen
    assert "kl" not in drawn(STARTED, Event(name="update_done", data={"step": 1.0, "sample_s": 1.0, "update_s": 0.0}))


@pytest.mark.parametrize("width", [30, 50, 79, 111, 112, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    screen = drawn(STARTED, *(step(n) for n in range(1, 30)), width=width)
    assert max(map(len, screen.splitlines())) <= width
    assert len(screen.splitlines()) <= 25, "a quantity is one line"


def test_the_stages_of_a_step() -> None:
    view = View()
    stages = []
    for seen in (
        STARTED,
        event("test_progress", version="step 0", done=3, total=12),
        event("measured", step=0, words="0.2"),
        *(event("group_done", group=n) for n in range(8)),
        step(1),
    ):
        view.see(seen)
        stages.append(view.stage)
    assert stages == ["getting ready", "test 3/12", "writing answers", *(f"{n}/8 groups" for n in range(1, 8)),
                      "learning", "writing answers"]  # fmt: skip


def test_a_budget_of_time_fills_the_bar_with_what_earlier_processes_spent() -> None:
    started = Event(name="started", data={**STARTED.data, "steps": None, "seconds": 100.0})
    screen = drawn(started, event("resumed", step=7, checkpoint="out/step-7", spent_s=65.0))
    assert "step 7 " in screen and "1:05" in screen and "left" not in screen


def test_alarms_tests_and_troubles_stay_above_the_table() -> None:
    view = View()
    assert view.see(event("alarm", alarm="all_cut", step=12, words="nearly all were cut")) == [
        "alarm all_cut after step 12: nearly all were cut"
    ]
    assert view.see(event("measured", step=25, words="0.5 (95 % 0.4..0.6)"))[0].startswith("test after step 25: 0.5")
    told = [view.see(event("reward_failed", error="no score")) for _ in range(5)]
    assert [len(lines) for lines in told] == [1, 1, 1, 0, 0]
    assert "alarms: all_cut" in drawn(event("alarm", alarm="all_cut", step=12, words="w"), step(13))


def test_words_of_a_model_do_not_steer_the_terminal() -> None:
    hostile = "\x1b[31m\u202eno\x07"
    assert View().see(event("reward_failed", error=hostile)) == ["note: [31mno"]
    screen = drawn(STARTED, step(1, **{f"part/{hostile}": 1.0}))
    assert "part [31mno" in screen and not set(screen) & set("\x1b\u202e\x07")


def test_the_live_display_draws_lines_and_leaves(folder: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    with live(Console(file=out, width=120, force_terminal=True, color_system=None, highlight=False)) as listener:
        train(folder, tmp_path, steps=3, on_event=listener)
    said = out.getvalue()
    assert "counting: " in said and "test after step 3" in said and "zero variance" in said
    assert said.rstrip().endswith(("\x1b[2K", "\x1b[?25h")), "the table is taken away at the end"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_where_it_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(silent=False) as listener:
        assert isinstance(listener, Lines)
        listener(STARTED)
        listener(step(1))
    assert "step 1/25" in capsys.readouterr().err
    with progress(silent=True) as listener:
        for seen in (STARTED, step(1), event("alarm", alarm="a", step=1, words="w")):
            listener(seen)
        assert capsys.readouterr() == ("", "")
        listener(event("subscriber_failed", subscriber="Tracker", error="OSError: disk full"))
    assert capsys.readouterr().err == "note: Tracker failed: OSError: disk full\n"
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress(silent=False) as listener:
        listener(STARTED)
    assert "run folder out" in sys.stderr.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("option", "quiet"), [("--quiet", True), ("--json", True), (None, False)])
def test_the_command_respects_quiet_and_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str | None, quiet: bool
) -> None:
    command = ["train", "tinycounting:counting", "--model", str(folder), "--out", str(tmp_path), "--steps", "1"]
    assert main([*command, "--group", "4", "--prompts", "2", *OPTIONS, *([option] if option else [])]) == 0
    said = capsys.readouterr()
    assert (said.err == "") is quiet or "Writing model shards" in said.err
    assert ("step 1/1  reward" in said.err) is not quiet
    assert ("tfgrpo report" in said.err) is not quiet


def test_the_table_of_quantities_is_sound() -> None:
    for name, known in QUANTITIES.items():
        assert known.topic in TOPICS and known.title and known.words(0.0)
        assert quantity(name) is known
    assert ordered(QUANTITIES) == list(QUANTITIES)


def test_every_column_of_a_real_curve_is_known(folder: Path, tmp_path: Path) -> None:
    report = train(folder, tmp_path, steps=2, loss="grpo")
    names = {name for point in report.curve for name in point} - {"step"}
    unknown = {name for name in names if name not in QUANTITIES and not name.startswith("part/")}
    assert not unknown
