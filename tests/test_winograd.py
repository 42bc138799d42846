"""Winograd convolutions: right, within the stated error, and exact about NaN and infinity."""

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from real import MODELS

import fastconv
from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.activation import Activation
from fastconv.graph.ops.conv import Conv
from fastconv.plan.lower import amx, winograd
from fastconv.runtime.engine import Engine


def arrays(rng, *shapes):
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


@pytest.fixture(params=[4, 2])
def always(request, monkeypatch):
    """Every 3×3 convolution is done with this tile side, whatever it costs."""
    monkeypatch.setattr(winograd, "choose", lambda *a: request.param)
    monkeypatch.setattr(amx, "choose", lambda *a: False)
    return request.param


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3), c=st.integers(9, 40), f=st.integers(8, 70), h=st.integers(1, 15),
    w=st.integers(1, 15), pads=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    bias=st.booleans(), added=st.booleans(), block=st.integers(1, 13), seed=st.integers(0, 999),
    m=st.sampled_from([4, 2]),
)  # fmt: skip
def test_any_size_matches_the_definition(n, c, f, h, w, pads, bias, added, block, seed, m):
    rng = np.random.default_rng(seed)
    op = Conv(pads=tuple(pads), activation=Activation("silu", 1.0) if added else None)
    oh, ow = h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2
    xs = arrays(rng, (n, c, h, w), (f, c, 3, 3))
    xs += arrays(rng, (f,)) if bias else [None]
    xs += arrays(rng, (n, f, oh, ow)) if added else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "choose", lambda *a: m)
        patch.setattr(amx, "choose", lambda *a: False)
        patch.setattr(winograd, "BLOCK_TILES", block)
        check_op(op, xs, consts=[1, 2] if bias else [1], rtol=1e-4, atol=2e-5, threads=(1, 2, 9))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_bad_pixel_reaches_its_neighbours_and_no_others(always, isa, bad):
    rng = np.random.default_rng(0)
    x, w, b = arrays(rng, (1, 16, 12, 12), (24, 16, 3, 3), (24,))
    x[0, 3, 5, 6] = bad
    w[7, 3] = 0
    op = Conv(pads=(1, 1, 1, 1))
    (got,) = run_op(op, [x, w, b], consts=[1, 2], isa=isa)
    with np.errstate(all="ignore"):
        (expected,) = op.compute([x, w, b])
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_the_error_stays_within_ten_times_that_of_direct_convolution(always, isa, monkeypatch):
    rng = np.random.default_rng(1)
    x, w = arrays(rng, (1, 64, 40, 40), (64, 64, 3, 3))
    op = Conv(pads=(1, 1, 1, 1))
    (exact,) = op.compute([x.astype(np.float64), w.astype(np.float64)])
    (fast,) = run_op(op, [x, w], consts=[1], isa=isa)
    monkeypatch.setattr(winograd, "choose", lambda *a: 0)
    (plain,) = run_op(op, [x, w], consts=[1], isa=isa)
    assert np.sqrt(np.mean((fast - exact) ** 2)) <= 10 * np.sqrt(np.mean((plain - exact) ** 2))


@pytest.mark.parametrize("isa", ISAS)
def test_an_image_gives_the_same_bits_alone_and_in_a_batch(always, isa):
    rng = np.random.default_rng(2)
    x, w = arrays(rng, (5, 16, 9, 10), (33, 16, 3, 3))
    op = Conv(pads=(1, 1, 1, 1))
    (many,) = run_op(op, [x, w], consts=[1], isa=isa)
    for i in range(5):
        (one,) = run_op(op, [x[i : i + 1], w], consts=[1], isa=isa)
        assert one.tobytes() == many[i : i + 1].tobytes()


def test_strict_accuracy_keeps_to_direct_convolution(monkeypatch):
    monkeypatch.setattr(amx, "choose", lambda *a: False)
    w = np.ones((32, 32, 3, 3), np.float32)
    types = {"x": TensorType(w.dtype, (1, 32, 28, 28))}
    graph = Graph(
        "g", [Node(Conv(), ["x", "w"], ["y"], "conv")], ["x"], ["y"], {"w": w}, types
    )  # fmt: skip
    used = []
    for strict in (False, True):
        plan = Engine(graph, 1, strict=strict).prepare(types).plan
        used.append({s.kernel for s in plan.steps if s.node is not None and s.macs})
    assert used == [{"winograd"}, {"conv"}]


def test_an_unknown_accuracy_is_refused():
    with pytest.raises(fastconv.OptionError, match="accuracy"):
        fastconv.load(MODELS / "lenet5.onnx", accuracy="exact")
