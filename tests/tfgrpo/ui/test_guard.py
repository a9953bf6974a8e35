"""Who may look, what may change something, and that nothing that was learned or answered can break a page."""

import re

import pytest
from aiohttp import ClientSession, CookieJar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uiworld import HOSTILE, RUN, Page, learned, look, ran, shown

import experience_store
from experience_store import Edit, Experience, Layout, Version
from tfgrpo.cli.main import main
from tfgrpo.errors import InputError
from tfgrpo.ui.catalog import Entry, Listing
from tfgrpo.ui.entry_pages import _list
from tfgrpo.ui.frame import Asked, View, framed
from tfgrpo.ui.guard import CONTENT_POLICY
from tfgrpo.ui.version_pages import worded

TOKEN = "a-token-of-the-page-01"


@pytest.fixture
def world(tmp_path):
    ran(tmp_path / "runs")
    return learned(tmp_path / "store"), tmp_path / "runs"


async def secret(client, path="/versions/v1", **options):
    page = await look(client, path, **options)
    return next(v for v in page.values("value") if v and re.fullmatch("[0-9a-f]{64}", v))


async def post(client, path, headers=None, **form):
    headers = {"Origin": client.origin, **(headers or {})}
    async with client.post(path, data=form, headers=headers, allow_redirects=False) as response:
        return response.status, response.headers.get("Location", ""), await response.text()


def head(store):
    with experience_store.open(store) as opened:
        return opened.head().number, opened.tags()


# -- what every answer carries ----------------------------------------------------------------------------------------


async def test_every_answer_forbids_all_but_our_own_files(world):
    paths = ("/", "/experiences/E1", "/versions", "/versions/v1", "/diff?before=v1", "/runs", f"/runs/{RUN}",
             f"/runs/{RUN}/groups", f"/runs/{RUN}/groups/1", "/nothing", "/static/app.js", "/static/app.css",
             "/static/report.css", "/static/icon.svg")  # fmt: skip
    async with shown(*world) as client:
        for path in paths:
            async with client.get(path) as response:
                assert response.headers["Content-Security-Policy"] == CONTENT_POLICY
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                text = await response.text()
            if response.content_type != "text/html":
                continue
            page = Page(text)
            assert "style" not in page.tags
            assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
            assert page.values("src") == ["/static/app.js"]
            assert not [href for href in page.values("href") if not href.startswith(("/", "#"))]


async def test_what_the_page_loads_is_there(world):
    async with shown(*world) as client:
        page = await look(client, "/")
        loaded = [*page.values("src"), *(h for h in page.values("href") if h.startswith("/static/"))]
        assert len(loaded) == 4
        for path in loaded:
            async with client.get(path) as response:
                assert response.status == 200
                assert "http" not in (await response.text()).replace("http://www.w3.org/2000/svg", "")


# -- changes ----------------------------------------------------------------------------------------------------------


async def test_tag_and_rollback_by_the_pages_own_forms(world):
    async with shown(*world) as client:
        known = await secret(client)
        status, location, _ = await post(client, "/versions/v1/tag", secret=known, name="good")
        assert (status, location) == (303, "/versions/v1?done=tagged")
        assert "The tag is set." in (await look(client, location)).text
        status, location, _ = await post(client, "/versions/v1/rollback", secret=known)
        assert (status, location) == (303, "/versions/v3?done=rolled-back")
        page = await look(client, location)
        assert "To undo it, roll back to v2" in page.text and "rollback to v1 (page)" in page.text
        assert "Guess." in (await look(client, "/")).text
    assert head(world[0]) == (3, {"best": 1, "good": 1})


