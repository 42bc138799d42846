"""The threads that help one run, and how they share a step's pieces.

A team is one OpenMP region that stays open: its threads serve run after run, and sleep in between.
Entering a region for every step would cost a fork and a join each, the join would wait for every
thread (also for one that another process keeps from its core), and an OpenMP runtime lets idle
threads spin for as long as it likes.

A step is cut into pieces, and the pieces into one range of successive ones for each thread, so that
each finds in its cache what it left there and may fetch ahead. A thread takes its own from the front,
then those of the others from the back, by compare-and-swap on the range: one word, whose low 24 bits
are the first piece that is left, the next 24 the end, the top 16 how many threads may take part. A
step is over when its pieces are done. A thread that holds none is not waited for, and once no piece
is left nobody looks at anything of the run's. So a helper that comes late, or not at all, costs
nothing. ``turn`` counts the steps: it changes when there are pieces again.

A helper that another process keeps from its core while it holds a piece does hold up the run. Where
helpers cost much of what they bring, the caller goes on alone for a while (``back_off``), longer each
time that it happens again soon. One that finds itself on the caller's core, where the system likes to
wake it while others are busy, moves to another one (its affinity is as before afterwards), or if there
is none leaves the pieces to the caller.

Who finds nothing to do spins for ``SPIN`` nanoseconds, then sleeps on a condition variable. While the
run goes on a helper spins up to ``RUN_SPIN`` instead, giving its core to whoever wants it: waking many
sleepers costs the caller more than most steps take. It wakes two, and each woken one two more. Whoever
has news looks for sleepers after telling it, and sleepers for news after saying that they sleep,
both in sequentially consistent order, so one of the two sees the other.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from fastconv.kernels.abi cimport Call, kernel_fn

cdef extern from *:
    """
    #if defined(__linux__)
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sched.h>
    #define fastconv_cpu() sched_getcpu()
    /* Move the calling thread from a CPU to any other that it may use; whether there is one. */
    static inline int fastconv_leave(int cpu) {
        cpu_set_t all, others;
        if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof all, &all)) return 0;
        others = all;
        CPU_CLR(cpu, &others);
        if (!CPU_COUNT(&others) || sched_setaffinity(0, sizeof others, &others)) return 0;
        sched_setaffinity(0, sizeof all, &all);
        return 1;
    }
    #else
    #define fastconv_cpu() (-1)     /* not to be known: taken as different */
    #define fastconv_leave(cpu) 0
    #endif
    #include <pthread.h>
    #include <time.h>
    #if defined(_WIN32)
    #define fastconv_yield()
    #else
    #include <sched.h>
    #define fastconv_yield() sched_yield()
    #endif
    static inline int64_t fastconv_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    /* Flush denormals to zero; the caller's mode is put back afterwards. */
    #if defined(__SSE2__)
    #include <xmmintrin.h>
    static inline unsigned long fastconv_flush(void) {
        unsigned int old = _mm_getcsr();
        _mm_setcsr(old | 0x8040);
        return old;
    }
    static inline void fastconv_restore(unsigned long old) { _mm_setcsr((unsigned int)old); }
    static inline void fastconv_pause(void) { _mm_pause(); }
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
    static inline void fastconv_pause(void) { __asm__ volatile("yield"); }
    #else
    static inline unsigned long fastconv_flush(void) { return 0; }
    static inline void fastconv_restore(unsigned long old) { (void)old; }
    static inline void fastconv_pause(void) {}
    #endif
    #define fastconv_get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
    #define fastconv_get_seq(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
    #define fastconv_put(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
    #define fastconv_publish(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
    #define fastconv_put_seq(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
    #define fastconv_add_seq(p, v) __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)
    static inline int fastconv_swap(uint64_t *p, uint64_t old, uint64_t value) {
        return __atomic_compare_exchange_n(p, &old, value, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    }
    #if defined(_OPENMP)
    #define FASTCONV_OPENMP 1
    #else
    #define FASTCONV_OPENMP 0
    #endif
    """
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    bint FASTCONV_OPENMP
    int64_t fastconv_now() noexcept nogil
    unsigned long fastconv_flush() noexcept nogil
    void fastconv_restore(unsigned long) noexcept nogil
    void fastconv_pause() noexcept nogil
    void fastconv_yield() noexcept nogil
    int fastconv_cpu() noexcept nogil
    bint fastconv_leave(int cpu) noexcept nogil
    uint64_t get_open "fastconv_get"(uint64_t*) noexcept nogil
    uint64_t get_open_seq "fastconv_get_seq"(uint64_t*) noexcept nogil
    int64_t get_done "fastconv_get"(int64_t*) noexcept nogil
    int64_t get_done_seq "fastconv_get_seq"(int64_t*) noexcept nogil
    int get_flag "fastconv_get_seq"(int*) noexcept nogil
    void put_done "fastconv_put"(int64_t*, int64_t) noexcept nogil
    void put_open "fastconv_put_seq"(uint64_t*, uint64_t) noexcept nogil
    void put_range "fastconv_publish"(uint64_t*, uint64_t) noexcept nogil
    void put_flag "fastconv_put_seq"(int*, int) noexcept nogil
    void add_flag "fastconv_add_seq"(int*, int) noexcept nogil
    void add_done "fastconv_add_seq"(int64_t*, int64_t) noexcept nogil
    bint swap "fastconv_swap"(uint64_t*, uint64_t, uint64_t) noexcept nogil
    int pthread_mutex_init(pthread_mutex_t*, void*) noexcept nogil
    int pthread_mutex_destroy(pthread_mutex_t*) noexcept nogil
    int pthread_mutex_lock(pthread_mutex_t*) noexcept nogil
    int pthread_mutex_unlock(pthread_mutex_t*) noexcept nogil
    int pthread_cond_init(pthread_cond_t*, void*) noexcept nogil
    int pthread_cond_destroy(pthread_cond_t*) noexcept nogil
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*) noexcept nogil
    int pthread_cond_signal(pthread_cond_t*) noexcept nogil
    int pthread_cond_broadcast(pthread_cond_t*) noexcept nogil

cdef enum:
    #: Nanoseconds of spinning before a thread sleeps: some times what waking one up costs.
    SPIN = 50_000
    #: The same while the run goes on.
    RUN_SPIN = 1_000_000
    #: Pauses between two looks at the clock.
    PAUSES = 16
    #: For how many nanoseconds a caller goes on alone: first and at most where helpers were held up
    #: (to try again may cost some milliseconds), and where one had the caller's core (to try again
    #: costs some microseconds). After GOOD_TIME with little loss it is the first time again.
    FIRST_BACK_OFF = 250_000
    LAST_BACK_OFF = 32_000_000
    CROWDED_BACK_OFF = 500_000
    GOOD_TIME = 10_000_000
    #: Buffers that a step with scratch memory per thread may have.
    MAX_BUFFERS = 16
    FIELD = (1 << 24) - 1


cdef struct range_t:
    uint64_t open
    char pad[120]


cdef struct team_t:
    # What each thread claims from, what helpers wait for, what they report, what a piece is and who
    # sleeps each have cache lines of their own.
    range_t* ranges             # one per thread
    char pad3[120]
    uint64_t turn
    char pad0[120]
    int64_t done
    char pad1[120]
    kernel_fn kernel
    const Call* call
    int64_t scratch_size
    int pieces, n_buffers, scratch
    int cpu                     # where the caller was
    char pad2[88]
    # Who sleeps, and who of those that are to be woken have not been sent word yet (under the lock);
    # whether a run goes on, with helpers.
    int sleepers, waking, caller_sleeps, crowded, stop, running
    char pad4[104]
    # The caller's own, in nanoseconds: until when and for how long it goes on alone, and since then
    # the time of shared steps, and what it waited of that for helpers held up.
    int64_t alone_until, back_off, shared, lost
    pthread_mutex_t lock
    pthread_cond_t work, finished


cdef inline int claim(team_t* t, int slot, int threads) noexcept nogil:
    """A piece for thread ``slot`` of ``threads``, or -1 when none is left that it may take."""
    cdef uint64_t open
    cdef uint64_t* queue
    cdef int i, other = slot
    for i in range(threads):
        queue = &t.ranges[other].open
        while True:
            open = get_open(queue)
            if <uint64_t>slot >= open >> 48 or (open >> 24 & FIELD) <= (open & FIELD):
                break
            if i == 0:
                if swap(queue, open, open + 1):
                    return <int>(open & FIELD)
            elif swap(queue, open, open - (<uint64_t>1 << 24)):
                return <int>(open >> 24 & FIELD) - 1
        other += 1
        if other == threads:
            other = 0
    return -1


cdef inline void execute(
    kernel_fn kernel, const Call* call, int n_buffers, int scratch, int64_t size, int slot,
    int piece, int pieces,
) noexcept nogil:
    """One piece of a step, done by thread ``slot``.

    Kernels find their scratch at ``piece * size``, but there is one per thread: the pointer is
    moved so that they hit the thread's own.
    """
    cdef Call own
    cdef void* buffers[MAX_BUFFERS]
    if scratch < 0 or piece == slot:
        kernel(call, piece, pieces)
        return
    memcpy(buffers, call.buf, n_buffers * sizeof(void*))
    buffers[scratch] = <char*>buffers[scratch] + (slot - piece) * size
    own.buf = buffers
    own.params = call.params
    kernel(&own, piece, pieces)


cdef inline void judge(team_t* t, int threads, int64_t start, int64_t end) noexcept nogil:
    """After a step shared by ``threads``: whether the helpers are worth it.

    Alone it would have taken about ``threads`` times what was not lost.
    """
    t.shared += end - start
    if get_flag(&t.crowded):
        put_flag(&t.crowded, 0)
        put_flag(&t.running, 0)
        t.alone_until = end + CROWDED_BACK_OFF
    elif t.lost * 5 * threads > t.shared * 4 * (threads - 1):
        put_flag(&t.running, 0)
        t.back_off = min(max(2 * t.back_off, <int64_t>FIRST_BACK_OFF), <int64_t>LAST_BACK_OFF)
        t.alone_until = end + t.back_off
        t.shared = 0
        t.lost = 0
    elif t.shared > GOOD_TIME:
        t.shared = 0
        t.lost = 0
        t.back_off = 0


cdef inline void wake_some(team_t* t) noexcept nogil:
    """Send word to two of those that are to be woken. With the lock."""
    cdef int i
    for i in range(min(t.waking, 2)):
        pthread_cond_signal(&t.work)
        t.waking -= 1


cdef inline void share_step(
    team_t* t, kernel_fn kernel, const Call* call, int n_buffers, int scratch, int64_t size,
    int threads, int pieces, int64_t now,
) noexcept nogil:
    """The caller's part of a step: offer its pieces, do what the helpers leave, wait for theirs.

    ``now`` is the time at which it is called.
    """
    cdef int64_t start = 0, time, limit = SPIN, mine = 0
    cdef int spins = 0, piece, i
    t.kernel = kernel
    t.call = call
    t.pieces = pieces
    t.n_buffers = n_buffers
    t.scratch = scratch
    t.scratch_size = size
    t.cpu = fastconv_cpu()
    put_done(&t.done, 0)
    for i in range(threads):
        put_range(&t.ranges[i].open, <uint64_t>threads << 48
                  | <uint64_t>(<int64_t>pieces * (i + 1) // threads) << 24
                  | <uint64_t>(<int64_t>pieces * i // threads))
    if not t.running:
        put_flag(&t.running, 1)
    put_open(&t.turn, t.turn + 1)
    if get_flag(&t.sleepers):
        pthread_mutex_lock(&t.lock)
        t.waking += get_flag(&t.sleepers)
        put_flag(&t.sleepers, 0)
        wake_some(t)
        pthread_mutex_unlock(&t.lock)
    while True:
        piece = claim(t, 0, threads)
        if piece < 0:
            break
        execute(kernel, call, n_buffers, scratch, size, 0, piece, pieces)
        mine += 1
    while get_done(&t.done) != pieces - mine:
        fastconv_pause()
        spins += 1
        if spins % PAUSES:
            continue
        time = fastconv_now()
        if start == 0:
            start = time
            # A helper may have begun a piece just now.
            limit = 2 * SPIN + 2 * ((start - now) // max(mine, 1))
        elif time - start > limit:
            pthread_mutex_lock(&t.lock)
            put_flag(&t.caller_sleeps, 1)
            while get_done_seq(&t.done) != pieces - mine:
                pthread_cond_wait(&t.finished, &t.lock)
            put_flag(&t.caller_sleeps, 0)
            pthread_mutex_unlock(&t.lock)
            t.lost += fastconv_now() - start
            break


cdef inline bint sleep(team_t* t, uint64_t turn) noexcept nogil:
    """Wait until there are pieces that were not offered in ``turn``; False when it is dismissed."""
    pthread_mutex_lock(&t.lock)
    add_flag(&t.sleepers, 1)
    while not get_flag(&t.stop) and get_open_seq(&t.turn) == turn:
        pthread_cond_wait(&t.work, &t.lock)
        wake_some(t)
        # Who wakes sleepers up has set their count to zero.
        if get_open_seq(&t.turn) == turn:
            add_flag(&t.sleepers, 1)
    pthread_mutex_unlock(&t.lock)
    return not get_flag(&t.stop)


cdef inline bint beside_caller(team_t* t) noexcept nogil:
    """Whether the calling helper is on the caller's core, and cannot leave it."""
    cdef int cpu = get_flag(&t.cpu)
    return fastconv_cpu() == cpu and not fastconv_leave(cpu)


cdef inline void serve(team_t* t, int slot, int threads) noexcept nogil:
    """A helper's life in a team of ``threads``: do pieces, wait for more, until it is dismissed."""
    cdef uint64_t turn = 0, new, own
    cdef int64_t start = 0, idle
    cdef int spins = 0, piece, mine
    cdef bint crowded = False
    fastconv_flush()
    while True:
        new = get_open(&t.turn)
        if new != turn and not crowded:
            turn = new
            mine = 0
            while True:
                piece = claim(t, slot, threads)
                if piece >= 0:
                    execute(t.kernel, t.call, t.n_buffers, t.scratch, t.scratch_size, slot, piece,
                            t.pieces)
                    mine += 1
                    # All wait for the line of the count: its own pieces are told together.
                    own = get_open(&t.ranges[slot].open)
                    if (own >> 24 & FIELD) > (own & FIELD):
                        continue
                if mine:
                    add_done(&t.done, mine)
                    mine = 0
                    if get_flag(&t.caller_sleeps):
                        pthread_mutex_lock(&t.lock)
                        pthread_cond_signal(&t.finished)
                        pthread_mutex_unlock(&t.lock)
                if piece < 0:
                    break
            spins = 0
            start = 0
            continue
        fastconv_pause()
        spins += 1
        if spins % PAUSES and not crowded:
            continue
        crowded = beside_caller(t)
        if crowded:
            # The pieces of now are left to the caller.
            put_flag(&t.crowded, 1)
            turn = new
        elif start == 0:
            start = fastconv_now()
            continue
        else:
            idle = fastconv_now() - start
            if idle <= SPIN:
                continue
            if idle <= RUN_SPIN and get_flag(&t.running):
                fastconv_yield()
                continue
        if not sleep(t, turn):
            return
        crowded = beside_caller(t)
        spins = 0
        start = 0
