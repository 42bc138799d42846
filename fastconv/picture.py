"""What a drawing of a model shows: boxes with their facts, and the values that join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from . import text
from .feeds import random_feeds
from .graph import Node, TensorType
from .inspect import CONSTANT, NATIVE, NUMPY, REFERENCE, VIEW, Layer, pad_text, side_text, study

if TYPE_CHECKING:
    from .model import Model

#: Kinds of boxes, by operator; what is not listed is "other".
FAMILIES: dict[str, tuple[str, ...]] = {
    "convolution": ("Conv", "ConvTranspose", "DeformConv", "ConvInteger", "QLinearConv"),
    "matrix product": (
        "Gemm", "MatMul", "Einsum", "MatMulInteger", "QLinearMatMul", "LSTM", "GRU", "RNN",
        "Attention",
    ),
    "pooling": (
        "MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool",
        "MaxUnpool", "MaxRoiPool", "RoiAlign",
    ),
    "normalisation": (
        "BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization",
        "LRN", "LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "Softmax",
        "LogSoftmax", "Hardmax",
    ),
    "activation": (
        "FusedActivation", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid",
        "HardSwish", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish", "Softplus", "Softsign", "Clip",
        "ThresholdedRelu", "Shrink", "Erf",
    ),
    "arithmetic": (
        "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Scale", "Sqrt", "Abs",
        "Neg", "Exp", "Log", "Where", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin",
        "ReduceL2", "ArgMax", "ArgMin", "TopK",
    ),
    "movement": (
        "Concat", "Split", "Slice", "Pad", "Transpose", "Reshape", "Flatten", "Squeeze",
        "Unsqueeze", "Expand", "Tile", "Gather", "DepthToSpace", "SpaceToDepth", "Resize",
        "Identity", "Cast", "GridSample", "ChannelShuffle", "Dropout",
    ),
}  # fmt: skip
FAMILY_OF = {op: family for family, ops in FAMILIES.items() for op in ops}
#: More fused nodes than this are counted rather than listed.
LISTED = 3


@dataclass(frozen=True)
class Box:
    """A layer, an input or an output.

    Attributes:
        kind: ``input``, ``output`` or a family of operators.
        title: the operator, fused ones joined by ``+``; of an input or output its name.
        name: the layer's name.
        window: kernel size, stride and the like in short.
        steps: names of the kernels.
        runs: as ``Layer.runs``; "" of inputs and outputs.
        milliseconds: time of one run, or None when not measured.
        share: the part of the whole run that this is, or None.
        facts: everything that is known, as (what, value) for people.
    """

    kind: str
    title: str
    name: str
    window: str = ""
    steps: str = ""
    runs: str = ""
    milliseconds: float | None = None
    share: float | None = None
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Wire:
    """A value on its way from one box to another.

    Attributes:
        tail, head: indices of boxes.
        value: its name.
        label: its shape as text, with the dtype unless that is float32.
        port, ports: which output of ``tail`` it is, and of how many that are read.
    """

    tail: int
    head: int
    value: str
    label: str
    port: int = 0
    ports: int = 1


@dataclass
class Picture:
    """What there is to draw.

    Attributes:
        title: one line about the model.
        boxes: in topological order.
        wires: the values between them.
        total: milliseconds of one run, or None.
    """

    title: str
    boxes: list[Box] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    total: float | None = None


def picture(
    model: Model, shapes: Mapping[str, Sequence[int]] | None = None, runs: int = 0
) -> Picture:
    """The graph of a model after optimisation (if it was loaded with that), ready to be drawn.

    Args:
        shapes: input shapes; sizes left open get defaults.
        runs: how often to run it on random numbers to measure each layer's time (the
            fastest counts, as what disturbs a run only adds to it); 0 for no times.

    Raises:
        OptionError, InputError: ``shapes`` does not fit the model.
        ShapeError: shapes in the graph do not fit together.
    """
    description, types = study(model, shapes)
    times, total = measure(model, description.inputs, runs) if runs else ({}, None)
    known = {n: TensorType(a.dtype, a.shape) for n, a in model.graph.consts.items()} | types
    t = description.totals
    title = (
        f"{t.layers} layers from {t.nodes} nodes; parameters {t.parameters:,}; "
        f"multiply-accumulates {t.macs:,}"
    )
    result = Picture(title, total=total)
    made: dict[str, tuple[int, int, int]] = {}  # value → box, port, ports
    for name in model.graph.inputs:
        made[name] = (len(result.boxes), 0, 1)
        result.boxes.append(Box("input", name, name, facts=_value_facts(name, types)))
    read = {i for n in model.graph.nodes for i in n.inputs} | set(model.graph.outputs)
    for node, layer in zip(model.graph.nodes, description.layers, strict=True):
        k = len(result.boxes)
        result.boxes.append(_box(node, layer, known, times.get(id(node)), total))
        _connect(result, node.inputs, k, made, types)
        outputs = [o for o in node.outputs if o in read]
        for port, name in enumerate(outputs):
            made[name] = (k, port, len(outputs))
    for name in dict.fromkeys(model.graph.outputs):
        k = len(result.boxes)
        result.boxes.append(Box("output", name, name, facts=_value_facts(name, types)))
        _connect(result, [name], k, made, types)
    return result


def _connect(
    result: Picture,
    names: Sequence[str],
    head: int,
    made: Mapping[str, tuple[int, int, int]],
    types: Mapping[str, TensorType],
) -> None:
    for name in dict.fromkeys(names):
        if name in made:
            tail, port, ports = made[name]
            result.wires.append(Wire(tail, head, name, type_text(types.get(name)), port, ports))


def type_text(t: TensorType | None) -> str:
    """``1×64×56×56``, with the dtype behind it unless that is float32; "" when not known."""
    if t is None or t.shape is None:
        return ""
    shape = text.times(t.shape) or "scalar"
    return shape if t.dtype in (None, np.float32) else f"{shape} {t.dtype}"


def _value_facts(name: str, types: Mapping[str, TensorType]) -> tuple[tuple[str, str], ...]:
    return (("name", name), ("type", str(types.get(name, "not known"))))


def _box(
    node: Node,
    layer: Layer,
    types: Mapping[str, TensorType],
    time: float | None,
    total: float | None,
) -> Box:
    label = node.op.label
    ops = [s.op for s in layer.sources] or [label]
    if len(ops) > LISTED:
        act = getattr(node.op, "activation", None)
        name = str(act) if label == "FusedActivation" and act is not None else label
        title = f"{name} ({len(ops)} nodes)"
    else:
        title = " + ".join(op.replace("Normalization", "Norm") for op in ops)
    share = None if time is None or not total else time / total
    return Box(
        kind=FAMILY_OF.get(label, "other"),
        title=title,
        name=layer.name,
        window=_window(layer),
        steps=", ".join(layer.kernels) if layer.runs in (NATIVE, NUMPY) else layer.runs,
        runs=layer.runs,
        milliseconds=time,
        share=share,
        facts=tuple(_facts(node, layer, types, time, share)),
    )


def _window(layer: Layer) -> str:
    """``3×3 /2 g32``: kernel size, stride unless 1, dilation unless 1, groups unless 1."""
    if layer.kernel_shape is None:
        return ""
    parts = [text.times(layer.kernel_shape)]
    for sign, sizes in (("/", layer.strides), ("d", layer.dilations)):
        if sizes and set(sizes) != {1}:
            parts.append(sign + side_text(sizes))
    if layer.group not in (None, 1):
        parts.append(f"g{layer.group}")
    return " ".join(parts)


def _facts(
    node: Node,
    layer: Layer,
    types: Mapping[str, TensorType],
    time: float | None,
    share: float | None,
) -> list[tuple[str, str]]:
    found = [("name", layer.name), ("operators", layer.op.replace("+", " + "))]
    if len(layer.sources) > 1:
        found.append(("made of", ", ".join(s.name for s in layer.sources)))
    for k, name in enumerate(n for n in node.inputs if n):
        found.append((f"input {k}", f"{name}: {types.get(name, 'not known')}"))
    for k, name in enumerate(n for n in node.outputs if n):
        found.append((f"output {k}", f"{name}: {types.get(name, 'not known')}"))
    if layer.kernel_shape is not None:
        found.append(("kernel", text.times(layer.kernel_shape)))
        found.append(("strides, pads", f"{side_text(layer.strides)}, {pad_text(layer.pads)}"))
        found.append(("dilations", side_text(layer.dilations)))
    if layer.group is not None:
        found.append(("groups", str(layer.group)))
    act = getattr(node.op, "activation", None)
    if act is not None:
        found.append(("activation", f"{act} {act.alpha:g} {act.beta:g}"))
    if layer.receptive_field:
        found.append(("receptive field", text.times(layer.receptive_field)))
    if layer.parameters:
        found.append(("parameters", text.count(layer.parameters)))
    if layer.macs:
        found.append(("multiply-accumulates", text.count(layer.macs)))
    found.append(("runs as", ", ".join(layer.kernels) or layer.runs))
    if layer.reason is not None:
        found.append(("because", f"{layer.runs}: {layer.reason}"))
    if time is not None:
        part = "" if share is None else f", {100 * share:.1f} % of the run"
        found.append(("time", f"{time:.3f} ms{part}"))
        if layer.macs and time > 0:
            found.append(("speed", f"{2 * layer.macs / time / 1e6:.1f} GFLOP/s"))
    return found


def measure(
    model: Model, shapes: Mapping[str, Sequence[int]], runs: int
) -> tuple[dict[int, float], float]:
    """Milliseconds by id of a node, and of all together: the least over ``runs`` runs."""
    feeds = random_feeds(model, shapes)
    model.run(feeds)
    best: dict[tuple[int, int], tuple[int, float]] = {}
    for _ in range(runs):
        parts: list[Any] = model.profile(feeds)
        for p, (plan, nanoseconds) in enumerate(parts):
            nodes = [*(step.node for step in plan.steps), *plan.eager]
            for k, (node, ns) in enumerate(zip(nodes, nanoseconds, strict=True)):
                time = min(float(ns) / 1e6, best.get((p, k), (0, inf))[1])
                best[p, k] = (id(node), time)
    sums: dict[int, float] = {}
    for key, time in best.values():
        sums[key] = sums.get(key, 0.0) + time
    return sums, sum(sums.values())


__all__ = [
    "CONSTANT", "FAMILIES", "NATIVE", "NUMPY", "REFERENCE", "VIEW", "Box", "Picture", "Wire",
    "measure", "picture", "type_text",
]  # fmt: skip
