"""Matrix products beside ``conv``: packing at run time, matrix times vector, and reading alone.

Matrix times vector is bound by reading the weights once from memory, so fewer bytes take less time:
three for a weight (``gemv_fixed``), or two in half precision (``gemv_half``). They become float32 in
registers, and everything else is float32 arithmetic.
"""

from libc.stdint cimport int32_t, int64_t, uint16_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.fixed cimport FIXED_BLOCK, FIXED_GROUP, FIXED_STEP, fixed_words
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, activate
from fastconv.kernels.winograd_tile cimport fastconv_load


cdef struct PackParams:
    # Rows of the matrix are (tap, k) pairs: taps is 1 for a plain matrix.
    int64_t batch, taps, k, n
    # b[i*b_batch + t*b_tap + k*b_k + n*b_n], in floats.
    int64_t b_batch, b_tap, b_k, b_n


cdef void pack_b(const Call* c, int thread, int threads) noexcept nogil:
    """Packs a right-hand matrix as ``conv`` wants weights: [batch][panel][tap][k][2*VW].

    Buffers: b, packed.
    """
    cdef const PackParams* p = <const PackParams*>c.params
    cdef const float* b
    cdef float* y
    cdef int64_t panels = (p.n + 2 * VW - 1) // (2 * VW)
    cdef int64_t u = share(p.batch * panels, thread, threads)
    cdef int64_t end = share(p.batch * panels, thread + 1, threads)
    cdef int64_t t, k, j, n0, cols
    while u < end:
        n0 = u % panels * 2 * VW
        y = (<float*>c.buf[1]) + u * p.taps * p.k * 2 * VW
        cols = min(p.n - n0, 2 * VW)
        for t in range(p.taps):
            b = (<const float*>c.buf[0]) + u // panels * p.b_batch + t * p.b_tap + n0 * p.b_n
            if p.b_n == 1:
                for k in range(p.k):
                    for j in range(cols):
                        y[k * 2 * VW + j] = b[k * p.b_k + j]
            else:
                for j in range(cols):
                    for k in range(p.k):
                        y[k * 2 * VW + j] = b[k * p.b_k + j * p.b_n]
            if cols < 2 * VW:
                for k in range(p.k):
                    for j in range(cols, 2 * VW):
                        y[k * 2 * VW + j] = 0
            y += p.k * 2 * VW
        u += 1


def pack_pack_b(**values):
    """The bytes of ``PackParams``."""
    cdef PackParams p = values
    return (<char*>&p)[:sizeof(PackParams)]


cdef struct GemvParams:
    int64_t k, n
    int64_t act
    float lo, hi, alpha, beta


cdef enum:
    AHEAD = 512     # elements that each panel's weights are asked for in advance


cdef inline void gemv_panels(
    const int panels, const GemvParams* p, const float* x, const float* w, const float* bias,
    const float* res, float* y, int64_t at,
) noexcept nogil:
    """``panels`` panels from column ``at``: enough sums in flight to hide an addition's latency."""
    cdef vf acc[4][2]
    cdef vf a, lo = v_set(p.lo), hi = v_set(p.hi)
    cdef int64_t k, stride = p.k * 2 * VW
    cdef int i, h, n
    if bias != NULL:
        bias += at
    if res != NULL:
        res += at
    y += at
    for i in range(panels):
        for h in range(2):
            acc[i][h] = v_zero() if bias == NULL else v_load(bias + (2 * i + h) * VW)
    for k in range(p.k):
        a = v_set(x[k])
        for i in range(panels):
            v_prefetch(w + i * stride + AHEAD)
            v_prefetch(w + i * stride + AHEAD + 16)
            acc[i][0] = v_fma(a, v_load(w + i * stride), acc[i][0])
            acc[i][1] = v_fma(a, v_load(w + i * stride + VW), acc[i][1])
        w += 2 * VW
    for i in range(panels):
        for h in range(2):
            n = <int>min(p.n - at - (2 * i + h) * VW, VW)
            if n <= 0:
                break
            a = acc[i][h]
            if res != NULL:
                a = v_add(a, v_load_n(res + (2 * i + h) * VW, n) if n < VW
                          else v_load(res + (2 * i + h) * VW))
            a = v_min(hi, v_max(lo, a))
            if n < VW:
                v_store_n(y + (2 * i + h) * VW, a, n)
            else:
                v_store(y + (2 * i + h) * VW, a)


