"""How each operator becomes steps: one module per family; importing this enters them all."""

from ..lowering import LOWER
<<<<<<< HEAD
from . import binary, conv, elementwise, matmul, move, norm, pool, reduce, resize

__all__ = [
    "LOWER",
    "binary",
=======
from . import conv, elementwise, matmul, move, norm, pool, reduce, resize, shape

__all__ = [
    "LOWER",
>>>>>>> move
    "conv",
    "elementwise",
    "matmul",
    "move",
    "norm",
    "pool",
    "reduce",
    "resize",
<<<<<<< HEAD
=======
    "shape",
>>>>>>> move
]
