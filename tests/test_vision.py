"""Operators of detectors and warps: against onnxruntime, naive forms and each other."""

from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
from harness import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import fastconv
from fastconv import FastconvError, InputError, ShapeError
from fastconv.graph import TensorType
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.move import Slice
from fastconv.graph.ops.vision import AffineGrid, Col2Im, DeformConv, NonMaxSuppression, RoiAlign


def run_both(node, opset=17, **inputs):
    """One node by fastconv (natively) and by onnxruntime."""
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in inputs.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(o) for o in node.output]
    m = helper.make_model(
        helper.make_graph([node], "g", values, outputs),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    m.ir_version = 9
    got = fastconv.load(m.SerializeToString(), threads=1, fallback="error").run(inputs)
    m = onnx.shape_inference.infer_shapes(m)
    session = onnxruntime.InferenceSession(m.SerializeToString())
    return list(got.values()), session.run(None, inputs)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_without_offsets_a_deformable_convolution_is_a_convolution():
    x, w, b = floats(2, 4, 7, 9), floats(6, 2, 3, 2, seed=1), floats(6, seed=2)
    how = dict(group=2, pads=(1, 0, 1, 1), strides=(2, 1), dilations=(1, 2))
    (expected,) = Conv(**how).compute([x, w, b])
    offset = np.zeros((2, 2 * 2 * 6, *expected.shape[2:]), np.float32)
    (got,) = DeformConv(offset_group=2, **how).compute([x, w, offset, b])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    mask = np.full((2, 2 * 6, *expected.shape[2:]), 0.5, np.float32)
    (half,) = DeformConv(offset_group=2, **how).compute([x, w, offset, None, mask])
    np.testing.assert_allclose(half, (expected - b[:, None, None]) / 2, rtol=1e-5, atol=1e-5)


def test_offsets_shift_what_a_tap_reads():
    x, w = floats(1, 1, 6, 6), np.ones((1, 1, 1, 1), np.float32)
    offset = np.zeros((1, 2, 6, 6), np.float32)
    offset[:, 0], offset[:, 1] = 2, -1.5  # two down, one and a half to the left
    (y,) = DeformConv().compute([x, w, offset])
    padded = np.pad(x[0, 0], 4)
    left = (padded[:, :-1] + padded[:, 1:]) / 2  # at column + 0.5
    np.testing.assert_allclose(y[0, 0], left[6:12, 2:8], rtol=1e-5, atol=1e-6)


def test_offsets_far_outside_or_not_finite_read_zeros():
    x, w = floats(1, 2, 5, 5), floats(3, 2, 3, 3, seed=1)
    for value in (1e9, -1e30, np.nan, np.inf):
        offset = np.full((1, 18, 3, 3), value, np.float32)
        assert not DeformConv().compute([x, w, offset])[0].any()


def test_shapes_of_a_deformable_convolution_are_checked():
    f32 = np.dtype(np.float32)
    x, w = TensorType(f32, (1, 4, 8, 8)), TensorType(f32, (2, 4, 3, 3))
    offset = TensorType(f32, (1, 18, 5, 6))
    with pytest.raises(ShapeError, match=r"offset .* must have shape \[1, 18, 6, 6\]"):
        DeformConv().infer([x, w, offset], [None] * 3)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("half", ["half_pixel", "output_half_pixel"])
def test_regions_are_aligned_as_by_onnxruntime(mode, ratio, half):
    node = helper.make_node(
        "RoiAlign", ["x", "rois", "at"], ["y"], mode=mode, sampling_ratio=ratio, output_height=3,
        output_width=4, spatial_scale=0.5, coordinate_transformation_mode=half,
    )  # fmt: skip
    rois = np.float32([[0, 0, 20, 12], [3.3, 2.2, 9.1, 8.7], [-6, -4, 40, 50], [5, 5, 5.5, 5.2]])
    inputs = dict(x=floats(2, 3, 10, 12), rois=rois, at=np.array([0, 1, 1, 0]))
    (got,), (expected,) = run_both(node, **inputs)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_region_of_an_image_that_is_not_there_is_an_error():
    x, rois = floats(2, 1, 4, 4), np.zeros((1, 4), np.float32)
    with pytest.raises(InputError, match="from 2 to 2, but there are 2 images"):
        RoiAlign().compute([x, rois, np.array([2])])
    with pytest.raises(FastconvError, match=r"exceeds|not finite"):
        RoiAlign().compute([x, np.float32([[0, 0, 3e38, 3e38]]), np.array([0])])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.booleans(), st.booleans())
def test_suppression_picks_what_onnxruntime_picks(seed, count, centre, with_floor):
    rng = np.random.default_rng(seed)
    low, size = rng.random((2, count, 2)), rng.random((2, count, 2)) / 2
    boxes = np.concatenate([low, size if centre else low + size], axis=2).astype(np.float32)
    scores = (rng.integers(0, 20, (2, 3, count)) / 20).astype(np.float32)  # with ties
    inputs = dict(
        boxes=boxes, scores=scores, most=np.array([5]), iou=np.float32([0.3]),
    )  # fmt: skip
    if with_floor:
        inputs["floor"] = np.float32([0.4])
    node = helper.make_node("NonMaxSuppression", list(inputs), ["y"], center_point_box=int(centre))
    (got,), (expected,) = run_both(node, **inputs)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, expected)


