"""Reading problem files: every accepted form, and messages for every malformed one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import InputError
from tfgrpo.problem_files import PARQUET_ROWS, file_rows
from tfgrpo.problems import content_id, load_problems, problems_from


def write(folder: Path, *rows: Any, name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("column", ["prompt", "question", "input", "problem", "messages"])
def test_question_columns(tmp_path: Path, column: str) -> None:
    asked = [{"role": "user", "content": "2 + 3?"}] if column == "messages" else "2 + 3?"
    (problem,) = load_problems(write(tmp_path, {column: asked, "answer": "5", "level": 2}))
    assert (problem.question, problem.answer, dict(problem.meta)) == ("2 + 3?", "5", {"level": 2})


def test_ids_variants_and_chat_prompts(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}]
    first, second = load_problems(
        write(tmp_path, {"id": 7, "prompt": chat, "variants": ["Hello?"]}, "", {"prompt": "Hi?", "target": 3.0})
    )
    assert (first.id, first.question, first.variants, first.answer) == ("7", "Hi?", ("Hello?",), None)
    assert second.id == content_id(second.messages, 3.0) and len(second.id) == 16


def test_known_file_forms(tmp_path: Path) -> None:
    worked = "9 * 2 = <<9*2=18>>18\n#### 1,018"
    (grade_school,) = load_problems(write(tmp_path, {"question": "?", "answer": worked}))
    assert (grade_school.answer, grade_school.meta["gold"]) == ("1018", worked)
    (boxed,) = load_problems(write(tmp_path, {"problem": "?", "solution": r"so \boxed{\frac{1}{2}}"}))
    assert boxed.answer == r"\frac{1}{2}" and "solution" in boxed.meta
    (expected,) = load_problems(write(tmp_path, {"problem": "?", "expected_answer": "4", "solution": r"\boxed{5}"}))
    assert expected.answer == "4"
    nested = {"canary": "x", "examples": [{"input": "a", "target": "b"}, {"input": "c", "target": "d"}]}
    assert [p.answer for p in load_problems(write(tmp_path, nested, name="p.json"))] == ["b", "d"]
    (listed,) = load_problems(write(tmp_path, [{"question": "a", "answer": "b"}], name="p.json"))
    assert listed.answer == "b"
    (row,) = load_problems(write(tmp_path, "prompt,answer,note", '"a, b",c,', name="p.csv"))
    assert (row.question, row.answer, dict(row.meta)) == ("a, b", "c", {})


def test_byte_order_mark_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\r\n{"prompt": "b"}\r\n', encoding="utf-8-sig")
    assert [p.question for p in load_problems(path, limit=1)] == ["a"]


def test_exact_repetitions_without_id_are_kept_once(tmp_path: Path) -> None:
    row = {"input": "a", "target": 1.0}
    assert len(load_problems(write(tmp_path, row, row, {"input": "a", "target": 2.0}))) == 2


def test_the_same_question_with_other_columns_is_another_problem(tmp_path: Path) -> None:
    rows = [{"input": "a", "target": 1, "schema": schema} for schema in ("x", "y", "x", "y")]
    first, second = load_problems(write(tmp_path, *rows))
    assert (first.meta["schema"], second.meta["schema"]) == ("x", "y") and second.id.startswith(first.id + "-")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{oops", "expected one JSON object, got '{oops'"),
        ("[1]", "expected an object with a question and an answer, got [1]"),
        ({"text": "a"}, "expected one of the columns messages, prompt, question, problem, input, got ['text']"),
        ({"prompt": ""}, "expected one of the columns"),
        ({"prompt": 5}, "expected 'prompt' to be a text or a list of chat messages, got 5"),
        ({"messages": []}, "expected 'messages' to be a text or a list"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "expected a message with a role"),
        ({"messages": [{"role": "user"}]}, "expected a message with a role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "to be the user's, got role 'assistant'"),
        ({"prompt": "a", "id": 1.5}, "expected 'id' to be a text or a whole number, got 1.5"),
        ({"prompt": "a", "variants": "b"}, "expected 'variants' to be a list of texts, got 'b'"),
        ({"prompt": "a", "id": "same"}, "expected an id of its own, got 'same', which is the id of"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, row: Any, said: str) -> None:
    path = write(tmp_path, {"prompt": "fine", "id": "same"}, row)
    with pytest.raises(InputError) as caught:
        load_problems(path)
    assert str(caught.value).startswith(f"{path}:2: ") and said in str(caught.value)


def test_all_lines_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_problems(write(tmp_path, *["{"] * 14))
    assert "p.jsonl:1:" in str(caught.value) and "p.jsonl:10:" in str(caught.value)
    assert str(caught.value).endswith("... and 4 more")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.json", b'{"a": [}', "p.json:1: expected JSON"),
        ("p.json", b'{"a": 1}', "expected a list of problems"),
        ("p.json", b"[]", "expected at least one problem"),
        ("p.jsonl", b"", "expected at least one problem"),
        ("p.jsonl", b"\xff\xfe", "expected UTF-8 text, got byte 0xff at 0"),
        ("p.csv", b"prompt,answer\na", "p.csv:2: expected 2 columns"),
        ("p.csv", b'prompt\n"a', "expected CSV"),
        ("p.txt", b"", "expected a file ending in .jsonl"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_problems(tmp_path / name)
    assert said in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_problems(tmp_path / "none.jsonl")


@given(st.text(max_size=80))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    for name in ("p.jsonl", "p.json", "p.csv"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            assert load_problems(path)
        except InputError as error:
            assert name in str(error)


# --------------------------------------------------------------------------------- data sets made for other trainers

ASKED = [{"role": "user", "content": "2 + 3?"}]
TRL_ROWS = [
    {"prompt": "2 + 3?", "solution": "5", "level": 1},
    {"prompt": ASKED, "solution": r"so \boxed{5}", "level": None},
]
VERL_ROW = {
    "data_source": "sums", "prompt": ASKED, "ability": "math", "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"split": "train", "index": 0},
}  # fmt: skip
VERIFIERS_ROW = {"question": "2 + 3?", "answer": "", "info": {"answers": ["5", "five"]}, "task": "sums"}


def test_trl_rows() -> None:
    plain, boxed = problems_from(TRL_ROWS)
    assert (plain.answer, plain.meta["solution"], plain.question) == ("5", "5", "2 + 3?")
    assert (boxed.answer, boxed.meta["solution"]) == ("5", r"so \boxed{5}")


def test_verl_and_verifiers_rows() -> None:
    (verl,) = problems_from([VERL_ROW])
    assert verl.answer == "5" and verl.meta["extra_info"] == {"split": "train", "index": 0}
    assert verl.meta["reward_model"]["ground_truth"] == "5" and verl.meta["data_source"] == "sums"
    (verifiers,) = problems_from([VERIFIERS_ROW])
    assert verifiers.answer is None and dict(verifiers.meta) == {"info": VERIFIERS_ROW["info"], "task": "sums"}


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_parquet_gives_what_json_lines_give(tmp_path: Path) -> None:
    second = {**VERL_ROW, "prompt": [{"role": "system", "content": "Add."}, *ASKED], "id": "b"}
    rows = [{**VERL_ROW, "id": None}, second]
    assert load_problems(parquet(tmp_path / "p.parquet", rows)) == load_problems(write(tmp_path, *rows))


def test_empty_fields_of_messages_are_dropped(tmp_path: Path) -> None:
    """A table gives every message the fields of all others."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    chat = [
        {"role": "user", "content": "2 + 3?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "5", "tool_call_id": "1"},
    ]
    (problem,) = load_problems(parquet(tmp_path / "p.parquet", [{"prompt": chat}]))
    assert list(problem.messages) == chat


