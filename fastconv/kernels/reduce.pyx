"""The reduce kernels."""

KERNELS = {}
