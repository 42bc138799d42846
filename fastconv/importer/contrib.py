"""onnxruntime's own operators, rewritten into ONNX's while a model is read.

onnxruntime writes them into models that it saves after optimising
(``SessionOptions.optimized_model_filepath``), and some exporters do. Each class states the
attributes of one operator; ``rewrite`` says the same with operators of ONNX, so that passes and
kernels treat them as those of any other model. Source of the meaning: the schemas of onnxruntime's
contributed operators, domains com.microsoft and, in ``nchwc``, com.microsoft.nchwc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..errors import UnsupportedError
from ..graph import REGISTRY, Op
from ..graph.op import fields_only
from .adapt import Draft

MICROSOFT = "com.microsoft"
NCHWC = "com.microsoft.nchwc"

T = TypeVar("T", bound="type[Contributed]")


@fields_only
class Contributed(Op):
    """An operator that no graph holds: fields are its attributes, and ``rewrite`` replaces it."""

    def rewrite(self, d: Draft) -> Op:
        """Put operators in front of the draft and change its inputs.

        Returns:
            the operator that makes the draft's outputs.

        Raises:
            UnsupportedError: a form that cannot be said with other operators.
        """
        raise NotImplementedError


#: (domain, op_type) → class.
CONTRIBUTED: dict[tuple[str, str], type[Contributed]] = {}


def contributed(*domains: str, name: str = "") -> Callable[[T], T]:
    """Class decorator: enter under these domains and the class's name, or another."""

    def enter(cls: T) -> T:
        cls = fields_only(cls)
        for domain in domains:
            CONTRIBUTED[domain, name or cls.__name__] = cls
        return cls

    return enter


def find(domain: str, op_type: str) -> type[Contributed] | None:
    """The class of an operator, or None."""
    # They fill the table.
    from . import contrib_attention as _attention  # noqa: F401
    from . import contrib_experimental as _experimental  # noqa: F401
    from . import contrib_quant as _quant  # noqa: F401
    from . import nchwc as _nchwc  # noqa: F401

    return CONTRIBUTED.get((domain, op_type))


def make(name: str, *args: Any, **attributes: Any) -> Op:
    """An operator of ONNX."""
    return REGISTRY["", name](*args, **attributes)


def scalar(value: float) -> np.ndarray:
    """A float32 constant."""
    return np.array(value, np.float32)


def given(d: Draft, index: int) -> str:
    """The input of that number, "" where it is absent."""
    return d.inputs[index] if index < len(d.inputs) else ""


def wanted(d: Draft, index: int) -> str:
    """The output of that number, "" where nobody asked for it."""
    return d.outputs[index] if index < len(d.outputs) else ""


def refuse_outputs(d: Draft, first: int) -> None:
    """Drop outputs from ``first`` on.

    Raises:
        UnsupportedError: one has a name. These are for training.
    """
    if any(d.outputs[first:]):
        raise UnsupportedError(f"{d.op_type} with output number {first + 1} or more, for training")
    del d.outputs[first:]


def total(d: Draft, *names: str) -> str:
    """The sum of the values that are there."""
    result = ""
    for name in filter(None, names):
        result = d.insert(make("Add"), [result, name]) if result else name
    return result


#: The bounds of Clip where it names none.
LARGEST = float(np.finfo(np.float32).max)
#: Activation of a fused operator → the names of its parameters, in their order.
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"), "HardSwish": (), "Elu": ("alpha",), "Softplus": (),
    "Softsign": (), "ThresholdedRelu": ("alpha",), "Selu": ("alpha", "gamma"), "Gelu": (),
    "Celu": ("alpha",), "Mish": (), "Swish": ("alpha",), "QuickGelu": ("alpha",),
}  # fmt: skip


def activated(d: Draft, op: Op, name: str, params: tuple[float, ...] | None) -> Op:
    """Put ``op`` in front of an activation, which is returned; ``op`` itself where there is none.

    Raises:
        UnsupportedError: an activation that is not known.
    """
    if not name:
        return op
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"activation {name!r} of {d.op_type} is not known")
    d.inputs = [d.insert(op, d.inputs)]
    if name == "Clip":
        low, high = params or (-LARGEST, LARGEST)
        d.set_input(1, scalar(low))
        d.set_input(2, scalar(high))
        return make("Clip")
    values = dict(zip(ACTIVATIONS[name], params or (), strict=False))
    return make("Swish" if name == "QuickGelu" else name, **values)


