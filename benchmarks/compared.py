"""Other systems and ours, measured by one protocol on one machine.

    python benchmarks/compared.py measure WEIGHTS SETS RECORD --device cuda --model mine.safetensors
    python benchmarks/compared.py table RECORD

WEIGHTS is a folder of public weights, each under the name that it has in its repository
(`SYSTEMS` names both); those that are missing are left out. SETS holds ``cbsd68``, ``set5``,
``set14``, ``polyu`` and ``lol_train4``. On a GPU all takes some minutes; on two CPU cores take
``--every 17``. BM3D needs the package bm3d, runs on the CPU, and sees every ``--bm3d-every``-th
picture. Figures that were published and cannot be measured stand in `published.json`.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import compared_networks as networks
import numpy as np
import torch
from torch import Tensor, nn

import mirnet_edge as me
from mirnet_edge._files import atomic_path
from mirnet_edge.engines.torch_engine import TorchEngine
from mirnet_edge.frame_path import Timings
from mirnet_edge.model.layers import Network
from mirnet_edge.system import cpu_name
from mirnet_edge.workstation.arithmetic import multiply_accumulates
from mirnet_edge.workstation.protocols import Denoising, Pairs, Protocol, SuperResolution
from mirnet_edge.workstation.sets import LEVELS, data_of, equalized, lifted

PUBLISHED = Path(__file__).with_name("published.json")
TIMED_CPU, TIMED_GPU = (256, 256), (1088, 1920)
"""Height and width of the frame that is timed; the GPU's is 1080p, padded."""
RUNS, WARM_UP, ROUNDS = 7, 2, 5
"""The time of a system is the least median of some rounds, in each of which all have their turn:
what else the machine does slows a round, and not a system."""
Frame = np.ndarray


@dataclass(frozen=True)
class System:
    """A system that ours are compared with.

    Attributes:
        name: as in tables.
        task: what it restores.
        network: makes it; None for a method without one.
        file, read: its weights, and what reads them.
        source: where the file is public.
        is_told: whether it asks for the noise level.
        over_luma: whether it restores the luma of an enlarged picture alone.
    """

    name: str
    task: str
    network: Callable[[], nn.Module] | None = None
    file: str = ""
    read: Callable[[Path], networks.Weights] = networks.state_dict
    source: str = ""
    is_told: bool = False
    over_luma: bool = False


SYSTEMS = (
    System("DnCNN (blind)", "denoise", networks.DnCNN, "dncnn_color_blind.pth",
           source="zhengdihan/Unsupervised_denoising@dadd26a, model_zoo/"),
    System("FFDNet", "denoise", networks.FFDNet, "ffdnet_color.pth", is_told=True,
           source="zhengdihan/Unsupervised_denoising@dadd26a, model_zoo/"),
    System("BM3D", "denoise", source="PyPI bm3d", is_told=True),
    System("bicubic", "super-resolution"),
    System("SRCNN", "super-resolution", networks.SRCNN, "3051crop_weight_200.h5",
           networks.srcnn_weights, "samdhila/SRCNN-pretrained-model@75d94b9", over_luma=True),
    System("VDSR", "super-resolution", networks.VDSR, "model_epoch_50.pth",
           networks.vdsr_weights, "twtygqyy/pytorch-vdsr@514b021, model/", over_luma=True),
    System("gamma 1/2.2", "enhance"),
    System("histogram equalization", "enhance"),
    System("Zero-DCE", "enhance", networks.ZeroDCE, "Epoch99.pth", networks.zero_dce_weights,
           "Li-Chongyi/Zero-DCE@e0f4adc, Zero-DCE_code/snapshots/"),
)  # fmt: skip


@dataclass
class Compared:
    """A system with what `evaluate_model` asks of a Restorer."""

    restore: Callable[[Frame, float | None], Frame]
    facts: me.ModelFacts
    noise: Any = "auto"
    timings: Timings = field(default_factory=Timings)

    def __call__(self, frame: Frame) -> Frame:
        """Restore (H, W, C) float32 to the same shape, clamped."""
        level = self.noise if self.facts.noise_level else None
        self.timings = Timings(noise=level)
        return self.restore(frame, level).clip(0, 1).astype(np.float32)


def opened(system: System, weights: Path, device: str) -> tuple[nn.Module | None, Compared] | None:
    """Its network, if any, and the system; None where its weights or its package are missing."""
    network = None
    restore = PLAIN.get(system.name)
    if system.name == "BM3D" and not _has_bm3d():
        return None
    if system.network is not None:
        if not (weights / system.file).is_file():
            return None
        network = system.network()
        try:
            network.load_state_dict(dict(system.read(weights / system.file)))
        except ModuleNotFoundError as error:  # of a format that a package alone reads
            click.echo(f"{system.file}: {error}")
            return None
        for parameter in network.parameters():
            # Denormal numbers, of which Zero-DCE's file is full, are nothing, and fifty times as
            # slow on a CPU.
            parameter.data[parameter.abs() < torch.finfo(torch.float32).tiny] = 0
        network = network.eval().to(device)
        restore = _of_network(network, device, system.over_luma)
    assert restore is not None, system
    facts = me.ModelFacts(task=system.task, noise_level=system.is_told)
    return network, Compared(restore, facts)


