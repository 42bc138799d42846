"""The kernel of TopK against its NumPy twin: the same values and the same indices, ties and all."""

import numpy as np
import pytest
from harness import ISAS, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph.ops.reduce import TopK


def check(x, k, axis=-1, largest=1, threads=(1, 3)):
    """The kernel of every build finds what the twin finds, to the bit."""
    op, xs = TopK(axis=axis, largest=largest), [x, np.array([k], np.int64)]
    values, indices = op.compute(xs)
    for isa in ISAS:
        for t in threads:
            got = run_op(op, xs, consts=(1,), n_outputs=2, isa=isa, threads=t)
            assert got[1].dtype == np.int64
            np.testing.assert_array_equal(got[1], indices)
            np.testing.assert_array_equal(got[0].view(np.uint32), values.view(np.uint32))


SPECIAL = np.array([0, -0.0, 1, -1, 1e-42, -1e-42, np.inf, -np.inf, np.nan, -np.nan], np.float32)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    where=st.integers(0, 2),
    share=st.floats(0, 1),
    largest=st.integers(0, 1),
    kind=st.sampled_from(["noise", "few", "special"]),
    seed=st.integers(0, 999),
)
def test_every_size_axis_and_kind_of_number(shape, where, share, largest, kind, seed):
    rng = np.random.default_rng(seed)
    axis = where % len(shape)
    if kind == "noise":
        x = rng.standard_normal(shape).astype(np.float32)
    elif kind == "few":
        x = rng.integers(-2, 3, shape).astype(np.float32)
    else:
        x = rng.choice(SPECIAL, shape)
    check(x, round(share * shape[axis]), axis, largest)


@pytest.mark.parametrize("order", ["rising", "falling", "noise", "equal", "saw"])
@pytest.mark.parametrize("k", [1, 5, 300])
@pytest.mark.parametrize("largest", [0, 1])
def test_candidates_are_dropped_many_times_on_the_way(order, k, largest):
    # Rising numbers (for the largest) are the worst case: every one is better than all before.
    n = 9001
    x = {
        "rising": np.arange(n),
        "falling": -np.arange(n),
        "noise": np.random.default_rng(0).standard_normal(n),
        "equal": np.ones(n),
        "saw": np.arange(n) % 37,
    }[order].astype(np.float32)
    check(x, k, largest=largest, threads=(1,))


def test_all_of_many_are_sorted():
    x = np.random.default_rng(1).standard_normal((2, 5000)).astype(np.float32)
    check(x, 5000)


@pytest.mark.parametrize("output", [0, 1])
def test_only_one_output_may_be_wanted(output):
    from onnx import TensorProto, helper

    import fastconv

    names = ["", ""]
    names[output] = "y"
    value = helper.make_tensor_value_info
    kind = TensorProto.INT64 if output else TensorProto.FLOAT
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("TopK", ["x", "k"], names)], "g",
            [value("x", TensorProto.FLOAT, [3, 50])], [value("y", kind, [3, 4])],
            [helper.make_tensor("k", TensorProto.INT64, [1], [4])],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    ).SerializeToString()  # fmt: skip
    x = np.random.default_rng(2).standard_normal((3, 50)).astype(np.float32)
    got = fastconv.load(m, fallback="error").run({"x": x})["y"]
    np.testing.assert_array_equal(got, TopK().compute([x, np.array([4])])[output])


@pytest.mark.parametrize("form", ["float64", "k is computed"])
def test_other_forms_are_the_twins(form):
    x = np.random.default_rng(3).standard_normal((4, 9))
    xs = [x if form == "float64" else x.astype(np.float32), np.array([3], np.int64)]
    consts = (1,) if form == "float64" else ()
    got = run_op(TopK(), xs, consts=consts, n_outputs=2, native=False)
    for a, b in zip(got, TopK().compute(xs), strict=True):
        np.testing.assert_array_equal(a, b)
