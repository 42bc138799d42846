"""Convolutions.

Source of the maths: ONNX operators Conv-22, ConvTranspose-22 and CausalConvWithState-27.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from ...records import field
from ...sizes import checked_size
from ..activation import Activation
from ..core import TensorType
from ..op import Op, need, register
from ..symbols import is_static
from ..window import Window, check_window, resolve_window
from .elementwise import activate


def internal(default: Any) -> Any:
    """A field that passes set; no ONNX attribute."""
    return field(default=default, metadata={"internal": True})


@register
class Conv(Op):
    """Convolution, NCHW × [filters, channels/group, *kernel_shape] → NCHW, any spatial rank.

    ``activation`` and a fourth input (added before it) come from fusion.
    """

    arity = (2, 4)
    auto_pad: str = "NOTSET"
    dilations: tuple[int, ...] | None = None
    group: int = 1
    kernel_shape: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    activation: Activation | None = internal(None)

    def window(self, x: tuple[Any, ...], w: tuple[Any, ...]) -> Window:
        """The resolved window for input shape ``x`` and weight shape ``w``."""
        return resolve_window(
            x[2:],
            self.kernel_shape or w[2:],
            self.strides,
            self.dilations,
            self.pads,
            self.auto_pad,
        )

    def _sound(self, x: TensorType, w: TensorType, b: TensorType | None) -> bool:
        """Whether input, weight and bias fit together; what is wrong ``infer`` finds out."""
        xs: Any = x.shape
        ws: Any = w.shape
        return (
            len(xs) == len(ws) >= 3
            and self.group >= 1
            and is_static(ws)
            and isinstance(xs[1], int)
            and ws[1] * self.group == xs[1]
            and ws[0] % self.group == 0
            and x.dtype == w.dtype
            and (self.kernel_shape is None or tuple(self.kernel_shape) == ws[2:])
            and (b is None or b.shape is None or b.shape == ws[:1])
        )

    def infer(self, types, values):
        x, w = types[0], types[1]
        if x.shape is None or w.shape is None:
            return [TensorType(x.dtype, None)]
        if len(types) < 4 and self._sound(x, w, types[2] if len(types) > 2 else None):
            shape = (x.shape[0], w.shape[0], *self.window(x.shape, w.shape).output)
            return [TensorType(x.dtype, shape)]
        need(len(x.shape) >= 3, lambda: f"Conv needs an input of rank 3 or more, not {x}")
        need(len(w.shape) == len(x.shape), lambda: f"weight {w} and input {x} differ in rank")
        need(self.group >= 1, lambda: f"group {self.group} must be at least 1")
        if isinstance(x.shape[1], int) and isinstance(w.shape[1], int):
            need(
                w.shape[1] * self.group == x.shape[1],
                lambda: (
                    f"input has {x.shape[1]} channels, weight {list(w.shape)} with group "
                    f"{self.group} needs {w.shape[1] * self.group}"
                ),
            )
        if isinstance(w.shape[0], int):
            need(
                w.shape[0] % self.group == 0,
                lambda: f"{w.shape[0]} filters do not divide into {self.group} groups",
            )
        need(x.dtype == w.dtype, lambda: f"input {x} and weight {w} differ in dtype")
        if self.kernel_shape is not None:
            given, own = list(self.kernel_shape), list(w.shape[2:])
            need(given == own, lambda: f"kernel_shape {given} is not the weight's {own}")
        if len(types) > 2 and types[2] is not None and types[2].shape is not None:
            need(
                types[2].shape == (w.shape[0],),
                lambda: f"bias {types[2]} does not have one value per filter ({w.shape[0]})",
            )
        shape = (x.shape[0], w.shape[0], *self.window(x.shape, w.shape).output)
        if len(types) > 3 and types[3] is not None:
            added = types[3].shape
            known = all(isinstance(d, int) for d in (*(added or (None,)), *shape))
            need(
                not known or added == shape,
                lambda: f"{types[3]} is added to an output of {list(shape)}",
            )
        return [TensorType(x.dtype, shape)]

    def compute(self, xs):
        x, w = xs[0], xs[1]
        win = self.window(x.shape, w.shape)
        rank = len(win.kernel_shape)
        pads = [(0, 0), (0, 0), *zip(win.pads[:rank], win.pads[rank:], strict=True)]
        checked_size([s + sum(p) for s, p in zip(x.shape, pads, strict=True)], 8, "padded input")
        x = np.pad(x, pads)
        n, filters, g = x.shape[0], w.shape[0], self.group
        cg, fg = w.shape[1], filters // g
        out = np.zeros((n, filters, *win.output), np.result_type(x.dtype, np.float32))
        for tap in product(*map(range, win.kernel_shape)):
            at = [
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(tap, win.dilations, win.output, win.strides, strict=True)
            ]
            piece = x[(slice(None), slice(None), *at)]
            for k in range(g):
                taps = w[(slice(k * fg, (k + 1) * fg), slice(None), *tap)]
                part = np.tensordot(taps, piece[:, k * cg : (k + 1) * cg], (1, 1))
                out[:, k * fg : (k + 1) * fg] += np.moveaxis(part, 0, 1)
        if len(xs) > 2 and xs[2] is not None:
            out += xs[2].reshape(-1, *(1,) * rank)
        if len(xs) > 3 and xs[3] is not None:
            out += xs[3]
        if self.activation is not None:
            out = activate(self.activation, out)
        return [out.astype(xs[0].dtype, copy=False)]


@register
class ConvTranspose(Op):
    """Transposed convolution, NCHW × [channels, filters/group, *kernel_shape] → NCHW."""

    arity = (2, 3)
    auto_pad: str = "NOTSET"
    dilations: tuple[int, ...] | None = None
    group: int = 1
    kernel_shape: tuple[int, ...] | None = None
    output_padding: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    activation: Activation | None = internal(None)

    def window(self, x: tuple[Any, ...], w: tuple[Any, ...]) -> Window:
        """The resolved window; ``pads`` may be negative where ``output_shape`` asks for more."""
        rank = len(x) - 2
        ks, ss, ds, ps = check_window(
            rank, self.kernel_shape or w[2:], self.strides, self.dilations, self.pads, self.auto_pad
        )
        extra = tuple(self.output_padding or (0,) * rank)
        need(len(extra) == rank, lambda: f"output_padding {list(extra)} needs {rank} entries")
        need(
            all(e >= 0 for e in extra), lambda: f"output_padding {list(extra)} has a negative entry"
        )
        begin, end, out = list(ps[:rank]), list(ps[rank:]), []
        wanted = tuple(self.output_shape or ())[-rank:]
        full: Any  # None (a TypeError in arithmetic) where the input's size is not known
        n: Any
        for a in range(rank):
            size = None if x[2 + a] is None else x[2 + a] - 1
            full = None if size is None else ss[a] * size + extra[a] + (ks[a] - 1) * ds[a] + 1
            if wanted or self.auto_pad.startswith("SAME"):
                n = wanted[a] if wanted else x[2 + a] * ss[a]
                total = full - n if wanted else max(full - n, 0)
                small = total // 2
                begin[a] = total - small if self.auto_pad != "SAME_UPPER" else small
                end[a] = total - begin[a]
                if not wanted:
                    n = full - total
            else:
                if self.auto_pad == "VALID":
                    begin[a] = end[a] = 0
                n = None if full is None else full - begin[a] - end[a]
            if isinstance(n, int):
                need(n >= 1, lambda: f"output size {n} on spatial axis {a} is not positive")
            out.append(n)
        return Window(ks, ss, ds, (*begin, *end), tuple(out))

    def infer(self, types, values):
        x, w = types[0], types[1]
        if x.shape is None or w.shape is None:
            return [TensorType(x.dtype, None)]
        need(len(x.shape) >= 3, lambda: f"ConvTranspose needs an input of rank 3 or more, not {x}")
        need(len(w.shape) == len(x.shape), lambda: f"weight {w} and input {x} differ in rank")
        need(x.dtype == w.dtype, lambda: f"input {x} and weight {w} differ in dtype")
        need(self.group >= 1, lambda: f"group {self.group} must be at least 1")
        if isinstance(x.shape[1], int) and isinstance(w.shape[0], int):
            need(x.shape[1] == w.shape[0], lambda: f"input {x} and weight {w} differ in channels")
            need(
                x.shape[1] % self.group == 0,
                lambda: f"channels of {x} do not divide by {self.group}",
            )
        if self.kernel_shape is not None:
            given, own = list(self.kernel_shape), list(w.shape[2:])
            need(given == own, lambda: f"kernel_shape {given} is not the weight's {own}")
        filters = w.shape[1] * self.group
        if len(types) > 2 and types[2] is not None and types[2].shape is not None:
            need(types[2].shape == (filters,), lambda: f"bias {types[2]} needs {filters} values")
        return [TensorType(x.dtype, (x.shape[0], filters, *self.window(x.shape, w.shape).output))]

    def compute(self, xs):
        x, w = xs[0], xs[1]
        win = self.window(x.shape, w.shape)
        rank = len(win.kernel_shape)
        g, fg = self.group, w.shape[1]
        cg = w.shape[0] // g
        begin = win.pads[:rank]
        acc = np.result_type(x.dtype, np.float32)
        out = np.zeros((x.shape[0], fg * g, *win.output), acc)
        for tap in product(*map(range, win.kernel_shape)):
            # Input i lands on output i*stride + tap*dilation - pad; keep those inside.
            src, dst = [], []
            for t, d, s, p, n, o in zip(
                tap, win.dilations, win.strides, begin, x.shape[2:], win.output, strict=True
            ):
                shift = t * d - p
                lo = max(0, -(shift // s))
                hi = min(n, -(-(o - shift) // s))
                src.append(slice(lo, max(lo, hi)))
                dst.append(slice(lo * s + shift, max(lo, hi - 1) * s + shift + 1, s))
            if any(s.stop <= s.start for s in src):
                continue
            piece = x[(slice(None), slice(None), *src)]
            for k in range(g):
                taps = w[(slice(k * cg, (k + 1) * cg), slice(None), *tap)]
                part = np.tensordot(taps, piece[:, k * cg : (k + 1) * cg], (0, 1))
                out[(slice(None), slice(k * fg, (k + 1) * fg), *dst)] += np.moveaxis(part, 0, 1)
        if len(xs) > 2 and xs[2] is not None:
            out += xs[2].reshape(-1, *(1,) * rank)
        if self.activation is not None:
            out = activate(self.activation, out)
        return [out.astype(xs[0].dtype, copy=False)]


@register
class CausalConvWithState(Op):
    """Depthwise 1-D convolution that looks back only, carried on from one call to the next.

    Inputs: (batch, channels, length), weight (channels, 1, k), bias (channels), past_state
    (batch, channels, k − 1; default zeros). Outputs: as the input, and the next past_state.
    """

    arity = (2, 4)
    n_outputs = 2
    activation: str = "none"

    def infer(self, types, values):
        x, w = types[:2]
        need(
            self.activation in ("none", "silu", "swish"),
            lambda: f"activation {self.activation!r} must be none, silu or swish",
        )
        need(x.rank in (None, 3), lambda: f"the input must have rank 3, not {x}")
        need(w.rank in (None, 3), lambda: f"the weight must have rank 3, not {w}")
        if x.shape is None or w.shape is None:
            return [x, TensorType(x.dtype, None)]
        k = w.shape[2]
        state = (*x.shape[:2], k - 1 if isinstance(k, int) else None)
        return [x, TensorType(x.dtype, state)]

    def compute(self, xs):
        x, w, bias, past = [*xs, None, None][:4]
        channels, k = x.shape[1], w.shape[2]
        if past is None:
            past = np.zeros((x.shape[0], channels, k - 1), x.dtype)
        whole = np.concatenate([past, x], axis=2)
        op = Conv(group=channels)
        if self.activation != "none":
            op = Conv(group=channels, activation=Activation("silu", 1.0))
        y = op.compute([whole, w] if bias is None else [whole, w, bias])[0]
        return [y, whole[:, :, whole.shape[2] - (k - 1) :]]
