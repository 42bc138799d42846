"""Matrix products beside ``conv``: packing at run time, and matrix times vector."""

from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, activate


cdef struct PackParams:
    # Rows of the matrix are (tap, k) pairs: taps is 1 for a plain matrix.
    int64_t batch, taps, k, n
    # b[i*b_batch + t*b_tap + k*b_k + n*b_n], in floats.
    int64_t b_batch, b_tap, b_k, b_n


cdef void pack_b(const Call* c, int thread, int threads) noexcept nogil:
    """Packs a right-hand matrix as ``conv`` wants weights: [batch][panel][tap][k][2*VW].

    Buffers: b, packed.
    """
    cdef const PackParams* p = <const PackParams*>c.params
    cdef const float* b
    cdef float* y
    cdef int64_t panels = (p.n + 2 * VW - 1) // (2 * VW)
    cdef int64_t u = share(p.batch * panels, thread, threads)
    cdef int64_t end = share(p.batch * panels, thread + 1, threads)
    cdef int64_t t, k, j, n0, cols
    while u < end:
        n0 = u % panels * 2 * VW
        y = (<float*>c.buf[1]) + u * p.taps * p.k * 2 * VW
        cols = min(p.n - n0, 2 * VW)
        for t in range(p.taps):
            b = (<const float*>c.buf[0]) + u // panels * p.b_batch + t * p.b_tap + n0 * p.b_n
            if p.b_n == 1:
                for k in range(p.k):
                    for j in range(cols):
                        y[k * 2 * VW + j] = b[k * p.b_k + j]
            else:
                for j in range(cols):
                    for k in range(p.k):
                        y[k * 2 * VW + j] = b[k * p.b_k + j * p.b_n]
            if cols < 2 * VW:
                for k in range(p.k):
                    for j in range(cols, 2 * VW):
                        y[k * 2 * VW + j] = 0
            y += p.k * 2 * VW
        u += 1


def pack_pack_b(**values):
    """The bytes of ``PackParams``."""
    cdef PackParams p = values
    return (<char*>&p)[:sizeof(PackParams)]


cdef struct GemvParams:
    int64_t k, n
    int32_t act
    float lo, hi, alpha, beta


cdef inline void gemv_panels(
    const int panels, const GemvParams* p, const float* x, const float* w, const float* bias,
    const float* res, float* y, int64_t at,
) noexcept nogil:
    """``panels`` panels from column ``at``: enough sums in flight to hide an addition's latency."""
    cdef vf acc[4][2]
    cdef vf a, lo = v_set(p.lo), hi = v_set(p.hi)
    cdef int64_t k, stride = p.k * 2 * VW
    cdef int i, h, n
    if bias != NULL:
        bias += at
    if res != NULL:
        res += at
    y += at
    for i in range(panels):
        for h in range(2):
            acc[i][h] = v_zero() if bias == NULL else v_load(bias + (2 * i + h) * VW)
    for k in range(p.k):
        a = v_set(x[k])
        for i in range(panels):
            acc[i][0] = v_fma(a, v_load(w + i * stride), acc[i][0])
            acc[i][1] = v_fma(a, v_load(w + i * stride + VW), acc[i][1])
        w += 2 * VW
    for i in range(panels):
        for h in range(2):
            n = <int>min(p.n - at - (2 * i + h) * VW, VW)
            if n <= 0:
                break
            a = acc[i][h]
            if res != NULL:
                a = v_add(a, v_load_n(res + (2 * i + h) * VW, n) if n < VW
                          else v_load(res + (2 * i + h) * VW))
            a = v_min(hi, v_max(lo, a))
            if n < VW:
                v_store_n(y + (2 * i + h) * VW, a, n)
            else:
                v_store(y + (2 * i + h) * VW, a)


cdef void gemv(const Call* c, int thread, int threads) noexcept nogil:
    """One row times packed weights; each output is summed in the order ``conv`` sums it.

    Buffers: x, packed weights, bias or NULL, residual or NULL, y.
    """
    cdef const GemvParams* p = <const GemvParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* w = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* res = <const float*>c.buf[3]
    cdef float* y = <float*>c.buf[4]
    cdef int64_t panels = (p.n + 2 * VW - 1) // (2 * VW)
    cdef int64_t j = share(panels, thread, threads), end = share(panels, thread + 1, threads)
    cdef int64_t j0 = j, at
    while j < end:
        at = j * 2 * VW
        if j + 4 <= end:
            gemv_panels(4, p, x, w + at * p.k, bias, res, y, at)
            j += 4
        else:
            gemv_panels(1, p, x, w + at * p.k, bias, res, y, at)
            j += 1
    if p.act > ACT_CLIP and j0 < end:
        at = j0 * 2 * VW
        activate(p.act, p.alpha, p.beta, y + at, min(end * 2 * VW, p.n) - at)


def pack_gemv(**values):
    """The bytes of ``GemvParams``."""
    cdef GemvParams p = values
    return (<char*>&p)[:sizeof(GemvParams)]


KERNELS = {
    "pack_b": (<uintptr_t>&pack_b, pack_pack_b),
    "gemv": (<uintptr_t>&gemv, pack_gemv),
}