@fields_only
class ConvLike(Contributed):
    """Base: the attributes of Conv."""

    arity = (2, 4)
    auto_pad: str = "NOTSET"
    dilations: tuple[int, ...] | None = None
    group: int = 1
    kernel_shape: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def conv(self, d: Draft, activation: str, params: tuple[float, ...] | None) -> Op:
        """Conv, the sum with a fourth input, and the activation."""
        op = make(
            "Conv", self.auto_pad, self.dilations, self.group, self.kernel_shape, self.pads,
            self.strides,
        )  # fmt: skip
        if added := given(d, 3):
            d.inputs = [d.insert(op, d.inputs[:3]), added]
            op = make("Add")
        return activated(d, op, activation, params)


@contributed(MICROSOFT)
class FusedConv(ConvLike):
    """Conv, optionally plus Z, then an activation."""

    activation: str = ""
    activation_params: tuple[float, ...] | None = None

    def rewrite(self, d: Draft) -> Op:
        return self.conv(d, self.activation, self.activation_params)


def channels_first(d: Draft, name: str) -> str:
    """An NHWC image as NCHW: that of which it was made, if it was."""
    if name and name not in d.turned:
        return d.insert(make("Transpose", (0, 3, 1, 2)), [name])
    return d.turned.get(name, "")


def channels_last(d: Draft, op: Op) -> Op:
    """Put ``op`` in front of what turns its NCHW image into NHWC."""
    d.inputs = [d.insert(op, d.inputs)]
    d.turned[d.outputs[0]] = d.inputs[0]
    return make("Transpose", (0, 2, 3, 1))


@contributed(MICROSOFT, name="NhwcConv")
@contributed(MICROSOFT)
class NhwcFusedConv(FusedConv):
    """FusedConv of NHWC images; the weights lie as those of Conv."""

    def rewrite(self, d: Draft) -> Op:
        d.inputs[0] = channels_first(d, d.inputs[0])
        if len(d.inputs) > 3:
            d.inputs[3] = channels_first(d, d.inputs[3])
        return channels_last(d, super().rewrite(d))


@contributed(MICROSOFT)
class NhwcMaxPool(Contributed):
    """MaxPool of NHWC images."""

    kernel_shape: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    dilations: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def rewrite(self, d: Draft) -> Op:
        d.inputs[0] = channels_first(d, d.inputs[0])
        op = make(
            "MaxPool", kernel_shape=self.kernel_shape, auto_pad=self.auto_pad,
            ceil_mode=self.ceil_mode, dilations=self.dilations, pads=self.pads,
            strides=self.strides,
        )  # fmt: skip
        return channels_last(d, op)


@contributed(MICROSOFT)
class ConvTransposeWithDynamicPads(Contributed):
    """ConvTranspose whose pads are an input, which must be a constant."""

    arity = (2, 4)
    auto_pad: str = "NOTSET"
    dilations: tuple[int, ...] | None = None
    group: int = 1
    kernel_shape: tuple[int, ...] | None = None
    output_padding: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def rewrite(self, d: Draft) -> Op:
        pads = None
        if name := given(d, 2):
            array = d.value(name)
            if array is None:
                raise UnsupportedError("ConvTransposeWithDynamicPads with pads that are computed")
            pads = tuple(int(p) for p in array.reshape(-1))
        d.inputs = [*d.inputs[:2], *filter(None, [given(d, 3)])]
        return make(
            "ConvTranspose", self.auto_pad, self.dilations, self.group, self.kernel_shape,
            self.output_padding, None, pads, self.strides,
        )  # fmt: skip


@contributed(MICROSOFT)
class FusedGemm(Contributed):
    """Gemm, then an activation."""

    arity = (2, 3)
    activation: str = ""
    activation_alpha: float | None = None
    activation_beta: float | None = None
    activation_gamma: float | None = None
    alpha: float = 1.0
    beta: float = 1.0
    transA: int = 0
    transB: int = 0

    def rewrite(self, d: Draft) -> Op:
        given_params = (self.activation_alpha, self.activation_beta, self.activation_gamma)
        params = tuple(p for p in given_params if p is not None)
        op = make("Gemm", self.alpha, self.beta, self.transA, self.transB)
        return activated(d, op, self.activation, params or None)


