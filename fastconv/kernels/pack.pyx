"""Weights into the form that kernels read, made once when a plan is: no kernel runs here.

Sources are read where they lie, at any strides and any alignment (a tensor in a mapped file may
begin at any byte), element by element into the target: no temporary copy is made.
"""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport fabs
from libc.stdint cimport int64_t

from fastconv.kernels.fixed cimport FIXED_BLOCK, FIXED_GROUP, fixed_words
from fastconv.kernels.simd cimport VW, v_from_bits, v_load, v_prefetch, v_store, vf, vi

cdef extern from * nogil:
    """
    #include <string.h>
    #include "simd.h"
    #if defined(__has_builtin)
    #if __has_builtin(__builtin_shufflevector)
    #define PACK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
    #endif
    #endif
    #ifndef PACK_SHUFFLE
    #define PACK_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
    #endif
    /* Lanes of half k of a and b interleaved. */
    #define PACK_L(k, l) (k) * VW / 2 + (l), VW + (k) * VW / 2 + (l)
    #define PACK_L4(k, l) PACK_L(k, l), PACK_L(k, l + 1)
    #define PACK_L8(k, l) PACK_L4(k, l), PACK_L4(k, l + 2)
    #if VW == 16
    #define PACK_LANES(k) PACK_L8(k, 0), PACK_L8(k, 4)
    #elif VW == 8
    #define PACK_LANES(k) PACK_L8(k, 0)
    #else
    #define PACK_LANES(k) PACK_L4(k, 0)
    #endif

    static inline float fastconv_load(const char *p) {
        float f;
        memcpy(&f, p, sizeof f);
        return f;
    }

    /* Four vectors of floats, made integers of three digits of -128 to 127 by a scale: vectors of four
       bytes, one of each, for each digit, highest first, `pitch` bytes apart. */
    static inline void fastconv_digits(
        const float *x, int64_t step, vf scale, char *y, int64_t pitch
    ) {
        vi v[4];
        for (int i = 0; i < 4; i++) {
            vf f = v_load(x + i * step) * scale;
            v[i] = v_to_int(f + v_select(v_lt(f, v_zero()), v_set(-0.5f), v_set(0.5f))) + 0x808080;
        }
        for (int d = 0; d < 3; d++) {
            int n = 16 - 8 * d;
            vi z = ((v[0] >> n) & 255) | (((v[1] >> n) & 255) << 8) | (((v[2] >> n) & 255) << 16)
                | (v[3] >> n << 24);
            z ^= (int32_t)0x80808080;
            memcpy(y + d * pitch, &z, sizeof z);
        }
    }

    /* The greatest magnitude in each lane of `rows` vectors, `step` floats apart, as its bits: no
       less than those of infinity where a lane holds NaN or Inf. */
    static inline vi fastconv_most(const float *x, int64_t rows, int64_t step) {
        vi most = {0};
        for (int64_t i = 0; i < rows; i++) {
            vi a = (vi)v_load(x + i * step) & 0x7fffffff, more = a > most;
            most = (a & more) | (most & ~more);
        }
        return most;
    }

    /* A vector of floats over units as whole numbers, by the units and their reciprocals. What the
       product with a reciprocal is off by, the remainder tells. */
    static inline vi fastconv_whole(vf x, vf unit, vf inverse) {
        vi n = v_to_int(x * inverse);
        vf left = x - v_to_float(n) * unit;
        return n + ((vi)(left * inverse + 12582912.0f) - 0x4B400000); /* 1.5 * 2**23 */
    }

    /* Four vectors, `step` floats apart, as three vectors of words; see fixed.pxd. */
    static inline void fastconv_fixed(
        const float *x, int64_t step, vf unit, vf inverse, float *y
    ) {
        vi last = fastconv_whole(v_load(x + 3 * step), unit, inverse);
        for (int i = 0; i < 3; i++) {
            vi n = fastconv_whole(v_load(x + i * step), unit, inverse) << 8
                | ((last >> (16 - 8 * i)) & 255);
            memcpy(y + i * VW, &n, sizeof n);
        }
    }

    /* VW rows of VW floats, `stride` bytes apart at any alignment, to columns NR floats apart.
       Interleaving the first half of the rows with the second turns the bits of an element's
       (row, lane) left by one; as often as a lane has bits, it has swapped the two. */
    static inline void fastconv_turn(const char *x, int64_t stride, float *y) {
        vf a[VW], b[VW];
        for (int i = 0; i < VW; i++) memcpy(&a[i], x + i * stride, sizeof(vf));
        for (int m = 1; m < VW; m *= 2) {
            for (int i = 0; i < VW / 2; i++) {
                b[2 * i] = PACK_SHUFFLE(a[i], a[i + VW / 2], PACK_LANES(0));
                b[2 * i + 1] = PACK_SHUFFLE(a[i], a[i + VW / 2], PACK_LANES(1));
            }
            for (int i = 0; i < VW; i++) a[i] = b[i];
        }
        for (int i = 0; i < VW; i++) memcpy(y + i * 2 * VW, &a[i], sizeof(vf));
    }
    """
    float fastconv_load(const char* p)
    void fastconv_digits(const float* x, int64_t step, vf scale, char* y, int64_t pitch)
    void fastconv_turn(const char* x, int64_t stride, float* y)
    vi fastconv_most(const float* x, int64_t rows, int64_t step)
    void fastconv_fixed(const float* x, int64_t step, vf unit, vf inverse, float* y)

