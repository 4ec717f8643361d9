"""What the campaign of `soak` feeds the package: files of every kind that is read, damaged at
random, and arguments of every type."""

from __future__ import annotations

import io
import math
import random
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import graph_samples
import numpy as np
import safetensors.torch
import torch
from fake_tensorrt import write_plan
from PIL import Image
from video_jobs import restore
from video_samples import make_video

import mirnet_edge as me
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.frames.images import (
    encoded,
    read_image,
    read_picture,
    upright_rgb,
    write_image,
)
from mirnet_edge.frames.moving import encoded_animation, encoded_pages, open_moving
from mirnet_edge.graph.file import load_graph
from mirnet_edge.graph.sealed import sealed
from mirnet_edge.model.config import MIRNetV2Config
from mirnet_edge.quantize.plan import QuantizationPlan
from mirnet_edge.quantize.ranges import Ranges
from mirnet_edge.quantize.sensitivity import Group

SMALL_PX = 1 << 16
"""Of an image that is restored, too, once it is read."""


@dataclass(frozen=True)
class Kind:
    """Files of one kind: how one is called and made, and how it is read; ``repair`` lets damage get
    behind checksums."""

    name: str
    make: Callable[[], bytes]
    read: Callable[[Path], object]
    repair: Callable[[bytes], bytes] = bytes


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the checksums of their contents, as far as there are chunks."""
    place, found = 8, bytearray(png)
    while place + 12 <= len(found):
        (length,) = struct.unpack_from(">I", found, place)
        ends = place + 8 + length
        if ends + 4 > len(found):
            break
        struct.pack_into(">I", found, ends, zlib.crc32(found[place + 4 : ends]))
        place = ends + 4
    return bytes(found)


def resealed(content: bytes) -> bytes:
    """An ONNX file with a seal of its damage."""
    return sealed(content) if content.startswith(sealed(b"")[:40]) else content


def picture(name: str, mode: str = "RGB", **options: Any) -> Kind:
    """Images in a format of Pillow's."""

    def make() -> bytes:
        pixels = np.random.default_rng(0).integers(0, 256, (19, 23, 4), np.uint8)
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a picture"
        if name == "JXL":
            import pillow_jxl  # noqa: F401  # registers it
        if name in ("JPEG", "PNG", "WEBP", "TIFF"):
            options.setdefault("exif", exif.tobytes())
        Image.fromarray(pixels).convert(mode).save(file, name, **options)
        return file.getvalue()

    return Kind(f"a.{name.lower()}", make, restore_image)


def moving(name: str, suffix: str, mode: str = "RGB", **options: Any) -> Kind:
    """Files of several pictures."""

    def make() -> bytes:
        pixels = np.random.default_rng(0).integers(0, 256, (3, 19, 23, 4), np.uint8)
        first, *others = (Image.fromarray(frame).convert(mode) for frame in pixels)
        file = io.BytesIO()
        first.save(file, name, save_all=True, append_images=others, **options)
        return file.getvalue()

    return Kind(f"a.{suffix}", make, restore_moving)


def deep(suffix: str) -> Kind:
    """Images of 16 bits a colour channel."""

    def make() -> bytes:
        pixels = np.random.default_rng(0).integers(0, 65536, (19, 23, 4), np.uint16)
        return encoded(Path(f"a.{suffix}"), pixels)

    return Kind(f"a.{suffix}", make, restore_image)


def restore_moving(path: Path) -> None:
    """What the command line does with a file that may hold several pictures."""
    if read_picture(path) is not None:
        return
    with open_moving(path) as found:
        if found.count * found.width * found.height > SMALL_PX:
            return
        pictures = list(found)
        if found.is_paged:
            encoded_pages(path, pictures)
        else:
            encoded_animation(path.with_suffix(".png"), [one.pixels for one in pictures], found)


def restore_image(path: Path) -> None:
    """What the command line does with an image."""
    image = read_image(path)
    if image.pixels.size > SMALL_PX:
        return
    upright_rgb(image)
    with me.Restorer(me.FakeEngine()) as restore:
        restored = restore(image.pixels)
    write_image(path.with_suffix(".out.png"), restored, like=image, overwrite=True)


def checkpoint(legacy: bool) -> Kind:
    def make() -> bytes:
        file = io.BytesIO()
        state = {"params": _network().state_dict()}
        torch.save(state, file, _use_new_zipfile_serialization=not legacy)
        return file.getvalue()

    return Kind("a.pth", make, me.load_model)


