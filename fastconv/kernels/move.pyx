"""Data movement: layout conversion, strided copies, concatenation, padding and gathering of rows.

Elements are opaque: only their size counts. Where a kernel takes strides or offsets they are in
bytes, except in ``transpose*``, whose are in elements.
"""

from libc.stdint cimport (
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
    uintptr_t,
)
from libc.string cimport memcpy

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *

cdef extern from *:
    """
    #include "simd.h"
    /* Shuffles of two vectors by literal lane numbers (the second vector's lanes start at VW). */
    #if defined(__has_builtin)
    #if __has_builtin(__builtin_shufflevector)
    #define V_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
    #endif
    #endif
    #ifndef V_SHUFFLE
    #define V_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
    #endif
    #define V_LANES4(F, k, l) F(k, l), F(k, l + 1), F(k, l + 2), F(k, l + 3)
    #define V_LANES8(F, k, l) V_LANES4(F, k, l), V_LANES4(F, k, l + 4)
    #if VW == 16
    #define V_LANES(F, k) V_LANES8(F, k, 0), V_LANES8(F, k, 8)
    #elif VW == 8
    #define V_LANES(F, k) V_LANES8(F, k, 0)
    #else
    #define V_LANES(F, k) V_LANES4(F, k, 0)
    #endif
    /* Lane l of half k of a and b interleaved; lane l of the even (k = 0) or odd lanes of a, b. */
    #define V_ZIP_LANE(k, l) ((l) % 2 * VW + (k) * VW / 2 + (l) / 2)
    #define V_UNZIP_LANE(k, l) (2 * (l) + (k))
    #define V_ZIP(k, a, b) V_SHUFFLE(a, b, V_LANES(V_ZIP_LANE, k))
    #define V_UNZIP(k, a, b) V_SHUFFLE(a, b, V_LANES(V_UNZIP_LANE, k))
    /* The same for three vectors, in two shuffles each. */
    #define V_E(k, l) ((k) * VW + (l))
    #define V_ZIP3_AB(k, l) (V_E(k, l) % 3 == 1 ? VW + V_E(k, l) / 3 : V_E(k, l) / 3)
    #define V_ZIP3_C(k, l) (V_E(k, l) % 3 == 2 ? VW + V_E(k, l) / 3 : (l))
    #define V_ZIP3(k, a, b, c) \\
        V_SHUFFLE(V_SHUFFLE(a, b, V_LANES(V_ZIP3_AB, k)), c, V_LANES(V_ZIP3_C, k))
    #define V_P(k, l) (3 * (l) + (k))
    #define V_UNZIP3_AB(k, l) (V_P(k, l) < 2 * VW ? V_P(k, l) : 0)
    #define V_UNZIP3_C(k, l) (V_P(k, l) < 2 * VW ? (l) : V_P(k, l) - VW)
    #define V_UNZIP3(k, a, b, c) \\
        V_SHUFFLE(V_SHUFFLE(a, b, V_LANES(V_UNZIP3_AB, k)), c, V_LANES(V_UNZIP3_C, k))

    V_INLINE void v_zip2(float *y, vf a, vf b) {
        v_store(y, V_ZIP(0, a, b));
        v_store(y + VW, V_ZIP(1, a, b));
    }
    V_INLINE void v_zip3(float *y, vf a, vf b, vf c) {
        v_store(y, V_ZIP3(0, a, b, c));
        v_store(y + VW, V_ZIP3(1, a, b, c));
        v_store(y + 2 * VW, V_ZIP3(2, a, b, c));
    }
    V_INLINE void v_zip4(float *y, vf a, vf b, vf c, vf d) {
        vf p = V_ZIP(0, a, c), q = V_ZIP(1, a, c), r = V_ZIP(0, b, d), s = V_ZIP(1, b, d);
        v_zip2(y, p, r);
        v_zip2(y + 2 * VW, q, s);
    }
    V_INLINE vf v_even(vf a, vf b) { return V_UNZIP(0, a, b); }
    V_INLINE vf v_odd(vf a, vf b) { return V_UNZIP(1, a, b); }
    V_INLINE vf v_unzip3_0(vf a, vf b, vf c) { return V_UNZIP3(0, a, b, c); }
    V_INLINE vf v_unzip3_1(vf a, vf b, vf c) { return V_UNZIP3(1, a, b, c); }
    V_INLINE vf v_unzip3_2(vf a, vf b, vf c) { return V_UNZIP3(2, a, b, c); }
    /* a[i][j] <-> a[j][i]: each stage rotates the bits of (row, lane) by one. */
    V_INLINE void v_transpose(vf *a) {
        vf b[VW];
    #define V_STAGE(x, y) \\
        _Pragma("GCC unroll 8") for (int i = 0; i < VW / 2; i++) { \\
            y[2 * i] = V_ZIP(0, x[i], x[i + VW / 2]); \\
            y[2 * i + 1] = V_ZIP(1, x[i], x[i + VW / 2]); \\
        }
        V_STAGE(a, b)
        V_STAGE(b, a)
    #if VW == 8
        V_STAGE(a, b)
        _Pragma("GCC unroll 8") for (int i = 0; i < VW; i++) a[i] = b[i];
    #elif VW == 16
        V_STAGE(a, b)
        V_STAGE(b, a)
    #endif
    }
    """
    void v_zip2(float* y, vf a, vf b) nogil
    void v_zip3(float* y, vf a, vf b, vf c) nogil
    void v_zip4(float* y, vf a, vf b, vf c, vf d) nogil
    vf v_even(vf a, vf b) nogil
    vf v_odd(vf a, vf b) nogil
    vf v_unzip3_0(vf a, vf b, vf c) nogil
    vf v_unzip3_1(vf a, vf b, vf c) nogil
    vf v_unzip3_2(vf a, vf b, vf c) nogil
    void v_transpose(vf* a) nogil

