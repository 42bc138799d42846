"""Convolution on tile-matrix hardware: right, no less accurate, and exact about NaN and infinity.

These run where the CPU has the hardware; packing and the choice are tested everywhere.
"""

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import kernels
from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.activation import RELU, Activation
from fastconv.graph.ops.binary import Mul
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.norm import BatchNormalization
from fastconv.plan.lower import amx
from fastconv.runtime.engine import Engine

HAVE = [isa for isa in ISAS if isa == "amx"]


def arrays(rng, *shapes):
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


@pytest.fixture
def always(monkeypatch):
    """Every convolution that can goes to tiles, whatever it costs."""
    monkeypatch.setattr(amx.Shape, "cycles", lambda shape: 0.0)


def kernels_of(graph, isa, **options):
    plan = Engine(graph, 1, isa=isa, **options).prepare(graph.types).plan
    return [s.kernel for s in plan.steps]


def error(op, xs, isa, strict=False):
    """Relative rms error against float64."""
    (exact,) = op.compute([x.astype(np.float64) for x in xs])
    graph = Graph(
        "g", [Node(op, ["x", "w"], ["y"], "conv")], ["x"], ["y"], {"w": xs[1]},
        {"x": TensorType(xs[0].dtype, xs[0].shape)},
    )  # fmt: skip
    got = Engine(graph, 1, isa=isa, strict=strict).run({"x": xs[0]})["y"]
    return np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_geometry_matches_the_definition(data):
    draw = data.draw
    group = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    c, f = group * draw(st.integers(4, 70 // group)), group * draw(st.integers(1, 70 // group))
    kernel = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=2)))
    strides = tuple(draw(st.lists(st.integers(1, 3), min_size=2, max_size=2)))
    dilations = tuple(draw(st.lists(st.integers(1, 3), min_size=2, max_size=2)))
    pads = tuple(draw(st.lists(st.integers(0, 4), min_size=4, max_size=4)))
    size = [
        draw(st.integers(max(1, (k - 1) * d + 1 - p - q), 19))
        for k, d, p, q in zip(kernel, dilations, pads[:2], pads[2:], strict=True)
    ]
    n = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    act = draw(st.sampled_from([None, RELU, Activation("silu", 1.0)]))
    op = Conv(strides=strides, dilations=dilations, pads=pads, group=group, activation=act)
    xs = arrays(rng, (n, c, *size), (f, c // group, *kernel))
    bias, added = draw(st.booleans()), draw(st.booleans())
    out = op.window(xs[0].shape, xs[1].shape).output
    xs += arrays(rng, (f,)) if bias else [None]
    xs += arrays(rng, (n, f, *out)) if added else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amx.Shape, "cycles", lambda shape: 0.0)
        patch.setattr(amx, "SPLIT_BYTES", draw(st.sampled_from([1 << 10, 1 << 19])))
        consts = [1, 2] if bias else [1]
        check_op(op, xs, isas=HAVE, consts=consts, rtol=1e-4, atol=5e-5, threads=(1, 2, 16))


@pytest.mark.parametrize(("c", "kernel"), [(1, 5), (3, 3), (3, 7), (4, 2), (8, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("isa", HAVE)
def test_few_channels_are_gathered(always, c, kernel, strides, isa):
    rng = np.random.default_rng(0)
    xs = arrays(rng, (2, c, 23, 19), (40, c, kernel, kernel), (40,))
    op = Conv(strides=strides, pads=(1, 2, 0, 1))
    check_op(op, xs, isas=[isa], consts=[1, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize(("size", "filters", "stride"), [(14, 32, 1), (29, 96, 2), (40, 64, 1)])
def test_threads_that_share_rows_of_one_scale_do_as_one_does(always, isa, size, filters, stride):
    """Also where some of the pixels are too large for that scale."""
    rng = np.random.default_rng(1)
    x, w = arrays(rng, (1, 64, size, size), (filters, 64, 3, 3))
    x[:, :, 3, 5] *= 1e9
    x[:, 7, size - 2, 1] = np.inf
    op = Conv(strides=(stride, stride), pads=(1, 1, 1, 1))
    (alone,) = run_op(op, [x, w], consts=[1], isa=isa)
    for threads in (2, 5, 16):
        (shared,) = run_op(op, [x, w], consts=[1], isa=isa, threads=threads)
        assert shared.tobytes() == alone.tobytes()


@pytest.mark.parametrize("threads", [2, 4, 16])
def test_every_thread_gets_about_the_same_to_do(threads):
    """However small the image: an estimate of the longest share against the mean of all."""
    for size, c, f, k in [(56, 64, 64, 3), (28, 512, 128, 1), (14, 256, 256, 3), (14, 128, 32, 3),
                          (7, 512, 512, 3), (7, 960, 160, 1)]:  # fmt: skip
        shape = amx.Shape(
            1, size, size, c, size, size, f, 1, (k, k), (1, 1), (1, 1), (k // 2, k // 2)
        )
        cycles = amx.shared(threads, *shape.fields())[0]
        whole = amx.shared(1, *shape.fields())[0]
        assert cycles < 1.1 * whole  # never slower than alone
        if size * size * f >= 4096 * threads:
            assert cycles < 2.2 * whole / threads


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4028235e38])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_bad_pixel_reaches_its_neighbours_and_no_others(always, isa, bad, kernel):
    rng = np.random.default_rng(0)
    x, w, b = arrays(rng, (1, 40, 12, 12), (24, 40, kernel, kernel), (24,))
    x[0, 3, 5, 6] = x[0, 1, 11, 11] = bad
    w[7, 3] = 0
    w *= 0.25
    op = Conv(pads=(kernel // 2,) * 4)
    (got,) = run_op(op, [x, w, b], consts=[1, 2], isa=isa)
    with np.errstate(all="ignore"):
        (expected,) = op.compute([x, w, b])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(expected))
    finite = np.isfinite(expected) & (np.abs(expected) < 1e30)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("rectified", [False, True])
def test_digits_are_about_as_accurate_as_direct_convolution(always, isa, rectified):
    rng = np.random.default_rng(1)
    x, w = arrays(rng, (1, 64, 30, 30), (64, 64, 3, 3))
    x = np.maximum(x, 0) if rectified else x
    op = Conv(pads=(1, 1, 1, 1))
    assert error(op, [x, w], isa) <= 2 * error(op, [x, w], isa, strict=True)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("large", [1e7, -1e15, 1e30])
def test_a_large_pixel_costs_those_that_do_not_read_it_no_accuracy(always, isa, kernel, large):
    rng = np.random.default_rng(0)
    x, w = arrays(rng, (2, 40, 20, 20), (24, 40, kernel, kernel))
    x[0, 3, 9, 6] = large
    op = Conv(pads=(kernel // 2,) * 4)
    (got,) = run_op(op, [x, w], consts=[1], isa=isa)
    (expected,) = op.compute([x, w])
    away = np.ones((2, 20, 20), bool)
    away[0, 9 - kernel // 2 : 10 + kernel // 2, 6 - kernel // 2 : 7 + kernel // 2] = False
    keep = np.broadcast_to(away[:, None], got.shape)
    np.testing.assert_allclose(got[keep], expected[keep], rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(got[~keep], expected[~keep], atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("isa", HAVE)
def test_nor_do_large_pixels_that_a_convolution_has_spread(always, isa):
    rng = np.random.default_rng(0)
    x, w = arrays(rng, (1, 40, 9, 9), (24, 40, 3, 3))
    x[0, :, 3:6, 3:6] *= np.float32(1e30)
    op = Conv(pads=(1, 1, 1, 1))
    (got,) = run_op(op, [x, w], consts=[1], isa=isa)
    (expected,) = op.compute([x, w])
    far = np.ones((9, 9), bool)
    far[2:7, 2:7] = False
    np.testing.assert_allclose(got[0][:, far], expected[0][:, far], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("size", [(4000,), (60, 60)])
def test_a_quiet_part_keeps_its_accuracy_beside_a_loud_one(always, isa, size):
    rng = np.random.default_rng(0)
    rank = len(size)
    x, w = arrays(rng, (1, 40, *size), (24, 40, *[3] * rank))
    half = size[0] // 2
    x[:, :, half:] *= np.float32(1e-4)
    op = Conv(pads=(1,) * (2 * rank))
    (got,) = run_op(op, [x, w], consts=[1], isa=isa)
    (expected,) = op.compute([x.astype(float), w.astype(float)])
    quiet = slice(half + half // 2, None)
    limit = 3e-6 * np.abs(expected[:, :, quiet]).max()
    np.testing.assert_allclose(got[:, :, quiet], expected[:, :, quiet], rtol=0, atol=limit)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("scale", [1e-28, 1e-6, 1e6, 1e25])
def test_any_magnitude_keeps_its_accuracy(always, isa, scale):
    rng = np.random.default_rng(0)
    x, w = arrays(rng, (1, 40, 9, 9), (24, 40, 3, 3))
    op = Conv(pads=(1, 1, 1, 1))
    for a, b in ((np.float32(scale), np.float32(1)), (np.float32(1), np.float32(scale))):
        (got,) = run_op(op, [x * a, w * b], consts=[1], isa=isa)
        (expected,) = op.compute([(x * a).astype(float), (w * b).astype(float)])
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("size", [(9, 10), (7, 7), (30, 31)])
def test_an_image_gives_the_same_bits_alone_and_in_a_batch(always, isa, size):
    rng = np.random.default_rng(2)
    x, w = arrays(rng, (5, 36, *size), (33, 36, 3, 3))
    for op in (Conv(pads=(1, 1, 1, 1)), Conv(strides=(2, 2))):
        (many,) = run_op(op, [x, w], consts=[1], isa=isa, threads=2)
        for i in range(5):
            (one,) = run_op(op, [x[i : i + 1], w], consts=[1], isa=isa)
            assert one.tobytes() == many[i : i + 1].tobytes()


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.4028235e38])
@pytest.mark.parametrize("group", [2, 8])
def test_a_bad_pixel_stays_in_its_group(always, isa, bad, group):
    rng = np.random.default_rng(0)
    x, w = arrays(rng, (1, 32, 16, 16), (32, 32 // group, 3, 3))
    x[0, 0, 5, 5] = x[0, 1, 11, 14] = x[0, 0, 2, 2] = bad
    w *= 0.25
    op = Conv(pads=(1, 1, 1, 1), group=group)
    (got,) = run_op(op, [x, w], consts=[1], isa=isa)
    with np.errstate(all="ignore"):
        (expected,) = op.compute([x, w])
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    finite = np.isfinite(expected) & (np.abs(expected) < 1e30)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001, 0x7FFF8000])
def test_every_nan_stays_one(always, isa, kernel, bits):
    x, w = arrays(np.random.default_rng(0), (1, 32, 10, 10), (32, 32, kernel, kernel))
    x[0, 3].view(np.uint32)[:] = bits
    (got,) = run_op(Conv(), [x, w], consts=[1], isa=isa)
    assert np.isnan(got).all()


@pytest.mark.parametrize("isa", HAVE)
def test_long_dilations_are_left_to_vectors(isa):
    w = np.ones((64, 64, 3, 3), np.float32)
    types = {"x": TensorType(w.dtype, (1, 64, 33, 33))}
    for d in (36, 10_000):
        op = Conv(dilations=(d, d), pads=(d,) * 4)
        graph = Graph("g", [Node(op, ["x", "w"], ["y"], "conv")], ["x"], ["y"], {"w": w}, types)
        assert "amx_conv" not in kernels_of(graph, isa)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize(("c", "kernel", "group"), [(40, 1, 1), (40, 3, 1), (3, 3, 1), (40, 3, 2)])
def test_infinity_times_a_weight_too_small_for_digits_is_infinite(always, isa, c, kernel, group):
    w = np.zeros((24, c // group, kernel, kernel), np.float32)
    w[:, 0] = 1
    w[::2, 1], w[1::2, 1] = 1e-9, -1e-12
    x = np.zeros((1, c, 12, 12), np.float32)
    x[0, 1, 5, 6] = np.inf
    op = Conv(group=group)
    (got,) = run_op(op, [x, w], consts=[1], isa=isa)
    with np.errstate(all="ignore"):
        (expected,) = op.compute([x, w])
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_group_far_larger_than_another_costs_it_no_accuracy(always, isa, kernel):
    rng = np.random.default_rng(0)
    x, w = arrays(rng, (1, 32, 12, 12), (32, 16, kernel, kernel))
    x[0, 3, 5, 6] = 3e38
    op = Conv(group=2, pads=(kernel // 2,) * 4)
    (got,) = run_op(op, [x, w * np.float32(0.1)], consts=[1], isa=isa)
    (expected,) = op.compute([x, w * np.float32(0.1)])
    np.testing.assert_allclose(got[:, 16:], expected[:, 16:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", HAVE)
def test_many_pixels_far_larger_than_others_are_no_exceptions(always, isa):
    """Two magnitudes, each that of half an image: sums are right beside the larger."""
    rng = np.random.default_rng(0)
    x, w = arrays(rng, (1, 40, 20, 20), (24, 40, 3, 3))
    x[:, :, ::2] *= np.float32(1e-12)
    op = Conv(pads=(1, 1, 1, 1))
    for bad in (0.0, np.nan):
        x[0, 3, 7, 8] = bad
        (got,) = run_op(op, [x, w], consts=[1], isa=isa)
        (expected,) = op.compute([x, w])
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def scaling_graph(rng, kind, keep=False):
    """A scaled image in front of a convolution; the scaled image is an output too if ``keep``."""
    types = {"x": TensorType(np.dtype(np.float32), (2, 40, 9, 9))}
    consts = dict(zip(["a", "w"], arrays(rng, (40, 40, 1, 1), (50, 40, 1, 1)), strict=True))
    nodes = [Node(Conv(), ["x", "a"], ["i"], "first")]
    inputs = ["x"]
    if kind == "factors":
        types["s"] = TensorType(np.dtype(np.float32), (2, 40, 1, 1))
        inputs.append("s")
        nodes.append(Node(Mul(), ["s", "i"], ["v"], "scale"))
    else:
        names = ["scale", "b", "mean", "var"]
        consts |= dict(zip(names, arrays(rng, *[(40,)] * 4), strict=True))
        consts["var"] = np.abs(consts["var"]) + np.float32(0.5)
        act = RELU if kind == "rectified" else None
        nodes.append(Node(BatchNormalization(activation=act), ["i", *names], ["v"], "norm"))
    nodes.append(Node(Conv(), ["v", "w"], ["y"], "last"))
    return Graph("g", nodes, inputs, ["y", "v"] if keep else ["y"], consts, types)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("kind", ["factors", "normalised", "rectified"])
def test_a_scaled_input_is_scaled_on_the_way(always, isa, kind):
    graph = scaling_graph(np.random.default_rng(3), kind)
    used = kernels_of(graph, isa)
    assert used.count("amx_conv") == 2
    assert not {"binary", "scale_shift"} & set(used)
    rng = np.random.default_rng(4)
    feeds = {n: rng.standard_normal(t.shape).astype(np.float32) for n, t in graph.types.items()}
    expected = Engine(graph, 1, isa="v4").run(feeds)["y"]
    for threads in (1, 2):
        got = Engine(graph, threads, isa=isa).run(feeds)["y"]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("kind", ["factors", "rectified"])
def test_a_scaled_value_that_somebody_else_reads_is_computed(always, isa, kind):
    graph = scaling_graph(np.random.default_rng(3), kind, keep=True)
    rng = np.random.default_rng(4)
    feeds = {n: rng.standard_normal(t.shape).astype(np.float32) for n, t in graph.types.items()}
    got, expected = (Engine(graph, 1, isa=i).run(feeds) for i in (isa, "v4"))
    for name in ("y", "v"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", HAVE)
def test_strict_accuracy_and_weights_that_are_not_finite_stay_direct(always, isa):
    w = np.ones((32, 64, 1, 1), np.float32)
    types = {"x": TensorType(w.dtype, (1, 64, 28, 28))}

    def used(w, **options):
        nodes = [Node(Conv(), ["x", "w"], ["y"], "conv")]
        return kernels_of(Graph("g", nodes, ["x"], ["y"], {"w": w}, types), isa, **options)

    assert "amx_conv" in used(w)
    assert "amx_conv" not in used(w, strict=True)
    w = w.copy()
    w[3, 5] = np.inf
    assert "amx_conv" not in used(w)


@pytest.mark.parametrize("group", [1, 2, 4, 16])
def test_packed_weights_multiply_the_channels_that_a_panel_reads(group):
    """Everywhere: what is packed for a panel, applied to its blocks, is the convolution."""
    rng = np.random.default_rng(5)
    c, f = 96, 80
    w, x = arrays(rng, (f, c // group, 1, 1), (c,))
    shape = amx.Shape(1, 1, 1, c, 1, 1, f, group, (1, 1), (1, 1), (1, 1), (0, 0))
    packed = amx.pack(w, shape, kernels.chosen_isa())
    first, count = shape.panel_blocks()
    panels = len(first)
    # [panel][block][half][digit][row][filter][byte]: channel 16 * byte + row of a block.
    size = panels * count * amx.STEP_BYTES
    digits = packed[:size].view(np.int8).reshape(panels, count, 2, 3, 16, 16, 4).astype(float)
    units = packed[size:].view(np.float32).reshape(panels, 1, 1, 32)
    numbers = np.einsum("pbhdrfk,d->pbkrhf", digits, [1, 2**-8, 2**-16])
    weights = numbers.reshape(panels, count, amx.BLOCK, 32) * units
    blocks = np.zeros((-(-c // amx.BLOCK), amx.BLOCK), np.float32)
    blocks.ravel()[:c] = x
    got = [np.einsum("kc,kcf->f", blocks[b : b + count], weights[j]) for j, b in enumerate(first)]
    expected = np.einsum(
        "gc,gfc->gf", x.reshape(group, -1), w.reshape(group, f // group, c // group)
    ).ravel()
    np.testing.assert_allclose(np.concatenate(got)[:f], expected, rtol=1e-4, atol=1e-5)
