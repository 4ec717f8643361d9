"""The engine of servers and workstations: a checkpoint, compiled by PyTorch, on device memory."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from mirnet_edge.cuda import Owner, Stream, open_device
from mirnet_edge.engines.card import DeviceBytes
from mirnet_edge.engines.compiled.forms import Place, PooledForms, TileForms
from mirnet_edge.engines.compiled.network import Precision, pools_of_network
from mirnet_edge.engines.compiled.pooling import CompiledPooling, size_of
from mirnet_edge.engines.compiled.proof import (
    LEAST_PSNR_DB,
    PROOF_PX,
    Proof,
    difference_db,
    proof_tile,
    restored_by,
)
from mirnet_edge.engines.compiled.torch_device import TorchDevice
from mirnet_edge.engines.protocol import NoMemoryYet, TileMemory, Tiles
from mirnet_edge.engines.timing import batch_times_ms
from mirnet_edge.errors import DeviceMemoryError, EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.model.checkpoints import facts_of, load_model
from mirnet_edge.model.config import UNKNOWN_TASK
from mirnet_edge.model.layers import Network

log = logging.getLogger(__name__)
Size = tuple[int, int]
Mode = Literal["auto", "max-autotune", "default", "off"]
TORCH_MODES: dict[Mode, str | None] = {
    # Graphs are ours, as the kernels around the network are captured with it.
    "auto": "max-autotune-no-cudagraphs",
    "max-autotune": "max-autotune-no-cudagraphs",
    "default": "default",
    "off": None,
}
COMPILE_AFTER_FRAMES = 48
"""Frames after which a size of tiles counts as one that stays. Compiling edge-s for 1088x1920 took
72 s on an H100 the first time, and a frame 2.7 ms from then on; without, it takes some 5."""
MEMORY_SHARE = 0.7
"""Of the memory that is free, what an automatic tile may take; the rest is for frames, and for what
algorithms of large tiles take that those of small ones do not."""
LIMIT_SHARE = 0.5
"""The same of a limit, within which frames and PyTorch's reserve have to be as well."""
MOST_PX = 1 << 24
"""Of a tile: with 64 channels at full size its elements can still be counted in 32 bits."""


