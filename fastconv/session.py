"""onnxruntime's classes and functions under their former name: see ``fastconv.onnxruntime``."""

from __future__ import annotations

from .onnxruntime.devices import get_all_providers, get_available_providers, get_device
from .onnxruntime.enums import ExecutionMode, GraphOptimizationLevel
from .onnxruntime.options import CPU, RunOptions, SessionOptions
from .onnxruntime.session import InferenceSession, ModelMetadata, NodeArg, node_arg

__all__ = [
    "CPU",
    "ExecutionMode",
    "GraphOptimizationLevel",
    "InferenceSession",
    "ModelMetadata",
    "NodeArg",
    "RunOptions",
    "SessionOptions",
    "get_all_providers",
    "get_available_providers",
    "get_device",
    "node_arg",
]
