"""The depthwise kernels."""

KERNELS = {}