class CompiledEngine(Owner):
    """Runs a checkpoint on a CUDA device: channels last, in half precision where that is near
    enough to FP32, compiled by PyTorch, captured as a CUDA graph.

    It takes tiles of any size, all of one size at a time; another size costs some tenths of a
    second, and compiling for it a minute, of which PyTorch's cache on disk spares later processes
    most. Where PyTorch cannot compile here, the network runs operation by operation, still as a
    CUDA graph, and `notes` says why. Several threads may call `run`; they wait for each other.

    Args:
        model: a checkpoint, a bundled model's name, or a network, which stays on the CPU.
        precision: "fp16"; "tf32", FP32 whose products have ten bits; "fp32"; "auto", FP16 where it
            is within `proof.LEAST_PSNR_DB` of FP32, else TF32.
        mode: "max-autotune" measures kernels while it compiles, "default" does not, "off" does not
            compile. "auto" is the first for tiles whose size stays: where a `Restorer` is told the
            ``frame_size``, or after `COMPILE_AFTER_FRAMES` frames; until then nobody waits.
        batch: tiles of one run.
        stream: to run on; None makes one.
        device: number of the GPU, as the driver counts; a stream brings its own.

    Attributes:
        path, facts: of the checkpoint; the name of a network's family where there is none.
        fixed_size: None; it takes tiles of any size that ``facts.size_rule`` allows.
        precision: in use.
        proof: what was measured of it, on the last size that was compiled, or a small tile.
        notes: what did not go as asked, newest last.
        stream, lock, image, restored: see `engines.protocol.DeviceEngine`.

    Raises:
        CheckpointError: no such checkpoint.
        EngineError: this PyTorch cannot use the GPU, or the precision that was asked for is too far
            from FP32.
        DeviceError: no driver, no GPU, or not enough memory.
    """

    fixed_size = None

    def __init__(
        self,
        model: str | os.PathLike[str] | Network,
        *,
        precision: Precision | Literal["auto"] = "auto",
        mode: Mode = "auto",
        batch: int = 1,
        stream: Stream | None = None,
        device: int = 0,
    ) -> None:
        if precision not in ("auto", *get_args(Precision)) or mode not in TORCH_MODES:
            raise EngineError(
                f"precision={precision!r}, mode={mode!r}: need one of auto, "
                f"{', '.join(get_args(Precision))}; and one of {', '.join(TORCH_MODES)}"
            )
        if type(batch) is not int or batch < 1:
            raise EngineError(f"batch={batch!r}: need a whole number of tiles, at least 1")
        weights = model if isinstance(model, Network) else load_model(model)
        self.path = Path(weights.config.family if isinstance(model, Network) else model)
        said = weights.facts != ModelFacts()  # nobody has of a network that was just created
        self.facts = weights.facts if said else facts_of(weights, UNKNOWN_TASK, 1)
        self.lock = threading.RLock()
        self.batch, self.mode = batch, mode
        self._forms: TileForms | None = None
        self._pooling: CompiledPooling | None = None
        self._fitted = 0
        self._frames: dict[Size, int] = {}
        super().__init__(stream.device if stream else open_device(device))
        torch = TorchDevice(self.device)
        with self._making():
            self.stream = stream or self._own(Stream(self.device))
            first: Precision = "fp16" if precision == "auto" else precision
            self._place = Place(
                self.path.name, weights, torch, self.stream, self.lock, first, batch
            )
            self.notes = self._place.notes
            if mode != "off" and (reason := torch.why_no_compiler()):
                self._note(f"not compiled: {reason}")
                self.mode = "off"
            with self.lock:
                self.proof = self._proved(precision == "auto")

    def _proved(self, may_widen: bool) -> Proof:
        """Measure the precision on a small tile, and what that takes; take the next one where it is
        not near enough."""
        place, rule = self._place, self.facts.size_rule
        size = rule.padded(PROOF_PX), rule.padded(PROOF_PX)
        tile = proof_tile(self.facts.in_planes, size, self.facts.noise_level)
        reference = restored_by(place, "fp32", tile)
        proof = Proof(
            place.precision,
            size,
            difference_db(restored_by(place, place.precision, tile), reference),
        )
        said = (
            f"{place.precision} is {proof.psnr_db:.1f} dB from FP32, less than {LEAST_PSNR_DB:g} dB"
        )
        if not proof.holds and may_widen:
            self._note(f"{said}; running in TF32")
            place.drop(place.precision)
            place.precision = "tf32"
            found = restored_by(place, "tf32", tile)
            proof = Proof("tf32", size, difference_db(found, reference))
        elif not proof.holds:
            raise EngineError(
                f'{self.path.name}: {said}; take precision="auto", which chooses one that holds'
            )
        form = place.form("plain")
        image = place.torch.zeros((1, *tile.shape[1:]), place.dtype)
        peak = place.torch.peak_bytes(self.stream, lambda: _ignore(form(image)))
        self._bytes_per_pixel = max(peak / (size[0] * size[1]), 1.0)
        if place.precision != "fp32":
            place.drop("fp32")
        place.torch.release()
        return proof

    def _note(self, note: str) -> None:
        self.notes.append(note)
        log.warning("%s: %s", self.path.name, note)

    @property
    def precision(self) -> Precision:
        """In use."""
        return self._place.precision

    @property
    def compiled(self) -> bool:
        """Whether the tiles of the size at hand are restored by compiled code."""
        return self._forms is not None and self._forms.plain.compiled

    @property
    def image(self) -> TileMemory:
        """What a batch is read from; without memory before the first `fit`."""
        if self._forms is not None:
            return self._forms.tiles.image
        return self._no_memory(self.facts.in_planes)

    @property
    def restored(self) -> TileMemory:
        """What a batch is written to; see `image`."""
        if self._forms is not None:
            return self._forms.tiles.restored
        return self._no_memory(self.facts.out_channels)

    def _no_memory(self, planes: int) -> NoMemoryYet:
        side = self.facts.size_rule.padded(self.facts.min_size_px)
        return NoMemoryYet((self.batch, planes, side, side), self._place.dtype)

    @property
    def statistics(self) -> CompiledPooling:
        """Restore tiles with the statistics of their frame; see `CompiledPooling`.

        Raises:
            EngineError: closed.
        """
        with self._in_use():
            if self._pooling is None:
                self._pools = pools_of_network(self._place.weights)
                self._pooling = CompiledPooling(self._pools, self.batch, self._pooled)
            return self._pooling

    def _pooled(self, size: Size | None) -> PooledForms:
        with self._in_use():
            forms = self._forms if size is None else self._formed(size)
            if forms is None:
                raise EngineError(
                    f"{self.path.name}: statistics before the size of its tiles is known; call "
                    "fit((height, width)) first"
                )
            return forms.pooled(self._pools)

    @property
    def device_bytes(self) -> DeviceBytes:
        """Device memory that it holds for tiles of the size at hand."""
        weights = sum(p.numel() * p.element_size() for p in self._place.weights.parameters())
        forms = self._forms
        tiles = self.image.size_bytes + self.restored.size_bytes
        half = 2 if self.precision == "fp16" else 1
        return DeviceBytes(weights // half, forms.activation_bytes if forms else 0, tiles)

    def pixels_within(self, memory_limit: int | None) -> int:
        """How many pixels a tile may have for a batch to fit into the memory that is free now, and
        into a limit, by what a small tile took."""
        with self._in_use():
            free, _ = self.device.memory()
            if self._forms is not None:
                free += self._forms.activation_bytes
            room = MEMORY_SHARE * free
            if memory_limit is not None:
                room = min(room, LIMIT_SHARE * (memory_limit - self.device_bytes.weights))
            return min(MOST_PX, int(room / (self._bytes_per_pixel * self.batch)))

    def fit(self, size: Size, *, steady: bool = False) -> int:
        """Take tiles of (height, width) from now on, and count a frame of them.

        Args:
            steady: they stay of that size, so that compiling for it is worth a minute now.

        Returns:
            A number that is another one after each change of memory or kernels: what was captured
            with `enqueue` in it before must be captured again.

        Raises:
            EngineError: closed, or a size that the network does not take.
            DeviceMemoryError: not enough memory for tiles of that size.
        """
        with self._in_use():
            self._frames[size] = self._frames.get(size, 0) + 1
            self._formed(size, steady)
            return self._fitted

    def _formed(self, size: Size, steady: bool = False) -> TileForms:
        """What runs tiles of a size, made where it is not there."""
        mode = TORCH_MODES[self.mode]
        stays = steady or self._frames.get(size, 0) >= COMPILE_AFTER_FRAMES
        forms = self._forms
        there = forms is not None and forms.size == size
        if self.mode == "auto" and not stays and not (there and forms and forms.mode):
            mode = None
        if forms is not None and there and forms.mode == mode:
            return forms
        rule = self.facts.size_rule
        if not rule.allows(*size):
            raise EngineError(
                f"{self.path.name}: tiles of {size[0]}x{size[1]} pixels; height and width must be "
                f"{rule}"
            )
        return self._make_forms(size, mode)

    def _make_forms(self, size: Size, mode: str | None) -> TileForms:
        place = self._place
        self._drop_forms()
        self._fitted += 1
        what = f"{self.path.name} for tiles of {size[0]}x{size[1]}"
        if mode is not None:
            log.warning("compiling %s, a minute where it was not done before", what)
        began_s = time.monotonic()
        forms = self._forms = TileForms(place, size, mode)
        place.torch.release()  # what was tried on the way
        log.info("%s ready after %.1f s", what, time.monotonic() - began_s)
        if forms.plain.compiled:
            self._prove_compiled(forms)
        return forms

    def _prove_compiled(self, forms: TileForms) -> None:
        """Compare what was compiled with FP32 at the size that it was compiled for; without it
        where it is not near enough."""
        place = self._place
        tile = proof_tile(self.facts.in_planes, forms.size, self.facts.noise_level)
        try:
            reference = restored_by(place, "fp32", tile)
        except DeviceMemoryError:
            self._note("no memory for an FP32 reference at this size; proved on a small tile alone")
            return
        finally:
            if place.precision != "fp32":
                place.drop("fp32")
            place.torch.release()
        found = forms.tiles.run(tile, forms.plain.enqueue)
        psnr_db = difference_db(found, reference)
        self.proof = Proof(place.precision, forms.size, psnr_db, compiled=True)
        if not self.proof.holds:
            self._note(
                f"not compiled: compiled code is {psnr_db:.1f} dB from FP32, less than "
                f"{LEAST_PSNR_DB:g} dB; please report this"
            )
            self.mode = "off"
            self._make_forms(forms.size, None)

    def _drop_forms(self) -> None:
        forms, self._forms = self._forms, None
        if forms is not None:
            try:
                forms.close()
            finally:
                self._place.torch.release()

    def run(self, tiles: Tiles) -> Tiles:
        """Restore (N, in_planes, H, W) float32 in [0, 1], any N from 1, to the channels of the
        restored frame, not clamped. The result is valid until the same thread calls this or
        `statistics` again.

        Raises:
            EngineError: closed, other planes, or PyTorch failed.
            DeviceError: the GPU failed, or its memory does not suffice.
        """
        with self._in_use():
            if tiles.ndim != 4:
                raise EngineError(f"{self.path.name}: tiles of shape {tiles.shape}; need 4 axes")
            self._frames[size_of(tiles)] = self._frames.get(size_of(tiles), 0) + 1
            forms = self._formed(size_of(tiles))
            forms.plain.capture()
            return forms.tiles.run(tiles, forms.plain.launch)

    def enqueue(self) -> None:
        """Queue one batch, from `image` to `restored`, on `stream`, kernel by kernel. Nothing is
        copied and nothing synchronizes, so that a caller may capture it with work of its own.

        Raises:
            EngineError: closed, nothing was `fit`, or PyTorch failed.
        """
        with self._in_use():
            self._fitting().plain.enqueue()

    def measure(self, runs: int = 100) -> tuple[list[float], list[float]]:
        """Time batches of the size at hand on the device, copies left out: (enqueue_ms, graph_ms)
        of each run, kernel by kernel, which counts gaps where the CPU is too slow, and as a CUDA
        graph (empty where there is none)."""
        with self._in_use():
            plain = self._fitting().plain
            note = plain.capture()
            return (
                batch_times_ms(self.stream, plain.enqueue, runs),
                batch_times_ms(self.stream, plain.launch, runs) if not note else [],
            )

    def _fitting(self) -> TileForms:
        if self._forms is None:
            raise EngineError(f"{self.path.name}: call fit((height, width)) first")
        return self._forms

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self.lock:  # asked for inside, as another thread may be closing it
            if self._closed:
                raise EngineError("this engine is closed; open it again")
            yield

    def close(self) -> None:
        """Wait for what runs, and free everything. A second call does nothing."""
        with self.lock:
            super().close()

    def _release(self) -> None:
        with self._owned:  # closed last, whatever fails on the way
            try:
                self._drop_forms()
            finally:
                if place := self.__dict__.pop("_place", None):
                    place.forget()


def _ignore(_: object) -> None:
    """Let go of a result."""
