"""The running page: routes, who may look, and what every answer carries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from aiohttp import web

from experience_store import Conflict, StoreError
from experience_store.errors import RefError, UnavailableError
from tfgrpo.errors import InputError, TfgrpoError
from tfgrpo.html_style import STYLE
from tfgrpo.serving.access import Access, is_loopback
from tfgrpo.serving.refusal import Refused
from tfgrpo.ui.catalog import Catalog
from tfgrpo.ui.entry_pages import EntryPages
from tfgrpo.ui.frame import Asked, View, failed, framed, login
from tfgrpo.ui.group_pages import GroupPages
from tfgrpo.ui.guard import HEADERS, SESSION_S, Guard, Visitor, check_origin
from tfgrpo.ui.run_pages import RunPages, Writer
from tfgrpo.ui.version_pages import VersionPages

BODY_BYTES = 65_536
HEADER_BYTES = 32_768
STATIC = {"app.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}
STATUSES: Mapping[type[Exception], int] = {RefError: 404, InputError: 404, Conflict: 409, UnavailableError: 503}
"""What the web calls the errors of stores and runs."""
Page = Callable[[Asked], View]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is shown, and to whom: `tokens` maps a token to its namespace; without any, `host` must be loopback."""

    catalog: Catalog
    runs: Path
    writer_of: Callable[[str], Writer]  # the reports of kinds of runs that other packages bring
    host: str = "127.0.0.1"
    port: int = 8110
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    may_change: bool = True


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Serves until it is left; the page's URL.

    Raises:
        InputError: an address that is not loopback without tokens, tokens of other namespaces only, a port in use.
    """
    access = Access(settings.tokens, namespace=settings.catalog.namespace)
    if access.open and not is_loopback(settings.host):
        raise InputError(
            f"{settings.host!r} can be reached from other machines, so the page needs a token: give --tokens FILE with "
            "one 'TOKEN NAMESPACE' a line, or listen on 127.0.0.1"
        )
    if not access.open and not any(n in (settings.catalog.namespace, "*") for n in settings.tokens.values()):
        raise InputError(f"no token is for the namespace {settings.catalog.namespace!r} of the store, nor for '*'")
    async with AsyncExitStack() as stack:
        site = Site(settings, Guard(access, namespace=settings.catalog.namespace))
        runner = web.AppRunner(
            site.app(), access_log=None, max_line_size=HEADER_BYTES, max_field_size=HEADER_BYTES, shutdown_timeout=5.0
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            raise InputError(
                f"cannot listen on {settings.host}:{settings.port} ({error}); choose another --port"
            ) from error
        warm = asyncio.create_task(asyncio.to_thread(settings.catalog.warm), name="warm")
        stack.push_async_callback(asyncio.wait, [warm])
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http://{host}:{runner.addresses[0][1]}"


class Site:
    """All pages behind one guard."""

    def __init__(self, settings: Settings, guard: Guard) -> None:
        self._guard, self._may_change = guard, settings.may_change
        entries = EntryPages(settings.catalog, settings.runs)
        versions = VersionPages(settings.catalog)
        runs = RunPages(settings.runs, settings.writer_of)
        groups = GroupPages(runs)
        self._pages: Mapping[str, Page] = {
            "/": entries.index,
            "/experiences/{id}": entries.one,
            "/versions": versions.index,
            "/versions/{ref}": versions.one,
            "/diff": versions.diff,
            "/runs": runs.index,
            "/runs/{run}": runs.one,
            "/runs/{run}/groups": groups.index,
            "/runs/{run}/groups/{group}": groups.one,
        }
        self._changes: Mapping[str, Page] = {
            "/versions/{ref}/tag": versions.tag,
            "/versions/{ref}/rollback": versions.rollback,
        }
        folder = resources.files("tfgrpo.ui") / "static"
        self._static = {name: (folder / name).read_bytes() for name in STATIC} | {"report.css": STYLE.encode()}

    def app(self) -> web.Application:
        """The application with its routes."""
        app = web.Application(middlewares=[self._guarded], client_max_size=BODY_BYTES)
        app.router.add_get("/static/{name}", self._file)
        app.router.add_post("/login", self._log_in)
        app.router.add_post("/logout", self._log_out)
        for path, page in self._pages.items():
            app.router.add_get(path, self._shown(page))
        for path, page in self._changes.items():
            app.router.add_post(path, self._changed(page))
        return app

    # -- answering ----------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            visitor = self._visitor(request)
            if request.method not in ("GET", "HEAD"):
                check_origin(request.headers)
            public = request.path == "/login" or request.path.startswith("/static/")
            if visitor is None and not public:
                response: web.StreamResponse = _html(login(Asked()), Asked())
            else:
                response = await handler(request)
        except Refused as refused:
            response = _html(failed(refused.status, refused.message), Asked())
        except web.HTTPException as error:
            response = _html(failed(error.status, _HTTP.get(error.status, error.reason)), Asked())
        except (StoreError, TfgrpoError) as error:
            status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
            response = _html(failed(status, str(error)), Asked())
        response.headers.update(HEADERS)
        return response

    def _shown(self, page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            asked = self._asked(request)
            return await asyncio.to_thread(lambda: _html(page(asked), asked))

        return handle

    def _changed(self, page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            form = {name: str(value) for name, value in (await request.post()).items()}
            asked = self._asked(request, form)
            self._guard.check_change(asked.secret, form.get("secret", ""))
            if not self._may_change:
                raise Refused(403, "read_only", "this page was started with --read-only; nothing was changed")
            view = await asyncio.to_thread(page, asked)
            if view.go_to:
                return web.Response(status=303, headers={"Location": view.go_to})
            return _html(view, asked)

        return handle

    def _visitor(self, request: web.Request) -> Visitor | None:
        return self._guard.visitor(request.headers, request.cookies.get(_cookie(request), ""))

    def _asked(self, request: web.Request, form: Mapping[str, str] | None = None) -> Asked:
        visitor = self._visitor(request)
        if visitor is None:
            raise Refused(401, "no_session", "this session has ended; log in again")
        return Asked(
            path=request.path,
            parts=dict(request.match_info),
            query=dict(request.query),
            form=form or {},
            secret=visitor.secret,
            may_change=self._may_change,
            session=bool(visitor.session),
        )

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound
        return web.Response(body=self._static[name], content_type=STATIC.get(name, "text/css"), charset="utf-8")

    async def _log_in(self, request: web.Request) -> web.Response:
        token = str((await request.post()).get("token", ""))
        session = self._guard.log_in(token) if not self._guard.open else None
        if session is None:
            return _html(login(Asked(), wrong=True), Asked())
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            _cookie(request), session, max_age=SESSION_S, httponly=True, samesite="Strict", secure=request.secure
        )
        return response

    async def _log_out(self, request: web.Request) -> web.Response:
        form = await request.post()
        self._guard.check_change(self._asked(request).secret, str(form.get("secret", "")))
        self._guard.log_out(request.cookies.get(_cookie(request), ""))
        response = web.Response(status=303, headers={"Location": "/"})
        response.del_cookie(_cookie(request))
        return response


_HTTP = {
    404: "There is no such page.",
    405: "This address answers another kind of request.",
    413: "The form is too large.",
}


def _cookie(request: web.Request) -> str:
    """Cookies of a host are shared by all its ports, so the port stands in the name."""
    port = request.url.explicit_port or 80
    return f"tfgrpo_ui_{port}"


def _html(view: View, asked: Asked) -> web.Response:
    text = framed(view, asked).encode("utf-8", "replace")
    return web.Response(body=text, status=view.status, content_type="text/html", charset="utf-8")
