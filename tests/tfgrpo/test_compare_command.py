"""`tfgrpo compare` as its user types it: versions, models and runs, the page, masks, one-line errors, kills."""

import html.parser
import json
import re
import signal
import subprocess
import sys
import time

import flagworld
import pytest
from cli import call, flag_file, served

import experience_store
from experience_store import Edit
from tfgrpo.record import RunRecord
from tfgrpo.runs import find_run

WRONG = "The flag of Amavia is brown."
HOSTILE = '</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>" onload="x\x1b[31m\u202egnp'


class Page(html.parser.HTMLParser):
    """The tags and words of a page, as a browser would read it."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words = set(), []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, name, attributes):
        self.tags.add(name)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for name in ("OPENAI_BASE_URL", "TFGRPO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def store(folder):
    """v1 knows ten lands, v2 all, v3 holds a falsehood about one of them instead."""
    place = folder / "store"
    with experience_store.open(place, embedder="hashing") as book:
        facts = [f"The flag of {land} is {flagworld.colour_of(land)}." for land in flagworld.LANDS]
        book.commit([Edit(op="add", text=fact) for fact in facts[:10]])
        book.commit([Edit(op="add", text=fact) for fact in facts[10:]])
        book.commit([Edit(op="drop", id="E1"), Edit(op="add", text=WRONG)])
        book.tag("good", 2)
    return place


def command(folder, *more, count=100):
    given = ("--task", flag_file(folder, count), "--reward", "contains", "--max-tokens", 16)
    return ("compare", *more, *given, "--runs", folder / "runs", "--concurrency", 8)


def test_two_versions_and_their_page(tmp_path):
    place = store(tmp_path)
    with served() as server:
        model = ("--model", "openai/solver", "--base-url", server.url, "--price", "1/2")
        said = call(*command(tmp_path, f"{place}@v1", "good", *model))
        asked = server.replies
        again = call(*command(tmp_path, f"{place}@v1", "good", *model, "--reuse", "--json"))
        assert server.replies == asked
    assert said.code == 0, said.err
    data = again.json
    assert data["b"]["score"]["mean"] == 1.0 > data["a"]["score"]["mean"]
    assert asked == 2 * data["difference"]["n"] == data["spend"]["evaluate"]["calls"]
    assert data["verdict"].startswith("B is ") and data["verdict"] in said.out
    assert data["a"]["cost_usd"] > 0 and "$0.00" in said.out
    assert data["better"] == len(data["flips"]) == min(20, said.out.count("  flip ")) > 0 == data["worse"]
    run = find_run("last", tmp_path / "runs")
    assert call("report", run).code == 0
    page = Page(run / "report.html")
    assert "better than A" in page.text and f"B better: {data['flips'][0]['problem']}" in page.text
    assert "script" not in page.tags
    listed = call("runs", "--runs", tmp_path / "runs").out
    assert "finished" in listed and data["difference_words"] in listed


def test_models_with_and_without_a_version_and_a_run(tmp_path):
    place = store(tmp_path)
    with served() as server:
        urls = ("--a-base-url", server.url, "--b-base-url", server.url, "--a-price", "1/1")
        both = call(*command(tmp_path, f"openai/one+{place}@v2", "openai/two", *urls, "--json"))
        assert both.code == 0, both.err
        assert (both.json["a"]["model"], both.json["b"]["model"]) == ("openai/one", "openai/two")
        assert both.json["a"]["score"]["mean"] == 1.0 and both.json["b"]["cost_usd"] is None
        assert {r["model"] for r in server.requests} == {"one", "two"}
        one = ("--model", "openai/one", "--base-url", server.url, "--json")
        task = (flag_file(tmp_path, 100), "--reward", "contains", "--max-tokens", 16, "--runs", tmp_path / "runs")
        run = call("evaluate", *task, *one, "--store", f"{place}@v1").json["folder"]
        asked = server.replies
        paired = call(*command(tmp_path, f"{run}:before", run, "--json"))
        assert paired.code == 0, paired.err
        assert server.replies == asked and paired.json["a"]["recorded"] and paired.json["spend"] == {}
        mixed = call(
            *command(tmp_path, run, f"{place}@v2", "--model", "openai/one", "--base-url", server.url, "--json")
        )
        assert mixed.json["b"]["score"]["mean"] == 1.0, mixed.err
        assert server.replies == asked + mixed.json["difference"]["n"]


@pytest.mark.slow
def test_a_transfer_masks_what_harms_and_evaluate_applies_it(tmp_path):
    place, mask = store(tmp_path), tmp_path / "mask.json"

    def gullible(body):
        """Believes falsehoods, and otherwise knows the answer half the time."""
        text, land = flagworld.words_of(body), re.search(r"flag of (\w+)\?", body["messages"][-1]["content"])[1]
        told = re.findall(rf"The flag of {land} is (\w+)", text)
        colour = told[0] if told else flagworld.colour_of(land)
        return f"It is {colour}."

    with served(gullible) as server:
        model = (
            "--transfer",
            "openai/other",
            "--base-url",
            server.url,
            "--budget-calls",
            700,
            "--group",
            2,
            "--mask",
            mask,
        )
        said = call(*command(tmp_path, place, *model, "--mask", mask, count=200))
        assert said.code == 0, said.err
        asked = server.replies
        again = call(*command(tmp_path, place, *model, "--mask", mask, "--json", count=200))
        assert server.replies == asked and again.json["mask"] == json.loads(mask.read_text())
        harmed = [e for e in again.json["effects"] if e["verdict"] == "harms"]
        assert [e["text"] for e in harmed] == [WRONG] and harmed[0]["high"] < 0
        assert [row["id"] for row in again.json["mask"]["out"]] == [harmed[0]["id"]]
        assert "1 harm" in said.out and "tfgrpo evaluate" in said.err
        use = ("evaluate", flag_file(tmp_path, 200), "--reward", "contains", "--store", place, "--mask", mask,
               "--base-url", server.url, "--runs", tmp_path / "runs", "--max-tokens", 16)  # fmt: skip
        better = call(*use, "--model", "openai/other", "--against", place, "--json")
        assert better.code == 0, better.err
        assert better.json["after"]["mean"] == 1.0 > better.json["before"]["mean"]
        assert better.json["store"] == f"{place}, masked"
        assert any(f"leaves out {harmed[0]['id']} of 20" in notice for notice in better.json["notices"])
        older = call(*use, "--model", "openai/other", "--against", "v1", "--json")
        assert older.code == 0 and older.json["against"].endswith("@v1"), older.err
        refused = call(*use, "--model", "openai/third")
        assert refused.code == 2 and "measured for 'openai/other'" in refused.err
    run = find_run(again.json["folder"], tmp_path / "runs")
    assert call("report", run).code == 0 and WRONG in Page(run / "report.html").text


def test_hostile_text_is_harmless_on_the_page(tmp_path):
    with served(lambda body: HOSTILE if body["model"] == "bad" else flagworld.answer(body)) as server:
        urls = ("--a-base-url", server.url, "--b-base-url", server.url)
        place = store(tmp_path)
        said = call(*command(tmp_path, "openai/bad", f"openai/good+{place}@good", *urls))
    assert said.code == 0 and "\x1b" not in said.out and "\u202e" not in said.out
    run = find_run("last", tmp_path / "runs")
    call("report", run)
    page = Page(run / "report.html")
    assert not {"script", "img"} & set(page.tags) and "\x1b" not in page.source and "\u202e" not in page.source


SERVER = ("--model", "http://127.0.0.1:9/v1#solver")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["none"], "compare with what?"),
        (["none", "v3", *SERVER], "'v3' is no side of a comparison"),
        (["none", "STORE@v9", *SERVER], "v9"),
        (["none", "STORE"], "which model answers?"),
        (["none", "STORE", *SERVER, "--budget-calls", 3], "the budget allows 3"),
        (["none", "STORE", *SERVER, "--budget-usd", 3], "price of"),
        (["none", "STORE", *SERVER, "--a-price", "1/1"], "are for a model that A names"),
        (["none", "runs/none-such", *SERVER], "there is no run at runs/none-such"),
        (["STORE", "--transfer", "openai/m", *SERVER], "no --model"),
        (["none", "--transfer", "http://127.0.0.1:9/v1#m"], "there is no store at none"),
        (["STORE", "--transfer", "http://127.0.0.1:9/v1#m", "--keep", "provem"], "did you mean 'proven'"),
        (["none", "STORE", *SERVER, "--splt", "gate"], "did you mean '--split'"),
    ],
)
def test_what_is_refused_is_one_line(args, said, tmp_path):
    place = store(tmp_path)
    done = call(*command(tmp_path, *(str(a).replace("STORE", str(place)) for a in args)))
    assert (done.code, done.out) == (2, "") and said in done.err, done.err
    assert done.err.startswith("tfgrpo: error: ") and len(done.err.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*/run.sqlite"))


def test_a_mask_needs_its_store(tmp_path):
    done = call("evaluate", flag_file(tmp_path), "--reward", "contains", *SERVER, "--mask", tmp_path / "m.json")
    assert done.code == 2 and "--mask needs the store" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_comparison_pays_for_nothing_twice(tmp_path):
    place = store(tmp_path)
    with served(latency_s=0.05) as server:
        model = ("--model", "openai/solver", "--base-url", server.url, "--samples", 3, "--json")
        given = [str(a) for a in command(tmp_path, "none", f"{place}@good", *model)]
        for stop_after in (30, 60):
            process = subprocess.Popen([sys.executable, "-m", "tfgrpo.cli.main", *given], stdout=subprocess.PIPE)
            deadline = time.monotonic() + 60
            while server.replies < stop_after and time.monotonic() < deadline:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        time.sleep(0.2)
        kept, before = on_disk(tmp_path), server.replies
        assert 40 < kept <= before
        done = call(*given)
        assert done.code == 0, done.err
        total = done.json["spend"]["evaluate"]["calls"]
        assert total == 2 * 3 * done.json["difference"]["n"] and server.replies == before + total - kept
        whole = call(*[a if a != str(tmp_path / "runs") else str(tmp_path / "whole") for a in given])
    assert {**whole.json, "folder": "", "seconds": 0} == {**done.json, "folder": "", "seconds": 0}


def on_disk(folder):
    run = find_run("last", folder / "runs")
    with RunRecord.open(run, read_only=True) as record:
        return sum(1 for _ in record.calls())
