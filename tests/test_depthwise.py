"""Depthwise convolution against its NumPy twin: every tile edge, every geometry."""

import importlib

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import kernels
from fastconv.graph.activation import Activation
from fastconv.graph.ops.conv import Conv
from fastconv.plan.lower import depthwise


def arrays(rng, *shapes):
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def kernel_of(op, xs, isa=None):
    """The names of the kernels that a plan uses for this operator."""
    return [s.kernel for s in steps_of(op, xs, isa)]


def steps_of(op, xs, isa=None):
    """The steps of this operator's plan."""
    from fastconv.graph import Graph, Node, TensorType
    from fastconv.runtime.engine import Engine

    graph = Graph(
        "test", [Node(op, ["x", "w"], ["y"], "node")], ["x"], ["y"],
        {"w": xs[1]}, {"x": TensorType(xs[0].dtype, xs[0].shape)},
    )  # fmt: skip
    return Engine(graph, 1, isa=isa).prepare({"x": xs[0]}).plan.steps


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 2))
    channels = draw(st.integers(2, 50))
    kernel = [draw(st.integers(1, 8)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw(st.integers(0, 5)) for _ in range(2 * rank)]
    least = [
        max(1, (k - 1) * d + 1 - p - q)
        for k, d, p, q in zip(kernel, dilations, pads[:rank], pads[rank:], strict=True)
    ]
    size = [draw(st.integers(n, n + 20)) for n in least]
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    act = draw(st.sampled_from([None, Activation("clip", 0.0, 6.0), Activation("clip", -0.5, 1.0)]))
    op = Conv(
        auto_pad=auto, dilations=tuple(dilations), group=channels, strides=tuple(strides),
        pads=tuple(pads) if auto == "NOTSET" else None, activation=act,
    )  # fmt: skip
    x, w = (draw(st.integers(1, 2)), channels, *size), (channels, 1, *kernel)
    return op, x, w, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_any_depthwise_convolution_matches_its_twin(case):
    op, x, w, bias, residual, seed = case
    rng = np.random.default_rng(seed)
    xs = [*arrays(rng, x, w), arrays(rng, w[:1])[0] if bias else None]
    if residual:
        xs += arrays(rng, (x[0], w[0], *op.window(x, w).output))
    # Terms that cancel are larger than what is left after clipping, so are their rounding errors.
    check_op(op, xs, consts=[1, 2] if bias else [1], atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("width", range(1, 21))
def test_every_strip_width(width, kernel, stride):
    rng = np.random.default_rng(width)
    op = Conv(group=17, pads=(kernel // 2,) * 4, strides=(stride, stride))
    check_op(op, arrays(rng, (1, 17, 3, width), (17, 1, kernel, kernel)), consts=[1], threads=[1])


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
@pytest.mark.parametrize("channels", range(2, 41))
def test_every_channel_tail(channels, kernel):
    rng = np.random.default_rng(channels)
    op = Conv(group=channels, pads=(1, 1, 1, 1), activation=Activation("clip", -1.0, 2.0))
    xs = arrays(rng, (2, channels, 5, 9), (channels, 1, *kernel), (channels,))
    check_op(op, xs, consts=[1, 2], threads=[1, 2])


@pytest.mark.parametrize(("channels", "width"), [(24, 9), (7, 5), (200, 40), (530, 12)])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks_of_channels_rows_and_strips(channels, width, stride):
    rng = np.random.default_rng(channels)
    op = Conv(group=channels, pads=(2, 2, 2, 2), strides=(stride, stride))
    check_op(op, arrays(rng, (1, channels, 11, width), (channels, 1, 5, 5)), consts=[1])


@pytest.mark.parametrize("kernel", [1, 64, 65])
def test_long_rows_of_taps(kernel):
    rng = np.random.default_rng(kernel)
    xs = arrays(rng, (1, 5, 70), (5, 1, kernel))
    check_op(Conv(group=5, pads=(3, 0)), xs, consts=[1])
    assert ("depthwise" in kernel_of(Conv(group=5), xs)) == (kernel <= depthwise.MAX_KW)


@pytest.mark.parametrize("isa", ISAS)
def test_batch_position_does_not_change_bits(isa):
    rng = np.random.default_rng(0)
    x, w = arrays(rng, (1, 37, 13, 19), (37, 1, 3, 3))
    op = Conv(group=37, pads=(1, 1, 1, 1))
    alone = run_op(op, [x, w], consts=[1], isa=isa)[0]
    batch = run_op(op, [np.concatenate([x] * 5), w], consts=[1], isa=isa, threads=2)[0]
    assert all(b.tobytes() == alone[0].tobytes() for b in batch)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [3, 4])
def test_padding_is_absent_not_zero_times_weight(isa, kernel):
    """An infinite weight over a padding column gives no NaN: padding cells are not multiplied."""
    x = np.ones((1, 16, 6, 6), np.float32)
    w = np.ones((16, 1, kernel, kernel), np.float32)
    w[:, :, 0, 0] = np.inf
    y = run_op(Conv(group=16, pads=(1, 1, 1, 1)), [x, w], consts=[1], isa=isa)[0]
    assert not np.isnan(y).any()
    assert np.isfinite(y[:, :, 0]).all()
    assert np.isfinite(y[:, :, :, 0]).all()
    assert np.isinf(y[:, :, 1:, 1:]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_nan_reaches_only_the_windows_that_hold_it(isa):
    x = np.zeros((1, 20, 9, 9), np.float32)
    x[0, 3, 4, 4] = np.nan
    op = Conv(group=20, pads=(1, 1, 1, 1), activation=Activation("clip", 0.0, 6.0))
    y = run_op(op, [x, np.ones((20, 1, 3, 3), np.float32)], consts=[1], isa=isa)[0]
    expected = np.zeros(y.shape, bool)
    expected[0, 3, 3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_only_one_filter_per_channel_in_one_or_two_dimensions_is_taken():
    rng = np.random.default_rng(0)
    for op, shapes, taken in (
        (Conv(group=6), [(1, 6, 8, 8), (6, 1, 3, 3)], True),
        (Conv(group=6), [(1, 6, 8), (6, 1, 3)], True),
        (Conv(group=6), [(1, 6, 8, 8), (12, 1, 3, 3)], False),
        (Conv(group=3), [(1, 6, 8, 8), (6, 2, 3, 3)], False),
        (Conv(group=6), [(1, 6, 4, 4, 4), (6, 1, 3, 3, 3)], False),
    ):
        xs = arrays(rng, *shapes)
        check_op(op, xs, consts=[1], threads=[1])
        assert ("depthwise" in kernel_of(op, xs)) == taken


@pytest.mark.parametrize("isa", ISAS)
def test_the_lowering_and_the_kernel_agree_on_their_limits(isa):
    module = importlib.import_module(f"fastconv.kernels.{kernels.home(isa, 'depthwise')}.depthwise")
    limits = {n: getattr(depthwise, n) for n in ("STRIP", "MAX_TILES", "MAX_KW")}
    assert limits == module.CONSTANTS


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("channels", [8, 24, 100, 960])
def test_blocks_never_pass_the_kernel_s_limits(channels, threads):
    for vw in (4, 8, 16):
        for size in (1, 7, 300):
            rows, width, strips = depthwise.blocks(1, size, size, channels, 3, 3, 1, 1, vw, threads)
            assert 1 <= rows <= size
            assert 1 <= strips <= depthwise.MAX_TILES
            assert width % vw == 0


@pytest.mark.parametrize("pads", [(0, 2, 0, 0), (0, 0, 0, 2), (1, 3, 1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_wider_than_half_the_kernel(stride, pads):
    """Strips look only at their outer columns, so these windows take the general ones."""
    x, w, b = arrays(np.random.default_rng(1), (1, 20, 5, 9), (20, 1, 3, 3), (20,))
    op = Conv(group=20, kernel_shape=(3, 3), pads=pads, strides=(stride, stride))
    check_op(op, [x, w, b], consts=[1, 2], channels_last=[0])


@pytest.mark.parametrize("isa", ISAS)
def test_asking_for_far_rows_does_not_change_bits(isa, monkeypatch):
    rng = np.random.default_rng(6)
    x, w = arrays(rng, (1, 48, 21, 17), (48, 1, 3, 3))
    op = Conv(group=48, pads=(1, 1, 1, 1))
    results, far = [], []
    for least in (1, 1 << 40):
        monkeypatch.setattr(depthwise, "FAR_BYTES", least)
        results.append(run_op(op, [x, w], consts={1}, isa=isa)[0])
        far += [s.params["far"] for s in steps_of(op, [x, w], isa) if s.kernel == "depthwise"]
    assert far == [1, 0]
    assert results[0].tobytes() == results[1].tobytes()


def test_few_pixels_are_shared_by_channels():
    """As the convolution before them was: its filters are more than its pixels."""
    rows, width, _ = depthwise.blocks(1, 7, 7, 960, 3, 3, 1, 1, 16, 2)
    assert rows == 7
    assert 960 // width >= 4
