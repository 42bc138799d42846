"""Separable interpolation of channels-last images."""

from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *


cdef struct BlendParams:
    int64_t n, h, w, c      # x is [n][h][w][c]
    int64_t oh, ow          # y is [n][oh][ow][c]
    int64_t h_taps, w_taps  # taps per output row and column; 0: the axis stays as it is


cdef inline void blend_rows(
    const float* x, int64_t row, const int32_t* index, const float* weight, int64_t taps,
    float* y, int64_t n,
) noexcept nogil:
    """y = the weighted sum of ``taps`` rows of ``n`` floats."""
    cdef int64_t i = 0, t
    cdef int left
    cdef const float* p
    cdef vf a, b, w
    while i + 2 * VW <= n:
        w = v_set(weight[0])
        p = x + index[0] * row + i
        a = v_mul(w, v_load(p))
        b = v_mul(w, v_load(p + VW))
        for t in range(1, taps):
            w = v_set(weight[t])
            p = x + index[t] * row + i
            a = v_fma(w, v_load(p), a)
            b = v_fma(w, v_load(p + VW), b)
        v_store(y + i, a)
        v_store(y + i + VW, b)
        i += 2 * VW
    if i + VW <= n:
        a = v_mul(v_set(weight[0]), v_load(x + index[0] * row + i))
        for t in range(1, taps):
            a = v_fma(v_set(weight[t]), v_load(x + index[t] * row + i), a)
        v_store(y + i, a)
        i += VW
    if i < n:
        left = <int>(n - i)
        a = v_mul(v_set(weight[0]), v_load_n(x + index[0] * row + i, left))
        for t in range(1, taps):
            a = v_fma(v_set(weight[t]), v_load_n(x + index[t] * row + i, left), a)
        v_store_n(y + i, a, left)


cdef inline void blend_thin(
    const int c, const float* x, const int32_t* index, const float* weight, int64_t taps,
    float* y, int64_t ow,
) noexcept nogil:
    """``blend_pixels`` for few channels, element by element."""
    cdef int64_t i, j, t
    cdef float s
    for i in range(ow):
        for j in range(c):
            s = weight[0] * x[index[0] * c + j]
            for t in range(1, taps):
                s += weight[t] * x[index[t] * c + j]
            y[j] = s
        y += c
        index += taps
        weight += taps


cdef inline void blend_pixels(
    const float* x, int64_t c, const int32_t* index, const float* weight, int64_t taps,
    float* y, int64_t ow,
) noexcept nogil:
    """Every output pixel = the weighted sum of ``taps`` pixels of a row; ``c`` floats each."""
    cdef int64_t i
    if c == 1:
        blend_thin(1, x, index, weight, taps, y, ow)
    elif c == 3:
        blend_thin(3, x, index, weight, taps, y, ow)
    elif c < 4 or (c < VW and VW < 16):
        blend_thin(<int>c, x, index, weight, taps, y, ow)
    else:
        for i in range(ow):
            blend_rows(x, c, index, weight, taps, y, c)
            y += c
            index += taps
            weight += taps


cdef void blend(const Call* c, int thread, int threads) noexcept nogil:
    """Interpolates rows, then columns, one output row at a time.

    Buffers: x, row indices int32 [oh][h_taps], row weights, column indices [ow][w_taps], column
    weights, scratch (w·c floats per thread), y.
    """
    cdef const BlendParams* p = <const BlendParams*>c.params
    cdef const int32_t* rows = <const int32_t*>c.buf[1]
    cdef const float* row_weights = <const float*>c.buf[2]
    cdef const int32_t* cols = <const int32_t*>c.buf[3]
    cdef const float* col_weights = <const float*>c.buf[4]
    cdef int64_t row = p.w * p.c
    cdef float* scratch = (<float*>c.buf[5]) + thread * row
    cdef int64_t u = share(p.n * p.oh, thread, threads)
    cdef int64_t end = share(p.n * p.oh, thread + 1, threads)
    cdef int64_t o
    cdef const float* x
    cdef float* y
    while u < end:
        o = u % p.oh
        x = (<const float*>c.buf[0]) + u // p.oh * p.h * row
        y = (<float*>c.buf[6]) + u * p.ow * p.c
        if p.h_taps == 0:
            x += o * row
        else:
            blend_rows(
                x, row, rows + o * p.h_taps, row_weights + o * p.h_taps, p.h_taps,
                scratch if p.w_taps else y, row,
            )
            x = scratch
        if p.w_taps == 2:
            blend_pixels(x, p.c, cols, col_weights, 2, y, p.ow)
        elif p.w_taps == 4:
            blend_pixels(x, p.c, cols, col_weights, 4, y, p.ow)
        elif p.w_taps:
            blend_pixels(x, p.c, cols, col_weights, p.w_taps, y, p.ow)
        u += 1


def pack_blend(**values):
    """The bytes of ``BlendParams``."""
    cdef BlendParams p = values
    return (<char*>&p)[:sizeof(BlendParams)]


KERNELS = {"blend": (<uintptr_t>&blend, pack_blend)}
