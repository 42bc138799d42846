"""Runs a flat list of steps. Allocates nothing and releases the GIL once per run.

A :class:`Program` is the immutable list of steps of one plan: for each the kernel's address, its
parameter struct, its buffers and how many threads it gets. A :class:`Context` is what one run needs
for itself: the buffers resolved to pointers into an :class:`Arena`. A program is shared between
threads; a context and an arena belong to one run at a time.

A step without a kernel is a Python function (an operator without a kernel): the executor takes the
GIL for it alone.

Several threads work on a run through a team, which the run borrows from a pool (``team.pxd``).
"""

import _thread
import itertools
import mmap

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset, strcmp

from fastconv.kernels.abi cimport Call, kernel_fn
from fastconv.runtime.team cimport (
    FASTCONV_OPENMP,
    MAX_BUFFERS,
    fastconv_flush,
    fastconv_now,
    fastconv_restore,
    judge,
    pthread_cond_broadcast,
    pthread_cond_destroy,
    pthread_cond_init,
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    put_flag,
    range_t,
    serve as serve_team,
    share_step,
    team_t,
)

from numpy import empty as _empty, ndarray as _ndarray

from ..threads import affinity as _affinity

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void**, size_t, size_t)

# When a run has lasted this long, and again each time it has, Ctrl-C is looked for and the caller
# asked whether to go on.
cdef int64_t SIGNAL_PERIOD = 50_000_000

cdef enum:
    ARENA = 0
    CONST = 1
    EXTERNAL = 2
    ABSENT = 3
    #: Arrays whose buffers fit the stack.
    FEW = 16


cdef struct Step:
    kernel_fn kernel
    Call call
    int threads
    int pieces
    int scratch             # index of the buffer that each thread has a part of, or -1
    int64_t scratch_size    # bytes of one thread's part
    int first_ref
    int n_refs


cdef struct Ref:
    int kind
    int64_t value   # arena offset in bytes, address, or index of an external buffer


