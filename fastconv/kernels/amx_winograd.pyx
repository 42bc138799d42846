"""Winograd's convolution with the products of digits in tiles.

As ``winograd``, F(4×4, 3×3), with each of its 36 matrix products done as ``amx_conv`` does them: the
transformed inputs of a tile at a point are scaled to integers by a factor of their own, the
transformed weights by filter, and three digits of each are multiplied in integers.
"""

from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.amx_input cimport NOT_FINITE, greatest, split_block
from fastconv.kernels.amx_tile cimport (
    BLOCK,
    DIGITS,
    PANEL,
    SUMS,
    TALL,
    TILE,
    Operands,
    Pending,
    begin,
    digits_scale,
    join,
    some_products,
    tiles_begin,
    tiles_end,
)
from fastconv.kernels.simd cimport *
from fastconv.kernels.winograd_tile cimport WinogradParams, input_tile, output_tiles

cdef enum:
    SIDE = 4
    POINTS = (SIDE + 2) * (SIDE + 2)
    MAX_BLOCKS = 64         # of input channels


cdef inline void split_tile(
    const WinogradParams* p, const float* v, int64_t ldv, char* a, int64_t pitch, float* back,
    int64_t ldb,
) noexcept nogil:
    """One tile's transformed inputs v[point][ldv] → digits a[point][block][digit][.. pitch]; what
    undoes the scale of each point, at back[point * ldb]."""
    cdef int64_t q, b, blocks = (p.channels + BLOCK - 1) // BLOCK
    cdef uint32_t bits
    cdef float up
    for q in range(POINTS):
        bits = greatest(v, p.channels)
        if bits >= NOT_FINITE:
            up = 0
            back[0] = NAN
        else:
            up = digits_scale(bits, back)
        for b in range(blocks):
            split_block(v + b * BLOCK, p.channels - b * BLOCK, up, 0, a, pitch)
            a += DIGITS * pitch
        v += ldv
        back += ldb


cdef void amx_winograd(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, transformed weights (digits [panel][point][block][half][digit] tiles, then what they
    count [panel][point][PANEL] float), plain weights [filters][channels][3][3], bias
    [panel][PANEL] or NULL, residual or NULL, scratch, y."""
    cdef const WinogradParams* p = <const WinogradParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const char* weights = <const char*>c.buf[1]
    cdef int64_t panels = (p.filters + PANEL - 1) // PANEL
    cdef int64_t tiles = p.n * p.tiles_h * p.tiles_w
    cdef int64_t blocks = (tiles + p.block_tiles - 1) // p.block_tiles
    cdef int64_t groups = (panels + p.block_panels - 1) // p.block_panels
    cdef int64_t unit = share(blocks * groups, thread, threads)
    cdef int64_t end = share(blocks * groups, thread + 1, threads)
    cdef int64_t width = p.block_panels * PANEL, steps = (p.channels + BLOCK - 1) // BLOCK
    cdef int64_t ldv = (p.channels + 15) // 16 * 16
    # Tiles are read in groups of TALL.
    cdef int64_t tall = (p.block_tiles + TALL - 1) // TALL * TALL
    cdef int64_t pitch = tall * 64, point_bytes = steps * DIGITS * pitch
    cdef int64_t b_bytes = steps * 2 * DIGITS * TILE
    cdef char* a = <char*>c.buf[5] + thread * (POINTS * (
        point_bytes + tall * 4 + p.block_tiles * width * 4 + ldv * 4) + 2 * DIGITS * SUMS * 4)
    cdef float* mem = <float*>(a + POINTS * point_bytes)
    cdef float* v = mem + POINTS * p.block_tiles * width
    cdef float* back = v + POINTS * ldv
    cdef int32_t* sums = <int32_t*>(back + POINTS * tall)
    cdef const float* units_of = <const float*>(weights + panels * POINTS * b_bytes)
    cdef int64_t offsets[MAX_BLOCKS + 1]
    cdef float nothing[PANEL]
    cdef int64_t t, t0, t1, j, j0, j1, q, k, m, columns, done = -1
    cdef Operands o
    cdef Pending g
    if unit >= end:
        return
    for k in range(steps + 1):
        offsets[k] = k * DIGITS * pitch
    for k in range(PANEL):
        nothing[k] = 0
    o.pitch = pitch
    o.offsets = offsets
    o.steps = steps
    o.ahead = o.ahead_end = NULL
    o.sums = sums
    g.count = g.next = 0
    g.bias = nothing
    g.step = width
    tiles_begin()
    while unit < end:
        t0 = unit // groups * p.block_tiles
        t1 = min(t0 + p.block_tiles, tiles)
        j0 = unit % groups * p.block_panels
        j1 = min(j0 + p.block_panels, panels)
        if done != t0:
            for t in range(t0, t1):
                input_tile(SIDE, p, x, t, v, ldv)
                split_tile(p, v, ldv, a + (t - t0) * 64, pitch, back + t - t0, tall)
            done = t0
        for q in range(POINTS):
            for j in range(j0, j1):
                o.b = weights + (j * POINTS + q) * b_bytes
                # The next panel's weights arrive meanwhile.
                o.ahead = o.b + POINTS * b_bytes if j + 1 < j1 else weights + (
                    j0 * POINTS + q + 1) * b_bytes
                o.ahead_end = o.ahead + (b_bytes if j + 1 < j1 or q + 1 < POINTS else 0)
                m = 0
                while m < t1 - t0:
                    o.a = a + q * point_bytes + m * 64
                    some_products(t1 - t0 - m, p.filters - j * PANEL > VW, &o, &g)
                    if g.next < g.count:
                        join(&g, g.count)
                    begin(&g, &o, min(t1 - t0 - m, TALL))
                    g.back = back + q * tall + m
                    g.unit = units_of + (j * POINTS + q) * PANEL
                    g.out = mem + (q * p.block_tiles + m) * width + (j - j0) * PANEL
                    # The other half, for the next group.
                    o.sums = sums if o.sums != sums else sums + DIGITS * SUMS
                    m += TALL
        if g.next < g.count:
            join(&g, g.count)
        g.count = g.next = 0
        columns = min(j1 * PANEL, p.filters) - j0 * PANEL
        output_tiles(SIDE, p, c, t0, t1, j0 * PANEL, columns, mem, width)
        unit += 1
    tiles_end()


def pack_amx_winograd(**values):
    """The bytes of ``WinogradParams``."""
    cdef WinogradParams p = values
    return (<char*>&p)[:sizeof(WinogradParams)]


KERNELS = {"amx_winograd": (<uintptr_t>&amx_winograd, pack_amx_winograd)}
CONSTANTS = {"MAX_BLOCKS": MAX_BLOCKS}
