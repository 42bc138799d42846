"""What makes starting quick and lean: weights in memory once, modules imported when needed."""

import dataclasses
import mmap
import pickle
import subprocess
import sys
from itertools import pairwise
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import kernels
from fastconv.lazy import LazyTable
from fastconv.plan.packing import PackCache, address, aligned_zeros, mapping
from fastconv.records import field, record, replace

RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((64, 32, 3, 3), dtype=np.float32)


def conv_model(path, shift, external=False):
    """A model of one convolution whose weights begin ``shift`` bytes further into the file."""
    weight = numpy_helper.from_array(WEIGHT, "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="c")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.producer_name = "p" * shift
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def mapped_weight(model):
    """The file mapping that the model's weight lies in, and whether it is aligned."""
    array = next(c for c in model.graph.consts.values() if c.size == WEIGHT.size)
    return mapping(array), array.flags.aligned


def resident(pages, array):
    """Bytes of a mapping that this process holds in memory, from the system's own account."""
    start = array.__array_interface__["data"][0]
    inside, size = False, 0
    with open("/proc/self/smaps") as f:
        for line in f:
            head = line.split()[0]
            if "-" in head and not head.endswith(":"):
                low, high = (int(h, 16) for h in head.split("-"))
                inside = low <= start < high
            elif inside and head == "Rss:":
                size = int(line.split()[1]) << 10
    return size


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("shift", [1, 2, 3, 4])
def test_weights_at_any_byte_are_read_from_the_file_and_give_the_same(tmp_path, shift, external):
    model = fastconv.load(conv_model(tmp_path / "m.onnx", shift, external), threads=1)
    x = RNG.standard_normal((1, 32, 9, 11), dtype=np.float32)
    assert isinstance(mapped_weight(model)[0], mmap.mmap)
    reference = fastconv.load(conv_model(tmp_path / "r.onnx", shift).read_bytes(), threads=1)
    np.testing.assert_array_equal(model(x), reference(x))


def test_some_weights_are_not_aligned_in_the_file(tmp_path):
    aligned = [
        mapped_weight(fastconv.load(conv_model(tmp_path / f"{k}.onnx", k), threads=1))[1]
        for k in range(1, 5)
    ]
    assert aligned.count(True) == 1


def test_pages_of_weights_are_let_go_of_once_packed_and_read_again(tmp_path):
    model = fastconv.load(conv_model(tmp_path / "m.onnx", 3), threads=1)
    array = next(c for c in model.graph.consts.values() if c.size == WEIGHT.size)
    pages = mapping(array)
    total = float(array.sum())
    assert resident(pages, array) > WEIGHT.nbytes // 2
    model(np.zeros((1, 32, 8, 8), np.float32))
    assert resident(pages, array) < WEIGHT.nbytes // 2
    assert float(array.sum()) == total


def test_a_model_whose_pages_were_let_go_of_still_does_everything(tmp_path):
    model = fastconv.load(conv_model(tmp_path / "m.onnx", 1), threads=1)
    x = RNG.standard_normal((1, 32, 8, 8), dtype=np.float32)
    y = model(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(x), y)
    assert "Conv" in model.summary({"x": (1, 32, 8, 8)})
    strict = fastconv.load(tmp_path / "m.onnx", threads=1, accuracy="strict")
    wide = RNG.standard_normal((1, 32, 40, 40), dtype=np.float32)
    np.testing.assert_allclose(model(wide), strict(wide), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_is_known_to_be_finite_or_not(bad):
    packs, weight = PackCache(), WEIGHT.copy()
    assert packs.finite(weight)
    other = weight.copy()
    other[3, 2, 1, 0] = bad
    assert not packs.finite(other)
    assert packs.finite(np.full(100, np.finfo(np.float32).max))  # whose sum overflows


@pytest.mark.parametrize("isa", kernels.runnable_isas())
@pytest.mark.parametrize(("group", "block"), [(1, 0), (2, 0), (1, 8), (1, 32)])
def test_packed_filters_lie_as_stated(isa, group, block):
    nr = kernels.constants(isa)["NR"]
    w = RNG.standard_normal((38, 5, 21), dtype=np.float32)[:, ::-1].transpose(0, 1, 2)
    filters, size = 38 // group, block or 21
    panels, blocks = -(-filters // nr), -(-21 // size)
    out = np.full((group, panels, blocks, 5, size, nr), 7, np.float32)
    kernels.packing(isa).pack_filters(w, group, out, block)
    expected = np.zeros((group, panels * nr, 5, blocks * size), np.float32)
    expected[:, :filters, :, :21] = w.reshape(group, filters, 5, 21)
    expected = expected.reshape(group, panels, nr, 5, blocks, size).transpose(0, 1, 4, 3, 5, 2)
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(ValueError, match="the target has"):
        kernels.packing(isa).pack_filters(w, group, out[..., :1].copy(), block)


@pytest.mark.parametrize("isa", kernels.runnable_isas())
@pytest.mark.parametrize("wide", [1, 2])
def test_the_first_panels_may_be_wider(isa, wide):
    vw = kernels.constants(isa)["VW"]
    filters = (3 * wide + 2) * vw - 1  # the last panel is not full
    w = RNG.standard_normal((2 * filters, 3, 5), dtype=np.float32)
    out = np.full((2, (3 * wide + 2) * vw, 3, 5), 7, np.float32)
    kernels.packing(isa).pack_filters(w, 2, out, 0, wide)
    for g in range(2):
        part = np.zeros(((3 * wide + 2) * vw, 3, 5), np.float32)
        part[:filters] = w[g * filters : (g + 1) * filters]
        panels = np.split(part, [3 * vw * k for k in range(1, wide + 1)])
        flat = np.concatenate([p.transpose(1, 2, 0).ravel() for p in panels])
        np.testing.assert_array_equal(out[g].ravel(), flat)


def test_every_operator_is_found_in_the_family_that_the_table_names():
    code = (
        "from fastconv.graph.op import REGISTRY, _where\n"
        "import sys\n"
        "keys = list(REGISTRY)\n"
        "bad = [k for k in keys if _where(k) != REGISTRY[k].__module__.split('.')[-1]]\n"
        "sys.exit(f'name these in FAMILIES of graph/op.py: {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


FAMILIES = [
    "binary",
    "conv",
    "elementwise",
    "matmul",
    "move",
    "norm",
    "pool",
    "reduce",
    "resize",
    "shape",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_operator_is_lowered_alike_whatever_was_imported_before(family):
    """By its own family alone, in a new process, and after all families were imported."""
    code = (
        "import sys\n"
        "from fastconv.graph import REGISTRY\n"
        "from fastconv.plan.lowering import LOWER\n"
        f"own = [c for c in REGISTRY.values() if LOWER._where(c) == {family!r}]\n"
        f"LOWER._load({family!r})\n"
        "early = {c: LOWER._inherited(c) for c in own}\n"
        "LOWER.complete()\n"
        "bad = [c for c, f in early.items() if LOWER.get(c) is not f]\n"
        "sys.exit(f'_where in plan/lowering.py names the wrong family of {bad}' if bad else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lazy_table_imports_one_module_then_all():
    loaded = []

    def load(name):
        loaded.append(name)
        table[name] = len(loaded)

    table = LazyTable(load, lambda: ["a", "b"], {"a": "a"}.get)
    assert table["a"] == 1
    assert loaded == ["a"]
    assert "c" not in table
    assert sorted(table) == ["a", "b"]
    with pytest.raises(KeyError):
        _ = table["c"]


def test_kernels_are_found_in_the_family_that_the_table_names():
    for isa in kernels.runnable_isas():
        named = {k for names in kernels.FAMILY_KERNELS.values() for k in names.split()}
        assert set(kernels.table(isa)) <= named


def test_records_are_like_dataclasses():
    @record(frozen=True)
    class Point:
        """Two numbers."""

        x: int
        y: int = 2

    assert Point(1) == Point(x=1, y=2) != Point(2)
    assert hash(Point(1)) == hash(Point(1, 2))
    assert repr(Point(1)).endswith("Point(x=1, y=2)")
    assert dataclasses.replace(Point(1), y=5) == Point(1, 5)
    for bad in (
        lambda: Point(),
        lambda: Point(1, z=3),
        lambda: Point(1, 2, 3),
        lambda: Point(1, x=1),
    ):
        with pytest.raises(TypeError, match="Point"):
            bad()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Point(1).x = 3
    assert [f.name for f in dataclasses.fields(Point)] == ["x", "y"]
    assert replace(Point(1), y=5) == Point(1, 5)


def test_records_inherit_fields_and_have_slots_where_asked():
    @record
    class Base:
        x: int
        kind: ClassVar[str] = "base"
        names: list = field(default_factory=list)

    @record
    class Child(Base):
        y: int = 3

    child = Child(1)
    assert (child.x, child.names, child.y) == (1, [], 3)
    assert child.names is not Child(1).names
    assert [f.name for f in dataclasses.fields(Child)] == ["x", "names", "y"]

    @record(eq=False, slots=True)
    class Small:
        x: int = 1
        hidden: int = field(default=2, repr=False)

    assert not hasattr(Small(), "__dict__")
    assert repr(Small(5)).endswith("Small(x=5)")
    assert dataclasses.replace(Small(5), hidden=7).hidden == 7


def test_loading_and_planning_need_no_dataclasses(tmp_path):
    """They would be a tenth of the time from the start of a process to the first result."""
    path = str(conv_model(tmp_path / "m.onnx", 0))
    code = (
        "import sys, numpy, fastconv\n"
        f"fastconv.load({path!r}).prepare({{'x': (1, 32, 8, 8)}})\n"
        "sys.exit('dataclasses' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("isa", kernels.runnable_isas())
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize(
    ("filters", "taps", "channels", "block"),
    [(70, 1, 53, 0), (64, 1, 16, 0), (33, 1, 100, 32), (40, 9, 20, 0), (1, 1, 1, 0)],
)
def test_weights_are_packed_from_any_alignment(isa, shift, filters, taps, channels, block):
    nr = kernels.constants(isa)["NR"]
    raw = np.zeros(filters * channels * taps * 4 + shift, np.uint8)
    w = raw[shift:].view(np.float32).reshape(filters, channels, taps)
    w[...] = RNG.standard_normal(w.shape)
    per = block or channels
    panels, blocks = -(-filters // nr), -(-channels // per)
    out = np.full((panels, blocks, taps, per, nr), np.nan, np.float32)
    kernels.packing(isa).pack_filters(np.moveaxis(w, 1, -1), 1, out, block)
    want = np.zeros((panels * nr, blocks * per, taps), np.float32)
    want[:filters, :channels] = w
    want = want.reshape(panels, nr, blocks, per, taps).transpose(0, 2, 4, 3, 1)
    np.testing.assert_array_equal(out, want)


def test_packed_weights_share_huge_pages_and_start_at_cache_lines():
    packs = PackCache()
    made = [packs.get(k, lambda: aligned_zeros((300_000,))) for k in range(12)]
    starts = sorted(address(a) for a in made)
    assert all(s % 64 == 0 for s in starts)
    assert all(b - a >= 300_000 * 4 for a, b in pairwise(starts))
    assert not any(a.any() for a in made)
    made[3][:] = 1
    assert not any(a.any() for k, a in enumerate(made) if k != 3)
