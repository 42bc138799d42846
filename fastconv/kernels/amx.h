/* Tile-matrix instructions (Intel AMX) and the splitting of float32 into digits of eight bits. */
#ifndef FASTCONV_AMX_H
#define FASTCONV_AMX_H

#include "simd.h"

/* Tiles of 16 rows of 64 bytes, all eight. */
struct fastconv_tile_config {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

V_INLINE void tiles_begin(void) {
    struct fastconv_tile_config c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = 64;
        c.rows[i] = 16;
    }
    /* The intrinsic tells the compiler of the first eight bytes alone. */
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
}
/* Tiles in their initial state cost the operating system nothing at a context switch. */
V_INLINE void tiles_end(void) { _tile_release(); }

/* The tile numbers are part of the instructions: literals at every call. */
#define tile_load(t, p, stride) _tile_loadd(t, p, stride)
#define tile_store(t, p, stride) _tile_stored(t, p, stride)
/* Into the nearest cache, or the second; any address will do. */
#define prefetch_far(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
#define prefetch(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define tile_zero(t) _tile_zero(t)
#define tile_mul(c, a, b) _tile_dpbssd(c, a, b)

/* The larger magnitude, lane by lane, as the bits of a float; a NaN is larger than all numbers. */
V_INLINE vf larger(vf m, vf x) {
    return (vf)_mm512_max_epu32((__m512i)m, _mm512_and_si512((__m512i)x, _mm512_set1_epi32(0x7FFFFFFF)));
}
V_INLINE uint32_t largest(vf m) { return _mm512_reduce_max_epu32((__m512i)m); }
V_INLINE uint32_t magnitude_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits & 0x7FFFFFFF;
}
/* The same as ``larger``, of magnitudes whose bits are below a limit alone. */
V_INLINE vf larger_below(vf m, vf x, uint32_t limit) {
    __m512i a = _mm512_and_si512((__m512i)x, _mm512_set1_epi32(0x7FFFFFFF));
    __mmask16 k = _mm512_cmplt_epu32_mask(a, _mm512_set1_epi32((int)limit));
    return (vf)_mm512_mask_max_epu32((__m512i)m, k, (__m512i)m, a);
}

/* The factor that makes numbers up to the one of these bits integers of three digits of -128 to 127, and
 * its reciprocal. (Just below 127 * 65536 + 127 * 256 + 127, for the rounding of products; numbers too
 * small for that have fewer digits.) */
#define DIGITS_MOST 8355700.0f
V_INLINE float digits_scale(uint32_t bits, float *back) {
    const uint32_t least = 32u << 23;
    float f;
    bits = bits < least ? least : bits;
    memcpy(&f, &bits, 4);
    *back = f * (1.0f / DIGITS_MOST);
    return DIGITS_MOST / f;
}

/* Lanes of a where the mask has ones, else of b. */
#define BITS_OF(mask, a, b) _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)(mask)), a, b, 0xCA)
#define INTEGER(x) _mm512_add_epi32(_mm512_cvtps_epi32((__m512)(x)), bias)

/* The digits of 64 integral floats, highest first, to 64 bytes each at p, p + pitch and p + 2 * pitch:
 * byte 4 i + j is lane i of vector j. An integer plus 128 in each digit has these digits, plus 128 each,
 * for bytes. */
V_INLINE void split_digits(vf x0, vf x1, vf x2, vf x3, char *p, Py_ssize_t pitch) {
    const __m512i bias = _mm512_set1_epi32(0x808080), flip = _mm512_set1_epi32((int)0x80808080);
    __m512i a = INTEGER(x0), b = INTEGER(x1), c = INTEGER(x2), d = INTEGER(x3);
    __m512i lo = BITS_OF(0xFF, _mm512_srli_epi32(a, 16), _mm512_srli_epi32(b, 8));
    __m512i hi = BITS_OF(0xFF0000, c, _mm512_slli_epi32(d, 8));
    _mm512_store_si512(p, _mm512_xor_si512(BITS_OF(0xFFFF, lo, hi), flip));
    lo = BITS_OF(0xFF, _mm512_srli_epi32(a, 8), b);
    hi = BITS_OF(0xFF0000, _mm512_slli_epi32(c, 8), _mm512_slli_epi32(d, 16));
    _mm512_store_si512(p + pitch, _mm512_xor_si512(BITS_OF(0xFFFF, lo, hi), flip));
    lo = BITS_OF(0xFF, a, _mm512_slli_epi32(b, 8));
    hi = BITS_OF(0xFF0000, _mm512_slli_epi32(c, 16), _mm512_slli_epi32(d, 24));
    _mm512_store_si512(p + 2 * pitch, _mm512_xor_si512(BITS_OF(0xFFFF, lo, hi), flip));
}
/* x, or 0 where the bits of its magnitude are not below a limit. */
V_INLINE vf below_or_zero(vf x, uint32_t limit) {
    __m512i a = _mm512_and_si512((__m512i)x, _mm512_set1_epi32(0x7FFFFFFF));
    __mmask16 k = _mm512_cmplt_epu32_mask(a, _mm512_set1_epi32((int)limit));
    return (vf)_mm512_maskz_mov_ps(k, (__m512)x);
}

/* 16 sums of products of digits, by the products' weights (highest first, `pitch` integers apart), as
 * one float each. */
V_INLINE vf join_sums(const int32_t *c, Py_ssize_t pitch) {
    vf a = (vf)_mm512_cvtepi32_ps(_mm512_load_si512(c));
    vf b = (vf)_mm512_cvtepi32_ps(_mm512_load_si512(c + pitch));
    vf d = (vf)_mm512_cvtepi32_ps(_mm512_load_si512(c + 2 * pitch));
    return v_fma(a, v_set(65536.0f), v_fma(b, v_set(256.0f), d));
}

#endif
