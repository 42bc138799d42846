"""What detectors do with their candidates: greedy suppression of overlapping boxes."""

from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.lanes cimport load
from fastconv.kernels.simd cimport *


cdef struct SuppressParams:
    # Images × classes, classes, boxes per image, most kept per class.
    int64_t lists, classes, boxes, most
    float threshold


cdef inline bint overlaps(
    const float* kept, int64_t stride, int64_t count, float y1, float x1, float y2, float x2,
    float area, float threshold,
) noexcept nogil:
    """Whether one of ``count`` kept boxes shares more than ``threshold`` of its union with one.

    ``kept`` has y1, x1, y2, x2 and areas, ``stride`` apart.
    """
    cdef vf a1 = v_set(y1), b1 = v_set(x1), a2 = v_set(y2), b2 = v_set(x2)
    cdef vf own = v_set(area), limit = v_set(threshold), zero = v_zero()
    cdef vf one = v_set(1.0)
    cdef vf high, wide, shared, whole, other, hit
    cdef int64_t k = 0
    cdef int n
    while k < count:
        n = <int>min(count - k, VW)
        high = v_sub(v_min(a2, load(kept + 2 * stride + k, n)), v_max(a1, load(kept + k, n)))
        wide = v_sub(v_min(b2, load(kept + 3 * stride + k, n)),
                     v_max(b1, load(kept + stride + k, n)))
        # Lanes beyond ``n`` have no area.
        other = load(kept + 4 * stride + k, n)
        shared = v_select(v_gt(high, zero), v_select(v_gt(wide, zero), v_mul(high, wide), zero),
                          zero)
        whole = v_sub(v_add(own, other), shared)
        hit = v_select(v_gt(v_div(shared, whole), limit), one, zero)
        hit = v_select(v_gt(shared, zero), hit, zero)
        hit = v_select(v_gt(other, zero), hit, zero)
        hit = v_select(v_gt(whole, zero), hit, zero)
        if v_hsum(hit) > 0:
            return True
        k += VW
    return False


cdef void suppress(const Call* c, int thread, int threads) noexcept nogil:
    """Keeps the best box of each list, drops what overlaps it, and so on.

    Buffers: corners [images][5][boxes] (y1, x1, y2, x2, area); candidates, best first, of all lists
    one behind the other; where each list begins [lists + 1]; scratch [lists][5][most]; then the
    boxes kept [lists][most] and how many [lists].
    """
    cdef const SuppressParams* p = <const SuppressParams*>c.params
    cdef const float* corners
    cdef const int64_t* order = <const int64_t*>c.buf[1]
    cdef const int64_t* begin = <const int64_t*>c.buf[2]
    cdef float* kept
    cdef int64_t* found
    cdef int64_t u, i, b, count, n = p.boxes
    cdef int g
    for u in range(share(p.lists, thread, threads), share(p.lists, thread + 1, threads)):
        corners = (<const float*>c.buf[0]) + u // p.classes * 5 * n
        kept = (<float*>c.buf[3]) + u * 5 * p.most
        found = (<int64_t*>c.buf[4]) + u * p.most
        count = 0
        i = begin[u]
        while i < begin[u + 1] and count < p.most:
            b = order[i]
            if corners[4 * n + b] <= 0 or not overlaps(
                kept, p.most, count, corners[b], corners[n + b], corners[2 * n + b],
                corners[3 * n + b], corners[4 * n + b], p.threshold,
            ):
                for g in range(5):
                    kept[g * p.most + count] = corners[g * n + b]
                found[count] = b
                count += 1
            i += 1
        (<int64_t*>c.buf[5])[u] = count


def pack_suppress(**values):
    """The bytes of ``SuppressParams``."""
    cdef SuppressParams p = values
    return (<char*>&p)[:sizeof(SuppressParams)]


KERNELS = {"suppress": (<uintptr_t>&suppress, pack_suppress)}
