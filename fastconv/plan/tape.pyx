"""Recorded integer arithmetic that is done again for other sizes, at the speed of C.

A :class:`Tape` is what ``graph/tracing.py`` recorded: a list of instructions over numbered values, of
which the first are the sizes that it is run for. Some compare two values: where the outcome is not
the recorded one, or a number leaves the range in which these sums are those of Python, the tape does
not say what it would say of other sizes: the run ends with None.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport ceil, fabs, floor, rint
from libc.stdint cimport INT64_MIN, int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from *:
    bint add_passes "__builtin_add_overflow"(int64_t, int64_t, int64_t*) nogil
    bint sub_passes "__builtin_sub_overflow"(int64_t, int64_t, int64_t*) nogil
    bint mul_passes "__builtin_mul_overflow"(int64_t, int64_t, int64_t*) nogil

cdef enum Op:
    ADD
    SUB
    MUL
    FLOORDIV
    MOD
    FADD
    FSUB
    FMUL
    FDIV
    TOFLOAT
    CEIL
    FLOOR
    ROUND
    LT
    LE
    EQ
    FLT
    FLE
    FEQ
    CALL

cdef enum:
    #: Values that a tape may have.
    MOST = 2048
    #: What a parameter struct holds.
    INT64 = 0
    INT32 = 1
    FLOAT = 2

#: Instructions by the names that ``graph/tracing.py`` records.
_CODES = {
    "+": ADD, "-": SUB, "*": MUL, "//": FLOORDIV, "%": MOD, "f+": FADD, "f-": FSUB, "f*": FMUL,
    "f/": FDIV, "float": TOFLOAT, "ceil": CEIL, "floor": FLOOR, "round": ROUND,
    "<": LT, "<=": LE, "==": EQ, "f<": FLT, "f<=": FLE, "f==": FEQ, "call": CALL,
}
#: Integers beyond this are not all doubles.
cdef int64_t EXACT = 1 << 53
cdef double ROUNDED = 4e15


cdef union Number:
    int64_t i
    double d


cdef struct Instruction:
    int op
    int target      # the value it gives, or the outcome that a comparison must have
    int a
    int b


cdef struct Patch:
    int part
    int offset      # bytes from the start of the struct
    int kind
    int value


cdef class Tape:
    """Recorded arithmetic, read-only once made: any number of threads may run it.

    Args:
        n_inputs: how many sizes it is run for.
        start: every value as it was recorded; constants keep it.
        floats: which of them are floats.
        code: ``(op, target, a, b)`` each, op by its name; for "call", a is which call.
        calls: ``(function, arguments, targets)``: arguments are values' numbers where they come as
            lists of one number, and anything else is passed as it is.
        outputs: the values that a run gives.
        parts: ``(struct, patches)`` each, a parameter struct as bytes and ``(offset, kind, value)``
            for what depends on the sizes; kind 0 is an int64, 1 an int32 and 2 a float.
    """

    cdef Number* start
    cdef char* floats
    cdef Instruction* code
    cdef int* outputs
    cdef Patch* patches
    cdef readonly int n_inputs, n_values, n_code
    cdef int n_outputs, n_patches
    cdef list calls
    cdef list structs

    def __cinit__(
        self, int n_inputs, list start, list floats, list code, list calls, list outputs, list parts
    ):
        cdef int i, n = len(start)
        if n > MOST or n_inputs > n:
            raise ValueError(f"a tape of {n} values; it may have {MOST}")
        self.n_inputs, self.n_values = n_inputs, n
        self.n_code, self.n_outputs = len(code), len(outputs)
        self.calls = calls
        self.structs = [s for s, _ in parts]
        self.n_patches = sum([len(p) for _, p in parts])
        self.start = <Number*>malloc((n + 1) * sizeof(Number))
        self.floats = <char*>malloc(n + 1)
        self.code = <Instruction*>malloc((self.n_code + 1) * sizeof(Instruction))
        self.outputs = <int*>malloc((self.n_outputs + 1) * sizeof(int))
        self.patches = <Patch*>malloc((self.n_patches + 1) * sizeof(Patch))
        if (
            self.start == NULL or self.floats == NULL or self.code == NULL
            or self.outputs == NULL or self.patches == NULL
        ):
            raise MemoryError
        for i in range(n):
            self.floats[i] = bool(floats[i])
            if self.floats[i]:
                self.start[i].d = start[i]
            else:
                self.start[i].i = start[i]
        for i in range(self.n_code):
            name, target, a, b = code[i]
            self.code[i].op = _CODES[name]
            compares = self.code[i].op in (LT, LE, EQ, FLT, FLE, FEQ, CALL)
            self.code[i].target = target if compares else self._value(target)
            self.code[i].a, self.code[i].b = self._value(a), self._value(b)
        for i in range(self.n_outputs):
            self.outputs[i] = self._value(outputs[i])
        i = 0
        for part, (struct, patches) in enumerate(parts):
            for offset, kind, value in patches:
                size = 8 if kind == INT64 else 4
                if not 0 <= offset <= len(struct) - size or kind not in (INT64, INT32, FLOAT):
                    raise ValueError(f"no field of kind {kind} at {offset} of {len(struct)} bytes")
                if bool(floats[self._value(value)]) != (kind == FLOAT):
                    raise ValueError("a field and its value are of different types")
                self.patches[i].part = part
                self.patches[i].offset = offset
                self.patches[i].kind = kind
                self.patches[i].value = value
                i += 1

    def __dealloc__(self):
        free(self.start)
        free(self.floats)
        free(self.code)
        free(self.outputs)
        free(self.patches)

    cdef int _value(self, int i) except -1:
        if not 0 <= i < self.n_values:
            raise ValueError(f"no value {i} among {self.n_values}")
        return i

    def run(self, list sizes):
        """(outputs, structs) for these sizes, or None where the tape does not hold for them."""
        cdef Number v[MOST]
        cdef Instruction c
        cdef int i, part
        cdef int64_t q
        cdef char* at
        if len(sizes) != self.n_inputs:
            raise ValueError(f"{len(sizes)} sizes where {self.n_inputs} are needed")
        memcpy(v, self.start, self.n_values * sizeof(Number))
        try:
            for i in range(self.n_inputs):
                v[i].i = sizes[i]
        except OverflowError:
            return None  # lowering says what is too large
        for i in range(self.n_code):
            c = self.code[i]
            if c.op == ADD:
                if add_passes(v[c.a].i, v[c.b].i, &v[c.target].i):
                    return None
            elif c.op == SUB:
                if sub_passes(v[c.a].i, v[c.b].i, &v[c.target].i):
                    return None
            elif c.op == MUL:
                if mul_passes(v[c.a].i, v[c.b].i, &v[c.target].i):
                    return None
            elif c.op == FLOORDIV or c.op == MOD:
                if v[c.b].i == 0 or v[c.a].i == INT64_MIN:
                    return None
                q = v[c.a].i // v[c.b].i
                if q * v[c.b].i != v[c.a].i and (v[c.a].i < 0) != (v[c.b].i < 0):
                    q -= 1
                v[c.target].i = q if c.op == FLOORDIV else v[c.a].i - q * v[c.b].i
            elif c.op == FADD:
                v[c.target].d = v[c.a].d + v[c.b].d
            elif c.op == FSUB:
                v[c.target].d = v[c.a].d - v[c.b].d
            elif c.op == FMUL:
                v[c.target].d = v[c.a].d * v[c.b].d
            elif c.op == FDIV:
                if v[c.b].d == 0:
                    return None
                v[c.target].d = v[c.a].d / v[c.b].d
            elif c.op == TOFLOAT:
                if not -EXACT <= v[c.a].i <= EXACT:
                    return None
                v[c.target].d = <double>v[c.a].i
            elif c.op == CEIL or c.op == FLOOR or c.op == ROUND:
                if not fabs(v[c.a].d) < ROUNDED:
                    return None
                if c.op == CEIL:
                    v[c.target].i = <int64_t>ceil(v[c.a].d)
                elif c.op == FLOOR:
                    v[c.target].i = <int64_t>floor(v[c.a].d)
                else:
                    v[c.target].i = <int64_t>rint(v[c.a].d)
            elif c.op == LT:
                if (v[c.a].i < v[c.b].i) != c.target:
                    return None
            elif c.op == LE:
                if (v[c.a].i <= v[c.b].i) != c.target:
                    return None
            elif c.op == EQ:
                if (v[c.a].i == v[c.b].i) != c.target:
                    return None
            elif c.op == FLT:
                if (v[c.a].d < v[c.b].d) != c.target:
                    return None
            elif c.op == FLE:
                if (v[c.a].d <= v[c.b].d) != c.target:
                    return None
            elif c.op == FEQ:
                if (v[c.a].d == v[c.b].d) != c.target:
                    return None
            elif not self._call(self.calls[c.a], v):
                return None
        outputs = []
        for i in range(self.n_outputs):
            outputs.append(self._number(v, self.outputs[i]))
        if self.n_patches == 0:
            return outputs, self.structs
        structs = list(self.structs)
        part = -1
        at = NULL
        for i in range(self.n_patches):
            p = self.patches[i]
            if p.part != part:
                part = p.part
                old = <bytes>structs[part]
                new = PyBytes_FromStringAndSize(PyBytes_AS_STRING(old), len(old))
                structs[part] = new  # filled in before anybody else has it
                at = PyBytes_AS_STRING(new)
            if p.kind == INT64:
                memcpy(at + p.offset, &v[p.value].i, 8)
            elif p.kind == INT32:
                if not -(1 << 31) <= v[p.value].i < (1 << 31):
                    return None
                (<int32_t*>(at + p.offset))[0] = <int32_t>v[p.value].i
            else:
                (<float*>(at + p.offset))[0] = <float>v[p.value].d
        return outputs, structs

    cdef object _number(self, Number* v, int i):
        if self.floats[i]:
            return v[i].d
        return v[i].i

    cdef bint _call(self, tuple call, Number* v) except -1:
        """Call a Python function on some values; False where what it gives is of other types."""
        cdef int i
        function, arguments, targets = call
        given = [self._number(v, a[0]) if type(a) is list else a for a in arguments]
        try:
            results = function(*given)
        except Exception:
            return False  # it raises the same where nothing is recorded
        if type(results) is not tuple:
            results = (results,)
        if len(results) != len(targets):
            return False
        for i, r in zip(targets, results):
            if type(r) is float and self.floats[i]:
                v[i].d = r
            elif type(r) is int and not self.floats[i] and -(1 << 62) < r < (1 << 62):
                v[i].i = r
            else:
                return False
        return True
