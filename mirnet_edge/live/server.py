"""The live view as a page: frames and figures by a WebSocket, what is set by JSON.

The page asks for each message of a pair, so that a slow one skips frames; the server makes none
that nobody asked for.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mirnet_edge.access import Access, App, EndingServer
from mirnet_edge.errors import ConfigError, MirnetEdgeError
from mirnet_edge.live.view import LiveView

PAGE = Path(__file__).with_name("page")
Work = Callable[[WebSocket, anyio.Semaphore], Awaitable[None]]
STATE_S = 0.5
MOST_VIEWERS, TOO_MANY = 8, 1013
"""Each waits for frames in a thread of its own; 1013 is the WebSocket's "try again later"."""
MOST_PX = 1280
PUBLIC = ("/live.css",)
"""What the page that asks for the token needs."""
ASKS = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>mirnet-edge live</title>
<link rel="stylesheet" href="/live.css"><body class="asks"><form action="/" class="card">
<h1>mirnet-edge live</h1><p>{why}</p>
<label>Token <input name="token" type="password" autocomplete="off" autofocus required></label>
<button class="primary">Open the view</button></form></body></html>"""


def live_app(view: LiveView, token: str | None = None, most_px: int = MOST_PX) -> App:
    """The page of a view.

    Args:
        view: not closed here.
        token: see `Access`.
        most_px: the longer side of the pictures that are sent.
    """
    files = {"/": "index.html", "/live.css": "live.css", "/live.js": "live.js"}
    viewers = Viewers(view, most_px)
    routes = [
        *(Route(path, _file(PAGE / name)) for path, name in files.items()),
        Route("/icon.svg", _file(PAGE / "icon.svg")),
        Route("/api/state", _asked(view.state)),
        Route("/api/settings", _told(view, _change), methods=["POST"]),
        Route("/api/snapshot", _told(view, _snapshot), methods=["POST"]),
        Route("/api/calibration", _told(view, _collect), methods=["POST"]),
        Route("/snapshots/{name}", _kept(view)),
        WebSocketRoute("/frames", viewers.serve),
    ]
    return Access(Starlette(routes=routes), token, public=PUBLIC, asks=ASKS)


def _file(path: Path) -> Any:
    async def answer(_: Request) -> Response:
        return FileResponse(path)

    return answer


def _asked(what: Callable[[], dict[str, Any]]) -> Any:
    async def answer(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(what))

    return answer


def _told(view: LiveView, act: Callable[[LiveView, Any], dict[str, Any]]) -> Any:
    """An action with a JSON body; its error is the answer's, with 422."""

    async def answer(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError as error:
            return JSONResponse({"error": f"this is no JSON: {error}"}, 400)
        try:
            return JSONResponse(await run_in_threadpool(act, view, body))
        except MirnetEdgeError as error:
            return JSONResponse({"error": str(error)}, 422)

    return answer


def _change(view: LiveView, body: Any) -> dict[str, Any]:
    view.change(body)
    return view.state()


def _snapshot(view: LiveView, _: Any) -> dict[str, Any]:
    paths = view.snapshot()
    return {"files": [path.name for path in paths], "folder": str(paths[0].parent)}


def _collect(view: LiveView, body: Any) -> dict[str, Any]:
    on = body.get("on") if isinstance(body, dict) else None
    if not isinstance(on, bool):
        raise ConfigError(f"on={on!r}: need true or false")
    view.keeping.collect(on)
    return view.keeping.state()


def _kept(view: LiveView) -> Any:
    async def answer(request: Request) -> Response:
        name = request.path_params["name"]
        path = view.keeping.written(name)
        if path is None or not path.is_file():
            return JSONResponse({"error": f"there is no snapshot {name}"}, 404)
        return FileResponse(path, filename=name)

    return answer


class Viewers:
    """Pages that are looking.

    Args:
        view: whose newest pair they are shown.
        most_px: the longer side of the pictures.
    """

    def __init__(self, view: LiveView, most_px: int) -> None:
        self._view, self._most_px = view, most_px
        self._count = 0
        self._packed: tuple[int, bool, bytes] | None = None

    async def serve(self, socket: WebSocket) -> None:
        """One page, until it is closed. It sends a word for each pair that it has room for."""
        await socket.accept()
        if self._count >= MOST_VIEWERS:
            await socket.close(TOO_MANY, "too many pages look at this view")
            return
        self._count += 1
        wanted = anyio.Semaphore(0)
        try:
            async with anyio.create_task_group() as group:
                for work in (self._hear, self._tell, self._show):
                    group.start_soon(self._until_gone, work, socket, wanted, group.cancel_scope)
        finally:
            self._count -= 1

    @staticmethod
    async def _until_gone(
        work: Work, socket: WebSocket, wanted: anyio.Semaphore, all_of_it: anyio.CancelScope
    ) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await work(socket, wanted)
        all_of_it.cancel()

    async def _hear(self, socket: WebSocket, wanted: anyio.Semaphore) -> None:
        while True:
            await socket.receive_text()
            wanted.release()

    async def _tell(self, socket: WebSocket, _: anyio.Semaphore) -> None:
        while True:
            await socket.send_text(json.dumps(await run_in_threadpool(self._view.state)))
            await anyio.sleep(STATE_S)

    async def _show(self, socket: WebSocket, wanted: anyio.Semaphore) -> None:
        shown = -1
        while True:
            await wanted.acquire()
            found = None
            while found is None:
                found = await run_in_threadpool(self._next, shown)
            shown, message = found
            await socket.send_bytes(message)

    def _next(self, after: int) -> tuple[int, bytes] | None:
        # Not for ever: a thread cannot be called back when its page is gone.
        pair = self._view.newest(after, timeout_s=0.2)
        if pair is None:
            if self._view.closed:
                raise WebSocketDisconnect
            return None
        known = self._packed
        if known is None or known[0] != pair.number or known[1] != pair.is_restored:
            began = time.monotonic()
            known = pair.number, pair.is_restored, pair.packed(self._most_px)
            self._packed = known
            self._view.note_shown(1000 * (time.monotonic() - began))
        return pair.number, known[2]


def page_server(view: LiveView, token: str | None = None) -> EndingServer:
    """What serves a view's page until its end, or that of its device."""
    config = uvicorn.Config(
        live_app(view, token),
        log_level="warning",
        access_log=False,
        lifespan="off",
        # JPEG files are packed already.
        ws_per_message_deflate=False,
        ws_max_size=1 << 16,
        timeout_graceful_shutdown=1,
    )
    return EndingServer(config, lambda: view.gone)
