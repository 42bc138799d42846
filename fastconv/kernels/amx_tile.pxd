"""The inner loops of ``amx_conv``: products of digits in tiles.

Tiles 0 to 3 are sums of 16 pixels by 16 filters, 4 and 5 pixels, 6 and 7 weights.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t

from fastconv.kernels.simd cimport *

cdef extern from "amx.h" nogil:
    void tiles_begin()
    void tiles_end()
    void tile_load(int t, const void* p, Py_ssize_t stride)
    void tile_store(int t, void* p, Py_ssize_t stride)
    void tile_zero(int t)
    void tile_mul(int c, int a, int b)
    void prefetch(const void* p)
    void prefetch_far(const void* p)
    vf larger(vf m, vf x)
    uint32_t largest(vf m)
    uint32_t magnitude_bits(float x)
    vf larger_below(vf m, vf x, uint32_t limit)
    vf below_or_zero(vf x, uint32_t limit)
    float digits_scale(uint32_t bits, float* back)
    void split_digits(vf x0, vf x1, vf x2, vf x3, char* p, Py_ssize_t pitch)
    vf join_sums(const int32_t* c, Py_ssize_t pitch)

cdef enum:
    DIGITS = 3              # of a number
    TILE = 1024             # bytes of a tile
    PANEL = 32              # output channels of a panel
    BLOCK = 64              # input channels of a block
    TALL = 32               # successive pixels of a group
    SUMS = TALL * PANEL     # integers of a group's sums, of each weight


cdef struct Operands:
    const char* a           # the first pixel's digits; each is `pitch` bytes from the one before
    Py_ssize_t pitch
    const char* b           # the panel's weights
    const int64_t* offsets  # of each step, from a
    int64_t steps
    const char* ahead       # the next panel's weights
    const char* ahead_end
    int32_t* sums           # [weight][TALL][PANEL]


cdef struct Pending:
    # A group whose sums are joined while tiles are busy with the next one's: float = sums * back
    # of the pixel * unit of the filter + bias of the filter.
    const int32_t* sums
    const float* back
    const float* unit
    const float* bias
    float* out
    int64_t step            # floats from a pixel of out to the next
    int64_t count, next     # pixels; the next one to join
    int64_t chunk           # pixels to join at a time
    float check[2 * VW]     # zeros as long as all is finite


cdef inline void join(Pending* q, int64_t n) noexcept nogil:
    """Join up to ``n`` more pixels."""
    cdef int64_t i, end = min(q.next + n, q.count)
    cdef const int32_t* sums = q.sums + q.next * PANEL
    cdef float* out = q.out + q.next * q.step
    cdef vf s, a, b, u0 = v_load(q.unit), u1 = v_load(q.unit + VW)
    cdef vf b0 = v_load(q.bias), b1 = v_load(q.bias + VW)
    cdef vf c0 = v_load(q.check), c1 = v_load(q.check + VW)
    for i in range(q.next, end):
        s = v_set(q.back[i])
        a = v_fma(v_mul(join_sums(sums, SUMS), s), u0, b0)
        b = v_fma(v_mul(join_sums(sums + VW, SUMS), s), u1, b1)
        c0 = v_fma(a, v_zero(), c0)
        c1 = v_fma(b, v_zero(), c1)
        v_store(out, a)
        v_store(out + VW, b)
        sums += PANEL
        out += q.step
    v_store(q.check, c0)
    v_store(q.check + VW, c1)
    q.next = end


cdef inline bint joined_finite(Pending* q, bint wide) noexcept nogil:
    """Join what is left; whether all of it is finite. ``wide``: the panel's second half counts."""
    join(q, q.count)
    if wide:
        return v_hsum(v_add(v_load(q.check), v_load(q.check + VW))) == 0
    return v_hsum(v_load(q.check)) == 0


cdef inline void begin(Pending* q, const Operands* o, int64_t count) noexcept nogil:
    """Make the group whose sums are there the pending one."""
    q.sums = o.sums
    q.count = count
    q.next = 0
    q.chunk = (TALL + 6 * o.steps - 1) // (6 * o.steps)
    v_store(q.check, v_zero())
    v_store(q.check + VW, v_zero())


cdef inline void multiply(const int mt, const int nt, const char* a, const char* b) noexcept nogil:
    """Tiles 0..3 += one digit of pixels × one digit of weights."""
    tile_load(4, a, 64)
    tile_load(6, b, 64)
    if nt == 2: tile_load(7, b + DIGITS * TILE, 64)
    if mt == 2: tile_load(5, a + TILE, 64)
    tile_mul(0, 4, 6)
    if nt == 2: tile_mul(1, 4, 7)
    if mt == 2: tile_mul(2, 5, 6)
    if mt == 2 and nt == 2: tile_mul(3, 5, 7)


cdef inline void sums_of(
    const int weight, const int mt, const int nt, Operands* o, Pending* q,
) noexcept nogil:
    """``mt * 16`` pixels by ``nt * 16`` filters: sums of the products whose digits are ``weight``
    places from the highest together."""
    cdef int64_t k
    cdef int i
    cdef const char* a
    cdef const char* b = o.b
    cdef Py_ssize_t pitch = o.pitch
    cdef char* out = <char*>(o.sums + weight * SUMS)
    tile_zero(0)
    if nt == 2: tile_zero(1)
    if mt == 2: tile_zero(2)
    if mt == 2 and nt == 2: tile_zero(3)
    for k in range(o.steps):
        a = o.a + o.offsets[k]
        for i in range(weight + 1):
            multiply(mt, nt, a + (weight - i) * pitch, b + i * TILE)
            if q.next < q.count:
                join(q, q.chunk)
        if weight == DIGITS - 1 and o.ahead < o.ahead_end:
            for i in range(2 * DIGITS * TILE // 64):
                prefetch_far(o.ahead + i * 64)
            o.ahead += 2 * DIGITS * TILE
        b += 2 * DIGITS * TILE
    v_fence()
    tile_store(0, out, 4 * PANEL)
    if nt == 2: tile_store(1, out + 64, 4 * PANEL)
    if mt == 2: tile_store(2, out + 64 * PANEL, 4 * PANEL)
    if mt == 2 and nt == 2: tile_store(3, out + 64 * PANEL + 64, 4 * PANEL)
    v_fence()


cdef inline void products(
    const int mt, const int nt, Operands* o, Pending* q,
) noexcept nogil:
    """All the sums of a group of pixels, the smallest products first."""
    sums_of(2, mt, nt, o, q)
    sums_of(1, mt, nt, o, q)
    sums_of(0, mt, nt, o, q)


cdef inline void some_products(int64_t pixels, bint wide, Operands* o, Pending* q) noexcept nogil:
    """Sums of up to TALL pixels by a panel, or by half of one, and ``q`` joined meanwhile, in part."""
    v_fence()
    if wide:
        if pixels > 16: products(2, 2, o, q)
        else: products(1, 2, o, q)
    else:
        if pixels > 16: products(2, 1, o, q)
        else: products(1, 1, o, q)
