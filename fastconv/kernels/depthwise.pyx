"""Depthwise convolution, and groups of a few channels: channels along the vector lanes.

A strip of up to 8 neighbouring output pixels of one vector of channels is held in registers. For
3, 5 and 7 taps per row (undilated) each input vector is loaded once per kernel row and added to
every output of the strip that it reaches; other shapes load it once per tap. Columns outside the
input are skipped by a bit mask per strip (strips without any take code that does not look), rows
outside it by a clamped range, so there is no padded copy. Strips go down the image, so the rows they
share stay in the first-level cache; where the input is large, each asks for the rows that the next one
adds.

Each output element is summed in the order (kernel row, kernel column), whatever its strip is.

Groups of as many filters as channels, a divisor of the vector's lanes, are depthwise convolutions
several times over: the input vector with channel 0 of every group in all of the group's lanes, then
that with channel 1, and so on. The shuffled vectors of three columns are used for three taps. Where
a group is a whole vector there is nothing to shuffle: one number goes to every lane. The order is
(kernel row, channel of the group, kernel column), with stride 2 the middle column last.
"""

from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport ACT_CLIP, ACT_HARD_SWISH, ACT_SILU, activate, v_act


cdef extern from *:
    """
    /* A value that is in a register: compilers would rather load it again for each of its uses. */
    #if defined(__AVX512F__)
    static inline vf fastconv_held(vf a) { __asm__("" : "+v"(a)); return a; }
    #elif defined(__AVX__)
    static inline vf fastconv_held(vf a) { __asm__("" : "+x"(a)); return a; }
    #else
    static inline vf fastconv_held(vf a) { return a; }
    #endif
    """
    void prefetch "__builtin_prefetch"(const void*) noexcept nogil
    vf held "fastconv_held"(vf) noexcept nogil


cdef enum:
    STRIP = 8           # most output pixels of a strip
    MAX_TILES = 16      # most strips side by side in a block
    MAX_KW = 64         # most kernel columns


cdef struct DepthwiseParams:
    # Input [n][h][w][pixel]: sizes, and strides in floats.
    int64_t n, h, w
    int64_t x_n, x_h, x_w
    # Output [n][oh][ow][pixel]: sizes and strides in floats; strides of the residual.
    int64_t oh, ow
    int64_t y_n, y_h, y_w
    int64_t r_n, r_h, r_w
    # Taps; input coordinate = output coordinate * stride + tap * dilation - pad.
    int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w
    # Channels; floats from one tap's weights to the next; channels of a group, and floats from the
    # weights for one of them to the next.
    int64_t channels, tap, each, lane
    # Work is cut into blocks of rows × channels (whole vectors, but for the last block), and each
    # walks its rows in bands of strips.
    int64_t block_rows, block_channels, block_tiles
    # Whether the input comes from far: the rows that the next strip down adds are asked for.
    int64_t far
    int64_t act
    float lo, hi, alpha, beta


cdef struct Strip:
    # What all strip bodies work on: pointers to the first column and valid kernel row, channel 0.
    const float* x
    const float* w
    const float* bias
    const float* res
    float* y
    Py_ssize_t rows             # valid kernel rows
    Py_ssize_t x_row            # floats from one kernel row to the next, in x and in w
    Py_ssize_t w_row
    Py_ssize_t x_w, tap, r_w, y_w
    Py_ssize_t c, c_end         # channels
    Py_ssize_t kw, x_tap, x_step
    Py_ssize_t each, lane
    Py_ssize_t ahead            # input rows that the next strip down adds
    int act                     # what follows the clip, on registers
    float alpha, beta
    const int32_t* mask         # valid columns (one entry), or valid pixels per kernel column
    int pixels
    float lo, hi


