"""Arguments of a wrong type are errors of the package that name them; what works is left alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

import mirnet_edge as me
from mirnet_edge._arguments import explained
from mirnet_edge.errors import ConfigError, EngineError
from mirnet_edge.frames.images import read_image, write_image


@explained(EngineError)
def asked(
    path: str | os.PathLike[str],
    count: int = 1,
    share: float | None = None,
    size: tuple[int, int] = (1, 1),
    mode: Literal["a", "b"] = "a",
    names: tuple[str, ...] = (),
    pixels: NDArray[Any] | None = None,
    anything: Any = None,
    fails: type[Exception] | None = TypeError,
) -> str:
    """Fail, unless told otherwise."""
    if fails is not None:
        raise fails("deep inside")
    return f"{path} {count}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": 7}, r"asked: path=7; need str \| os\.PathLike\[str\]"),
        ({"path": "x", "count": "3"}, "asked: count='3'; need int"),
        ({"path": "x", "count": True}, "asked: count=True; need int"),
        ({"path": "x", "count": 1.5}, "asked: count=1.5; need int"),
        ({"path": "x", "share": "much"}, r"asked: share='much'; need float \| None"),
        ({"path": "x", "size": (1, 2, 3)}, r"size=\(1, 2, 3\); need tuple\[int, int\]"),
        ({"path": "x", "size": (1, "2")}, "size="),
        ({"path": "x", "names": ("a", "b", 3)}, r"names=\('a', 'b', 3\); need tuple\[str"),
        ({"path": "x", "names": ["a"]}, "names="),
        ({"path": "x", "mode": "c"}, "mode='c'; need Literal"),
        ({"path": "x", "pixels": [1]}, r"pixels=\[1\]; need NDArray"),
        ({"path": "x", "count": "n" * 500}, r"count='n{49}… \(str\); need int"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineError, match=said) as raised:
        asked(**arguments)
    assert isinstance(raised.value.__cause__, TypeError)


def test_what_fits_keeps_its_own_error() -> None:
    fitting = {"count": np.int64(3), "share": 1, "pixels": np.zeros(3), "anything": [1]}
    fitting |= {"mode": "b", "names": ("a", "b", "c"), "size": (3, 4)}
    with pytest.raises(TypeError, match="deep inside"):
        asked(Path("x"), **fitting)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="deep inside"):
        asked("x", share=None)
    with pytest.raises(ConfigError, match="deep inside"):
        asked(7, fails=ConfigError)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword"):
        asked("x", colour=1)  # type: ignore[call-arg]


def test_what_works_is_not_asked_for_its_type() -> None:
    assert asked(7, count="3", fails=None) == "7 3"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: me.Restorer(me.FakeEngine(), tile=np.zeros(3)), me.EngineError),
        (lambda: me.Restorer(me.FakeEngine(), pixels=7), me.FrameError),
        (lambda: me.Restorer(me.FakeEngine()).latency("all"), me.EngineError),
        (lambda: me.Restorer(me.FakeEngine()).stream([], timestamps=7), me.StreamError),
        (lambda: me.load_model(len), me.CheckpointError),
        (lambda: me.load_model("n" * 400), me.CheckpointError),
        (lambda: me.create_model(None), me.ConfigError),
        (lambda: me.open_engine({}), me.EngineError),
        (lambda: me.open_engine("n" * 400), me.EngineError),
        (lambda: read_image(7.5), me.ImageError),
        (lambda: write_image("a.png", [1]), me.OutputError),
        (lambda: me.Restorer(me.FakeEngine()).stream([]).to("a\0b"), me.OutputError),
        (
            lambda: me.Restorer(me.FakeEngine(), frame_size=7)(np.zeros((8, 8), np.uint8)),
            me.FrameError,
        ),
    ],
)
def test_public_calls(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()
