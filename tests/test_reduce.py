"""Reductions, ArgMax, ArgMin, TopK and CumSum: kernels against NumPy, NumPy against ONNX."""

import numpy as np
import onnx
import pytest
from harness import check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fastconv.errors import ShapeError
from fastconv.graph.core import TensorType
from fastconv.graph.ops import reduce as ops
from fastconv.graph.symbols import Sym

REDUCTIONS = [
    ops.ReduceSum, ops.ReduceMean, ops.ReduceMax, ops.ReduceMin, ops.ReduceProd, ops.ReduceL1,
    ops.ReduceL2, ops.ReduceSumSquare, ops.ReduceLogSum, ops.ReduceLogSumExp,
]  # fmt: skip


def onnx_run(op_type, arrays, opset, outputs=1, **attributes):
    """A single node through onnx's reference evaluator; None is an absent input."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    ins = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays)
        if n
    ]
    outs = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op_type, names, outs, **attributes)
    graph = helper.make_graph([node], "g", ins, [onnx.ValueInfoProto(name=o) for o in outs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {n: a for n, a in zip(names, arrays) if n}
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


def positive_for(cls, x):
    """Data whose result is defined: a logarithm needs a positive sum."""
    return np.abs(x) + 0.1 if cls is ops.ReduceLogSum else x


def axes_array(axes):
    return None if axes is None else np.array(axes, np.int64)


@pytest.mark.parametrize("cls", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("axes", [None, [], [0], [-1], [1, 2], [-1, 0], [0, 1, 2, 3]])
def test_reductions_agree_with_onnx(cls, keepdims, noop, axes):
    rng = np.random.default_rng(1)
    x = positive_for(cls, rng.standard_normal((2, 3, 4, 5)).astype(np.float32))
    op = cls(keepdims=keepdims, noop_with_empty_axes=noop)
    xs = [x] if axes is None else [x, axes_array(axes)]
    (expected,) = onnx_run(cls.__name__, xs, 20, keepdims=keepdims, noop_with_empty_axes=noop)
    (got,) = op.compute(xs)
    assert (got.dtype, got.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    inferred = op.infer([TensorType(a.dtype, a.shape) for a in xs], xs)
    assert inferred == [TensorType(got.dtype, got.shape)]
    (native,) = run_op(
        op, xs, consts=range(1, len(xs)), native=axes in (None, [], [0], [-1], [1, 2], [0, 1, 2, 3])
    )
    np.testing.assert_allclose(native, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", REDUCTIONS)
@pytest.mark.parametrize("axes", [[1], [0, 1]])
def test_reducing_no_elements_gives_what_onnx_says(cls, axes):
    x = np.zeros((2, 0, 3), np.float32)
    op = cls(keepdims=0)
    (got,) = run_op(op, [x, axes_array(axes)], consts=[1], native=False)
    value = {
        ops.ReduceProd: 1, ops.ReduceMax: -np.inf, ops.ReduceMin: np.inf, ops.ReduceMean: np.nan,
        ops.ReduceLogSum: -np.inf, ops.ReduceLogSumExp: -np.inf,
    }.get(cls, 0)  # fmt: skip
    np.testing.assert_array_equal(got, np.full((2, 3) if axes == [1] else (3,), value, np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.float16, np.float64])
@pytest.mark.parametrize("cls", REDUCTIONS[:8])
def test_other_dtypes_agree_with_onnx(cls, dtype):
    rng = np.random.default_rng(2)
    x = rng.integers(1, 6, (3, 4)).astype(dtype)
    if np.dtype(dtype).kind != "u":
        x[0] = -x[0]
    axes = np.array([1], np.int64)
    (expected,) = onnx_run(cls.__name__, [x, axes], 20)
    (got,) = run_op(cls(), [x, axes], consts=[1], native=False)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=2e-3)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8])
@pytest.mark.parametrize("cls", [ops.ReduceMax, ops.ReduceMin])
def test_max_and_min_of_small_dtypes(cls, dtype):
    x = np.array([[0, 1, 1], [0, 0, 0]], dtype)
    (expected,) = onnx_run(cls.__name__, [x, np.array([1], np.int64)], 20)
    (got,) = cls().compute([x, np.array([1], np.int64)])
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_the_mean_of_small_integers_does_not_overflow(dtype):
    x = np.full((20, 20), 100, dtype)  # a sum, and a count, that the dtype cannot hold
    for got in run_op(ops.ReduceMean(keepdims=0), [x], native=False):
        assert got.dtype == dtype
        assert got == 100


def test_the_mean_of_integers_is_rounded_towards_zero():
    (got,) = ops.ReduceMean(keepdims=0).compute([np.array([-3, -4, 0], np.int32)])
    assert got == -2


def test_half_precision_sums_are_formed_in_single_precision():
    x = np.full((1, 4096), 1.0, np.float16)
    x[0, 0] = 2048
    (got,) = ops.ReduceMean(keepdims=0).compute([x, np.array([1], np.int64)])
    assert got[0] == np.float16((2048 + 4095) / 4096)


@st.composite
def reductions(draw):
    rank = draw(st.integers(1, 5))
    size = st.sampled_from([1, 2, 3, 5, 7, 16, 17, 33, 70] if rank < 4 else [1, 2, 3, 5, 9])
    shape = [draw(size) for _ in range(rank)]
    lo = draw(st.integers(0, rank - 1))
    axes = list(range(lo, draw(st.integers(lo + 1, rank))))
    return (
        draw(st.sampled_from(REDUCTIONS)), shape, axes, draw(st.integers(0, 1)),
        draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(reductions())
def test_neighbouring_axes_of_plain_values_have_a_kernel(case):
    cls, shape, axes, keepdims, seed = case
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if cls is ops.ReduceProd:
        x = 1 + x / 50
    check_op(
        cls(keepdims=keepdims), [positive_for(cls, x).astype(np.float32), axes_array(axes)],
        consts=[1], rtol=2e-5,
    )  # fmt: skip


@pytest.mark.parametrize("cls", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [1], [2], [3], [1, 2, 3], [0, 2, 3], [0, 1, 2, 3], [0]])
@pytest.mark.parametrize("channels", [1, 3, 67])
def test_channels_last_values_have_a_kernel(cls, keepdims, axes, channels):
    x = np.random.default_rng(3).standard_normal((2, channels, 4, 5)).astype(np.float32)
    if cls is ops.ReduceProd:
        x = 1 + x / 50
    check_op(
        cls(keepdims=keepdims), [positive_for(cls, x).astype(np.float32), axes_array(axes)],
        consts=[1], channels_last=[0], threads=(1, 3),
    )  # fmt: skip


@pytest.mark.parametrize("where", [0, 5, 15, 16, 40, 99])
@pytest.mark.parametrize("inner", [1, 3, 20])
@pytest.mark.parametrize("cls", REDUCTIONS)
def test_a_nan_anywhere_reaches_the_result(cls, inner, where):
    x = np.random.default_rng(4).random((2, 100, inner)).astype(np.float32) + 0.5
    x[1, where, 0] = np.nan
    for got in run_op(cls(keepdims=0), [x, axes_array([1])], consts=[1]):
        assert np.isnan(got[1, 0])
        assert np.isnan(got).sum() == 1


@pytest.mark.parametrize("inner", [1, 20])
def test_log_sum_exp_neither_overflows_nor_loses_infinities(inner):
    x = np.zeros((5, 40, inner), np.float32)
    x[0], x[1], x[2] = 1000, -1000, -np.inf
    x[3, 7] = np.inf
    x[4, :39] = -np.inf
    expected = np.array([1000 + np.log(40), -1000 + np.log(40), -np.inf, np.inf, 0], np.float32)
    op = ops.ReduceLogSumExp(keepdims=0)
    xs = [x, axes_array([1])]
    for got in (run_op(op, xs, consts=[1])[0], op.compute(xs)[0]):
        np.testing.assert_allclose(got, np.repeat(expected[:, None], inner, 1), rtol=1e-6)


def test_long_sums_stay_accurate():
    x = np.full((1, 1, 1 << 20), 0.1, np.float32)
    want = float(np.float32(0.1)) * (1 << 20)
    (row,) = run_op(ops.ReduceSum(), [x, axes_array([2])], consts=[1])
    (column,) = run_op(ops.ReduceSum(), [x.reshape(1, -1, 2), axes_array([1])], consts=[1])
    assert abs(row.item() / want - 1) < 2e-6
    assert abs(column[0, 0, 0] / (want / 2) - 1) < 2e-6


@pytest.mark.parametrize("axes", [[4], [-5], [1, 1], [1, -3]])
def test_bad_axes_are_refused(axes):
    x = np.zeros((1, 2, 3, 4), np.float32)
    with pytest.raises(ShapeError, match="axes"):
        run_op(ops.ReduceSum(), [x, axes_array(axes)], consts=[1])


def test_shapes_with_symbols():
    x = TensorType(np.dtype(np.float32), (Sym("N"), 3, None))
    axes = np.array([1], np.int64)
    t = TensorType(axes.dtype, axes.shape)
    assert ops.ReduceSum().infer([x, t], [None, axes])[0].shape == (Sym("N"), 1, None)
    assert ops.ReduceSum(keepdims=0).infer([x, t], [None, axes])[0].shape == (Sym("N"), None)
    assert ops.ReduceSum().infer([x, t], [None, None])[0].shape == (None, None, None)
    assert ops.ArgMax(axis=1, keepdims=0).infer([x], [None])[0].shape == (Sym("N"), None)


# ArgMax and ArgMin.


@pytest.mark.parametrize("cls", [ops.ArgMax, ops.ArgMin])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_arg_reductions_agree_with_onnx_on_ties(cls, last, axis, keepdims):
    x = np.random.default_rng(5).integers(0, 4, (3, 35, 19)).astype(np.float32)
    op = cls(axis=axis, keepdims=keepdims, select_last_index=last)
    (expected,) = onnx_run(
        cls.__name__, [x], 20, axis=axis, keepdims=keepdims, select_last_index=last
    )
    np.testing.assert_array_equal(op.compute([x])[0], expected)
    check_op(op, [x])
    check_op(op, [x], channels_last=[0])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, 1.0, -1.0, 2.5, np.nan, np.inf, -np.inf]), min_size=1, max_size=70
    ),
    st.sampled_from([ops.ArgMax, ops.ArgMin]),
    st.integers(0, 1),
    st.sampled_from([1, 3]),
)
def test_the_first_nan_wins_as_in_numpy(values, cls, last, inner):
    x = np.repeat(np.array(values, np.float32)[:, None], inner, axis=1)
    check_op(cls(axis=0, select_last_index=last), [x], threads=(1,))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_segmentation_argmax_over_channels_last(keepdims):
    x = np.random.default_rng(6).standard_normal((2, 21, 9, 11)).astype(np.float32)
    check_op(ops.ArgMax(axis=1, keepdims=keepdims), [x], channels_last=[0])


def test_arg_reduction_of_no_elements_is_refused():
    with pytest.raises(ShapeError, match="no elements"):
        run_op(ops.ArgMax(axis=1), [np.zeros((2, 0), np.float32)], native=False)


def test_arg_reduction_of_integers():
    x = np.array([[3, 9, 9]], np.uint8)
    (got,) = run_op(ops.ArgMax(axis=1), [x], native=False)
    assert got.dtype == np.int64
    assert got.tolist() == [[1]]


# TopK and CumSum.


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16])
def test_topk_agrees_with_onnx_on_ties(axis, largest, dtype):
    x = np.random.default_rng(7).integers(0, 5, (6, 7, 8)).astype(dtype)
    k = np.array([5], np.int64)
    values, indices = onnx_run("TopK", [x, k], 11, 2, axis=axis, largest=largest)
    got = run_op(
        ops.TopK(axis=axis, largest=largest), [x, k], consts=[1], n_outputs=2, native=False
    )
    np.testing.assert_array_equal(got[0], values)
    np.testing.assert_array_equal(got[1], indices)
    assert got[1].dtype == np.int64


def test_topk_counts_nan_as_largest():
    x = np.array([1, np.nan, 3, np.nan, np.inf], np.float32)
    k = np.array([3], np.int64)
    assert ops.TopK(largest=1).compute([x, k])[1].tolist() == [1, 3, 4]
    assert ops.TopK(largest=0).compute([x, k])[1].tolist() == [0, 2, 4]


def test_topk_with_an_impossible_k_is_refused():
    x = np.zeros((2, 3), np.float32)
    for k in (4, -1):
        with pytest.raises(ShapeError, match="K is"):
            run_op(ops.TopK(), [x, np.array([k], np.int64)], consts=[1], n_outputs=2)


def test_topk_of_zero_elements_is_empty():
    x = np.zeros((2, 3), np.float32)
    values, indices = ops.TopK().compute([x, np.array([0], np.int64)])
    assert values.shape == indices.shape == (2, 0)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64])
def test_cumsum_agrees_with_onnx(exclusive, reverse, axis, dtype):
    x = np.random.default_rng(8).integers(-5, 6, (3, 4)).astype(dtype)
    xs = [x, np.array(axis, np.int64)]
    (expected,) = onnx_run("CumSum", xs, 14, exclusive=exclusive, reverse=reverse)
    (got,) = ops.CumSum(exclusive=exclusive, reverse=reverse).compute(xs)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)
