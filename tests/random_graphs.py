"""Random networks of the operators that convolutional networks use, with the right answers.

A network grows node by node: each is run at once by onnx.reference, so that its shape and its
values are known when the next one is drawn. What the reference refuses is left out again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

OPSETS = (13, 16, 17, 18, 20, 21, 22)
F32 = np.float32
#: No value has more elements, nor a larger magnitude.
MAX_SIZE, MAX_VALUE = 8000, 1e3


@dataclass
class Network:
    """A random network.

    Attributes:
        model: the model.
        feeds: an array for every input.
        expected: the outputs by name, after onnx.reference.
        values: every value inside, by name.
    """

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    values: dict[str, np.ndarray]

    def text(self) -> str:
        """The nodes, for a message of failure."""
        lines = []
        for n in self.model.graph.node:
            attrs = {a.name: helper.get_attribute_value(a) for a in n.attribute}
            lines.append(f"{', '.join(n.output)} = {n.op_type}({', '.join(n.input)}) {attrs}")
        shapes = {n: v.shape for n, v in self.values.items()}
        return "\n".join([*lines, f"outputs {list(self.expected)}", f"shapes {shapes}"])


class Refused(Exception):
    """The reference does not run a node, or its result is of no use here."""


@dataclass
class Grower:
    """A network in the making.

    Args:
        draw: where choices come from: the methods of random.Random.
    """

    draw: Any
    opset: int
    nodes: list[Any] = field(default_factory=list)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    consts: dict[str, np.ndarray] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    rng: Any = None

    # Choices.

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.draw.randrange(len(options))]

    def chance(self, percent: int) -> bool:
        return self.draw.randrange(100) < percent

    def int(self, low: int, high: int) -> int:
        return self.draw.randrange(low, high + 1)

    def value(self, fits: Callable[[np.ndarray], bool] = lambda a: True) -> str:
        """A value that fits: mostly one of the latest, as chains are what fusions are about."""
        values = ((n, self.values[n]) for n in (*self.feeds, *self.made))
        found = [n for n, a in values if a.dtype == F32 and fits(a)]
        if not found:
            raise Refused
        return self.pick(found[-2:]) if self.chance(75) else self.pick(found)

    def image(self, least: int = 1) -> str:
        """A value of shape [N, C, H, W] with sides of at least this."""
        return self.value(lambda a: a.ndim == 4 and min(a.shape[2:]) >= least)

    # Constants.

    def const(self, array: Any, dtype: Any = F32) -> str:
        """An initializer, or the output of a Constant node."""
        name = f"k{len(self.consts) + len(self.nodes)}_{len(self.values)}"
        array = np.asarray(array, dtype)
        self.values[name] = array
        if self.chance(15):
            value = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        else:
            self.consts[name] = array
        return name

    def weight(self, *shape: int, fan: int = 1) -> str:
        """Random numbers; now and then those of a weight that another node has already."""
        same = [n for n, a in self.consts.items() if a.shape == shape and a.dtype == F32]
        if same and self.chance(40):
            return self.pick(same)
        return self.const(self.rng.standard_normal(shape) / math.sqrt(fan))

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    # Nodes.

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """Add a node; gives its first output's name."""
        k = len(self.values)
        names = [f"v{k}" if i == 0 else f"v{k}_{i}" for i in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=f"{op.lower()}_{k}", **attrs)
        used = {i: self.values[i] for i in inputs if i}
        found = reference(node, used, self.opset)
        for array in found:
            if array.size == 0 or array.size > MAX_SIZE:
                raise Refused
            if array.dtype == F32 and not np.abs(array).max() < MAX_VALUE:
                raise Refused
        for name, array in zip(names, found, strict=True):
            self.values[name] = np.ascontiguousarray(array)
        self.nodes.append(node)
        self.made += names
        return names[0]