cdef class Program:
    """The steps of one plan.

    Args:
        steps: ``(address, params, refs, share, function)`` each: the kernel's address (0 for a
            Python function), its parameter struct as bytes, its buffers as ``(kind, value)`` pairs
            with kind 0 arena offset, 1 constant address, 2 external index, 3 absent, how it is
            shared, and the Python function ``function(context, externals)`` or None. ``share`` is
            ``(threads, pieces, scratch, size)``: the most threads, the pieces that they claim, and
            which buffer holds ``size`` bytes of scratch memory for each thread (-1 for none; with
            as many pieces as threads a kernel may use its piece's number itself).
        arena_size: bytes of the arena.
        keep: whatever must live as long as the program (the constants behind the addresses).
        max_threads: the most threads that any step uses.
    """

    cdef Step* steps
    cdef Ref* refs
    cdef readonly int n_steps
    cdef int n_refs
    cdef int* external      # the references to external buffers
    cdef int n_external
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
        self.external = <int*>malloc((total + 1) * sizeof(int))
        if self.steps == NULL or self.refs == NULL or self.external == NULL:
            raise MemoryError
        for i, (address, params, refs, (threads, pieces, scratch, size), function) in enumerate(steps):
            self.params.append(params)
            self.functions.append(function)
            self.steps[i].kernel = <kernel_fn><uintptr_t>address
            self.steps[i].call.params = <const char*>params
            self.steps[i].call.buf = NULL
            self.steps[i].threads = threads
            # Room for moved pointers is bounded; scratch by piece fits as many pieces as threads.
            fits = scratch < 0 or len(refs) <= MAX_BUFFERS
            self.steps[i].pieces = pieces if fits else threads
            self.steps[i].scratch = scratch if fits else -1
            self.steps[i].scratch_size = size
            self.steps[i].first_ref = r
            self.steps[i].n_refs = len(refs)
            for kind, value in refs:
                self.refs[r].kind = kind
                self.refs[r].value = value
                if kind == EXTERNAL:
                    self.external[self.n_external] = r
                    self.n_external += 1
                r += 1
        self.n_steps = len(steps)

    def __dealloc__(self):
        free(self.steps)
        free(self.refs)
        free(self.external)


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

    def run(self, list externals, Arena arena=None, double[::1] times=None, check=None):
        """Run every step.

        Args:
            externals: the C-contiguous arrays behind the external buffers, inputs and outputs.
            arena: of ``program.arena_size`` bytes or more; None where the program needs none.
            times: filled with each step's nanoseconds, when given.
            check: called now and then between steps, when given; what it raises ends the run.
        """
        cdef int n = len(externals), i, got = 0
        cdef Py_buffer small[FEW]
        cdef Py_buffer* views = small
        self.bind(arena)
        if n > FEW:
            views = <Py_buffer*>malloc(n * sizeof(Py_buffer))
            if views == NULL:
                raise MemoryError
        try:
            for i in range(n):
                PyObject_GetBuffer(externals[i], &views[i], PyBUF_C_CONTIGUOUS)
                got += 1
            self.execute(views, externals, times, check)
        finally:
            self.arena = None
            for i in range(got):
                PyBuffer_Release(&views[i])
            if views != small:
                free(views)

    cdef execute(self, Py_buffer* views, list externals, double[::1] times, check):
        """Run every step on ``externals``, whose memory ``views`` shows."""
        cdef Program program = self.program
        cdef int i
        cdef Step* s
        cdef Team team = None
        cdef team_t* shared = NULL
        cdef unsigned long mode
        cdef int64_t checked, start, now, time
        cdef bint helped
        cdef bint timed = times is not None, asks = check is not None
        for i in range(program.n_external):
            self.pointers[program.external[i]] = views[program.refs[program.external[i]].value].buf
        try:
            if program.max_threads > 1:
                team = borrow(program.max_threads - 1)
                if team is not None:
                    shared = team.shared
            with nogil:
                mode = fastconv_flush()
                now = checked = fastconv_now()
                try:
                    for i in range(program.n_steps):
                        s = &self.steps[i]
                        start = now
                        helped = False
                        if s.kernel == NULL:
                            with gil:
                                fastconv_restore(mode)
                                program.functions[i](self, externals)
                                fastconv_flush()
                                now = fastconv_now()
                                if team is not None and team.generation != generation:
                                    shared = NULL  # a fork: this process has no helpers
                        elif s.threads == 1 or shared == NULL or now < shared.alone_until:
                            s.kernel(&s.call, 0, 1)
                        else:
                            share_step(shared, s.kernel, &s.call, s.n_refs, s.scratch,
                                       s.scratch_size, s.threads, s.pieces, now)
                            helped = True
                        time = now
                        now = fastconv_now()
                        if helped:
                            judge(shared, s.threads, time, now)
                        if timed:
                            times[i] = now - start
                        if now - checked > SIGNAL_PERIOD:
                            with gil:
                                fastconv_restore(mode)
                                PyErr_CheckSignals()
                                if asks:
                                    check()
                                fastconv_flush()
                                if team is not None and team.generation != generation:
                                    shared = NULL
                            now = checked = fastconv_now()
                        elif timed:
                            now = fastconv_now()
                finally:
                    fastconv_restore(mode)
                    if shared != NULL:
                        put_flag(&shared.running, 0)
        finally:
            if team is not None:
                give_back(team)


cdef class Runner:
    """Runs a program on named arrays with as little in between as can be.

    Args:
        program: the program.
        n_externals: how many arrays it takes.
        inputs: ``(external, name, shape, dtype)`` of each input.
        outputs: the same of each output.
        pool: contexts of the program that wait to be used.
        arenas: hands out arenas (``take(size)``) and has them back (``give(arena)``).
    """

    cdef Program program
    cdef int n_externals
    cdef tuple inputs
    cdef tuple outputs
    cdef list pool
    cdef object arenas
    cdef list formats

    def __init__(self, Program program, int n_externals, tuple inputs, tuple outputs, list pool,
                 object arenas):
        self.program = program
        self.n_externals = n_externals
        self.inputs = inputs
        self.outputs = outputs
        self.pool = pool
        self.arenas = arenas
        # How NumPy's buffers name each input's dtype in native order.
        self.formats = [memoryview(_empty(0, i[3])).format.encode() for i in inputs]

    def run(self, feeds):
        """The outputs by name. None, having done nothing, unless all inputs are just right.

        That is: a dict of nothing else, of plain arrays, contiguous, native, of the very shapes;
        and a context is free.
        """
        cdef int i, k, index
        cdef Py_buffer small[FEW]
        cdef Py_buffer* view
        cdef tuple entry, shape
        cdef bytes wanted
        cdef list externals
        cdef dict result
        cdef Context context
        if (self.n_externals > FEW or type(feeds) is not dict or not self.pool
                or len(<dict>feeds) != len(self.inputs)):
            return None
        externals = [None] * self.n_externals
        memset(small, 0, self.n_externals * sizeof(Py_buffer))  # so that releasing them does nothing
        try:
            for i, entry in enumerate(self.inputs):
                index = entry[0]
                array = (<dict>feeds).get(entry[1])
                if type(array) is not _ndarray:
                    return None
                view = &small[index]
                try:
                    PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
                except (BufferError, ValueError):
                    return None
                shape = entry[2]
                if view.ndim != len(shape):
                    return None
                for k in range(view.ndim):
                    if view.shape[k] != <Py_ssize_t>shape[k]:
                        return None
                wanted = self.formats[i]
                if strcmp(view.format, wanted) != 0:
                    return None
                externals[index] = array
            result = {}
            for entry in self.outputs:
                index = entry[0]
                try:
                    array = _empty(entry[2], entry[3])
                except MemoryError:
                    return None  # the long way says so better
                result[entry[1]] = externals[index] = array
                PyObject_GetBuffer(array, &small[index], PyBUF_C_CONTIGUOUS)
            try:
                context = self.pool.pop()
            except IndexError:
                return None  # another thread took it
            arena = None
            try:
                if self.program.arena_size > 0:
                    arena = self.arenas.take(self.program.arena_size)
                context.bind(arena)
                context.execute(small, externals, None, None)
            finally:
                context.arena = None
                self.pool.append(context)
                if arena is not None:
                    self.arenas.give(arena)
            return result
        finally:
            for k in range(self.n_externals):
                PyBuffer_Release(&small[k])


