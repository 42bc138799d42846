"""Convolution and matrix product of 8-bit integers: exact 32-bit sums, requantised while stored.

Activations are unsigned bytes, channels-last; weights signed bytes. A row is an output pixel, and its
operand the bytes that its window covers, ``[tap][channel]``: the pixel itself where the kernel is
1×1, else gathered into a block of rows, with the zero point where the window leaves the image.
Weights are packed ``[group][panel][depth/4][VW][4]``, which is what both a vector of four-byte dot
products and an AMX tile of 64 bytes of depth read; without such instructions rows and weights are
16-bit integers (always gathered), two of them in place of four. What the zero point adds to every sum is in the
bias, so sums start from ``bias - zero_point * (sum of the filter's weights)``.

Requantisation is that of ONNX's QLinearConv with a float multiplier: round half to even of
``sum * (x_scale * w_scale / y_scale)``, plus the zero point, saturated. A residual that a quantised
Add contributes follows in the same registers.
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.int8 cimport *
from fastconv.kernels.simd cimport *

cdef enum:
    AMX_ROWS = 32                                           # two tiles

    OUT_BYTES = 0
    OUT_SUMS = 1
    OUT_FLOATS = 2


cdef struct QConvParams:
    # Input [n][d][h][w][pixel]: sizes, and bytes from one pixel to the next.
    int64_t n, d, h, w, pixel
    # Output [n][od][oh][ow] pixels, elements apart; residual likewise.
    int64_t od, oh, ow, y_pixel, r_pixel
    # Taps; input coordinate = output coordinate * stride + tap * dilation - pad.
    int64_t kd, kh, kw
    int64_t stride_d, stride_h, stride_w
    int64_t dilation_d, dilation_h, dilation_w
    int64_t pad_d, pad_h, pad_w
    # Channels and filters per group, the number of groups, the packed depth.
    int64_t channels, filters, group, depth
    # Whether row r is the pixel r of the input.
    int64_t linear
    # Rows and panels of a unit of work; rows of an AMX tile.
    int64_t block_rows, block_panels, tile_rows
    int32_t x_zero          # unless it is a buffer
    int32_t out             # OUT_BYTES, OUT_SUMS or OUT_FLOATS
    int32_t y_zero
    float lo, hi            # bounds of the result, less y_zero
    # With a residual, of the numbers that the bytes less ``shift`` are: y_ratio * result + (r_ratio
    # * residual + offset), within sum_lo and sum_hi; with r_last the residual is added last.
    int32_t r_last, shift
    float y_ratio, r_ratio, offset, sum_lo, sum_hi


cdef struct Row:
    int64_t n, d, h, w


cdef void gather(
    const QConvParams* p, const uint8_t* x, const uint8_t* x_end, int zero, int64_t r, int64_t end,
    act_t* a,
) noexcept nogil:
    """The operands of output rows r .. end, ``depth`` each, and up to VB more.

    Nothing from ``x_end`` on is read.
    """
    cdef int64_t kd, kh, kw, id_, ih, iw, first, last, at
    cdef int64_t run = p.kw * p.channels, line = p.w * p.pixel
    cdef int64_t whole = (run + VB // 2 - 1) // (VB // 2) * (VB // 2)
    cdef bint merged = p.dilation_w == 1 and p.pixel == p.channels
    cdef bint short = run <= VB and QTAP == 4
    cdef const uint8_t* row
    cdef act_t* to
    cdef Row o
    o.w = r % p.ow
    o.h = r // p.ow % p.oh
    o.d = r // (p.ow * p.oh) % p.od
    o.n = r // (p.ow * p.oh * p.od)
    while r < end:
        to = a
        iw = o.w * p.stride_w - p.pad_w
        # Taps first .. last of a kernel row lie inside.
        first = min(max(-iw, 0), p.kw)
        last = max(min(p.w - iw, p.kw), first)
        for kd in range(p.kd):
            id_ = o.d * p.stride_d - p.pad_d + kd * p.dilation_d
            ih = o.h * p.stride_h - p.pad_h
            row = x + ((o.n * p.d + id_) * p.h + ih) * line
            for kh in range(p.kh):
                if id_ < 0 or id_ >= p.d or ih < 0 or ih >= p.h:
                    act_fill(to, zero, run)
                elif merged and last - first == p.kw:
                    if short:
                        # Whole vectors are stored: what comes after overwrites the rest.
                        bytes_short(<uint8_t*>to, row + iw * p.pixel, <int>run)
                    elif QTAP == 2 and x_end - row >= iw * p.pixel + whole:
                        act_copy(to, row + iw * p.pixel, whole)
                    else:
                        act_copy(to, row + iw * p.pixel, run)
                elif merged:
                    act_fill(to, zero, first * p.channels)
                    act_copy(to + first * p.channels, row + (iw + first) * p.pixel,
                               (last - first) * p.channels)
                    act_fill(to + last * p.channels, zero, (p.kw - last) * p.channels)
                else:
                    for kw in range(p.kw):
                        at = iw + kw * p.dilation_w
                        if at < 0 or at >= p.w:
                            act_fill(to + kw * p.channels, zero, p.channels)
                        else:
                            act_copy(to + kw * p.channels, row + at * p.pixel, p.channels)
                to += run
                ih += p.dilation_h
                row += p.dilation_h * line
        a += p.depth
        r += 1
        o.w += 1
        if o.w == p.ow:
            o.w = 0
            o.h += 1
            if o.h == p.oh:
                o.h = 0
                o.d += 1
                if o.d == p.od:
                    o.d = 0
                    o.n += 1


cdef inline void tile(
    const int nv, const act_t* a, int64_t stride, int64_t mr, const wgt_t* w, int64_t panel,
    int64_t depth, int32_t* sums,
) noexcept nogil:
    """Sums of up to QROWS rows by ``nv`` panels → sums[row][QPANELS * VW]."""
    cdef vi acc[QROWS][QPANELS]
    cdef few_s b[QPANELS]
    cdef few_u u
    cdef const act_t* rows[QROWS]
    cdef int i, j
    cdef int64_t k
    for i in range(QROWS):
        rows[i] = a + min(<int64_t>i, mr - 1) * stride
        for j in range(nv):
            acc[i][j] = vi_zero()
    k = 0
    while k < depth:
        for j in range(nv):
            b[j] = few_load(w + j * panel)
        for i in range(QROWS):
            u = few_all(rows[i] + k)
            for j in range(nv):
                acc[i][j] = few_dot(acc[i][j], u, b[j])
        w += VW * QTAP
        k += QTAP
    for i in range(QROWS):
        for j in range(nv):
            vi_store(sums + (i * QPANELS + j) * VW, acc[i][j])


cdef inline vi clip_round(vf a, vf lo, vf hi) noexcept nogil:
    return vi_round(v_min(hi, v_max(lo, a)))


cdef inline vf residual_sum(
    const bint r_last, vf y, vf y_ratio, vf r, vf r_ratio, vf offset,
) noexcept nogil:
    if r_last:
        return vi_fma(r, r_ratio, vi_fma(y, y_ratio, offset))
    return vi_fma(y, y_ratio, vi_fma(r, r_ratio, offset))


cdef inline void store_pair(
    const bint more, const bint r_last, const bint signed_sum, const QConvParams* p,
    const int32_t* sums, int64_t stride, int64_t rows, const int32_t* start, const float* scale,
    const uint8_t* residual, uint8_t* y,
) noexcept nogil:
    """Sums of ``rows`` by two panels → bytes; ``more``: with a residual; ``signed_sum``: of bytes
    that are moved."""
    cdef vf lo = v_set(p.lo), hi = v_set(p.hi), f, g
    cdef vf y_ratio = v_set(p.y_ratio), r_ratio = v_set(p.r_ratio), offset = v_set(p.offset)
    cdef vf sum_hi = v_set(p.sum_hi), moved = v_set(p.shift)
    cdef vf large = v_set(12582912.0)   # 1.5 * 2**23
    cdef vf large_less = v_set(12582912.0 - (p.y_zero - p.shift))
    cdef vf scales[2]
    cdef vi starts[2]
    cdef vi q[2]
    cdef int64_t y_pixel = p.y_pixel, r_pixel = p.r_pixel, i
    cdef int y_zero = p.y_zero, least = <int>p.lo + p.y_zero, shift = p.shift, j
    cdef int sum_least = <int>p.sum_lo + shift
    for j in range(2):
        scales[j] = v_load(scale + j * VW)
        starts[j] = vi_load(start + j * VW)
    for i in range(rows):
        for j in range(2):
            f = v_mul(vi_float(v_iadd(vi_load(sums + j * VW), starts[j])), scales[j])
            if more:
                # Small numbers beside this large one are rounded to whole ones, ties to even.
                f = v_sub(v_add(v_min(hi, v_max(lo, f)), large), large_less)
                g = vi_float(vi_load_bytes(residual + j * VW, VW))
                if signed_sum:
                    g = v_sub(g, moved)
                f = residual_sum(r_last, f, y_ratio, g, r_ratio, offset)
                q[j] = vi_round(v_min(sum_hi, f))
            else:
                # Only the upper bound is needed to convert: what is too low saturates when packed.
                q[j] = vi_round(v_min(hi, f))
        if more:
            vi_store_pair(y, q[0], q[1], shift if signed_sum else 0, sum_least)
            residual += r_pixel
        else:
            vi_store_pair(y, q[0], q[1], y_zero, least)
        sums += stride
        y += y_pixel


cdef void store(
    const QConvParams* p, const int32_t* sums, int64_t stride, int64_t rows, int64_t cols,
    const int32_t* start, const float* scale, const uint8_t* residual, char* y,
) noexcept nogil:
    """Sums of ``rows`` by ``cols`` → output elements at ``y`` (rows ``y_pixel`` apart)."""
    cdef vf s, lo = v_set(p.lo), hi = v_set(p.hi), f, g
    cdef vf y_ratio = v_set(p.y_ratio), r_ratio = v_set(p.r_ratio), offset = v_set(p.offset)
    cdef vf sum_lo = v_set(p.sum_lo), sum_hi = v_set(p.sum_hi)
    cdef vi b, q, zero = v_iset(p.y_zero), shift = v_iset(p.shift)
    cdef int64_t j = 0, i
    cdef int n
    cdef uint8_t* out
    while p.out == OUT_BYTES and j + 2 * VW <= cols:
        out = (<uint8_t*>y) + j
        if residual == NULL:
            store_pair(False, False, False, p, sums + j, stride, rows, start + j, scale + j, NULL,
                       out)
        elif p.shift:
            store_pair(True, p.r_last, True, p, sums + j, stride, rows, start + j, scale + j,
                       residual + j, out)
        elif p.r_last:
            store_pair(True, True, False, p, sums + j, stride, rows, start + j, scale + j,
                       residual + j, out)
        else:
            store_pair(True, False, False, p, sums + j, stride, rows, start + j, scale + j,
                       residual + j, out)
        j += 2 * VW
    while j < cols:
        n = <int>min(<int64_t>VW, cols - j)
        b = vi_load(start + j)
        if p.out == OUT_SUMS:
            for i in range(rows):
                q = v_iadd(vi_load(sums + i * stride + j), b)
                if n == VW:
                    vi_store((<int32_t*>y) + i * p.y_pixel + j, q)
                else:
                    vi_store_n((<int32_t*>y) + i * p.y_pixel + j, q, n)
            j += VW
            continue
        s = v_load(scale + j)
        if p.out == OUT_FLOATS:
            for i in range(rows):
                f = v_mul(vi_float(v_iadd(vi_load(sums + i * stride + j), b)), s)
                if n == VW:
                    v_store((<float*>y) + i * p.y_pixel + j, f)
                else:
                    v_store_n((<float*>y) + i * p.y_pixel + j, f, n)
        elif residual == NULL:
            out = (<uint8_t*>y) + j
            for i in range(rows):
                f = v_mul(vi_float(v_iadd(vi_load(sums + i * stride + j), b)), s)
                vi_store_bytes(out, v_iadd(clip_round(f, lo, hi), zero), n)
                out += p.y_pixel
        else:
            out = (<uint8_t*>y) + j
            for i in range(rows):
                f = v_mul(vi_float(v_iadd(vi_load(sums + i * stride + j), b)), s)
                q = v_isub(v_iadd(clip_round(f, lo, hi), zero), shift)
                g = vi_float(v_isub(vi_load_bytes(residual + i * p.r_pixel + j, n), shift))
                f = residual_sum(p.r_last, vi_float(q), y_ratio, g, r_ratio, offset)
                vi_store_bytes(out, v_iadd(clip_round(f, sum_lo, sum_hi), shift), n)
                out += p.y_pixel
        j += VW


cdef void vector_block(
    const QConvParams* p, const act_t* a, int64_t stride, int64_t rows, const wgt_t* w,
    int64_t cols, const int32_t* start, const float* scale, const uint8_t* residual, char* y,
    int64_t item,
) noexcept nogil:
    """A block of rows by ``cols`` filters, on the vector units."""
    cdef int32_t sums[QROWS * QPANELS * VW]
    cdef int64_t panel = p.depth * VW, j = 0, i, m, left, width
    while j < cols:
        left = (cols - j + VW - 1) // VW
        width = 4 if left >= 4 and QPANELS >= 4 else (2 if left >= 2 else 1)
        i = 0
        while i < rows:
            m = min(<int64_t>QROWS, rows - i)
            if width == 4:
                tile(QPANELS, a + i * stride, stride, m, w, panel, p.depth, sums)
            elif width == 2:
                tile(2, a + i * stride, stride, m, w, panel, p.depth, sums)
            else:
                tile(1, a + i * stride, stride, m, w, panel, p.depth, sums)
            store(p, sums, QPANELS * VW, m, min(cols - j, width * VW), start + j, scale + j,
                  residual + i * p.r_pixel + j if residual != NULL else residual,
                  y + (i * p.y_pixel + j) * item)
            i += m
        w += width * panel
        j += width * VW


cdef void matrix_block(
    const QConvParams* p, const act_t* a, int64_t stride, int64_t rows, const wgt_t* w,
    int64_t cols, const int32_t* start, const float* scale, const uint8_t* residual, char* y,
    int64_t item,
) noexcept nogil:
    """The same on AMX tiles; sums are stored one tile late, while the next is computed."""
    cdef int32_t sums[2 * AMX_ROWS * 32]
    cdef int64_t panel = p.depth * 16, j = 0, i, m, width, flip = 0
    cdef int64_t last_i = -1, last_j = 0, last_m = 0, last_cols = 0
    while j < cols:
        width = min(cols - j, <int64_t>32)
        i = 0
        while True:
            if i < rows:
                m = min(2 * p.tile_rows, rows - i)
                if m > p.tile_rows and width > 16:
                    amx_product(1, 1, a + i * stride, stride, p.tile_rows, w, panel, p.depth,
                                sums + flip * AMX_ROWS * 32)
                elif m > p.tile_rows:
                    amx_product(1, 0, a + i * stride, stride, p.tile_rows, w, panel, p.depth,
                                sums + flip * AMX_ROWS * 32)
                elif width > 16:
                    amx_product(0, 1, a + i * stride, stride, p.tile_rows, w, panel, p.depth,
                                sums + flip * AMX_ROWS * 32)
                else:
                    amx_product(0, 0, a + i * stride, stride, p.tile_rows, w, panel, p.depth,
                                sums + flip * AMX_ROWS * 32)
            flip ^= 1
            if last_i >= 0:
                store(p, sums + flip * AMX_ROWS * 32, 32, last_m, last_cols, start + last_j,
                      scale + last_j,
                      residual + last_i * p.r_pixel + last_j if residual != NULL else residual,
                      y + (last_i * p.y_pixel + last_j) * item)
            if i >= rows:
                return
            last_i = i
            last_j = j
            last_m = m
            last_cols = width
            i += m
            if i >= rows and j + 32 < cols:
                break
        w += 2 * panel
        j += 32


cdef void qconv(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, packed weights, start of sums ([group][panel][VW] int32), scale (the same, float),
    residual or NULL, zero point of x or NULL (one byte), sums of weights to take times that zero
    point from the start (as it) or NULL, scratch, y.

    Scratch per thread: ``block_rows`` rounded up to tiles, times ``depth`` operands; then one
    block's start of sums.
    """
    cdef const QConvParams* p = <const QConvParams*>c.params
    cdef const uint8_t* x = <const uint8_t*>c.buf[0]
    cdef const wgt_t* weights = <const wgt_t*>c.buf[1]
    cdef const int32_t* start = <const int32_t*>c.buf[2]
    cdef const float* scale = <const float*>c.buf[3]
    cdef const uint8_t* residual = <const uint8_t*>c.buf[4]
    cdef const int32_t* weight_sums = <const int32_t*>c.buf[6]
    cdef char* y = <char*>c.buf[8]
    cdef int zero = p.x_zero
    cdef int64_t item = 1 if p.out == OUT_BYTES else 4
    cdef int64_t step = p.tile_rows if HAVE_AMX else 1
    cdef int64_t most = (p.block_rows + step - 1) // step * step
    # Gathering may write 64 bytes more.
    cdef int64_t size = (most * p.depth * <int64_t>sizeof(act_t) + 127) // 64 * 64
    cdef int64_t room = size + (p.block_panels * VW * 4 + 63) // 64 * 64
    cdef act_t* block = <act_t*>((<char*>c.buf[7]) + thread * room)
    cdef int32_t* moved = <int32_t*>((<char*>block) + size)
    cdef int64_t rows = p.n * p.od * p.oh * p.ow
    cdef int64_t pixels = p.n * p.d * p.h * p.w
    cdef int64_t panels = (p.filters + VW - 1) // VW
    cdef int64_t row_blocks = (rows + p.block_rows - 1) // p.block_rows
    cdef int64_t panel_blocks = (panels + p.block_panels - 1) // p.block_panels
    cdef int64_t units = p.group * panel_blocks * row_blocks
    cdef int64_t unit = share(units, thread, threads), unit_end = share(units, thread + 1, threads)
    cdef int64_t g, pb, r, end, j, i, stride, cols, at, gathered = -1
    cdef const uint8_t* x_end = x + (pixels - 1) * p.pixel + p.group * p.channels
    cdef const uint8_t* xg
    cdef const act_t* a
    cdef const uint8_t* res = NULL
    cdef const int32_t* begin
    if c.buf[5] != NULL:
        zero = (<const uint8_t*>c.buf[5])[0]
    if HAVE_AMX:
        amx_start(<int>p.tile_rows)
    while unit < unit_end:
        # Panel blocks are innermost: they share the rows that were gathered.
        pb = unit % panel_blocks
        g = unit // panel_blocks // row_blocks
        r = unit // panel_blocks % row_blocks * p.block_rows
        end = min(r + p.block_rows, rows)
        xg = x + g * p.channels
        a = <const act_t*>(xg + r * p.pixel)
        stride = p.pixel
        # A tile reads `depth` bytes of whole tiles of rows, which must not pass the input's end
        # (that of its last channel). What is read beyond a row's own bytes meets zero weights.
        i = r + (end - r + step - 1) // step * step
        if not p.linear or QTAP != 4 or (i - 1) * p.pixel + g * p.channels + p.depth > (
                (pixels - 1) * p.pixel + p.group * p.channels):
            if gathered != unit // panel_blocks:
                gather(p, xg, x_end, zero, r, end, block)
                gathered = unit // panel_blocks
            a = block
            stride = p.depth
        j = pb * p.block_panels * VW
        cols = min(p.filters - j, p.block_panels * VW)
        at = g * panels * VW + j
        begin = start + at
        if weight_sums != NULL:
            for i in range((cols + VW - 1) // VW):
                vi_store(moved + i * VW, v_isub(
                    vi_load(begin + i * VW),
                    vi_mul(v_iset(zero), vi_load(weight_sums + at + i * VW))))
            begin = moved
        if residual != NULL:
            res = residual + r * p.r_pixel + g * p.filters + j
        if HAVE_AMX:
            matrix_block(p, a, stride, end - r, weights + at * p.depth, cols, begin, scale + at,
                         res, y + (r * p.y_pixel + g * p.filters + j) * item, item)
        else:
            vector_block(p, a, stride, end - r, weights + at * p.depth, cols, begin, scale + at,
                         res, y + (r * p.y_pixel + g * p.filters + j) * item, item)
        unit += 1
    if HAVE_AMX:
        amx_stop()


def pack_qconv(**values):
    """The bytes of ``QConvParams``, from one keyword per field."""
    cdef QConvParams p = values
    return (<char*>&p)[:sizeof(QConvParams)]


KERNELS = {"qconv": (<uintptr_t>&qconv, pack_qconv)}
#: Lanes of a panel; how many weights share one of its 32-bit lanes (bytes if 4, else 16-bit
#: integers); what a packed depth is a multiple of; the most rows of an AMX tile (0: there is none).
CONSTANTS = {
    "QVW": VW, "QTAP": QTAP, "QDEPTH": 64 if HAVE_AMX else QTAP, "QTILE": 16 if HAVE_AMX else 0,
}
