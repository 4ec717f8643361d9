"""The connection to a Ray cluster: one of this machine alone, started and ended here, or one that
runs."""

from __future__ import annotations

import io
import logging
import re
import shutil
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any, TextIO

from mirnet_edge._imports import require
from mirnet_edge.engine_choice import PLAN_SUFFIXES
from mirnet_edge.errors import ClusterError, first_line
from mirnet_edge.files.settings import FileSettings
from mirnet_edge.system import usable_cores

log = logging.getLogger(__name__)
LOCAL = "local"
STORE_BYTES = 80 << 20
"""Of shared memory, for a cluster of this machine; Ray takes no less than 75 MB. Only paths and
figures go through it."""
PATIENCE_S = 5.0
NEED_GPU = ("cuda", "tensorrt", "nvtensorrt")
"""Beginnings of ONNX Runtime's providers that run nowhere else."""
START = "start one with: ray start --head"


@dataclass(frozen=True)
class Need:
    """What one worker asks of its node: ``cores``, and one GPU or none."""

    cores: int
    gpus: int

    @classmethod
    def of(cls, settings: FileSettings, threads: int, nodes: Sequence[Mapping[str, Any]]) -> Need:
        """A GPU where the model needs one, or where there are some and the user asks for no
        processor; else so many cores."""
        provider = (settings.restoring.get("provider") or "").lower()
        is_plan = any(str(model).lower().endswith(PLAN_SUFFIXES) for model in settings.models)
        if is_plan or provider.startswith(NEED_GPU):
            return cls(1, 1)
        is_free = not provider and settings.restoring.get("threads") is None
        if is_free and cls(1, 1).places(nodes):
            return cls(1, 1)
        return cls(threads, 0)

    def places(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        """For how many workers nodes that are alive have room, as `ray.nodes` tells them."""
        return sum(self._places_on(node["Resources"]) for node in nodes if node["Alive"])

    def _places_on(self, resources: Mapping[str, float]) -> int:
        by_core = int(resources.get("CPU", 0) // self.cores)
        return min(by_core, int(resources.get("GPU", 0))) if self.gpus else by_core

    def __str__(self) -> str:
        return "1 GPU" if self.gpus else f"{self.cores} cores"


def told_nodes(nodes: Sequence[Mapping[str, Any]]) -> str:
    """What the nodes have, for a message."""
    alive = [node for node in nodes if node["Alive"]]
    if not alive:
        return "no node is there"
    return "; ".join(
        f"{node['NodeManagerHostname']}: {node['Resources'].get('CPU', 0):g} cores, "
        f"{node['Resources'].get('GPU', 0):g} GPUs"
        for node in alive
    )


@contextmanager
def connected(address: str, cores: int | None = None) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster, which is left when the block ends; where this
    process is connected already, that connection is used and kept.

    Args:
        address: "local" starts a cluster of this machine alone, which ends with the block; else as
            `ray.init` takes it.
        cores: at least so many the cluster of this machine counts, though it may have fewer.

    Raises:
        ClusterError: there is no cluster, or not one of this Python and Ray.
        MissingDependencyError: Ray is not installed.
    """
    ray = require("ray", "restoring files on a cluster")
    if ray.is_initialized():
        yield ray
        return
    with redirect_stdout(_WithoutRay(sys.stdout)):
        yield from _joined(ray, address, cores)


def _joined(ray: Any, address: str, cores: int | None) -> Iterator[Any]:
    # Neither is of use here: the workers say nothing, and what Ray says of itself is for logs.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    session = None
    with _handlers_kept(), warnings.catch_warnings():
        # Of older releases: what later ones will do otherwise, and files that they leave open.
        warnings.simplefilter("ignore")
        try:
            if address == LOCAL:
                context = ray.init(
                    address=LOCAL,
                    include_dashboard=False,
                    num_cpus=max(usable_cores(), cores or 0),
                    object_store_memory=STORE_BYTES,
                    **quiet,
                )
                session = context.address_info["session_dir"]
            else:
                _require_listening(address)
                ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            ray.shutdown()
            why = first_line(error).rstrip(".")
            raise ClusterError(
                f"the Ray cluster {address!r} cannot be joined: {why}; {START}"
            ) from error
    try:
        yield ray
    finally:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above; and what it kept back to tell once
            ray.shutdown()
        if session is not None:  # logs, tens of MB a run, of a cluster that is gone
            shutil.rmtree(session, ignore_errors=True)


def _require_listening(address: str) -> None:
    """Say at once what Ray finds out after minutes: nobody listens there."""
    match = re.fullmatch(r"(?:ray://)?([^:/]+):(\d{1,5})", address)
    if match is None:
        return
    try:
        with closing(socket.create_connection((match[1], int(match[2])), PATIENCE_S)):
            pass
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {error}; {START}, and give the address that it "
            "prints"
        ) from error


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep what SIGTERM does: Ray has it end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(TypeError):  # None: a handler that is not Python's
            signal.signal(signal.SIGTERM, before)


class _WithoutRay:
    """Standard output without what Ray's threads print there, in the middle of results."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            log.debug("%s", text.strip())
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
