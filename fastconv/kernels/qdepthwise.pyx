"""Depthwise convolution of 8-bit integers, channels-last, one filter per channel, 1-D or 2-D.

Taps are taken four at a time: their bytes are interleaved so that one dot product of four bytes adds
four taps to 32-bit sums. Weights are packed ``[channel block][tap group][part][VW][4]`` in the order
in which interleaving leaves the channels (``vb_zip4``); start of sums and scales ``[channel
block][part][VW]``. Outside the image a tap reads the zero point, so that the correction for it is
the same everywhere and lies in the start of the sums.
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.int8 cimport *
from fastconv.kernels.simd cimport *

cdef enum:
    MAX_TAPS = 128


cdef struct QDepthwiseParams:
    int64_t n, h, w, pixel          # input, bytes from one pixel to the next
    int64_t oh, ow, y_pixel, r_pixel
    int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w
    int64_t channels
    int32_t x_zero, y_zero
    float lo, hi                    # bounds of the result, less y_zero
    # With a residual: result * y_ratio + residual * r_ratio + offset, within sum_lo and sum_hi.
    float y_ratio, r_ratio, offset, sum_lo, sum_hi


cdef inline void pixel(
    const bint whole, const int groups, const QDepthwiseParams* p, const uint8_t** taps,
    const int8_t* w, const int32_t* start, const float* scale, const uint8_t* residual,
    uint8_t* y, int n,
) noexcept nogil:
    """One output pixel of one block of ``n`` (at most VB) channels."""
    cdef vi acc[4]
    cdef vb z[4]
    cdef vb r0, r1, r2, r3
    cdef vf f
    cdef int g, j
    cdef vi zero = v_iset(p.y_zero)
    for j in range(4):
        acc[j] = vi_load(start + j * VW)
    for g in range(groups):
        if whole:
            r0 = vb_load(taps[4 * g])
            r1 = vb_load(taps[4 * g + 1])
            r2 = vb_load(taps[4 * g + 2])
            r3 = vb_load(taps[4 * g + 3])
        else:
            r0 = vb_load_n(taps[4 * g], n)
            r1 = vb_load_n(taps[4 * g + 1], n)
            r2 = vb_load_n(taps[4 * g + 2], n)
            r3 = vb_load_n(taps[4 * g + 3], n)
        vb_zip4(r0, r1, r2, r3, z)
        for j in range(4):
            acc[j] = dot(acc[j], dot_u_of(z[j]), dot_s_load(w + (4 * g + j) * VB))
    for j in range(4):
        f = v_mul(vi_float(acc[j]), v_load(scale + j * VW))
        acc[j] = v_iadd(vi_round(v_min(v_set(p.hi), v_max(v_set(p.lo), f))), zero)
    if residual != NULL:
        r0 = vb_load_n(residual, n) if n < VB else vb_load(residual)
        r1 = vb_load_n(residual, 0)
        vb_zip4(r0, r1, r1, r1, z)
        for j in range(4):
            f = v_fma(vi_float(acc[j]), v_set(p.y_ratio), v_set(p.offset))
            f = v_fma(vi_float(v_iand(vi_of(z[j]), v_iset(255))), v_set(p.r_ratio), f)
            acc[j] = vi_round(v_min(v_set(p.sum_hi), v_max(v_set(p.sum_lo), f)))
    if whole:
        vb_store(y, vb_pack(acc[0], acc[1], acc[2], acc[3]))
    else:
        vb_store_n(y, vb_pack(acc[0], acc[1], acc[2], acc[3]), n)


cdef void qdepthwise(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, packed weights, start of sums, scale, residual or NULL, VB zero points, y."""
    cdef const QDepthwiseParams* p = <const QDepthwiseParams*>c.params
    cdef const uint8_t* x = <const uint8_t*>c.buf[0]
    cdef const uint8_t* residual = <const uint8_t*>c.buf[4]
    cdef const uint8_t* zeros = <const uint8_t*>c.buf[5]
    cdef uint8_t* y = <uint8_t*>c.buf[6]
    cdef int64_t blocks = (p.channels + VB - 1) // VB
    cdef int groups = <int>((p.kh * p.kw + 3) // 4)
    cdef int64_t row = share(p.n * p.oh, thread, threads)
    cdef int64_t end = share(p.n * p.oh, thread + 1, threads)
    cdef int64_t b, ow, kh, kw, ih, iw, oh, first, last
    cdef const uint8_t* taps[MAX_TAPS]
    cdef const int8_t* w
    cdef const int32_t* start
    cdef const float* scale
    cdef const uint8_t* res
    cdef const uint8_t* image
    cdef uint8_t* out
    cdef int n, t, k
    cdef int count = <int>(p.kh * p.kw)
    cdef int64_t step[MAX_TAPS]
    # Output columns first .. last have all taps inside.
    first = (p.pad_w + p.stride_w - 1) // p.stride_w
    last = (p.w - 1 - (p.kw - 1) * p.dilation_w + p.pad_w)
    last = last // p.stride_w + 1 if last >= 0 else 0
    last = min(last, p.ow)
    while row < end:
        oh = row % p.oh
        image = x + row // p.oh * p.h * p.w * p.pixel
        for b in range(blocks):
            n = <int>min(<int64_t>VB, p.channels - b * VB)
            w = (<const int8_t*>c.buf[1]) + b * groups * 4 * VB
            start = (<const int32_t*>c.buf[2]) + b * VB
            scale = (<const float*>c.buf[3]) + b * VB
            for ow in range(p.ow):
                if ow <= first or ow >= last:
                    t = 0
                    for kh in range(p.kh):
                        ih = oh * p.stride_h - p.pad_h + kh * p.dilation_h
                        for kw in range(p.kw):
                            iw = ow * p.stride_w - p.pad_w + kw * p.dilation_w
                            taps[t] = zeros
                            step[t] = 0
                            if ih >= 0 and ih < p.h and iw >= 0 and iw < p.w:
                                taps[t] = image + (ih * p.w + iw) * p.pixel + b * VB
                            if ih >= 0 and ih < p.h:
                                step[t] = p.stride_w * p.pixel
                            t += 1
                    while t < 4 * groups:
                        taps[t] = zeros
                        step[t] = 0
                        t += 1
                else:
                    for k in range(count):
                        taps[k] += step[k]
                out = y + (row * p.ow + ow) * p.y_pixel + b * VB
                res = NULL
                if residual != NULL:
                    res = residual + (row * p.ow + ow) * p.r_pixel + b * VB
                if groups == 3 and n == VB:
                    pixel(True, 3, p, taps, w, start, scale, res, out, VB)
                elif groups == 3:
                    pixel(False, 3, p, taps, w, start, scale, res, out, n)
                else:
                    pixel(False, groups, p, taps, w, start, scale, res, out, n)
        row += 1


def pack_qdepthwise(**values):
    """The bytes of ``QDepthwiseParams``, from one keyword per field."""
    cdef QDepthwiseParams p = values
    return (<char*>&p)[:sizeof(QDepthwiseParams)]


KERNELS = {"qdepthwise": (<uintptr_t>&qdepthwise, pack_qdepthwise)}
CONSTANTS = {"QVB": VB, "QTAPS": MAX_TAPS}
