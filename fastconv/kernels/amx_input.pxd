"""The input of ``amx_conv``: its parameters, and the copy of it as digits.

The layouts are described in ``amx_conv.pyx``.
"""

from libc.math cimport NAN
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from fastconv.kernels.amx_tile cimport (
    BLOCK,
    DIGITS,
    below_or_zero,
    digits_scale,
    larger,
    larger_below,
    largest,
    prefetch,
    split_digits,
)
from fastconv.kernels.simd cimport *

cdef enum:
    MAX_PHASES = 16
    AHEAD = 8               # pixels from the one that is fetched to the one that is split
    SOME = 8                # pixels whose scales are found before they are split
    NOT_FINITE = 0x7F800000
    FAR = 16                # powers of two from the usual pixel to one that is left out of the scale
    FEW = 32                # so many pixels of a block may be left out, and ...
    SHARE = 8               # ... one of so many more


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
    # The digits of one image's rows: planes (one per phase) of rows * width pixels and `slack`
    # zeros. Column c of a plane is input column (c + first_w) * stride_w + its phase; its first row
    # is input row (first output row + first_h) * stride_h + its phase.
    int64_t phases
    int64_t phase_h[MAX_PHASES]
    int64_t phase_w[MAX_PHASES]
    int64_t width, first_h, first_w, halo_h, plane
    # Where a pixel's channels are gathered from: rows of run floats, run_h apart (run_rows = 0: they
    # lie in one piece).
    int64_t run_rows, run, run_h
    int64_t run_channels    # of the convolution that they are of
    # Channels and filters of a group, or 0 where there is one group.
    int64_t group_channels, group_filters
    # Channel blocks of the input; (block, tap) steps of a panel.
    int64_t blocks, steps
    # Units of work: images × output rows × panels. Inputs of so many output rows from a multiple of
    # that have one scale; a unit's are all of one such block.
    int64_t block_n, block_rows, block_panels, scale_rows
    int64_t pixels_outside  # some pixels by all panels, then the next ones; or else panel by panel
    # Input times pre_scale plus pre_shift, then clipped below, before all else.
    int64_t pre_n           # pre_scale of the next image, in floats
    float pre_lo
    int32_t act
    float lo, hi, alpha, beta


cdef struct Source:
    # One image, and what it is scaled and shifted by, each [channels] or NULL.
    const float* x
    const float* scale
    const float* shift


cdef inline vf fetch(const float* x, int64_t n) noexcept nogil:
    if n >= VW:
        return v_load(x)
    if n <= 0:
        return v_zero()
    return v_load_n(x, <int>n)


cdef inline void prepare(
    const AmxParams* p, const Source* s, const float* x, float* t,
) noexcept nogil:
    """One pixel, scaled, shifted and clipped, and zeros to the end of its last block."""
    cdef int64_t c = 0, left
    cdef vf a, low = v_set(p.pre_lo)
    while c < p.blocks * BLOCK:
        left = p.channels - c
        a = fetch(x + c, left)
        if s.scale != NULL:
            a = v_mul(a, fetch(s.scale + c, left))
        if s.shift != NULL:
            a = v_max(low, v_add(a, fetch(s.shift + c, left)))
        v_store(t + c, a)
        if left < VW:
            memset(t + c + max(<int64_t>0, left), 0, (VW - max(<int64_t>0, left)) * 4)
        c += VW


cdef inline const float* pixel(
    const AmxParams* p, const Source* s, int64_t h, int64_t i, float* work,
) noexcept nogil:
    """Pixel ``i`` of row ``h``: where it lies, or in ``work`` if it is to be scaled first."""
    cdef const float* at = s.x + h * p.x_h + i * p.x_w
    if s.scale == NULL and s.shift == NULL:
        return at
    prepare(p, s, at, work)
    return work


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


cdef inline uint32_t greatest(const float* x, int64_t n) noexcept nogil:
    """The bits of the largest magnitude of n floats."""
    cdef vf a = v_zero(), b = v_zero()
    cdef int64_t i = 0
    while i + 2 * VW <= n:
        a = larger(a, v_load(x + i))
        b = larger(b, v_load(x + i + VW))
        i += 2 * VW
    while i < n:
        a = larger(a, fetch(x + i, n - i))
        i += VW
    return largest(larger(a, b))


cdef inline uint32_t greatest_below(const float* x, int64_t n, uint32_t limit) noexcept nogil:
    """The bits of the largest magnitude of n floats among those whose bits are below ``limit``."""
    cdef vf a = v_zero()
    cdef int64_t i = 0
    while i < n:
        a = larger_below(a, fetch(x + i, n - i), limit)
        i += VW
    return largest(a)


cdef inline bint uneven(const float* x, int64_t n, int64_t group) noexcept nogil:
    """Whether groups of channels are too far apart for one scale."""
    cdef int64_t i = 0
    cdef uint32_t bits, least = NOT_FINITE, most = 0
    while i < n:
        bits = greatest(x + i, group)
        most = max(most, bits)
        if bits > 0:
            least = min(least, bits)
        i += group
    return most > least and (most >> 23) - (least >> 23) > FAR