cdef enum:
    NR = 2 * VW         # filters of a panel
    MAX_TILE = 10       # points on a side of a Winograd tile
    MAX_KERNEL = 7      # taps on a side
    BLOCK = 64         # rows of a panel that are filled together: they stay in the first cache
    DIGITS = 3         # of a number, ...
    WIDTH = 32         # ... in panels of so many filters, ...
    DEPTH = 64         # ... and blocks of so many channels
    MOST = 8355700     # about what three digits of up to 127 can say
    FIXED_MOST = 8388606    # what 24 bits can say, but for one


cdef struct Strided:
    const char* data
    int64_t shape[4]
    int64_t strides[4]  # in bytes


cdef Strided strided(Py_buffer* view, int rank) except *:
    """What a buffer of ``rank`` dimensions of four bytes each holds."""
    cdef Strided s
    cdef int k
    if view.ndim != rank or view.itemsize != 4:
        raise ValueError(f"expected float32 of rank {rank}, got rank {view.ndim}")
    s.data = <const char*>view.buf
    for k in range(rank):
        s.shape[k] = view.shape[k]
        s.strides[k] = view.strides[k]
    return s


cdef void fill(
    const Strided* s, int64_t f0, int64_t cols, int64_t c0, int64_t end, int64_t rows, float* y,
    int64_t nr,
) noexcept nogil:
    """Filters from ``f0``, ``cols`` of them, channels c0 to end: y[tap][rows][nr], zeros beyond."""
    cdef int64_t taps = s.shape[1], step = max(1, BLOCK // max(1, taps)), a = c0, c, b, t, j
    cdef const char* x
    if taps == 1 and s.strides[2] == 4 and cols == NR:
        while a + VW <= end:
            x = s.data + f0 * s.strides[0] + a * 4
            fastconv_turn(x, s.strides[0], y + (a - c0) * NR)
            fastconv_turn(x + VW * s.strides[0], s.strides[0], y + (a - c0) * NR + VW)
            a += VW
    while a < end:
        b = min(a + step, end)
        for j in range(cols):
            if taps == 1:
                x = s.data + (f0 + j) * s.strides[0] + a * s.strides[2]
                for c in range(a - c0, b - c0):
                    y[c * nr + j] = fastconv_load(x)
                    x += s.strides[2]
                continue
            for c in range(a, b):
                x = s.data + (f0 + j) * s.strides[0] + c * s.strides[2]
                for t in range(taps):
                    y[(t * rows + c - c0) * nr + j] = fastconv_load(x + t * s.strides[1])
        a = b
    for t in range(taps):
        if cols < nr:
            for c in range(end - c0):
                for j in range(cols, nr):
                    y[(t * rows + c) * nr + j] = 0
        for j in range((end - c0) * nr, rows * nr):
            y[t * rows * nr + j] = 0


def pack_filters(w, int64_t group, out, int64_t block=0, int64_t wide=0):
    """``[filters][taps][channels]`` → ``[group][panel][block][taps][channels][NR]``.

    What lies beyond the last filter of a group, or the last channel of a block, is zero.

    Args:
        w: float32 buffer of rank 3, any strides and alignment.
        group: number of groups; divides the filters.
        out: C-contiguous float32 buffer of the target's size.
        block: channels of a block; 0 for all in one.
        wide: so many panels of a group, the first ones, have 3 * VW filters instead of NR.

    Raises:
        ValueError: the buffers do not fit.
    """
    cdef Py_buffer source, target
    cdef Strided s
    cdef int64_t filters, channels, panels, blocks, g, p, k, size, nr, first
    cdef float* y
    PyObject_GetBuffer(w, &source, PyBUF_STRIDES)
    try:
        s = strided(&source, 3)
        PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        try:
            if group < 1 or s.shape[0] % group:
                raise ValueError(f"{s.shape[0]} filters do not divide into {group} groups")
            filters = s.shape[0] // group
            channels = s.shape[2]
            panels = wide + max(<int64_t>0, filters - wide * 3 * VW + NR - 1) // NR
            if block < 1:
                block = max(channels, <int64_t>1)
            blocks = (channels + block - 1) // block
            size = s.shape[1] * block
            if target.len != group * (panels * NR + wide * VW) * blocks * size * 4:
                raise ValueError(f"the target has {target.len} bytes")
            y = <float*>target.buf
            with nogil:
                for g in range(group):
                    for p in range(panels):
                        nr = 3 * VW if p < wide else NR
                        first = p * NR + min(p, wide) * VW
                        for k in range(blocks):
                            fill(
                                &s, g * filters + first, min(filters - first, nr),
                                k * block, min((k + 1) * block, channels), block, y, nr)
                            y += size * nr
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)


