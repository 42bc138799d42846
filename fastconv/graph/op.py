"""What an operator is: one frozen dataclass per ONNX operator, whose fields are its attributes.

The signature is the schema. A field without a default is a required attribute; its annotation says
how the importer reads it. Each operator states its shape rule (``infer``) and, in plain NumPy, what
it computes (``compute``): that folds constants, serves dtypes that no kernel handles, and is the
naive twin that tests compare the kernels with. Adding an operator is adding a class here, a
lowering in ``plan/lower`` and, for speed, a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ..errors import ShapeError
from ..lazy import LazyTable, importer
from ..records import Spec, refuse, with_fields
from .symbols import is_static

if TYPE_CHECKING:
    from dataclasses import dataclass as base

    from .core import TensorType
else:

    def base(**_):
        """What type checkers take for ``dataclass``."""
        return fields_only


C = TypeVar("C", bound=type)


def fields_only(cls: C) -> C:
    """Class decorator: a dataclass whose methods are those that :class:`Op` writes once for all.

    ``dataclasses`` would compile six methods for each of some two hundred classes, which is most of
    the time that importing them takes.
    """
    with_fields(cls)
    return cls


@base(init=False, repr=False, eq=False)
class Op:
    """Base of all operators. Attributes of the ONNX operator are dataclass fields.

    Class attributes:
        domain: ONNX domain ("" is ai.onnx).
        arity: least and most number of inputs (most −1: any number).
        n_outputs: most number of outputs (−1: any number).
        deterministic: whether equal inputs give equal outputs (false for random numbers).
        dynamic: whether no shape rule can foresee the outputs (sequences, control flow).
        control: whether the operator runs subgraphs (``ops.control.Control``).
    """

    domain: ClassVar[str] = ""
    arity: ClassVar[tuple[int, int]] = (1, 1)
    n_outputs: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True
    dynamic: ClassVar[bool] = False
    control: ClassVar[bool] = False
    # What ``fields_only`` finds out.
    _specs: ClassVar[Mapping[str, Spec]]
    _names: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[Mapping[str, Any]]
    _factories: ClassVar[Mapping[str, Callable[[], Any]]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names, factories = self._names, self._factories
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} takes at most {len(names)} attributes")
        values = self.__dict__
        values.update(self._defaults)
        given = dict(zip(names, args))
        for name, value in kwargs.items():
            if name in given or name not in names:
                raise TypeError(f"{type(self).__name__} got an unexpected attribute {name!r}")
            given[name] = value
        values.update(given)
        if len(values) < len(names):
            for name in names:
                if name not in values and name not in factories:
                    raise TypeError(f"{type(self).__name__} needs an attribute {name!r}")
            values.update((n, make()) for n, make in factories.items() if n not in given)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse(self, name)

    def __delattr__(self, name: str) -> None:
        refuse(self, name)

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, n) for n in self._names])

    def __repr__(self) -> str:
        pairs = zip(self._names, self._values())
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in pairs)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    @property
    def label(self) -> str:
        """The name shown to people: the ONNX op_type."""
        return type(self).__name__

    def infer(
        self, types: Sequence[TensorType | None], values: Sequence[np.ndarray | None]
    ) -> list[TensorType]:
        """The types of the outputs.

        Args:
            types: one per input; None for an absent optional input.
            values: the array of each input that is a constant, else None.

        Raises:
            ShapeError: the inputs do not fit the operator.
            SymbolicError: a needed size is symbolic; the caller treats the outputs as unknown.
        """
        raise NotImplementedError

    def fold(
        self, types: Sequence[TensorType | None], values: Sequence[np.ndarray | None]
    ) -> list[np.ndarray] | None:
        """Outputs that follow from the input types alone (``Shape``, ``Size``), else None."""
        return None

    def compute(self, xs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """What the operator computes, in NumPy, on arrays in ONNX's layout (NCHW)."""
        raise NotImplementedError


