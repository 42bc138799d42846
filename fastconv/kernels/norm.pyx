"""The norm kernels."""

KERNELS = {}
