"""Read the tensors of a PyTorch checkpoint (.pth, .pt) into NumPy arrays, without PyTorch.

Both container formats of ``torch.save`` are read: the ZIP archive (PyTorch 1.6 and later) and the
older run of pickles followed by raw storages. The unpickler admits ordered dictionaries and dense
CPU tensors and nothing else, so a checkpoint cannot run code. The formats are those documented in
PyTorch's "Serialization semantics" notes and by ``torch.serialization``.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


class _StorageType(str):
    """The name of a torch storage class, standing in for the class itself."""


class _Tensor:
    """A view of a storage, resolved to an array once the storages are read."""

    def __init__(self, storage: tuple, offset: int, size: tuple, stride: tuple, *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class _Unpickler(pickle.Unpickler):
    """Admits the few globals that a dictionary of tensors needs; any other name is refused."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.kinds: dict[str, str] = {}  # storage key → storage class

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"the checkpoint names {module}.{name}, which is not admitted")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        # ("storage", storage class, key, location, number of elements[, view metadata])
        if pid[0] != "storage" or not isinstance(pid[1], _StorageType):
            raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
        kind, key = str(pid[1]), str(pid[2])
        self.kinds[key] = kind
        return kind, key


def load_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Return the tensors of the checkpoint's dictionary, in file order.

    Each array has the tensor's shape in the axis order that PyTorch stores (OIHW for convolution
    weights, [out, in] for linear layers). Entries that are not tensors are left out.

    Raises:
        ValueError: the file is not a checkpoint holding a dictionary, or its storages do not fit.
        pickle.UnpicklingError: the file names something other than tensors and dictionaries.
    """
    with open(path, "rb") as file:
        try:
            if zipfile.is_zipfile(file):
                tree, storages = _read_zip(file)
            else:
                file.seek(0)
                tree, storages = _read_legacy(file)
        except (EOFError, struct.error) as error:
            raise ValueError(f"{path}: not a PyTorch checkpoint, or cut short") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: holds a {type(tree).__name__}, not a dictionary of tensors")
    return {k: _resolve(v, storages) for k, v in tree.items() if isinstance(v, _Tensor)}


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        (entry,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        prefix = entry[: -len("data.pkl")] + "data/"
        storages = {
            n[len(prefix) :]: archive.read(n) for n in archive.namelist() if n.startswith(prefix)
        }
        return _Unpickler(io.BytesIO(archive.read(entry))).load(), storages


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, bytes]]:
    if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise ValueError("not a PyTorch checkpoint: wrong magic or protocol number")
    if not _Unpickler(file).load().get("little_endian", True):
        raise ValueError("big-endian checkpoints are not read")
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        size = count * np.dtype(_DTYPES[unpickler.kinds[key]]).itemsize
        storages[key] = file.read(size)
        if len(storages[key]) != size:
            raise ValueError(f"the checkpoint ends inside storage {key}")
    return tree, storages


def _resolve(tensor: _Tensor, storages: dict[str, bytes]) -> np.ndarray:
    kind, key = tensor.storage
    flat = np.frombuffer(storages[key], _DTYPES[kind])
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True))
    if min((tensor.offset, *tensor.size, *tensor.stride)) < 0 or (
        0 not in tensor.size and last >= flat.size
    ):
        raise ValueError(f"storage {key} is too small for a tensor of shape {list(tensor.size)}")
    strides = [s * flat.itemsize for s in tensor.stride]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.size, strides)
    return np.array(view)  # contiguous, owns its data
