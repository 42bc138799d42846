"""3×3 convolution of stride 1 with fewer multiplications.

Winograd's minimal filtering F(m×m, 3×3) for m = 4 and 2, after Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", 2015. The points of F(4, 3) are 0, ±√½, ±√2 and infinity, which keep
the error at a fifth of that of 0, ±1, ±2 (Barabasz et al., "Error Analysis and Improving the Accuracy
of Winograd Convolution for Deep Neural Networks", 2020, on the choice of points).

A block of output tiles is done at a time: their inputs are transformed, each of the (m+2)² points is
one matrix product with its own packed weights, and the output transform adds bias and residual and
applies the activation. A tile whose result is not finite is computed again, directly, from the
plain weights: one NaN or Inf in the input, or an overflow on the way, reaches the outputs that the
definition says and no others.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *
from fastconv.kernels.tile cimport Epilogue, tile
from fastconv.kernels.winograd_tile cimport WinogradParams, input_tile, output_tiles

cdef inline void run(const int m, const Call* c, int thread, int threads) noexcept nogil:
    cdef const WinogradParams* p = <const WinogradParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* weights = <const float*>c.buf[1]
    cdef int64_t points = (m + 2) * (m + 2)
    cdef int64_t panels = (p.filters + 2 * VW - 1) // (2 * VW)
    cdef int64_t tiles = p.n * p.tiles_h * p.tiles_w
    cdef int64_t blocks = (tiles + p.block_tiles - 1) // p.block_tiles
    cdef int64_t groups = (panels + p.block_panels - 1) // p.block_panels
    cdef int64_t unit = share(blocks * groups, thread, threads)
    cdef int64_t end = share(blocks * groups, thread + 1, threads)
    cdef int64_t width = p.block_panels * 2 * VW
    # Leading sizes rounded up to a cache line's floats, so that rows start aligned.
    cdef int64_t ldv = (p.channels + 15) // 16 * 16
    cdef int64_t scratch = points * p.block_tiles * (ldv + width)
    cdef float* v = (<float*>c.buf[5]) + thread * scratch
    cdef float* mem = v + points * p.block_tiles * ldv
    cdef const float* rows[MR]
    cdef float* out[MR]
    cdef int64_t t, t0, t1, j, j0, j1, q, k, r, count, mr, i, columns, done = -1
    cdef Epilogue e
    e.bias = NULL
    e.lo = -INFINITY
    e.hi = INFINITY
    while unit < end:
        t0 = unit // groups * p.block_tiles
        t1 = min(t0 + p.block_tiles, tiles)
        j0 = unit % groups * p.block_panels
        j1 = min(j0 + p.block_panels, panels)
        if done != t0:
            for t in range(t0, t1):
                input_tile(m, p, x, t, v + (t - t0) * ldv, p.block_tiles * ldv)
            done = t0
        count = (t1 - t0 + MR - 1) // MR
        for q in range(points):
            for j in range(j0, j1):
                r = 0
                for k in range(count):
                    mr = (t1 - t0 - r + count - k - 1) // (count - k)
                    for i in range(mr):
                        rows[i] = v + (q * p.block_tiles + r + i) * ldv
                        out[i] = mem + (q * p.block_tiles + r + i) * width + (j - j0) * 2 * VW
                    tile(<int>mr, False, False, rows, 1, p.channels,
                         weights + (q * panels + j) * p.channels * 2 * VW, out, NULL, 0, &e,
                         2 * VW, NULL)
                    r += mr
        columns = min(j1 * 2 * VW, p.filters) - j0 * 2 * VW
        output_tiles(m, p, c, t0, t1, j0 * 2 * VW, columns, mem, width)
        unit += 1


cdef void winograd(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, transformed weights [point][panel][channels][2*VW], plain weights
    [filters][channels][3][3], bias (panels * 2*VW floats) or NULL, residual or NULL, scratch, y."""
    cdef const WinogradParams* p = <const WinogradParams*>c.params
    if p.m == 4:
        run(4, c, thread, threads)
    else:
        run(2, c, thread, threads)


def pack_winograd(**values):
    """The bytes of ``WinogradParams``."""
    cdef WinogradParams p = values
    return (<char*>&p)[:sizeof(WinogradParams)]


KERNELS = {"winograd": (<uintptr_t>&winograd, pack_winograd)}
