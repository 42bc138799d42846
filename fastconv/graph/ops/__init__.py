"""Every operator, one module per family; importing this fills the registry."""

from . import conv, elementwise, indexing, matmul, move, norm, pool, reduce, resize, shape

__all__ = [
    "conv",
    "elementwise",
    "indexing",
    "matmul",
    "move",
    "norm",
    "pool",
    "reduce",
    "resize",
    "shape",
]
