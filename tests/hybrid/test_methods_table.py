"""Methods of training in the table of all methods: brought by an entry point, and left out where torch is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli import call

from hybrid.methods import KINDS
from tfgrpo import methods
from tfgrpo.errors import InputError, MissingExtraError

LOST = """
import importlib.machinery, sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")


sys.meta_path.insert(0, NoTorch())
from tfgrpo.cli.main import main

main(["methods"])
try:
    main(["methods", "--kind", "loss"])
except SystemExit:
    pass
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_stand_beside_those_of_tfgrpo(kind: methods.Kind) -> None:
    assert kind in methods.kinds() and kind not in methods.KINDS
    rows = methods.methods(kind.name)
    assert rows and all(row.file.startswith("hybrid/") and row.about and row.example for row in rows)
    assert f"## {kind.title}" in methods.markdown()


def test_one_method_on_the_command_line() -> None:
    said = call("methods", "loss/gspo").out
    assert "loss 'gspo'" in said and "arXiv 2507.18071" in said and "low=0.0003" in said
    assert [row.kind for row in methods.find("grpo")] == ["advantage", "recipe", "loss"]


def test_without_torch_they_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "dr_grpo" in done.stdout and "gspo" not in done.stdout
    assert "Not shown: the kind of method 'loss' needs the package 'torch'" in done.stderr
    assert done.stderr.count("pip install 'tfgrpo[train]'") >= 2


def test_another_missing_module_is_no_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows_without.py").write_text("import there_is_no_such_module\nROWS = {}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module") as raised:
        methods.presets(methods.Kind(name="x", title="X", places=("rows_without:ROWS",)))
    assert not isinstance(raised.value, MissingExtraError)


def test_kinds_that_cannot_be_loaded_name_what_hides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tfgrpo.methods]\nmore = more_methods:KINDS\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"'more_methods:KINDS' could not be loaded: .*does a file of yours"):
        methods.kinds()
