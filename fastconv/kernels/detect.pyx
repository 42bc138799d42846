"""What detectors do with their candidates: the best of them, and suppression of overlapping boxes."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.lanes cimport load
from fastconv.kernels.simd cimport *


cdef struct SuppressParams:
    # Images × classes, classes, boxes per image, most kept per class.
    int64_t lists, classes, boxes, most
    double threshold


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


cdef struct TopKParams:
    int64_t outer, count, inner     # x is [outer][count][inner]
    int64_t k, largest
    int64_t room                    # candidates that scratch memory holds, at least k + BLOCK

cdef enum:
    BLOCK = 16

#: Candidates of a row: the key to sort by in the upper half, the index in the lower.
ctypedef uint64_t candidate


cdef inline uint32_t key_of(uint32_t bits, uint32_t flip) noexcept nogil:
    """A float's bits as an unsigned number of the same order, or with ``flip`` the opposite one.

    Both zeros are the same, and so is every NaN, which is above all numbers.
    """
    cdef uint32_t size = bits & 0x7FFFFFFFu
    cdef uint32_t key = ~bits if bits >> 31 else bits | 0x80000000u
    key = 0x80000000u if size == 0 else key
    key = 0xFFFFFFFFu if size > 0x7F800000u else key
    return key ^ flip


cdef inline void sort_candidates(candidate* a, candidate* b, int64_t n) noexcept nogil:
    """Sort ``a`` by its upper halves, equal ones as they come: by insertion, or radix with ``b``."""
    cdef int64_t counts[4][256]
    cdef int64_t i, j, sum, here
    cdef int digit, shift
    cdef candidate v
    cdef candidate* source = a
    cdef candidate* target = b
    cdef candidate* other
    if n <= 48:
        for i in range(1, n):
            v = a[i]
            j = i
            while j > 0 and a[j - 1] > v:
                a[j] = a[j - 1]
                j -= 1
            a[j] = v
        return
    memset(counts, 0, sizeof(counts))
    for i in range(n):
        v = a[i] >> 32
        for digit in range(4):
            counts[digit][(v >> 8 * digit) & 255] += 1
    for digit in range(4):
        shift = 32 + 8 * digit
        if counts[digit][(a[0] >> shift) & 255] == n:
            continue  # all the same here
        sum = 0
        for j in range(256):
            here = counts[digit][j]
            counts[digit][j] = sum
            sum += here
        for i in range(n):
            v = source[i]
            j = (v >> shift) & 255
            target[counts[digit][j]] = v
            counts[digit][j] += 1
        other = source
        source = target
        target = other
    if source != a:
        for i in range(n):
            a[i] = source[i]


cdef void top_k(const Call* c, int thread, int threads) noexcept nogil:
    """The k best along the middle axis, best first; of equal ones the lower index first.

    Candidates are gathered until there is no more room, then sorted, and all but the best k
    dropped; from then on only what is better than the worst of those is one. So few of many cost
    little more than reading them, and whatever their order no more than sorting all.

    Buffers: x; scratch [threads][2][room] of 8 bytes; values or NULL, and indices (int64) or NULL,
    both [outer][k][inner].
    """
    cdef const TopKParams* p = <const TopKParams*>c.params
    cdef const uint32_t* x
    cdef candidate* found = (<candidate*>c.buf[1]) + 2 * thread * p.room
    cdef candidate* spare = found + p.room
    cdef uint32_t* values
    cdef int64_t* indices
    cdef int64_t u, i, j, at, n, step = p.inner, lists = p.outer * p.inner
    cdef uint32_t key, worst, flip = 0xFFFFFFFFu if p.largest else 0
    cdef uint32_t better
    cdef bint full
    if p.k == 0:
        return
    for u in range(share(lists, thread, threads), share(lists, thread + 1, threads)):
        x = (<const uint32_t*>c.buf[0]) + u // p.inner * p.count * p.inner + u % p.inner
        n = 0
        full = False
        worst = 0
        i = 0
        while i < p.count:
            j = min(i + BLOCK, p.count)
            if full and step == 1 and j == i + BLOCK:
                better = 0
                for at in range(BLOCK):
                    better |= key_of(x[i + at], flip) < worst
                if not better:
                    i = j
                    continue
            for at in range(i, j):
                key = key_of(x[at * step], flip)
                if not full or key < worst:
                    found[n] = (<uint64_t>key << 32) | <uint64_t>at
                    n += 1
            i = j
            if n + BLOCK > p.room and i < p.count:
                sort_candidates(found, spare, n)
                n = p.k
                worst = <uint32_t>(found[n - 1] >> 32)
                full = True
        sort_candidates(found, spare, n)
        at = u // p.inner * p.k * p.inner + u % p.inner
        values = (<uint32_t*>c.buf[2]) + at if c.buf[2] != NULL else NULL
        indices = (<int64_t*>c.buf[3]) + at if c.buf[3] != NULL else NULL
        for i in range(p.k):
            j = <int64_t>(found[i] & 0xFFFFFFFFu)
            if values != NULL:
                values[i * step] = x[j * step]
            if indices != NULL:
                indices[i * step] = j


def pack_top_k(**values):
    """The bytes of ``TopKParams``."""
    cdef TopKParams p = values
    return (<char*>&p)[:sizeof(TopKParams)]


KERNELS = {
    "suppress": (<uintptr_t>&suppress, pack_suppress),
    "top_k": (<uintptr_t>&top_k, pack_top_k),
}
