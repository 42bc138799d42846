"""Attention and rotary position embedding, in NumPy.

Source of the maths: ONNX operators Attention-25 and RotaryEmbedding-23; "Attention is all you need"
(arXiv 1706.03762) and "RoFormer" (arXiv 2104.09864).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UnsupportedError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, need, register
from .reduce import widen

#: What the fourth output is: scaled products, these soft-capped, with the mask, or weights.
PRODUCTS, CAPPED, BIASED, WEIGHTS = range(4)


def heads_first(x: np.ndarray, heads: int) -> np.ndarray:
    """(batch, length, heads · size) as (batch, heads, length, size)."""
    n, length, width = x.shape
    need(heads >= 1 and width % heads == 0, lambda: f"{width} features are no {heads} heads")
    return x.reshape(n, length, heads, width // heads).transpose(0, 2, 1, 3)


@register
class Attention(Op):
    """softmax(scale · Q·Kᵀ + mask) · V for each head.

    Inputs: Q (batch, q_heads, q_length, size), K and V (batch, kv_heads, kv_length, size), or all
    three as (batch, length, heads · size) with ``q_num_heads`` and ``kv_num_heads``; attn_mask
    (boolean, true where allowed, or added), past_key and past_value (put in front of K and V),
    nonpad_kv_seqlen (batch). Each of the kv_heads serves q_heads / kv_heads. Outputs: Y as Q,
    present_key, present_value, and the products that ``qk_matmul_output_mode`` names. A query that
    may attend to nothing gives 0.
    """

    arity = (3, 7)
    n_outputs = 4
    is_causal: int = 0
    kv_num_heads: int | None = None
    left_window_size: int = -1
    q_num_heads: int | None = None
    qk_matmul_output_mode: int = 0
    right_window_size: int = -1
    scale: float | None = None
    softcap: float = 0.0
    softmax_precision: int | None = None

    def infer(self, types, values):
        q, k, v = types[:3]
        past = types[4] if len(types) > 4 else None
        need(self.qk_matmul_output_mode in range(4), "qk_matmul_output_mode must be 0 to 3")
        need(
            min(self.left_window_size, self.right_window_size) >= -1, "a window must be −1 or more"
        )
        unknown = [TensorType(q.dtype, None)] * 4
        if q.shape is None or k.shape is None or v.shape is None:
            return unknown
        need(
            len(q.shape) in (3, 4) and len(q.shape) == len(k.shape) == len(v.shape),
            lambda: f"Q, K and V must all have rank 3 or 4, not {q}, {k}, {v}",
        )
        if len(q.shape) == 3:
            heads, groups = self.heads()
            sizes = [s.shape[2] for s in (q, k, v)]
            if not all(isinstance(s, int) for s in sizes):
                return unknown
            for size, count in zip(sizes, (heads, groups, groups), strict=True):
                need(count >= 1 and size % count == 0, lambda: f"{q}, {k}, {v} do not split")
            y = TensorType(q.dtype, (*q.shape[:2], heads * (sizes[2] // groups)))
            new = (k.shape[0], groups, k.shape[1], sizes[1] // groups)
            value = (*new[:3], sizes[2] // groups)
            rows = (q.shape[0], heads, q.shape[1])
        else:
            y = TensorType(q.dtype, (*q.shape[:3], v.shape[3]))
            new, value, rows = k.shape, v.shape, q.shape[:3]
            counts = q.shape[1], k.shape[1]
            if all(isinstance(c, int) and c for c in counts):
                need(counts[0] % counts[1] == 0, lambda: f"{counts[0]} heads over {counts[1]}")
        length = new[2]
        if past is not None:
            before = past.shape[2] if past.shape is not None else None
            known = isinstance(before, int) and isinstance(length, int)
            length = before + length if known else None
        return [
            y,
            TensorType(k.dtype, (*new[:2], length, new[3])),
            TensorType(v.dtype, (*value[:2], length, value[3])),
            TensorType(q.dtype, (*rows, length)),
        ]

    def heads(self) -> tuple[int, int]:
        """q_num_heads and kv_num_heads, which inputs of rank 3 need."""
        need(
            bool(self.q_num_heads and self.kv_num_heads),
            "inputs of rank 3 need q_num_heads and kv_num_heads",
        )
        return self.q_num_heads or 1, self.kv_num_heads or 1

    def compute(self, xs):
        q, k, v, mask, past_key, past_value, lengths = [*xs, *[None] * 4][:7]
        dtype, flat = q.dtype, q.ndim == 3
        if flat:
            heads, groups = self.heads()
            q, k, v = heads_first(q, heads), heads_first(k, groups), heads_first(v, groups)
        need((past_key is None) == (past_value is None), "past_key and past_value go together")
        if past_key is not None:
            k = np.concatenate([past_key, k], axis=2)
            v = np.concatenate([past_value, v], axis=2)
        present = k, v
        need(q.shape[1] % k.shape[1] == 0, lambda: f"{q.shape[1]} heads over {k.shape[1]}")
        checked_size((*q.shape[:3], k.shape[2]), 8, "attention weights")
        scale = self.scale if self.scale is not None else 1 / np.sqrt(q.shape[3])
        bias = self.bias(q, k.shape[2], mask, past_key, lengths)
        with np.errstate(all="ignore"):
            products = grouped(widen(q) * widen(q).dtype.type(scale), widen(k).swapaxes(2, 3))
            shown = products
            if self.softcap > 0:
                products = self.softcap * np.tanh(products / self.softcap)
                shown = products if self.qk_matmul_output_mode == CAPPED else shown
            if bias is not None:
                products = products + bias
            shown = products if self.qk_matmul_output_mode == BIASED else shown
            weights = self.weights(products, bias)
            shown = weights if self.qk_matmul_output_mode == WEIGHTS else shown
            y = grouped(weights, widen(v))
        if flat:
            y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)
        outputs = (y, *present, shown)
        return [np.ascontiguousarray(o).astype(dtype, copy=False) for o in outputs]

    def weights(self, products: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        """Softmax over the last axis; 0 for queries that may attend to nothing."""
        wide = products.dtype
        if self.softmax_precision is not None:
            kinds: dict[int, Any] = {1: np.float32, 10: np.float16, 11: np.float64}
            if self.softmax_precision not in (*kinds, 16):
                raise UnsupportedError(f"softmax_precision {self.softmax_precision}")
            products = products.astype(kinds.get(self.softmax_precision, np.float32))
        highest = products.max(axis=-1, keepdims=True, initial=-np.inf)
        e = np.exp(products - np.where(np.isneginf(highest), 0, highest))
        total = e.sum(axis=-1, keepdims=True)
        e /= np.where(total == 0, 1, total)
        if bias is not None:
            e = np.where(np.isneginf(bias.max(axis=-1, keepdims=True, initial=-np.inf)), 0, e)
        return e.astype(wide, copy=False)

    def bias(
        self,
        q: np.ndarray,
        length: int,
        mask: np.ndarray | None,
        past: np.ndarray | None,
        lengths: np.ndarray | None,
    ) -> np.ndarray | None:
        """What is added to the products, which broadcasts to them; None for nothing."""
        wide = widen(q).dtype
        bias = None
        if mask is not None:
            bias = np.where(mask, 0, -np.inf) if mask.dtype == np.bool_ else mask
            bias = bias.astype(wide, copy=False)
            if (short := length - bias.shape[-1]) > 0:
                pads = [(0, 0)] * (bias.ndim - 1) + [(0, short)]
                bias = np.pad(bias, pads, constant_values=-np.inf)
        # How far each key is behind its query.
        shift: Any = 0 if past is None else past.shape[2]
        if past is None and lengths is not None:
            shift = (lengths.reshape(-1) - q.shape[2]).reshape(-1, 1, 1, 1)
        behind = np.arange(q.shape[2])[:, None] + shift - np.arange(length)
        allowed = np.ones_like(behind, np.bool_)
        if self.is_causal:
            allowed &= behind >= 0
        if self.left_window_size >= 0:
            allowed &= behind <= self.left_window_size
        if self.right_window_size >= 0:
            allowed &= -behind <= self.right_window_size
        if lengths is not None:
            allowed = allowed & (np.arange(length) < lengths.reshape(-1, 1, 1, 1))
        if not allowed.all():
            forbidden = np.where(allowed, wide.type(0), wide.type(-np.inf))
            bias = forbidden if bias is None else bias + forbidden
        return None if bias is None else np.atleast_2d(bias)


def grouped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix products of heads, each of ``b`` serving several of ``a`` that lie together."""
    n, heads, rows, inner = a.shape
    each = heads // b.shape[1]
    a = np.ascontiguousarray(a).reshape(n, b.shape[1], each * rows, inner)
    return np.matmul(a, b).reshape(n, heads, rows, b.shape[3])


