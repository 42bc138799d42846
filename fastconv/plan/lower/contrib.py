"""What onnxruntime's own operators need beyond ONNX's: another way to say Transpose."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ...graph.ops.contrib import MatrixTranspose
from ...graph.ops.move import Transpose
from ..lowering import Lowering, lowers
from .move import transpose


@lowers(MatrixTranspose)
def matrix_transpose(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, MatrixTranspose)
    perm = op.order(len(low.shape(node.inputs[0])))
    return transpose(low, Node(Transpose(perm), node.inputs, node.outputs, node.name, node.sources))
