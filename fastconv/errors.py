"""The exceptions that fastconv raises. A leaf: imports nothing of the package.

Every error a user can cause is one of these, so ``except fastconv.FastconvError`` catches them all
and nothing else. Each also derives from the builtin a caller would expect (``ValueError``,
``NotImplementedError``, ``MemoryError``), so code written for other engines keeps working.
"""

from __future__ import annotations


class FastconvError(Exception):
    """Base of every exception that fastconv raises on purpose."""


class ModelError(FastconvError, ValueError):
    """The model file or graph is malformed, truncated, inconsistent or not ONNX."""


class ExternalDataError(ModelError):
    """A tensor's external data file is missing, too short, or outside the model's folder."""


class ShapeError(ModelError):
    """Shapes or dtypes in the graph do not fit together (names the node, the op and the shapes)."""


class UnsupportedError(FastconvError, NotImplementedError):
    """The model is valid but uses something that fastconv does not run (names node, op, opset)."""


class InputError(FastconvError, ValueError):
    """An input array is missing, misnamed, or has the wrong dtype, rank or shape."""


class ImageError(FastconvError, ValueError):
    """An image file cannot be read or decoded, or does not suit the model."""


class OptionError(FastconvError, ValueError):
    """An option, flag, knob or environment variable has a value that makes no sense."""


class MemoryLimitError(FastconvError, MemoryError):
    """A size would overflow, or exceed the memory limit that was asked for."""
