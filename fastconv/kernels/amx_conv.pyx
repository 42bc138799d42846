"""Convolution and matrix product in float32 on bfloat16 tile-matrix hardware (Intel AMX).

Every float32 is the exact sum of three bfloat16 numbers of 8 significant bits. Of the nine products
of the parts of two factors the six largest are summed, in float32: what is left out is below 2**-25
of the product, less than what float32 arithmetic rounds away. The hardware does sixteen times as many
bfloat16 products as the vector units do float32 ones, so six times as many are still cheaper. After
Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations", 2019.

The input is split once per block of output rows, into ``[channel block][part][pixel][32]``: 16
successive pixels of a block are one tile. Borders are zeros in the copy, shared between the end of a
row and the start of the next, and rows follow one another, so that a tile may span rows; what a tile
computes at a border is dropped. With a stride, pixels are sorted by their coordinates modulo the
stride, and each tap again reads successive pixels. Weights stay float32 in memory and are split here,
panel by panel.

The vector units would idle meanwhile: of every ``TALL`` + some successive pixels of
an image the vector units compute the last few from the floats themselves, their instructions mixed
with the tile instructions. (Where another hardware thread shares the core, tile instructions take
turns and run at two fifths of their speed, which the vector units then make up for in part.)

In long sums (``parts`` = 2) two parts of a number are enough: the error is then below what float32
arithmetic makes of them times ten.

Inf and NaN do not survive splitting, so an output that is not finite is computed again by the
definition.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memset

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.amx_tile cimport (
    BLOCK,
    MAX_PHASES,
    MAX_ROWS,
    PANEL,
    ROWS_2,
    ROWS_3,
    RUN_MAX,
    TALL,
    TILE,
    Operands,
    some_products,
    split_pair,
    tiles_begin,
    tiles_end,
)
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, activate

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
    # Units of work: images × output rows × panels.
    int64_t block_n, block_rows, block_panels
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


cdef void split_runs(
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


cdef void gather(
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


cdef inline void split_panel(const float* w, int64_t steps, int64_t parts, char* b) noexcept nogil:
    """Weights [step][BLOCK][PANEL] → [step][half panel][part] tiles."""
    cdef int64_t k
    cdef int i
    for k in range(steps):
        for i in range(16):
            split_pair(v_load(w + i * PANEL), v_load(w + (16 + i) * PANEL), b + 64 * i, TILE,
                       parts == 3)
            split_pair(v_load(w + i * PANEL + 16), v_load(w + (16 + i) * PANEL + 16),
                       b + parts * TILE + 64 * i, TILE, parts == 3)
        w += BLOCK * PANEL
        b += 2 * parts * TILE


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


cdef inline void split_pixels(
    const bint plain, const bint three, const AmxParams* p, const float* x, int64_t step_w, int64_t count,
    int64_t left, const float* scale, const float* shift, char* a, int64_t part,
) noexcept nogil:
    """One channel block of ``count`` pixels ``step_w`` apart, 64 bytes each at ``a``."""
    cdef int64_t i
    cdef vf lo, hi, low = v_set(p.pre_lo)
    if left >= BLOCK:
        for i in range(count):
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


cdef void split_image(
    const AmxParams* p, const float* x, const float* scale, const float* shift, int64_t y0,
    int64_t rows, char* a,
) noexcept nogil:
    """The split copy of the input of output rows y0 .. y0 + rows of one image."""
    cdef int64_t part = p.phases * p.plane * 64
    cdef int64_t b, f, r, ih, c, c0, c1, q
    cdef const float* s
    cdef const float* t
    cdef const float* row
    cdef char* at
    for b in range(p.blocks):
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


cdef void direct_groups(
    const AmxParams* p, const float* x, const float* scale, const float* shift, const float* w,
    const float* bias, int64_t first, int64_t panel, int64_t oy, int64_t ox, float* out,
) noexcept nogil:
    """``direct`` where a panel has filters of several groups: each reads its own channels alone."""
    cdef int64_t k, c, f, q, tap, ih, iw, lo, hi, taps = p.kh * p.kw
    cdef float v, s
    cdef const float* row
    for f in range(min(p.filters - panel * PANEL, PANEL)):
        s = bias[f]
        lo = (panel * PANEL + f) // p.group_filters * p.group_channels
        hi = lo + p.group_channels
        for k in range(p.steps):
            tap = k % taps
            ih = oy * p.stride_h - p.pad_h + tap // p.kw * p.dilation_h
            iw = ox * p.stride_w - p.pad_w + tap % p.kw * p.dilation_w
            q = (first + k // taps) * BLOCK
            if 0 <= ih < p.h and 0 <= iw < p.w:
                row = x + ih * p.x_h + iw * p.x_w
                for c in range(max(q, lo), min(q + BLOCK, hi)):
                    v = row[c]
                    if scale != NULL:
                        v = v * scale[c]
                    if shift != NULL:
                        v = v + shift[c]
                        if v < p.pre_lo:
                            v = p.pre_lo
                    s = s + v * w[(k * BLOCK + c - q) * PANEL + f]
        out[f] = s


cdef void direct(
    const AmxParams* p, const float* x, const float* scale, const float* shift, const float* w,
    const float* bias, int64_t first, int64_t panel, int64_t oy, int64_t ox, float* out,
) noexcept nogil:
    """One panel of one output pixel by the definition, from the packed weights."""
    cdef vf s0 = v_load(bias), s1 = v_load(bias + VW), a
    cdef int64_t k, c, q, tap, ih, iw, taps = p.kh * p.kw
    cdef float v
    cdef const float* row
    cdef float one[RUN_MAX + VW]
    if p.group_filters:
        direct_groups(p, x, scale, shift, w, bias, first, panel, oy, ox, out)
        return
    if p.run_rows:
        collect(p, x + oy * p.x_h + ox * p.x_w, one)
        for c in range(p.run_rows * p.run):
            a = v_set(one[c])
            s0 = v_fma(a, v_load(w + c * PANEL), s0)
            s1 = v_fma(a, v_load(w + c * PANEL + VW), s1)
        v_store(out, s0)
        v_store(out + VW, s1)
        return
    for k in range(p.steps):
        tap = k % taps
        ih = oy * p.stride_h - p.pad_h + tap // p.kw * p.dilation_h
        iw = ox * p.stride_w - p.pad_w + tap % p.kw * p.dilation_w
        q = (first + k // taps) * BLOCK
        if 0 <= ih < p.h and 0 <= iw < p.w:
            row = x + ih * p.x_h + iw * p.x_w
            for c in range(q, min(q + BLOCK, p.channels)):
                v = row[c]
                if scale != NULL:
                    v = v * scale[c]
                if shift != NULL:
                    v = v + shift[c]
                    if v < p.pre_lo:
                        v = p.pre_lo
                a = v_set(v)
                s0 = v_fma(a, v_load(w + (c - q) * PANEL), s0)
                s1 = v_fma(a, v_load(w + (c - q) * PANEL + VW), s1)
        w += BLOCK * PANEL
    v_store(out, s0)
    v_store(out + VW, s1)


cdef inline bint finite(vf check) noexcept nogil:
    return v_hsum(check) == 0


cdef inline void repair(
    const AmxParams* p, const float* x, const float* scale, const float* shift, const float* w,
    const float* bias, int64_t first, int64_t panel, int64_t m, int64_t count, bint wide, float* out,
) noexcept nogil:
    """Compute again the pixels from flat index ``m`` whose outputs are not all finite."""
    cdef vf check = v_zero(), check2 = v_zero()
    cdef int64_t i, oy, ox
    for i in range(count):
        check = v_fma(v_load(out + i * PANEL), v_zero(), check)
        if wide:
            check2 = v_fma(v_load(out + i * PANEL + VW), v_zero(), check2)
    if finite(v_add(check, check2)):
        return
    oy = m // p.width
    ox = m % p.width
    for i in range(count):
        check = v_mul(v_load(out + i * PANEL), v_zero())
        if wide:
            check = v_fma(v_load(out + i * PANEL + VW), v_zero(), check)
        if ox < p.ow and not finite(check):
            direct(p, x, scale, shift, w, bias, first, panel, oy, ox, out + i * PANEL)
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


cdef void amx_conv(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, weights [panel][step][BLOCK][PANEL], bias [panel][PANEL], residual or NULL,
    pre-scale [image][channels] or NULL, pre-shift [channels] or NULL, step offsets and then each
    panel's first channel block (int64), scratch, y."""
    cdef const AmxParams* p = <const AmxParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* weights = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* residual = <const float*>c.buf[3]
    cdef const float* scale = <const float*>c.buf[4]
    cdef const float* shift = <const float*>c.buf[5]
    cdef const int64_t* offsets = <const int64_t*>c.buf[6]
    cdef const int64_t* first = offsets + p.steps
    cdef float* y = <float*>c.buf[8]
    cdef int64_t panels = (p.filters + PANEL - 1) // PANEL
    cdef int64_t groups = (panels + p.block_panels - 1) // p.block_panels
    cdef int64_t row_blocks = (p.oh + p.block_rows - 1) // p.block_rows
    cdef int64_t image_blocks = (p.n + p.block_n - 1) // p.block_n
    cdef int64_t units = image_blocks * row_blocks * groups
    cdef int64_t unit = share(units, thread, threads), end = share(units, thread + 1, threads)
    # Bytes of a part, of one image's copy, of a channel block, and of a panel's split weights.
    cdef int64_t part = p.phases * p.plane * 64, image_bytes = p.blocks * p.parts * part
    cdef int64_t block_bytes = p.parts * part, b_bytes = p.steps * 2 * p.parts * TILE
    cdef int64_t taps = p.kh * p.kw
    cdef int64_t vector_rows = ROWS_3 if p.parts == 3 else ROWS_2, period = TALL + vector_rows
    cdef float* out = <float*>(<char*>c.buf[7] + thread * (
        (TALL + MAX_ROWS) * PANEL * 4 + p.blocks * taps * MAX_ROWS * BLOCK * 4 + MAX_ROWS * VW * 4
        + p.block_panels * b_bytes + p.block_n * image_bytes))
    cdef float* f = out + (TALL + MAX_ROWS) * PANEL
    cdef char* b = <char*>(f + p.blocks * taps * MAX_ROWS * BLOCK + MAX_ROWS * VW)
    cdef char* a = b + p.block_panels * b_bytes
    cdef char* at
    cdef int64_t done = -1, done_b = -1
    cdef int64_t n0, n1, y0, rows, j, j0, j1, m, m0, m_end, tall, few, image, base
    cdef const float* s
    cdef Operands o
    cdef int cols
    if unit >= end:
        return
    o.part = part
    o.offsets = offsets
    o.steps = p.steps
    o.out = out
    tiles_begin()
    while unit < end:
        n0 = unit // (row_blocks * groups) * p.block_n
        n1 = min(n0 + p.block_n, p.n)
        y0 = unit // groups % row_blocks * p.block_rows
        rows = min(p.block_rows, p.oh - y0)
        j0 = unit % groups * p.block_panels
        j1 = min(j0 + p.block_panels, panels)
        if done != unit // groups:
            done = unit // groups
            for image in range(n0, n1):
                s = scale + image * p.pre_n if scale != NULL else scale
                if p.run_rows:
                    split_runs(p, x + image * p.x_n, y0, rows, f, a + (image - n0) * image_bytes)
                    continue
                split_image(p, x + image * p.x_n, s, shift, y0, rows,
                            a + (image - n0) * image_bytes)
        if done_b != j0:
            done_b = j0
            for j in range(j0, j1):
                split_panel(weights + j * p.steps * BLOCK * PANEL, p.steps, p.parts,
                            b + (j - j0) * b_bytes)
        unit += 1
        # Weights arrive from far away while the ones before them are in use.
        o.ahead = <const char*>(weights + j1 * p.steps * BLOCK * PANEL)
        o.ahead_end = o.ahead + min(panels - j1, p.block_panels) * p.steps * BLOCK * PANEL * 4
        for image in range(n0, n1):
            s = scale + image * p.pre_n if scale != NULL else scale
            # Which pixels go where is counted from the image's first, whatever the unit.
            m = y0 * p.width
            m_end = m + (rows - 1) * p.width + p.ow
            while m < m_end:
                base = m // period * period
                m0 = m
                tall = min(max(base + TALL - m, 0), m_end - m)
                m += tall
                few = min(base + period - m, m_end - m)
                m += few
                if few > 0:
                    gather(p, x + image * p.x_n, s, shift, m - few, few, vector_rows, f)
                at = a + (image - n0) * image_bytes + (m0 - y0 * p.width) * 64
                for j in range(j0, j1):
                    o.a = at + first[j] * block_bytes
                    o.b = b + (j - j0) * b_bytes
                    o.f = f + first[j] * taps * vector_rows * BLOCK
                    o.w = weights + j * p.steps * BLOCK * PANEL
                    o.bias = bias + j * PANEL
                    cols = <int>min(p.filters - j * PANEL, PANEL)
                    if p.parts == 3:
                        some_products(3, ROWS_3, tall, few > 0, cols > VW, &o)
                    else:
                        some_products(2, ROWS_2, tall, few > 0, cols > VW, &o)
                    if tall > 0:
                        repair(p, x + image * p.x_n, s, shift, o.w, o.bias, first[j], j, m0, tall,
                               cols > VW, out)
                        store(p, out, m0, tall, image, j, cols, residual, y)
                    if few > 0:
                        if p.group_filters:
                            # Weights of other groups are zeros: zero times infinity is no number.
                            repair(p, x + image * p.x_n, s, shift, o.w, o.bias, first[j], j,
                                   m - few, few, cols > VW, out + TALL * PANEL)
                        store(p, out + TALL * PANEL, m - few, few, image, j, cols, residual, y)
    tiles_end()


def pack_amx_conv(**values):
    """The bytes of ``AmxParams``, from one keyword per field."""
    cdef AmxParams p = values
    return (<char*>&p)[:sizeof(AmxParams)]


KERNELS = {"amx_conv": (<uintptr_t>&amx_conv, pack_amx_conv)}
CONSTANTS = {"PANEL": PANEL, "BLOCK": BLOCK, "MAX_PHASES": MAX_PHASES, "RUN_MAX": RUN_MAX}
