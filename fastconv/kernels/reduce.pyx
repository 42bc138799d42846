"""Reductions of [outer][count][inner] over count, and the index of the largest or smallest element.

Every output element is computed in one fixed order: sums go through partial sums of ``BLOCK`` terms.
"""

from libc.math cimport INFINITY, NAN, isinf
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memset

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.lanes cimport first_lanes, load
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport v_abs, v_exp, v_log

cdef enum:
    # How elements are combined.
    ADD = 0
    ADD_ABS = 1
    ADD_SQUARE = 2
    ADD_EXP = 3
    MULTIPLY = 4
    MAXIMUM = 5
    MINIMUM = 6
    # What is done with the result.
    AS_IS = 0
    DIVIDE = 1
    ROOT = 2
    LOG = 3
    LOG_SHIFT = 4
    BLOCK = 64
    # Rows of at most so many elements are reduced VW at a time, one per lane.
    SHORT = 12
    ARG_SHORT = 64


cdef struct ReduceParams:
    int64_t outer, count, inner
    # Strides of x in floats; inner elements are adjacent. y is dense, [outer][inner].
    int64_t x_outer, x_count
    int32_t combine, last


cdef inline vf start_value(const int how) noexcept nogil:
    """The neutral element."""
    if how == MULTIPLY:
        return v_set(1.0)
    if how == MAXIMUM:
        return v_set(-INFINITY)
    if how == MINIMUM:
        return v_set(INFINITY)
    return v_zero()


cdef inline vf term(const int how, vf a, vf shift) noexcept nogil:
    if how == ADD_ABS:
        return v_abs(a)
    if how == ADD_SQUARE:
        return v_mul(a, a)
    if how == ADD_EXP:
        return v_exp(v_sub(a, shift))
    return a


cdef inline vf join(const int how, vf acc, vf a) noexcept nogil:
    """acc combined with a; a NaN in either stays."""
    if how == MULTIPLY:
        return v_mul(acc, a)
    if how == MAXIMUM:
        return v_select(v_ne(a, a), a, v_max(a, acc))
    if how == MINIMUM:
        return v_select(v_ne(a, a), a, v_min(a, acc))
    return v_add(acc, a)


cdef inline void add_block(const int how, vf* total, vf* lost, vf part) noexcept nogil:
    """Join a block's result to the total; sums carry along what rounding lost (Kahan, 1965)."""
    cdef vf t, c
    if how > ADD_EXP:
        total[0] = join(how, total[0], part)
        return
    part = v_sub(part, lost[0])
    t = v_add(total[0], part)
    c = v_sub(v_sub(t, total[0]), part)
    # Infinities leave no remainder.
    lost[0] = v_select(v_eq(c, c), c, v_zero())
    total[0] = t


cdef inline vf finite_or_zero(vf m) noexcept nogil:
    """The maximum to subtract before exponentials: none where it is infinite."""
    return v_select(v_lt(v_abs(m), v_set(INFINITY)), m, v_zero())


cdef inline vf finish(int last, vf a, vf shift, int64_t count) noexcept nogil:
    if last == DIVIDE:
        return v_div(a, v_set(<float>count))
    if last == ROOT:
        return v_sqrt(a)
    if last == LOG:
        return v_log(a)
    if last == LOG_SHIFT:
        return v_add(v_log(a), shift)
    return a


