"""Layered drawing of directed acyclic graphs: where the nodes go, and how the edges run.

The method of Sugiyama, Tagawa and Toda (IEEE Transactions on Systems, Man and Cybernetics 11,
1981): layers by longest path; long edges through a place in every layer between, shared by all
edges of one value; orders by barycentres, the one with the fewest crossings kept (Barth, Jünger and
Mutzel, "Simple and Efficient Bilayer Cross Counting", 2002); coordinates after Brandes and Köpf
("Fast and Simple Horizontal Coordinate Assignment", 2001), with blocks placed by longest paths.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

#: Places that long edges may take in all; beyond it the longest are not drawn through.
MAX_PLACES = 30_000
#: Work (edges times sweeps) that ordering may take.
SWEEP_WORK = 400_000
MAX_SWEEPS = 24


@dataclass(frozen=True)
class Edge:
    """An edge from node ``tail`` to node ``head``; edges with an equal ``key`` may share a line."""

    tail: int
    head: int
    key: Hashable = None


@dataclass
class Layout:
    """Where everything is; x grows to the right, y downwards.

    Attributes:
        x, y: centres of the nodes.
        routes: for every edge the points (x, top, bottom) that it passes between its ends, or None
            where it is too long to be drawn.
        layers: (top, bottom) of every layer.
        layer: the layer of every node.
        width, height: of the whole.
    """

    x: list[float]
    y: list[float]
    routes: list[list[tuple[float, float, float]] | None]
    layers: list[tuple[float, float]]
    layer: list[int]
    width: float
    height: float


@dataclass
class _Graph:
    """Nodes and the places of long edges, by layers; every link joins neighbouring layers."""

    size: list[float]
    layer: list[int]
    real: int
    above: list[list[int]] = field(default_factory=list)
    below: list[list[int]] = field(default_factory=list)

    def place(self, layer: int, size: float) -> int:
        self.size.append(size)
        self.layer.append(layer)
        self.above.append([])
        self.below.append([])
        return len(self.size) - 1

    def link(self, a: int, b: int) -> None:
        if b not in self.below[a]:
            self.below[a].append(b)
            self.above[b].append(a)


def layout(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[Edge],
    *,
    gap_x: float = 24.0,
    gap_y: float = 44.0,
    line: float = 14.0,
) -> Layout:
    """Lay out a graph from top to bottom.

    Args:
        sizes: (width, height) of each node; every edge goes from a lower to a higher index.
        edges: the edges.
        gap_x: space between neighbours in a layer.
        gap_y: space between layers.
        line: width that a passing edge takes.
    """
    layer = _layers(len(sizes), edges)
    graph = _Graph([w for w, _ in sizes], list(layer), len(sizes))
    graph.above = [[] for _ in sizes]
    graph.below = [[] for _ in sizes]
    chains = _chains(graph, edges, line)
    order = _order(graph)
    x = _coordinates(graph, order, gap_x)
    left = min((x[v] - graph.size[v] / 2 for v in range(len(x))), default=0.0)
    x = [c - left for c in x]
    width = max((x[v] + graph.size[v] / 2 for v in range(len(x))), default=0.0)
    bands, top = [], 0.0
    for row in order:
        height = max((sizes[v][1] for v in row if v < graph.real), default=0.0)
        bands.append((top, top + height))
        top += height + gap_y
    y = [(bands[k][0] + bands[k][1]) / 2 for k in layer]
    routes: list[list[tuple[float, float, float]] | None] = []
    for chain in chains:
        if chain is None:
            routes.append(None)
        else:
            routes.append([(x[p], *bands[graph.layer[p]]) for p in chain])
    return Layout(x[: len(sizes)], y, routes, bands, layer, width, max(0.0, top - gap_y))


def _layers(n: int, edges: Sequence[Edge]) -> list[int]:
    """Longest path from the top; what has nothing above it stands right over what needs it."""
    layer = [0] * n
    above: list[list[int]] = [[] for _ in range(n)]
    below: list[list[int]] = [[] for _ in range(n)]
    for e in edges:
        above[e.head].append(e.tail)
        below[e.tail].append(e.head)
    for v in range(n):
        layer[v] = max((layer[u] + 1 for u in above[v]), default=0)
    for v in reversed(range(n)):
        if not above[v] and below[v]:
            layer[v] = min(layer[w] for w in below[v]) - 1
    return layer


def _chains(graph: _Graph, edges: Sequence[Edge], line: float) -> list[list[int] | None]:
    """Places for long edges, and the links between neighbouring layers."""
    spans: dict[tuple[int, Hashable], int] = {}
    for e in edges:
        key, span = (e.tail, e.key), graph.layer[e.head] - graph.layer[e.tail]
        spans[key] = max(spans.get(key, 0), span)
    longest = 1 << 30
    total = sum(spans.values())
    for span in sorted(spans.values(), reverse=True):
        if total <= MAX_PLACES:
            break
        longest, total = span - 1, total - span
    places: dict[tuple[int, Hashable], list[int]] = {}
    chains: list[list[int] | None] = []
    for e in edges:
        first, last = graph.layer[e.tail], graph.layer[e.head]
        if last - first > longest:
            chains.append(None)
            continue
        chain = places.setdefault((e.tail, e.key), [])
        while len(chain) < last - first - 1:
            p = graph.place(first + len(chain) + 1, line)
            graph.link(chain[-1] if chain else e.tail, p)
            chain.append(p)
        mine = chain[: last - first - 1]
        graph.link(mine[-1] if mine else e.tail, e.head)
        chains.append(mine)
    return chains


def _order(graph: _Graph) -> list[list[int]]:
    """Orders of the layers with few crossings."""
    rows: list[list[int]] = [[] for _ in range(max(graph.layer, default=-1) + 1)]
    seen = [False] * len(graph.size)
    for root in range(graph.real):  # depth first, so that a branch stays together
        stack = [root]
        while stack:
            v = stack.pop()
            if not seen[v]:
                seen[v] = True
                rows[graph.layer[v]].append(v)
                stack += reversed(graph.below[v])
    links = sum(map(len, graph.below))
    sweeps = max(2, min(MAX_SWEEPS, SWEEP_WORK // (links + 1)))
    best, fewest, stale = [list(r) for r in rows], _crossings(graph, rows), 0
    for k in range(sweeps):
        if fewest == 0 or stale > 6:
            break
        down = k % 2 == 0
        neighbours = graph.above if down else graph.below
        at = {v: i for row in rows for i, v in enumerate(row)}
        for row in rows if down else reversed(rows):
            _sort(row, neighbours, at, reverse=k % 4 > 1)
        count = _crossings(graph, rows)
        stale += 1
        if count < fewest:
            best, fewest, stale = [list(r) for r in rows], count, 0
    return best


def _sort(row: list[int], neighbours: list[list[int]], at: dict[int, int], reverse: bool) -> None:
    """Sort a layer by the mean place of its neighbours; without neighbours a node keeps its place.

    Among equals the order is kept, or turned round (``reverse``), which gets out of ruts.
    """
    means = {
        v: sum(at[u] for u in neighbours[v]) / len(neighbours[v]) for v in row if neighbours[v]
    }
    moving = [v for v in row if v in means]
    moving.sort(key=lambda v: (means[v], -at[v] if reverse else at[v]))
    found = iter(moving)
    row[:] = [next(found) if v in means else v for v in row]
    at.update((v, i) for i, v in enumerate(row))


def _crossings(graph: _Graph, rows: Sequence[Sequence[int]]) -> int:
    """Pairs of links that cross: inversions of the lower ends, sorted by the upper ones."""
    count = 0
    at = {v: i for row in rows for i, v in enumerate(row)}
    for row in rows:
        ends: list[int] = []
        for v in row:
            for e in sorted(at[w] for w in graph.below[v]):
                if ends and e < ends[-1]:
                    k = bisect_left(ends, e + 1)
                    count += len(ends) - k
                    ends.insert(k, e)
                else:
                    ends.append(e)
    return count


def _coordinates(graph: _Graph, rows: list[list[int]], gap: float) -> list[float]:
    """The mean of the two middle ones of four drawings, each pushed to another corner."""
    conflicts = _conflicts(graph, rows)
    drawings: list[list[float]] = []
    for upwards in (False, True):
        for leftwards in (False, True):
            turned = [list(reversed(r)) if leftwards else r for r in rows]
            if upwards:
                turned = turned[::-1]
            neighbours = graph.below if upwards else graph.above
            x = _compact(graph, turned, _align(turned, neighbours, conflicts), gap)
            drawings.append([-c for c in x] if leftwards else x)
    spans = []
    for x in drawings:
        low = min((c - graph.size[v] / 2 for v, c in enumerate(x)), default=0.0)
        high = max((c + graph.size[v] / 2 for v, c in enumerate(x)), default=0.0)
        spans.append((low, high))
    low, high = min(spans, key=lambda s: s[1] - s[0])
    for k, x in enumerate(drawings):  # to the left or right end of the narrowest
        shift = high - spans[k][1] if k % 2 else low - spans[k][0]
        drawings[k] = [c + shift for c in x]
    return [sum(sorted(four)[1:3]) / 2 for four in zip(*drawings, strict=True)]


def _conflicts(graph: _Graph, rows: list[list[int]]) -> set[tuple[int, int]]:
    """Links that cross a link between two places of long edges: those are to stay straight."""
    at = {v: i for row in rows for i, v in enumerate(row)}
    found = set()
    for upper, lower in itertools.pairwise(rows):
        left, start = 0, 0
        for k, v in enumerate(lower):
            inner = next((u for u in graph.above[v] if min(u, v) >= graph.real), None)
            if inner is None and k < len(lower) - 1:
                continue
            right = len(upper) if inner is None else at[inner]
            for w in lower[start : k + 1]:
                for u in graph.above[w]:
                    straight = min(u, w) >= graph.real
                    if (at[u] < left or at[u] > right) and not straight:
                        found.add((u, w))
            start, left = k + 1, right
    return found


def _align(
    rows: list[list[int]], neighbours: list[list[int]], conflicts: set[tuple[int, int]]
) -> dict[int, int]:
    """Blocks of nodes that get one x: node → the block's root."""
    at = {v: i for row in rows for i, v in enumerate(row)}
    root = {v: v for row in rows for v in row}
    taken: set[int] = set()
    for row in rows:
        last = -1
        for v in row:
            near = sorted(neighbours[v], key=at.__getitem__)
            if not near:
                continue
            middle = (len(near) - 1) // 2, len(near) // 2
            for u in dict.fromkeys(near[m] for m in middle):
                bad = (u, v) in conflicts or (v, u) in conflicts
                if not bad and last < at[u] and u not in taken:
                    taken.add(u)
                    root[v], last = root[u], at[u]
                    break
    return root