@contributed(MICROSOFT, name="TransposeMatMul")
@contributed(MICROSOFT)
class FusedMatMul(Contributed):
    """alpha · A' · B' with either operand transposed, in its last or its leading axes."""

    arity = (2, 2)
    alpha: float = 1.0
    transA: int = 0
    transB: int = 0
    transBatchA: int = 0
    transBatchB: int = 0

    def product(self, d: Draft) -> Op:
        """The operator that makes the product."""
        flags = ((self.transA, self.transBatchA), (self.transB, self.transBatchB))
        for k, (last, batch) in enumerate(flags):
            if last or batch:
                turn = REGISTRY["fastconv", "MatrixTranspose"](int(bool(last)), int(bool(batch)))
                array = d.value(d.inputs[k])
                if array is None:
                    d.inputs[k] = d.insert(turn, [d.inputs[k]])
                else:
                    d.set_input(k, np.ascontiguousarray(turn.compute([array])[0]))
        if self.alpha == 1:
            return make("MatMul")
        d.inputs = [d.insert(make("MatMul"), d.inputs)]
        d.set_input(1, scalar(self.alpha))
        return make("Mul")

    def rewrite(self, d: Draft) -> Op:
        return self.product(d)


@contributed(MICROSOFT)
class FusedMatMulActivation(FusedMatMul):
    """FusedMatMul, then an activation."""

    activation: str
    activation_alpha: float | None = None
    activation_axis: int | None = None
    activation_beta: float | None = None
    activation_gamma: float | None = None

    def rewrite(self, d: Draft) -> Op:
        given_params = (self.activation_alpha, self.activation_beta, self.activation_gamma)
        params = tuple(p for p in given_params if p is not None)
        return activated(d, self.product(d), self.activation, params or None)


@contributed(MICROSOFT)
class Gelu(Contributed):
    """x · (1 + erf(x / √2)) / 2."""

    def rewrite(self, d: Draft) -> Op:
        return make("Gelu")


@contributed(MICROSOFT)
class BiasGelu(Contributed):
    """Gelu of A + B."""

    arity = (2, 2)

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [total(d, *d.inputs)]
        return make("Gelu")


@contributed(MICROSOFT)
class FastGelu(Contributed):
    """Gelu's tanh form of X, optionally plus a bias."""

    arity = (1, 2)

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [total(d, *d.inputs)]
        return make("Gelu", approximate="tanh")


@contributed(MICROSOFT)
class GemmFastGelu(Contributed):
    """FastGelu of X · W, optionally plus a bias."""

    arity = (2, 3)

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [total(d, d.insert(make("MatMul"), d.inputs[:2]), given(d, 2))]
        return make("Gelu", approximate="tanh")


@contributed(MICROSOFT)
class QuickGelu(Contributed):
    """x · sigmoid(alpha · x)."""

    alpha: float = 1.702

    def rewrite(self, d: Draft) -> Op:
        return make("Swish", self.alpha)


@contributed(MICROSOFT)
class BiasAdd(Contributed):
    """X + bias + skip."""

    arity = (3, 3)

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [total(d, *d.inputs[:2]), d.inputs[2]]
        return make("Add")


@contributed(MICROSOFT)
class BiasSplitGelu(Contributed):
    """The left half of the last axis of X + bias, times Gelu of its right half."""

    arity = (2, 2)

    def rewrite(self, d: Draft) -> Op:
        halves = [d.fresh("left"), d.fresh("right")]
        d.insert(make("Split", axis=-1, num_outputs=2), [total(d, *d.inputs)], halves)
        d.inputs = [halves[0], d.insert(make("Gelu"), halves[1:])]
        return make("Mul")


@contributed(MICROSOFT)
class BiasSoftmax(Contributed):
    """Softmax over the axes from ``axis`` on (the last in practice) of data + bias."""

    arity = (2, 2)
    is_inner_broadcast: int
    axis: int = 1

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [total(d, *d.inputs)]
        return REGISTRY["fastconv", "FlatSoftmax"](self.axis)


@contributed(MICROSOFT)
class SkipLayerNormalization(Contributed):
    """LayerNormalization of input + skip + bias over the last axis; that sum is the fourth output.

    Inputs: input, skip, gamma, beta and bias.
    """

    arity = (3, 5)
    n_outputs = 4
    epsilon: float = 1e-12

    def rewrite(self, d: Draft) -> Op:
        gamma, beta, bias = d.inputs[2], given(d, 3), given(d, 4)
        summed = self.summed(d, bias)
        d.inputs = [summed, gamma, *filter(None, [beta])]
        return make("LayerNormalization", epsilon=self.epsilon)

    def summed(self, d: Draft, bias: str) -> str:
        """input + bias + skip, under the name of the fourth output if that has one."""
        if any(d.outputs[1:3]):
            refuse_outputs(d, 1)
        name = wanted(d, 3)
        first = total(d, d.inputs[0], bias)
        result = d.insert(make("Add"), [first, d.inputs[1]], [name] if name else None)
        del d.outputs[1:]
        return result


