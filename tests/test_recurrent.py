"""LSTM, GRU and RNN against ONNX's reference, and what that leaves out against plain loops."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fastconv.errors import ShapeError, UnsupportedError
from fastconv.graph.core import TensorType
from fastconv.graph.ops.recurrent import GRU, LSTM, RNN

GATES = {LSTM: 4, GRU: 3, RNN: 1}


def inputs(cls, directions, layout, seed=0, time=5, batch=3, size=4, hidden=6):
    rng = np.random.default_rng(seed)
    lead = (batch, time) if layout else (time, batch)
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    shapes = [
        (*lead, size), (directions, GATES[cls] * hidden, size),
        (directions, GATES[cls] * hidden, hidden), (directions, 2 * GATES[cls] * hidden),
    ]  # fmt: skip
    xs = [rng.standard_normal(s).astype(np.float32) / 2 for s in shapes]
    xs.append(None)
    xs += [rng.standard_normal(state).astype(np.float32) for _ in range(2 if cls is LSTM else 1)]
    if cls is LSTM:
        xs.append(rng.standard_normal((directions, 3 * hidden)).astype(np.float32))
    return xs


def reference(op_type, xs, outputs, **attributes):
    names = ["" if a is None else f"x{i}" for i, a in enumerate(xs)]
    ins = [
        helper.make_tensor_value_info(n, 1, a.shape) for n, a in zip(names, xs, strict=True) if n
    ]
    outs = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op_type, names, outs, **attributes)
    graph = helper.make_graph([node], "g", ins, [onnx.ValueInfoProto(name=o) for o in outs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    feeds = {n: a for n, a in zip(names, xs, strict=True) if n}
    return ReferenceEvaluator(model).run(None, feeds)


@pytest.mark.parametrize("cls", [LSTM, GRU, RNN])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("extra", [0, 1])
def test_recurrent_operators_agree_with_onnx(cls, direction, optional, extra):
    xs = inputs(cls, 2 if direction == "bidirectional" else 1, layout=0)
    if not optional:
        xs = xs[:3]
    more = {"linear_before_reset": extra} if cls is GRU else {}
    expected = reference(
        cls.__name__, xs, cls.n_outputs, direction=direction, hidden_size=6, **more
    )
    op = cls(direction=direction, hidden_size=6, **more)
    got = op.compute(xs)
    types = op.infer([None if a is None else TensorType(a.dtype, a.shape) for a in xs], xs)
    assert types == [TensorType(g.dtype, g.shape) for g in got]
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [LSTM, GRU, RNN])
def test_layout_1_puts_the_batch_first(cls):
    xs = inputs(cls, 2, layout=0)
    plain = cls(direction="bidirectional").compute(xs)
    turned = [xs[0].swapaxes(0, 1), *xs[1:5], *[s.swapaxes(0, 1) for s in xs[5:]]]
    if cls is LSTM:
        turned[7] = xs[7]
    op = cls(direction="bidirectional", layout=1)
    got = op.compute(turned)
    np.testing.assert_array_equal(got[0], plain[0].transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(got[1], plain[1].swapaxes(0, 1))
    types = op.infer([None if a is None else TensorType(a.dtype, a.shape) for a in turned], turned)
    assert [t.shape for t in types] == [g.shape for g in got]


@pytest.mark.parametrize("cls", [LSTM, GRU, RNN])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_short_sequences_are_as_if_run_alone(cls, direction):
    xs = inputs(cls, 1, layout=0)
    xs[4] = np.array([5, 2, 0], np.int32)
    y, y_h, *_ = cls(direction=direction).compute(xs)
    for n, length in enumerate(xs[4]):
        alone = [a[:, n : n + 1] for a in (xs[0][:length], *xs[5 : 5 + cls.n_outputs - 1])]
        one = [alone[0], *xs[1:4], None, *alone[1:], *xs[7:]]
        want, want_h, *_ = cls(direction=direction).compute(one)
        np.testing.assert_allclose(y[:length, :, n : n + 1], want, atol=1e-6)
        np.testing.assert_allclose(y_h[:, n : n + 1], want_h, atol=1e-6)
        assert not y[length:, :, n].any()


def test_activations_and_clip():
    xs = inputs(RNN, 1, layout=0)
    got = RNN(activations=("Affine",), activation_alpha=(0.5,), activation_beta=(1.0,)).compute(xs)
    expected = reference(
        "RNN", xs, 2, hidden_size=6, activations=["Affine"], activation_alpha=[0.5],
        activation_beta=[1.0],
    )  # fmt: skip
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-5)
    limited = RNN(activations=("Affine",), clip=0.25).compute(xs)[0]
    assert np.abs(limited).max() == 0.25


def test_bad_attributes_and_shapes_are_refused():
    xs = inputs(GRU, 1, layout=0)
    types = [None if a is None else TensorType(a.dtype, a.shape) for a in xs]
    for op, error in [
        (GRU(direction="sideways"), ShapeError),
        (GRU(activations=("Tanh",)), ShapeError),
        (GRU(activations=("Tanh", "Softmax")), UnsupportedError),
        (GRU(hidden_size=7), ShapeError),
        (GRU(direction="bidirectional"), ShapeError),
        (LSTM(), ShapeError),
    ]:
        with pytest.raises(error):
            op.infer(types, xs)
