"""Fourier transforms, windows and mel filters, with ``numpy.fft``: what audio front ends use.

Source: ONNX operators DFT-20, STFT-17, HannWindow-17, HammingWindow-17, BlackmanWindow-17 and
MelWeightMatrix-17. The last axis of a signal or spectrum holds real numbers (size 1) or pairs of
real and imaginary part (size 2).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, fields_only, need, normalize_axis, register
from .reduce import widen
from .shape import NUMPY_DTYPES


def scalar_of(array: np.ndarray | None, what: str, least: int) -> int | None:
    """An integer input with one element, or None where it is absent or not known yet.

    Raises:
        ShapeError: it has another shape, or is less than ``least``.
    """
    if array is None:
        return None
    need(array.size == 1, lambda: f"{what} must be a scalar, not of shape {list(array.shape)}")
    value = int(array.reshape(()))
    need(value >= least, lambda: f"{what} is {value}; it must be at least {least}")
    return value


def to_complex(x: np.ndarray) -> np.ndarray:
    """Real numbers or pairs as an array of one axis less."""
    need(
        x.ndim >= 2 and x.shape[-1] in (1, 2),
        lambda: f"the last axis of {list(x.shape)} must be 1 or 2",
    )
    x = widen(x)
    return x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]


def to_pairs(z: np.ndarray, dtype: Any) -> np.ndarray:
    """Complex numbers as pairs of ``dtype``."""
    return np.stack([z.real, z.imag], axis=-1).astype(dtype, copy=False)


@register
class DFT(Op):
    """The discrete Fourier transform along one axis.

    Inputs: x (…, 1 or 2), dft_length (default: the axis's size; the axis is cut or padded with 0 to
    it), axis (default −2). ``onesided``: forward, the first half of the spectrum (dft_length // 2 +
    1 numbers); inverse, from such a half to a real signal. Inverse transforms divide by the length.
    """

    arity = (1, 3)
    inverse: int = 0
    onesided: int = 0

    def infer(self, types, values):
        x = types[0]
        need(x.rank is None or x.rank >= 2, lambda: f"DFT needs rank 2 or more, not {x}")
        length, axis = [*values, None, None][1:3]
        given = [*types, None, None]
        if x.shape is None or (given[2] is not None and axis is None):
            return [TensorType(x.dtype, None if x.shape is None else (None,) * len(x.shape))]
        at = self.axis(axis, len(x.shape))
        n: Any = scalar_of(length, "dft_length", 1)
        if n is None and given[1] is None and isinstance(x.shape[at], int):
            n = self.length(x.shape[at], None)
        half = self.onesided and not self.inverse
        shape = list(x.shape)
        shape[at] = None if n is None else n // 2 + 1 if half else n
        shape[-1] = 1 if self.inverse and self.onesided else 2
        return [TensorType(x.dtype, tuple(shape))]

    def axis(self, axis: np.ndarray | None, rank: int) -> int:
        """The axis of the signal, counted from the front."""
        at = -2
        if axis is not None:
            need(axis.size == 1, lambda: f"axis must be a scalar, not of shape {list(axis.shape)}")
            at = int(axis.reshape(()))
        at = normalize_axis(at, rank)
        need(at < rank - 1, "the last axis holds real and imaginary parts")
        return at

    def length(self, size: int, length: np.ndarray | None) -> int:
        """The transform's length."""
        n = scalar_of(length, "dft_length", 1)
        if n is None:
            n = 2 * (size - 1) if self.inverse and self.onesided else size
        need(n >= 1, lambda: f"a transform of length {n}")
        return n

    def compute(self, xs):
        x, length, axis = [*xs, None, None][:3]
        at = self.axis(axis, x.ndim)
        n = self.length(x.shape[at], length)
        checked_size((*x.shape[:at], n, *x.shape[at + 1 :]), 16, "transform")
        z = to_complex(x)
        if self.inverse and self.onesided:
            return [np.fft.irfft(z, n, at)[..., None].astype(x.dtype, copy=False)]
        if self.inverse:
            return [to_pairs(np.fft.ifft(z, n, at), x.dtype)]
        if self.onesided and not np.iscomplexobj(z):
            return [to_pairs(np.fft.rfft(z, n, at), x.dtype)]
        z = np.fft.fft(z, n, at)
        if self.onesided:
            z = z[(slice(None),) * at + (slice(0, n // 2 + 1),)]
        return [to_pairs(z, x.dtype)]


@register
class STFT(Op):
    """The Fourier transforms of windows that slide along a signal.

    Inputs: signal (batch, length, 1 or 2; real ones also without the last axis), frame_step, window
    (size), frame_length (default: the window's size). Output: (batch, frames, bins, 2);
    ``onesided`` gives frame_length // 2 + 1 bins.
    """

    arity = (2, 4)
    onesided: int = 1

    def sizes(self, length: Any, xs: Any) -> tuple[int, int, int]:
        """(frames, step, frame_length) of a signal of this length."""
        _, step, window, frame = [*xs, None, None][:4]
        hop = scalar_of(step, "frame_step", 1)
        assert hop is not None
        size = scalar_of(frame, "frame_length", 1)
        if size is None:
            need(window is not None, "STFT needs a window or a frame_length")
            size = int(window.shape[0])
        need(length >= size >= 1, lambda: f"frames of {size} do not fit a signal of {length}")
        return 1 + (length - size) // hop, hop, size

    def infer(self, types, values):
        x = types[0]
        need(x.rank in (None, 2, 3), lambda: f"the signal must have rank 3, not {x}")
        window = [*types, None, None][2]
        need(window is None or window.rank in (None, 1), lambda: f"the window {window} must be 1-D")
        if x.shape is None or not isinstance(x.shape[1], int):
            return [TensorType(x.dtype, (None, None, None, 2))]
        known = [*values, None, None][:4]
        if known[2] is None and window is not None and window.static:
            known[2] = np.broadcast_to(np.zeros((), x.dtype), window.shape)  # its size is enough
        given = [*types, None, None]
        if known[1] is None or any(known[k] is None and given[k] is not None for k in (2, 3)):
            return [TensorType(x.dtype, (x.shape[0], None, None, 2))]
        frames, _, size = self.sizes(x.shape[1], known)
        bins = size // 2 + 1 if self.onesided else size
        return [TensorType(x.dtype, (x.shape[0], frames, bins, 2))]

    def compute(self, xs):
        x, window = xs[0], [*xs, None, None][2]
        x = x[..., None] if x.ndim == 2 else x
        need(x.ndim == 3, lambda: f"the signal must have rank 3, not shape {list(x.shape)}")
        frames, hop, size = self.sizes(x.shape[1], xs)
        checked_size((x.shape[0], frames, size), 16, "frames")
        z = to_complex(x)
        pieces = np.lib.stride_tricks.sliding_window_view(z, size, axis=1)[:, ::hop][:, :frames]
        if window is not None:
            need(
                window.shape == (size,),
                lambda: f"the window has shape {list(window.shape)}, but frames have {size}",
            )
            pieces = pieces * widen(window)
        if self.onesided and not np.iscomplexobj(z):
            return [to_pairs(np.fft.rfft(pieces, axis=-1), x.dtype)]
        out = np.fft.fft(pieces, axis=-1)
        return [to_pairs(out[..., : size // 2 + 1] if self.onesided else out, x.dtype)]


def dtype_of(code: int) -> np.dtype[Any]:
    """The NumPy dtype of an ONNX data type."""
    need(code in NUMPY_DTYPES, f"output_datatype {code} is not supported")
    return np.dtype(NUMPY_DTYPES[code])


@fields_only
class CosineWindow(Op):
    """Base of windows that are a sum of cosines; the input is their size."""

    output_datatype: int = 1
    periodic: int = 1
    #: Factors of cos(0), cos(2πn/N), cos(4πn/N).
    factors: ClassVar[tuple[float, ...]]

    def infer(self, types, values):
        size = scalar_of(values[0], "size", 0)
        checked_size((size or 0,), 8, "window")
        return [TensorType(dtype_of(self.output_datatype), (size,))]

    def compute(self, xs):
        size = scalar_of(xs[0], "size", 0) or 0
        checked_size((size,), 8, "window")
        with np.errstate(all="ignore"):
            turn = 2 * np.pi * np.arange(size) / (size if self.periodic else size - 1)
            window = sum(f * np.cos(k * turn) for k, f in enumerate(self.factors))
        return [np.asarray(window).astype(dtype_of(self.output_datatype))]


@register
class HannWindow(CosineWindow):
    """0.5 − 0.5·cos(2πn/N)."""

    factors = (0.5, -0.5)


@register
class HammingWindow(CosineWindow):
    """25/46 − 21/46·cos(2πn/N)."""

    factors = (25 / 46, -21 / 46)


@register
class BlackmanWindow(CosineWindow):
    """0.42 − 0.5·cos(2πn/N) + 0.08·cos(4πn/N)."""

    factors = (0.42, -0.5, 0.08)


@register
class MelWeightMatrix(Op):
    """Triangular filters, evenly spaced on the mel scale: (dft_length // 2 + 1, num_mel_bins).

    Inputs, all scalars: num_mel_bins, dft_length, sample_rate, lower and upper edge in hertz.
    """

    arity = (5, 5)
    output_datatype: int = 1

    def infer(self, types, values):
        bins = scalar_of(values[0], "num_mel_bins", 1)
        length = scalar_of(values[1], "dft_length", 1)
        rows = None if length is None else length // 2 + 1
        checked_size((rows or 0, bins or 0), 8, "mel weights")
        return [TensorType(dtype_of(self.output_datatype), (rows, bins))]

    def compute(self, xs):
        self.infer([None] * 5, xs)
        bins, length, rate = (int(x.reshape(())) for x in xs[:3])
        low, high = (2595 * np.log10(1 + float(x.reshape(())) / 700) for x in xs[3:])
        need(rate > 0 and np.isfinite(low + high), "the sample rate and the edges must be positive")
        mel = np.arange(bins + 2) * ((high - low) / (bins + 2)) + low
        hertz = 700 * np.expm1(mel / 2595 * np.log(10))
        at = ((length + 1) * hertz // rate).astype(np.int64)
        rows = length // 2 + 1
        need(
            at[0] >= 0 and at[-1] <= rows,
            "the upper edge lies above half the sample rate, or the lower one below 0",
        )
        left, centre, right = at[:-2], at[1:-1], at[2:]
        row = np.arange(rows)[:, None]
        with np.errstate(all="ignore"):
            rise = (row - left) / (centre - left)
            fall = (right - row) / (right - centre)
        weights = np.zeros((rows, bins))
        weights = np.where((row >= left) & (row <= centre) & (centre > left), rise, weights)
        weights = np.where((row >= centre) & (row < right) & (right > centre), fall, weights)
        peak = (row == centre) & (centre == left) & ~(right > centre)
        return [np.where(peak, 1, weights).astype(dtype_of(self.output_datatype))]


__all__: list[Any] = ["DFT", "STFT", "BlackmanWindow", "HammingWindow", "HannWindow"]
__all__ += ["MelWeightMatrix"]