ctypedef fused element:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef inline void copy_bytes(char* y, const char* x, int64_t n) noexcept nogil:
    """memcpy that is quick on the short rows of a few channels."""
    cdef int64_t i = 0
    cdef uint64_t head, tail
    if 8 <= n <= 16:
        # Two pieces that may overlap.
        memcpy(&head, x, 8)
        memcpy(&tail, x + n - 8, 8)
        memcpy(y, &head, 8)
        memcpy(y + n - 8, &tail, 8)
        return
    if n < 4 * VW or n > 2048:
        memcpy(y, x, n)
        return
    while i + 4 * VW <= n:
        v_store(<float*>(y + i), v_load(<const float*>(x + i)))
        i += 4 * VW
    if i < n:
        i = n - 4 * VW
        v_store(<float*>(y + i), v_load(<const float*>(x + i)))


# Transposition of a matrix: y[r * y_row + c] = x[r + c * x_col].

cdef enum:
    BAND = 64       # rows or columns that one piece of work transposes

cdef inline void zip_columns(
    const int cols, const float* x, int64_t x_col, float* y, int64_t rows
) noexcept nogil:
    """Interleave ``cols`` (2, 3 or 4) streams of ``rows`` elements."""
    cdef int64_t i = 0
    cdef int j
    while i + VW <= rows:
        if cols == 2:
            v_zip2(y + 2 * i, v_load(x + i), v_load(x + x_col + i))
        elif cols == 3:
            v_zip3(y + 3 * i, v_load(x + i), v_load(x + x_col + i), v_load(x + 2 * x_col + i))
        else:
            v_zip4(
                y + 4 * i, v_load(x + i), v_load(x + x_col + i), v_load(x + 2 * x_col + i),
                v_load(x + 3 * x_col + i),
            )
        i += VW
    while i < rows:
        for j in range(cols):
            (<uint32_t*>y)[cols * i + j] = (<const uint32_t*>x)[j * x_col + i]
        i += 1


