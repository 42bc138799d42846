"""Convolution and transposed convolution against their NumPy twins."""

import numpy as np
import pytest
from harness import ISAS, ToChannelsLast, check_op, run_op, shared_steps
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.activation import RELU6, SILU, Activation
from fastconv.graph.ops.binary import Mul
from fastconv.graph.ops.conv import Conv, ConvTranspose
from fastconv.runtime.engine import Engine


def arrays(rng, *shapes):
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, filters = draw(st.integers(1, 9)), draw(st.integers(1, 37))
    kernel = [draw(st.integers(1, 3 if rank == 3 else 5)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * rank)]
    least = [max(1, (k - 1) * d + 1) for k, d in zip(kernel, dilations)]
    size = [draw(st.integers(n, n + (4 if rank == 3 else 12))) for n in least]
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    n = draw(st.integers(1, 2))
    op = Conv(
        auto_pad=auto, dilations=tuple(dilations), group=group, strides=tuple(strides),
        pads=tuple(pads) if auto == "NOTSET" else None,
    )  # fmt: skip
    x, w = (n, channels * group, *size), (filters * group, channels, *kernel)
    return op, x, w, draw(st.booleans()), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_any_convolution_matches_its_twin(case):
    op, x, w, bias, seed = case
    rng = np.random.default_rng(seed)
    xs = arrays(rng, x, w) + (arrays(rng, w[:1]) if bias else [])
    check_op(op, xs, consts=[1, 2][: len(xs) - 1])


@settings(max_examples=15, deadline=None)
@given(convolutions())
def test_a_convolution_with_computed_weights_matches_its_twin(case):
    op, x, w, bias, seed = case
    rng = np.random.default_rng(seed)
    check_op(op, arrays(rng, x, w) + (arrays(rng, w[:1]) if bias else []))


