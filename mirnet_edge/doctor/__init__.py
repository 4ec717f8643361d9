"""What this machine has for mirnet_edge, what is missing, and the command that installs it.

Versions are read from package metadata, and the GPU is asked through the CUDA driver library
itself, so neither torch nor any tool of the CUDA toolkit is needed; only onnxruntime is imported,
and not before ``diagnose`` is called, because its execution providers are known in no other way.
"""

from __future__ import annotations

from mirnet_edge.doctor.checks import Check, healthy
from mirnet_edge.doctor.report import diagnose
from mirnet_edge.doctor.system import System

__all__ = ["Check", "System", "diagnose", "healthy"]