cdef inline void column(
    const int j, const int P, const int K, const int S, vf* acc, const float* x, const vf* w,
) noexcept nogil:
    """Add input column ``j`` of the strip to every output it reaches."""
    cdef vf v = held(v_load(x))
    if j % S == 0 and j // S < P:
        acc[j // S] = v_fma(v, w[0], acc[j // S])
    if j >= 1 and (j - 1) % S == 0 and (j - 1) // S < P:
        acc[(j - 1) // S] = v_fma(v, w[1], acc[(j - 1) // S])
    if j >= 2 and (j - 2) % S == 0 and (j - 2) // S < P:
        acc[(j - 2) // S] = v_fma(v, w[2], acc[(j - 2) // S])
    if K > 3 and j >= 3 and (j - 3) % S == 0 and (j - 3) // S < P:
        acc[(j - 3) // S] = v_fma(v, w[3], acc[(j - 3) // S])
    if K > 3 and j >= 4 and (j - 4) % S == 0 and (j - 4) // S < P:
        acc[(j - 4) // S] = v_fma(v, w[4], acc[(j - 4) // S])
    if K > 5 and j >= 5 and (j - 5) % S == 0 and (j - 5) // S < P:
        acc[(j - 5) // S] = v_fma(v, w[5], acc[(j - 5) // S])
    if K > 5 and j >= 6 and (j - 6) % S == 0 and (j - 6) // S < P:
        acc[(j - 6) // S] = v_fma(v, w[6], acc[(j - 6) // S])


cdef inline void finish(
    const int P, const bint tail, vf* acc, const Strip* s, Py_ssize_t c, int n
) noexcept nogil:
    """Residual, clip, activation and store of a strip's accumulators."""
    cdef vf lo = v_set(s.lo), hi = v_set(s.hi)
    cdef vf t[STRIP]    # so that the accumulators themselves stay in registers
    cdef int i
    cdef const float* r = s.res + c
    cdef float* y = s.y + c
    if s.res != NULL:
        for i in range(P):
            acc[i] = v_add(acc[i], v_load_n(r + i * s.r_w, n) if tail else v_load(r + i * s.r_w))
    for i in range(P):
        acc[i] = v_min(hi, v_max(lo, acc[i]))
    if s.act == ACT_HARD_SWISH:
        for i in range(P):
            acc[i] = v_act(ACT_HARD_SWISH, acc[i], lo, lo)
    elif VW == 16 and s.act == ACT_SILU:
        # In line only where there are registers for its constants as well.
        for i in range(P):
            acc[i] = v_act(ACT_SILU, acc[i], v_set(s.alpha), lo)
    elif s.act > ACT_CLIP:
        for i in range(P):
            t[i] = acc[i]
        activate(s.act, s.alpha, s.beta, <float*>t, P * VW)
        for i in range(P):
            acc[i] = t[i]
    for i in range(P):
        if tail:
            v_store_n(y + i * s.y_w, acc[i], n)
        else:
            v_store(y + i * s.y_w, acc[i])


cdef inline bint inside(
    const int j, const int P, const int K, const int S, const bint full, int m,
) noexcept nogil:
    """Whether column ``j`` of a strip lies in the image; all do but ``K // 2`` on either side."""
    return full or K // 2 <= j < (P - 1) * S + K - K // 2 or m & (1 << j)


cdef inline void strip_body(
    const int P, const int K, const int S, const bint full, const Strip* s
) noexcept nogil:
    """``P`` output pixels, ``K`` undilated columns with stride ``S``, all channels of the block.

    Needs at least one vector of channels: the last one overlaps the one before. ``full`` says that
    every column is valid.
    """
    cdef vf acc[STRIP]
    cdef vf w[7]
    cdef vf b
    cdef Py_ssize_t c = s.c, r, xw = s.x_w, tap = s.tap
    cdef const float* x
    cdef const float* wr
    cdef const float* xp
    cdef int i, j
    cdef int m = s.mask[0]
    while True:
        b = v_zero()
        if s.bias != NULL:
            b = v_load(s.bias + c)
        for i in range(P):
            acc[i] = b
        x = s.x + c
        wr = s.w + c
        for r in range(s.rows, s.rows + s.ahead):
            xp = x + r * s.x_row
            for j in range((P - 1) * S + K):
                prefetch(xp)
                xp += xw
        for r in range(s.rows):
            w[0] = v_load(wr)
            w[1] = v_load(wr + tap)
            w[2] = v_load(wr + 2 * tap)
            if K > 3:
                w[3] = v_load(wr + 3 * tap)
                w[4] = v_load(wr + 4 * tap)
            if K > 5:
                w[5] = v_load(wr + 5 * tap)
                w[6] = v_load(wr + 6 * tap)
            if inside(0, P, K, S, full, m): column(0, P, K, S, acc, x, w)
            if inside(1, P, K, S, full, m): column(1, P, K, S, acc, x + xw, w)
            if inside(2, P, K, S, full, m): column(2, P, K, S, acc, x + 2 * xw, w)
            if (P - 1) * S + K > 3 and inside(3, P, K, S, full, m): column(3, P, K, S, acc, x + 3 * xw, w)
            if (P - 1) * S + K > 4 and inside(4, P, K, S, full, m): column(4, P, K, S, acc, x + 4 * xw, w)
            if (P - 1) * S + K > 5 and inside(5, P, K, S, full, m): column(5, P, K, S, acc, x + 5 * xw, w)
            if (P - 1) * S + K > 6 and inside(6, P, K, S, full, m): column(6, P, K, S, acc, x + 6 * xw, w)
            if (P - 1) * S + K > 7 and inside(7, P, K, S, full, m): column(7, P, K, S, acc, x + 7 * xw, w)
            if (P - 1) * S + K > 8 and inside(8, P, K, S, full, m): column(8, P, K, S, acc, x + 8 * xw, w)
            if (P - 1) * S + K > 9 and inside(9, P, K, S, full, m): column(9, P, K, S, acc, x + 9 * xw, w)
            if (P - 1) * S + K > 10 and inside(10, P, K, S, full, m): column(10, P, K, S, acc, x + 10 * xw, w)
            if (P - 1) * S + K > 11 and inside(11, P, K, S, full, m): column(11, P, K, S, acc, x + 11 * xw, w)
            if (P - 1) * S + K > 12 and inside(12, P, K, S, full, m): column(12, P, K, S, acc, x + 12 * xw, w)
            if (P - 1) * S + K > 13 and inside(13, P, K, S, full, m): column(13, P, K, S, acc, x + 13 * xw, w)
            if (P - 1) * S + K > 14 and inside(14, P, K, S, full, m): column(14, P, K, S, acc, x + 14 * xw, w)
            if (P - 1) * S + K > 15 and inside(15, P, K, S, full, m): column(15, P, K, S, acc, x + 15 * xw, w)
            if (P - 1) * S + K > 16 and inside(16, P, K, S, full, m): column(16, P, K, S, acc, x + 16 * xw, w)
            if (P - 1) * S + K > 17 and inside(17, P, K, S, full, m): column(17, P, K, S, acc, x + 17 * xw, w)
            if (P - 1) * S + K > 18 and inside(18, P, K, S, full, m): column(18, P, K, S, acc, x + 18 * xw, w)
            x += s.x_row
            wr += s.w_row
        finish(P, False, acc, s, c, VW)
        if c + VW >= s.c_end:
            break
        c = min(c + VW, s.c_end - VW)


cdef inline void strip_of(const int P, const int K, const int S, const Strip* s) noexcept nogil:
    if s.mask[0] == (1 << ((P - 1) * S + K)) - 1:
        strip_body(P, K, S, True, s)
    else:
        strip_body(P, K, S, False, s)


cdef inline void strip(const int K, const int S, const Strip* s) noexcept nogil:
    if s.pixels == 8: strip_of(8, K, S, s)
    elif s.pixels == 7: strip_of(7, K, S, s)
    elif s.pixels == 6: strip_of(6, K, S, s)
    elif s.pixels == 5: strip_of(5, K, S, s)
    else: strip_of(4, K, S, s)


cdef void strip_3_1(const Strip* s) noexcept nogil:
    strip(3, 1, s)


cdef void strip_3_2(const Strip* s) noexcept nogil:
    strip(3, 2, s)


cdef void strip_5_1(const Strip* s) noexcept nogil:
    strip(5, 1, s)


cdef void strip_5_2(const Strip* s) noexcept nogil:
    strip(5, 2, s)


cdef void strip_7_1(const Strip* s) noexcept nogil:
    strip(7, 1, s)


cdef inline void any_body(const int P, const bint tail, const Strip* s) noexcept nogil:
    """``P`` output pixels; any kernel width, stride and dilation."""
    cdef vf acc[STRIP]
    cdef vf b, w
    cdef Py_ssize_t c = s.c, r, k, step = s.x_step
    cdef const float* x
    cdef const float* xk
    cdef const float* wk
    cdef int i, m, n = VW
    while c < s.c_end:
        if tail:
            n = <int>min(s.c_end - c, VW)
        elif c + VW > s.c_end:
            c = s.c_end - VW
        b = v_zero()
        if s.bias != NULL:
            b = v_load(s.bias + c)
        for i in range(P):
            acc[i] = b
        x = s.x + c
        wk = s.w + c
        for r in range(s.rows):
            xk = x
            for k in range(s.kw):
                m = s.mask[k]
                w = v_load(wk)
                if not tail and m == (1 << P) - 1:
                    for i in range(P):
                        acc[i] = v_fma(v_load(xk + i * step), w, acc[i])
                elif m != 0:
                    for i in range(P):
                        if m & (1 << i):
                            if tail:
                                acc[i] = v_fma(v_load_n(xk + i * step, n), w, acc[i])
                            else:
                                acc[i] = v_fma(v_load(xk + i * step), w, acc[i])
                xk += s.x_tap
                wk += s.tap
            x += s.x_row
            wk += s.w_row - s.kw * s.tap
        finish(P, tail, acc, s, c, n)
        c += VW


cdef inline void any_pixels(const bint tail, const Strip* s) noexcept nogil:
    if s.pixels == 8: any_body(8, tail, s)
    elif s.pixels == 7: any_body(7, tail, s)
    elif s.pixels == 6: any_body(6, tail, s)
    elif s.pixels == 5: any_body(5, tail, s)
    elif s.pixels == 4: any_body(4, tail, s)
    elif s.pixels == 3: any_body(3, tail, s)
    elif s.pixels == 2: any_body(2, tail, s)
    else: any_body(1, tail, s)


cdef void strip_any(const Strip* s) noexcept nogil:
    any_pixels(False, s)


cdef void strip_any_narrow(const Strip* s) noexcept nogil:
    any_pixels(True, s)


cdef inline vf spread(const int V, const float* x, Py_ssize_t j, vi index) noexcept nogil:
    """Channel ``j`` of every group in all lanes of the group; ``V`` says that a group is a vector."""
    return v_set(x[j]) if V else v_permute(v_load(x), index)


cdef inline void group_body(
    const int P, const int S, const int V, const bint full, const Strip* s
) noexcept nogil:
    """``P`` output pixels of groups, three undilated columns with stride ``S`` (1 or 2)."""
    cdef vf acc[STRIP]
    cdef vf v[STRIP + 2]
    cdef vf b, w
    cdef vi first = group_lanes(s.each), index
    cdef Py_ssize_t c = s.c, r, j, xw = s.x_w
    cdef const float* x
    cdef const float* wr
    cdef int i, m = s.mask[0]
    while True:
        b = v_zero()
        if s.bias != NULL:
            b = v_load(s.bias + c)
        for i in range(P):
            acc[i] = b
        x = s.x + c
        wr = s.w + c
        for r in range(s.rows):
            for j in range(s.each):
                index = v_iadd(first, v_iset(<int32_t>j))
                for i in range(P + 3 - S):
                    v[i] = v_zero()
                    if full or m & (1 << (i * S)):
                        v[i] = spread(V, x + i * S * xw, j, index)
                w = v_load(wr)
                for i in range(P):
                    acc[i] = v_fma(v[i], w, acc[i])
                if S == 1:
                    w = v_load(wr + s.tap)
                    for i in range(P):
                        acc[i] = v_fma(v[i + 1], w, acc[i])
                w = v_load(wr + 2 * s.tap)
                for i in range(P):
                    acc[i] = v_fma(v[i + 3 - S], w, acc[i])
                if S == 2:
                    w = v_load(wr + s.tap)
                    for i in range(P):
                        if full or m & (2 << (i * 2)):
                            acc[i] = v_fma(spread(V, x + (i * 2 + 1) * xw, j, index), w, acc[i])
                wr += s.lane
            x += s.x_row
            wr += s.w_row - s.each * s.lane
        finish(P, False, acc, s, c, VW)
        if c + VW >= s.c_end:
            break
        c = min(c + VW, s.c_end - VW)


cdef inline vi group_lanes(Py_ssize_t each) noexcept nogil:
    """The first lane of every lane's group."""
    cdef int32_t lanes[VW]
    cdef Py_ssize_t i
    for i in range(VW):
        lanes[i] = <int32_t>(i // each * each)
    return v_bits(v_load(<const float*>lanes))


cdef inline void group_of(const int P, const int S, const int V, const Strip* s) noexcept nogil:
    if s.mask[0] == (1 << ((P - 1) * S + 3)) - 1:
        group_body(P, S, V, True, s)
    else:
        group_body(P, S, V, False, s)


cdef inline void group(const int S, const int V, const Strip* s) noexcept nogil:
    if s.pixels == 8: group_of(8, S, V, s)
    elif s.pixels == 7: group_of(7, S, V, s)
    elif s.pixels == 6: group_of(6, S, V, s)
    elif s.pixels == 5: group_of(5, S, V, s)
    else: group_of(4, S, V, s)


cdef void group_3_1(const Strip* s) noexcept nogil:
    if s.each == VW: group(1, 1, s)
    else: group(1, 0, s)


cdef void group_3_2(const Strip* s) noexcept nogil:
    if s.each == VW: group(2, 1, s)
    else: group(2, 0, s)


cdef void group_any(const Strip* s) noexcept nogil:
    """Groups, any kernel width, stride and dilation, any number of channels."""
    cdef vf acc[STRIP]
    cdef vf out[STRIP]  # so that the accumulators themselves stay in registers
    cdef Strip t
    cdef vf w
    cdef vi first = group_lanes(s.each), index
    cdef Py_ssize_t c = s.c, r, k, j
    cdef const float* x
    cdef const float* xk
    cdef const float* wk
    cdef int i, n
    while c < s.c_end:
        n = <int>min(s.c_end - c, VW)
        w = v_zero()
        if s.bias != NULL:
            w = v_load(s.bias + c)
        for i in range(STRIP):
            acc[i] = w
        x = s.x + c
        wk = s.w + c
        for r in range(s.rows):
            xk = x
            for k in range(s.kw):
                for j in range(s.each):
                    index = v_iadd(first, v_iset(<int32_t>j))
                    w = v_load(wk + j * s.lane)
                    for i in range(STRIP):
                        if s.mask[k] & (1 << i):
                            if n == VW:
                                acc[i] = v_fma(
                                    v_permute(v_load(xk + i * s.x_step), index), w, acc[i])
                            else:
                                acc[i] = v_fma(
                                    v_permute(v_load_n(xk + i * s.x_step, n), index), w, acc[i])
                xk += s.x_tap
                wk += s.tap
            x += s.x_row
            wk += s.w_row - s.kw * s.tap
        for i in range(STRIP):
            out[i] = acc[i]
        t = s[0]
        for i in range(s.pixels):
            if n == VW:
                finish(1, False, out + i, &t, c, n)
            else:
                finish(1, True, out + i, &t, c, n)
            t.y += t.y_w
            if t.res != NULL:
                t.res += t.r_w
        c += VW


ctypedef void (*strip_fn)(const Strip*) noexcept nogil


cdef void depthwise(const Call* c, int thread, int threads) noexcept nogil:
    """Buffers: x, weights ``[taps][tap]``, bias (``tap`` floats) or NULL, residual or NULL, y."""
    cdef const DepthwiseParams* p = <const DepthwiseParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* weights = <const float*>c.buf[1]
    cdef const float* residual = <const float*>c.buf[3]
    cdef float* y = <float*>c.buf[4]
    cdef int64_t row_blocks = (p.oh + p.block_rows - 1) // p.block_rows
    # The last block takes the channels left over, so that every block has a whole vector.
    cdef int64_t channel_blocks = max(1, p.channels // p.block_channels)
    cdef int64_t tiles = (p.ow + STRIP - 1) // STRIP
    cdef int64_t units = p.n * row_blocks * channel_blocks
    cdef int64_t unit = share(units, thread, threads), end = share(units, thread + 1, threads)
    cdef int64_t n, cb, oh, oh_begin, oh_end, t, t_begin, t_end, ih, iw, kh, kh_end, ow, k
    cdef bint special = False
    cdef int32_t mask[MAX_TILES][MAX_KW]
    cdef Strip s
    cdef strip_fn run = strip_any
    if p.each > 1:
        run = group_any
        if p.kw == 3 and p.dilation_w == 1 and p.ow >= 4 and p.channels >= VW:
            special = p.stride_w <= 2
            if p.stride_w == 1: run = group_3_1
            elif p.stride_w == 2: run = group_3_2
    elif p.channels < VW:
        run = strip_any_narrow
    elif (p.dilation_w == 1 and p.ow >= 4 and p.pad_w <= p.kw // 2
          and (p.ow - 1) * p.stride_w - p.pad_w + p.kw <= p.w + p.kw // 2):
        special = True
        if p.kw == 3 and p.stride_w == 1: run = strip_3_1
        elif p.kw == 3 and p.stride_w == 2: run = strip_3_2
        elif p.kw == 5 and p.stride_w == 1: run = strip_5_1
        elif p.kw == 5 and p.stride_w == 2: run = strip_5_2
        elif p.kw == 7 and p.stride_w == 1: run = strip_7_1
        else: special = False
    s.bias = <const float*>c.buf[2]
    s.res = NULL
    s.x_row = p.dilation_h * p.x_h
    s.w_row = p.kw * p.tap
    s.x_w = p.x_w
    s.tap = p.tap
    s.each = p.each
    s.lane = p.lane
    s.r_w = p.r_w
    s.y_w = p.y_w
    s.kw = p.kw
    s.x_tap = p.dilation_w * p.x_w
    s.x_step = p.stride_w * p.x_w
    # (With stride 2, asking for two rows costs more than it gains.)
    s.ahead = 1 if p.far and p.dilation_h == 1 and p.stride_h == 1 else 0
    s.lo = p.lo
    s.hi = p.hi
    s.act = p.act
    s.alpha = p.alpha
    s.beta = p.beta
    while unit < end:
        cb = unit % channel_blocks
        oh_begin = p.oh * (unit // channel_blocks % row_blocks) // row_blocks
        oh_end = p.oh * (unit // channel_blocks % row_blocks + 1) // row_blocks
        n = unit // (channel_blocks * row_blocks)
        unit += 1
        s.c = cb * p.block_channels
        s.c_end = p.channels if cb == channel_blocks - 1 else s.c + p.block_channels
        t_begin = 0
        while t_begin < tiles:
            t_end = min(t_begin + p.block_tiles, tiles)
            for t in range(t_begin, t_end):
                ow = p.ow * t // tiles
                s.pixels = <int>(p.ow * (t + 1) // tiles - ow)
                iw = ow * p.stride_w - p.pad_w
                if special:
                    mask[t - t_begin][0] = valid(
                        iw, p.w, 1, (s.pixels - 1) * p.stride_w + p.kw)
                else:
                    for k in range(p.kw):
                        mask[t - t_begin][k] = valid(
                            iw + k * p.dilation_w, p.w, p.stride_w, s.pixels)
            for oh in range(oh_begin, oh_end):
                ih = oh * p.stride_h - p.pad_h
                kh = (-ih + p.dilation_h - 1) // p.dilation_h if ih < 0 else 0
                kh_end = 0
                if ih < p.h:
                    kh_end = min(p.kh, (p.h - ih + p.dilation_h - 1) // p.dilation_h)
                s.rows = max(0, kh_end - kh)
                s.w = weights + kh * s.w_row
                for t in range(t_begin, t_end):
                    ow = p.ow * t // tiles
                    s.pixels = <int>(p.ow * (t + 1) // tiles - ow)
                    s.mask = mask[t - t_begin]
                    s.x = (x + n * p.x_n + (ih + kh * p.dilation_h) * p.x_h
                           + (ow * p.stride_w - p.pad_w) * p.x_w)
                    s.y = y + n * p.y_n + oh * p.y_h + ow * p.y_w
                    if residual != NULL:
                        s.res = residual + n * p.r_n + oh * p.r_h + ow * p.r_w
                    run(&s)
            t_begin = t_end


cdef inline int32_t valid(int64_t first, int64_t size, int64_t step, int64_t count) noexcept nogil:
    """Bit i says whether ``first + i * step`` lies in ``0..size-1``, for i below ``count``."""
    cdef int32_t bits = 0
    cdef int64_t i
    for i in range(count):
        if 0 <= first < size:
            bits |= <int32_t>1 << i
        first += step
    return bits


def pack_depthwise(**values):
    """The bytes of ``DepthwiseParams``, from one keyword per field."""
    cdef DepthwiseParams p = values
    return (<char*>&p)[:sizeof(DepthwiseParams)]


KERNELS = {
    "depthwise": (<uintptr_t>&depthwise, pack_depthwise),
    "grouped": (<uintptr_t>&depthwise, pack_depthwise),
}
CONSTANTS = {"STRIP": STRIP, "MAX_TILES": MAX_TILES, "MAX_KW": MAX_KW}
