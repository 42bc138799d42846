"""What this machine can do at most: measured, not looked up.

The arithmetic peak is that of the ``conv`` kernel on operands that stay in the nearest caches, at
the best of a few tile sizes; the bandwidths are those of ``copy_rows`` and of ``read``, which only
reads, on arrays far larger than the caches. All take the best of several short runs, as the machine
may be shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from . import kernels
from .plan.lowering import aligned_zeros
from .sizes import machine_memory

#: Seconds of measuring for each tile size.
TIME = 0.1
#: Channels and panels of filters of the tiles that are tried.
TILES = ((64, 2), (128, 2), (256, 1), (256, 2))
COPY_BYTES = 64 << 20
#: What is read: a model's weights may be as much, and a server's last-level cache half of it.
READ_BYTES = 256 << 20


@dataclass(frozen=True)
class Peak:
    """Measured limits.

    Attributes:
        gflops: 1e9 floating-point operations a second (a multiply-add counts two).
        bandwidth: 1e9 bytes read or written a second by a copy.
        read: 1e9 bytes read a second.
        isa: the instruction set of the kernels.
        threads: how many ran.
    """

    gflops: float
    bandwidth: float
    isa: str
    threads: int
    read: float = 0.0

    @property
    def memory(self) -> float:
        """The larger of the bandwidths: what no step can pass unless its data are in caches."""
        return max(self.bandwidth, self.read)


def measure_gflops(threads: int, isa: str | None = None) -> float:
    """The arithmetic peak in GFLOP/s; takes about half a second."""
    isa = isa or kernels.chosen_isa()
    return max(_conv_rate(threads, isa, *tile) for tile in TILES) / 1e9


def measure_peak(threads: int, isa: str | None = None) -> Peak:
    """Measure this machine with so many threads; takes about a second and 256 MiB."""
    isa = isa or kernels.chosen_isa()
    return Peak(
        measure_gflops(threads, isa), _copy_rate(threads, isa) / 1e9, isa, threads,
        _read_rate(threads, isa) / 1e9,
    )  # fmt: skip


def _conv_rate(threads: int, isa: str, channels: int, panels: int) -> float:
    """Operations per second of a 1×1 convolution whose pixels all read the same input row."""
    sizes = kernels.constants(isa)
    mr, filters = sizes["MR"], panels * sizes["NR"]
    block = 8 * mr
    rows = 2 * block * threads
    repeats = max(1, round(2e7 / (2 * block * filters * channels)))  # 2e7 products per thread
    inf = float("inf")
    params = dict(
        n=repeats, d=1, h=1, w=rows, x_n=0, x_d=0, x_h=0, x_w=0,
        od=1, oh=1, ow=rows, y_n=0, y_d=0, y_h=0, y_w=filters, y_0=0,
        r_n=0, r_d=0, r_h=0, r_w=0, kd=1, kh=1, kw=1,
        stride_d=1, stride_h=1, stride_w=1, dilation_d=1, dilation_h=1, dilation_w=1,
        pad_d=0, pad_h=0, pad_w=0, channels=channels, filters=filters, group=1, wide=0,
        linear=0, y_linear=0, x_g=channels, y_g=filters, r_g=filters,
        block_rows=block, block_panels=panels,
        act=0, lo=-inf, hi=inf, alpha=0.0, beta=0.0,
    )  # fmt: skip
    x = aligned_zeros((channels,)) + np.float32(0.5)
    weights = aligned_zeros((panels, channels, sizes["NR"]))
    weights += np.float32(0.25)
    scratch = aligned_zeros((threads, block, 3), np.uint64)
    y = aligned_zeros((rows, filters))
    kernel = kernels.table(isa)["conv"]
    packed = kernel.pack(**params)
    buffers = [x, weights, None, None, x, scratch, y]
    work = 2 * repeats * rows * filters * channels
    return work / _best(lambda: kernels.call(kernel.address, packed, buffers, threads))


def _copy_rate(threads: int, isa: str) -> float:
    """Bytes read and written per second by a copy."""
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    kernel = kernels.table(isa)["copy_rows"]
    packed = kernel.pack(rows=1, bytes=source.nbytes, x_row=source.nbytes, y_row=source.nbytes)
    seconds = _best(lambda: kernels.call(kernel.address, packed, [source, target], threads))
    return 2 * source.nbytes / seconds


def _read_rate(threads: int, isa: str) -> float:
    """Bytes read per second by summing an array."""
    source = np.ones(min(READ_BYTES, machine_memory() // 8) >> 12 << 10, np.float32)
    sums = np.zeros((threads, 16), np.float32)
    kernel = kernels.table(isa)["read"]
    packed = kernel.pack(n=source.size, repeats=1)
    seconds = _best(lambda: kernels.call(kernel.address, packed, [source, sums], threads))
    return source.nbytes / seconds


def _best(run: Callable[[], object]) -> float:
    """The shortest of the calls that fit into ``TIME``, in seconds; the first one warms up."""
    run()
    best = float("inf")
    end = perf_counter() + TIME
    while True:
        start = perf_counter()
        run()
        now = perf_counter()
        best = min(best, now - start)
        if now >= end:
            return max(best, 1e-9)
