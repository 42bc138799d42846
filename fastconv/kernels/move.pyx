"""Data movement: layout conversion, copies of rows."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from fastconv.kernels.abi cimport Call, share

ctypedef fused element:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef struct TransposeParams:
    int64_t batch, rows, cols
    # y[b*y_batch + r*y_row + c] = x[b*x_batch + r + c*x_col], in elements.
    int64_t x_batch, x_col, y_batch, y_row


cdef inline void transpose(element* unused, const Call* c, int thread, int threads) noexcept nogil:
    cdef const TransposeParams* p = <const TransposeParams*>c.params
    cdef int64_t strips = (p.rows + 15) // 16
    cdef int64_t u = share(p.batch * strips, thread, threads)
    cdef int64_t end = share(p.batch * strips, thread + 1, threads)
    cdef int64_t b, r0, r1, c0, c1, i, j
    cdef const element* x
    cdef element* y
    while u < end:
        b = u // strips
        r0 = u % strips * 16
        r1 = min(r0 + 16, p.rows)
        x = (<const element*>c.buf[0]) + b * p.x_batch
        y = (<element*>c.buf[1]) + b * p.y_batch
        c0 = 0
        while c0 < p.cols:
            c1 = min(c0 + 16, p.cols)
            for i in range(r0, r1):
                for j in range(c0, c1):
                    y[i * p.y_row + j] = x[i + j * p.x_col]
            c0 += 16
        u += 1


cdef void transpose8(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 1 byte)."""
    transpose(<uint8_t*>NULL, c, thread, threads)


cdef void transpose16(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 2 bytes)."""
    transpose(<uint16_t*>NULL, c, thread, threads)


cdef void transpose32(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 4 bytes)."""
    transpose(<uint32_t*>NULL, c, thread, threads)


cdef void transpose64(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y (elements of 8 bytes)."""
    transpose(<uint64_t*>NULL, c, thread, threads)


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
        memcpy(y + r * p.y_row, x + r * p.x_row, p.bytes)


def pack_copy(**values):
    """The bytes of ``CopyParams``."""
    cdef CopyParams p = values
    return (<char*>&p)[:sizeof(CopyParams)]


KERNELS = {
    "transpose8": (<uintptr_t>&transpose8, pack_transpose),
    "transpose16": (<uintptr_t>&transpose16, pack_transpose),
    "transpose32": (<uintptr_t>&transpose32, pack_transpose),
    "transpose64": (<uintptr_t>&transpose64, pack_transpose),
    "copy_rows": (<uintptr_t>&copy_rows, pack_copy),
}
