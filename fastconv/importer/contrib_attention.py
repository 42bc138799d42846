"""onnxruntime's attention, said with Attention of ONNX (see ``contrib``)."""

from __future__ import annotations

import numpy as np

from ..errors import UnsupportedError
from ..graph import Op
from .adapt import Draft
from .contrib import MICROSOFT, Contributed, contributed, given, make, total


def refuse_inputs(d: Draft, names: dict[int, str]) -> None:
    """Raise UnsupportedError where one of these inputs is there."""
    for index, name in names.items():
        if given(d, index):
            raise UnsupportedError(f"{d.op_type} with the input {name} (number {index + 1})")


def parts(d: Draft, name: str, sizes: tuple[int, ...] | None) -> list[str]:
    """What belongs to queries, keys and values along the last axis: thirds, or these sizes."""
    names = [d.fresh(k) for k in ("query", "key", "value")]
    if sizes:
        split = make("Split", axis=-1)
        d.insert(split, [name, d.constant(np.array(sizes, np.int64))], names)
    else:
        d.insert(make("Split", axis=-1, num_outputs=3), [name], names)
    return names


@contributed(MICROSOFT)
class MultiHeadAttention(Contributed):
    """Attention of query, key and value (batch, length, features), each plus its part of a bias.

    Inputs: query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value, which
    ``rewrite`` takes but for key_padding_mask, and more that it refuses.
    """

    arity = (3, 10)
    n_outputs = 4
    num_heads: int
    mask_filter_value: float = -10000.0
    scale: float | None = None
    unidirectional: int = 0

    def rewrite(self, d: Draft) -> Op:
        refuse_inputs(d, {4: "key_padding_mask", 8: "past_sequence_length", 9: "cache_indirection"})
        if len(d.outputs) > 3 and d.outputs[3]:
            raise UnsupportedError("MultiHeadAttention with its fourth output, qk")
        values = d.inputs[:3]
        if bias := given(d, 3):
            pieces = parts(d, bias, None)
            values = [total(d, v, b) for v, b in zip(values, pieces, strict=True)]
        del d.outputs[3:]
        d.inputs = [*values, given(d, 5), given(d, 6), given(d, 7)]
        while not d.inputs[-1]:
            d.inputs.pop()
        return make(
            "Attention", q_num_heads=self.num_heads, kv_num_heads=self.num_heads, scale=self.scale,
            is_causal=int(bool(self.unidirectional)),
        )  # fmt: skip


@contributed(MICROSOFT)
class Attention(Contributed):
    """Attention of a sequence (batch, length, features) to itself, by merged weights and bias.

    Inputs: input, weights, bias, mask_index, past, attention_bias; masks and pasts are refused.
    """

    arity = (2, 7)
    n_outputs = 2
    num_heads: int
    mask_filter_value: float = -10000.0
    qkv_hidden_sizes: tuple[int, ...] | None = None
    scale: float | None = None
    unidirectional: int = 0

    def rewrite(self, d: Draft) -> Op:
        refuse_inputs(d, {3: "mask_index", 4: "past", 6: "past_sequence_length"})
        if len(d.outputs) > 1 and d.outputs[1]:
            raise UnsupportedError("Attention with its second output, present")
        product = total(d, d.insert(make("MatMul"), d.inputs[:2]), given(d, 2))
        added = [n for n in [given(d, 5)] if n]
        d.inputs = [*parts(d, product, self.qkv_hidden_sizes), *added]
        del d.outputs[1:]
        return make(
            "Attention", q_num_heads=self.num_heads, kv_num_heads=self.num_heads, scale=self.scale,
            is_causal=int(bool(self.unidirectional)),
        )  # fmt: skip