cdef inline void unzip_rows(
    const int rows, const float* x, float* y, int64_t y_row, int64_t cols
) noexcept nogil:
    """Take ``rows`` (2, 3 or 4) interleaved streams of ``cols`` elements apart."""
    cdef int64_t i = 0
    cdef int j
    cdef vf a, b, c, d, p, q
    while i + VW <= cols:
        a = v_load(x + rows * i)
        b = v_load(x + rows * i + VW)
        if rows == 2:
            v_store(y + i, v_even(a, b))
            v_store(y + y_row + i, v_odd(a, b))
        elif rows == 3:
            c = v_load(x + 3 * i + 2 * VW)
            v_store(y + i, v_unzip3_0(a, b, c))
            v_store(y + y_row + i, v_unzip3_1(a, b, c))
            v_store(y + 2 * y_row + i, v_unzip3_2(a, b, c))
        else:
            c = v_load(x + 4 * i + 2 * VW)
            d = v_load(x + 4 * i + 3 * VW)
            p = v_even(a, b)
            q = v_even(c, d)
            v_store(y + i, v_even(p, q))
            v_store(y + 2 * y_row + i, v_odd(p, q))
            p = v_odd(a, b)
            q = v_odd(c, d)
            v_store(y + y_row + i, v_even(p, q))
            v_store(y + 3 * y_row + i, v_odd(p, q))
        i += VW
    while i < cols:
        for j in range(rows):
            (<uint32_t*>y)[j * y_row + i] = (<const uint32_t*>x)[rows * i + j]
        i += 1


cdef inline void block32(
    const float* x, int64_t x_col, float* y, int64_t y_row, int rows, int cols
) noexcept nogil:
    """Up to VW × VW elements through registers."""
    cdef vf a[VW]
    cdef int i
    if rows == VW and cols == VW:
        for i in range(VW):
            a[i] = v_load(x + i * x_col)
        v_transpose(a)
        for i in range(VW):
            v_store(y + i * y_row, a[i])
        return
    for i in range(VW):
        a[i] = v_load_n(x + i * x_col, rows) if i < cols and rows < VW else (
            v_load(x + i * x_col) if i < cols else v_zero()
        )
    v_transpose(a)
    for i in range(VW):
        if i < rows:
            if cols == VW:
                v_store(y + i * y_row, a[i])
            else:
                v_store_n(y + i * y_row, a[i], cols)


cdef void matrix32(
    const float* x, int64_t x_col, float* y, int64_t y_row, int64_t rows, int64_t cols
) noexcept nogil:
    """Transpose a matrix of 4-byte elements."""
    cdef int64_t r = 0, c
    if 2 <= cols <= 4 and y_row == cols:
        if cols == 2: zip_columns(2, x, x_col, y, rows)
        elif cols == 3: zip_columns(3, x, x_col, y, rows)
        else: zip_columns(4, x, x_col, y, rows)
        return
    if 2 <= rows <= 4 and x_col == rows:
        if rows == 2: unzip_rows(2, x, y, y_row, cols)
        elif rows == 3: unzip_rows(3, x, y, y_row, cols)
        else: unzip_rows(4, x, y, y_row, cols)
        return
    if rows <= BAND:
        # The short side is the inner loop: what one pass touches stays in the cache.
        c = 0
        while c < cols:
            r = 0
            while r < rows:
                block32(
                    x + r + c * x_col, x_col, y + r * y_row + c, y_row,
                    <int>min(<int64_t>VW, rows - r), <int>min(<int64_t>VW, cols - c),
                )
                r += VW
            c += VW
        return
    while r < rows:
        c = 0
        while c < cols:
            block32(
                x + r + c * x_col, x_col, y + r * y_row + c, y_row,
                <int>min(<int64_t>VW, rows - r), <int>min(<int64_t>VW, cols - c),
            )
            c += VW
        r += VW


cdef void matrix(
    const element* x, int64_t x_col, element* y, int64_t y_row, int64_t rows, int64_t cols
) noexcept nogil:
    """Transpose a matrix of elements of any size, 16 × 16 at a time for the cache."""
    cdef int64_t r0 = 0, r1, c0, c1, i, j
    while r0 < rows:
        r1 = min(r0 + 16, rows)
        c0 = 0
        while c0 < cols:
            c1 = min(c0 + 16, cols)
            for i in range(r0, r1):
                for j in range(c0, c1):
                    y[i * y_row + j] = x[i + j * x_col]
            c0 += 16
        r0 += 16