def _of_network(
    network: nn.Module, device: str, over_luma: bool
) -> Callable[[Frame, float | None], Frame]:
    def run(frame: Frame, level: float | None) -> Frame:
        planes = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)[None]))
        with torch.inference_mode():
            restored: Tensor = network(planes.to(device), level)
        return restored[0].float().cpu().numpy().transpose(1, 2, 0)

    def in_colour(frame: Frame, level: float | None) -> Frame:
        # A gray frame is three equal planes for a network of three, as in a Restorer.
        restored = run(frame.repeat(3, 2), level) if frame.shape[2] == 1 else run(frame, level)
        return restored.mean(2, keepdims=True) if frame.shape[2] == 1 else restored

    def luma_alone(frame: Frame, level: float | None) -> Frame:
        if frame.shape[2] == 1:
            return run(frame, level)
        ycc = frame @ TO_YCC.T + OFFSET
        ycc[..., :1] = run(np.ascontiguousarray(ycc[..., :1], np.float32), level)
        return (ycc - OFFSET) @ np.linalg.inv(TO_YCC).T

    return luma_alone if over_luma else in_colour


TO_YCC = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]])
TO_YCC = TO_YCC / 255
OFFSET = np.array([16, 128, 128]) / 255
"""RGB of [0, 1] to Y'CbCr, as MATLAB's ``rgb2ycbcr`` has it for floating-point numbers."""


def _as_it_is(frame: Frame, _level: float | None) -> Frame:
    return frame


def _lifted(frame: Frame, _level: float | None) -> Frame:
    return lifted(frame)


def _equalized(frame: Frame, _level: float | None) -> Frame:
    return equalized(frame.transpose(2, 0, 1)[None])[0].transpose(1, 2, 0)


def _has_bm3d() -> bool:
    try:
        import bm3d  # noqa: F401
    except ImportError:
        return False
    return True


def _bm3d(frame: Frame, level: float | None) -> Frame:
    import bm3d

    sigma = (level or 0.0) / 255
    if frame.shape[2] == 1:
        return np.asarray(bm3d.bm3d(frame[..., 0].astype(np.float64), sigma))[..., None]
    return np.asarray(bm3d.bm3d_rgb(frame.astype(np.float64), sigma))


PLAIN = {
    "bicubic": _as_it_is,
    "gamma 1/2.2": _lifted,
    "histogram equalization": _equalized,
    "BM3D": _bm3d,
}
"""Systems without a network."""


def trials(
    task: str, scale: int, is_told: bool, is_ours: bool
) -> Iterator[tuple[str, Protocol, Any]]:
    """Set, test and noise level of each row of a system of ``task``; scale 1 takes all scales."""
    if task == "super-resolution":
        for one in (2, 3, 4) if scale == 1 else (scale,):
            yield "set5", SuperResolution(one), "auto"
            yield "set14", SuperResolution(one), "auto"
    elif task == "enhance":
        yield "lol_train4", Pairs(brightness=True), "auto"
    else:
        for sigma in (15.0, 25.0, 50.0):
            yield "cbsd68", Denoising(sigma), "told" if is_told else "auto"
        if is_ours or not is_told:
            yield "polyu", Pairs(), "auto"
        for level in LEVELS if is_told else ():
            yield "polyu", Pairs(), level


def figures(
    name: str, restorer: Any, sets: Path, every: int, is_ours: bool
) -> Iterator[dict[str, Any]]:
    """The rows of one system."""
    facts = restorer.facts
    for data, protocol, noise in trials(facts.task, facts.scale, facts.noise_level, is_ours):
        if not (sets / data).is_dir():
            continue
        began = time.perf_counter()
        evaluation = me.evaluate_model(
            restorer, data_of(sets, data), protocol, noise=noise, with_ssim=False, every=every
        )
        row = {
            "system": name, "data": data, "images": len(evaluation.scores), "every": every,
            "test": protocol.name, "noise": noise if facts.noise_level else None,
            "level": evaluation.mean.noise, "given": evaluation.mean.given,
            "restored": evaluation.mean.restored,
        }  # fmt: skip
        click.echo(
            f"{name}: {data} ({row['images']}), {protocol.name}, {noise}: "
            f"{evaluation.mean.given_psnr:.2f} -> {evaluation.mean.psnr:.2f} dB, "
            f"{time.perf_counter() - began:.0f} s"
        )
        yield row


