"""Pools against their NumPy twins, against onnx.reference, and their rules one by one."""

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.errors import ShapeError
from fastconv.graph import TensorType
from fastconv.graph.ops.pool import (
    AveragePool,
    GlobalAveragePool,
    GlobalLpPool,
    GlobalMaxPool,
    LpPool,
    MaxPool,
    MaxUnpool,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shape_of(op, *shape):
    """The output shape that the rule gives for a float32 input of this shape."""
    return op.infer([TensorType(np.dtype(np.float32), shape)], [None])[0].shape


@st.composite
def windows(draw):
    """(attributes, input shape) of any pool that fits its input."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3 if rank == 3 else 6)) for _ in range(rank)]
    dilations = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    least = extents
    if auto == "NOTSET":
        around = zip(extents, pads[:rank], pads[rank:], strict=True)
        least = [max(1, e - p - q) for e, p, q in around]
    size = [draw(st.integers(n, n + (4 if rank == 3 else 30))) for n in least]
    attributes = {
        "kernel_shape": tuple(kernel),
        "dilations": tuple(dilations),
        "strides": tuple(strides),
        "pads": tuple(pads) if auto == "NOTSET" else None,
        "auto_pad": auto,
        "ceil_mode": draw(st.integers(0, 1)),
    }
    return attributes, (draw(st.integers(1, 2)), draw(st.integers(1, 40)), *size)


@settings(max_examples=50, deadline=None)
@given(windows(), st.booleans(), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_any_max_pool_matches_its_twin(window, indices, order, seed):
    attributes, shape = window
    op = MaxPool(storage_order=order, **attributes)
    check_op(op, [normal(seed, *shape)], n_outputs=1 + indices, threads=(1, 3))


@settings(max_examples=50, deadline=None)
@given(windows(), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_any_average_pool_matches_its_twin(window, count_include_pad, seed):
    attributes, shape = window
    op = AveragePool(count_include_pad=count_include_pad, **attributes)
    check_op(op, [normal(seed, *shape)], threads=(1, 3))


@settings(max_examples=40, deadline=None)
@given(windows(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_lp_pool_matches_its_twin(window, p, seed):
    attributes, shape = window
    check_op(LpPool(p=p, **attributes), [normal(seed, *shape)], threads=(1, 3))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(
        [GlobalAveragePool(), GlobalMaxPool(), *(GlobalLpPool(p=p) for p in (1, 2, 3))]
    ),
    st.integers(1, 3),
    st.integers(1, 70),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_any_global_pool_matches_its_twin(op, n, channels, spatial, seed):
    check_op(op, [normal(seed, n, channels, *spatial)])


@pytest.mark.parametrize("op", [GlobalAveragePool(), GlobalMaxPool(), GlobalLpPool()], ids=str)
def test_a_global_pool_of_many_pixels(op):
    check_op(op, [normal(0, 2, 35, 61, 67)])


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 31, 33, 63, 64, 65, 80, 127, 129, 300])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_channel_tail(channels, stride):
    x = normal(channels, 1, channels, 5, 21)
    for op in (MaxPool, AveragePool):
        check_op(op(kernel_shape=(3, 3), strides=(stride, stride), pads=(1, 1, 1, 1)), [x])


@pytest.mark.parametrize("width", range(1, 41))
def test_every_width(width):
    x = normal(width, 1, 18, 4, width)
    for kernel in ((2, 3), (3, 5)):
        op = MaxPool(kernel_shape=kernel, pads=(1, 2, 1, 2))
        check_op(op, [x], threads=[1])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_few_rows_of_many_channels_are_cut_by_channels(threads):
    x = normal(0, 1, 301, 4, 4)
    check_op(AveragePool(kernel_shape=(3, 3), strides=(2, 2)), [x], threads=(1, threads))


@pytest.mark.parametrize("size", range(3, 14))
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_output_size_is_floor_and_the_cells_that_do_not_fit_are_lost(size, kernel, stride):
    op = MaxPool(kernel_shape=(kernel, kernel), strides=(stride, stride))
    n = (size - kernel) // stride + 1
    assert shape_of(op, 1, 1, size, size) == (1, 1, n, n)
    used = (n - 1) * stride + kernel
    x = np.zeros((1, 1, size, size), np.float32)
    x[:, :, used:] = x[:, :, :, used:] = 9
    assert not run_op(op, [x])[0].any()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "expected"),
    [
        (7, 2, 2, (0, 0), 4),
        (6, 2, 2, (0, 0), 3),
        (7, 3, 3, (0, 0), 3),  # windows start at 0, 3 and 6: the last holds one cell
        (3, 2, 2, (0, 0), 2),
        (2, 1, 2, (0, 1), 1),  # a second one would start at 2, in the end padding
        (5, 2, 3, (1, 1), 2),  # a third one would start at 5, in the end padding
        (6, 2, 3, (1, 1), 3),  # the third one starts at 5, the last cell
        (4, 2, 3, (1, 1), 2),
    ],
)
def test_ceil_mode_drops_a_window_that_starts_in_the_end_padding(
    size, kernel, stride, pads, expected
):
    op = MaxPool(kernel_shape=(kernel,), strides=(stride,), pads=pads, ceil_mode=1)
    assert shape_of(op, 1, 1, size) == (1, 1, expected)
    assert run_op(op, [normal(0, 1, 1, size)])[0].shape == (1, 1, expected)


def test_ceil_mode_counts_the_declared_padding_but_not_what_lies_beyond():
    x = np.ones((1, 1, 4), np.float32)
    # Windows of 3 with stride 2 over [pad 1 1 1 1 pad] start at 0, 2, 4; the last also
    # covers a cell beyond the padding.
    for include, expected in ((0, [1, 1, 1]), (1, [2 / 3, 1, 1 / 2])):
        op = AveragePool(
            kernel_shape=(3,), strides=(2,), pads=(1, 1), ceil_mode=1, count_include_pad=include
        )
        for isa in ISAS:
            np.testing.assert_allclose(run_op(op, [x], isa=isa)[0][0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_nan_wins_a_maximum_wherever_it_stands(kernel, stride, isa):
    for place in range(13):
        x = normal(1, 1, 20, 13, 13)
        x[0, 5, place, 12 - place] = np.nan
        op = MaxPool((kernel, kernel), strides=(stride, stride))
        expected = op.compute([x])[0]
        assert np.isnan(expected).any() or stride > 1
        np.testing.assert_array_equal(run_op(op, [x], isa=isa)[0], expected)
        got, where = run_op(op, [x], isa=isa, n_outputs=2)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(where, op.compute([x])[1])
        whole = run_op(GlobalMaxPool(), [x], isa=isa)[0]
        np.testing.assert_array_equal(whole, x.max((2, 3), keepdims=True))


@pytest.mark.parametrize("isa", ISAS)
def test_minus_infinity_is_a_maximum_when_there_is_nothing_else(isa):
    x = np.full((1, 17, 6, 6), -np.inf, np.float32)
    x[:, 3, 2, 2] = -3e38
    op = MaxPool(kernel_shape=(3, 3), pads=(1, 1, 1, 1))
    got, where = run_op(op, [x], isa=isa, n_outputs=2)
    np.testing.assert_array_equal(got, op.compute([x])[0])
    assert (got[:, 0] == -np.inf).all()
    assert got[0, 3, 2, 2] == np.float32(-3e38)
    # The first cell of an all-equal window, never a padding cell.
    np.testing.assert_array_equal(where[0, 0, 0], [0, 0, 1, 2, 3, 4])


@pytest.mark.parametrize("isa", ISAS)
def test_infinities_and_nan_go_through_an_average(isa):
    x = np.ones((1, 33, 3, 3), np.float32)
    x[0, 1, 0, 0] = np.inf
    x[0, 2, 0, 0] = np.nan
    x[0, 32, 2, 2] = -np.inf
    whole = run_op(GlobalAveragePool(), [x], isa=isa)[0]
    window = run_op(AveragePool((2, 3), pads=(1, 1, 1, 1)), [x], isa=isa)[0]
    for y in (whole[0, :, 0, 0], window[0, :, 0, 0]):
        assert y[1] == np.inf
        assert np.isnan(y[2])
        assert y[0] == 1
    assert whole[0, 32, 0, 0] == window[0, 32, 3, 2] == -np.inf
    assert np.isfinite(window[0, 32, :2]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", range(1, 12))
def test_an_average_of_equal_values_is_that_value(kernel, isa):
    x = np.full((1, 16, kernel + 3, kernel + 3), 7, np.float32)
    op = AveragePool(kernel_shape=(kernel, kernel))
    assert (run_op(op, [x], isa=isa)[0] == 7).all()
    assert (run_op(GlobalAveragePool(), [x], isa=isa)[0] == 7).all()


def test_a_window_that_sees_only_padding_gives_the_empty_result():
    x = np.full((1, 1, 1), 5, np.float32)  # taps at -1 and 1 of an input of one cell
    window = {"kernel_shape": (2,), "dilations": (2,), "pads": (1, 1)}
    y, where = run_op(MaxPool(**window), [x], n_outputs=2)
    assert y.item() == -np.inf
    assert where.item() == -1
    assert run_op(AveragePool(**window), [x])[0].item() == 0
    assert run_op(AveragePool(count_include_pad=1, **window), [x])[0].item() == 0
    assert run_op(LpPool(**window), [x])[0].item() == 0


def test_indices_number_the_whole_input_and_storage_order_turns_each_plane():
    x = np.zeros((2, 2, 3, 4), np.float32)
    x[1, 1, 2, 1] = 1
    for order, inside in ((0, 2 * 4 + 1), (1, 2 + 1 * 3)):
        op = MaxPool(kernel_shape=(3, 4), storage_order=order)
        y, where = run_op(op, [x], n_outputs=2)
        assert y[1, 1, 0, 0] == 1
        assert where[1, 1, 0, 0] == 3 * 12 + inside
        assert where[0, 1, 0, 0] == 12


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.float64])
def test_max_pool_of_other_dtypes(dtype):
    x = (np.random.default_rng(0).standard_normal((1, 3, 7, 8)) * 50).astype(np.int8).astype(dtype)
    op = MaxPool(kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2))
    expected = MaxPool.compute(op, [x.astype(np.float64)])
    y = run_op(op, [x], native=False)[0]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, expected[0])
    y, where = run_op(op, [x], native=False, n_outputs=2)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(where, expected[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_sums_of_other_dtypes(dtype):
    x = normal(0, 1, 3, 9, 9).astype(dtype)
    for op in (AveragePool((2, 2)), LpPool((2, 2), p=3), GlobalAveragePool(), GlobalLpPool()):
        y = run_op(op, [x], native=False)[0]
        assert y.dtype == dtype
        expected = op.compute([x.astype(np.float64)])[0]
        np.testing.assert_allclose(y, expected, rtol=2e-3 if dtype == np.float16 else 1e-12)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "op",
    [MaxPool((3, 3)), AveragePool((3, 3), strides=(2, 2)), LpPool((2, 2)), GlobalAveragePool()],
    ids=str,
)
def test_batch_position_does_not_change_bits(op, isa):
    x = normal(0, 1, 37, 13, 19)
    alone = run_op(op, [x], isa=isa)[0]
    batch = run_op(op, [np.concatenate([x] * 5)], isa=isa, threads=2)[0]
    assert all(b.tobytes() == alone[0].tobytes() for b in batch)


def test_a_pool_over_everything_is_a_global_pool():
    x = normal(0, 2, 40, 7, 7)
    same = run_op(AveragePool(kernel_shape=(7, 7)), [x])[0]
    assert same.tobytes() == run_op(GlobalAveragePool(), [x])[0].tobytes()


def test_pools_read_channels_last_values_in_place():
    check_op(MaxPool((2, 2)), [normal(0, 2, 19, 6, 6)], channels_last=[0])
    check_op(GlobalAveragePool(), [normal(0, 2, 19, 6, 6)], channels_last=[0])


def test_max_unpool_puts_every_maximum_back():
    x = np.abs(normal(0, 2, 3, 6, 8)) + 1
    pool = MaxPool(kernel_shape=(2, 2), strides=(2, 2))
    y, where = pool.compute([x])
    op = MaxUnpool(kernel_shape=(2, 2), strides=(2, 2))
    back = run_op(op, [y, where], native=False)[0]
    assert back.shape == x.shape
    np.testing.assert_array_equal(back[back != 0], x.reshape(-1)[np.sort(where.reshape(-1))])
    np.testing.assert_array_equal(pool.compute([back])[0], y)
    larger = np.array([2, 3, 7, 9], np.int64)
    full = run_op(op, [y, where, larger], native=False, consts=[2])[0]
    np.testing.assert_array_equal(full[:, :, :6, :8], back)
    assert full.shape == (2, 3, 7, 9)
    assert not full[:, :, 6:].any()


@pytest.mark.parametrize("bad", [-1, 24, 2**62])
def test_max_unpool_refuses_an_index_outside(bad):
    x, where = np.ones((1, 1, 2, 3), np.float32), np.zeros((1, 1, 2, 3), np.int64)
    where[0, 0, 1, 1] = bad
    with pytest.raises(ShapeError, match="do not all lie in the unpooled shape"):
        run_op(MaxUnpool(kernel_shape=(2, 2), strides=(2, 2)), [x, where], native=False)


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        (MaxPool((3, 3)), (1, 2, 2, 8), "larger than the padded input"),
        (MaxPool((3, 3)), (1, 2), "rank 3"),
        (MaxPool((3,)), (1, 2, 8, 8), "kernel_shape"),
        (AveragePool((3, 3), strides=(0, 1)), (1, 2, 8, 8), "strides"),
        (AveragePool((3, 3), pads=(1, 1)), (1, 2, 8, 8), "pads"),
        (LpPool((3, 3), p=0), (1, 2, 8, 8), "p 0"),
        (LpPool((3, 3), dilations=(1, -1)), (1, 2, 8, 8), "dilations"),
        (MaxPool((3, 3), auto_pad="SAME"), (1, 2, 8, 8), "auto_pad"),
        (GlobalMaxPool(), (1, 2), "rank 3"),
        (GlobalLpPool(p=0), (1, 2, 3), "p 0"),
    ],
)
def test_wrong_attributes_are_named(op, shape, message):
    with pytest.raises(ShapeError, match=message):
        shape_of(op, *shape)


def reference(op_type, x, **attributes):
    """What ``onnx.reference`` computes."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    outputs = ["y", "z"] if op_type == "MaxPool" else ["y"]
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x"], outputs, **attributes)],
        "test",
        [helper.make_tensor_value_info("x", 1, list(x.shape))],
        [helper.make_tensor_value_info(o, 7 if o == "z" else 1, None) for o in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return ReferenceEvaluator(model).run(None, {"x": x})


# onnx.reference shifts the windows where ceil_mode adds two cells or more, and numbers the indices
# of stride-1 pools wrongly: the table keeps clear of both, and the tests above state those rules.
CASES = [
    {"kernel_shape": (2, 2), "strides": (2, 2)},
    {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "ceil_mode": 1},
    {"kernel_shape": (3, 2), "strides": (2, 3), "pads": (1, 0, 0, 1)},
    {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 1, 1, 0), "dilations": (2, 2)},
    {"kernel_shape": (3, 3), "strides": (2, 1), "dilations": (1, 2), "ceil_mode": 1},
    {"kernel_shape": (2, 3), "strides": (1, 2), "dilations": (3, 1), "pads": (1, 1, 1, 1)},
    {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"},
    {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "VALID"},
]


@pytest.mark.parametrize("attributes", CASES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 2, 8, 10)])
def test_max_pool_agrees_with_onnx(shape, attributes):
    x = normal(0, *shape)
    for order in (0, 1):
        y, where = reference("MaxPool", x, storage_order=order, **attributes)
        got = run_op(MaxPool(storage_order=order, **attributes), [x], n_outputs=2)
        np.testing.assert_array_equal(got[0], y)
        np.testing.assert_array_equal(got[1], where)
        np.testing.assert_array_equal(run_op(MaxPool(**attributes), [x])[0], y)


@pytest.mark.parametrize("attributes", CASES, ids=str)
@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 2, 8, 10)])
def test_average_pool_agrees_with_onnx(shape, include, attributes):
    x = normal(0, *shape)
    y = reference("AveragePool", x, count_include_pad=include, **attributes)[0]
    got = run_op(AveragePool(count_include_pad=include, **attributes), [x])[0]
    np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attributes", [c for c in CASES if "ceil_mode" not in c], ids=str)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool_agrees_with_onnx(p, attributes):
    x = normal(0, 1, 2, 7, 9)
    y = reference("LpPool", x, p=p, **attributes)[0]
    got = run_op(LpPool(p=p, **attributes), [x])[0]
    np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-5)


def test_global_pools_agree_with_onnx():
    x = normal(0, 2, 5, 6, 7)
    for op in (GlobalAveragePool(), GlobalMaxPool()):
        y = reference(op.label, x)[0]
        np.testing.assert_allclose(run_op(op, [x])[0], y, rtol=1e-5, atol=1e-6)