cdef void gemv(const Call* c, int thread, int threads) noexcept nogil:
    """One row times packed weights; each output is summed in the order ``conv`` sums it.

    Buffers: x, packed weights, bias or NULL, residual or NULL, y.
    """
    cdef const GemvParams* p = <const GemvParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* w = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* res = <const float*>c.buf[3]
    cdef float* y = <float*>c.buf[4]
    cdef int64_t panels = (p.n + 2 * VW - 1) // (2 * VW)
    cdef int64_t j = share(panels, thread, threads), end = share(panels, thread + 1, threads)
    cdef int64_t j0 = j, at
    while j < end:
        at = j * 2 * VW
        if j + 4 <= end:
            gemv_panels(4, p, x, w + at * p.k, bias, res, y, at)
            j += 4
        else:
            gemv_panels(1, p, x, w + at * p.k, bias, res, y, at)
            j += 1
    if p.act > ACT_CLIP and j0 < end:
        at = j0 * 2 * VW
        activate(p.act, p.alpha, p.beta, y + at, min(end * 2 * VW, p.n) - at)


def pack_gemv(**values):
    """The bytes of ``GemvParams``."""
    cdef GemvParams p = values
    return (<char*>&p)[:sizeof(GemvParams)]


cdef struct FewParams:
    int64_t m, k, n
    int64_t x_row, r_row, y_row     # floats from one row to the next
    # Of weights as they are in the model: floats from one output to the next and from one input to
    # the next, the channels of an input that lies as [pixel][channel] (0: as they do), a factor.
    int64_t w_n, w_k, channels
    float gain
    int32_t act
    float lo, hi, alpha, beta


cdef inline void put(
    vf a, vf lo, vf hi, const float* res, float* y, int n,
) noexcept nogil:
    """Residual (or NULL), clip and store of ``n`` sums of a row."""
    if res != NULL:
        a = v_add(a, v_load_n(res, n) if n < VW else v_load(res))
    a = v_min(hi, v_max(lo, a))
    if n < VW:
        v_store_n(y, a, n)
    else:
        v_store(y, a)


cdef inline void half_panels(
    const int rows, const int panels, const FewParams* p, const float* x, const uint16_t* w,
    const float* scale, const float* bias, const float* res, float* y, int64_t at,
) noexcept nogil:
    """``rows`` rows times ``panels`` panels from column ``at``."""
    cdef vf acc[4][4][2]
    cdef vf a, b0, b1, lo = v_set(p.lo), hi = v_set(p.hi)
    cdef int64_t k, stride = p.k * 2 * VW
    cdef int i, h, n, r
    for r in range(rows):
        for i in range(panels):
            acc[r][i][0] = v_zero()
            acc[r][i][1] = v_zero()
    for k in range(p.k):
        for i in range(panels):
            v_prefetch(w + i * stride + AHEAD)
            b0 = v_load_half(w + i * stride)
            b1 = v_load_half(w + i * stride + VW)
            for r in range(rows):
                a = v_set(x[r * p.x_row + k])
                acc[r][i][0] = v_fma(a, b0, acc[r][i][0])
                acc[r][i][1] = v_fma(a, b1, acc[r][i][1])
        w += 2 * VW
    for r in range(rows):
        for i in range(panels):
            for h in range(2):
                k = at + (2 * i + h) * VW
                n = <int>min(p.n - k, VW)
                if n <= 0:
                    break
                a = acc[r][i][h]
                if scale != NULL:
                    a = v_mul(a, v_load(scale + k))
                if bias != NULL:
                    a = v_add(a, v_load(bias + k))
                put(a, lo, hi, res + r * p.r_row + k if res != NULL else NULL, y + r * p.y_row + k, n)