@pytest.mark.parametrize("given_", ["", "0" * 64, "\udcff", "wrong"])
async def test_a_change_without_the_secret_is_refused(world, given_):
    async with shown(*world) as client:
        for path in ("/versions/v1/rollback", "/versions/v1/tag"):
            form = {"secret": given_.encode("utf-8", "replace").decode()} if given_ else {}
            status, _, text = await post(client, path, name="good", **form)
            assert status == 403 and "nothing was changed" in text
    assert head(world[0]) == (2, {"best": 1})


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Origin": "http://localhost:3000"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
     {"Sec-Fetch-Site": "none"}, {"Origin": ""}, {"Origin": "http://["}],
)  # fmt: skip
async def test_a_change_from_another_page_is_refused_even_with_the_secret(world, headers):
    async with shown(*world) as client:
        known = await secret(client)
        status, _, _ = await post(client, "/versions/v1/rollback", headers, secret=known)
        assert status == 403
        async with client.post("/versions/v1/rollback", data={"secret": known}) as response:
            assert response.status == 403  # no browser of this page sends neither header
    assert head(world[0]) == (2, {"best": 1})


async def test_names_and_versions_that_are_none_change_nothing(world):
    async with shown(*world) as client:
        known = await secret(client)
        for name in ("", "v7", "7", "head", "a b", "<b>", "x" * 80):
            status, _, text = await post(client, "/versions/v1/tag", secret=known, name=name)
            assert status == 400 and "<b>" not in text
        assert (await post(client, "/versions/v9/rollback", secret=known))[0] == 404
        assert (await post(client, "/versions", secret=known))[0] == 405
        assert (await post(client, "/versions/v1/tag", secret=known, name="x" * 100_000))[0] == 413
        async with client.get("/versions/v1/rollback") as response:
            assert response.status == 405
    assert head(world[0]) == (2, {"best": 1})


async def test_a_read_only_page_has_no_forms_and_takes_none(world):
    async with shown(*world) as client:
        known = await secret(client)
    async with shown(*world, may_change=False) as client:
        page = await look(client, "/versions/v1")
        assert not [a for a in page.values("action") if a.startswith("/versions/")]
        assert (await post(client, "/versions/v1/rollback", secret=known))[0] == 403
    assert head(world[0]) == (2, {"best": 1})


# -- who may look -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 403), ({"Host": "127.0.0.1.evil.example:8110"}, 403), ({"Host": "localhost:8110"}, 200),
     ({"Origin": "http://evil.example"}, 403), ({"Host": ""}, 403)],
)  # fmt: skip
async def test_without_tokens_only_this_machine_is_answered(world, headers, status):
    async with shown(*world) as client, client.get("/", headers=headers) as response:
        assert response.status == status
        assert ("Check the units." in await response.text()) == (status == 200)


async def test_another_address_needs_a_token(world):
    with pytest.raises(InputError, match="needs a token"):
        async with shown(*world, host="0.0.0.0"):
            pass
    with pytest.raises(InputError, match="no token is for the namespace 'default'"):
        async with shown(*world, tokens={TOKEN: "other"}):
            pass


async def test_with_tokens_every_page_asks_for_one(world):
    async with shown(*world, tokens={TOKEN: "default", "another-token-0001": "other"}) as client:
        for path in ("/", "/versions", f"/runs/{RUN}", "/nothing"):
            page = await look(client, path, status=401)
            assert "A token is needed" in page.text and "Check" not in page.text
        for wrong in ("another-token-0001", TOKEN[:-1], "", TOKEN.upper()):
            await look(client, "/", status=401, headers={"Authorization": f"Bearer {wrong}"})
            assert (await post(client, "/login", token=wrong))[0] == 401
        assert "Check" in (await look(client, "/", headers={"Authorization": f"Bearer {TOKEN}"})).text
        assert (await post(client, "/versions/v1/rollback", secret="x"))[0] in (401, 403)
    assert head(world[0])[0] == 2


async def test_a_session_is_opened_by_the_token_and_ended(world):
    async with (
        shown(*world, tokens={TOKEN: "*"}) as outside,
        ClientSession(outside.origin, cookie_jar=CookieJar(unsafe=True)) as client,
    ):
        client.origin = outside.origin
        own = {"Origin": client.origin}
        assert (await post(client, "/login", {"Origin": "http://evil.example"}, token=TOKEN))[0] == 403
        async with client.post("/login", data={"token": TOKEN}, headers=own, allow_redirects=False) as response:
            assert response.status == 303
            cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        assert "Check" in (await look(client, "/")).text
        known = await secret(client)
        assert (await post(client, "/versions/v1/tag", secret=known, name="good"))[0] == 303
        assert (await post(outside, "/versions/v1/tag", secret=known, name="bad"))[0] == 401
        kept = {"Cookie": cookie.partition(";")[0]}
        await look(outside, "/", headers=kept)
        assert (await post(client, "/logout", secret=known))[0] == 303
        await look(client, "/", status=401)
        await look(outside, "/", status=401, headers=kept)  # the old cookie opens nothing any more
    assert head(world[0])[1] == {"best": 1, "good": 1}


