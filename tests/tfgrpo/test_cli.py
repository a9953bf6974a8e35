"""The command line as a user meets it: what it refuses and how it says so, learning, and what it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli import call, empty_store, flag_file, learn_args, served
from flagworld import answer
from test_architecture import LIGHT

from tfgrpo.record import RunRecord
from tfgrpo.runs import find_run


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "TFGRPO_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with one finished run, the server it asked, and what the command printed."""
    folder = tmp_path_factory.mktemp("learned")
    empty_store(folder)
    with served() as server:
        said = call(*learn_args(folder, server, "--json"))
        yield folder, server, said


# -- what is refused ----------------------------------------


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from tfgrpo.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*(m.partition('.')[0] for m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "evaluate" in done.stdout
    assert not {*LIGHT, "rich", "experience_store", "asyncio"} & set(done.stderr.split())


SOLVER = ("--model", "http://127.0.0.1:9/v1#solver")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["lern"], "did you mean 'learn'"),
        (["learn", "gsm9k", *SOLVER], "did you mean 'gsm8k'"),
        (["learn", "FILE", *SOLVER], "needs --reward: exact"),
        (["learn", "FILE", *SOLVER, "--reward", "exat"], "did you mean 'exact'"),
        (["learn", "FILE", *SOLVER, "--reward", "numeric", "--reward-option", "tolerence=1"], "did you mean 'toler"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--reward-option", "tolerance"], "needs the form K=V"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--budgt-usd", 1], "did you mean '--budget-usd'"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--gate", "evidnce"], "did you mean 'evidence'"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--critic", "lesons"], "did you mean 'lessons'"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--budget-usd", 1], "--price"),
        (
            ["learn", "FILE", *SOLVER, "--reward", "exact", "--group", 4, "--budget-calls", 2],
            "do not pay for one group of 4",
        ),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--group", "many"], "expected a whole number, got 'many'"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--store", "./here@v3"], "tfgrpo store rollback ./here v3"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--grouping", "hint"], "did you mean 'hints'"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--grouping", "hints"], "give meta['hints']"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--grouping-option", "levels=2"], "needs --grouping"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--advantage", "rlo"], "did you mean 'rloo'"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--sampler", "vass"], "did you mean 'vas'"),
        (["learn", "FILE", *SOLVER, "--reward", "judge"], "--judge openai/NAME"),
        (["learn", "FILE", *SOLVER, "--reward", "tournament"], "--judge openai/NAME"),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--judge", "openai/m"], "--judge is for --reward judge, "),
        (["learn", "FILE", *SOLVER, "--reward", "exact", "--rubric", "be nice"], "--rubric is for --reward judge"),
        (["learn", "FILE", "--reward", "exact", "--model", "gpt"], "openai/NAME"),
        (["learn", "largest_of_three", *SOLVER, "--task-option", "lern=3"], "did you mean 'learn'"),
        (["learn", "missing.jsonl", *SOLVER, "--reward", "exact"], "missing.jsonl"),
        (["evaluate", "FILE", *SOLVER, "--reward", "exact", "--against", "v1"], "--against needs --store"),
        (["evaluate", "FILE", *SOLVER, "--reward", "exact", "--split", "tset"], "did you mean 'test'"),
        (["evaluate", "FILE", *SOLVER, "--reward", "exact", "--budget-calls", 2], "needs 11 calls"),
        (["evaluate", "FILE", *SOLVER, "--reward", "exact", "--store", "nowhere"], "no store at nowhere"),
        (["store", "lgo", "nowhere"], "did you mean 'log'"),
        (["store", "log", "nowhere"], "no store at nowhere"),
        (["tasks", "check", "gsm9k"], "did you mean 'gsm8k'"),
        (["report", "none", "--runs", "nowhere"], "there is no run 'none'"),
        (["store", "tag", "a", "b", "c"], "did not expect 'c'"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = flag_file(tmp_path, 40)
    result = call(*(str(path) if a == "FILE" else a for a in args))
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("tfgrpo: error: ")
    assert said in result.err
    assert "Traceback" not in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flags.jsonl"]  # nothing was started


def test_methods_are_chosen_on_the_command_line_and_named_in_what_it_prints(tmp_path):
    chosen = ("--grouping", "roles", "--grouping-option", "per_group=2", "--advantage", "rloo", "--sampler", "vas")
    empty_store(tmp_path)
    with served() as server:
        plan = call(*learn_args(tmp_path, server, *chosen, "--dry-run"))
        said = call(*learn_args(tmp_path, server, *chosen, "--json", calls=60))
        text = call(*learn_args(tmp_path, server, *chosen, calls=60))
    assert plan.code == said.code == text.code == 0
    named = {"grouping": "roles(per_group=2)", "advantage": "rloo", "sampler": "vas"}
    assert said.json["methods"] == said.json["config"]["methods"] == named
    assert "methods   grouping roles(per_group=2), advantage rloo, sampler vas" in text.out
    told = [m["content"] for r in server.requests for m in r["messages"] if m["role"] == "system"]
    assert any("You are" in words for words in told)
    help_text = call("learn", "--help").out
    assert all(name in help_text for name in ("hints_replace_one", "rloo", "easy_to_hard"))


def test_no_key_names_the_variable(tmp_path):
    result = call("learn", flag_file(tmp_path), "--reward", "exact", "--model", "openai/gpt-4.1-mini")
    assert result.code == 3
    assert "set OPENAI_API_KEY" in result.err


def test_a_malformed_line_is_named_and_nothing_is_asked(tmp_path):
    path = flag_file(tmp_path)
    path.write_text(path.read_text() + '{"answer": 3}\nnot json\n')
    with served() as server:
        result = call(
            "learn", path, "--reward", "exact", "--model", f"{server.url}#m", "--runs", tmp_path / "runs"
        )  # fmt: skip
    assert result.code == 2
    assert f"{path}:61: expected one of the columns" in result.err
    assert f"{path}:62: expected one JSON object" in result.err
    assert not server.requests and not (tmp_path / "runs").exists()


def test_a_wrong_key_has_an_exit_code_of_its_own(tmp_path):
    empty_store(tmp_path)
    with served(api_key="right") as server:
        wrong = call(*learn_args(tmp_path, server, "--quiet"))
    assert wrong.code == 3
    assert "key" in wrong.err


def test_debug_shows_where_an_error_comes_from():
    with pytest.raises(Exception, match="no store at nowhere"):
        call("--debug", "store", "log", "nowhere")


def test_a_dry_run_prints_the_plan_and_asks_nothing(tmp_path):
    with served() as server:
        result = call(*learn_args(tmp_path, server, "--dry-run", "--price", "1/2", "--json"))
        words = call(*learn_args(tmp_path, server, "--dry-run", "--price", "1/2"))
    assert not server.requests and not (tmp_path / "store").exists() and not (tmp_path / "runs").exists()
    plan = result.json
    assert plan["parts"]["solver"]["calls"] <= 120
    assert plan["usd"] == pytest.approx(plan["parts"]["solver"]["usd"] + plan["parts"]["critic"]["usd"])
    assert "groups of" in words.out and "about $" in words.out


# -- learning and measuring ----------------------------------------


def test_learning_prints_json_alone_on_stdout(learned):
    _, _, said = learned
    assert said.code == 0
    assert said.json["groups"] > 0
    assert said.err == ""


def test_the_same_command_again_asks_nothing_and_says_so(learned):
    folder, server, said = learned
    asked = len(server.requests)
    again = call(*learn_args(folder, server))
    assert (again.code, len(server.requests)) == (0, asked)
    assert "finished before; nothing was asked again" in again.out
    assert "--new starts another one" in again.err
    assert said.json["run"] in again.out


def test_runs_and_report(learned, tmp_path):
    folder, _, said = learned
    listed = call("runs", "--runs", folder / "runs", "--json").json
    run = next(r for r in listed if r["name"] == said.json["run"])
    assert (run["kind"], run["state"], run["task"]) == ("learn", "finished", "flags")
    assert run["calls"] == sum(row["calls"] for row in said.json["spend"].values())
    assert said.json["run"] in call("runs", "--runs", folder / "runs").out
    page = call("report", said.json["run"], "--runs", folder / "runs", "--out", tmp_path / "page.html")
    assert page.code == 0 and (tmp_path / "page.html").read_text().lstrip().lower().startswith("<!doctype html")


def evaluate_args(folder, server, *more):
    """On the learning problems, so that what was learned can be seen on few samples."""
    return (
        "evaluate", flag_file(folder), "--reward", "contains", "--model", "openai/solver", "--base-url", server.url,
        "--max-tokens", 16, "--runs", folder / "runs", "--split", "learn", "--json", *more,
    )  # fmt: skip


def test_evaluate_pairs_both_sides_with_fresh_samples_unless_told_to_reuse(learned):
    folder, server, said = learned
    args = evaluate_args(folder, server, "--store", f"{folder}/store@v{said.json['final']}", "--samples", 2)
    before = len(server.requests)
    first = call(*args)
    assert first.code == 0, first.err
    problems = first.json["after"]["n"]
    assert len(server.requests) - before == 2 * 2 * problems
    assert first.json["against"] == "no experiences"
    assert first.json["gain"]["mean"] > 0.1
    assert first.json["after"]["pass_at_k"] >= first.json["after"]["mean"]
    seeds = {r["seed"] for r in server.requests[before:]}
    fresh = call(*args)
    assert {r["seed"] for r in server.requests[before + 4 * problems :]}.isdisjoint(seeds)
    asked = len(server.requests)
    reused = call(*args, "--reuse").json
    assert len(server.requests) == asked
    assert reused["gain"] == fresh.json["gain"]
    assert "nothing was asked again" in reused["notices"][0]


def test_evaluate_takes_versions_tags_files_and_namespaces(learned, tmp_path):
    folder, server, said = learned
    last, store = said.json["final"], folder / "store"
    call("store", "tag", f"{store}@v{last}", "shipped")
    call("store", "export", f"{store}@shipped", tmp_path / "lib.json")
    assert call(
        "store", "import", tmp_path / "other", tmp_path / "lib.json", "--namespace", "b", "--embedder", "hashing"
    )
    few = ("--limit", 4)
    alone = call(*evaluate_args(folder, server, *few, "--store", tmp_path / "lib.json", "--alone")).json
    assert (alone["before"], alone["after"]["n"]) == (None, 4)
    other = call(*evaluate_args(folder, server, *few, "--store", f"{tmp_path}/other@v1", "--namespace", "b")).json
    assert other["against"] == "no experiences"
    same = call(*evaluate_args(folder, server, *few, "--store", f"{store}@shipped", "--against", f"v{last}"))
    assert same.code == 2 and "nothing to compare" in same.err
    unlike = call(*evaluate_args(folder, server, *few, "--store", f"{store}@shipped", "--against", "v0"))
    assert unlike.json["against"].endswith("@v0")


def test_a_judge_is_recorded_and_is_no_solver_call(tmp_path):
    def graded(body):
        if "You grade answers" in str(body["messages"][0]["content"]):
            right = body["messages"][1]["content"].count("It is brown") == 0
            return json.dumps({"reason": "seen", "score": 10 if right else 0})
        return answer(body)

    empty_store(tmp_path)
    with served(graded) as server:
        args = [a if a != "contains" else "judge" for a in learn_args(tmp_path, server, "--json", calls=60)]
        said = call(*args, "--judge", f"{server.url}#judge", "--rubric", "The right colour is named.")
        asked = len(server.requests)
        other = call(*args, "--judge", f"{server.url}#judge", "--rubric", "Another one.", "--dry-run")
    assert said.code == 0, said.err
    judge = said.json["spend"]["judge"]
    assert judge["calls"] > 0 and judge["solver_calls"] == 0
    assert sum(row["solver_calls"] for row in said.json["spend"].values()) <= 60
    assert asked == sum(row["calls"] for row in said.json["spend"].values())
    with RunRecord.open(said.json["folder"], read_only=True) as record:
        assert sum(1 for _ in record.calls("judge")) == judge["calls"]
    assert other.json["parts"]["judge"]["calls"] > 0


# -- the store ----------------------------------------


def test_store_commands_tell_the_history(learned):
    folder, _, said = learned
    place, last = folder / "store", said.json["final"]
    log = call("store", "log", place, "--json").json
    assert [v["number"] for v in log] == list(range(log[0]["number"], 0, -1))
    assert f"v{last}" in call("store", "log", place, "--limit", 3).out
    shown = call("store", "show", f"{place}@v{last}", "--json").json
    assert len(shown["experiences"]) == len(shown["rows"])
    assert "flag of" in call("store", "show", f"{place}@v{last}").out
    assert "The flag of" in call("store", "render", f"{place}@v{last}").out
    assert call("store", "render", f"{place}@v0", "--json").json["text"] == ""
    assert "+ E1@1" in call("store", "diff", place, "v0", f"v{last}").out
    assert call("store", "diff", f"{place}@v1").out.startswith("v0 -> v1")
    assert call("store", "stats", place, "--json").json["namespace"] == "default"
    hits = call("store", "search", f"{place}@v{last}", "flag", "-k", 2, "--json").json
    assert len(hits) == 2 and hits[0]["similarity"] >= hits[1]["similarity"]
    assert call("store", "gc", place, "--json").json == {"rows_dropped": 0}


def test_rollback_and_tags(learned, tmp_path):
    folder, _, said = learned
    call("store", "export", f"{folder}/store@v{said.json['final']}", tmp_path / "lib.json")
    place = tmp_path / "mine"
    assert "experiences are new" in call("store", "import", place, tmp_path / "lib.json", "--embedder", "hashing").out
    assert call("store", "import", place, tmp_path / "lib.json").out == "v1: nothing is new\n"
    assert call("store", "tag", place, "good").out == "good is v1\n"
    assert "v2 serves what v0 did" in call("store", "rollback", place, "v0").out
    assert call("store", "rollback", f"{place}@good", "--json").json["number"] == 3
    assert call("store", "tag", place, "--json").json == {"good": 1}
    missing = call("store", "rollback", place)
    assert missing.code == 2 and "rollback to which version" in missing.err


def test_erasing_a_problem_reaches_the_run_records(tmp_path):
    place = empty_store(tmp_path)
    with served() as server:
        said = call(*learn_args(tmp_path, server, "--json", calls=60))
    with RunRecord.open(said.json["folder"], read_only=True) as record:
        problem = next(c.key.problem for c in record.calls("solve"))
        held = sum(c.key.problem == problem for c in record.calls())
    page = call("report", "last", "--runs", tmp_path / "runs", "--json").json["file"]
    result = call("store", "gc", place, "--erase", problem, "--runs", tmp_path / "runs", "--json")
    assert result.code == 0, result.err
    assert result.json["calls"][said.json["folder"]] >= held
    assert result.json["pages"] == [page] and not Path(page).exists()
    with RunRecord.open(find_run("last", tmp_path / "runs"), read_only=True) as record:
        assert not [c for c in record.calls() if c.key.problem == problem]


# -- tasks and extensions ----------------------------------------


def test_tasks_are_listed_and_checked():
    listed = {task["name"]: task for task in call("tasks", "--json").json}
    assert listed["gsm8k"]["about"].startswith("Grade-school")
    assert "largest_of_three" in call("tasks").out
    checked = call("tasks", "check", "largest_of_three", "--limit", 5, "--json")
    assert checked.code == 0
    assert checked.json == {"task": "largest_of_three", "checked": 5, "failures": []}


def test_installed_packages_add_commands(tmp_path, monkeypatch):
    info = tmp_path / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tfgrpo.commands]\ntwice = more_commands\n")
    (tmp_path / "more_commands.py").write_text(
        "def configure(parser): parser.add_argument('n', type=int)\ndef run(args): print(2 * args.n); return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert call("twice", 21).out == "42\n"
    assert "from the package more" in call("--help").out
