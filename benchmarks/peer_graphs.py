"""What runs ONNX graphs: ours, plain TensorRT, ONNX Runtime, OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from networks import graph_of
from peer_case import FRAME, TOLD, Case, Form, Open, Step, clock

from mirnet_edge.errors import EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.system import usable_cores
from mirnet_edge.trt import plugins
from mirnet_edge.trt.timing_cache import TimingCache

LEVELS = (1, 3, 5)
"""TensorRT's optimization levels; the first takes minutes, the last up to an hour."""
MODULES_KEPT = 20
ORT_PROVIDERS = {
    "onnxruntime-cuda": {"fp32": ("CUDAExecutionProvider", {"use_tf32": "0"}),
                         "tf32": ("CUDAExecutionProvider", {"use_tf32": "1"})},
    "onnxruntime-tensorrt": {"fp16": ("TensorrtExecutionProvider", {"trt_fp16_enable": "True"})},
}  # fmt: skip


def forms(peer: str) -> dict[str, Open]:
    """Of the peer."""
    if peer == "ours":
        plain = {f"fp16 level {level}": partial(ours, level) for level in LEVELS}
        if not plugins.are_wanted():  # by MIRNET_EDGE_PLUGINS=none
            return plain
        # Alike but for the plugins, which must pay at level 1 to be worth a search.
        return {"fp16 level 1, plugins": partial(ours, 1, with_plugins=True)} | plain
    if peer == "tensorrt":
        return {f"fp16 level {level}": partial(plain_tensorrt, level) for level in LEVELS}
    if peer == "portable":
        return {"fp32": portable}
    if peer == "openvino":
        return {precision: partial(openvino, precision) for precision in ("f32", "bf16")}
    return {name: partial(onnxruntime, *provider) for name, provider in ORT_PROVIDERS[peer].items()}


def engine_path(case: Case, kind: str) -> Path:
    """Where an engine is kept."""
    folder = case.folder / "engines"
    folder.mkdir(exist_ok=True)
    return folder / f"{case.network}.{kind}.{'x'.join(map(str, case.shape))}.engine"


def ours(level: int, case: Case, stack: ExitStack, *, with_plugins: bool = False) -> Form:
    """As ``mirnet-edge build`` makes it and `Restorer` runs it."""
    import mirnet_edge as me

    batch, *tile = case.shape
    path = engine_path(case, f"ours-{level}{'-plugins' * with_plugins}")
    card = me.build_engine(
        graph_of(case.folder, case.network),
        path,
        tile=(tile[0], tile[1]),
        batch=batch,
        optimization_level=level,
        plugins=with_plugins,
    )
    said: dict[str, Any] = {
        "layers": len(card.layers),
        "bytes_moved": card.bytes_moved,
        "memory_bytes": card.device_bytes.total,
        "measured": asdict(card.measured) if card.measured else None,
        "notes": list(card.notes),
        "build_s": card.build_seconds,
    }
    frame = None
    try:  # whatever comes of the rest, the engine alone can be timed
        frame = whole_frame(path, stack) if case.is_frame else None
        said["profile"] = profile(path)
    except Exception as error:
        said["note"] = f"{type(error).__name__}: {error}"[:500]
    return Form(timed(path, stack), frame, said)


def profile(engine: Path) -> dict[str, Any]:
    """Where its time goes, as ``mirnet-edge bench --profile`` tells."""
    from mirnet_edge.build.profile import profile_plan

    found = asdict(profile_plan(engine))
    return found | {"modules": found["modules"][:MODULES_KEPT]}


def whole_frame(engine: Path, stack: ExitStack) -> Callable[[], object]:
    """Restore a frame from host memory to host memory, in one tile."""
    import mirnet_edge as me

    restore = stack.enter_context(me.Restorer(engine, halo=0))
    if restore.facts.noise_level:
        restore.noise = TOLD
    given = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), np.uint8)
    result = np.empty_like(given)
    restore(given, out=result)
    if restore.timings.tiles != 1:
        raise EngineError(f"the frame was cut into {restore.timings.tiles} tiles")
    return partial(restore, given, out=result)