cdef inline void any_matrix(
    int item, const char* x, int64_t x_col, char* y, int64_t y_row, int64_t rows, int64_t cols
) noexcept nogil:
    """Transpose a matrix of elements of ``item`` bytes; strides in elements."""
    if item == 4:
        matrix32(<const float*>x, x_col, <float*>y, y_row, rows, cols)
    elif item == 1:
        matrix[uint8_t](<const uint8_t*>x, x_col, <uint8_t*>y, y_row, rows, cols)
    elif item == 2:
        matrix[uint16_t](<const uint16_t*>x, x_col, <uint16_t*>y, y_row, rows, cols)
    else:
        matrix[uint64_t](<const uint64_t*>x, x_col, <uint64_t*>y, y_row, rows, cols)


cdef struct TransposeParams:
    int64_t batch, rows, cols
    # y[b*y_batch + r*y_row + c] = x[b*x_batch + r + c*x_col], in elements.
    int64_t x_batch, x_col, y_batch, y_row


cdef void transpose(const int item, const Call* c, int thread, int threads) noexcept nogil:
    cdef const TransposeParams* p = <const TransposeParams*>c.params
    cdef bint tall = p.rows >= p.cols
    # The longer side is cut into bands; a band of rows or columns is one piece of work.
    cdef int64_t longer = p.rows if tall else p.cols
    cdef int64_t band = BAND if longer * min(p.rows, p.cols) >= 1 << 16 else longer
    if min(p.rows, p.cols) <= 4:
        band = 4096
    band = max(<int64_t>1, band)
    cdef int64_t bands = (longer + band - 1) // band
    cdef int64_t u = share(p.batch * bands, thread, threads)
    cdef int64_t end = share(p.batch * bands, thread + 1, threads)
    cdef int64_t b, first, n
    cdef const char* x
    cdef char* y
    while u < end:
        b = u // bands
        first = u % bands * band
        n = min(band, longer - first)
        x = (<const char*>c.buf[0]) + item * (b * p.x_batch + (first if tall else first * p.x_col))
        y = (<char*>c.buf[1]) + item * (b * p.y_batch + (first * p.y_row if tall else first))
        any_matrix(
            item, x, p.x_col, y, p.y_row, n if tall else p.rows, p.cols if tall else n
        )
        u += 1


cdef void transpose8(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 1 byte)."""
    transpose(1, c, thread, threads)


cdef void transpose16(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 2 bytes)."""
    transpose(2, c, thread, threads)


cdef void transpose32(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 4 bytes)."""
    transpose(4, c, thread, threads)


cdef void transpose64(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 8 bytes)."""
    transpose(8, c, thread, threads)


def pack_transpose(**values):
    """The bytes of ``TransposeParams``."""
    cdef TransposeParams p = values
    return (<char*>&p)[:sizeof(TransposeParams)]


cdef struct CopyParams:
    int64_t rows, bytes, x_row, y_row


cdef void copy_rows(const Call* c, int thread, int threads) noexcept nogil:
    """Copies ``rows`` rows of ``bytes`` bytes; ``x_row``, ``y_row`` apart. Buffers: x, y."""
    cdef const CopyParams* p = <const CopyParams*>c.params
    cdef int64_t r, lo, hi
    cdef const char* x = <const char*>c.buf[0]
    cdef char* y = <char*>c.buf[1]
    if p.rows == 1:
        lo = share(p.bytes, thread, threads)
        hi = share(p.bytes, thread + 1, threads)
        memcpy(y + lo, x + lo, hi - lo)
        return
    for r in range(share(p.rows, thread, threads), share(p.rows, thread + 1, threads)):
        copy_bytes(y + r * p.y_row, x + r * p.x_row, p.bytes)


def pack_copy(**values):
    """The bytes of ``CopyParams``."""
    cdef CopyParams p = values
    return (<char*>&p)[:sizeof(CopyParams)]


cdef enum:
    MAX_RANK = 8
    ROWS = 0        # the innermost axis is contiguous on both sides: n bytes each
    ELEMENTS = 1    # n elements, x_step and y_step bytes apart
    MATRIX = 2      # the two innermost axes swap: n rows of y, cols columns


cdef struct StridedParams:
    int64_t dims[MAX_RANK]
    int64_t xs[MAX_RANK]
    int64_t ys[MAX_RANK]
    int64_t rank, x_0, n, x_step, y_step, cols, parts
    int32_t mode, item


