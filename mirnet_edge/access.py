"""Who may ask a server of this package: its machine alone, or who knows its token; and no other
site's page. And where such a server listens, and when it ends."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from mirnet_edge.errors import ConfigError, DeviceLostError

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]
COOKIE = "mirnet-edge-live"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
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


class Access:
    """Lets through what may, with headers that keep the answers to whom they are for.

    Args:
        app: what is protected.
        token: who does not send it, as a cookie or a bearer's, is refused; None asks for none, and
            answers to the names of this machine's loopback alone: a page elsewhere whose name is
            made to mean 127.0.0.1 is not served.
        public: paths that ask for no token.
        asks: the page that asks for the token at "/", with ``{why}`` in it; None for a server
            without a page to open, which takes a bearer's token alone.
        name: of what is protected, in refusals.
    """

    def __init__(
        self,
        app: App,
        token: str | None,
        *,
        public: Collection[str] = (),
        asks: str | None = None,
        name: str = "view",
    ) -> None:
        self._app, self._token, self._public = app, token, frozenset(public)
        self._asks, self._name = asks, name

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
            why = f"this {self._name} is for its own page, at its own address"
            return JSONResponse({"error": why}, 403)
        if self._token is None or asked.url.path in self._public:
            return None
        given = asked.query_params.get("token")
        if self._asks is not None and given is not None and asked.url.path == "/":
            return self._opened(asked, self._asks, given)
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        cookie = "" if self._asks is None else asked.cookies.get(COOKIE, "")
        if self._is_token(cookie) or self._is_token(bearer):
            return None
        if self._asks is not None and asked.url.path == "/":
            why = "It is printed where the view was started."
            return HTMLResponse(self._asks.format(why=why), 401)
        way = "" if self._asks is not None else ", as Authorization: Bearer"
        headers = {"www-authenticate": "Bearer"}
        return JSONResponse({"error": f"this {self._name} needs its token{way}"}, 401, headers)

    def _opened(self, asked: HTTPConnection, asks: str, given: str) -> Response:
        if not self._is_token(given):
            return HTMLResponse(asks.format(why="This is not the token of this view."), 401)
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
        if self._token is None and _host_name(host) not in LOOPBACK:
            return False
        # Browsers send it with what another site's page asks for, and with every WebSocket.
        origin = asked.headers.get("origin")
        return origin is None or _netloc(origin) == host


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # brackets that hold no address
        return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _with_headers(send: Any) -> Any:
    async def answer(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                *((name.encode(), value.encode()) for name, value in HEADERS.items()),
            ]
        await send(message)

    return answer


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes one that is free.

    Raises:
        ConfigError: it cannot be had.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=kind)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another "
            "--port, or the --host of an address of this machine"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class EndingServer(uvicorn.Server):
    """Serves until SIGINT, SIGTERM or its ``should_exit``, or until its device is gone, which
    another process can have: whoever runs this one starts it again.

    Args:
        gone: asked ten times a second; why this process has no device any more, where that is so.
    """

    def __init__(self, config: uvicorn.Config, gone: Callable[[], DeviceLostError | None]) -> None:
        super().__init__(config)
        self._gone = gone

    async def on_tick(self, counter: int) -> bool:
        """Whether this is the end."""
        return await super().on_tick(counter) or self._gone() is not None

    def run_on(self, at: socket.socket) -> None:
        """Serve on a socket.

        Raises:
            DeviceLostError: the GPU does not come back to this process.
        """
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
            self.run(sockets=[at])
        if (gone := self._gone()) is not None:
            raise gone