cdef void gemv_half(const Call* c, int thread, int threads) noexcept nogil:
    """A few rows times weights packed in half precision as ``[panel][k][2*VW]``.

    Buffers: x, packed weights (binary16), scale of each column or NULL, bias or NULL, residual or
    NULL, y. Scales and biases are padded to whole panels. Each row has the same bits alone and
    among others.
    """
    cdef const FewParams* p = <const FewParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const uint16_t* w = <const uint16_t*>c.buf[1]
    cdef const float* scale = <const float*>c.buf[2]
    cdef const float* bias = <const float*>c.buf[3]
    cdef const float* res = <const float*>c.buf[4]
    cdef float* y = <float*>c.buf[5]
    cdef const float* xr
    cdef const float* rr
    cdef float* yr
    cdef int64_t panels = (p.n + 2 * VW - 1) // (2 * VW)
    cdef int64_t j = share(panels, thread, threads), end = share(panels, thread + 1, threads)
    cdef int64_t j0 = j, at, r
    while j < end:
        at = j * 2 * VW
        if p.m == 1 and j + 4 <= end:
            half_panels(1, 4, p, x, w + at * p.k, scale, bias, res, y, at)
            j += 4
            continue
        r = 0
        while r < p.m:  # the panel stays in the caches from row to row
            xr = x + r * p.x_row
            yr = y + r * p.y_row
            rr = res
            if res != NULL:
                rr += r * p.r_row
            if r + 4 <= p.m:
                half_panels(4, 1, p, xr, w + at * p.k, scale, bias, rr, yr, at)
                r += 4
            elif r + 2 <= p.m:
                half_panels(2, 1, p, xr, w + at * p.k, scale, bias, rr, yr, at)
                r += 2
            else:
                half_panels(1, 1, p, xr, w + at * p.k, scale, bias, rr, yr, at)
                r += 1
        j += 1
    if p.act > ACT_CLIP and j0 < end:
        at = j0 * 2 * VW
        for r in range(p.m):
            activate(p.act, p.alpha, p.beta, y + r * p.y_row + at, min(end * 2 * VW, p.n) - at)


def pack_few(**values):
    """The bytes of ``FewParams``."""
    cdef FewParams p = values
    return (<char*>&p)[:sizeof(FewParams)]


cdef enum:
    FIXED_ROWS = 8      # rows of an input, at most


cdef inline void fixed_decode(const float* w, vf* b) noexcept nogil:
    """The weights of VW outputs for four inputs, as whole numbers."""
    cdef vi v0 = v_bits(v_load(w)), v1 = v_bits(v_load(w + VW)), v2 = v_bits(v_load(w + 2 * VW))
    cdef vf low = v_select(v_iset(0xff), v_from_bits(v2), v_from_bits(v_ishl(v1, 8)))
    low = v_select(v_iset(0xffff), low, v_from_bits(v_ishr(v_ishl(v0, 24), 8)))
    b[0] = v_to_float(v_ishr(v0, 8))
    b[1] = v_to_float(v_ishr(v1, 8))
    b[2] = v_to_float(v_ishr(v2, 8))
    b[3] = v_to_float(v_bits(low))


