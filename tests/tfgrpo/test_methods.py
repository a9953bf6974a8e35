"""The table of methods: every row is whole, the page is fresh, and one can ask for a row by name."""

import inspect
import typing
from pathlib import Path

import pytest
from cli import call

from tfgrpo import methods
from tfgrpo.errors import InputError
from tfgrpo.method import Confidence

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"
ROWS = methods.methods()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}/{row.name}")
def test_a_row_says_everything(row):
    assert row.formula and row.source and row.about
    assert row.confidence in typing.get_args(Confidence)
    assert (ROOT / row.file).is_file()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}/{row.name}")
def test_a_row_has_an_example_that_is_run(row):
    """tests/test_doctests.py runs them."""
    lines = [line for line in row.example.splitlines() if line.startswith(">>>")]
    assert lines and not any("+SKIP" in line for line in lines)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.confidence == "reconstruction"], ids=lambda row: f"{row.kind}/{row.name}"
)
def test_a_reconstruction_is_called_one_where_it_is_written(row):
    assert "reconstruct" in row.about.lower()


@pytest.mark.parametrize("kind", methods.KINDS, ids=lambda kind: kind.name)
def test_each_kind_has_rows_that_can_be_made(kind):
    presets = methods.presets(kind)
    assert presets
    assert all(callable(method.make) and inspect.getdoc(method.make) for method in presets.values())


def test_the_page_is_fresh():
    page = PAGE.read_text(encoding="utf-8")
    assert page == methods.renewed(page), "run: tfgrpo methods --markdown docs/methods.md"


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{methods.END}\nwords\n{methods.BEGIN}\n")
    said = call("methods", "--markdown", page)
    assert said.code == 2 and "needs the lines" in said.err
    assert page.read_text() == f"{methods.END}\nwords\n{methods.BEGIN}\n"
    assert call("methods", "--markdown", tmp_path / "none.md").code == 2


def test_only_what_stands_between_the_markers_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{methods.BEGIN}\nyesterday\n{methods.END}\nbelow\n")
    assert call("methods", "--markdown", page).code == 0
    text = page.read_text()
    assert text.startswith(f"above\n{methods.BEGIN}\n") and text.endswith(f"{methods.END}\nbelow\n")
    assert "yesterday" not in text and call("methods", "--markdown").out in text


def test_all_and_one_on_the_command_line():
    assert "least_covered" in call("methods", "--kind", "sampler").out
    one = call("methods", "vas")
    assert "sampler 'vas'" in one.out and "arXiv 2509.21268" in one.out and "share=0.5" in one.out
    assert ">>> VarianceAware" in one.out
    (row,) = call("methods", "sampler/vas", "--json").json
    assert row["confidence"] == "paper and code" and row["file"] == "tfgrpo/samplers/vas.py"
    assert len(call("methods", "--json").json) == len(ROWS)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["vsa"], "did you mean 'vas'"),
        (["sampler/rloo"], "unknown method 'rloo'"),
        (["--kind", "smapler"], "did you mean 'sampler'"),
        (["vas", "--kind", "advantge"], "did you mean 'advantage'"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(args, said):
    result = call("methods", *args)
    assert result.code == 2 and said in result.err


def test_a_name_that_is_not_there():
    with pytest.raises(InputError, match="did you mean 'uniform'"):
        methods.find("unifrm")
