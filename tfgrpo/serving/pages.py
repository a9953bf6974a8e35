"""The proxy's own pages: is it alive, is it ready, what has it done, what does it speak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tfgrpo.serving.access import Access
from tfgrpo.serving.library_source import LibrarySource
from tfgrpo.serving.metrics import Metrics
from tfgrpo.serving.openapi import document
from tfgrpo.serving.proxy import refusal
from tfgrpo.serving.refusal import Refused


@dataclass(kw_only=True, slots=True)
class Pages:
    """`draining` is set when the server is about to stop."""

    sources: Mapping[str, LibrarySource]
    access: Access
    metrics: Metrics | None
    draining: bool = False

    def routes(self) -> list[web.RouteDef]:
        """Where they are."""
        return [
            web.get("/healthz", self.health),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.counts),
            web.get("/openapi.json", self.api),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """The process answers."""
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """Whether to send requests here. A store that cannot be read is told, and is no reason to stop serving."""
        statuses = {namespace: source.status() for namespace, source in self.sources.items()}
        stale = any(status.problem for status in statuses.values())
        data: dict[str, Any] = {"status": "draining" if self.draining else "stale" if stale else "ready"}
        if self._sees_all(request):
            data["libraries"] = {
                namespace: {
                    "version": s.version,
                    "place": s.place,
                    **({"problem": s.problem, "unseen_s": round(s.unseen_s, 1)} if s.problem else {}),
                }
                for namespace, s in statuses.items()
            }
        return web.json_response(data, status=503 if self.draining else 200)

    async def counts(self, request: web.Request) -> web.Response:
        """For Prometheus; with tokens the operator's is needed, since the counts are of all namespaces."""
        try:
            admitted = self.access.admit(request)
        except Refused as refused:
            return refusal(refused)
        if not self.access.open and not admitted.operator:
            return refusal(Refused(403, "not_operator", "the metrics of all namespaces need a token for '*'"))
        if self.metrics is None:
            return refusal(Refused(404, "no_metrics", "metrics need: pip install 'tfgrpo[serve]'"))
        text, kind = self.metrics.page()
        return web.Response(body=text, headers={"Content-Type": kind})

    async def api(self, request: web.Request) -> web.Response:
        """The OpenAPI document of what is not handed on unread."""
        return web.json_response(document())

    def _sees_all(self, request: web.Request) -> bool:
        try:
            admitted = self.access.admit(request)
        except Refused:
            return False
        return self.access.open or admitted.operator
