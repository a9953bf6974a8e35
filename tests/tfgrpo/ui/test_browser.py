"""The page in a real headless Chromium: by keyboard and mouse, light and dark, without a word on the console."""

import pytest
from browsers import CHROMIUM, browsing
from uiworld import HOSTILE, RUN, learned, ran, shown

import experience_store
from experience_store import Edit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]
PAINTED = """new Promise(done => {
  const look = () => {
    const found = performance.getEntriesByName("first-contentful-paint");
    if (found.length) done(found[0].startTime); else setTimeout(look, 20);
  };
  look();
})"""
WIDTHS = (1280, 800, 390)


@pytest.fixture
def world(tmp_path):
    ran(tmp_path / "runs", groups=70)
    return learned(tmp_path / "store", HOSTILE), tmp_path / "runs"


def at(tab):
    return tab.run("document.querySelector('.at a').textContent")


def paper(tab):
    return tab.run("getComputedStyle(document.body).backgroundColor")


async def test_by_keyboard_alone_from_search_to_a_rollout(world):
    async with shown(*world) as client, browsing() as tab:
        await tab.open(client.origin)
        await tab.press("/")
        assert await tab.run("document.activeElement.id") == "search"
        await tab.press(*"units")
        async with tab.loading():
            await tab.press("Enter")
        assert await tab.run("document.querySelectorAll('[data-row]').length") == 1
        await tab.press("j")
        assert await at(tab) == "E1"
        async with tab.loading():
            await tab.press("Enter")
        assert await tab.run("location.pathname") == "/experiences/E1"
        await tab.press("?")
        assert await tab.run("document.getElementById('help').open") is True
        await tab.press("Escape")
        assert await tab.run("document.getElementById('help').open") is False
        async with tab.loading():
            await tab.press("3")
        await tab.press("j")
        async with tab.loading():
            await tab.press("Enter")
        assert await tab.run("location.pathname") == f"/runs/{RUN}"
        await tab.open(f"{client.origin}/runs/{RUN}/groups")
        async with tab.loading():
            await tab.press("n")
        assert await tab.run("document.querySelectorAll('[data-row]').length") == 20
        await tab.press("j", "j", "k", "j")
        assert await at(tab) == "51"
        async with tab.loading():
            await tab.press("Enter")
        assert "Winners beside losers" in await tab.run("document.body.innerText")
        async with tab.loading():
            await tab.press("p")
        assert await tab.run("location.pathname") == f"/runs/{RUN}/groups/50"
        assert not tab.complaints
        assert {url.removeprefix(client.origin)[:1] for url in tab.requests} == {"/"}  # nothing left this machine


async def test_tag_diff_and_rollback_with_the_mouse(world):
    async with shown(*world) as client, browsing() as tab:
        await tab.open(f"{client.origin}/versions")
        async with tab.loading():
            await tab.click(".row:nth-child(1) a[href^='/diff']")
        assert "Never guess." in await tab.run("document.querySelector('.changes').innerText")
        await tab.open(f"{client.origin}/versions/v2")
        async with tab.loading():
            await tab.click("form[action='/versions/v2/tag'] input[type=hidden][name=name] ~ button")
        assert "The tag is set." in await tab.run("document.body.innerText")
        await tab.open(f"{client.origin}/versions/v2")
        await tab.run("document.querySelector('input[list]').value = 'good'")
        async with tab.loading():
            await tab.click("form[action='/versions/v2/tag'] input[list] ~ button")
        assert "The tag is set." in await tab.run("document.body.innerText")
        await tab.open(f"{client.origin}/versions/v1")
        async with tab.loading():
            await tab.click("button.strong")
        assert await tab.run("location.pathname") == "/versions/v3"
        assert "Rolled back" in await tab.run("document.body.innerText")
        assert not tab.complaints
    with experience_store.open(world[0]) as store:
        assert store.head().number == 3 and store.tags() == {"best": 2, "good": 2}


async def test_light_and_dark_follow_the_system_until_one_is_chosen(world):
    async with shown(*world) as client, browsing() as tab:
        await tab.prefer("light")
        await tab.open(client.origin)
        light = await paper(tab)
        await tab.prefer("dark")
        dark = await paper(tab)
        assert light != dark
        await tab.click("#theme")
        assert await paper(tab) == light
        await tab.open(f"{client.origin}/versions")  # kept
        assert await paper(tab) == light
        await tab.press("t")
        assert await paper(tab) == dark
        await tab.prefer("light")
        await tab.open(client.origin)
        assert await paper(tab) == dark
        assert not tab.complaints


async def test_hostile_words_run_nothing_and_no_page_is_wider_than_the_screen(world):
    paths = ("/", "/experiences/E3", "/versions", "/versions/v1", "/diff?before=v0", "/runs", f"/runs/{RUN}",
             f"/runs/{RUN}/groups", f"/runs/{RUN}/groups/1")  # fmt: skip
    async with shown(*world) as client, browsing() as tab:
        for width in WIDTHS:
            await tab.resize(width)
            for path in paths:
                await tab.open(client.origin + path)
                assert await tab.run("document.documentElement.scrollWidth") <= width, (path, width)
                assert await tab.run("document.querySelectorAll('script').length") == 1
        assert not tab.complaints


async def test_a_script_that_got_in_would_not_run(world):
    async with shown(*world) as client, browsing() as tab:
        await tab.open(client.origin)
        await tab.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
        script = "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 2';"
        await tab.run(f"{script} document.body.append(s); }})()")
        assert await tab.run("window.ran === undefined")
        assert any("Content Security Policy" in said for said in tab.complaints)


async def test_ten_thousand_experiences_are_painted_soon(tmp_path):
    """Most of a second is room for a busy machine; what is sent and built is held in numbers by the fast tests."""
    with experience_store.open(tmp_path / "store", embedder="hashing") as store:
        store.commit([Edit(op="add", text=f"Lesson {n}: state the units.") for n in range(10_000)])
    async with shown(tmp_path / "store", tmp_path / "runs") as client, browsing() as tab:
        await tab.open(f"{client.origin}/?order=tokens")  # the store is read once, and all tokens are counted once
        await tab.open(f"{client.origin}/?order=tokens&page=50")
        painted = await tab.run(PAINTED)
        print(f"first contentful paint {painted:.0f} ms")
        assert await tab.run("document.getElementsByTagName('*').length") < 2500
        assert painted < 3000
