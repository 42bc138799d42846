"""Element-wise kernels: functions of one value, and of two values with broadcasting."""

from libc.stdint cimport int32_t, int64_t, uintptr_t

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport *

cdef enum:
    BLOCK = 2048    # floats that are finished, activation included, while in the first-level cache
    RANK = 8        # outer dimensions of a binary kernel


cdef struct UnaryParams:
    int64_t n
    int64_t act
    float alpha, beta, lo, hi


cdef void unary(const Call* c, int thread, int threads) noexcept nogil:
    """y = act(x), element by element. Buffers: x, y (may be the same)."""
    cdef const UnaryParams* p = <const UnaryParams*>c.params
    cdef int64_t i = share(p.n, thread, threads), end = share(p.n, thread + 1, threads)
    cdef const float* x = <const float*>c.buf[0]
    cdef float* y = <float*>c.buf[1]
    if p.act <= ACT_CLIP:
        activate_to(ACT_CLIP, p.lo, p.hi, x + i, y + i, end - i)
    else:
        activate_to(p.act, p.alpha, p.beta, x + i, y + i, end - i)


def pack_unary(**values):
    """The bytes of ``UnaryParams``."""
    cdef UnaryParams p = values
    return (<char*>&p)[:sizeof(UnaryParams)]


cdef enum Binary:
    ADD = 0
    SUB = 1
    MUL = 2
    DIV = 3
    MIN = 4
    MAX = 5
    POW = 6
    PRELU = 7


cdef struct BinaryParams:
    # Rows of ``n`` elements in RANK outer dimensions, with the steps of a and b in floats (0 where
    # an operand repeats); y is dense.
    int64_t n
    int64_t shape[RANK]
    int64_t a_step[RANK]
    int64_t b_step[RANK]
    # Step inside a row: 1, or 0 for one value per row; never 0 for both unless n is 1.
    int32_t a_inner, b_inner
    int32_t op, act
    float alpha, beta, lo, hi


cdef inline vf combine(const int op, vf a, vf b) noexcept nogil:
    if op == ADD:
        return v_add(a, b)
    elif op == SUB:
        return v_sub(a, b)
    elif op == MUL:
        return v_mul(a, b)
    elif op == DIV:
        return v_div(a, b)
    elif op == MIN:
        return v_select(v_eq(a, a), v_min(a, b), a)
    elif op == MAX:
        return v_select(v_eq(a, a), v_max(a, b), a)
    elif op == POW:
        return v_pow(a, b)
    return v_select(v_lt(a, v_zero()), v_mul(a, b), a)


cdef inline vf get(
    const int inner, vf constant, const float* p, int64_t i, int64_t n
) noexcept nogil:
    if inner == 0:
        return constant
    if n - i >= VW:
        return v_load(p + i)
    return v_load_n(p + i, <int>(n - i))


cdef inline void row(
    const int op, const int a_inner, const int b_inner, const float* a, const float* b, float* y,
    int64_t n, float low, float high,
) noexcept nogil:
    # One body for whole vectors and the tail: an element's bits do not depend on where it lies.
    cdef vf lo = v_set(low), hi = v_set(high), v
    cdef vf va = v_set(a[0]), vb = v_set(b[0])
    cdef int64_t i = 0
    while i < n:
        v = combine(op, get(a_inner, va, a, i, n), get(b_inner, vb, b, i, n))
        v = v_min(hi, v_max(lo, v))
        if n - i >= VW:
            v_store(y + i, v)
        else:
            v_store_n(y + i, v, <int>(n - i))
        i += VW


cdef inline void row_of(
    const int op, int a_inner, int b_inner, const float* a, const float* b, float* y, int64_t n,
    float low, float high,
) noexcept nogil:
    if a_inner == 0:
        row(op, 0, 1, a, b, y, n, low, high)
    elif b_inner == 0:
        row(op, 1, 0, a, b, y, n, low, high)
    else:
        row(op, 1, 1, a, b, y, n, low, high)


