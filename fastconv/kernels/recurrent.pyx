"""The part of LSTM, GRU and RNN that goes step by step: the state's products, and the gates.

What the inputs give to the gates is a matrix product over all steps, made before. Weights of the
state lie as [panel of VW units][state unit][gate][VW], so that a panel's gates are summed together,
for several sequences at once. Every sum runs over the state in order, whatever shares it.
"""

from libc.stdint cimport int32_t, int64_t, uintptr_t
from libc.string cimport memcpy, memset

from fastconv.kernels.abi cimport Call, share
from fastconv.kernels.lanes cimport load, store
from fastconv.kernels.simd cimport *
from fastconv.kernels.vmath cimport v_sigmoid, v_tanh

cdef enum:
    # What a panel's sums become.
    LSTM = 0        # i, o, f, c: the next cell and state
    GRU = 1         # z, r, h, with the reset gate applied to the state's sum
    GRU_GATES = 2   # z and r: z, and the state times r
    GRU_HIDDEN = 3  # h, from the state times r
    RNN_TANH = 4
    RNN_RELU = 5
    MOST = 4        # sequences at once


cdef struct RecurrentParams:
    int64_t time, batch, directions, hidden
    int32_t kind
    # Whether the first direction goes backwards; the second always does.
    int32_t reverse


cdef inline int gates_of(const int kind) noexcept nogil:
    return 4 if kind == LSTM else 3 if kind == GRU else 2 if kind == GRU_GATES else 1


cdef struct Rows:
    # Of each sequence: the projected inputs, what is multiplied, the state before and after, the
    # LSTM's cell, and for the GRU the update gate and the state times the reset gate.
    const float* x[MOST]
    const float* u[MOST]
    const float* before[MOST]
    float* after[MOST]
    float* cell[MOST]
    float* update[MOST]
    float* reset[MOST]


cdef inline void panel(
    const int kind, const int rows, const int panels, Rows* s, const float* w, const float* bias,
    int64_t hidden, int64_t at,
) noexcept nogil:
    """``panels`` panels of units from ``at`` on, of ``rows`` sequences."""
    cdef vf acc[16]
    cdef vf a[4]
    cdef vf b, i, o, f, c, z, h
    cdef int G = gates_of(kind)
    cdef int r, q, g, n
    cdef int64_t k, j, stride = hidden * G * VW
    for r in range(rows):
        for q in range(panels):
            j = at + q * VW
            n = <int>min(hidden - j, VW)
            for g in range(G):
                if kind == GRU and g == 2:
                    acc[(r * panels + q) * G + g] = load(bias + j, n)
                elif kind == GRU_HIDDEN:
                    acc[(r * panels + q) * G + g] = load(s.x[r] + 2 * hidden + j, n)
                else:
                    acc[(r * panels + q) * G + g] = load(s.x[r] + g * hidden + j, n)
    for k in range(hidden):
        for r in range(rows):
            a[r] = v_set(s.u[r][k])
        for q in range(panels):
            for g in range(G):
                b = v_load(w + q * stride + g * VW)
                for r in range(rows):
                    acc[(r * panels + q) * G + g] = v_fma(a[r], b, acc[(r * panels + q) * G + g])
        w += G * VW
    for r in range(rows):
        for q in range(panels):
            j = at + q * VW
            n = <int>min(hidden - j, VW)
            g = (r * panels + q) * G
            if kind == LSTM:
                i = v_sigmoid(acc[g])
                o = v_sigmoid(acc[g + 1])
                f = v_sigmoid(acc[g + 2])
                c = v_fma(f, load(s.cell[r] + j, n), v_mul(i, v_tanh(acc[g + 3])))
                store(s.cell[r] + j, c, n)
                h = v_mul(o, v_tanh(c))
            elif kind == GRU:
                z = v_sigmoid(acc[g])
                h = v_tanh(v_fma(v_sigmoid(acc[g + 1]), acc[g + 2],
                                 load(s.x[r] + 2 * hidden + j, n)))
                h = v_fma(z, v_sub(load(s.before[r] + j, n), h), h)
            elif kind == GRU_GATES:
                store(s.update[r] + j, v_sigmoid(acc[g]), n)
                store(s.reset[r] + j, v_mul(v_sigmoid(acc[g + 1]), load(s.before[r] + j, n)), n)
                continue
            elif kind == GRU_HIDDEN:
                h = v_tanh(acc[g])
                h = v_fma(load(s.update[r] + j, n), v_sub(load(s.before[r] + j, n), h), h)
            elif kind == RNN_TANH:
                h = v_tanh(acc[g])
            else:
                h = v_max(v_zero(), acc[g])
            store(s.after[r] + j, h, n)


cdef inline void units(
    const int kind, const int rows, Rows* s, const float* w, const float* bias, int64_t hidden
) noexcept nogil:
    """All units of ``rows`` sequences at one step."""
    cdef int64_t at = 0, stride = hidden * gates_of(kind)
    if rows == 1:
        while at + VW < hidden:
            panel(kind, 1, 2, s, w + at * stride, bias, hidden, at)
            at += 2 * VW
    while at < hidden:
        panel(kind, rows, 1, s, w + at * stride, bias, hidden, at)
        at += VW


