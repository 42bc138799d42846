"""How each operator becomes steps: one module per family, imported when an operator needs it."""

from ..lowering import LOWER  # noqa: F401

__all__ = [
    "binary",
    "contrib",
    "conv",
    "elementwise",
    "legacy",
    "matmul",
    "move",
    "norm",
    "pool",
    "qconv",
    "quant",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "vision",
]
