"""The register tile: ``mr`` output rows by ``nv`` vectors of output channels.

Rows are read in place through pointers, one per kernel tap and row (an indirection table, the idea
of Dukhan, "The Indirect Convolution Algorithm", 2019), so the same tile serves matrix products,
1×1 and k×k convolutions. Weights are packed as ``[taps][channels][columns]`` per panel of
``columns`` output channels: 2*VW, or 3*VW in wide panels. A wide panel's tile has fewer rows (``MR3``)
and loads less for each product; it needs 32 vector registers. Row count and vector count are
literals at every call, so that the accumulators live in registers. Each output element is summed in
one fixed order, whatever ``mr`` and ``nv`` are.
"""

from fastconv.kernels.simd cimport *


cdef struct Epilogue:
    const float* bias       # the panel's biases, or NULL
    float lo                # clip bounds, applied to every output
    float hi


cdef inline void finish_row(
    const int nv, int n, const vf* sums, vf lo, vf hi, float** out, const float** res, const int i,
    Py_ssize_t at,
) noexcept nogil:
    """Add row ``i``'s residual, if any, clip the row and store it; its last vector has ``n`` lanes."""
    cdef vf s0 = sums[0], s1 = sums[1], s2 = sums[2], a
    cdef float* y = out[i] + at
    cdef const float* r
    if res != NULL:
        r = res[i] + at
        a = v_load(r + (nv - 1) * VW) if n == VW else v_load_n(r + (nv - 1) * VW, n)
        if nv == 1:
            s0 = v_add(s0, a)
        elif nv == 2:
            s0 = v_add(s0, v_load(r))
            s1 = v_add(s1, a)
        else:
            s0 = v_add(s0, v_load(r))
            s1 = v_add(s1, v_load(r + VW))
            s2 = v_add(s2, a)
    s0 = v_min(hi, v_max(lo, s0))
    a = s0
    if nv >= 2:
        v_store(y, s0)
        a = v_min(hi, v_max(lo, s1))
    if nv == 3:
        v_store(y + VW, a)
        a = v_min(hi, v_max(lo, s2))
    if n == VW:
        v_store(y + (nv - 1) * VW, a)
    else:
        v_store_n(y + (nv - 1) * VW, a, n)


cdef inline void tile_body(
    const int mr, const int nv, const bint fetch, const float** rows, Py_ssize_t taps,
    Py_ssize_t channels, const float* w, float** out, const float** res, Py_ssize_t at,
    const Epilogue* e, int cols, const char* ahead,
) noexcept nogil:
    """``tile`` of ``nv`` vectors, for literal ``mr`` and ``nv``."""
    cdef vf acc[MR][3]
    cdef const float* p[MR]
    cdef vf b0, b1, b2, b3, a, lo, hi
    cdef Py_ssize_t t, c
    cdef int i, k, n
    b0 = v_zero()
    b1 = v_zero()
    b2 = v_zero()
    if e.bias != NULL:
        b0 = v_load(e.bias)
        if nv >= 2:
            b1 = v_load(e.bias + VW)
        if nv == 3:
            b2 = v_load(e.bias + 2 * VW)
    for i in range(mr):
        acc[i][0] = b0
        acc[i][1] = b1
        acc[i][2] = b2
    for t in range(taps):
        for i in range(mr):
            p[i] = rows[t * MR + i]
        c = 0
        if VW == 16 and nv < 3:
            # Two channels at a time: each row's address is fetched once for both (there are more
            # rows than general registers), and the 32 vector registers hold both weight pairs.
            while c + 2 <= channels:
                b0 = v_load(w)
                b2 = v_load(w + 2 * VW)
                if nv == 2:
                    b1 = v_load(w + VW)
                    b3 = v_load(w + 3 * VW)
                w += 4 * VW
                if fetch:
                    v_fetch(ahead)
                    if nv == 2:
                        v_fetch(ahead + 64)
                    ahead += 128
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
        if VW == 16 and nv == 3:
            # Two channels in turn: half as many jumps, which tells where channels are few.
            while c + 2 <= channels:
                for k in range(2):
                    b0 = v_load(w)
                    b1 = v_load(w + VW)
                    b2 = v_load(w + 2 * VW)
                    w += 3 * VW
                    if fetch:
                        v_fetch(ahead)
                        ahead += 64
                    for i in range(mr):
                        a = v_set(p[i][c + k])
                        acc[i][0] = v_fma(a, b0, acc[i][0])
                        acc[i][1] = v_fma(a, b1, acc[i][1])
                        acc[i][2] = v_fma(a, b2, acc[i][2])
                c += 2
        while c < channels:
            b0 = v_load(w)
            if nv >= 2:
                b1 = v_load(w + VW)
            if nv == 3:
                b2 = v_load(w + 2 * VW)
                w += VW
            w += 2 * VW
            if fetch:
                v_fetch(ahead)
                ahead += 64
            for i in range(mr):
                a = v_set(p[i][c])
                acc[i][0] = v_fma(a, b0, acc[i][0])
                if nv >= 2:
                    acc[i][1] = v_fma(a, b1, acc[i][1])
                if nv == 3:
                    acc[i][2] = v_fma(a, b2, acc[i][2])
            c += 1
    e = <const Epilogue*>v_late(e)
    lo = v_set(e.lo)
    hi = v_set(e.hi)
    n = cols - (nv - 1) * VW    # lanes of the last vector
    # (Row by row, not in a loop: a loop would be unrolled too late for ``acc`` to stay in registers.)
    if mr > 0: finish_row(nv, n, acc[0], lo, hi, out, res, 0, at)
    if mr > 1: finish_row(nv, n, acc[1], lo, hi, out, res, 1, at)
    if mr > 2: finish_row(nv, n, acc[2], lo, hi, out, res, 2, at)
    if mr > 3: finish_row(nv, n, acc[3], lo, hi, out, res, 3, at)
    if mr > 4: finish_row(nv, n, acc[4], lo, hi, out, res, 4, at)
    if mr > 5: finish_row(nv, n, acc[5], lo, hi, out, res, 5, at)
    if mr > 6: finish_row(nv, n, acc[6], lo, hi, out, res, 6, at)
    if mr > 7: finish_row(nv, n, acc[7], lo, hi, out, res, 7, at)
    if mr > 8: finish_row(nv, n, acc[8], lo, hi, out, res, 8, at)
    if mr > 9: finish_row(nv, n, acc[9], lo, hi, out, res, 9, at)
    if mr > 10: finish_row(nv, n, acc[10], lo, hi, out, res, 10, at)
    if mr > 11: finish_row(nv, n, acc[11], lo, hi, out, res, 11, at)


