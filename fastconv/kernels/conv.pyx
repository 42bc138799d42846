"""Convolution as a matrix product over pointers: any rank up to 3, and every fully-connected layer.

One kernel, ``conv``, covers 1×1 (a GEMM in place), k×k, dilated, grouped and transposed convolution
and ``x @ W``: output pixels are rows, output channels are vector lanes, and the reduction runs over
(kernel tap, input channel). No im2col matrix is made: each tap of each row is a pointer into the
channels-last input, or to a row of zeros outside it.
"""

from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport MR, VW
from fastconv.kernels.tile cimport Epilogue, tile
from fastconv.kernels.vmath cimport ACT_CLIP, activate


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
    # Channels per group, and the number of groups.
    int64_t channels, filters, group
    # From one group to the next, in floats.
    int64_t x_g, y_g, r_g
    # Whether row r reads x + r * x_w, writes y + r * y_w and adds residual + r * r_w.
    int32_t linear
    # Whether output rows follow one another, y_w apart.
    int32_t y_linear
    # Work is cut into blocks of rows × groups of weight panels.
    int64_t block_rows, block_panels
    int32_t act
    float lo, hi, alpha, beta


cdef struct Pixel:
    int64_t n, d, h, w


cdef inline void next_pixel(const ConvParams* p, Pixel* o) noexcept nogil:
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


cdef void conv(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, packed weights, bias or NULL, residual or NULL, zeros (``channels`` floats),
    scratch (``threads * taps * MR`` pointers), y."""
    cdef const ConvParams* p = <const ConvParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* weights = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* residual = <const float*>c.buf[3]
    cdef const float* zeros = <const float*>c.buf[4]
    cdef float* y = (<float*>c.buf[6]) + p.y_0
    cdef int64_t taps = p.kd * p.kh * p.kw
    cdef const float** table = (<const float**>c.buf[5]) + thread * taps * MR
    cdef int64_t rows = p.n * p.od * p.oh * p.ow
    cdef int64_t panels = (p.filters + 2 * VW - 1) // (2 * VW)
    cdef int64_t panel_size = taps * p.channels * 2 * VW
    cdef int64_t row_blocks = (rows + p.block_rows - 1) // p.block_rows
    cdef int64_t panel_blocks = (panels + p.block_panels - 1) // p.block_panels
    cdef int64_t units = p.group * panel_blocks * row_blocks
    cdef int64_t unit = share(units, thread, threads), unit_end = share(units, thread + 1, threads)
    cdef int64_t g, pb, j, j_end, r, r_end, tiles, k, mr, i, t, kd, kh, kw, id_, ih, iw, left
    cdef float* out[MR]
    cdef const float* res[MR]
    cdef const float** has_res = NULL
    cdef const float* base[MR]
    cdef int64_t d0[MR]
    cdef int64_t h0[MR]
    cdef int64_t w0[MR]
    cdef Pixel o
    cdef Epilogue e
    cdef int cols
    cdef bint inside, safe
    cdef int64_t offset, columns
    # Where the first and the last tap of a window lie, from its origin.
    cdef Pixel low, high
    low.d = min((p.kd - 1) * p.dilation_d, 0)
    low.h = min((p.kh - 1) * p.dilation_h, 0)
    low.w = min((p.kw - 1) * p.dilation_w, 0)
    high.d = max((p.kd - 1) * p.dilation_d, 0)
    high.h = max((p.kh - 1) * p.dilation_h, 0)
    high.w = max((p.kw - 1) * p.dilation_w, 0)
    e.lo = p.lo
    e.hi = p.hi
    e.bias = NULL
    if residual != NULL:
        has_res = res
    for i in range(MR):
        res[i] = NULL
    while unit < unit_end:
        g = unit // (panel_blocks * row_blocks)
        pb = unit // row_blocks % panel_blocks
        r = unit % row_blocks * p.block_rows
        r_end = min(r + p.block_rows, rows)
        j_end = min((pb + 1) * p.block_panels, panels)
        unit += 1
        o.w = r % p.ow
        o.h = r // p.ow % p.oh
        o.d = r // (p.ow * p.oh) % p.od
        o.n = r // (p.ow * p.oh * p.od)
        tiles = (r_end - r + MR - 1) // MR
        for k in range(tiles):
            # Rows are spread evenly, so that no tile is left with one row.
            mr = (r_end - r + tiles - k - 1) // (tiles - k)
            j = pb * p.block_panels
            if p.linear:
                for i in range(mr):
                    table[i] = x + g * p.x_g + (r + i) * p.x_w
                    out[i] = y + g * p.y_g + (r + i) * p.y_w + j * 2 * VW
                    if residual != NULL:
                        res[i] = residual + g * p.r_g + (r + i) * p.r_w + j * 2 * VW
            else:
                safe = True
                for i in range(mr):
                    d0[i] = o.d * p.stride_d - p.pad_d
                    h0[i] = o.h * p.stride_h - p.pad_h
                    w0[i] = o.w * p.stride_w - p.pad_w
                    base[i] = (x + g * p.x_g + o.n * p.x_n + d0[i] * p.x_d + h0[i] * p.x_h
                               + w0[i] * p.x_w)
                    safe = (safe and d0[i] + low.d >= 0 and d0[i] + high.d < p.d
                            and h0[i] + low.h >= 0 and h0[i] + high.h < p.h
                            and w0[i] + low.w >= 0 and w0[i] + high.w < p.w)
                    out[i] = (y + g * p.y_g + o.n * p.y_n + o.d * p.y_d + o.h * p.y_h
                              + o.w * p.y_w + j * 2 * VW)
                    if residual != NULL:
                        res[i] = (residual + g * p.r_g + o.n * p.r_n + o.d * p.r_d + o.h * p.r_h
                                  + o.w * p.r_w + j * 2 * VW)
                    next_pixel(p, &o)
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
            r += mr
            while j < j_end:
                left = p.filters - j * 2 * VW
                cols = <int>min(left, 2 * VW)
                if bias != NULL:
                    e.bias = bias + (g * panels + j) * 2 * VW
                tile(<int>mr, table, taps, p.channels, weights + (g * panels + j) * panel_size,
                     out, has_res, &e, cols)
                for i in range(mr):
                    out[i] += 2 * VW
                    res[i] += 2 * VW
                j += 1
            if p.act > ACT_CLIP:
                # The rows are in the nearest cache still. (In the tile, a call would cost it its
                # registers.)
                left = (j_end - pb * p.block_panels) * 2 * VW
                columns = min(p.filters - pb * p.block_panels * 2 * VW, left)
                if p.y_linear and p.y_w == columns:
                    activate(p.act, p.alpha, p.beta, out[0] - left, mr * columns)
                else:
                    for i in range(mr):
                        activate(p.act, p.alpha, p.beta, out[i] - left, columns)


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


KERNELS = {
    "conv": (<uintptr_t>&conv, pack_conv),
    "stage": (<uintptr_t>&stage, pack_stage),
}
CONSTANTS = {"VW": VW, "MR": MR, "NR": 2 * VW}
