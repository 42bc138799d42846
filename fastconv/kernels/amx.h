/* Tile-matrix instructions (Intel AMX) and the splitting of float32 into bfloat16 parts. */
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
#define tile_fma(c, a, b) _tile_dpbf16ps(c, a, b)

/* A float as the sum of three bfloat16 parts: exact, but for parts below the smallest normal number.
 * Each step rounds to the nearest (ties away from zero) and keeps the remainder, which is exact. */
typedef uint32_t vu __attribute__((vector_size(4 * VW)));
#define SPLIT_PART(x, bits)                                    \
    bits = (vi)(((vu)x + 0x8000u) & 0xFFFF0000u);              \
    x = x - (vf)bits

/* Every NaN as the one whose rounding is a NaN (others may round to zero; with three parts the last
 * one, which is not rounded, keeps them). */
V_INLINE vf plain_nan(vf x) {
    return (vf)_mm512_fixupimm_ps((__m512)x, (__m512)x, _mm512_set1_epi32(0x33), 0);
}

/* The parts of 16 floats `lo` and 16 floats `hi`: element i of each goes to positions 2i and 2i + 1 of
 * the 32 bfloat16 at p, p + pitch and p + 2 * pitch (bytes). */
V_INLINE void split_pair(vf lo, vf hi, char *p, Py_ssize_t pitch, int three) {
    vi a, b;
    if (!three) {
        lo = plain_nan(lo);
        hi = plain_nan(hi);
    }
    SPLIT_PART(lo, a);
    SPLIT_PART(hi, b);
    _mm512_store_si512(p, (__m512i)((vi)((vu)a >> 16) | b));
    SPLIT_PART(lo, a);
    SPLIT_PART(hi, b);
    _mm512_store_si512(p + pitch, (__m512i)((vi)((vu)a >> 16) | b));
    if (three)
        _mm512_store_si512(p + 2 * pitch,
                           (__m512i)((vi)((vu)lo >> 16) | ((vi)hi & (int32_t)0xFFFF0000)));
}

#endif
