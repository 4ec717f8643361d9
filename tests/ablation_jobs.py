"""Jobs of processes that are not the package's own, for tests of how processes are run; and tiny
variants."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirnet_edge.errors import DataError
from mirnet_edge.model.config import MIRNetConfig, MIRNetV2Config
from mirnet_edge.workstation.ablation.variants import BASES

TINY = {
    "v2": MIRNetV2Config(channels=(8, 12, 16), groups=(1,), n_mrb=1, shuffle=2),
    "v1": MIRNetConfig(channels=(8, 12, 16), n_rrg=1, n_msrb=1),
}


@pytest.fixture
def _tiny_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, config in TINY.items():
        monkeypatch.setitem(BASES, family, config)


@dataclass(frozen=True)
class Scripted:
    """Does what its name says."""

    name: str
    folder: Path

    def is_done(self) -> bool:
        return False

    def do(self) -> None:
        if self.name.startswith("works"):
            note = f"{os.environ['CUDA_VISIBLE_DEVICES']} {time.monotonic()}"
            time.sleep(0.05)
            (self.folder / "note.txt").write_text(f"{note} {time.monotonic()}")
        elif self.name == "fails":
            print("something was printed before")
            raise DataError("no image to train on")
        elif self.name == "crashes":
            os._exit(3)
        else:
            (self.folder / "begun.txt").touch()
            time.sleep(600)
