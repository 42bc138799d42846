"""A small writer of ONNX graphs for the tools that make the bundled models (opset 17).

The models carry their preprocessing and labels in ``metadata_props``, under keys that fastconv
reads:

``fastconv.preprocess``
    JSON object. An image is resized (``resize`` pixels on its shortest side, ``interpolation``),
    cropped in its centre to ``crop`` × ``crop``, converted to ``color`` ("RGB" or "L"), and becomes
    ``x = (pixel * scale - mean) / std`` in ``layout`` "NCHW".
``fastconv.labels``
    The class names, joined by newlines.
``fastconv.output``
    "logits" (softmax is still to be applied) or "probabilities".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the IR version of ONNX 1.12, which introduced opset 17


class GraphWriter:
    """Collects nodes and initializers; every method returns the name of the value it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an initializer holding ``array`` under ``name``."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def op(self, op_type: str, name: str, *inputs: str, output: str = "", **attrs: Any) -> str:
        """Add a node with one output, named ``output`` or else after the node."""
        output = output or name + "_out"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attrs))
        return output

    def conv(
        self,
        name: str,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray,
        stride: int = 1,
        pad: int = 0,
        group: int = 1,
    ) -> str:
        """Add Conv: ``weight`` is [M, C/group, kH, kW], ``bias`` is [M]; square stride and pad."""
        return self.op(
            "Conv",
            name,
            x,
            self.constant(name + ".weight", weight),
            self.constant(name + ".bias", bias),
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=[pad] * 4,
            dilations=[1, 1],
            group=group,
        )

    def linear(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray, **kw: Any) -> str:
        """Add Gemm computing ``x @ weight.T + bias``: ``weight`` is [out, in]."""
        weight_name = self.constant(name + ".weight", weight)
        return self.op(
            "Gemm", name, x, weight_name, self.constant(name + ".bias", bias), transB=1, **kw
        )

    def save(
        self,
        path: Path,
        graph_name: str,
        doc: str,
        input_shape: list[str | int],
        classes: int,
        metadata: dict[str, str],
    ) -> None:
        """Check the model and write it. Its input is "input", its output "logits" [N, classes]."""
        graph = helper.make_graph(
            self.nodes,
            graph_name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
            list(self.initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="fastconv",
            doc_string=doc,
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


def metadata(
    labels: list[str], resize: int, crop: int, mean: list[float], std: list[float], color: str
) -> dict[str, str]:
    """Return the model metadata described at the top of this file."""
    preprocess = {
        "resize": resize,
        "resize_mode": "shortest",
        "interpolation": "bilinear",
        "crop": crop,
        "mean": mean,
        "std": std,
        "scale": 1 / 255,
        "color": color,
        "layout": "NCHW",
    }
    return {
        "fastconv.preprocess": json.dumps(preprocess),
        "fastconv.labels": "\n".join(labels),
        "fastconv.output": "logits",
    }
