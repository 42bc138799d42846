"""Tensors of strings: which operators take them, and conversion to and from numbers.

They are NumPy arrays of objects, and are computed in NumPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, ShapeError

if TYPE_CHECKING:
    from .core import TensorType
    from .op import Op

#: Operators that take tensors of strings (``Foreign``: what it runs decides). So do those of
#: sequences, optional values and subgraphs, which look into no tensor.
_TAKEN = (
    "Foreign Cast CastLike CastNarrow Identity Constant Equal Greater GreaterOrEqual Less "
    "LessOrEqual Concat Reshape Flatten Squeeze Unsqueeze Transpose Slice Gather GatherElements "
    "GatherND ScatterElements ScatterND TensorScatter Split Tile Expand Where Pad Shape Size "
    "Compress Unique OneHot SpaceToDepth DepthToSpace ReverseSequence Resize NonZero EyeLike "
    "AxisBroadcast ConstantOfShape"
)
TEXT = frozenset(_TAKEN.split())


def is_text(dtype: np.dtype[Any] | None) -> bool:
    """Whether elements of this dtype are strings."""
    return dtype is not None and dtype.kind in "OSU"


def refuse_text(op: Op, types: Sequence[TensorType | None]) -> None:
    """Check that an operator that computes with numbers gets numbers.

    Raises:
        ShapeError: an input holds strings.
    """
    for t in types:
        if t is not None and is_text(t.dtype) and not op.dynamic and type(op).__name__ not in TEXT:
            raise ShapeError(f"{op.label} takes tensors of numbers, not of strings ({t})")


def to_text(x: np.ndarray) -> np.ndarray:
    """Numbers as strings: floats with up to 8 significant digits, NaN, INF and -INF, bools as 1
    and 0 (Cast-25 leaves the format open; this is onnxruntime's)."""
    flat: Any = np.asarray(x).reshape(-1)
    if is_text(flat.dtype):
        found = [_string(v) for v in flat]
    elif flat.dtype.kind == "f":
        found = [f"{v:.8g}" if np.isfinite(v) else _special(v) for v in flat.tolist()]
    elif flat.dtype.kind in "iub":
        found = [str(int(v)) for v in flat.tolist()]
    else:
        raise ShapeError(f"Cast of {flat.dtype} to strings is not defined")
    y = np.empty(len(found), object)
    y[:] = found
    return y.reshape(np.shape(x))


def from_text(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Strings as numbers: "3.14", "1e-5", "NaN", "INF" and the like in any case (Cast-25).

    Fractions are cut off for integers, which wrap around; anything but 0 is true.

    Raises:
        InputError: a string is no number, or none that an integer can hold.
    """
    read: Any = _real if dtype.kind in "fc" else _whole
    flat: Any = np.asarray(x).reshape(-1)
    found = [read(_string(v), dtype) for v in flat]
    with np.errstate(all="ignore"):
        if dtype.kind in "fc":
            y = np.array(found, np.float64).astype(dtype)
        elif dtype.kind == "b":
            y = np.array([v != 0 for v in found], np.bool_)
        else:
            y = np.array([v & 0xFFFFFFFFFFFFFFFF for v in found], np.uint64).astype(dtype)
    return y.reshape(np.shape(x))


def _string(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _special(v: float) -> str:
    return "NaN" if v != v else "INF" if v > 0 else "-INF"


def _real(text: str, dtype: np.dtype[Any]) -> float:
    try:
        if "_" not in text:  # which Python allows
            return float(text)
    except ValueError:
        pass
    raise InputError(f"Cast to {dtype}: the string {text[:60]!r} is no number")


def _whole(text: str, dtype: np.dtype[Any]) -> int:
    if len(text) < 40 and text.strip().lstrip("+-").isdecimal():
        value = int(text) if "_" not in text else None
    else:
        real = _real(text, dtype)
        if dtype.kind == "b" and real != 0:
            return 1  # infinity and NaN too
        value = int(real) if np.isfinite(real) else None
    if value is None or not -(2**63) <= value < 2**64:
        raise InputError(f"Cast to {dtype}: the string {text[:60]!r} is out of its range")
    return value


__all__ = ["TEXT", "from_text", "is_text", "refuse_text", "to_text"]
