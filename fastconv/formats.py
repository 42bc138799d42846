"""Element types that ONNX has and kernels do not: how they are held, rounded to, fed and returned.

A graph holds bfloat16, float16, float8, float6 and float4 values as float32, and the 4-bit and
2-bit integers as int8 or uint8: every value of those types is exactly one of the wider type. So
weights are widened once, when a model is loaded, arithmetic is float32's, and a result is rounded
only where the model says Cast (or QuantizeLinear), or where it leaves the model. onnxruntime's CPU
provider does the same for float16 by inserting casts to float32.

Arrays of these types that callers see have the dtypes of the ``ml_dtypes`` package (float16 is
NumPy's own), which is imported only when a model has such an input or output. A leaf.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import UnsupportedError

FLOAT16 = 10
BFLOAT16 = 16

#: ONNX data type → the name of its dtype in ml_dtypes (float16: in NumPy).
NAMES: dict[int, str] = {
    FLOAT16: "float16",
    BFLOAT16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
    27: "float6_e2m3fn",
    28: "float6_e3m2fn",
}
CODES = {name: code for code, name in NAMES.items()}
_E8M0 = 24
#: Integers: (bits, dtype that holds them).
_INTEGERS = {21: (4, np.uint8), 22: (4, np.int8), 25: (2, np.uint8), 26: (2, np.int8)}
#: Casts to these saturate unless asked not to.
_SATURATING = frozenset({17, 18, 19, 20})


def held_dtype(code: int) -> np.dtype[Any]:
    """The dtype in which a graph holds values of this ONNX data type (one of ``NAMES``)."""
    return np.dtype(_INTEGERS[code][1] if code in _INTEGERS else np.float32)


def outer_dtype(code: int) -> np.dtype[Any] | None:
    """The dtype in which callers feed and get values of this type; None without ml_dtypes."""
    if code == FLOAT16:
        return np.dtype(np.float16)
    try:
        import ml_dtypes
    except ImportError:
        return None
    name = NAMES[code]
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else None


def code_of(dtype: np.dtype[Any] | None) -> int | None:
    """The ONNX data type of a dtype that is not held as it is, else None."""
    return None if dtype is None else CODES.get(dtype.name)


def widened(value: Any) -> Any:
    """A value as a graph holds it: arrays of the types above widened, also inside lists."""
    if isinstance(value, list):
        return [widened(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        code = CODES.get(value.dtype.name)
        if code is not None:
            return np.asarray(value).astype(held_dtype(code))
    return value


def narrowed(value: Any, code: int | None) -> Any:
    """A held value in the dtype that callers see; as it is where there is no such dtype."""
    if code is None or value is None:
        return value
    if isinstance(value, list):
        return [narrowed(v, code) for v in value]
    if not isinstance(value, np.ndarray) or value.dtype != held_dtype(code):
        return value
    dtype = outer_dtype(code)
    if dtype is None:
        return value
    with np.errstate(all="ignore"):
        return value.astype(dtype)


def rounded(x: np.ndarray, code: int, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """``x`` cast to an ONNX data type, in the dtype that holds it. Source: ONNX operator Cast-25.

    Args:
        x: numbers of any type.
        code: one of ``NAMES``.
        saturate: float8 types: what is too large becomes the largest number, not NaN or infinity.
        round_mode: float8e8m0 only: ``"up"``, ``"down"`` or ``"nearest"``.

    Raises:
        UnsupportedError: a small float type, and ml_dtypes is not installed.
    """
    with np.errstate(all="ignore"):
        if code in _INTEGERS:
            bits, holder = _INTEGERS[code]
            low = np.int64(1 << (bits - 1) if holder is np.int8 else 0)
            whole = x.astype(np.int64)
            return (((whole + low) & ((1 << bits) - 1)) - low).astype(holder)
        if code == FLOAT16:
            return x.astype(np.float16).astype(np.float32)
        if code == BFLOAT16:
            return _to_bfloat16(x.astype(np.float32))
        dtype = outer_dtype(code)
        if dtype is None:
            raise UnsupportedError(
                f"casting to {NAMES[code]} needs the ml_dtypes package: pip install ml_dtypes"
            )
        if code == _E8M0:
            return _to_power_of_two(x.astype(np.float32), saturate, round_mode)
        if code in _SATURATING and saturate:
            import ml_dtypes

            limits = ml_dtypes.finfo(dtype)
            x = np.clip(x.astype(np.float32), np.float32(limits.min), np.float32(limits.max))
        return x.astype(dtype).astype(np.float32)


def _to_bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 rounded to 8 significant bits, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    short = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, short.view(np.float32).reshape(x.shape))


def _to_power_of_two(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """The exponents of float32 numbers, rounded, as powers of two (float8e8m0 has no sign)."""
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    exponent = ((bits >> 23) & 0xFF).astype(np.int64)
    fraction = bits & 0x7FFFFF
    special = exponent == 0xFF
    if round_mode == "up":
        more = fraction > 0
    elif round_mode == "down":
        more = np.zeros(x.shape, np.bool_)
    elif round_mode == "nearest":
        half = 0x400000
        more = (fraction > half) | ((fraction == half) & (exponent > 0))
    else:
        raise UnsupportedError(f"round_mode is {round_mode!r}; it must be up, down or nearest")
    exponent = exponent + (more & ~(saturate & (exponent == 0xFE)))
    values = np.ldexp(np.float32(1), (exponent - 127).astype(np.int32))
    return np.where(special | (exponent >= 0xFF), np.float32(np.nan), values).astype(np.float32)
