"""A version with its experiences loaded: what is rendered, searched and exported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from experience_store.codec import is_erased
from experience_store.errors import RefError, near_names
from experience_store.rank import Rank, lexical
from experience_store.render import Applied, Message, Prepared, block, prepare, selected
from experience_store.types import Experience, Layout, Version


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Immutable: it renders the same whatever is committed later.

    Example:
        >>> entry = Experience(id="E1", text="Check units.")
        >>> snapshot = Snapshot(version=Version(number=1, parent=0, rows=("E1@1-a",)), experiences=(entry,))
        >>> print(snapshot.apply([{"role": "user", "content": "5 km in m?"}]).messages[0]["content"])
        Notes from earlier problems (reference, use what applies):
        - Check units.
    """

    version: Version
    experiences: tuple[Experience, ...]  # in prompt order, those on trial included
    rank: Rank = lexical

    @property
    def served(self) -> tuple[Experience, ...]:
        """What an application sees: all but those on trial and those erased."""
        return tuple(e for e in selected(self.experiences, self.version.trial, None) if not is_erased(e))

    @property
    def trial(self) -> tuple[Experience, ...]:
        """The entries on probation."""
        return tuple(e for e in self.experiences if e.id in self.version.trial)

    @property
    def layout(self) -> Layout:
        return self.version.layout

    def apply(
        self, messages: Sequence[Message], include: Sequence[str] | None = None, *, layout: Layout | None = None
    ) -> Applied:
        """Puts the experiences into the messages.

        Args:
            messages: the bare prompt; returned as it is, the same object, when there is nothing to show.
            include: exactly these ids (accepted ones and those on trial); None means what is served.
            layout: another layout than the version's, to try one out.
        """
        return self.prepare(include, layout=layout).apply(messages)

    def prepare(self, include: Sequence[str] | None = None, *, layout: Layout | None = None) -> Prepared:
        """`apply` for many prompts: `snapshot.prepare(...).apply(messages)`, with the same arguments."""
        pool = selected(self.experiences, self.version.trial, include)
        return prepare(pool, layout or self.layout, self.rank)

    def without(self, ids: Iterable[str]) -> Snapshot:
        """The same without these experiences, in memory only: nothing in a store changes.

        Example:
            >>> entries = (Experience(id="E1", text="Check units."), Experience(id="E2", text="Round up."))
            >>> two = Snapshot(version=Version(number=1, parent=0, rows=("", "")), experiences=entries)
            >>> [e.id for e in two.without(["E1"]).served]
            ['E2']

        Raises:
            RefError: no such experience in this version.
        """
        gone = {self[id].id for id in ids}
        left = tuple(e for e in self.experiences if e.id not in gone)
        trial = tuple(id for id in self.version.trial if id not in gone)
        version = replace(self.version, rows=tuple(e.row for e in left), trial=trial)
        return replace(self, version=version, experiences=left)

    def text(self, question: str | None = None) -> str:
        """The block of notes as it would stand in a prompt, "" when there is nothing to show.

        Without a question, a retrieving layout shows all entries that could be picked.
        """
        layout = self.layout
        if question is None:
            layout = Layout(placement=layout.placement, max_tokens=layout.max_tokens)
        shown = self.prepare(layout=layout).shown(question or "")
        return block(shown) if shown else ""

    def __getitem__(self, id: str) -> Experience:
        found = {e.id: e for e in self.experiences}
        if id not in found:
            raise RefError(f"no experience {id!r} in {self.version.name}; {near_names(id, found)}")
        return found[id]

    def __contains__(self, id: object) -> bool:
        return any(e.id == id for e in self.experiences)

    def __len__(self) -> int:
        return len(self.experiences)
