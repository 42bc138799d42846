"""Convolution and matrix product in float32 on integer tile-matrix hardware (Intel AMX).

Every input is scaled to an integer of 23 bits and a sign, written as three digits of eight bits each,
and so is every weight. Of the nine products of the digits of two factors the six largest are summed,
exactly, in 32-bit integers, one sum for each weight of digits; the three sums are joined in float32. The
hardware does 32 times as many products of eight bits as the vector units do float32 ones, so six times
as many are still much cheaper. After Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix multiplication by
using fast routines of matrix multiplication and its applications", 2012, and Ootomo, Ozaki and Yokota,
"DGEMM on integer matrix multiplication unit", 2024.

Weights are scaled by filter, and kept as digits. The inputs of a 1×1 convolution are scaled by pixel;
for others all inputs of some output rows have one scale, and these blocks of rows follow from shapes
alone. What is left out of a product is about 2**-23 of the largest input, among those, times the
largest weight: sums are about as accurate as float32 arithmetic makes them.

The digits lie as ``[channel block][digit][pixel][64]``: 16 successive pixels of a block are one tile.
Borders are zeros in the copy, shared between the end of a row and the start of the next, and rows
follow one another, so that a tile may span rows; what a tile computes at a border is dropped. With a
stride, pixels are sorted by their coordinates modulo the stride, and each tap again reads successive
pixels. (Channel 16 j + i of a block is byte 4 i + j, for pixels and weights alike.)

Tile instructions are all there is in the inner loop: where another hardware thread shares the core they
take turns, loads as well as products, at a third of their speed, and four loads for four products are the
fewest that eight tiles allow.

NaN and infinity have no digits, and a pixel that is 2**16 times as large as the usual one among those
that share a scale is left out of it, where there are few. An output that reads one of them, or that is
not finite, is computed by the definition.
"""

from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.amx_input cimport (
    MAX_PHASES,
    SOME,
    AmxParams,
    Scanned,
    Source,
    collect,
    scan,
    split_points,
    split_rows,
)
from fastconv.kernels.amx_tile cimport (
    BLOCK,
    DIGITS,
    PANEL,
    SUMS,
    TALL,
    TILE,
    Operands,
    Pending,
    begin,
    joined_finite,
    magnitude_bits,
    some_products,
    tiles_begin,
    tiles_end,
)
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, activate
from fastconv.kernels.winograd_tile cimport fastconv_load

cdef enum:
    RUN_MAX = 512           # the most floats gathered for one pixel
    TOGETHER = 8            # filters that are computed by the definition at a time


cdef struct Weights:
    # One panel's bias, and all weights [filters][channels of a group][kh][kw]. (Weights that are
    # small beside their filter's largest have no digits left.)
    const float* bias
    const float* plain


cdef inline void finish(
    const bint masked, const bint add, const float* q, const float* r, int64_t r_w, float* y,
    int64_t y_w, int64_t count, vf lo, vf hi, int n0, int n1,
) noexcept nogil:
    """``count`` successive pixels of a panel: add the residual, clip, store."""
    cdef int64_t i
    cdef vf a, b
    for i in range(count):
        a = v_load(q)
        b = v_load(q + VW)
        if add:
            a = v_add(a, v_load_n(r, n0) if masked else v_load(r))
            b = v_add(b, v_load_n(r + VW, n1) if masked else v_load(r + VW))
            r += r_w
        a = v_min(hi, v_max(lo, a))
        b = v_min(hi, v_max(lo, b))
        if masked:
            v_store_n(y, a, n0)
            v_store_n(y + VW, b, n1)
        else:
            v_store(y, a)
            v_store(y + VW, b)
        q += PANEL
        y += y_w


cdef inline float value(const AmxParams* p, const Source* s, const float* x, int64_t c) noexcept nogil:
    """Channel ``c`` of a pixel, as the convolution reads it."""
    cdef float v = x[c]
    if s.scale != NULL:
        v = v * s.scale[c]
    if s.shift != NULL:
        v = v + s.shift[c]
        if v < p.pre_lo:
            v = p.pre_lo
    return v