def _network() -> Any:
    return me.create_model(MIRNetV2Config(channels=(8, 8, 8), groups=(1,), n_mrb=1), seed=0)


def _safetensors() -> bytes:
    return safetensors.torch.save(dict(_network().state_dict()), {"mirnet_edge": '{"scale": 1}'})


def onnx_file(seal: bool) -> Kind:
    def make() -> bytes:
        content: bytes = graph_samples.network().SerializeToString()
        return sealed(content) if seal else content

    def read(path: Path) -> None:
        load_graph(path)
        engine = me.OnnxEngine(path, threads=1)
        shape = [side if isinstance(side, int) else 8 for side in engine._input.shape]
        if math.prod(shape) < 10 * SMALL_PX:
            engine.run(np.zeros(shape, np.float32))

    return Kind("a.onnx", make, read)


def video(name: str, **options: Any) -> Kind:
    """A video with sound, in a container of FFmpeg's."""

    def make() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            return make_video(path, frames=6, size=(32, 32), **options).read_bytes()

    return Kind(name, make, restore_video)


def restore_video(path: Path) -> None:
    """What the command line does with a video, and what a stream does."""
    target = path.with_name(f"out{path.suffix}")
    target.unlink(missing_ok=True)
    try:
        restore(path, target, part_frames=4, anew=True)
    finally:
        shutil.rmtree(path.with_name(f".{target.name}.parts"), ignore_errors=True)
    with me.Restorer(me.FakeEngine()) as restorer, restorer.stream(path) as frames:
        for _ in islice(frames, 20):
            pass


def _card() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return card_path(write_plan(Path(folder))).read_bytes()


def _ranges() -> bytes:
    return graph_samples.ranges_of(graph_samples.network()).to_json().encode()


def _plan() -> bytes:
    groups = (Group("g", ("n",), 100, 0.01, True), Group("h", ("m", "o"), 10))
    return (
        QuantizationPlan("ab" * 32, "mse", 0.1, 0.05, 0.01, "fp32", {"mse": 0.1}, 110, groups)
        .to_json()
        .encode()
    )


KINDS = {
    "png": picture("PNG"),
    "png-deep": replace(picture("PNG"), repair=with_checksums),
    "png16": picture("PNG", "I;16"),
    "palette": picture("PNG", "P"),
    "jpeg": picture("JPEG"),
    "cmyk": picture("JPEG", "CMYK"),
    "webp": picture("WEBP", "RGBA"),
    "tiff": picture("TIFF"),
    "tiff-packed": picture("TIFF", compression="tiff_lzw"),
    "bmp": picture("BMP"),
    "gif": picture("GIF", "P"),
    "ppm": picture("PPM"),
    "tga": picture("TGA"),
    "avif": picture("AVIF"),
    "jxl": picture("JXL"),
    "png-colour16": deep("png"),
    "png-colour16-deep": replace(deep("png"), repair=with_checksums),
    "tiff-colour16": deep("tif"),
    "gif-moving": moving("GIF", "gif", "P", duration=50, loop=0),
    "webp-moving": moving("WEBP", "webp", "RGBA", duration=50),
    "apng": replace(moving("PNG", "png", "RGBA", duration=50), repair=with_checksums),
    "tiff-pages": moving("TIFF", "tif"),
    "eps": picture("EPS"),
    "mp4": video("a.mp4", audio=True, container={"movflags": "faststart"}),
    "mkv": video("a.mkv", audio=True, turn=90),
    "webm": video("a.webm", codec="libvpx-vp9", options={"cpu-used": "8"}),
    "avi": video("a.avi", codec="mpeg4"),
    "ts": video("a.ts"),
    "checkpoint": checkpoint(legacy=False),
    "checkpoint-legacy": checkpoint(legacy=True),
    "safetensors": Kind("a.safetensors", _safetensors, me.load_model),
    "onnx": onnx_file(seal=False),
    "onnx-sealed": onnx_file(seal=True),
    "onnx-resealed": replace(onnx_file(seal=True), repair=resealed),
    "card": Kind("a.engine.json", _card, EngineCard.load),
    "ranges": Kind("a.ranges.json", _ranges, Ranges.load),
    "plan": Kind("a.plan.json", _plan, QuantizationPlan.load),
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The data with a few things wrong."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        place = draw.randrange(len(found) + 1)
        if draw.random() < 0.3:  # heads are where sizes stand
            place = min(place, draw.randrange(64))
        length = draw.choice((1, 1, 2, 4, 8, 64))
        edit = draw.randrange(9)
        if edit == 0:
            found[place:] = b""
        elif edit == 1:
            del found[place : place + length]
        elif edit == 2:
            found[place:place] = draw.randbytes(length)
        elif edit == 3:
            found[place:place] = found[place : place + length]
        elif edit == 4:
            other = draw.randrange(len(found) + 1)
            found[place : place + length] = found[other : other + length]
        elif edit == 5:
            extreme = draw.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF))
            found[place : place + 4] = extreme.to_bytes(4, draw.choice(("little", "big")))
        elif edit == 6:
            found[place : place + length] = bytes(length)
        elif place < len(found):
            found[place] ^= 1 << draw.randrange(8) if edit == 7 else draw.randrange(1, 256)
    return bytes(found)