cdef inline void tile(
    int mr, const bint fetch, const bint wide, const float** rows, Py_ssize_t taps,
    Py_ssize_t channels, const float* w, float** out, const float** res, Py_ssize_t at,
    const Epilogue* e, int cols, const char* ahead,
) noexcept nogil:
    """Compute ``mr`` (1..MR; of a wide panel 1..MR3) output rows of one panel.

    ``rows[t * MR + i]`` is where tap ``t`` of row ``i`` reads its ``channels`` floats; ``out[i] + at``
    where row ``i`` writes its ``cols`` floats; ``res[i] + at`` what is added first, if any. With
    ``fetch``, the cache lines from ``ahead`` on are asked for meanwhile, ``taps * channels`` of them.
    """
    if wide and cols > 2 * VW:
        if mr == 1: tile_body(1, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 2: tile_body(2, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 3: tile_body(3, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 4: tile_body(4, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 5: tile_body(5, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 6 or MR <= 6: tile_body(6, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 7: tile_body(7 if MR >= 7 else MR, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        else: tile_body(8 if MR >= 8 else MR, 3, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
    elif cols > VW:
        if mr == 1: tile_body(1, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 2: tile_body(2, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 3: tile_body(3, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 4: tile_body(4, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 5: tile_body(5, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 6 or MR <= 6: tile_body(6, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 7: tile_body(7 if MR >= 7 else MR, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 8 or MR <= 8: tile_body(8 if MR >= 8 else MR, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 9: tile_body(9 if MR >= 9 else MR, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 10: tile_body(10 if MR >= 10 else MR, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 11: tile_body(11 if MR >= 11 else MR, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        else: tile_body(12 if MR >= 12 else MR, 2, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
    else:
        if mr == 1: tile_body(1, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 2: tile_body(2, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 3: tile_body(3, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 4: tile_body(4, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 5: tile_body(5, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 6 or MR <= 6: tile_body(6, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 7: tile_body(7 if MR >= 7 else MR, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 8 or MR <= 8: tile_body(8 if MR >= 8 else MR, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 9: tile_body(9 if MR >= 9 else MR, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 10: tile_body(10 if MR >= 10 else MR, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        elif mr == 11: tile_body(11 if MR >= 11 else MR, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
        else: tile_body(12 if MR >= 12 else MR, 1, fetch, rows, taps, channels, w, out, res, at, e, cols, ahead)
