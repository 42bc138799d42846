"""``onnxruntime.backend``: the backend interface of onnx, on paths, bytes, models and sessions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import FastconvError, InputError
from .errors import InvalidArgument, refused, status
from .options import RunOptions, SessionOptions
from .session import InferenceSession


class OnnxRuntimeBackendRep:
    """A model that is ready to run.

    Args:
        session: the session that runs it.
    """

    def __init__(self, session: InferenceSession) -> None:
        self._session = session

    def run(self, inputs: Any, **kwargs: Any) -> list[Any]:
        """Run on a list of arrays, one per input, or on the only array; returns the outputs.

        Args:
            inputs: the arrays.
            kwargs: fields of :class:`RunOptions`; others are ignored.

        Raises:
            InputError: the arrays do not fit the model.
        """
        options = RunOptions()
        for name, value in kwargs.items():
            if hasattr(options, name):
                setattr(options, name, value)
        arrays: Sequence[Any] = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        names = [i.name for i in self._session.get_inputs()]
        if len(arrays) != len(names):
            raise status(
                InputError(f"{len(arrays)} arrays given; the model takes {', '.join(names)}"),
                InvalidArgument,
                RuntimeError,
            )
        feed = {n: np.asarray(a) if np.isscalar(a) else a for n, a in zip(names, arrays)}
        return self._session.run(None, feed, options)


class OnnxRuntimeBackend:
    """The backend; its methods are the module's functions."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether the device is the CPU."""
        return device.upper() == "CPU"

    @classmethod
    def is_compatible(cls, model: Any, device: str | None = None, **kwargs: Any) -> bool:
        """Whether :meth:`prepare` takes the model."""
        try:
            cls.prepare(model, device, **kwargs)
        except FastconvError:
            return False
        return True

    @classmethod
    def prepare(cls, model: Any, device: str | None = None, **kwargs: Any) -> OnnxRuntimeBackendRep:
        """Load a model.

        Args:
            model: a path, bytes, an ``onnx.ModelProto``, a session, or what this returned.
            device: ``"CPU"``.
            kwargs: fields of :class:`SessionOptions`; others are ignored.

        Raises:
            ModelError: the model is not sound.
            UnsupportedError: it, or the device, needs something that fastconv does not do.
        """
        if device is not None and not cls.supports_device(device):
            raise refused(f"device {device!r}: fastconv runs on 'CPU'", RuntimeError)
        if isinstance(model, OnnxRuntimeBackendRep):
            return model
        if isinstance(model, InferenceSession):
            return OnnxRuntimeBackendRep(model)
        if not isinstance(model, (str, bytes, os.PathLike)) and hasattr(model, "SerializeToString"):
            model = model.SerializeToString()
        options = SessionOptions()
        for name, value in kwargs.items():
            if hasattr(options, name):
                setattr(options, name, value)
        return OnnxRuntimeBackendRep(InferenceSession(model, options))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str | None = None, **kwargs: Any) -> Any:
        """Load a model and run it once."""
        return cls.prepare(model, device).run(inputs, **kwargs)


is_compatible = OnnxRuntimeBackend.is_compatible
prepare = OnnxRuntimeBackend.prepare
run = OnnxRuntimeBackend.run_model
supports_device = OnnxRuntimeBackend.supports_device

__all__ = ["is_compatible", "prepare", "run", "supports_device"]
