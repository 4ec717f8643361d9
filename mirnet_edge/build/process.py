"""The process that TensorRT builds in: what it is asked, what it answers, and its end.

Builds are minutes inside C++. In a process of its own a build can be interrupted at any time, gives
all its memory back, and takes nobody with it when it crashes.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirnet_edge import errors
from mirnet_edge._files import PACKAGE
from mirnet_edge._typed import parse_json
from mirnet_edge.engines.card import TensorFacts
from mirnet_edge.errors import BuildDiedError, BuildError, MirnetEdgeError
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.limits import how_to_lift, limit

REQUEST, STRONG, WEAK, OWN = "request.json", "strong.onnx", "weak.onnx", "own.onnx"
PLAN, TILES, OUTPUTS, SAID = "plan.engine", "tiles.npy", "outputs.npy", "said.txt"
VECTORS = "vectors.npz"
"""Names of the files in the folder that the two processes share."""
FILES = (REQUEST, STRONG, WEAK, OWN, PLAN, TILES, OUTPUTS, VECTORS, SAID)
# Isolated: no folder that this process happens to be in, and no variable, says what is imported.
# This package comes first; what else the parent imports from, after Python and its packages.
_START = """
import sys
_, package, *others = sys.argv[1:]
sys.path.insert(0, package)
sys.path += others
from mirnet_edge.build.worker import run
run(sys.argv[1])
"""
QUOTED_LINES = 3


@dataclass(frozen=True)
class BuildRequest:
    """What to build, as `trt.network` takes it. Beside it lie the graphs as `STRONG` and `WEAK`,
    the tiles as `TILES`, for an apply graph the pooled vectors of each as `VECTORS`.

    Where there are ``plugins``, the library of our operators, the graph that has them lies there as
    `OWN`; its convolutions ``own_halves`` must compute in FP16 as well."""

    precision: str
    islands: list[str]
    halves: list[str]
    half_io: list[str]
    workspace: int | None
    optimization_level: int | None
    timing_cache: str
    aux_streams: int | None = None
    plugins: str | None = None
    own_halves: list[str] = dataclasses.field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write it into the folder that both processes share."""
        (folder / REQUEST).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> BuildRequest:
        """Read it from that folder."""
        return cls(**json.loads((folder / REQUEST).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class BuildAnswer:
    """What was built, as a card says it; the plan lies beside the request as `PLAN`, the outputs as
    `OUTPUTS`.

    Attributes:
        layers: JSON of TensorRT's engine inspector.
        plugins: whether it is of the graph that has our operators.
        enqueue_ms, graph_ms: medians; None where it was not run.
    """

    strongly_typed: bool
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    layers: str
    activation_bytes: int
    build_seconds: float
    notes: list[str]
    plugins: bool = False
    enqueue_ms: float | None = None
    graph_ms: float | None = None

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> BuildAnswer:
        """Read what `dataclasses.asdict` made, on its way through JSON."""
        sides = ("inputs", "outputs")
        tensors = {side: tuple(map(TensorFacts.from_json, stored[side])) for side in sides}
        return cls(**{**stored, **tensors})


def run_build(folder: Path, progress: StageProgress | None = None) -> BuildAnswer:
    """Build what lies in ``folder`` in a process of its own.

    Whatever ends this call early, Ctrl-C included, ends that process too. When this process is
    killed, the other one notices, removes the folder, and ends.

    Raises:
        MirnetEdgeError: what the other process raised.
        BuildDiedError: it crashed or was killed.
        BuildError: it took longer than the limit ``BUILD_SECONDS``.
    """
    limit_s = limit("BUILD_SECONDS")
    # The folder first: by it a build is found in a list of processes.
    arguments = [str(folder.resolve()), str(PACKAGE.parent), *_import_folders()]
    with (folder / SAID).open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *arguments],
            stdin=subprocess.PIPE,  # stays open as long as this process lives
            stdout=subprocess.PIPE,
            stderr=said,  # a file, as nobody reads a pipe while the events are listened to
        )
    watchdog = threading.Timer(limit_s, process.kill)
    watchdog.daemon = True
    watchdog.start()
    with process:  # which closes the pipes
        try:
            answer = _listen(process, progress)
            code = process.wait()
        finally:
            took_too_long = not watchdog.is_alive()
            watchdog.cancel()
            # Whatever ended the call: a build that nobody waits for would keep the GPU for minutes.
            # Nothing in it handles SIGTERM, so that would end it no more gently.
            process.kill()
            process.wait()
    if isinstance(answer, BuildAnswer):
        return answer
    if answer is not None:
        raise answer
    if took_too_long:
        raise BuildError(f"the build was ended after {limit_s:,} s; {how_to_lift('BUILD_SECONDS')}")
    raise BuildDiedError(_death(code, folder / SAID))


def _import_folders() -> list[str]:
    """Where this process imports from, but for where it happens to be."""
    here = Path.cwd()
    folders = (path for path in sys.path if Path(path).is_absolute())
    return [path for path in folders if Path(path).resolve() != here]


def _listen(
    process: subprocess.Popen[bytes], progress: StageProgress | None
) -> BuildAnswer | MirnetEdgeError | None:
    """Read events until there are no more; return the answer or the error among them."""
    last: BuildAnswer | MirnetEdgeError | None = None
    assert process.stdout is not None  # it is a pipe
    for line in process.stdout:
        try:
            event = parse_json(line)
        except ValueError:  # the last line of a process that was killed
            continue
        if "progress" in event and progress is not None:
            progress(*event["progress"])
        elif "answer" in event:
            last = BuildAnswer.from_json(event["answer"])
        elif "error" in event:
            kind = getattr(errors, event["error"], BuildError)
            last = kind(event["message"])
    return last


def _death(code: int, said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    quoted = " | ".join(lines[-QUOTED_LINES:]) or "it said nothing"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = (
            "the system kills processes when memory is short: take a smaller tile or batch, or "
            "lower the optimization level"
            if name == "SIGKILL"
            else "a lower optimization level avoids some of TensorRT's crashes"
        )
        return f"the build process ended with {name}; {hint}. Its last words: {quoted}"
    return f"the build process ended with exit code {code} and no result. Its last words: {quoted}"
