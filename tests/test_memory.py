"""Memory over many runs: arenas shared between plans, limits, and inputs that change every time."""

import os
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

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