def reference(node: Any, feeds: dict[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """What onnx.reference makes of a node.

    Where the reference is known to be wrong the node is put to it in another form: max pooling with
    pads (it mixes up the axes, and the window that ceil_mode adds) as padding with -inf before, and
    batch normalisation before opset 14 (it normalises by the batch) as that of opset 15, which says
    the same; grouped transposed convolution (some strides and biases) group by group.
    """
    nodes = [node]
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "BatchNormalization":
        opset = max(opset, 15)
    group = attrs.get("group", 1)
    if node.op_type == "ConvTranspose" and group > 1:
        attrs["group"] = 1
        alone = helper.make_node("ConvTranspose", node.input, node.output, **attrs)
        split = [
            np.split(feeds[i], group, axis=1 if k == 0 else 0) for k, i in enumerate(node.input)
        ]
        parts = [
            reference(alone, dict(zip(node.input, part, strict=True)), opset)[0]
            for part in zip(*split, strict=True)
        ]
        return [np.concatenate(parts, axis=1)]
    if node.op_type == "MaxPool":
        kernel, steps = attrs["kernel_shape"], attrs.get("strides", [1, 1])
        pads = np.array(max_pool_pads(feeds[node.input[0]].shape[2:], attrs), np.int64)
        feeds = {**feeds, "pads": pads, "low": np.array(-np.inf, F32)}
        rest = {
            "kernel_shape": kernel,
            "strides": steps,
            "dilations": attrs.get("dilations", [1, 1]),
        }
        nodes = [
            helper.make_node("Pad", [node.input[0], "pads", "low"], ["padded"]),
            helper.make_node("MaxPool", ["padded"], list(node.output), **rest),
        ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info(n, code(a), a.shape) for n, a in feeds.items()],
        [helper.make_empty_tensor_value_info(n) for n in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            return ReferenceEvaluator(model).run(None, feeds)
    except Exception as e:
        raise Refused(f"{node.op_type}: {e}") from e


def max_pool_pads(sizes: Sequence[int], attrs: dict[str, Any]) -> list[int]:
    """The pads, for Pad on all four axes, with which a max pool needs no attributes of its own."""
    begin, end = [0, 0], [0, 0]
    given = attrs.get("pads", [0, 0, 0, 0])
    auto = attrs.get("auto_pad", b"NOTSET").decode()
    for k, size in enumerate(sizes):
        stride, extent = attrs.get("strides", [1, 1])[k], attrs["kernel_shape"][k]
        extent = (extent - 1) * attrs.get("dilations", [1, 1])[k] + 1
        if auto.startswith("SAME"):
            out = -(-size // stride)
            total = max(0, (out - 1) * stride + extent - size)
            first = total // 2 if auto == "SAME_UPPER" else total - total // 2
        else:
            first = 0 if auto == "VALID" else given[k]
            room = size + first + (0 if auto == "VALID" else given[k + 2]) - extent
            if room < 0:
                raise Refused
            out = room // stride + 1
            if attrs.get("ceil_mode") and room % stride and out * stride < size + first:
                out += 1
        begin.append(first)
        end.append(max(0, (out - 1) * stride + extent - size - first))
    if auto == "VALID":
        end = [0, 0, 0, 0]
    if not all(e >= 0 for e in end):
        raise Refused
    if not attrs.get("ceil_mode") and auto == "NOTSET":
        end = [0, 0, *given[2:]]
    return [*begin, *end]


def code(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


# Steps: each adds a node, or a few that belong together.


def window(g: Grower, x: str, kernel: Sequence[int], dilate: bool = True) -> dict[str, Any]:
    """Strides, dilations and pads for a window."""
    attrs: dict[str, Any] = {}
    n = len(kernel)
    if g.chance(40):
        attrs["strides"] = [g.int(1, 3) for _ in range(n)]
    if dilate and g.chance(25):
        attrs["dilations"] = [g.int(1, 2) for _ in range(n)]
    how = g.int(0, 9)
    if how < 5:
        attrs["pads"] = [min(g.int(0, 2), kernel[k % n] - 1) for k in range(2 * n)]
    elif how < 7 and "dilations" not in attrs:
        attrs["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif how < 9:
        attrs["pads"] = [(k - 1) // 2 for k in kernel] * 2
    return attrs


def conv(g: Grower) -> None:
    x = g.image()
    c = g.values[x].shape[1]
    group = g.pick([d for d in range(1, c + 1) if c % d == 0]) if g.chance(40) else 1
    most = 10 if g.chance(75) else 40
    out = group * g.int(1, max(1, most // group))
    kernel = [g.pick([1, 1, 2, 3, 3, 5]), g.pick([1, 3])] if g.chance(50) else [g.pick([1, 3])] * 2
    weight = g.weight(out, c // group, *kernel, fan=c // group * math.prod(kernel))
    bias = [g.weight(out)] if g.chance(50) else []
    attrs = window(g, x, kernel)
    if g.chance(50):
        attrs["kernel_shape"] = kernel
    if group > 1 or g.chance(20):
        attrs["group"] = group
    g("Conv", x, weight, *bias, **attrs)


def conv_1d(g: Grower) -> None:
    x = g.value(lambda a: a.ndim == 3)
    c = g.values[x].shape[1]
    k = g.pick([1, 2, 3])
    g("Conv", x, g.weight(g.int(1, 6), c, k, fan=c * k), **window(g, x, [k]))


def conv_transpose(g: Grower) -> None:
    x = g.image()
    c = g.values[x].shape[1]
    group = g.pick([d for d in range(1, c + 1) if c % d == 0]) if g.chance(30) else 1
    kernel = [g.int(1, 4), g.int(1, 4)]
    attrs: dict[str, Any] = {"strides": [g.int(1, 3), g.int(1, 3)]} if g.chance(70) else {}
    strides = attrs.get("strides", [1, 1])
    if g.chance(50):
        attrs["pads"] = [min(g.int(0, 1), kernel[k % 2] - 1) for k in range(4)]
    if g.chance(30):
        attrs["output_padding"] = [g.int(0, s - 1) for s in strides]
    if g.chance(20):
        attrs["dilations"] = [g.int(1, 2), g.int(1, 2)]
    out = g.int(1, 4)
    weight = g.weight(c, out, *kernel, fan=c)
    bias = [g.weight(out * group)] if g.chance(50) else []
    g("ConvTranspose", x, weight, *bias, group=group, **attrs)


def pool(g: Grower) -> None:
    x = g.image(2)
    kernel = [g.int(1, 3), g.int(1, 3)]
    op = g.pick(["MaxPool", "AveragePool"])
    attrs = window(g, x, kernel, dilate=op == "MaxPool" or g.opset >= 19)
    if g.chance(25) and "auto_pad" not in attrs:
        attrs["ceil_mode"] = 1
    if op == "AveragePool" and g.chance(40) and not attrs.get("ceil_mode"):
        attrs["count_include_pad"] = 1
    g(op, x, kernel_shape=kernel, **attrs)


def global_pool(g: Grower) -> None:
    x = g.image()
    if g.chance(70):
        g(g.pick(["GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"]), x)
    else:
        reduce(g, x, [2, 3] if g.chance(50) else [-1, -2], 1)


def reduce(g: Grower, x: str, axes: Sequence[int], keep: int) -> str:
    op = g.pick(["ReduceMean", "ReduceMean", "ReduceMax"])
    if g.opset >= 18:
        return g(op, x, g.ints(*axes), keepdims=keep)
    return g(op, x, axes=list(axes), keepdims=keep)


def reduction(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    rank = g.values[x].ndim
    axes = sorted({g.int(0, rank - 1) for _ in range(g.int(1, 2))})
    reduce(g, x, axes, 1 if len(axes) == rank else g.int(0, 1))


def batch_norm(g: Grower) -> None:
    x = g.value(lambda a: a.ndim in (2, 3, 4))
    c = g.values[x].shape[1]
    var = g.const(g.rng.uniform(0.5, 2, c))
    parts = [g.weight(c), g.weight(c), g.weight(c)]
    g("BatchNormalization", x, *parts, var, epsilon=g.pick([1e-5, 1e-3]))


def other_norm(g: Grower) -> None:
    x = g.image()
    if g.values[x].std(axis=(2, 3)).min() < 0.1:
        raise Refused  # dividing by next to nothing makes much of rounding
    c = g.values[x].shape[1]
    if g.opset < 17 or g.chance(50):
        g("InstanceNormalization", x, g.weight(c), g.weight(c))
    else:
        axis = g.pick([1, 2])
        shape = g.values[x].shape[axis:]
        g("LayerNormalization", x, g.weight(*shape), g.weight(*shape), axis=axis)


ACTIVATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Relu", {}), ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("LeakyRelu", {"alpha": 0.2}),
    ("Elu", {"alpha": 0.7}), ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ("HardSwish", {}), ("Softplus", {}), ("Softsign", {}), ("Selu", {}), ("Celu", {"alpha": 0.6}),
    ("Abs", {}), ("Neg", {}), ("Erf", {}), ("Identity", {}), ("Dropout", {}), ("Exp", {}),
)  # fmt: skip


def activation(g: Grower) -> None:
    op, attrs = g.pick(ACTIVATIONS)
    g(op, g.value(), **attrs)


def clip(g: Grower) -> None:
    low, high = g.pick([(0, 6), (0, 1), (-1, 1), (0, None), (None, 2)])
    x = g.value()
    ends = ["" if v is None else g.const(v) for v in (low, high)]
    g("Clip", x, *(ends if ends[1] else ends[:1]))


def prelu(g: Grower) -> None:
    x = g.image()
    g("PRelu", x, g.weight(g.values[x].shape[1], 1, 1) if g.chance(60) else g.weight(1))


def gate(g: Grower) -> None:
    """x · f(x), or hard-swish written out."""
    x = g.value()
    if g.chance(60):
        g("Mul", *g.draw.sample([x, g(g.pick(["Sigmoid", "HardSigmoid", "Tanh"]), x)], 2))
        return
    y = g("Clip", g("Add", x, g.const(3)), g.const(0), g.const(6))
    g("Div", g("Mul", x, y), g.const(g.pick([6, 5])))


def gelu(g: Grower) -> None:
    x = g.value()
    e = g("Add", g("Erf", g("Div", x, g.const(math.sqrt(2)))), g.const(1))
    g("Mul", g("Mul", x, e), g.const(0.5))


def with_constant(g: Grower) -> None:
    x = g.value()
    shape = list(g.values[x].shape)
    shape = [d if g.chance(40) else 1 for d in shape][g.int(0, len(shape)) :]
    number = g.pick([0.0, 1.0, 0.5, 2.0, -1.0, 1 / 6])
    k = g.const(np.full(shape, number)) if g.chance(50) else g.weight(*shape)
    op = g.pick(["Add", "Sub", "Mul", "Mul", "Add", "Max", "Min", "Div"])
    if op == "Div":
        g("Div", x, g.const(np.full(shape, g.pick([2.0, 6.0, -0.5]))))
        return
    g(op, *g.draw.sample([x, k], 2))


def binary(g: Grower) -> None:
    """Two values whose shapes broadcast: residuals, gates, sums of branches."""
    a = g.value()
    shape = g.values[a].shape

    def fits(other: np.ndarray) -> bool:
        try:
            return np.broadcast_shapes(shape, other.shape) is not None
        except ValueError:
            return False

    b = g.value(fits)
    ops = ["Add", "Add", "Add", "Sub", "Mul", "Max", "Min", "Sum"]
    g(g.pick(ops), *g.draw.sample([a, b], 2))


def residual(g: Grower) -> None:
    """y + f(y) with the convolution in the middle and an activation behind it."""
    x = g.image()
    c = g.values[x].shape[1]
    group = c if g.chance(30) else 1
    if g.chance(20):  # or with one of the two spread over the other
        small = g("GlobalAveragePool", x)
        of, other = (x, small) if g.chance(50) else (small, x)
        y = g("Conv", of, g.weight(c, c, 1, 1, fan=c))
        g("Add", *g.draw.sample([other, y], 2))
        return
    y = g("Conv", x, g.weight(c, c // group, 3, 3, fan=9 * c // group), pads=[1] * 4, group=group)
    if g.chance(50):
        y = g("Relu", y)
        y = g("Conv", y, g.weight(c, c, 1, 1, fan=c), g.weight(c))
    y = g("Add", *g.draw.sample([x, y], 2))
    if g.chance(60):
        g("Relu", y)


def squeeze_excite(g: Grower) -> None:
    x = g.image()
    c = g.values[x].shape[1]
    m = g.int(1, 4)
    y = g("GlobalAveragePool", x)
    if g.chance(70):
        y = g("Relu", g("Conv", y, g.weight(m, c, 1, 1, fan=c), g.weight(m)))
        y = g("Conv", y, g.weight(c, m, 1, 1, fan=m), g.weight(c))
    else:
        y = g("Relu", g("Gemm", g("Flatten", y), g.weight(m, c, fan=c), transB=1))
        y = g("Gemm", y, g.weight(c, m, fan=m), g.weight(c), transB=1)
        y = g("Reshape", y, g.ints(0, c, 1, 1))
    g("Mul", *g.draw.sample([x, g(g.pick(["Sigmoid", "HardSigmoid"]), y)], 2))


def shuffle(g: Grower) -> None:
    x = g.value(lambda a: a.ndim == 4 and a.shape[1] > 1)
    n, c, h, w = g.values[x].shape
    k = g.pick([d for d in range(2, c + 1) if c % d == 0])
    y = g("Reshape", x, g.ints(n, k, c // k, h, w))
    perm = [0, 2, 1, 3, 4] if g.chance(80) else [0, 1, 2, 4, 3]
    g("Reshape", g("Transpose", y, perm=perm), g.ints(n, -1, h, w))


def concat(g: Grower) -> None:
    a = g.value(lambda v: v.ndim >= 2)
    shape = g.values[a].shape
    axis = g.pick([1, 1, 1, 0, len(shape) - 1])

    def fits(v: np.ndarray) -> bool:
        return v.ndim == len(shape) and all(
            i == axis or p == q for i, (p, q) in enumerate(zip(v.shape, shape, strict=True))
        )

    parts = [a, *(g.value(fits) for _ in range(g.int(1, 2)))]
    g("Concat", *g.draw.sample(parts, len(parts)), axis=axis if g.chance(70) else axis - len(shape))


def split(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2 and max(a.shape[1:]) > 1)
    shape = g.values[x].shape
    axis = g.pick([i for i in range(1, len(shape)) if shape[i] > 1])
    first = g.int(1, shape[axis] - 1)
    if g.chance(60) or g.opset < 18:
        g("Split", x, g.ints(first, shape[axis] - first), outputs=2, axis=axis)
    else:
        g("Split", x, outputs=2, axis=axis, num_outputs=2)


def resize(g: Grower) -> None:
    x = g.image()
    mode = g.pick(["nearest", "linear", "cubic"])
    attrs: dict[str, Any] = {"mode": mode}
    if mode == "nearest":
        attrs |= {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": g.pick(["floor", "ceil"]),
        }
    else:
        attrs["coordinate_transformation_mode"] = g.pick(["half_pixel", "align_corners"])
    if g.chance(60):
        half = 0.5 if attrs["coordinate_transformation_mode"] == "half_pixel" else 2
        scales = [1, 1, g.pick([1, 2, 2, 3]), g.pick([1, 2, 2, half])]
        g("Resize", x, "", g.const(scales), **attrs)
    else:
        n, c = g.values[x].shape[:2]
        attrs["coordinate_transformation_mode"] = "half_pixel"
        attrs.pop("nearest_mode", None)
        attrs["mode"] = "linear"
        g("Resize", x, "", "", g.ints(n, c, g.int(1, 9), g.int(1, 9)), **attrs)


def pad(g: Grower) -> None:
    x = g.image(2)
    mode = g.pick(["constant", "constant", "constant", "reflect", "edge"])
    most = 1 if mode == "reflect" else 2
    pads = [0, 0, *(g.int(0, most) for _ in range(2))] * 2
    if g.chance(15) and mode == "constant":
        pads[1] = 1
    value = [g.const(g.pick([0, 0, 0.5]))] if mode == "constant" and g.chance(70) else []
    y = g("Pad", x, g.ints(*pads), *value, mode=mode)
    if g.chance(60):
        c = g.values[y].shape[1]
        g("Conv", y, g.weight(g.int(1, 6), c, 3, 3, fan=9 * c))


def slice_(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2 and max(a.shape) > 1)
    shape = g.values[x].shape
    axis = g.pick([i for i in range(len(shape)) if shape[i] > 1])
    step = g.pick([1, 1, 1, 2, -1])
    start, end = g.int(0, shape[axis] // 2), g.pick([shape[axis], shape[axis] - 1, 1 << 40, -1])
    if step < 0:
        start, end = -1, g.pick([-(1 << 40), 0])
    g("Slice", x, g.ints(start), g.ints(end), g.ints(axis), g.ints(step))


def transpose(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    rank = g.values[x].ndim
    if rank == 4 and g.chance(60):
        perm = g.pick([[0, 2, 3, 1], [0, 3, 1, 2]])
    else:
        perm = g.draw.sample(list(range(rank)), rank)
    y = g("Transpose", x, perm=perm)
    if g.chance(50):  # there and back, with something between that does not mind
        y = g("Relu", y) if g.chance(50) else y
        g("Transpose", y, perm=[perm.index(k) for k in range(rank)])


def reshape(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    shape = g.values[x].shape
    kind = g.int(0, 5)
    if kind == 0:
        g("Flatten", x, axis=g.pick([1, 1, 1, 0, 2]))
    elif kind == 1:
        g("Reshape", x, g.ints(shape[0], -1))
    elif kind == 2 and len(shape) == 4:
        g("Reshape", x, g.ints(0, 0, -1))
    elif kind == 3 and len(shape) == 3:
        g("Reshape", x, g.ints(0, 0, 1, -1))
    elif kind == 4:
        axis = g.int(0, len(shape))
        y = g("Unsqueeze", x, g.ints(axis))
        if g.chance(50):
            g("Squeeze", g("Sigmoid", y), g.ints(axis))
    else:
        whole = g("Shape", x)
        g("Reshape", g("Abs", x), whole)


def dense(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    if g.values[x].ndim > 2:
        x = g("Flatten", x)
    k = g.values[x].shape[1]
    m = g.int(1, 8)
    if g.chance(60):
        turned = g.int(0, 1)
        weight = g.weight(m, k, fan=k) if turned else g.weight(k, m, fan=k)
        bias = [g.weight(*g.pick([(m,), (1, m), (1,)]))] if g.chance(70) else []
        extra = {"alpha": 0.5, "beta": 2.0} if g.chance(15) else {}
        y = g("Gemm", x, weight, *bias, transB=turned, **extra)
    else:
        y = g("MatMul", x, g.weight(k, m, fan=k))
        if g.chance(60):
            y = g("Add", y, g.weight(m))
    if g.chance(40):
        g("Relu", y)


def matmul(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 3)
    k = g.values[x].shape[-1]
    if g.chance(50):
        g("MatMul", x, g.weight(k, g.int(1, 6), fan=k))
    else:  # attention's form: two values that both come from the graph
        rank = g.values[x].ndim
        perm = [*range(rank - 2), rank - 1, rank - 2]
        g("Softmax", g("MatMul", x, g("Transpose", x, perm=perm)), axis=-1)


def softmax(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 1)
    rank = g.values[x].ndim
    g(g.pick(["Softmax", "LogSoftmax"]), x, axis=g.int(-rank, rank - 1))


def space(g: Grower) -> None:
    if g.chance(50):
        x = g.value(lambda a: a.ndim == 4 and a.shape[1] % 4 == 0)
        g("DepthToSpace", x, blocksize=2, mode=g.pick(["DCR", "CRD"]))
    else:
        x = g.value(lambda a: a.ndim == 4 and not a.shape[2] % 2 and not a.shape[3] % 2)
        g("SpaceToDepth", x, blocksize=2)


def gather(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    shape = g.values[x].shape
    axis = g.int(0, len(shape) - 1)
    if g.chance(50):
        index = g.ints(*(g.int(0, shape[axis] - 1) for _ in range(g.int(1, 3))))
    else:
        index = g.const(g.int(-shape[axis], shape[axis] - 1), np.int64)
    g("Gather", x, index, axis=axis)


def constant_branch(g: Grower) -> None:
    """A node of constants alone, for folding."""
    shape = g.values[g.value()].shape[-1:]
    k = g(g.pick(["Relu", "Exp", "Neg"]), g.const(g.rng.standard_normal(shape)))
    g.made.remove(k)
    g("Add", g.value(lambda a: a.shape[-1:] == shape), k)


def expand(g: Grower) -> None:
    x = g.value(lambda a: 1 in a.shape)
    shape = [d if d > 1 else g.int(1, 3) for d in g.values[x].shape]
    g("Expand", x, g.ints(*shape))


STEPS: tuple[tuple[Callable[[Grower], None], int], ...] = (
    (conv, 12), (batch_norm, 5), (activation, 8), (binary, 7), (with_constant, 5), (residual, 4),
    (pool, 5), (concat, 5), (clip, 3), (gate, 3), (gelu, 1), (squeeze_excite, 3), (split, 3),
    (conv_transpose, 3), (global_pool, 2), (reduction, 2), (other_norm, 2), (prelu, 1),
    (shuffle, 3), (resize, 3), (pad, 3), (slice_, 3), (transpose, 3), (reshape, 3), (dense, 3),
    (matmul, 2), (softmax, 2), (space, 1), (gather, 2), (constant_branch, 1), (expand, 1),
    (conv_1d, 2),
)  # fmt: skip
WEIGHTED = [step for step, weight in STEPS for _ in range(weight)]


def network(draw: Any, most: int = 9) -> Network:
    """A random network.

    Args:
        draw: the methods of random.Random: an instance, or what hypothesis gives for one.
        most: most steps.
    """
    g = Grower(draw, draw.choice(OPSETS))
    g.rng = np.random.default_rng(draw.randrange(1 << 30))
    channels = g.int(1, 8) if g.chance(70) else g.pick([12, 16, 17, 24, 32, 33])
    shape = (g.int(1, 2), channels, g.int(1, 9), g.int(1, 9))
    g.feeds["x"] = g.values["x"] = g.rng.standard_normal(shape).astype(F32)
    if g.chance(25):
        other = shape if g.chance(50) else (shape[0], g.int(1, 4), *shape[2:])
        g.feeds["z"] = g.values["z"] = g.rng.standard_normal(other).astype(F32)
    wanted, tries = g.int(1, most), 0
    while wanted and tries < 60:
        tries += 1
        state = len(g.nodes), len(g.made)
        kept = set(g.values)
        try:
            g.pick(WEIGHTED)(g)
            wanted -= 1
        except Refused:  # without what the step had added so far
            del g.nodes[state[0] :], g.made[state[1] :]
            for name in g.values.keys() - kept:
                del g.values[name]
                g.consts.pop(name, None)
    if not g.made:
        g("Relu", "x")
    outputs = [g.made[-1]]
    outputs += [g.pick(g.made) for _ in range(g.pick([0, 0, 1, 2, 3]))]
    return finish(g, list(dict.fromkeys(outputs)))


def finish(g: Grower, outputs: list[str]) -> Network:
    """The model; sizes of its inputs are open now and then."""
    sizes = {d: f"d{d}" for a in g.feeds.values() for d in a.shape if g.chance(20)}
    inputs = []
    for name, array in g.feeds.items():
        dims = [sizes.get(d, d) for d in array.shape]
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    graph = helper.make_graph(
        g.nodes,
        "random",
        inputs,
        [helper.make_tensor_value_info(o, code(g.values[o]), g.values[o].shape) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in g.consts.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)])
    model.ir_version = 10
    return Network(model, g.feeds, {o: g.values[o] for o in outputs}, g.values)


def shrink(found: Network, fails: Callable[[Network], bool]) -> Network:
    """The smallest part of a network that still fails: fewer outputs, and values fed from outside.

    Every value is known, so that any can be an input.
    """
    model = found.model
    names = [o for n in model.graph.node for o in n.output]
    best, feeds = found, dict(found.feeds)
    for name in names:  # the first value that is wrong by itself
        part = _part(found, [name], feeds)
        if fails(part):
            best = part
            break
    outputs = list(best.expected)
    for name in reversed([o for n in best.model.graph.node for o in n.output]):
        if name not in outputs and found.values[name].dtype == F32:
            part = _part(found, outputs, {**feeds, name: found.values[name]})
            if fails(part):
                best, feeds = part, {**feeds, name: found.values[name]}
    return best


def _part(found: Network, outputs: list[str], feeds: dict[str, np.ndarray]) -> Network:
    """What some outputs need when these values are fed."""
    wanted, nodes = set(outputs), []
    for node in reversed(found.model.graph.node):
        if wanted.intersection(node.output) and not set(node.output) <= feeds.keys():
            nodes.insert(0, node)
            wanted.update(node.input)
    made = {o for n in nodes for o in n.output}
    feeds = {n: a for n, a in feeds.items() if n in wanted and n not in made}
    consts = [t for t in found.model.graph.initializer if t.name in wanted]
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(n, code(a), a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(o, code(found.values[o]), None) for o in outputs],
        consts,
    )
    model = helper.make_model(graph, opset_imports=found.model.opset_import)
    model.ir_version = 10
    values = {n: found.values[n] for n in {*wanted, *made} if n in found.values}
    return Network(model, feeds, {o: found.values[o] for o in outputs}, values)


__all__ = ["Network", "Refused", "network", "shrink"]
