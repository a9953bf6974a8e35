"""A store that changes, goes back or breaks while the proxy answers from it: no lost and no mixed answer."""

import asyncio

from upstreams import NOTE, Upstream, ask, library, lines, proxied

import experience_store
from experience_store import Edit


async def test_a_store_that_cannot_be_read_keeps_its_last_version_and_says_so(tmp_path):
    file = tmp_path / "library.json"
    library(tmp_path, NOTE)
    good = file.read_text()
    async with Upstream() as upstream, proxied(upstream, str(file)) as client:
        assert (await ask(client)).headers.get("x-tfgrpo-store") is None
        file.write_text(good.replace("units", "signs"))  # the hash does not fit
        answer = await _until(client, lambda a: "x-tfgrpo-store" in a.headers)
        told = [line for line in lines(client.log) if line["event"] == "library"]
        assert [("does not match its hash" in line["problem"], line["version"]) for line in told] == [(True, "v1")]
        assert answer.status == 200 and answer.headers["x-tfgrpo-store"].startswith("stale; unseen=")
        assert NOTE in answer.words and answer.headers["x-tfgrpo-version"] == "v1"
        async with client.get("/readyz") as response:
            ready = await response.json()
        assert (response.status, ready["status"]) == (200, "stale")
        assert "does not match its hash" in ready["libraries"]["default"]["problem"]
        file.write_text(good)
        assert (await _until(client, lambda a: "x-tfgrpo-store" not in a.headers)).status == 200


async def _until(client, holds):
    for _ in range(200):
        answer = await ask(client)
        if holds(answer):
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to hold")


async def test_a_version_changes_under_load_without_a_lost_or_mixed_answer(tmp_path):
    """A tag moves forward and back while requests run: every answer's words are those of the version it names."""
    place = tmp_path / "store"
    with experience_store.open(place, embedder="hashing") as store:
        for n in range(1, 4):
            op = Edit(op="add", text="words of v1") if n == 1 else Edit(op="revise", id="E1", text=f"words of v{n}")
            store.commit([op])
        store.tag("best", 1)
        async with Upstream() as upstream, proxied(upstream, f"{place}@best", poll_s=0.01) as client:
            seen, done = [], asyncio.Event()

            async def worker():
                while not done.is_set():
                    answer = await ask(client)
                    assert answer.status == 200
                    version = answer.headers["x-tfgrpo-version"]
                    assert answer.words.endswith(f"- words of {version}")
                    label = answer.headers["x-tfgrpo-experiences"]
                    assert label == f"E1@{version[1:]}"
                    seen.append(version)

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(worker())
                for target in (2, 3, 1, 3):
                    await asyncio.to_thread(store.tag, "best", target)
                    await _until(client, lambda a, n=target: a.headers["x-tfgrpo-version"] == f"v{n}")
                done.set()
            assert {"v1", "v2", "v3"} == set(seen)
            assert client.sources["default"].status().problem == ""


async def test_a_rollback_under_load_is_served(tmp_path):
    place = tmp_path / "store"
    with experience_store.open(place, embedder="hashing") as store:
        store.commit([Edit(op="add", text="the good words")])
        store.commit([Edit(op="add", text="the bad words")])
        async with Upstream() as upstream, proxied(upstream, str(place), poll_s=0.01) as client:
            asks = [
                asyncio.create_task(_until(client, lambda a: a.headers["x-tfgrpo-version"] == "v3")) for _ in range(8)
            ]
            await asyncio.sleep(0.05)
            await asyncio.to_thread(store.rollback, 1)
            for answer in await asyncio.gather(*asks):
                assert "good" in answer.words and "bad" not in answer.words


async def test_what_is_erased_is_served_no_longer_even_by_a_pinned_version(tmp_path):
    place = tmp_path / "store"
    with experience_store.open(place, embedder="hashing") as store:
        store.commit([Edit(op="add", text="Ann lives in Graz.", source={"problem": "ann"}), Edit(op="add", text=NOTE)])
        async with Upstream() as upstream, proxied(upstream, f"{place}@v1") as client:
            assert "Ann" in (await ask(client)).words
            await asyncio.to_thread(store.gc, erase="ann")
            answer = await _until(client, lambda a: "Ann" not in a.words)
            assert NOTE in answer.words and answer.headers["x-tfgrpo-version"] == "v1"
            assert client.sources["default"].status().problem == ""
