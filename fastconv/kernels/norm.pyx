"""Normalisations: softmax and its kin over an axis, scale and shift, statistics, layer norm, LRN.

Sums run in one fixed order per output element: several accumulators, in blocks, so that the rounding
error grows with the square root of the block count and never with the number of threads.
"""

from libc.math cimport INFINITY, powf, sqrt
from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memset

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.lanes cimport first_lanes, load, store
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, activate, v_abs, v_exp, v_log

cdef enum:
    SOFTMAX = 0
    LOG_SOFTMAX = 1
    LP1 = 2
    LP2 = 3
    # Terms summed into one partial sum before it joins the total.
    BLOCK = 64


# Softmax, LogSoftmax and LpNormalization over one axis.

cdef struct AxisParams:
    # x is [outer][count][inner] with these strides in floats; inner elements are adjacent.
    int64_t outer, count, inner
    int64_t x_outer, x_count, y_outer, y_count
    int64_t kind


cdef inline vf term(const int kind, vf a, vf shift) noexcept nogil:
    """What an element adds to the sum of its row."""
    if kind == LP1:
        return v_abs(a)
    if kind == LP2:
        return v_mul(a, a)
    return v_exp(v_sub(a, shift))


cdef inline vf divisor(const int kind, vf total) noexcept nogil:
    """What ``finish`` needs of the row's sum."""
    if kind == SOFTMAX:
        return v_div(v_set(1.0), total)
    if kind == LOG_SOFTMAX:
        return v_log(total)
    if kind == LP2:
        total = v_sqrt(total)
    # 0 / 1 is what LpNormalization wants of a row of zeros.
    return v_select(v_eq(total, v_zero()), v_set(1.0), total)


cdef inline vf finish(const int kind, vf a, vf shift, vf d) noexcept nogil:
    """The result for an element (for softmax: for its exponential)."""
    if kind == SOFTMAX:
        return v_mul(a, d)
    if kind == LOG_SOFTMAX:
        return v_sub(v_sub(a, shift), d)
    return v_div(a, d)


cdef inline void axis_columns(
    const int kind, const float* x, int64_t sx, float* y, int64_t sy, int64_t count, int n,
) noexcept nogil:
    """``n`` adjacent columns, one per lane; their elements lie ``sx`` apart."""
    cdef vf m = v_set(-INFINITY), total = v_zero(), part, a
    cdef int64_t i, end
    if kind <= LOG_SOFTMAX:
        # A NaN is passed over here; it comes back through the sum.
        for i in range(count):
            m = v_max(load(x + i * sx, n), m)
    i = 0
    while i < count:
        end = min(i + BLOCK, count)
        part = v_zero()
        while i < end:
            a = term(kind, load(x + i * sx, n), m)
            if kind == SOFTMAX:
                store(y + i * sy, a, n)
            part = v_add(part, a)
            i += 1
        total = v_add(total, part)
    total = divisor(kind, total)
    for i in range(count):
        if kind == SOFTMAX:
            a = load(y + i * sy, n)
        else:
            a = load(x + i * sx, n)
        store(y + i * sy, finish(kind, a, m, total), n)


cdef inline void fold_largest(float* t, const int width) noexcept nogil:
    cdef int i
    for i in range(width):
        t[i] = t[i] if t[i] > t[i + width] else t[i + width]


cdef inline float largest(vf a) noexcept nogil:
    """The largest lane of a vector without NaN."""
    cdef float t[VW]
    v_store(t, a)
    # Literal widths, so that the compiler unrolls and vectorises them.
    if VW >= 16:
        fold_largest(t, 8)
    if VW >= 8:
        fold_largest(t, 4)
    fold_largest(t, 2)
    fold_largest(t, 1)
    return t[0]


