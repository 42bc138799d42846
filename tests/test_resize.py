"""Resize and GridSample: twins against the ONNX reference, kernels against their twins, errors."""

import numpy as np
import pytest
from harness import check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from test_move import infer, ints, reference

from fastconv.errors import FastconvError
from fastconv.graph import Sym, TensorType
from fastconv.graph.ops.resize import COORDINATES, NEAREST, GridSample, Resize


def floats(*values):
    return np.array(values, np.float32)


def image(*dims, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(dims).astype(dtype)


def agrees(op, arrays, atol=1e-5):
    expected = reference(op, arrays, opset=19)[0]
    got = op.compute(arrays)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=atol)
    assert got.dtype == expected.dtype
    assert infer(op, arrays)[0].shape == got.shape


TARGETS = [
    ("scales", floats(1, 1, 2, 2)),
    ("scales", floats(1, 1, 0.5, 0.75)),
    ("scales", floats(1, 1, 2.5, 0.625)),
    ("sizes", ints(1, 2, 7, 3)),
    ("sizes", ints(1, 2, 3, 9)),
    ("sizes", ints(1, 2, 4, 5)),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t[0]}-{t[1].tolist()}")
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_every_mode_agrees_with_the_onnx_reference(mode, coordinates, target):
    kind, value = target
    op = Resize(mode=mode, coordinate_transformation_mode=coordinates, extrapolation_value=10.0)
    roi = None
    if coordinates == "tf_crop_and_resize":
        roi = floats(0, 0, 0.25, -0.25, 1, 1, 0.75, 1.25)
    arrays = [image(1, 2, 4, 5), roi, *((value, None) if kind == "scales" else (None, value))]
    agrees(op, arrays)


@pytest.mark.parametrize("nearest_mode", NEAREST)
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("scales", [floats(1, 1, 2, 3), floats(1, 1, 0.5, 0.75)], ids=str)
def test_every_rounding_of_nearest(nearest_mode, coordinates, scales):
    op = Resize(nearest_mode=nearest_mode, coordinate_transformation_mode=coordinates)
    agrees(op, [image(1, 2, 4, 8), None, scales])


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scales", [floats(1, 1, 0.3, 0.6), floats(1, 1, 1.7, 0.45)], ids=str)
@pytest.mark.parametrize("exclude", [0, 1])
def test_antialias_and_exclude_outside(mode, scales, exclude):
    op = Resize(mode=mode, antialias=1, exclude_outside=exclude)
    agrees(op, [image(1, 2, 10, 12), None, scales])
    op = Resize(mode=mode, exclude_outside=exclude, cubic_coeff_a=-0.5)
    agrees(op, [image(1, 2, 10, 12), None, scales])


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [(2, 3), (3, 2), (-1, -2)])
def test_axes_and_aspect_ratio_policies(policy, axes):
    op = Resize(mode="linear", axes=axes, keep_aspect_ratio_policy=policy)
    arrays = [image(1, 2, 4, 6), None, None, ints(7, 8)]
    if axes != (2, 3):  # the reference takes ordered axes only: swap them here
        ordered = Resize(mode="linear", axes=(2, 3), keep_aspect_ratio_policy=policy)
        arrays[3] = ints(8, 7)
        expected = ordered.compute(arrays)[0]
        arrays[3] = ints(7, 8)
        np.testing.assert_allclose(op.compute(arrays)[0], expected, rtol=1e-6)
    else:
        agrees(op, arrays)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_other_dtypes(mode, dtype):
    x = (image(1, 2, 4, 5) * 100).clip(0, 255).astype(dtype)
    agrees(Resize(mode=mode), [x, None, floats(1, 1, 2, 1.5)], atol=1e-3)


def test_other_ranks():
    agrees(Resize(mode="linear"), [image(2, 3, 7), None, floats(1, 1, 1.5)])
    agrees(Resize(mode="linear"), [image(2, 3, 3, 4, 2), None, floats(1, 1, 2, 0.5, 3)])
    agrees(Resize(mode="cubic"), [image(3, 4), None, floats(2, 0.75)])


def test_one_pixel_with_pytorch_half_pixel_is_the_first():
    op = Resize(mode="cubic", coordinate_transformation_mode="pytorch_half_pixel")
    x = image(1, 1, 5, 5)
    assert op.compute([x, None, None, ints(1, 1, 1, 1)])[0].item() == pytest.approx(x[0, 0, 0, 0])


def test_an_image_stays_what_it_is_at_its_own_size():
    x = image(1, 2, 4, 5)
    for mode in ("nearest", "linear", "cubic"):
        np.testing.assert_array_equal(
            Resize(mode=mode).compute([x, None, None, ints(*x.shape)]), [x]
        )


# Kernels.


@st.composite
def resizes(draw):
    mode = draw(st.sampled_from(["nearest", "linear", "linear", "cubic"]))
    coordinates = draw(st.sampled_from([c for c in COORDINATES if c != "tf_crop_and_resize"]))
    rank = draw(st.integers(1, 3))
    c = draw(st.sampled_from([1, 2, 3, 8, 16, 17, 33]))
    dims = [draw(st.integers(1, 9)) for _ in range(rank)]
    out = [draw(st.integers(1, 14)) for _ in range(rank)]
    op = Resize(
        mode=mode, coordinate_transformation_mode=coordinates,
        nearest_mode=draw(st.sampled_from(NEAREST)),
        antialias=int(mode != "nearest" and draw(st.booleans())),
        exclude_outside=int(mode != "nearest" and draw(st.booleans())),
    )  # fmt: skip
    return op, (draw(st.integers(1, 2)), c, *dims), out


