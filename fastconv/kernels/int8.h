/* 8-bit integer arithmetic for every instruction set, on top of simd.h.
 *
 * Activations are unsigned bytes, weights signed bytes, sums 32-bit integers. The dot product of
 * four neighbouring bytes is the primitive: one instruction with AVX512-VNNI; elsewhere bytes are
 * widened to 16 bits and multiplied in pairs, which (unlike pmaddubsw) never saturates. Matrix
 * products widen both operands ahead of time (act_t, wgt_t), and then need one multiplication and
 * one addition for twice as many products as a float instruction has.
 *
 * "In lanes": operations on bytes work within each 16 bytes of a vector, as the x86 unpack and pack
 * instructions do; vb_zip4 and vb_pack_add undo each other's order.
 */
#ifndef FASTCONV_INT8_H
#define FASTCONV_INT8_H

#include "simd.h"
#include <math.h>

/* Bytes of a vector. */
#define VB (4 * VW)

/* The register tile of integer products: rows by panels of one vector. */
#if VW == 16
#define QROWS 6
#define QPANELS 4
#elif VW == 8
#define QROWS 6
#define QPANELS 2
#else
#define QROWS 4
#define QPANELS 2
#endif

typedef uint8_t vb __attribute__((vector_size(VB)));
typedef uint8_t vb_u __attribute__((vector_size(VB), aligned(1), may_alias));

/* Nearest integer, ties to even (the rounding mode is never changed). */
V_INLINE vi vi_round(vf a) {
#if VW == 16
    return (vi)_mm512_cvtps_epi32((__m512)a);
#elif VW == 8
    return (vi)_mm256_cvtps_epi32((__m256)a);
#elif defined(__SSE2__)
    return (vi)_mm_cvtps_epi32((__m128)a);
#elif defined(__aarch64__)
    return (vi)vcvtnq_s32_f32((float32x4_t)a);
#else
    vi r;
    for (int i = 0; i < VW; i++) r[i] = (int32_t)lrintf(a[i]);
    return r;
#endif
}
V_INLINE vf vi_float(vi a) { return __builtin_convertvector(a, vf); }
V_INLINE vi vi_load(const int32_t *p) { return *(const vi_u *)p; }
V_INLINE void vi_store(int32_t *p, vi a) { *(vi_u *)p = a; }
V_INLINE void vi_store_n(int32_t *p, vi a, int n) {
    for (int i = 0; i < n; i++) p[i] = a[i];
}
V_INLINE vi vi_mul(vi a, vi b) { return a * b; }
/* a itself, but the compiler cannot fuse the product that gave it with a sum that takes it. */
V_INLINE vf vi_apart(vf a) {
#if defined(__x86_64__) || defined(__i386__)
    __asm__("" : "+x"(a));
#elif defined(__aarch64__)
    __asm__("" : "+w"(a));
#else
    volatile vf t = a;
    a = t;
#endif
    return a;
}
/* a * b + c, rounded once on every instruction set. */
V_INLINE vf vi_fma(vf a, vf b, vf c) {
#if VW == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VW == 8 && defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    /* The product is exact in float64. The sum is rounded to odd there: what is then rounded to
     * float32 is rounded as the exact sum is (Boldo and Melquiond, 2008). */
    typedef double wide __attribute__((vector_size(8 * VW)));
    typedef int64_t bits __attribute__((vector_size(8 * VW)));
    wide p = __builtin_convertvector(a, wide) * __builtin_convertvector(b, wide);
    wide d = __builtin_convertvector(c, wide), s = p + d, q = s - p;
    wide lost = (p - (s - q)) + (d - q);
    bits even = ((bits)s & 1) == 0, step = (bits)(lost > 0) ^ (bits)(s > 0);
    /* Away from zero (+1) where what is lost has the sign of the sum, else towards it (-1). */
    bits move = (bits)(lost != 0) & even & (1 + 2 * step);
    return __builtin_convertvector((wide)((bits)s + move), vf);
#endif
}
V_INLINE vi vi_zero(void) { return (vi){0}; }

