"""How each operator becomes steps: one module per family; importing this enters them all."""

from ..lowering import LOWER
from . import (
    binary,
    conv,
    elementwise,
    matmul,
    move,
    norm,
    pool,
    qconv,
    quant,
    reduce,
    resize,
    shape,
)

__all__ = [
    "LOWER",
    "binary",
    "conv",
    "elementwise",
    "matmul",
    "move",
    "norm",
    "pool",
    "qconv",
    "quant",
    "reduce",
    "resize",
    "shape",
]
