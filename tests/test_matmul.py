"""Gemm, MatMul and Einsum against their NumPy twins and NumPy itself."""

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph.ops.matmul import Einsum, Gemm, MatMul

sizes = st.integers(1, 40)


def array(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    sizes,
    sizes,
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "scalar", "row", "one row", "column", "full"]),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([1.0, 2.0, 0.0]),
    st.booleans(),
    st.integers(0, 999),
)
def test_any_gemm_matches_its_twin(m, k, n, ta, tb, c, alpha, beta, constant, seed):
    rng = np.random.default_rng(seed)
    shapes = {"scalar": (), "row": (n,), "one row": (1, n), "column": (m, 1), "full": (m, n)}
    xs = [array(rng, (k, m) if ta else (m, k)), array(rng, (n, k) if tb else (k, n))]
    xs += [np.asarray(array(rng, shapes[c]))] if c else []
    op = Gemm(alpha=alpha, beta=beta, transA=int(ta), transB=int(tb))
    check_op(op, xs, consts=range(1, len(xs)) if constant else (), native=False)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 5, 16, 33, 130, 300])
def test_a_single_row_gives_the_same_bits_as_in_a_batch(isa, n):
    rng = np.random.default_rng(n)
    x, w, b = array(rng, (7, 50)), array(rng, (50, n)), array(rng, n)
    (many,) = run_op(Gemm(), [x, w, b], consts=[1, 2], isa=isa)
    for i in range(7):
        (one,) = run_op(Gemm(), [x[i : i + 1], w, b], consts=[1, 2], isa=isa)
        assert one.tobytes() == many[i : i + 1].tobytes()


MATMULS = [
    ((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 5)),
    ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (1, 6, 4, 5)), ((3, 4), (6, 4, 40)), ((6, 1, 4), (4, 9)),
    ((2, 3, 7, 8), (2, 3, 8, 50)), ((1, 3, 0), (0, 5)), ((0, 4), (4, 5)),
]  # fmt: skip


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("a", "b"), MATMULS)
def test_matmul_broadcasts_as_numpy_does(a, b, constant):
    rng = np.random.default_rng(0)
    xs = [array(rng, a), array(rng, b)]
    check_op(MatMul(), xs, consts=[1] if constant else [], native=False)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("ij,jk->ik", [(3, 4), (4, 5)]), ("bij,bjk", [(2, 3, 4), (2, 4, 5)]), ("ii->i", [(3, 3)]),
     ("bhwc,hkc->bhwk", [(1, 4, 4, 3), (4, 2, 3)]), ("...ij->...ji", [(2, 3, 4)])],
)  # fmt: skip
def test_einsum_matches_numpy(equation, shapes):
    rng = np.random.default_rng(0)
    xs = [array(rng, s) for s in shapes]
    (got,) = run_op(Einsum(equation=equation), xs, native=False)
    np.testing.assert_allclose(got, np.einsum(equation, *xs), rtol=1e-5, atol=1e-6)
