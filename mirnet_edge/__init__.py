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

from mirnet_edge._version import __version__ as __version__

# Read off the stub, in 0.1 ms: a list of its own would have to agree with what type checkers see.
with open(f"{__file__}i", encoding="utf-8") as _stub:
    _MODULE_OF_NAME = {
        words[3]: words[1].removeprefix("mirnet_edge.")
        for words in map(str.split, _stub)
        if words[:1] == ["from"] and words[1] != "mirnet_edge._version"
    }
_NEEDS_TORCH = {
    "engines.compiled.engine",
    "engines.torch_engine",
    "model.checkpoints",
    "model.create",
    "workstation.export",
    "workstation.train",
}

__all__ = sorted([*_MODULE_OF_NAME, "__version__"])


def __getattr__(name: str) -> object:
    module = _MODULE_OF_NAME.get(name)
    if module is None:
        raise AttributeError(f"module 'mirnet_edge' has no attribute {name!r}")
    if module in _NEEDS_TORCH:
        from mirnet_edge._imports import require

        require("torch", f"mirnet_edge.{name}")
    value = getattr(import_module(f"mirnet_edge.{module}"), name)
    globals()[name] = value  # asked once a name: the next look-up finds it here
    return value


def __dir__() -> list[str]:
    return __all__