V_INLINE vb vb_load(const uint8_t *p) { return *(const vb_u *)p; }
V_INLINE void vb_store(uint8_t *p, vb a) { *(vb_u *)p = a; }
/* The first n bytes (0 <= n <= VB). */
#if VW == 16
V_INLINE __mmask64 vb_mask(int n) { return n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0; }
V_INLINE vb vb_load_n(const uint8_t *p, int n) {
    return (vb)_mm512_maskz_loadu_epi8(vb_mask(n), p);
}
V_INLINE void vb_store_n(uint8_t *p, vb a, int n) {
    _mm512_mask_storeu_epi8(p, vb_mask(n), (__m512i)a);
}
#else
V_INLINE vb vb_load_n(const uint8_t *p, int n) {
    uint8_t t[VB] = {0};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return vb_load(t);
}
V_INLINE void vb_store_n(uint8_t *p, vb a, int n) {
    for (int i = 0; i < n; i++) p[i] = a[i];
}
#endif
V_INLINE vb vb_zero(void) { return (vb){0}; }
V_INLINE vi vi_of(vb a) { return (vi)a; }
V_INLINE vb vb_max(vb a, vb b) {
#if VW == 16
    return (vb)_mm512_max_epu8((__m512i)a, (__m512i)b);
#elif VW == 8
    return (vb)_mm256_max_epu8((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vb)_mm_max_epu8((__m128i)a, (__m128i)b);
#else
    vb m = (vb)(a > b);
    return (a & m) | (b & ~m);
#endif
}

/* VW bytes as integers, of which n are read, and back (the integers are in 0 to 255). */
V_INLINE vi vi_load_bytes(const uint8_t *p, int n) {
#if VW == 16
    __m128i a = n == 16 ? _mm_loadu_si128((const __m128i *)p)
                        : _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p);
    return (vi)_mm512_cvtepu8_epi32(a);
#elif VW == 8
    uint8_t t[8] = {0};
    if (n == 8) return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    for (int i = 0; i < n; i++) t[i] = p[i];
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)t));
#else
    vi r = {0};
    for (int i = 0; i < n; i++) r[i] = p[i];
    return r;
#endif
}
V_INLINE void vi_store_bytes(uint8_t *p, vi a, int n) {
#if VW == 16
    __m128i b = _mm512_cvtepi32_epi8((__m512i)a);
    if (n == 16) _mm_storeu_si128((__m128i *)p, b);
    else _mm_mask_storeu_epi8(p, (__mmask16)((1u << n) - 1), b);
#elif VW == 8
    uint8_t t[16];
    __m128i lo = _mm256_castsi256_si128((__m256i)a), hi = _mm256_extracti128_si256((__m256i)a, 1);
    __m128i b = _mm_packs_epi32(lo, hi);
    b = _mm_packus_epi16(b, b);
    if (n == 8) {
        _mm_storel_epi64((__m128i *)p, b);
        return;
    }
    _mm_storeu_si128((__m128i *)t, b);
    for (int i = 0; i < n; i++) p[i] = t[i];
#else
    for (int i = 0; i < n; i++) p[i] = (uint8_t)a[i];
#endif
}

/* A dot product's operands: u holds groups of four activations, s groups of four weights, which lie
 * in memory as they are used: as bytes, or even and odd ones apart as 16-bit integers. */
