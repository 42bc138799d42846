"""Vectors with fewer than VW lanes in use, and the exponential: shared by norm and reduce."""

from fastconv.kernels.simd cimport *


cdef inline vf _exp(vf x) noexcept nogil:
    """e**x within 2 units in the last place, denormal results included; NaN stays NaN.

    Range reduction and polynomial of Moshier's Cephes library (expf).
    """
    cdef vf t, n, r, p
    cdef vi k, h
    x = v_min(v_set(89.0), v_max(v_set(-104.0), x))
    # Adding 1.5 * 2**23 rounds to an integer, which then sits in the low bits.
    t = v_fma(x, v_set(1.44269504088896341), v_set(12582912.0))
    k = v_isub(v_bits(t), v_iset(0x4B400000))
    n = v_sub(t, v_set(12582912.0))
    r = v_fma(n, v_set(-0.693359375), x)
    r = v_fma(n, v_set(2.12194440e-4), r)
    p = v_fma(v_set(1.9875691500e-4), r, v_set(1.3981999507e-3))
    p = v_fma(p, r, v_set(8.3334519073e-3))
    p = v_fma(p, r, v_set(4.1665795894e-2))
    p = v_fma(p, r, v_set(1.6666665459e-1))
    p = v_fma(p, r, v_set(5.0000001201e-1))
    p = v_add(v_fma(v_mul(p, r), r, r), v_set(1.0))
    # 2**k in two factors, so that results near the ends of the range come out right.
    h = v_ishr(k, 1)
    p = v_mul(p, v_from_bits(v_ishl(v_iadd(h, v_iset(127)), 23)))
    return v_mul(p, v_from_bits(v_ishl(v_iadd(v_isub(k, h), v_iset(127)), 23)))


cdef inline vf _abs(vf a) noexcept nogil:
    return v_from_bits(v_iand(v_bits(a), v_iset(0x7FFFFFFF)))


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
