"""Random networks: all passes on, some left out, all off, and onnx.reference agree.

Hypothesis draws them. ``--graphs N`` compares more of them, ``--graphs-seed S`` others; of one that
fails, hypothesis makes the choices as plain as they can be, and then the smallest part is shown.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from grower import Choices
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from random_graphs import WEIGHTED, network, shrink

import fastconv
from fastconv import FastconvError
from fastconv.graph.ops.conv import Conv
from fastconv.passes import PIPELINE, epilogue
from fastconv.plan.lower import LOWER

CHUNKS = 20
TOLERANCE = 1e-4
NAMES = [name for name, _ in PIPELINE]


def differs(got, want):
    """What is wrong with an array, or None."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        return None if (got == want).all() else "other numbers"
    scale = max(1.0, float(np.abs(want).max()))
    gap = float(np.abs(got.astype(np.float64) - want).max())
    return None if gap <= TOLERANCE * scale else f"differs by {gap:.3g}, largest {scale:.3g}"


def complaint(net, **options):
    """What is wrong with a network's outputs under these options of ``load``, or None."""
    try:
        model = fastconv.load(net.model.SerializeToString(), fallback="error", **options)
        outputs = model.run(net.feeds)
    except FastconvError as e:
        return f"{type(e).__name__}: {e}"
    found = {o: differs(outputs[o], want) for o, want in net.expected.items()}
    return "; ".join(f"{o}: {what}" for o, what in found.items() if what) or None


#: Bytes for the choices of one network: most take a third of them.
LENGTH = 220 * Choices.WIDTH


def ways(choices):
    """Options of ``load`` under which a network must give the same results."""
    yield {"threads": 1}
    yield {"threads": 1, "optimize": False}
    left_out = choices.sample(NAMES, choices.randint(1, 3))
    threads = 2 if choices.randrange(8) == 7 else 1
    yield {"threads": threads, "accuracy": "strict", "disable": left_out}


