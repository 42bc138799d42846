"""The resize kernels."""

KERNELS = {}