cdef void transform(
    const Strided* s, const double* g, int t, int64_t f0, int64_t cols, float* y, int64_t point,
) noexcept nogil:
    """One panel of Winograd weights: y[point][channel][NR], points ``point`` floats apart."""
    cdef double d[MAX_KERNEL * MAX_KERNEL][NR]
    cdef double e[MAX_TILE * MAX_KERNEL][NR]
    cdef double u[NR]
    cdef double a
    cdef int r = <int>s.shape[2], i, k, m
    cdef int64_t c, j
    cdef const char* x
    for i in range(r * r):
        for j in range(NR):
            d[i][j] = 0
    for c in range(s.shape[1]):
        for j in range(cols):
            x = s.data + (f0 + j) * s.strides[0] + c * s.strides[1]
            for i in range(r):
                for k in range(r):
                    d[i * r + k][j] = fastconv_load(x + i * s.strides[2] + k * s.strides[3])
        for i in range(t):
            for k in range(r):
                a = g[i * r]
                for j in range(NR):
                    e[i * r + k][j] = a * d[k][j]
                for m in range(1, r):
                    a = g[i * r + m]
                    for j in range(NR):
                        e[i * r + k][j] += a * d[m * r + k][j]
        for i in range(t):
            for k in range(t):
                a = g[k * r]
                for j in range(NR):
                    u[j] = a * e[i * r][j]
                for m in range(1, r):
                    a = g[k * r + m]
                    for j in range(NR):
                        u[j] += a * e[i * r + m][j]
                for j in range(NR):
                    y[(i * t + k) * point + c * NR + j] = <float>u[j]