def milliseconds(network: nn.Module, planes: int, device: str) -> dict[str, Any]:
    """Median time of one frame: FP32 as PyTorch runs it on a CPU; on a GPU FP16, channels last, in
    a CUDA graph."""
    on_gpu = device.startswith("cuda")
    height, width = TIMED_GPU if on_gpu else TIMED_CPU
    if isinstance(network, Network):
        height, width = map(network.size_rule.padded, (height, width))
    frame = torch.rand(1, planes, height, width, device=device)
    if not on_gpu:
        with torch.inference_mode():
            times = [_timed(lambda: network(frame)) for _ in range(WARM_UP + RUNS)]
        return {"ms": statistics.median(times[WARM_UP:]), "of": f"{width}x{height}, FP32"}
    torch.backends.cudnn.benchmark = True
    half = network.half().to(memory_format=torch.channels_last)
    frame = frame.half().contiguous(memory_format=torch.channels_last)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(WARM_UP + 1):
            half(frame)
        side.synchronize()
        with torch.cuda.graph(graph, stream=side):
            half(frame)

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    times = [_timed(replay) for _ in range(5 * (WARM_UP + RUNS))]
    return {"ms": statistics.median(times[5 * WARM_UP :]), "of": f"{width}x{height}, FP16, graph"}


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)


class _OneArgument(nn.Module):
    """A compared network as what counts and times it calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor) -> Tensor:
        """As the network, at a level of 25."""
        result: Tensor = self.network(frame, 25.0)
        return result


def described(
    name: str, network: nn.Module, planes: int, device: str, **facts: Any
) -> dict[str, Any]:
    """Size, work and time of a network; it is moved, and run in half precision, for that."""
    return {
        "system": name,
        **facts,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac_256": round(multiply_accumulates(network.cpu().float(), planes) / 1e9, 2),
        **milliseconds(network.to(device), planes, device),
    }


@click.group()
def main() -> None:
    """Other systems and ours, measured by one protocol on one machine."""


@main.command()
@click.argument("weights", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("sets", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("record", type=click.Path(path_type=Path))
@click.option(
    "--model", "models", multiple=True, help="Ours: checkpoints, or names of bundled ones."
)
@click.option("--device", default="cpu")
@click.option("--every", type=click.IntRange(1), default=1)
@click.option("--bm3d-every", type=click.IntRange(1), default=17)
@click.option("--only", multiple=True, help="Names of systems; all by default.")
def measure(
    weights: Path,
    sets: Path,
    record: Path,
    models: tuple[str, ...],
    device: str,
    every: int,
    bm3d_every: int,
    only: tuple[str, ...],
) -> None:
    """Measure all that is there, and write RECORD."""
    torch.backends.cudnn.allow_tf32 = False  # PSNR is of FP32, on any machine
    cpu = f"{cpu_name()}, {torch.get_num_threads()} threads"
    content: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if device.startswith("cuda") else cpu,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "systems": [],
        "figures": [],
    }

    timed: list[tuple[dict[str, Any], nn.Module, int]] = []

    def write() -> None:
        with atomic_path(record) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def keep(rows: Iterator[dict[str, Any]]) -> None:
        # After each system: the next one may fail, or be what the time does not suffice for.
        content["figures"] += rows
        write()

    def describe(name: str, network: nn.Module, planes: int, **facts: Any) -> None:
        about = described(name, network, planes, device, **facts)
        content["systems"].append(about)
        timed.append((about, network, planes))
        write()

    for system in SYSTEMS:
        if only and system.name not in only:
            continue
        found = opened(system, weights, device)
        if found is None:
            click.echo(f"{system.name}: left out, {system.file or 'its package'} is not there")
            continue
        network, compared = found
        step = max(every, bm3d_every) if system.name == "BM3D" else every
        keep(figures(system.name, compared, sets, step, is_ours=False))
        if network is not None:
            planes = 1 if system.over_luma else 3
            describe(system.name, _OneArgument(network), planes, source=system.source)
    for model in models:
        ours = me.load_model(model)
        name = Path(model).stem if Path(model).suffix else model
        with me.Restorer(TorchEngine(ours, device), tile=None) as restorer:
            keep(figures(name, restorer, sets, every, is_ours=True))
        describe(name, ours, ours.facts.in_planes)
    for _ in range(ROUNDS - 1):
        for about, network, planes in timed:
            about["ms"] = min(about["ms"], milliseconds(network, planes, device)["ms"])
    write()


@main.command()
@click.argument("record", type=click.Path(exists=True, path_type=Path))
def table(record: Path) -> None:
    """Print the table of RECORD, with published figures beside it, as Markdown."""
    from compared_table import markdown

    measured = json.loads(record.read_text("utf-8"))
    click.echo(markdown(measured, json.loads(PUBLISHED.read_text("utf-8"))))


if __name__ == "__main__":
    main()
