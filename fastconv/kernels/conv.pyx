"""Convolution as a matrix product over pointers: any rank up to 3, and every fully-connected layer.

One kernel, ``conv``, covers 1×1 (a GEMM in place), k×k, dilated, grouped and transposed convolution
and ``x @ W``: output pixels are rows, output channels are vector lanes, and the reduction runs over
(kernel tap, input channel). No im2col matrix is made: each tap of each row is a pointer into the
channels-last input, or to a row of zeros outside it.
"""

from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memcpy

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *
from fastconv.kernels.tile cimport Epilogue, tile
from fastconv.kernels.vmath cimport (
    ACT_CLIP,
    ACT_HARD_SWISH,
    ACT_NONE,
    ACT_SILU,
    ACT_SILU_ONE,
    activate,
    v_act,
)


ctypedef unsigned long long uint64


cdef struct ConvParams:
    # Input [n][d][h][w][pixel]: sizes, and strides in floats.
    int64_t n, d, h, w
    int64_t x_n, x_d, x_h, x_w
    # Output [n][od][oh][ow][pixel]: sizes, strides and start in floats.
    int64_t od, oh, ow
    int64_t y_n, y_d, y_h, y_w, y_0
    # Residual, laid out as the output with its own strides (unused without one).
    int64_t r_n, r_d, r_h, r_w
    # Taps; input coordinate = output coordinate * stride + tap * dilation - pad.
    int64_t kd, kh, kw
    int64_t stride_d, stride_h, stride_w
    int64_t dilation_d, dilation_h, dilation_w
    int64_t pad_d, pad_h, pad_w
    # Channels per group, the number of groups, and how many of a group's panels are wide.
    int64_t channels, filters, group, wide
    # From one group to the next, in floats.
    int64_t x_g, y_g, r_g
    # Whether row r reads x + r * x_w, writes y + r * y_w and adds residual + r * r_w; 2: and what
    # it reads is to be scaled.
    int32_t linear
    # Whether output rows follow one another, y_w apart.
    int32_t y_linear
    # Work is cut into blocks of rows × groups of weight panels.
    int64_t block_rows, block_panels
    int64_t act
    float lo, hi, alpha, beta


cdef struct Pixel:
    int64_t n, d, h, w


cdef inline int64_t at_pixel(
    const Pixel* o, int64_t n, int64_t d, int64_t h, int64_t w
) noexcept nogil:
    """Where a pixel lies, with these strides."""
    return o.n * n + o.d * d + o.h * h + o.w * w


cdef inline int64_t column(int64_t j, int64_t wide) noexcept nogil:
    """The first output channel of panel ``j``."""
    return j * 2 * VW + min(j, wide) * VW


