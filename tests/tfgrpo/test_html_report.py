"""The page of a run: one safe file that shows what happened, also when little did."""

import html.parser
import re

import pytest

import experience_store
from experience_store import Edit
from tfgrpo.errors import RunStateError
from tfgrpo.events import EventLog
from tfgrpo.html_charts import before_after, interval_bar, learning_curve
from tfgrpo.html_parts import clean, tag
from tfgrpo.html_report import verdict, write_report
from tfgrpo.measurement import Measurement
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.report import Measured, Report
from tfgrpo.types import Completion, Usage

HOSTILE = (
    '</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>" onload="x\x1b[31m\u202egnp\u202c\x00 &amp;'
)
VOID = {"meta", "br"}


class Page(html.parser.HTMLParser):
    """Reads a page as a browser would, as far as tags go, and checks that they nest."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += attributes
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def measured(mean, low, high, **more):
    return Measured(mean=mean, low=low, high=high, n=60, **more)


def report(folder, **changes):
    usual = {
        "run": "task-1", "folder": str(folder), "task": "task", "model": "m", "critic": "lessons:m",
        "store": str(folder / "store"), "start": 0, "final": 1, "accepted": True, "why": "experiences were accepted",
        "before": measured(0.2, 0.1, 0.3), "after": measured(0.5, 0.4, 0.6), "gain": measured(0.3, 0.2, 0.4),
        "gain_words": "+0.300 (95 % +0.200..+0.400, n=60)",
        "learned": [{"id": "E1", "text": "Check units.", "question": "", "kind": "lesson", "effect": 0.2, "low": 0.1,
                     "high": 0.3, "groups": 12, "verdict": "helps"}],
        "curve": [{"step": 0, "groups": 4, "version": 0, "reward": 0.2, "low": 0.0, "high": 0.4},
                  {"step": 1, "groups": 4, "version": 1, "reward": 0.5, "low": 0.3, "high": 0.7}],
        "spend": {"solve": {"calls": 3, "failed_calls": 2}},
        "config": {"store": f"{folder / 'store'}#default", "seed": 3},
    }  # fmt: skip
    return Report(**{**usual, **changes})


def reply(text, question="What is 2 + 3?", cost=0.001):
    return Completion(
        prompt=({"role": "user", "content": question},), messages=({"role": "assistant", "content": text},), text=text,
        policy="m", usage=Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=6), cost_usd=cost,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """`run(report=None, answers=..., question=...)` makes a run folder of two groups and returns the read page."""

    def make(done=None, answers=("5", "six", "seven", "five"), question="What is 2 + 3?", cost=0.001, events=()):
        folder = tmp_path / "runs" / "task-1"
        with RunRecord.open(folder) as record:
            log = EventLog(record)
            log.emit("started", run="task-1", groups=4, task="task", model="m")
            for n, text in enumerate(answers):
                key = CallKey(purpose="solve", epoch=n // 2, problem=f"p{n // 2}", sample=n % 2)
                record.put_call(bytes([n]), key, reply(text, question, cost), solver=True, prompt=bytes([n]))
            for group in range(2):
                scored = [{"sample": s, "score": float(s == 0), "experiences": ["E1@1"] * s} for s in range(2)]
                log.emit("group_done", group=group, problem=f"p{group}", version=0, rollouts=scored)
                log.emit("step_done", step=group, groups=group + 1, reward=0.5, version=group)
            for name, data in events:
                log.emit(name, **data)
            if done is not None:
                record.put_state("report", done.as_json())
        return Page(write_report(folder, tmp_path / "out" / "report.html"))

    return make


def test_the_page_tells_the_result_its_interval_and_its_cost(run, tmp_path):
    page = run(report(tmp_path))
    assert "Better on unseen problems: +0.300" in page.text
    assert "+0.300 (95 % +0.200..+0.400, n=60)" in page.text
    assert "0.400 to 0.600" in page.text
    assert "learning: rollouts 4 40 24 16 2 $0.0040" in page.text  # calls, tokens, cached, completion, failed, dollars
    assert "E1 Check units. +0.20 (+0.10 to +0.30) helps, 12 groups" in page.text
    assert "seed 3" in page.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gain": measured(0.02, -0.1, 0.14)}, "Inside the noise on unseen problems: +0.020"),
        ({"gain": measured(-0.2, -0.3, -0.1)}, "Worse on unseen problems: -0.200"),
        ({"gain": None}, "Accepted, but not measured on test problems"),
        ({"accepted": False, "gain": None}, "Nothing was accepted: nothing changed"),
        ({"accepted": False, "gain": None, "gate": {"pairs": 8, "passed": False}}, "Refused by the gate"),
    ],
)  # fmt: skip
def test_the_headline_is_plain(tmp_path, changes, words):
    assert verdict(report(tmp_path, **changes))[0].startswith(words)


def test_versions_come_from_the_store_with_reasons_and_effects(run, tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text="Check units.", trial=True, source={"group": 7, "problem": "p7"})],
                     note="step 0", writer="task-1/step-0")  # fmt: skip
        belief = {"effect": 0.25, "low": 0.1, "high": 0.4, "groups": 9, "verdict": "helps"}
        store.commit([Edit(op="accept", id="E1", reason="helps: shown")], note="step 1", writer="task-1/step-1",
                     evidence={"effects": {"E1": belief}})  # fmt: skip
        store.commit([Edit(op="add", text="Somebody else's.")], writer="another-run/step-0")
    page = run(report(tmp_path))
    assert "added E1 (on trial) Check units. from group 7, problem p7" in page.text
    assert (
        "accepted E1 Check units. reason: helps: shown; effect +0.25 (+0.10 to +0.40) over 9 groups: helps" in page.text
    )
    assert "Somebody else's" not in page.text


def test_a_missing_store_is_said_and_the_page_still_comes(run, tmp_path):
    page = run(report(tmp_path, diff="v0 -> v1\n+ E1@1"))
    assert "could not be opened" in page.text
    assert "+ E1@1" in page.text


def test_best_and_worst_answers_stand_with_what_was_in_their_prompts(run, tmp_path):
    page = run(report(tmp_path))
    assert "1.00 / 0.00 · What is 2 + 3?" in page.text
    assert "score 0.00; only in this prompt: E1@1 five" in page.text


def test_erased_words_are_missing_and_said(run, tmp_path):
    run(report(tmp_path))
    with RunRecord.open(tmp_path / "runs" / "task-1") as record:
        record.erase(containing="seven")
        record.put_state("report", report(tmp_path).as_json())
    page = Page(write_report(tmp_path / "runs" / "task-1", tmp_path / "report.html"))
    assert "seven" not in page.text
    assert "The words of this rollout were erased." in page.text


def test_unknown_prices_are_never_zero_dollars(run, tmp_path):
    page = run(report(tmp_path), cost=None)
    assert "unknown cost: the price is not known" in page.text
    assert "4 calls have no known price" in page.text
    assert "$0.0000" not in page.text


def test_a_run_that_was_stopped_is_shown_as_far_as_it_came(run):
    page = run(None)
    assert "This run has not finished. 2 of 4 groups are done." in page.text
    assert "What is served" not in page.text


def test_an_evaluation_has_a_page_of_its_own(tmp_path):
    done = Measurement(folder="f", task="task", model="m", split="test", store="./experience@v7", against="none",
                       after=measured(0.5, 0.4, 0.6, samples=8, pass_at_k=0.9), before=measured(0.4, 0.3, 0.5),
                       gain=measured(0.1, -0.1, 0.3), gain_words="+0.100", p_value=0.25, better=7, worse=3)  # fmt: skip
    with RunRecord.open(tmp_path / "run") as record:
        key = CallKey(purpose="evaluate", epoch=2, problem="p", sample=0)
        record.put_call(b"1", key, reply("5"), solver=True, prompt=b"1")
        record.put_state("measurement", done.as_json())
    page = Page(write_report(tmp_path / "run", tmp_path / "report.html"))
    assert "Inside the noise: +0.100 than none" not in page.text
    assert "Inside the noise against none: +0.100" in page.text
    assert "7 problems better, 3 worse" in page.text and "p = 0.25" in page.text
    assert "0.900 (k=8)" in page.text
    assert "has not finished" not in page.text


def test_an_interval_without_end_is_drawn(run, tmp_path):
    one = Measured(mean=0.5, low=float("-inf"), high=float("inf"), n=1)
    assert "nan" not in run(report(tmp_path, before=one, after=one, gain=one)).source


def test_failures_are_counted_and_listed(run, tmp_path):
    page = run(report(tmp_path), events=[("call_failed", {"error": "500", "problem": "p1"})] * 3)
    assert "call_failed 3" in page.text
    assert "error: 500; problem: p1" in page.text


def test_hostile_text_stays_text(run, tmp_path):
    learned = [{"id": HOSTILE, "text": HOSTILE * 500, "question": HOSTILE, "kind": "lesson", "effect": 0.1, "low": 0.0,
                "high": 0.2, "groups": 1, "verdict": HOSTILE}]  # fmt: skip
    done = report(tmp_path, task=HOSTILE, model=HOSTILE, why=HOSTILE, learned=learned, notices=[HOSTILE], diff=HOSTILE,
                  gate_words=HOSTILE, config={"store": str(tmp_path), HOSTILE: HOSTILE})  # fmt: skip
    answers = tuple(HOSTILE + str(n) for n in range(4))
    page = run(done, answers=answers, question=HOSTILE, events=[("failed", {"error": HOSTILE})])
    assert not {"script", "img", "iframe", "object", "link", "form", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert not set(page.source) & set("\x00\x1b\u202e")
    assert "<U+202E>gnp" in page.text
    assert len(page.source) < 200_000


def test_nothing_is_loaded_from_anywhere(run, tmp_path):
    page = run(report(tmp_path))
    assert "default-src 'none'" in dict(page.attributes)["content"] or "default-src 'none'" in page.source
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunStateError, match="no run record"):
        write_report(tmp_path, tmp_path / "report.html")


def test_an_unwritable_place_is_said(run, tmp_path):
    run(report(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStateError, match="could not be written"):
        write_report(tmp_path / "runs" / "task-1", tmp_path / "file" / "report.html")


def test_charts_put_numbers_where_they_belong():
    bar = interval_bar(0.5, 0.0, 1.0, verdict="helps", scale=1.0)
    assert 'cx="89.0"' in bar and 'x1="60.0"' in bar and 'x2="118.0"' in bar
    chart = before_after([("before", 0.0, 0.0, 0.5)], top=1.0)
    assert 'cx="84.0"' in chart
    long = before_after([("as it is", 0.0, 0.0, 0.5), ("trained, with experiences", 0.5, 0.4, 0.6)], top=1.0)
    assert 'cx="195.0"' in long  # names stand before the axis, not on it
    points = [{"groups": 5, "version": n // 2, "reward": n % 2, "low": None} for n in range(400)]
    curve = learning_curve(points)
    bare = learning_curve([{"groups": 8, "reward": 0.5}, {"groups": 8, "reward": 0.6}])  # of training: no versions
    assert bare.count("<circle") == 2 and ">v" not in bare and "16 groups" in bare and "sampled" not in bare
    assert curve.count("<circle") == 400 and curve.count(">v") <= 14 and "more characters" not in curve


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\r\nb", "a\nb"),
        ("\x07", "<U+0007>"),
        ("\u2066x", "<U+2066>x"),
        ("\ud800", "<U+D800>"),
        ("é 漢 🙂\t", "é 漢 🙂\t"),
    ],
)
def test_invisible_characters_are_made_visible(given, shown):
    assert clean(given) == shown


def test_attributes_and_children_are_escaped():
    assert tag("p", "<b>", title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;</p>'
