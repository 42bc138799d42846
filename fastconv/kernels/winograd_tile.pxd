"""Winograd's transforms of tiles, and what a tile is where they do not hold.

The points of F(4, 3) are 0, ±√½, ±√2 and infinity; see ``winograd.pyx``.
"""

from libc.stdint cimport int32_t, int64_t

from fastconv.kernels.abi cimport Call
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, activate

cdef extern from * nogil:
    """
    #include <string.h>
    static inline float fastconv_load(const float *p) {
        float f;
        memcpy(&f, p, sizeof f);
        return f;
    }
    """
    float fastconv_load(const float* p)     # at any alignment

cdef enum:
    MAX_TILE = 6


cdef struct WinogradParams:
    int64_t n, h, w, channels           # input [n][h][w][pixel]
    int64_t x_n, x_h, x_w               # strides in floats
    int64_t oh, ow, filters             # output
    int64_t y_n, y_h, y_w
    int64_t r_n, r_h, r_w               # residual
    int64_t pad_h, pad_w
    int64_t m                           # output tile side: 4 or 2
    int64_t tiles_h, tiles_w            # tiles of one image
    int64_t block_tiles, block_panels   # a unit of work
    int64_t act
    float lo, hi, alpha, beta


cdef inline void input_1d(const int m, vf* d, const int s) noexcept nogil:
    """Bᵀ d, in place, on the m + 2 values ``s`` apart."""
    cdef vf e, o, e2, o2, t0, t5
    if m == 4:
        t0 = v_fma(v_set(-2.5), d[2 * s], v_add(d[0], d[4 * s]))
        t5 = v_fma(v_set(-2.5), d[3 * s], v_add(d[s], d[5 * s]))
        e = v_fma(v_set(-2.0), d[2 * s], d[4 * s])
        o = v_mul(v_set(0.70710678118654752), v_fma(v_set(-2.0), d[s], d[3 * s]))
        e2 = v_fma(v_set(-0.5), d[2 * s], d[4 * s])
        o2 = v_mul(v_set(1.41421356237309505), v_fma(v_set(-0.5), d[s], d[3 * s]))
        d[0] = t0
        d[s] = v_add(e, o)
        d[2 * s] = v_sub(e, o)
        d[3 * s] = v_add(e2, o2)
        d[4 * s] = v_sub(e2, o2)
        d[5 * s] = t5
    else:
        t0 = v_sub(d[0], d[2 * s])
        t5 = v_sub(d[s], d[3 * s])
        e = v_add(d[s], d[2 * s])
        o = v_sub(d[2 * s], d[s])
        d[0] = t0
        d[s] = e
        d[2 * s] = o
        d[3 * s] = t5


cdef inline void output_1d(const int m, vf* d, const int s) noexcept nogil:
    """Aᵀ d, in place: m + 2 values ``s`` apart become the first m."""
    cdef vf s1, d1, s2, d2
    if m == 4:
        s1 = v_add(d[s], d[2 * s])
        d1 = v_sub(d[s], d[2 * s])
        s2 = v_add(d[3 * s], d[4 * s])
        d2 = v_sub(d[3 * s], d[4 * s])
        d[0] = v_add(d[0], v_add(s1, s2))
        d[s] = v_fma(v_set(0.70710678118654752), d1, v_mul(v_set(1.41421356237309505), d2))
        d[2 * s] = v_fma(v_set(0.5), s1, v_add(s2, s2))
        d[3 * s] = v_add(d[5 * s], v_fma(v_set(0.35355339059327376), d1,
                                         v_mul(v_set(2.82842712474619010), d2)))
    else:
        s1 = v_add(d[s], d[2 * s])
        d1 = v_sub(d[s], d[2 * s])
        d[0] = v_add(d[0], s1)
        d[s] = v_sub(d1, d[3 * s])


cdef inline void transform_input(
    const int m, const WinogradParams* p, const float* x, int64_t ih, int64_t iw, float* v,
    int64_t stride,
) noexcept nogil:
    """One tile, all channels: x (image) at row ih, column iw → v[point * stride + channel]."""
    cdef vf d[MAX_TILE * MAX_TILE]
    cdef int64_t c = 0
    cdef int i, j, n
    cdef bint inside = (ih >= 0 and iw >= 0 and ih + m + 2 <= p.h and iw + m + 2 <= p.w)
    cdef const float* q
    while c < p.channels:
        n = <int>min(p.channels - c, VW)
        if inside and n == VW:
            for i in range(m + 2):
                q = x + (ih + i) * p.x_h + iw * p.x_w + c
                for j in range(m + 2):
                    d[i * (m + 2) + j] = v_load(q + j * p.x_w)
        else:
            for i in range(m + 2):
                for j in range(m + 2):
                    d[i * (m + 2) + j] = v_zero()
                    if 0 <= ih + i < p.h and 0 <= iw + j < p.w:
                        q = x + (ih + i) * p.x_h + (iw + j) * p.x_w + c
                        d[i * (m + 2) + j] = v_load(q) if n == VW else v_load_n(q, n)
        for i in range(m + 2):
            input_1d(m, d + i * (m + 2), 1)
        for j in range(m + 2):
            input_1d(m, d + j, m + 2)
        if n == VW:
            for i in range((m + 2) * (m + 2)):
                v_store(v + i * stride + c, d[i])
        else:
            for i in range((m + 2) * (m + 2)):
                v_store_n(v + i * stride + c, d[i], n)
        c += VW