def _compact(graph: _Graph, rows: list[list[int]], root: dict[int, int], gap: float) -> list[float]:
    """The blocks as far left as their neighbours let them, then right again where there is room."""
    before: dict[int, dict[int, float]] = {r: {} for r in root.values()}
    after: dict[int, dict[int, float]] = {r: {} for r in root.values()}
    for row in rows:
        for u, v in itertools.pairwise(row):
            # Two lines beside each other may lie closer than two nodes.
            space = gap if min(u, v) < graph.real else gap / 4
            need = (graph.size[u] + graph.size[v]) / 2 + space
            a, b = root[u], root[v]
            before[b][a] = after[a][b] = max(need, before[b].get(a, 0.0))
    order: list[int] = []
    missing = {r: len(b) for r, b in before.items()}
    ready = [r for r, n in missing.items() if n == 0]
    while ready:
        r = ready.pop()
        order.append(r)
        for w in after[r]:
            missing[w] -= 1
            if missing[w] == 0:
                ready.append(w)
    x = dict.fromkeys(before, 0.0)
    for r in order:
        x[r] = max((x[u] + need for u, need in before[r].items()), default=0.0)
    for r in reversed(order):
        if after[r]:
            x[r] = max(x[r], min(x[w] - need for w, need in after[r].items()))
    return [x[root[v]] for v in range(len(graph.size))]


__all__ = ["Edge", "Layout", "layout"]
