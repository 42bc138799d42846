"""What this CPU has, and a way to call one kernel from Python (for ``fastconv.ops`` and tests)."""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from cython.parallel cimport prange
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from fastconv.kernels.abi cimport Call, kernel_fn

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    static int fastconv_has_v3(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    }
    static int fastconv_has_v4(void) {
        return fastconv_has_v3() && __builtin_cpu_supports("avx512f")
            && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
    /* AMX needs the CPU, an operating system that saves tiles, and on Linux the process's request
     * for them, which makes room on its signal stacks. */
    #if defined(__linux__)
    #include <cpuid.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int fastconv_has_amx(void) {
        unsigned a, b, c, d, lo, hi;
        if (!fastconv_has_v4() || !__builtin_cpu_supports("avx512vnni")) return 0;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
        if (!(d & 1u << 24) || !(d & 1u << 25)) return 0; /* tiles, of bytes */
        __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
        if ((lo & 0x60000u) != 0x60000u) return 0;
        return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
    }
    #else
    static int fastconv_has_amx(void) { return 0; }
    #endif
    static int fastconv_has_vnni(void) {
        return fastconv_has_v4() && __builtin_cpu_supports("avx512vnni");
    }
    #else
    static int fastconv_has_v3(void) { return 0; }
    static int fastconv_has_vnni(void) { return 0; }
    static int fastconv_has_amx(void) { return 0; }
    static int fastconv_has_v4(void) { return 0; }
    #endif
    #ifdef _OPENMP
    static const int fastconv_openmp = 1;
    #else
    static const int fastconv_openmp = 0;
    #endif
    """
    bint fastconv_has_v3()
    bint fastconv_has_v4()
    bint fastconv_has_amx()
    bint fastconv_has_vnni()
    bint fastconv_openmp


def cpu_isas():
    """The instruction sets this CPU can run, lowest first: ``("base", "v3", "v4", "amx")`` at most.

    Asks the operating system for AMX tiles, where the CPU has them.
    """
    isas = ["base"]
    if fastconv_has_v3():
        isas.append("v3")
    if fastconv_has_v4():
        isas.append("v4")
    if fastconv_has_amx():
        isas.append("amx")
    return tuple(isas)


def has_vnni():
    """Whether the CPU has dot products of bytes in 512-bit vectors (AVX512-VNNI)."""
    return bool(fastconv_has_vnni())


def has_openmp():
    """Whether the package was compiled with OpenMP (without it every kernel runs on one thread)."""
    return bool(fastconv_openmp)


def call(uintptr_t address, bytes params, list buffers, int threads):
    """Run one kernel.

    Args:
        address: the kernel's function address, from the kernel table.
        params: its family's struct as bytes, from the kernel table's ``pack``.
        buffers: C-contiguous arrays (or None) in the kernel's order, outputs last.
        threads: at most this many threads are used.
    """
    cdef int n = len(buffers), i, got = 0
    cdef Py_buffer* views = <Py_buffer*>malloc((n + 1) * sizeof(Py_buffer))
    cdef void** pointers = <void**>malloc((n + 1) * sizeof(void*))
    cdef Call c
    cdef kernel_fn fn = <kernel_fn>address
    cdef int t
    if views == NULL or pointers == NULL:
        free(views)
        free(pointers)
        raise MemoryError
    try:
        for i in range(n):
            pointers[i] = NULL
            if buffers[i] is not None:
                PyObject_GetBuffer(buffers[i], &views[i], PyBUF_SIMPLE)
                pointers[i] = views[i].buf
            got = i + 1
        c.buf = pointers
        c.params = <const char*>params
        with nogil:
            if threads == 1:
                fn(&c, 0, 1)
            else:
                for t in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                    fn(&c, t, threads)
    finally:
        for i in range(got):
            if buffers[i] is not None:
                PyBuffer_Release(&views[i])
        free(views)
        free(pointers)
