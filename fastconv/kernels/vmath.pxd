"""Vector elementary functions and the activations that kernels apply in their epilogues.

Ranges are reduced after Cody and Waite ("Software Manual for the Elementary Functions", 1980); the
polynomials are weighted minimax fits (Lawson's iteration) made for this file. The largest errors
stated, in units of the last place of the exact float32 result, were measured with the AVX-512 build
on 2**24 values over all exponents and as many of usual size (2**20 for erf);
``tests/test_activations.py`` checks bounds for every build. Subnormal inputs and results count as
zero, as inside a run. NaN gives NaN and infinities give the limits, unless a docstring says
otherwise.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastconv.kernels.simd cimport *

# The codes are the indices of ``KINDS`` in ``fastconv/graph/activation.py``; a test compares them.
cdef enum Act:
    ACT_NONE = 0
    ACT_CLIP = 1
    ACT_LEAKY_RELU = 2
    ACT_SIGMOID = 3
    ACT_TANH = 4
    ACT_SILU = 5
    ACT_HARD_SIGMOID = 6
    ACT_HARD_SWISH = 7
    ACT_GELU = 8
    ACT_GELU_TANH = 9
    ACT_ELU = 10
    ACT_SELU = 11
    ACT_CELU = 12
    ACT_SOFTPLUS = 13
    ACT_SOFTSIGN = 14
    ACT_MISH = 15
    ACT_THRESHOLDED_RELU = 16
    ACT_EXP = 17
    ACT_LOG = 18
    ACT_SQRT = 19
    ACT_ERF = 20
    ACT_RECIPROCAL = 21
    ACT_ABS = 22
    ACT_NEG = 23
    ACT_SQUARE = 24
    ACT_FLOOR = 25
    ACT_CEIL = 26
    ACT_ROUND = 27
    ACT_SIGN = 28
    ACT_SIN = 29
    ACT_COS = 30
    ACT_SHRINK = 31
    ACT_POW = 32
    # Forms that the kernels choose themselves.
    ACT_CUBE = 100
    ACT_POW_HALF = 101
    ACT_SILU_ONE = 102

cdef enum:
    SIGN_BIT = -2147483648
    MAGIC_BITS = 0x4B400000     # of 1.5 * 2**23: adding it rounds to an integer
    BIASED = 12583039           # the same plus 127: the low bits of n + BIASED are 2**n's exponent


cdef inline vf v_inf() noexcept nogil:
    return v_from_bits(v_iset(0x7F800000))


cdef inline vf v_nan() noexcept nogil:
    return v_from_bits(v_iset(0x7FC00000))


cdef inline vf v_abs(vf x) noexcept nogil:
    return v_from_bits(v_iand(v_bits(x), v_iset(0x7FFFFFFF)))


cdef inline vf v_sign_of(vf x, vf s) noexcept nogil:
    """``x`` (whose sign bit is 0) with the sign of ``s``."""
    return v_from_bits(v_ior(v_bits(x), v_iand(v_bits(s), v_iset(SIGN_BIT))))


cdef inline vf v_round(vf x) noexcept nogil:
    """To the nearest integer, half to even; exact."""
    cdef vf a = v_abs(x), big = v_set(8388608.0)
    cdef vf r = v_sign_of(v_sub(v_add(a, big), big), x)
    return v_select(v_lt(a, big), r, x)


cdef inline vf v_floor(vf x) noexcept nogil:
    """The largest integer ≤ x; exact."""
    cdef vf r = v_round(x)
    r = v_sub(r, v_select(v_gt(r, x), v_set(1.0), v_zero()))
    return v_select(v_eq(r, v_zero()), v_sign_of(v_zero(), x), r)


cdef inline vf v_expm1_poly(vf r) noexcept nogil:
    """exp(r) - 1 for |r| ≤ ln(2)/2."""
    cdef vf q = v_set(0.0001994345075218007)
    q = v_fma(q, r, v_set(0.0013934456510469317))
    q = v_fma(q, r, v_set(0.008333208970725536))
    q = v_fma(q, r, v_set(0.04166647419333458))
    q = v_fma(q, r, v_set(0.1666666716337204))
    q = v_fma(q, r, v_set(0.5))
    return v_fma(v_mul(r, r), q, r)


cdef inline vf v_exp(vf x) noexcept nogil:
    """e**x; at most 1.1 ulp."""
    x = v_min(v_set(89.0), v_max(v_set(-104.0), x))
    cdef vf t = v_fma(x, v_set(1.4426950408889634), v_set(12582912.0))
    cdef vf n = v_sub(t, v_set(12582912.0))
    cdef vf r = v_fma(n, v_set(-0.693359375), x)
    r = v_fma(n, v_set(2.12194440054690583e-4), r)
    cdef vf q = v_set(0.001383683760650456)
    q = v_fma(q, r, v_set(0.008374822326004505))
    q = v_fma(q, r, v_set(0.04166822507977486))
    q = v_fma(q, r, v_set(0.16666419804096222))
    q = v_fma(q, r, v_set(0.49999991059303284))
    q = v_fma(q, r, v_set(1.0))
    return v_scale(v_fma(q, r, v_set(1.0)), t)


cdef inline vf one_plus_exp_of_minus(vf x) noexcept nogil:
    """1 + e**-x to about 2 ulp where |x| < 10, and 4 for |x| ≤ 87.33 (2**n is a normal float)."""
    cdef vf t = v_fma(x, v_set(-1.4426950408889634), v_set(BIASED))
    cdef vf n = v_sub(t, v_set(BIASED))
    cdef vf r
    if FUSED:
        # (ln(2) as a float32 is so near that n times its error is 4 ulp of e**-x at most, and less
        # than half of one where |x| < 10.)
        r = v_fma(n, v_set(0.6931471805599453), x)
    else:
        r = v_fma(n, v_set(0.693359375), x)
        r = v_fma(n, v_set(-2.12194440054690583e-4), r)
    cdef vf q = v_set(-0.008297649212181568)
    q = v_fma(q, r, v_set(0.041915420442819595))
    q = v_fma(q, r, v_set(-0.16667574644088745))
    q = v_fma(q, r, v_set(0.49998894333839417))
    q = v_fma(q, r, v_set(-0.9999997019767761))
    q = v_fma(q, r, v_set(1.0000001192092896))
    return v_fma(q, v_from_bits(v_ishl(v_bits(t), 23)), v_set(1.0))


cdef inline vf v_expm1(vf x) noexcept nogil:
    """e**x - 1; at most 1.0 ulp for x ≤ 0."""
    x = v_min(v_set(89.0), v_max(v_set(-20.0), x))
    cdef vf t = v_fma(x, v_set(1.4426950408889634), v_set(12582912.0))
    cdef vf n = v_sub(t, v_set(12582912.0))
    cdef vi i = v_isub(v_bits(t), v_iset(MAGIC_BITS - 126))
    cdef vf r = v_fma(n, v_set(-0.693359375), x)
    r = v_fma(n, v_set(2.12194440054690583e-4), r)
    cdef vf h = v_from_bits(v_ishl(i, 23))      # 2**(n - 1)
    r = v_fma(h, v_expm1_poly(r), v_sub(h, v_set(0.5)))
    return v_add(r, r)


cdef inline vf v_tanh(vf x) noexcept nogil:
    """Hyperbolic tangent, 1 - 2 / (e**2x + 1) or for small x a polynomial; at most 2.3 ulp."""
    cdef vf a = v_abs(x), u = v_mul(x, x), one = v_set(1.0), q, big
    q = v_set(-0.005899543408304453)
    q = v_fma(q, u, v_set(0.02079996094107628))
    q = v_fma(q, u, v_set(-0.05378507450222969))
    q = v_fma(q, u, v_set(0.13331939280033112))
    q = v_fma(q, u, v_set(-0.33333298563957214))
    q = v_fma(v_mul(u, x), q, x)
    # Beyond 10 the result is 1.
    big = v_recip(one_plus_exp_of_minus(v_max(v_set(-20.0), v_mul(a, v_set(-2.0)))))
    big = v_sign_of(v_fma(big, v_set(-2.0), one), x)
    return v_select(v_gt(a, v_set(0.55)), big, v_sign_of(v_abs(q), x))


cdef inline vf v_sigmoid(vf x) noexcept nogil:
    """1 / (1 + e**-x); at most 3.9 ulp where |x| < 10, 5.3 beyond, 0 for x < -87.33 (below 1.2e-38)."""
    # (Whatever comes of what is too small is replaced by 0.)
    cdef vf z = v_min(v_set(87.33), x)
    return v_recip_above(one_plus_exp_of_minus(z), x, v_set(-87.33))


cdef inline vf v_log(vf x) noexcept nogil:
    """Natural logarithm; at most 0.9 ulp. log(±0) = -inf, log(x < 0) = NaN."""
    # x = m * 2**e with m in [sqrt(1/2), sqrt(2)).
    cdef vi i = v_bits(x)
    cdef vi e = v_ishr(v_isub(i, v_iset(0x3F3504F3)), 23)
    cdef vf f = v_sub(v_from_bits(v_isub(i, v_ishl(e, 23))), v_set(1.0))
    cdef vf n = v_to_float(e), f2 = v_mul(f, f)
    cdef vf q = v_set(-0.07861663401126862)
    q = v_fma(q, f, v_set(0.12882941961288452))
    q = v_fma(q, f, v_set(-0.13128504157066345))
    q = v_fma(q, f, v_set(0.14180947840213776))
    q = v_fma(q, f, v_set(-0.16624557971954346))
    q = v_fma(q, f, v_set(0.20002301037311554))
    q = v_fma(q, f, v_set(-0.25000810623168945))
    q = v_fma(q, f, v_set(0.33333316445350647))
    q = v_fma(v_mul(f, f2), q, v_mul(n, v_set(-2.12194440054690583e-4)))
    q = v_fma(f2, v_set(-0.5), q)
    q = v_fma(n, v_set(0.693359375), v_add(f, q))
    cdef vf low = v_select(v_lt(x, v_zero()), v_nan(), v_neg(v_inf()))
    q = v_select(v_lt(x, v_set(1.17549435e-38)), low, q)
    return v_select(v_lt(x, v_inf()), q, x)


cdef inline vf v_log1p_unit(vf t) noexcept nogil:
    """log(1 + t) for 0 ≤ t ≤ 1, as 2 atanh(t / (2 + t))."""
    cdef vf s = v_div(t, v_add(t, v_set(2.0)))
    cdef vf u = v_mul(s, s)
    cdef vf q = v_set(0.14013350009918213)
    q = v_fma(q, u, v_set(0.13999314606189728))
    q = v_fma(q, u, v_set(0.20010867714881897))
    q = v_fma(q, u, v_set(0.3333320617675781))
    s = v_add(s, s)
    return v_fma(v_mul(s, u), q, s)


cdef inline vf v_erf_small(vf x) noexcept nogil:
    """erf(x) for |x| ≤ 0.93."""
    cdef vf u = v_mul(x, x)
    cdef vf q = v_set(7.969663420226425e-05)
    q = v_fma(q, u, v_set(-0.0008043839479796588))
    q = v_fma(q, u, v_set(0.005191947799175978))
    q = v_fma(q, u, v_set(-0.02685558795928955))
    q = v_fma(q, u, v_set(0.11283624172210693))
    q = v_fma(q, u, v_set(-0.3761262893676758))
    q = v_fma(q, u, v_set(0.12837916612625122))
    return v_fma(x, q, x)


cdef inline vf v_erfc_large(vf a) noexcept nogil:
    """1 - erf(a) for a ≥ 0.92, as exp of a polynomial."""
    cdef vf q = v_set(-2.109277374984231e-05)
    q = v_fma(q, a, v_set(0.00043444466427899897))
    q = v_fma(q, a, v_set(-0.004171009175479412))
    q = v_fma(q, a, v_set(0.025119351223111153))
    q = v_fma(q, a, v_set(-0.10828004032373428))
    q = v_fma(q, a, v_set(-0.6333469152450562))
    q = v_fma(q, a, v_set(-1.1295149326324463))
    q = v_fma(q, a, v_set(0.00017468440637458116))
    # The polynomial's terms cancel as infinities far out, where the result is 0 anyway.
    return v_select(v_gt(a, v_set(10.0)), v_zero(), v_exp(q))


cdef inline vf v_erf(vf x) noexcept nogil:
    """The error function; at most 1.1 ulp."""
    cdef vf a = v_abs(x)
    cdef vf big = v_sign_of(v_sub(v_set(1.0), v_erfc_large(a)), x)
    return v_select(v_gt(a, v_set(0.92)), big, v_erf_small(x))


cdef inline vf v_gelu(vf x) noexcept nogil:
    """x * Φ(x) with the normal distribution's Φ; at most 6.2 ulp for x > -1, within 7e-8 below.

    Φ(-a) for a ≥ 0 is 2 to the power of a polynomial, fitted so that the product keeps these bounds.
    It falls without end, so that the tails are exactly 0 and x.
    """
    cdef vf a = v_abs(x), t, r
    cdef vf q = v_set(-1.8720484149525873e-06)
    q = v_fma(q, a, v_set(2.7746027626562864e-05))
    q = v_fma(q, a, v_set(-0.00013037919416092336))
    q = v_fma(q, a, v_set(-0.0002732298453338444))
    q = v_fma(q, a, v_set(0.007243859115988016))
    q = v_fma(q, a, v_set(-0.052623260766267776))
    q = v_fma(q, a, v_set(-0.4591650664806366))
    q = v_fma(q, a, v_set(-1.1511106491088867))
    q = v_fma(q, a, v_set(-0.9999998807907104))
    q = v_max(v_set(-127.0), q)
    t = v_add(q, v_set(BIASED))
    r = v_sub(q, v_sub(t, v_set(BIASED)))
    q = v_set(0.001327647129073739)
    q = v_fma(q, r, v_set(0.009675540961325169))
    q = v_fma(q, r, v_set(0.05550713092088699))
    q = v_fma(q, r, v_set(0.24022120237350464))
    q = v_fma(q, r, v_set(0.6931469440460205))
    q = v_fma(q, r, v_set(1.0000001192092896))
    q = v_mul(q, v_from_bits(v_ishl(v_bits(t), 23)))
    return v_mul(x, v_select(v_gt(x, v_zero()), v_sub(v_set(1.0), q), q))


cdef inline float reduce_large(float x, int32_t* quadrant) noexcept nogil:
    """x modulo π/2, in [-π/4, π/4], for 2**12 ≤ |x| < inf, and how many quarter turns were taken.

    After Payne and Hanek, "Radian Reduction for Trigonometric Functions", 1983: the 24-bit
    significand times the 96 bits of 2/π that matter for its exponent.
    """
    cdef uint32_t table[8]
    cdef uint32_t bits, w0, w1, w2
    cdef uint64_t m, low, mid, top, v
    cdef int first, word, shift, k
    cdef uint64_t pair
    cdef uint32_t window[3]
    table[0] = 0xA2F9836E
    table[1] = 0x4E441529
    table[2] = 0xFC2757D1
    table[3] = 0xF534DDC0
    table[4] = 0xDB629599
    table[5] = 0x3C439041
    table[6] = 0xFE5163AB
    table[7] = 0xDEBBC561
    memcpy(&bits, &x, 4)
    m = (bits & 0x7FFFFF) | 0x800000
    # x = m * 2**s; bits of 2/π (the k-th weighs 2**-k) before k = s - 1 give whole turns.
    first = <int>((bits >> 23) & 255) - 150 - 2
    for k in range(3):
        word = (first + 32 * k) >> 5
        shift = (first + 32 * k) & 31
        pair = (<uint64_t>(table[word] if word >= 0 else 0) << 32) | table[word + 1]
        window[k] = <uint32_t>(pair >> (32 - shift))
    low = m * window[2]
    mid = m * window[1] + (low >> 32)
    top = m * window[0] + (mid >> 32)
    v = (top << 32) | <uint32_t>mid        # quarter turns modulo 4, in units of 2**-62
    k = <int>((v + (<uint64_t>1 << 61)) >> 62)
    v -= <uint64_t>k << 62
    cdef double r = <double><int64_t>v * 3.4061215800304817e-19     # π/2 * 2**-62
    if bits >> 31:
        r = -r
        k = -k
    quadrant[0] = k
    return <float>r


cdef inline vf v_sin_turned(vf x, int turns) noexcept nogil:
    """sin(x + turns * π/2)."""
    cdef vf a = v_abs(x), r, u, s, c
    cdef vf t = v_fma(x, v_set(0.6366197723675814), v_set(12582912.0))
    cdef vf n = v_sub(t, v_set(12582912.0))
    cdef vi q = v_bits(t)       # its low two bits are those of n
    cdef float xs[VW]
    cdef float rs[VW]
    cdef int32_t qs[VW]
    cdef int i
    r = v_fma(n, v_set(-1.5703125), x)
    r = v_fma(n, v_set(-0.0004837512969970703), r)
    r = v_fma(n, v_set(-7.549533620476723e-08), r)
    r = v_fma(n, v_set(-2.5633440682570896e-12), r)
    if v_hsum(v_select(v_gt(a, v_set(4096.0)), v_set(1.0), v_zero())) != 0:
        v_store(xs, x)
        v_store(rs, r)
        v_store(<float*>qs, v_from_bits(q))
        for i in range(VW):
            if (xs[i] > 4096 or xs[i] < -4096) and xs[i] - xs[i] == 0:
                rs[i] = reduce_large(xs[i], &qs[i])
        r = v_load(rs)
        q = v_bits(v_load(<float*>qs))
    q = v_iadd(q, v_iset(turns))
    u = v_mul(r, r)
    s = v_fma(v_set(-0.0001950562873389572), u, v_set(0.00833209604024887))
    s = v_fma(s, u, v_set(-0.16666653752326965))
    s = v_fma(v_mul(u, r), s, r)
    c = v_fma(v_set(2.442821096337866e-05), u, v_set(-0.0013887288514524698))
    c = v_fma(c, u, v_set(0.04166664555668831))
    c = v_fma(c, u, v_set(-0.5))
    c = v_fma(c, u, v_set(1.0))
    # Odd quadrants take the cosine; the second and third change the sign.
    s = v_select(v_isub(v_iset(0), v_iand(q, v_iset(1))), c, s)
    s = v_from_bits(v_ixor(v_bits(s), v_ishl(v_iand(q, v_iset(2)), 30)))
    return v_select(v_lt(a, v_inf()), s, v_nan())


cdef inline vf v_sin(vf x) noexcept nogil:
    """Sine of x radians, any size of x; at most 2.3 ulp. sin(±inf) = NaN."""
    return v_select(v_eq(x, v_zero()), x, v_sin_turned(x, 0))


cdef inline vf v_cos(vf x) noexcept nogil:
    """Cosine of x radians, any size of x; at most 2.3 ulp. cos(±inf) = NaN."""
    return v_sin_turned(x, 1)


cdef inline double log2_double(double x) noexcept nogil:
    """log2 of a positive, finite, normal double, to about 1e-13 (atanh series)."""
    cdef int64_t i, e, half = 0x3FE6A09E667F3BCD     # the bits of sqrt(1/2)
    cdef double s, u, p
    memcpy(&i, &x, 8)
    e = (i - half) >> 52
    i -= e << 52
    memcpy(&x, &i, 8)
    s = (x - 1) / (x + 1)
    u = s * s
    p = 1.0 / 17 + u * (1.0 / 19)
    p = 1.0 / 13 + u * (1.0 / 15 + u * p)
    p = 1.0 / 9 + u * (1.0 / 11 + u * p)
    p = 1.0 / 5 + u * (1.0 / 7 + u * p)
    p = 1 + u * (1.0 / 3 + u * p)
    return <double>e + 2.8853900817779268 * s * p


cdef inline double exp2_double(double x) noexcept nogil:
    """2**x for |x| ≤ 1000, to about 1e-13 (Taylor series)."""
    cdef double t = x + 6755399441055744.0      # 1.5 * 2**52: rounds to an integer
    cdef double r = (x - (t - 6755399441055744.0)) * 0.6931471805599453
    cdef int64_t i, magic = 0x4338000000000000     # the bits of 1.5 * 2**52
    cdef double p = 1.0 / 39916800, scale
    memcpy(&i, &t, 8)
    p = 1.0 / 3628800 + r * p
    p = 1.0 / 362880 + r * p
    p = 1.0 / 40320 + r * p
    p = 1.0 / 5040 + r * p
    p = 1.0 / 720 + r * p
    p = 1.0 / 120 + r * p
    p = 1.0 / 24 + r * p
    p = 1.0 / 6 + r * p
    p = 0.5 + r * p
    p = 1 + r * (1 + r * p)
    i = (i - magic + 1023) << 52
    memcpy(&scale, &i, 8)
    return p * scale


cdef inline float pow_float(float x, float y) noexcept nogil:
    """x**y with the special cases of C's ``pow``, computed in double; at most 1 ulp."""
    cdef float ax = -x if x < 0 else x, ay = -y if y < 0 else y
    cdef float inf = INFINITY
    cdef bint whole = ay >= 16777216 or <float><int>y == y, odd = False
    cdef bint negative
    cdef uint32_t bits
    cdef double t
    cdef float r
    memcpy(&bits, &x, 4)
    if y == 0 or x == 1:
        return 1
    if x != x or y != y:
        return x + y
    if ay < 16777216:
        odd = whole and <int>y & 1
    negative = odd and bits >> 31
    if ay == inf:
        if ax == 1:
            return 1
        return inf if (ax > 1) == (y > 0) else 0
    if ax == 0 or ax == inf:
        r = 0 if (ax == 0) == (y > 0) else inf
        return -r if negative else r
    if x < 0 and not whole:
        return inf - inf
    t = <double>y * log2_double(ax)
    t = -1000 if t < -1000 else 1000 if t > 1000 else t
    r = <float>exp2_double(t)
    return -r if negative else r


