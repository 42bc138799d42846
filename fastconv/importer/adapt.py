"""Older forms of operators, rewritten into the newest form before the attributes are read.

One function per operator and change; ``@until(opset)`` names the first opset that no longer needs
it. Sources: the operators' changelogs in the ONNX specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UnsupportedError


class Draft:
    """A node on its way into the graph; adaptations change it in place.

    Attributes:
        op_type, domain, inputs, outputs: as in the file, then as adapted.
        attrs: attribute values by name; what is left must be fields of the operator.
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
    ) -> None:
        self.op_type = op_type
        self.domain = domain
        self.inputs = inputs
        self.outputs = outputs
        self.attrs = attrs
        self.opset = opset
        self._constant = constant

    def set_input(self, index: int, array: np.ndarray) -> None:
        """Make a constant the input number ``index``."""
        while len(self.inputs) <= index:
            self.inputs.append("")
        self.inputs[index] = self._constant(array)

    def attr_to_input(self, name: str, index: int, dtype: Any) -> None:
        """Move an attribute, when there is one, to an input."""
        if name in self.attrs:
            self.set_input(index, np.array(self.attrs.pop(name), dtype))


Adaptation = Callable[[Draft], None]
#: op_type → (first opset that does not need it, function), in order.
ADAPTATIONS: dict[str, list[tuple[int, Adaptation]]] = {}


def until(opset: int, *op_types: str) -> Callable[[Adaptation], Adaptation]:
    """Decorator: applies to these operators below this opset."""

    def enter(function: Adaptation) -> Adaptation:
        for t in op_types:
            ADAPTATIONS.setdefault(t, []).append((opset, function))
        return function

    return enter


def adapt(draft: Draft) -> None:
    """Bring a draft to the newest form."""
    if draft.domain == "":
        for opset, function in ADAPTATIONS.get(draft.op_type, ()):
            if draft.opset < opset:
                function(draft)


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


@until(20, "GridSample")
def _grid_sample(d: Draft) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    if "mode" in d.attrs:
        d.attrs["mode"] = names.get(d.attrs["mode"], d.attrs["mode"])
