"""The page over real HTTP: what each address shows, what it says where there is nothing, and how much it sends."""

import re

import pytest
from uiworld import RUN, Page, answer, learned, look, ran, shown
from yarl import URL

import experience_store
from experience_store import Edit
from tfgrpo.events import EventLog
from tfgrpo.measurement import Measurement
from tfgrpo.record import CallKey, RunRecord
from tfgrpo.report import Measured


@pytest.fixture
def world(tmp_path):
    """A store and a run."""
    ran(tmp_path / "runs")
    return learned(tmp_path / "store"), tmp_path / "runs"


# -- experiences ------------------------------------------------------------------------------------------------------


async def test_the_list_tells_effect_use_cost_and_origin_of_every_experience(world):
    async with shown(*world) as client:
        page = await look(client, "/")
    assert "v2: 2 experiences, 1 of them on trial" in page.text
    assert "E1 Check the units. +0.21 (+0.06 to +0.36) helps, 31 groups 124 prompts" in page.text
    assert "from 1 group, 2 answers" in page.text
    assert "E2 Never guess. on trial" in page.text and "origin unknown" in page.text
    assert "/experiences/E1" in page.values("href")


@pytest.mark.parametrize(
    ("query", "found"),
    [("q=UNITS", ["E1"]), ("q=guess+never", ["E2"]), ("q=e2", ["E2"]), ("show=trial", ["E2"]), ("show=helps", ["E1"]),
     ("show=harms", ["E2"]),
     ("show=undecided", []), ("show=served", ["E1"]), ("order=worst", ["E2", "E1"]), ("order=best", ["E1", "E2"]),
     ("show=nonsense&order=?", ["E1", "E2"]),
     ("page=7", ["E1", "E2"]), ("page=-1", ["E1", "E2"]), ("page=9999999999999999999", ["E1", "E2"])],
)  # fmt: skip
async def test_search_filters_and_order(world, query, found):
    async with shown(*world) as client:
        page = await look(client, f"/?{query}")
    links = [href for href in page.values("href") if href.startswith("/experiences/")]
    assert links == [f"/experiences/{id}" for id in found]
    assert ("Nothing matches" in page.text) == (not found)


async def test_an_effect_belongs_to_the_revision_it_was_measured_of(world):
    """E2 was revised by the very commit whose evidence names it; a later revision knows nothing yet."""
    with experience_store.open(world[0]) as store:
        store.commit([Edit(op="revise", id="E1", text="Check all units.")])
    async with shown(*world) as client:
        page = await look(client, "/experiences/E1")
        assert "Not measured." in page.text
        assert "effect on the score +0.210" in (await look(client, "/experiences/E1?at=v2")).text
        with experience_store.open(world[0]) as store:
            store.rollback(2)
        assert "effect on the score +0.210" in (await look(client, "/experiences/E1")).text


async def test_one_experience_leads_to_the_answers_it_was_read_from(world):
    async with shown(*world) as client:
        page = await look(client, "/experiences/E1")
        assert "Every hash of its origin fits." in page.text
        assert "v1" in page.text and "losers forgot them" in page.text
        link = f"/runs/{RUN}/groups/1"
        assert link in page.values("href")
        assert "Winners beside losers" in (await look(client, link)).text
        missing = await look(client, "/experiences/E77", status=404)
        assert "holds no experience 'E77'" in missing.text


async def test_what_others_commit_is_shown_at_once(world):
    async with shown(*world) as client:
        assert "Read twice." not in (await look(client, "/")).text
        with experience_store.open(world[0]) as store:
            store.commit([Edit(op="add", text="Read twice.")])
        assert "Read twice." in (await look(client, "/")).text


async def test_ten_thousand_experiences_are_sent_a_hundred_at_a_time(tmp_path):
    words = "Carry the digit before the sum is rounded, and state the units in the last line of the answer. " * 8
    with experience_store.open(tmp_path / "store", embedder=Counted()) as store:
        store.commit([Edit(op="add", text=f"{n}: {words}") for n in range(10_000)])
    async with shown(tmp_path / "store", tmp_path / "runs") as client:
        async with client.get("/?page=37") as response:
            body = await response.text()
        page = Page(body)
        assert "3,601 to 3,700 of 10,000 experiences" in page.text
        assert page.rows == 100
        assert len(body) < 200_000  # a browser shows this long before a second is over
        assert "/?page=38" in page.values("href") and "/?page=36" in page.values("href")


class Counted:
    """Vectors for free: the page needs none."""

    name = "hashing"

    def embed(self, texts):
        return [[1.0, 0.0] for _ in texts]


# -- versions ---------------------------------------------------------------------------------------------------------


