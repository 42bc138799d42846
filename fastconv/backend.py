"""The backend interface of the onnx package (``onnx.backend.base``). Needs the onnx package.

>>> rep = fastconv.backend.prepare(onnx.load("model.onnx"))
>>> outputs = rep.run([x])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import FastconvError, InputError, ModelError, UnsupportedError
from .model import Model

try:
    import onnx
    from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict
except ImportError as e:
    raise UnsupportedError(
        "fastconv.backend needs the onnx package: pip install 'fastconv[onnx]'"
    ) from e


class FastconvRep(BackendRep):
    """A model that is ready to run.

    Attributes:
        model: the :class:`fastconv.Model`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._tuple = namedtupledict("Outputs", [o.name for o in model.outputs])

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model.

        Args:
            inputs: a list of arrays in input order, a mapping by name, or the only array;
                ``onnx.TensorProto`` counts as an array.

        Returns:
            The outputs as a tuple that can also be indexed by output name.

        Raises:
            InputError: the arrays do not fit the model.
        """
        if isinstance(inputs, Mapping):
            feeds = {n: _array(a) for n, a in inputs.items()}
        else:
            if isinstance(inputs, np.ndarray) or not isinstance(inputs, Sequence):
                inputs = [inputs]
            names = [i.name for i in self.model.inputs]
            if len(inputs) != len(names):
                raise InputError(
                    f"{len(inputs)} arrays given; the model takes {len(names)}: {', '.join(names)}"
                )
            feeds = dict(zip(names, map(_array, inputs), strict=True))
        outs = self.model.run(feeds)
        return self._tuple(*[outs[o.name] for o in self.model.outputs])


class FastconvBackend(Backend):
    """fastconv as an onnx backend."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether the device is the CPU."""
        try:
            return Device(device).type == DeviceType.CPU
        except (AttributeError, ValueError):
            return False

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether :meth:`prepare` takes the model."""
        try:
            cls.prepare(model, device, **{"fallback": "allow", **kwargs})
        except FastconvError:
            return False
        return True

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> FastconvRep:
        """Load a model.

        Args:
            model: ``onnx.ModelProto``.
            device: ``"CPU"``.
            kwargs: ``threads``, ``fallback``, ``memory_limit``, ``optimize`` and ``disable`` of
                :func:`fastconv.load`; others are ignored.

        Raises:
            ModelError: the model is not sound.
            UnsupportedError: it, or the device, needs something that fastconv does not do.
        """
        if not cls.supports_device(device):
            raise UnsupportedError(f"device {device!r}: fastconv runs on 'CPU'")
        if not isinstance(model, onnx.ModelProto):
            raise ModelError(f"expected onnx.ModelProto, got {type(model).__name__}")
        names = ("threads", "fallback", "memory_limit", "optimize", "disable")
        options = {k: v for k, v in kwargs.items() if k in names}
        return FastconvRep(Model(model.SerializeToString(), **options))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """Load a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: Any,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run one node.

        Args:
            node: ``onnx.NodeProto``.
            inputs: arrays for its inputs, in order, without the absent ones.
            outputs_info: dtype and shape of each output, where they are known.
            kwargs: ``opset_version`` (default: the newest that onnx knows); the rest as
                :meth:`prepare`.

        Raises:
            InputError: the number of arrays is not the node's number of inputs.
        """
        names = list(dict.fromkeys(n for n in node.input if n))
        if isinstance(inputs, np.ndarray) or not isinstance(inputs, Sequence):
            inputs = [inputs]
        arrays = [np.asarray(_array(a)) for a in inputs]
        if len(arrays) != len(names):
            raise InputError(
                f"{len(arrays)} arrays given; the node takes {len(names)}: {', '.join(names)}"
            )
        helper = onnx.helper
        ins = [_value_info(n, a.dtype, a.shape) for n, a in zip(names, arrays, strict=True)]
        results = [n for n in node.output if n]
        if outputs_info is None:
            outs = [helper.make_empty_tensor_value_info(n) for n in results]
        else:
            outs = [_value_info(n, *i) for n, i in zip(results, outputs_info, strict=True)]
        version = kwargs.pop("opset_version", None) or onnx.defs.onnx_opset_version()
        imports = [helper.make_opsetid("", version)]
        if node.domain not in ("", "ai.onnx"):
            imports.append(helper.make_opsetid(node.domain, 1))
        model = helper.make_model(
            helper.make_graph([node], "node", ins, outs), opset_imports=imports
        )
        return cls.prepare(model, device, **kwargs).run(arrays)


def _array(value: Any) -> Any:
    """An array for a protobuf message that holds one; for a sequence, a list of such."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(value)
    return value


def _value_info(name: str, dtype: Any, shape: Sequence[int]) -> Any:
    elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, elem_type, list(shape))


is_compatible = FastconvBackend.is_compatible
prepare = FastconvBackend.prepare
run_model = FastconvBackend.run_model
run_node = FastconvBackend.run_node
supports_device = FastconvBackend.supports_device

__all__ = [
    "FastconvBackend",
    "FastconvRep",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]