cdef inline vf v_pow(vf x, vf y) noexcept nogil:
    """x**y lane by lane, as ``pow_float``."""
    cdef float xs[VW]
    cdef float ys[VW]
    cdef int i
    v_store(xs, x)
    v_store(ys, y)
    for i in range(VW):
        xs[i] = pow_float(xs[i], ys[i])
    return v_load(xs)


cdef inline vf v_act(const int kind, vf x, vf a, vf b) noexcept nogil:
    """One activation; ``kind`` is a literal at every call, so that one branch remains."""
    cdef vf one = v_set(1.0), t
    if kind == ACT_CLIP:
        return v_min(b, v_max(a, x))
    elif kind == ACT_LEAKY_RELU:
        return v_select(v_lt(x, v_zero()), v_mul(a, x), x)
    elif kind == ACT_SIGMOID:
        return v_sigmoid(x)
    elif kind == ACT_TANH:
        return v_tanh(x)
    elif kind == ACT_SILU:
        return v_mul(x, v_sigmoid(v_mul(a, x)))
    elif kind == ACT_SILU_ONE:
        return v_mul(x, v_sigmoid(x))
    elif kind == ACT_HARD_SIGMOID:
        return v_min(one, v_max(v_zero(), v_fma(a, x, b)))
    elif kind == ACT_HARD_SWISH:
        t = v_min(v_set(6.0), v_max(v_zero(), v_add(x, v_set(3.0))))
        return v_mul(x, v_mul(t, v_set(0.16666666666666666)))
    elif kind == ACT_GELU:
        return v_gelu(x)
    elif kind == ACT_GELU_TANH:
        # (1 + tanh(u)) / 2 = sigmoid(2u)
        t = v_fma(v_mul(x, x), v_set(0.044715), one)
        return v_mul(x, v_sigmoid(v_mul(v_mul(x, v_set(1.5957691216057308)), t)))
    elif kind == ACT_ELU:
        return v_select(v_gt(x, v_zero()), x, v_mul(a, v_expm1(x)))
    elif kind == ACT_SELU:
        return v_mul(b, v_select(v_gt(x, v_zero()), x, v_mul(a, v_expm1(x))))
    elif kind == ACT_CELU:
        return v_select(v_gt(x, v_zero()), x, v_mul(a, v_expm1(v_div(x, a))))
    elif kind == ACT_SOFTPLUS:
        t = v_log1p_unit(v_exp(v_neg(v_abs(x))))
        return v_add(v_max(v_zero(), x), t)
    elif kind == ACT_SOFTSIGN:
        return v_div(x, v_add(one, v_abs(x)))
    elif kind == ACT_MISH:
        # tanh(log(1 + e)) = n / (n + 2) with n = e**2 + 2e
        t = v_exp(v_min(v_set(20.0), x))
        t = v_mul(t, v_add(t, v_set(2.0)))
        return v_mul(x, v_div(t, v_add(t, v_set(2.0))))
    elif kind == ACT_THRESHOLDED_RELU:
        return v_select(v_le(x, a), v_zero(), x)
    elif kind == ACT_EXP:
        return v_exp(x)
    elif kind == ACT_LOG:
        return v_log(x)
    elif kind == ACT_SQRT:
        return v_sqrt(x)
    elif kind == ACT_ERF:
        return v_erf(x)
    elif kind == ACT_RECIPROCAL:
        return v_div(one, x)
    elif kind == ACT_ABS:
        return v_abs(x)
    elif kind == ACT_NEG:
        return v_neg(x)
    elif kind == ACT_SQUARE:
        return v_mul(x, x)
    elif kind == ACT_FLOOR:
        return v_floor(x)
    elif kind == ACT_CEIL:
        return v_neg(v_floor(v_neg(x)))
    elif kind == ACT_ROUND:
        return v_round(x)
    elif kind == ACT_SIGN:
        t = v_select(v_lt(x, v_zero()), v_set(-1.0), x)
        return v_select(v_gt(x, v_zero()), one, t)
    elif kind == ACT_SIN:
        return v_sin(x)
    elif kind == ACT_COS:
        return v_cos(x)
    elif kind == ACT_SHRINK:
        t = v_select(v_gt(x, a), v_sub(x, b), v_zero())
        return v_select(v_lt(x, v_neg(a)), v_add(x, b), t)
    elif kind == ACT_POW:
        return v_pow(x, a)
    elif kind == ACT_CUBE:
        return v_mul(v_mul(x, x), x)
    elif kind == ACT_POW_HALF:
        # C's pow differs from sqrt at -0 and -inf.
        t = v_add(v_sqrt(x), v_zero())
        return v_select(v_eq(x, v_neg(v_inf())), v_inf(), t)
    return x


