"""A live view on a GPU that is lost: frames go on as they come, and are restored again later."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from edge_networks import edge_network
from fake_gpu import FakeGpu
from fake_tensorrt import write_plans
from live_views import Scene, until
from test_serve_lost import Losing
from test_serve_lost import losing as losing

from mirnet_edge.live import view as view_module
from mirnet_edge.live.settings import Settings
from mirnet_edge.live.view import LiveView


def test_it_comes_back_by_itself(
    losing: Losing, gpu: FakeGpu, trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plans(tmp_path, edge_network(), (48, 96), 1)
    monkeypatch.setattr(view_module, "RETRY_S", 0.1)
    models = {"plan": plan}
    with LiveView(Scene().source(), Settings("plan"), models, tmp_path / "kept") as view:

        def restored() -> int:
            return int(view.state()["frames"]["restored"])

        until(lambda: restored() > 2, 120)  # the kernels may be compiled before
        losing.next = True
        until(lambda: gpu.resets == 1, 60)
        before = restored()
        until(lambda: restored() > before + 2, 60)
        assert view.state()["model"]["state"] == "running"