@st.composite
def transposed(draw):
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2]))
    channels, filters = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 4)) for _ in range(rank)]
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations)]
    size = [draw(st.integers(1, 6)) for _ in range(rank)]
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(size, strides, kernel, dilations, extra)
    ]
    pads = [draw(st.integers(0, (f - 1) // 2)) for f in full] * 2
    op = ConvTranspose(
        dilations=tuple(dilations), group=group, strides=tuple(strides),
        output_padding=tuple(extra), pads=tuple(pads),
    )  # fmt: skip
    x, w = (2, channels * group, *size), (channels * group, filters, *kernel)
    return op, x, w, draw(st.booleans()), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=40, deadline=None)
@given(transposed())
def test_any_transposed_convolution_matches_its_twin(case):
    op, x, w, bias, seed = case
    rng = np.random.default_rng(seed)
    xs = arrays(rng, x, w) + (arrays(rng, (w[1] * op.group,)) if bias else [])
    check_op(op, xs, consts=[1, 2][: len(xs) - 1])


@st.composite
def upsampling(draw):
    """Transposed convolutions whose kernel is as wide as their stride, or as their output."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    strides = [draw(st.sampled_from([k, 1, 2])) for k in kernel[:-1]] + [kernel[-1]]
    one = draw(st.booleans())
    size = [1 if one else draw(st.integers(1, 6)) for _ in range(rank)]
    extra = [draw(st.sampled_from([0, 0, s - 1])) for s in strides]
    act = draw(st.sampled_from([None, Activation("clip", 0.0, 6.0), Activation("sigmoid")]))
    op = ConvTranspose(strides=tuple(strides), output_padding=tuple(extra), activation=act)
    channels, filters = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 7, 20, 33]))
    x, w = (draw(st.integers(1, 2)), channels, *size), (channels, filters, *kernel)
    return op, x, w, draw(st.booleans()), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(upsampling())
def test_kernels_as_wide_as_their_stride_match_the_twin(case):
    op, x, w, bias, seed = case
    rng = np.random.default_rng(seed)
    xs = arrays(rng, x, w) + (arrays(rng, (w[1],)) if bias else [])
    check_op(op, xs, consts=[1, 2][: len(xs) - 1])


def test_a_transposed_convolution_keeps_nan_to_the_pixels_that_read_it():
    x, w = arrays(np.random.default_rng(0), (1, 3, 4, 5), (3, 2, 2, 2))
    x[0, 1, 2, 3] = np.nan
    check_op(ConvTranspose(strides=(2, 2)), [x, w], consts=[1])


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 11, 12, 13, 25, 49])
@pytest.mark.parametrize("filters", [1, 15, 16, 17, 31, 32, 33, 47, 48, 65, 80, 103])
def test_every_tile_edge_of_a_pointwise_convolution(rows, filters):
    rng = np.random.default_rng(rows * 100 + filters)
    check_op(Conv(), arrays(rng, (1, 7, rows, 1), (filters, 7, 1, 1)), consts=[1])


@pytest.mark.parametrize("filters", [5, 40, 72, 96, 112, 160])
@pytest.mark.parametrize("size", [(7, 7), (14, 13), (40, 9)])
@pytest.mark.parametrize(
    "act", [None, RELU6, SILU, Activation("hard_swish"), Activation("gelu")], ids=str
)
def test_residuals_and_activations_in_panels_of_every_width(filters, size, act):
    rng = np.random.default_rng(filters)
    xs = arrays(rng, (2, 19, *size), (filters, 19, 1, 1), (filters,), (2, filters, *size))
    check_op(Conv(activation=act), xs, consts=[1, 2])
    check_op(Conv(activation=act), xs[:3], consts=[1, 2])


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("shape", [(60, 7, 7), (33, 20, 11)])
def test_panels_of_every_width_in_windows_and_groups(shape, group):
    rng = np.random.default_rng(group)
    c = shape[0] // group * group
    xs = arrays(rng, (1, c, *shape[1:]), (112 * group, c // group, 3, 3))
    check_op(Conv(strides=(2, 2), pads=(1, 1, 1, 1), group=group), xs, consts=[1])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("width", [16, 29, 45])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("act", [RELU6, SILU], ids=str)
def test_long_rows_of_few_channels(channels, width, stride, act):
    rng = np.random.default_rng(width)
    wide = (width - 1) * stride + 3
    xs = arrays(rng, (2, channels, 6, wide), (37, channels, 3, 5), (37,))
    op = Conv(strides=(2, stride), pads=(1, 2, 2, 1), dilations=(2, 1), activation=act)
    check_op(op, xs, consts=[1, 2])
    rows = arrays(rng, (1, channels, wide), (16, channels, 5))
    check_op(Conv(strides=(stride,), pads=(2, 0)), rows, consts=[1])


def excited(shape, filters, residual):
    """A graph of an image scaled per channel and a 1×1 convolution of it, and its feeds."""
    n, c, h, w = shape
    rng = np.random.default_rng(c)
    x, s, weight, bias, r = arrays(
        rng, shape, (n, c, 1, 1), (filters, c, 1, 1), (filters,), (n, filters, h, w)
    )
    feeds = {"x": x, "s": s, "r": r} if residual else {"x": x, "s": s}
    more = ["r"] if residual else []
    graph = Graph(
        "t",
        [
            Node(ToChannelsLast(), ["x"], ["c"], "c"),
            Node(Mul(), ["c", "s"], ["m"], "mul"),
            Node(Conv(activation=SILU), ["m", "w", "b", *more], ["y"], "conv"),
        ],
        list(feeds), ["y"], {"w": weight, "b": bias},
        {k: TensorType(v.dtype, v.shape) for k, v in feeds.items()},
    )  # fmt: skip
    return graph, feeds


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("shape", "filters"), [((2, 21, 5, 7), 24), ((3, 40, 9, 13), 70)])
def test_an_input_scaled_per_channel_is_scaled_on_the_way(isa, residual, shape, filters):
    graph, feeds = excited(shape, filters, residual)
    plain = [feeds["x"] * feeds["s"], graph.consts["w"], graph.consts["b"]]
    more = [feeds["r"]] if residual else []
    want = run_op(Conv(activation=SILU), plain + more, consts=[1, 2], isa=isa, channels_last=[0])[0]
    for threads in (1, 2, 3):
        engine = Engine(graph, threads, isa=isa)
        with shared_steps(threads):
            steps = [s.kernel for s in engine.prepare(feeds).plan.steps]
            got = engine.run(feeds)["y"]
        assert "binary" not in steps
        assert "conv" in steps
        np.testing.assert_array_equal(got, want)


def test_weights_that_are_more_than_the_pixels_want_a_scaled_input_whole():
    graph, feeds = excited((1, 40, 3, 3), 70, False)
    steps = [s.kernel for s in Engine(graph, 1).prepare(feeds).plan.steps]
    assert "binary" in steps