#if VW == 16 && defined(__AVX512VNNI__)
typedef __m512i dot_u;
typedef __m512i dot_s;
V_INLINE dot_u dot_u_of(vb a) { return (__m512i)a; }
V_INLINE dot_s dot_s_load(const int8_t *p) { return _mm512_loadu_si512(p); }
V_INLINE vi dot(vi acc, dot_u u, dot_s s) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, u, s); }
#elif defined(__SSE2__)
#if VW == 16
#define W(name) _mm512_##name
typedef __m512i wide;
#define W_LOAD(p) _mm512_loadu_si512(p)
#define W_MASK _mm512_set1_epi32(0x00ff00ff)
#define W_AND _mm512_and_si512
#elif VW == 8
#define W(name) _mm256_##name
typedef __m256i wide;
#define W_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define W_MASK _mm256_set1_epi32(0x00ff00ff)
#define W_AND _mm256_and_si256
#else
#define W(name) _mm_##name
typedef __m128i wide;
#define W_LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define W_MASK _mm_set1_epi32(0x00ff00ff)
#define W_AND _mm_and_si128
#endif
/* Even and odd bytes apart, as 16-bit integers. */
typedef struct { wide even, odd; } dot_u;
typedef struct { wide even, odd; } dot_s;
V_INLINE dot_u dot_u_of(vb a) {
    dot_u r = {W_AND((wide)a, W_MASK), W(srli_epi16)((wide)a, 8)};
    return r;
}
V_INLINE dot_s dot_s_load(const int8_t *p) {
    dot_s r = {W_LOAD(p), W_LOAD(p + VB)};
    return r;
}
V_INLINE vi dot(vi acc, dot_u u, dot_s s) {
    return acc + (vi)W(madd_epi16)(u.even, s.even) + (vi)W(madd_epi16)(u.odd, s.odd);
}
#undef W
#undef W_LOAD
#undef W_MASK
#undef W_AND
#else
typedef vb dot_u;
typedef int8_t dot_s __attribute__((vector_size(VB)));
typedef int8_t dot_s_u __attribute__((vector_size(VB), aligned(1), may_alias));
V_INLINE dot_u dot_u_of(vb a) { return a; }
V_INLINE dot_s dot_s_load(const int8_t *p) { return *(const dot_s_u *)p; }
V_INLINE vi dot(vi acc, dot_u u, dot_s s) {
    for (int i = 0; i < VB; i++) acc[i / 4] += (int32_t)u[i] * s[i];
    return acc;
}
#endif

/* Operands of matrix products: rows of act_t, panels of wgt_t, QTAP of them in 32 bits. */
#if VW == 16 && defined(__AVX512VNNI__)
#define QTAP 4
typedef uint8_t act_t;
typedef int8_t wgt_t;
typedef dot_u few_u;
typedef dot_s few_s;
V_INLINE few_u few_all(const act_t *p) {
    int32_t a;
    memcpy(&a, p, 4);
    return _mm512_set1_epi32(a);
}
#define few_load dot_s_load
#define few_dot dot
#define act_copy bytes_copy
#define act_fill bytes_fill
#else
#define QTAP 2
typedef int16_t act_t;
typedef int16_t wgt_t;
typedef int16_t few_u __attribute__((vector_size(VB)));
typedef int16_t few_u_u __attribute__((vector_size(VB), aligned(2), may_alias));
typedef few_u few_s;
V_INLINE few_u few_all(const act_t *p) {
    int32_t a;
    memcpy(&a, p, 4);
    return (few_u)(a - (vi){0});
}
V_INLINE few_s few_load(const wgt_t *p) { return *(const few_u_u *)p; }
V_INLINE vi few_dot(vi acc, few_u u, few_s s) {
#if VW == 16 && defined(__AVX512BW__)
    return acc + (vi)_mm512_madd_epi16((__m512i)u, (__m512i)s);
#elif VW == 8 && defined(__AVX2__)
    return acc + (vi)_mm256_madd_epi16((__m256i)u, (__m256i)s);
#elif defined(__SSE2__)
    return acc + (vi)_mm_madd_epi16((__m128i)u, (__m128i)s);
#else
    for (int i = 0; i < VW; i++) acc[i] += u[2 * i] * s[2 * i] + u[2 * i + 1] * s[2 * i + 1];
    return acc;
#endif
}
/* n bytes widened. Whole vectors are stored: up to VB elements past the end are overwritten. */
V_INLINE void act_copy(act_t *y, const uint8_t *x, int64_t n) {
    typedef uint8_t half __attribute__((vector_size(VB / 2)));
    half a;
    for (; n > 0; n -= VB / 2, x += VB / 2, y += VB / 2) {
        if (n >= VB / 2) memcpy(&a, x, VB / 2);
        else {
            uint8_t t[VB / 2] = {0};
            uint8_t *to = t;
            if (n & 8) { memcpy(to, x, 8); x += 8; to += 8; }
            if (n & 4) { memcpy(to, x, 4); x += 4; to += 4; }
            if (n & 2) { memcpy(to, x, 2); x += 2; to += 2; }
            if (n & 1) *to = *x;
            memcpy(&a, t, VB / 2);
        }
        *(few_u_u *)y = __builtin_convertvector(a, few_u);
    }
}
V_INLINE void act_fill(act_t *y, int value, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (act_t)value;
}
#endif

