"""Element-wise kernels."""

from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport activate


cdef struct UnaryParams:
    int64_t n
    int32_t act
    float alpha, beta, lo, hi


cdef void unary(const Call* c, int thread, int threads) noexcept nogil:
    """y = act(x), element by element. Buffers: x, y (may be the same)."""
    cdef const UnaryParams* p = <const UnaryParams*>c.params
    cdef int64_t i = share(p.n, thread, threads), end = share(p.n, thread + 1, threads)
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    cdef vf lo = v_set(p.lo), hi = v_set(p.hi)
    while i + VW <= end:
        v_store(y + i, v_min(hi, v_max(lo, v_load(x + i))))
        i += VW
    if i < end:
        v_store_n(y + i, v_min(hi, v_max(lo, v_load_n(x + i, <int>(end - i)))), <int>(end - i))


def pack_unary(**values):
    """The bytes of ``UnaryParams``."""
    cdef UnaryParams p = values
    return (<char*>&p)[:sizeof(UnaryParams)]


KERNELS = {"unary": (<uintptr_t>&unary, pack_unary)}
