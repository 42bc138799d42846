"""Softmax and its kin, and the normalisations: kernels against NumPy, NumPy against ONNX."""

import numpy as np
import onnx
import pytest
from harness import check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fastconv.errors import ShapeError, UnsupportedError
from fastconv.graph.activation import RELU, Activation
from fastconv.graph.core import TensorType
from fastconv.graph.ops import norm as ops
from fastconv.graph.symbols import Sym


def floats(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


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
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, {n: a for n, a in zip(names, arrays) if n})


def agree(op, arrays, expected, *, native=True, rtol=1e-5, atol=1e-5, consts=None, **options):
    """NumPy form and kernels of an operator both give ``expected``."""
    consts = range(1, len(arrays)) if consts is None else consts
    got = op.compute(arrays)
    run = run_op(op, arrays, n_outputs=len(expected), native=native, consts=consts, **options)
    types = op.infer([None if a is None else TensorType(a.dtype, a.shape) for a in arrays], arrays)
    for g, r, e, t in zip(got, run, expected, types):
        assert t == TensorType(g.dtype, g.shape)
        assert (g.shape, r.shape, r.dtype) == (e.shape, e.shape, g.dtype)
        np.testing.assert_allclose(g, e, rtol=rtol, atol=atol)
        np.testing.assert_allclose(r, e, rtol=rtol, atol=atol)


# Softmax, LogSoftmax, Hardmax.

SHAPES = [(7,), (3, 5), (2, 3, 4, 5), (1, 1000), (2, 21, 6), (4, 1)]


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_over_every_axis_agrees_with_onnx(name, shape):
    x = floats(*shape)
    for axis in range(-len(shape), len(shape)):
        expected = onnx_run(name, [x], 13, axis=axis)
        agree(getattr(ops, name)(axis=axis), [x], expected, native=name != "Hardmax")


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_before_opset_13_the_axes_from_axis_on_are_one_row(name, axis):
    x = floats(2, 3, 4)
    rows = x.reshape(int(np.prod(x.shape[: axis % 3])), -1)
    (expected,) = onnx_run(name, [rows], 13, axis=1)
    op = getattr(ops, "Flat" + name)(axis=axis)
    assert op.domain == "fastconv"
    agree(op, [x], [expected.reshape(x.shape)], native=name != "Hardmax")


@st.composite
def axis_cases(draw):
    rank = draw(st.integers(1, 4))
    shape = [draw(st.sampled_from([1, 2, 3, 8, 15, 16, 17, 31, 33, 50])) for _ in range(rank)]
    if rank == 4:
        shape = [min(s, 17) for s in shape]
    cls = draw(
        st.sampled_from(
            [ops.Softmax, ops.LogSoftmax, ops.LpNormalization, ops.FlatSoftmax, ops.FlatLogSoftmax]
        )
    )
    last = draw(st.booleans()) and rank > 2
    return cls(axis=draw(st.integers(0, rank - 1))), shape, last, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=120, deadline=None)
@given(axis_cases())
def test_axis_kernels_match_their_twins_in_every_layout(case):
    op, shape, channels_last, seed = case
    x = 3 * floats(*shape, seed=seed)
    check_op(op, [x], channels_last=[0] if channels_last else [], threads=(1, 3))


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("size", [2, 5, 40, 200])
@pytest.mark.parametrize("cls", [ops.Softmax, ops.LogSoftmax])
def test_softmax_of_large_values_does_not_overflow(cls, size, inner):
    x = np.linspace(-3e38, 3e38, size * inner, dtype=np.float32).reshape(1, size, inner)
    (got,) = run_op(cls(axis=1), [x])
    if cls is ops.Softmax:
        np.testing.assert_array_equal(got.sum(axis=1), 1)
    else:
        assert (got[:, -1] == 0).all()
        assert not np.isnan(got).any()
    (got,) = run_op(cls(axis=1), [x * 0 + 1e4])
    expected = np.float32(1 / size if cls is ops.Softmax else -np.log(size))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("size", [2, 5, 40, 200])
@pytest.mark.parametrize("cls", [ops.Softmax, ops.LogSoftmax])
def test_nan_and_infinity_spoil_their_own_row_only(cls, size, inner):
    x = floats(5, size, inner)
    x[0, size - 1], x[1, 0], x[2, 1], x[3] = np.nan, np.inf, -np.inf, -np.inf
    (got,) = run_op(cls(axis=1), [x])
    (expected,) = cls(axis=1).compute([x])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(got[[0, 1, 3]]).all()
    assert not np.isnan(got[[2, 4]]).any()


