"""Large fully-connected layers of few rows, whose weights are stored in 24 bits each."""

import numpy as np
import onnx
import pytest
from cli_tools import build, node
from harness import ISAS, shared_steps
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import kernels
from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.activation import RELU, Activation
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.matmul import Gemm, MatMul
from fastconv.graph.ops.pool import MaxPool
from fastconv.graph.ops.shape import Flatten
from fastconv.plan import lowering
from fastconv.plan.lower import vector
from fastconv.runtime.engine import Engine

BLOCK = 128
TINY = float(np.finfo(np.float32).tiny)
#: Kernel builds whose plans store weights so: the narrowest vectors decode them no faster.
WIDE = [isa for isa in ISAS if kernels.constants(isa)["VW"] >= 8]


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch):
    monkeypatch.setattr(vector, "LEAST_FIXED", 1)


def array(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def pack(w, isa):
    """What ``pack_fixed`` makes of [n][k]."""
    module = kernels.packing(isa)
    out = np.empty(module.fixed_bytes(*w.shape), np.uint8)
    assert module.pack_fixed(w[:, None], out)
    return out


def unpack(packed, n, k, isa):
    """The twin of the kernel's decoding: whole numbers and units, both [n][k]."""
    vw = kernels.constants(isa)["VW"]
    fours = -(-k // 4)
    panels = packed.view(np.int32).reshape(-(-n // (2 * vw)), -1)
    numbers = np.zeros((len(panels), 4 * fours, 2 * vw), np.int64)
    units = np.zeros(numbers.shape)
    at = 0
    for g in range(fours):
        if g % (BLOCK // 4) == 0:
            units[:, 4 * g : 4 * g + BLOCK] = panels[:, None, at : at + 2 * vw].view(np.float32)
            at += 2 * vw
        words = panels[:, at : at + 6 * vw].reshape(-1, 2, 3, vw)
        last = words.view(np.uint32).astype(np.int64) & 255
        last = last[:, :, 0] << 16 | last[:, :, 1] << 8 | last[:, :, 2]
        for i in range(3):
            numbers[:, 4 * g + i] = (words[:, :, i] >> 8).reshape(-1, 2 * vw)
        numbers[:, 4 * g + 3] = (last - ((last >> 23) << 24)).reshape(-1, 2 * vw)
        at += 6 * vw
    assert at == panels.shape[1]
    numbers, units = (a.transpose(0, 2, 1).reshape(-1, 4 * fours) for a in (numbers, units))
    assert not numbers[n:].any()
    assert not numbers[:, k:].any()
    return numbers[:n, :k], units[:n, :k]


def largest(w):
    """The largest magnitude of each weight's block: [n][k]."""
    n, k = w.shape
    padded = np.zeros((n, -(-k // BLOCK) * BLOCK))
    padded[:, :k] = np.abs(w)
    return padded.reshape(n, -1, BLOCK).max(axis=2).repeat(BLOCK, axis=1)[:, :k]


def bound(x, w):
    """How far x·wᵀ may be from exact: the stored weights' errors and the sums' rounding."""
    x, w = np.abs(x.astype(np.float64)), w.astype(np.float64)
    stored = np.maximum(2.0**-24 * 1.01 * largest(w), TINY)
    depth = BLOCK + -(-w.shape[1] // BLOCK) + 4
    return x @ stored.T + depth * 2.0**-24 * (x @ np.abs(w).T) + depth * TINY


def run(op, x, *consts, strict=False, threads=1, isa=None):
    """The result and the kernels that made it."""
    names = [f"c{i}" for i in range(len(consts))]
    types = {"x": TensorType(x.dtype, x.shape)}
    nodes = [Node(op, ["x", *names], ["y"], "node")]
    graph = Graph("g", nodes, ["x"], ["y"], dict(zip(names, consts)), types)
    e = Engine(graph, threads, isa=isa, strict=strict)
    with shared_steps(threads):
        return e.run({"x": x})["y"], [s.kernel for s in e.prepare({"x": x}).plan.steps]


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70), k=st.integers(1, 400), seed=st.integers(0, 999),
    exponents=st.sampled_from([(0, 0), (-20, 20), (-149, -120), (100, 127)]),
    form=st.sampled_from(["rows", "columns", "unaligned", "few"]),
)  # fmt: skip
def test_weights_are_within_half_a_unit(isa, n, k, seed, exponents, form):
    rng = np.random.default_rng(seed)
    w = (
        rng.uniform(-1, 1, (n, k)) * 2.0 ** rng.integers(*exponents, (n, k), endpoint=True)
    ).astype(np.float32)
    if form == "few":
        w[rng.random((n, k)) < 0.9] = 0
    if form == "columns":
        w = np.asfortranarray(w)
    if form == "unaligned":
        raw = np.zeros(w.nbytes + 1, np.uint8)[1:]
        raw[:] = np.frombuffer(w.tobytes(), np.uint8)
        w = raw.view(np.float32).reshape(n, k)
    numbers, units = unpack(pack(w, isa), n, k, isa)
    half = 0.5 if isa in WIDE else 1.0  # without a fused multiply-add: a unit
    assert (np.abs(numbers * units - w) <= half * units * 1.0001).all()
    assert (units <= np.maximum(2.0**-23 * 1.0001 * largest(w), TINY)).all()
    assert np.abs(numbers).max() < 2**23
    assert not numbers[w == 0].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_packer_tells_of_weights_that_are_not_finite(isa, value):
    module = kernels.packing(isa)
    for n, k in ((0, 0), (69, 0), (3, 299)):
        w = np.ones((70, 1, 300), np.float32)
        w[n, 0, k] = value
        assert not module.pack_fixed(w, np.empty(module.fixed_bytes(70, 300), np.uint8))


@pytest.mark.parametrize("isa", ISAS)
def test_the_packer_refuses_buffers_that_do_not_fit(isa):
    module = kernels.packing(isa)
    for shape in ((8, 1, 9), (8, 2, 8), (40, 1, 8)):
        with pytest.raises(ValueError, match="bytes"):
            module.pack_fixed(
                np.zeros(shape, np.float32), np.zeros(module.fixed_bytes(8, 8), np.uint8)
            )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 8), n=st.integers(1, 300), k=st.integers(1, 300), seed=st.integers(0, 999),
    bias=st.booleans(),
)  # fmt: skip
def test_the_kernel_sums_what_its_twin_decodes(isa, m, n, k, seed, bias):
    rng = np.random.default_rng(seed)
    x, w = array(rng, m, k + 3), array(rng, n, k)
    r, y = array(rng, m, n), np.full((m, n + 5), 7, np.float32)
    padded = array(rng, n + 64) if bias else None
    numbers, units = unpack(packed := pack(w, isa), n, k, isa)
    params = dict(m=m, k=k, n=n, x_row=k + 3, r_row=n, y_row=n + 5, w_n=k, w_k=1, channels=0,
                  gain=1, act=0, lo=-3, hi=float("inf"), alpha=0, beta=0)  # fmt: skip
    kernels.run("gemv_fixed", params, [x, packed, padded, r, w, y], isa=isa)
    wide = x[:, :k].astype(np.float64)
    exact = wide @ (numbers * units).T + r + (padded[:n] if bias else 0)
    limit = 2.0**-24 * 200 * (np.abs(wide) @ np.abs(numbers * units).T + np.abs(r) + 4)
    assert (np.abs(y[:, :n] - np.maximum(exact, -3)) <= limit).all()
    assert (y[:, n:] == 7).all()


@pytest.mark.parametrize("isa", WIDE or ["base"])
@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 9), k=st.integers(1, 300), n=st.integers(1, 150), transposed=st.booleans(),
    bias=st.booleans(), alpha=st.sampled_from([1.0, 0.5]), seed=st.integers(0, 999),
    exponents=st.sampled_from([(0, 0), (-30, 30), (-120, -100)]),
)  # fmt: skip
def test_any_gemm_is_within_the_stated_error(
    isa, m, k, n, transposed, bias, alpha, seed, exponents
):
    rng = np.random.default_rng(seed)
    x, w = array(rng, m, k), array(rng, n, k)
    w *= np.float32(2.0) ** rng.integers(*exponents, n, endpoint=True)[:, None]
    b = [array(rng, n) * np.abs(w).max(axis=1)] if bias else []
    op = Gemm(transB=int(transposed), alpha=alpha)
    got, used = run(op, x, w if transposed else w.T.copy(), *b, isa=isa)
    assert ("gemv_fixed" in used) == (m <= 8 and isa in WIDE)
    exact = alpha * x.astype(np.float64) @ w.T.astype(np.float64) + (b[0] if bias else 0)
    # More rows are summed in order by the ``conv`` kernel.
    limit = bound(x, alpha * w) * (1 if m <= 8 else 3) + 2.0**-22 * np.abs(exact)
    assert (np.abs(got - exact) <= limit).all()


def test_weights_beside_outliers_lose_no_more_than_2_to_minus_24_of_them():
    rng = np.random.default_rng(8)
    x, w = array(rng, 1, 1000), array(rng, 300, 1000)
    w[rng.random(w.shape) < 0.002] *= 1e4
    w[7, 500], w[9, 3] = 1e8, -1e12
    got, _ = run(Gemm(transB=1), x, w)
    assert (np.abs(got - x.astype(np.float64) @ w.T) <= bound(x, w)).all()


@pytest.mark.parametrize("shape", [(1, 50), (50,), (2, 3, 50)])
def test_matmul_with_constant_weights(shape):
    rng = np.random.default_rng(0)
    x, w = array(rng, *shape), array(rng, 50, 77)
    for isa in WIDE:
        got, used = run(MatMul(), x, w, isa=isa)
        assert used == ["gemv_fixed"]
        assert got.shape == (*shape[:-1], 77)
        assert (np.abs(got - x.astype(np.float64) @ w) <= bound(x, w.T)).all()


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_a_1x1_convolution_of_one_pixel_is_one(strides):
    rng = np.random.default_rng(4)
    x, w, b = array(rng, 3, 3, 1, 1), array(rng, 45, 3, 1, 1), array(rng, 45)
    op = Conv(activation=RELU, strides=strides)
    for isa in WIDE:
        got, used = run(op, x, w, b, isa=isa)
        assert "gemv_fixed" in used
        exact = np.maximum(x[..., 0, 0].astype(np.float64) @ w[..., 0, 0].T + b, 0)
        np.testing.assert_allclose(got[..., 0, 0], exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [128, 131, 300])
def test_rows_and_threads_do_not_change_bits(k):
    rng = np.random.default_rng(1)
    x, w, b = array(rng, 8, k), array(rng, k, 500), array(rng, 500)
    op = Gemm(activation=Activation("silu", 1.0))
    for isa in WIDE:
        whole, used = run(op, x, w, b, isa=isa)
        assert used == ["gemv_fixed"]
        for m in range(1, 9):
            for t in (1, 2, 3):
                part, _ = run(op, x[:m], w, b, threads=t, isa=isa)
                assert part.tobytes() == whole[:m].tobytes(), (isa, m, t)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "values", [(np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf), (np.inf, np.nan)]
)
def test_nan_and_infinity_reach_the_results_as_in_float32(values, threads):
    rng = np.random.default_rng(2)
    x, w, b = array(rng, 2, 299), array(rng, 200, 299), array(rng, 200)
    w[:, 298] *= rng.random(200) < 0.5  # zero times infinity is none
    for at in (0, 150, 298):
        x = array(rng, 2, 299)
        x[1, [(at + 7 * i) % 299 for i in range(len(values))]] = values
        for isa in WIDE:
            got, used = run(Gemm(transB=1), x, w, b, isa=isa, threads=threads)
            assert used == ["gemv_fixed"]
            with np.errstate(all="ignore"):
                exact = x @ w.T + b
            np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
            np.testing.assert_array_equal(got[np.isinf(exact)], exact[np.isinf(exact)])
            np.testing.assert_allclose(got[0], exact[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_a_row_that_is_not_finite_changes_no_bits_of_others(value):
    rng = np.random.default_rng(6)
    x, w = array(rng, 3, 299), array(rng, 300, 299)
    for isa in WIDE:
        want, _ = run(Gemm(transB=1), x, w, isa=isa)
        bad = x.copy()
        bad[1, 7] = value
        for threads in (1, 3):
            got, used = run(Gemm(transB=1), bad, w, isa=isa, threads=threads)
            assert used == ["gemv_fixed"]
            assert got[::2].tobytes() == want[::2].tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_outputs_that_overflow_change_no_bits_of_others(threads):
    rng = np.random.default_rng(7)
    x, w = array(rng, 1, 299), array(rng, 1000, 299)
    w[::130] *= np.float32(5e37)
    for isa in WIDE:
        want, _ = run(Gemm(transB=1), x, w, isa=isa)
        got, _ = run(Gemm(transB=1), x, w, isa=isa, threads=threads)
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_infinity_times_a_weight_too_small_for_24_bits_is_infinite(value, transposed, flat):
    """Also where the input lies channels-last, so that the packed weights are in another order."""
    rng = np.random.default_rng(4)
    x, w = array(rng, 1, 7, 5, 6), array(rng, 150, 210)
    x.ravel()[100] = value
    w[::3, 100] = 1e-12
    w[1::3, 100] = 0
    with np.errstate(all="ignore"):
        exact = np.float32(-0.5) * x.reshape(1, 210) @ w.T
    gemm = Node(
        Gemm(transB=int(transposed), alpha=-0.5), ["f" if flat else "v", "w"], ["y"], "gemm"
    )
    nodes = [gemm]
    if flat:
        same = MaxPool(kernel_shape=(1, 1))
        nodes = [Node(same, ["v"], ["p"], "pool"), Node(Flatten(), ["p"], ["f"], "flat"), gemm]
    feed = x if flat else x.reshape(1, 210)
    graph = Graph(
        "g", nodes, ["v"], ["y"], {"w": w if transposed else w.T.copy()},
        {"v": TensorType(feed.dtype, feed.shape)},
    )  # fmt: skip
    for isa in WIDE:
        engine = Engine(graph, 1, isa=isa)
        got = engine.run({"v": feed})["y"]
        assert "gemv_fixed" in [s.kernel for s in engine.prepare({"v": feed}).plan.steps]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
        np.testing.assert_array_equal(got[np.isinf(exact)], exact[np.isinf(exact)])


def test_large_inputs_overflow_no_sooner_than_in_float32():
    rng = np.random.default_rng(3)
    x, w = array(rng, 1, 300) * np.float32(1e36), array(rng, 100, 300) * np.float32(0.01)
    for isa in WIDE:
        got, used = run(Gemm(transB=1), x, w, isa=isa)
        assert used == ["gemv_fixed"]
        assert (np.abs(got - x.astype(np.float64) @ w.T) <= 3 * bound(x, w)).all()
        over, _ = run(Gemm(transB=1), 30 * np.abs(x), 1000 * np.abs(w), isa=isa)
        assert (over == np.inf).all()


def test_zeros_count_exactly_and_subnormal_weights_as_subnormals():
    rng = np.random.default_rng(5)
    x, w = array(rng, 1, 200), array(rng, 64, 200)
    w[5] = 0
    w[6] = 1e-40
    w[7, :128] = 0
    w[8] *= np.float32(1e-33)
    for isa in WIDE:
        got, _ = run(Gemm(transB=1), x, w, isa=isa)
        assert got[0, 5] == 0
        assert (np.abs(got - x.astype(np.float64) @ w.T) <= bound(x, w)).all()


@pytest.mark.parametrize("transposed", [0, 1])
def test_strict_and_weights_that_are_not_finite_stay_in_float32(transposed):
    rng = np.random.default_rng(6)
    x, w = array(rng, 1, 40), array(rng, 40, 40)
    assert run(Gemm(transB=transposed), x, w, strict=True)[1] == ["gemv"]
    w[3, 5], w[7, 9] = np.inf, np.nan
    got, used = run(Gemm(transB=transposed), x, w)
    assert used == ["gemv"]
    with np.errstate(all="ignore"):
        exact = x @ (w.T if transposed else w)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(exact))


def gemm_model(k=512, n=1000, before=(), shape=None):
    rng = np.random.default_rng(7)
    return build(
        [*before, node("Gemm", ["h" if before else "x", "w", "b"], ["y"], transB=1)],
        {"x": shape or ["N", k]}, ["y"], {"w": array(rng, n, k), "b": array(rng, n)},
    )  # fmt: skip


def packed_bytes(accuracy, batches):
    model = fastconv.load(gemm_model(), accuracy=accuracy)
    for m in batches:
        model(np.ones((m, 512), np.float32))
    return model._engine.packs.nbytes


def test_weights_take_three_bytes_and_are_packed_once_for_one_row_and_eight():
    if not WIDE or kernels.chosen_isa() not in WIDE:
        assert packed_bytes("fast", [1]) == packed_bytes("strict", [1])
        return
    less, full = packed_bytes("fast", [1]), packed_bytes("strict", [1])
    assert 0.74 * full < less < 0.77 * full
    assert packed_bytes("fast", [1, 8, 3]) == less


def test_small_layers_stay_in_float32(monkeypatch):
    monkeypatch.undo()
    model = fastconv.load(gemm_model(256, 512))
    x = {"x": np.ones((1, 256), np.float32)}
    assert [s.kernel for s in model._engine.prepare(x).plan.steps] == ["gemv"]


LARGE = "gemv_fixed" if kernels.chosen_isa() in WIDE else "gemv"


def squeeze_model(extra, form="matmul"):
    """256 → 512 → 128 → 8, then a product of ``extra`` weights."""
    rng = np.random.default_rng(3)
    consts = {f"w{i}": array(rng, *s) for i, s in enumerate([(256, 512), (512, 128), (128, 8)])}
    nodes = [node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(3)]
    if form == "conv":
        consts = {n: np.ascontiguousarray(w.T[:, :, None, None]) for n, w in consts.items()}
        nodes = [node("Conv", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(3)]
    consts["e"] = array(rng, 8, extra // 8)
    last = "v3"
    if form == "conv":
        nodes.append(node("Flatten", ["v3"], ["flat"]))
        last = "flat"
    nodes.append(node("MatMul", [last, "e"], ["y"]))
    return build(
        nodes, {"v0": ["N", 256] + ([1, 1] if form == "conv" else [])}, ["v3", "y"], consts
    )


@pytest.mark.parametrize("form", ["matmul", "conv"])
def test_smaller_layers_are_stored_so_in_a_model_whose_weights_stream_from_memory(
    form, monkeypatch
):
    monkeypatch.undo()
    rng = np.random.default_rng(4)
    x = array(rng, 9, 256, *([1, 1] if form == "conv" else []))
    few, many = squeeze_model(1 << 10, form), squeeze_model(lowering.NEAR_BYTES // 4, form)
    for model, first in ((few, "gemv"), (many, LARGE)):
        loaded = fastconv.load(model, threads=1)
        for _ in range(2):  # the second plan follows recipes
            for size in (1, 2):
                plan = loaded._engine.prepare({"v0": x[:size]}).plan
                used = [s.kernel for s in plan.steps if s.kernel.startswith(("gemv", "conv"))]
                if size == 1 or first == "gemv_fixed":
                    # The third is too small in any model.
                    assert used[:2] == [first, first], used
                    assert used[2] != "gemv_fixed"
        strict = fastconv.load(model, accuracy="strict", threads=1)
        plan = strict._engine.prepare({"v0": x[:1]}).plan
        assert "gemv_fixed" not in [s.kernel for s in plan.steps]
        got, exact = loaded.run({"v0": x[:1]})["v3"], strict.run({"v0": x[:1]})["v3"]
        np.testing.assert_allclose(got, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def test_rows_have_the_same_bits_alone_and_among_as_many_as_are_read_so(monkeypatch):
    monkeypatch.undo()
    x = array(np.random.default_rng(5), 8, 256)
    model = fastconv.load(squeeze_model(lowering.NEAR_BYTES // 4))
    together = model.run({"v0": x})["v3"]
    for i in range(len(x)):
        assert model.run({"v0": x[i : i + 1]})["v3"].tobytes() == together[i : i + 1].tobytes()


def test_how_weights_are_stored_does_not_depend_on_what_ran_before(monkeypatch):
    """A branch that a shape chooses brings its constants along when it is planned."""
    monkeypatch.undo()
    rng = np.random.default_rng(6)

    def branch(width):
        w = onnx.numpy_helper.from_array(array(rng, 512, width), f"w{width}")
        out = onnx.helper.make_tensor_value_info(f"y{width}", onnx.TensorProto.FLOAT, None)
        nodes = [node("MatMul", ["h", f"w{width}"], [f"y{width}"])]
        return onnx.helper.make_graph(nodes, f"g{width}", [], [out], [w])

    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Shape", ["x"], ["s"], start=0, end=1),
        node("Greater", ["s", "one"], ["many"]), node("Squeeze", ["many"], ["cond"]),
        node("If", ["cond"], ["y"], then_branch=branch(1200), else_branch=branch(4)),
    ]  # fmt: skip
    consts = {"w": array(rng, 256, 512), "one": np.array([1], np.int64)}
    model = build(nodes, {"x": ["N", 256]}, ["y"], consts)
    x = array(rng, 2, 256)
    fresh = fastconv.load(model).run({"x": x[:1]})["y"]
    used = fastconv.load(model)
    used.run({"x": x})
    assert used.run({"x": x[:1]})["y"].tobytes() == fresh.tobytes()


def test_a_flattened_image_meets_permuted_weights():
    pooled = [
        node("Relu", ["x"], ["a"]), node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2]),
        node("Flatten", ["p"], ["h"]),
    ]  # fmt: skip
    model = gemm_model(16 * 25, 300, pooled, [1, 16, 6, 6])
    x = array(np.random.default_rng(9), 1, 16, 6, 6)
    fast, strict = (fastconv.load(model, accuracy=a)(x) for a in ("fast", "strict"))
    np.testing.assert_allclose(fast, strict, rtol=1e-5, atol=1e-4)
