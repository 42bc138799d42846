"""Fully-connected layers of few rows, with weights stored in float32 and in half precision."""

import numpy as np
import pytest
from cli_tools import build, node
from harness import ISAS
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import kernels
from fastconv.cli import main
from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.activation import RELU, Activation
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.matmul import Gemm, MatMul
from fastconv.plan.lower import vector
from fastconv.runtime.engine import Engine


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch):
    monkeypatch.setattr(vector, "LEAST_SIZE", 1)


def engine(op, x, *consts, half=True, threads=1, isa=None):
    names = [f"c{i}" for i in range(len(consts))]
    types = {"x": TensorType(x.dtype, x.shape)}
    nodes = [Node(op, ["x", *names], ["y"], "node")]
    graph = Graph("g", nodes, ["x"], ["y"], dict(zip(names, consts)), types)
    return Engine(graph, threads, isa=isa, half=half)


def run(op, x, *consts, **options):
    """The result and the kernels that made it."""
    e = engine(op, x, *consts, **options)
    plan = e.prepare({"x": x}).plan
    return e.run({"x": x})["y"], [s.kernel for s in plan.steps]


def array(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def bound(x, w):
    """How far x·w may be from exact: the stored weights' errors and the sums' rounding."""
    x, w = np.abs(x.astype(np.float64)), np.abs(w.astype(np.float64))
    stored = np.maximum(2.0**-11 * w, 2.0**-25 * w.max(axis=0))
    return x @ stored + (len(w) + 4) * 2.0**-24 * (x @ w) + 1e-30


@pytest.mark.parametrize("isa", ISAS)
def test_every_half_precision_number_becomes_float32_exactly(isa):
    halves = np.arange(1 << 16, dtype=np.uint16)
    n = halves.size
    y = np.empty((1, n), np.float32)
    inf = float("inf")
    params = dict(m=1, k=1, n=n, x_row=1, r_row=0, y_row=n, w_n=0, w_k=0, channels=0, gain=1, act=0,
                  lo=-inf, hi=inf, alpha=0, beta=0)  # fmt: skip
    x, scale = np.ones(1, np.float32), np.ones(n, np.float32)
    kernels.run("gemv_half", params, [x, halves, scale, None, None, y], isa=isa)
    np.testing.assert_array_equal(y[0], halves.view(np.float16).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 17), k=st.integers(1, 70), n=st.integers(1, 150), transposed=st.booleans(),
    bias=st.booleans(), alpha=st.sampled_from([1.0, 0.5]), isa=st.sampled_from(ISAS),
    exponents=st.sampled_from([(0, 0), (-40, 40), (-120, -100), (100, 120)]),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_any_gemm_is_within_the_stated_error(
    m, k, n, transposed, bias, alpha, isa, exponents, seed
):
    rng = np.random.default_rng(seed)
    x, w = array(rng, m, k), array(rng, k, n)
    w *= np.float32(2.0) ** rng.integers(*exponents, n, endpoint=True)
    b = [array(rng, n) * np.abs(w).max(axis=0)] if bias else []
    op = Gemm(transB=int(transposed), alpha=alpha)
    got, used = run(op, x, w.T.copy() if transposed else w, *b, isa=isa)
    assert ("gemv_half" in used) == (m <= vector.MOST_ROWS)
    wide = [a.astype(np.float64) for a in (x, w, *b)]
    exact = alpha * wide[0] @ wide[1] + (wide[2] if bias else 0)
    limit = alpha * bound(x, w) + 2.0**-22 * np.abs(exact)
    assert (np.abs(got - exact) <= limit).all()


def test_a_batch_of_matrices_stays_in_float32():
    rng = np.random.default_rng(0)
    x, w = array(rng, 3, 1, 8), array(rng, 3, 8, 40)
    got, used = run(MatMul(), x, w)
    assert "gemv_half" not in used
    np.testing.assert_allclose(got, x @ w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 50), (50,), (2, 3, 50)])
