"""Data movement: kernels against their NumPy twins, twins against the ONNX reference, errors."""

import dataclasses

import numpy as np
import pytest
from harness import check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fastconv.errors import FastconvError, InputError, ShapeError
from fastconv.graph import Graph, Node, Sym, TensorType
from fastconv.graph.ops import indexing, move, shape
from fastconv.graph.ops.conv import Conv
from fastconv.plan import PackCache, make_plan
from fastconv.runtime.engine import Engine

F32 = np.dtype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def numbers(*dims, dtype=np.float32):
    """Different numbers everywhere, so that a misplaced element shows."""
    return (np.arange(np.prod(dims, dtype=int)) % 251).reshape(dims).astype(dtype)


def reference(op, arrays, opset=21, n_outputs=1):
    """What onnx's reference evaluator computes for the same operator."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    outs = [f"y{k}" for k in range(n_outputs)]
    attrs = {}
    for f in dataclasses.fields(op):
        v = getattr(op, f.name)
        if v is not None:
            attrs[f.name] = numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v
    node = helper.make_node(op.label, names, outs, **attrs)
    types = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays)
        if n
    ]
    results = [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in outs]
    graph = helper.make_graph([node], "g", types, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {n: a for n, a in zip(names, arrays) if n}
    return ReferenceEvaluator(model).run(None, feeds)


def infer(op, arrays):
    types = [None if a is None else TensorType(a.dtype, a.shape) for a in arrays]
    return op.infer(types, arrays)


X = numbers(2, 3, 4, 5)
S = np.float32(2.5)

# operator, inputs, number of outputs
TABLE = [
    (shape.Reshape(), [X, ints(0, -1, 5)], 1),
    (shape.Reshape(), [X, ints(120)], 1),
    (shape.Reshape(), [X, ints(-1)], 1),
    (shape.Reshape(), [numbers(1), ints()], 1),
    (shape.Reshape(allowzero=1), [numbers(0, 3), ints(3, 0, 7)], 1),
    *[(shape.Flatten(axis=a), [X], 1) for a in (0, 1, 3, 4, -1, -4)],
    (shape.Flatten(axis=0), [np.float32(3) * np.ones(())], 1),
    (shape.Squeeze(), [numbers(1, 3, 1)], 1),
    (shape.Squeeze(), [numbers(1, 3, 1), ints(-1)], 1),
    (shape.Unsqueeze(), [numbers(3, 4), ints(0, -1)], 1),
    (shape.Unsqueeze(), [numbers(3, 4), ints(3, 1)], 1),
    (shape.Shape(), [X], 1),
    (shape.Shape(start=1, end=-1), [X], 1),
    (shape.Shape(start=-100, end=2), [X], 1),
    (shape.Size(), [X], 1),
    (shape.ConstantOfShape(), [ints(2, 0, 3)], 1),
    (shape.ConstantOfShape(value=np.array([7], np.int32)), [ints(2, 3)], 1),
    (shape.Range(), [np.float32(1), np.float32(5.5), np.float32(0.5)], 1),
    (shape.Range(), [np.int64(10), np.int64(-3), np.int64(-4)], 1),
    (shape.Range(), [np.int32(3), np.int32(3), np.int32(1)], 1),
    (shape.EyeLike(k=1), [numbers(3, 4)], 1),
    (shape.EyeLike(k=-9, dtype=7), [numbers(3, 4)], 1),
    (move.Transpose(), [X], 1),
    (move.Transpose(perm=(1, 3, 0, 2)), [X], 1),
    (move.Concat(axis=-2), [X, numbers(2, 3, 1, 5)], 1),
    (move.Split(axis=2, num_outputs=3), [numbers(2, 3, 7)], 3),
    (move.Split(axis=-1, num_outputs=2), [X], 2),
    (move.Split(axis=2), [X, ints(1, 0, 3)], 3),
    (move.Slice(), [X, ints(1), ints(3)], 1),
    (move.Slice(), [X, ints(-2, 1), ints(1 << 62, -1), ints(-1, 1)], 1),
    (move.Slice(), [X, ints(-1), ints(-(1 << 62)), ints(3), ints(-1)], 1),
    (move.Slice(), [X, ints(100), ints(0), ints(2), ints(-2)], 1),
    (move.Slice(), [X, ints(-100, 3), ints(100, 2), ints(3, 2), ints(3, 1)], 1),
    (move.Slice(), [X, ints(2).astype(np.int32), ints(9).astype(np.int32)], 1),
    (move.Expand(), [numbers(3, 1), ints(2, 1, 6)], 1),
    (move.Expand(), [numbers(3, 4), ints(1)], 1),
    (move.Tile(), [numbers(2, 3), ints(2, 3)], 1),
    (move.Tile(), [numbers(2, 3), ints(0, 1)], 1),
    *[
        (move.Pad(mode=m), [X, ints(0, 1, 2, 3, 0, 0, 3, 1)], 1)
        for m in ("constant", "reflect", "edge", "wrap")
    ],
    *[(move.Pad(mode=m), [numbers(3), ints(5, 7)], 1) for m in ("reflect", "edge", "wrap")],
    (move.Pad(), [X, ints(1, 2, 0, 1), S.reshape(()), ints(-1, 1)], 1),
    (move.Pad(), [numbers(2, 2, dtype=np.int32), ints(1, 0, 0, 1), np.array(9, np.int32)], 1),
    (move.DepthToSpace(blocksize=2), [numbers(1, 8, 2, 3)], 1),
    (move.DepthToSpace(blocksize=2, mode="CRD"), [numbers(1, 8, 2, 3)], 1),
    (move.Trilu(), [X], 1),
    (move.Trilu(upper=0), [X, np.array(-1, np.int64)], 1),
    (move.Trilu(upper=1), [X, np.array(10, np.int64)], 1),
    (move.ReverseSequence(), [numbers(4, 3, 2), ints(1, 4, 2)], 1),
    (move.ReverseSequence(batch_axis=0, time_axis=1), [numbers(3, 4, 2), ints(0, 4, 2)], 1),
    (move.CenterCropPad(), [numbers(5, 4), ints(2, 7)], 1),
    (move.CenterCropPad(axes=(1,)), [numbers(5, 4), ints(7)], 1),
    (indexing.Gather(), [X, ints(1, -1)], 1),
    (indexing.Gather(axis=2), [X, np.array([[0, -4], [3, 1]])], 1),
    (indexing.Gather(axis=-1), [X, np.array(-2)], 1),
    (indexing.GatherElements(axis=1), [numbers(2, 3), np.array([[0, -1, 2], [1, 1, 0]])], 1),
    (indexing.GatherND(), [X, np.array([[0, 1], [1, 2]])], 1),
    (indexing.GatherND(batch_dims=1), [X, np.array([[[2, 1]], [[0, -1]]])], 1),
    (indexing.ScatterElements(axis=1), [numbers(2, 3), np.array([[2], [0]]), -numbers(2, 1)], 1),
    *[
        (
            indexing.ScatterElements(reduction=r),
            [numbers(4), ints(1, 3, 1), np.array([5, 0, 9], np.float32)],
            1,
        )
        for r in ("add", "mul", "max", "min")
    ],
    *[
        (
            indexing.ScatterND(reduction=r),
            [numbers(4, 2), np.array([[1], [3], [1]]), 3 - numbers(3, 2)],
            1,
        )
        for r in ("add", "mul", "max", "min")
    ],
    (indexing.ScatterND(), [numbers(4, 2), np.array([[1, 1], [3, 0]]), -numbers(2)], 1),
    (indexing.OneHot(), [ints(1, -1, 7), np.array(4), np.array([2, 5], np.float32)], 1),
    (indexing.OneHot(axis=0), [np.array([[1, 3]]), np.array(4), ints(0, 1)], 1),
    (indexing.NonZero(), [np.array([[0, 2], [3, 0]], np.float32)], 1),
    (indexing.NonZero(), [np.array(5.0, np.float32)], 1),
    (indexing.Compress(axis=1), [numbers(2, 3), np.array([False, True, True])], 1),
    (indexing.Compress(), [numbers(2, 3), np.array([False, True, True])], 1),
    (indexing.Unique(), [np.array([3, 1, 3, 2, 1], np.float32)], 4),
    (indexing.Unique(sorted=0), [np.array([3, 1, 3, 2, 1], np.float32)], 4),
    (indexing.Unique(axis=0), [np.array([[1, 0], [1, 0], [0, 3]], np.float32)], 4),
    (shape.Constant(value_ints=(3, 4)), [], 1),
    (shape.Constant(value_float=2.5), [], 1),
    (shape.Constant(value=numbers(2, 2)), [], 1),
]


@pytest.mark.parametrize(("op", "arrays", "n"), TABLE, ids=lambda v: getattr(v, "label", ""))
def test_compute_and_infer_agree_with_the_onnx_reference(op, arrays, n):
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    expected = reference(op, arrays, n_outputs=n)
    got = op.compute(arrays)
    types = infer(op, arrays)
    for g, e, t in zip(got, expected, types, strict=True):
        np.testing.assert_array_equal(g, e)
        assert g.dtype == np.asarray(e).dtype == t.dtype
        # What is known of the shape is right; unknown sizes are None.
        assert len(t.shape) == g.ndim
        assert all(d is None or d == s for d, s in zip(t.shape, g.shape))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_undoes_depth_to_space(mode):
    x = numbers(2, 12, 3, 4)
    y = move.DepthToSpace(blocksize=2, mode=mode).compute([x])[0]
    np.testing.assert_array_equal(move.SpaceToDepth(blocksize=2, mode=mode).compute([y])[0], x)


def test_space_to_depth_follows_the_reference():
    op, x = move.SpaceToDepth(blocksize=2), numbers(1, 3, 4, 6)
    np.testing.assert_array_equal(op.compute([x])[0], reference(op, [x], opset=13)[0])


def test_channel_shuffle_is_reshape_transpose_reshape():
    x = numbers(2, 6, 3, 3)
    y = x.reshape(2, 3, 2, 3, 3).transpose(0, 2, 1, 3, 4).reshape(x.shape)
    np.testing.assert_array_equal(move.ChannelShuffle(groups=3).compute([x])[0], y)


def test_negative_pads_crop_before_reflecting():
    y = move.Pad(mode="reflect").compute([numbers(6), ints(-2, 2)])[0]
    np.testing.assert_array_equal(y, [2, 3, 4, 5, 4, 3])


# Kernels against compute, bit for bit, in both layouts and for every element size.

DTYPES = [np.float32, np.float32, np.float32, np.uint8, np.float16, np.int64, np.float64, np.bool_]


def moved(op, arrays, layout, n_outputs=1):
    consts = range(1, len(arrays))
    last = [0] if layout == "last" and arrays[0].ndim >= 3 else []
    check_op(
        op, arrays, rtol=0, atol=0, consts=consts, channels_last=last, n_outputs=n_outputs
    )  # fmt: skip


layouts = st.sampled_from(["plain", "last"])
sizes = st.sampled_from([1, 2, 3, 4, 5, 7, 16, 17, 33])


@st.composite
def values(draw, low=1, high=5, dims=sizes):
    rank = draw(st.integers(low, high))
    dims = [draw(dims) for _ in range(rank)]
    while np.prod(dims) > 30000:
        dims[int(np.argmax(dims))] = 2
    return numbers(*dims, dtype=draw(st.sampled_from(DTYPES)))


@settings(max_examples=60, deadline=None)
@given(values(), layouts, st.data())
def test_any_transpose(x, layout, data):
    perm = tuple(data.draw(st.permutations(range(x.ndim))))
    moved(move.Transpose(perm=perm), [x], layout)


@pytest.mark.parametrize("c", [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 70])
@pytest.mark.parametrize("s", [1, 2, 3, 4, 15, 16, 17, 49, 100, 1000])
def test_layout_conversion_at_every_tile_edge(c, s):
    moved(move.Transpose(perm=(0, 1, 2)), [numbers(2, c, s)], "last")


def test_a_large_layout_conversion_is_cut_into_bands():
    x = np.arange(2 * 70 * 3000, dtype=np.float32).reshape(2, 70, 3000)
    moved(move.Transpose(perm=(0, 1, 2)), [x], "last")
    moved(move.Transpose(perm=(0, 1, 2)), [x.reshape(2, 3000, 70)], "last")


@settings(max_examples=50, deadline=None)
@given(values(low=1, high=5), layouts, st.data())
def test_any_concat(x, layout, data):
    axis = data.draw(st.integers(0, x.ndim - 1))
    count = data.draw(st.integers(1, 4))
    last = list(range(count)) if layout == "last" and x.ndim >= 3 else []
    if last and data.draw(st.booleans()):
        last = last[:1]  # the others are plain
    parts = [x]
    for _ in range(1, count):
        dims = list(x.shape)
        dims[axis] = data.draw(st.integers(0, 5))
        parts.append(numbers(*dims, dtype=x.dtype))
    op = move.Concat(axis=data.draw(st.sampled_from([axis, axis - x.ndim])))
    check_op(op, parts, rtol=0, atol=0, channels_last=last)


@settings(max_examples=40, deadline=None)
@given(values(), layouts, st.data())
def test_any_split(x, layout, data):
    axis = data.draw(st.integers(0, x.ndim - 1))
    first = data.draw(st.integers(0, x.shape[axis]))
    second = data.draw(st.integers(0, x.shape[axis] - first))
    split = ints(first, second, x.shape[axis] - first - second)
    moved(move.Split(axis=axis), [x, split], layout, n_outputs=3)


@settings(max_examples=60, deadline=None)
@given(values(), layouts, st.data())
def test_any_slice(x, layout, data):
    axes = data.draw(st.permutations(range(x.ndim)))[: data.draw(st.integers(1, x.ndim))]
    bound = st.integers(-40, 40)
    starts = ints(*(data.draw(bound) for _ in axes))
    ends = ints(*(data.draw(bound) for _ in axes))
    steps = ints(*(data.draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2])) for _ in axes))
    moved(move.Slice(), [x, starts, ends, ints(*axes), steps], layout)


@settings(max_examples=60, deadline=None)
@given(values(low=1, high=4), layouts, st.data())
def test_any_pad(x, layout, data):
    mode = data.draw(st.sampled_from(move.PAD_MODES))
    pads = [data.draw(st.sampled_from([0, 0, 1, 2, 5, -1])) for _ in range(2 * x.ndim)]
    for k, d in enumerate(x.shape):
        if d <= 2:  # leave something to reflect
            pads[k], pads[k + x.ndim] = max(pads[k], 0), max(pads[k + x.ndim], 0)
    moved(move.Pad(mode=mode), [x, ints(*pads), np.ones((), x.dtype)], layout)


@settings(max_examples=40, deadline=None)
@given(values(high=4, dims=st.sampled_from([1, 1, 2, 3, 17])), layouts, st.data())
def test_any_expand_and_tile(x, layout, data):
    reps = [data.draw(st.sampled_from([1, 2, 3])) for _ in range(x.ndim)]
    moved(move.Tile(), [x, ints(*reps)], layout)
    target = [d if d > 1 else r for d, r in zip(x.shape, reps)]
    moved(move.Expand(), [x, ints(*[2, 1, 3][: data.draw(st.integers(0, 3))], *target)], layout)


@settings(max_examples=40, deadline=None)
@given(st.data(), layouts)
def test_any_block_operator(data, layout):
    b, c, h, w = (data.draw(st.integers(1, n)) for n in (4, 20, 5, 5))
    mode = data.draw(st.sampled_from(["DCR", "CRD"]))
    x = numbers(2, c * b * b, h, w)
    moved(move.DepthToSpace(blocksize=b, mode=mode), [x], layout)
    moved(move.SpaceToDepth(blocksize=b, mode=mode), [numbers(2, c, h * b, w * b)], layout)
    moved(move.ChannelShuffle(groups=b), [x], layout)


@settings(max_examples=40, deadline=None)
@given(values(), layouts, st.data())
def test_gather_with_constant_indices(x, layout, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    n = x.shape[axis]
    one = st.integers(-n, n - 1)
    indices = data.draw(st.one_of(one, st.lists(one, min_size=1, max_size=6)))
    moved(indexing.Gather(axis=axis), [x, np.array(indices)], layout)


@pytest.mark.parametrize("layout", ["plain", "last"])
@pytest.mark.parametrize(
    ("x", "target"),
    [
        ((2, 6, 3, 3), (2, -1)), ((2, 6, 1, 1), (2, 6)), ((2, 1, 3, 3), (2, 9)),
        ((2, 6, 3, 3), (2, 6, 9)), ((2, 6, 9), (2, 6, 3, 3)), ((2, 6, 3, 3), (2, 2, 3, 3, 3)),
        ((1, 6, 3, 3), (54,)), ((2, 6, 3, 3), (12, 9)),
    ],
)  # fmt: skip
def test_reshape_in_both_layouts(x, target, layout):
    moved(shape.Reshape(), [numbers(*x), ints(*target)], layout)


def plan_of(*nodes, x, consts=None):
    graph = Graph(
        "g", [Node(op, i, o, o[0]) for op, i, o in nodes], ["x"], [nodes[-1][2][0]],
        dict(consts or {}), {"x": TensorType(F32, x)},
    )  # fmt: skip
    return make_plan(graph, graph.types, 1, PackCache()), graph


def test_a_flattened_image_can_be_unflattened():
    nodes = [
        (move.Transpose(perm=(0, 3, 1, 2)), ["x"], ["a"]),  # now channels-last
        (shape.Flatten(), ["a"], ["b"]),
        (shape.Reshape(), ["b", "s"], ["c"]),
        (move.Transpose(perm=(0, 2, 3, 1)), ["c"], ["d"]),
    ]
    plan, graph = plan_of(*nodes, x=(2, 4, 5, 3), consts={"s": ints(2, 3, 4, 5)})
    assert [s.kernel for s in plan.steps] == ["copy_rows"]  # nothing but the result's delivery
    x = numbers(2, 4, 5, 3)
    np.testing.assert_array_equal(Engine(graph, 1).run({"x": x})["d"], x)


def test_channel_split_after_a_convolution_copies_nothing():
    nodes = [
        (Conv(), ["x", "w"], ["a"]),
        (move.Split(axis=1), ["a", "s"], ["b", "c"]),
        (Conv(), ["c", "v"], ["d"]),
    ]
    consts = {"w": numbers(8, 3, 1, 1), "v": numbers(4, 5, 1, 1), "s": ints(3, 5)}
    plan, graph = plan_of(*nodes, x=(1, 3, 6, 6), consts=consts)
    assert [s.kernel for s in plan.steps] == ["transpose32", "conv", "conv", "transpose32"]
    x = numbers(1, 3, 6, 6) / 100
    a = Conv().compute([x, consts["w"]])[0]
    expected = Conv().compute([a[:, 3:], consts["v"]])[0]
    np.testing.assert_allclose(Engine(graph, 1).run({"x": x})["d"], expected, rtol=1e-5)


def test_a_gap_between_pixels_is_closed_where_a_consumer_needs_it():
    nodes = [
        (move.Transpose(perm=(0, 3, 1, 2)), ["x"], ["a"]),
        (move.Concat(axis=1), ["a", "a"], ["b"]),
        (move.Slice(), ["b", "from", "to", "axis"], ["c"]),
        (move.Pad(), ["c", "p"], ["d"]),
    ]
    consts = {"from": ints(2), "to": ints(5), "axis": ints(1), "p": ints(0, 0, 1, 1, 0, 0, 0, 0)}
    _, graph = plan_of(*nodes, x=(2, 4, 5, 3), consts=consts)
    x = numbers(2, 4, 5, 3)
    a = x.transpose(0, 3, 1, 2)
    expected = np.pad(np.concatenate([a, a], 1)[:, 2:5], ((0, 0), (0, 0), (1, 0), (1, 0)))
    np.testing.assert_array_equal(Engine(graph, 1).run({"x": x})["d"], expected)


@pytest.mark.parametrize("dims", [(2, 4, 1, 1), (1, 4, 3, 3), (4, 3)])
def test_parts_of_a_graph_input_are_right(dims):
    x = numbers(*dims)
    for layout in ("plain", "last"):
        moved(move.Split(axis=1, num_outputs=2), [x], layout, n_outputs=2)
        moved(move.Slice(), [x, ints(1), ints(9), ints(1)], layout)


def test_an_index_computed_at_run_time_is_checked():
    x, op = numbers(4, 2), indexing.Gather()
    np.testing.assert_array_equal(run_op(op, [x, ints(3, -4)], native=False)[0], x[[3, 0]])
    with pytest.raises(InputError, match="index 4 is out of range for axis 0 of size 4"):
        run_op(op, [x, ints(4)], native=False)


# Symbolic shapes.

N, H = Sym("N"), Sym("H")


def inferred(op, *types, values=None):
    types = [TensorType(F32, t) if isinstance(t, tuple) else t for t in types]
    values = values or [None] * len(types)
    types = [TensorType(v.dtype, v.shape) if t is None else t for t, v in zip(types, values)]
    return op.infer(types, values)[0].shape


def test_shape_rules_carry_symbols():
    flat = inferred(shape.Flatten(), (N, 3, 4))
    assert flat == (N, 12)
    v = [None, ints(0, -1)]
    assert inferred(shape.Reshape(), (N, 3, 4), None, values=v) == (N, 12)
    v = [None, ints(-1, 12)]
    assert inferred(shape.Reshape(), (N, 3, 4), None, values=v) == (N, 12)
    assert inferred(move.Transpose(perm=(1, 0)), (N, H)) == (H, N)
    assert inferred(move.Concat(axis=1), (N, 3), (N, 4)) == (N, 7)
    assert str(inferred(move.Concat(axis=0), (N, 3), (H, 3))[0]) == "(N+H)"
    v = [None, ints(0), ints(1 << 62), ints(0)]
    assert inferred(move.Slice(), (N, 3), None, None, None, values=v) == (N, 3)
    v = [None, ints(0, 1, 0, 1)]
    assert inferred(move.Pad(), (N, 3), None, values=v) == (N, 5)
    assert inferred(indexing.Gather(), (5, N), None, values=[None, np.array(0)]) == (N,)
    assert shape.Shape().fold([TensorType(F32, (N, 3))], [None]) is None
    assert shape.Shape(start=1).fold([TensorType(F32, (N, 3))], [None])[0] == 3


def test_unknown_shapes_keep_their_rank():
    t = TensorType(np.dtype(np.int64), (3,))
    assert inferred(shape.Reshape(), (2, 3), t) == (None,) * 3
    assert inferred(move.Expand(), (2, 3), t) == (None,) * 3
    assert inferred(indexing.NonZero(), (2, 3)) == (2, None)


# Errors.

BAD = [
    (shape.Reshape(), [X, ints(7, -1)], "cannot be reshaped"),
    (shape.Reshape(), [X, ints(2, 3)], "cannot be reshaped"),
    (shape.Reshape(), [X, ints(-1, -1)], "more than one -1"),
    (shape.Reshape(), [X, ints(-2, 60)], "below -1"),
    (shape.Reshape(), [numbers(2), ints(2, 0)], "copies dimension 1"),
    (shape.Reshape(allowzero=1), [numbers(0), ints(0, -1)], "both 0 and -1"),
    (shape.Reshape(), [X, np.ones(2, np.float32)], "must hold integers"),
    (shape.Flatten(axis=5), [X], "axis 5 is out of range"),
    (shape.Squeeze(), [X, ints(1)], "has size 3, not 1"),
    (shape.Unsqueeze(), [X, ints(1, 1)], "twice"),
    (shape.Unsqueeze(), [X, ints(9)], "out of range"),
    (shape.ConstantOfShape(), [ints(2, -1)], "negative"),
    (shape.ConstantOfShape(), [ints(1 << 40, 1 << 40)], "exceeds"),
    (shape.Range(), [np.int64(0), np.int64(5), np.int64(0)], "delta is 0"),
    (shape.Range(), [np.float32(0), np.float32(np.inf), np.float32(1)], "no end"),
    (shape.Range(), [np.int64(0), np.int64(1 << 62), np.int64(1)], "exceeds"),
    (shape.EyeLike(), [X], "rank 2"),
    (move.Transpose(perm=(0, 1, 1, 2)), [X], "not a permutation"),
    (move.Concat(axis=4), [X, X], "axis 4 is out of range"),
    (move.Concat(axis=1), [X, X[:, :, :2]], "differ on axis 2"),
    (move.Concat(axis=0), [X, X.astype(np.float64)], "dtypes"),
    (move.Split(axis=1), [X, ints(1, 1)], "does not add up"),
    (move.Split(axis=1), [X], "num_outputs"),
    (move.Split(axis=3, num_outputs=4), [X], "cannot be split into 4"),
    (move.Slice(), [X, ints(0), ints(1), ints(0), ints(0)], "has a 0"),
    (move.Slice(), [X, ints(0), ints(1), ints(4)], "out of range"),
    (move.Slice(), [X, ints(0, 1), ints(1)], "entries"),
    (move.Expand(), [X, ints(2)], "do not broadcast"),
    (move.Expand(), [numbers(1), ints(1 << 50)], "exceeds"),
    (move.Tile(), [X, ints(2)], "entry per axis"),
    (move.Tile(), [numbers(2, 1), ints(1, -1)], "negative"),
    (move.Pad(mode="mirror"), [X, ints(*[0] * 8)], "mode 'mirror'"),
    (move.Pad(), [X, ints(1, 2)], "2 entries"),
    (move.Pad(), [X, ints(-2, 0, 0, 0, -2, 0, 0, 0)], "leave -2"),
    (move.Pad(mode="reflect"), [numbers(0), ints(1, 1)], "size 0"),
    (move.Pad(), [numbers(1), ints(1 << 60, 0)], "exceeds"),
    (move.DepthToSpace(blocksize=2), [X], "does not divide by 4"),
    (move.SpaceToDepth(blocksize=0), [X], "blocksize 0"),
    (move.Trilu(), [numbers(3)], "rank 2"),
    (indexing.Gather(axis=1), [X, ints(3)], "index 3 is out of range for axis 1 of size 3"),
    (indexing.Gather(axis=4), [X, ints(0)], "axis 4 is out of range"),
    (indexing.GatherElements(), [numbers(2), ints(-3)], "index -3"),
    (indexing.GatherND(), [X, np.array([[5]])], "index 5"),
    (indexing.GatherND(batch_dims=4), [X, np.array([[5]])], "batch_dims"),
    (indexing.ScatterND(), [X, np.array([[5]]), X[:1]], "index 5"),
    (indexing.ScatterElements(reduction="sum"), [X, np.zeros(X.shape, int), X], "'sum'"),
    (indexing.ScatterElements(), [numbers(2), ints(2), numbers(1)], "index 2"),
    (indexing.OneHot(), [ints(1), ints(-4), numbers(2)], "negative"),
]


@pytest.mark.parametrize(("op", "arrays", "text"), BAD, ids=lambda v: getattr(v, "label", ""))
def test_what_does_not_fit_is_an_error_that_says_so(op, arrays, text):
    arrays = [np.asarray(a) for a in arrays]
    with pytest.raises(FastconvError, match=text):
        infer(op, arrays)
    # And when a model with these inputs is planned, the error names the node.
    names = [f"in{i}" for i in range(len(arrays))]
    consts = dict(zip(names[1:], arrays[1:]))
    types = {names[0]: TensorType(arrays[0].dtype, arrays[0].shape)}
    graph = Graph("g", [Node(op, names, ["y"], "here")], names[:1], ["y"], consts, types)
    with pytest.raises(FastconvError, match="node 'here'"):
        Engine(graph, 1).run({names[0]: arrays[0]})


def test_reversed_sequences_longer_than_the_data_are_refused():
    with pytest.raises(InputError, match="from 0 to 4"):
        move.ReverseSequence().compute([numbers(4, 2), ints(1, 5)])


def test_a_constant_of_shape_takes_no_memory_before_it_is_used():
    y = shape.ConstantOfShape().compute([ints(1 << 20, 1 << 20)])[0]
    assert y.strides == (0, 0)


def test_constant_needs_exactly_one_value():
    with pytest.raises(ShapeError, match="exactly one"):
        shape.Constant(value_int=1, value_float=2.0).infer([], [])
