"""The page of a training run: one safe file with curves, alarms and answers, also of a run that has not finished."""

from __future__ import annotations

import dataclasses
import html.parser
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cli import call
from tinycounting import FAST, Stop, counting, stop_at, train
from tinymodel import save_tiny

from hybrid.html_report import write_report
from hybrid.report import TrainReport
from hybrid.train_story import ANSWERS, GROUPS, STEPS, chosen_steps, read_story
from tfgrpo.errors import RunStateError
from tfgrpo.events import EventLog
from tfgrpo.html_curves import SMALL, WIDE, Measure, curve_over_steps, parts_of_whole, round_levels
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.report import Measured
from tfgrpo.runs import kind_of
from tfgrpo.types import Completion, Usage

ROOT = Path(__file__).parent.parent.parent
HOSTILE = '</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>" onload="x\x1b[31m\u202egnp\x00 &amp;'
VOID = {"meta", "br"}


class Page(html.parser.HTMLParser):
    """Reads a page as a browser would, as far as tags go, and checks that they nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def ran(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    """A real run, shared by the tests that only look at it."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    return out, train(folder, out, steps=5, group=4, prompts=3)


def written(out: Path, place: Path) -> Page:
    return Page(write_report(out, place / "report.html"))


def test_a_real_run_with_its_curves_and_answers(ran: tuple[Path, TrainReport], tmp_path: Path) -> None:
    out, report = ran
    page = written(out, tmp_path)
    assert report.before is not None and report.after is not None and report.gain is not None
    assert report.gain_words in page.text and f"{report.gain.mean:+.3f}" in page.text
    assert f"{report.before.low:.3f} to {report.before.high:.3f}" in page.text
    for title in ("Reward", "part numbers", "part brief", "success", "zero variance", "length", "cut off", "entropy",
                  "KL to sampler (k3)", "parity", "clipped below", "weights capped", "gradient norm", "written",
                  "memory", "Where the time went", "updates", "Methods and settings", "least_covered"):  # fmt: skip
        assert title in page.text, title
    charts = page.tags.count("svg")
    assert charts >= 20 and page.source.count('class="line"') >= 20
    assert "None of 7 rules saw anything. Most of them need 20 steps, and there are 5." in page.text
    assert "Nothing was left out" in page.text and "Nothing out of the ordinary happened." in page.text


def test_the_points_of_the_reward_lie_where_they_belong(ran: tuple[Path, TrainReport], tmp_path: Path) -> None:
    out, report = ran
    source = written(out, tmp_path).source
    told = [float(n) for n in re.findall(r"<title>step \d+: (-?[\d.]+)</title>", source)[:5]]
    assert told == [pytest.approx(point["reward"], abs=5e-3) for point in report.curve]
    assert source.count('class="dot test"') == 2  # the test before and after


def test_every_answer_stands_with_reward_parts_and_advantage(ran: tuple[Path, TrainReport], tmp_path: Path) -> None:
    out, _ = ran
    page = written(out, tmp_path)
    story = read_story(out)
    assert [step.number for step in story.steps] == [1, 2, 3, 4, 5]
    answers = [a for step in story.steps for group in step.groups for a in group.answers]
    assert len(answers) == 60 == story.answers
    for step in story.steps:
        assert f"Step {step.number}" in page.text
        for group in step.groups:
            rewards = [a.reward for a in group.answers]
            assert rewards == sorted(rewards, key=lambda r: -(r or 0.0))
            assert group.question in page.text
    rows = page.source.count('<div class="said">')
    assert rows == 60
    for answer in answers:
        assert answer.words is not None
        cells = f'<td class="number">{answer.advantage:+.3g}</td>'
        assert cells in page.source
    assert "advantage" in page.text and "learned" in page.text and "(cut)" in page.text


def test_winner_and_loser_stand_side_by_side(ran: tuple[Path, TrainReport], tmp_path: Path) -> None:
    out, _ = ran
    page = written(out, tmp_path)
    apart = [group for step in read_story(out).steps for group in step.groups if group.spread > 0]
    assert apart and page.source.count('<div class="pair">') == len(apart)
    best, worst = apart[0].answers[0], apart[0].answers[-1]
    assert f"{best.reward:.3g} / {worst.reward:.3g}" in page.text


