"""Losses. Source of the maths: ONNX operators NegativeLogLikelihoodLoss-22 and
SoftmaxCrossEntropyLoss-13."""

from __future__ import annotations

import numpy as np

from ...errors import InputError
from ..core import TensorType
from ..op import Op, fields_only, need, register
from .norm import softmax


@fields_only
class Loss(Op):
    """Base. Inputs: scores (N, C, …), the class of each element (N, …), and weights (C)."""

    arity = (2, 3)
    ignore_index: int | None = None
    reduction: str = "mean"

    def infer(self, types, values):
        x, target = types[:2]
        need(
            self.reduction in ("none", "sum", "mean"),
            lambda: f"reduction {self.reduction!r} must be none, sum or mean",
        )
        need(x.rank is None or x.rank >= 2, lambda: f"the input must be (N, C, …), not {x}")
        if x.static and target.static:
            wanted = (x.shape[0], *x.shape[2:])
            need(target.shape == wanted, lambda: f"{target} must have shape {list(wanted)}")
        return [TensorType(x.dtype, target.shape if self.reduction == "none" else ())]

    def loss(self, x: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """The loss of log-probabilities."""
        classes = x.shape[1]
        ignored = np.zeros(target.shape, np.bool_)
        if self.ignore_index is not None:
            ignored = target == self.ignore_index
        wrong = ~ignored & ((target < 0) | (target >= classes))
        if wrong.any():
            raise InputError(f"class {target[wrong][0]} is not one of {classes}")
        at = np.where(ignored, 0, target).astype(np.intp)
        taken = -np.take_along_axis(x, np.expand_dims(at, 1), 1)[:, 0]
        ones = np.ones(classes, x.dtype) if weight is None else weight
        scale = np.where(ignored, 0, ones[at]).astype(x.dtype)
        each = taken * scale
        if self.reduction == "none":
            return each.astype(x.dtype)
        total = each.sum()
        with np.errstate(all="ignore"):
            return np.asarray(total if self.reduction == "sum" else total / scale.sum(), x.dtype)


@register
class NegativeLogLikelihoodLoss(Loss):
    """−weight · log-probability of the right class, summed or averaged (by weight)."""

    def compute(self, xs):
        return [self.loss(xs[0], xs[1], xs[2] if len(xs) > 2 else None)]


@register
class SoftmaxCrossEntropyLoss(Loss):
    """NegativeLogLikelihoodLoss of the log-softmax over axis 1, which is the second output."""

    n_outputs = 2

    def infer(self, types, values):
        return [*super().infer(types, values), types[0]]

    def compute(self, xs):
        x = softmax(xs[0], 1, True)
        return [self.loss(x, xs[1], xs[2] if len(xs) > 2 else None), x]
