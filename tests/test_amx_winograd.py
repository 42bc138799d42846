"""Winograd convolutions on tile-matrix hardware: right, and exact about NaN and infinity.

These run where the CPU has the hardware; the packing is tested everywhere.
"""

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import kernels
from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.activation import Activation
from fastconv.graph.ops.conv import Conv
from fastconv.plan.lower import amx, amx_winograd, winograd
from fastconv.runtime.engine import Engine

HAVE = [isa for isa in ISAS if isa == "amx"]


def arrays(rng, *shapes):
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def kernels_of(op, x, w, isa, **options):
    types = {"x": TensorType(x.dtype, x.shape)}
    graph = Graph("g", [Node(op, ["x", "w"], ["y"], "conv")], ["x"], ["y"], {"w": w}, types)
    return [s.kernel for s in Engine(graph, 1, isa=isa, **options).prepare(types).plan.steps]


@pytest.fixture
def always(monkeypatch):
    """Every convolution that can is done so, whatever it costs."""
    cycles = amx_winograd.cycles
    monkeypatch.setattr(amx_winograd, "cycles", lambda s: None if cycles(s) is None else 0.0)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3), c=st.integers(4, 150), f=st.integers(1, 80), h=st.integers(1, 26),
    w=st.integers(1, 26), pads=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    bias=st.booleans(), added=st.booleans(), small=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_any_size_matches_the_definition(n, c, f, h, w, pads, bias, added, small, seed):
    rng = np.random.default_rng(seed)
    op = Conv(pads=tuple(pads), activation=Activation("silu", 1.0) if added else None)
    oh, ow = h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2
    xs = arrays(rng, (n, c, h, w), (f, c, 3, 3))
    xs += arrays(rng, (f,)) if bias else [None]
    xs += arrays(rng, (n, f, oh, ow)) if added else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amx_winograd, "cycles", lambda shape: 0.0)
        if small:
            patch.setattr(amx_winograd, "SPLIT_BYTES", 1)
            patch.setattr(amx_winograd, "PRODUCT_BYTES", 1)
        check_op(op, xs, isas=HAVE, consts=[1, 2] if bias else [1], rtol=1e-4, atol=5e-4,
                 threads=(1, 2, 16))  # fmt: skip


@pytest.mark.parametrize("isa", HAVE)
def test_it_is_used_where_it_is_cheapest(isa, monkeypatch):
    x, w = np.ones((1, 256, 14, 14), np.float32), np.ones((256, 256, 3, 3), np.float32)
    op = Conv(pads=(1, 1, 1, 1))
    monkeypatch.setattr(amx_winograd, "cycles", lambda shape: 1.0)
    assert "amx_winograd" in kernels_of(op, x, w, isa)
    assert "amx_winograd" not in kernels_of(op, x, w, isa, strict=True)
    w[0, 0, 0, 0] = np.nan
    assert "amx_winograd" not in kernels_of(op, x, w, isa)


@pytest.mark.parametrize(
    "op",
    [
        Conv(strides=(2, 2), pads=(1, 1, 1, 1)),
        Conv(dilations=(2, 2), pads=(2, 2, 2, 2)),
        Conv(group=2, pads=(1, 1, 1, 1)),
    ],
    ids=["strides", "dilations", "group"],
)
@pytest.mark.parametrize("isa", HAVE)
def test_other_convolutions_are_left_alone(always, isa, op):
    x = np.ones((1, 64, 14, 14), np.float32)
    w = np.ones((64, 64 // op.group, 3, 3), np.float32)
    assert "amx_winograd" not in kernels_of(op, x, w, isa)


@pytest.mark.parametrize("isa", HAVE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_bad_pixel_reaches_its_neighbours_and_no_others(always, isa, bad):
    rng = np.random.default_rng(0)
    x, w, b = arrays(rng, (1, 70, 12, 12), (24, 70, 3, 3), (24,))
    x[0, 3, 5, 6] = bad
    w[7, 3] = 0
    op = Conv(pads=(1, 1, 1, 1))
    (got,) = run_op(op, [x, w, b], consts=[1, 2], isa=isa)
    with np.errstate(all="ignore"):
        (expected,) = op.compute([x, w, b])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("isa", HAVE)
def test_the_error_stays_within_ten_times_that_of_direct_convolution(always, isa):
    rng = np.random.default_rng(1)
    x, w = arrays(rng, (1, 64, 40, 40), (64, 64, 3, 3))
    op = Conv(pads=(1, 1, 1, 1))
    assert "amx_winograd" in kernels_of(op, x, w, isa)
    (exact,) = op.compute([x.astype(np.float64), w.astype(np.float64)])
    (fast,) = run_op(op, [x, w], consts=[1], isa=isa)
    (plain,) = op.compute([x, w])
    assert np.sqrt(np.mean((fast - exact) ** 2)) <= 10 * np.sqrt(np.mean((plain - exact) ** 2))


@pytest.mark.parametrize("isa", HAVE)
def test_an_image_gives_the_same_bits_alone_and_in_a_batch(always, isa):
    rng = np.random.default_rng(2)
    x, w = arrays(rng, (5, 66, 9, 10), (33, 66, 3, 3))
    op = Conv(pads=(1, 1, 1, 1))
    (many,) = run_op(op, [x, w], consts=[1], isa=isa, threads=2)
    for i in range(5):
        (one,) = run_op(op, [x[i : i + 1], w], consts=[1], isa=isa)
        assert one.tobytes() == many[i : i + 1].tobytes()


@pytest.mark.skipif(kernels.constants()["NR"] != amx.PANEL, reason="packed for wide vectors alone")
def test_packed_weights_are_the_transformed_ones():
    (w,) = arrays(np.random.default_rng(3), (40, 70, 3, 3))
    packed = amx_winograd.pack(w, kernels.chosen_isa())
    size = 2 * 36 * 2 * amx.STEP_BYTES
    # [panel][point][block][half][digit][row][filter][byte]: channel 16 * byte + row of a block.
    digits = packed[:size].view(np.int8).reshape(2, 36, 2, 2, 3, 16, 16, 4).astype(float)
    units = packed[size:].view(np.float32).reshape(2, 36, 1, 32)
    numbers = np.einsum("pqbhdrfk,d->pqbkrhf", digits, [1, 2**-8, 2**-16])
    got = (numbers.reshape(2, 36, 128, 32) * units).transpose(0, 3, 2, 1).reshape(64, 128, 36)
    g = winograd.G[4]
    expected = np.einsum("ai,bj,fcij->fcab", g, g, w.astype(float)).reshape(40, 70, 36)
    np.testing.assert_allclose(got[:40, :70], expected, atol=1e-6)
    assert not got[40:].any()
    assert not got[:, 70:].any()
