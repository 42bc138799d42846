"""Where quantised results lie between two numbers: rounded as onnxruntime's kernels round them."""

from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
from harness import ISAS, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from fastconv.graph.op import REGISTRY
from fastconv.graph.ops import quant as q

TYPES = {"uint8": np.uint8, "int8": np.int8}


def peer(op_type, arrays, **attrs):
    """What onnxruntime computes; scales and zero points are constant."""
    names = [f"i{k}" for k in range(len(arrays))]
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if a.ndim > 1}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    fixed = zip(names, arrays, strict=True)
    consts = [numpy_helper.from_array(a, n) for n, a in fixed if n not in feeds]
    node = helper.make_node(op_type, names, ["y"], domain="com.microsoft", **attrs)
    out = helper.make_tensor_value_info("y", infos[0].type.tensor_type.elem_type, None)
    graph = helper.make_graph([node], "g", infos, [out], consts)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


@st.composite
def pairs(draw):
    """Inputs of a sum or product, of scales whose ratios are small fractions or anything."""
    dtype = TYPES[draw(st.sampled_from(list(TYPES)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y_scale = np.float32(rng.uniform(0.005, 0.1))
    ratios = np.array([rng.integers(1, 12) / rng.choice([1, 2, 3, 4, 6, 8, 10]) for _ in "ab"])
    if draw(st.booleans()):
        ratios = rng.uniform(0.01, 4, 2)
    info = np.iinfo(dtype)
    zeros = [np.array(z, dtype) for z in rng.integers(info.min, info.max + 1, 3)]
    a, b = (rng.integers(info.min, info.max + 1, (1, 3, 999)).astype(dtype) for _ in "ab")
    scales = [(y_scale * r).astype(np.float32) for r in ratios]
    return [a, scales[0], zeros[0], b, scales[1], zeros[1], np.array(y_scale), zeros[2]]


def check(op, arrays, want, consts):
    np.testing.assert_array_equal(op.compute(arrays)[0], want)
    for isa in ISAS:
        got = run_op(op, arrays, consts=consts, isa=isa, threads=2)[0]
        np.testing.assert_array_equal(got, want, err_msg=isa)


@settings(max_examples=25, deadline=None)
@given(pairs())
def test_sums_are_those_of_onnxruntime(arrays):
    check(q.QLinearAdd(), arrays, peer("QLinearAdd", arrays), (1, 2, 4, 5, 6, 7))


@settings(max_examples=25, deadline=None)
@given(pairs(), st.integers(1, 60))
def test_products_are_those_of_onnxruntime(arrays, spread):
    arrays[4] = np.float32(1 / spread)
    check(q.QLinearMul(), arrays, peer("QLinearMul", arrays), (1, 2, 4, 5, 6, 7))


@pytest.mark.parametrize("repeated", [0, 3])
@pytest.mark.parametrize("dtype", TYPES)
def test_one_number_per_channel_is_added_as_onnxruntime_adds_it(dtype, repeated):
    rng = np.random.default_rng(3)
    info = np.iinfo(TYPES[dtype])
    for ratio in (0.5, 0.37, 1.25):
        shapes = [(2, 5, 6, 7), (2, 5, 6, 7)]
        shapes[repeated // 3] = (2, 5, 1, 1)
        a, b = (rng.integers(info.min, info.max + 1, s).astype(info.dtype) for s in shapes)
        zeros = rng.integers(info.min, info.max + 1, 3).astype(info.dtype)
        scales = np.array([0.03 * ratio, 0.03 / ratio, 0.03], np.float32)
        arrays = [a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2]]
        arrays = [np.asarray(v) for v in arrays]
        check(q.QLinearAdd(), arrays, peer("QLinearAdd", arrays), (1, 2, 4, 5, 6, 7))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "attrs",
    [
        dict(kernel_shape=(2, 2), strides=(2, 2)),
        dict(kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
        dict(kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=1),
    ],
)
def test_means_are_those_of_onnxruntime(attrs, dtype):
    rng = np.random.default_rng(7)
    info = np.iinfo(TYPES[dtype])
    x = rng.integers(info.min, info.max + 1, (2, 70, 12, 13)).astype(info.dtype)
    zeros = rng.integers(info.min, info.max + 1, 2).astype(info.dtype)
    for ratio in (1, 0.5, 0.77):
        scales = np.array([0.021 * ratio, 0.021], np.float32)
        arrays = [np.asarray(v) for v in (x, scales[0], zeros[0], scales[1], zeros[1])]
        want = peer("QLinearAveragePool", arrays, **attrs)
        check(q.QLinearAveragePool(**attrs), arrays, want, (1, 2, 3, 4))
    want = peer("QLinearGlobalAveragePool", arrays)
    check(q.QLinearGlobalAveragePool(), arrays, want, (1, 2, 3, 4))


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_unsigned_bytes_that_stand_for_signed_ones_round_as_those(op_type):
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 128, (3, 999)).astype(np.int8) for _ in "ab")
    scales = [np.array(v, np.float32) for v in (0.015, 0.07, 0.02)]
    zeros = [np.array(z, np.int8) for z in (-7, 33, 90)]
    arrays = [a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2]]
    moved = [
        (v.astype(np.int16) + 128).astype(np.uint8) if v.dtype == np.int8 else v for v in arrays
    ]
    cls = REGISTRY["com.microsoft", op_type]
    want = cls().compute(arrays)[0].astype(np.int16) + 128
    check(cls(signed=True), moved, want, (1, 2, 4, 5, 6, 7))


@settings(max_examples=300, deadline=None)
@given(
    a=st.integers(-255, 255), b=st.floats(-8, 8, width=32), c=st.floats(-2048, 2048, width=32),
    shift=st.integers(-60, 0),
)  # fmt: skip
def test_a_fused_product_and_sum_is_rounded_once(a, b, c, shift):
    c = np.float32(np.ldexp(c, shift))
    exact = Fraction(a) * Fraction(b) + Fraction(float(c))
    got = q.fused(np.array([a], np.float32), np.float32(b), c)[0]
    neighbours = [np.nextafter(got, np.float32(s)) for s in (-np.inf, np.inf)]
    off = abs(Fraction(float(got)) - exact)
    assert all(off <= abs(Fraction(float(n)) - exact) for n in neighbours)
