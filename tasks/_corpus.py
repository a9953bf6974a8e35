"""A small generated corpus about workshops that no model has read about, and its search in a Chroma collection."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path

from experience_store.chroma import Connection, Row, Table
from experience_store.embed import Embedder, resolve_embedder, unit
from tasks._people import CITIES, NAMES, THINGS, made_up_names
from tfgrpo.errors import InputError

MOST = 56
PER_WORKSHOP = 4
COLLECTION = "corpus"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """What the documents say of one workshop."""

    name: str
    city: str
    market: str
    goods: str
    founder: str
    head: str
    founded: int

    def documents(self) -> dict[str, str]:
        """Its documents by id; each holds one or two of its facts, and names that are not the answer."""
        return {
            f"{self.name}/place": f"{self.name} is a workshop in the old town of {self.city}. It makes {self.goods}.",
            f"{self.name}/history": f"{self.founder} founded the workshop {self.name} in {self.founded}.",
            f"{self.name}/people": f"The head of {self.name} today is {self.head}, who came from another workshop.",
            f"{self.name}/market": f"On Saturdays {self.name} sells its {self.goods} at the market of {self.market}.",
        }


def workshops(count: int, seed: int) -> list[Workshop]:
    """Seeded workshops; founder and head, town and market differ."""
    if not 1 <= count <= MOST:
        raise InputError(f"there can be 1 to {MOST} workshops, got {count}")
    draw = random.Random(f"{seed}/workshops")
    found = []
    for name in draw.sample(made_up_names(MOST), count):
        (city, market), (founder, head) = draw.sample(CITIES, 2), draw.sample(NAMES, 2)
        goods, year = draw.choice(THINGS), draw.randint(1850, 1990)
        found.append(
            Workshop(name=name, city=city, market=market, goods=goods, founder=founder, head=head, founded=year)
        )
    return found


class Corpus:
    """Documents in an embedded Chroma collection, searched by cosine similarity; close it, or use it in a `with`.

    Args:
        documents: text by id.
        embedder: "hashing", "minilm" or one of your own.
        folder: where the collection is kept; a temporary folder, gone when closed, by default. A collection that is
            there already is used when it holds the same documents.

    Raises:
        InputError: `folder` holds another corpus.
    """

    def __init__(
        self, documents: Mapping[str, str], *, embedder: str | Embedder, folder: str | Path | None = None
    ) -> None:
        self._embedder = resolve_embedder(embedder)
        self._temporary = tempfile.TemporaryDirectory(prefix="corpus-") if folder is None else None
        place = Path(folder) if folder is not None else Path(self._temporary.name if self._temporary else "")
        place.mkdir(parents=True, exist_ok=True)
        self.documents = dict(documents)
        self._ids = list(documents)
        self._connection = Connection(str(place))
        self._table = self._filled(place)
        self._vectors = {name: unit(row.vector) for name, row in self._table.get(vectors=True).items()}

    def _filled(self, place: Path) -> Table:
        table = self._connection.table(COLLECTION, {"embedder": self._embedder.name})
        known = {name: row.text for name, row in table.get().items()}
        if known == self.documents and table.meta.get("embedder") == self._embedder.name:
            return table
        if known:
            self.close()
            raise InputError(f"{place} holds another corpus, or one of another embedder; give an empty folder")
        vectors = self._embedder.embed(list(self.documents.values()))
        table.add([Row(n, t, {"at": i}, tuple(vectors[i])) for i, (n, t) in enumerate(self.documents.items())])
        return table

    def search(self, queries: Sequence[str], k: int) -> list[list[str]]:
        """The ids of the `k` documents nearest to each query, best first.

        The index is an approximate one that is built with random draws: it names candidates, and their exact
        similarities decide, so that equal queries find the same documents every time.
        """
        return [self._nearest(vector, k) for vector in self._embedder.embed(list(queries))]

    def _nearest(self, vector: Sequence[float], k: int) -> list[str]:
        near = self._table.nearest(vector, self._ids, min(len(self._ids), 2 * k + 10))
        query = unit(vector)
        exact = {name: round(sum(map(mul, query, self._vectors[name])), 6) for name, _ in near}
        return sorted(exact, key=lambda name: (-exact[name], name))[:k]

    def close(self) -> None:
        """Gives back files and, where it was temporary, the folder."""
        self._connection.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Corpus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
