"""Depthwise convolution of 8-bit integers, channels-last, one filter per channel, 1-D or 2-D.

The taps of one kernel column are taken four at a time: their bytes are interleaved so that one dot
product of four bytes adds four taps to 32-bit sums. An interleaved column serves every output pixel
whose window meets it, so a run of columns is made first, then the run's pixels. Weights are packed
``[channel block][kernel column][group of four][part][VW][4]`` in the order in which interleaving
leaves the channels (``vb_zip4``), or for instruction sets without such dot products as 16-bit
integers ``[…][part][even or odd taps][VW][2]``; start of sums and scales ``[channel block][part][VW]``. Outside
the image a tap reads the zero point, so that the correction for it is the same everywhere and lies
in the start of the sums.
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.int8 cimport *
from fastconv.kernels.simd cimport *

cdef enum:
    COLUMNS = 40            # interleaved columns of a run
    GROUPS = 2              # groups of four taps of a kernel column, at most


cdef struct QDepthwiseParams:
    int64_t n, h, w, pixel          # input, bytes from one pixel to the next
    int64_t oh, ow, y_pixel, r_pixel
    int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w
    int64_t channels
    int32_t y_zero
    int32_t least                   # bound of the result
    float lo, hi                    # its bounds, less y_zero
    # With a residual, of the numbers that the bytes less ``shift`` are: y_ratio * result + (r_ratio
    # * residual + offset), within sum_lo and sum_hi; with r_last the residual is added last.
    int64_t r_last
    int32_t shift
    float y_ratio, r_ratio, offset, sum_lo, sum_hi


cdef inline void columns(
    const bint whole, const QDepthwiseParams* p, const uint8_t* image, int64_t ih, int64_t iw,
    int64_t count, int groups, const uint8_t* zeros, int n, dot_u* z,
) noexcept nogil:
    """``count`` interleaved columns from input column ``iw`` on → z[column][group][part]."""
    cdef const uint8_t* rows[4 * GROUPS]
    cdef int64_t i, k, h
    cdef int g
    cdef vb r0, r1, r2, r3
    cdef vb parts[4]
    for k in range(4 * groups):
        h = ih + k * p.dilation_h
        rows[k] = NULL
        if k < p.kh and h >= 0 and h < p.h:
            rows[k] = image + (h * p.w + iw) * p.pixel
    for i in range(count):
        for g in range(groups):
            r0 = vb_load(zeros)
            r1 = r0
            r2 = r0
            r3 = r0
            if iw + i >= 0 and iw + i < p.w:
                if whole:
                    if rows[4 * g] != NULL: r0 = vb_load(rows[4 * g] + i * p.pixel)
                    if rows[4 * g + 1] != NULL: r1 = vb_load(rows[4 * g + 1] + i * p.pixel)
                    if rows[4 * g + 2] != NULL: r2 = vb_load(rows[4 * g + 2] + i * p.pixel)
                    if rows[4 * g + 3] != NULL: r3 = vb_load(rows[4 * g + 3] + i * p.pixel)
                else:
                    if rows[4 * g] != NULL: r0 = vb_load_n(rows[4 * g] + i * p.pixel, n)
                    if rows[4 * g + 1] != NULL: r1 = vb_load_n(rows[4 * g + 1] + i * p.pixel, n)
                    if rows[4 * g + 2] != NULL: r2 = vb_load_n(rows[4 * g + 2] + i * p.pixel, n)
                    if rows[4 * g + 3] != NULL: r3 = vb_load_n(rows[4 * g + 3] + i * p.pixel, n)
            vb_zip4(r0, r1, r2, r3, parts)
            for k in range(4):
                z[k] = dot_u_of(parts[k])
            z += 4


cdef inline void pixels(
    const int kw, const int groups, const QDepthwiseParams* p, const dot_u* z, int64_t count,
    const int8_t* w, const int32_t* start, const float* scale, const uint8_t* residual, uint8_t* y,
    int n,
) noexcept nogil:
    """``count`` output pixels of one block of ``n`` channels from interleaved columns."""
    cdef vi acc[4]
    cdef vb r[4]
    cdef vb zero = vb_zero(), out
    cdef vf f, g
    cdef int64_t i
    cdef int k, j
    for i in range(count):
        for j in range(4):
            acc[j] = vi_load(start + j * VW)
        for k in range(kw * groups):
            for j in range(4):
                acc[j] = dot(
                    acc[j], z[(k // groups * p.dilation_w * groups + k % groups) * 4 + j],
                    dot_s_load(w + (4 * k + j) * <int>sizeof(dot_s)))
        for j in range(4):
            # Only the upper bound is needed to convert: what is too low saturates when packed.
            f = v_mul(vi_float(acc[j]), v_load(scale + j * VW))
            acc[j] = vi_round(v_min(v_set(p.hi), f))
        if residual == NULL:
            out = vb_pack_add(acc[0], acc[1], acc[2], acc[3], p.y_zero)
            out = vb_max(out, vb_set(p.least))
        else:
            vb_zip4(vb_load_n(residual, n), zero, zero, zero, r)
            for j in range(4):
                acc[j] = vi_max(acc[j], v_iset(<int32_t>p.lo))
                f = vi_float(v_iadd(acc[j], v_iset(p.y_zero - p.shift)))
                g = vi_float(v_isub(vi_of(r[j]), v_iset(p.shift)))
                if p.r_last:
                    f = vi_fma(f, v_set(p.y_ratio), v_set(p.offset))
                    f = vi_fma(g, v_set(p.r_ratio), f)
                else:
                    g = vi_fma(g, v_set(p.r_ratio), v_set(p.offset))
                    f = vi_fma(f, v_set(p.y_ratio), g)
                acc[j] = vi_round(v_min(v_set(p.sum_hi), v_max(v_set(p.sum_lo), f)))
            out = vb_pack_add(acc[0], acc[1], acc[2], acc[3], p.shift)
            residual += p.r_pixel
        if n == VB:
            vb_store(y, out)
        else:
            vb_store_n(y, out, n)
        y += p.y_pixel
        z += 4 * groups * p.stride_w


cdef void qdepthwise(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, packed weights, start of sums, scale, residual or NULL, VB zero points, y."""
    cdef const QDepthwiseParams* p = <const QDepthwiseParams*>c.params
    cdef const uint8_t* residual = <const uint8_t*>c.buf[4]
    cdef const uint8_t* zeros = <const uint8_t*>c.buf[5]
    cdef int64_t blocks = (p.channels + VB - 1) // VB
    cdef int groups = <int>((p.kh + 3) // 4)
    cdef int64_t row = share(p.n * p.oh, thread, threads)
    cdef int64_t end = share(p.n * p.oh, thread + 1, threads)
    cdef int64_t span = (p.kw - 1) * p.dilation_w + 1
    cdef int64_t run = (COLUMNS - span) // p.stride_w + 1
    cdef int64_t b, ow, ih, iw, count, at
    cdef dot_u z[COLUMNS * GROUPS * 4]
    cdef const int8_t* w
    cdef const int32_t* start
    cdef const float* scale
    cdef const uint8_t* res
    cdef const uint8_t* image
    cdef uint8_t* out
    cdef int n
    while row < end:
        image = (<const uint8_t*>c.buf[0]) + row // p.oh * p.h * p.w * p.pixel
        ih = row % p.oh * p.stride_h - p.pad_h
        for b in range(blocks):
            n = <int>min(<int64_t>VB, p.channels - b * VB)
            w = (<const int8_t*>c.buf[1]) + b * p.kw * groups * 4 * <int>sizeof(dot_s)
            start = (<const int32_t*>c.buf[2]) + b * VB
            scale = (<const float*>c.buf[3]) + b * VB
            ow = 0
            while ow < p.ow:
                count = min(run, p.ow - ow)
                iw = ow * p.stride_w - p.pad_w
                if n == VB:
                    columns(True, p, image + b * VB, ih, iw, (count - 1) * p.stride_w + span,
                            groups, zeros, n, z)
                else:
                    columns(False, p, image + b * VB, ih, iw, (count - 1) * p.stride_w + span,
                            groups, zeros, n, z)
                at = row * p.ow + ow
                out = (<uint8_t*>c.buf[6]) + at * p.y_pixel + b * VB
                res = NULL
                if residual != NULL:
                    res = residual + at * p.r_pixel + b * VB
                if p.kw == 3 and groups == 1 and res == NULL:
                    pixels(3, 1, p, z, count, w, start, scale, NULL, out, n)
                else:
                    pixels(<int>p.kw, groups, p, z, count, w, start, scale, res, out, n)
                ow += count
        row += 1


def pack_qdepthwise(**values):
    """The bytes of ``QDepthwiseParams``, from one keyword per field."""
    cdef QDepthwiseParams p = values
    return (<char*>&p)[:sizeof(QDepthwiseParams)]


KERNELS = {"qdepthwise": (<uintptr_t>&qdepthwise, pack_qdepthwise)}
#: Channels of a block; the most input columns of a window; the most rows of a kernel; whether weights
#: are 16-bit integers.
CONSTANTS = {
    "QVB": VB, "QCOLUMNS": COLUMNS, "QROWS": 4 * GROUPS, "QWIDE": sizeof(dot_s) // VB - 1,
}