cdef inline void act_loop(
    const int kind, float alpha, float beta, const float* x, float* y, Py_ssize_t n
) noexcept nogil:
    # One body for whole vectors and the tail: an element's bits do not depend on where it lies.
    cdef vf a = v_set(alpha), b = v_set(beta), v
    cdef Py_ssize_t i = 0
    while i < n:
        if n - i >= VW:
            v = v_load(x + i)
        else:
            v = v_load_n(x + i, <int>(n - i))
        v = v_act(kind, v, a, b)
        if n - i >= VW:
            v_store(y + i, v)
        else:
            v_store_n(y + i, v, <int>(n - i))
        i += VW


cdef inline void act_switch(
    int kind, float alpha, float beta, const float* x, float* y, Py_ssize_t n
) noexcept nogil:
    if kind == ACT_CLIP: act_loop(ACT_CLIP, alpha, beta, x, y, n)
    elif kind == ACT_LEAKY_RELU: act_loop(ACT_LEAKY_RELU, alpha, beta, x, y, n)
    elif kind == ACT_SIGMOID: act_loop(ACT_SIGMOID, alpha, beta, x, y, n)
    elif kind == ACT_TANH: act_loop(ACT_TANH, alpha, beta, x, y, n)
    elif kind == ACT_SILU and alpha == 1: act_loop(ACT_SILU_ONE, alpha, beta, x, y, n)
    elif kind == ACT_SILU: act_loop(ACT_SILU, alpha, beta, x, y, n)
    elif kind == ACT_HARD_SIGMOID: act_loop(ACT_HARD_SIGMOID, alpha, beta, x, y, n)
    elif kind == ACT_HARD_SWISH: act_loop(ACT_HARD_SWISH, alpha, beta, x, y, n)
    elif kind == ACT_GELU: act_loop(ACT_GELU, alpha, beta, x, y, n)
    elif kind == ACT_GELU_TANH: act_loop(ACT_GELU_TANH, alpha, beta, x, y, n)
    elif kind == ACT_ELU: act_loop(ACT_ELU, alpha, beta, x, y, n)
    elif kind == ACT_SELU: act_loop(ACT_SELU, alpha, beta, x, y, n)
    elif kind == ACT_CELU: act_loop(ACT_CELU, alpha, beta, x, y, n)
    elif kind == ACT_SOFTPLUS: act_loop(ACT_SOFTPLUS, alpha, beta, x, y, n)
    elif kind == ACT_SOFTSIGN: act_loop(ACT_SOFTSIGN, alpha, beta, x, y, n)
    elif kind == ACT_MISH: act_loop(ACT_MISH, alpha, beta, x, y, n)
    elif kind == ACT_THRESHOLDED_RELU: act_loop(ACT_THRESHOLDED_RELU, alpha, beta, x, y, n)
    elif kind == ACT_EXP: act_loop(ACT_EXP, alpha, beta, x, y, n)
    elif kind == ACT_LOG: act_loop(ACT_LOG, alpha, beta, x, y, n)
    elif kind == ACT_SQRT: act_loop(ACT_SQRT, alpha, beta, x, y, n)
    elif kind == ACT_ERF: act_loop(ACT_ERF, alpha, beta, x, y, n)
    elif kind == ACT_RECIPROCAL: act_loop(ACT_RECIPROCAL, alpha, beta, x, y, n)
    elif kind == ACT_ABS: act_loop(ACT_ABS, alpha, beta, x, y, n)
    elif kind == ACT_NEG: act_loop(ACT_NEG, alpha, beta, x, y, n)
    elif kind == ACT_SQUARE: act_loop(ACT_SQUARE, alpha, beta, x, y, n)
    elif kind == ACT_FLOOR: act_loop(ACT_FLOOR, alpha, beta, x, y, n)
    elif kind == ACT_CEIL: act_loop(ACT_CEIL, alpha, beta, x, y, n)
    elif kind == ACT_ROUND: act_loop(ACT_ROUND, alpha, beta, x, y, n)
    elif kind == ACT_SIGN: act_loop(ACT_SIGN, alpha, beta, x, y, n)
    elif kind == ACT_SIN: act_loop(ACT_SIN, alpha, beta, x, y, n)
    elif kind == ACT_COS: act_loop(ACT_COS, alpha, beta, x, y, n)
    elif kind == ACT_SHRINK: act_loop(ACT_SHRINK, alpha, beta, x, y, n)
    elif kind == ACT_POW and alpha == 2: act_loop(ACT_SQUARE, alpha, beta, x, y, n)
    elif kind == ACT_POW and alpha == 3: act_loop(ACT_CUBE, alpha, beta, x, y, n)
    elif kind == ACT_POW and alpha == -1: act_loop(ACT_RECIPROCAL, alpha, beta, x, y, n)
    elif kind == ACT_POW and alpha == 0.5: act_loop(ACT_POW_HALF, alpha, beta, x, y, n)
    elif kind == ACT_POW: act_loop(ACT_POW, alpha, beta, x, y, n)
    else: act_loop(ACT_NONE, alpha, beta, x, y, n)


ctypedef void (*act_fn)(int, float, float, const float*, float*, Py_ssize_t) noexcept nogil

cdef extern from *:
    """
    typedef void (*fastconv_act_fn)(int, float, float, const float *, float *, Py_ssize_t);
    static inline fastconv_act_fn fastconv_opaque(fastconv_act_fn f) {
        __asm__("" : "+r"(f));
        return f;
    }
    """
    act_fn fastconv_opaque(act_fn f) nogil


cdef inline void activate_to(
    int kind, float alpha, float beta, const float* x, float* y, Py_ssize_t n
) noexcept nogil:
    """``y[:n]`` = one activation of ``x[:n]``; ``x`` and ``y`` are the same or do not overlap."""
    cdef act_fn f = act_switch
    # The address goes through an empty asm statement, which hides the function from the inliner:
    # its code is in every module once, and not at every call.
    fastconv_opaque(f)(kind, alpha, beta, x, y, n)


cdef inline void activate(int kind, float alpha, float beta, float* p, Py_ssize_t n) noexcept nogil:
    """Apply one activation in place to ``n`` floats; the same bits wherever an element lies."""
    activate_to(kind, alpha, beta, p, p, n)
