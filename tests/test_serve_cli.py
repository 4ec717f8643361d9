"""``mirnet-edge serve``: as it is started, and ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import COMMAND, ENVIRONMENT
from command_line import run as command
from serving import file_of, noise, pixels_of

import mirnet_edge as me

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")


def test_it_serves_models_until_it_is_told_to_stop(tiny_onnx: Path, tmp_path: Path) -> None:
    options = ("-m", f"day={tiny_onnx}", "-m", tiny_onnx, "--port", "0", "--threads", "1", "-v")
    process = subprocess.Popen(
        [*COMMAND, "serve", *map(str, options)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("loading day=")
        told = process.stdout.readline()
        found = re.fullmatch(r"day, tiny: (http://127\.0\.0\.1:\d+)/\n", told)
        assert found, told or process.communicate()[1]
        pixels = noise(21, 34, 3)
        request = urllib.request.Request(f"{found[1]}/restore?model=tiny", file_of(pixels))
        request.add_header("x-request-id", "job-1")
        with urllib.request.urlopen(request) as answer:
            restored = pixels_of(answer.read())
        with me.Restorer(tiny_onnx, threads=1) as restore:
            assert np.array_equal(restored, restore(pixels))
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert re.search(r"^info: serve\.asking: POST /restore 200 [\d.]+ ms job-1$", err, re.M), err
    assert "error" not in err
    assert list(tmp_path.iterdir()) == []


def test_beyond_the_loopback_there_is_a_token(tiny_onnx: Path) -> None:
    def status(token: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{found[2]}/models")
        request.add_header("authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request) as answer:
                return len(json.load(answer)["models"])
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    for environment in ({}, {"MIRNET_EDGE_TOKEN": "open-sesame"}):
        process = subprocess.Popen(
            [*COMMAND, "serve", "-m", tiny_onnx, "--host", "0.0.0.0", "--port", "0"],
            env={**ENVIRONMENT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            told = process.stdout.readline()
            pattern = r"tiny: http://(\S+):(\d+)/(?:, with Authorization: Bearer ([\w-]{20,}))?\n"
            found: Any = re.fullmatch(pattern, told)
            assert found, told or process.communicate()[1]
            # One that was given is not written where logs are kept.
            assert (found[3] is None) == bool(environment)
            assert status("wrong-token") == 401
            assert status(found[3] or "open-sesame") == 1
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-m", "no-such.onnx"), 1, "no-such.onnx: no such file"),
        (("-m", "a/b=c.onnx"), 1, "give NAME=MODEL"),
        (("-m", "TINY", "-m", "tiny=TINY"), 1, "two models are called 'tiny'"),
        (("-m", "TINY", "--batch", "4"), 1, "takes one tile at a time"),
        (("-m", "TINY", "--statistics", "stream"), 1, "what the frames of others left"),
        (("-m", "TINY", "--token", "short"), 2, "8 characters or more"),
        (("-m", "TINY", "--host", "192.0.2.1"), 1, "cannot listen on 192.0.2.1"),
        (("-m", "TINY", "--workers", "0"), 2, "--workers"),
        (("-m", "TINY", "--max-body", "much"), 2, "as 2GiB"),
        (("-m", "TINY", "--tile", "7"), 1, "multiple"),
    ],
)
def test_what_cannot_be_served(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tiny_onnx: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = [word.replace("TINY", os.fspath(tiny_onnx)) for word in arguments]
    outcome = command(capfd, "serve", "--port", "0", *given)
    assert outcome.code == code
    assert message in outcome.err
    assert "unexpected" not in outcome.err
