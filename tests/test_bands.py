"""Chains of steps that are done a few rows at a time: the same bits, in less memory."""

from math import ceil

import numpy as np
import pytest
from harness import ISAS
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.activation import RELU
from fastconv.graph.ops.activations import Relu
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.matmul import MatMul
from fastconv.graph.ops.pool import AveragePool, MaxPool
from fastconv.plan import bands, lowering
from fastconv.plan.lower import depthwise
from fastconv.plan.places import divided
from fastconv.runtime.engine import Engine


def chain(draw_layers, size, seed=0, images=1, extra_outputs=(), channels=5):
    """A graph of convolutions and pools, one after the other, behind one more that feeds them."""
    rng = np.random.default_rng(seed)
    nodes, consts = [], {}
    x = rng.standard_normal((images, channels, *size)).astype(np.float32)
    name = "x"
    for k, (kind, kernel, stride, pad, dilation, filters) in enumerate(draw_layers):
        window = dict(
            kernel_shape=(kernel, kernel), strides=(stride, stride), pads=(pad,) * 4,
            dilations=(dilation, dilation),
        )  # fmt: skip
        out = f"v{k}"
        if kind == "pool":
            nodes.append(Node(MaxPool(**window), [name], [out], f"pool{k}"))
        elif kind == "mean":
            nodes.append(Node(AveragePool(**window), [name], [out], f"pool{k}"))
        else:
            group = channels if kind == "depthwise" else 1
            filters = channels if kind == "depthwise" else filters
            w = rng.standard_normal((filters, channels // group, kernel, kernel))
            consts[f"w{k}"] = w.astype(np.float32)
            consts[f"b{k}"] = rng.standard_normal(filters).astype(np.float32)
            op = Conv(**window, group=group, activation=RELU)
            nodes.append(Node(op, [name, f"w{k}", f"b{k}"], [out], f"conv{k}"))
            channels = filters
        name = out
    nodes.append(Node(MaxPool(kernel_shape=(1, 1), strides=(1, 1)), [name], ["y"], "last"))
    graph = Graph(
        "g", nodes, ["x"], ["y", *extra_outputs], consts, {"x": TensorType(x.dtype, x.shape)}
    )
    return graph, x


def run(graph, x, isa, cut, monkey, threads=1):
    monkey.setattr(bands, "LINK_BYTES", 0 if cut else 1 << 40)
    monkey.setattr(bands, "SHARED_BYTES", 0)
    engine = Engine(graph, threads, isa=isa, strict=True)
    plan = engine.prepare(graph.types).plan
    return engine.run({"x": x}), plan


layers = st.tuples(
    st.sampled_from(["conv", "depthwise", "pool"]), st.integers(1, 4), st.integers(1, 3),
    st.integers(0, 2), st.integers(1, 2), st.sampled_from([2, 3, 16, 33]),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(layers, min_size=2, max_size=4), st.integers(9, 40), st.integers(9, 40),
       st.integers(1, 2), st.sampled_from([3000, 20000, 60000]), st.integers(1, 5))  # fmt: skip
def test_any_chain_gives_the_same_bits_as_whole_steps(
    layers, height, width, images, room, channels
):
    size = [height, width]
    for _, kernel, stride, pad, dilation, _ in layers:
        reach = (kernel - 1) * dilation + 1
        if pad >= kernel or min(size) + 2 * pad < reach:
            return
        size = [(s + 2 * pad - reach) // stride + 1 for s in size]
    graph, x = chain(layers, (height, width), images=images, channels=channels)
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(bands, "BAND_BYTES", room)
        monkey.setattr(bands, "MOST_ANEW", 9.0)
        # Small as they are, steps are shared by threads, in many pieces.
        monkey.setattr(lowering, "PARALLEL_WORK", 1)
        monkey.setattr(lowering, "PIECE_WORK", 1)
        for isa in ISAS:
            whole, _ = run(graph, x, isa, False, monkey)
            for threads in (1, 2, 3):
                cut, _ = run(graph, x, isa, True, monkey, threads)
                np.testing.assert_array_equal(cut["y"], whole["y"])


CHAIN = [("conv", 1, 1, 0, 1, 32), ("depthwise", 3, 1, 1, 1, 32), ("conv", 1, 1, 0, 1, 16)]


def test_bands_take_less_memory_and_move_rows_that_they_share(monkeypatch):
    graph, x = chain(CHAIN, (64, 64))
    monkeypatch.setattr(bands, "BAND_BYTES", 100_000)
    monkeypatch.setattr(depthwise, "FAR_BYTES", 1)
    whole, plan = run(graph, x, ISAS[-1], False, monkeypatch)
    cut, banded = run(graph, x, ISAS[-1], True, monkeypatch)
    np.testing.assert_array_equal(cut["y"], whole["y"])
    assert banded.arena_size < plan.arena_size
    names = [s.kernel for s in banded.steps]
    assert names.count("depthwise") > 3
    assert "copy_rows" in names
    # What was written a few rows ago is near, however large the image.
    far = [{s.params["far"] for s in p.steps if s.kernel == "depthwise"} for p in (plan, banded)]
    assert far == [{1}, {0}]
    # Every row is computed once.
    rows = [s.params["oh"] for s in banded.steps if s.kernel == "depthwise"]
    assert sum(rows) == 64


@pytest.mark.parametrize("threads", [1, 2])
def test_a_first_layer_begins_a_band_but_one_of_few_channels_inside_does_not(threads, monkeypatch):
    """What gathers its inputs finds its rows in a whole image."""
    layers = [("conv", 3, 1, 1, 1, 4), ("conv", 3, 1, 1, 1, 16), ("conv", 1, 1, 0, 1, 8)]
    graph, x = chain(layers, (64, 64), channels=3)
    monkeypatch.setattr(bands, "BAND_BYTES", 30_000)
    for isa in ISAS:
        whole, _ = run(graph, x, isa, False, monkeypatch)
        cut, plan = run(graph, x, isa, True, monkeypatch, threads)
        np.testing.assert_array_equal(cut["y"], whole["y"])
    rows = [[s.params["oh"] for s in plan.steps if s.node and s.node.name == f"conv{k}"
             and s.kernel == "conv_few"] for k in range(2)]  # fmt: skip
    assert rows[0] == [64]
    assert len(rows[1]) > 1
    assert sum(rows[1]) == 64


@pytest.mark.parametrize("extra", ["v0", "v1"])
def test_a_value_that_others_read_is_written_whole(extra, monkeypatch):
    graph, x = chain(CHAIN, (64, 64), extra_outputs=[extra])
    whole, _ = run(graph, x, ISAS[-1], False, monkeypatch)
    cut, plan = run(graph, x, ISAS[-1], True, monkeypatch)
    for name in whole:
        np.testing.assert_array_equal(cut[name], whole[name])
    convs = [s for s in plan.steps if s.node and s.node.name == f"conv{extra[1]}"]
    convs = [s for s in convs if s.kernel in bands.ROW_KERNELS]
    if extra == "v1":  # the first link is still cut
        assert sum(s.params["oh"] for s in convs) == 64
    else:
        assert len(convs) == 1


def test_an_average_that_counts_padding_is_not_cut(monkeypatch):
    layers = [("conv", 1, 1, 0, 1, 32), ("mean", 3, 1, 1, 1, 0)]
    graph, x = chain(layers, (32, 32))
    _, plan = run(graph, x, ISAS[-1], True, monkeypatch)
    assert [s.params["oh"] for s in plan.steps if s.node and s.node.name == "pool1"] == [32]


def test_long_chains_of_wide_windows_are_not_computed_over_and_over(monkeypatch):
    layers = [("conv", 3, 1, 1, 1, 16)] * 6
    graph, x = chain(layers, (48, 48))
    for room in (2000, 30_000, 200_000):
        monkeypatch.setattr(bands, "BAND_BYTES", room)
        _, plan = run(graph, x, ISAS[-1], True, monkeypatch)
        rows = sum(s.params["oh"] for s in plan.steps if s.kernel in ("conv", "conv_few"))
        assert rows <= 6 * 48 * (1 + bands.MOST_ANEW)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_matrices_have_no_rows_to_cut(batch, threads, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(bands, "LINK_BYTES", 0)
    monkeypatch.setattr(bands, "SHARED_BYTES", 0)
    nodes, consts, name = [Node(Relu(), ["x"], ["v"], "first")], {}, "v"
    for k in range(3):
        consts[f"w{k}"] = rng.standard_normal((*batch, 96, 96)).astype(np.float32) / 10
        nodes.append(Node(MatMul(), [name, f"w{k}"], [f"v{k}"], f"product{k}"))
        name = f"v{k}"
    nodes.append(Node(Relu(), [name], ["y"], "last"))
    x = rng.standard_normal((*batch, 160, 96)).astype(np.float32)
    graph = Graph("g", nodes, ["x"], ["y"], consts, {"x": TensorType(x.dtype, x.shape)})
    want = np.maximum(x, 0)
    for k in range(3):
        want = want @ consts[f"w{k}"]
    for isa in ISAS:
        got = Engine(graph, threads, isa=isa, strict=True).run({"x": x})["y"]
        np.testing.assert_allclose(got, np.maximum(want, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [1, 16])
def test_several_threads_do_whole_steps_unless_values_are_very_large(images, monkeypatch):
    monkeypatch.setattr(bands, "LINK_BYTES", 1000)
    monkeypatch.setattr(bands, "IMAGES", 16)
    graph, _ = chain(CHAIN, (64, 80), images=images)
    plan = Engine(graph, 2, isa=ISAS[-1]).prepare(graph.types).plan
    count = sum(s.kernel == "depthwise" for s in plan.steps)
    assert count == 1 if images == 1 else count >= images


def test_scratch_memory_fits_the_blocks_of_every_band(monkeypatch):
    """A thread's part of the pointer table begins where the size of a block says."""
    graph, x = chain(CHAIN, (64, 64))
    monkeypatch.setattr(bands, "BAND_BYTES", 30_000)
    monkeypatch.setattr(lowering, "PARALLEL_WORK", 1)
    _, whole = run(graph, x, ISAS[-1], False, monkeypatch, 2)
    _, plan = run(graph, x, ISAS[-1], True, monkeypatch, 2)
    blocks = set()
    for s in (*whole.steps, *plan.steps):
        if s.kernel == "conv" and s.params["kh"] == 1:
            place = s.places[5]
            blocks.add((s.params["block_rows"], place.buffer.nbytes))
    rows, sizes = zip(*sorted(blocks), strict=True)
    assert len(set(rows)) == len(rows) > 1
    assert list(sizes) == sorted(sizes)
    assert sizes[0] < sizes[-1]


def divided_plainly(geometry, row_bytes, room):
    """Into how many bands a chain is cut, as ``divided`` has it; 0 for none."""
    final = geometry[-1].oh

    def held(rows):
        middle = max(0, (final - rows) // 2)
        window = bands.needed(geometry, middle, middle + rows)
        return sum((b - a) * size for (a, b), size in zip(window[1:-1], row_bytes, strict=False))

    def anew(windows):
        most = 0.0
        for k in range(1, len(windows[0]) - 1):
            have, rows = (0, 0), 0
            for w in windows:
                rows += w[k][1] - bands.kept(have, w[k])[1]
                have = w[k]
            most = max(most, rows / max(1, windows[-1][k][1] - windows[0][k][0]) - 1)
        return most

    count = 2
    while count < final and held(ceil(final / count)) > room:
        count += 1
    while count > 1:
        cuts = [(final * k // count, final * (k + 1) // count) for k in range(count)]
        windows = [bands.needed(geometry, *c) for c in cuts]
        steps = count * geometry[0].n * len(geometry)
        if anew(windows) <= bands.MOST_ANEW and steps <= bands.MOST_STEPS:
            return count if held(ceil(final / count)) <= 2 * room else 0
        count -= 1
    return 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2),
                          st.integers(0, 3), st.integers(1, 2000)), min_size=2, max_size=5),
       st.integers(10, 200), st.integers(1, 4), st.integers(1, 100_000))  # fmt: skip
def test_chains_are_divided_as_the_plain_rule_says(layers, height, images, room):
    geometry, row_bytes = [], []
    for kernel, stride, dilation, pad, size in layers:
        oh = (height + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1
        if oh < 2:
            return
        geometry.append(bands.Rows(images, height, oh, kernel, stride, dilation, pad))
        row_bytes.append(size)
        height = oh
    stated = [
        (r.h, r.kernel, r.stride, r.dilation, r.pad, n)
        for r, n in zip(geometry, row_bytes, strict=True)
    ]
    got = divided(stated, height, images, room, bands.MOST_ANEW, bands.MOST_STEPS)
    assert got == divided_plainly(geometry, row_bytes, room)


def test_an_absurd_height_is_not_tried_band_by_band():
    stated = [(1 << 40, 3, 1, 1, 1, 1 << 10)] * 2
    assert divided(stated, 1 << 40, 1, bands.BAND_BYTES, bands.MOST_ANEW, bands.MOST_STEPS) == 0