/* Four rows of bytes → bytes 4k..4k+3 of the result are byte k of each row. Part j (0 to 3) holds
 * bytes 4j..4j+3 of every 16. */
V_INLINE void vb_zip4(vb r0, vb r1, vb r2, vb r3, vb *out) {
#if defined(__SSE2__)
#if VW == 16
#define Z(name, a, b) (vb)_mm512_##name((__m512i)(a), (__m512i)(b))
#elif VW == 8
#define Z(name, a, b) (vb)_mm256_##name((__m256i)(a), (__m256i)(b))
#else
#define Z(name, a, b) (vb)_mm_##name((__m128i)(a), (__m128i)(b))
#endif
    vb t0 = Z(unpacklo_epi8, r0, r1), t1 = Z(unpackhi_epi8, r0, r1);
    vb t2 = Z(unpacklo_epi8, r2, r3), t3 = Z(unpackhi_epi8, r2, r3);
    out[0] = Z(unpacklo_epi16, t0, t2);
    out[1] = Z(unpackhi_epi16, t0, t2);
    out[2] = Z(unpacklo_epi16, t1, t3);
    out[3] = Z(unpackhi_epi16, t1, t3);
#else
    for (int j = 0; j < 4; j++)
        for (int k = 0; k < VW; k++) {
            int c = k / 4 * 16 + 4 * j + k % 4;
            out[j][4 * k] = r0[c];
            out[j][4 * k + 1] = r1[c];
            out[j][4 * k + 2] = r2[c];
            out[j][4 * k + 3] = r3[c];
        }
#endif
}
/* Integers of the four parts, plus a zero point, saturated → bytes in order. */
V_INLINE vb vb_pack_add(vi a0, vi a1, vi a2, vi a3, int zero) {
#if defined(__SSE2__)
#if VW == 16
#define Z16(a) (vb)_mm512_set1_epi16((short)(a))
#elif VW == 8
#define Z16(a) (vb)_mm256_set1_epi16((short)(a))
#else
#define Z16(a) (vb)_mm_set1_epi16((short)(a))
#endif
    vb z = Z16(zero);
    vb lo = Z(adds_epi16, Z(packs_epi32, a0, a1), z), hi = Z(adds_epi16, Z(packs_epi32, a2, a3), z);
    return Z(packus_epi16, lo, hi);
#undef Z
#undef Z16
#else
    vb r;
    vi a[4] = {a0, a1, a2, a3};
    for (int c = 0; c < VB; c++) {
        int64_t v = (int64_t)a[c % 16 / 4][c / 16 * 4 + c % 4] + zero;
        r[c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
    return r;
#endif
}
/* Two vectors of integers, plus a zero point, saturated, at least lo → 2 VW bytes in order. */
V_INLINE void vi_store_pair(uint8_t *p, vi a0, vi a1, int zero, int lo) {
    vb a = vb_pack_add(a0, a1, a0, a1, zero);
    a = vb_max(a, (uint8_t)lo - (vb){0});
#if VW == 16
    __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    a = (vb)_mm512_permutexvar_epi32(order, (__m512i)a);
#elif VW == 8
    a = (vb)_mm256_permutevar8x32_epi32((__m256i)a, _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0));
#endif
    memcpy(p, &a, 2 * VW);
}
V_INLINE vb vb_set(int a) { return (uint8_t)a - (vb){0}; }
V_INLINE vi vi_max(vi a, vi b) {
    vi m = (vi)(a > b);
    return (a & m) | (b & ~m);
}

/* n <= VB bytes, stored with some more after them: no wider than it takes. */
V_INLINE void bytes_short(uint8_t *y, const uint8_t *x, int n) {
#if VW == 16
    if (n <= 16)
        _mm_storeu_si128((__m128i *)y, _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), x));
    else if (n <= 32)
        _mm256_storeu_si256((__m256i *)y,
                            _mm256_maskz_loadu_epi8((__mmask32)(((uint64_t)1 << n) - 1), x));
    else
