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
stride, and each tap again reads successive pixels. Images of few channels are split into whole rows
instead (``run_pixel`` set), where a tap is a whole kernel row and a tile's rows overlap.

Weights stay float32 and are split panel by panel. Inf and NaN do not survive splitting, so an output
that is not finite is computed again by the definition.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memset

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, activate

cdef extern from "amx.h" nogil:
    void tiles_begin()
    void tiles_end()
    void tile_load(int t, const void* p, Py_ssize_t stride)
    void tile_store(int t, void* p, Py_ssize_t stride)
    void tile_fma(int c, int a, int b)
    void split_pair(vf lo, vf hi, char* p, Py_ssize_t pitch)
    void split_run(vf x, char* p, Py_ssize_t pitch)

cdef enum:
    TILE = 1024             # bytes of a tile
    PARTS = 3
    PANEL = 32              # output channels of a panel
    BLOCK = 32              # input channels of a block
    MAX_PHASES = 16


cdef struct AmxParams:
    # Input [n][h][w][pixel]: sizes, and strides in floats (x_c is 1 unless run_pixel is set).
    int64_t n, h, w, channels
    int64_t x_n, x_h, x_w, x_c
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
    # Floats of one pixel in a whole-row copy, or 0; then width is in output pixels and row_pitch is
    # the floats of one row of the copy, whose first is input column -pad_w.
    int64_t run_pixel, row_pitch
    # Channel blocks of the input, and (block, tap) steps of a panel.
    int64_t blocks, steps
    # Units of work: images × output rows × panels.
    int64_t block_n, block_rows, block_panels
    # Input times pre_scale plus pre_shift, then clipped below, before all else.
    int64_t pre_n           # pre_scale of the next image, in floats
    float pre_lo
    int32_t act
    float lo, hi, alpha, beta


cdef inline void step(
    const int mt, const int nt, const char* a, Py_ssize_t part, Py_ssize_t row, const char* b,
) noexcept nogil:
    """The six products of one channel block and tap, smallest first: tiles 0..3 += a × b.

    An operand is replaced one at a time, and the two that are used thrice are fetched most.
    """
    cdef const char* a2 = a + 16 * row
    cdef const char* b2 = b + PARTS * TILE
    tile_load(4, a + 2 * part, row)
    tile_load(6, b, 64)
    if mt == 2: tile_load(5, a2 + 2 * part, row)
    if nt == 2: tile_load(7, b2, 64)
    tile_fma(0, 4, 6)
    if nt == 2: tile_fma(1, 4, 7)
    if mt == 2: tile_fma(2, 5, 6)
    if mt == 2 and nt == 2: tile_fma(3, 5, 7)
    tile_load(4, a + part, row)
    if mt == 2: tile_load(5, a2 + part, row)
    tile_fma(0, 4, 6)
    if nt == 2: tile_fma(1, 4, 7)
    if mt == 2: tile_fma(2, 5, 6)
    if mt == 2 and nt == 2: tile_fma(3, 5, 7)
    tile_load(6, b + TILE, 64)
    if nt == 2: tile_load(7, b2 + TILE, 64)
    tile_fma(0, 4, 6)
    if nt == 2: tile_fma(1, 4, 7)
    if mt == 2: tile_fma(2, 5, 6)
    if mt == 2 and nt == 2: tile_fma(3, 5, 7)
    tile_load(4, a, row)
    if mt == 2: tile_load(5, a2, row)
    tile_fma(0, 4, 6)
    if nt == 2: tile_fma(1, 4, 7)
    if mt == 2: tile_fma(2, 5, 6)
    if mt == 2 and nt == 2: tile_fma(3, 5, 7)
    tile_load(6, b + 2 * TILE, 64)
    if nt == 2: tile_load(7, b2 + 2 * TILE, 64)
    tile_fma(0, 4, 6)
    if nt == 2: tile_fma(1, 4, 7)
    if mt == 2: tile_fma(2, 5, 6)
    if mt == 2 and nt == 2: tile_fma(3, 5, 7)
    tile_load(6, b, 64)
    if nt == 2: tile_load(7, b2, 64)
    tile_fma(0, 4, 6)
    if nt == 2: tile_fma(1, 4, 7)
    if mt == 2: tile_fma(2, 5, 6)
    if mt == 2 and nt == 2: tile_fma(3, 5, 7)