def test_without_a_number_of_boxes_none_is_picked():
    boxes, scores = np.zeros((1, 2, 4), np.float32), np.ones((1, 1, 2), np.float32)
    assert NonMaxSuppression().compute([boxes, scores])[0].shape == (0, 3)


@pytest.mark.parametrize("align", [0, 1])
def test_the_identity_map_gives_back_the_image(align):
    x = floats(2, 3, 5, 7)
    theta = np.tile(np.float32([[1, 0, 0], [0, 1, 0]]), (2, 1, 1))
    nodes = [
        helper.make_node("AffineGrid", ["theta", "size"], ["grid"], align_corners=align),
        helper.make_node("GridSample", ["x", "grid"], ["y"], align_corners=align),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g",
        [value("x", 1, [2, 3, 5, 7]), value("theta", 1, [2, 2, 3]), value("size", 7, [4])],
        [value("y", 1, None)],
    )  # fmt: skip
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    y = fastconv.load(m.SerializeToString(), fallback="error")(x, theta, np.array(x.shape))
    np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-5)


def test_a_grid_of_another_rank_is_an_error():
    with pytest.raises(ShapeError, match="must be"):
        AffineGrid().compute([floats(1, 2, 3), np.array([1, 1, 2, 2, 2])])


def test_columns_come_back_as_the_transpose_of_taking_them():
    # ⟨im2col(a), b⟩ = ⟨a, col2im(b)⟩ for all a and b.
    rng = np.random.default_rng(0)
    how = dict(dilations=(2, 1), pads=(1, 0, 2, 1), strides=(1, 2))
    a = rng.standard_normal((2, 3, 6, 7))
    padded = np.pad(a, ((0, 0), (0, 0), (1, 2), (0, 1)))
    rows, cols = 9 - 2 * 1, (8 - 3) // 2 + 1
    taken = np.stack(
        [
            padded[:, :, 2 * i : 2 * i + rows, j : j + 2 * cols - 1 : 2].reshape(2, 3, -1)
            for i in range(2)
            for j in range(3)
        ],
        axis=2,
    ).reshape(2, 18, -1)
    b = rng.standard_normal(taken.shape)
    (back,) = Col2Im(**how).compute([b, np.array([6, 7]), np.array([2, 3])])
    np.testing.assert_allclose((taken * b).sum(), (a * back).sum())


@pytest.mark.parametrize("length", [8, 12, 15])
@pytest.mark.parametrize("complex_", [False, True])
def test_transforms_forth_and_back_give_the_signal(length, complex_):
    x = floats(2, length, 3, 2 if complex_ else 1)
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[a,b,c,d] x) => (float[a,b,c,2] z) {
        axis = Constant <value = int64 {1}> ()
        y = DFT (x, , axis)
        z = DFT <inverse = 1> (y, , axis)
    }"""
    m = fastconv.load(onnx.parser.parse_model(text).SerializeToString(), fallback="error")
    z = m(x)
    np.testing.assert_allclose(z[..., : x.shape[-1]], x, atol=1e-5)
    if not complex_:
        np.testing.assert_allclose(z[..., 1], 0, atol=1e-5)


@pytest.mark.parametrize("onesided", [0, 1])
def test_spectra_of_frames_are_those_of_onnxruntime(onesided):
    node = helper.make_node("STFT", ["x", "step", "window"], ["y"], onesided=onesided)
    window = np.hanning(16).astype(np.float32)
    (got,), (expected,) = run_both(node, x=floats(2, 100, 1), step=np.array(7), window=window)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows_are_those_of_onnxruntime(op, periodic):
    node = helper.make_node(op, ["n"], ["y"], periodic=periodic)
    (got,), (expected,) = run_both(node, n=np.array(12))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_mel_filters_are_those_of_onnxruntime():
    node = helper.make_node("MelWeightMatrix", ["b", "n", "r", "low", "high"], ["y"])
    inputs = dict(b=np.array(8), n=np.array(64), r=np.array(8000))
    (got,), (expected,) = run_both(
        node, **inputs, low=np.array(20, np.float32), high=np.array(4000, np.float32)
    )
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("align", [0, 1])
def test_cubic_sampling_beyond_a_border_is_that_of_onnxruntime(align):
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5) ** 2
    grid = np.zeros((1, 1, 6, 2), np.float32)
    grid[0, 0, :, 0] = [-1.7, -1.3, -1.05, 0.3, 1.1, 1.6]
    attributes = {"mode": "cubic", "padding_mode": "border", "align_corners": align}
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], **attributes)
    (ours,), (theirs,) = run_both(node, opset=20, x=x, grid=grid)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [-1, -2, 1])
def test_slices_that_begin_or_end_outside_are_those_of_onnxruntime(step):
    x = np.arange(3, dtype=np.float32)
    node = helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])
    for start, stop in product([-9, -4, -3, -1, 2, 7], [-9, -4, -3, 0, 2]):
        given = [np.array([v]) for v in (start, stop, 0, step)]
        (ours,), (theirs,) = run_both(
            node, x=x, starts=given[0], ends=given[1], axes=given[2], steps=given[3]
        )
        np.testing.assert_array_equal(ours, theirs)
        (planned,) = run_op(Slice(), [x, *given], consts=[1, 2, 3, 4])
        np.testing.assert_array_equal(planned, theirs)
