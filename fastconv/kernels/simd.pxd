"""The vector type of ``simd.h``, declared for Cython (which believes it to be a float)."""

from libc.stdint cimport int32_t, uint16_t

cdef extern from "simd.h" nogil:
    enum: VW
    enum: MR
    enum: MR3
    enum: FEW_ROWS
    enum: FEW_LANES
    enum: FUSED
    ctypedef float vf
    ctypedef int32_t vi
    vf v_load(const float *p)
    void v_store(float *p, vf a)
    vf v_load_n(const float *p, int n)
    void v_store_n(float *p, vf a, int n)
    vf v_set(float a)
    vf v_zero()
    vf v_add(vf a, vf b)
    vf v_sub(vf a, vf b)
    vf v_mul(vf a, vf b)
    vf v_div(vf a, vf b)
    vf v_neg(vf a)
    vf v_fma(vf a, vf b, vf c)
    vf v_max(vf a, vf b)
    vf v_min(vf a, vf b)
    vf v_sqrt(vf a)
    vi v_bits(vf a)
    vf v_from_bits(vi a)
    vi v_iset(int32_t a)
    vi v_iadd(vi a, vi b)
    vi v_isub(vi a, vi b)
    vi v_iand(vi a, vi b)
    vi v_ior(vi a, vi b)
    vi v_ixor(vi a, vi b)
    vi v_ishl(vi a, int n)
    vi v_ishr(vi a, int n)
    vi v_lt(vf a, vf b)
    vi v_le(vf a, vf b)
    vi v_gt(vf a, vf b)
    vi v_eq(vf a, vf b)
    vi v_ne(vf a, vf b)
    vf v_select(vi m, vf a, vf b)
    vi v_to_int(vf a)
    vf v_to_float(vi a)
    vf v_permute(vf a, vi index)
    vf v_recip(vf a)
    vf v_recip_above(vf a, vf x, vf limit)
    vf v_load_half(const uint16_t *p)
    void v_prefetch(const void *p)
    void v_fetch(const void *p)
    vf v_scale(vf y, vf t)
    vf v_alternate(vf a, vf b)
    void v_fence()
    const void *v_late(const void *p)
    float v_hsum(vf a)
    float v_hmax(vf a)
