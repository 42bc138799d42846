"""Vectors with fewer than VW lanes in use: shared by norm and reduce."""

from fastconv.kernels.simd cimport *


cdef inline vi first_lanes(int n) noexcept nogil:
    """All ones in the first ``n`` lanes."""
    cdef float t[VW]
    cdef int i
    for i in range(VW):
        t[i] = i
    return v_lt(v_load(t), v_set(<float>n))


cdef inline vf load(const float* p, int n) noexcept nogil:
    if n == VW:
        return v_load(p)
    return v_load_n(p, n)


cdef inline void store(float* p, vf a, int n) noexcept nogil:
    if n == VW:
        v_store(p, a)
    else:
        v_store_n(p, a, n)
