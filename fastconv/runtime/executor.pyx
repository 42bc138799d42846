"""Runs a flat list of steps. Allocates nothing and releases the GIL once per run.

A :class:`Program` is the immutable list of steps of one plan: for each the kernel's address, its
parameter struct, its buffers and how many threads it gets. A :class:`Context` is what one run needs
for itself: the buffers resolved to pointers into an :class:`Arena`. A program is shared between
threads; a context and an arena belong to one run at a time.

A step without a kernel is a Python function (an operator without a kernel): the executor takes the
GIL for it alone.
"""

import itertools
import mmap

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc

from fastconv.kernels.abi cimport Call, kernel_fn

cdef extern from *:
    """
    #include <time.h>
    static inline int64_t fastconv_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    /* Flush denormals to zero inside a run; the caller's mode is put back afterwards. */
    #if defined(__SSE2__)
    #include <xmmintrin.h>
    static inline unsigned long fastconv_flush(void) {
        unsigned int old = _mm_getcsr();
        _mm_setcsr(old | 0x8040);
        return old;
    }
    static inline void fastconv_restore(unsigned long old) { _mm_setcsr((unsigned int)old); }
    #elif defined(__aarch64__)
    static inline unsigned long fastconv_flush(void) {
        unsigned long old;
        __asm__ volatile("mrs %0, fpcr" : "=r"(old));
        __asm__ volatile("msr fpcr, %0" : : "r"(old | (1ul << 24)));
        return old;
    }
    static inline void fastconv_restore(unsigned long old) {
        __asm__ volatile("msr fpcr, %0" : : "r"(old));
    }
    #else
    static inline unsigned long fastconv_flush(void) { return 0; }
    static inline void fastconv_restore(unsigned long old) { (void)old; }
    #endif
    """
    int64_t fastconv_now() nogil
    unsigned long fastconv_flush() nogil
    void fastconv_restore(unsigned long) nogil

# Ctrl-C is looked for when a run has lasted this long, and again each time it has.
cdef int64_t SIGNAL_PERIOD = 50_000_000

cdef enum:
    ARENA = 0
    CONST = 1
    EXTERNAL = 2
    ABSENT = 3


cdef struct Step:
    kernel_fn kernel
    Call call
    int threads
    int first_ref
    int n_refs


cdef struct Ref:
    int kind
    int64_t value   # arena offset in bytes, address, or index of an external buffer


cdef class Program:
    """The steps of one plan.

    Args:
        steps: ``(address, params, refs, threads, function)`` each: the kernel's address (0 for a
            Python function), its parameter struct as bytes, its buffers as ``(kind, value)`` pairs
            with kind 0 arena offset, 1 constant address, 2 external index, 3 absent, the number of
            threads, and the Python function ``function(context, externals)`` or None.
        arena_size: bytes of the arena.
        keep: whatever must live as long as the program (the constants behind the addresses).
        max_threads: the most threads that any step uses.
    """

    cdef Step* steps
    cdef Ref* refs
    cdef readonly int n_steps
    cdef int n_refs
    cdef readonly int64_t arena_size
    cdef readonly int max_threads
    cdef object keep
    cdef list params
    cdef list functions

    def __cinit__(self, list steps, int64_t arena_size, object keep, int max_threads):
        cdef int i, r = 0, total = 0
        for s in steps:
            total += len(s[2])
        self.keep = keep
        self.params = []
        self.functions = []
        self.arena_size = arena_size
        self.max_threads = max_threads
        self.n_refs = total
        self.steps = <Step*>malloc((len(steps) + 1) * sizeof(Step))
        self.refs = <Ref*>malloc((total + 1) * sizeof(Ref))
        if self.steps == NULL or self.refs == NULL:
            raise MemoryError
        for i, (address, params, refs, threads, function) in enumerate(steps):
            self.params.append(params)
            self.functions.append(function)
            self.steps[i].kernel = <kernel_fn><uintptr_t>address
            self.steps[i].call.params = <const char*>params
            self.steps[i].call.buf = NULL
            self.steps[i].threads = threads
            self.steps[i].first_ref = r
            self.steps[i].n_refs = len(refs)
            for kind, value in refs:
                self.refs[r].kind = kind
                self.refs[r].value = value
                r += 1
        self.n_steps = len(steps)

    def __dealloc__(self):
        free(self.steps)
        free(self.refs)


_serials = itertools.count(1)


