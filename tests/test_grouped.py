"""Groups of a few channels against the NumPy twin, and which kernel they get."""

import numpy as np
import pytest
from harness import ISAS, check_op
from hypothesis import given, settings
from hypothesis import strategies as st
from test_depthwise import arrays, kernel_of

from fastconv import kernels
from fastconv.graph.activation import Activation
from fastconv.graph.ops.conv import Conv


@st.composite
def grouped(draw):
    rank = draw(st.integers(1, 2))
    each = draw(st.sampled_from([2, 4, 8, 16]))
    group = draw(st.integers(2, 9))
    kernel = [draw(st.sampled_from([1, 2, 3, 3, 3, 5])) for _ in range(rank)]
    dilations = [draw(st.sampled_from([1, 1, 2])) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * rank)]
    least = [
        max(1, (k - 1) * d + 1 - p - q)
        for k, d, p, q in zip(kernel, dilations, pads[:rank], pads[rank:], strict=True)
    ]
    size = [draw(st.integers(n, n + 18)) for n in least]
    act = draw(st.sampled_from([None, Activation("clip", 0.0, 6.0), Activation("gelu")]))
    op = Conv(
        dilations=tuple(dilations), group=group, strides=tuple(strides), pads=tuple(pads),
        activation=act,
    )  # fmt: skip
    x, w = (draw(st.integers(1, 2)), each * group, *size), (each * group, each, *kernel)
    return op, x, w, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(grouped())
def test_any_convolution_of_small_groups_matches_its_twin(case):
    op, x, w, bias, residual, seed = case
    rng = np.random.default_rng(seed)
    xs = arrays(rng, x, w)
    xs.append(arrays(rng, w[:1])[0] if bias else None)
    if residual:
        xs.append(arrays(rng, op.compute(xs)[0].shape)[0])
    check_op(op, xs, atol=1e-4)


@pytest.mark.parametrize("each", [2, 4, 8, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", range(4, 20))
def test_every_width_of_an_image_with_borders(each, stride, width):
    x, w = arrays(np.random.default_rng(width), (1, 48, 5, width), (48, each, 3, 3))
    check_op(Conv(group=48 // each, strides=(stride, stride), pads=(1, 1, 1, 1)), [x, w], atol=1e-4)


@pytest.mark.parametrize(
    ("each", "filters"), [(3, 3), (4, 8), (8, 4), (32, 32), (24, 24)], ids=lambda n: str(n)
)
def test_other_groups_get_another_kernel(each, filters):
    x, w = arrays(np.random.default_rng(0), (1, 4 * each, 6, 6), (4 * filters, each, 3, 3))
    assert "grouped" not in kernel_of(Conv(group=4, pads=(1, 1, 1, 1)), [x, w])


@pytest.mark.parametrize("isa", ISAS)
def test_groups_of_a_whole_vector_get_theirs(isa):
    vw = kernels.constants(isa)["VW"]
    x, w = arrays(np.random.default_rng(0), (1, 32, 6, 6), (32, vw, 3, 3))
    assert kernel_of(Conv(group=32 // vw, pads=(1, 1, 1, 1)), [x, w], isa)[1:-1] == ["grouped"]


def test_nan_and_infinity_stay_within_their_group():
    x, w = arrays(np.random.default_rng(0), (1, 32, 5, 9), (32, 4, 3, 3))
    x[0, 5, 2, 3], x[0, 17, 0, 0] = np.nan, np.inf
    check_op(Conv(group=8, pads=(1, 1, 1, 1)), [x, w], atol=1e-4)