def transform_filters(w, g, out):
    """Winograd's weights: ``[filters][channels][r][r]`` → ``[point][panel][channels][NR]``.

    Point (i, k) of a filter f is (G f Gᵀ)[i, k], computed in float64.

    Args:
        w: float32 buffer of rank 4, any strides and alignment.
        g: C-contiguous float64 buffer [t][r], the matrix G of F(t - r + 1, r).
        out: C-contiguous float32 buffer of the target's size.

    Raises:
        ValueError: the buffers do not fit.
    """
    cdef Py_buffer source, matrix, target
    cdef Strided s
    cdef int64_t panels, p, t, size
    PyObject_GetBuffer(w, &source, PyBUF_STRIDES)
    try:
        s = strided(&source, 4)
        PyObject_GetBuffer(g, &matrix, PyBUF_C_CONTIGUOUS)
        try:
            PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
            try:
                t = matrix.len // (8 * max(<int64_t>1, s.shape[2]))
                if (
                    s.shape[2] != s.shape[3] or not 1 <= s.shape[2] <= MAX_KERNEL
                    or not 1 <= t <= MAX_TILE or matrix.len != t * s.shape[2] * 8
                ):
                    raise ValueError(f"no transform of {s.shape[2]}x{s.shape[3]} taps to {t} points")
                panels = (s.shape[0] + NR - 1) // NR
                size = s.shape[1] * NR
                if target.len != t * t * panels * size * 4:
                    raise ValueError(f"the target has {target.len} bytes")
                with nogil:
                    for p in range(panels):
                        transform(
                            &s, <const double*>matrix.buf, <int>t, p * NR,
                            min(s.shape[0] - p * NR, <int64_t>NR),
                            (<float*>target.buf) + p * size, panels * size)
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&matrix)
    finally:
        PyBuffer_Release(&source)


