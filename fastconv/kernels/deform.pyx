"""What a deformable convolution reads: its input, sampled where the offsets say."""

from libc.math cimport floor
from libc.stdint cimport int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.lanes cimport load, store
from fastconv.kernels.simd cimport *


cdef struct DeformParams:
    int64_t h, w, channels, pixel       # x is [images][h][w][channels], pixels ``pixel`` apart
    int64_t image, first, rows, oh, ow  # the output's pixels: of an image, rows from ``first`` on
    int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w
    int64_t group, offset_group
    int64_t offset_pixel, mask_pixel    # elements from pixel to pixel


cdef inline void sample(
    const float* a, const float* b, const float* c, const float* d, float fy, float fx,
    float scale, float* y, int64_t n,
) noexcept nogil:
    """y = ``scale`` times what lies between four pixels of ``n`` channels: a b over c d."""
    cdef vf right = v_set(fx), left = v_set(1 - fx), low = v_set(fy), high = v_set(1 - fy)
    cdef vf by = v_set(scale), upper, lower
    cdef int64_t i = 0
    cdef int k
    while i < n:
        k = <int>min(n - i, VW)
        upper = v_fma(right, load(b + i, k), v_mul(left, load(a + i, k)))
        lower = v_fma(right, load(d + i, k), v_mul(left, load(c + i, k)))
        store(y + i, v_mul(by, v_fma(low, lower, v_mul(high, upper))), k)
        i += VW


cdef inline const float* corner(
    const DeformParams* p, const float* x, int64_t row, int64_t col, int64_t c, const float* zeros
) noexcept nogil:
    """Channel ``c`` of a pixel; zeros outside."""
    if 0 <= row < p.h and 0 <= col < p.w:
        return x + (row * p.w + col) * p.pixel + c
    return zeros


cdef void deform(const Call* c, int thread, int threads) noexcept nogil:
    """One row of samples per output pixel.

    Buffers: x; offsets [images][oh][ow][offset_group][kh][kw][2]; the mask [images][oh][ow]
    [offset_group][kh][kw] or NULL; zeros, as many as channels; and the samples
    [rows][ow][group][kh · kw][channels / group].
    """
    cdef const DeformParams* p = <const DeformParams*>c.params
    cdef const float* x = (<const float*>c.buf[0]) + p.image * p.h * p.w * p.pixel
    cdef const float* offset
    cdef const float* mask = NULL
    cdef const float* zeros = <const float*>c.buf[3]
    cdef float* y
    cdef int64_t taps = p.kh * p.kw, per = p.channels // p.group
    cdef int64_t own = p.channels // p.offset_group
    cdef int64_t u, k, t, row, col, begin, end, part, g
    cdef double at_y, at_x, oy, ox
    cdef float fy, fx, scale
    cdef int64_t total = p.rows * p.ow, before = (p.image * p.oh + p.first) * p.ow
    for u in range(share(total, thread, threads), share(total, thread + 1, threads)):
        offset = (<const float*>c.buf[1]) + (before + u) * p.offset_pixel
        if c.buf[2] != NULL:
            mask = (<const float*>c.buf[2]) + (before + u) * p.mask_pixel
        y = (<float*>c.buf[4]) + u * p.channels * taps
        oy = (p.first + u // p.ow) * p.stride_h - p.pad_h
        ox = (u % p.ow) * p.stride_w - p.pad_w
        for k in range(p.offset_group):
            for t in range(taps):
                at_y = oy + t // p.kw * p.dilation_h + offset[2 * (k * taps + t)]
                at_x = ox + t % p.kw * p.dilation_w + offset[2 * (k * taps + t) + 1]
                # Far outside, or not a number: a pixel in the zeros around the image.
                row = col = -2
                fy = fx = 0
                if -1 < at_y < p.h and -1 < at_x < p.w:
                    row = <int64_t>floor(at_y)
                    col = <int64_t>floor(at_x)
                    fy = <float>(at_y - row)
                    fx = <float>(at_x - col)
                scale = 1 if mask == NULL else mask[k * taps + t]
                begin = k * own
                while begin < (k + 1) * own:
                    g = begin // per
                    end = min((k + 1) * own, (g + 1) * per)
                    part = end - begin
                    sample(
                        corner(p, x, row, col, begin, zeros),
                        corner(p, x, row, col + 1, begin, zeros),
                        corner(p, x, row + 1, col, begin, zeros),
                        corner(p, x, row + 1, col + 1, begin, zeros),
                        fy, fx, scale, y + (g * taps + t) * per + begin - g * per, part,
                    )
                    begin = end


def pack_deform(**values):
    """The bytes of ``DeformParams``."""
    cdef DeformParams p = values
    return (<char*>&p)[:sizeof(DeformParams)]


KERNELS = {"deform": (<uintptr_t>&deform, pack_deform)}
