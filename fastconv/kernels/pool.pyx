"""Pooling of channels-last tensors, channels along the vector lanes: 1-D, 2-D, 3-D and global.

Windows are clamped to the input, so padding cells are never read: they do not win a maximum and add
nothing to a sum. A window without any cell gives −inf (maximum) or 0. NaN wins every maximum.

Where windows overlap, each input column is reduced once, and the outputs then reduce columns: for
three columns in registers that slide along the row, for others in a strip of outputs. Each output element is computed in one fixed order, whatever its block is: a window
row by row with one sum per row, or column by column; a global pool in chunks of ``CHUNK`` pixels of
four interleaved sums each.
"""

from libc.math cimport INFINITY, pow
from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *


cdef extern from *:
    """
    /* The larger of a and v, NaN if either is. On x86 v_max gives v when either is NaN. */
    V_INLINE vf v_max_nan(vf a, vf v) {
    #if VW == 16
        __mmask16 ordered = _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_ORD_Q);
        return (vf)_mm512_mask_max_ps((__m512)a, ordered, (__m512)a, (__m512)v);
    #elif VW == 8
        __m256 unordered = _mm256_cmp_ps((__m256)a, (__m256)a, _CMP_UNORD_Q);
        return (vf)_mm256_blendv_ps((__m256)v_max(a, v), (__m256)a, unordered);
    #else
        return v_select(v_ne(a, a), a, v_max(a, v));
    #endif
    }
    """
    vf v_max_nan(vf a, vf v) noexcept nogil


cdef enum Kind:
    POOL_MAX = 0
    POOL_AVERAGE = 1
    POOL_LP1 = 2
    POOL_LP2 = 3
    POOL_LP = 4


cdef enum:
    CHUNK = 128
    COLUMNS = 18        # most input columns of a strip
    LINE = 256          # floats from one of its columns to the next


cdef struct PoolParams:
    # Input [n][d][h][w][pixel]: sizes, and strides in floats.
    int64_t n, d, h, w
    int64_t x_n, x_d, x_h, x_w
    # Output [n][od][oh][ow][pixel]: sizes, and strides in floats.
    int64_t od, oh, ow
    int64_t y_n, y_d, y_h, y_w
    # Window; input coordinate = output coordinate * stride + tap * dilation - pad.
    int64_t kd, kh, kw
    int64_t stride_d, stride_h, stride_w
    int64_t dilation_d, dilation_h, dilation_w
    int64_t pad_d, pad_h, pad_w
    # End pads: an average that counts padding counts taps up to here.
    int64_t end_d, end_h, end_w
    int64_t channels
    # Work is cut into rows of output × blocks of channels (whole vectors, but for the last).
    int64_t block
    int64_t kind
    int32_t p, count_include_pad
    # Indices number spatial cells with these steps (d, h, w).
    int64_t step_d, step_h, step_w


cdef struct Span:
    # Taps first .. last-1 of one axis lie inside the input, and the first of them at ``at``.
    int64_t first, last, at
    int64_t count           # taps that an average divides by


