"""onnxruntime's exceptions, and fastconv's own turned into instances of both.

onnxruntime raises one class per status code of its C API (``OrtErrorCode``). A session of this
package raises an error that is an instance of that class and of fastconv's: a program written for
onnxruntime catches ``NoSuchFile``, one written for fastconv ``ModelError``.
"""

from __future__ import annotations

import functools
import os
from typing import Any, ClassVar

from ..errors import (
    ExternalDataError,
    FastconvError,
    InputError,
    ModelError,
    OptionError,
    ShapeError,
    UnsupportedError,
)


class _Status(Exception):
    """One status code; ``status`` is its number and name in messages."""

    status: ClassVar[str]


class Fail(_Status):
    """The call failed, for a reason that has no class of its own."""

    status = "1 : FAIL"


class InvalidArgument(_Status):
    """An argument, or an array that was fed, does not fit."""

    status = "2 : INVALID_ARGUMENT"


class NoSuchFile(_Status):
    """There is no file of that name."""

    status = "3 : NO_SUCHFILE"


class NoModel(_Status):
    """No model was loaded."""

    status = "4 : NO_MODEL"


class EngineError(_Status):
    """The engine failed."""

    status = "5 : ENGINE_ERROR"


class RuntimeException(_Status):
    """A node failed while the model ran."""

    status = "6 : RUNTIME_EXCEPTION"


class InvalidProtobuf(_Status):
    """The file is not an ONNX model."""

    status = "7 : INVALID_PROTOBUF"


class ModelLoaded(_Status):
    """A model was loaded already."""

    status = "8 : MODEL_LOADED"


class NotImplemented(_Status):
    """The model is valid, but there is no code for something in it."""

    status = "9 : NOT_IMPLEMENTED"


class InvalidGraph(_Status):
    """The file is an ONNX model, but its graph is not sound."""

    status = "10 : INVALID_GRAPH"


class EPFail(_Status):
    """An execution provider failed."""

    status = "11 : EP_FAIL"


class ModelLoadCanceled(_Status):
    """Loading was cancelled."""

    status = "12 : MODEL_LOAD_CANCELED"


class ModelRequiresCompilation(_Status):
    """The model must be compiled first."""

    status = "13 : MODEL_REQUIRES_COMPILATION"


class NotFound(_Status):
    """Something that was asked for by name does not exist."""

    status = "14 : NOT_FOUND"


class DeviceReset(_Status):
    """The device was reset."""

    status = "15 : DEVICE_RESET"


@functools.cache
def both(bases: tuple[type[BaseException], ...]) -> type[Exception]:
    """A class that derives from all of ``bases`` and looks like the first."""

    def reduce(self: BaseException) -> tuple[Any, ...]:
        return _rebuild, (bases, self.args)

    first = bases[0]
    space = {"__module__": first.__module__, "__qualname__": first.__name__, "__reduce__": reduce}
    return type(first.__name__, bases, {**space, "__doc__": first.__doc__})


def _rebuild(bases: tuple[type[BaseException], ...], args: tuple[Any, ...]) -> BaseException:
    return both(bases)(*args)


def status(error: Exception, kind: type[_Status], *more: type[Exception]) -> Exception:
    """The same error as an instance of ``kind`` (and ``more``) too, its code before its message."""
    bases: list[type[BaseException]] = [kind, type(error)]
    text = f"[ONNXRuntimeError] : {kind.status} : {error}"
    if isinstance(error, _Status):
        bases, text = list(type(error).__bases__), str(error)
    bases += [m for m in more if not isinstance(error, m)]
    new = both(tuple(bases))(text)
    new.__cause__ = error.__cause__
    return new.with_traceback(error.__traceback__)


def of_load(error: FastconvError, source: Any) -> Exception:
    """What onnxruntime would raise where loading ``source`` raised ``error``."""
    kind: type[_Status] = InvalidGraph
    more: tuple[type[Exception], ...] = ()
    if isinstance(error, UnsupportedError):
        kind = NotImplemented
    elif isinstance(error, OptionError):
        kind = InvalidArgument
        if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
            more = (TypeError,)
    elif isinstance(error, ExternalDataError) or not isinstance(error, ModelError):
        kind = Fail
    elif not isinstance(error, ShapeError):
        if isinstance(source, (str, os.PathLike)) and not os.path.exists(source):
            kind = NoSuchFile
        elif not _parses(source):
            kind = InvalidProtobuf
    return status(error, kind, *more)


def _parses(source: Any) -> bool:
    from ..importer.proto import open_model

    try:
        open_model(source)
    except ModelError:
        return False
    return True


def of_run(error: FastconvError) -> Exception:
    """What onnxruntime would raise where a run raised ``error``."""
    if isinstance(error, (InputError, OptionError)):
        return status(error, InvalidArgument)
    if isinstance(error, UnsupportedError):
        return status(error, NotImplemented)
    return status(error, RuntimeException)


def argument(text: str, *more: type[Exception]) -> Exception:
    """An :class:`InvalidArgument` that is an ``OptionError`` too."""
    return status(OptionError(text), InvalidArgument, *more)


def refused(text: str, *more: type[Exception]) -> Exception:
    """A :class:`NotImplemented` that is an ``UnsupportedError`` too."""
    return status(UnsupportedError(text), NotImplemented, *more)


__all__ = [
    "DeviceReset",
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelLoadCanceled",
    "ModelLoaded",
    "ModelRequiresCompilation",
    "NoModel",
    "NoSuchFile",
    "NotFound",
    "NotImplemented",
    "RuntimeException",
]