# -- hostile words ----------------------------------------------------------------------------------------------------


async def test_hostile_words_are_shown_and_do_nothing_anywhere(tmp_path):
    store = learned(tmp_path / "store", HOSTILE)
    with experience_store.open(store) as opened:
        opened.commit(
            [Edit(op="revise", id="E3", text=f"Again: {HOSTILE}", reason=HOSTILE[:900])], note=HOSTILE[:400],
            writer=HOSTILE[:200], evidence={"<script>": HOSTILE[:300]},
        )  # fmt: skip
    ran(tmp_path / "runs", text=HOSTILE, question=HOSTILE.replace("{", "(").replace("}", ")"))
    harmless = {"/static/app.js"}
    async with shown(store, tmp_path / "runs") as client:
        for path in ("/", "/experiences/E3", "/experiences/E3?at=v1", "/versions", "/versions/v3", "/diff?before=v1",
                     f"/runs/{RUN}", f"/runs/{RUN}/groups", f"/runs/{RUN}/groups/0", "/?q=%3Cscript%3E%22",
                     "/runs?q=%22%3E%3Cimg", "/experiences/%3Cscript%3E", "/diff?before=%3Cb%3E"):  # fmt: skip
            async with client.get(path) as response:
                text = await response.text()
            page = Page(text)
            assert "img" not in page.tags and page.tags.count("script") == 1 and set(page.values("src")) == harmless
            assert not [name for name, _ in page.attributes if name.startswith("on")]
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
            assert len(text) < 120_000
        assert "alert(1)" in (await look(client, "/")).text


ANYTHING = st.text(st.characters(codec=None), max_size=80) | st.sampled_from([HOSTILE[:300], "]]>", "<!--", "</main>"])


@given(ANYTHING, ANYTHING, ANYTHING)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_words_stay_words(text, question, query):
    e = Experience(id=text[:20] or "E", text=text, question=question, kind="example" if question else "lesson")
    entry = Entry(experience=e, place=0, on_trial=True, layout=Layout(), belief={})
    listing = Listing(version=Version(number=1, parent=0, rows=("r",)), entries=(entry,))
    asked = Asked(query={"q": query, "show": query})
    plain = framed(View(title="t", body=_list(Asked(query={"q": "no such"}), listing)), Asked())
    for searched in (asked, Asked()):
        made = framed(View(title=text, body=_list(searched, listing)), searched)
        page = Page(made.encode("utf-8", "replace").decode())
        assert page.tags.count("script") == Page(plain).tags.count("script") == 1
        assert {"iframe", "object", "img", "base", "style"}.isdisjoint(page.tags)
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", made)


@given(st.text(max_size=60), st.text(max_size=60))
def test_two_texts_as_one_hold_all_words_of_both(before, after):
    parts = re.split("(<del>.*?</del>|<ins>.*?</ins>)", worded(before, after), flags=re.DOTALL)
    shown_ = {"old": "", "new": ""}
    for part in parts:
        words = re.sub("</?(?:del|ins)>", "", part)
        shown_["old"] += "" if part.startswith("<ins>") else words
        shown_["new"] += "" if part.startswith("<del>") else words
    if "\n" not in worded(before, after):
        assert shown_ == {"old": worded(before, before), "new": worded(after, after)}


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_refuses_what_it_cannot_show(tmp_path, capsys):
    (tmp_path / "best.json").write_text("{}")
    assert main(["ui", "--store", str(tmp_path / "best.json")]) == 2
    assert "tfgrpo store import" in capsys.readouterr().err
    assert main(["ui", "--store", str(tmp_path / "none"), "--host", "0.0.0.0"]) == 2
    assert "needs a token" in capsys.readouterr().err
