"""The wheel, built and installed into an environment of its own, works outside the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"tfgrpo", "experience_store", "hybrid", "tasks"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the environment's own hatchling, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel; the other packages are seen through a path file."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


def run(*command, cwd, **env):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, env={**clean, **env}, capture_output=True, text=True)


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"tfgrpo/ui/static/{name}" for name in ("app.css", "app.js", "icon.svg")} <= set(names)


def test_it_runs_outside_the_checkout(installed, tmp_path):
    where = run(
        installed / "python", "-c", "import tfgrpo, tasks; print(tfgrpo.__file__, tasks.__file__)", cwd=tmp_path
    )
    assert all(str(installed.parent) in path for path in where.stdout.split()), where
    shown = run(installed / "tfgrpo", "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "learn" in shown.stdout


def listed(installed, folder, **env):
    done = run(installed / "tfgrpo", "tasks", "--json", cwd=folder, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tasks_come_with_it(installed, tmp_path):
    assert "largest_of_three" in json.dumps(listed(installed, tmp_path))
    checked = run(installed / "tfgrpo", "tasks", "check", "word_sorting", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


def test_an_applications_own_tasks_module_breaks_nothing_but_the_named_tasks(installed, tmp_path):
    (tmp_path / "tasks.py").write_text("QUEUE = []\n")
    (tmp_path / "problems.jsonl").write_text('{"prompt": "2 + 3?", "answer": "5"}\n' * 1)
    listed(installed, tmp_path, PYTHONPATH=str(tmp_path))
    use = "import tasks, tfgrpo, tfgrpo.api; print(tasks.QUEUE, tfgrpo.learn)"
    assert run(installed / "python", "-c", use, cwd=tmp_path, PYTHONPATH=str(tmp_path)).returncode == 0
    named = run(installed / "tfgrpo", "tasks", "check", "gsm8k", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert named.returncode == 2
    assert str(tmp_path / "tasks.py") in named.stderr
    assert "Traceback" not in named.stderr


RECORD = """
from tfgrpo.events import EventLog
from tfgrpo.record import RunRecord

with RunRecord.open("trained") as record:
    EventLog(record).emit("started", kind="train", task="a task", model="m")
    EventLog(record).emit("update_done", step=1.0, reward=0.5)
"""


def test_the_report_of_a_training_run_is_found(installed, tmp_path):
    assert run(installed / "python", "-c", RECORD, cwd=tmp_path).returncode == 0
    done = run(installed / "tfgrpo", "report", "trained", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "This run has not finished" in (tmp_path / "trained" / "report.html").read_text("utf-8")
    (tmp_path / "hybrid.py").write_text("")
    hidden = run(installed / "tfgrpo", "report", "trained", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert hidden.returncode == 2 and "hybrid.py hides it" in hidden.stderr