cdef inline void outer(const int op, const Call* c, int thread, int threads) noexcept nogil:
    cdef const BinaryParams* p = <const BinaryParams*>c.params
    cdef const float* a = <const float*>c.buf[0]
    cdef const float* b = <const float*>c.buf[1]
    cdef float* y = <float*>c.buf[2]
    cdef int64_t blocks = (p.n + BLOCK - 1) // BLOCK, rows = 1, unit, end, r, k, first, n, d
    cdef int64_t at[RANK]
    for d in range(RANK):
        rows *= p.shape[d]
    unit = share(rows * blocks, thread, threads)
    end = share(rows * blocks, thread + 1, threads)
    if unit == end:
        return
    # Divide once to find the first row; then count.
    r = unit // blocks
    k = unit - r * blocks
    y += r * p.n
    d = RANK - 1
    while d >= 0:
        at[d] = r % p.shape[d]
        r //= p.shape[d]
        a += at[d] * p.a_step[d]
        b += at[d] * p.b_step[d]
        d -= 1
    while unit < end:
        first = k * BLOCK
        n = min(p.n - first, <int64_t>BLOCK)
        row_of(op, p.a_inner, p.b_inner, a + first * p.a_inner, b + first * p.b_inner, y + first,
               n, p.lo, p.hi)
        if p.act > ACT_CLIP:
            activate(p.act, p.alpha, p.beta, y + first, n)
        unit += 1
        k += 1
        if k < blocks:
            continue
        k = 0
        y += p.n
        d = RANK - 1
        while d >= 0:
            a += p.a_step[d]
            b += p.b_step[d]
            at[d] += 1
            if at[d] < p.shape[d]:
                break
            a -= p.shape[d] * p.a_step[d]
            b -= p.shape[d] * p.b_step[d]
            at[d] = 0
            d -= 1


cdef void binary(const Call* c, int thread, int threads) noexcept nogil:
    """y = act(a op b) with broadcasting. Buffers: a, b, y."""
    cdef int op = (<const BinaryParams*>c.params).op
    if op == ADD:
        outer(ADD, c, thread, threads)
    elif op == SUB:
        outer(SUB, c, thread, threads)
    elif op == MUL:
        outer(MUL, c, thread, threads)
    elif op == DIV:
        outer(DIV, c, thread, threads)
    elif op == MIN:
        outer(MIN, c, thread, threads)
    elif op == MAX:
        outer(MAX, c, thread, threads)
    elif op == POW:
        outer(POW, c, thread, threads)
    else:
        outer(PRELU, c, thread, threads)


def pack_binary(**values):
    """The bytes of ``BinaryParams``; ``shape``, ``a_step`` and ``b_step`` have ``RANK`` entries."""
    cdef BinaryParams p = values
    return (<char*>&p)[:sizeof(BinaryParams)]


KERNELS = {
    "unary": (<uintptr_t>&unary, pack_unary),
    "binary": (<uintptr_t>&binary, pack_binary),
}
CONSTANTS = {"BINARY_RANK": RANK}
#: Kind of activation → its code, as the kernels know it.
ACT_CODES = {
    "none": ACT_NONE, "clip": ACT_CLIP, "leaky_relu": ACT_LEAKY_RELU, "sigmoid": ACT_SIGMOID,
    "tanh": ACT_TANH, "silu": ACT_SILU, "hard_sigmoid": ACT_HARD_SIGMOID,
    "hard_swish": ACT_HARD_SWISH, "gelu": ACT_GELU, "gelu_tanh": ACT_GELU_TANH, "elu": ACT_ELU,
    "selu": ACT_SELU, "celu": ACT_CELU, "softplus": ACT_SOFTPLUS, "softsign": ACT_SOFTSIGN,
    "mish": ACT_MISH, "thresholded_relu": ACT_THRESHOLDED_RELU, "exp": ACT_EXP, "log": ACT_LOG,
    "sqrt": ACT_SQRT, "erf": ACT_ERF, "reciprocal": ACT_RECIPROCAL, "abs": ACT_ABS,
    "neg": ACT_NEG, "square": ACT_SQUARE, "floor": ACT_FLOOR, "ceil": ACT_CEIL,
    "round": ACT_ROUND, "sign": ACT_SIGN, "sin": ACT_SIN, "cos": ACT_COS, "shrink": ACT_SHRINK,
    "pow": ACT_POW,
}
#: Binary operation → its code.
BINARY_CODES = {
    "add": ADD, "sub": SUB, "mul": MUL, "div": DIV, "min": MIN, "max": MAX, "pow": POW,
    "prelu": PRELU,
}
