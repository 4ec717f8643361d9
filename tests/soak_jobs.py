"""What the campaign kills and lets fail: every command that writes, what it reads, and by what its
results are compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = (sys.executable, "-m", "mirnet_edge")
BUILD = """
import sys
from pathlib import Path
import pytest
from build_sandbox import Sandbox
from mirnet_edge import MirnetEdgeError
sandbox = Sandbox(Path(sys.argv[1]), pytest.MonkeyPatch(), own_process=True)
sandbox.release("10.3.0")
sandbox.engine = Path(sys.argv[2]) / "net.engine"
try:
    sandbox.build(overwrite=True)
except MirnetEdgeError as error:
    sys.exit(str(error))
"""
TUNE = """
import os, sys
os.environ["MIRNET_EDGE_CACHE"] = sys.argv[1]
from mirnet_edge.build import trials
trials.MEASURE_S, trials.LEAST_TILE_PX = 0.05, 0
from mirnet_edge.cli import main
sys.exit(main(["tune", "edge-s-denoise", "--frame", "61x40", "--psnr-db", "20", "--minutes", "0"]))
"""


def pictures(folder: Path, seed: int) -> None:
    """Eight of noise."""
    import numpy as np
    from PIL import Image

    (folder / "pictures").mkdir()
    for index in range(8):
        pixels = np.random.default_rng(seed + index).integers(0, 256, (80, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")


def album(folder: Path, seed: int) -> None:
    """Eight pictures of all kinds in three folders."""
    make_album(folder / "album", seed, 8)


def make_album(folder: Path, seed: int, pictures: int) -> None:
    """Make a folder of folders with pictures of all kinds; every second one a plain PNG."""
    import numpy as np
    from PIL import Image

    from mirnet_edge.frames.images import write_image

    draw = np.random.default_rng(seed)
    for index in range(pictures):
        place = folder / str(index % 3)
        place.mkdir(parents=True, exist_ok=True)
        frames = draw.integers(0, 256, (3, 60, 72, 3), np.uint8)
        if index % 2 == 0:
            Image.fromarray(frames[0]).save(place / f"{index}.png")
        elif index % 8 == 1:
            wide = draw.integers(0, 65536, (60, 72, 3), np.uint16)
            write_image(place / f"{index}.png", wide)
        else:
            suffix = {3: "gif", 5: "tif", 7: "webp"}[index % 8]
            first, *others = map(Image.fromarray, frames)
            first.save(place / f"{index}.{suffix}", save_all=True, append_images=others)


def video_of_parts(folder: Path, seed: int) -> None:
    """Long enough for two whole parts and some of a third."""
    from video_samples import make_video

    make_video(folder / "in.mp4", frames=300, audio=True, options={"preset": "ultrafast"})


def weights(folder: Path, seed: int) -> None:
    """Of a tiny network."""
    import mirnet_edge as me
    from mirnet_edge.model.config import MIRNetV2Config

    config = MIRNetV2Config(channels=(8, 12, 16), groups=(1,), n_mrb=1)
    me.save_model(me.create_model(config, seed=seed), folder / "net.safetensors", task="denoise")


def graph(folder: Path, seed: int) -> None:
    """With convolutions that are worth quantizing."""
    import build_sandbox
    import onnx

    import mirnet_edge as me

    proto = build_sandbox.exported_network()
    facts = me.ModelFacts(task="denoise", size_multiple=4, min_size_px=8)
    onnx.helper.set_model_props(proto, facts.to_metadata())
    onnx.save(proto, folder / "wide.onnx")


def sandbox(folder: Path, seed: int) -> None:
    """What the fake TensorRT builds, and itself."""
    import build_sandbox
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        build_sandbox.Sandbox(folder, patch, own_process=True)


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Attributes:
        command: of (folder of what it reads, folder that it writes to).
        reads: what makes what it reads, of (folder, seed).
        weigh: what a file is compared by: its name and bytes to anything; None leaves it out.
        grows: files have their final names before their final contents, as a checkpoint's.
        kills: in one turn; fewer where a run takes long.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    reads: tuple[Callable[[Path, int], None], ...] = ()
    weigh: Callable[[Path], object] = Path.read_bytes
    environment: dict[str, str] = field(default_factory=dict)
    grows: bool = False
    kills: int = 5


def restored(given: Path, to: Path) -> list[str]:
    options = ["-r", "--compare", "--threads", "1", "--skip-existing"]
    return [*COMMAND, "restore", f"{given}/album", *options, "-o", f"{to}/"]


def video(given: Path, to: Path) -> list[str]:
    options = ["--threads", "1", "--skip-existing"]
    return [*COMMAND, "restore", f"{given}/in.mp4", *options, "-o", f"{to}/out.mp4"]


def exported(given: Path, to: Path) -> list[str]:
    return [*COMMAND, "export", f"{given}/net.safetensors", f"{to}/net.onnx", "--overwrite"]


def quantized(given: Path, to: Path) -> list[str]:
    options = ["--calibration", f"{given}/pictures", "--method", "minmax", "--tile", "20x28"]
    options += ["--budget-db", "3", "--overwrite"]
    return [*COMMAND, "quantize", f"{given}/wide.onnx", f"{to}/int8.onnx", *options]


def trained(given: Path, to: Path) -> list[str]:
    options = "--preset edge-xs --task gaussian --steps 40 --batch 1 --patch-px 16 --warmup 2"
    options += " --rescale 1 --checkpoint-minutes 0.001 --device cpu"
    return [*COMMAND, "train", "--data", f"{given}/pictures", "-o", str(to), *options.split()]


def built(given: Path, to: Path) -> list[str]:
    return [sys.executable, "-c", BUILD, str(given), str(to)]


def _weights(path: Path) -> object:
    """Of a training, whose log tells times: the weights alone."""
    if path.suffix != ".safetensors":
        return None
    from mirnet_edge import load_model

    return load_model(path).facts.weights_sha256


def _built(path: Path) -> object:
    """Of a build, whose card tells times: the plan beside a card that is its own."""
    from mirnet_edge._files import file_sha256
    from mirnet_edge.engines.card import EngineCard, card_path

    if path.name != "net.engine":
        return None
    card = EngineCard.load(card_path(path))
    return card.engine_sha256 == file_sha256(path), card.precision, card.tile


def _tuned(path: Path) -> object:
    """Of an answer, which tells times: that it can be read."""
    from mirnet_edge.engines.tuned import Tuned

    is_answer = path.suffix == ".json" and path.parent.name != "cpu"  # which engine is faster
    return Tuned.load(path).frame if is_answer else None


JOBS = (
    Job("restore", restored, (album,), kills=10),
    Job("video", video, (video_of_parts,)),
    Job("export", exported, (weights,), kills=2),
    Job("quantize", quantized, (pictures, graph)),
    Job("train", trained, (pictures,), _weights, grows=True),
    Job("build", built, (sandbox,), _built),
    Job("tune", lambda _, to: [sys.executable, "-c", TUNE, str(to)], weigh=_tuned),
)
JOB = {job.name: job for job in JOBS}