def drawn(count, start, use):
    """Call ``use`` for the choices of networks that hypothesis draws, until it raises."""

    @seed(start)
    @settings(
        max_examples=count, deadline=None, database=None, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(st.binary(min_size=LENGTH, max_size=LENGTH))
    def run(data):
        use(data)

    run()


def compare(count, start, every=ways, tries=300):
    """Compare networks in all ways; how many different ones there were.

    Args:
        count, start: how many, and which.
        every: gives the ways.
        tries: how often hypothesis may try to make a wrong one plainer; it would take thousands.

    Raises:
        AssertionError: one is wrong; with the smallest part of the plainest that is.
    """
    wrong = {}
    done = set()
    last = None

    def check(data):
        nonlocal last, tries
        if wrong and data not in wrong:
            tries -= 1
            if tries < 0:
                return
        if data not in wrong:
            choices = Choices(data)
            net = network(choices)
            for options in every(choices):
                what = complaint(net, **options)
                if what is not None:
                    wrong[data] = what, net, options
                    break
            done.add(net.model.SerializeToString())
        if data in wrong:
            last = data
            raise AssertionError(wrong[data][0])

    try:
        drawn(count, start, check)
    except AssertionError:
        what, net, options = wrong[last]
        small = shrink(net, lambda part: complaint(part, **options) is not None)
        text = f"{what}\nwith {options}\n{net.text()}\n\nsmallest part:\n{small.text()}"
        failure = AssertionError(text)
        failure.part = small
        raise failure from None
    return len(done)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_passes_on_or_off_agree_with_the_reference(chunk, pytestconfig):
    count = -(-pytestconfig.getoption("graphs") // CHUNKS)
    different = compare(count, CHUNKS * pytestconfig.getoption("graphs_seed") + chunk)
    assert different > 0.95 * count


# The networks are what they are said to be.


@pytest.fixture(scope="module")
def many():
    found = []
    drawn(200, 0, lambda data: found.append(network(Choices(data))))
    return found


def test_the_networks_are_sound_and_of_many_operators(many):
    kinds = Counter(n.op_type for net in many for n in net.model.graph.node)
    for net in many[:40]:
        onnx.checker.check_model(net.model)
    common = (
        "Conv ConvTranspose BatchNormalization Concat Split Resize Pad Slice Transpose Reshape "
        "Gemm MatMul Softmax ReduceMean MaxPool AveragePool Add Mul Sigmoid Clip"
    )
    assert all(kinds[op] >= 3 for op in common.split()), kinds
    assert len(set(WEIGHTED)) > 25


def test_the_networks_have_what_trips_passes_up(many):
    """Dead branches, shared values and weights, several outputs, and outputs that are read."""
    found = Counter()
    for net in many:
        nodes = net.model.graph.node
        read = Counter(i for n in nodes for i in set(n.input))
        made = {o for n in nodes for o in n.output}
        constants = {t.name for t in net.model.graph.initializer}
        found["several outputs"] += len(net.expected) > 1
        found["output that is read"] += any(read[o] for o in net.expected)
        found["shared value"] += any(read[v] > 1 for v in made)
        found["shared weight"] += any(read[c] > 1 for c in constants)
        found["dead branch"] += any(not read[v] and v not in net.expected for v in made)
        found["Constant node"] += any(n.op_type == "Constant" for n in nodes)
        found["open size"] += any(
            d.dim_param for i in net.model.graph.input for d in i.type.tensor_type.shape.dim
        )
    assert min(found.values()) >= 10, found


def test_equal_seeds_give_equal_networks():
    runs = []
    for start in (3, 3, 4):
        runs.append([])
        drawn(5, start, runs[-1].append)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    a, b = (network(Choices(runs[0][-1])).model.SerializeToString() for _ in range(2))
    assert a == b


def test_bytes_that_come_to_an_end_still_make_a_network():
    """The plainest choices follow."""
    assert [n.op_type for n in network(Choices(b"")).model.graph.node] == ["Conv"]


# A fault is found, and made small.


def faulty(found):
    """The smallest parts of the first networks of a few runs that fail."""
    parts = []
    for start in range(found):
        with pytest.raises(AssertionError) as failure:
            compare(400, start, lambda choices: [{"threads": 1}], tries=40)
        parts.append(failure.value.part)
    return parts


def test_a_wrong_pass_is_found_and_its_network_made_small(monkeypatch):
    """Residual sums that broadcast are fused although they must not be."""
    monkeypatch.setattr(epilogue, "same_shape", lambda a, b: True)
    for part in faulty(2):
        kinds = [n.op_type for n in part.model.graph.node]
        assert "Conv" in kinds
        assert kinds[-1] in ("Add", "Sum")
        assert len(kinds) <= 4
        assert complaint(part, threads=1, disable=["epilogues"]) is None


def test_a_wrong_kernel_is_found_and_its_network_made_small(monkeypatch):
    """Grouped convolutions of tall images are given wrong weights."""
    right = LOWER[Conv]

    def wrong(low, node):
        if node.op.group > 1 and low.shape(node.inputs[0])[2] > 3 and node.inputs[1] in low.known:
            weight = node.inputs[1]
            low.known[weight] = low.known[weight] * np.float32(1.5)
        return right(low, node)

    monkeypatch.setitem(LOWER, Conv, wrong)
    for part in faulty(2):
        kinds = [n.op_type for n in part.model.graph.node]
        assert kinds.count("Conv") == 1
        assert len([k for k in kinds if k != "Constant"]) <= 2


# What they found.


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("size", "kernel", "strides", "shape"),
    [((2, 2), (3, 2), (2, 2), (1, 1)), ((1, 3), (3, 2), (3, 2), (1, 2)), ((3,), (5,), (4,), (1,))],
)
def test_a_window_rounded_up_may_reach_past_a_smaller_input(op, size, kernel, strides, shape):
    """With ceil_mode such a window is one output; onnxruntime and torch have it so too."""
    node = onnx.helper.make_node(
        op, ["x"], ["y"], kernel_shape=kernel, strides=strides, ceil_mode=1
    )
    x = np.random.default_rng(0).standard_normal((2, 17, *size)).astype(np.float32)
    ends = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", x.shape), ("y", None))]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    y = fastconv.load(model.SerializeToString(), threads=1)(x)
    assert y.shape == (2, 17, *shape)
    first = x[(..., *(slice(k) for k in kernel))]
    axes = tuple(range(2, x.ndim))
    want = first.max(axes) if op == "MaxPool" else first.mean(axes)
    np.testing.assert_allclose(y.reshape(2, 17, -1)[..., 0], want, rtol=1e-5, atol=1e-6)
    none = onnx.helper.make_node(op, ["x"], ["y"], kernel_shape=kernel, ceil_mode=1)
    graph = onnx.helper.make_graph([none], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    if min(s - k for s, k in zip(size, kernel, strict=True)) < 0:
        with pytest.raises(FastconvError, match="larger than the padded input"):
            fastconv.load(model.SerializeToString(), threads=1)(x)