cdef inline void split_block(
    const float* x, int64_t left, float up, uint32_t limit, char* a, int64_t pitch,
) noexcept nogil:
    """The digits of 64 channels of one pixel, of which ``left`` exist; those whose bits are not
    below ``limit``, if it is not 0, become zero."""
    cdef vf v0, v1, v2, v3, s = v_set(up)
    if left >= BLOCK:
        v0 = v_load(x)
        v1 = v_load(x + VW)
        v2 = v_load(x + 2 * VW)
        v3 = v_load(x + 3 * VW)
    else:
        v0 = fetch(x, left)
        v1 = fetch(x + VW, left - VW)
        v2 = fetch(x + 2 * VW, left - 2 * VW)
        v3 = fetch(x + 3 * VW, left - 3 * VW)
    if limit:
        v0 = below_or_zero(v0, limit)
        v1 = below_or_zero(v1, limit)
        v2 = below_or_zero(v2, limit)
        v3 = below_or_zero(v3, limit)
    split_digits(v_mul(v0, s), v_mul(v1, s), v_mul(v2, s), v_mul(v3, s), a, pitch)


cdef inline void split_points(
    const AmxParams* p, const Source* s, int64_t y0, int64_t rows, float* work, char* a, float* back,
) noexcept nogil:
    """The digits of the pixels that output rows y0 .. y0 + rows of a 1×1 convolution read, each by a
    scale of its own; ``back`` [row][width] undoes it, and is NaN where a pixel is not finite, or has
    groups of channels that one scale does not suit.

    ``work`` holds SOME pixels.
    """
    cdef int64_t pitch = p.plane * 64, size = p.blocks * BLOCK + VW
    cdef int64_t r, i, k, b, ih, c0, c1, count, left
    cdef bint own = p.run_rows > 0 or s.scale != NULL or s.shift != NULL
    cdef const float* row
    cdef const float* at[SOME]
    cdef float up[SOME]
    cdef uint32_t bits
    cdef char* to
    cdef int v
    # Columns c0 .. c1 lie in the image.
    c0 = max(0, -p.first_w)
    c1 = (p.w - p.phase_w[0] + p.stride_w - 1) // p.stride_w - p.first_w
    c1 = min(max(c1, c0), p.width)
    for r in range(rows):
        ih = (y0 + p.first_h + r) * p.stride_h + p.phase_h[0]
        i = 0
        if ih < 0 or ih >= p.h:
            i = p.width
        if i > 0 or c0 > 0 or c1 < p.width:
            for k in range(p.width):
                back[r * p.width + k] = 1
            for b in range(p.blocks * DIGITS):
                memset(a + b * pitch + r * p.width * 64, 0, p.width * 64)
        i = max(i, c0)
        row = s.x + ih * p.x_h + (p.first_w * p.stride_w + p.phase_w[0]) * p.x_w
        while i < c1:
            count = min(c1 - i, SOME)
            for k in range(count):
                at[k] = row + (i + k) * p.stride_w * p.x_w
                if own:
                    if p.run_rows:
                        collect(p, at[k], work + k * size)
                    else:
                        prepare(p, s, at[k], work + k * size)
                    at[k] = work + k * size
                bits = greatest(at[k], p.blocks * BLOCK if own else p.channels)
                if bits >= NOT_FINITE or (
                    p.group_channels > 0 and uneven(at[k], p.channels, p.group_channels)
                ):
                    up[k] = 0
                    back[r * p.width + i + k] = NAN
                else:
                    up[k] = digits_scale(bits, back + r * p.width + i + k)
            left = p.blocks * BLOCK if own else p.channels
            for b in range(p.blocks):
                to = a + b * DIGITS * pitch + (r * p.width + i) * 64
                for k in range(count):
                    split_block(at[k] + b * BLOCK, left, up[k], 0, to, pitch)
                    if not own:
                        # The pixels that are next.
                        for v in range(4):
                            prefetch(at[k] + b * BLOCK + SOME * p.stride_w * p.x_w + v * VW)
                    to += 64
                left -= BLOCK
            i += count
    for b in range(p.blocks * DIGITS):
        memset(a + b * pitch + rows * p.width * 64, 0, (p.plane - rows * p.width) * 64)


