"""LSTM, GRU and RNN, in NumPy. Source of the maths: ONNX operators LSTM-22, GRU-22 and RNN-22."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import UnsupportedError
from ..core import TensorType
from ..op import Op, fields_only, need, register
from .reduce import widen

Function = Callable[[np.ndarray], np.ndarray]

#: Activation → (formula of x, alpha, beta; default alpha; default beta), None where it takes none.
FUNCTIONS: dict[str, tuple[Callable[..., np.ndarray], float | None, float | None]] = {
    "relu": (lambda x, a, b: np.maximum(x, 0), None, None),
    "tanh": (lambda x, a, b: np.tanh(x), None, None),
    "sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), None, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: np.where(x > a, x, 0), 1.0, None),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, None),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "softplus": (lambda x, a, b: np.logaddexp(x, 0), None, None),
}


@fields_only
class Recurrent(Op):
    """Base. Inputs: X, W, R, B, sequence_lens, initial_h, …; outputs: Y, Y_h, ….

    With D directions (2 for ``bidirectional``) and H = ``hidden_size``: X is (time, batch, input),
    Y is (time, D, batch, H) and Y_h is (D, batch, H). With ``layout`` 1 batch comes first: X is
    (batch, time, input), Y (batch, time, D, H), Y_h (batch, D, H), and the initial states alike.
    Steps past a sequence's length give 0 in Y and leave the state as it was.
    """

    arity = (3, 6)
    n_outputs = 2
    gates: ClassVar[int] = 1
    defaults: ClassVar[tuple[str, ...]] = ("tanh",)
    activation_alpha: tuple[float, ...] | None = None
    activation_beta: tuple[float, ...] | None = None
    activations: tuple[str, ...] | None = None
    clip: float | None = None
    direction: str = "forward"
    hidden_size: int | None = None
    layout: int = 0

    @property
    def directions(self) -> int:
        """How many passes over the sequence there are."""
        known = {"forward": 1, "reverse": 1, "bidirectional": 2}
        need(
            self.direction in known, f"direction is {self.direction!r}; it must be of {list(known)}"
        )
        return known[self.direction]

    def functions(self) -> list[list[Function]]:
        """The activation functions of each direction.

        Raises:
            ShapeError: their number is wrong.
            UnsupportedError: one is unknown.
        """
        each = len(self.defaults)
        names = tuple(self.activations or self.defaults * self.directions)
        need(
            len(names) == each * self.directions,
            f"activations {list(names)} must be {each * self.directions}",
        )
        alphas, betas = iter(self.activation_alpha or ()), iter(self.activation_beta or ())
        made: list[Function] = []
        for name in names:
            if name.lower() not in FUNCTIONS:
                raise UnsupportedError(f"activation {name!r} of {self.label} is not known")
            formula, alpha, beta = FUNCTIONS[name.lower()]
            # Values are consumed in order, by those functions that take one.
            a = None if alpha is None else next(alphas, alpha)
            b = None if beta is None else next(betas, beta)
            made.append(lambda x, formula=formula, a=a, b=b: formula(self.clipped(x), a, b))  # type: ignore[misc]
        return [made[i * each : (i + 1) * each] for i in range(self.directions)]

    def clipped(self, x: np.ndarray) -> np.ndarray:
        """The input of an activation, limited to ±clip."""
        return x if not self.clip else np.clip(x, -self.clip, self.clip)

    def infer(self, types, values):
        x, w, r = types[:3]
        self.functions()
        n = self.n_outputs
        if x.shape is None or r.shape is None:
            return [TensorType(x.dtype, None)] * n
        need(len(x.shape) == 3, f"X must have rank 3, not {x}")
        need(len(r.shape) == 3, f"R must have rank 3, not {r}")
        d, h = self.directions, r.shape[2]
        shapes: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "R": (r, (d, self.gates * h if isinstance(h, int) else None, h))
        }
        if w.shape is not None:
            need(len(w.shape) == 3, f"W must have rank 3, not {w}")
            shapes["W"] = (w, (d, self.gates * h if isinstance(h, int) else None, x.shape[2]))
        if len(types) > 3 and types[3] is not None and types[3].shape is not None:
            shapes["B"] = (types[3], (d, 2 * self.gates * h if isinstance(h, int) else None))
        batch = x.shape[0 if self.layout else 1]
        state = (batch, d, h) if self.layout else (d, batch, h)
        peepholes = (d, 3 * h if isinstance(h, int) else None)
        more = (("sequence_lens", (batch,)), ("initial_h", state), ("initial_c", state))
        for k, (name, expected) in enumerate((*more, ("P", peepholes)), 4):
            if len(types) > k and types[k] is not None and types[k].shape is not None:
                shapes[name] = (types[k], expected)
        for name, (t, wanted) in shapes.items():
            need(len(t.shape) == len(wanted), f"{name} {t} must have rank {len(wanted)}")
            for have, want in zip(t.shape, wanted, strict=True):
                if isinstance(have, int) and isinstance(want, int):
                    need(have == want, f"{name} {t} must have shape {list(wanted)}")
        need(
            self.hidden_size is None or not isinstance(h, int) or h == self.hidden_size,
            f"hidden_size is {self.hidden_size}, but R is {r}",
        )
        if self.layout:
            batch, time = x.shape[:2]
            return [
                TensorType(x.dtype, s) for s in [(batch, time, d, h), *[(batch, d, h)] * (n - 1)]
            ]
        time, batch = x.shape[:2]
        return [TensorType(x.dtype, s) for s in [(time, d, batch, h), *[(d, batch, h)] * (n - 1)]]

    def compute(self, xs):
        given = [*xs, *[None] * (8 - len(xs))]
        x, w, r = (widen(a) for a in given[:3])
        states = [given[5], given[6]][: self.n_outputs - 1]
        if self.layout:
            x = np.swapaxes(x, 0, 1)
            states = [None if s is None else np.swapaxes(s, 0, 1) for s in states]
        time, batch, _ = x.shape
        d, h = self.directions, r.shape[2]
        b = np.zeros((d, 2 * self.gates * h), x.dtype) if given[3] is None else widen(given[3])
        peepholes = [None] * d if given[7] is None else widen(given[7])
        lens = given[4]
        first = [np.zeros((d, batch, h), x.dtype) if s is None else widen(s) for s in states]
        y = np.zeros((time, d, batch, h), x.dtype)
        last = [np.empty_like(s) for s in first]
        with np.errstate(all="ignore"):
            for k, functions in enumerate(self.functions()):
                backwards = self.direction == "reverse" or k == 1
                state = [s[k] for s in first]
                # One product for all time steps; what is left depends on the step before.
                inputs = self.project(x.reshape(time * batch, x.shape[2]), w[k], b[k])
                inputs = inputs.reshape(time, batch, w.shape[1])
                weights = r[k].T if time < 8 else np.ascontiguousarray(r[k].T)
                for t in reversed(range(time)) if backwards else range(time):
                    new = self.step(inputs[t], state, weights, b[k], peepholes[k], functions)
                    if lens is None:
                        y[t, k] = new[0]
                        state = new
                        continue
                    active = (t < lens)[:, None]
                    y[t, k] = np.where(active, new[0], 0)
                    state = [np.where(active, a, o) for a, o in zip(new, state, strict=True)]
                for target, s in zip(last, state, strict=True):
                    target[k] = s
        if self.layout:
            y = y.transpose(2, 0, 1, 3)
            last = [s.swapaxes(0, 1) for s in last]
        return [a.astype(xs[0].dtype, copy=False) for a in (y, *last)]

    def project(self, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What the inputs give to the gates: x (rows, input) → (rows, gates·H), biases added."""
        half = len(b) // 2
        return x @ w.T + (b[:half] + b[half:])

    def step(
        self,
        x: np.ndarray,
        state: Sequence[np.ndarray],
        r: np.ndarray,
        b: np.ndarray,
        p: np.ndarray | None,
        functions: Sequence[Function],
    ) -> list[np.ndarray]:
        """One time step of one direction: projected inputs and the states → the new states.

        ``r`` is (H, gates·H): transposed.
        """
        raise NotImplementedError


