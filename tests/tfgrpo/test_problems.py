"""Reading problem files: every accepted form, and messages for every malformed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.errors import InputError
from tfgrpo.problems import content_id, load_problems


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
