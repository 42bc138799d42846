"""The kernel of NonMaxSuppression keeps what its NumPy twin keeps."""

import numpy as np
import pytest
from harness import ISAS
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.graph.ops.vision import NonMaxSuppression
from fastconv.plan import late


def boxes_of(rng, images, count, centre):
    """Boxes on a coarse grid, so that many touch, coincide or have no area."""
    corners = rng.integers(-3, 8, (images, count, 4)).astype(np.float32) / 2
    if centre:
        corners[..., 2:] = np.abs(corners[..., 2:])
    return corners


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    images=st.integers(1, 2),
    classes=st.integers(1, 3),
    count=st.integers(0, 60),
    most=st.sampled_from([0, 1, 3, 20, 1 << 40]),
    overlap=st.sampled_from([None, 0.0, 0.3, 0.5, 1.0, -1.0]),
    least=st.sampled_from([None, 0.0, 0.4, 2.0]),
    centre=st.integers(0, 1),
)
def test_the_same_boxes_are_kept(seed, images, classes, count, most, overlap, least, centre):
    rng = np.random.default_rng(seed)
    # Few different scores: equal ones keep their order.
    scores = rng.integers(-2, 6, (images, classes, count)).astype(np.float32) / 5
    xs = [boxes_of(rng, images, count, centre), scores, np.array([most])]
    xs.append(None if overlap is None else np.float32([overlap]))
    xs.append(None if least is None else np.float32([least]))
    op = NonMaxSuppression(center_point_box=centre)
    want = op.compute(xs)[0]
    for isa in ISAS:
        got = late.suppressed(op, xs, isa)
        assert got is None or got[0].dtype == np.int64
        np.testing.assert_array_equal(want if got is None else got[0], want)


def test_many_boxes_are_compared_in_whole_vectors_and_parts_of_them():
    rng = np.random.default_rng(0)
    low = rng.random((1, 700, 2)).astype(np.float32) * 40
    boxes = np.concatenate([low, low + 1 + rng.random((1, 700, 2)).astype(np.float32)], axis=2)
    scores = rng.random((1, 2, 700)).astype(np.float32)
    xs = [boxes, scores, np.array([300]), np.float32([0.2]), np.float32([0.1])]
    op = NonMaxSuppression()
    want = op.compute(xs)[0]
    assert 100 < len(want) < 1400
    for isa in ISAS:
        np.testing.assert_array_equal(late.suppressed(op, xs, isa)[0], want)


@pytest.mark.parametrize("where", [0, 1])
def test_what_is_not_a_number_is_neither_kept_before_nor_suppresses(where):
    rng = np.random.default_rng(1)
    xs = [boxes_of(rng, 1, 30, 0), rng.random((1, 1, 30)).astype(np.float32), np.array([30])]
    xs += [np.float32([0.3]), np.float32([0.2])]
    xs[where].reshape(-1)[7] = np.nan
    op = NonMaxSuppression()
    np.testing.assert_array_equal(late.compute(op, xs)[0], np.asarray(op.compute(xs)[0]))


def test_other_types_run_in_numpy():
    xs = [np.zeros((1, 2, 4)), np.ones((1, 1, 2)), np.array([2])]
    assert late.suppressed(NonMaxSuppression(), xs, ISAS[0]) is None
    assert late.compute(NonMaxSuppression(), xs)[0].shape == (2, 3)