def test_matmul_with_constant_weights(isa, shape):
    rng = np.random.default_rng(0)
    x, w = array(rng, *shape), array(rng, 50, 77)
    got, used = run(MatMul(), x, w, isa=isa)
    assert used == ["gemv_half"]
    assert got.shape == (*shape[:-1], 77)
    assert (np.abs(got - x.astype(np.float64) @ w) <= bound(x, w)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_rows_and_threads_do_not_change_bits(isa):
    rng = np.random.default_rng(1)
    x, w, b = array(rng, 7, 300), array(rng, 300, 500), array(rng, 500)
    op = Gemm(activation=Activation("silu", 1.0))
    (first, used), *others = (run(op, x, w, b, threads=t, isa=isa) for t in (1, 2, 3))
    assert used == ["gemv_half"]
    assert all(y.tobytes() == first.tobytes() for y, _ in others)
    for i in range(7):
        assert run(op, x[i : i + 1], w, b, isa=isa)[0].tobytes() == first[i : i + 1].tobytes()


def test_weights_that_are_not_finite_stay_in_float32():
    rng = np.random.default_rng(2)
    x, w = array(rng, 1, 40), array(rng, 40, 64)
    w[3, 5], w[7, 9] = np.inf, np.nan
    got, used = run(Gemm(), x, w)
    plain, _ = run(Gemm(), x, w, half=False)
    assert used == ["gemv"]
    assert got.tobytes() == plain.tobytes()


def test_a_column_of_zeros_gives_zero():
    rng = np.random.default_rng(3)
    x, w = array(rng, 1, 40), array(rng, 40, 64)
    w[:, 10] = 0
    got, used = run(Gemm(), x, w)
    assert used == ["gemv_half"]
    assert got[0, 10] == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_a_1x1_convolution_of_one_pixel_is_matrix_times_vector(isa, half, strides):
    rng = np.random.default_rng(4)
    x, w, b = array(rng, 3, 70, 1, 1), array(rng, 45, 70, 1, 1), array(rng, 45)
    op = Conv(activation=RELU, strides=strides)
    (many, used) = run(op, x, w, b, half=half, isa=isa)
    (one, used_alone) = run(op, x[:1], w, b, half=half, isa=isa)
    assert ("gemv_half" in used) == half
    assert ("gemv_half" if half else "gemv") in used_alone
    assert one.tobytes() == many[:1].tobytes()
    exact = np.maximum(x[..., 0, 0].astype(np.float64) @ w[..., 0, 0].T + b, 0)
    limit = bound(x[..., 0, 0], w[..., 0, 0].T) + 2.0**-22 * np.abs(exact)
    assert (np.abs(many[..., 0, 0] - exact) <= limit).all()


@pytest.mark.parametrize("x", [(1, 70, 2, 2), (1, 70, 1, 2)])
def test_a_convolution_of_more_pixels_is_none(x):
    rng = np.random.default_rng(5)
    got, used = run(Conv(), array(rng, *x), array(rng, 45, 70, 1, 1))
    assert "gemv_half" not in used
    assert got.shape[2:] == x[2:]


@pytest.mark.parametrize("isa", ISAS)
def test_a_residual_is_added_to_matrix_times_vector(isa):
    rng = np.random.default_rng(6)
    x, w, r = array(rng, 2, 30, 1, 1), array(rng, 45, 30, 1, 1), array(rng, 2, 45, 1, 1)
    types = {"x": TensorType(x.dtype, x.shape), "r": TensorType(r.dtype, r.shape)}
    graph = Graph("g", [Node(Conv(), ["x", "w", "", "r"], ["y"], "c")], ["x", "r"], ["y"],
                  {"w": w}, types)  # fmt: skip
    got = Engine(graph, 1, isa=isa, half=True).run({"x": x, "r": r})["y"]
    exact = np.einsum("nchw,fchw->nf", x.astype(np.float64), w)[..., None, None] + r
    np.testing.assert_allclose(got, exact, rtol=1e-2, atol=1e-2)


def gemm_model(k=256, n=512):
    rng = np.random.default_rng(7)
    return build(
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"x": [1, k]}, ["y"],
        {"w": array(rng, n, k), "b": array(rng, n)},
    )  # fmt: skip


def test_the_option_halves_the_packed_weights_and_is_off_by_default():
    sizes = {}
    for weights in ("float32", "float16"):
        model = fastconv.load(gemm_model(), weights=weights)
        model(np.ones((1, 256), np.float32))
        sizes[weights] = model._engine.packs.nbytes
    assert sizes["float16"] < 0.6 * sizes["float32"]
    model = fastconv.load(gemm_model())
    assert [s.kernel for s in model.prepare().plan.steps] == ["gemv"]


@pytest.mark.parametrize("value", ["bfloat16", "FLOAT16", "", None, 16])
def test_another_value_is_refused(value):
    with pytest.raises(fastconv.OptionError, match=r"weights=.*float32, float16"):
        fastconv.load(gemm_model(), weights=value)


def test_the_command_line_has_the_option(tmp_path, capsys):
    path = tmp_path / "m.onnx"
    path.write_bytes(gemm_model())
    np.save(tmp_path / "x.npy", np.ones((1, 256), np.float32))
    outputs = {}
    for weights in ("float32", "float16"):
        out = tmp_path / f"{weights}.npz"
        args = ["run", path, "--input", f"x={tmp_path / 'x.npy'}", "--output", out]
        assert main([str(a) for a in [*args, "--weights", weights]]) == 0
        with np.load(out) as z:
            outputs[weights] = z["y"]
    assert outputs["float16"].tobytes() != outputs["float32"].tobytes()
    np.testing.assert_allclose(outputs["float16"], outputs["float32"], rtol=1e-2, atol=5e-2)
    assert main(["bench", str(path), "--weights", "float8"]) == 2
    assert "--weights" in capsys.readouterr().err
