"""What every page shares: the frame with its navigation, paging, forms, and what to do where there is nothing yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from tfgrpo.html_parts import Html, clean, count, join, tag, void

SECTIONS = (("experiences", "/", "Experiences"), ("versions", "/versions", "Versions"), ("runs", "/runs", "Runs"))
KEYS = (
    ("/", "search"),
    ("j  k", "next and previous row"),
    ("Enter", "open the row"),
    ("n  p", "next and previous page"),
    ("1  2  3", "experiences, versions, runs"),
    ("t", "light or dark"),
    ("?", "this help"),
    ("Esc", "close, leave a field"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a page is made from: the path's parts, the query, the form of a POST, and the secret of own forms."""

    path: str = "/"
    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    secret: str = ""
    may_change: bool = True
    session: bool = False  # whether there is one to end

    @property
    def page(self) -> int:
        """The page that is asked for, from 1 on; anything else is the first."""
        given = self.query.get("page", "")
        return min(max(1, int(given)), 10**9) if given.isascii() and given.isdigit() and len(given) < 12 else 1

    def link(self, **changes: object) -> str:
        """This page with another query; a value of None takes one away."""
        query = {**self.query, **changes}
        given = [(name, str(value)) for name, value in query.items() if value not in (None, "")]
        return self.path + (f"?{urlencode(given, errors='replace')}" if given else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A page without its frame, or where to go instead."""

    title: str = ""
    body: Sequence[object] = ()
    active: str = ""  # the section of the navigation
    status: int = 200
    go_to: str = ""  # after a change


def place(*parts: object) -> str:
    """A path, each part quoted.

    Example:
        >>> place("runs", "a b/c", "groups", 3)
        '/runs/a%20b%2Fc/groups/3'
    """
    return "".join(f"/{quote(str(part), safe='', errors='replace')}" for part in parts)


def framed(view: View, asked: Asked) -> Html:
    """The whole page."""
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", clean(f"{view.title} · tfgrpo", 200)),
        Html('<link rel="icon" href="/static/icon.svg" type="image/svg+xml">'),
        Html('<link rel="stylesheet" href="/static/report.css"><link rel="stylesheet" href="/static/app.css">'),
        tag("script", src="/static/app.js"),
    )
    links = [
        tag("a", words, href=href, aria_current="page" if name == view.active else None)
        for name, href, words in SECTIONS
    ]
    theme = tag("button", "◐", id="theme", type="button", title="light or dark (t)", aria_label="light or dark")
    out = form(asked, "/logout", tag("button", "Log out", type="submit")) if asked.session else None
    bar = tag(
        "nav",
        tag("a", "tfgrpo", href="/", class_="brand"),
        *links,
        tag("span", class_="gap"),
        out,
        tag("button", "?", id="keys", type="button", title="keyboard (?)", aria_label="keyboard"),
        theme,
        class_="bar",
    )
    skip = tag("a", "To the content", href="#content", class_="skip")
    body = tag("body", skip, bar, tag("main", *view.body, id="content", tabindex="-1"), _help())
    return Html("<!DOCTYPE html>\n" + tag("html", head, body, lang="en"))


def _help() -> Html:
    rows = [tag("tr", tag("td", *[tag("kbd", key) for key in keys.split()]), tag("td", what)) for keys, what in KEYS]
    close = tag("form", tag("button", "Close", type="submit"), method="dialog")
    return tag("dialog", tag("h2", "Keyboard"), tag("table", tag("tbody", *rows)), close, id="help")


def heading(words: object, *more: object) -> Html:
    """The title of a page with a line below it."""
    line = [tag("p", part) for part in more if part is not None]
    return tag("header", tag("h1", words), *line)


def form(asked: Asked, action: str, *children: object, class_: str | None = None) -> Html:
    """A form that changes something, with the secret that shows that it is ours."""
    secret = void("input", type="hidden", name="secret", value=asked.secret)
    return tag("form", secret, *children, method="post", action=action, class_=class_)


def chosen(name: str, label: str, options: Sequence[tuple[str, str]], value: str) -> Html:
    """A choice of a search form."""
    made = [
        tag("option", words, value=known, selected="selected" if known == value else None) for known, words in options
    ]
    return tag("label", tag("span", label), tag("select", *made, name=name))


def search(asked: Asked, words: str, *choices: Html) -> Html:
    """The form above a list; it changes nothing, so it is a GET."""
    field_ = void(
        "input",
        type="search",
        name="q",
        value=asked.query.get("q", ""),
        placeholder=words,
        aria_label=words,
        id="search",
        maxlength=500,
    )
    return tag(
        "form",
        field_,
        *choices,
        tag("button", "Search", type="submit"),
        method="get",
        action=asked.path,
        class_="search",
        role="search",
    )


def pager(asked: Asked, total: int, size: int, noun: str) -> Html:
    """Which part of a list is shown, and the way to the others."""
    pages = max(1, -(-total // size))
    at = min(asked.page, pages)
    first, last = (at - 1) * size + 1, min(at * size, total)
    shown = count(total, noun) if pages == 1 else f"{first:,} to {last:,} of {count(total, noun)}"
    links = [
        tag("a", "← previous", href=asked.link(page=at - 1), rel="prev") if at > 1 else None,
        tag("a", "next →", href=asked.link(page=at + 1), rel="next") if at < pages else None,
    ]
    return tag("div", tag("span", shown), tag("span", join([link for link in links if link], " ")), class_="pager")


def empty(title: str, words: object, *commands: str) -> Html:
    """Where there is nothing yet: why, and the commands that change it."""
    said = tag("pre", "\n".join(commands)) if commands else None
    return tag("section", tag("h2", title), tag("p", words), said, class_="empty")


def row(href: str, *cells: object, class_: str = "") -> Html:
    """A row of a list that the keyboard moves over and opens; its first cell is the link."""
    link = tag("a", cells[0], href=href, class_="id")
    return tag("div", link, *cells[1:], class_=f"row {class_}".strip(), data_row="")


def badge(words: object, kind: str = "") -> Html:
    """A short mark."""
    return tag("span", words, class_=f"badge {kind}".strip())


def said(words: object, kind: str = "good") -> Html:
    """What was just done."""
    return tag("div", tag("strong", words), class_=f"verdict {kind}", role="status")


def failed(status: int, words: str) -> View:
    """A page for what cannot be shown."""
    titles = {401: "A token is needed", 403: "Refused", 404: "Not here", 405: "Not in this way"}
    titles |= {409: "Somebody else was faster", 413: "Too large", 503: "The store cannot be read"}
    title = titles.get(status, "This cannot be shown")
    return View(title=title, status=status, body=[heading(title), tag("p", clean(words, 2000)), _back()])


def _back() -> Html:
    return tag("p", tag("a", "To the experiences", href="/"))


def login(asked: Asked, *, wrong: bool = False) -> View:
    """Asks for the token."""
    token = void(
        "input", type="password", name="token", autocomplete="current-password", required="required", id="search"
    )
    entry = tag(
        "form",
        tag("label", tag("span", "Token"), token),
        tag("button", "Open", type="submit"),
        method="post",
        action="/login",
        class_="search",
    )
    told = tag("p", "This token opens nothing here.", class_="bad-text", role="alert") if wrong else None
    why = "This page can be reached from other machines. The token is a line of the file given by --tokens."
    return View(title="Token", body=[heading("A token is needed", why), told, entry], status=401)