cdef void build_rows(
    const ConvParams* p, const float* x, const float* zeros, const float** table, Pixel* o,
    float* y, const float* residual, float** out, const float** res, int mr,
) noexcept nogil:
    """Where ``mr`` output pixels from ``o`` on are read (``table[tap * MR + row]``) and written."""
    cdef const float* base[MR]
    cdef int64_t d0[MR]
    cdef int64_t h0[MR]
    cdef int64_t w0[MR]
    cdef int64_t i, t, kd, kh, kw, id_, ih, iw, offset
    cdef int64_t xi = 0, yi = 0, ri = 0, step = p.stride_w * p.x_w
    cdef bint inside, safe = True, fresh = True
    # Where the first and the last tap of a window lie, from its origin.
    cdef Pixel low, high, first
    low.d = min((p.kd - 1) * p.dilation_d, 0)
    low.h = min((p.kh - 1) * p.dilation_h, 0)
    low.w = min((p.kw - 1) * p.dilation_w, 0)
    high.d = max((p.kd - 1) * p.dilation_d, 0)
    high.h = max((p.kh - 1) * p.dilation_h, 0)
    high.w = max((p.kw - 1) * p.dilation_w, 0)
    for i in range(mr):
        if fresh:
            fresh = False
            first.n = o.n
            first.d = o.d * p.stride_d - p.pad_d
            first.h = o.h * p.stride_h - p.pad_h
            first.w = o.w * p.stride_w - p.pad_w
            xi = at_pixel(&first, p.x_n, p.x_d, p.x_h, p.x_w)
            yi = at_pixel(o, p.y_n, p.y_d, p.y_h, p.y_w)
            ri = at_pixel(o, p.r_n, p.r_d, p.r_h, p.r_w)
            safe = (safe and first.d + low.d >= 0 and first.d + high.d < p.d
                    and first.h + low.h >= 0 and first.h + high.h < p.h)
        d0[i] = first.d
        h0[i] = first.h
        w0[i] = first.w
        base[i] = x + xi
        out[i] = y + yi
        res[i] = residual + ri
        safe = safe and first.w + low.w >= 0 and first.w + high.w < p.w
        first.w += p.stride_w
        xi += step
        yi += p.y_w
        ri += p.r_w
        o.w += 1
        if o.w == p.ow:
            fresh = True
            o.w = 0
            o.h += 1
            if o.h == p.oh:
                o.h = 0
                o.d += 1
                if o.d == p.od:
                    o.d = 0
                    o.n += 1
    t = 0
    for kd in range(p.kd):
        for kh in range(p.kh):
            for kw in range(p.kw):
                id_ = kd * p.dilation_d
                ih = kh * p.dilation_h
                iw = kw * p.dilation_w
                offset = id_ * p.x_d + ih * p.x_h + iw * p.x_w
                if safe:
                    for i in range(mr):
                        table[t + i] = base[i] + offset
                else:
                    for i in range(mr):
                        inside = (<uint64>(d0[i] + id_) < <uint64>p.d
                                  and <uint64>(h0[i] + ih) < <uint64>p.h
                                  and <uint64>(w0[i] + iw) < <uint64>p.w)
                        table[t + i] = zeros
                        if inside:
                            table[t + i] = base[i] + offset
                t += MR


cdef inline void act_rows(
    const int kind, float alpha, float beta, const float* sums, float** out, int64_t at, int mr,
    int64_t width, int64_t cols,
) noexcept nogil:
    """One activation of a tile; ``kind`` is a literal at every call."""
    cdef vf a = v_set(alpha), b = v_set(beta)
    cdef int64_t k = 0, i
    # By columns: where tiles are whole, the inner loop is the long one.
    while k < cols:
        if k + VW <= cols:
            for i in range(mr):
                v_store(out[i] + at + k, v_act(kind, v_load(sums + i * width + k), a, b))
        else:
            for i in range(mr):
                v_store_n(out[i] + at + k, v_act(kind, v_load(sums + i * width + k), a, b),
                          <int>(cols - k))
        k += VW


cdef void finish(
    int act, float alpha, float beta, float* sums, float** out, int64_t at, int mr, int64_t width,
    int64_t cols,
) noexcept nogil:
    """Applies the activation to a tile that lies in the nearest cache, and stores it.

    (In the tile, its constants would cost registers, and its code be there for every size.)
    """
    if act == ACT_HARD_SWISH:
        act_rows(ACT_HARD_SWISH, alpha, beta, sums, out, at, mr, width, cols)
    elif act == ACT_SILU and alpha == 1:
        act_rows(ACT_SILU_ONE, alpha, beta, sums, out, at, mr, width, cols)
    else:
        activate(act, alpha, beta, sums, mr * width)
        act_rows(ACT_NONE, alpha, beta, sums, out, at, mr, width, cols)