cdef inline Span span(
    int64_t o, int64_t size, int64_t k, int64_t stride, int64_t dilation, int64_t pad, int64_t end,
    bint padding,
) noexcept nogil:
    cdef Span s
    cdef int64_t at = o * stride - pad
    if at >= 0 and at + (k - 1) * dilation < size:
        # The usual case, without a division.
        s.first = 0
        s.last = s.count = k
        s.at = at
        return s
    s.first = (-at + dilation - 1) // dilation if at < 0 else 0
    s.last = 0
    if at < size:
        s.last = min(k, (size - at + dilation - 1) // dilation)
    s.first = min(s.first, s.last)
    s.at = at + s.first * dilation
    s.count = s.last - s.first
    if padding:
        # From the begin pad (where every window starts or later) to the end pad.
        s.count = max(0, min(k, (size + end - at + dilation - 1) // dilation))
    return s


cdef inline vf power(vf v, int p) noexcept nogil:
    """``v`` to the ``p``-th power, p at least 1, by squaring."""
    cdef vf r = v_set(1)
    while p > 1:
        if p & 1:
            r = v_mul(r, v)
        v = v_mul(v, v)
        p >>= 1
    return v_mul(r, v)


cdef inline vf v_abs(vf a) noexcept nogil:
    return v_from_bits(v_iand(v_bits(a), v_iset(0x7FFFFFFF)))


cdef inline vf take(const int kind, vf acc, vf v, int p) noexcept nogil:
    """One cell into an accumulator."""
    if kind == POOL_MAX:
        return v_max_nan(acc, v)
    if kind == POOL_AVERAGE:
        return v_add(acc, v)
    if kind == POOL_LP1:
        return v_add(acc, v_abs(v))
    if kind == POOL_LP2:
        return v_fma(v, v, acc)
    return v_add(acc, power(v_abs(v), p))


cdef inline vf join(const int kind, vf a, vf b) noexcept nogil:
    """Two accumulators into one."""
    return v_max_nan(a, b) if kind == POOL_MAX else v_add(a, b)


cdef inline vf divided(vf a, float count) noexcept nogil:
    """``a / count``. Dividing 16 lanes is slow, so there a product with the reciprocal is corrected by
    its remainder (Markstein, 1990); where that is NaN, ``a`` is infinite or NaN and so is the product.
    """
    cdef vf n, r, q, rest
    if VW < 16:
        return v_div(a, v_set(count))
    n = v_set(count)
    r = v_set(1 / count)
    q = v_mul(a, r)
    rest = v_fma(v_neg(q), n, a)
    return v_select(v_eq(rest, rest), v_fma(rest, r, q), q)


cdef inline vf ended(const int kind, vf acc, float count, int p) noexcept nogil:
    """What an accumulator gives in the end."""
    cdef float t[VW]
    cdef int i
    if kind == POOL_AVERAGE:
        return divided(acc, count)
    if kind == POOL_LP2:
        return v_sqrt(acc)
    if kind == POOL_LP:
        v_store(t, acc)
        for i in range(VW):
            t[i] = <float>pow(t[i], 1.0 / p)
        return v_load(t)
    return acc


cdef inline void window(
    const int kind, const int nv, const bint tail, const PoolParams* p, const float* x,
    const Span* d, const Span* h, const Span* w, float* y, int n,
) noexcept nogil:
    """One output pixel: ``nv`` vectors of channels, or ``n`` channels (``tail``)."""
    cdef vf acc[4]
    cdef vf row[4]
    cdef vf v, start = v_set(-INFINITY) if kind == POOL_MAX else v_zero()
    cdef int64_t a, b, c, xw = p.dilation_w * p.x_w
    cdef const float* xd = x + d.at * p.x_d + h.at * p.x_h + w.at * p.x_w
    cdef const float* xh
    cdef const float* xc
    cdef float count = <float>(d.count * h.count * w.count)
    cdef int i
    for i in range(nv):
        acc[i] = start
    for a in range(d.first, d.last):
        xh = xd
        for b in range(h.first, h.last):
            xc = xh
            if kind != POOL_MAX:
                for i in range(nv):
                    row[i] = start
            for c in range(w.first, w.last):
                for i in range(nv):
                    v = v_load_n(xc, n) if tail else v_load(xc + i * VW)
                    if kind == POOL_MAX:
                        acc[i] = take(kind, acc[i], v, 0)
                    else:
                        row[i] = take(kind, row[i], v, p.p)
                xc += xw
            if kind != POOL_MAX:
                for i in range(nv):
                    acc[i] = v_add(acc[i], row[i])
            xh += p.dilation_h * p.x_h
        xd += p.dilation_d * p.x_d
    for i in range(nv):
        acc[i] = ended(kind, acc[i], count if count > 0 else 1, p.p)
        if tail:
            v_store_n(y, acc[i], n)
        else:
            v_store(y + i * VW, acc[i])


cdef inline void column(
    const int kind, const int nv, const bint tail, const PoolParams* p, const float* x,
    const Span* d, const Span* h, float* out, int n,
) noexcept nogil:
    """One input column over the window's rows: ``nv`` vectors of channels, or ``n`` channels."""
    cdef vf acc[4]
    cdef vf v, start = v_set(-INFINITY) if kind == POOL_MAX else v_zero()
    cdef int64_t a, b
    cdef const float* xh
    cdef int i
    for i in range(nv):
        acc[i] = start
    for a in range(d.first, d.last):
        xh = x
        for b in range(h.first, h.last):
            for i in range(nv):
                v = v_load_n(xh, n) if tail else v_load(xh + i * VW)
                acc[i] = take(kind, acc[i], v, p.p)
            xh += p.dilation_h * p.x_h
        x += p.dilation_d * p.x_d
    for i in range(nv):
        v_store(out + i * VW, acc[i])


cdef inline void gather(
    const int kind, const int nv, const bint tail, const PoolParams* p, const float* columns,
    int64_t taps, float count, float* y, int n,
) noexcept nogil:
    """One output from its ``taps`` columns: ``nv`` vectors of channels, or ``n`` channels."""
    cdef vf acc[4]
    cdef vf start = v_set(-INFINITY) if kind == POOL_MAX else v_zero()
    cdef int64_t a
    cdef int i
    for i in range(nv):
        acc[i] = start
    for a in range(taps):
        for i in range(nv):
            acc[i] = join(kind, acc[i], v_load(columns + i * VW))
        columns += LINE
    for i in range(nv):
        acc[i] = ended(kind, acc[i], count, p.p)
        if tail:
            v_store_n(y, acc[i], n)
        else:
            v_store(y + i * VW, acc[i])


cdef inline void strip(
    const int kind, const PoolParams* p, const float* x, const Span* d, const Span* h,
    int64_t ow, int64_t ow_end, float* y, int64_t channels,
) noexcept nogil:
    """Outputs ``ow .. ow_end-1`` of a row, at most ``LINE - VW`` channels.

    For windows without dilation along the row, ``COLUMNS`` columns in all at most.
    """
    cdef float columns[COLUMNS * LINE]
    cdef int64_t first = max(0, ow * p.stride_w - p.pad_w)
    cdef int64_t last = min(p.w, (ow_end - 1) * p.stride_w - p.pad_w + p.kw)
    cdef int64_t j, c
    cdef const float* xj = x + d.at * p.x_d + h.at * p.x_h + first * p.x_w
    cdef const float* from_column
    cdef float* out = columns
    cdef float count
    cdef Span w
    for j in range(first, last):
        c = 0
        while c + 4 * VW <= channels:
            column(kind, 4, False, p, xj + c, d, h, out + c, VW)
            c += 4 * VW
        while c + VW <= channels:
            column(kind, 1, False, p, xj + c, d, h, out + c, VW)
            c += VW
        if c < channels:
            column(kind, 1, True, p, xj + c, d, h, out + c, <int>(channels - c))
        xj += p.x_w
        out += LINE
    while ow < ow_end:
        w = span(ow, p.w, p.kw, p.stride_w, 1, p.pad_w, p.end_w, p.count_include_pad)
        count = <float>max(1, d.count * h.count * w.count)
        from_column = columns + (w.at - first) * LINE
        j = w.last - w.first
        c = 0
        while c + 4 * VW <= channels:
            gather(kind, 4, False, p, from_column + c, j, count, y + c, VW)
            c += 4 * VW
        while c + VW <= channels:
            gather(kind, 1, False, p, from_column + c, j, count, y + c, VW)
            c += VW
        if c < channels:
            gather(kind, 1, True, p, from_column + c, j, count, y + c, <int>(channels - c))
        y += p.y_w
        ow += 1


cdef inline void slide_column(
    const int kind, const int nv, const bint tail, const PoolParams* p, const float* x,
    const Span* d, const Span* h, vf* out, int n,
) noexcept nogil:
    """One input column over the window's rows into registers."""
    cdef vf v
    cdef int64_t a, b, step = p.dilation_h * p.x_h
    cdef const float* xh
    cdef int i
    if h.last - h.first == 3 and d.last - d.first == 1:
        for i in range(nv):
            v = v_load_n(x, n) if tail else v_load(x + i * VW)
            v = join(kind, v, v_load_n(x + step, n) if tail else v_load(x + step + i * VW))
            out[i] = join(
                kind, v, v_load_n(x + 2 * step, n) if tail else v_load(x + 2 * step + i * VW))
        return
    for i in range(nv):
        out[i] = v_set(-INFINITY) if kind == POOL_MAX else v_zero()
    for a in range(d.first, d.last):
        xh = x
        for b in range(h.first, h.last):
            for i in range(nv):
                out[i] = join(kind, out[i], v_load_n(xh, n) if tail else v_load(xh + i * VW))
            xh += step
        x += p.dilation_d * p.x_d


cdef inline void slide(
    const int kind, const int stride, const int nv, const bint tail, const PoolParams* p,
    const float* x, const Span* d, const Span* h, float* y, int n,
) noexcept nogil:
    """A row of outputs from windows of 3 adjacent columns, ``stride`` (1 or 2) apart.

    Maximum or average of ``nv`` vectors of channels, or of ``n`` channels (``tail``).
    """
    cdef vf c0[4]
    cdef vf c1[4]
    cdef vf c2[4]
    cdef vf v, start = v_set(-INFINITY) if kind == POOL_MAX else v_zero()
    cdef int64_t iw = -p.pad_w, ow, xw = p.x_w, pw = p.w
    cdef float area = <float>max(1, d.count * h.count), full = 3 * area, count
    cdef int i
    cdef Span w
    for i in range(nv):
        c0[i] = c1[i] = start
    x += d.at * p.x_d + h.at * p.x_h
    if 0 <= iw < pw:
        slide_column(kind, nv, tail, p, x + iw * xw, d, h, c0, n)
    if stride == 1 and 0 <= iw + 1 < pw:
        slide_column(kind, nv, tail, p, x + (iw + 1) * xw, d, h, c1, n)
    for ow in range(p.ow):
        # Columns iw .. iw + 2, of which the first (or two) are there already.
        if stride == 2:
            if 0 <= iw + 1 < pw:
                slide_column(kind, nv, tail, p, x + (iw + 1) * xw, d, h, c1, n)
            else:
                for i in range(nv):
                    c1[i] = start
        if 0 <= iw + 2 < pw:
            slide_column(kind, nv, tail, p, x + (iw + 2) * xw, d, h, c2, n)
        else:
            for i in range(nv):
                c2[i] = start
        count = full
        if kind == POOL_AVERAGE and not 0 <= iw < pw - 2:
            w = span(ow, pw, 3, stride, 1, p.pad_w, p.end_w, p.count_include_pad)
            count = area * max(1, w.count)
        for i in range(nv):
            v = ended(kind, join(kind, join(kind, c0[i], c1[i]), c2[i]), count, 0)
            if tail:
                v_store_n(y, v, n)
            else:
                v_store(y + i * VW, v)
            c0[i] = c1[i] if stride == 1 else c2[i]
            c1[i] = c2[i]
        iw += stride
        y += p.y_w


cdef inline void slide_row(
    const int kind, const int stride, const PoolParams* p, const float* x, const Span* d,
    const Span* h, float* y, int64_t c, int64_t c_end,
) noexcept nogil:
    """Channels ``c .. c_end - 1`` of a row of outputs."""
    if c_end - c < VW:
        slide(kind, stride, 1, True, p, x + c, d, h, y + c, <int>(c_end - c))
        return
    while c + 4 * VW <= c_end:
        slide(kind, stride, 4, False, p, x + c, d, h, y + c, VW)
        c += 4 * VW
    while c < c_end:
        # The last vector overlaps the one before.
        c = min(c, c_end - VW)
        slide(kind, stride, 1, False, p, x + c, d, h, y + c, VW)
        c += VW


cdef inline void pool_kind(
    const int kind, const PoolParams* p, const float* x, float* y, int thread, int threads
) noexcept nogil:
    cdef int64_t rows = p.n * p.od * p.oh
    cdef int64_t blocks = max(1, p.channels // p.block)
    cdef int64_t units = rows * blocks
    cdef int64_t u = share(units, thread, threads), end = share(units, thread + 1, threads)
    cdef int64_t b, oh, od, n, ow, ow_end, c, c_begin, c_end, channels, step = 0
    cdef bint sliding = kind <= POOL_AVERAGE and p.kw == 3 and p.dilation_w == 1
    cdef Span d, h, w
    cdef const float* xn
    cdef float* yr
    if p.dilation_w == 1 and p.kd * p.kh * (p.kw - p.stride_w) > p.kw and p.kw <= COLUMNS:
        # Sharing columns saves work.
        step = (COLUMNS - p.kw) // p.stride_w + 1
    while u < end:
        b = u % blocks
        oh = u // blocks % p.oh
        od = u // (blocks * p.oh) % p.od
        n = u // (blocks * p.oh * p.od)
        u += 1
        c_begin = b * p.block
        c_end = p.channels if b == blocks - 1 else c_begin + p.block
        d = span(od, p.d, p.kd, p.stride_d, p.dilation_d, p.pad_d, p.end_d, p.count_include_pad)
        h = span(oh, p.h, p.kh, p.stride_h, p.dilation_h, p.pad_h, p.end_h, p.count_include_pad)
        xn = x + n * p.x_n
        yr = y + n * p.y_n + od * p.y_d + oh * p.y_h
        if sliding and p.stride_w == 1:
            slide_row(kind, 1, p, xn, &d, &h, yr, c_begin, c_end)
            continue
        if sliding and p.stride_w == 2:
            slide_row(kind, 2, p, xn, &d, &h, yr, c_begin, c_end)
            continue
        ow = 0
        while ow < p.ow:
            if step > 0:
                # Strips are evened out; blocks of channels are whole vectors, but for the last.
                ow_end = ow + (p.ow - ow) // ((p.ow - ow + step - 1) // step)
                c = c_begin
                while c < c_end:
                    channels = c_end - c if c_end - c <= LINE - VW else LINE // 2
                    strip(kind, p, xn + c, &d, &h, ow, ow_end, yr + c, channels)
                    c += channels
                yr += (ow_end - ow) * p.y_w
                ow = ow_end
                continue
            w = span(ow, p.w, p.kw, p.stride_w, p.dilation_w, p.pad_w, p.end_w, p.count_include_pad)
            c = c_begin
            while c + 4 * VW <= c_end:
                window(kind, 4, False, p, xn + c, &d, &h, &w, yr + c, VW)
                c += 4 * VW
            while c + VW <= c_end:
                window(kind, 1, False, p, xn + c, &d, &h, &w, yr + c, VW)
                c += VW
            if c < c_end:
                window(kind, 1, True, p, xn + c, &d, &h, &w, yr + c, <int>(c_end - c))
            yr += p.y_w
            ow += 1


cdef void pool(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y."""
    cdef const PoolParams* p = <const PoolParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    if p.kind == POOL_MAX: pool_kind(POOL_MAX, p, x, y, thread, threads)
    elif p.kind == POOL_AVERAGE: pool_kind(POOL_AVERAGE, p, x, y, thread, threads)
    elif p.kind == POOL_LP1: pool_kind(POOL_LP1, p, x, y, thread, threads)
    elif p.kind == POOL_LP2: pool_kind(POOL_LP2, p, x, y, thread, threads)
    else: pool_kind(POOL_LP, p, x, y, thread, threads)


cdef void max_pool_indices(const Call* c, int thread, int threads) noexcept nogil:
    """Maxima and where they are: the first cell in window order that is largest, or the first NaN.

    Indices are int64, in the layout of the output with its strides; a cell's number is that of its
    plane, ``(n * channels + channel)`` times the plane's size, plus its place by ``step_d, step_h,
    step_w``. An empty window has index -1. Buffers: x, y, indices.
    """
    cdef const PoolParams* p = <const PoolParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    cdef int64_t* z = <int64_t*>c.buf[2]
    cdef int64_t rows = p.n * p.od * p.oh
    cdef int64_t u = share(rows, thread, threads), end = share(rows, thread + 1, threads)
    cdef int64_t oh, od, n, ow, k, a, b, t, at, best_at, cell, o
    cdef int64_t plane = p.d * p.h * p.w
    cdef Span d, h, w
    cdef const float* px
    cdef float v, best
    while u < end:
        oh = u % p.oh
        od = u // p.oh % p.od
        n = u // (p.oh * p.od)
        u += 1
        d = span(od, p.d, p.kd, p.stride_d, p.dilation_d, p.pad_d, 0, False)
        h = span(oh, p.h, p.kh, p.stride_h, p.dilation_h, p.pad_h, 0, False)
        for ow in range(p.ow):
            w = span(ow, p.w, p.kw, p.stride_w, p.dilation_w, p.pad_w, 0, False)
            o = n * p.y_n + od * p.y_d + oh * p.y_h + ow * p.y_w
            px = x + n * p.x_n + d.at * p.x_d + h.at * p.x_h + w.at * p.x_w
            cell = d.at * p.step_d + h.at * p.step_h + w.at * p.step_w
            for k in range(p.channels):
                best = -INFINITY
                best_at = -1
                for a in range(d.count):
                    for b in range(h.count):
                        for t in range(w.count):
                            v = px[a * p.dilation_d * p.x_d + b * p.dilation_h * p.x_h
                                   + t * p.dilation_w * p.x_w + k]
                            if v > best or best_at < 0 or (v != v and best == best):
                                best = v
                                best_at = (cell + a * p.dilation_d * p.step_d
                                           + b * p.dilation_h * p.step_h
                                           + t * p.dilation_w * p.step_w)
                y[o + k] = best
                z[o + k] = best_at if best_at < 0 else (n * p.channels + k) * plane + best_at


cdef struct GlobalParams:
    # Input [n][pixels][pixel] with strides in floats; output [n][channels].
    int64_t n, pixels, channels
    int64_t x_n, x_p
    int32_t kind, p


cdef inline void whole(
    const int kind, const int nv, const bint tail, const GlobalParams* p, const float* x, float* y,
    int n,
) noexcept nogil:
    """All pixels of ``nv`` vectors of channels, or of ``n`` channels (``tail``)."""
    cdef vf acc[8]
    cdef vf total[2]
    cdef vf v, start = v_set(-INFINITY) if kind == POOL_MAX else v_zero()
    cdef int64_t i = 0, end, xp = p.x_p
    cdef int j, k
    for j in range(nv):
        total[j] = start
    while i < p.pixels:
        end = min(i + CHUNK, p.pixels)
        for j in range(4 * nv):
            acc[j] = start
        while i + 4 <= end:
            for k in range(4):
                for j in range(nv):
                    v = v_load_n(x, n) if tail else v_load(x + j * VW)
                    acc[4 * j + k] = take(kind, acc[4 * j + k], v, p.p)
                x += xp
            i += 4
        while i < end:
            for j in range(nv):
                v = v_load_n(x, n) if tail else v_load(x + j * VW)
                acc[4 * j] = take(kind, acc[4 * j], v, p.p)
            x += xp
            i += 1
        for j in range(nv):
            acc[4 * j] = join(kind, acc[4 * j], acc[4 * j + 1])
            acc[4 * j + 2] = join(kind, acc[4 * j + 2], acc[4 * j + 3])
            total[j] = join(kind, total[j], join(kind, acc[4 * j], acc[4 * j + 2]))
    for j in range(nv):
        total[j] = ended(kind, total[j], <float>p.pixels, p.p)
        if tail:
            v_store_n(y, total[j], n)
        else:
            v_store(y + j * VW, total[j])


cdef inline void global_kind(
    const int kind, const GlobalParams* p, const float* x, float* y, int thread, int threads
) noexcept nogil:
    cdef int64_t blocks = (p.channels + 2 * VW - 1) // (2 * VW)
    cdef int64_t units = p.n * blocks
    cdef int64_t u = share(units, thread, threads), end = share(units, thread + 1, threads)
    cdef int64_t c, n, left
    cdef const float* xc
    cdef float* yc
    while u < end:
        n = u // blocks
        c = u % blocks * 2 * VW
        u += 1
        left = p.channels - c
        xc = x + n * p.x_n + c
        yc = y + n * p.channels + c
        if left >= 2 * VW:
            whole(kind, 2, False, p, xc, yc, VW)
            continue
        if left >= VW:
            whole(kind, 1, False, p, xc, yc, VW)
            left -= VW
            xc += VW
            yc += VW
        if left > 0:
            whole(kind, 1, True, p, xc, yc, <int>left)


cdef void global_pool(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, y."""
    cdef const GlobalParams* p = <const GlobalParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    if p.kind == POOL_MAX: global_kind(POOL_MAX, p, x, y, thread, threads)
    elif p.kind == POOL_AVERAGE: global_kind(POOL_AVERAGE, p, x, y, thread, threads)
    elif p.kind == POOL_LP1: global_kind(POOL_LP1, p, x, y, thread, threads)
    elif p.kind == POOL_LP2: global_kind(POOL_LP2, p, x, y, thread, threads)
    else: global_kind(POOL_LP, p, x, y, thread, threads)


def pack_pool(**values):
    """The bytes of ``PoolParams``, from one keyword per field."""
    cdef PoolParams p = values
    return (<char*>&p)[:sizeof(PoolParams)]


def pack_global(**values):
    """The bytes of ``GlobalParams``, from one keyword per field."""
    cdef GlobalParams p = values
    return (<char*>&p)[:sizeof(GlobalParams)]


KERNELS = {
    "pool": (<uintptr_t>&pool, pack_pool),
    "max_pool_indices": (<uintptr_t>&max_pool_indices, pack_pool),
    "global_pool": (<uintptr_t>&global_pool, pack_global),
}