@contributed(MICROSOFT)
class SkipSimplifiedLayerNormalization(SkipLayerNormalization):
    """RMSNormalization of input + skip + bias. Inputs: input, skip, gamma and bias."""

    arity = (3, 4)

    def rewrite(self, d: Draft) -> Op:
        gamma = d.inputs[2]
        d.inputs = [self.summed(d, given(d, 3)), gamma]
        return make("RMSNormalization", epsilon=self.epsilon)


@contributed("", MICROSOFT)
class SimplifiedLayerNormalization(Contributed):
    """RMSNormalization under its older name."""

    arity = (2, 2)
    n_outputs = 2
    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1

    def rewrite(self, d: Draft) -> Op:
        refuse_outputs(d, 1)
        return make("RMSNormalization", self.axis, self.epsilon, self.stash_type)


@contributed(MICROSOFT)
class LayerNormalization(Contributed):
    """LayerNormalization of ONNX."""

    arity = (2, 3)
    n_outputs = 3
    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1

    def rewrite(self, d: Draft) -> Op:
        return make("LayerNormalization", self.axis, self.epsilon, self.stash_type)


@contributed(MICROSOFT)
class GroupNorm(Contributed):
    """GroupNormalization of an NHWC image, or NCHW with ``channels_last`` 0, then SiLU or nothing.

    Inputs: X, gamma and beta, both (C).
    """

    arity = (3, 3)
    activation: int
    groups: int
    channels_last: int = 1
    epsilon: float = 1e-5

    def rewrite(self, d: Draft) -> Op:
        if self.channels_last:
            d.inputs[0] = channels_first(d, d.inputs[0])
        op = make("GroupNormalization", self.groups, self.epsilon)
        if self.activation:
            op = activated(d, op, "Swish", None)
        return channels_last(d, op) if self.channels_last else op


@contributed(MICROSOFT)
class Trilu(Contributed):
    """Trilu of ONNX."""

    arity = (1, 2)
    upper: int = 1

    def rewrite(self, d: Draft) -> Op:
        return make("Trilu", upper=self.upper)


@contributed(MICROSOFT)
class GridSample(Contributed):
    """GridSample of ONNX, with the mode's name as of opset 16."""

    arity = (2, 2)
    align_corners: int = 0
    mode: str = "bilinear"
    padding_mode: str = "zeros"

    def rewrite(self, d: Draft) -> Op:
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(self.mode, self.mode)
        return make(
            "GridSample", align_corners=self.align_corners, mode=mode,
            padding_mode=self.padding_mode,
        )  # fmt: skip


@contributed(MICROSOFT)
class Pad(Contributed):
    """Pad of ONNX."""

    arity = (2, 3)
    mode: str = "constant"

    def rewrite(self, d: Draft) -> Op:
        return make("Pad", mode=self.mode)


@contributed(MICROSOFT)
class ExpandDims(Contributed):
    """Unsqueeze at one axis."""

    arity = (2, 2)

    def rewrite(self, d: Draft) -> Op:
        d.inputs[1] = d.insert(make("Cast", 7), [d.inputs[1]])
        d.inputs[1] = d.insert(make("Reshape"), [d.inputs[1], d.constant(np.array([1], np.int64))])
        return make("Unsqueeze")


@contributed(MICROSOFT)
class GatherND(Contributed):
    """GatherND of ONNX."""

    arity = (2, 2)

    def rewrite(self, d: Draft) -> Op:
        return make("GatherND")


@contributed(MICROSOFT)
class Range(Contributed):
    """Range of ONNX, with a step of 1 where there is none."""

    arity = (2, 3)

    def rewrite(self, d: Draft) -> Op:
        if not given(d, 2):
            one = d.constant(np.array(1, np.int64))
            d.inputs[2:] = [d.insert(make("CastLike"), [one, d.inputs[0]])]
        return make("Range")


@contributed(MICROSOFT)
class Unique(Contributed):
    """Unique of ONNX, unsorted; outputs: values, where each element is among them, counts."""

    arity = (1, 1)
    n_outputs = 3

    def rewrite(self, d: Draft) -> Op:
        d.outputs = [d.outputs[0], "", *d.outputs[1:]]
        return make("Unique", sorted=0)


@contributed(MICROSOFT)
class Inverse(Contributed):
    """The inverse of each matrix."""

    def rewrite(self, d: Draft) -> Op:
        return REGISTRY["fastconv", "MatrixInverse"]()