cdef void direct(
    const AmxParams* p, const Source* s, const Weights* w, int64_t panel, int64_t oy, int64_t ox,
    float* out,
) noexcept nogil:
    """One panel of one output pixel by the definition: each filter reads its own group's channels
    alone, and the weights themselves (zero times infinity is no number)."""
    cdef int64_t taps = p.kh * p.kw, channels = p.channels, lo = 0, f1, f, t, c, ih, iw, q, n
    cdef int64_t end = min(p.filters, (panel + 1) * PANEL)
    cdef const float* row
    cdef const float* at
    cdef float one[RUN_MAX + BLOCK + VW]
    cdef float sums[TOGETHER]
    cdef float v
    if p.group_filters:
        channels = p.group_channels
    if p.run_rows:
        # Gathered as [kh][kw][channel].
        collect(p, s.x + oy * p.x_h + ox * p.x_w, one)
        taps = p.channels // p.run_channels
    f = panel * PANEL
    while f < end:
        f1 = end
        if p.group_filters:
            lo = f // p.group_filters * channels
            f1 = min(end, (f // p.group_filters + 1) * p.group_filters)
        n = min(f1 - f, <int64_t>TOGETHER)
        for q in range(n):
            sums[q] = w.bias[f - panel * PANEL + q]
        at = w.plain + f * channels * (1 if p.run_rows else taps)
        if p.run_rows:
            for c in range(channels):
                for q in range(n):
                    sums[q] += one[c] * fastconv_load(
                        at + q * channels + c % p.run_channels * taps + c // p.run_channels)
        else:
            for t in range(taps):
                ih = oy * p.stride_h - p.pad_h + t // p.kw * p.dilation_h
                iw = ox * p.stride_w - p.pad_w + t % p.kw * p.dilation_w
                if 0 <= ih < p.h and 0 <= iw < p.w:
                    row = s.x + ih * p.x_h + iw * p.x_w
                    for c in range(channels):
                        v = value(p, s, row, lo + c)
                        for q in range(n):
                            sums[q] += v * fastconv_load(at + (q * channels + c) * taps + t)
        for q in range(n):
            out[f - panel * PANEL + q] = sums[q]
        f += n


cdef bint window_below(
    const AmxParams* p, const Source* s, int64_t oy, int64_t ox, uint32_t limit,
) noexcept nogil:
    """Whether the bits of all inputs of an output pixel are below ``limit``."""
    cdef int64_t i, j, ih, iw, c
    cdef float v
    for i in range(p.kh):
        for j in range(p.kw):
            ih = oy * p.stride_h - p.pad_h + i * p.dilation_h
            iw = ox * p.stride_w - p.pad_w + j * p.dilation_w
            if 0 <= ih < p.h and 0 <= iw < p.w:
                for c in range(p.channels):
                    v = value(p, s, s.x + ih * p.x_h + iw * p.x_w, c)
                    if magnitude_bits(v) >= limit:
                        return False
    return True


cdef inline bint finite(vf check) noexcept nogil:
    return v_hsum(check) == 0


cdef void repair(
    const AmxParams* p, const Source* s, const Weights* w, int64_t panel, int64_t m, int64_t count,
    bint wide, float* out,
) noexcept nogil:
    """Compute again the pixels from flat index ``m`` whose outputs are not all finite."""
    cdef vf check
    cdef int64_t i, oy = m // p.width, ox = m % p.width
    for i in range(count):
        check = v_mul(v_load(out + i * PANEL), v_zero())
        if wide:
            check = v_fma(v_load(out + i * PANEL + VW), v_zero(), check)
        if ox < p.ow and not finite(check):
            direct(p, s, w, panel, oy, ox, out + i * PANEL)
        ox += 1
        if ox == p.width:
            ox = 0
            oy += 1


cdef inline void store(
    const AmxParams* p, float* q, int64_t m, int64_t rows, int64_t image, int64_t panel, int cols,
    const float* residual, float* y,
) noexcept nogil:
    """Finish ``rows`` pixels from flat index ``m``: residual, activation, output."""
    cdef int64_t oy = m // p.width, ox = m % p.width, i = 0, count
    cdef float* t
    cdef const float* r = residual
    cdef vf lo = v_set(p.lo), hi = v_set(p.hi)
    cdef int n0 = min(cols, VW), n1 = cols - min(cols, VW)
    while i < rows:
        # Pixels of one output row; then those that are border.
        count = min(rows - i, p.ow - ox)
        if count > 0:
            t = y + image * p.y_n + oy * p.y_h + ox * p.y_w + panel * PANEL
            if residual != NULL:
                r = residual + image * p.r_n + oy * p.r_h + ox * p.r_w + panel * PANEL
            if p.act > ACT_CLIP:
                if residual != NULL:
                    finish(True, True, q, r, p.r_w, q, PANEL, count, lo, hi, n0, n1)
                activate(p.act, p.alpha, p.beta, q, count * PANEL)
                finish(True, False, q, r, 0, t, p.y_w, count, lo, hi, n0, n1)
            elif cols == PANEL:
                if residual != NULL:
                    finish(False, True, q, r, p.r_w, t, p.y_w, count, lo, hi, 0, 0)
                else:
                    finish(False, False, q, r, 0, t, p.y_w, count, lo, hi, 0, 0)
            elif residual != NULL:
                finish(True, True, q, r, p.r_w, t, p.y_w, count, lo, hi, n0, n1)
            else:
                finish(True, False, q, r, 0, t, p.y_w, count, lo, hi, n0, n1)
        i += p.width - ox
        q += (p.width - ox) * PANEL
        ox = 0
        oy += 1


cdef inline void source(
    const AmxParams* p, const float* x, const float* scale, int64_t image, Source* s,
) noexcept nogil:
    s.x = x + image * p.x_n
    s.scale = scale + image * p.pre_n if scale != NULL else scale


cdef struct Group:
    # Up to TALL successive pixels of an image by a panel.
    Pending q
    Weights w
    int64_t panel, image, m


cdef inline void complete(
    const AmxParams* p, const float* x, const float* scale, const float* shift,
    const float* residual, float* y, Group* g,
) noexcept nogil:
    """Join what is left of a group, and store it."""
    cdef Source s
    cdef int cols = <int>min(p.filters - g.panel * PANEL, PANEL)
    if g.q.count == 0:
        return
    if not joined_finite(&g.q, cols > VW):
        source(p, x, scale, g.image, &s)
        s.shift = shift
        repair(p, &s, &g.w, g.panel, g.m, g.q.count, cols > VW, g.q.out)
    store(p, g.q.out, g.m, g.q.count, g.image, g.panel, cols, residual, y)
    g.q.count = 0


cdef void amx_conv(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, weights (digits [panel][step][half][digit] tiles, then what they count
    [panel][PANEL] float), bias [panel][PANEL], residual or NULL, pre-scale [image][channels] or NULL,
    pre-shift [channels] or NULL, step offsets and then each panel's first channel block (int64),
    plain weights [filters][channels of a group][kh][kw], scratch, y."""
    cdef const AmxParams* p = <const AmxParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const char* weights = <const char*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* residual = <const float*>c.buf[3]
    cdef const float* scale = <const float*>c.buf[4]
    cdef const float* shift = <const float*>c.buf[5]
    cdef const int64_t* offsets = <const int64_t*>c.buf[6]
    cdef const int64_t* first = offsets + p.steps
    cdef float* y = <float*>c.buf[9]
    cdef int64_t panels = (p.filters + PANEL - 1) // PANEL
    cdef int64_t groups = (panels + p.block_panels - 1) // p.block_panels
    # Row blocks of a block of rows with one scale, and all.
    cdef int64_t parts = (p.scale_rows + p.block_rows - 1) // p.block_rows
    cdef int64_t row_blocks = (p.oh + p.scale_rows - 1) // p.scale_rows * parts
    cdef int64_t image_blocks = (p.n + p.block_n - 1) // p.block_n
    cdef int64_t units = image_blocks * row_blocks * groups
    cdef int64_t unit = share(units, thread, threads), end = share(units, thread + 1, threads)
    # Bytes of one image's digits, of a channel block's, and of a panel's weights.
    cdef int64_t pitch = p.phases * p.plane * 64, block_bytes = DIGITS * pitch
    cdef int64_t image_bytes = p.blocks * block_bytes, b_bytes = p.steps * 2 * DIGITS * TILE
    cdef int64_t pixels = (p.block_rows * p.width + TALL) // VW * VW + VW
    cdef int64_t work_size = SOME * (p.blocks * BLOCK + VW)
    cdef char* a = <char*>c.buf[8] + thread * (
        p.block_n * (image_bytes + pixels * 4) + (2 * DIGITS + 1) * SUMS * 4 + work_size * 4)
    cdef float* back = <float*>(a + p.block_n * image_bytes)
    cdef float* work = back + p.block_n * pixels
    cdef float* out = work + work_size
    cdef int32_t* sums = <int32_t*>(out + SUMS)
    cdef const float* units_of = <const float*>(weights + panels * b_bytes)
    cdef int64_t done = -1
    cdef int64_t n0, n1, y0, y1, rows, j, j0, j1, outer, m, m_end, count, image, i
    cdef Scanned seen
    cdef float* at
    cdef uint32_t limit
    cdef Source s
    cdef Group g
    cdef Operands o
    if unit >= end:
        return
    s.shift = shift
    o.pitch = pitch
    o.offsets = offsets
    o.steps = p.steps
    o.sums = sums
    o.ahead = o.ahead_end = NULL
    g.q.count = g.q.next = 0
    g.q.out = out
    g.w.plain = <const float*>c.buf[7]
    g.q.step = PANEL
    seen.image = -1
    tiles_begin()
    while unit < end:
        n0 = unit // (row_blocks * groups) * p.block_n
        n1 = min(n0 + p.block_n, p.n)
        i = unit // groups % row_blocks
        y0 = i // parts * p.scale_rows
        y1 = min(y0 + p.scale_rows, p.oh)
        y0 += i % parts * p.block_rows
        rows = min(p.block_rows, y1 - y0)
        if rows <= 0:
            unit += 1
            continue
        j0 = unit % groups * p.block_panels
        j1 = min(j0 + p.block_panels, panels)
        m_end = (rows - 1) * p.width + p.ow
        if done != unit // groups:
            complete(p, x, scale, shift, residual, y, &g)
            done = unit // groups
            for image in range(n0, n1):
                source(p, x, scale, image, &s)
                at = back + (image - n0) * pixels
                if p.kh * p.kw == 1:
                    split_points(p, &s, y0, rows, work, a + (image - n0) * image_bytes, at)
                else:
                    scan(p, &s, image, y0 // p.scale_rows * p.scale_rows, y1, work, &seen)
                    limit = seen.limit
                    split_rows(p, &s, y0, rows, &seen, work, a + (image - n0) * image_bytes, at)
                    for i in range(1, m_end):
                        at[i] = at[0]
                    if limit:
                        for i in range(m_end):
                            if not window_below(p, &s, y0 + i // p.width, i % p.width, limit):
                                at[i] = NAN
        unit += 1
        # Pixels, each with all filters, write whole lines of the output; but many weights are
        # better read once for all pixels.
        outer = j0
        while outer < (j0 + 1 if p.pixels_outside else j1):
            for image in range(n0, n1):
                at = back + (image - n0) * pixels
                m = 0
                while m < m_end:
                    count = min(m_end - m, TALL)
                    for j in range(outer, j1 if p.pixels_outside else outer + 1):
                        o.a = a + (image - n0) * image_bytes + first[j] * block_bytes + m * 64
                        o.b = weights + j * b_bytes
                        if m == 0 and not p.pixels_outside:
                            # Weights arrive from far away while the ones before them are in use.
                            o.ahead = o.b + b_bytes
                            o.ahead_end = o.ahead + (b_bytes if j + 1 < panels else 0)
                        some_products(count, p.filters - j * PANEL > VW, &o, &g.q)
                        complete(p, x, scale, shift, residual, y, &g)
                        begin(&g.q, &o, count)
                        g.q.back = at + m
                        g.q.unit = units_of + j * PANEL
                        g.q.bias = g.w.bias = bias + j * PANEL
                        g.panel = j
                        g.image = image
                        g.m = y0 * p.width + m
                        # The other half, for the next group.
                        o.sums = sums if o.sums != sums else sums + DIGITS * SUMS
                    m += count
            outer += 1
    complete(p, x, scale, shift, residual, y, &g)
    tiles_end()


def pack_amx_conv(**values):
    """The bytes of ``AmxParams``, from one keyword per field."""
    cdef AmxParams p = values
    return (<char*>&p)[:sizeof(AmxParams)]


KERNELS = {"amx_conv": (<uintptr_t>&amx_conv, pack_amx_conv)}
CONSTANTS = {"PANEL": PANEL, "BLOCK": BLOCK, "MAX_PHASES": MAX_PHASES, "RUN_MAX": RUN_MAX}
