"""The protobuf wire format, read strictly and with every bound checked.

Source: the Protocol Buffers encoding specification (protobuf.dev, "Encoding"). Stricter than the
common readers: groups, field number 0 and varints over 64 bits are errors. A message is read in one
pass into a flat list of fields; the bytes of a length-delimited field are not touched, so the
work of reading a file is linear in its size whatever its nesting.
"""

from __future__ import annotations

import mmap
from typing import TypeAlias

import numpy as np

#: What can be read: anything with O(1) integer indexing, slicing and the buffer protocol.
Buffer: TypeAlias = "bytes | memoryview | mmap.mmap"

#: (tag, a, b). For a varint, a is the unsigned value and b the offset of the field; for the other
#: wire types the payload is ``buf[a:b]``. tag is ``field number << 3 | wire type``.
Field: TypeAlias = tuple[int, int, int]

_U64 = 1 << 64
_SIGN64 = 1 << 63
_U32_MASK = (1 << 32) - 1
_SIGN32 = 1 << 31

#: Packed varints in fewer bytes than this are decoded one by one; NumPy pays off above it.
_VECTOR_MIN = 96

WIRE_NAMES = {0: "varint", 1: "64-bit", 2: "length-delimited", 5: "32-bit"}


class WireError(Exception):
    """A violation of the wire format at a byte offset; ``proto`` turns it into a ModelError."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


def read_varint(buf: Buffer, pos: int, end: int) -> tuple[int, int]:
    """Return (unsigned 64-bit value, offset after it) of the varint at ``pos``.

    Raises:
        WireError: it runs past ``end``, is longer than 10 bytes, or exceeds 64 bits.
    """
    start = pos
    value = shift = 0
    while True:
        if pos >= end:
            raise WireError(start, "truncated varint")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _U64:
                raise WireError(start, "varint exceeds 64 bits")
            return value, pos
        shift += 7
        if shift == 70:
            raise WireError(start, "varint longer than 10 bytes")


def scan(buf: Buffer, pos: int, end: int) -> list[Field]:
    """Return the fields of the message ``buf[pos:end]`` in file order.

    Two encodings of one message merge as protobuf demands when their lists are concatenated.

    Raises:
        WireError: a field is truncated, reaches past ``end``, has number 0 or a bad wire type.
    """
    fields: list[Field] = []
    append = fields.append
    while pos < end:
        start = pos
        tag = buf[pos]
        pos += 1
        if tag >= 0x80:
            tag, pos = read_varint(buf, start, end)
            if tag > _U32_MASK:
                raise WireError(start, "field number exceeds 29 bits")
        if tag < 8:
            raise WireError(start, "field number 0 is illegal")
        wire_type = tag & 7
        if wire_type == 2:
            if pos >= end:
                raise WireError(pos, f"truncated length of field {tag >> 3}")
            size = buf[pos]
            pos += 1
            if size >= 0x80:
                size, pos = read_varint(buf, pos - 1, end)
            stop = pos + size
            if stop > end:
                raise WireError(
                    start,
                    f"field {tag >> 3} claims {size} bytes, but its message has {end - pos} left",
                )
            append((tag, pos, stop))
            pos = stop
        elif wire_type == 0:
            if pos >= end:
                raise WireError(pos, f"truncated varint of field {tag >> 3}")
            value = buf[pos]
            pos += 1
            if value >= 0x80:
                value, pos = read_varint(buf, pos - 1, end)
            append((tag, value, start))
        elif wire_type == 5 or wire_type == 1:
            stop = pos + (4 if wire_type == 5 else 8)
            if stop > end:
                raise WireError(
                    start, f"truncated {WIRE_NAMES[wire_type]} value of field {tag >> 3}"
                )
            append((tag, pos, stop))
            pos = stop
        else:
            what = "a group (obsolete)" if wire_type in (3, 4) else f"wire type {wire_type}"
            raise WireError(start, f"field {tag >> 3} is {what}, which ONNX does not use")
    return fields


def to_int64(value: int) -> int:
    """Reinterpret an unsigned varint value as int64 (two's complement)."""
    return value - _U64 if value >= _SIGN64 else value


def to_int32(value: int) -> int:
    """Reinterpret the low 32 bits of a varint value as int32, as protobuf does."""
    value &= _U32_MASK
    return value - (1 << 32) if value >= _SIGN32 else value


def packed_varints(buf: Buffer, pos: int, end: int) -> np.ndarray:
    """Decode the packed varints ``buf[pos:end]`` into a uint64 array of shape (count,).

    Raises:
        WireError: the last varint is truncated, or one is longer than 10 bytes or 64 bits.
    """
    raw = np.frombuffer(buf, np.uint8, end - pos, pos) if end > pos else np.empty(0, np.uint8)
    last = np.flatnonzero(raw < 0x80)
    if last.size == raw.size:
        return raw.astype(np.uint64)
    if last.size == 0 or last[-1] != raw.size - 1:
        raise WireError(int(pos + (last[-1] + 1 if last.size else 0)), "truncated packed varint")
    first = np.empty_like(last)
    first[0] = 0
    np.add(last[:-1], 1, out=first[1:])
    extra = last - first  # bytes after the first one
    longest = int(extra.max())
    if longest > 9:
        raise WireError(int(pos + first[extra.argmax()]), "varint longer than 10 bytes")
    out = (raw[first] & 0x7F).astype(np.uint64)
    for k in range(1, longest + 1):
        which = np.flatnonzero(extra >= k)
        bits = raw[first[which] + k]
        if k == 9 and (bits > 1).any():
            raise WireError(int(pos + first[which[(bits > 1).argmax()]]), "varint exceeds 64 bits")
        out[which] |= (bits & 0x7F).astype(np.uint64) << np.uint64(7 * k)
    return out


def packed_ints(buf: Buffer, pos: int, end: int) -> list[int]:
    """Decode the packed varints ``buf[pos:end]`` into a list of int64 values.

    Raises:
        WireError: as ``packed_varints``.
    """
    if end - pos >= _VECTOR_MIN:
        return packed_varints(buf, pos, end).view(np.int64).tolist()
    out: list[int] = []
    while pos < end:
        value = buf[pos]
        pos += 1
        if value >= 0x80:
            value, pos = read_varint(buf, pos - 1, end)
            if value >= _SIGN64:
                value -= _U64
        out.append(value)
    return out


def repeated_varints(buf: Buffer, entries: list[Field]) -> np.ndarray:
    """Decode all ``entries`` of one repeated integer field, packed or not, into an int64 array.

    Raises:
        WireError: as ``packed_varints``.
    """
    if len(entries) == 1 and entries[0][0] & 7 == 2:
        return packed_varints(buf, entries[0][1], entries[0][2]).view(np.int64)
    parts: list[np.ndarray] = []
    loose: list[int] = []
    for tag, a, b in entries:
        if tag & 7 == 0:
            loose.append(to_int64(a))
        elif b - a < _VECTOR_MIN:
            loose.extend(packed_ints(buf, a, b))
        else:
            parts.append(np.array(loose, np.int64))
            loose = []
            parts.append(packed_varints(buf, a, b).view(np.int64))
    parts.append(np.array(loose, np.int64))
    return np.concatenate(parts)


def repeated_fixed(buf: Buffer, entries: list[Field], dtype: np.dtype) -> np.ndarray:
    """Decode all ``entries`` of one repeated float or double field, packed or not.

    Returns a 1-D array of ``dtype`` (little-endian); it views ``buf`` when there is one entry.

    Raises:
        WireError: a packed run is not a whole number of elements.
    """
    for _, a, b in entries:
        if (b - a) % dtype.itemsize:
            raise WireError(a, f"packed run of {b - a} bytes is not a multiple of {dtype.itemsize}")
    if len(entries) == 1:
        _, a, b = entries[0]
        if a == b:
            return np.empty(0, dtype)
        return np.frombuffer(buf, dtype, (b - a) // dtype.itemsize, a)
    return np.frombuffer(b"".join([buf[a:b] for _, a, b in entries]), dtype)
