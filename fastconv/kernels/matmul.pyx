"""The matmul kernels."""

KERNELS = {}