# Arguments

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 10**30, 0.5, float("nan"), float("inf"), 1j),
    *("", "auto", "x.onnx", "x.png", "nv12", "frame", "\0", "n" * 5000, b"bytes"),
    *((), [], {}, (1,), (32, 32), (0, -4), ("a", "b"), [1, 2, 3], {"a": 1}, object(), int, len),
)


def odd(draw: random.Random) -> Any:
    """Anything, arrays among it."""
    if draw.random() < 0.7:
        return draw.choice(ODD)
    shape = [draw.choice((0, 1, 2, 3, 4, 5, 8, 17)) for _ in range(draw.randrange(5))]
    kinds = (np.uint8, np.uint16, np.float32, np.float64, bool, np.complex64, object, "U3", "M8[s]")
    array = np.zeros(shape, draw.choice(kinds))
    if draw.random() < 0.3 and array.dtype == np.float32:
        array += draw.choice((np.nan, np.inf, 300.0, -1e30))
    if draw.random() < 0.2:
        array = array.T
    if draw.random() < 0.1:
        array.flags.writeable = False
    return array


def call_oddly(draw: random.Random, folder: Path) -> str:
    """Call a public function with odd arguments, in a folder; say which and with what."""
    frame = np.zeros((draw.randrange(1, 20), 9, 3), np.uint8)
    restorer = me.Restorer(me.FakeEngine())
    names = ("tile", "halo", "blend", "statistics", "noise", "pixels", "frame_size", "memory_limit")
    some = {name: odd(draw) for name in draw.sample((*names, "timeout"), draw.choice((1, 1, 2)))}
    streamed = {draw.choice(("queue", "drop", "timestamps")): odd(draw)}
    one, two = odd(draw), odd(draw)
    calls: dict[str, Callable[[], object]] = {
        f"Restorer(**{some})": lambda: me.Restorer(me.FakeEngine(), **some)(frame),
        f"restorer({one!r})": lambda: restorer(one),
        f"restorer(frame, {one!r})": lambda: restorer(frame, one),
        f"stream({one!r})": lambda: list(restorer.stream(_local(one))),
        f"stream(**{streamed})": lambda: list(restorer.stream([frame] * 3, **streamed)),
        f"to({one!r})": lambda: restorer.stream([frame]).to(_local(one)),
        f"latency({one!r})": lambda: restorer.latency(one),
        f"read_image({one!r})": lambda: read_image(_local(one)),
        f"write_image({two!r})": lambda: write_image(folder / "w.png", two, overwrite=True),
        f"load_model({one!r})": lambda: me.load_model(_local(one)),
        f"open_engine({one!r}, {two!r})": lambda: me.open_engine(_local(one), threads=two),
        f"create_model({one!r})": lambda: me.create_model(one),
        f"Config({one!r})": lambda: MIRNetV2Config(groups=one, n_mrb=two),
    }
    name = draw.choice(sorted(calls))
    try:
        calls[name]()
    except me.MirnetEdgeError:
        raise
    except Exception as error:
        raise RawError(f"{name[:200]}: {type(error).__name__}: {error}") from error
    finally:
        restorer.close()
    return name


class RawError(Exception):
    """What ended in no error of the package."""


def _local(value: Any) -> Any:
    """No number, which would be a descriptor or a camera."""
    return None if isinstance(value, int) else value
