"""Embedders and their thresholds, calibrated on a small table of our own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

import experience_store
from experience_store import Edit
from experience_store.embed import Embedder, HashingEmbedder, cosine, default_embedder, minilm_folder, resolve_embedder
from experience_store.errors import EmbedderError

SAME = [
    (
        "Always check the units before giving the final answer.",
        "Before giving the final answer, always check the units.",
    ),
    ("Convert hours to minutes before adding times.", "Before adding times, convert hours to minutes."),
    ("Read the question twice before you answer it.", "Before you answer the question, read it twice."),
    ("Answer with only the number.", "Give only the number as the answer."),
    ("Return valid JSON with double quotes.", "Output valid JSON that uses double quotes."),
    ("Do not round intermediate results.", "Don't round results in intermediate steps."),
    ("Use the last value in the table.", "Take the last value of the table."),
    ("List the steps before the result.", "Write down the steps before the result."),
    ("Sort the words alphabetically, ignoring case.", "Sort words in alphabetical order and ignore case."),
    ("If the total is negative, report zero.", "Report zero if the total is negative."),
]
AGAINST = [
    ("Round the result up to the next whole number.", "Never round the result; keep all its decimals."),
    ("Fragile parcels go to dock Amber.", "Fragile parcels go to dock Birch."),
    ("List the items in ascending order.", "List the items in descending order."),
    ("Answer with only the number.", "Answer with the number and its unit."),
    ("Return valid JSON with double quotes.", "Return valid JSON without quotes around keys."),
    ("Use the first value in the table.", "Use the last value in the table."),
    ("Sort the words alphabetically, ignoring case.", "Sort the words by length, ignoring case."),
    ("Include the end points of the interval.", "Exclude the end points of the interval."),
    ("Write the answer in capital letters.", "Write the answer in lower-case letters."),
    ("If the total is negative, report zero.", "If the total is negative, report its absolute value."),
]
DIFFERENT = [(a, b) for i, (a, _) in enumerate(AGAINST) for j, (b, _) in enumerate(SAME) if (i + j) % 3 == 0 and a != b]


def similarities(embedder: Embedder, pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [cosine(*embedder.embed(pair)) for pair in pairs]


def counts(embedder: Embedder) -> tuple[int, int]:
    """How many of 10 paraphrases and of 10 contradictions are taken for duplicates; the conflict line must separate."""
    same, against = similarities(embedder, SAME), similarities(embedder, AGAINST)
    assert max(similarities(embedder, DIFFERENT)) < embedder.conflict_threshold <= min(against), against
    return tuple(sum(x >= embedder.duplicate_threshold for x in group) for group in (same, against))  # type: ignore[return-value]


def test_hashing_thresholds_see_words_only() -> None:
    assert counts(HashingEmbedder()) == (4, 4)


def test_hashing_is_deterministic_and_has_a_direction_for_every_text() -> None:
    one, two = HashingEmbedder().embed(["Check units", "Check units"])
    assert one == two
    assert [round(x, 6) for x in one if x][:3] == [round(x, 6) for x in two if x][:3]
    for text in ("", "!!!", "中文", "\ud800"):
        vector = HashingEmbedder().embed([text])[0]
        assert len(vector) == 512
        assert sum(x * x for x in vector) == pytest.approx(1.0)


def test_names_and_objects() -> None:
    assert resolve_embedder("hashing").name == "hashing"
    own = HashingEmbedder()
    assert resolve_embedder(own) is own
    with pytest.raises(EmbedderError, match="unknown embedder 'x'"):
        resolve_embedder("x")
    assert default_embedder() in ("minilm", "hashing")


class Lengths:
    """An embedder of a user's own."""

    name = "lengths"
    dim = 2
    duplicate_threshold = 0.9999
    conflict_threshold = 0.9

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(len(t)), 10.0] for t in texts]


def test_an_own_embedder_is_recorded_by_name_and_reading_works_without_it(tmp_path: Path) -> None:
    store = experience_store.open(tmp_path, embedder=Lengths())
    store.commit([Edit(op="add", text="a" * 3), Edit(op="add", text="a" * 30)])
    assert store.search("b" * 29, k=1)[0].experience.id == "E2"
    again = experience_store.open(tmp_path)
    assert again.embedder.name == "lengths"
    assert [e.id for e in again.at().experiences] == ["E1", "E2"]
    assert again.commit([Edit(op="drop", id="E1")]).number == 2
    with pytest.raises(EmbedderError, match="built with the embedder 'lengths'"):
        again.search("x")
    with pytest.raises(EmbedderError, match="built with the embedder 'lengths'"):
        again.commit([Edit(op="add", text="x")])
    assert experience_store.open(tmp_path, embedder=Lengths()).search("b", k=1)[0].experience.id == "E2"


@pytest.mark.slow
def test_a_model_that_is_not_here_is_not_downloaded() -> None:
    with pytest.raises(EmbedderError, match="Models are never downloaded"):
        resolve_embedder("sentence-transformers/nobody/nothing").embed(["x"])


@pytest.mark.slow
def test_minilm_thresholds_find_paraphrases_and_two_of_ten_antonyms() -> None:
    assert minilm_folder() is not None
    environment = dict(os.environ)
    embedder = resolve_embedder("minilm")
    assert embedder.dim == 384
    assert counts(embedder) == (9, 2)
    assert dict(os.environ) == environment


@pytest.mark.slow
def test_a_store_with_minilm_finds_by_meaning(tmp_path: Path) -> None:
    store = experience_store.open(tmp_path, embedder="minilm")
    store.commit([Edit(op="add", text="Boats sail on water."), Edit(op="add", text="Bread is baked in an oven.")])
    assert store.search("How is a loaf made?", k=1)[0].experience.id == "E2"
