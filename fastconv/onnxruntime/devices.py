"""Devices, memory and execution providers as onnxruntime describes them: there is the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

from .enums import OrtAllocatorType, OrtDeviceMemoryType, OrtDeviceVendorId, OrtHardwareDeviceType
from .enums import OrtMemType as MemType
from .errors import argument, refused
from .options import CPU

#: Names of devices and onnxruntime's numbers for them.
DEVICE_TYPES = {
    "cpu": 0, "cuda": 1, "gpu": 1, "dml": 1, "webgpu": 1, "fpga": 2, "npu": 3, "cann": 3,
}  # fmt: skip


class OrtDevice:
    """A device: the CPU, or one that values cannot be placed on.

    Args:
        device_type: onnxruntime's number for it.
        memory: kind of memory.
        vendor_id, device_id: which one. With three arguments the last is the device.
    """

    def __init__(self, device_type: Any, memory: int = 0, *ids: int) -> None:
        if isinstance(device_type, OrtDevice):
            ids = (device_type.vendor_id(), device_type.device_id())
            memory, device_type = device_type.mem_type(), device_type.device_type()
        self._numbers = (int(device_type), int(memory), *((0, *ids) if len(ids) < 2 else ids))
        if len(self._numbers) < 4:
            self._numbers = (*self._numbers, 0)

    @staticmethod
    def make(
        ort_device_name: str, device_id: int = 0, vendor_id: int | OrtDeviceVendorId = -1
    ) -> OrtDevice:
        """A device by its name (``"cpu"``, ``"cuda"`` …).

        Raises:
            OptionError: there is no such name.
        """
        if ort_device_name not in DEVICE_TYPES:
            raise argument(
                f"Unsupported device type: {ort_device_name}; expected {', '.join(DEVICE_TYPES)}"
            )
        return OrtDevice(DEVICE_TYPES[ort_device_name], 0, max(0, int(vendor_id)), device_id)

    @staticmethod
    def cpu() -> int:
        """The number of the CPU."""
        return DEVICE_TYPES["cpu"]

    @staticmethod
    def cuda() -> int:
        """The number of a CUDA device."""
        return DEVICE_TYPES["cuda"]

    @staticmethod
    def gpu() -> int:
        """The number of a GPU."""
        return DEVICE_TYPES["gpu"]

    @staticmethod
    def dml() -> int:
        """The number of a DirectML device."""
        return DEVICE_TYPES["dml"]

    @staticmethod
    def npu() -> int:
        """The number of an NPU."""
        return DEVICE_TYPES["npu"]

    @staticmethod
    def default_memory() -> int:
        """The number of default memory."""
        return 0

    def device_type(self) -> int:
        """The kind of device, as a number."""
        return self._numbers[0]

    def device_mem_type(self) -> int:
        """The kind of memory, as a number."""
        return self._numbers[1]

    mem_type = device_mem_type

    def device_vendor_id(self) -> int:
        """The vendor's PCI number."""
        return self._numbers[2]

    vendor_id = device_vendor_id

    def device_id(self) -> int:
        """Which of the devices of its kind."""
        return self._numbers[3]

    def _get_c_device(self) -> OrtDevice:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrtDevice) and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash(self._numbers)


def check_cpu(device: str | OrtDevice | Any) -> None:
    """Refuse any device but the CPU.

    Raises:
        OptionError: no device has that name.
        UnsupportedError: the device is not the CPU (a ``RuntimeError`` too, as in onnxruntime).
    """
    made = device if isinstance(device, OrtDevice) else OrtDevice.make(str(device))
    if made.device_type() != 0:
        name = device if isinstance(device, str) else f"of type {made.device_type()}"
        raise refused(f"Can't allocate memory on the device {name}: fastconv runs on the CPU")


class OrtMemoryInfo(NamedTuple):
    """Where memory comes from."""

    name: str = "Cpu"
    allocator_type: OrtAllocatorType = OrtAllocatorType.ORT_ARENA_ALLOCATOR
    device_id: int = 0
    mem_type: MemType = MemType.DEFAULT
    device_mem_type: OrtDeviceMemoryType = OrtDeviceMemoryType.DEFAULT
    device_vendor_id: int = 0


class OrtArenaCfg:
    """The configuration of an arena; it has no effect, as each plan knows what it needs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = (
            "max_mem",
            "arena_extend_strategy",
            "initial_chunk_size_bytes",
            "max_dead_bytes_per_chunk",
        )
        given = args[0] if args and isinstance(args[0], dict) else dict(zip(names, args))
        self.__dict__.update({**dict.fromkeys(names, -1), **given, **kwargs})


class OrtHardwareDevice(NamedTuple):
    """A device of this machine."""

    type: OrtHardwareDeviceType
    vendor: str
    vendor_id: int
    device_id: int
    metadata: dict[str, str]


class OrtEpDevice(NamedTuple):
    """An execution provider with a device that it runs on."""

    ep_name: str
    ep_vendor: str
    ep_metadata: dict[str, str]
    ep_options: dict[str, str]
    device: OrtHardwareDevice

    def memory_info(self, memory: OrtDeviceMemoryType) -> OrtMemoryInfo:
        """Where the device's memory comes from."""
        return OrtMemoryInfo(device_mem_type=OrtDeviceMemoryType(memory))


def get_ep_devices() -> list[OrtEpDevice]:
    """The devices there are: the CPU."""
    device = OrtHardwareDevice(OrtHardwareDeviceType.CPU, "", 0, 0, {})
    return [OrtEpDevice(CPU, "fastconv", {}, {}, device)]


def get_available_providers() -> list[str]:
    """The execution providers there are: the CPU."""
    return [CPU]


def get_all_providers() -> list[str]:
    """The same as :func:`get_available_providers`."""
    return [CPU]


def get_device() -> str:
    """``"CPU"``."""
    return "CPU"


def register_execution_provider_library(name: str, path: str) -> None:
    """Not possible; raises ``UnsupportedError``."""
    raise refused(f"{name!r} ({path}): execution providers of onnxruntime cannot be loaded")


def unregister_execution_provider_library(name: str) -> None:
    """Not possible, as none can be registered; raises ``OptionError``."""
    raise argument(f"{name!r}: no such execution provider library was registered")


def create_and_register_allocator(memory: OrtMemoryInfo, config: OrtArenaCfg | None = None) -> None:
    """Accepted: memory is planned, there is no allocator to configure."""


def create_and_register_allocator_v2(
    name: str, memory: OrtMemoryInfo, options: Any = None, config: OrtArenaCfg | None = None
) -> None:
    """Accepted: memory is planned, there is no allocator to configure."""


__all__ = [
    "OrtArenaCfg",
    "OrtDevice",
    "OrtEpDevice",
    "OrtHardwareDevice",
    "OrtMemoryInfo",
    "check_cpu",
    "create_and_register_allocator",
    "create_and_register_allocator_v2",
    "get_all_providers",
    "get_available_providers",
    "get_device",
    "get_ep_devices",
    "register_execution_provider_library",
    "unregister_execution_provider_library",
]
