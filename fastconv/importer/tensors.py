"""Stored tensors into NumPy arrays.

Types that NumPy lacks are widened: bfloat16, float8, float6 and float4 give float32 (exactly, by
shift or by table), the 4-bit and 2-bit integers give int8 or uint8. ``TensorDef.data_type`` keeps
the logical type. Source: the comments on ``TensorProto`` in ``onnx.proto`` of ONNX 1.23; the small
floats by "FP8 Formats for Deep Learning" (arXiv 2209.05433), "8-bit Numerical Formats for Deep
Neural Networks" (arXiv 2206.02915) and the OCP Microscaling Formats specification 1.0.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..errors import MemoryLimitError, ModelError, UnsupportedError
from ..sizes import checked_size
from .defs import Model, SparseTensorDef, TensorDef
from .external import external_view

#: The dtype of the array that ``to_array`` gives for each data type.
NUMPY_DTYPES: dict[int, np.dtype] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    8: np.dtype(object),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
    14: np.dtype(np.complex64),
    15: np.dtype(np.complex128),
    **dict.fromkeys((16, 17, 18, 19, 20, 23, 24, 27, 28), np.dtype(np.float32)),
    21: np.dtype(np.uint8),
    22: np.dtype(np.int8),
    25: np.dtype(np.uint8),
    26: np.dtype(np.int8),
}

#: The same as stored: little-endian.
_STORED = {k: t if t.hasobject else t.newbyteorder("<") for k, t in NUMPY_DTYPES.items()}

#: Smaller tensors are copied when they are not aligned: they are not worth the trouble.
COPY_BYTES = 1 << 14

#: NumPy 1 has at most 32 dimensions.
MAX_RANK = 32

#: A sparse tensor may not be expanded beyond this, as its file size puts no bound on its shape.
MAX_SPARSE_BYTES = 1 << 28

_STRING = 8
_BOOL = 9
_BFLOAT16 = 16
# Bits per stored element, for the types that are not their NumPy dtype in memory.
_BITS = {
    **dict.fromkeys((17, 18, 19, 20, 24), 8),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),
    _BFLOAT16: 16,
}
_SIGNED_SMALL = frozenset({22, 26})
# Small floats: (exponent bits, mantissa bits, exponent bias, what the special codes mean).
_SMALL_FLOATS = {
    17: (4, 3, 7, "fn"),
    18: (4, 3, 8, "fnuz"),
    19: (5, 2, 15, "ieee"),
    20: (5, 2, 16, "fnuz"),
    23: (2, 1, 1, "finite"),
    27: (2, 3, 1, "finite"),
    28: (3, 2, 3, "finite"),
}
# The typed field that stores each data type when raw_data does not.
_FIELD = {
    **dict.fromkeys((1, 14), "float_data"),
    **dict.fromkeys((11, 15), "double_data"),
    **dict.fromkeys((12, 13), "uint64_data"),
    7: "int64_data",
    _STRING: "string_data",
}
_DATA_FIELDS = (
    "raw_data",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
)


def numpy_dtype(data_type: int, what: str = "tensor") -> np.dtype:
    """The dtype of the array that ``to_array`` gives for an ONNX data type number.

    Raises:
        UnsupportedError: the number is not a data type of ONNX 1.23.
    """
    try:
        return NUMPY_DTYPES[data_type]
    except KeyError:
        raise UnsupportedError(
            f"{what}: data type {data_type} is not one that fastconv knows (ONNX 1.23 has 1 to 28)"
        ) from None


@cache
def _float_table(data_type: int) -> np.ndarray:
    """The float32 value of every code of a small float type, as an array indexed by code."""
    if data_type == 24:  # E8M0: a power of two, no sign, no zero
        values = np.ldexp(1.0, np.arange(256, dtype=np.int32) - 127)
        values[255] = np.nan
        return values.astype(np.float32)
    ebits, mbits, bias, special = _SMALL_FLOATS[data_type]
    codes = np.arange(1 << (1 + ebits + mbits), dtype=np.int32)
    sign = np.where(codes >> (ebits + mbits), np.float32(-1), np.float32(1))
    exponent = (codes >> mbits) & ((1 << ebits) - 1)
    mantissa = codes & ((1 << mbits) - 1)
    normal = exponent > 0
    fraction = np.where(normal, mantissa + (1 << mbits), mantissa).astype(np.float32)
    scale = np.where(normal, exponent, 1) - bias - mbits
    values = sign * np.ldexp(fraction, scale)
    top = exponent == (1 << ebits) - 1
    if special == "ieee":
        values[top] = np.where(mantissa[top] == 0, sign[top] * np.inf, np.nan)
    elif special == "fn":
        values[top & (mantissa == (1 << mbits) - 1)] = np.nan
    elif special == "fnuz":  # the code of minus zero is the only NaN
        values[1 << (ebits + mbits)] = np.nan
    return values.astype(np.float32)


def _unpack(codes: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpack ``count`` elements of 2, 4 or 6 bits, lowest bits first, from uint8 ``codes``."""
    if bits == 6:
        groups = -(-count // 4)
        padded = np.zeros(groups * 3, np.uint8)
        padded[: codes.size] = codes
        b = padded.reshape(groups, 3)
        six = np.empty((groups, 4), np.uint8)
        six[:, 0] = b[:, 0]
        six[:, 1] = (b[:, 0] >> 6) | (b[:, 1] << 2)
        six[:, 2] = (b[:, 1] >> 4) | (b[:, 2] << 4)
        six[:, 3] = b[:, 2] >> 2
        return (six.reshape(-1) & 0x3F)[:count]
    per_byte = 8 // bits
    out = np.empty((codes.size, per_byte), np.uint8)
    for k in range(per_byte):
        np.right_shift(codes, bits * k, out=out[:, k])
    out &= (1 << bits) - 1
    return out.reshape(-1)[:count]


def _widen(codes: np.ndarray, data_type: int) -> np.ndarray:
    """Turn unsigned codes (one per element) of a type that NumPy lacks into its dtype."""
    if data_type == _BFLOAT16:
        return (codes.astype(np.uint32) << 16).view(np.float32)
    if data_type in _SIGNED_SMALL:
        shift = 8 - _BITS[data_type]
        return (codes << shift).view(np.int8) >> shift
    if data_type in _SMALL_FLOATS or data_type == 24:
        return _float_table(data_type)[codes]
    return codes


def _from_bytes(raw: memoryview, data_type: int, count: int, aligned: bool) -> np.ndarray:
    """A flat array of ``count`` elements from bytes whose number has been checked."""
    if data_type == _BFLOAT16:
        return _widen(np.frombuffer(raw, "<u2"), data_type)
    if data_type in _BITS:
        codes = np.frombuffer(raw, np.uint8)
        bits = _BITS[data_type]
        return _widen(codes if bits == 8 else _unpack(codes, bits, count), data_type)
    if data_type == _BOOL:
        octets = np.frombuffer(raw, np.uint8)
        return octets.view(np.bool_) if octets.max() <= 1 else octets != 0
    array = np.frombuffer(raw, _STORED[data_type])
    if array.flags.aligned or not (aligned or array.nbytes < COPY_BYTES):
        return array
    return array.copy()


def _in_range(values: np.ndarray, low: int, high: int, tensor: TensorDef, what: str) -> np.ndarray:
    """``values`` if all lie in [low, high]."""
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or largest > high:
        bad = smallest if smallest < low else largest
        raise ModelError(f"{what}: element {bad} does not fit data type {tensor.type_name}")
    return values


def _from_typed(values: np.ndarray, tensor: TensorDef, count: int, what: str) -> np.ndarray:
    """A flat array from the typed field's values, whose number has been checked."""
    kind = tensor.data_type
    dtype = NUMPY_DTYPES[kind]
    if kind in (14, 15):
        # A copy when unaligned, as the complex view needs the alignment of its parts only.
        return np.require(values, requirements="A").view(dtype)
    if kind in (1, 7, 11, 13, 6):
        return np.require(values, requirements="A")
    if kind == 12:
        return _in_range(values, 0, (1 << 32) - 1, tensor, what).astype(np.uint32)
    if kind == _BOOL:
        return values != 0
    if kind == 10:
        return _in_range(values, 0, 0xFFFF, tensor, what).astype(np.uint16).view(np.float16)
    if kind in _BITS:
        bits = _BITS[kind]
        if bits in (2, 4):  # several elements per entry; some writers store the byte signed
            codes = _in_range(values, -128, 255, tensor, what).astype(np.uint8)
            return _widen(_unpack(codes, bits, count), kind)
        codes = _in_range(values, 0, (1 << bits) - 1, tensor, what)
        return _widen(codes.astype(np.uint16 if bits == 16 else np.uint8), kind)
    limits = np.iinfo(dtype)
    return _in_range(values, int(limits.min), int(limits.max), tensor, what).astype(dtype)


def _strings(parts: list[bytes], what: str) -> np.ndarray:
    """An object array of str from UTF-8 strings."""
    out = np.empty(len(parts), object)
    for i, part in enumerate(parts):
        try:
            out[i] = part.decode()
        except UnicodeDecodeError:
            raise ModelError(f"{what}: string element {i} is not valid UTF-8") from None
    return out


def to_array(tensor: TensorDef, model: Model | None = None, aligned: bool = True) -> np.ndarray:
    """Return a stored tensor as a read-only array of shape ``tensor.dims``.

    The array views the mapped model file (or external file) when its bytes are already the dtype's
    and aligned; otherwise it is a copy. ``numpy_dtype`` says which dtype each data type gives.

    Args:
        tensor: the tensor.
        model: the model it belongs to; needed for external data only.
        aligned: whether large data that begin at any byte must be copied too; without, the view
            that comes back has ``flags.aligned`` unset.

    Raises:
        ModelError: no data, data in the wrong or in several fields, a byte or element count that
            differs from the shape's, an element out of its type's range, or text not UTF-8.
        ExternalDataError: see ``external.external_view``.
        UnsupportedError: a data type that ONNX 1.23 does not have, segmented data, or a rank
            over 32.
        MemoryLimitError: the shape's size passes ``sizes.MAX_BYTES``.
    """
    what = f"tensor {tensor.name!r}"
    if model is not None:
        what = f"{model.source}: {what}"
    kind = tensor.data_type
    if kind == 0:
        raise ModelError(f"{what}: has no data type")
    dtype = numpy_dtype(kind, what)
    if tensor.has_segment:
        raise UnsupportedError(f"{what}: segmented data; save the tensor in one piece")
    dims = tensor.dims
    if len(dims) > MAX_RANK:
        raise UnsupportedError(f"{what}: rank {len(dims)} is above {MAX_RANK}")
    if dims and min(dims) < 0:
        raise ModelError(f"{what}: negative dimension in shape {list(dims)}")
    checked_size(dims, dtype.itemsize, what)
    count = checked_size(dims, 1, what)
    bits = _BITS.get(kind, 8 * dtype.itemsize)
    nbytes = -(-count * bits // 8)

    sources = [f for f in _DATA_FIELDS if (v := getattr(tensor, f)) is not None and len(v)]
    if tensor.external is not None:
        sources.append("external_data")
    if len(sources) > 1:
        raise ModelError(f"{what}: has data in more than one place: {', '.join(sources)}")
    typed = _FIELD.get(kind, "int32_data")
    allowed = (typed,) if kind == _STRING else (typed, "raw_data", "external_data")
    if sources and sources[0] not in allowed:
        raise ModelError(
            f"{what}: data type {tensor.type_name} is stored in {sources[0]}, but must be in"
            f" {' or '.join(allowed)}"
        )
    if not sources and count:
        raise ModelError(f"{what}: shape {list(dims)} needs {count} elements, but has no data")

    if not sources:
        flat = np.empty(0, dtype)
    elif sources[0] == typed:
        values = getattr(tensor, typed)
        if kind in (14, 15):
            need = 2 * count
        elif bits in (2, 4):
            need = nbytes
        else:
            need = count
        if len(values) != need:
            raise ModelError(
                f"{what}: {typed} has {len(values)} entries, but shape {list(dims)} needs {need}"
            )
        if kind == _STRING:
            flat = _strings(values, what)
        else:
            flat = _from_typed(values, tensor, count, what)
    else:
        if tensor.external is not None:
            raw = external_view(tensor, model, nbytes, what)
        else:
            assert tensor.raw_data is not None
            raw = tensor.raw_data
            if len(raw) != nbytes:
                raise ModelError(
                    f"{what}: raw_data has {len(raw)} bytes, but shape {list(dims)} of"
                    f" {tensor.type_name} needs {nbytes}"
                )
        flat = _from_bytes(raw, kind, count, aligned) if count else np.empty(0, dtype)
    out = flat.reshape(dims)
    out.flags.writeable = False
    return out


def sparse_to_array(sparse: SparseTensorDef, model: Model | None = None) -> np.ndarray:
    """Return a sparse tensor as a dense read-only array of shape ``sparse.dims``, zero elsewhere.

    ``indices`` has shape [NNZ] (positions in the flattened tensor) or [NNZ, rank] (coordinates), in
    strictly ascending row-major order.

    Raises:
        ModelError: shapes that do not fit, indices not int64, out of range, or not ascending; and
            as ``to_array``.
        MemoryLimitError: the dense array would be above ``MAX_SPARSE_BYTES``.
    """
    what = f"sparse tensor {sparse.name!r}"
    if model is not None:
        what = f"{model.source}: {what}"
    dims = sparse.dims
    if len(dims) > MAX_RANK:
        raise UnsupportedError(f"{what}: rank {len(dims)} is above {MAX_RANK}")
    dtype = numpy_dtype(sparse.values.data_type, what)
    if dtype.hasobject:
        raise UnsupportedError(f"{what}: a sparse tensor of strings")
    nbytes = checked_size(dims, dtype.itemsize, what)
    if nbytes > MAX_SPARSE_BYTES:
        raise MemoryLimitError(
            f"{what}: shape {list(dims)} is {nbytes} bytes when dense, above the limit of"
            f" {MAX_SPARSE_BYTES}"
        )
    count = nbytes // dtype.itemsize
    values = to_array(sparse.values, model)
    # The indices of a tensor without values may be left out.
    no_indices = sparse.indices.data_type == 0 and values.size == 0
    indices = np.empty(0, np.int64) if no_indices else to_array(sparse.indices, model)
    if values.ndim != 1 or indices.dtype != np.int64:
        raise ModelError(f"{what}: values must be 1-D and indices int64")
    if indices.shape == (values.size, len(dims)) and indices.ndim == 2:
        for axis, d in enumerate(dims):
            column = indices[:, axis]
            if column.size and (column.min() < 0 or column.max() >= d):
                raise ModelError(f"{what}: index out of range on axis {axis} of {list(dims)}")
        steps = np.ones(len(dims), np.int64)
        for axis in range(len(dims) - 2, -1, -1):
            steps[axis] = steps[axis + 1] * dims[axis + 1]
        indices = indices @ steps
    elif indices.shape != values.shape:
        raise ModelError(
            f"{what}: indices of shape {list(indices.shape)} fit neither [NNZ] nor [NNZ, rank] for"
            f" {values.size} values of rank {len(dims)}"
        )
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        raise ModelError(f"{what}: index out of range for {count} elements")
    if (np.diff(indices) <= 0).any():
        raise ModelError(f"{what}: indices are not in strictly ascending order")
    dense = np.zeros(count, dtype)
    dense[indices] = values
    out = dense.reshape(dims)
    out.flags.writeable = False
    return out
