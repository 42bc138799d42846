"""The input of ``amx_conv``: its parameters, the split copy for tiles, the gathered one for vectors.

The layouts are described in ``amx_conv.pyx``.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastconv.kernels.amx_tile cimport (
    BLOCK,
    MAX_PHASES,
    MAX_ROWS,
    RUN_MAX,
    prefetch,
    split_pair,
)
from fastconv.kernels.simd cimport *

cdef enum:
    AHEAD = 8               # pixels from the one that is fetched to the one that is split


cdef struct AmxParams:
    # Input [n][h][w][pixel]: sizes, and strides in floats.
    int64_t n, h, w, channels
    int64_t x_n, x_h, x_w
    # Output, and residual, with their strides in floats.
    int64_t oh, ow, filters
    int64_t y_n, y_h, y_w
    int64_t r_n, r_h, r_w
    int64_t stride_h, stride_w
    # Taps; input coordinate = output coordinate * stride + tap * dilation - pad.
    int64_t kh, kw, dilation_h, dilation_w, pad_h, pad_w
    # The split copy of one image's rows: planes (one per phase) of rows * width pixels and `slack`
    # zeros. Column c of a plane is input column (c + first_w) * stride_w + its phase; its first row
    # is input row (first output row + first_h) * stride_h + its phase.
    int64_t phases
    int64_t phase_h[MAX_PHASES]
    int64_t phase_w[MAX_PHASES]
    int64_t width, first_h, first_w, halo_h, plane
    # Where a pixel's channels are gathered from: rows of run floats, run_h apart (run_rows = 0: they
    # lie in one piece).
    int64_t run_rows, run, run_h
    # Channels and filters of a group, or 0 where there is one group.
    int64_t group_channels, group_filters
    # Parts of a number: 3, or 2; channel blocks of the input; (block, tap) steps of a panel.
    int64_t parts, blocks, steps
    # Units of work: images × output rows × panels; or, where the split copy was made by a step of
    # its own for all of them, panels × images × `span` successive pixels.
    int64_t block_n, block_rows, block_panels
    int64_t shared, span
    # Input times pre_scale plus pre_shift, then clipped below, before all else.
    int64_t pre_n           # pre_scale of the next image, in floats
    float pre_lo
    int32_t act
    float lo, hi, alpha, beta


cdef inline vf fetch(const float* x, int64_t n) noexcept nogil:
    if n >= VW:
        return v_load(x)
    if n <= 0:
        return v_zero()
    return v_load_n(x, <int>n)


cdef inline vf prepare(vf x, const float* scale, const float* shift, vf lo, int64_t n) noexcept nogil:
    """x * scale + shift, clipped below; scale or shift may be NULL."""
    if scale != NULL:
        x = v_mul(x, fetch(scale, n))
    if shift != NULL:
        x = v_max(lo, v_add(x, fetch(shift, n)))
    return x


cdef inline void collect(const AmxParams* p, const float* x, float* t) noexcept nogil:
    """The runs of one pixel, one after the other, and zeros to the end of the last block.

    ``t`` has room for VW more.
    """
    cdef int64_t r, i, rest = p.run % VW
    for r in range(p.run_rows):
        for i in range(p.run // VW):
            v_store(t + i * VW, v_load(x + i * VW))
        if rest:
            v_store(t + p.run - rest, v_load_n(x + p.run - rest, <int>rest))
        x += p.run_h
        t += p.run
    for i in range((p.blocks * BLOCK - p.run_rows * p.run + VW - 1) // VW):
        v_store(t + i * VW, v_zero())


cdef inline void split_runs(
    const AmxParams* p, const float* x, int64_t y0, int64_t rows, float* work, char* a,
) noexcept nogil:
    """The split copy of the input of output rows y0 .. y0 + rows, each pixel gathered from runs;
    ``work`` holds MAX_ROWS pixels."""
    cdef int64_t part = p.plane * 64, size = p.blocks * BLOCK + VW
    cdef int64_t r, i, k, b, count
    cdef const float* row
    cdef const float* t
    cdef char* at
    for r in range(rows):
        row = x + (y0 + r) * p.x_h
        i = 0
        while i < p.w:
            count = min(p.w - i, MAX_ROWS)
            for k in range(count):
                collect(p, row + (i + k) * p.x_w, work + k * size)
            for k in range(count):
                t = work + k * size
                at = a + (r * p.width + i + k) * 64
                for b in range(p.blocks):
                    split_pair(v_load(t), v_load(t + VW), at, part, p.parts == 3)
                    t += BLOCK
                    at += p.parts * part
            i += count


cdef inline void gather(
    const AmxParams* p, const float* x, const float* scale, const float* shift, int64_t m,
    int64_t count, int64_t rows, float* f,
) noexcept nogil:
    """The inputs of ``count`` pixels from flat index ``m`` (``count`` <= ``rows``):
    f[block][tap][row][BLOCK], zeros outside the image and for the rows that are left."""
    cdef int64_t i, b, kh, kw, ih, iw, oy = m // p.width, ox = m % p.width, left
    cdef int64_t taps = p.kh * p.kw
    cdef const float* at
    cdef const float* s
    cdef const float* t
    cdef float* out
    cdef vf lo, hi, low = v_set(p.pre_lo)
    cdef float one[RUN_MAX + VW]
    if p.run_rows:
        for i in range(rows):
            if i < count and ox < p.ow:
                collect(p, x + oy * p.x_h + ox * p.x_w, one)
            else:
                for b in range(2 * p.blocks):
                    v_store(one + b * VW, v_zero())
            for b in range(p.blocks):
                out = f + (b * rows + i) * BLOCK
                v_store(out, v_load(one + b * BLOCK))
                v_store(out + VW, v_load(one + b * BLOCK + VW))
            ox += 1
            if ox == p.width:
                ox = 0
                oy += 1
        return
    for i in range(rows):
        for kh in range(p.kh):
            for kw in range(p.kw):
                ih = oy * p.stride_h - p.pad_h + kh * p.dilation_h
                iw = ox * p.stride_w - p.pad_w + kw * p.dilation_w
                out = f + ((kh * p.kw + kw) * rows + i) * BLOCK
                if i < count and ox < p.ow and 0 <= ih < p.h and 0 <= iw < p.w:
                    at = x + ih * p.x_h + iw * p.x_w
                    for b in range(p.blocks):
                        left = p.channels - b * BLOCK
                        if left >= BLOCK:
                            lo = v_load(at)
                            hi = v_load(at + VW)
                        else:
                            lo = fetch(at, left)
                            hi = fetch(at + VW, left - VW)
                        if scale != NULL or shift != NULL:
                            s = scale + b * BLOCK if scale != NULL else scale
                            t = shift + b * BLOCK if shift != NULL else shift
                            lo = prepare(lo, s, t, low, left)
                            hi = prepare(hi, s + VW if s != NULL else s,
                                         t + VW if t != NULL else t, low, left - VW)
                        v_store(out, lo)
                        v_store(out + VW, hi)
                        at += BLOCK
                        out += taps * rows * BLOCK
                else:
                    for b in range(p.blocks):
                        v_store(out, v_zero())
                        v_store(out + VW, v_zero())
                        out += taps * rows * BLOCK
        ox += 1
        if ox == p.width:
            ox = 0
            oy += 1


cdef inline void split_pixels(
    const bint plain, const bint three, const AmxParams* p, const float* x, int64_t step_w, int64_t count,
    int64_t left, const float* scale, const float* shift, char* a, int64_t part,
) noexcept nogil:
    """One channel block of ``count`` pixels ``step_w`` apart, 64 bytes each at ``a``."""
    cdef int64_t i
    cdef vf lo, hi, low = v_set(p.pre_lo)
    if left >= BLOCK:
        for i in range(count):
            # (The hardware does not foresee pixels that are pages apart.)
            prefetch(x + AHEAD * step_w)
            prefetch(x + AHEAD * step_w + VW)
            lo = v_load(x)
            hi = v_load(x + VW)
            if not plain:
                lo = prepare(lo, scale, shift, low, VW)
                hi = prepare(hi, scale + VW if scale != NULL else scale,
                             shift + VW if shift != NULL else shift, low, VW)
            split_pair(lo, hi, a, part, three)
            x += step_w
            a += 64
    else:
        for i in range(count):
            lo = fetch(x, left)
            hi = fetch(x + VW, left - VW)
            if not plain:
                lo = prepare(lo, scale, shift, low, left)
                hi = prepare(hi, scale + VW if scale != NULL else scale,
                             shift + VW if shift != NULL else shift, low, left - VW)
                if left < VW:
                    hi = v_zero()
            split_pair(lo, hi, a, part, three)
            x += step_w
            a += 64


cdef inline void split_image(
    const AmxParams* p, const float* x, const float* scale, const float* shift, int64_t y0,
    int64_t rows, int64_t b0, int64_t b1, char* a,
) noexcept nogil:
    """Channel blocks b0 .. b1 of the split copy of the input of output rows y0 .. y0 + rows of one
    image."""
    cdef int64_t part = p.phases * p.plane * 64
    cdef int64_t b, f, r, ih, c, c0, c1, q
    cdef const float* s
    cdef const float* t
    cdef const float* row
    cdef char* at
    for b in range(b0, b1):
        s = scale + b * BLOCK if scale != NULL else scale
        t = shift + b * BLOCK if shift != NULL else shift
        for f in range(p.phases):
            # Columns c0 .. c1 of the plane lie in the image.
            c0 = max(0, -p.first_w)
            c1 = (p.w - p.phase_w[f] + p.stride_w - 1) // p.stride_w - p.first_w
            c1 = min(max(c1, c0), p.width)
            at = a + (b * p.parts * p.phases + f) * p.plane * 64
            for r in range(rows + p.halo_h):
                ih = (y0 + p.first_h + r) * p.stride_h + p.phase_h[f]
                if ih < 0 or ih >= p.h or c0 >= c1:
                    for q in range(p.parts):
                        memset(at + q * part, 0, 64 * p.width)
                else:
                    for q in range(p.parts):
                        if c0 > 0:
                            memset(at + q * part, 0, 64 * c0)
                        if c1 < p.width:
                            memset(at + q * part + 64 * c1, 0, 64 * (p.width - c1))
                    row = (x + ih * p.x_h + ((c0 + p.first_w) * p.stride_w + p.phase_w[f]) * p.x_w
                           + b * BLOCK)
                    if scale == NULL and shift == NULL and p.parts == 3:
                        split_pixels(True, True, p, row, p.stride_w * p.x_w, c1 - c0,
                                     p.channels - b * BLOCK, NULL, NULL, at + 64 * c0, part)
                    elif scale == NULL and shift == NULL:
                        split_pixels(True, False, p, row, p.stride_w * p.x_w, c1 - c0,
                                     p.channels - b * BLOCK, NULL, NULL, at + 64 * c0, part)
                    else:
                        split_pixels(False, p.parts == 3, p, row, p.stride_w * p.x_w, c1 - c0,
                                     p.channels - b * BLOCK, s, t, at + 64 * c0, part)
                at += 64 * p.width
            for q in range(p.parts):
                memset(at + q * part, 0, 64 * (p.plane - (rows + p.halo_h) * p.width))
