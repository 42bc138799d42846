"""What random networks grow in.

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
from onnx import helper, numpy_helper
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


class Choices:
    """Choices that bytes make: as many as there are, then the first of what there is to choose.

    Hypothesis draws the bytes. Each choice takes the same number of them, so that a byte made
    smaller is one choice made plainer; and as they are one draw, no two networks of a run are
    copies of each other but for one choice, which is what hypothesis makes of many small draws.

    Args:
        data: the bytes, ``WIDTH`` for a choice.
    """

    WIDTH = 2

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def randrange(self, low: int, high: int | None = None) -> int:
        """A number from ``low`` (or 0) on, less than ``high`` (or the one argument)."""
        low, high = (0, low) if high is None else (low, high)
        taken = self.data[self.at : self.at + self.WIDTH]
        self.at += self.WIDTH
        return low + int.from_bytes(taken, "big") % (high - low)

    def randint(self, low: int, high: int) -> int:
        return self.randrange(low, high + 1)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.randrange(len(options))]

    def sample(self, options: Sequence[Any], count: int) -> list[Any]:
        """Some of the options, each at most once."""
        left = list(options)
        return [left.pop(self.randrange(len(left))) for _ in range(count)]


class Refused(Exception):
    """The reference does not run a node, or its result is of no use here."""


@dataclass
class Grower:
    """A network in the making.

    Args:
        draw: where choices come from: the methods of random.Random that ``Choices`` has.
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
        return self.draw.randrange(100) >= 100 - percent  # the plainest is that it is not so

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

    Where the reference is known to be wrong the node is put to it in another form. Pooling with
    pads (it mixes up the axes, and the window that ceil_mode adds): for a maximum, padding with
    -inf before; for an average, that of the padded values over that of ones. Batch normalisation
    before opset 14 (it normalises by the batch): that of opset 15, which says the same. Grouped
    transposed convolution (some strides and biases): group by group.
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
    if node.op_type == "AveragePool":
        (x,) = node.input
        pads = np.array(max_pool_pads(feeds[x].shape[2:], attrs), np.int64).reshape(2, 4).T
        rest = {k: v for k, v in attrs.items() if k in ("kernel_shape", "strides", "dilations")}
        feeds = {"inside": np.pad(np.ones_like(feeds[x]), pads), "padded": np.pad(feeds[x], pads)}
        nodes = [helper.make_node("AveragePool", ["padded"], list(node.output), **rest)]
        if attrs.get("count_include_pad"):
            del feeds["inside"]
        else:
            nodes = [
                helper.make_node("AveragePool", ["padded"], ["sum"], **rest),
                helper.make_node("AveragePool", ["inside"], ["count"], **rest),
                helper.make_node("Div", ["sum", "count"], list(node.output)),
            ]
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