cdef void digits_of(const float* x, int64_t blocks, char* y, float* units) noexcept nogil:
    """One panel [block][DEPTH][WIDTH] as digits [block][half][digit][DEPTH / 4][WIDTH / 2][4]; what
    one of each filter's counts, times 65536."""
    cdef float scale[WIDTH]
    cdef float most[WIDTH]
    cdef int64_t b, i
    cdef int f, h
    for f in range(WIDTH):
        most[f] = 0
    for i in range(blocks * DEPTH):
        for f in range(WIDTH):
            most[f] = max(most[f], <float>fabs(x[i * WIDTH + f]))
    for f in range(WIDTH):
        most[f] = max(most[f], <float>1e-30)
        scale[f] = MOST / most[f]
        units[f] = <float>(65536. / MOST * most[f])
    for b in range(blocks):
        for h in range(2):
            for i in range(DEPTH // 4):
                # Channels i, i + 16, i + 32 and i + 48 make four bytes.
                f = 0
                while f < WIDTH // 2:
                    fastconv_digits(
                        x + i * WIDTH + h * (WIDTH // 2) + f, DEPTH // 4 * WIDTH,
                        v_load(scale + h * (WIDTH // 2) + f),
                        y + (h * DIGITS * (DEPTH // 4) + i) * 2 * WIDTH + f * 4, DEPTH // 2 * WIDTH)
                    f += VW
        x += DEPTH * WIDTH
        y += DIGITS * DEPTH * WIDTH


def pack_digits(panels, out, units):
    """Float32 weights → three digits of eight bits each and a unit for each filter.

    A weight is its digits, times 65536, 256 and 1, times ``units`` / 65536, to 2**-24 of the largest
    one of its filter.

    Args:
        panels: C-contiguous float32 buffer [panel][block][64 channels][32 filters].
        out: C-contiguous buffer of bytes [panel][block][half][digit][16][16 filters][4]: channel
            16 j + i is byte j of row i.
        units: C-contiguous float32 buffer [panel][32].

    Raises:
        ValueError: the buffers do not fit.
    """
    cdef Py_buffer source, target, scales
    cdef int64_t count, size, k
    PyObject_GetBuffer(panels, &source, PyBUF_C_CONTIGUOUS)
    try:
        PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        try:
            PyObject_GetBuffer(units, &scales, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
            try:
                count = scales.len // (4 * WIDTH)
                size = source.len // (4 * max(<int64_t>1, count))
                if (
                    scales.len != count * 4 * WIDTH or source.len != count * size * 4
                    or size % (DEPTH * WIDTH) or target.len != count * size * DIGITS
                ):
                    raise ValueError(f"{source.len} bytes do not become {target.len}")
                with nogil:
                    for k in range(count):
                        digits_of(
                            <const float*>source.buf + k * size, size // (DEPTH * WIDTH),
                            <char*>target.buf + k * size * DIGITS, <float*>scales.buf + k * WIDTH)
            finally:
                PyBuffer_Release(&scales)
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)


cdef bint fixed_panel(
    const Strided* s, int64_t f0, int64_t cols, float* y
) noexcept nogil:
    """One panel for ``gemv_fixed``; whether all weights were finite."""
    cdef float x[FIXED_BLOCK * NR]
    cdef float most[NR]
    cdef float inverse[NR]
    cdef float* units
    cdef int64_t k = s.shape[2], c = 0, end, i
    cdef int j
    while c < k:
        end = min(c + FIXED_BLOCK, k)
        fill(s, f0, cols, c, end, FIXED_BLOCK, x, NR)
        if s.strides[2] == 4:
            for i in range(cols):  # the next block arrives while this one is converted
                for j in range(FIXED_BLOCK // 16):
                    v_prefetch(s.data + (f0 + i) * s.strides[0] + (end + 16 * j) * 4)
        for j in range(2):
            v_store(most + j * VW, v_from_bits(fastconv_most(x + j * VW, end - c, NR)))
        for j in range(NR):
            if not most[j] <= FLT_MAX:
                return False
            # A unit is a normal number: where subnormals count as zero, it would be one.
            y[j] = max(most[j] / FIXED_MOST, FLT_MIN)
            inverse[j] = 1 / y[j]
        units = y
        y += NR
        for i in range((end - c + 3) // 4):
            for j in range(2):
                fastconv_fixed(
                    x + 4 * i * NR + j * VW, NR, v_load(units + j * VW), v_load(inverse + j * VW),
                    y + j * (FIXED_GROUP // 2))
            y += FIXED_GROUP
        c = end
    return True


def fixed_bytes(int64_t filters, int64_t channels):
    """The bytes that ``pack_fixed`` writes."""
    return (filters + NR - 1) // NR * fixed_words(channels) * 4


def pack_fixed(w, out):
    """``[filters][1][channels]`` → panels of weights of 24 bits; see ``fixed.pxd``.

    A weight is off by at most half a unit (a whole one where there is no fused multiply-add), which
    is 2**-23 of the largest of its block, or 2**-126 if that is more. What lies beyond the last filter is zero.

    Args:
        w: float32 buffer of rank 3, any strides and alignment.
        out: C-contiguous buffer of :func:`fixed_bytes`.

    Returns:
        whether all weights are finite; what was written is of no use where not.

    Raises:
        ValueError: the buffers do not fit.
    """
    cdef Py_buffer source, target
    cdef Strided s
    cdef int64_t p, panels
    cdef bint finite = True
    PyObject_GetBuffer(w, &source, PyBUF_STRIDES)
    try:
        s = strided(&source, 3)
        PyObject_GetBuffer(out, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        try:
            panels = (s.shape[0] + NR - 1) // NR
            if s.shape[1] != 1 or target.len != panels * fixed_words(s.shape[2]) * 4:
                raise ValueError(f"the target has {target.len} bytes")
            with nogil:
                for p in range(panels):
                    finite = finite and fixed_panel(
                        &s, p * NR, min(s.shape[0] - p * NR, <int64_t>NR),
                        (<float*>target.buf) + p * fixed_words(s.shape[2]))
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
    return finite


#: No kernels: the family is here to be built once per instruction set.
KERNELS = {}