@register
class RotaryEmbedding(Op):
    """Rotates pairs of features by angles that depend on the position.

    Inputs: X (batch, heads, length, size), or (batch, length, heads · size) with ``num_heads``;
    cos_cache and sin_cache (batch, length, rotated / 2), or (positions, rotated / 2) with
    position_ids (batch, length). Pairs are neighbours with ``interleaved``, else lie half the
    rotated features apart. Features beyond ``rotary_embedding_dim`` (0: all) stay.
    """

    arity = (3, 4)
    interleaved: int = 0
    num_heads: int | None = None
    rotary_embedding_dim: int = 0

    def infer(self, types, values):
        x = types[0]
        need(x.rank in (None, 3, 4), lambda: f"X must have rank 3 or 4, not {x}")
        need(x.rank != 3 or bool(self.num_heads), "an input of rank 3 needs num_heads")
        return [x]

    def compute(self, xs):
        x, cos, sin, ids = [*xs, None][:4]
        flat = x.ndim == 3
        # (batch, length, heads, size)
        y = heads_first(x, self.num_heads or 1) if flat else x
        y = widen(y.transpose(0, 2, 1, 3))
        size = self.rotary_embedding_dim or y.shape[3]
        need(size <= y.shape[3] and size % 2 == 0, lambda: f"{size} of {y.shape[3]} features")
        if ids is not None:
            ok = ids.size == 0 or (ids.min() >= -len(cos) and ids.max() < len(cos))
            need(bool(ok), lambda: f"position_ids outside the {len(cos)} cached positions")
            cos, sin = cos[ids], sin[ids]
        for t, what in ((cos, "cos_cache"), (sin, "sin_cache")):
            wanted = (*y.shape[:2], size // 2)
            need(t.shape == wanted, lambda: f"{what} must give {list(wanted)}, not {t.shape}")
        cos, sin = widen(cos)[:, :, None], widen(sin)[:, :, None]
        half = size // 2
        pairs = (slice(0, size, 2), slice(1, size, 2))
        if not self.interleaved:
            pairs = (slice(0, half), slice(half, size))
        a, b = y[..., pairs[0]], y[..., pairs[1]]
        out = y.copy()
        out[..., pairs[0]] = cos * a - sin * b
        out[..., pairs[1]] = sin * a + cos * b
        out = out.reshape(x.shape) if flat else out.transpose(0, 2, 1, 3)
        return [np.ascontiguousarray(out).astype(x.dtype, copy=False)]