cdef inline void columns(
    const int how, const int nv, const ReduceParams* p, const float* x, float* y, int n
) noexcept nogil:
    """``nv`` vectors of adjacent columns (with ``nv`` 1: the first ``n`` lanes of one)."""
    cdef vf total[4]
    cdef vf part[4]
    cdef vf shift[4]
    cdef vf lost[4]
    cdef int64_t i = 0, end
    cdef int k
    for k in range(nv):
        total[k] = start_value(how)
        shift[k] = v_zero()
        lost[k] = v_zero()
    if how == ADD_EXP:
        for k in range(nv):
            shift[k] = v_set(-INFINITY)
        for i in range(p.count):
            for k in range(nv):
                shift[k] = v_max(load(x + i * p.x_count + k * VW, n), shift[k])
        for k in range(nv):
            shift[k] = finite_or_zero(shift[k])
    i = 0
    while i < p.count:
        end = min(i + BLOCK, p.count)
        for k in range(nv):
            part[k] = start_value(how)
        while i < end:
            for k in range(nv):
                part[k] = join(how, part[k], term(how, load(x + i * p.x_count + k * VW, n),
                                                  shift[k]))
            i += 1
        for k in range(nv):
            add_block(how, &total[k], &lost[k], part[k])
    for k in range(nv):
        total[k] = finish(p.last, total[k], shift[k], p.count)
        if n == VW:
            v_store(y + k * VW, total[k])
        else:
            v_store_n(y + k * VW, total[k], n)


cdef inline void fold(const int how, float* t, const int width) noexcept nogil:
    """Combine t[i + width] into t[i]: product, or larger of two numbers."""
    cdef int i
    for i in range(width):
        if how == MULTIPLY:
            t[i] = t[i] * t[i + width]
        else:
            t[i] = t[i] if t[i] > t[i + width] else t[i + width]


cdef inline float across(const int how, vf a) noexcept nogil:
    """The lanes of a vector combined, pairwise."""
    cdef float t[VW]
    cdef vi nan
    if how < MULTIPLY:
        return v_hsum(a)
    if how != MULTIPLY:
        # NaN is looked for apart, so that the rest is free of branches.
        nan = v_ne(a, a)
        if v_hsum(v_select(nan, v_set(1.0), v_zero())) > 0:
            return NAN
        if how == MINIMUM:
            a = v_neg(a)
    v_store(t, a)
    # Literal widths, so that the compiler unrolls and vectorises them.
    if VW >= 16:
        fold(how, t, 8)
    if VW >= 8:
        fold(how, t, 4)
    fold(how, t, 2)
    fold(how, t, 1)
    return -t[0] if how == MINIMUM else t[0]


cdef inline float row(const int how, const ReduceParams* p, const float* x) noexcept nogil:
    """One row of ``count`` adjacent elements."""
    cdef vf total = start_value(how), shift = v_zero(), lost = v_zero(), a
    cdef vf part[4]
    cdef float lanes[VW]
    cdef float m = 0
    cdef int64_t count = p.count, i = 0, end, whole = count // (4 * VW) * (4 * VW)
    cdef int n, k
    if how == ADD_EXP:
        shift = v_set(-INFINITY)
        while i + VW <= count:
            shift = v_max(v_load(x + i), shift)
            i += VW
        m = v_hmax(shift)
        while i < count:
            if x[i] > m:
                m = x[i]
            i += 1
        if isinf(m) or m != m:
            m = 0
        shift = v_set(m)
        i = 0
    while i < whole:
        end = min(i + BLOCK * 4 * VW, whole)
        for k in range(4):
            part[k] = start_value(how)
        while i < end:
            for k in range(4):
                part[k] = join(how, part[k], term(how, v_load(x + i + k * VW), shift))
            i += 4 * VW
        add_block(how, &total, &lost, join(how, join(how, part[0], part[1]),
                                           join(how, part[2], part[3])))
    while i + VW <= count:
        total = join(how, total, term(how, v_load(x + i), shift))
        i += VW
    if i < count:
        n = <int>(count - i)
        a = v_select(first_lanes(n), term(how, v_load_n(x + i, n), shift), start_value(how))
        total = join(how, total, a)
    v_store(lanes, finish(p.last, v_set(across(how, total)), shift, count))
    return lanes[0]


cdef inline void turn(
    const float* x, int64_t step, int64_t count, int rows, float* t
) noexcept nogil:
    """Up to VW rows as columns, one per lane; the lanes left over hold zeros."""
    cdef int64_t j
    cdef int r
    if rows < VW:
        memset(t, 0, count * VW * sizeof(float))
    for r in range(rows):
        for j in range(count):
            t[j * VW + r] = x[r * step + j]


