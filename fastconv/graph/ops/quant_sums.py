"""The arithmetic of quantised sums: that of onnxruntime's kernels, rounding for rounding.

For the numbers a and b with scales sa and sb and zero points za and zb, and y with sy and zy, all
in float32: y = round(a · ra + (b · rb + c)), where ra = sa / sy, rb = sb / sy and c = zy − (za · ra
+ zb · rb), and every product is fused with the sum it goes into. The order matters, since a sum of
whole numbers of steps is often a tie.
"""

from __future__ import annotations

from typing import Any

import numpy as np

F32 = np.dtype(np.float32)


def first_is_inner(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether a sum adds its first operand to the zero points first: where that is repeated."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    last = [(m, n) for m, n in pairs if (m, n) != (1, 1)][-1:]
    return bool(last) and last[0][0] == 1


def fused(a: np.ndarray, b: Any, c: Any) -> np.ndarray:
    """a · b + c of float32, rounded once.

    The product is exact in float64, and the sum is rounded to odd there: rounding that to float32
    is rounding the exact sum (Boldo and Melquiond, "Emulation of FMA and Correctly Rounded Sums",
    2008).
    """
    wide = np.float64
    with np.errstate(all="ignore"):
        p, c = a.astype(wide) * wide(b), np.asarray(c, wide)
        s = np.asarray(p + c)
        q = s - p
        lost = (p - (s - q)) + (c - q)
        odd = np.where((lost > 0) == (s > 0), np.inf, 0) * np.sign(s)
        inexact = np.isfinite(s) & (lost != 0) & (s.view(np.int64) & 1 == 0)
        return np.where(inexact, np.nextafter(s, odd), s).astype(F32)


def sum_ratios(a: Any, b: Any, y: Any) -> tuple[np.float32, np.float32, np.float32]:
    """(ra, rb, c): a sum is round(a · ra + (b · rb + c)). Each argument: (scale, zero)."""
    one = np.float32
    ra = one(a[0].reshape(-1)[0]) / one(y[0].reshape(-1)[0])
    rb = one(b[0].reshape(-1)[0]) / one(y[0].reshape(-1)[0])
    zeros = fused(np.asarray(a[1], F32), ra, rb * one(b[1]))
    return ra, rb, one(y[1]) - one(zeros)
