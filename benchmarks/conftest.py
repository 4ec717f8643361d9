"""What every record says of the machine and the versions it was made with."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from mirnet_edge.system import usable_cores


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    for private in ("node", "release"):
        machine_info.pop(private, None)
    machine_info["usable_cores"] = usable_cores()
    machine_info["versions"] = {
        name: version(name)
        for name in ("mirnet-edge", "numpy", "onnx", "onnxruntime", "onnxscript", "torch")
    }