cdef class Arena:
    """Memory for the activations of one run at a time: anonymous pages, zero at first.

    Args:
        size: bytes, at least 1.
    """

    cdef readonly object map        # the mmap
    cdef readonly dict views        # for Python steps: cached NumPy views
    cdef readonly int64_t size
    cdef readonly int64_t serial    # no two arenas of a process have the same
    cdef Py_buffer view
    cdef bint has_view
    cdef char* base

    def __cinit__(self, int64_t size):
        # Given back to the system when dropped. Big arenas start at a 2 MiB boundary and ask for
        # huge pages (the TLB covers little with 4 KiB).
        huge = 2 << 20
        big = size >= 2 * huge
        total = size + (huge if big else 0)
        if hasattr(mmap, "MAP_PRIVATE"):
            # The default is a shared mapping, which a forked child would write to as well.
            self.map = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            self.map = mmap.mmap(-1, total)
        PyObject_GetBuffer(self.map, &self.view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        self.has_view = True
        self.views = {}
        self.serial = next(_serials)
        self.size = size
        self.base = <char*>self.view.buf
        if big:
            self.base += -<uintptr_t>self.base % <uintptr_t>huge
            if hasattr(mmap, "MADV_HUGEPAGE"):
                try:
                    self.map.madvise(mmap.MADV_HUGEPAGE)
                except OSError:
                    pass  # a kernel without transparent huge pages

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)


cdef class Context:
    """One run's own memory: an arena, and every step's buffers resolved to pointers."""

    cdef readonly Program program
    cdef readonly Arena arena       # of the run in progress, else None
    cdef int64_t serial             # of the arena that the pointers point into
    cdef void** pointers
    cdef Step* steps

    def __cinit__(self, Program program):
        cdef int i
        cdef Ref* ref
        self.program = program
        self.serial = 0
        self.pointers = <void**>malloc((program.n_refs + 1) * sizeof(void*))
        self.steps = <Step*>malloc((program.n_steps + 1) * sizeof(Step))
        if self.pointers == NULL or self.steps == NULL:
            raise MemoryError
        for i in range(program.n_refs):
            ref = &program.refs[i]
            self.pointers[i] = NULL
            if ref.kind == CONST:
                self.pointers[i] = <void*><uintptr_t>ref.value
        for i in range(program.n_steps):
            self.steps[i] = program.steps[i]
            self.steps[i].call.buf = self.pointers + program.steps[i].first_ref

    def __dealloc__(self):
        free(self.pointers)
        free(self.steps)

    cdef bind(self, Arena arena):
        """Point into this arena from now on."""
        cdef int i
        cdef Program program = self.program
        if arena is None:
            if program.arena_size > 0:
                raise ValueError("the program needs an arena")
            return
        if arena.size < program.arena_size:
            raise ValueError("the arena is too small")
        self.arena = arena
        if arena.serial == self.serial:
            return
        self.serial = arena.serial
        for i in range(program.n_refs):
            if program.refs[i].kind == ARENA:
                self.pointers[i] = arena.base + program.refs[i].value

    def address(self, int64_t offset):
        """The address of an arena offset, during a run."""
        return <uintptr_t>(self.arena.base + offset)

    def offset_in_map(self, int64_t offset):
        """Where an arena offset lies in the arena's mmap object, in bytes, during a run."""
        return (self.arena.base + offset) - <char*>self.arena.view.buf

    def run(self, list externals, Arena arena=None, double[::1] times=None):
        """Run every step.

        Args:
            externals: the C-contiguous arrays behind the external buffers, inputs and outputs.
            arena: of ``program.arena_size`` bytes or more; None where the program needs none.
            times: filled with each step's nanoseconds, when given.
        """
        cdef Program program = self.program
        cdef int n = len(externals), i, k, got = 0
        cdef Py_buffer small[16]
        cdef Py_buffer* views = small
        cdef Step* s
        cdef unsigned long mode
        cdef int64_t start, now
        cdef bint timed = times is not None
        self.bind(arena)
        if n > 16:
            views = <Py_buffer*>malloc(n * sizeof(Py_buffer))
            if views == NULL:
                raise MemoryError
        try:
            for i in range(n):
                PyObject_GetBuffer(externals[i], &views[i], PyBUF_C_CONTIGUOUS)
                got += 1
            for i in range(program.n_refs):
                if program.refs[i].kind == EXTERNAL:
                    self.pointers[i] = views[program.refs[i].value].buf
            with nogil:
                mode = fastconv_flush()
                start = fastconv_now()
                try:
                    for i in range(program.n_steps):
                        s = &self.steps[i]
                        if s.kernel == NULL:
                            with gil:
                                fastconv_restore(mode)
                                program.functions[i](self, externals)
                                fastconv_flush()
                        elif s.threads == 1:
                            s.kernel(&s.call, 0, 1)
                        else:
                            parallel(s)
                        now = fastconv_now()
                        if timed:
                            with gil:
                                times[i] = now - start
                            start = fastconv_now()
                        elif now - start > SIGNAL_PERIOD:
                            start = now
                            with gil:
                                PyErr_CheckSignals()
                finally:
                    fastconv_restore(mode)
        finally:
            self.arena = None
            for i in range(got):
                PyBuffer_Release(&views[i])
            if views != small:
                free(views)


cdef void parallel(Step* s) noexcept nogil:
    cdef int t
    for t in prange(s.threads, num_threads=s.threads, schedule="static", chunksize=1):
        piece(s, t)


cdef void piece(Step* s, int thread) noexcept nogil:
    """One thread's share of a step; denormals are flushed in that thread for as long."""
    cdef unsigned long mode = fastconv_flush()
    s.kernel(&s.call, thread, s.threads)
    fastconv_restore(mode)
