/* One vector type for every instruction set, through GCC/Clang vector extensions.
 *
 * VW is the number of float32 lanes: 16 with AVX-512, 8 with AVX, 4 with SSE2 and NEON. Loads and
 * stores are unaligned. v_max(a, b) and v_min(a, b) return b when either operand is NaN on x86, and
 * NaN when either is NaN on NEON: call them as v_max(limit, x) and a NaN in x is kept everywhere.
 */
#ifndef FASTCONV_SIMD_H
#define FASTCONV_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VW 16
#elif defined(__AVX__)
#define VW 8
#else
#define VW 4
#endif

/* The register tile of the matrix kernels: MR rows by 2 vectors. Rows keep their addresses in
 * general registers, so AVX-512 stops at 12 although 32 vector registers would hold 14. */
#if VW == 16
#define MR 12
#define MR3 8
#elif defined(__aarch64__)
#define MR 8
#else
#define MR 6
#endif
/* Rows of a tile of 3 vectors, where the registers suffice for one; else 0. */
#ifndef MR3
#define MR3 0
#endif

/* Pixels of a tile whose inputs are a matrix in memory (no addresses of rows), and how far the
 * inputs of the next product lie apart: whole vectors. */
#if VW == 16
#define FEW_ROWS 14
#else
#define FEW_ROWS MR
#endif
#define FEW_LANES ((FEW_ROWS + VW - 1) / VW * VW)

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
typedef float vf_u __attribute__((vector_size(4 * VW), aligned(4), may_alias));
typedef int32_t vi_u __attribute__((vector_size(4 * VW), aligned(4), may_alias));

#define V_INLINE static inline __attribute__((always_inline, unused))

V_INLINE vf v_load(const float *p) { return *(const vf_u *)p; }
V_INLINE void v_store(float *p, vf a) { *(vf_u *)p = a; }
/* Whether v_fma rounds once. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FUSED 1
#else
#define FUSED 0
#endif

V_INLINE vf v_set(float a) { return a - (vf){0}; }
V_INLINE vf v_zero(void) { return (vf){0}; }
V_INLINE vf v_add(vf a, vf b) { return a + b; }
V_INLINE vf v_sub(vf a, vf b) { return a - b; }
V_INLINE vf v_mul(vf a, vf b) { return a * b; }
V_INLINE vf v_div(vf a, vf b) { return a / b; }
V_INLINE vf v_neg(vf a) { return -a; }
/* a * b + c, fused where the instruction set has it (the compiler contracts it). */
V_INLINE vf v_fma(vf a, vf b, vf c) { return a * b + c; }

V_INLINE vi v_bits(vf a) { return (vi)a; }
V_INLINE vf v_from_bits(vi a) { return (vf)a; }
V_INLINE vi v_iset(int32_t a) { return a - (vi){0}; }
V_INLINE vi v_iadd(vi a, vi b) { return a + b; }
V_INLINE vi v_isub(vi a, vi b) { return a - b; }
V_INLINE vi v_iand(vi a, vi b) { return a & b; }
V_INLINE vi v_ior(vi a, vi b) { return a | b; }
V_INLINE vi v_ixor(vi a, vi b) { return a ^ b; }
V_INLINE vi v_ishl(vi a, int n) { return a << n; }
V_INLINE vi v_ishr(vi a, int n) { return a >> n; }
/* Comparisons give all-ones lanes where true, all-zeros where false or NaN. */
V_INLINE vi v_lt(vf a, vf b) { return (vi)(a < b); }
V_INLINE vi v_le(vf a, vf b) { return (vi)(a <= b); }
V_INLINE vi v_gt(vf a, vf b) { return (vi)(a > b); }
V_INLINE vi v_eq(vf a, vf b) { return (vi)(a == b); }
V_INLINE vi v_ne(vf a, vf b) { return (vi)(a != b); }
/* m ? a : b, lane by lane; m must be all ones or all zeros in each lane. */
V_INLINE vf v_select(vi m, vf a, vf b) { return (vf)(((vi)a & m) | ((vi)b & ~m)); }

