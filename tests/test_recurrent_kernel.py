"""The recurrent kernel against its NumPy twin, and the forms that it leaves to the twin."""

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph.ops.recurrent import GRU, LSTM, RNN

GATES = {LSTM: 4, GRU: 3, RNN: 1}


def inputs(cls, time, batch, size, hidden, directions, bias=True, states=True, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    rows = GATES[cls] * hidden
    xs = [normal(time, batch, size), normal(directions, rows, size) / 2,
          normal(directions, rows, hidden) / np.float32(hidden**0.5)]  # fmt: skip
    xs.append(normal(directions, 2 * rows) if bias else None)
    if states:
        count = 2 if cls is LSTM else 1
        xs += [None, *[normal(directions, batch, hidden) for _ in range(count)]]
    return xs


@settings(max_examples=25, deadline=None)
@given(
    cls=st.sampled_from([LSTM, GRU, RNN]),
    time=st.integers(1, 6),
    batch=st.integers(1, 9),
    size=st.integers(1, 9),
    hidden=st.integers(1, 40),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    flags=st.tuples(st.booleans(), st.booleans(), st.integers(0, 1)),
)
def test_every_size_gives_what_the_twin_gives(cls, time, batch, size, hidden, direction, flags):
    bias, states, extra = flags
    directions = 2 if direction == "bidirectional" else 1
    xs = inputs(cls, time, batch, size, hidden, directions, bias, states)
    attrs = {"linear_before_reset": extra} if cls is GRU else {}
    op = cls(direction=direction, hidden_size=hidden, **attrs)
    n = 3 if cls is LSTM else 2
    check_op(op, xs, consts=(1, 2, 3), n_outputs=n, rtol=1e-4, atol=1e-5, threads=(1, 3))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cls", [LSTM, GRU, RNN])
def test_a_nan_in_one_sequence_stays_there(cls, isa):
    xs = inputs(cls, 4, 5, 3, 20, 1)
    clean = run_op(cls(), xs, consts=(1, 2, 3), isa=isa)[0]
    xs[0][1, 2, 0] = np.nan
    y = run_op(cls(), xs, consts=(1, 2, 3), isa=isa)[0]
    assert np.isnan(y[1:, 0, 2]).all()
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(y[:, :, others], clean[:, :, others])
    np.testing.assert_array_equal(y[0], clean[0])


@pytest.mark.parametrize("cls", [LSTM, GRU])
def test_sequences_of_a_batch_give_the_same_bits_alone(cls):
    xs = inputs(cls, 5, 7, 6, 33, 2, states=False)
    op = cls(direction="bidirectional")
    whole = run_op(op, xs, consts=(1, 2, 3))[0]
    for k in range(7):
        alone = run_op(op, [xs[0][:, k : k + 1], *xs[1:]], consts=(1, 2, 3))[0]
        np.testing.assert_allclose(whole[:, :, k : k + 1], alone, rtol=1e-6, atol=1e-7)


def test_relu_and_large_inputs():
    xs = inputs(RNN, 6, 2, 4, 17, 1)
    check_op(RNN(activations=("Relu",)), xs, consts=(1, 2, 3), n_outputs=2, rtol=1e-4, atol=1e-5)
    xs = inputs(LSTM, 3, 2, 4, 17, 1)
    xs[0] *= np.float32(1e4)
    check_op(LSTM(), xs, consts=(1, 2, 3), n_outputs=3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "more"),
    [
        (LSTM(clip=0.5), ()),
        (LSTM(input_forget=1), ()),
        (LSTM(activations=("HardSigmoid", "Tanh", "Tanh")), ()),
        (LSTM(), (np.array([3, 1], np.int32),)),
        (GRU(activations=("Sigmoid", "Softsign")), ()),
        (RNN(activations=("Affine",)), ()),
    ],
)
def test_forms_without_a_kernel_run_in_numpy(op, more):
    xs = inputs(type(op), 3, 2, 4, 5, 1, states=False) + list(more)
    got = run_op(op, xs, consts=(1, 2, 3), native=False)[0]
    np.testing.assert_allclose(got, op.compute(xs)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError, match="no kernel was used"):
        run_op(op, xs, consts=(1, 2, 3))
