"""Reads each ONNX protobuf message into its structure of ``defs``.

Source: ``onnx.proto`` of ONNX 1.23 (IR version 14). The reader follows protobuf's rules for merging
(the last value of a singular scalar wins, repeated encodings of a singular message merge), accepts
packed and unpacked repeated scalars, and skips fields it does not know. It is stricter than
protobuf in that a known field with the wrong wire type, invalid UTF-8 in a name, a node without
``op_type``, a repeated attribute or initializer name, and an attribute whose value does not match
its declared type are errors.

Tags are written ``number << 3 | wire type``, as on the wire: 0 varint, 1 64-bit,
2 length-delimited, 5 32-bit.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from .defs import (
    ATTRIBUTE_TYPES,
    Attr,
    FunctionDef,
    GraphDef,
    Kind,
    Model,
    NodeDef,
    SparseTensorDef,
    TensorDef,
    ValueDef,
)
from .wire import (
    WIRE_NAMES,
    Buffer,
    Field,
    WireError,
    packed_ints,
    repeated_fixed,
    repeated_varints,
    scan,
    to_int32,
    to_int64,
)

#: Graphs inside graphs, and types inside types, may nest this deep.
MAX_DEPTH = 64

#: Attributes of at most this many bytes are looked up rather than read again.
SHORT = 64

_read_float = struct.Struct("<f").unpack_from
_F32 = np.dtype("<f4")
_F64 = np.dtype("<f8")

# AttributeProto: the field that holds the value -> (attribute type, wire types it may have).
_ATTR_VALUES: dict[int, tuple[int, tuple[int, ...]]] = {
    2: (1, (5,)),
    3: (2, (0,)),
    4: (3, (2,)),
    5: (4, (2,)),
    6: (5, (2,)),
    7: (6, (2, 5)),
    8: (7, (2, 0)),
    9: (8, (2,)),
    10: (9, (2,)),
    11: (10, (2,)),
    14: (13, (2,)),
    15: (14, (2,)),
    22: (11, (2,)),
    23: (12, (2,)),
}
_ATTR_DEFAULTS: dict[int, Any] = {1: 0.0, 2: 0, 3: ""}
_REPEATED_TYPES = frozenset({6, 7, 8, 9, 10, 12, 14})

# TensorProto: repeated data field -> wire types it may have.
_TENSOR_DATA = {4: (2, 5), 5: (2, 0), 6: (2,), 7: (2, 0), 10: (2, 1), 11: (2, 0)}

# TypeProto: member of the oneof -> kind.
_TYPE_KINDS: dict[int, Kind] = {
    1: "tensor",
    4: "sequence",
    5: "map",
    7: "opaque",
    8: "sparse_tensor",
    9: "optional",
}

# The field numbers each message reads, to tell a wrong wire type from an unknown field.
_KNOWN_ENTRY = frozenset({1, 2})
_KNOWN_SPARSE = frozenset({1, 2, 3})
_KNOWN_VALUE = frozenset({1, 2, 3})
_KNOWN_TENSOR = frozenset({1, 2, 3, 8, 9, 12, 13, 14}) | frozenset(_TENSOR_DATA)
_KNOWN_ATTR = frozenset({1, 13, 20, 21}) | frozenset(_ATTR_VALUES)
_KNOWN_NODE = frozenset({1, 2, 3, 4, 5, 6, 7, 8})
_KNOWN_GRAPH = frozenset({1, 2, 5, 10, 11, 12, 13, 15})
_KNOWN_FUNCTION = frozenset({1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13})
_KNOWN_MODEL = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 25})


def _skip(tag: int, offset: int, known: frozenset[int]) -> None:
    """Pass over an unknown field; a known one only gets here with the wrong wire type."""
    if tag >> 3 in known:
        raise WireError(offset, f"field {tag >> 3} cannot be {WIRE_NAMES[tag & 7]}")


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


class MessageReader:
    """Reads one buffer. ``path`` is the message being read, and is left there by an error."""

    __slots__ = ("buf", "depth", "path", "seen", "view")

    def __init__(self, buf: Buffer) -> None:
        self.buf = buf
        self.view = memoryview(buf)
        self.path: list[tuple[str, int]] = []
        self.depth = 0
        #: Attributes by their bytes: the nodes of a network mostly repeat one another's.
        self.seen: dict[bytes, Attr] = {}

    def where(self) -> str:
        """The path of the message being read, such as ``graph.node[12].attribute[0]``."""
        names = [name if index < 0 else f"{name}[{index}]" for name, index in self.path]
        return ".".join(names) or "model"

    def text(self, a: int, b: int) -> str:
        try:
            return str(self.buf[a:b], "utf-8")
        except UnicodeDecodeError as error:
            raise WireError(a + error.start, "text is not valid UTF-8") from None

    def doc(self, a: int, b: int) -> str:
        return str(self.buf[a:b], "utf-8", "replace")

    def entry(self, a: int, b: int) -> tuple[str, str]:
        """StringStringEntryProto as (key, value)."""
        key = value = ""
        for tag, x, y in scan(self.buf, a, b):
            if tag == (1 << 3 | 2):
                key = self.text(x, y)
            elif tag == (2 << 3 | 2):
                value = self.text(x, y)
            else:
                _skip(tag, a, _KNOWN_ENTRY)
        return key, value

    def opset(self, a: int, b: int, into: dict[str, int]) -> None:
        """OperatorSetIdProto, added to ``into``."""
        domain = ""
        version = 0
        for tag, x, y in scan(self.buf, a, b):
            if tag == (1 << 3 | 2):
                domain = _domain(self.text(x, y))
            elif tag == (2 << 3 | 0):
                version = to_int64(x)
            else:
                _skip(tag, a, _KNOWN_ENTRY)
        if into.setdefault(domain, version) != version:
            raise WireError(
                a, f"opset_import has two versions of domain {domain!r}: {into[domain]}, {version}"
            )

    def tensor(self, fields: list[Field], offset: int) -> TensorDef:
        """TensorProto from its fields."""
        out = TensorDef()
        dims: list[int] = []
        data: dict[int, list[Field]] = {}
        external: dict[str, str] = {}
        location = 0
        for item in fields:
            tag, a, b = item
            if tag == (1 << 3 | 2):
                dims += packed_ints(self.buf, a, b)
            elif tag == (1 << 3 | 0):
                dims.append(to_int64(a))
            elif tag == (2 << 3 | 0):
                out.data_type = to_int32(a)
            elif tag == (8 << 3 | 2):
                out.name = self.text(a, b)
            elif tag == (9 << 3 | 2):
                out.raw_data = self.view[a:b]
            elif tag == (12 << 3 | 2):
                out.doc_string = self.doc(a, b)
            elif tag == (13 << 3 | 2):
                key, value = self.entry(a, b)
                if external.setdefault(key, value) != value:
                    raise WireError(a, f"external_data has two values of {key!r}")
            elif tag == (14 << 3 | 0):
                location = to_int32(a)
            elif tag == (3 << 3 | 2):
                out.has_segment = True
            elif tag & 7 in _TENSOR_DATA.get(tag >> 3, ()):
                data.setdefault(tag >> 3, []).append(item)
            else:
                _skip(tag, offset, _KNOWN_TENSOR)
        if dims and min(dims) < 0:
            raise WireError(offset, f"tensor {out.name!r} has a negative dimension: {dims}")
        out.dims = tuple(dims)
        if location == 1:
            out.external = external
        elif location != 0:
            raise WireError(offset, f"tensor {out.name!r} has an unknown data_location {location}")
        for number, entries in data.items():
            if number == 4:
                out.float_data = repeated_fixed(self.buf, entries, _F32)
            elif number == 5:
                # Truncation to the low 32 bits is what protobuf does for an int32 field.
                out.int32_data = repeated_varints(self.buf, entries).astype(np.int32)
            elif number == 6:
                out.string_data = [bytes(self.buf[a:b]) for _, a, b in entries]
            elif number == 7:
                out.int64_data = repeated_varints(self.buf, entries)
            elif number == 10:
                out.double_data = repeated_fixed(self.buf, entries, _F64)
            else:
                out.uint64_data = repeated_varints(self.buf, entries).view(np.uint64)
        return out

    def sparse(self, fields: list[Field], offset: int) -> SparseTensorDef:
        """SparseTensorProto from its fields."""
        values: list[Field] = []
        indices: list[Field] = []
        dims: list[int] = []
        for tag, a, b in fields:
            if tag == (1 << 3 | 2):
                values += scan(self.buf, a, b)
            elif tag == (2 << 3 | 2):
                indices += scan(self.buf, a, b)
            elif tag == (3 << 3 | 2):
                dims += packed_ints(self.buf, a, b)
            elif tag == (3 << 3 | 0):
                dims.append(to_int64(a))
            else:
                _skip(tag, offset, _KNOWN_SPARSE)
        if dims and min(dims) < 0:
            raise WireError(offset, f"sparse tensor has a negative dimension: {dims}")
        self.path.append(("values", -1))
        v = self.tensor(values, offset)
        self.path[-1] = ("indices", -1)
        i = self.tensor(indices, offset)
        self.path.pop()
        return SparseTensorDef(v, i, tuple(dims))

    def shape(self, fields: list[Field], offset: int) -> tuple[int | str | None, ...]:
        """TensorShapeProto from its fields."""
        dims: list[int | str | None] = []
        for tag, a, b in fields:
            if tag != (1 << 3 | 2):
                _skip(tag, offset, frozenset({1}))
                continue
            dim: int | str | None = None
            for inner, x, y in scan(self.buf, a, b):
                if inner == (1 << 3 | 0):
                    dim = x if x < (1 << 63) else None
                elif inner == (2 << 3 | 2):
                    dim = self.text(x, y) or None
                else:
                    _skip(inner, a, _KNOWN_ENTRY)
            dims.append(dim)
        return tuple(dims)

    def type(self, fields: list[Field], offset: int, out: ValueDef) -> None:
        """TypeProto from its fields into ``out``: outermost kind, innermost tensor."""
        for level in range(MAX_DEPTH):
            case = 0
            inner: list[Field] = []
            for tag, a, b in fields:
                number = tag >> 3
                if number in _TYPE_KINDS:
                    if tag & 7 != 2:
                        raise WireError(a, f"field {number} cannot be {WIRE_NAMES[tag & 7]}")
                    if number != case:  # another member of the oneof: drop the earlier one
                        case = number
                        inner = []
                    inner += scan(self.buf, a, b)
            if not case:
                return
            if level == 0:
                out.kind = _TYPE_KINDS[case]
            if case in (1, 8):
                shape: list[Field] | None = None
                for tag, a, b in inner:
                    if tag == (1 << 3 | 0):
                        out.elem_type = to_int32(a) or None
                    elif tag == (2 << 3 | 2):
                        shape = [] if shape is None else shape
                        shape += scan(self.buf, a, b)
                    else:
                        _skip(tag, offset, _KNOWN_ENTRY)
                if shape is not None:
                    out.shape = self.shape(shape, offset)
                return
            if case == 7:
                return
            child = (2 if case == 5 else 1) << 3 | 2
            fields = []
            for tag, a, b in inner:
                if tag == child:
                    fields += scan(self.buf, a, b)
        raise WireError(offset, f"types are nested more than {MAX_DEPTH} deep")

    def value_info(self, a: int, b: int) -> ValueDef:
        """ValueInfoProto."""
        out = ValueDef()
        types: list[Field] = []
        for tag, x, y in scan(self.buf, a, b):
            if tag == (1 << 3 | 2):
                out.name = self.text(x, y)
            elif tag == (2 << 3 | 2):
                types += scan(self.buf, x, y)
            elif tag == (3 << 3 | 2):
                out.doc_string = self.doc(x, y)
            else:
                _skip(tag, a, _KNOWN_VALUE)
        self.type(types, a, out)
        return out

    def attribute(self, a: int, b: int) -> Attr:
        """AttributeProto with its value converted."""
        name = ref = doc = ""
        kind = 0
        values: dict[int, list[Field]] = {}
        for item in scan(self.buf, a, b):
            tag, x, y = item
            if tag == (1 << 3 | 2):
                name = self.text(x, y)
            elif tag == (20 << 3 | 0):
                kind = to_int32(x)
            elif tag == (13 << 3 | 2):
                doc = self.doc(x, y)
            elif tag == (21 << 3 | 2):
                ref = self.text(x, y)
            else:
                value_type, wires = _ATTR_VALUES.get(tag >> 3, (0, ()))
                if tag & 7 in wires:
                    values.setdefault(value_type, []).append(item)
                else:
                    _skip(tag, a, _KNOWN_ATTR)
        if not name:
            raise WireError(a, "attribute without a name")
        if kind not in ATTRIBUTE_TYPES:
            raise WireError(a, f"attribute {name!r} has unknown type {kind}")
        if ref:
            if values:
                raise WireError(a, f"attribute {name!r} has both a value and ref_attr_name")
            return Attr(name, ATTRIBUTE_TYPES[kind], None, ref, doc)
        if kind == 0 and values:  # IR version 1 did not store the type
            kind = next(iter(values))
        if len(values) > 1 or (values and kind not in values):
            found = ", ".join(ATTRIBUTE_TYPES[v] for v in values)
            raise WireError(
                a, f"attribute {name!r} of type {ATTRIBUTE_TYPES[kind]} holds a value of {found}"
            )
        if values:
            value = self.attribute_value(kind, values[kind])
        elif kind in _REPEATED_TYPES:
            value = []
        elif kind in _ATTR_DEFAULTS:
            value = _ATTR_DEFAULTS[kind]
        else:
            raise WireError(a, f"attribute {name!r} of type {ATTRIBUTE_TYPES[kind]} has no value")
        return Attr(name, ATTRIBUTE_TYPES[kind], value, "", doc)

    def attribute_value(self, kind: int, entries: list[Field]) -> Any:
        """The Python value of an attribute of type ``kind`` from the fields that hold it."""
        buf = self.buf
        if kind == 2:
            return to_int64(entries[-1][1])
        if kind == 7:
            ints: list[int] = []
            for tag, a, b in entries:
                if tag & 7 == 0:
                    ints.append(to_int64(a))
                else:
                    ints += packed_ints(buf, a, b)
            return ints
        if kind == 1:
            return _read_float(buf, entries[-1][1])[0]
        if kind == 6:
            return repeated_fixed(buf, entries, _F32).tolist()
        if kind == 3:
            return self.string_value(*entries[-1][1:])
        if kind == 8:
            return [self.string_value(a, b) for _, a, b in entries]
        read = {
            4: self.tensor,
            9: self.tensor,
            5: self.graph,
            10: self.graph,
            11: self.sparse,
            12: self.sparse,
            13: self.type_value,
            14: self.type_value,
        }[kind]
        path = self.path
        if kind in _REPEATED_TYPES:
            out = []
            for i, (_, a, b) in enumerate(entries):
                path.append((ATTRIBUTE_TYPES[kind].lower(), i))
                out.append(read(scan(buf, a, b), a))
                path.pop()
            return out
        path.append((ATTRIBUTE_TYPES[kind].lower(), -1))
        merged: list[Field] = []
        for _, a, b in entries:
            merged += scan(buf, a, b)
        value = read(merged, entries[0][1])
        path.pop()
        return value

    def string_value(self, a: int, b: int) -> str | bytes:
        """An attribute's string: str, or bytes when it is not UTF-8 (the format allows any)."""
        raw = bytes(self.buf[a:b])
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def type_value(self, fields: list[Field], offset: int) -> ValueDef:
        """An attribute's TypeProto as a nameless ValueDef."""
        out = ValueDef()
        self.type(fields, offset, out)
        return out

    def node(self, a: int, b: int) -> NodeDef:
        """NodeProto."""
        buf = self.buf
        op_type = domain = name = overload = doc = ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, Attr] = {}
        path, seen = self.path, self.seen
        count = 0
        for tag, x, y in scan(buf, a, b):
            if tag == (1 << 3 | 2):
                inputs.append(self.text(x, y))
            elif tag == (2 << 3 | 2):
                outputs.append(self.text(x, y))
            elif tag == (5 << 3 | 2):
                path.append(("attribute", count))
                raw = bytes(buf[x:y]) if y - x <= SHORT else b""
                attr = seen.get(raw)
                if attr is None:
                    attr = self.attribute(x, y)
                    if raw:
                        seen[raw] = attr
                if attr.name in attributes:
                    raise WireError(x, f"second attribute named {attr.name!r}")
                attributes[attr.name] = attr
                path.pop()
                count += 1
            elif tag == (3 << 3 | 2):
                name = self.text(x, y)
            elif tag == (4 << 3 | 2):
                op_type = self.text(x, y)
            elif tag == (7 << 3 | 2):
                domain = _domain(self.text(x, y))
            elif tag == (8 << 3 | 2):
                overload = self.text(x, y)
            elif tag == (6 << 3 | 2):
                doc = self.doc(x, y)
            else:
                _skip(tag, a, _KNOWN_NODE)
        if not op_type:
            raise WireError(a, f"node {name!r} has no op_type")
        return NodeDef(
            op_type, domain, name, overload, tuple(inputs), tuple(outputs), attributes, doc
        )

    def graph(self, fields: list[Field], offset: int) -> GraphDef:
        """GraphProto from its fields."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise WireError(offset, f"graphs are nested more than {MAX_DEPTH} deep")
        out = GraphDef()
        path = self.path
        sparse_count = 0
        for tag, a, b in fields:
            if tag == (1 << 3 | 2):
                path.append(("node", len(out.nodes)))
                out.nodes.append(self.node(a, b))
            elif tag == (5 << 3 | 2):
                path.append(("initializer", len(out.initializers)))
                tensor = self.tensor(scan(self.buf, a, b), a)
                self.unique(tensor.name, out, a)
                out.initializers[tensor.name] = tensor
            elif tag == (13 << 3 | 2):
                path.append(("value_info", len(out.value_infos)))
                out.value_infos.append(self.value_info(a, b))
            elif tag == (11 << 3 | 2):
                path.append(("input", len(out.inputs)))
                out.inputs.append(self.value_info(a, b))
            elif tag == (12 << 3 | 2):
                path.append(("output", len(out.outputs)))
                out.outputs.append(self.value_info(a, b))
            elif tag == (15 << 3 | 2):
                path.append(("sparse_initializer", sparse_count))
                sparse = self.sparse(scan(self.buf, a, b), a)
                self.unique(sparse.name, out, a)
                out.sparse_initializers[sparse.name] = sparse
                sparse_count += 1
            elif tag == (2 << 3 | 2):
                out.name = self.text(a, b)
                continue
            elif tag == (10 << 3 | 2):
                out.doc_string = self.doc(a, b)
                continue
            else:
                _skip(tag, offset, _KNOWN_GRAPH)
                continue
            path.pop()
        self.depth -= 1
        return out

    def unique(self, name: str, graph: GraphDef, offset: int) -> None:
        """Check the name of an initializer about to be added to ``graph``."""
        if not name:
            raise WireError(offset, "initializer without a name")
        if name in graph.initializers or name in graph.sparse_initializers:
            raise WireError(offset, f"second initializer named {name!r}")

    def function(self, a: int, b: int) -> FunctionDef:
        """FunctionProto."""
        out = FunctionDef()
        inputs: list[str] = []
        outputs: list[str] = []
        names: list[str] = []
        path = self.path
        for tag, x, y in scan(self.buf, a, b):
            if tag == (7 << 3 | 2):
                path.append(("node", len(out.nodes)))
                out.nodes.append(self.node(x, y))
                path.pop()
            elif tag == (11 << 3 | 2):
                path.append(("attribute_proto", len(out.attribute_protos)))
                attr = self.attribute(x, y)
                if attr.name in out.attribute_protos:
                    raise WireError(x, f"second attribute named {attr.name!r}")
                out.attribute_protos[attr.name] = attr
                path.pop()
            elif tag == (12 << 3 | 2):
                path.append(("value_info", len(out.value_infos)))
                out.value_infos.append(self.value_info(x, y))
                path.pop()
            elif tag == (4 << 3 | 2):
                inputs.append(self.text(x, y))
            elif tag == (5 << 3 | 2):
                outputs.append(self.text(x, y))
            elif tag == (6 << 3 | 2):
                names.append(self.text(x, y))
            elif tag == (1 << 3 | 2):
                out.name = self.text(x, y)
            elif tag == (9 << 3 | 2):
                self.opset(x, y, out.opset_import)
            elif tag == (10 << 3 | 2):
                out.domain = _domain(self.text(x, y))
            elif tag == (13 << 3 | 2):
                out.overload = self.text(x, y)
            elif tag == (8 << 3 | 2):
                out.doc_string = self.doc(x, y)
            else:
                _skip(tag, a, _KNOWN_FUNCTION)
        out.inputs, out.outputs, out.attributes = tuple(inputs), tuple(outputs), tuple(names)
        if not out.name:
            raise WireError(a, "function without a name")
        return out

    def model(self) -> Model:
        """ModelProto, the whole buffer."""
        buf = self.buf
        out = Model(0, GraphDef())
        graph: list[Field] | None = None
        graph_at = 0
        path = self.path
        for tag, a, b in scan(buf, 0, len(buf)):
            if tag == (7 << 3 | 2):
                path.append(("graph", -1))
                fields = scan(buf, a, b)
                path.pop()
                if graph is None:
                    graph, graph_at = fields, a
                else:
                    graph += fields
            elif tag == (1 << 3 | 0):
                out.ir_version = to_int64(a)
            elif tag == (8 << 3 | 2):
                self.opset(a, b, out.opset_import)
            elif tag == (2 << 3 | 2):
                out.producer_name = self.text(a, b)
            elif tag == (3 << 3 | 2):
                out.producer_version = self.text(a, b)
            elif tag == (4 << 3 | 2):
                out.domain = self.text(a, b)
            elif tag == (5 << 3 | 0):
                out.model_version = to_int64(a)
            elif tag == (6 << 3 | 2):
                out.doc_string = self.doc(a, b)
            elif tag == (14 << 3 | 2):
                key, value = self.entry(a, b)
                out.metadata[key] = value
            elif tag == (25 << 3 | 2):
                path.append(("functions", len(out.functions)))
                out.functions.append(self.function(a, b))
                path.pop()
            else:
                _skip(tag, a, _KNOWN_MODEL)
        if graph is None:
            raise WireError(0, "there is no graph")
        if out.ir_version < 1:
            raise WireError(0, f"ir_version is missing or invalid ({out.ir_version})")
        path.append(("graph", -1))
        out.graph = self.graph(graph, graph_at)
        path.pop()
        return out
