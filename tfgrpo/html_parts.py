"""Elements of a page that cannot be broken by what stands in them: whatever is not `Html` is cleaned and escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

MAX_CHARACTERS = 6000
MAX_ATTRIBUTE = 1_000_000  # the points of a long curve
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]"
)


class Html(str):
    """Markup that stands as it is. Only the functions of this module and constants make it."""

    __slots__ = ()


def clean(value: object, limit: int = MAX_CHARACTERS) -> str:
    r"""Text that is safe to look at: control, direction-changing and invisible characters are shown by their number.

    Example:
        >>> clean("a\x1b[31mb\r\n")
        'a<U+001B>[31mb\n'
        >>> clean("abcdef", limit=4)
        'abcd... (2 more characters)'
    """
    text = str(value).replace("\r\n", "\n").replace("\r", "\n")
    cut = f"... ({len(text) - limit:,} more characters)" if len(text) > limit else ""
    return _HIDDEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text[:limit]) + cut


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 experience", "2 experiences"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def escaped(value: object) -> Html:
    """Anything as markup: `Html` as it is, everything else cleaned and escaped."""
    return value if isinstance(value, Html) else Html(html.escape(clean(value)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Several parts as one."""
    return Html(html.escape(between).join(escaped(part) for part in parts if part is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Children and attributes are escaped; a None among them is left out.

    `class_` is `class`, other underscores are hyphens.

    Example:
        >>> tag("p", "1 < 2", class_="note")
        '<p class="note">1 &lt; 2</p>'
    """
    known = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    given = "".join(f' {key}="{html.escape(clean(value, MAX_ATTRIBUTE))}"' for key, value in known)
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def void(name: str, /, **attributes: object) -> Html:
    """An element without content, such as a field of a form; its attributes are written as those of `tag`.

    Example:
        >>> void("input", name="q", value='"x"')
        '<input name="q" value="&quot;x&quot;">'
    """
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, numbers_from: int = 1) -> Html:
    """A table that scrolls sideways on a narrow screen; columns from `numbers_from` on are aligned as numbers."""

    def line(kind: str, cells: Sequence[object]) -> Html:
        made = [tag(kind, c, class_="number" if n >= numbers_from else None) for n, c in enumerate(cells)]
        return tag("tr", *made)

    body = [line("td", row) for row in rows]
    return tag(
        "div", tag("table", tag("thead", line("th", head)) if head else None, tag("tbody", *body)), class_="scroll"
    )


def folded(summary: object, *children: object, open_: bool = False) -> Html:
    """A block that opens on a click, without any script."""
    return tag("details", tag("summary", summary), *children, open="open" if open_ else None)


def section(title: str, *children: object, note: object = None) -> Html:
    """A headed part of the page."""
    said = None if note is None else tag("p", note, class_="note")
    return tag("section", tag("h2", title), said, *children)
