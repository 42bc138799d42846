"""Small models and a way to call the command line, for the tests of both."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MODELS = pathlib.Path(__file__).parents[1] / "models"
LENET = str(MODELS / "lenet5.onnx")
MOBILENET = str(MODELS / "mobilenet_v2.onnx")
IMAGES = MODELS / "images"


def build(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    outputs: list[str],
    consts: dict[str, np.ndarray] | None = None,
    metadata: dict[str, str] | None = None,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """A model's bytes; outputs are float32 of unstated shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in (consts or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


def node(op: str, inputs: list[str], outputs: list[str], name: str = "", **attrs: Any) -> Any:
    """A node named after its operator unless told otherwise."""
    return helper.make_node(op, inputs, outputs, name=name or op.lower(), **attrs)


def conv_net(height: Any = 32, width: Any = 32, batch: Any = 1) -> bytes:
    """The textbook's layer: ten 5×5 filters, stride 1, pad 2, on a 32×32×3 volume."""
    rng = np.random.default_rng(0)
    return build(
        [node("Conv", ["x", "w", "b"], ["y"], pads=[2, 2, 2, 2])],
        {"x": [batch, 3, height, width]},
        ["y"],
        {
            "w": rng.standard_normal((10, 3, 5, 5)).astype(np.float32),
            "b": np.zeros(10, np.float32),
        },
    )


def scores(batch: Any = 1, **options: Any) -> bytes:
    """Three classes: the means of the planes of a 3×2×2 image."""
    nodes = [
        node("GlobalAveragePool", ["x"], ["m"], "mean"),
        node("Flatten", ["m"], ["y"], "flatten"),
    ]
    return build(nodes, {"x": [batch, 3, 2, 2]}, ["y"], **options)


__all__ = [
    "IMAGES",
    "LENET",
    "MOBILENET",
    "MODELS",
    "build",
    "conv_net",
    "node",
    "onnx",
    "scores",
]
