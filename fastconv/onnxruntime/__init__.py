"""onnxruntime's Python module, as far as programs use it, on fastconv's engine.

>>> import fastconv.onnxruntime as onnxruntime

An existing program runs unchanged with ``python -m fastconv.onnxruntime SCRIPT [ARGS]``, or after
:func:`install`, which makes ``import onnxruntime`` mean this package. There is one execution
provider, the CPU. Options without an effect are accepted; see :class:`SessionOptions`.

``__version__`` is the release of onnxruntime whose Python API this follows: programs compare it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .alias import install, uninstall

__version__ = "1.23.0"
__author__ = "fastconv"
package_name = "onnxruntime"
version = __version__
cuda_version = ""

if TYPE_CHECKING:
    from . import backend, capi  # noqa: F401
    from .binding import IOBinding  # noqa: F401
    from .devices import get_available_providers, get_device  # noqa: F401
    from .enums import ExecutionMode, GraphOptimizationLevel  # noqa: F401
    from .options import RunOptions, SessionOptions  # noqa: F401
    from .session import InferenceSession, ModelMetadata, NodeArg  # noqa: F401
    from .values import OrtValue, OrtValueVector, copy_tensors  # noqa: F401

_ENUMS = (
    "ExecutionMode", "ExecutionOrder", "GraphOptimizationLevel", "OrtAllocatorType",
    "OrtDeviceMemoryType", "OrtDeviceVendorId", "OrtExecutionProviderDevicePolicy",
    "OrtHardwareDeviceType", "OrtMemType",
)  # fmt: skip
_DEVICES = (
    "OrtArenaCfg", "OrtDevice", "OrtEpDevice", "OrtHardwareDevice", "OrtMemoryInfo",
    "create_and_register_allocator", "create_and_register_allocator_v2", "get_all_providers",
    "get_available_providers", "get_device", "get_ep_devices",
    "register_execution_provider_library", "unregister_execution_provider_library",
)  # fmt: skip
_OPTIONS = (
    "RunOptions", "SessionOptions", "set_default_logger_callback", "set_default_logger_severity",
    "set_default_logger_verbosity", "set_global_thread_pool_sizes",
)  # fmt: skip

# Loaded when first asked for, so that importing this is quick.
_LAZY = {
    **dict.fromkeys(_ENUMS, "enums"),
    **dict.fromkeys(_DEVICES, "devices"),
    **dict.fromkeys(_OPTIONS, "options"),
    **dict.fromkeys(("InferenceSession", "ModelMetadata", "NodeArg"), "session"),
    **dict.fromkeys(("OrtValue", "OrtValueVector", "copy_tensors"), "values"),
    "IOBinding": "binding",
    "SessionIOBinding": "binding",
    "capi": "",
    "backend": "",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(
            f"module 'fastconv.onnxruntime' has no attribute {name!r}: fastconv does not have that "
            "part of onnxruntime"
        )
    module = importlib.import_module(f".{_LAZY[name] or name}", __name__)
    attribute = "IOBinding" if name == "SessionIOBinding" else name
    value = getattr(module, attribute) if _LAZY[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def get_version_string() -> str:
    """``__version__``."""
    return __version__


def get_build_info() -> str:
    """What this is, in a line."""
    from .. import __version__ as own

    return f"fastconv {own} in the place of onnxruntime {__version__}"


def has_collective_ops() -> bool:
    """False: there are no operators that span processes."""
    return False


def set_seed(seed: int) -> None:
    """Accepted; operators that draw numbers take their own ``seed`` attribute."""


def enable_telemetry_events() -> None:
    """Accepted; there is no telemetry."""


def disable_telemetry_events() -> None:
    """Accepted; there is no telemetry."""


def preload_dlls(
    cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None
) -> None:
    """Nothing to load: everything runs on the CPU, in this package's own kernels."""


def print_debug_info() -> None:
    """Print what this is and runs on."""
    import platform

    print(get_build_info())
    print("platform:", platform.platform())
    print("python:", platform.python_version())


__all__ = [
    *sorted(_LAZY),
    "disable_telemetry_events",
    "enable_telemetry_events",
    "get_build_info",
    "get_version_string",
    "has_collective_ops",
    "install",
    "preload_dlls",
    "print_debug_info",
    "set_seed",
    "uninstall",
]
