"""Every operator, one module per family; the registry imports them when they are needed."""

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
    "recurrent_quant",
    "reduce",
    "resize",
    "shape",
    "unary",
]
