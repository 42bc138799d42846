"""LSTM with int8 weights, in NumPy. Source of the maths: onnxruntime's contrib operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import TensorType
from ..op import need, register
from .recurrent import LSTM


@register
class DynamicQuantizeLSTM(LSTM):
    """com.microsoft.DynamicQuantizeLSTM-1: what onnxruntime's dynamic quantiser makes of LSTM.

    Inputs: those of LSTM, with W as (D, input, 4H) and R as (D, H, 4H) in int8 or uint8, then
    W_scale, W_zero_point, R_scale and R_zero_point: (D,) or (D, 4H). The input as a whole, and the
    hidden state at each time step, are rounded to 255 steps between their least and largest values
    (0 among them) before they are multiplied. With more than one sequence in a batch onnxruntime
    may round in groups of sequences; here it is the batch as a whole.
    """

    domain = "com.microsoft"
    arity = (3, 12)

    def infer(self, types, values):
        x, w, r = types[:3]
        need(
            len(types) == 12 and all(t is not None for t in types[8:]),
            "W_scale, W_zero_point, R_scale and R_zero_point must be given",
        )
        turned = [TensorType(x.dtype, _turned(t)) for t in (w, r)]
        return super().infer([x, *turned, *types[3:8]], values[:8])

    def compute(self, xs):
        x, w, r = xs[:3]
        w, r = dequantized(w, *xs[8:10]), dequantized(r, *xs[10:12])
        return super().compute([rounded(x), w, r, *xs[3:8]])

    def step(self, x, state, r, b, p, functions):
        h, c = state
        return super().step(x, [rounded(h), c], r, b, p, functions)


def _turned(t: TensorType) -> Any:
    return t.shape if t.shape is None or len(t.shape) != 3 else (t.shape[0], *t.shape[:0:-1])


def dequantized(w: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Weights (D, n, 4H) as float32 (D, 4H, n); scales and zero points are (D,) or (D, 4H)."""
    d = w.shape[0]
    s, z = (np.asarray(v, np.float32).reshape(d, 1, -1) for v in (scale, zero_point))
    return ((w.astype(np.float32) - z) * s).swapaxes(1, 2)


def rounded(x: np.ndarray) -> np.ndarray:
    """x at the steps of uint8 between its least and largest values, as DynamicQuantizeLinear."""
    x = x.astype(np.float32, copy=False)
    least, most = min(0.0, float(x.min(initial=0))), max(0.0, float(x.max(initial=0)))
    scale = np.float32((most - least) / 255)
    if not scale > 0:
        return x
    zero = np.rint(np.clip(-least / scale, 0, 255)).astype(np.float32)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


__all__ = ["DynamicQuantizeLSTM"]
