"""Kernels built for one instruction set; chosen by `fastconv.kernels`."""
