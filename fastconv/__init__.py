"""fastconv: a CPU inference engine for ONNX convolutional networks.

>>> model = fastconv.load("model.onnx")
>>> y = model(x)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    ExternalDataError,
    FastconvError,
    ImageError,
    InputError,
    MemoryLimitError,
    ModelError,
    OptionError,
    ShapeError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from . import backend, image, ops, visualize
    from .model import FallbackWarning, Model, TensorInfo, load
    from .session import InferenceSession, SessionOptions

__version__ = "0.1.0"

# Loaded when first asked for, so that importing fastconv is quick.
_LAZY = {
    "load": "model",
    "Model": "model",
    "TensorInfo": "model",
    "FallbackWarning": "model",
    "InferenceSession": "session",
    "SessionOptions": "session",
    "ops": "",
    "image": "",
    "backend": "",
    "visualize": "",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    module = importlib.import_module(f".{_LAZY[name] or name}", __name__)
    value = getattr(module, name) if _LAZY[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


__all__ = [
    "ExternalDataError",
    "FallbackWarning",
    "FastconvError",
    "ImageError",
    "InferenceSession",
    "InputError",
    "MemoryLimitError",
    "Model",
    "ModelError",
    "OptionError",
    "SessionOptions",
    "ShapeError",
    "TensorInfo",
    "UnsupportedError",
    "backend",
    "image",
    "load",
    "ops",
    "visualize",
]
