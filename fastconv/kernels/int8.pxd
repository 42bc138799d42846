"""The 8-bit primitives of ``int8.h``, declared for Cython."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t

from fastconv.kernels.simd cimport vf, vi

cdef extern from "int8.h" nogil:
    enum: VB
    enum: QROWS
    enum: QPANELS
    enum: QTAP
    enum: HAVE_AMX
    ctypedef uint8_t vb
    ctypedef int32_t dot_u
    ctypedef int32_t dot_s
    ctypedef int16_t act_t
    ctypedef int16_t wgt_t
    ctypedef int32_t few_u
    ctypedef int32_t few_s
    vi vi_round(vf a)
    vf vi_float(vi a)
    vi vi_load(const int32_t* p)
    void vi_store(int32_t* p, vi a)
    void vi_store_n(int32_t* p, vi a, int n)
    vi vi_mul(vi a, vi b)
    vf vi_apart(vf a)
    vf vi_fma(vf a, vf b, vf c)
    vi vi_zero()
    vb vb_load(const uint8_t* p)
    void vb_store(uint8_t* p, vb a)
    vb vb_load_n(const uint8_t* p, int n)
    void vb_store_n(uint8_t* p, vb a, int n)
    vb vb_zero()
    vi vi_of(vb a)
    vb vb_max(vb a, vb b)
    vi vi_load_bytes(const uint8_t* p, int n)
    void vi_store_bytes(uint8_t* p, vi a, int n)
    dot_u dot_u_of(vb a)
    dot_s dot_s_load(const int8_t* p)
    vi dot(vi acc, dot_u u, dot_s s)
    few_u few_all(const act_t* p)
    few_s few_load(const wgt_t* p)
    vi few_dot(vi acc, few_u u, few_s s)
    void act_copy(act_t* y, const uint8_t* x, int64_t n)
    void act_fill(act_t* y, int value, int64_t n)
    void vb_zip4(vb r0, vb r1, vb r2, vb r3, vb* out)
    vb vb_pack_add(vi a0, vi a1, vi a2, vi a3, int zero)
    void vi_store_pair(uint8_t* p, vi a0, vi a1, int zero, int lo)
    vb vb_set(int a)
    void bytes_short(uint8_t* y, const uint8_t* x, int n)
    vi vi_max(vi a, vi b)
    void bytes_copy(uint8_t* y, const uint8_t* x, int64_t n)
    void bytes_fill(uint8_t* y, int value, int64_t n)
    void amx_start(int rows)
    void amx_stop()
    void amx_product(
        int two_rows, int two_panels, const act_t* a, int64_t stride, int64_t rows,
        const wgt_t* b, int64_t step, int64_t depth, int32_t* acc,
    )