def test_nothing_runs_and_nothing_is_loaded(ran: tuple[Path, TrainReport], tmp_path: Path) -> None:
    page = written(ran[0], tmp_path)
    assert "default-src 'none'" in page.source
    assert not {"script", "img", "iframe", "object", "link", "form", "a"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_a_run_that_was_stopped_is_shown_as_far_as_it_came(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(folder, tmp_path / "out", steps=5, on_event=stop_at("update_done", 3), settings=FAST)
    page = written(tmp_path / "out", tmp_path)
    assert "This run has not finished. 3 steps made." in page.text
    assert "Before training the test gave 0." in page.text
    assert "Step 3" in page.text and "Step 4" not in page.text
    train(folder, tmp_path / "out", steps=5)
    page = written(tmp_path / "out", tmp_path)
    assert "has not finished" not in page.text and page.text.count("Step 3 ") == 1
    with pytest.raises(Stop):
        train(folder, tmp_path / "out", steps=7, on_event=stop_at("update_done", 6))
    assert "has not finished. 6 steps made." in written(tmp_path / "out", tmp_path).text


def test_a_run_without_a_step(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "out", steps=0)
    page = written(tmp_path / "out", tmp_path)
    assert "The run recorded no scored answers." in page.text and "0 steps" in page.text


def test_a_task_without_a_test(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "out", steps=1, task=dataclasses.replace(counting(), test=()))
    assert "Trained, but not measured The task has no test problems." in written(tmp_path / "out", tmp_path).text


# -- runs that a model cannot be asked for ----------------------------------------------------------------------------


def made(
    place: Path, *, steps: int, groups: int, answers: int, words: str = "a word", part: str = "part", **point: Any
) -> Path:
    """A run folder written by hand, with any number of steps, groups and answers."""
    folder = place / "run"
    with RunRecord.open(folder) as record:
        log = EventLog(record)
        log.emit("started", kind="train", task=point.pop("task", "task"), model="m", setup="s", plan="p", folder="f")
        for step in range(1, steps + 1):
            columns: dict[str, list[Any]] = {n: [] for n in ("group", "problem", "sample", "reward", "advantage")}
            for group in range((step - 1) * groups, step * groups):
                for sample in range(answers):
                    value = (sample % 2) * (group % groups)
                    row = {"group": group, "problem": f"p{group}", "sample": sample, "reward": value}
                    for name, cell in {**row, "advantage": value - 0.5}.items():
                        columns[name].append(cell)
                    put(record, group, sample, words)
            ones = [1] * len(columns["group"])
            same = {"in_loss": ones, "success": ones, "length": ones, "cut": ones, "parts": {part: ones}}
            log.emit("answers_scored", step=step, **columns, **same)
            values = {name: value(step) if callable(value) else value for name, value in point.items()}
            log.emit("update_done", planned=steps, step=float(step), **{"reward": 0.5, **values})
    return folder


def put(record: RunRecord, group: int, sample: int, words: str) -> None:
    key = CallKey(purpose="solve", epoch=group, problem=f"p{group}", sample=sample)
    reply = Completion(
        prompt=({"role": "user", "content": f"{words}?"},), messages=({"role": "assistant", "content": words},),
        text=words, policy="m", usage=Usage(completion_tokens=3),
    )  # fmt: skip
    record.put_call(f"{group}/{sample}".encode(), key, reply, solver=True, prompt=b"same")


def test_a_large_run_is_cut_and_says_so(tmp_path: Path) -> None:
    page = written(made(tmp_path, steps=26, groups=9, answers=18, words="many words " * 300), tmp_path)
    shown = STEPS * GROUPS * ANSWERS
    assert page.source.count('<div class="said">') == shown
    assert f"{26 * 9 * 18 - shown:,} of 4,212 answers are not on this page ({STEPS} of 26 steps are)" in page.text
    assert "At most 24 steps of a run, 8 groups of a step and 16 answers of a group" in page.text
    assert "1 more group, not shown" in page.text and "2 more answers in between, not shown" in page.text
    assert "Step 1 " in page.text and "Step 26 " in page.text
    assert len(page.source) < 4_000_000
    assert "problem p8," in page.text and "problem p0," not in page.text  # the groups whose rewards differ most


def test_which_steps_are_shown() -> None:
    assert chosen_steps(range(1, 101), {33}, most=5) == [1, 33, 34, 67, 100]
    many = chosen_steps(range(1, 1001), set(range(1, 500)))
    assert len(many) <= STEPS and many[0] == 1 and many[-1] == 1000


def test_alarms_are_told_with_their_numbers_and_drawn(tmp_path: Path) -> None:
    columns = {"truncated": 1.0, "success": 0.1, "length": lambda n: 10.0 + 40 * (n > 12)}
    run = made(tmp_path, steps=30, groups=1, answers=2, **columns)
    page = written(run, tmp_path)
    assert "Alarms: 2" in page.text and "2 alarms: read below what looked wrong." not in page.text  # not finished
    assert "all cut, after step 10 100% of the last answers were cut off" in page.text
    assert "length drift, after step" in page.text and "Harmless with answers that must be long" in page.text
    assert page.source.count('class="mark"') == 2 * page.tags.count("svg")


def test_a_finished_run_with_alarms_says_so_at_the_top(tmp_path: Path) -> None:
    run = made(tmp_path, steps=12, groups=1, answers=2, truncated=1.0, success=0.1)
    gain = Measured(mean=0.3, low=0.1, high=0.5, n=9)
    curve = [{"step": float(n), "reward": 0.5, "truncated": 1.0, "success": 0.1} for n in range(1, 13)]
    done = TrainReport(folder="f", checkpoint="c", task="t", model="m", setup="s", steps=12, stopped="12 steps",
                       before=gain, after=gain, gain=gain, gain_words="+0.3", curve=curve,
                       notices=["alarm x after step 1: y", "own"])  # fmt: skip
    with RunRecord.open(run) as record:
        record.put_state("training", done.as_json())
        EventLog(record).emit("finished")
    page = written(run, tmp_path)
    assert "Better on unseen problems: +0.300" in page.text and "1 alarm: read below what looked wrong." in page.text
    assert "Note: own" in page.text and "Note: alarm" not in page.text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = made(
        tmp_path, steps=2, groups=2, answers=3, words=HOSTILE, part=HOSTILE, task=HOSTILE, **{f"part/{HOSTILE}": 1.0}
    )
    with RunRecord.open(run) as record:
        EventLog(record).emit("reward_failed", error=HOSTILE)
        EventLog(record).emit("alarm", alarm=HOSTILE, step=1, words=HOSTILE)
        record.put_state("config", {HOSTILE: HOSTILE})
    page = written(run, tmp_path)
    assert not {"script", "img", "iframe", "object", "link", "form", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert not set(page.source) & set("\x00\x1b\u202e")
    assert "<U+202E>gnp" in page.text and "reward_failed 1" in page.text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    run = made(tmp_path, steps=1, groups=1, answers=2, words="secret words")
    with RunRecord.open(run) as record:
        record.erase(containing="secret words")
    page = written(run, tmp_path)
    assert "secret" not in page.source and page.text.count("(not on record: given by the grouping, or erased)") >= 2


def test_an_answer_without_a_number_is_a_dash(tmp_path: Path) -> None:
    run = made(tmp_path, steps=1, groups=1, answers=1)
    with RunRecord.open(run) as record:
        columns: dict[str, list[Any]] = {name: [0, 1] for name in ("in_loss", "success", "length", "cut")}
        columns |= {"group": [0, 0], "problem": ["p0", "p0"], "sample": [0, -1]}
        columns |= {"reward": [None, 1.0], "advantage": [None, 0.0]}
        EventLog(record).emit("answers_scored", step=1, **columns, parts={"p": [None, 0.5]})
    page = written(run, tmp_path)
    assert '<td class="number">–</td>' in page.source and "given by the grouping" in page.text


def test_folders_that_hold_no_run_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunStateError, match="no run record"):
        write_report(tmp_path, tmp_path / "report.html")
    run = made(tmp_path, steps=1, groups=1, answers=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStateError, match="could not be written"):
        write_report(run, tmp_path / "file" / "report.html")


# -- charts -----------------------------------------------------------------------------------------------------------


def test_a_curve_puts_numbers_where_they_belong() -> None:
    chart = curve_over_steps([1, 2, 3, 4], [0.0, 1.0, float("nan"), 0.5], words=str, frame=SMALL)
    assert 'points="62.0,126.0 144.7,10.0"' in chart and 'points="310.0,68.0"' in chart  # a gap at step 3
    assert chart.count("<circle") == 3 and "step 4: 0.5" in chart
    marked = curve_over_steps([1, 2], [1, 2], words=str, frame=WIDE, marks=[(2, "<b>")],
                              measured=[Measure(step=0, mean=1.0, low=0.5, high=1.5, name="test")])  # fmt: skip
    assert "&lt;b&gt;" in marked and 'x1="68.0"' in marked and "test: 1.0 (0.5 to 1.5)" in marked


def test_curves_of_nothing_of_one_point_and_of_many() -> None:
    assert "nothing was measured" in curve_over_steps([1, 2], [float("nan")] * 2, words=str)
    assert curve_over_steps([7], [3.0], words=str).count("<circle") == 1
    many = curve_over_steps(range(5000), [0.1] * 5000, words=str)
    assert many.count("<circle") == 0 and "more characters" not in many and "nan" not in many


@pytest.mark.parametrize("low", [-3.0, 0.0, 1e-7, 0.98, 12.0, 1e9])
@pytest.mark.parametrize("width", [0.0, 1e-6, 0.3, 7.0, 123456.0])
@pytest.mark.parametrize("most", [3, 4, 5])
def test_levels_are_round_few_and_around_everything(low: float, width: float, most: int) -> None:
    levels = round_levels(low, low + width, most)
    assert 2 <= len(levels) <= most + 1
    slack = 1e-9 * (abs(low) + width) + 1e-12
    assert levels[0] <= low + slack and levels[-1] >= low + width - slack
    assert list(levels) == sorted(set(levels))


def test_parts_of_a_whole_fill_it() -> None:
    bar = parts_of_whole([("a", 1.0), ("b", 3.0)])
    assert 'width="180.0"' in bar and 'x="180.0"' in bar and 'width="540.0"' in bar and "b 75%" in bar
    assert "nan" not in parts_of_whole([("a", 0.0)])


# -- from the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of this checkout, whatever an older installation says."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    info = tmp_path / "site" / "tfgrpo-0.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tfgrpo\nVersion: 0.0.0\n")
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in rows.items()) for group, rows in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("installed")
def test_the_command_finds_the_writer_by_the_kind_of_run(ran: tuple[Path, TrainReport], tmp_path: Path) -> None:
    out, report = ran
    assert kind_of(out) == "train"
    said = call("report", out, "--out", tmp_path / "page.html", "--json")
    assert said.code == 0 and said.json["file"] == str(tmp_path / "page.html")
    assert report.gain_words in Page(tmp_path / "page.html").text
    listed = call("runs", "--runs", out.parent, "--json").json
    assert [(r["name"], r["kind"], r["state"], r["result"]) for r in listed] == [
        ("trained", "train", "finished", report.gain_words)
    ]


@pytest.mark.usefixtures("installed")
def test_a_kind_that_nobody_writes_reports_of_is_named(tmp_path: Path) -> None:
    with RunRecord.open(tmp_path / "run") as record:
        EventLog(record).emit("started", kind="dreaming")
    said = call("report", tmp_path / "run")
    assert said.code == 2 and "of the kind 'dreaming' (known: learn, evaluate," in said.err


def test_the_entry_point_names_the_writer() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    module, _, name = points["tfgrpo.reports"]["train"].partition(":")
    assert getattr(import_module(module), name) is write_report


def test_a_report_loads_neither_torch_nor_a_store(ran: tuple[Path, TrainReport], tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from hybrid.html_report import write_report
write_report(Path({str(ran[0])!r}), Path({str(tmp_path / "r.html")!r}))
print(sorted({{"torch", "transformers", "chromadb", "openai", "aiohttp", "pydantic"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
