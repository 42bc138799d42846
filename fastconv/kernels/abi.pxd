"""What every kernel looks like from outside.

A kernel is ``cdef void name(const Call* c, int thread, int threads) noexcept nogil``. It reads its
inputs from ``c.buf[i]``, writes its outputs to the last entries of ``c.buf`` (its docstring states
the order) and takes sizes and options from its family's struct behind ``c.params``. The executor
calls it once per piece, from several threads, with the piece's number as ``thread`` and how many
there are as ``threads``; each call does its own share of the work, cut by ``share``, and no two calls
write the same element. So a kernel has no barrier inside: what needs one is two steps. It allocates nothing; scratch memory is one of its buffers. Its arguments were
validated when the plan was made, so it trusts them.
"""

cdef struct Call:
    void** buf
    const void* params

ctypedef void (*kernel_fn)(const Call*, int, int) noexcept nogil

cdef inline Py_ssize_t share(Py_ssize_t n, int thread, int threads) noexcept nogil:
    """First of the ``n`` work items that belong to ``thread``; the next thread's first ends them."""
    return n * thread // threads
