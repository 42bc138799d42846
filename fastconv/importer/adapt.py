"""Older forms of operators, rewritten into the newest form before the attributes are read.

One function per operator and change; ``@until(opset)`` names the first opset that no longer needs
it. Sources: the operators' changelogs in the ONNX specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import ModelError, UnsupportedError
from ..formats import NAMES
from .defs import DATA_TYPES, Model


class Draft:
    """A node on its way into the graph; adaptations change it in place.

    Attributes:
        op_type, domain, inputs, outputs: as in the file, then as adapted.
        attrs: attribute values by name; what is left must be fields of the operator.
        insert: puts an operator in front of this node; takes its inputs, and the names of its
            outputs where it has several or they matter; returns the first output.
        constant: a name for an array.
        value: the array of that name, or None for what is no constant.
        fresh: a name that nothing has.
        model: the structures of the file.
        turned: NHWC images that a node before made of NCHW ones, and these.
        formats: ONNX data types of values that are held in another dtype (``fastconv.formats``).
    """

    def __init__(
        self,
        op_type: str,
        domain: str,
        inputs: list[str],
        outputs: list[str],
        attrs: dict[str, Any],
        opset: int,
        constant: Callable[[np.ndarray], str],
        insert: Callable[..., str],
        formats: Mapping[str, int],
        value: Callable[[str], np.ndarray | None],
        fresh: Callable[[str], str],
        model: Model,
        turned: dict[str, str],
    ) -> None:
        self.op_type = op_type
        self.domain = domain
        self.inputs = inputs
        self.outputs = outputs
        self.attrs = attrs
        self.opset = opset
        self.insert = insert
        self.formats = formats
        self.constant = constant
        self.value = value
        self.fresh = fresh
        self.model = model
        self.turned = turned

    def set_input(self, index: int, array: np.ndarray) -> None:
        """Make a constant the input number ``index``."""
        while len(self.inputs) <= index:
            self.inputs.append("")
        self.inputs[index] = self.constant(array)

    def attr_to_input(self, name: str, index: int, dtype: Any) -> None:
        """Move an attribute, when there is one, to an input."""
        if name in self.attrs:
            self.set_input(index, np.array(self.attrs.pop(name), dtype))


Adaptation = Callable[[Draft], None]
#: op_type → (first opset that does not need it, function), in order.
ADAPTATIONS: dict[str, list[tuple[int, Adaptation]]] = {}


def until(opset: int, *op_types: str) -> Callable[[Adaptation], Adaptation]:
    """Decorator: applies to these operators ("*": to all) below this opset."""

    def enter(function: Adaptation) -> Adaptation:
        for t in op_types:
            ADAPTATIONS.setdefault(t, []).append((opset, function))
        return function

    return enter


def adapt(draft: Draft) -> None:
    """Bring a draft to the newest form."""
    if draft.domain == "":
        for opset, function in (*ADAPTATIONS["*"], *ADAPTATIONS.get(draft.op_type, ())):
            if draft.opset < opset:
                function(draft)


@until(6, "*")
def _consumed(d: Draft) -> None:
    d.attrs.pop("consumed_inputs", None)  # a hint about memory


@until(7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def _broadcast_attribute(d: Draft) -> None:
    """Opset 6: the second input's axes are those of the first from ``axis`` on."""
    axis, broadcast = d.attrs.pop("axis", None), d.attrs.pop("broadcast", 0)
    from ..graph.ops.legacy import AxisBroadcast

    if broadcast and axis is not None:
        d.inputs[1] = d.insert(AxisBroadcast(int(axis)), [d.inputs[1], d.inputs[0]])


@until(7, "PRelu")
def _channel_slopes(d: Draft) -> None:
    from ..graph.ops.legacy import AxisBroadcast

    d.inputs[1] = d.insert(AxisBroadcast(1), [d.inputs[1], d.inputs[0]])


@until(7, "Gemm")
def _gemm_broadcast(d: Draft) -> None:
    d.attrs.pop("broadcast", None)


@until(7, "RNN", "LSTM", "GRU")
def _output_sequence(d: Draft) -> None:
    d.attrs.pop("output_sequence", None)


@until(6, "Cast")
def _cast_by_name(d: Draft) -> None:
    if isinstance(d.attrs.get("to"), str):
        names = {name: code for code, name in DATA_TYPES.items()}
        if d.attrs["to"].upper() not in names:
            raise ModelError(f"Cast to {d.attrs['to']!r}, which is no type")
        d.attrs["to"] = names[d.attrs["to"].upper()]


@until(4, "Concat")
def _concat_axis(d: Draft) -> None:
    d.attrs.setdefault("axis", 1)


@until(5, "Reshape")
def _reshape(d: Draft) -> None:
    d.attr_to_input("shape", 1, np.int64)


@until(2, "Pad")
def _paddings(d: Draft) -> None:
    if "paddings" in d.attrs:
        d.attrs["pads"] = d.attrs.pop("paddings")


@until(7, "Upsample")
def _upsample_sides(d: Draft) -> None:
    if "width_scale" in d.attrs or "height_scale" in d.attrs:
        sides = [d.attrs.pop("height_scale", 1.0), d.attrs.pop("width_scale", 1.0)]
        d.attrs["scales"] = [1.0, 1.0, *sides]


