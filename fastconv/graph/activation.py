"""The element-wise functions that kernels apply, alone or in another kernel's epilogue."""

from __future__ import annotations

from ..records import record

#: Names in the order of ``enum Act`` in ``kernels/vmath.pxd``: a kind's code is its index.
KINDS = (
    "none", "clip", "leaky_relu", "sigmoid", "tanh", "silu", "hard_sigmoid", "hard_swish",
    "gelu", "gelu_tanh", "elu", "selu", "celu", "softplus", "softsign", "mish",
    "thresholded_relu", "exp", "log", "sqrt", "erf", "reciprocal", "abs", "neg", "square",
    "floor", "ceil", "round", "sign", "sin", "cos", "shrink", "pow",
)  # fmt: skip


@record(frozen=True)
class Activation:
    """One element-wise function and its parameters.

    Attributes:
        kind: a name of ``KINDS``.
        alpha, beta: its parameters where it has some: ``clip`` the lower and the upper bound;
            ``leaky_relu``, ``elu``, ``celu`` alpha; ``selu`` alpha and gamma; ``silu`` the factor
            inside the sigmoid (1 for SiLU); ``hard_sigmoid`` slope and offset;
            ``thresholded_relu`` the threshold; ``shrink`` lambd and bias; ``pow`` the exponent.
    """

    kind: str
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def code(self) -> int:
        """The number by which kernels know it."""
        return KINDS.index(self.kind)

    def __str__(self) -> str:
        return self.kind


RELU = Activation("clip", 0.0, float("inf"))
RELU6 = Activation("clip", 0.0, 6.0)
SILU = Activation("silu", 1.0)