cdef inline void axis_row(const int kind, const float* x, float* y, int64_t count) noexcept nogil:
    """One row of at least VW adjacent elements."""
    cdef vf m0 = v_set(-INFINITY), m1 = v_set(-INFINITY), total = v_zero(), a
    cdef vf p0, p1, p2, p3
    cdef int64_t i = 0, end, whole = count // (4 * VW) * (4 * VW)
    cdef int n
    if kind <= LOG_SOFTMAX:
        while i + 2 * VW <= count:
            m0 = v_max(v_load(x + i), m0)
            m1 = v_max(v_load(x + i + VW), m1)
            i += 2 * VW
        if i + VW <= count:
            m0 = v_max(v_load(x + i), m0)
        m0 = v_max(v_load(x + count - VW), m0)
        m0 = v_set(largest(v_max(m0, m1)))
    i = 0
    while i < whole:
        end = min(i + BLOCK * 4 * VW, whole)
        p0 = p1 = p2 = p3 = v_zero()
        while i < end:
            a = term(kind, v_load(x + i), m0)
            p0 = v_add(p0, a)
            if kind == SOFTMAX:
                v_store(y + i, a)
            a = term(kind, v_load(x + i + VW), m0)
            p1 = v_add(p1, a)
            if kind == SOFTMAX:
                v_store(y + i + VW, a)
            a = term(kind, v_load(x + i + 2 * VW), m0)
            p2 = v_add(p2, a)
            if kind == SOFTMAX:
                v_store(y + i + 2 * VW, a)
            a = term(kind, v_load(x + i + 3 * VW), m0)
            p3 = v_add(p3, a)
            if kind == SOFTMAX:
                v_store(y + i + 3 * VW, a)
            i += 4 * VW
        total = v_add(total, v_add(v_add(p0, p1), v_add(p2, p3)))
    while i < count:
        n = <int>min(count - i, VW)
        a = v_select(first_lanes(n), term(kind, load(x + i, n), m0), v_zero())
        total = v_add(total, a)
        if kind == SOFTMAX:
            store(y + i, a, n)
        i += VW
    total = divisor(kind, v_set(v_hsum(total)))
    i = 0
    while i < count:
        n = <int>min(count - i, VW)
        if kind == SOFTMAX:
            a = load(y + i, n)
        else:
            a = load(x + i, n)
        store(y + i, finish(kind, a, m0, total), n)
        i += VW


cdef inline void axis_short(
    const int kind, const float* x, int64_t sx, float* y, int64_t sy, int64_t count, int rows,
) noexcept nogil:
    """Up to VW rows of at most 64 elements: turned into columns, one row per lane."""
    cdef float t[64 * VW]
    cdef int64_t j
    cdef int r
    if rows < VW:
        memset(t, 0, count * VW * sizeof(float))
    for r in range(rows):
        for j in range(count):
            t[j * VW + r] = x[r * sx + j]
    axis_columns(kind, t, VW, t, VW, count, VW)
    for r in range(rows):
        for j in range(count):
            y[r * sy + j] = t[j * VW + r]


cdef inline void axis_share(
    const int kind, const AxisParams* p, const float* x, float* y, int thread, int threads
) noexcept nogil:
    cdef int64_t chunks, u, end, o, i
    if p.inner == 1 and p.count <= (32 if VW == 16 else 64):
        chunks = (p.outer + VW - 1) // VW
        end = share(chunks, thread + 1, threads)
        for u in range(share(chunks, thread, threads), end):
            o = u * VW
            axis_short(kind, x + o * p.x_outer, p.x_outer, y + o * p.y_outer, p.y_outer, p.count,
                       <int>min(p.outer - o, VW))
    elif p.inner == 1:
        end = share(p.outer, thread + 1, threads)
        for u in range(share(p.outer, thread, threads), end):
            axis_row(kind, x + u * p.x_outer, y + u * p.y_outer, p.count)
    else:
        chunks = (p.inner + VW - 1) // VW
        end = share(p.outer * chunks, thread + 1, threads)
        for u in range(share(p.outer * chunks, thread, threads), end):
            o = u // chunks
            i = u % chunks * VW
            axis_columns(kind, x + o * p.x_outer + i, p.x_count, y + o * p.y_outer + i, p.y_count,
                         p.count, <int>min(p.inner - i, VW))


cdef void axis_norm(const Call* c, int thread, int threads) noexcept nogil:
    """Softmax, LogSoftmax or LpNormalization over ``count``. Buffers: x, y."""
    cdef const AxisParams* p = <const AxisParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    if p.kind == SOFTMAX:
        axis_share(SOFTMAX, p, x, y, thread, threads)
    elif p.kind == LOG_SOFTMAX:
        axis_share(LOG_SOFTMAX, p, x, y, thread, threads)
    elif p.kind == LP1:
        axis_share(LP1, p, x, y, thread, threads)
    else:
        axis_share(LP2, p, x, y, thread, threads)


