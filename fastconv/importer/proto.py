"""Opening ONNX models: from a memory-mapped file or from bytes to a ``Model``.

The messages are read by ``messages``; this module finds the bytes, and explains what a file that is
not an ONNX model seems to be.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import cast

from ..errors import ModelError
from .defs import (
    ATTRIBUTE_TYPES,
    DATA_TYPES,
    Attr,
    FunctionDef,
    GraphDef,
    Model,
    NodeDef,
    SparseTensorDef,
    TensorDef,
    ValueDef,
)
from .messages import MAX_DEPTH, MessageReader
from .wire import Buffer, WireError

__all__ = [
    "ATTRIBUTE_TYPES",
    "DATA_TYPES",
    "MAX_DEPTH",
    "Attr",
    "FunctionDef",
    "GraphDef",
    "Model",
    "NodeDef",
    "SparseTensorDef",
    "TensorDef",
    "ValueDef",
    "open_model",
    "parse_model",
]

# First bytes (and where) of files that people take for ONNX models, and what to say.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a ZIP archive (or a torch checkpoint); unpack or export it first"),
    (0, b"\x1f\x8b", "gzip-compressed; decompress it first"),
    (0, b"BZh", "bzip2-compressed; decompress it first"),
    (0, b"\xfd7zXZ", "xz-compressed; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard-compressed; decompress it first"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (0, b"\x89HDF", "an HDF5 file (Keras?); convert it to ONNX first"),
    (0, b"\x80\x02", "a Python pickle; export the model to ONNX first"),
    (0, b"version https://git-lfs", "a git-LFS pointer, not the model; run 'git lfs pull'"),
    (4, b"ORTM", "an ORT-format (FlatBuffers) model; use the original .onnx file"),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX first"),
)


def _guess(head: bytes) -> str:
    """What a file that failed to parse seems to be, or "" when it may be damaged ONNX."""
    for at, magic, what in _SIGNATURES:
        if head.startswith(magic, at):
            return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "an HTML or XML page; the download probably failed"
    if text.startswith(b"ir_version") or (text.startswith(b"<") and b"ir_version" in text):
        return "an ONNX model in text form; save it in the binary form"
    if text and all(c >= 32 or c in b"\t\r\n\f" for c in head) and b"\x7f" not in head:
        return "a text file"
    return ""


def parse_model(
    data: bytes | bytearray | memoryview | mmap.mmap,
    *,
    base_dir: str | None = None,
    source: str = "<bytes>",
) -> Model:
    """Parse a serialized ``ModelProto``.

    The tensors of the result view ``data``: it is kept alive, and must not be changed afterwards.

    Args:
        data: the file's content (a memoryview must be contiguous).
        base_dir: the folder to look for external data in; None refuses external data.
        source: how to name the model in messages.

    Raises:
        ModelError: the data are not a well-formed model; the message has the byte offset and the
            path of the message it lies in, such as ``graph.node[12].attribute[0]``.
    """
    buf: Buffer
    if isinstance(data, bytes | mmap.mmap):
        buf = data
    else:
        view = memoryview(data)
        if not view.c_contiguous:
            raise ModelError(f"{source}: the memoryview is not contiguous; pass bytes(view)")
        buf = view.toreadonly().cast("B")
    if len(buf) == 0:
        raise ModelError(f"{source}: empty; not an ONNX model")
    reader = MessageReader(buf)
    try:
        model = reader.model()
    except (WireError, RecursionError) as error:
        what = _guess(bytes(buf[:512]))
        if what:
            raise ModelError(f"{source}: not an ONNX model but {what}") from None
        if isinstance(error, RecursionError):
            raise ModelError(f"{source}: {reader.where()}: nested too deep to read") from None
        raise ModelError(
            f"{source}: not a valid ONNX model: {error.reason}, at byte {error.offset}"
            f" in {reader.where()}"
        ) from None
    model.base_dir = base_dir
    model.source = source
    return model


def open_model(source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> Model:
    """Read a model from a path (memory-mapped, read-only) or from its bytes.

    A mapped file must not be truncated while the model is in use: the operating system then kills
    the process on access, as with every memory map.

    Raises:
        ModelError: the path is missing, unreadable, not a regular file, or not a valid model.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return parse_model(source)
    path = cast(str, os.fsdecode(source))
    try:
        # O_NONBLOCK so that a fifo does not hang; it has no effect on a regular file.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{path!r}: cannot be opened: {reason}") from None
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            raise ModelError(f"{path}: a directory, not a file; name the .onnx file inside it")
        if not stat.S_ISREG(info.st_mode):
            raise ModelError(f"{path}: not a regular file")
        if info.st_size == 0:
            raise ModelError(f"{path}: empty; not an ONNX model")
        try:
            data = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be memory-mapped: {error}") from None
    finally:
        os.close(fd)
    base_dir = os.path.dirname(os.path.abspath(path))
    return parse_model(data, base_dir=base_dir, source=path)
