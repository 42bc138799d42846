"""Layered drawings: nothing overlaps, edges run down, chains are straight, few lines cross."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import layered
from fastconv.layered import Edge, layout


def edges_of(pairs):
    return [Edge(a, b, a) for a, b in pairs]


def check(sizes, edges, plan):
    """What holds for every drawing."""
    boxes = [
        (x - w / 2, x + w / 2, y - h / 2, y + h / 2)
        for (w, h), x, y in zip(sizes, plan.x, plan.y, strict=True)
    ]
    for a, b in combinations(boxes, 2):
        assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2], "boxes overlap"
    for left, right, top, bottom in boxes:
        assert left >= -1e-6
        assert right <= plan.width + 1e-6
        assert top >= -1e-6
        assert bottom <= plan.height + 1e-6
    for e, route in zip(edges, plan.routes, strict=True):
        assert boxes[e.tail][3] < boxes[e.head][2], "an edge runs upwards"
        if route is None:
            continue
        assert len(route) == plan.layer[e.head] - plan.layer[e.tail] - 1
        heights = [plan.layers[plan.layer[e.tail]], *(p[1:] for p in route)]
        assert all(a[1] < b[0] for a, b in pairwise(heights))
        for x, top, bottom in route:
            for left, right, high, low in boxes:
                passes = left < x < right and high < bottom and top < low
                assert not passes, "a line runs through a box"


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 24))
    pairs = {
        (draw(st.integers(0, b - 1)), b)
        for b in range(1, n)
        for _ in range(draw(st.integers(0, 3)))
    }
    sizes = [
        (draw(st.sampled_from([40, 90, 200])), draw(st.sampled_from([20, 60]))) for _ in "a" * n
    ]
    return sizes, edges_of(sorted(pairs))


@settings(max_examples=150, deadline=None)
@given(graph=graphs())
def test_nothing_overlaps_and_every_edge_runs_down(graph):
    sizes, edges = graph
    check(sizes, edges, layout(sizes, edges))


def test_nothing_at_all_can_be_laid_out():
    plan = layout([], [])
    assert (plan.x, plan.routes, plan.width, plan.height) == ([], [], 0.0, 0.0)


def test_a_chain_is_straight():
    sizes = [(90 + 20 * (k % 3), 40) for k in range(12)]
    plan = layout(sizes, edges_of((k, k + 1) for k in range(11)))
    assert max(plan.x) - min(plan.x) < 1e-6
    assert plan.y == sorted(plan.y)


def test_branches_stand_beside_each_other_under_their_fork():
    """An inception block: four branches between a fork and a join."""
    pairs = [(0, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 6), (3, 7), (4, 8), (5, 9)]
    pairs += [(6, 10), (7, 10), (8, 10), (9, 10), (10, 11)]
    sizes = [(100, 40)] * 12
    edges = edges_of(pairs)
    plan = layout(sizes, edges)
    check(sizes, edges, plan)
    for a, b in ((2, 6), (3, 7), (4, 8), (5, 9)):
        assert plan.x[a] == pytest.approx(plan.x[b])
    middle = (min(plan.x[2:6]) + max(plan.x[2:6])) / 2
    assert plan.x[1] == pytest.approx(middle, abs=1)
    assert plan.x[10] == pytest.approx(middle, abs=1)


def test_a_long_edge_is_straight_past_the_layers_between():
    edges = edges_of([(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)])
    plan = layout([(100, 40)] * 5, edges)
    xs = [x for x, _, _ in plan.routes[-1]]
    assert len(xs) == 3
    assert max(xs) - min(xs) < 1e-6


def test_edges_of_one_value_share_their_line():
    edges = edges_of([(0, 1), (1, 2), (2, 3), (3, 4), (0, 3), (0, 4)])
    plan = layout([(100, 40)] * 5, edges)
    assert plan.routes[5][:2] == plan.routes[4]


def test_what_has_no_inputs_stands_over_what_needs_it():
    edges = edges_of([(0, 1), (1, 2), (2, 3), (4, 5), (3, 5)])
    plan = layout([(100, 40)] * 6, edges)
    assert plan.layer[4] == plan.layer[5] - 1


def crossings(plan, pairs):
    count = 0
    for (a, b), (c, d) in combinations(pairs, 2):
        if plan.layer[a] == plan.layer[c] and plan.layer[b] == plan.layer[d] == plan.layer[a] + 1:
            count += (plan.x[a] - plan.x[c]) * (plan.x[b] - plan.x[d]) < 0
    return count


@pytest.mark.parametrize("seed", range(5))
def test_what_can_be_drawn_without_crossings_is(seed):
    """A forest whose nodes come in a random order within each layer."""
    rng = random.Random(seed)
    layers = [list(range(4)), list(range(4, 12)), list(range(12, 28))]
    parents = [(v - 4) // 2 for v in layers[1]], [4 + (v - 12) // 2 for v in layers[2]]
    pairs = [*zip(parents[0], layers[1], strict=True), *zip(parents[1], layers[2], strict=True)]
    names = [v for layer in layers for v in rng.sample(layer, len(layer))]
    at = {v: k for k, v in enumerate(names)}
    pairs = [(at[a], at[b]) for a, b in pairs]
    rng.shuffle(pairs)
    assert crossings(layout([(50, 20)] * 28, edges_of(pairs)), pairs) == 0


def test_a_huge_graph_takes_bounded_work(monkeypatch):
    """Edges over very many layers are left out, the longest first; the rest is drawn."""
    monkeypatch.setattr(layered, "MAX_PLACES", 400)
    n = 200
    edges = edges_of([(k, k + 1) for k in range(n - 1)] + [(k, n - 1) for k in range(0, n - 9, 20)])
    sizes = [(50, 20)] * n
    plan = layout(sizes, edges)
    check(sizes, edges, plan)
    cut = [e for e, r in zip(edges, plan.routes, strict=True) if r is None]
    kept = [e for e, r in zip(edges, plan.routes, strict=True) if r is not None]
    assert cut
    assert max(e.head - e.tail for e in kept) < min(e.head - e.tail for e in cut)