cdef class Team:
    """Threads that help one run at a time; see ``team.pxd``."""

    cdef team_t* shared
    cdef readonly int helpers
    cdef readonly int generation

    def __cinit__(self, int helpers):
        self.helpers = helpers
        self.generation = generation
        cdef size_t base = (sizeof(team_t) + 127) // 128 * 128
        cdef size_t size = base + (helpers + 1) * sizeof(range_t)
        if posix_memalign(<void**>&self.shared, 128, size):
            raise MemoryError
        memset(self.shared, 0, size)
        self.shared.ranges = <range_t*>(<char*>self.shared + base)
        pthread_mutex_init(&self.shared.lock, NULL)
        pthread_cond_init(&self.shared.work, NULL)
        pthread_cond_init(&self.shared.finished, NULL)

    def __dealloc__(self):
        if self.shared == NULL:
            return
        if self.generation == generation:
            pthread_cond_destroy(&self.shared.work)
            pthread_cond_destroy(&self.shared.finished)
            pthread_mutex_destroy(&self.shared.lock)
        free(self.shared)

    def serve(self):
        """Open the region and stay in it until the team is dismissed."""
        cdef int t, helpers = self.helpers
        cdef team_t* shared = self.shared
        with nogil:
            for t in prange(helpers, num_threads=helpers, schedule="static", chunksize=1):
                serve_team(shared, t + 1, helpers + 1)

    def dismiss(self):
        """Let the threads end. Not while a run has the team."""
        pthread_mutex_lock(&self.shared.lock)
        put_flag(&self.shared.stop, 1)
        pthread_cond_broadcast(&self.shared.work)
        pthread_mutex_unlock(&self.shared.lock)


# The pool: teams without a run, how many helpers are in runs, how many there are, and a number that
# changes in a forked child, where they are no more.
cdef list idle = []
cdef int busy = 0
cdef int alive = 0
cdef int processors = 0
cdef int generation = 0
cdef object lock = _thread.allocate_lock()

#: More helpers than this are not kept, unless one run alone asks for more.
cdef enum:
    MOST_IDLE = 64


cdef Team borrow(int helpers):
    """A team for one run. None when other runs keep the processors busy: it has the same result."""
    global busy, alive, processors
    cdef Team team
    cdef int i
    if not FASTCONV_OPENMP:
        return None
    with lock:
        if busy:
            if processors == 0:
                processors = len(_affinity())
            if busy + helpers >= processors:
                return None
        for i in range(len(idle) - 1, -1, -1):
            team = <Team>idle[i]
            if team.helpers == helpers:
                del idle[i]
                busy += helpers
                return team
        if alive + helpers > MOST_IDLE:
            while idle:
                team = <Team>idle.pop()
                alive -= team.helpers
                team.dismiss()
        team = Team(helpers)
        try:
            _thread.start_new_thread(team.serve, ())
        except RuntimeError:
            return None  # the system gives no more threads
        busy += helpers
        alive += helpers
        return team


cdef void give_back(Team team):
    global busy
    with lock:
        if team.generation == generation:
            busy -= team.helpers
            idle.append(team)


def forget_teams():
    """In a forked child: the teams' threads stayed with the parent."""
    global busy, alive, processors, generation, lock
    generation += 1
    busy = alive = processors = 0
    lock = _thread.allocate_lock()
    idle.clear()


def helpers():
    """How many helping threads there are, at work or asleep."""
    return alive
