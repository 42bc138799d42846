"""Compare a model's values with another engine's.

Needs the onnx package, which is imported on use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from .errors import OptionError, UnsupportedError
from .formats import FLOAT16, NAMES, narrowed

#: Largest model that protobuf can write out whole.
MAX_PROTO = 2**31 - 1


@dataclass(frozen=True)
class Difference:
    """How far apart two arrays of one name are.

    Attributes:
        name, shape, dtype: of our array.
        absolute: largest absolute difference; None where the arrays cannot be compared.
        relative: the same divided by the largest magnitude of the other array (by 1 if that is 0).
        problem: why they cannot be compared, or where only one holds NaN or infinity; else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    absolute: float | None
    relative: float | None
    problem: str | None = None

    def exceeds(self, tolerance: float) -> bool:
        """Whether the difference is more than a part ``tolerance`` of the magnitude."""
        return self.problem is not None or (self.relative or 0.0) > tolerance

    def to_dict(self, tolerance: float) -> dict[str, Any]:
        return {**asdict(self), "ok": not self.exceeds(tolerance)}


def difference(name: str, ours: Any, theirs: Any) -> Difference:
    """Compare two arrays. Equal infinities, and NaN in the same places, are no difference."""
    if theirs is None:
        return Difference(name, (), "", None, None, "the other engine has no such output")
    if isinstance(ours, list) or isinstance(theirs, list):
        return _sequence(name, ours, theirs)
    a, b = np.asarray(ours), np.asarray(theirs)
    found = (name, tuple(a.shape), str(a.dtype))
    if a.shape != b.shape:
        return Difference(*found, None, None, f"shape {list(a.shape)} against {list(b.shape)}")
    if a.dtype != b.dtype:
        return Difference(*found, None, None, f"dtype {a.dtype} against {b.dtype}")
    if a.dtype.kind not in "fiubc":
        same = bool((a == b).all())
        return Difference(*found, None if not same else 0.0, None, None if same else "text differs")
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    with np.errstate(all="ignore"):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        finite = np.isfinite(x) & np.isfinite(y)
        gap = np.where(same, 0.0, np.abs(x - y))
        apart = gap[finite | same]
        magnitude = np.abs(y[np.isfinite(y)])
    absolute = float(apart.max()) if apart.size else 0.0
    scale = float(magnitude.max()) if magnitude.size else 0.0
    odd = int((~finite & ~same).sum())
    problem = f"{odd} elements are NaN or infinite in one alone" if odd else None
    return Difference(*found, absolute, absolute / (scale or 1.0), problem)


def _sequence(name: str, ours: Any, theirs: Any) -> Difference:
    if not (isinstance(ours, list) and isinstance(theirs, list)) or len(ours) != len(theirs):
        return Difference(name, (), "sequence", None, None, "sequences of different lengths")
    parts = [difference(name, a, b) for a, b in zip(ours, theirs, strict=True)]
    worst = max(parts, key=lambda d: (d.problem is not None, d.relative or 0.0), default=None)
    if worst is None:
        return Difference(name, (0,), "sequence", 0.0, 0.0)
    return Difference(name, (len(ours),), "sequence", worst.absolute, worst.relative, worst.problem)


class Other:
    """Another engine: runs a model file on arrays, and can give every value inside."""

    name = ""

    def run(self, path: str, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The outputs of the model in a file, by name.

        Raises:
            UnsupportedError: the engine cannot run the model.
        """
        return self.run_proto(path, _load(path), feeds)

    def run_all(
        self, path: str, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, Any]:
        """The values of these names, from a model that has them all as outputs."""
        model = _load(path)
        have = {o.name for o in model.graph.output}
        made = {o for n in model.graph.node for o in n.output if o}
        for name in names:
            if name in made and name not in have:
                model.graph.output.add().name = name
        return self.run_proto(path, model, feeds)

    def run_proto(self, path: str, model: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        raise NotImplementedError


class Reference(Other):
    """``onnx.reference`` of the onnx package."""

    name = "onnx.reference"

    def run_proto(self, path: str, model: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        from onnx.reference import ReferenceEvaluator

        names = [o.name for o in model.graph.output]
        codes = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        try:
            with np.errstate(all="ignore"):
                results = ReferenceEvaluator(model).run(names, _narrow(feeds, codes))
        except Exception as e:
            raise UnsupportedError(f"onnx.reference cannot run the model: {_line(e)}") from e
        return dict(zip(names, map(_array, results), strict=True))


class OnnxRuntime(Other):
    """onnxruntime on the CPU."""

    name = "onnxruntime"

    def run(self, path: str, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return self._run(os.fspath(path), feeds)

    def run_proto(self, path: str, model: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        if model.ByteSize() > MAX_PROTO:
            raise UnsupportedError("the model is too large to be given new outputs")
        return self._run(model.SerializeToString(), feeds)

    def _run(self, source: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        import onnxruntime  # type: ignore[import-untyped]

        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
            names = [o.name for o in session.get_outputs()]
            codes = {i.name: FLOAT16 for i in session.get_inputs() if i.type == "tensor(float16)"}
            return dict(zip(names, session.run(names, _narrow(feeds, codes)), strict=True))
        except Exception as e:
            raise UnsupportedError(f"onnxruntime cannot run the model: {_line(e)}") from e


def _narrow(feeds: Mapping[str, Any], codes: Mapping[str, int]) -> dict[str, Any]:
    """Arrays in the element types of the file, where fastconv holds them in wider ones."""
    return {n: narrowed(a, c) if (c := codes.get(n)) in NAMES else a for n, a in feeds.items()}


def _line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _array(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _load(path: str) -> Any:
    import onnx

    try:
        return onnx.load(path)
    except Exception as e:
        raise UnsupportedError(f"the onnx package cannot read the model: {_line(e)}") from e


def engine(name: str | None) -> Other:
    """The engine asked for ("reference" or "onnxruntime"); None takes what is installed.

    Raises:
        OptionError: a package is not installed.
    """
    if find_spec("onnx") is None:
        raise OptionError("verify needs the onnx package: pip install 'fastconv[onnx]'")
    if name == "reference" or (name is None and find_spec("onnxruntime") is None):
        return Reference()
    if find_spec("onnxruntime") is None:
        raise OptionError("--against onnxruntime: not installed: pip install onnxruntime")
    return OnnxRuntime()