async def test_the_history_and_one_version_with_its_evidence(world):
    async with shown(*world) as client:
        page = await look(client, "/versions")
        assert "v2 a revision 1 revised 2 experiences, 1 on trial" in page.text
        assert "v1 first lessons best 2 added" in page.text
        one = await look(client, "/versions/v2")
    assert "E2 revised, on trial Never guess. Why: it harmed" in one.text
    assert "-0.20 (-0.31 to -0.09) harms, 12 groups" in one.text
    assert "cost_usd 0.12" in one.text
    assert "/versions/v2/rollback" not in one.values("action")  # it is the head


async def test_a_difference_tells_words_reasons_and_effects(world):
    async with shown(*world) as client:
        page = await look(client, "/diff?before=v1&after=v2")
        assert "v1 → v2 1 revised" in page.text
        assert "Guess Never guess ." in page.text and {"del", "ins"} <= set(page.tags)
        assert "Why: it harmed" in page.text and "harms, 12 groups" in page.text
        back = await look(client, "/diff?before=v2&after=best")
        assert "v2 → v1" in back.text
        assert "No difference" in (await look(client, "/diff?before=v2&after=v2")).text
        assert "2 added" in (await look(client, "/diff?before=v0")).text
        assert "v9" in (await look(client, "/diff?before=v9", status=404)).text
        await look(client, "/versions/nothing", status=404)


# -- runs -------------------------------------------------------------------------------------------------------------


async def test_runs_are_listed_and_each_shows_its_curve_and_spend_by_purpose(world):
    async with shown(*world) as client:
        page = await look(client, "/runs")
        assert f"{RUN} sums m learn unfinished 7 calls $0.0090" in page.text
        one = await look(client, f"/runs/{RUN}")
    assert "Learning curve" in one.text and "polyline" in one.tags
    assert "Dollars by purpose" in one.text and "learning: rollouts: $0.0060" in one.text
    assert "learning: critic: $0.0030" in one.text
    assert f"/runs/{RUN}/groups" in one.values("href")


async def test_a_run_that_goes_on_is_read_again(world):
    async with shown(*world) as client:
        assert "3 groups" in (await look(client, f"/runs/{RUN}")).text
        with RunRecord.open(world[1] / RUN) as record:
            EventLog(record).emit("step_done", step=3, groups=5, reward=0.7, version=1)
        assert "5 groups" in (await look(client, f"/runs/{RUN}")).text


async def test_winners_stand_beside_losers(world):
    async with shown(*world) as client:
        groups = await look(client, f"/runs/{RUN}/groups")
        assert groups.rows == 3
        mixed = await look(client, f"/runs/{RUN}/groups?show=mixed")
        assert mixed.rows == 2
        assert (await look(client, f"/runs/{RUN}/groups?q=p2&show=best")).rows == 1
        assert "No groups" in (await look(client, f"/runs/{RUN}/groups?show=worst")).text
        one = await look(client, f"/runs/{RUN}/groups/1")
        same = await look(client, f"/runs/{RUN}/groups/2")
    assert re.search(r"Winners: 1 1.00 sample 0 E1@1 the answer is 0 .* Losers: 1 0.00 sample 1", one.text)
    assert "What is 1 + 1?" in one.text
    assert "only in winners' prompts: E1@1" in one.text
    assert "All have the score 1.00" in same.text


async def test_a_long_run_is_read_a_page_at_a_time(tmp_path):
    ran(tmp_path / "runs", groups=160, rollouts=2, text="word " * 400)
    async with shown(tmp_path / "store", tmp_path / "runs") as client:
        for number, rows in ((1, 50), (4, 10), (99, 10)):
            async with client.get(f"/runs/{RUN}/groups?page={number}") as response:
                body = await response.text()
            assert Page(body).rows == rows and len(body) < 60_000
        assert "151 to 159 of 159 groups" in (await look(client, f"/runs/{RUN}/groups?show=mixed&page=9")).text
        one = await look(client, f"/runs/{RUN}/groups/159")
        assert one.rows == 2 and f"/runs/{RUN}/groups/158" in one.values("href")


async def test_a_group_of_many_rollouts_shows_some_of_each_side(tmp_path):
    ran(tmp_path / "runs", groups=1, rollouts=60)
    async with shown(tmp_path / "store", tmp_path / "runs") as client:
        page = await look(client, f"/runs/{RUN}/groups/0")
    assert "Winners: 59" in page.text and "39 more are not shown." in page.text and page.rows == 21


