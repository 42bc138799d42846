"""The classes that onnxruntime defines in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..binding import IOBinding
from ..devices import DEVICE_TYPES, OrtDevice
from ..enums import OrtDeviceVendorId
from ..errors import argument
from ..session import InferenceSession, Session, _check_providers
from ..values import OrtValue, copy_tensors


def get_ort_device_type(device_type: str, *_: Any) -> int:
    """onnxruntime's number for a kind of device.

    Raises:
        OptionError: there is no such kind.
    """
    if device_type not in DEVICE_TYPES:
        raise argument(f"Unsupported device type: {device_type}")
    return DEVICE_TYPES[device_type]


def check_and_normalize_provider_args(
    providers: Sequence[Any] | None,
    provider_options: Sequence[dict[str, Any]] | None,
    available_provider_names: Sequence[str],
) -> tuple[list[str], list[dict[str, str]]]:
    """Names and options of providers, each as a list, options as text.

    Raises:
        OptionError: they make no sense.
    """
    _check_providers(providers, provider_options)
    result: dict[str, dict[str, str]] = {}
    for i, p in enumerate(providers or ()):
        name, given = (p, {}) if isinstance(p, str) else p
        options = provider_options[i] if provider_options else given
        result.setdefault(name, {str(k): str(v) for k, v in options.items()})
    return list(result), list(result.values())


__all__ = [
    "IOBinding",
    "InferenceSession",
    "OrtDevice",
    "OrtDeviceVendorId",
    "OrtValue",
    "Session",
    "check_and_normalize_provider_args",
    "copy_tensors",
    "get_ort_device_type",
]