cdef inline void fixed_block(
    const int rows, const int panels, const float* x, int64_t x_row, const float* w, int64_t stride,
    int64_t groups, vf* total,
) noexcept nogil:
    """Adds what ``groups`` fours of inputs with one unit give to total[row][panel][2]."""
    cdef vf acc[8][4][2]
    cdef vf b[4]
    cdef const float* units = w
    cdef const float* v
    cdef int64_t g
    cdef int i, h, r, j
    for r in range(rows):
        for i in range(panels):
            acc[r][i][0] = v_zero()
            acc[r][i][1] = v_zero()
    w += 2 * VW
    for g in range(groups):
        for i in range(panels):
            v = w + i * stride
            for j in range((FIXED_GROUP + 15) // 16):
                v_prefetch(v + AHEAD + 16 * j)
            for h in range(2):
                fixed_decode(v + 3 * VW * h, b)
                for j in range(4):
                    for r in range(rows):
                        acc[r][i][h] = v_fma(v_set(x[r * x_row + j]), b[j], acc[r][i][h])
        x += 4
        w += FIXED_GROUP
    for r in range(rows):
        for i in range(panels):
            for h in range(2):
                j = (r * panels + i) * 2 + h
                total[j] = v_fma(acc[r][i][h], v_load(units + i * stride + h * VW), total[j])


cdef void fixed_exactly(
    const FewParams* p, const float* x, const float* w, const float* bias, int64_t at, float* total,
) noexcept nogil:
    """One row times one panel, from column ``at``, with the weights themselves: no sum overflows
    that need not, and infinity times a weight that is too small for 24 bits is infinite."""
    cdef int64_t end = min(at + 2 * VW, p.n), c, i, j, pixels = p.k // max(p.channels, <int64_t>1)
    cdef float sums[2 * VW]
    for i in range(2 * VW):
        sums[i] = 0 if bias == NULL else bias[at + i]
    for c in range(p.k):
        i = c % p.channels * pixels + c // p.channels if p.channels else c
        for j in range(at, end):
            sums[j - at] += x[c] * (fastconv_load(w + j * p.w_n + i * p.w_k) * p.gain)
    for i in range(2 * VW):
        total[i] = sums[i]


cdef inline void fixed_panels(
    const int panels, const FewParams* p, const float* x, const float* rest, const float* w,
    const float* bias, const float* res, const float* plain, float* y, int64_t at,
) noexcept nogil:
    """All rows times ``panels`` panels from column ``at``; ``rest``: the inputs of the last block,
    followed by zeros."""
    cdef vf total[FIXED_ROWS * 4 * 2]
    cdef vf lo = v_set(p.lo), hi = v_set(p.hi), odd
    cdef int64_t stride = fixed_words(p.k), c = 0, row, groups
    cdef const float* xc
    cdef const float* v = w
    cdef int i, h, n, r
    for r in range(<int>p.m):
        for i in range(2 * panels):
            total[r * 2 * panels + i] = (
                v_zero() if bias == NULL else v_load(bias + at + i * VW))
    while c < p.k:
        groups = FIXED_BLOCK // 4
        xc = x + c
        row = p.x_row
        if c + FIXED_BLOCK > p.k:
            groups = (p.k - c + 3) // 4
            xc = rest
            row = FIXED_BLOCK
        if panels > 1:
            fixed_block(1, panels, xc, row, v, stride, groups, total)
        else:
            r = 0
            while r < p.m:  # the block stays in the first cache from row to row
                if VW == 16 and r + 8 <= p.m:  # as many sums as there are registers for
                    fixed_block(8, 1, xc + r * row, row, v, stride, groups, total + 2 * r)
                    r += 8
                elif r + 4 <= p.m:
                    fixed_block(4, 1, xc + r * row, row, v, stride, groups, total + 2 * r)
                    r += 4
                elif r + 3 == p.m:
                    fixed_block(3, 1, xc + r * row, row, v, stride, groups, total + 2 * r)
                    r += 3
                elif r + 2 <= p.m:
                    fixed_block(2, 1, xc + r * row, row, v, stride, groups, total + 2 * r)
                    r += 2
                else:
                    fixed_block(1, 1, xc + r * row, row, v, stride, groups, total + 2 * r)
                    r += 1
        v += FIXED_STEP
        c += FIXED_BLOCK
    # Inputs that are not finite, or so large that sums overflow: of a row and a panel alone, so that
    # no other's bits depend on it.
    for r in range(<int>p.m * panels):
        odd = v_add(v_sub(total[2 * r], total[2 * r]), v_sub(total[2 * r + 1], total[2 * r + 1]))
        if v_hsum(odd) != 0:  # or NaN
            fixed_exactly(p, x + r // panels * p.x_row, plain, bias,
                          at + 2 * (r % panels) * VW, <float*>(total + 2 * r))
    for r in range(<int>p.m):
        for i in range(panels):
            for h in range(2):
                c = at + (2 * i + h) * VW
                n = <int>min(p.n - c, VW)
                if n <= 0:
                    break
                put(total[(r * panels + i) * 2 + h], lo, hi,
                    res + r * p.r_row + c if res != NULL else NULL, y + r * p.y_row + c, n)


cdef void gemv_fixed(const Call* c, int thread, int threads) noexcept nogil:
    """Up to FIXED_ROWS rows times weights of 24 bits; see ``fixed.pxd``.

    Buffers: x, packed weights, bias or NULL, residual or NULL, weights as they are in the model, y.
    Biases are padded to whole panels. Each row has the same bits alone and among others.
    """
    cdef const FewParams* p = <const FewParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* w = <const float*>c.buf[1]
    cdef const float* bias = <const float*>c.buf[2]
    cdef const float* res = <const float*>c.buf[3]
    cdef const float* plain = <const float*>c.buf[4]
    cdef float* y = <float*>c.buf[5]
    cdef float rest[FIXED_ROWS][FIXED_BLOCK]
    cdef int64_t panels = (p.n + 2 * VW - 1) // (2 * VW), stride = fixed_words(p.k)
    cdef int64_t j = share(panels, thread, threads), end = share(panels, thread + 1, threads)
    cdef int64_t j0 = j, first = p.k // FIXED_BLOCK * FIXED_BLOCK, at, r, k
    if j == end:
        return
    for r in range(p.m):
        for k in range(p.k - first):
            rest[r][k] = x[r * p.x_row + first + k]
        for k in range(p.k - first, min((p.k - first + 3) // 4 * 4, <int64_t>FIXED_BLOCK)):
            rest[r][k] = 0
    while j < end:
        at = j * 2 * VW
        if p.m == 1 and j + 4 <= end:
            fixed_panels(4, p, x, &rest[0][0], w + j * stride, bias, res, plain, y, at)
            j += 4
        else:
            fixed_panels(1, p, x, &rest[0][0], w + j * stride, bias, res, plain, y, at)
            j += 1
    if p.act > ACT_CLIP:
        at = j0 * 2 * VW
        for r in range(p.m):
            activate(p.act, p.alpha, p.beta, y + r * p.y_row + at, min(end * 2 * VW, p.n) - at)


cdef struct ReadParams:
    int64_t n           # floats, a multiple of 256
    int64_t repeats


cdef void read(const Call* c, int thread, int threads) noexcept nogil:
    """Reads an array ``repeats`` times and keeps sums for each thread: what memory gives at most.

    Buffers: x, y (16 floats for each thread).
    """
    cdef const ReadParams* p = <const ReadParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef int64_t i, turn, start = share(p.n // 256, thread, threads) * 256
    cdef int64_t part = (share(p.n // 256, thread + 1, threads) * 256 - start) // 4
    cdef vf acc[4]
    cdef int k
    x += start
    for k in range(4):
        acc[k] = v_zero()
    for turn in range(p.repeats):
        i = 0
        while i < part:  # four streams, as gemv has: one alone leaves memory waiting
            for k in range(4):
                v_prefetch(x + k * part + i + AHEAD)
                acc[k] = v_add(acc[k], v_load(x + k * part + i))
            i += VW
    v_store((<float*>c.buf[1]) + 16 * thread,
            v_add(v_add(acc[0], acc[1]), v_add(acc[2], acc[3])))


def pack_read(**values):
    """The bytes of ``ReadParams``."""
    cdef ReadParams p = values
    return (<char*>&p)[:sizeof(ReadParams)]


CONSTANTS = {"FIXED_ROWS": FIXED_ROWS}

KERNELS = {
    "gemv_fixed": (<uintptr_t>&gemv_fixed, pack_few),
    "gemv_half": (<uintptr_t>&gemv_half, pack_few),
    "read": (<uintptr_t>&read, pack_read),
    "pack_b": (<uintptr_t>&pack_b, pack_pack_b),
    "gemv": (<uintptr_t>&gemv, pack_gemv),
}
