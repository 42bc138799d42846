"""How ``pack_fixed`` stores weights in 24 bits each, and ``gemv_fixed`` reads them.

Weights are integers n of 24 bits times a unit, which the weights of one output for FIXED_BLOCK
inputs share. Weights of four inputs, n0 to n3, lie in three words: the upper 24 bits of word i are
ni, and the lower 8 bits of the three are n3, highest first. So three of four weights are decoded by
one shift. A panel is, for each block, its units [2*VW], then words [inputs / 4][2][3][VW]; the
inputs of the last block are a multiple of four.
"""

from libc.stdint cimport int64_t

from fastconv.kernels.simd cimport VW

cdef enum:
    FIXED_BLOCK = 128           # inputs that share a unit, a multiple of 4
    FIXED_GROUP = 6 * VW        # words of four inputs
    FIXED_STEP = 2 * VW + FIXED_BLOCK // 4 * FIXED_GROUP    # words of a block


cdef inline int64_t fixed_words(int64_t k) noexcept nogil:
    """The words of a panel of ``k`` inputs."""
    return (k + FIXED_BLOCK - 1) // FIXED_BLOCK * 2 * VW + (k + 3) // 4 * FIXED_GROUP