cdef inline void products(
    const int mt, const int nt, const char* a, Py_ssize_t part, Py_ssize_t row, const char* b,
    const int64_t* offsets, int64_t steps, const float* bias, float* out,
) noexcept nogil:
    """``mt * 16`` pixels by ``nt * 16`` filters over all steps → out[pixel][PANEL]."""
    cdef int64_t k
    tile_load(0, bias, 0)
    if nt == 2: tile_load(1, bias + 16, 0)
    if mt == 2: tile_load(2, bias, 0)
    if mt == 2 and nt == 2: tile_load(3, bias + 16, 0)
    for k in range(steps):
        step(mt, nt, a + offsets[k], part, row, b)
        b += 2 * PARTS * TILE
    tile_store(0, out, 4 * PANEL)
    if nt == 2: tile_store(1, out + 16, 4 * PANEL)
    if mt == 2: tile_store(2, out + 16 * PANEL, 4 * PANEL)
    if mt == 2 and nt == 2: tile_store(3, out + 16 * PANEL + 16, 4 * PANEL)


cdef inline void split_panel(const float* w, int64_t steps, char* b) noexcept nogil:
    """Weights [step][BLOCK][PANEL] → [step][half panel][part] tiles."""
    cdef int64_t k
    cdef int i
    for k in range(steps):
        for i in range(16):
            split_pair(v_load(w + i * PANEL), v_load(w + (16 + i) * PANEL), b + 64 * i, TILE)
            split_pair(v_load(w + i * PANEL + 16), v_load(w + (16 + i) * PANEL + 16),
                       b + PARTS * TILE + 64 * i, TILE)
        w += BLOCK * PANEL
        b += 2 * PARTS * TILE


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


