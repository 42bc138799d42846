"""The inner loops of ``amx_conv``: tiles and vectors side by side.

Tiles 0 to 3 are sums of 16 pixels by 16 filters, 4 and 5 pixels, 6 and 7 weights.
"""

from libc.stdint cimport int64_t

from fastconv.kernels.simd cimport *

cdef extern from "amx.h" nogil:
    void tiles_begin()
    void tiles_end()
    void tile_load(int t, const void* p, Py_ssize_t stride)
    void tile_store(int t, void* p, Py_ssize_t stride)
    void tile_fma(int c, int a, int b)
    void prefetch(const void* p)
    void prefetch_far(const void* p)
    void split_pair(vf lo, vf hi, char* p, Py_ssize_t pitch, bint three)

cdef enum:
    TILE = 1024             # bytes of a tile
    PANEL = 32              # output channels of a panel
    BLOCK = 32              # input channels of a block
    TALL = 32               # successive pixels that go to tiles, ...
    ROWS_3 = 12             # ... and after them to the vector units, by the number of parts
    ROWS_2 = 6
    MAX_ROWS = 12
    RUN_MAX = 512           # the most floats gathered for one pixel
    MAX_PHASES = 16


cdef struct Operands:
    const char* a           # the first pixel's split input; its parts are `part` bytes apart
    Py_ssize_t part
    const char* b           # the panel's split weights
    const int64_t* offsets  # of each step, from a
    int64_t steps
    const float* f          # inputs of the vector units' pixels, see gather
    const float* w          # the panel's weights
    const float* bias
    const char* ahead       # the next panels' weights
    const char* ahead_end
    float* out


cdef struct Next:
    const char* a           # the next step's operands for tiles
    Py_ssize_t part
    const char* b
    const float* f          # this step's for the vector units
    const float* w


cdef inline void channel(
    const int rows, const int nt, vf* acc, const float* f, const float* w,
) noexcept nogil:
    """One channel of ``rows`` pixels on the vector units: acc[2 * row + vector] += f × w."""
    cdef vf b0, b1, a
    cdef int i
    b0 = v_load(w)
    if nt == 2: b1 = v_load(w + VW)
    for i in range(rows):
        a = v_set(f[i * BLOCK])
        acc[2 * i] = v_fma(a, b0, acc[2 * i])
        if nt == 2: acc[2 * i + 1] = v_fma(a, b1, acc[2 * i + 1])


cdef inline void channels(
    const int parts, const int at, const int n, const int rows, const int nt, vf* acc,
    const Next* o,
) noexcept nogil:
    """Channels at .. at + n of 32; and as much of the fetching of the next step's operands."""
    cdef int i
    for i in range(n):
        if rows > 0:
            channel(rows, nt, acc, o.f + at + i, o.w + (at + i) * PANEL)
        prefetch(o.a + (at + i) * 64)
        prefetch(o.a + o.part + (at + i) * 64)
        prefetch(o.b + (at + i) * 64)
        prefetch(o.b + 32 * 64 + (at + i) * 64)
        if parts == 3:
            prefetch(o.a + 2 * o.part + (at + i) * 64)
            prefetch(o.b + 64 * 64 + (at + i) * 64)


cdef inline void multiply(
    const int parts, const int at, const int n, const int mt, const int nt, const int rows, vf* acc,
    const Next* o,
) noexcept nogil:
    """Tiles 0..3 += tiles 4, 5 × tiles 6, 7, between them 4 × n channels for the vector units."""
    if mt: tile_fma(0, 4, 6)
    channels(parts, at, n, rows, nt, acc, o)
    if mt and nt == 2: tile_fma(1, 4, 7)
    channels(parts, at + n, n, rows, nt, acc, o)
    if mt == 2: tile_fma(2, 5, 6)
    channels(parts, at + 2 * n, n, rows, nt, acc, o)
    if mt == 2 and nt == 2: tile_fma(3, 5, 7)
    channels(parts, at + 3 * n, n, rows, nt, acc, o)


cdef inline void load_a(const int mt, const char* a) noexcept nogil:
    if mt: tile_load(4, a, 64)
    if mt == 2: tile_load(5, a + TILE, 64)


cdef inline void load_b(
    const int parts, const int mt, const int nt, const char* b,
) noexcept nogil:
    if mt: tile_load(6, b, 64)
    if mt and nt == 2: tile_load(7, b + parts * TILE, 64)