#endif
    vb_store(y, vb_load_n(x, n));
}
/* Short copies and fills, without a call; nothing beyond n bytes is read or written. */
V_INLINE void bytes_copy(uint8_t *y, const uint8_t *x, int64_t n) {
    while (n >= VB) {
        vb_store(y, vb_load(x));
        x += VB, y += VB, n -= VB;
    }
#if VW == 16
    if (n) vb_store_n(y, vb_load_n(x, (int)n), (int)n);
#else
    if (n & 16 && VB > 16) { memcpy(y, x, 16); x += 16; y += 16; }
    if (n & 8) { memcpy(y, x, 8); x += 8; y += 8; }
    if (n & 4) { memcpy(y, x, 4); x += 4; y += 4; }
    if (n & 2) { memcpy(y, x, 2); x += 2; y += 2; }
    if (n & 1) *y = *x;
#endif
}
V_INLINE void bytes_fill(uint8_t *y, int value, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (uint8_t)value;
}

/* AMX: tiles 0 to 3 are sums, 4 and 5 rows of activations, 6 and 7 panels of weights. */
#if defined(__AMX_INT8__) && defined(__AMX_TILE__)
#define HAVE_AMX 1
V_INLINE void amx_start(int rows) {
    struct { uint8_t palette, start, pad[14]; uint16_t colsb[16]; uint8_t rows[16]; }
        c __attribute__((aligned(64)));
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 8; i++) {
        c.colsb[i] = 64;
        c.rows[i] = (uint8_t)(i < 6 ? rows : 16);
    }
    /* The intrinsic tells the compiler of the first eight bytes alone. */
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
}
V_INLINE void amx_stop(void) { _tile_release(); }
/* acc[2][2] blocks of [16][16] sums from rows a (stride bytes apart) and panels b, b + step. */
V_INLINE void amx_product(
    int two_rows, int two_panels, const act_t *a, int64_t stride, int64_t rows,
    const wgt_t *b, int64_t step, int64_t depth, int32_t *acc
) {
    const act_t *a1 = a + rows * stride;
    _tile_zero(0);
    if (two_panels) _tile_zero(1);
    if (two_rows) _tile_zero(2);
    if (two_rows && two_panels) _tile_zero(3);
    for (int64_t k = 0; k < depth; k += 64) {
        _tile_loadd(6, b + 16 * k, 64);
        _tile_loadd(4, a + k, stride);
        _tile_dpbusd(0, 4, 6);
        if (two_panels) {
            _tile_loadd(7, b + step + 16 * k, 64);
            _tile_dpbusd(1, 4, 7);
        }
        if (two_rows) {
            _tile_loadd(5, a1 + k, stride);
            _tile_dpbusd(2, 5, 6);
            if (two_panels) _tile_dpbusd(3, 5, 7);
        }
    }
    _tile_stored(0, acc, 128);
    if (two_panels) _tile_stored(1, acc + 16, 128);
    if (two_rows) _tile_stored(2, acc + rows * 32, 128);
    if (two_rows && two_panels) _tile_stored(3, acc + rows * 32 + 16, 128);
}
#else
#define HAVE_AMX 0
V_INLINE void amx_start(int rows) { (void)rows; }
V_INLINE void amx_stop(void) {}
V_INLINE void amx_product(
    int two_rows, int two_panels, const act_t *a, int64_t stride, int64_t rows,
    const wgt_t *b, int64_t step, int64_t depth, int32_t *acc
) {
    (void)two_rows, (void)two_panels, (void)a, (void)stride, (void)rows;
    (void)b, (void)step, (void)depth, (void)acc;
}
#endif

#endif