@pytest.mark.parametrize("cls", [ops.Softmax, ops.FlatSoftmax, ops.Hardmax, ops.LogSoftmax])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_softmax_of_nothing_is_nothing(cls, shape):
    (got,) = run_op(cls(axis=1), [np.zeros(shape, np.float32)], native=False)
    assert got.shape == shape


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("cls", [ops.Softmax, ops.LogSoftmax, ops.LpNormalization])
def test_softmax_keeps_other_dtypes(cls, dtype):
    x = floats(3, 9).astype(dtype)
    (got,) = run_op(cls(), [x], native=False)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, cls().compute([x.astype(np.float64)])[0], atol=3e-3)


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_out_of_range_is_refused(axis):
    with pytest.raises(ShapeError, match="out of range"):
        run_op(ops.Softmax(axis=axis), [floats(2, 3)])


# LpNormalization.


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lp_normalization_agrees_with_onnx_and_leaves_zeros(p, axis):
    x = np.abs(floats(4, 40, 5))  # onnx's reference forgets the absolute value
    x[:, :, 2] = 0
    x[1] = 0
    expected = onnx_run("LpNormalization", [x], 22, p=p, axis=axis)
    agree(ops.LpNormalization(p=p, axis=axis), [x], expected)


def test_l1_normalization_takes_absolute_values():
    x = np.array([[3, -1]], np.float32)
    agree(ops.LpNormalization(p=1), [x], [np.array([[0.75, -0.25]], np.float32)])


def test_lp_normalization_knows_two_norms():
    with pytest.raises(ShapeError, match="p is 3"):
        run_op(ops.LpNormalization(p=3), [floats(2, 2)])


# BatchNormalization.


def batch_inputs(channels, seed=1):
    rng = np.random.default_rng(seed)
    scale, b, mean = rng.standard_normal((3, channels)).astype(np.float32)
    return [scale, b, mean, rng.random(channels).astype(np.float32) + 0.1]


@pytest.mark.parametrize(
    "shape", [(2, 3), (2, 5, 7), (2, 17, 4, 5), (1, 3, 2, 3, 4), (3, 64, 8, 8)]
)
def test_batch_normalization_agrees_with_onnx(shape):
    xs = [floats(*shape), *batch_inputs(shape[1])]
    agree(
        ops.BatchNormalization(epsilon=1e-3),
        xs,
        onnx_run("BatchNormalization", xs, 15, epsilon=1e-3),
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 16, 40])
@pytest.mark.parametrize("act", [None, RELU, Activation("silu")])
def test_batch_normalization_kernels_match_their_twin(channels_last, channels, act):
    xs = [floats(2, channels, 37, 59), *batch_inputs(channels)]
    check_op(
        ops.BatchNormalization(activation=act), xs, consts=[1, 2, 3, 4],
        channels_last=[0] if channels_last else [],
    )  # fmt: skip


def test_batch_normalization_with_computed_statistics():
    xs = [floats(2, 4, 3, 3), *batch_inputs(4)]
    agree(
        ops.BatchNormalization(),
        xs,
        onnx_run("BatchNormalization", xs, 15),
        native=False,
        consts=[],
    )


def test_batch_normalization_in_training_mode_is_refused():
    xs = [floats(2, 4, 3, 3), *batch_inputs(4)]
    op = ops.BatchNormalization(training_mode=1)
    with pytest.raises(UnsupportedError, match="training_mode=1"):
        run_op(op, xs, consts=[1, 2, 3, 4])
    with pytest.raises(UnsupportedError, match="training_mode=1"):
        op.compute(xs)


def test_batch_normalization_needs_one_value_per_channel():
    with pytest.raises(ShapeError, match=r"scale .* one value per channel"):
        run_op(ops.BatchNormalization(), [floats(2, 5, 3), *batch_inputs(4)], consts=[1, 2, 3, 4])


def test_a_nan_passes_through_batch_normalization_and_relu():
    x = floats(1, 20, 3, 3)
    x[0, 2, 1, 1] = np.nan
    (got,) = run_op(
        ops.BatchNormalization(activation=RELU), [x, *batch_inputs(20)], consts=[1, 2, 3, 4]
    )
    assert np.isnan(got).sum() == 1


# Instance and group normalisation, MeanVarianceNormalization.