cdef inline void split_pixels(
    const bint plain, const AmxParams* p, const float* x, int64_t step_w, int64_t count,
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
            split_pair(lo, hi, a, part)
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
            split_pair(lo, hi, a, part)
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
            at = a + (b * PARTS * p.phases + f) * p.plane * 64
            for r in range(rows + p.halo_h):
                ih = (y0 + p.first_h + r) * p.stride_h + p.phase_h[f]
                if ih < 0 or ih >= p.h or c0 >= c1:
                    for q in range(PARTS):
                        memset(at + q * part, 0, 64 * p.width)
                else:
                    for q in range(PARTS):
                        if c0 > 0:
                            memset(at + q * part, 0, 64 * c0)
                        if c1 < p.width:
                            memset(at + q * part + 64 * c1, 0, 64 * (p.width - c1))
                    row = (x + ih * p.x_h + ((c0 + p.first_w) * p.stride_w + p.phase_w[f]) * p.x_w
                           + b * BLOCK)
                    if scale == NULL and shift == NULL:
                        split_pixels(True, p, row, p.stride_w * p.x_w, c1 - c0,
                                     p.channels - b * BLOCK, NULL, NULL, at + 64 * c0, part)
                    else:
                        split_pixels(False, p, row, p.stride_w * p.x_w, c1 - c0,
                                     p.channels - b * BLOCK, s, t, at + 64 * c0, part)
                at += 64 * p.width
            for q in range(PARTS):
                memset(at + q * part, 0, 64 * (p.plane - (rows + p.halo_h) * p.width))


cdef void split_rows(
    const AmxParams* p, const float* x, int64_t y0, int64_t rows, float* line, char* a,
) noexcept nogil:
    """The same for images of few channels: whole rows [part][row][row_pitch]."""
    cdef int64_t count = (rows - 1) * p.stride_h + (p.kh - 1) * p.dilation_h + 1
    cdef int64_t part = p.plane * 2, r, ih, i, k, c = p.channels
    cdef const float* row
    cdef float* at
    for i in range(p.row_pitch):
        line[i] = 0
    for r in range(count):
        ih = y0 * p.stride_h - p.pad_h + r
        if ih < 0 or ih >= p.h:
            for k in range(PARTS):
                memset(a + k * part + 2 * r * p.row_pitch, 0, 2 * p.row_pitch)
            continue
        row = x + ih * p.x_h
        at = line + p.pad_w * c
        if c == 3:
            for i in range(p.w):
                at[3 * i] = row[i * p.x_w]
                at[3 * i + 1] = row[i * p.x_w + p.x_c]
                at[3 * i + 2] = row[i * p.x_w + 2 * p.x_c]
        elif p.x_c == 1 and p.x_w == c:
            for i in range(p.w * c):
                at[i] = row[i]
        else:
            for i in range(p.w):
                for k in range(c):
                    at[i * c + k] = row[i * p.x_w + k * p.x_c]
        for i in range(p.row_pitch // VW):
            split_run(v_load(line + i * VW), a + 2 * r * p.row_pitch + 2 * i * VW, part)
    for k in range(PARTS):
        memset(a + k * part + 2 * count * p.row_pitch, 0,
               2 * (p.plane - count * p.row_pitch))


cdef void direct(
    const AmxParams* p, const float* x, const float* scale, const float* shift, const float* w,
    const float* bias, int64_t first, int64_t oy, int64_t ox, float* out,
) noexcept nogil:
    """One panel of one output pixel by the definition, from the packed weights."""
    cdef vf s0 = v_load(bias), s1 = v_load(bias + VW), a
    cdef int64_t k, c, i, q, tap, ih, iw, taps = p.kh * p.kw, runs
    cdef float v
    cdef const float* row
    for k in range(p.steps):
        if p.run_pixel:
            runs = p.steps // p.kh
            ih = oy * p.stride_h - p.pad_h + k // runs * p.dilation_h
            if 0 <= ih < p.h:
                for c in range(BLOCK):
                    q = k % runs * BLOCK + c
                    iw = ox * p.stride_w - p.pad_w + q // p.channels
                    if q < p.kw * p.channels and 0 <= iw < p.w:
                        # Natural order: step 2i is slot i, step 2i + 1 slot 16 + i.
                        i = c // 2 + c % 2 * 16
                        a = v_set(x[ih * p.x_h + iw * p.x_w + q % p.channels * p.x_c])
                        s0 = v_fma(a, v_load(w + i * PANEL), s0)
                        s1 = v_fma(a, v_load(w + i * PANEL + VW), s1)
        else:
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
    # Bytes of a part and of one image's copy; a tile row, and where pixel (oy, ox) starts.
    cdef int64_t part, image_bytes, row, row_y
    cdef int64_t b_bytes = p.steps * 2 * PARTS * TILE
    cdef float* out
    cdef float* work
    cdef float* line
    cdef char* b
    cdef char* a
    cdef char* at
    cdef int64_t done = -1, n0, n1, y0, rows, j, j0, j1, i, m, m_end, mr, oy, ox, o, cols, image, k
    cdef int64_t block_bytes
    cdef const float* w
    cdef const float* s
    cdef const float* r
    cdef float* q
    cdef vf v0, v1, check, lo = v_set(p.lo), hi = v_set(p.hi)
    cdef bint wide
    if unit >= end:
        return
    if p.run_pixel:
        part = p.plane * 2
        image_bytes = PARTS * part
        row = p.stride_w * p.run_pixel * 2
        row_y = p.stride_h * p.row_pitch * 2
        block_bytes = 0
    else:
        part = p.phases * p.plane * 64
        image_bytes = p.blocks * PARTS * part
        row = 64
        row_y = p.width * 64
        block_bytes = PARTS * part
    at = (<char*>c.buf[7]) + thread * (
        8192 + b_bytes + p.block_n * image_bytes + (4 * p.row_pitch + 63) // 64 * 64)
    out = <float*>at
    work = out + 1024
    b = at + 8192
    line = <float*>(b + b_bytes)
    a = b + b_bytes + (4 * p.row_pitch + 63) // 64 * 64
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
                if p.run_pixel:
                    split_rows(p, x + image * p.x_n, y0, rows, line, a + (image - n0) * image_bytes)
                else:
                    split_image(p, x + image * p.x_n, scale + image * p.pre_n if scale != NULL else scale,
                                shift, y0, rows, a + (image - n0) * image_bytes)
        unit += 1
        for j in range(j0, j1):
            w = weights + j * p.steps * BLOCK * PANEL
            split_panel(w, p.steps, b)
            cols = min(p.filters - j * PANEL, PANEL)
            wide = cols > 16
            for image in range(n0, n1):
                at = a + (image - n0) * image_bytes + first[j] * block_bytes
                m = 0
                m_end = (rows - 1) * p.width + p.ow
                while m < m_end:
                    oy = m // p.width
                    ox = m % p.width
                    mr = min(m_end - m, 32)
                    if p.run_pixel:
                        mr = min(mr, p.ow - ox)     # a tile never spans rows
                    if mr > 16:
                        if wide:
                            products(2, 2, at + oy * row_y + ox * row, part, row, b, offsets,
                                     p.steps, bias + j * PANEL, out)
                        else:
                            products(2, 1, at + oy * row_y + ox * row, part, row, b, offsets,
                                     p.steps, bias + j * PANEL, out)
                    elif wide:
                        products(1, 2, at + oy * row_y + ox * row, part, row, b, offsets,
                                 p.steps, bias + j * PANEL, out)
                    else:
                        products(1, 1, at + oy * row_y + ox * row, part, row, b, offsets,
                                 p.steps, bias + j * PANEL, out)
                    m += 32
                    # The results: valid pixels alone; not finite ones are computed again.
                    check = v_zero()
                    if wide:
                        for i in range(mr):
                            check = v_fma(v_load(out + i * PANEL), v_zero(), check)
                            check = v_fma(v_load(out + i * PANEL + VW), v_zero(), check)
                    else:
                        for i in range(mr):
                            check = v_fma(v_load(out + i * PANEL), v_zero(), check)
                    if not finite(check):
                        oy += y0
                        o = ox
                        for i in range(mr):
                            q = out + i * PANEL
                            check = v_mul(v_load(q), v_zero())
                            if wide:
                                check = v_fma(v_load(q + VW), v_zero(), check)
                            if o < p.ow and not finite(check):
                                direct(p, x + image * p.x_n,
                                       scale + image * p.pre_n if scale != NULL else scale, shift,
                                       w, bias + j * PANEL, first[j], oy, o, q)
                            o += 1
                            if o == p.width:
                                o = 0
                                oy += 1
                        oy = (m - 32) // p.width
                    oy += y0
                    if residual != NULL or p.act > ACT_CLIP:
                        o = ox
                        k = oy
                        for i in range(mr):
                            q = out + i * PANEL
                            if o < p.ow:
                                if residual != NULL:
                                    s = (residual + image * p.r_n + k * p.r_h + o * p.r_w
                                         + j * PANEL)
                                    v_store(q, v_add(v_load(q), fetch(s, cols)))
                                    if wide:
                                        v_store(q + VW, v_add(v_load(q + VW),
                                                              fetch(s + VW, cols - VW)))
                            o += 1
                            if o == p.width:
                                o = 0
                                k += 1
                        if p.act > ACT_CLIP:
                            activate(p.act, p.alpha, p.beta, out, mr * PANEL)
                    q = out
                    for i in range(mr):
                        if ox < p.ow:
                            s = y + image * p.y_n + oy * p.y_h + ox * p.y_w + j * PANEL
                            if cols == PANEL:
                                v_store(<float*>s, v_min(hi, v_max(lo, v_load(q))))
                                v_store(<float*>s + VW, v_min(hi, v_max(lo, v_load(q + VW))))
                            elif wide:
                                v_store(<float*>s, v_min(hi, v_max(lo, v_load(q))))
                                v_store_n(<float*>s + VW, v_min(hi, v_max(lo, v_load(q + VW))),
                                          <int>(cols - VW))
                            elif cols == VW:
                                v_store(<float*>s, v_min(hi, v_max(lo, v_load(q))))
                            else:
                                v_store_n(<float*>s, v_min(hi, v_max(lo, v_load(q))), <int>cols)
                        q += PANEL
                        ox += 1
                        if ox == p.width:
                            ox = 0
                            oy += 1
    tiles_end()


def pack_amx_conv(**values):
    """The bytes of ``AmxParams``, from one keyword per field."""
    cdef AmxParams p = values
    return (<char*>&p)[:sizeof(AmxParams)]


KERNELS = {"amx_conv": (<uintptr_t>&amx_conv, pack_amx_conv)}
CONSTANTS = {"PANEL": PANEL, "BLOCK": BLOCK, "MAX_PHASES": MAX_PHASES}