cdef inline void direct(
    const WinogradParams* p, const float* x, const float* w, int64_t oh, int64_t ow,
    int64_t filters, float* y,
) noexcept nogil:
    """Some filters of one output pixel by the definition; w is [filters][channels][3][3], at
    any alignment."""
    cdef int64_t f, c, kh, kw, ih, iw
    cdef float s
    for f in range(filters):
        s = 0
        for kh in range(3):
            ih = oh - p.pad_h + kh
            for kw in range(3):
                iw = ow - p.pad_w + kw
                if 0 <= ih < p.h and 0 <= iw < p.w:
                    for c in range(p.channels):
                        s += (x[ih * p.x_h + iw * p.x_w + c]
                              * fastconv_load(w + (f * p.channels + c) * 9 + kh * 3 + kw))
        y[f] = s


cdef inline void transform_output(
    const int m, const WinogradParams* p, const float* mem, int64_t stride, int64_t columns,
    int64_t f0, const float* bias, const float* x, const float* w, const float* res, float* y,
    int64_t oh, int64_t ow,
) noexcept nogil:
    """One tile, ``columns`` filters from ``f0``: mem[point * stride + column] → y (image)."""
    cdef vf d[MAX_TILE * MAX_TILE]
    cdef vf a, b, check, lo = v_set(p.lo), hi = v_set(p.hi)
    cdef float one[VW]
    cdef int64_t c = 0, rows = min(m, p.oh - oh), cols = min(m, p.ow - ow), at
    cdef int i, j, n
    cdef bint again
    while c < columns:
        n = <int>min(columns - c, VW)
        for i in range((m + 2) * (m + 2)):
            d[i] = v_load(mem + i * stride + c)
        for i in range(m + 2):
            output_1d(m, d + i * (m + 2), 1)
        for j in range(m):
            output_1d(m, d + j, m + 2)
        check = v_zero()
        for i in range(m):
            for j in range(m):
                check = v_fma(d[i * (m + 2) + j], v_zero(), check)
        again = v_hsum(check) != 0
        b = v_zero()
        if bias != NULL:
            b = v_load(bias + f0 + c)
        for i in range(rows):
            for j in range(cols):
                a = d[i * (m + 2) + j]
                if again:
                    direct(p, x, w + (f0 + c) * p.channels * 9, oh + i, ow + j, n, one)
                    a = v_load_n(one, n) if n < VW else v_load(one)
                a = v_add(a, b)
                at = f0 + c
                if res != NULL:
                    if n == VW:
                        a = v_add(a, v_load(res + (oh + i) * p.r_h + (ow + j) * p.r_w + at))
                    else:
                        a = v_add(a, v_load_n(res + (oh + i) * p.r_h + (ow + j) * p.r_w + at, n))
                a = v_min(hi, v_max(lo, a))
                if n == VW:
                    v_store(y + (oh + i) * p.y_h + (ow + j) * p.y_w + at, a)
                else:
                    v_store_n(y + (oh + i) * p.y_h + (ow + j) * p.y_w + at, a, n)
        c += VW


cdef struct Tile:
    # Where a tile lies: its image; the row and column of its first output.
    int64_t image, oh, ow


cdef inline Tile tile_at(const int m, const WinogradParams* p, int64_t t) noexcept nogil:
    """Tile ``t`` of all images."""
    cdef Tile at
    cdef int64_t rest = t % (p.tiles_h * p.tiles_w)
    at.image = t // (p.tiles_h * p.tiles_w)
    at.oh = rest // p.tiles_w * m
    at.ow = rest % p.tiles_w * m
    return at


cdef inline void input_tile(
    const int m, const WinogradParams* p, const float* x, int64_t t, float* v, int64_t stride,
) noexcept nogil:
    """Tile ``t`` of all images, transformed: v[point * stride + channel]."""
    cdef Tile at = tile_at(m, p, t)
    transform_input(m, p, x + at.image * p.x_n, at.oh - p.pad_h, at.ow - p.pad_w, v, stride)


cdef inline void output_tiles(
    const int m, const WinogradParams* p, const Call* c, int64_t t0, int64_t t1, int64_t f0,
    int64_t columns, const float* mem, int64_t width,
) noexcept nogil:
    """Tiles t0 .. t1, ``columns`` filters from ``f0``: mem[point][tile of block_tiles][width] → y,
    with everything that comes after the products. Buffers as ``winograd`` has them."""
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* residual = <const float*>c.buf[4]
    cdef float* y = <float*>c.buf[6]
    cdef int64_t t, i, j
    cdef Tile at
    for t in range(t0, t1):
        at = tile_at(m, p, t)
        transform_output(
            m, p, mem + (t - t0) * width, p.block_tiles * width, columns, f0,
            <const float*>c.buf[3], x + at.image * p.x_n, <const float*>c.buf[2],
            residual + at.image * p.r_n if residual != NULL else residual, y + at.image * p.y_n,
            at.oh, at.ow)
        if p.act > ACT_CLIP:
            for i in range(at.oh, min(at.oh + m, p.oh)):
                for j in range(at.ow, min(at.ow + m, p.ow)):
                    activate(p.act, p.alpha, p.beta,
                             y + at.image * p.y_n + i * p.y_h + j * p.y_w + f0, columns)