cdef inline void copy_elements(
    element* y, const element* x, int64_t x_step, int64_t y_step, int64_t n
) noexcept nogil:
    """Copy elements whose distances are given in bytes."""
    cdef int64_t i
    if y_step == sizeof(element) and x_step == 0:
        for i in range(n):
            y[i] = x[0]
        return
    for i in range(n):
        (<element*>(<char*>y + i * y_step))[0] = (<const element*>(<const char*>x + i * x_step))[0]


cdef inline void piece(
    const StridedParams* p, const char* x, char* y, int64_t lo, int64_t hi
) noexcept nogil:
    """What the innermost axis (or two) holds, from element or row ``lo`` to ``hi``."""
    if p.mode == ROWS:
        copy_bytes(y + lo, x + lo, hi - lo)
        return
    if p.mode == MATRIX:
        any_matrix(
            p.item, x + lo * p.item, p.x_step, y + lo * p.y_step * p.item, p.y_step, hi - lo, p.cols
        )
        return
    x += lo * p.x_step
    y += lo * p.y_step
    if p.item == 4:
        copy_elements(<uint32_t*>y, <const uint32_t*>x, p.x_step, p.y_step, hi - lo)
    elif p.item == 1:
        copy_elements(<uint8_t*>y, <const uint8_t*>x, p.x_step, p.y_step, hi - lo)
    elif p.item == 2:
        copy_elements(<uint16_t*>y, <const uint16_t*>x, p.x_step, p.y_step, hi - lo)
    else:
        copy_elements(<uint64_t*>y, <const uint64_t*>x, p.x_step, p.y_step, hi - lo)


cdef void strided(const Call* c, int thread, int threads) noexcept nogil:
    """A copy with any strides on both sides: ``rank`` (1 to 8) outer axes around an innermost
    piece, which is cut into ``parts`` for the threads where there are few outer ones.
    Buffers: x, y."""
    cdef const StridedParams* p = <const StridedParams*>c.params
    cdef int64_t total = p.parts, u, end, k, rest, part, run, t
    cdef int64_t last = p.rank - 1, x_last = p.xs[p.rank - 1], y_last = p.ys[p.rank - 1]
    cdef int64_t at[MAX_RANK]
    cdef const char* x
    cdef char* y
    for k in range(p.rank):
        total *= p.dims[k]
    u = share(total, thread, threads)
    end = share(total, thread + 1, threads)
    while u < end:
        x = (<const char*>c.buf[0]) + p.x_0
        y = <char*>c.buf[1]
        part = u % p.parts
        rest = u // p.parts
        k = last
        while k >= 0:
            at[k] = rest % p.dims[k]
            rest = rest // p.dims[k]
            x += at[k] * p.xs[k]
            y += at[k] * p.ys[k]
            k -= 1
        if p.parts > 1:
            piece(p, x, y, share(p.n, part, p.parts), share(p.n, part + 1, p.parts))
            u += 1
            continue
        # All that is left along the last outer axis in one go.
        run = min(p.dims[last] - at[last], end - u)
        for t in range(run):
            piece(p, x + t * x_last, y + t * y_last, 0, p.n)
        u += run


def pack_strided(*, dims, xs, ys, x_0, n, x_step, y_step, cols, parts, mode, item):
    """The bytes of ``StridedParams``; ``dims``, ``xs`` and ``ys`` are lists of up to 8."""
    cdef StridedParams p
    p.rank = max(1, len(dims))
    assert p.rank <= MAX_RANK
    for k in range(MAX_RANK):
        p.dims[k] = dims[k] if k < len(dims) else 1
        p.xs[k] = xs[k] if k < len(dims) else 0
        p.ys[k] = ys[k] if k < len(dims) else 0
    p.x_0 = x_0
    p.n = n
    p.x_step = x_step
    p.y_step = y_step
    p.cols = cols
    p.parts = parts
    p.mode = mode
    p.item = item
    return (<char*>&p)[:sizeof(StridedParams)]


cdef struct ConcatParams:
    int64_t rows, parts, count, y_row
    # followed by ``count`` times (bytes, x_row)


