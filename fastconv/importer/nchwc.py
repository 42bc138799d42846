"""onnxruntime's blocked layout: what it makes of convolutions at its highest optimisation level.

There a tensor (N, C, H, W) lies in memory as (N, ⌈C/b⌉, H, W, b), and weights as their sums need
them; b is 16 or 8, whichever vector the processor had that saved the model. Each operator becomes
one of ONNX on ordinary tensors whose channels are padded to whole blocks, and weights are put back
in order. The file does not say b: where sizes do not tell, it is taken to be this processor's,
which is what onnxruntime assumes. Source: domain com.microsoft.nchwc and the way in which
onnxruntime's MLAS library orders filters.
"""

from __future__ import annotations

import importlib
import platform
from typing import Any

import numpy as np

from ..errors import ModelError, UnsupportedError
from ..graph import REGISTRY, Op
from ..graph.op import fields_only
from .adapt import Draft
from .contrib import NCHWC, Contributed, ConvLike, channels_first, contributed, given, make
from .defs import Model

#: Floats in a block: with vectors of 512 bits, and with shorter ones.
WIDE, NARROW = 16, 8


def own_block() -> int:
    """The block that onnxruntime uses on this processor."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return WIDE
    try:
        core = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        return NARROW
    return WIDE if getattr(core, "__cpu_features__", {}).get("AVX512F") else NARROW


def block_of(model: Model) -> int:
    """Channels per block in a model: what its weights allow, else this processor's."""
    graph = model.graph
    for n in graph.nodes:
        if n.domain != NCHWC or n.op_type != "Conv":
            continue
        weight = graph.initializers.get(n.inputs[1]) if len(n.inputs) > 1 else None
        if weight is None or len(weight.dims) != 4:
            continue
        m, c = weight.dims[:2]
        if m % WIDE or (c % WIDE == NARROW and c > WIDE):
            return NARROW
        if c % NARROW and c > NARROW:
            return WIDE  # an input that is not blocked as it would not fill one block
    return own_block()


def ordered(weight: np.ndarray, block: int, depthwise: bool) -> np.ndarray:
    """Weights (M, C/group, kH, kW) as Conv has them.

    They lie as (M/b, C/b, kH, kW, b of C, b of M), or where C is not split, as in depthwise
    convolutions and those of an ordinary tensor, as (M/b, C, kH, kW, b of M).

    Raises:
        ModelError: the filters do not fill their blocks.
    """
    m, c, kh, kw = weight.shape
    if m % block:
        raise ModelError(f"weights of shape {list(weight.shape)} do not fill blocks of {block}")
    if depthwise or c % block:
        parts = weight.reshape(m // block, c, kh, kw, block)
        return np.ascontiguousarray(parts.transpose(0, 4, 1, 2, 3)).reshape(weight.shape)
    parts = weight.reshape(m // block, c // block, kh, kw, block, block)
    return np.ascontiguousarray(parts.transpose(0, 5, 1, 4, 2, 3)).reshape(weight.shape)


@contributed(NCHWC)
class Conv(ConvLike):
    """Conv of blocked tensors with reordered weights, optionally plus Sum, then an activation."""

    activation: str = ""
    activation_params: tuple[float, ...] | None = None

    def rewrite(self, d: Draft) -> Op:
        weight = d.value(d.inputs[1])
        if weight is None or weight.ndim != 4:
            raise UnsupportedError("a blocked convolution whose weights are no 4-D constant")
        depthwise = self.group > 1 and weight.shape[1] == 1 and self.group == weight.shape[0]
        weight = ordered(weight, block_of(d.model), depthwise)
        if depthwise and self._scales(weight, d):
            return self._batch_norm(weight, d)
        d.set_input(1, weight)
        return self.conv(d, self.activation, self.activation_params)

    def _scales(self, weight: np.ndarray, d: Draft) -> bool:
        """Whether each channel is only scaled: onnxruntime says BatchNormalization so."""
        plain = (self.strides or (1,)) + (self.dilations or (1,))
        return (
            weight[0].size == 1
            and set(plain) <= {1}
            and not any(self.pads or ())
            and len(d.inputs) == 3
            and self.auto_pad == "NOTSET"
        )

    def _batch_norm(self, weight: np.ndarray, d: Draft) -> Op:
        from .contrib import activated

        zeros = np.zeros(weight.shape[0], weight.dtype)
        d.inputs = [d.inputs[0], d.constant(weight.reshape(-1)), d.inputs[2]]
        d.inputs += [d.constant(zeros), d.constant(zeros + 1)]
        op = make("BatchNormalization", epsilon=0.0)
        return activated(d, op, self.activation, self.activation_params)


@contributed(NCHWC)
class ReorderInput(Contributed):
    """An ordinary tensor in blocks: channels are padded with zeros to whole ones."""

    channels_last: int = 0

    def rewrite(self, d: Draft) -> Op:
        if self.channels_last:
            d.inputs[0] = channels_first(d, d.inputs[0])
        return REGISTRY["fastconv", "PadChannels"](block_of(d.model))


@contributed(NCHWC)
class ReorderOutput(Contributed):
    """An ordinary tensor of the first ``channels`` channels."""

    channels: int = 0
    channels_last: int = 0

    def rewrite(self, d: Draft) -> Op:
        op: Op = make("Identity")
        if self.channels:
            for k, v in enumerate((0, self.channels, 1), 1):
                d.set_input(k, np.array([v], np.int64))
            op = make("Slice")
        if not self.channels_last:
            return op
        d.inputs = [d.insert(op, d.inputs)]
        return make("Transpose", (0, 2, 3, 1))


@fields_only
class Pool(Contributed):
    """Base: the attributes of pooling."""

    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    dilations: tuple[int, ...] | None = None
    kernel_shape: tuple[int, ...] = ()
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def pool(self, name: str, **more: Any) -> Op:
        """The operator of ONNX."""
        return make(
            name, kernel_shape=self.kernel_shape, auto_pad=self.auto_pad, ceil_mode=self.ceil_mode,
            dilations=self.dilations, pads=self.pads, strides=self.strides, **more,
        )  # fmt: skip


@contributed(NCHWC)
class MaxPool(Pool):
    """MaxPool of blocks."""

    storage_order: int = 0

    def rewrite(self, d: Draft) -> Op:
        return self.pool("MaxPool")


@contributed(NCHWC)
class AveragePool(Pool):
    """AveragePool of blocks."""

    count_include_pad: int = 0

    def rewrite(self, d: Draft) -> Op:
        return self.pool("AveragePool", count_include_pad=self.count_include_pad)


@contributed(NCHWC)
class GlobalAveragePool(Contributed):
    """GlobalAveragePool of blocks."""

    def rewrite(self, d: Draft) -> Op:
        return make("GlobalAveragePool")


@contributed(NCHWC)
class GlobalMaxPool(Contributed):
    """GlobalMaxPool of blocks."""

    def rewrite(self, d: Draft) -> Op:
        return make("GlobalMaxPool")


@contributed(NCHWC)
class Upsample(Contributed):
    """Resize by whole factors."""

    coordinate_transformation_mode: str = "asymmetric"
    mode: str = "nearest"
    scales: tuple[int, ...] = ()

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [given(d, 0), ""]
        d.set_input(2, np.array(self.scales, np.float32))
        return make(
            "Resize", mode=self.mode, nearest_mode="floor",
            coordinate_transformation_mode=self.coordinate_transformation_mode,
        )  # fmt: skip
