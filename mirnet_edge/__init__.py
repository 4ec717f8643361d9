"""mirnet_edge: MIRNet image restoration on edge devices.

A checkpoint goes in, and a camera pipeline gets clean frames out::

    import mirnet_edge as me

    with me.Restorer("edge-s-denoise") as restore:
        clean = restore(image)                                   # (H, W, 3) uint8 RGB in and out

    me.export_onnx(me.load_model("real_denoising.pth"), "denoise.onnx")

Names are loaded when first used: importing the package imports none of torch, onnx, onnxruntime,
tensorrt, pycuda.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mirnet_edge._version import __version__ as __version__

if TYPE_CHECKING:
    from mirnet_edge.build import build_engine as build_engine
    from mirnet_edge.bundled import BundledModel as BundledModel
    from mirnet_edge.bundled import bundled_models as bundled_models
    from mirnet_edge.device.device_array import DeviceArray as DeviceArray
    from mirnet_edge.engine_choice import open_engine as open_engine
    from mirnet_edge.engines.card import EngineCard as EngineCard
    from mirnet_edge.engines.fake import FakeEngine as FakeEngine
    from mirnet_edge.engines.onnx_engine import OnnxEngine as OnnxEngine
    from mirnet_edge.engines.protocol import Engine as Engine
    from mirnet_edge.engines.torch_engine import TorchEngine as TorchEngine
    from mirnet_edge.errors import BuildError as BuildError
    from mirnet_edge.errors import CalibrationError as CalibrationError
    from mirnet_edge.errors import CheckpointError as CheckpointError
    from mirnet_edge.errors import ConfigError as ConfigError
    from mirnet_edge.errors import DataError as DataError
    from mirnet_edge.errors import DeviceError as DeviceError
    from mirnet_edge.errors import DeviceMemoryError as DeviceMemoryError
    from mirnet_edge.errors import EngineError as EngineError
    from mirnet_edge.errors import ExportError as ExportError
    from mirnet_edge.errors import FrameError as FrameError
    from mirnet_edge.errors import GraphError as GraphError
    from mirnet_edge.errors import ImageError as ImageError
    from mirnet_edge.errors import MirnetEdgeError as MirnetEdgeError
    from mirnet_edge.errors import MissingDependencyError as MissingDependencyError
    from mirnet_edge.errors import OutputError as OutputError
    from mirnet_edge.errors import RefusedPairsError as RefusedPairsError
    from mirnet_edge.errors import StreamError as StreamError
    from mirnet_edge.errors import TilingError as TilingError
    from mirnet_edge.facts import ModelFacts as ModelFacts
    from mirnet_edge.frame_path import Latency as Latency
    from mirnet_edge.frame_path import Timings as Timings
    from mirnet_edge.frames.pixel_formats import PixelFormat as PixelFormat
    from mirnet_edge.frames.pixel_formats import pixel_format as pixel_format
    from mirnet_edge.graph.precision import Precision as Precision
    from mirnet_edge.model.checkpoints import load_model as load_model
    from mirnet_edge.model.checkpoints import save_model as save_model
    from mirnet_edge.model.config import MIRNetConfig as MIRNetConfig
    from mirnet_edge.model.config import MIRNetV2Config as MIRNetV2Config
    from mirnet_edge.model.create import create_model as create_model
    from mirnet_edge.pooling.passes import StatisticsSettings as StatisticsSettings
    from mirnet_edge.quantize import quantize_onnx as quantize_onnx
    from mirnet_edge.quantize.calibration import CalibrationSet as CalibrationSet
    from mirnet_edge.restore import Restorer as Restorer
    from mirnet_edge.stream.frame_stream import FrameStream as FrameStream
    from mirnet_edge.stream.throughput import StreamStatistics as StreamStatistics
    from mirnet_edge.stream.transfer import StreamFrame as StreamFrame
    from mirnet_edge.tiling.geometry import Tiling as Tiling
    from mirnet_edge.trt.activations import ActivationMemory as ActivationMemory
    from mirnet_edge.trt.engine import TensorRTEngine as TensorRTEngine
    from mirnet_edge.workstation.evaluate import Evaluation as Evaluation
    from mirnet_edge.workstation.evaluate import evaluate_model as evaluate_model
    from mirnet_edge.workstation.export import ExportReport as ExportReport
    from mirnet_edge.workstation.export import export_onnx as export_onnx
    from mirnet_edge.workstation.train import Trainer as Trainer
    from mirnet_edge.workstation.train import TrainSettings as TrainSettings

_MODULE_OF_NAME = {
    "ActivationMemory": "trt.activations",
    "BuildError": "errors",
    "BundledModel": "bundled",
    "CalibrationError": "errors",
    "CalibrationSet": "quantize.calibration",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "DeviceArray": "device.device_array",
    "DeviceError": "errors",
    "DeviceMemoryError": "errors",
    "Engine": "engines.protocol",
    "EngineCard": "engines.card",
    "EngineError": "errors",
    "Evaluation": "workstation.evaluate",
    "ExportError": "errors",
    "ExportReport": "workstation.export",
    "FakeEngine": "engines.fake",
    "FrameError": "errors",
    "FrameStream": "stream.frame_stream",
    "GraphError": "errors",
    "ImageError": "errors",
    "Latency": "frame_path",
    "MIRNetConfig": "model.config",
    "MIRNetV2Config": "model.config",
    "MirnetEdgeError": "errors",
    "MissingDependencyError": "errors",
    "ModelFacts": "facts",
    "OnnxEngine": "engines.onnx_engine",
    "OutputError": "errors",
    "PixelFormat": "frames.pixel_formats",
    "Precision": "graph.precision",
    "RefusedPairsError": "errors",
    "Restorer": "restore",
    "StatisticsSettings": "pooling.passes",
    "StreamError": "errors",
    "StreamFrame": "stream.transfer",
    "StreamStatistics": "stream.throughput",
    "TensorRTEngine": "trt.engine",
    "Tiling": "tiling.geometry",
    "TilingError": "errors",
    "Timings": "frame_path",
    "TorchEngine": "engines.torch_engine",
    "TrainSettings": "workstation.train",
    "Trainer": "workstation.train",
    "build_engine": "build",
    "bundled_models": "bundled",
    "create_model": "model.create",
    "evaluate_model": "workstation.evaluate",
    "export_onnx": "workstation.export",
    "load_model": "model.checkpoints",
    "open_engine": "engine_choice",
    "pixel_format": "frames.pixel_formats",
    "quantize_onnx": "quantize",
    "save_model": "model.checkpoints",
}
_NEEDS_TORCH = {
    "engines.torch_engine",
    "model.checkpoints",
    "model.create",
    "workstation.export",
    "workstation.train",
}

__all__ = sorted([*_MODULE_OF_NAME, "__version__"])


def __getattr__(name: str) -> Any:
    module = _MODULE_OF_NAME.get(name)
    if module is None:
        raise AttributeError(f"module 'mirnet_edge' has no attribute {name!r}")
    if module in _NEEDS_TORCH:
        from mirnet_edge._imports import require

        require("torch", f"mirnet_edge.{name}")
    value = getattr(import_module(f"mirnet_edge.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