cdef inline void reduce_share(
    const int how, const ReduceParams* p, const float* x, float* y, int thread, int threads
) noexcept nogil:
    cdef int64_t chunks, u, end, o, i
    cdef float t[SHORT * VW]
    cdef ReduceParams q
    cdef int n
    if p.inner == 1 and p.count <= SHORT and p.outer > 1:
        q = p[0]
        q.x_count = VW
        chunks = (p.outer + VW - 1) // VW
        end = share(chunks, thread + 1, threads)
        for u in range(share(chunks, thread, threads), end):
            n = <int>min(VW, p.outer - u * VW)
            turn(x + u * VW * p.x_outer, p.x_outer, p.count, n, t)
            columns(how, 1, &q, t, y + u * VW, n)
        return
    if p.inner == 1:
        end = share(p.outer, thread + 1, threads)
        for u in range(share(p.outer, thread, threads), end):
            y[u] = row(how, p, x + u * p.x_outer)
        return
    chunks = (p.inner + 4 * VW - 1) // (4 * VW)
    end = share(p.outer * chunks, thread + 1, threads)
    for u in range(share(p.outer * chunks, thread, threads), end):
        o = u // chunks
        i = u % chunks * 4 * VW
        if i + 4 * VW <= p.inner:
            columns(how, 4, p, x + o * p.x_outer + i, y + o * p.inner + i, VW)
        else:
            while i < p.inner:
                columns(how, 1, p, x + o * p.x_outer + i, y + o * p.inner + i,
                        <int>min(VW, p.inner - i))
                i += VW


