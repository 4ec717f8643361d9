"""The package as a type checker sees it: the stub, and a user's program against it."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import mirnet_edge as me

PACKAGE = Path(me.__file__).parent


def test_the_stub_has_one_line_a_name_and_no_other() -> None:
    statements = ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8")).body[1:]
    seen = set()
    for statement in statements[:-1]:
        assert isinstance(statement, ast.ImportFrom)
        (alias,) = statement.names
        assert alias.asname == alias.name, f"{alias.name}: only 'as' exports it"
        seen.add(alias.name)
        assert getattr(me, alias.name) is getattr(import_module(str(statement.module)), alias.name)
    assert sorted(seen) == me.__all__
    assert ast.unparse(statements[-1]) == "__all__: list[str]"


USER = """
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import mirnet_edge as me


async def use(image: NDArray[np.uint8], exact: NDArray[np.float32], tensor: object) -> None:
    with me.Restorer("edge-s-denoise", pixels="bgr", statistics="frame") as restore:
        assert_type(restore, me.Restorer)
        assert_type(restore(image), NDArray[np.uint8])
        assert_type(restore(exact, out=exact), NDArray[np.float32])
        assert_type(restore(tensor), Any)
        assert_type(restore.facts, me.ModelFacts)
        assert_type(restore.tiling(9, 9), me.Tiling)
        assert_type(restore.scale, int)
        assert_type(restore.timings.noise, float | None)
        stream = restore.stream("in.mp4", drop="oldest", timestamps=[0.5])
        assert_type(stream, me.FrameStream)
        for restored in stream:
            assert_type(restored, NDArray[Any])
        async for restored in stream:
            assert_type(restored, NDArray[Any])
        for frame in stream.frames():
            assert_type(frame, me.StreamFrame)
        assert_type(stream.to("folder"), me.StreamStatistics)
    assert_type(me.bundled_models(), list[me.BundledModel])
    assert_type(me.pixel_format("nv12"), me.PixelFormat)
    me.Restorer("edge-s-denoise", noise=12.5)
    me.Restorer("edge-s-denoise", noise="loud")  # type: ignore[arg-type]
    me.Restorer("edge-s-denoise", pixel="bgr")  # type: ignore[call-arg]
    me.Restoer  # type: ignore[attr-defined]
    raise me.TilingError
"""


@pytest.mark.slow
def test_a_users_program_is_checked_against_real_types(tmp_path: Path) -> None:
    """By strict mypy, which also says where a "type: ignore" has nothing to ignore."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "user.py").write_text(USER)
    # With the cache of `make check`: a second then, half a minute without.
    command = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "user.py")]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
