"""The register tile: ``mr`` output rows by ``nv`` vectors of output channels.

Rows are read in place through pointers, one per kernel tap and row (an indirection table, the idea
of Dukhan, "The Indirect Convolution Algorithm", 2019), so the same tile serves matrix products,
1×1 and k×k convolutions. Weights are packed as ``[taps][channels][2*VW]`` per panel of ``2*VW``
output channels. Row count and vector count are literals at every call, so that the accumulators
live in registers. Each output element is summed in one fixed order, whatever ``mr`` is.
"""

from fastconv.kernels.simd cimport *


cdef struct Epilogue:
    const float* bias       # the panel's 2*VW biases, or NULL
    float lo                # clip bounds, applied to every output
    float hi


cdef inline void tile_body(
    const int mr, const int nv, const float** rows, Py_ssize_t taps, Py_ssize_t channels,
    const float* w, float** out, const float** res, const Epilogue* e, int cols,
) noexcept nogil:
    cdef vf acc[MR][2]
    cdef const float* p[MR]
    cdef vf b0, b1, b2, b3, a, lo, hi
    cdef Py_ssize_t t, c
    cdef int i, j, n
    cdef float* y
    cdef const float* r
    b0 = v_zero()
    b1 = v_zero()
    if e.bias != NULL:
        b0 = v_load(e.bias)
        if nv == 2:
            b1 = v_load(e.bias + VW)
    for i in range(mr):
        acc[i][0] = b0
        acc[i][1] = b1
    for t in range(taps):
        for i in range(mr):
            p[i] = rows[t * MR + i]
        c = 0
        if VW == 16:
            # Two channels at a time: each row's address is fetched once for both (there are more
            # rows than general registers), and the 32 vector registers hold both weight pairs.
            while c + 2 <= channels:
                b0 = v_load(w)
                b2 = v_load(w + 2 * VW)
                if nv == 2:
                    b1 = v_load(w + VW)
                    b3 = v_load(w + 3 * VW)
                w += 4 * VW
                for i in range(mr):
                    a = v_set(p[i][c])
                    acc[i][0] = v_fma(a, b0, acc[i][0])
                    if nv == 2:
                        acc[i][1] = v_fma(a, b1, acc[i][1])
                    a = v_set(p[i][c + 1])
                    acc[i][0] = v_fma(a, b2, acc[i][0])
                    if nv == 2:
                        acc[i][1] = v_fma(a, b3, acc[i][1])
                c += 2
        while c < channels:
            b0 = v_load(w)
            if nv == 2:
                b1 = v_load(w + VW)
            w += 2 * VW
            for i in range(mr):
                a = v_set(p[i][c])
                acc[i][0] = v_fma(a, b0, acc[i][0])
                if nv == 2:
                    acc[i][1] = v_fma(a, b1, acc[i][1])
            c += 1
    v_fence()
    lo = v_set(e.lo)
    hi = v_set(e.hi)
    for i in range(mr):
        y = out[i]
        if res != NULL:
            r = res[i]
            if cols == nv * VW:
                acc[i][0] = v_add(acc[i][0], v_load(r))
                if nv == 2:
                    acc[i][1] = v_add(acc[i][1], v_load(r + VW))
            elif nv == 2:
                acc[i][0] = v_add(acc[i][0], v_load(r))
                acc[i][1] = v_add(acc[i][1], v_load_n(r + VW, cols - VW))
            else:
                acc[i][0] = v_add(acc[i][0], v_load_n(r, cols))
        acc[i][0] = v_min(hi, v_max(lo, acc[i][0]))
        if nv == 2:
            acc[i][1] = v_min(hi, v_max(lo, acc[i][1]))
        if cols == nv * VW:
            v_store(y, acc[i][0])
            if nv == 2:
                v_store(y + VW, acc[i][1])
        elif nv == 2:
            v_store(y, acc[i][0])
            v_store_n(y + VW, acc[i][1], cols - VW)
        else:
            v_store_n(y, acc[i][0], cols)


cdef inline void tile(
    int mr, const float** rows, Py_ssize_t taps, Py_ssize_t channels, const float* w,
    float** out, const float** res, const Epilogue* e, int cols,
) noexcept nogil:
    """Compute ``mr`` (1..MR) output rows of one panel.

    ``rows[t * MR + i]`` is where tap ``t`` of row ``i`` reads its ``channels`` floats; ``out[i]``
    where row ``i`` writes its ``cols`` (1..2*VW) floats; ``res[i]`` what is added first, if any.
    """
    if cols > VW:
        if mr == 1: tile_body(1, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 2: tile_body(2, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 3: tile_body(3, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 4: tile_body(4, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 5: tile_body(5, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 6 or MR <= 6: tile_body(6, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 7: tile_body(7 if MR >= 7 else MR, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 8 or MR <= 8: tile_body(8 if MR >= 8 else MR, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 9: tile_body(9 if MR >= 9 else MR, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 10: tile_body(10 if MR >= 10 else MR, 2, rows, taps, channels, w, out, res, e, cols)
        elif mr == 11: tile_body(11 if MR >= 11 else MR, 2, rows, taps, channels, w, out, res, e, cols)
        else: tile_body(12 if MR >= 12 else MR, 2, rows, taps, channels, w, out, res, e, cols)
    else:
        if mr == 1: tile_body(1, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 2: tile_body(2, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 3: tile_body(3, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 4: tile_body(4, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 5: tile_body(5, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 6 or MR <= 6: tile_body(6, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 7: tile_body(7 if MR >= 7 else MR, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 8 or MR <= 8: tile_body(8 if MR >= 8 else MR, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 9: tile_body(9 if MR >= 9 else MR, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 10: tile_body(10 if MR >= 10 else MR, 1, rows, taps, channels, w, out, res, e, cols)
        elif mr == 11: tile_body(11 if MR >= 11 else MR, 1, rows, taps, channels, w, out, res, e, cols)
        else: tile_body(12 if MR >= 12 else MR, 1, rows, taps, channels, w, out, res, e, cols)
