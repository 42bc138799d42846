"""Graph, Node, TensorType; one frozen dataclass per operator with its shape rule; verifier."""

from .core import UNKNOWN, Graph, Node, TensorType, live_nodes
from .op import REGISTRY, Op
from .symbols import Dim, Sym, SymbolicError, is_static

__all__ = [
    "REGISTRY",
    "UNKNOWN",
    "Dim",
    "Graph",
    "Node",
    "Op",
    "Sym",
    "SymbolicError",
    "TensorType",
    "is_static",
    "live_nodes",
]
