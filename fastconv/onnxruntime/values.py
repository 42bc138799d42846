"""``OrtValue``: an array (or a sequence of arrays) with its ONNX type, in CPU memory."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import FastconvError, InputError
from ..importer.defs import DATA_TYPES
from ..sizes import checked_size
from .devices import OrtDevice, check_cpu
from .errors import InvalidArgument, argument, of_run, refused, status

#: ONNX element types that NumPy has.
DTYPES: dict[int, np.dtype[Any]] = {
    n: np.dtype(object if name == "STRING" else name.lower())
    for n, name in DATA_TYPES.items()
    if name in ("STRING", "BOOL", "DOUBLE", "FLOAT16", "COMPLEX64", "COMPLEX128")
    or (
        name.startswith(("INT", "UINT"))
        and name[-1] in "8624"
        and name not in ("UINT4", "INT4", "UINT2", "INT2")
    )
}
DTYPES[1] = np.dtype(np.float32)

#: Bytes per element of those it lacks, for types that take whole bytes.
WIDTHS = {16: 2, 17: 1, 18: 1, 19: 1, 20: 1, 24: 1}

_NUMBERS = {d: n for n, d in DTYPES.items()}
_BFLOAT16 = 16


def element_type(dtype: Any) -> int:
    """The ONNX element type of a NumPy dtype, or of an ONNX number.

    Raises:
        OptionError: ONNX has no such type.
    """
    if isinstance(dtype, int):
        if dtype not in DATA_TYPES:
            raise argument(f"element type {dtype}: not a number of TensorProto.DataType")
        return int(dtype)
    d = np.dtype(dtype).newbyteorder("=")
    if d.kind in "US":
        return _NUMBERS[np.dtype(object)]
    if d not in _NUMBERS:
        raise argument(f"dtype {d}: ONNX has no such element type")
    return _NUMBERS[d]


def storage(number: int) -> np.dtype[Any]:
    """The dtype of the array that holds elements of this type."""
    if number in DTYPES:
        return DTYPES[number]
    if number not in WIDTHS:
        raise refused(f"tensor({DATA_TYPES[number].lower()}): no array can hold it", RuntimeError)
    return np.dtype(f"uint{8 * WIDTHS[number]}")


def at_address(address: int, shape: Sequence[int], number: int) -> np.ndarray:
    """An array over memory that the caller owns.

    Raises:
        OptionError: a null address, or a negative size.
    """
    dims = tuple(operator.index(d) for d in shape)
    dtype = storage(number)
    try:
        size = checked_size(dims, dtype.itemsize)
    except FastconvError as e:
        raise argument(f"shape {list(dims)}: {e}") from None
    if size == 0:
        return np.empty(dims, dtype)
    if not address:
        raise argument(f"buffer_ptr={address!r}: a null pointer for {size} bytes")
    if dtype.hasobject:
        raise refused("strings cannot be bound by their address")
    raw = (ctypes.c_char * size).from_address(operator.index(address))
    return np.frombuffer(memoryview(raw), dtype).reshape(dims)


class OrtValue:
    """A tensor, or a sequence of tensors.

    Made by the class methods, not by the constructor. An array is held, not copied: it and the
    value share memory.
    """

    _value: Any
    _element: int

    def __init__(self, ortvalue: Any, numpy_obj: Any = None, session: Any = None) -> None:
        if isinstance(ortvalue, OrtValue):
            self._value, self._element = ortvalue._value, ortvalue._element
        elif isinstance(ortvalue, (np.ndarray, list)):
            self._value = ortvalue
            first = ortvalue[0] if isinstance(ortvalue, list) and ortvalue else ortvalue
            self._element = element_type(first.dtype) if isinstance(first, np.ndarray) else 1
        else:
            raise argument(
                f"OrtValue of {type(ortvalue).__name__}: expected an OrtValue; "
                "use OrtValue.ortvalue_from_numpy",
                TypeError,
            )

    @classmethod
    def _typed(cls, array: np.ndarray, number: int) -> OrtValue:
        value = cls.__new__(cls)
        value._value, value._element = array, number
        return value

    # Making one.

    @classmethod
    def ortvalue_from_numpy(
        cls,
        numpy_obj: np.ndarray,
        device_type: str | OrtDevice = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
    ) -> OrtValue:
        """A value on top of an array; they share memory when the array is C-contiguous.

        Raises:
            InputError: not an array, or one of strings or of a dtype that ONNX lacks (a
                ``RuntimeError`` too, as in onnxruntime).
            UnsupportedError: a device other than the CPU.
        """
        check_cpu(device_type)
        if not isinstance(numpy_obj, np.ndarray) or numpy_obj.dtype.kind in "OUSV":
            what = numpy_obj.dtype if isinstance(numpy_obj, np.ndarray) else type(numpy_obj)
            error = InputError(
                "Creation of OrtValues is currently only supported from non-string numpy arrays, "
                f"not from {what}"
            )
            raise status(error, InvalidArgument, RuntimeError)
        return cls(np.asarray(numpy_obj, order="C"))

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(
        cls, data: np.ndarray, onnx_element_type: int
    ) -> OrtValue:
        """A value of an ONNX type that NumPy lacks, on top of an array of as many bytes.

        Raises:
            InputError: the array's elements have another size.
        """
        number = element_type(int(onnx_element_type))
        dtype = storage(number)
        if not isinstance(data, np.ndarray) or data.dtype.itemsize != dtype.itemsize:
            raise status(
                InputError(
                    f"{getattr(data, 'dtype', type(data))} for tensor({DATA_TYPES[number].lower()})"
                    f": expected an array with elements of {dtype.itemsize} bytes"
                ),
                InvalidArgument,
                RuntimeError,
            )
        return cls._typed(np.ascontiguousarray(data).view(dtype).reshape(data.shape), number)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type: Any = np.float32,
        device_type: str | OrtDevice = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
        memory_info: Any = None,
    ) -> OrtValue:
        """A value with room for a tensor, its contents arbitrary.

        Args:
            shape: its dimensions.
            element_type: NumPy dtype, or a number of ``TensorProto.DataType``.

        Raises:
            OptionError: a negative dimension, or a type that ONNX lacks.
            MemoryLimitError: it is too large.
            UnsupportedError: a device other than the CPU.
        """
        check_cpu(device_type)
        number = globals()["element_type"](element_type)
        dims = tuple(operator.index(d) for d in shape)
        if any(d < 0 for d in dims):
            raise argument(f"shape {list(dims)}: a dimension is negative")
        try:
            checked_size(dims, storage(number).itemsize)
            return cls._typed(np.empty(dims, storage(number)), number)
        except FastconvError as e:
            raise of_run(e) from None

    ortvalue_from_shape_and_onnx_type = ortvalue_from_shape_and_type

    @classmethod
    def from_dlpack(cls, data: Any) -> OrtValue:
        """A value on top of another library's tensor, by DLPack.

        Raises:
            InputError: the object has no ``__dlpack__``, or lies on another device.
        """
        try:
            return cls(np.from_dlpack(data))
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as e:
            error = InputError(f"{type(data).__name__} through DLPack: {e}")
            raise status(error, InvalidArgument, TypeError) from None

    # Looking at it.

    def numpy(self) -> np.ndarray:
        """The array, sharing memory with the value.

        Raises:
            UnsupportedError: NumPy lacks the type, or the value is a sequence (a ``RuntimeError``
                too, as in onnxruntime).
        """
        if isinstance(self._value, list):
            raise refused(f"{self.data_type()}: not a tensor")
        if self._element not in DTYPES:
            raise refused(f"No corresponding Numpy type for {self.data_type()}")
        return self._value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        if options.get("stream") is None:
            options.pop("stream", None)
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.numpy().__dlpack_device__()

    def to_dlpack(self) -> Any:
        """A DLPack capsule that shares memory with the value."""
        return self.__dlpack__()

    def shape(self) -> list[int]:
        """The tensor's dimensions."""
        return [len(self._value)] if isinstance(self._value, list) else list(self._value.shape)

    def data_type(self) -> str:
        """Its type, such as ``tensor(float)``."""
        name = f"tensor({DATA_TYPES[self._element].lower()})"
        return f"seq({name})" if isinstance(self._value, list) else name

    def element_type(self) -> int:
        """The number of the element type in ``TensorProto.DataType``."""
        return self._element

    def tensor_size_in_bytes(self) -> int:
        """Bytes of the tensor's elements."""
        return 0 if isinstance(self._value, list) else self._value.nbytes

    def data_ptr(self) -> int:
        """The address of the first element."""
        if isinstance(self._value, list):
            raise refused(f"{self.data_type()}: a sequence has no address")
        return self._value.ctypes.data

    def device_name(self) -> str:
        """``"cpu"``."""
        return "cpu"

    def has_value(self) -> bool:
        """True: an absent optional value never becomes an ``OrtValue``."""
        return True

    def is_tensor(self) -> bool:
        """Whether it is a tensor."""
        return not isinstance(self._value, list)

    def is_tensor_sequence(self) -> bool:
        """Whether it is a sequence of tensors."""
        return isinstance(self._value, list)

    def is_sparse_tensor(self) -> bool:
        """False: sparse tensors are not supported."""
        return False

    def update_inplace(self, data: Any) -> None:
        """Copy an array, or another value, into this one's memory.

        Raises:
            InputError: another shape or dtype.
        """
        array = data._value if isinstance(data, OrtValue) else data
        if not isinstance(array, np.ndarray):
            raise TypeError("data must be a numpy.ndarray or an OrtValue.")
        mine = self._value
        if isinstance(mine, list) or array.shape != mine.shape or array.dtype != mine.dtype:
            raise status(
                InputError(
                    f"{array.dtype}{list(array.shape)} copied into {self.data_type()}"
                    f"{self.shape()}: the shape and type must be the same"
                ),
                InvalidArgument,
                RuntimeError,
            )
        np.copyto(mine, array)

    def feed(self) -> Any:
        """What a run takes for it: types that fastconv widens are widened."""
        if self._element == _BFLOAT16:
            return (self._value.astype(np.uint32) << 16).view(np.float32)
        return self._value if isinstance(self._value, list) else self.numpy()

    @property
    def _ortvalue(self) -> OrtValue:
        return self

    def _get_c_value(self) -> OrtValue:
        return self


class OrtValueVector(list[OrtValue]):
    """A list of values."""

    def push_back(self, value: Any, *args: Any) -> None:
        """Append a value, or what DLPack makes one of."""
        self.append(value if isinstance(value, OrtValue) else OrtValue.from_dlpack(value))

    def push_back_batch(self, values: Iterable[Any], *args: Any) -> None:
        """Append several."""
        for v in values:
            self.push_back(v)

    def reserve(self, size: int) -> None:
        """Nothing to do: a list grows by itself."""

    def shrink_to_fit(self) -> None:
        """Nothing to do."""

    def element_type_at(self, index: int) -> int:
        """The element type of one value."""
        return self[index].element_type()

    def dlpack_at(self, index: int) -> Any:
        """A DLPack capsule of one value."""
        return self[index].to_dlpack()


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream: Any = None) -> None:
    """Copy values into others of the same shapes and types.

    Raises:
        InputError: they do not fit.
    """
    if len(src) != len(dst):
        raise argument(f"{len(src)} values copied to {len(dst)}")
    for a, b in zip(src, dst, strict=True):
        b.update_inplace(a)


__all__ = ["OrtValue", "OrtValueVector", "copy_tensors"]