@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 17, 4, 5), (2, 3, 2, 3, 4)])
def test_instance_normalization_agrees_with_onnx(shape):
    xs = [2 + floats(*shape), *batch_inputs(shape[1])[:2]]
    expected = onnx_run("InstanceNormalization", xs, 22, epsilon=1e-4)
    agree(ops.InstanceNormalization(epsilon=1e-4), xs, expected)
    agree(ops.InstanceNormalization(epsilon=1e-4), xs, expected, channels_last=[0], consts=[])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 19, 40, 41), (1, 64, 32, 33), (3, 5, 64, 64)])
@pytest.mark.parametrize("act", [None, RELU, Activation("silu")])
def test_instance_normalization_kernels_match_their_twin(channels_last, shape, act):
    xs = [floats(*shape) + 3, *batch_inputs(shape[1])[:2]]
    check_op(
        ops.InstanceNormalization(activation=act), xs,
        channels_last=[0] if channels_last else [], rtol=5e-5, atol=2e-6,
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(5,), (4, 5), (40, 30)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_group_normalization_matches_onnx_and_its_twin(groups, size, channels_last):
    xs = [floats(2, 6, *size) + 1, *batch_inputs(6)[:2]]
    layout = [0] if channels_last else []
    (expected,) = onnx_run("GroupNormalization", xs, 21, num_groups=groups)
    op = ops.GroupNormalization(num_groups=groups)
    agree(op, xs, [expected], atol=3e-5, channels_last=layout)
    check_op(op, xs, channels_last=layout, threads=(1, 2), rtol=5e-5, atol=2e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_older_group_normalization_scales_whole_groups(channels_last):
    x = floats(2, 6, 5, 7)
    scale, bias = np.array([1, 2, -3], np.float32), np.array([0, 0.5, 1], np.float32)
    (expected,) = onnx_run(
        "GroupNormalization", [x, scale.repeat(2), bias.repeat(2)], 21, num_groups=3
    )
    op = ops.GroupNormalization18(num_groups=3)
    assert op.domain == "fastconv"
    agree(op, [x, scale, bias], [expected], channels_last=[0] if channels_last else [])


@pytest.mark.parametrize("groups", [0, 4])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(ShapeError, match="groups"):
        run_op(ops.GroupNormalization(num_groups=groups), [floats(1, 6, 3), *batch_inputs(6)[:2]])


def test_statistics_survive_a_large_mean():
    """Squares minus squared mean would cancel to nothing here."""
    x = floats(1, 3, 64, 64) + 4096
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    for layout in ([], [0]):
        (got,) = run_op(ops.InstanceNormalization(), [x, one, zero], channels_last=layout)
        np.testing.assert_allclose(got.std(axis=(2, 3)), 1, rtol=1e-3)
        np.testing.assert_allclose(got.mean(axis=(2, 3)), 0, atol=2e-3)


@pytest.mark.parametrize(
    "axes", [(0, 2, 3), (2, 3), (1, 2, 3), (0, 1, 2, 3), (-1, -2), (1,), (0, 2)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_mean_variance_normalization_agrees_with_onnx(axes, channels_last):
    x = floats(3, 5, 6, 7) + 1
    expected = onnx_run("MeanVarianceNormalization", [x], 13, axes=axes)
    native = axes not in ((1,), (0, 2))
    agree(
        ops.MeanVarianceNormalization(axes=axes), [x], expected, native=native, atol=3e-5,
        channels_last=[0] if channels_last else [],
    )  # fmt: skip


# LayerNormalization and RMSNormalization.


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 16), (2, 3, 4, 33), (1, 768), (2, 100, 41)])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization_agrees_with_onnx_on_every_axis(shape, bias):
    x = floats(*shape) + 1
    for axis in range(-len(shape), len(shape)):
        row = shape[axis:]
        xs = [x, floats(*row, seed=1), *([floats(*row, seed=2)] if bias else [])]
        expected = onnx_run("LayerNormalization", xs, 17, 3, axis=axis)
        agree(ops.LayerNormalization(axis=axis), xs, expected, atol=3e-5)
        rms = onnx_run("RMSNormalization", xs[:2], 23, axis=axis)
        agree(ops.RMSNormalization(axis=axis), xs[:2], rms)


def test_layer_normalization_broadcasts_its_scale():
    x = floats(2, 3, 4)
    for shape, native in [((4,), True), ((1,), True), ((1, 3, 4), True), ((3, 4), True)]:
        xs = [x, floats(*shape, seed=1), floats(*shape, seed=2)]
        expected = onnx_run("LayerNormalization", xs, 17, axis=1)
        agree(ops.LayerNormalization(axis=1), xs, expected, native=native)
    xs = [x, floats(2, 1, 4, seed=1)]
    agree(
        ops.LayerNormalization(axis=1),
        xs,
        onnx_run("LayerNormalization", xs, 17, axis=1),
        native=False,
    )


def test_layer_normalization_kernels_match_their_twin():
    for cols in (1, 5, 16, 17, 64, 65, 300, 5000):
        xs = [floats(7, cols) + 2, floats(cols, seed=1), floats(cols, seed=2)]
        check_op(ops.LayerNormalization(), xs, n_outputs=3, rtol=5e-5, atol=5e-6)
        check_op(ops.RMSNormalization(), xs[:2])


def test_layer_normalization_takes_unfit_scales_and_stash_types_badly():
    with pytest.raises(ShapeError, match="broadcast"):
        run_op(ops.LayerNormalization(), [floats(2, 4), floats(3)])
    with pytest.raises(UnsupportedError, match="stash_type 16"):
        run_op(ops.LayerNormalization(stash_type=16), [floats(2, 4), floats(4)])


def test_half_precision_is_normalised_in_single_precision():
    x = (floats(2, 64) * 100 + 1000).astype(np.float16)
    one = np.ones(64, np.float16)
    got = run_op(ops.LayerNormalization(), [x, one], n_outputs=2, native=False)
    assert (got[0].dtype, got[1].dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(got[1][:, 0], x.astype(np.float64).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(got[0].astype(np.float64).std(axis=1), 1, rtol=1e-2)


# LRN.


def lrn(x, size, alpha, beta, bias):
    """The definition, one output at a time."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        lo, hi = max(0, c - (size - 1) // 2), min(x.shape[1] - 1, c + (size - 1 + 1) // 2)
        total = (x[:, lo : hi + 1] ** 2).sum(axis=1)
        y[:, c] = x[:, c] / (bias + alpha / size * total) ** beta
    return y


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 11, 200])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.3, -0.5])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 40, 3), (3, 5), (1, 64, 7, 7)])
def test_lrn_follows_its_definition(size, beta, shape):
    x = 5 * floats(*shape)
    expected = lrn(x.astype(np.float64), size, 0.1, beta, 2.0)
    op = ops.LRN(size=size, alpha=0.1, beta=beta, bias=2.0)
    agree(op, [x], [expected.astype(np.float32)])


@pytest.mark.parametrize("size", [2, 3, 5])
def test_lrn_agrees_with_onnx(size):
    x = floats(4, 4, 3, 3)  # onnx's reference counts images where it means channels
    agree(ops.LRN(size=size, alpha=0.5), [x], onnx_run("LRN", [x], 13, size=size, alpha=0.5))


def test_lrn_does_not_depend_on_threads():
    check_op(ops.LRN(size=5), [floats(1, 96, 30, 31)], channels_last=[0])


def test_lrn_with_a_window_of_no_channels_is_refused():
    with pytest.raises(ShapeError, match="size is 0"):
        run_op(ops.LRN(size=0), [floats(1, 3, 2, 2)])


# Common to all.


@pytest.mark.parametrize(
    "op",
    [ops.Softmax(axis=1), ops.InstanceNormalization(), ops.LRN(size=3), ops.BatchNormalization(),
     ops.GroupNormalization(num_groups=2)],
)  # fmt: skip
def test_types_pass_through_with_symbols(op):
    x = TensorType(np.dtype(np.float32), (Sym("N"), Sym("C"), None, 4))
    channel = TensorType(np.dtype(np.float32), (Sym("C"),))
    types = [x, *[channel] * (op.arity[1] - 1)]
    assert op.infer(types, [None] * len(types))[0] == x


@pytest.mark.parametrize(
    ("op", "inputs"),
    [(ops.InstanceNormalization(), 3), (ops.BatchNormalization(), 5), (ops.LRN(size=3), 1),
     (ops.GroupNormalization(num_groups=2), 3), (ops.MeanVarianceNormalization(), 1)],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3)])
def test_empty_images_give_empty_results(op, inputs, shape):
    xs = [floats(*shape), *batch_inputs(4)][:inputs]
    (got,) = run_op(op, xs, native=False)
    assert got.shape == shape