cdef void concat(const Call* c, int thread, int threads) noexcept nogil:
    """Each row of y is a row of every input, one after the other. Buffers: inputs…, y."""
    cdef const ConcatParams* p = <const ConcatParams*>c.params
    cdef const int64_t* of = <const int64_t*>((<const char*>c.params) + sizeof(ConcatParams))
    cdef int64_t u = share(p.rows * p.parts, thread, threads)
    cdef int64_t end = share(p.rows * p.parts, thread + 1, threads)
    cdef int64_t r, k, part, lo, hi
    cdef char* y
    while u < end:
        r = u // p.parts
        part = u % p.parts
        y = (<char*>c.buf[p.count]) + r * p.y_row
        for k in range(p.count):
            lo = share(of[2 * k], part, p.parts) if p.parts > 1 else 0
            hi = share(of[2 * k], part + 1, p.parts) if p.parts > 1 else of[2 * k]
            copy_bytes(y + lo, (<const char*>c.buf[k]) + r * of[2 * k + 1] + lo, hi - lo)
            y += of[2 * k]
        u += 1


def pack_concat(*, rows, parts, sizes, strides):
    """The bytes of ``ConcatParams`` and of the inputs' row sizes and strides."""
    cdef ConcatParams p
    cdef int64_t pair[2]
    p.rows = rows
    p.parts = parts
    p.count = len(sizes)
    p.y_row = sum(sizes)
    result = (<char*>&p)[:sizeof(ConcatParams)]
    for size, stride in zip(sizes, strides, strict=True):
        pair[0] = size
        pair[1] = stride
        result += (<char*>pair)[:sizeof(pair)]
    return result


cdef struct TakeParams:
    int64_t n0, n1, n2, segments, y_row


cdef inline void fill_bytes(char* y, const char* pattern, int64_t n) noexcept nogil:
    """Repeat a pattern of 64 bytes."""
    cdef int64_t i = 0
    cdef vf v = v_load(<const float*>pattern)
    while i + 4 * VW <= n:
        v_store(<float*>(y + i), v)
        i += 4 * VW
    memcpy(y + i, pattern, n - i)


cdef void take(const Call* c, int thread, int threads) noexcept nogil:
    """Rows put together from pieces of x, at positions from tables.

    Row (i, j, k) of y starts from x + t0[i] + t1[j] + t2[k] and is a sequence of segments (offset,
    bytes) from there; a negative table entry or offset means the fill pattern instead.
    Buffers: x, tables t0 t1 t2 one after the other, segments, fill pattern of 64 bytes, y.
    """
    cdef const TakeParams* p = <const TakeParams*>c.params
    cdef const int64_t* t0 = <const int64_t*>c.buf[1]
    cdef const int64_t* t1 = t0 + p.n0
    cdef const int64_t* t2 = t1 + p.n1
    cdef const int64_t* segment = <const int64_t*>c.buf[2]
    cdef const char* pattern = <const char*>c.buf[3]
    cdef int64_t rows = p.n0 * p.n1 * p.n2, s, a, b, d, n
    cdef int64_t r = share(rows, thread, threads), end = share(rows, thread + 1, threads)
    cdef const char* x
    cdef char* y
    while r < end:
        a = t0[r // (p.n1 * p.n2)]
        b = t1[r // p.n2 % p.n1]
        d = t2[r % p.n2]
        y = (<char*>c.buf[4]) + r * p.y_row
        if a < 0 or b < 0 or d < 0:
            fill_bytes(y, pattern, p.y_row)
        else:
            x = (<const char*>c.buf[0]) + a + b + d
            for s in range(p.segments):
                n = segment[2 * s + 1]
                if segment[2 * s] < 0:
                    fill_bytes(y, pattern, n)
                else:
                    copy_bytes(y, x + segment[2 * s], n)
                y += n
        r += 1


def pack_take(**values):
    """The bytes of ``TakeParams``."""
    cdef TakeParams p = values
    return (<char*>&p)[:sizeof(TakeParams)]


KERNELS = {
    "transpose8": (<uintptr_t>&transpose8, pack_transpose),
    "transpose16": (<uintptr_t>&transpose16, pack_transpose),
    "transpose32": (<uintptr_t>&transpose32, pack_transpose),
    "transpose64": (<uintptr_t>&transpose64, pack_transpose),
    "copy_rows": (<uintptr_t>&copy_rows, pack_copy),
    "strided": (<uintptr_t>&strided, pack_strided),
    "concat": (<uintptr_t>&concat, pack_concat),
    "take": (<uintptr_t>&take, pack_take),
}
