"""Convolution and matrix product in float32 on bfloat16 tile-matrix hardware (Intel AMX).

Every float32 is the exact sum of three bfloat16 numbers of 8 significant bits. Of the nine products
of the parts of two factors the six largest are summed, in float32: what is left out is below 2**-25
of the product, less than what float32 arithmetic rounds away. The hardware does sixteen times as many
bfloat16 products as the vector units do float32 ones, so six times as many are still cheaper. After
Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations", 2019.

The input is split once per block of output rows, or, where images are small, by ``amx_split`` before
``amx_conv`` for all pieces of it, into ``[channel block][part][pixel][32]``: 16
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

from libc.stdint cimport int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.amx_input cimport AmxParams, collect, gather, split_image, split_runs
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


cdef void amx_split(const Call* c, int thread, int threads) noexcept nogil:
    """The split copies of whole images, [image][channel block][part][pixel][32].

    Buffers: x, pre-scale [image][channels] or NULL, pre-shift [channels] or NULL, split copies.
    Work items: images × channel blocks."""
    cdef const AmxParams* p = <const AmxParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* scale = <const float*>c.buf[1]
    cdef const float* shift = <const float*>c.buf[2]
    cdef char* a = <char*>c.buf[3]
    cdef int64_t image_bytes = p.blocks * p.parts * p.phases * p.plane * 64
    cdef int64_t unit = share(p.n * p.blocks, thread, threads)
    cdef int64_t end = share(p.n * p.blocks, thread + 1, threads), image, b, b1
    while unit < end:
        image = unit // p.blocks
        b = unit % p.blocks
        b1 = min(p.blocks, b + end - unit)
        split_image(p, x + image * p.x_n, scale + image * p.pre_n if scale != NULL else scale, shift,
                    0, p.oh, b, b1, a + image * image_bytes)
        unit += b1 - b


cdef void amx_conv(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, weights [panel][step][BLOCK][PANEL], bias [panel][PANEL], residual or NULL,
    pre-scale [image][channels] or NULL, pre-shift [channels] or NULL, step offsets and then each
    panel's first channel block (int64), scratch, split copies of whole images or NULL, y."""
    cdef const AmxParams* p = <const AmxParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* weights = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* residual = <const float*>c.buf[3]
    cdef const float* scale = <const float*>c.buf[4]
    cdef const float* shift = <const float*>c.buf[5]
    cdef const int64_t* offsets = <const int64_t*>c.buf[6]
    cdef const int64_t* first = offsets + p.steps
    cdef float* y = <float*>c.buf[9]
    cdef int64_t panels = (p.filters + PANEL - 1) // PANEL
    cdef int64_t groups = (panels + p.block_panels - 1) // p.block_panels
    cdef int64_t row_blocks = (p.oh + p.block_rows - 1) // p.block_rows
    cdef int64_t image_blocks = (p.n + p.block_n - 1) // p.block_n
    cdef int64_t image_pixels = (p.oh - 1) * p.width + p.ow
    cdef int64_t spans = (image_pixels + p.span - 1) // p.span if p.shared else 1
    cdef int64_t units = groups * p.n * spans if p.shared else image_blocks * row_blocks * groups
    cdef int64_t unit = share(units, thread, threads), end = share(units, thread + 1, threads)
    # Bytes of a part, of one image's copy, of a channel block, and of a panel's split weights.
    cdef int64_t part = p.phases * p.plane * 64, image_bytes = p.blocks * p.parts * part
    cdef int64_t block_bytes = p.parts * part, b_bytes = p.steps * 2 * p.parts * TILE
    cdef int64_t taps = p.kh * p.kw
    cdef int64_t vector_rows = ROWS_3 if p.parts == 3 else ROWS_2, period = TALL + vector_rows
    cdef int64_t own_bytes = 0 if p.shared else p.block_n * image_bytes
    cdef float* out = <float*>(<char*>c.buf[7] + thread * (
        (TALL + MAX_ROWS) * PANEL * 4 + p.blocks * taps * MAX_ROWS * BLOCK * 4 + MAX_ROWS * VW * 4
        + p.block_panels * b_bytes + own_bytes))
    cdef float* f = out + (TALL + MAX_ROWS) * PANEL
    cdef char* b = <char*>(f + p.blocks * taps * MAX_ROWS * BLOCK + MAX_ROWS * VW)
    cdef char* own = b + p.block_panels * b_bytes
    cdef char* a
    cdef char* at
    cdef int64_t done = -1, done_b = -1
    cdef int64_t n0, n1, y0, rows, j, j0, j1, m, m0, m_first, m_end, tall, few, image, base
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
        if p.shared:
            n0 = unit // spans % p.n
            n1 = n0 + 1
            y0 = 0
            j0 = unit // (spans * p.n) * p.block_panels
            m_first = unit % spans * p.span
            m_end = min(m_first + p.span, image_pixels)
            a = <char*>c.buf[8] + n0 * image_bytes
        else:
            n0 = unit // (row_blocks * groups) * p.block_n
            n1 = min(n0 + p.block_n, p.n)
            y0 = unit // groups % row_blocks * p.block_rows
            rows = min(p.block_rows, p.oh - y0)
            j0 = unit % groups * p.block_panels
            m_first = y0 * p.width
            m_end = m_first + (rows - 1) * p.width + p.ow
            a = own
            if done != unit // groups:
                done = unit // groups
                for image in range(n0, n1):
                    s = scale + image * p.pre_n if scale != NULL else scale
                    if p.run_rows:
                        split_runs(p, x + image * p.x_n, y0, rows, f, a + (image - n0) * image_bytes)
                        continue
                    split_image(p, x + image * p.x_n, s, shift, y0, rows, 0, p.blocks,
                                a + (image - n0) * image_bytes)
        j1 = min(j0 + p.block_panels, panels)
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
            m = m_first
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


KERNELS = {
    "amx_conv": (<uintptr_t>&amx_conv, pack_amx_conv),
    "amx_split": (<uintptr_t>&amx_split, pack_amx_conv),
}
CONSTANTS = {"PANEL": PANEL, "BLOCK": BLOCK, "MAX_PHASES": MAX_PHASES, "RUN_MAX": RUN_MAX}