cdef inline void step(
    const int kind, int rows, Rows* s, const float* w, const float* bias, int64_t hidden
) noexcept nogil:
    if rows == 4:
        units(kind, 4, s, w, bias, hidden)
    elif rows == 3:
        units(kind, 3, s, w, bias, hidden)
    elif rows == 2:
        units(kind, 2, s, w, bias, hidden)
    else:
        units(kind, 1, s, w, bias, hidden)


cdef inline void all_kinds(
    int kind, int rows, Rows* s, const float* w, const float* second, const float* bias,
    int64_t hidden,
) noexcept nogil:
    """One time step of ``rows`` sequences."""
    cdef int r
    if kind == LSTM:
        step(LSTM, rows, s, w, bias, hidden)
    elif kind == GRU:
        step(GRU, rows, s, w, bias, hidden)
    elif kind == GRU_GATES:
        step(GRU_GATES, rows, s, w, bias, hidden)
        for r in range(rows):
            s.u[r] = s.reset[r]
        step(GRU_HIDDEN, rows, s, second, bias, hidden)
    elif kind == RNN_TANH:
        step(RNN_TANH, rows, s, w, bias, hidden)
    else:
        step(RNN_RELU, rows, s, w, bias, hidden)


cdef void recurrent(const Call* c, int thread, int threads) noexcept nogil:
    """One layer.

    Buffers: projected inputs [time][batch][directions][gates][hidden]; weights of each direction,
    for GRU_GATES those of its hidden gate behind; bias of GRU's hidden gate [directions][hidden]
    or NULL; first states [directions][batch][hidden] or NULL; first cells alike; scratch of 2
    [directions][batch][hidden]; then y [time][directions][batch][hidden]; last states and last
    cells [directions][batch][hidden].
    """
    cdef const RecurrentParams* p = <const RecurrentParams*>c.params
    cdef const float* x = <const float*>c.buf[0]
    cdef const float* first = <const float*>c.buf[3]
    cdef const float* cells = <const float*>c.buf[4]
    cdef float* scratch = <float*>c.buf[5]
    cdef float* y = <float*>c.buf[6]
    cdef float* last = <float*>c.buf[7]
    cdef float* last_cell = <float*>c.buf[8]
    cdef int64_t h = p.hidden, size = h * sizeof(float)
    cdef int64_t padded = (h + VW - 1) // VW * VW
    cdef int gates = gates_of(p.kind)
    cdef int64_t inputs = (3 if p.kind == GRU_GATES else gates) * h
    cdef int64_t most = MOST if VW >= 16 else 2
    cdef int64_t groups = (p.batch + most - 1) // most
    cdef int64_t u = share(p.directions * groups, thread, threads)
    cdef int64_t end = share(p.directions * groups, thread + 1, threads)
    cdef int64_t d, b, t, k, at
    cdef int rows, r
    cdef const float* w
    cdef const float* second
    cdef const float* bias
    cdef Rows s
    while u < end:
        d = u // groups
        b = u % groups * most
        rows = <int>min(most, p.batch - b)
        w = (<const float*>c.buf[1]) + d * padded * h * (3 if p.kind == GRU_GATES else gates)
        second = w + padded * h * gates
        bias = <const float*>c.buf[2]
        if bias != NULL:
            bias += d * h
        for r in range(rows):
            at = (d * p.batch + b + r) * h
            s.cell[r] = last_cell + at
            s.update[r] = scratch + at
            s.reset[r] = scratch + p.directions * p.batch * h + at
            # The state before the first step lies where the last one will.
            if first == NULL:
                memset(last + at, 0, size)
            else:
                memcpy(last + at, first + at, size)
            if last_cell != NULL:
                if cells == NULL:
                    memset(last_cell + at, 0, size)
                else:
                    memcpy(last_cell + at, cells + at, size)
            s.before[r] = last + at
        for k in range(p.time):
            t = p.time - 1 - k if (d == 1 or p.reverse) else k
            for r in range(rows):
                s.x[r] = x + ((t * p.batch + b + r) * p.directions + d) * inputs
                s.after[r] = y + ((t * p.directions + d) * p.batch + b + r) * h
                s.u[r] = s.before[r]
            all_kinds(p.kind, rows, &s, w, second, bias, h)
            for r in range(rows):
                s.before[r] = s.after[r]
        for r in range(rows):
            at = (d * p.batch + b + r) * h
            if p.time > 0:
                memcpy(last + at, s.before[r], size)
        u += 1


def pack_recurrent(**values):
    """The bytes of ``RecurrentParams``."""
    cdef RecurrentParams p = values
    return (<char*>&p)[:sizeof(RecurrentParams)]


KERNELS = {"recurrent": (<uintptr_t>&recurrent, pack_recurrent)}