cdef void reduce(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y."""
    cdef const ReduceParams* p = <const ReduceParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    if p.combine == ADD:
        reduce_share(ADD, p, x, y, thread, threads)
    elif p.combine == ADD_ABS:
        reduce_share(ADD_ABS, p, x, y, thread, threads)
    elif p.combine == ADD_SQUARE:
        reduce_share(ADD_SQUARE, p, x, y, thread, threads)
    elif p.combine == ADD_EXP:
        reduce_share(ADD_EXP, p, x, y, thread, threads)
    elif p.combine == MULTIPLY:
        reduce_share(MULTIPLY, p, x, y, thread, threads)
    elif p.combine == MAXIMUM:
        reduce_share(MAXIMUM, p, x, y, thread, threads)
    else:
        reduce_share(MINIMUM, p, x, y, thread, threads)


def pack_reduce(**values):
    """The bytes of ``ReduceParams``."""
    cdef ReduceParams p = values
    return (<char*>&p)[:sizeof(ReduceParams)]


cdef struct ArgParams:
    int64_t outer, count, inner
    int64_t x_outer, x_count
    int32_t least       # the smallest element, not the largest
    int32_t last        # the last of equal ones, not the first


cdef inline vi better(vf a, vf best, const bint last) noexcept nogil:
    """Whether a later element replaces the best so far; NaN counts as larger than all."""
    if last:
        return v_ior(v_le(best, a), v_ne(a, a))
    # Not (a <= best) holds when a is larger or either is NaN; a NaN that leads stays.
    return v_iand(v_ixor(v_le(a, best), v_iset(-1)), v_eq(best, best))


cdef inline bint better_one(float a, float best, bint last) noexcept nogil:
    if last:
        return a >= best or a != a
    return best == best and not a <= best


cdef inline void arg_columns(
    const bint last, const ArgParams* p, const float* x, int64_t* y, int n
) noexcept nogil:
    cdef vi flip = v_iset(<int32_t>0x80000000 if p.least else 0)
    cdef vf best = v_from_bits(v_ixor(v_bits(load(x, n)), flip)), a
    cdef vi where = v_iset(0), m
    cdef int32_t t[VW]
    cdef int64_t i
    cdef int k
    for i in range(1, p.count):
        a = v_from_bits(v_ixor(v_bits(load(x + i * p.x_count, n)), flip))
        m = better(a, best, last)
        best = v_select(m, a, best)
        where = v_ior(v_iand(m, v_iset(<int32_t>i)), v_iand(v_ixor(m, v_iset(-1)), where))
    v_store(<float*>t, v_from_bits(where))
    for k in range(n):
        y[k] = t[k]


cdef inline int64_t arg_row(const bint last, const ArgParams* p, const float* x) noexcept nogil:
    cdef float sign = -1 if p.least else 1
    cdef vi flip = v_iset(<int32_t>0x80000000 if p.least else 0)
    cdef vf best, a
    cdef vi where, m
    cdef float t[VW]
    cdef int32_t w[VW]
    cdef float top
    cdef int64_t i, found = 0
    cdef int k
    cdef int32_t at
    if p.count < VW:
        top = sign * x[0]
        i = 1
    else:
        for k in range(VW):
            t[k] = k
        where = v_to_int(v_load(t))
        best = v_from_bits(v_ixor(v_bits(v_load(x)), flip))
        i = VW
        while i + VW <= p.count:
            a = v_from_bits(v_ixor(v_bits(v_load(x + i)), flip))
            m = better(a, best, last)
            best = v_select(m, a, best)
            # The block's number times VW; the lane is added at the end.
            where = v_ior(v_iand(m, v_iset(<int32_t>i)), v_iand(v_ixor(m, v_iset(-1)), where))
            i += VW
        v_store(t, best)
        v_store(<float*>w, v_from_bits(where))
        top = t[0]
        found = w[0]
        for k in range(1, VW):
            at = w[k]
            if at >= VW:
                at += k
            if (top != top) == (t[k] != t[k]) and (t[k] == top or t[k] != t[k]):
                # Equal, or both NaN: the position decides.
                if (at > found) == last:
                    found = at
            elif better_one(t[k], top, False):
                top = t[k]
                found = at
    while i < p.count:
        if better_one(sign * x[i], top, last):
            top = sign * x[i]
            found = i
        i += 1
    return found


cdef void arg_reduce(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (int64)."""
    cdef const ArgParams* p = <const ArgParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef int64_t* y = <int64_t*>c.buf[1]
    cdef int64_t chunks, u, end, o, i
    cdef float t[ARG_SHORT * VW]
    cdef ArgParams q
    cdef int n
    if p.inner == 1 and p.count <= ARG_SHORT and p.outer > 1:
        q = p[0]
        q.x_count = VW
        chunks = (p.outer + VW - 1) // VW
        end = share(chunks, thread + 1, threads)
        for u in range(share(chunks, thread, threads), end):
            n = <int>min(VW, p.outer - u * VW)
            turn(x + u * VW * p.x_outer, p.x_outer, p.count, n, t)
            if p.last:
                arg_columns(True, &q, t, y + u * VW, n)
            else:
                arg_columns(False, &q, t, y + u * VW, n)
        return
    if p.inner == 1:
        end = share(p.outer, thread + 1, threads)
        for u in range(share(p.outer, thread, threads), end):
            if p.last:
                y[u] = arg_row(True, p, x + u * p.x_outer)
            else:
                y[u] = arg_row(False, p, x + u * p.x_outer)
        return
    chunks = (p.inner + VW - 1) // VW
    end = share(p.outer * chunks, thread + 1, threads)
    for u in range(share(p.outer * chunks, thread, threads), end):
        o = u // chunks
        i = u % chunks * VW
        n = <int>min(VW, p.inner - i)
        if p.last:
            arg_columns(True, p, x + o * p.x_outer + i, y + o * p.inner + i, n)
        else:
            arg_columns(False, p, x + o * p.x_outer + i, y + o * p.inner + i, n)


def pack_arg(**values):
    """The bytes of ``ArgParams``."""
    cdef ArgParams p = values
    return (<char*>&p)[:sizeof(ArgParams)]


KERNELS = {
    "reduce": (<uintptr_t>&reduce, pack_reduce),
    "arg_reduce": (<uintptr_t>&arg_reduce, pack_arg),
}