def pack_axis(**values):
    """The bytes of ``AxisParams``."""
    cdef AxisParams p = values
    return (<char*>&p)[:sizeof(AxisParams)]


# y = act(x * scale + shift), scale and shift per channel, or per image and channel.

cdef struct ScaleParams:
    # Channels-last: pixels lie x_s and y_s floats apart. Plain: unused.
    int64_t n, c, s
    int64_t x_s, y_s
    # Floats from one image's scales to the next's (0: the same for all).
    int64_t scale_n
    int32_t plain, act
    float lo, hi, alpha, beta


cdef inline void few_channels(
    const ScaleParams* p, const float* x, const float* scale, const float* shift, float* y,
    int64_t r, int64_t end,
) noexcept nogil:
    """Dense channels-last pixels ``r`` to ``end`` of fewer than VW channels, VW pixels at a time.

    VW pixels are as many vectors as there are channels, so scales repeated VW times fit them all.
    """
    cdef float sc[VW * VW]
    cdef float sh[VW * VW]
    cdef int64_t image = -1, length, i, k
    cdef vf lo = v_set(p.lo), hi = v_set(p.hi), a
    cdef int n
    while r < end:
        if image < 0 or (p.scale_n and image != r // p.s):
            image = r // p.s
            for k in range(VW):
                for i in range(p.c):
                    sc[k * p.c + i] = scale[image * p.scale_n + i]
                    sh[k * p.c + i] = shift[image * p.scale_n + i]
        # Up to the end of the image, where the scales may change.
        length = min(min(VW, end - r), (image + 1) * p.s - r if p.scale_n else VW)
        i = 0
        while i < length * p.c:
            n = <int>min(VW, length * p.c - i)
            a = v_fma(load(x + r * p.c + i, n), v_load(sc + i), v_load(sh + i))
            store(y + r * p.c + i, v_min(hi, v_max(lo, a)), n)
            i += VW
        if p.act > ACT_CLIP:
            activate(p.act, p.alpha, p.beta, y + r * p.c, length * p.c)
        r += length


cdef void scale_shift(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, scale, shift (each [n or 1][c]), y."""
    cdef const ScaleParams* p = <const ScaleParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* scale = <const float*>c.buf[1]
    cdef const float* shift = <const float*>c.buf[2]
    cdef float* y = <float*>c.buf[3]
    cdef const float* sc
    cdef const float* sh
    cdef const float* xr
    cdef float* yr
    cdef vf lo = v_set(p.lo), hi = v_set(p.hi), a = lo, b = lo
    cdef int64_t rows = p.n * (p.c if p.plain else p.s)
    cdef int64_t r, i, start, stop, length = p.s if p.plain else p.c
    cdef int n
    if not p.plain and p.c < VW and p.x_s == p.c and p.y_s == p.c:
        few_channels(p, x, scale, shift, y, share(rows, thread, threads),
                     share(rows, thread + 1, threads))
        return
    for r in range(share(rows, thread, threads), share(rows, thread + 1, threads)):
        if p.plain:
            xr = x + r * p.s
            yr = y + r * p.s
            sc = scale + r // p.c * p.scale_n + r % p.c
            sh = shift + r // p.c * p.scale_n + r % p.c
            a = v_set(sc[0])
            b = v_set(sh[0])
        else:
            xr = x + r * p.x_s
            yr = y + r * p.y_s
            sc = scale
            sh = shift
            if p.scale_n:
                sc = scale + r // p.s * p.scale_n
                sh = shift + r // p.s * p.scale_n
        # Pieces that stay in the first-level cache until the activation has seen them.
        start = 0
        while start < length:
            stop = min(start + 2048, length)
            i = start
            if p.plain:
                while i + VW <= stop:
                    v_store(yr + i, v_min(hi, v_max(lo, v_fma(v_load(xr + i), a, b))))
                    i += VW
                if i < stop:
                    n = <int>(stop - i)
                    v_store_n(yr + i, v_min(hi, v_max(lo, v_fma(v_load_n(xr + i, n), a, b))), n)
            else:
                while i + VW <= stop:
                    a = v_fma(v_load(xr + i), v_load(sc + i), v_load(sh + i))
                    v_store(yr + i, v_min(hi, v_max(lo, a)))
                    i += VW
                if i < stop:
                    n = <int>(stop - i)
                    a = v_fma(v_load_n(xr + i, n), v_load_n(sc + i, n), v_load_n(sh + i, n))
                    v_store_n(yr + i, v_min(hi, v_max(lo, a)), n)
            if p.act > ACT_CLIP:
                activate(p.act, p.alpha, p.beta, yr + start, stop - start)
            start = stop


def pack_scale(**values):
    """The bytes of ``ScaleParams``."""
    cdef ScaleParams p = values
    return (<char*>&p)[:sizeof(ScaleParams)]


# Mean and variance over pixels, per image and channel, in blocks of pixels.

cdef struct StatsParams:
    int64_t n, c, s
    int64_t x_s         # channels-last: floats from pixel to pixel
    int64_t block       # pixels per block
    int64_t plain


cdef inline vf row_sum(
    const float* x, int64_t count, vf mean, const bint squared
) noexcept nogil:
    """Sum over a row, per lane still, of x or of (x - mean)**2."""
    cdef vf total = v_zero(), a
    cdef vf part[4]
    cdef int64_t i = 0, end, whole = count // (4 * VW) * (4 * VW)
    cdef int n, k
    while i < whole:
        end = min(i + BLOCK * 4 * VW, whole)
        for k in range(4):
            part[k] = v_zero()
        while i < end:
            for k in range(4):
                a = v_load(x + i + k * VW)
                if squared:
                    a = v_sub(a, mean)
                    part[k] = v_fma(a, a, part[k])
                else:
                    part[k] = v_add(part[k], a)
            i += 4 * VW
        total = v_add(total, v_add(v_add(part[0], part[1]), v_add(part[2], part[3])))
    while i < count:
        n = <int>min(count - i, VW)
        a = load(x + i, n)
        if squared:
            a = v_select(first_lanes(n), v_sub(a, mean), v_zero())
            a = v_mul(a, a)
        total = v_add(total, a)
        i += VW
    return total


cdef inline void column_stats(
    const int nv, const float* x, int64_t step, int64_t count, int n, float* mean, float* squares
) noexcept nogil:
    """Mean and squared deviations of ``nv`` vectors of channels (with ``nv`` 1: ``n`` lanes)."""
    cdef vf total[4]
    cdef vf part[4]
    cdef vf m[4]
    cdef vf a
    cdef int64_t i, end
    cdef int k, squared
    for k in range(nv):
        m[k] = v_zero()
    for squared in range(2):
        for k in range(nv):
            total[k] = v_zero()
        i = 0
        while i < count:
            end = min(i + BLOCK, count)
            for k in range(nv):
                part[k] = v_zero()
            while i < end:
                for k in range(nv):
                    a = load(x + i * step + k * VW, n)
                    if squared:
                        a = v_sub(a, m[k])
                        part[k] = v_fma(a, a, part[k])
                    else:
                        part[k] = v_add(part[k], a)
                i += 1
            for k in range(nv):
                total[k] = v_add(total[k], part[k])
        for k in range(nv):
            if squared:
                store(squares + k * VW, total[k], n)
            else:
                m[k] = v_div(total[k], v_set(<float>count))
                store(mean + k * VW, m[k], n)


cdef void channel_stats(const Call* c, int thread, int threads) noexcept nogil:
    """Mean and sum of squared deviations of each channel in each block of pixels.

    Buffers: x, y = [n][blocks][2][c] (means, then squared deviations).
    """
    cdef const StatsParams* p = <const StatsParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    cdef const float* xb
    cdef float* yb
    cdef int64_t blocks = (p.s + p.block - 1) // p.block
    cdef int64_t u, end, b, size, n, ch
    cdef int w
    cdef float m
    end = share(p.n * blocks, thread + 1, threads)
    for u in range(share(p.n * blocks, thread, threads), end):
        n = u // blocks
        b = u % blocks * p.block
        size = min(p.block, p.s - b)
        yb = y + u * 2 * p.c
        ch = 0
        if p.plain:
            xb = x + n * p.c * p.s + b
            while ch < p.c:
                m = v_hsum(row_sum(xb + ch * p.s, size, v_zero(), False)) / <float>size
                yb[ch] = m
                yb[p.c + ch] = v_hsum(row_sum(xb + ch * p.s, size, v_set(m), True))
                ch += 1
        else:
            xb = x + (n * p.s + b) * p.x_s
            while ch + 4 * VW <= p.c:
                column_stats(4, xb + ch, p.x_s, size, VW, yb + ch, yb + p.c + ch)
                ch += 4 * VW
            while ch < p.c:
                w = <int>min(VW, p.c - ch)
                column_stats(1, xb + ch, p.x_s, size, w, yb + ch, yb + p.c + ch)
                ch += VW


def pack_stats(**values):
    """The bytes of ``StatsParams``."""
    cdef StatsParams p = values
    return (<char*>&p)[:sizeof(StatsParams)]


cdef struct GroupParams:
    int64_t n, c, s, block
    int64_t group       # channels that share their statistics
    int32_t across      # whether all images share them too
    int32_t per_group   # whether the given scale and bias are per group, not per channel
    float epsilon, std_epsilon


cdef void group_affine(const Call* c, int thread, int threads) noexcept nogil:
    """Block statistics → the scale and shift of every image and channel.

    Statistics are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm
    for computing sample variances", 1979, in double precision. Buffers: statistics as
    ``channel_stats`` wrote them, scale or NULL, bias or NULL, y = [2][n][c] (scales, then shifts).
    """
    cdef const GroupParams* p = <const GroupParams*>c.params
    cdef const float* stats = <const float*>c.buf[0]
    cdef const float* scale = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef float* y = <float*>c.buf[3]
    cdef const float* st
    cdef int64_t blocks = (p.s + p.block - 1) // p.block
    cdef int64_t groups = p.c // p.group, images = 1 if p.across else p.n
    cdef int64_t together = p.n if p.across else 1
    cdef int64_t u, n, g, ch, k, b, where
    cdef double total, mean, squares, d, size, a
    for u in range(share(images * groups, thread, threads),
                   share(images * groups, thread + 1, threads)):
        n = u // groups
        g = u % groups
        total = <double>together * p.s * p.group
        mean = 0
        squares = 0
        for k in range(n, n + together):
            for b in range(blocks):
                st = stats + (k * blocks + b) * 2 * p.c
                size = min(p.block, p.s - b * p.block)
                for ch in range(g * p.group, (g + 1) * p.group):
                    mean += size * st[ch]
        mean /= total
        for k in range(n, n + together):
            for b in range(blocks):
                st = stats + (k * blocks + b) * 2 * p.c
                size = min(p.block, p.s - b * p.block)
                for ch in range(g * p.group, (g + 1) * p.group):
                    d = st[ch] - mean
                    squares += st[p.c + ch] + size * d * d
        a = 1 / (sqrt(squares / total + p.epsilon) + p.std_epsilon)
        for ch in range(g * p.group, (g + 1) * p.group):
            where = g if p.per_group else ch
            d = a * scale[where] if scale != NULL else a
            for k in range(n, n + together):
                y[k * p.c + ch] = <float>d
                y[(p.n + k) * p.c + ch] = <float>(
                    (bias[where] if bias != NULL else 0.0) - mean * d)


def pack_group(**values):
    """The bytes of ``GroupParams``."""
    cdef GroupParams p = values
    return (<char*>&p)[:sizeof(GroupParams)]


# Layer and RMS normalisation of rows.

cdef struct LayerParams:
    int64_t rows, cols
    float epsilon
    int32_t rms         # no mean is subtracted


cdef void layer_norm(const Call* c, int thread, int threads) noexcept nogil:
    """Rows to zero mean and unit variance. Buffers: x, scale, bias or NULL, mean or NULL,
    inverse standard deviation or NULL, y; scale and bias have ``cols`` values."""
    cdef const LayerParams* p = <const LayerParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* scale = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef float* means = <float*>c.buf[3]
    cdef float* inverses = <float*>c.buf[4]
    cdef float* y = <float*>c.buf[5]
    cdef const float* xr
    cdef float* yr
    cdef int64_t r, i
    cdef float mean, inverse
    cdef vf m, f, a, b
    cdef int n
    for r in range(share(p.rows, thread, threads), share(p.rows, thread + 1, threads)):
        xr = x + r * p.cols
        yr = y + r * p.cols
        mean = 0
        if not p.rms:
            mean = v_hsum(row_sum(xr, p.cols, v_zero(), False)) / <float>p.cols
        m = v_set(mean)
        inverse = v_hsum(row_sum(xr, p.cols, m, True)) / <float>p.cols
        inverse = <float>(1 / sqrt(<double>inverse + p.epsilon))
        if means != NULL:
            means[r] = mean
        if inverses != NULL:
            inverses[r] = inverse
        f = v_set(inverse)
        b = v_zero()
        i = 0
        while i < p.cols:
            n = <int>min(VW, p.cols - i)
            a = v_mul(v_sub(load(xr + i, n), m), f)
            if bias != NULL:
                b = load(bias + i, n)
            store(yr + i, v_fma(a, load(scale + i, n), b), n)
            i += VW


def pack_layer(**values):
    """The bytes of ``LayerParams``."""
    cdef LayerParams p = values
    return (<char*>&p)[:sizeof(LayerParams)]


# Local response normalisation across channels.

cdef struct LrnParams:
    int64_t rows, c, x_row, y_row
    int64_t before, size    # channels before the one in hand, and all in its window
    double alpha
    float beta, bias


cdef void lrn(const Call* c, int thread, int threads) noexcept nogil:
    """y = x / (bias + alpha * window sum of squares)**beta, channels-last rows.

    Buffers: x, scratch (``threads * (c + size + 2 * VW)`` floats), y.
    """
    cdef const LrnParams* p = <const LrnParams*>c.params
    cdef int64_t width = p.c + p.size + 2 * VW
    cdef float* squares = (<float*>c.buf[1]) + thread * width
    cdef const float* x
    cdef float* y
    cdef vf a, s
    cdef vf alpha = v_set(p.alpha), bias = v_set(p.bias)
    cdef int64_t r, i, k
    cdef int n, lane
    cdef float t[VW]
    memset(squares, 0, width * sizeof(float))
    for r in range(share(p.rows, thread, threads), share(p.rows, thread + 1, threads)):
        x = (<const float*>c.buf[0]) + r * p.x_row
        y = (<float*>c.buf[2]) + r * p.y_row
        i = 0
        while i < p.c:
            n = <int>min(VW, p.c - i)
            a = load(x + i, n)
            store(squares + p.before + i, v_mul(a, a), n)
            i += VW
        i = 0
        while i < p.c:
            n = <int>min(VW, p.c - i)
            s = v_load(squares + i)
            for k in range(1, p.size):
                s = v_add(s, v_load(squares + i + k))
            s = v_fma(alpha, s, bias)
            if p.beta == <float>0.75:
                s = v_sqrt(s)
                s = v_mul(s, v_sqrt(s))
            elif p.beta == <float>0.5:
                s = v_sqrt(s)
            elif p.beta != <float>1.0:
                v_store(t, s)
                for lane in range(n):
                    t[lane] = powf(t[lane], p.beta)
                s = v_load(t)
            store(y + i, v_div(load(x + i, n), s), n)
            i += VW


def pack_lrn(**values):
    """The bytes of ``LrnParams``."""
    cdef LrnParams p = values
    return (<char*>&p)[:sizeof(LrnParams)]


KERNELS = {
    "axis_norm": (<uintptr_t>&axis_norm, pack_axis),
    "scale_shift": (<uintptr_t>&scale_shift, pack_scale),
    "channel_stats": (<uintptr_t>&channel_stats, pack_stats),
    "group_affine": (<uintptr_t>&group_affine, pack_group),
    "layer_norm": (<uintptr_t>&layer_norm, pack_layer),
    "lrn": (<uintptr_t>&lrn, pack_lrn),
}