cdef void scale_rows(
    const ConvParams* p, const float** rows, int64_t first, int64_t mr, const float* scale, float* to,
) noexcept nogil:
    """Have ``rows``, ``mr`` of them from row ``first`` on, point to copies that are scaled."""
    cdef int64_t i, k
    cdef const float* s
    cdef const float* x
    for i in range(mr):
        s = scale + (first + i) // (p.od * p.oh * p.ow) * p.channels
        x = rows[i]
        k = 0
        while k + VW <= p.channels:
            v_store(to + k, v_mul(v_load(x + k), v_load(s + k)))
            k += VW
        while k < p.channels:
            to[k] = x[k] * s[k]
            k += 1
        rows[i] = to
        to += p.channels


cdef void conv(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, packed weights, bias or NULL, residual or NULL, zeros (``channels`` floats; or what
    to scale by, ``[n][channels]``), scratch (``threads * tiles * MR * (taps + 2)`` pointers for the
    most tiles in a block of rows; if scaled, for each thread ``MR * channels`` floats as well), y.

    While a tile is computed, what comes next is fetched: in layers of few pixels the weights of the
    next panel, in layers of many the next rows.
    """
    cdef const ConvParams* p = <const ConvParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* weights = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* residual = <const float*>c.buf[3]
    cdef const float* zeros = <const float*>c.buf[4]
    cdef float* y = (<float*>c.buf[6]) + p.y_0
    cdef int64_t taps = p.kd * p.kh * p.kw, depth = taps * p.channels
    cdef int64_t height = MR3 if MR3 > 0 and p.wide > 0 else MR
    cdef int64_t most = (p.block_rows + height - 1) // height * MR
    cdef int64_t spare = MR * p.channels * <int64_t>sizeof(float) if p.linear == 2 else 0
    cdef const float** table = <const float**>(
        (<char*>c.buf[5]) + thread * (most * (taps + 2) * <int64_t>sizeof(void*) + spare))
    cdef float** out = <float**>(table + most * taps)
    cdef const float** res = <const float**>(out + most)
    cdef float* scaled = <float*>(res + most)
    cdef const float** rows_of_tile
    cdef int64_t rows = p.n * p.od * p.oh * p.ow
    cdef int64_t panels = p.wide + max(
        <int64_t>0, p.filters - p.wide * 3 * VW + 2 * VW - 1) // (2 * VW)
    cdef int64_t bias_size = (p.filters + 2 * VW - 1) // (2 * VW) * (2 * VW)
    cdef int64_t row_blocks = (rows + p.block_rows - 1) // p.block_rows
    cdef int64_t panel_blocks = (panels + p.block_panels - 1) // p.block_panels
    cdef int64_t units = p.group * panel_blocks * row_blocks
    cdef int64_t unit = share(units, thread, threads), unit_end = share(units, thread + 1, threads)
    cdef int64_t outer, inner, q, g, pb, j, j_end, r, count, tiles, least, extra, k, mr, i, at, width
    cdef int64_t cols
    cdef int64_t group_size = column(panels, p.wide) * depth
    cdef bint more, cold = True
    cdef const float* w
    cdef const float* xg
    cdef const float* xr
    cdef const float* rr
    cdef float* yr
    cdef float* held
    cdef const char* ahead = NULL
    cdef const char* ahead_end = NULL
    cdef vf room[MR * 2]            # aligned, as an array of floats would not be
    cdef float* sums = <float*>room
    cdef float* to[MR]
    cdef float** target
    cdef Pixel o
    cdef Epilogue e
    e.lo = p.lo
    e.hi = p.hi
    e.bias = NULL
    if p.act > ACT_CLIP:
        for i in range(MR * 2 * VW):
            sums[i] = 0
    while unit < unit_end:
        g = unit // (panel_blocks * row_blocks)
        pb = unit // row_blocks % panel_blocks
        r = unit % row_blocks * p.block_rows
        count = min(p.block_rows, rows - r)
        j_end = min((pb + 1) * p.block_panels, panels)
        unit += 1
        o.w = r % p.ow
        o.h = r // p.ow % p.oh
        o.d = r // (p.ow * p.oh) % p.od
        o.n = r // (p.ow * p.oh * p.od)
        xg = x + g * p.x_g
        # Rows are spread evenly, so that no tile is left with one row.
        tiles = (count + height - 1) // height
        least = count // tiles
        extra = count % tiles
        xr = xg + r * p.x_w
        yr = y + g * p.y_g + r * p.y_w
        rr = residual
        if residual != NULL:
            rr += g * p.r_g + r * p.r_w
        for k in range(tiles):
            mr = least + (k < extra)
            rows_of_tile = table + k * MR * taps
            if p.linear:
                for i in range(mr):
                    rows_of_tile[i] = xr
                    out[k * MR + i] = yr
                    res[k * MR + i] = rr
                    xr += p.x_w
                    yr += p.y_w
                    rr += p.r_w
            else:
                build_rows(p, xg, zeros, rows_of_tile, &o, y + g * p.y_g, residual + g * p.r_g,
                           out + k * MR, res + k * MR, <int>mr)
        if not cold and unit % row_blocks != 0 and p.linear:
            # The weights are near by now, but the next rows are not.
            ahead = <const char*>(xg + (r + count) * p.x_w)
            ahead_end = ahead + min(p.block_rows, rows - r - count) * p.x_w * 4
        # Of few rows all meet a panel's weights before the next panel's. Of many, a tile's meet all
        # panels before the next tile's do: so memory is read and written in order.
        outer = 1
        inner = tiles
        if row_blocks > 2 or residual != NULL and row_blocks > 1 or p.linear == 2:
            outer = tiles
            inner = 1
        for q in range(outer):
            if p.linear == 2:
                scale_rows(p, table + q * MR, r + q * least + min(q, extra), least + (q < extra),
                           zeros, scaled)
            j = pb * p.block_panels
            while j < j_end:
                at = column(j, p.wide)
                w = weights + g * group_size + at * depth
                width = 3 * VW if j < p.wide else 2 * VW
                cols = min(p.filters - at, width)
                more = j + 1 < j_end
                if more and cold or not more and unit % row_blocks == 0 and unit < units:
                    ahead = <const char*>(w + width * depth)
                    ahead_end = ahead + width * depth * 4
                if bias != NULL:
                    e.bias = bias + g * bias_size + at
                for k in range(q, q + inner):
                    mr = least + (k < extra)
                    if ahead >= ahead_end:
                        ahead = <const char*>w
                        ahead_end = ahead
                    target = out + k * MR
                    if p.act > ACT_CLIP:
                        held = sums - at
                        for i in range(mr):
                            to[i] = held
                            held += width
                        target = to
                    tile(<int>mr, VW == 16, MR3 > 0, table + k * MR * taps, taps, p.channels, w,
                         target, res + k * MR if residual != NULL else NULL, at, &e, <int>cols,
                         ahead)
                    if p.act > ACT_CLIP:
                        finish(p.act, p.alpha, p.beta, sums, out + k * MR, at, <int>mr, width,
                               cols)
                    ahead += 64 * depth
                j += 1
        cold = unit % row_blocks == 0


def pack_conv(**values):
    """The bytes of ``ConvParams``, from one keyword per field."""
    cdef ConvParams p = values
    return (<char*>&p)[:sizeof(ConvParams)]


cdef struct StageParams:
    int64_t n, h, w, channels
    int64_t x_n, x_c, x_h, x_w      # input strides in floats, any layout
    int64_t out_h, out_w, pad_h, pad_w


cdef void stage(const Call* c, int thread, int threads) noexcept nogil:
    """Copies an image of few channels, from any layout, into a zero-bordered channels-last one.

    A kernel row then lies in one piece, ``kw * channels`` long: few long taps instead of many tiny
    ones. Buffers: x, y ([n][out_h][out_w][channels]).
    """
    cdef const StageParams* p = <const StageParams*>c.params
    cdef int64_t row = share(p.n * p.out_h, thread, threads)
    cdef int64_t end = share(p.n * p.out_h, thread + 1, threads)
    cdef int64_t i, k, h, length = p.out_w * p.channels
    cdef const float* x
    cdef float* y
    while row < end:
        y = (<float*>c.buf[1]) + row * length
        h = row % p.out_h - p.pad_h
        for i in range(p.pad_w * p.channels):
            y[i] = 0
        if h < 0 or h >= p.h:
            for i in range(length):
                y[i] = 0
        else:
            x = (<const float*>c.buf[0]) + row // p.out_h * p.x_n + h * p.x_h
            y += p.pad_w * p.channels
            if p.channels == 3:
                for i in range(p.w):
                    y[3 * i] = x[i * p.x_w]
                    y[3 * i + 1] = x[i * p.x_w + p.x_c]
                    y[3 * i + 2] = x[i * p.x_w + 2 * p.x_c]
            elif p.channels == 1:
                for i in range(p.w):
                    y[i] = x[i * p.x_w]
            else:
                for i in range(p.w):
                    for k in range(p.channels):
                        y[i * p.channels + k] = x[i * p.x_w + k * p.x_c]
            y += p.w * p.channels
            for i in range((p.out_w - p.pad_w - p.w) * p.channels):
                y[i] = 0
        row += 1


def pack_stage(**values):
    """The bytes of ``StageParams``."""
    cdef StageParams p = values
    return (<char*>&p)[:sizeof(StageParams)]


cdef struct FewParams:
    int64_t n, h, w, channels
    int64_t x_n, x_c, x_h, x_w      # input strides in floats, any layout
    int64_t oh, ow, filters
    int64_t y_n, y_h, y_w
    int64_t kh, kw, stride_h, stride_w, dilation_h, pad_h, pad_w
    int64_t line                    # floats of a zero-bordered line
    int64_t act
    float lo, hi                    # (side by side: ``few_tile`` reads both from one address)
    float alpha, beta


cdef inline void few_row(const int nv, int n, const vf* sums, vf lo, vf hi, float* y) noexcept nogil:
    """Clip a pixel and store it; its last vector has ``n`` lanes."""
    cdef vf a = v_min(hi, v_max(lo, sums[0]))
    if nv == 2:
        v_store(y, a)
        a = v_min(hi, v_max(lo, sums[1]))
    if n == VW:
        v_store(y + (nv - 1) * VW, a)
    else:
        v_store_n(y + (nv - 1) * VW, a, n)


cdef inline void few_tile(
    const int nv, const float* a, int64_t depth, const float* w, const float* bias,
    const float* clip, float* y, int64_t y_w, int rows, int64_t cols,
) noexcept nogil:
    """``FEW_ROWS`` pixels by ``nv`` vectors, of which ``rows`` by ``cols`` are stored, each between
    ``clip[0]`` and ``clip[1]``."""
    cdef vf acc[FEW_ROWS][2]
    cdef vf rest[FEW_ROWS][2]       # so that the accumulators themselves stay in registers
    cdef vf b0 = v_zero(), b1 = v_zero(), v, lo, hi
    cdef const float* at
    cdef int i, n
    if bias != NULL:
        b0 = v_load(bias)
        if nv == 2:
            b1 = v_load(bias + VW)
    for i in range(FEW_ROWS):
        acc[i][0] = b0
        acc[i][1] = b1
    while depth > 0:
        b0 = v_load(w)
        if nv == 2:
            b1 = v_load(w + VW)
        for i in range(FEW_ROWS):
            v = v_set(a[i])
            acc[i][0] = v_fma(v, b0, acc[i][0])
            if nv == 2:
                acc[i][1] = v_fma(v, b1, acc[i][1])
        w += 2 * VW
        a += FEW_LANES
        depth -= 1
    at = <const float*>v_late(clip)
    lo = v_set(at[0])
    hi = v_set(at[1])
    n = <int>(cols - (nv - 1) * VW)
    if n == VW and rows == FEW_ROWS:
        # (Row by row, not in a loop: see ``tile``.)
        if FEW_ROWS > 0: few_row(nv, VW, acc[0], lo, hi, y + 0 * y_w)
        if FEW_ROWS > 1: few_row(nv, VW, acc[1], lo, hi, y + 1 * y_w)
        if FEW_ROWS > 2: few_row(nv, VW, acc[2], lo, hi, y + 2 * y_w)
        if FEW_ROWS > 3: few_row(nv, VW, acc[3], lo, hi, y + 3 * y_w)
        if FEW_ROWS > 4: few_row(nv, VW, acc[4], lo, hi, y + 4 * y_w)
        if FEW_ROWS > 5: few_row(nv, VW, acc[5], lo, hi, y + 5 * y_w)
        if FEW_ROWS > 6: few_row(nv, VW, acc[6], lo, hi, y + 6 * y_w)
        if FEW_ROWS > 7: few_row(nv, VW, acc[7], lo, hi, y + 7 * y_w)
        if FEW_ROWS > 8: few_row(nv, VW, acc[8], lo, hi, y + 8 * y_w)
        if FEW_ROWS > 9: few_row(nv, VW, acc[9], lo, hi, y + 9 * y_w)
        if FEW_ROWS > 10: few_row(nv, VW, acc[10], lo, hi, y + 10 * y_w)
        if FEW_ROWS > 11: few_row(nv, VW, acc[11], lo, hi, y + 11 * y_w)
        if FEW_ROWS > 12: few_row(nv, VW, acc[12], lo, hi, y + 12 * y_w)
        if FEW_ROWS > 13: few_row(nv, VW, acc[13], lo, hi, y + 13 * y_w)
    else:
        for i in range(FEW_ROWS):
            rest[i][0] = acc[i][0]
            rest[i][1] = acc[i][1]
        for i in range(rows):
            few_row(nv, n, rest[i], lo, hi, y + i * y_w)


cdef inline void few_pack(
    const FewParams* p, const float* lines, int64_t slot, float* a, int64_t first,
) noexcept nogil:
    """The inputs of a tile's pixels, from pixel ``first`` of a row on: ``a[product][pixel]``.

    The lines of the first kernel row are those at ``slot``, and the others follow, round about.
    """
    cdef int64_t i, j, k, n = p.kh * p.channels
    cdef const float* x
    for i in range(n):
        j = slot * p.channels + i
        x = lines + (j if j < n else j - n) * p.line + first * p.stride_w
        for j in range(p.kw):
            if p.stride_w == 1:
                for k in range(FEW_LANES // VW):
                    v_store(a + k * VW, v_load(x + j + k * VW))
            elif p.stride_w == 2:
                for k in range(FEW_LANES // VW):
                    v_store(a + k * VW,
                            v_alternate(v_load(x + j + 2 * k * VW), v_load(x + j + (2 * k + 1) * VW)))
            else:
                for k in range(FEW_ROWS):
                    a[k] = x[j + k * p.stride_w]
            a += FEW_LANES


cdef void conv_few(const Call* c, int thread, int threads) noexcept nogil:
    """A convolution of few channels, from any layout: its input rows are copied into zero-bordered
    lines, and each tile's inputs gathered from them as a matrix.

    Buffers: x, weights packed as those of one tap with (kernel row, channel, kernel column) for
    channels, bias or NULL, scratch (for each thread ``kh * channels`` lines and
    ``kh * channels * kw * FEW_LANES`` floats), y.
    """
    cdef const FewParams* p = <const FewParams*>c.params
    cdef const float* weights = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef int64_t depth = p.kh * p.channels * p.kw, size = p.kh * p.channels * p.line
    cdef float* lines = (<float*>c.buf[3]) + thread * (size + depth * FEW_LANES)
    cdef float* a = lines + size
    cdef int64_t unit = share(p.n * p.oh, thread, threads)
    cdef int64_t end = share(p.n * p.oh, thread + 1, threads)
    cdef int64_t oh, ih, i, k, ch, first, rows, cols, at, top, slot, have = 0
    cdef const float* x
    cdef const float* b = NULL
    cdef float* line
    cdef float* y
    cdef float* target
    cdef int64_t step
    cdef vf room[FEW_ROWS * 2]      # aligned, as an array of floats would not be
    cdef float* sums = <float*>room
    cdef float* out[FEW_ROWS]
    if unit < end:
        for i in range(size):
            lines[i] = 0
        have = unit % p.oh * p.stride_h - p.pad_h
    if p.act > ACT_CLIP:
        for i in range(FEW_ROWS * 2 * VW):
            sums[i] = 0
    while unit < end:
        oh = unit % p.oh
        y = (<float*>c.buf[4]) + unit // p.oh * p.y_n + oh * p.y_h
        # An input row keeps its lines while successive output rows read it: those before ``have``.
        top = oh * p.stride_h - p.pad_h
        slot = 0
        if p.dilation_h == 1:
            slot = (top % p.kh + p.kh) % p.kh
        if oh == 0 or p.dilation_h != 1:
            have = top
        for k in range(p.kh):
            ih = top + k * p.dilation_h
            if ih < have:
                continue
            at = slot + k if slot + k < p.kh else slot + k - p.kh
            for ch in range(p.channels):
                line = lines + (at * p.channels + ch) * p.line + p.pad_w
                if ih < 0 or ih >= p.h:
                    for i in range(p.w):
                        line[i] = 0
                    continue
                x = (<const float*>c.buf[0]) + unit // p.oh * p.x_n + ch * p.x_c + ih * p.x_h
                if p.x_w == 1:
                    memcpy(line, x, p.w * sizeof(float))
                else:
                    for i in range(p.w):
                        line[i] = x[i * p.x_w]
        have = top + p.kh
        first = 0
        while first < p.ow:
            # The last tile may do pixels again that the one before it did, so that all are whole.
            if first + FEW_ROWS > p.ow:
                first = max(p.ow - FEW_ROWS, <int64_t>0)
            rows = min(p.ow - first, <int64_t>FEW_ROWS)
            few_pack(p, lines, slot, a, first)
            at = 0
            while at < p.filters:
                cols = min(p.filters - at, <int64_t>(2 * VW))
                if bias != NULL:
                    b = bias + at
                target = y + first * p.y_w + at
                step = p.y_w
                if p.act > ACT_CLIP:
                    target = sums
                    step = 2 * VW
                if cols > VW:
                    few_tile(2, a, depth, weights + at * depth, b, &p.lo, target, step,
                             <int>rows, cols)
                else:
                    few_tile(1, a, depth, weights + at * depth, b, &p.lo, target, step,
                             <int>rows, cols)
                if p.act > ACT_CLIP:
                    for i in range(rows):
                        out[i] = y + (first + i) * p.y_w
                    finish(p.act, p.alpha, p.beta, sums, out, at, <int>rows, 2 * VW, cols)
                at += 2 * VW
            first += FEW_ROWS
        unit += 1


def pack_few(**values):
    """The bytes of ``FewParams``."""
    cdef FewParams p = values
    return (<char*>&p)[:sizeof(FewParams)]


KERNELS = {
    "conv": (<uintptr_t>&conv, pack_conv),
    "conv_few": (<uintptr_t>&conv_few, pack_few),
    "stage": (<uintptr_t>&stage, pack_stage),
}
CONSTANTS = {"VW": VW, "MR": MR, "NR": 2 * VW, "MR3": MR3, "FEW_LANES": FEW_LANES}