@register
class RNN(Recurrent):
    """H' = f(X·Wᵀ + H·Rᵀ + Wb + Rb)."""

    def step(self, x, state, r, b, p, functions):
        return [functions[0](x + state[0] @ r)]


@register
class GRU(Recurrent):
    """Gated recurrent unit; gates in the order update (z), reset (r), hidden (h)."""

    gates = 3
    defaults = ("sigmoid", "tanh")
    linear_before_reset: int = 0

    def project(self, x, w, b):
        # The hidden gate's second bias is scaled by the reset gate in one form: added later.
        n = len(b) // 6
        second = b[3 * n :].copy()
        second[2 * n :] = 0
        return x @ w.T + (b[: 3 * n] + second)

    def step(self, x, state, r, b, p, functions):
        h = state[0]
        f, g = functions
        n = h.shape[1]
        bias = b[5 * n :]
        if self.linear_before_reset:
            z = h @ r
            gates = f(x[:, : 2 * n] + z[:, : 2 * n])
            hidden = g(x[:, 2 * n :] + gates[:, n:] * (z[:, 2 * n :] + bias))
        else:
            gates = f(x[:, : 2 * n] + h @ r[:, : 2 * n])
            hidden = g(x[:, 2 * n :] + (gates[:, n:] * h) @ r[:, 2 * n :] + bias)
        update = gates[:, :n]
        return [(1 - update) * hidden + update * h]


@register
class LSTM(Recurrent):
    """Long short-term memory; gates in the order input, output, forget, cell; peepholes i, o, f."""

    arity = (3, 8)
    n_outputs = 3
    gates = 4
    defaults = ("sigmoid", "tanh", "tanh")
    input_forget: int = 0

    def step(self, x, state, r, b, p, functions):
        h, c = state
        f, g, out = functions
        n = h.shape[1]
        z = h @ r
        z += x
        cell = g(z[:, 3 * n :])
        if p is None:
            gates = f(z[:, : 3 * n])
            i, o, forget = gates[:, :n], gates[:, n : 2 * n], gates[:, 2 * n :]
        else:
            i = f(z[:, :n] + p[:n] * c)
            forget = f(z[:, 2 * n : 3 * n] + p[2 * n :] * c)
        if self.input_forget:
            forget = 1 - i
        new = forget * c + i * cell
        if p is not None:
            o = f(z[:, n : 2 * n] + p[n : 2 * n] * new)
        return [o * out(new), new]


__all__: list[Any] = ["GRU", "LSTM", "RNN", "Recurrent"]
