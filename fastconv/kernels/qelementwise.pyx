"""8-bit integers outside convolutions: to and from floats, sums, products, tables and pools.

Rounding is half to even and results saturate. Source of the maths: ONNX operators QuantizeLinear-25
and DequantizeLinear-25, and the com.microsoft operators QLinearAdd, QLinearMul,
QLinearAveragePool and QLinearGlobalAveragePool.
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.int8 cimport *
from fastconv.kernels.simd cimport *

cdef enum:
    RUN = 256               # pixels that are quantised before they are interleaved
    FEW = 4                 # the most channels that are

    SUM = 0
    PRODUCT = 1
    SUM_A = 2

    MEAN = 1                # of a pool: the sum of integers, then one factor
    MEAN_OF_FLOATS = 2

ctypedef fused byte_t:
    uint8_t
    int8_t

ctypedef fused stored_t:
    uint8_t
    int8_t
    int32_t


cdef struct ScaleParams:
    # The tensor as [outer][axis][inner]; element (o, a, i) has the scale number
    # o * s_outer + a // block * s_axis + i * s_step.
    int64_t outer, axis, inner, block, s_outer, s_axis, s_step


cdef inline void quantize_row(
    byte_t* y, const float* x, int64_t n, const float* s, const byte_t* z, int64_t step, float lo,
    float hi,
) noexcept nogil:
    """y = saturate(round(x / scale) + zero); a NaN becomes the least value."""
    cdef int64_t i = 0
    cdef int zero = z[0] if z != NULL else 0
    cdef vf low = v_set(lo - zero), high = v_set(hi - zero), a, scale = v_set(s[0])
    cdef vi q, shift = v_iset(zero)
    cdef float t[VW]
    cdef int32_t out[VW]
    cdef int k, m
    if step == 0:
        while i < n:
            m = <int>min(<int64_t>VW, n - i)
            a = v_load(x + i) if m == VW else v_load_n(x + i, m)
            # Bounds second: on x86 a NaN then gives the bound.
            q = v_iadd(vi_round(v_min(v_max(v_div(a, scale), low), high)), shift)
            if byte_t is int8_t:
                q = v_iand(q, v_iset(255))
            vi_store_bytes(<uint8_t*>y + i, q, m)
            i += VW
        return
    while i < n:
        m = <int>min(<int64_t>VW, n - i)
        for k in range(m):
            zero = z[(i + k) * step] if z != NULL else 0
            t[k] = x[i + k] / s[(i + k) * step]
            t[k] = t[k] if t[k] > lo - zero else lo - zero
            t[k] = t[k] if t[k] < hi - zero else hi - zero
            out[k] = zero
        for k in range(m, VW):
            t[k] = 0
            out[k] = 0
        q = v_iand(v_iadd(vi_round(v_load(t)), vi_load(out)), v_iset(255))
        vi_store_bytes(<uint8_t*>y + i, q, m)
        i += VW


cdef inline void dequantize_row(
    float* y, const stored_t* x, int64_t n, const float* s, const stored_t* z, int64_t step,
) noexcept nogil:
    """y = (x - zero) * scale."""
    cdef int64_t i
    cdef float scale = s[0]
    cdef int32_t zero = z[0] if z != NULL else 0
    if step == 0:
        for i in range(n):
            y[i] = <float>(<int32_t>x[i] - zero) * scale
    elif z == NULL:
        for i in range(n):
            y[i] = <float>x[i] * s[i]
    else:
        for i in range(n):
            y[i] = <float>(<int32_t>x[i] - <int32_t>z[i]) * s[i]


cdef inline void quantize(
    const ScaleParams* p, byte_t* y, const float* x, const float* s, const byte_t* z, float lo,
    float hi, int64_t first, int64_t end,
) noexcept nogil:
    """Elements first .. end of the flattened tensor."""
    cdef int64_t row, i, n, at
    while first < end:
        row = first // p.inner
        i = first % p.inner
        n = min(p.inner - i, end - first)
        at = row // p.axis * p.s_outer + row % p.axis // p.block * p.s_axis + i * p.s_step
        quantize_row(y + first, x + first, n, s + at, z + at if z != NULL else z, p.s_step, lo, hi)
        first += n


cdef inline void dequantize(
    const ScaleParams* p, float* y, const stored_t* x, const float* s, const stored_t* z,
    int64_t first, int64_t end,
) noexcept nogil:
    cdef int64_t row, i, n, at
    while first < end:
        row = first // p.inner
        i = first % p.inner
        n = min(p.inner - i, end - first)
        at = row // p.axis * p.s_outer + row % p.axis // p.block * p.s_axis + i * p.s_step
        dequantize_row(y + first, x + first, n, s + at, z + at if z != NULL else z, p.s_step)
        first += n


cdef void quantize_u8(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x (float), scales, zero points or NULL, y."""
    cdef const ScaleParams* p = <const ScaleParams*>c.params
    cdef int64_t n = p.outer * p.axis * p.inner
    quantize[uint8_t](p, <uint8_t*>c.buf[3], <const float*>c.buf[0], <const float*>c.buf[1],
                      <const uint8_t*>c.buf[2], 0, 255, share(n, thread, threads),
                      share(n, thread + 1, threads))


