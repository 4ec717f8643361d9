"""The page of a live view, without a browser: who may see it, what moves, what controls do."""

from __future__ import annotations

import json
import struct
import sys
import threading
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_views import HEIGHT, WIDTH, Scene, served, until, view_of
from live_views import scene as scene
from live_views import view as view
from PIL import Image

import mirnet_edge as me
from mirnet_edge.live.view import LiveView

pytest.importorskip("starlette", reason="the extra live is not installed")
pytest.importorskip(
    "httpx2" if sys.version_info >= (3, 11) else "httpx", reason="the test client needs it"
)

from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mirnet_edge.access import COOKIE, listening
from mirnet_edge.live import server as server_module
from mirnet_edge.live.server import live_app, page_server

TOKEN, GUARDED = "open-sesame", "ws://edge:8090/frames"
LOCAL, FRAMES = "http://127.0.0.1:8090", "ws://127.0.0.1:8090/frames"


@pytest.fixture
def client(view: LiveView) -> TestClient:
    return TestClient(live_app(view), base_url=LOCAL)


def guarded(view: LiveView) -> TestClient:
    return TestClient(live_app(view, TOKEN), base_url="http://edge:8090", follow_redirects=False)


def pair_in(message: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    (length,) = struct.unpack("<I", message[:4])
    head = json.loads(message[4 : 4 + length])
    at, pictures = 4 + length, []
    for size in head["sizes"]:
        pictures.append(np.asarray(Image.open(BytesIO(message[at : at + size]))))
        at += size
    assert at == len(message)
    return head, pictures


def next_pair(socket: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Ask for a pair, and pass over the figures that come before it."""
    socket.send_text("next")
    while (message := socket.receive()).get("bytes") is None:
        assert message["type"] == "websocket.send", message
    return pair_in(message["bytes"])


def test_the_page_and_all_that_it_names_are_here(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name, kind in {"live.css": "text/css", "live.js": "javascript", "icon.svg": "svg"}.items():
        assert f'"/{name}"' in page.text
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
        outside = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in outside
        assert "https://" not in outside
    assert client.get("/../view.py").status_code == 404


def test_frames_move(client: TestClient) -> None:
    numbers = []
    with client.websocket_connect(FRAMES) as socket:
        for _ in range(4):
            head, (before, after) = next_pair(socket)
            assert (head["width"], head["height"]) == (WIDTH, HEIGHT)
            assert np.abs(255 - before.astype(int) - after).max() <= 3
            numbers.append(head["number"])
    assert numbers == sorted(set(numbers))


def test_figures_come_unasked(client: TestClient) -> None:
    with client.websocket_connect(FRAMES) as socket:
        state = json.loads(socket.receive_text())
        assert state["source"]["state"] == "running"
        assert json.loads(socket.receive_text())["frames"]["read"] > state["frames"]["read"]


def test_who_does_not_ask_gets_none_and_then_the_newest(client: TestClient, view: LiveView) -> None:
    with client.websocket_connect(FRAMES) as socket:
        first, _ = next_pair(socket)
        before = view.state()["frames"]["restored"]
        until(lambda: view.state()["frames"]["restored"] > before + 15)
        assert all(socket.receive().get("text") for _ in range(2)), "only figures"
        second, _ = next_pair(socket)
    assert second["number"] - first["number"] >= 15, "the pipeline went on, and the page skipped"


def test_settings_through_the_page(client: TestClient, view: LiveView) -> None:
    answer = client.post("/api/settings", json={"strength": 0.25, "noise": 30, "model": "asks"})
    assert answer.status_code == 200
    wanted = {"strength": 0.25, "noise": 30, "model": "asks", "bypass": False, "statistics": "auto"}
    assert answer.json()["settings"] == wanted
    until(lambda: client.get("/api/state").json()["model"].get("noise") == 30)
    assert client.post("/api/settings", json={"bypass": True}).status_code == 200
    with client.websocket_connect(FRAMES) as socket:
        until(lambda: not next_pair(socket)[0]["restored"])


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/settings", b"{", 400, "no JSON"),
        ("/api/settings", b"\xff\xfe", 400, "no JSON"),
        ("/api/settings", b'{"strength": 7}', 422, "from 0 to 1"),
        ("/api/settings", b'{"strength": NaN}', 422, "from 0 to 1"),
        ("/api/settings", b'{"model": "../../x"}', 422, "there are inverts"),
        ("/api/settings", b"[]", 422, "an object"),
        ("/api/calibration", b"{}", 422, "on=None"),
        ("/api/calibration", b"[1]", 422, "on=None"),
    ],
)
def test_requests_that_are_wrong(
    client: TestClient, path: str, body: bytes, status: int, message: str
) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_a_snapshot_is_kept_and_can_be_fetched(client: TestClient, tmp_path: Path) -> None:
    told = client.post("/api/snapshot").json()
    assert told["folder"] == str(tmp_path / "snapshots")
    before, after = (
        np.asarray(Image.open(BytesIO(client.get(f"/snapshots/{name}").content)))
        for name in told["files"]
    )
    assert np.array_equal(after, 255 - before)
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == set(told["files"])
    for name in ("other.png", "..%2f..%2fsetup.py", "%2fetc%2fpasswd"):
        assert client.get(f"/snapshots/{name}").status_code == 404


def test_calibration_frames_through_the_page(client: TestClient, view: LiveView) -> None:
    view.keeping.every_s = 0.02
    assert client.post("/api/calibration", json={"on": True}).json()["collects"]
    until(lambda: client.get("/api/state").json()["kept"]["frames"] >= 2)
    kept = client.post("/api/calibration", json={"on": False}).json()
    assert not kept["collects"]
    assert read_all(Path(kept["folder"])) >= 2


def read_all(folder: Path) -> int:
    shapes = [np.asarray(Image.open(path)).shape for path in folder.glob("*.png")]
    assert set(shapes) == {(HEIGHT, WIDTH, 3)}
    return len(shapes)


def test_a_lost_source_is_shown_and_its_return(
    client: TestClient, view: LiveView, scene: Scene
) -> None:
    with client.websocket_connect(FRAMES) as socket:
        scene.is_there = False
        until(lambda: "not there" in json.loads(socket.receive_text())["source"]["message"])
        scene.is_there = True
        until(lambda: json.loads(socket.receive_text())["source"]["state"] == "running")
        last = view.state()["frames"]["read"]
        until(lambda: next_pair(socket)[0]["number"] > last)


def test_other_sites_and_names_are_refused(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example:8090"}).status_code == 403
    assert client.get("/", headers={"host": "localhost:8090"}).status_code == 200
    assert client.get("/", headers={"host": "[::1]:8090"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        refused = client.post("/api/settings", json={"bypass": True}, headers={"origin": origin})
        assert refused.status_code == 403
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(FRAMES, headers={"origin": origin}),
        ):
            pass
    assert client.post("/api/snapshot", headers={"origin": LOCAL}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/live.js", "/icon.svg", "/api/state", "/snapshots/a.png", "/frames"]
)
def test_without_the_token_there_is_nothing(view: LiveView, path: str) -> None:
    client = guarded(view)
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get(path, headers={"cookie": f"{COOKIE}=é".encode("latin-1")}).status_code == 401
    assert client.post("/api/snapshot").status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(GUARDED):
        pass
    assert not view.keeping.snapshots.exists()


def test_the_token_opens_the_page_once_and_leaves_the_address(view: LiveView) -> None:
    client = guarded(view)
    asks = client.get("/")
    assert asks.status_code == 401
    assert 'name="token"' in asks.text
    wrong = client.get("/", params={"token": "open"})
    assert wrong.status_code == 401
    assert "not the token" in wrong.text
    assert "set-cookie" not in wrong.headers
    opened = client.get("/", params={"token": TOKEN})
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert client.get("/").status_code == 200
    with client.websocket_connect(GUARDED) as socket:
        assert next_pair(socket)[0]["restored"]
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert guarded(view).get("/api/state", headers=bearer).status_code == 200


def test_too_many_pages_are_told(
    client: TestClient, view: LiveView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_VIEWERS", 1)
    with client.websocket_connect(FRAMES) as first:
        next_pair(first)
        with client.websocket_connect(FRAMES) as second:
            assert second.receive() == {
                "type": "websocket.close",
                "code": 1013,
                "reason": "too many pages look at this view",
            }
    with client.websocket_connect(FRAMES) as again:
        next_pair(again)


def test_a_port_that_is_taken() -> None:
    with (
        listening("127.0.0.1", 0) as taken,
        pytest.raises(me.ConfigError, match="choose another"),
    ):
        listening("127.0.0.1", taken.getsockname()[1])


def test_over_a_real_socket(view: LiveView) -> None:
    from websockets.sync.client import connect

    before = threading.active_count()
    with served(view) as address:
        with urllib.request.urlopen(f"{address}/api/state") as answer:
            assert json.load(answer)["source"]["name"] == "camera 7"
        with connect(address.replace("http", "ws") + "/frames") as socket:
            socket.send("next")
            messages = [socket.recv() for _ in range(2)]
        head, pictures = pair_in(next(item for item in messages if isinstance(item, bytes)))
        assert head["restored"]
        assert len(pictures) == 2
    until(lambda: threading.active_count() <= before + 8)


def test_it_ends_where_only_another_process_has_the_gpu_again(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: me.Restorer) -> None:
        raise me.DeviceLostError("the GPU does not come back")

    def lost(*_: object, **__: object) -> None:
        raise me.DeviceError("an illegal memory access was encountered")

    monkeypatch.setattr(me.Restorer, "reopen", gone)
    monkeypatch.setattr(me.Restorer, "stream", lost)
    with (
        listening("127.0.0.1", 0) as at,
        view_of(scene.source(), tmp_path) as view,
        pytest.raises(me.DeviceLostError, match="does not come back"),
    ):
        page_server(view).run_on(at)
