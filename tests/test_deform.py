"""The kernel of DeformConv against its NumPy twin, and the forms that it leaves to the twin."""

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.vision import DeformConv
from fastconv.graph.window import resolve_window
from fastconv.plan.lower import vision


def inputs(n, c, size, filters, kernel, group, offset_group, attrs, spread=2.0, seed=0):
    """X, W, offset, B and mask."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    win = resolve_window(
        size, kernel, attrs.get("strides"), attrs.get("dilations"), attrs.get("pads")
    )
    taps = offset_group * kernel[0] * kernel[1]
    return [
        normal(n, c, *size), normal(filters, c // group, *kernel),
        normal(n, 2 * taps, *win.output) * np.float32(spread), normal(filters),
        rng.random((n, taps, *win.output)).astype(np.float32),
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 2),
    groups=st.sampled_from([(1, 1), (2, 1), (1, 3), (3, 2), (2, 3)]),
    per=st.integers(1, 5),
    filters=st.integers(1, 9),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 1), (1, 3)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    given_=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_every_form_gives_what_the_twin_gives(
    n, groups, per, filters, size, kernel, stride, dilation, given_, seed
):
    group, offset_group = groups
    attrs = dict(strides=(stride, 1), dilations=(1, dilation), pads=(1, 2, 1, 2))
    xs = inputs(
        n, 6 * per, size, group * filters, kernel, group, offset_group, attrs, seed=seed
    )  # fmt: skip
    bias, mask = given_
    xs = [*xs[:3], xs[3] if bias else None, xs[4] if mask else None]
    op = DeformConv(group=group, offset_group=offset_group, **attrs)
    # A tap at a pixel's very border may round to either side of it: the result is continuous there.
    check_op(op, xs, consts=(1, 3) if bias else (1,), rtol=1e-4, atol=1e-4, threads=(1, 3))


@pytest.mark.parametrize("isa", ISAS)
def test_bands_of_rows_give_what_one_gives(isa, monkeypatch):
    attrs = dict(pads=(1, 1, 1, 1))
    xs = inputs(2, 16, (11, 13), 12, (3, 3), 1, 2, attrs)
    op = DeformConv(offset_group=2, **attrs)
    (whole,) = run_op(op, xs, consts=(1, 3), isa=isa)
    monkeypatch.setattr(vision, "BAND_BYTES", 1)
    for threads in (1, 2):
        (bands,) = run_op(op, xs, consts=(1, 3), isa=isa, threads=threads)
        np.testing.assert_allclose(bands, whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole, op.compute(xs)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_last", [(), (0,), (0, 2, 4)])
def test_inputs_may_lie_in_any_layout(channels_last):
    attrs = dict(pads=(1, 1, 1, 1))
    xs = inputs(1, 5, (6, 7), 4, (3, 3), 1, 1, attrs)
    op = DeformConv(**attrs)
    (got,) = run_op(op, xs, consts=(1, 3), channels_last=channels_last)
    np.testing.assert_allclose(got, op.compute(xs)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [1e9, -1e30, np.nan, np.inf, -np.inf])
def test_taps_far_outside_or_nowhere_read_zeros(isa, value):
    xs = inputs(1, 3, (5, 5), 2, (3, 3), 1, 1, {})
    xs[2][:] = value
    assert not run_op(DeformConv(), xs[:3], consts=(1,), isa=isa)[0].any()


@pytest.mark.parametrize("isa", ISAS)
def test_infinities_stay_where_they_are_read(isa):
    attrs = dict(pads=(1, 1, 1, 1))
    xs = inputs(1, 4, (8, 8), 3, (3, 3), 1, 1, attrs, spread=0.7)
    xs[0][0, 1, 3, 4] = np.inf
    xs[0][0, 2, 6, 1] = np.nan
    op = DeformConv(**attrs)
    (got,) = run_op(op, xs, consts=(1, 3), isa=isa)
    with np.errstate(invalid="ignore"):
        (want,) = op.compute(xs)
    assert np.isfinite(want).any()
    assert not np.isfinite(want).all()
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))


def test_without_offsets_it_is_a_convolution():
    attrs = dict(pads=(1, 0, 1, 1), strides=(2, 1), dilations=(1, 2))
    xs = inputs(2, 4, (7, 9), 6, (3, 2), 2, 2, attrs, spread=0)
    (want,) = Conv(group=2, **attrs).compute([xs[0], xs[1], xs[3]])
    (got,) = run_op(DeformConv(group=2, offset_group=2, **attrs), xs[:4], consts=(1, 3))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["weights that are computed", "float64"])
def test_other_forms_are_the_twins(form):
    xs = inputs(1, 4, (6, 6), 3, (3, 3), 1, 1, {})
    if form == "float64":
        xs = [x.astype(np.float64) for x in xs]
    consts = (3,) if form == "weights that are computed" else (1, 3)
    got = run_op(DeformConv(), xs, consts=consts, native=False)[0]
    np.testing.assert_allclose(got, DeformConv().compute(xs)[0], rtol=1e-6, atol=1e-6)
