"""Channel shuffle, layer normalization and Transposes in a row."""

import numpy as np
import pytest
from passes_harness import Build, check, kinds

INT = np.int64


def shuffle(b, x, split, perm, back):
    y = b("Reshape", x, b.const(split, INT))
    return b("Reshape", b("Transpose", y, perm=perm), b.const(back, INT))


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize(
    ("batch", "lead"), [(2, 2), (2, -1), ("N", -1), ("N", 0)], ids=["fixed", "-1", "N, -1", "N, 0"]
)
def test_a_channel_shuffle_becomes_one_node(batch, lead, groups):
    b = Build()
    x = b.input(batch, 12, 4, 5)
    y = shuffle(b, x, [lead, groups, 12 // groups, 4, 5], (0, 2, 1, 3, 4), [lead, 12, 4, 5])
    new = check(b.done(y), ["ChannelShuffle"])
    assert new.nodes[0].op.groups == groups


@pytest.mark.parametrize(
    ("split", "perm", "back"),
    [
        ([2, 2, 6, 4, 4], (0, 2, 1, 4, 3), [2, 12, 4, 4]),
        ([2, 2, 6, 4, 4], (1, 0, 2, 3, 4), [2, 12, 4, 4]),
        ([2, 2, 6, 4, 4], (0, 2, 1, 3, 4), [2, 6, 8, 4]),
        ([2, 2, 6, 4, 4], (0, 2, 1, 3, 4), [2, 12, 16]),
        ([2, 12, 2, 2, 4], (0, 2, 1, 3, 4), [2, 12, 4, 4]),
        ([4, 2, 3, 4, 4], (0, 2, 1, 3, 4), [2, 12, 4, 4]),
        ([4, 2, 6, 2, 4], (0, 2, 1, 3, 4), [2, 12, 4, 4]),
    ],
)
def test_what_is_not_a_channel_shuffle_stays(split, perm, back):
    b = Build()
    y = shuffle(b, b.input(2, 12, 4, 4), split, perm, back)
    check(b.done(y), ["Reshape", "Transpose", "Reshape"])


def test_a_channel_shuffle_whose_inside_is_read_stays():
    b = Build()
    y = shuffle(b, b.input(2, 12, 4, 5), [2, 2, 6, 4, 5], (0, 2, 1, 3, 4), [2, 12, 4, 5])
    new = check(b.done(y, b("Abs", b.graph.nodes[1].outputs[0])))
    assert "ChannelShuffle" not in kinds(new)


def layer_norm(b, x, *, axes=(-1,), eps=1e-5, power=2, square="Pow", twice=False, keepdims=1):
    def centred():
        return b("Sub", x, b("ReduceMean", x, b.const(axes, INT), keepdims=keepdims))

    d = centred()
    e = centred() if twice else d
    sq = b("Pow", e, b.const(power)) if square == "Pow" else b("Mul", e, e)
    var = b("ReduceMean", sq, b.const(axes, INT), keepdims=keepdims)
    return b("Div", d, b("Sqrt", b("Add", var, b.const(eps))))


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("affine", ["none", "scale", "bias", "both"])
@pytest.mark.parametrize("axes", [(-1,), (2,)])
def test_layer_normalization_written_out(square, twice, affine, axes):
    b = Build()
    y = layer_norm(b, b.input("N", 4, 6), square=square, twice=twice, axes=axes, eps=1e-3)
    if affine in ("scale", "both"):
        y = b("Mul", y, b.random(6))
    if affine in ("bias", "both"):
        y = b("Add", b.random(1, 6), y)
    new = check(b.done(y), ["LayerNormalization"])
    assert new.nodes[0].op.epsilon == pytest.approx(1e-3)
    assert len(new.nodes[0].inputs) == (2 if affine in ("none", "scale") else 3)


@pytest.mark.parametrize(
    "options",
    [{"axes": (1,)}, {"axes": (1, 2)}, {"power": 3}, {"keepdims": 0, "axes": (-1,)}],
    ids=str,
)
def test_what_is_not_layer_normalization_stays(options):
    b = Build()
    new = check(b.done(layer_norm(b, b.input(5, 5, 5), **options)))
    assert "LayerNormalization" not in kinds(new)


def test_layer_normalization_in_float64_stays():
    b = Build()
    const = b.const
    b.const = lambda v, dtype=np.float64: const(v, dtype)
    new = check(b.done(layer_norm(b, b.input(2, 5, dtype=np.float64))))
    assert "LayerNormalization" not in kinds(new)


@pytest.mark.parametrize("shape", [(4, 1), (2, 4, 6), (1,), (1, 1, 1, 6)])
def test_a_factor_that_is_not_a_row_stays_outside(shape):
    b = Build()
    y = b("Mul", layer_norm(b, b.input(2, 4, 6)), b.random(*shape))
    check(b.done(y), ["LayerNormalization", "Mul"])


def test_layer_normalization_stays_apart_when_its_mean_is_read():
    b = Build()
    y = layer_norm(b, b.input(2, 4, 6))
    mean = b.graph.nodes[0].outputs[0]
    assert "LayerNormalization" not in kinds(check(b.done(y, mean)))


def test_transposes_that_cancel_vanish():
    b = Build()
    x = b("Tanh", b.input(2, 3, 4, 5))
    y = b("Transpose", b("Transpose", x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2))
    check(b.done(b("Abs", y)), ["Tanh", "Abs"])


def test_transposes_in_a_row_become_one():
    b = Build()
    y = b("Transpose", b("Transpose", b.input(2, 3, 4, 5), perm=(0, 2, 3, 1)), perm=(2, 1, 0, 3))
    new = check(b.done(b("Abs", y)), ["Transpose", "Abs"])
    assert new.nodes[0].op.perm == (3, 2, 0, 1)


def test_transposes_without_perm_reverse():
    b = Build()
    y = b("Transpose", b("Transpose", b("Tanh", b.input(2, 3, 4))))
    check(b.done(b("Abs", y)), ["Tanh", "Abs"])


def test_the_first_transpose_stays_for_its_other_readers():
    b = Build()
    x = b.input(2, 3, 4)
    y = b("Transpose", x, perm=(0, 2, 1))
    z = b("Transpose", y, perm=(0, 2, 1))
    new = check(b.done(b("Abs", z), b("Tanh", y)), ["Abs", "Transpose", "Tanh"])
    assert next(n for n in new.nodes if n.name.startswith("Abs")).inputs == [x]