/* float <-> int32; conversion to int truncates towards zero (out of range is undefined). */
V_INLINE vi v_to_int(vf a) { return __builtin_convertvector(a, vi); }
V_INLINE vf v_to_float(vi a) { return __builtin_convertvector(a, vf); }

#if VW == 16
V_INLINE vf v_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
V_INLINE vf v_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
V_INLINE vf v_sqrt(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
#elif VW == 8
V_INLINE vf v_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
V_INLINE vf v_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
V_INLINE vf v_sqrt(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
#elif defined(__SSE2__)
V_INLINE vf v_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
V_INLINE vf v_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
V_INLINE vf v_sqrt(vf a) { return (vf)_mm_sqrt_ps((__m128)a); }
#elif defined(__aarch64__)
V_INLINE vf v_max(vf a, vf b) { return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
V_INLINE vf v_min(vf a, vf b) { return (vf)vminq_f32((float32x4_t)a, (float32x4_t)b); }
V_INLINE vf v_sqrt(vf a) { return (vf)vsqrtq_f32((float32x4_t)a); }
#else
#include <math.h>
V_INLINE vf v_max(vf a, vf b) { return v_select(v_gt(a, b), a, b); }
V_INLINE vf v_min(vf a, vf b) { return v_select(v_lt(a, b), a, b); }
V_INLINE vf v_sqrt(vf a) { for (int i = 0; i < VW; i++) a[i] = sqrtf(a[i]); return a; }
#endif

/* Lanes 0, 2, 4, ... of a, then of b. */
V_INLINE vf v_alternate(vf a, vf b) {
#if VW == 16
    return __builtin_shuffle(
        a, b, (vi){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30});
#elif VW == 8
    return __builtin_shuffle(a, b, (vi){0, 2, 4, 6, 8, 10, 12, 14});
#else
    return __builtin_shuffle(a, b, (vi){0, 2, 4, 6});
#endif
}

/* The first n lanes (0 <= n < VW); the others load as zero and are not stored. */
#if VW == 16
V_INLINE vf v_load_n(const float *p, int n) {
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
V_INLINE void v_store_n(float *p, vf a, int n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a);
}
#elif VW == 8
static const int32_t v_first_lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
V_INLINE __m256i v_mask_n(int n) {
    return _mm256_loadu_si256((const __m256i *)(v_first_lanes + 8 - n));
}
V_INLINE vf v_load_n(const float *p, int n) { return (vf)_mm256_maskload_ps(p, v_mask_n(n)); }
V_INLINE void v_store_n(float *p, vf a, int n) {
    _mm256_maskstore_ps(p, v_mask_n(n), (__m256)a);
}
#else
V_INLINE vf v_load_n(const float *p, int n) {
    vf v = {0};
    if (n > 0) v[0] = p[0];
    if (n > 1) v[1] = p[1];
    if (n > 2) v[2] = p[2];
    return v;
}
V_INLINE void v_store_n(float *p, vf a, int n) {
    if (n > 0) p[0] = a[0];
    if (n > 1) p[1] = a[1];
    if (n > 2) p[2] = a[2];
}
#endif

/* Lane i is lane index[i] of a, which must be within 0..VW-1. */
#if VW == 16
V_INLINE vf v_permute(vf a, vi index) {
    return (vf)_mm512_permutexvar_ps((__m512i)index, (__m512)a);
}
#elif defined(__AVX2__)
V_INLINE vf v_permute(vf a, vi index) {
    return (vf)_mm256_permutevar8x32_ps((__m256)a, (__m256i)index);
}
#else
V_INLINE vf v_permute(vf a, vi index) {
    vf r;
    for (int i = 0; i < VW; i++) r[i] = a[index[i]];
    return r;
}
#endif

/* VW half-precision numbers (IEEE 754 binary16, as bits) as float32: exact, subnormals included, also
 * where denormals are flushed. */
#if VW == 16
V_INLINE vf v_load_half(const uint16_t *p) {
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
#elif VW == 8 && defined(__F16C__)
V_INLINE vf v_load_half(const uint16_t *p) {
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
#elif defined(__aarch64__)
V_INLINE vf v_load_half(const uint16_t *p) {
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
#else
V_INLINE vf v_load_half(const uint16_t *p) {
    typedef uint16_t vh __attribute__((vector_size(2 * VW)));
    vh h;
    memcpy(&h, p, sizeof h);
    vi b = __builtin_convertvector(h, vi), e = b & 0x7c00;
    vi wide = ((b & 0x7fff) << 13) + ((e == 0x7c00) & (112 << 23)) + (112 << 23);
    vf small = v_to_float(b & 0x3ff) * 0x1p-24f; /* a subnormal's mantissa */
    vi bits = ((vi)small & (e == 0)) | (wide & ~(e == 0));
    return (vf)(bits | ((b & 0x8000) << 16));
}
#endif
/* Ask for the cache line at p, which will be read soon. */
V_INLINE void v_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }

/* The same, but not so near: for what is read some microseconds later. */
V_INLINE void v_fetch(const void *p) { __builtin_prefetch(p, 0, 2); }

/* 1 / a to about an ulp, for normal a whose reciprocal is normal. */
#if VW == 16
V_INLINE vf v_recip(vf a) {
    vf r = (vf)_mm512_rcp14_ps((__m512)a); /* 14 bits, doubled by one step of Newton's method */
    return r + r * ((1.0f - (vf){0}) - a * r);
}
#else
V_INLINE vf v_recip(vf a) { return (1.0f - (vf){0}) / a; }
#endif

/* v_recip(a), but 0 where x is less than limit. */
V_INLINE vf v_recip_above(vf a, vf x, vf limit) {
#if VW == 16
    __m512 r = _mm512_rcp14_ps((__m512)a);
    __m512 e = _mm512_fnmadd_ps((__m512)a, r, _mm512_set1_ps(1.0f));
    return (vf)_mm512_maskz_fmadd_ps(
        _mm512_cmp_ps_mask((__m512)x, (__m512)limit, _CMP_NLT_UQ), r, e, r);
#else
    return v_select(v_lt(x, limit), v_zero(), v_recip(a));
#endif
}

/* y * 2**n from t = n + 1.5 * 2**23, n an integer in -160..140; right also where 2**n is out of
 * range. */
#if VW == 16
V_INLINE vf v_scale(vf y, vf t) {
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)(t - 12582912.0f));
}
#else
V_INLINE vf v_scale(vf y, vf t) {
    vi n = (vi)t - 0x4B400000, half = n >> 1;
    return y * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
}
#endif

/* The compiler may not move loads or stores across this. (Local arrays are in memory by then: where
 * they should be in registers, see v_late.) */
V_INLINE void v_fence(void) { __asm__ volatile("" ::: "memory"); }

/* The same address, but the compiler does not know that: what is read through it is read after this
 * (keeps an epilogue's constants out of the registers of the loop before it, and unlike a fence
 * leaves local arrays in registers). */
V_INLINE const void *v_late(const void *p) {
    __asm__ volatile("" : "+r"(p));
    return p;
}

/* Horizontal sum, pairwise: the same order on every run. */
V_INLINE float v_hsum(vf a) {
    float t[VW];
    v_store(t, a);
    for (int w = VW / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
}
/* Horizontal maximum; NaN if any lane is NaN. */
V_INLINE float v_hmax(vf a) {
    float m = a[0];
    for (int i = 1; i < VW; i++) m = (a[i] > m || a[i] != a[i]) ? a[i] : m;
    return m;
}

#endif
