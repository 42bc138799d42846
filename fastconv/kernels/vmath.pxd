"""Vector elementary functions and the activations that kernels apply in their epilogues."""

from fastconv.kernels.simd cimport *

cdef enum Act:
    ACT_NONE = 0
    ACT_CLIP = 1

cdef inline void activate(int kind, float alpha, float beta, float* p, Py_ssize_t n) noexcept nogil:
    """Apply one activation in place to ``n`` floats."""
    pass
