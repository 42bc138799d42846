"""The planner: Concat in place, the arena, and plans for changing shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.errors import MemoryLimitError, ShapeError
from fastconv.graph import Graph, Node, Sym, TensorType
from fastconv.graph.ops.binary import Add
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.move import Concat
from fastconv.graph.ops.pool import MaxPool
from fastconv.plan.memory import ALIGN, ARENA, CHANNELS_LAST, Arena, Buffer, Place
from fastconv.records import replace
from fastconv.runtime.engine import Engine

F32 = np.dtype(np.float32)


def run_by_definition(graph, feeds):
    values = {**graph.consts, **feeds}
    for n in graph.nodes:
        outs = n.op.compute([values[i] if i else None for i in n.inputs])
        values.update(zip(n.outputs, outs, strict=False))
    return {o: values[o] for o in graph.outputs}


def check(graph, feeds, threads=1):
    got = Engine(graph, threads).run(feeds)
    for name, expected in run_by_definition(graph, feeds).items():
        np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-5)


def conv(rng, consts, name, x, channels, filters):
    consts[f"w_{name}"] = rng.standard_normal((filters, channels, 1, 1)).astype(np.float32)
    return Node(Conv(), [x, f"w_{name}"], [name], name)


def test_a_dense_block_copies_only_what_no_convolution_wrote():
    rng = np.random.default_rng(0)
    consts, nodes, parts = {}, [Node(MaxPool(kernel_shape=(1, 1)), ["x"], ["p"], "p")], ["p"]
    for k in range(4):
        joined = "p" if k == 0 else f"cat{k}"
        if k:
            nodes.append(Node(Concat(axis=1), list(parts), [joined], joined))
        nodes.append(conv(rng, consts, f"f{k}", joined, 6 + 5 * k, 5))
        parts.append(f"f{k}")
    nodes.append(Node(Concat(axis=1), parts, ["y"], "y"))
    graph = Graph("dense", nodes, ["x"], ["y"], consts, {"x": TensorType(F32, (1, 6, 4, 4))})
    feeds = {"x": rng.standard_normal((1, 6, 4, 4)).astype(np.float32)}
    check(graph, feeds)
    steps = Engine(graph, 1).prepare(feeds).plan.steps
    assert sum(s.kernel == "copy_rows" and s.node is not None for s in steps) <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_concats_that_share_values_in_any_order_keep_them_apart(picks, seed):
    rng = np.random.default_rng(seed)
    consts, nodes, names, width = {}, [], ["x"], {"x": 4}
    for k, pick in enumerate(picks):
        chosen = [names[p % len(names)] for p in pick]
        total = sum(width[c] for c in chosen)
        nodes.append(Node(Concat(axis=1), chosen, [f"cat{k}"], f"cat{k}"))
        nodes.append(conv(rng, consts, f"f{k}", f"cat{k}", total, 3))
        names += [f"cat{k}", f"f{k}"]
        width |= {f"cat{k}": total, f"f{k}": 3}
    outputs = [f"cat{len(picks) - 1}", names[-1]]
    shape = (2, 4, 3, 5)
    graph = Graph("cats", nodes, ["x"], outputs, consts, {"x": TensorType(F32, shape)})
    graph.verify()
    check(graph, {"x": rng.standard_normal(shape).astype(np.float32)})


def arranged(buffers):
    """Offsets by first fit, the largest buffer first, as ``Arena`` has them; and the size."""
    placed, offsets = [], {}
    live = [b for b in buffers if b.first >= 0]
    for b in sorted(live, key=lambda b: (-b.nbytes, b.first)):
        size = -(-max(b.nbytes, 1) // ALIGN) * ALIGN
        offset = 0
        for begin, end, o in sorted(placed, key=lambda p: p[:2]):
            if b.first <= o.last and o.first <= b.last:
                if offset + size <= begin:
                    break
                offset = max(offset, end)
        placed.append((offset, offset + size, b))
        offsets[id(b)] = offset
    return [offsets.get(id(b), -1) for b in buffers], max((e for _, e, _ in placed), default=0)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(-1, 20), st.integers(0, 6)), max_size=30)
)
def test_buffers_alive_together_never_overlap(cases):
    arena = Arena([Buffer(ARENA, n, first=a, last=a + d) for n, a, d in cases])
    size = arena.layout()
    assert ([b.offset for b in arena.buffers], size) == arranged(arena.buffers)
    live = [b for b in arena.buffers if b.first >= 0]
    for i, b in enumerate(live):
        assert b.offset >= 0
        assert b.offset + b.nbytes <= size
        for o in live[:i]:
            if b.first <= o.last and o.first <= b.last:
                assert b.offset + b.nbytes <= o.offset or o.offset + o.nbytes <= b.offset


@pytest.mark.parametrize("nbytes", [1 << 62, (1 << 63) - 1, 1 << 63, 1 << 70])
def test_more_bytes_than_can_be_counted_are_an_error(nbytes):
    arena = Arena([Buffer(ARENA, nbytes, first=0, last=1) for _ in range(3)])
    with pytest.raises(MemoryLimitError, match="64 bits"):
        arena.layout()


def test_a_place_is_replaced_and_compared_by_what_it_says():
    buffer = Buffer(ARENA, 64)
    place = Place(buffer, 0, (1, 4, 2, 2), F32, CHANNELS_LAST, 4)
    same = replace(place)
    assert same == place
    assert hash(same) == hash(place)
    assert same is not place
    wide = replace(place, pixel=6, start=8)
    assert (wide.start, wide.pixel, wide.shape, wide.buffer) == (8, 6, place.shape, buffer)
    assert wide != place
    assert place.dense
    assert not wide.dense
    assert place != replace(place, buffer=Buffer(ARENA, 64))
    with pytest.raises(TypeError, match="no height"):
        replace(place, height=2)
    with pytest.raises(AttributeError):
        place.start = 4


def test_a_memory_limit_is_kept_with_an_error_that_says_so():
    graph = Graph(
        "g", [Node(MaxPool(kernel_shape=(2, 2)), ["x"], ["y"], "p")], ["x"], ["y"], {},
        {"x": TensorType(F32, (1, 8, Sym("H"), 64))},
    )  # fmt: skip
    engine = Engine(graph, 1, memory_limit=100_000)
    small = np.zeros((1, 8, 8, 64), np.float32)
    assert engine.run({"x": small})["y"].shape == (1, 8, 7, 63)
    with pytest.raises(MemoryLimitError, match="the limit is 100000"):
        engine.run({"x": np.zeros((1, 8, 64, 64), np.float32)})


def test_shapes_that_do_not_fit_name_the_node_the_operator_and_the_shapes():
    graph = Graph(
        "g", [Node(Add(), ["x", "w"], ["y"], "sum")], ["x"], ["y"],
        {"w": np.zeros(3, np.float32)}, {"x": TensorType(F32, (Sym("N"), 4))},
    )  # fmt: skip
    with pytest.raises(ShapeError, match=r"'sum' \(Add\).*\[2, 4\]"):
        Engine(graph, 1).run({"x": np.zeros((2, 4), np.float32)})


def test_the_cache_of_plans_is_bounded_and_keeps_the_last_one_used():
    graph = Graph(
        "g", [Node(MaxPool(kernel_shape=(1, 1)), ["x"], ["y"], "p")], ["x"], ["y"], {},
        {"x": TensorType(F32, (1, 1, Sym("H"), 4))},
    )  # fmt: skip
    engine = Engine(graph, 1)
    for h in range(1, 40):
        x = np.full((1, 1, h, 4), h, np.float32)
        assert (engine.run({"x": x})["y"] == x).all()
        assert len(engine._plans) <= engine.max_plans
    first = engine.prepare({"x": x})
    engine.prepare({"x": np.zeros((1, 1, 99, 4), np.float32)})
    assert engine.prepare({"x": x}) is first