@settings(max_examples=100, deadline=None)
@given(resizes(), st.booleans())
def test_any_resize_matches_its_twin(case, last):
    op, dims, out = case
    x = image(*dims)
    arrays = [x, None, None, ints(*dims[:2], *out)]
    check_op(op, arrays, consts=[3], channels_last=[0] if last else [])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.data())
def test_a_resize_of_any_axes_matches_its_twin(dims, data):
    out = [data.draw(st.integers(1, 9)) for _ in dims]
    check_op(Resize(mode="linear"), [image(*dims), None, None, ints(*out)], consts=[3])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("dims", [(1, 64, 20, 20), (1, 3, 80, 90), (2, 17, 31, 9)])
def test_doubling_with_enough_work_for_several_threads(mode, dims):
    op = Resize(mode=mode)
    arrays = [image(*dims), None, floats(1, 1, 2, 2)]
    check_op(op, arrays, consts=[2], channels_last=[0])


def test_a_nearest_crop_shows_the_extrapolation_value():
    op = Resize(coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=7.0)
    roi = floats(0, 0, -0.5, 0.25, 1, 1, 1.5, 0.75)
    check_op(op, [image(1, 5, 6, 6), roi, None, ints(1, 5, 8, 8)], consts=[1, 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int64])
def test_nearest_moves_elements_of_any_size(dtype):
    x = (image(2, 3, 4, 5) * 50).astype(dtype)
    check_op(Resize(), [x, None, floats(1, 1, 2, 3)], consts=[2], rtol=0, atol=0)


def test_sizes_may_come_at_run_time():
    x = image(1, 2, 4, 4)
    arrays = [x, None, None, ints(1, 2, 8, 6)]
    got = run_op(Resize(mode="linear"), arrays, native=False)[0]
    np.testing.assert_allclose(got, Resize(mode="linear").compute(arrays)[0], rtol=1e-6)


def test_shapes_with_symbols():
    n = Sym("N")
    t = TensorType(np.dtype(np.float32), (n, 3, Sym("H"), 5))
    s = floats(1, 1, 2, 1.5)
    types = [t, None, TensorType(s.dtype, s.shape)]
    out = Resize().infer(types, [None, None, s])[0].shape
    assert out[:2] == (n, 3)
    assert str(out[2]) == "(H*2)"
    assert out[3] == 7
    assert Resize().infer(types, [None] * 3)[0].shape == (None,) * 4


X = image(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("op", "arrays", "text"),
    [
        (Resize(mode="area"), [X, None, floats(1, 1, 2, 2)], "mode 'area'"),
        (Resize(nearest_mode="up"), [X, None, floats(1, 1, 2, 2)], "nearest_mode 'up'"),
        (Resize(antialias=1), [X, None, floats(1, 1, 2, 2)], "antialias"),
        (Resize(), [X], "scales or sizes"),
        (Resize(), [X, None, floats(1, 1, 2, 2), ints(1, 2, 8, 8)], "both scales and sizes"),
        (Resize(), [X, None, floats(2, 2)], "each of 4 axes"),
        (Resize(), [X, None, floats(1, 1, 0, 2)], "not positive"),
        (Resize(), [X, None, floats(1, 1, np.nan, 2)], "not positive"),
        (Resize(), [X, None, floats(1, 1, 1e30, 2)], "too long"),
        (Resize(), [X, None, floats(1, 1, 1e10, 1e10)], "exceeds"),
        (Resize(), [X, None, None, ints(1, 2, -8, 8)], "negative"),
        (Resize(axes=(5,)), [X, None, None, ints(8)], "out of range"),
        (Resize(), [X[:0], None, None, ints(1, 2, 4, 4)], "size 0 cannot be resized"),
        (
            Resize(coordinate_transformation_mode="tf_crop_and_resize"),
            [X, None, floats(1, 1, 2, 2)],
            "roi",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(op, arrays, text):
    with pytest.raises(FastconvError, match=text):
        infer(op, arrays)


# GridSample.


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample_agrees_with_the_onnx_reference(mode, padding, align):
    op = GridSample(mode=mode, padding_mode=padding, align_corners=align)
    grid = np.random.default_rng(1).uniform(-1.6, 1.6, (2, 4, 3, 2)).astype(np.float32)
    x = image(2, 2, 5, 4)
    if (mode, padding) == ("cubic", "border"):
        grid = np.clip(grid, -0.5, 0.5)  # beyond, both differ: tests/test_vision.py
    expected = reference(op, [x, grid], opset=20)[0]
    np.testing.assert_allclose(op.compute([x, grid])[0], expected, rtol=1e-4, atol=1e-4)


def test_grid_sample_in_three_dimensions():
    grid = np.random.default_rng(1).uniform(-1.2, 1.2, (1, 2, 2, 3, 3)).astype(np.float32)
    x = image(1, 2, 3, 4, 5)
    expected = reference(GridSample(), [x, grid], opset=20)[0]
    np.testing.assert_allclose(GridSample().compute([x, grid])[0], expected, atol=1e-5)


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(FastconvError, match="does not fit"):
        infer(GridSample(), [X, np.zeros((1, 3, 2), np.float32)])
    with pytest.raises(FastconvError, match="differ in batch"):
        infer(GridSample(), [X, np.zeros((2, 3, 3, 2), np.float32)])


def test_points_that_are_not_numbers_do_no_harm():
    grid = np.full((1, 2, 2, 2), np.nan, np.float32)
    grid[0, 0, 0] = np.inf
    for padding in ("zeros", "border", "reflection"):
        with np.errstate(all="ignore"):
            y = GridSample(mode="nearest", padding_mode=padding).compute([X, grid])[0]
        assert y.shape == (1, 2, 2, 2)
