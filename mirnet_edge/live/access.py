"""Who may see a live view: its machine alone, or who knows its token; and no other site's page."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]
COOKIE = "mirnet-edge-live"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PUBLIC = ("/live.css",)
"""What the page that asks for the token needs."""
HEADERS = {
    # Nothing from elsewhere: neither scripts nor pictures, and no page of others around this one.
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
REFUSED = 4401
"""Code with which a WebSocket without the token is closed; 4000 and more are free for use."""
ASKS = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>mirnet-edge live</title>
<link rel="stylesheet" href="/live.css"><body class="asks"><form action="/" class="card">
<h1>mirnet-edge live</h1><p>{why}</p>
<label>Token <input name="token" type="password" autocomplete="off" autofocus required></label>
<button class="primary">Open the view</button></form></body></html>"""


class Access:
    """Lets through what may, with headers that keep the page to itself.

    Args:
        app: what is protected.
        token: who does not send it, as a cookie or a bearer's, is refused; None asks for none, and
            answers to the names of this machine's loopback alone: a page elsewhere whose name is
            made to mean 127.0.0.1 is not served.
    """

    def __init__(self, app: App, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(HTTPConnection(scope))
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": REFUSED})
        else:
            await refusal(scope, receive, _with_headers(send))

    def _refusal(self, asked: HTTPConnection) -> Response | None:
        if not self._is_own_page(asked):
            return JSONResponse({"error": "this view is for its own page, at its own address"}, 403)
        if self._token is None or asked.url.path in PUBLIC:
            return None
        given = asked.query_params.get("token")
        if given is not None and asked.url.path == "/":
            return self._opened(asked, given)
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(asked.cookies.get(COOKIE, "")) or self._is_token(bearer):
            return None
        if asked.url.path == "/":
            why = "It is printed where the view was started."
            return HTMLResponse(ASKS.format(why=why), 401)
        return JSONResponse({"error": "this view needs its token"}, 401)

    def _opened(self, asked: HTTPConnection, given: str) -> Response:
        if not self._is_token(given):
            return HTMLResponse(ASKS.format(why="This is not the token of this view."), 401)
        # Away with it from the address, which is seen, kept and sent to others.
        response = RedirectResponse("/", 303)
        is_secure = asked.url.scheme == "https"
        # Lax, or a link from another site would ask for the token again; what changes something is
        # guarded by its origin.
        response.set_cookie(COOKIE, given, httponly=True, samesite="lax", secure=is_secure)
        return response

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self._token or "").encode())

    def _is_own_page(self, asked: HTTPConnection) -> bool:
        host = asked.headers.get("host", "")
        if self._token is None and urlsplit(f"//{host}").hostname not in LOOPBACK:
            return False
        # Browsers send it with what another site's page asks for, and with every WebSocket.
        origin = asked.headers.get("origin")
        return origin is None or urlsplit(origin).netloc == host


def _with_headers(send: Any) -> Any:
    async def answer(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                *((name.encode(), value.encode()) for name, value in HEADERS.items()),
            ]
        await send(message)

    return answer
