"""The names that users write. A change here is a change for them: make it on purpose, and tell it."""

import inspect
import subprocess
import sys
import typing

import pytest

import experience_store
import tfgrpo

NAMES = {
    "tfgrpo": {
        *("learn", "alearn", "evaluate", "aevaluate", "compare", "acompare", "estimate", "connect", "load_task"),
        *("reward", "group_reward", "Contrast"),
        *("Budget", "Completion", "Estimate", "Group", "LateCaller", "Measurement", "Policy", "Price", "Problem"),
        *("Report", "Rollout", "Sampling", "Score", "Task", "TfgrpoError", "follow", "wrap"),
    },
    "experience_store": {
        *("open", "parse_ref", "Conflict", "Edit", "Experience", "ExperienceStore", "Layout", "Library", "Snapshot"),
        *("StoreError", "Version"),
    },
}
VERBS = {
    tfgrpo.alearn: "task *, model critic store budget group seed concurrency gate runs new on_event",
    tfgrpo.aevaluate: "task *, model store against samples split budget concurrency seed reuse strategy runs on_event",
    tfgrpo.acompare: "a b *, task model samples split budget concurrency seed reuse runs on_event",
    tfgrpo.estimate: "task *, model critic budget group",
    tfgrpo.connect: "model *, base_url api_key timeout_s max_retries price",
    tfgrpo.follow: "store *, namespace token poll_s",
    tfgrpo.wrap: "client store *, namespace token poll_s on_use strategy strategy_judge",
    tfgrpo.reward: "fn *, name",
    tfgrpo.group_reward: "fn *, name",
    experience_store.open: "location *, namespace embedder create token",
    experience_store.ExperienceStore.commit: "self edits *, parent layout note evidence writer on_conflict",
    experience_store.ExperienceStore.at: "self ref",
    experience_store.ExperienceStore.rollback: "self to note *, writer",
    experience_store.ExperienceStore.diff: "self before after",
    experience_store.ExperienceStore.search: "self query k ref",
    experience_store.ExperienceStore.render: "self ref question",
    experience_store.ExperienceStore.export: "self ref file",
    experience_store.ExperienceStore.gc: "self older_than_s erase",
    experience_store.Snapshot.apply: "self messages include *, layout",
    experience_store.Library.load: "file",
    experience_store.Library.apply: "self messages include *, layout",
}
RECORDS = {
    tfgrpo.Problem: "id messages answer variants meta",
    tfgrpo.Score: "value parts feedback solved",
    tfgrpo.Budget: "usd tokens calls seconds",
    tfgrpo.Price: "prompt_usd_per_mtok completion_usd_per_mtok cached_usd_per_mtok",
    tfgrpo.Sampling: "temperature max_tokens top_p seed schema stop extra",
    experience_store.Edit: "op id text kind question reason trial taint source",
    experience_store.Layout: "placement select max_entries max_tokens",
}
PUBLIC = [(name, getattr(module, name)) for module in (tfgrpo, experience_store) for name in module.__all__]


def shape(function):
    """Parameter names in order, with the star after which they are given by name."""
    words, starred = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words, starred = [*words, "*,"], True
        words.append(parameter.name)
    return " ".join(words)


@pytest.mark.parametrize("module", [tfgrpo, experience_store], ids=lambda m: m.__name__)
def test_names(module):
    assert set(module.__all__) == NAMES[module.__name__]
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert set(dir(module)) >= set(module.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'leran'"):
        tfgrpo.leran  # noqa: B018


@pytest.mark.parametrize("verb", VERBS, ids=lambda v: v.__qualname__)
def test_verbs(verb):
    assert shape(verb) == VERBS[verb]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_records_are_frozen_and_given_by_name(record):
    assert shape(record) == f"*, {RECORDS[record]}"
    assert record.__dataclass_params__.frozen


@pytest.mark.parametrize(
    "pair",
    [(tfgrpo.learn, tfgrpo.alearn), (tfgrpo.evaluate, tfgrpo.aevaluate), (tfgrpo.compare, tfgrpo.acompare)],
    ids=["learn", "evaluate", "compare"],
)
def test_sync_forms_take_what_the_async_ones_take(pair):
    sync, core = pair
    assert next(iter(inspect.signature(sync).parameters)) == next(iter(inspect.signature(core).parameters))
    assert inspect.iscoroutinefunction(core) and not inspect.iscoroutinefunction(sync)
    assert typing.get_type_hints(sync)["return"] == typing.get_type_hints(core)["return"]


@pytest.mark.parametrize(("name", "thing"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_public_things_say_what_they_are(name, thing):
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        known = ("as_json", "from_json")
        own = [m for n, m in vars(thing).items() if not n.startswith("_") and n not in known and inspect.isfunction(m)]
        bare = [m.__qualname__ for m in own if not inspect.getdoc(m)]
        assert not bare


def test_star_imports_load_what_they_name():
    code = "from tfgrpo import *; from experience_store import *; print(Budget, ExperienceStore)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
