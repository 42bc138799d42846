"""Short-time Fourier transform, in NumPy. Source of the maths: ONNX operator STFT-17."""

from __future__ import annotations

import numpy as np

from ...errors import ShapeError
from ..core import TensorType
from ..op import Op, need, register
from .reduce import widen


@register
class STFT(Op):
    """Spectra of overlapping frames.

    Inputs: signal (batch, length), or with a last axis of size 1 (real) or 2 (complex); frame_step;
    window (frame_length); frame_length, by default the window's. Output: (batch, frames, bins, 2),
    real and imaginary; frames = 1 + (length - frame_length) // frame_step, and bins =
    frame_length // 2 + 1 with ``onesided``, else frame_length.
    """

    arity = (2, 4)
    onesided: int = 1

    def infer(self, types, values):
        signal, window = types[0], types[2] if len(types) > 2 else None
        if signal.shape is None:
            return [TensorType(signal.dtype, (None, None, None, 2))]
        need(len(signal.shape) in (2, 3), lambda: f"signal {signal} must have rank 2 or 3")
        if len(signal.shape) == 3:
            need(signal.shape[2] not in (0,), lambda: f"signal {signal}: its last axis is empty")
            need(
                type(signal.shape[2]) is not int or signal.shape[2] in (1, 2),
                lambda: f"signal {signal}: the last axis must have size 1 or 2",
            )
            need(
                signal.shape[2] != 2 or not self.onesided,
                lambda: f"signal {signal} is complex: onesided must be 0",
            )
        step, size = values[1], values[3] if len(values) > 3 else None
        length = signal.shape[1]
        if size is not None:
            frame = int(np.asarray(size).reshape(-1)[0])
        elif len(types) > 3 and types[3] is not None:
            frame = None
        elif window is not None:
            frame = None if window.shape is None else window.shape[0]
        else:
            raise ShapeError("neither a window nor a frame_length is given")
        frames = bins = None
        if type(frame) is int:
            need(frame > 0, lambda: f"frame_length is {frame}; it must be > 0")
            bins = frame // 2 + 1 if self.onesided else frame
            if window is not None and window.shape is not None and type(window.shape[0]) is int:
                need(
                    window.shape == (frame,),
                    lambda: f"window {window} must have shape [{frame}]",
                )
            if step is not None:
                hop = int(np.asarray(step).reshape(-1)[0])
                need(hop > 0, lambda: f"frame_step is {hop}; it must be > 0")
                if type(length) is int:
                    need(length >= frame, lambda: f"signal {signal} is shorter than one frame")
                    frames = 1 + (length - frame) // hop
        return [TensorType(signal.dtype, (signal.shape[0], frames, bins, 2))]

    def compute(self, xs):
        signal, step, window, size = [*xs, None, None][:4]
        self.infer(
            [None if x is None else TensorType(x.dtype, x.shape) for x in (signal, step, window)],
            [signal, step, window, size],
        )
        x = widen(signal)
        if x.ndim == 3:
            x = x[..., 0] if x.shape[2] == 1 else x[..., 0] + 1j * x[..., 1]
        hop = int(np.asarray(step).reshape(-1)[0])
        frame = len(window) if size is None else int(np.asarray(size).reshape(-1)[0])
        frames = np.lib.stride_tricks.sliding_window_view(x, frame, axis=1)[:, ::hop]
        if window is not None:
            frames = frames * widen(window)
        y = np.fft.rfft(frames, axis=-1) if self.onesided else np.fft.fft(frames, axis=-1)
        return [np.stack([y.real, y.imag], axis=-1).astype(signal.dtype)]


__all__ = ["STFT"]
