"""The pool kernels."""

KERNELS = {}