cdef inline uint32_t scan_rows(
    const AmxParams* p, const Source* s, int64_t h0, int64_t h1, float* work, uint32_t* limit,
) noexcept nogil:
    """The bits of the largest magnitude of input rows h0 .. h1.

    Where pixels are not finite, or so large beside the usual one that a scale for them would leave
    nothing of it, ``limit`` becomes what the bits of the others are below, and theirs are looked at
    alone; else 0. (Many large pixels are usual: to compute all their outputs by the definition would
    take too long.) Groups of channels count as pixels of their own.
    """
    cdef int64_t h, i, j, exponents = 0, pixels = 0, far = 0
    cdef int64_t channels = p.group_channels if p.group_channels > 0 else p.channels
    cdef const float* at
    cdef uint32_t bits, most = 0, top = 0
    cdef bint odd
    limit[0] = 0
    for h in range(h0, h1):
        for i in range(p.w):
            at = pixel(p, s, h, i, work)
            j = 0
            while j < p.channels:
                bits = greatest(at + j, channels)
                most = max(most, bits)
                if 0 < bits < NOT_FINITE:
                    exponents += bits >> 23
                    pixels += 1
                j += channels
    odd = most >= NOT_FINITE
    bits = NOT_FINITE
    if pixels:
        bits = <uint32_t>min(<int64_t>NOT_FINITE, (exponents // pixels + FAR + 1) << 23)
    if most < bits:
        return most
    limit[0] = bits
    most = 0
    for h in range(h0, h1):
        for i in range(p.w):
            at = pixel(p, s, h, i, work)
            most = max(most, greatest_below(at, p.channels, limit[0]))
            j = 0
            while j < p.channels:
                bits = greatest_below(at + j, channels, NOT_FINITE)
                top = max(top, bits)
                far += bits >= limit[0]
                j += channels
    if far > FEW + pixels // SHARE:
        limit[0] = NOT_FINITE if odd else 0
        most = top
    return most


cdef struct Scanned:
    # What was found in the inputs of the output rows from ``y0`` that have one scale: see scan_rows.
    int64_t image, y0
    uint32_t bits, limit


cdef inline void scan(
    const AmxParams* p, const Source* s, int64_t image, int64_t y0, int64_t y1, float* work,
    Scanned* found,
) noexcept nogil:
    """Look at the inputs of output rows y0 .. y1, if they are others than at the last time."""
    if found.image == image and found.y0 == y0:
        return
    found.image = image
    found.y0 = y0
    found.bits = scan_rows(
        p, s, max(0, y0 * p.stride_h - p.pad_h),
        min(p.h, (y1 - 1) * p.stride_h - p.pad_h + (p.kh - 1) * p.dilation_h + 1), work,
        &found.limit)


cdef inline void split_columns(
    const AmxParams* p, const float* x, int64_t step_w, int64_t count, int64_t left, float up,
    uint32_t limit, char* a, int64_t pitch,
) noexcept nogil:
    """One channel block of ``count`` pixels ``step_w`` apart, 64 bytes each at ``a``."""
    cdef int64_t i
    cdef int v
    for i in range(count):
        # (The hardware does not foresee pixels that are pages apart.)
        for v in range(4):
            prefetch(x + AHEAD * step_w + v * VW)
        split_block(x, left, up, limit, a, pitch)
        x += step_w
        a += 64


cdef inline void split_rows(
    const AmxParams* p, const Source* s, int64_t y0, int64_t rows, const Scanned* found, float* work,
    char* a, float* back,
) noexcept nogil:
    """The digits of the input of output rows y0 .. y0 + rows, all by one scale, which ``back``
    undoes. Inputs whose bits are not below the limit that was found are zero there."""
    cdef int64_t pitch = p.phases * p.plane * 64
    cdef int64_t b, f, r, ih, c, c0, c1, q, k
    cdef bint own = s.scale != NULL or s.shift != NULL
    cdef uint32_t limit = found.limit
    cdef float up = digits_scale(found.bits, back)
    cdef const float* row
    cdef char* at
    cdef char* to
    for f in range(p.phases):
        # Columns c0 .. c1 of the plane lie in the image.
        c0 = max(0, -p.first_w)
        c1 = (p.w - p.phase_w[f] + p.stride_w - 1) // p.stride_w - p.first_w
        c1 = min(max(c1, c0), p.width)
        for r in range(rows + p.halo_h):
            ih = (y0 + p.first_h + r) * p.stride_h + p.phase_h[f]
            at = a + (f * p.plane + r * p.width) * 64
            if ih < 0 or ih >= p.h or c0 >= c1:
                for q in range(p.blocks * DIGITS):
                    memset(at + q * pitch, 0, 64 * p.width)
                continue
            for q in range(p.blocks * DIGITS):
                if c0 > 0:
                    memset(at + q * pitch, 0, 64 * c0)
                if c1 < p.width:
                    memset(at + q * pitch + 64 * c1, 0, 64 * (p.width - c1))
            row = s.x + ih * p.x_h + ((c0 + p.first_w) * p.stride_w + p.phase_w[f]) * p.x_w
            at += 64 * c0
            if own:
                for k in range(c1 - c0):
                    prepare(p, s, row + k * p.stride_w * p.x_w, work)
                    to = at + 64 * k
                    for b in range(p.blocks):
                        split_block(work + b * BLOCK, BLOCK, up, limit, to, pitch)
                        to += DIGITS * pitch
                continue
            for b in range(p.blocks):
                split_columns(p, row, p.stride_w * p.x_w, c1 - c0, p.channels - b * BLOCK, up,
                              limit, at, pitch)
                row += BLOCK
                at += DIGITS * pitch
        for q in range(p.blocks * DIGITS):
            memset(a + q * pitch + (f * p.plane + (rows + p.halo_h) * p.width) * 64, 0,
                   64 * (p.plane - (rows + p.halo_h) * p.width))