cdef inline void step(
    const int parts, const int mt, const int nt, const int rows, vf* acc, const char* a,
    Py_ssize_t part, const char* b, const Next* o,
) noexcept nogil:
    """One channel block and tap: the products of the parts, in an order of few loads, and the 32
    channels of the vector units spread between them."""
    if parts == 3:
        load_a(mt, a + 2 * part)
        channels(parts, 0, 1, rows, nt, acc, o)
        load_b(parts, mt, nt, b)
        channels(parts, 1, 1, rows, nt, acc, o)
        multiply(parts, 2, 1, mt, nt, rows, acc, o)
        load_a(mt, a + part)
        channels(parts, 6, 1, rows, nt, acc, o)
        multiply(parts, 7, 1, mt, nt, rows, acc, o)
        load_b(parts, mt, nt, b + TILE)
        channels(parts, 11, 1, rows, nt, acc, o)
        multiply(parts, 12, 1, mt, nt, rows, acc, o)
        load_a(mt, a)
        channels(parts, 16, 1, rows, nt, acc, o)
        multiply(parts, 17, 1, mt, nt, rows, acc, o)
        load_b(parts, mt, nt, b + 2 * TILE)
        channels(parts, 21, 1, rows, nt, acc, o)
        multiply(parts, 22, 1, mt, nt, rows, acc, o)
        load_b(parts, mt, nt, b)
        channels(parts, 26, 2, rows, nt, acc, o)
        multiply(parts, 28, 1, mt, nt, rows, acc, o)
    else:
        load_a(mt, a + part)
        channels(parts, 0, 2, rows, nt, acc, o)
        load_b(parts, mt, nt, b)
        channels(parts, 2, 2, rows, nt, acc, o)
        multiply(parts, 4, 2, mt, nt, rows, acc, o)
        load_a(mt, a)
        channels(parts, 12, 2, rows, nt, acc, o)
        multiply(parts, 14, 2, mt, nt, rows, acc, o)
        load_b(parts, mt, nt, b + TILE)
        channels(parts, 22, 2, rows, nt, acc, o)
        multiply(parts, 24, 2, mt, nt, rows, acc, o)


cdef inline void products(
    const int parts, const int mt, const int nt, const int rows, Operands* o,
) noexcept nogil:
    """``mt * 16`` pixels in tiles and ``rows`` pixels in vectors, by ``nt * 16`` filters, over all
    steps: the former to out[0 ..], the latter to out[TALL ..], PANEL floats each."""
    cdef int64_t k
    cdef int i
    cdef vf acc[2 * MAX_ROWS]
    cdef const char* b = o.b
    cdef float* out = o.out
    cdef Next n
    n.part = o.part
    n.f = o.f
    n.w = o.w
    if mt: tile_load(0, o.bias, 0)
    if mt and nt == 2: tile_load(1, o.bias + 16, 0)
    if mt == 2: tile_load(2, o.bias, 0)
    if mt == 2 and nt == 2: tile_load(3, o.bias + 16, 0)
    for i in range(rows):
        acc[2 * i] = v_load(o.bias)
        acc[2 * i + 1] = v_load(o.bias + VW)
    v_fence()
    for k in range(o.steps):
        # (After the last step the table of offsets goes on with small numbers.)
        n.a = o.a + o.offsets[k + 1]
        n.b = b + 2 * parts * TILE
        step(parts, mt, nt, rows, acc, o.a + o.offsets[k], o.part, b, &n)
        b += 2 * parts * TILE
        n.f += rows * BLOCK
        n.w += BLOCK * PANEL
        if o.ahead < o.ahead_end:
            for i in range(32):
                prefetch_far(o.ahead + i * 64)
            o.ahead += 32 * 64
    v_fence()
    if mt: tile_store(0, out, 4 * PANEL)
    if mt and nt == 2: tile_store(1, out + 16, 4 * PANEL)
    if mt == 2: tile_store(2, out + 16 * PANEL, 4 * PANEL)
    if mt == 2 and nt == 2: tile_store(3, out + 16 * PANEL + 16, 4 * PANEL)
    v_fence()
    for i in range(rows):
        v_store(out + (TALL + i) * PANEL, acc[2 * i])
        if nt == 2: v_store(out + (TALL + i) * PANEL + VW, acc[2 * i + 1])


cdef inline void some_products(
    const int parts, const int rows, int64_t tall, bint few, bint wide, Operands* o,
) noexcept nogil:
    """``tall`` pixels in tiles, and ``rows`` in vectors if ``few``."""
    if wide:
        if few and tall > 0: products(parts, 2, 2, rows, o)
        elif few: products(parts, 0, 2, rows, o)
        elif tall > 16: products(parts, 2, 2, 0, o)
        else: products(parts, 1, 2, 0, o)
    else:
        if few and tall > 0: products(parts, 2, 1, rows, o)
        elif few: products(parts, 0, 1, rows, o)
        elif tall > 16: products(parts, 2, 1, 0, o)
        else: products(parts, 1, 1, 0, o)