cdef void quantize_s8(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x (float), scales, zero points or NULL, y."""
    cdef const ScaleParams* p = <const ScaleParams*>c.params
    cdef int64_t n = p.outer * p.axis * p.inner
    quantize[int8_t](p, <int8_t*>c.buf[3], <const float*>c.buf[0], <const float*>c.buf[1],
                     <const int8_t*>c.buf[2], -128, 127, share(n, thread, threads),
                     share(n, thread + 1, threads))


cdef void dequantize_u8(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, scales, zero points or NULL, y (float)."""
    cdef const ScaleParams* p = <const ScaleParams*>c.params
    cdef int64_t n = p.outer * p.axis * p.inner
    dequantize[uint8_t](p, <float*>c.buf[3], <const uint8_t*>c.buf[0], <const float*>c.buf[1],
                        <const uint8_t*>c.buf[2], share(n, thread, threads),
                        share(n, thread + 1, threads))


cdef void dequantize_s8(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, scales, zero points or NULL, y (float)."""
    cdef const ScaleParams* p = <const ScaleParams*>c.params
    cdef int64_t n = p.outer * p.axis * p.inner
    dequantize[int8_t](p, <float*>c.buf[3], <const int8_t*>c.buf[0], <const float*>c.buf[1],
                       <const int8_t*>c.buf[2], share(n, thread, threads),
                       share(n, thread + 1, threads))


cdef void dequantize_s32(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, scales, zero points or NULL, y (float)."""
    cdef const ScaleParams* p = <const ScaleParams*>c.params
    cdef int64_t n = p.outer * p.axis * p.inner
    dequantize[int32_t](p, <float*>c.buf[3], <const int32_t*>c.buf[0], <const float*>c.buf[1],
                        <const int32_t*>c.buf[2], share(n, thread, threads),
                        share(n, thread + 1, threads))


cdef struct ImageParams:
    int64_t n, channels, pixels         # at most FEW channels


cdef inline void image(
    const ImageParams* p, const float* x, const float* s, const byte_t* z, byte_t* y, float lo,
    float hi, int64_t run, int64_t end,
) noexcept nogil:
    """[n][channel][pixel] floats → [n][pixel][channel] bytes, runs of pixels ``run`` .. ``end``."""
    cdef byte_t plane[FEW * RUN]
    cdef int64_t runs = (p.pixels + RUN - 1) // RUN, first, i, k, count
    cdef byte_t* to
    while run < end:
        first = run % runs * RUN
        count = min(<int64_t>RUN, p.pixels - first)
        for k in range(p.channels):
            quantize_row(plane + k * RUN, x + (run // runs * p.channels + k) * p.pixels + first,
                         count, s, z, 0, lo, hi)
        to = y + (run // runs * p.pixels + first) * p.channels
        if p.channels == 3:
            for i in range(count):
                to[3 * i] = plane[i]
                to[3 * i + 1] = plane[RUN + i]
                to[3 * i + 2] = plane[2 * RUN + i]
        else:
            for i in range(count):
                for k in range(p.channels):
                    to[i * p.channels + k] = plane[k * RUN + i]
        run += 1


cdef void quantize_image_u8(const Call* c, int thread, int threads) noexcept nogil:
    """Quantises an image of few channels and makes it channels-last. Buffers: x (float), scale,
    zero point or NULL, y."""
    cdef const ImageParams* p = <const ImageParams*>c.params
    cdef int64_t runs = p.n * ((p.pixels + RUN - 1) // RUN)
    image[uint8_t](p, <const float*>c.buf[0], <const float*>c.buf[1], <const uint8_t*>c.buf[2],
                   <uint8_t*>c.buf[3], 0, 255, share(runs, thread, threads),
                   share(runs, thread + 1, threads))


cdef void quantize_image_s8(const Call* c, int thread, int threads) noexcept nogil:
    """As ``quantize_image_u8``, to signed bytes."""
    cdef const ImageParams* p = <const ImageParams*>c.params
    cdef int64_t runs = p.n * ((p.pixels + RUN - 1) // RUN)
    image[int8_t](p, <const float*>c.buf[0], <const float*>c.buf[1], <const int8_t*>c.buf[2],
                  <int8_t*>c.buf[3], -128, 127, share(runs, thread, threads),
                  share(runs, thread + 1, threads))


def pack_image(**values):
    """The bytes of ``ImageParams``."""
    cdef ImageParams p = values
    return (<char*>&p)[:sizeof(ImageParams)]


def pack_scale(**values):
    """The bytes of ``ScaleParams``."""
    cdef ScaleParams p = values
    return (<char*>&p)[:sizeof(ScaleParams)]


cdef struct RangeParams:
    int64_t n


cdef void dynamic_range(const Call* c, int thread, int threads) noexcept nogil:
    """The scale and zero point of DynamicQuantizeLinear, on one thread. Buffers: x, zero point (one
    byte), scale."""
    cdef const float* x = <const float*>c.buf[0]
    cdef int64_t n = (<const RangeParams*>c.params).n, i = 0
    cdef vf low = v_zero(), high = v_zero(), a
    cdef float lo[VW]
    cdef float hi[VW]
    cdef float least = 0, most = 0, scale
    cdef float t[VW]
    cdef int k
    if thread != 0:
        return
    while i < n:
        # A NaN in x leaves the bound on x86: it comes second.
        a = v_load(x + i) if i + VW <= n else v_load_n(x + i, <int>(n - i))
        low = v_min(a, low)
        high = v_max(a, high)
        i += VW
    v_store(lo, low)
    v_store(hi, high)
    for k in range(VW):
        least = min(least, lo[k])
        most = max(most, hi[k])
    scale = (most - least) / <float>255
    if not scale > 0:
        scale = 1
    for k in range(VW):
        t[k] = min(max(-least / scale, <float>0), <float>255)
    (<float*>c.buf[2])[0] = scale
    vi_store_bytes(<uint8_t*>c.buf[1], vi_round(v_load(t)), 1)


def pack_range(**values):
    """The bytes of ``RangeParams``."""
    cdef RangeParams p = values
    return (<char*>&p)[:sizeof(RangeParams)]


cdef struct BinaryParams:
    # y[n][p][c] of a[n][p][c] and b[n * b_n + p * b_p + c].
    int64_t n, pixels, channels, b_n, b_p, how
    int32_t a_zero, b_zero
    # What the bytes are less to be numbers: 128 where they stand for signed ones.
    int32_t shift
    # a * a_ratio + (b * b_ratio + offset) for the numbers, b's part first; with SUM_A a's first; or
    # (a - a_zero) * (b - b_zero) * a_ratio + offset. The offset holds the zero point of y; lo and
    # hi are y's bounds as a number.
    float a_ratio, b_ratio, offset, lo, hi


cdef inline void combine(
    const int how, const BinaryParams* p, const uint8_t* a, const uint8_t* b, uint8_t* y,
    int64_t count,
) noexcept nogil:
    cdef vf a_ratio = v_set(p.a_ratio), b_ratio = v_set(p.b_ratio), offset = v_set(p.offset)
    cdef vf lo = v_set(p.lo), hi = v_set(p.hi), f
    cdef vi a_zero = v_iset(p.shift), b_zero = a_zero, shift = a_zero, va, vb_
    cdef int64_t i = 0
    cdef int m
    if how == PRODUCT:
        a_zero = v_iset(p.a_zero)
        b_zero = v_iset(p.b_zero)
    while i < count:
        m = <int>min(<int64_t>VW, count - i)
        va = v_isub(vi_load_bytes(a + i, m), a_zero)
        vb_ = v_isub(vi_load_bytes(b + i, m), b_zero)
        if how == PRODUCT:
            f = v_add(vi_apart(v_mul(vi_float(vi_mul(va, vb_)), a_ratio)), offset)
        elif how == SUM_A:
            f = vi_fma(vi_float(vb_), b_ratio, vi_fma(vi_float(va), a_ratio, offset))
        else:
            f = vi_fma(vi_float(va), a_ratio, vi_fma(vi_float(vb_), b_ratio, offset))
        vi_store_bytes(y + i, v_iadd(vi_round(v_min(hi, v_max(lo, f))), shift), m)
        i += VW


cdef void qbinary(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: a, b, y."""
    cdef const BinaryParams* p = <const BinaryParams*>c.params
    cdef int64_t n = p.n * p.pixels * p.channels
    cdef int64_t first = share(n, thread, threads), end = share(n, thread + 1, threads)
    cdef int64_t pixel, i, count, at
    while first < end:
        pixel = first // p.channels
        i = first % p.channels
        count = min(p.channels - i, end - first)
        at = pixel // p.pixels * p.b_n + pixel % p.pixels * p.b_p + i
        if p.how == PRODUCT:
            combine(PRODUCT, p, (<const uint8_t*>c.buf[0]) + first, (<const uint8_t*>c.buf[1]) + at,
                    (<uint8_t*>c.buf[2]) + first, count)
        elif p.how == SUM_A:
            combine(SUM_A, p, (<const uint8_t*>c.buf[0]) + first, (<const uint8_t*>c.buf[1]) + at,
                    (<uint8_t*>c.buf[2]) + first, count)
        else:
            combine(SUM, p, (<const uint8_t*>c.buf[0]) + first, (<const uint8_t*>c.buf[1]) + at,
                    (<uint8_t*>c.buf[2]) + first, count)
        first += count


def pack_binary(**values):
    """The bytes of ``BinaryParams``."""
    cdef BinaryParams p = values
    return (<char*>&p)[:sizeof(BinaryParams)]


cdef struct TableParams:
    int64_t rows, cols, x_row, y_row    # bytes


cdef void qtable(const Call* c, int thread, int threads) noexcept nogil:
    """y = table[x], rows of bytes. Buffers: x, table (256 bytes), y."""
    cdef const TableParams* p = <const TableParams*>c.params
    cdef const uint8_t* table = <const uint8_t*>c.buf[1]
    cdef int64_t n = p.rows * p.cols
    cdef int64_t first = share(n, thread, threads), end = share(n, thread + 1, threads)
    cdef int64_t row, i, count, k
    cdef const uint8_t* x
    cdef uint8_t* y
    while first < end:
        row = first // p.cols
        i = first % p.cols
        count = min(p.cols - i, end - first)
        x = (<const uint8_t*>c.buf[0]) + row * p.x_row + i
        y = (<uint8_t*>c.buf[2]) + row * p.y_row + i
        for k in range(count):
            y[k] = table[x[k]]
        first += count


def pack_table(**values):
    """The bytes of ``TableParams``."""
    cdef TableParams p = values
    return (<char*>&p)[:sizeof(TableParams)]


cdef struct QPoolParams:
    int64_t n, d, h, w, pixel           # input, bytes from one pixel to the next
    int64_t od, oh, ow, y_pixel
    int64_t kd, kh, kw, stride_d, stride_h, stride_w
    int64_t dilation_d, dilation_h, dilation_w, pad_d, pad_h, pad_w
    int64_t channels, average
    int32_t x_zero, y_zero
    # The mean's divisor, or 0 for the number of cells inside; x_scale / y_scale; bounds less y_zero.
    int32_t divisor
    float ratio, lo, hi
    # MEAN_OF_FLOATS: ratio is x_scale; zero is added before rounding, y_zero after.
    float y_scale, zero


cdef inline void window(
    const int average, const QPoolParams* p, const uint8_t* x, int64_t id_, int64_t ih, int64_t iw,
    int n, uint8_t* y,
) noexcept nogil:
    """One output pixel of one block of ``n`` channels; the window starts at (id_, ih, iw)."""
    cdef int64_t kd, kh, kw, d, h, w, count = 0
    cdef const uint8_t* at
    cdef int32_t sums[VB]
    cdef vf totals[4]
    cdef vb best = vb_zero()
    cdef float factor
    cdef vf f
    cdef vi q
    cdef int k
    if average:
        for k in range(VB):
            sums[k] = 0
        for k in range(4):
            totals[k] = v_zero()
    for kd in range(p.kd):
        d = id_ + kd * p.dilation_d
        if d < 0 or d >= p.d:
            continue
        for kh in range(p.kh):
            h = ih + kh * p.dilation_h
            if h < 0 or h >= p.h:
                continue
            at = x + ((d * p.h + h) * p.w + iw) * p.pixel
            w = iw
            for kw in range(p.kw):
                if w >= 0 and w < p.w:
                    count += 1
                    if not average:
                        best = vb_max(best, vb_load(at) if n == VB else vb_load_n(at, n))
                    elif average == MEAN_OF_FLOATS:
                        for k in range((n + VW - 1) // VW):
                            q = vi_load_bytes(at + k * VW, min(VW, n - k * VW))
                            f = vi_float(v_isub(q, v_iset(p.x_zero)))
                            totals[k] = v_add(totals[k], vi_apart(v_mul(f, v_set(p.ratio))))
                    elif n == VB:
                        for k in range(VB):
                            sums[k] += at[k]
                    else:
                        for k in range(n):
                            sums[k] += at[k]
                w += p.dilation_w
                at += p.dilation_w * p.pixel
    if not average:
        vb_store_n(y, best, n)
        return
    factor = <float>(p.divisor if p.divisor else max(count, 1))
    if average == MEAN_OF_FLOATS:
        for k in range((n + VW - 1) // VW):
            f = v_div(v_div(totals[k], v_set(factor)), v_set(p.y_scale))
            f = v_min(v_set(p.hi), v_max(v_set(p.lo), v_add(f, v_set(p.zero))))
            vi_store_bytes(y + k * VW, v_iadd(vi_round(f), v_iset(p.y_zero)), min(VW, n - k * VW))
        return
    factor = p.ratio / factor
    k = 0
    while k < n:
        q = v_isub(vi_load(sums + k), v_iset(<int32_t>(count * p.x_zero)))
        q = vi_round(v_min(v_set(p.hi), v_max(v_set(p.lo), v_mul(vi_float(q), v_set(factor)))))
        vi_store_bytes(y + k, v_iadd(q, v_iset(p.y_zero)), <int>min(VW, n - k))
        k += VW


cdef void qpool(const Call* c, int thread, int threads) noexcept nogil:
    """Greatest or mean of windows; padding never wins, and adds nothing. Buffers: x, y."""
    cdef const QPoolParams* p = <const QPoolParams*>c.params
    cdef int64_t blocks = (p.channels + VB - 1) // VB
    cdef int64_t units = p.n * p.od * p.oh * blocks
    cdef int64_t unit = share(units, thread, threads), end = share(units, thread + 1, threads)
    cdef int64_t line, b, od, oh, ow, iw
    cdef int n
    cdef const uint8_t* x
    cdef uint8_t* y
    while unit < end:
        line = unit // blocks
        b = unit % blocks * VB
        n = <int>min(<int64_t>VB, p.channels - b)
        oh = line % p.oh * p.stride_h - p.pad_h
        od = line // p.oh % p.od * p.stride_d - p.pad_d
        x = (<const uint8_t*>c.buf[0]) + b + line // (p.oh * p.od) * p.d * p.h * p.w * p.pixel
        y = (<uint8_t*>c.buf[1]) + line * p.ow * p.y_pixel + b
        iw = -p.pad_w
        for ow in range(p.ow):
            if p.average == MEAN_OF_FLOATS:
                window(MEAN_OF_FLOATS, p, x, od, oh, iw, n, y)
            elif p.average:
                window(MEAN, p, x, od, oh, iw, n, y)
            else:
                window(0, p, x, od, oh, iw, n, y)
            iw += p.stride_w
            y += p.y_pixel
        unit += 1


def pack_qpool(**values):
    """The bytes of ``QPoolParams``."""
    cdef QPoolParams p = values
    return (<char*>&p)[:sizeof(QPoolParams)]


KERNELS = {
    "quantize_u8": (<uintptr_t>&quantize_u8, pack_scale),
    "quantize_s8": (<uintptr_t>&quantize_s8, pack_scale),
    "quantize_image_u8": (<uintptr_t>&quantize_image_u8, pack_image),
    "quantize_image_s8": (<uintptr_t>&quantize_image_s8, pack_image),
    "dequantize_u8": (<uintptr_t>&dequantize_u8, pack_scale),
    "dequantize_s8": (<uintptr_t>&dequantize_s8, pack_scale),
    "dequantize_s32": (<uintptr_t>&dequantize_s32, pack_scale),
    "dynamic_range": (<uintptr_t>&dynamic_range, pack_range),
    "qbinary": (<uintptr_t>&qbinary, pack_binary),
    "qtable": (<uintptr_t>&qtable, pack_table),
    "qpool": (<uintptr_t>&qpool, pack_qpool),
}
