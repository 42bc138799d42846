"""Activations that exporters write out as several nodes → one ``FusedActivation``.

Formulas: SiLU and GELU (Hendrycks & Gimpel, arXiv:1606.08415), Mish (Misra, arXiv:1908.08681),
hard-sigmoid and hard-swish (Howard et al., arXiv:1905.02244; ONNX HardSigmoid-22, HardSwish-22).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..graph import Graph
from ..graph.activation import Activation
from ..graph.ops.activations import FusedActivation
from .match import Act, C, Match, Or, P, Pattern, Replacement, Rule, rewrite
from .unary import is_float32


def times(x: Pattern, value: float) -> Or:
    """``x`` times a number, written as a product or as a quotient."""
    return Or((P("Mul", x, value), P("Div", x, 1 / value)))


def becomes(kind: str, alpha: float = 0.0, beta: float = 0.0) -> Callable[[Match], object]:
    """A replacement by one activation of ``x``."""
    return lambda m: apply(m, Activation(kind, alpha, beta))


def apply(m: Match, act: Activation, *scalars: str) -> Replacement | None:
    """One activation of ``x``, if it is float32 and no constant of the formula changes its shape.

    Args:
        scalars: names of the pattern's constants that became parameters.
    """
    rank = m.type("x").rank or 0
    arrays = [*m.scalars, *(m.array(s) for s in scalars)]
    if not is_float32(m.graph, m["x"]) or any(a.ndim > rank for a in arrays):
        return None
    return Replacement(FusedActivation(act), [m["x"]])


def _scaled_silu(m: Match) -> Replacement | None:
    """x · sigmoid(c·x), which ONNX calls Swish with alpha c."""
    c = m.array("c")
    return apply(m, Activation("silu", float(c.reshape(()))), "c") if c.size == 1 else None


def _leaky(m: Match) -> Replacement | None:
    """max(x, c·x) is LeakyRelu for 0 < c ≤ 1 (at c = 0 an infinite x would give NaN)."""
    c = m.array("c")
    if c.size != 1 or not 0 < float(c.reshape(())) <= 1:
        return None
    return apply(m, Activation("leaky_relu", float(c.reshape(()))), "c")


def _bounded(m: Match) -> Replacement | None:
    """min(max(x, a), b)."""
    a, b = m.array("a"), m.array("b")
    if a.size != 1 or b.size != 1:
        return None
    low, high = float(a.reshape(())), float(b.reshape(()))
    if math.isnan(low) or math.isnan(high):
        return None
    return apply(m, Activation("clip", low, high), "a", "b")


def _gelu(x: Pattern, e: Pattern) -> Or:
    """0.5 · x · e in every order of the products."""
    return Or((P("Mul", times(x, 0.5), e), times(P("Mul", x, e), 0.5), P("Mul", x, times(e, 0.5))))


SHIFTED_6 = Act("clip", P("Add", "x", 3.0), 0.0, 6.0)
CUBE = Or(
    (P("Pow", "x", 3.0), P("Mul", "x", P("Mul", "x", "x")), P("Mul", "x", P("Pow", "x", 2.0)))
)
SQUARE = Or((P("Pow", "x", 2.0), P("Mul", "x", "x")))
ERF = P("Add", Act("erf", times("x", math.sqrt(0.5))), 1.0)
TANH_SUM = times(P("Add", "x", times(CUBE, 0.044715)), math.sqrt(2 / math.pi))
TANH_PRODUCT = P(
    "Mul",
    times("x", math.sqrt(2 / math.pi)),
    P("Add", times(SQUARE, 0.044715), 1.0),
)
SOFTPLUS = Or((Act("softplus", "x"), Act("log", P("Add", Act("exp", "x"), 1.0))))

#: The bound that is the whole Act pattern is tried per node, so a rule may have several patterns.
_FORMULAS: list[tuple[str, Or | P, Callable[[Match], object]]] = [
    ("SiLU", P("Mul", "x", Act("sigmoid", "x")), becomes("silu", 1.0)),
    ("scaled SiLU", P("Mul", "x", Act("sigmoid", P("Mul", "x", C("c")))), _scaled_silu),
    (
        "hard-swish",
        P("Mul", "x", Act("hard_sigmoid", "x", 1 / 6, 0.5)),
        becomes("hard_swish"),
    ),
    ("hard-swish", times(P("Mul", "x", SHIFTED_6), 1 / 6), becomes("hard_swish")),
    ("hard-swish", P("Mul", times("x", 1 / 6), SHIFTED_6), becomes("hard_swish")),
    ("hard-sigmoid", times(SHIFTED_6, 1 / 6), becomes("hard_sigmoid", 1 / 6, 0.5)),
    ("GELU", _gelu("x", ERF), becomes("gelu")),
    ("GELU, tanh", _gelu("x", P("Add", Act("tanh", TANH_SUM), 1.0)), becomes("gelu_tanh")),
    ("GELU, tanh", _gelu("x", P("Add", Act("tanh", TANH_PRODUCT), 1.0)), becomes("gelu_tanh")),
    ("Mish", P("Mul", "x", Act("tanh", SOFTPLUS)), becomes("mish")),
    ("LeakyRelu", P("Max", "x", P("Mul", "x", C("c"))), _leaky),
    ("Clip", P("Min", P("Max", "x", C("a")), C("b")), _bounded),
]


def _rules() -> list[Rule]:
    """One rule per alternative, as the root of a rule is a single node."""
    rules = []
    for name, pattern, replace in _FORMULAS:
        for option in pattern.options if isinstance(pattern, Or) else (pattern,):
            for p in option.options if isinstance(option, Or) else (option,):
                assert isinstance(p, (P, Act))
                rules.append(Rule(name, p, replace))  # type: ignore[arg-type]
    return rules


ACTIVATIONS = _rules()


def fuse_written_out(graph: Graph) -> Graph:
    """Replace activations written out as several nodes by one ``FusedActivation``."""
    return rewrite(graph, ACTIVATIONS)