async def test_erased_words_are_told_as_such(world):
    with RunRecord.open(world[1] / RUN) as record:
        record.erase(problem="p1")
        scores = [{"sample": 0, "score": 1.0, "experiences": []}, {"sample": 1, "score": 0.0, "experiences": []}]
        EventLog(record).emit("group_done", group=1, problem="p1", version=0, rollouts=scores)
    async with shown(*world) as client:
        page = await look(client, f"/runs/{RUN}/groups/1")
    assert "The words of this group are not on record" in page.text


async def test_an_evaluation_shows_its_result(tmp_path):
    measured = Measured(mean=0.4, low=0.3, high=0.5, n=60)
    done = Measurement(task="sums", model="m", split="test", store="v2", after=measured, folder="")
    with RunRecord.open(tmp_path / "runs" / "evaluate-1") as record:
        EventLog(record).emit("started", run="evaluate-1", task="sums", model="m")
        record.put_call(b"1", CallKey(purpose="evaluate"), answer("4", "2 + 2?"), solver=True, prompt=b"1")
        record.put_state("measurement", done.as_json())
    async with shown(tmp_path / "store", tmp_path / "runs") as client:
        page = await look(client, "/runs/evaluate-1")
        assert "Mean score" in page.text and "0.300 to 0.500" in page.text
        assert "No groups" in (await look(client, "/runs/evaluate-1/groups")).text


async def test_a_run_of_training_is_shown_by_the_package_that_made_it(tmp_path):
    folder = ran(tmp_path / "runs", name="trained", kind="train")
    with RunRecord.open(folder) as record:
        for step in range(3):
            EventLog(record).emit("update_done", step=step, reward=0.1 * step, loss=1.0)
    async with shown(tmp_path / "store", tmp_path / "runs") as client:
        page = await look(client, "/runs/trained")
        assert "3 steps made" in page.text and "polyline" in page.tags and "style" not in page.tags
        assert "/runs/trained/groups" in page.values("href")
        ran(tmp_path / "runs", name="odd", kind="quilting")
        assert "of the kind 'quilting'" in (await look(client, "/runs/odd", status=404)).text


async def test_a_damaged_record_is_told_and_spoils_nothing_else(world):
    (world[1] / "broken").mkdir()
    (world[1] / "broken" / "run.sqlite").write_bytes(b"no database at all" * 99)
    async with shown(*world) as client:
        page = await look(client, "/runs")
        assert "is damaged" in page.text and RUN in page.text
        assert "is damaged" in (await look(client, "/runs/broken", status=500)).text


@pytest.mark.parametrize(
    "path", ["/runs/%2e%2e", "/runs/..%2fsecret", "/runs/%2e%2e%2fsecret/groups", "/runs/a%00b",
             "/runs/..%5csecret", "/static/..%2fserver.py", "/static/%2e%2e/guard.py", "/runs/sums-1/groups/-1",
             "/runs/sums-1/groups/1e3", "/runs/sums-1/groups/99", "/nothing", "/experiences/%00", "/versions/%ff"],
)  # fmt: skip
async def test_no_path_leads_out(world, path):
    ran(world[1].parent, name="secret")
    async with shown(*world) as client, client.get(URL(path, encoded=True)) as response:
        assert response.status in (400, 404)
        assert "sums: m" not in await response.text()


# -- where there is nothing -------------------------------------------------------------------------------------------


async def test_without_a_store_or_runs_the_page_says_which_command_makes_them(tmp_path):
    store, runs = tmp_path / "store", tmp_path / "runs"
    async with shown(store, runs) as client:
        page = await look(client, "/")
        assert "Nothing has been learned yet" in page.text and f"there is no store at {store}" in page.text
        assert f"--store {store}" in page.text and "tfgrpo demo" in page.text
        assert f"--store {store}" in (await look(client, "/versions")).text
        runs_page = await look(client, "/runs")
        assert f"--runs {runs}" in runs_page.text and "tfgrpo train" in runs_page.text
        await look(client, "/versions/v1", status=503)
        learned(store)  # it appears while the page is open
        assert "Check the units." in (await look(client, "/")).text
    assert not runs.exists()


async def test_an_empty_store_and_a_wrong_namespace_are_told(tmp_path):
    with experience_store.open(tmp_path / "store", embedder="hashing"):
        pass
    async with shown(tmp_path / "store", tmp_path / "runs") as client:
        assert "is at v0 and holds no experience" in (await look(client, "/")).text
        assert "Nothing was committed yet" in (await look(client, "/versions")).text
    async with shown(tmp_path / "store", tmp_path / "runs", namespace="other") as client:
        assert "has no namespace 'other'; there are: default" in (await look(client, "/")).text


async def test_a_search_without_a_result_leads_back(world):
    async with shown(*world) as client:
        assert "Nothing matches" in (await look(client, "/?q=zebra")).text
        assert "Nothing matches" in (await look(client, "/runs?q=zebra")).text