#: The families' operators, of any domain: a name found here costs the import of its family alone,
#: any other that of all families.
FAMILIES = {
    "activations": "Relu LeakyRelu PRelu Clip Sigmoid Tanh HardSigmoid HardSwish Elu Selu Celu "
    "Softplus Softsign Mish Gelu Swish ThresholdedRelu Shrink",
    "attention": "Attention RotaryEmbedding",
    "binary": "Add Sub Mul Div Pow Mod Min Max Sum Mean BitwiseAnd BitwiseOr BitwiseXor BitShift",
    "contrib": "MatrixTranspose MatrixInverse PadChannels CropAndResize",
    "conv": "Conv ConvTranspose CausalConvWithState",
    "elementwise": "",
    "legacy": "AxisBroadcast CastNarrow QuantizeNarrow",
    "indexing": "Gather GatherElements ScatterElements GatherND ScatterND TensorScatter OneHot "
    "NonZero Compress Unique",
    "logic": "Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not BitwiseNot IsNaN IsInf "
    "Where Cast CastLike Identity Dropout",
    "loss": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "matmul": "Gemm MatMul Einsum",
    "move": "Transpose Concat Split Slice Expand Tile Pad DepthToSpace SpaceToDepth ChannelShuffle "
    "Trilu ReverseSequence CenterCropPad",
    "norm": "Softmax LogSoftmax Hardmax FlatSoftmax FlatLogSoftmax FlatHardmax LpNormalization "
    "BatchNormalization InstanceNormalization GroupNormalization GroupNormalization18 "
    "LayerNormalization RMSNormalization LRN MeanVarianceNormalization",
    "pool": "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxUnpool",
    "quant": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv ConvInteger "
    "QLinearMatMul MatMulInteger QGemm QLinearAdd QLinearMul QLinearAveragePool "
    "QLinearGlobalAveragePool QLinearSigmoid QLinearLeakyRelu QLinearActivation QLinearConcat",
    "random": "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial",
    "recurrent": "RNN GRU LSTM",
    "recurrent_quant": "DynamicQuantizeLSTM",
    "reduce": "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 "
    "ReduceSumSquare ReduceLogSum ReduceLogSumExp ArgMax ArgMin TopK CumSum CumProd",
    "resize": "Resize GridSample",
    "sequence": "SequenceConstruct SequenceEmpty SequenceInsert SequenceErase SequenceAt "
    "SequenceLength SplitToSequence ConcatFromSequence Optional OptionalHasElement "
    "OptionalGetElement",
    "spectral": "DFT STFT HannWindow HammingWindow BlackmanWindow MelWeightMatrix",
    "vision": "DeformConv RoiAlign MaxRoiPool NonMaxSuppression AffineGrid Col2Im",
    "shape": "Reshape Flatten Squeeze Unsqueeze Shape Size ConstantOfShape Range Constant EyeLike",
    "unary": "Erf Exp Log Sqrt Reciprocal Floor Ceil Round Sin Cos Abs Neg Sign Tan Asin Acos Atan "
    "Sinh Cosh Asinh Acosh Atanh",
}
_FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names.split()}
_load_family = importer("fastconv.graph.ops")


def _all_families() -> Iterable[str]:
    from . import ops

    return ops.__all__


def _where(key: tuple[str, str]) -> str | None:
    return _FAMILY_OF.get(key[1])


#: (domain, op_type) → class. Families are imported when an operator of theirs is asked for.
REGISTRY: LazyTable[tuple[str, str], type[Op]] = LazyTable(_load_family, _all_families, _where)

T = TypeVar("T", bound=type[Op])


def register(cls: T) -> T:
    """Class decorator: make a dataclass of it and enter it under its ONNX name."""
    cls = fields_only(cls)
    REGISTRY[cls.domain, cls.__name__] = cls
    return cls


def need(condition: bool, message: str | Callable[[], str]) -> None:
    """Raise :class:`ShapeError` unless the condition holds (the caller adds the node's name)."""
    if not condition:
        raise ShapeError(message if isinstance(message, str) else message())


def broadcast(*shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """NumPy's broadcasting rule on shapes that may hold symbols.

    Raises:
        ShapeError: two sizes differ and neither is 1.
    """
    first = shapes[0] if shapes else ()
    if shapes.count(first) == len(shapes) and is_static(first):
        return tuple(first)
    rank = max((len(s) for s in shapes), default=0)
    result: list[Any] = []
    for k in range(rank):
        size: Any = 1
        for s in shapes:
            i = k - (rank - len(s))
            d = s[i] if i >= 0 else 1
            if isinstance(d, int) and d == 1:
                continue
            if isinstance(size, int) and size == 1:
                size = d
            elif isinstance(d, int) and isinstance(size, int):
                need(d == size, lambda: f"shapes {' and '.join(map(str, shapes))} do not broadcast")
            elif isinstance(d, int):
                size = d  # a symbol beside a number greater than 1 must equal it
            elif not isinstance(size, int) and size != d:
                size = None  # two symbols: either may be 1
        result.append(size)
    return tuple(result)


def normalize_axis(axis: int, rank: int, what: str = "axis") -> int:
    """``axis`` counted from the front.

    Raises:
        ShapeError: it is out of range.
    """
    need(-rank <= axis < rank, lambda: f"{what} {axis} is out of range for rank {rank}")
    return axis + rank if axis < 0 else axis