def test_parquet_is_read_by_batches(tmp_path: Path) -> None:
    rows = [{"prompt": f"{k} + 1?", "answer": k + 1} for k in range(2 * PARQUET_ROWS + 1)]
    path = parquet(tmp_path / "p.PARQUET", rows)
    assert [p.answer for p in load_problems(path)] == [k + 1 for k in range(len(rows))]
    reader = file_rows(path)
    assert next(reader).where == f"{path}: row 1" and next(reader).value == rows[1]
    reader.close()  # type: ignore[attr-defined]


def test_malformed_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", [{"prompt": "a"}, {"prompt": None}])
    with pytest.raises(InputError, match=r"p\.parquet: row 2: expected one of the columns"):
        load_problems(path)
    path.write_bytes(b"PAR1 and then something else")
    with pytest.raises(InputError, match="expected a Parquet file"):
        load_problems(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_problems(tmp_path / "none.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')")
    code = "from tfgrpo.problems import load_problems; load_problems('p.parquet')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (
        "MissingExtraError: reading p.parquet needs the package 'pyarrow'; install it with: pip install" in done.stderr
    )
    assert "'tfgrpo[data]'" in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_dataset_in_memory() -> None:
    datasets = pytest.importorskip("datasets")
    for rows in (TRL_ROWS[1:], [VERL_ROW], [VERIFIERS_ROW]):
        assert problems_from(datasets.Dataset.from_list(rows)) == problems_from(rows)
    with pytest.raises(InputError, match="got a mapping with train, test; choose one"):
        problems_from(datasets.DatasetDict(train=datasets.Dataset.from_list(TRL_ROWS[1:]), test=None))


class Array:
    """What numpy and pandas hand out: something with `tolist`."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def tolist(self) -> list[Any]:
        return list(self.values)


def test_rows_in_memory() -> None:
    (problem,) = problems_from(iter([{"prompt": Array(*ASKED), "answer": "5", "info": {"tags": Array("a", "b")}}]))
    assert problem.messages == tuple(ASKED) and problem.meta["info"] == {"tags": ["a", "b"]}
    assert [p.question for p in problems_from([{"prompt": "a"}, {"prompt": "b"}], limit=1)] == ["a"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "fine"}, 5], "mine: item 2: expected an object with a question and an answer, got 5"),
        ([{"prompt": 5}], "mine: item 1: expected 'prompt' to be a text or a list"),
        ([], "mine: expected at least one problem, got none"),
        ({"prompt": ["a"]}, "mine: expected rows, got a mapping with prompt"),
        ("rows", "mine: expected a list of mappings or a data set, got 'rows'"),
        (None, "mine: expected a list of mappings or a data set, got None"),
    ],
)
def test_malformed_rows_in_memory(rows: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        problems_from(rows, name="mine")
    assert said in str(caught.value)
