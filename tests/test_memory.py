"""Memory over many runs: arenas shared between plans, limits, and inputs that change every time."""

import os
import threading
import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import fastconv
from fastconv import MemoryLimitError, sizes
from fastconv.runtime.arenas import Arenas

MIB = 1 << 20


def detector(channels=8):
    """A small network for images of any size; its outputs are half as wide and high."""
    rng = np.random.default_rng(0)
    inits = {
        "w1": rng.standard_normal((channels, 3, 3, 3)),
        "w2": rng.standard_normal((channels, channels, 3, 3)),
        "w3": rng.standard_normal((1, 2 * channels, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["b", "c"], ["d"], axis=1),
        helper.make_node("Conv", ["d", "w3"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in inits.items()],
    )
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    m.ir_version = 8
    return m.SerializeToString()


def resident():
    """Bytes of physical memory that this process uses."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def random_sizes(count, seed=0):
    rng = np.random.default_rng(seed)
    return [(1, 3, 32 * int(h), 32 * int(w)) for h, w in rng.integers(1, 13, (count, 2))]


def test_sizes_that_change_on_every_run_share_one_arena():
    model = fastconv.load(detector(), threads=1)
    shapes = random_sizes(200)
    largest = 0
    for shape in shapes:
        model(np.zeros(shape, np.float32))
        largest = max(largest, model.prepare({"x": shape}).plan.arena_size)
    arenas = model._engine.arenas
    assert arenas.nbytes == arenas.peak  # never two, as runs follow one another
    assert largest <= arenas.peak <= 1.25 * largest + 4096


def test_memory_settles_when_sizes_change_on_every_run():
    model = fastconv.load(detector(16), threads=1)
    shapes = random_sizes(200, seed=1)
    x = np.zeros(max(np.prod(s) for s in shapes), np.float32)

    def run_all():
        for shape in shapes:
            model(x[: np.prod(shape)].reshape(shape))

    run_all()
    before = resident()
    run_all()
    run_all()
    assert resident() - before < 8 * MIB


def test_concurrent_runs_have_arenas_of_their_own():
    model = fastconv.load(detector(), threads=1)
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    expected = model(x)
    wrong = []

    def work():
        for k in range(20):
            small = x[:, :, : 32 * (1 + k % 2)]
            if not np.array_equal(model(x), expected) or model(small).shape[2] != 16 * (1 + k % 2):
                wrong.append(k)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_a_limit_is_never_passed_and_the_model_runs_on():
    one = fastconv.load(detector(), threads=1)
    arena = one.prepare({"x": (1, 3, 128, 128)}).plan.arena_size
    limit = arena + 64 * 64 * 4
    model = fastconv.load(detector(), threads=1, memory_limit=limit)
    small, large = (np.zeros((1, 3, n, n), np.float32) for n in (128, 160))
    for _ in range(3):
        model(small)
        with pytest.raises(MemoryLimitError, match=f"the limit is {limit}"):
            model(large)
    assert model._engine.arenas.peak <= limit


def test_runs_in_progress_count_towards_the_limit():
    arenas = Arenas(limit=3 * MIB)
    first = arenas.take(2 * MIB)
    with pytest.raises(MemoryLimitError, match=f"the limit is {3 * MIB}"):
        arenas.take(2 * MIB)
    arenas.give(first)
    second = arenas.take(2 * MIB)
    assert second is first
    arenas.give(second)
    third = arenas.take(3 * MIB)  # the free one makes way
    assert arenas.nbytes == third.size == 3 * MIB


def test_an_arena_that_cannot_be_had_is_a_typed_error():
    with pytest.raises(MemoryLimitError, match="cannot allocate"):
        Arenas().take(1 << 62)


def unlimited_and_limited(model, feeds, limit):
    """Run without a limit, then check that ``limit`` bytes are refused and stay unpassed."""
    free = fastconv.load(model, threads=1, fallback="allow")
    expected = free.run(feeds)
    tight = fastconv.load(model, threads=1, fallback="allow", memory_limit=limit)
    for _ in range(2):
        with pytest.raises(MemoryLimitError, match=f"the limit is {limit}"):
            tight.run(feeds)
    arenas = tight._engine.arenas
    arenas.room(limit - arenas.nbytes)  # nothing of the failed runs still counts
    roomy = fastconv.load(model, threads=1, fallback="allow", memory_limit=16 * limit)
    for _ in range(3):
        for name, value in roomy.run(feeds).items():
            np.testing.assert_array_equal(value, expected[name])
    return tight


def parsed(text):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')


def cuts(count, last):
    """``Compress`` after ``Compress``, and the sum of the last values that they give."""
    lines = ["z = Constant <value_float = -1e9> ()", "v0 = Relu (x)"]
    for k in range(count):
        lines += [f"g{k} = Greater (v{k}, z)", f"c{k} = Compress <axis = 0> (v{k}, g{k})"]
        lines += [f"v{k + 1} = Add (c{k}, one)"]
    lines += [f"y = Sum ({', '.join(f'v{count - k}' for k in range(last))})"]
    body = "\n".join(lines)
    return f"g (float[n] x, float one) => (float[m] y) {{\n{body}\n}}"


X = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)

SEQUENCE = """
g (float[k] x, int64 n) => (int64 y) {
    e = SequenceEmpty ()
    s = Loop (n, , e) <body = b (int64 i, bool go, seq(float[k]) a) => (bool on, seq(float[k]) z) {
        on = Identity (go)  d = Add (x, x)  z = SequenceInsert (a, d) }>
    y = SequenceLength (s)
}"""
FILLED = """
g (float[r] s) => (float[a,b] y) {
    t = Cast <to = 7> (s)
    c0 = ConstantOfShape (t)  c1 = ConstantOfShape (t)  c2 = ConstantOfShape (t)
    c3 = ConstantOfShape (t)  y = Sum (c0, c1, c2, c3)
}"""
CARRIED = """
g (float[k] x, int64 n) => (float[j] y) {
    y = Loop (n, , x) <body = b (int64 i, bool go, float[h] v) => (bool on, float[w] z) {
        on = Identity (go)  z = Concat <axis = 0> (v, x) }>
}"""
STACKED = """
g (float[k] x, int64 n) => (float[n,k] y) {
    y = Loop (n, ) <body = b (int64 i, bool go) => (bool on, float[k] z) {
        on = Identity (go)  z = Add (x, x) }>
}"""
SCANNED = """
g (float[n,k] x) => (float[n,j] y) {
    y = Scan <num_scan_inputs = 1, body = b (float[k] v) => (float[j] z) {
        z = Concat <axis = 0> (v, v, v, v) }> (x)
}"""
SPLIT = """
g (float[n,k] x) => (float[n,j] y) {
    r = Relu (x)
    s = SplitToSequence <axis = 1, keepdims = 1> (r)
    y = ConcatFromSequence <axis = 1> (s)
}"""
LIMITED = {
    "between cuts": (cuts(8, 9), {"x": X, "one": np.float32(1)}, 250_000),
    "sequence": (SEQUENCE, {"x": X, "n": np.array(20)}, 400_000),
    "filled": (FILLED, {"s": np.float32([100, 100])}, 50_000),
    "carried": (CARRIED, {"x": X, "n": np.array(10)}, 300_000),
    "stacked": (STACKED, {"x": X, "n": np.array(10)}, 500_000),
    "scanned": (SCANNED, {"x": X.reshape(10, 1000)}, 240_000),
    "split": (SPLIT, {"x": X.reshape(100, 100)}, 80_000),
}


@pytest.mark.parametrize("name", LIMITED)
def test_values_outside_arenas_count_towards_the_limit(name):
    text, feeds, limit = LIMITED[name]
    unlimited_and_limited(parsed(text).SerializeToString(), feeds, limit)


def test_a_result_of_known_size_is_refused_before_it_is_computed():
    limit = 20 * MIB
    model = fastconv.load(parsed(FILLED).SerializeToString(), threads=1, memory_limit=limit)
    tracemalloc.start()
    try:
        with pytest.raises(MemoryLimitError, match=r"the value .* needs 12582912 bytes"):
            model.run({"s": np.float32([3, MIB])})  # 12 MiB each: the first fits
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_what_nothing_reads_any_more_makes_room_for_the_parts_behind():
    model = fastconv.load(parsed(cuts(8, 2)).SerializeToString(), threads=1, memory_limit=250_000)
    y = model.run({"x": X, "one": np.float32(1)})["y"]
    np.testing.assert_allclose(y, 2 * np.maximum(X, 0) + 15, rtol=1e-5)


def test_weights_do_not_count_wherever_they_go():
    w = np.arange(50_000, dtype=np.float32)
    text = """g (float[k] x, bool c) => (float y) {
        v = If (c) < then_branch = p () => (float[k] a) { a = Identity (w) },
                     else_branch = q () => (float[k] b) { b = Identity (x) } >
        i = NonZero (x)  j = Squeeze (i)
        g = Gather (v, j)  y = ReduceMax <keepdims = 0> (g)
    }"""
    m = parsed(text)
    m.graph.initializer.append(numpy_helper.from_array(w, "w"))
    model = fastconv.load(m.SerializeToString(), threads=1, memory_limit=20_000)
    x = np.float32([0, 1, 0, 2])
    assert model.run({"x": x, "c": np.array(True)})["y"] == 3
    assert model.run({"x": x, "c": np.array(False)})["y"] == 2


def test_outputs_belong_to_the_caller_and_no_longer_count():
    text = """g (float[k] x) => (float[m] a, float[m] b, float[k] c, float[m,1] d) {
        z = Constant <value_float = 0.0> ()  g = Greater (x, z)  a = Compress <axis = 0> (x, g)
        b = Identity (a)  c = Identity (x)  s = Constant <value_ints = [-1, 1]> ()
        d = Reshape (a, s)
    }"""
    model = fastconv.load(parsed(text).SerializeToString(), threads=1, memory_limit=400_000)
    kept = [model.run({"x": X}) for _ in range(10)]
    for outs in kept:
        arrays = [X, *outs.values()]
        for k, a in enumerate(arrays):
            assert not any(np.shares_memory(a, b) for b in arrays[:k])
        np.testing.assert_array_equal(outs["a"], X[X > 0])
        np.testing.assert_array_equal(outs["c"], X)


def test_a_step_in_python_counts_with_its_results_before_they_are_in_place():
    text = "g (double[k] x) => (double[k] y) { a = Erf (x)  y = Exp (a) }"
    m = parsed(text).SerializeToString()
    x = X.astype(np.float64)
    free = fastconv.load(m, threads=1)
    prepared = free.prepare({"x": x.shape})
    assert any(s.function is not None for s in prepared.plan.steps)
    unlimited_and_limited(m, {"x": x}, prepared.plan.arena_size + x.nbytes + x.nbytes // 2)


@pytest.fixture
def files(monkeypatch):
    """Stands for /proc and /sys: path → text; a file that is not there is empty."""
    content = {}
    read = lambda path: content.get(os.path.normpath(path), "").strip()  # noqa: E731
    monkeypatch.setattr(sizes, "_read", read)
    return content


ROOT = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, None),
        ({f"{ROOT}/memory.max": "1000"}, 1000),
        ({"/proc/self/cgroup": "0::/", f"{ROOT}/memory.max": "max"}, None),
        (
            {
                "/proc/self/cgroup": "0::/pod/job",
                f"{ROOT}/pod/job/memory.max": "3000",
                f"{ROOT}/pod/memory.max": "2000",
            },
            2000,
        ),
        (
            {
                "/proc/self/cgroup": "5:cpu:/a\n4:memory:/docker/abc",
                f"{ROOT}/memory/memory.limit_in_bytes": "4000",
            },
            4000,
        ),
        (
            {
                "/proc/self/cgroup": "4:hugetlb,memory:/docker/abc",
                f"{ROOT}/memory/docker/abc/memory.limit_in_bytes": "500",
                f"{ROOT}/memory/memory.limit_in_bytes": "4000",
            },
            500,
        ),
    ],
    ids=["none", "root", "unlimited", "nested", "version 1", "version 1 nested"],
)
def test_the_tightest_limit_of_the_container_counts(files, content, expected):
    files.update(content)
    assert sizes.memory_quota() == expected