@until(1 << 30, "Cast", "CastLike")
def _narrow_cast(d: Draft) -> None:
    """Casts to types that are held in a wider one round to their values."""
    code = d.attrs.get("to")
    if d.op_type == "CastLike" and len(d.inputs) == 2:
        code = d.formats.get(d.inputs[1])
    if code in NAMES:
        del d.inputs[1:]
        d.attrs["to"] = code
        d.op_type, d.domain = "CastNarrow", "fastconv"


@until(20, "DFT")
def _dft_axis(d: Draft) -> None:
    d.set_input(2, np.array(d.attrs.pop("axis", 1), np.int64))


@until(1 << 30, "Optional")
def _optional_type(d: Draft) -> None:
    d.attrs.pop("type", None)  # nothing depends on it


@until(
    1 << 30, "EyeLike", "DequantizeLinear", "HannWindow", "HammingWindow", "BlackmanWindow",
    "MelWeightMatrix",
)  # fmt: skip
def _held_dtype(d: Draft) -> None:
    for name in ("dtype", "output_dtype", "output_datatype"):
        if d.attrs.get(name) in NAMES:
            d.attrs[name] = 1


@until(1 << 30, "QuantizeLinear")
def _zero_point_type(d: Draft) -> None:
    if len(d.inputs) > 2 and d.inputs[2] in d.formats and not d.attrs.get("output_dtype"):
        d.attrs["output_dtype"] = d.formats[d.inputs[2]]


@until(11, "Clip")
def _clip(d: Draft) -> None:
    d.attr_to_input("min", 1, np.float32)
    d.attr_to_input("max", 2, np.float32)


@until(12, "Dropout")
def _dropout(d: Draft) -> None:
    d.attr_to_input("ratio", 1, np.float32)
    d.attrs.pop("is_test", None)


@until(14, "BatchNormalization")
def _batch_normalization(d: Draft) -> None:
    if d.attrs.pop("spatial", 1) != 1:
        raise UnsupportedError("BatchNormalization with spatial=0 (opset below 9) is not supported")
    d.attrs.pop("is_test", None)
    if any(d.outputs[1:]):
        _refuse_statistics()
    del d.outputs[1:]


@until(1 << 30, "BatchNormalization")
def _batch_statistics(d: Draft) -> None:
    if d.attrs.get("training_mode") == 1:
        _refuse_statistics()


def _refuse_statistics() -> None:
    raise UnsupportedError(
        "BatchNormalization in training mode (training_mode=1, or more than one output below "
        "opset 14) computes statistics of the batch; export the model in evaluation mode"
    )


@until(10, "Slice")
def _slice(d: Draft) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), 1):
        d.attr_to_input(name, index, np.int64)


@until(11, "Pad")
def _pad(d: Draft) -> None:
    d.attr_to_input("pads", 1, np.int64)
    d.attr_to_input("value", 2, np.float32)


@until(13, "Squeeze", "Unsqueeze", "ReduceSum")
@until(
    18, "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip
def _axes(d: Draft) -> None:
    d.attr_to_input("axes", 1, np.int64)


@until(13, "Split")
def _split(d: Draft) -> None:
    d.attr_to_input("split", 1, np.int64)


@until(18, "Split")
def _split_evenly(d: Draft) -> None:
    if len(d.inputs) < 2 or not d.inputs[1]:
        d.attrs["num_outputs"] = len(d.outputs)


@until(13, "Softmax", "LogSoftmax", "Hardmax")
def _flat_softmax(d: Draft) -> None:
    d.attrs.setdefault("axis", 1)
    d.op_type, d.domain = "Flat" + d.op_type, "fastconv"


@until(10, "TopK")
def _topk(d: Draft) -> None:
    if "k" in d.attrs:
        d.set_input(1, np.array([d.attrs.pop("k")], np.int64))


@until(9, "Upsample")
def _upsample_scales(d: Draft) -> None:
    d.attr_to_input("scales", 1, np.float32)


@until(1 << 30, "Upsample")
def _upsample(d: Draft) -> None:
    d.op_type = "Resize"
    _old_resize(d)


@until(11, "Resize")
def _old_resize(d: Draft) -> None:
    """Resize-10 and Upsample: output pixel i reads input pixel i / scale.

    Nearest rounds that down, or up where an axis shrinks, as the examples of Resize-10 do.
    """
    from ..graph.ops.resize import OPSET_10

    d.inputs[1:] = ["", *d.inputs[1:2]]
    d.attrs["coordinate_transformation_mode"] = "asymmetric"
    d.attrs["nearest_mode"] = OPSET_10
    if d.attrs.get("mode") == "bilinear":
        d.attrs["mode"] = "linear"


@until(21, "GroupNormalization")
def _group_normalization(d: Draft) -> None:
    d.op_type, d.domain = "GroupNormalization18", "fastconv"


@until(1 << 30, "Scatter")
def _scatter(d: Draft) -> None:
    d.op_type = "ScatterElements"


@until(16, "RoiAlign")
def _roi_align(d: Draft) -> None:
    d.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")


@until(20, "GridSample")
def _grid_sample(d: Draft) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    if "mode" in d.attrs:
        d.attrs["mode"] = names.get(d.attrs["mode"], d.attrs["mode"])
