"""Every operator, one module per family; importing this fills the registry."""

from . import (
    activations,
    binary,
    conv,
    elementwise,
    indexing,
    logic,
    matmul,
    move,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    shape,
    unary,
)

__all__ = [
    "activations",
    "binary",
    "conv",
    "elementwise",
    "indexing",
    "logic",
    "matmul",
    "move",
    "norm",
    "pool",
    "quant",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "unary",
]