def plain_tensorrt(level: int, case: Case, stack: ExitStack) -> Form:
    """What ``torch.onnx.export`` writes, built with the FP16 flag and nothing else."""
    import tensorrt as trt

    path = engine_path(case, f"plain-{level}")
    began = time.monotonic()
    if not path.exists():
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph_of(case.folder, case.network, plain=case.shape).read_bytes()):
            raise EngineError(f"TensorRT does not read the graph: {parser.get_error(0)}")
        config = builder.create_builder_config()
        config.set_flag(trt.BuilderFlag.FP16)
        config.builder_optimization_level = level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        timings = TimingCache(config, case.folder / "engines" / "plain.timing_cache")
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise EngineError("TensorRT could not build it")
        timings.save()
        path.write_bytes(serialized)
    return Form(timed(path, stack), None, {"build_s": round(time.monotonic() - began, 1)})


def timed(path: Path, stack: ExitStack) -> Step:
    """Time a plan as a CUDA graph, by two events, and on the wall until the second is there."""
    from mirnet_edge.cuda import Event, Graph
    from mirnet_edge.trt.engine import TensorRTEngine

    engine = stack.enter_context(TensorRTEngine(path, trust=True, graph=False))
    device, stream = engine.device, engine.stream
    graph = stack.enter_context(Graph(stream, engine.enqueue))
    start, end = (stack.enter_context(Event(device)) for _ in range(2))

    def step() -> tuple[float, float]:
        with device.current():
            began = time.perf_counter()
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            return end.elapsed_ms(start), 1e3 * (time.perf_counter() - began)

    return step


def portable(case: Case, stack: ExitStack) -> Form:
    """Our portable engine, on the CPU."""
    from mirnet_edge.engines.onnx_engine import OnnxEngine

    engine = OnnxEngine(graph_of(case.folder, case.network), provider="CPUExecutionProvider")
    stack.callback(engine.close)
    tiles = case.tiles(engine.facts.in_planes)
    return Form(clock(lambda: engine.run(tiles)), None, {})


def onnxruntime(provider: str, options: dict[str, str], case: Case, stack: ExitStack) -> Form:
    """ONNX Runtime on the GPU, what it reads and writes on the GPU too."""
    import onnxruntime as ort

    there = ort.get_available_providers()
    if provider not in there:
        raise EngineError(f"{provider} is not in this ONNX Runtime, which has {', '.join(there)}")
    session = ort.InferenceSession(
        str(graph_of(case.folder, case.network)), providers=[(provider, options)]
    )
    if session.get_providers()[0] != provider:
        raise EngineError(f"{provider} does not start here")
    facts = ModelFacts.from_metadata(session.get_modelmeta().custom_metadata_map)
    binding = session.io_binding()
    tiles = ort.OrtValue.ortvalue_from_numpy(case.tiles(facts.in_planes), "cuda", 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, tiles)
    binding.bind_output(session.get_outputs()[0].name, "cuda")
    stack.callback(binding.clear_binding_outputs)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return Form(clock(run), None, {})


def openvino(precision: str, case: Case, _stack: ExitStack) -> Form:
    """OpenVINO on the CPU, on as many threads as there are cores."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(graph_of(case.folder, case.network))
    planes = int(model.inputs[0].partial_shape[1].get_length())
    model.reshape([case.shape[0], planes, *case.shape[1:]])
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": usable_cores(),
            "NUM_STREAMS": 1,
        },
    )
    got = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    if precision not in got:
        raise EngineError(f"asked for {precision}, but this CPU gets {got}")
    request, tiles = compiled.create_infer_request(), case.tiles(planes)
    return Form(clock(lambda: request.infer([tiles], share_inputs=True)), None, {})
