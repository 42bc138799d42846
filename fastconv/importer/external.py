"""External tensor data: files named by a model, opened only inside the model's own folder.

A model file is untrusted, and the location in it is a path of its author's choosing. So a location
must be relative, without ``..``, and name a regular file that lies in the model's folder after all
symbolic links are resolved, and that has no second hard link (which could stand for a file
elsewhere). Source: ``docs/ExternalData.md`` of ONNX, and the checks of its checker.
"""

from __future__ import annotations

import mmap
import ntpath
import os
import posixpath
import re
import stat

from ..errors import ExternalDataError
from .defs import Model, TensorDef


def _number(tensor: TensorDef, key: str, default: int | None, what: str) -> int | None:
    """The value of an integer key of ``external_data``."""
    assert tensor.external is not None
    text = tensor.external.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ExternalDataError(
            f"{what}: external data {key} {text[:40]!r} is not a non-negative integer"
        )
    return int(text)


def _check_location(location: str, what: str) -> None:
    """Refuse a location that is not a plain relative path, by POSIX or Windows rules."""
    if not location or "\0" in location:
        raise ExternalDataError(f"{what}: external data location {location!r} is not a file name")
    absolute = posixpath.isabs(location) or ntpath.isabs(location)
    if absolute or ntpath.splitdrive(location)[0]:
        raise ExternalDataError(
            f"{what}: external data location {location!r} is absolute; it must be relative to the"
            " model's folder"
        )
    if ".." in re.split(r"[/\\]", location):
        raise ExternalDataError(f"{what}: external data location {location!r} contains '..'")


def _open_inside(base: str, relative: str) -> int:
    """Open ``relative`` (resolved, so free of links) under ``base``, following no link.

    Where the platform can, each folder is opened in turn with O_NOFOLLOW, so a link put in place
    after the path was checked is not followed either.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
    # O_NONBLOCK so that a fifo does not hang; it has no effect on a regular file.
    last = flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    nofollow = getattr(os, "O_NOFOLLOW", 0)
    if os.open not in os.supports_dir_fd:
        return os.open(os.path.join(base, relative), last | nofollow)
    *folders, name = relative.split(os.sep)
    folder = os.open(base, flags | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = os.open(part, flags | os.O_DIRECTORY | nofollow, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name, last | nofollow, dir_fd=folder)
    finally:
        os.close(folder)


def _map_file(location: str, base_dir: str, what: str) -> memoryview:
    """Map the external file at ``location`` read-only after every check."""
    _check_location(location, what)
    base = os.path.realpath(base_dir)
    try:
        real = os.path.realpath(os.path.join(base, location))
        inside = os.path.commonpath([base, real]) == base and real != base
    except (OSError, ValueError) as error:
        raise ExternalDataError(f"{what}: external data {location!r}: {error}") from None
    if not inside:
        raise ExternalDataError(
            f"{what}: external data {location!r} leads outside the model's folder {base} through a"
            " symbolic link; copy the file beside the model"
        )
    try:
        fd = _open_inside(base, os.path.relpath(real, base))
    except FileNotFoundError:
        raise ExternalDataError(
            f"{what}: external data file {location!r} is missing from the model's folder {base}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ExternalDataError(
            f"{what}: external data file {location!r} in {base} cannot be opened: {reason}"
        ) from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ExternalDataError(f"{what}: external data {location!r} is not a regular file")
        if info.st_nlink > 1:
            raise ExternalDataError(
                f"{what}: external data file {location!r} has {info.st_nlink} hard links, so it may"
                " be a file from elsewhere; copy it"
            )
        if info.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        if isinstance(error, ExternalDataError):
            raise
        raise ExternalDataError(
            f"{what}: external data file {location!r} cannot be memory-mapped: {error}"
        ) from None
    finally:
        os.close(fd)


def external_view(tensor: TensorDef, model: Model | None, nbytes: int, what: str) -> memoryview:
    """Return the ``nbytes`` bytes of a tensor with external data, as a view of the mapped file.

    Args:
        tensor: with ``external`` set.
        model: names the folder, and keeps one mapping per file.
        nbytes: the size that the tensor's shape and type need.
        what: names the tensor in messages.

    Raises:
        ExternalDataError: there is no folder, the location is refused or missing, ``length`` is not
            ``nbytes``, or the file is too short.
    """
    assert tensor.external is not None
    location = tensor.external.get("location", "")
    offset = _number(tensor, "offset", 0, what) or 0
    length = _number(tensor, "length", nbytes, what)
    if model is None or model.base_dir is None:
        raise ExternalDataError(
            f"{what}: its data are in the external file {location!r}, but the model was read from"
            " memory; open the model by its path"
        )
    if length != nbytes:
        raise ExternalDataError(
            f"{what}: external data length is {length} bytes, but the tensor has {nbytes}"
        )
    view = model.external_files.get(location)
    if view is None:
        view = _map_file(location, model.base_dir, what)
        model.external_files[location] = view
    if offset + nbytes > len(view):
        raise ExternalDataError(
            f"{what}: needs bytes {offset} to {offset + nbytes} of external file {location!r},"
            f" which has {len(view)}"
        )
    return view[offset : offset + nbytes]
