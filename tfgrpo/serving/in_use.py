"""One library behind one client: where a request becomes an answer, whichever client sends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tfgrpo.serving.apply import Api, Augmented, Body, atry_augment, try_augment
from tfgrpo.serving.following import FollowedLibrary, Use

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class InUse:
    """What a wrapped client and its copies share."""

    library: FollowedLibrary
    on_use: Callable[[Use], None] | None = None
    owned: bool = False  # whether the library was opened for this client and is closed with it

    def ask(self, body: Body, api: Api, send: Callable[[Body], T]) -> T:
        """Puts the experiences in and sends; a strategy that asks several times takes the place of this one call."""
        return send(self._told(try_augment(body, api, self.library), api))

    async def aask(self, body: Body, api: Api, send: Callable[[Body], Awaitable[T]]) -> T:
        """`ask` on an event loop."""
        return await send(self._told(await atry_augment(body, api, self.library), api))

    def _told(self, done: Augmented, api: Api) -> Body:
        model = str(done.body.get("model") or "")
        use = Use(version=done.version, labels=done.labels, api=api, model=model, problem=done.problem)
        self.library.note(use)
        if self.on_use is not None:
            self.on_use(use)
        return done.body

    def close(self) -> None:
        """Closes the library, unless it was opened by someone else."""
        if self.owned:
            self.library.close()
