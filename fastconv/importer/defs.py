"""Plain structures that an ONNX file is read into, one per protobuf message that matters.

The names follow ``onnx.proto`` (IR version 14). Two things are normalised while reading: the
domain ``"ai.onnx"`` is written ``""`` (the ONNX specification calls them the same), and attribute
values are Python values. The structures compare by identity, as arrays have no plain equality.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..records import field, record

#: ``TensorProto.DataType`` numbers and their names.
DATA_TYPES: dict[int, str] = {
    1: "FLOAT",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "STRING",
    9: "BOOL",
    10: "FLOAT16",
    11: "DOUBLE",
    12: "UINT32",
    13: "UINT64",
    14: "COMPLEX64",
    15: "COMPLEX128",
    16: "BFLOAT16",
    17: "FLOAT8E4M3FN",
    18: "FLOAT8E4M3FNUZ",
    19: "FLOAT8E5M2",
    20: "FLOAT8E5M2FNUZ",
    21: "UINT4",
    22: "INT4",
    23: "FLOAT4E2M1",
    24: "FLOAT8E8M0",
    25: "UINT2",
    26: "INT2",
    27: "FLOAT6E2M3",
    28: "FLOAT6E3M2",
}

#: ``AttributeProto.AttributeType`` numbers and their names.
ATTRIBUTE_TYPES: dict[int, str] = {
    0: "UNDEFINED",
    1: "FLOAT",
    2: "INT",
    3: "STRING",
    4: "TENSOR",
    5: "GRAPH",
    6: "FLOATS",
    7: "INTS",
    8: "STRINGS",
    9: "TENSORS",
    10: "GRAPHS",
    11: "SPARSE_TENSOR",
    12: "SPARSE_TENSORS",
    13: "TYPE_PROTO",
    14: "TYPE_PROTOS",
}

Kind = Literal["tensor", "sequence", "optional", "map", "sparse_tensor", "opaque"]


@record(eq=False, slots=True)
class TensorDef:
    """A stored tensor (``TensorProto``): its shape, its logical type and where its data lie.

    Of the data members exactly one is set in a sound tensor with elements; ``tensors.to_array``
    checks that. ``raw_data`` and ``float_data`` may be views of the mapped file.
    """

    name: str = ""
    data_type: int = 0
    dims: tuple[int, ...] = ()
    raw_data: memoryview | None = None
    float_data: np.ndarray | None = None
    int32_data: np.ndarray | None = None
    int64_data: np.ndarray | None = None
    double_data: np.ndarray | None = None
    uint64_data: np.ndarray | None = None
    string_data: list[bytes] | None = None
    #: key/value pairs of ``external_data``, or None when the data are in the file.
    external: dict[str, str] | None = None
    has_segment: bool = False
    doc_string: str = ""

    @property
    def type_name(self) -> str:
        """The name of ``data_type``, for messages ("FLOAT", or "type 99" when unknown)."""
        return DATA_TYPES.get(self.data_type, f"type {self.data_type}")


@record(eq=False, slots=True)
class SparseTensorDef:
    """A sparse tensor in coordinate form (``SparseTensorProto``); its name is ``values.name``."""

    values: TensorDef
    indices: TensorDef
    dims: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.values.name


@record(eq=False, slots=True)
class ValueDef:
    """A named value with its type (``ValueInfoProto``).

    ``kind`` is the outermost type. ``elem_type`` and ``shape`` are those of the innermost tensor
    (so a sequence of float tensors has ``kind="sequence"`` and ``elem_type=1``). ``shape`` is None
    for an unknown rank; a dimension is an int, a symbol's name, or None when unknown. A negative
    dimension, which some exporters write for "dynamic", is read as None.
    """

    name: str = ""
    elem_type: int | None = None
    shape: tuple[int | str | None, ...] | None = None
    kind: Kind = "tensor"
    doc_string: str = ""


@record(eq=False, slots=True)
class Attr:
    """A node attribute (``AttributeProto``) with its value as a Python value.

    ``value`` by ``type``: FLOAT float; INT int; STRING str (bytes when not UTF-8); TENSOR
    TensorDef; GRAPH GraphDef; SPARSE_TENSOR SparseTensorDef; TYPE_PROTO ValueDef without a name;
    the plural types lists of these. It is None when ``ref_attr_name`` is set (in a function).
    """

    name: str
    type: str
    value: Any = None
    ref_attr_name: str = ""
    doc_string: str = ""

    def __init__(
        self, name: str, type: str, value: Any = None, ref_attr_name: str = "", doc_string: str = ""
    ) -> None:
        self.name = name
        self.type = type
        self.value = value
        self.ref_attr_name = ref_attr_name
        self.doc_string = doc_string


@record(eq=False, slots=True)
class NodeDef:
    """One operator of a graph (``NodeProto``); an input named ``""`` is an omitted optional one."""

    op_type: str
    domain: str = ""
    name: str = ""
    overload: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: dict[str, Attr] = field(default_factory=dict)
    doc_string: str = ""

    def __init__(
        self,
        op_type: str,
        domain: str = "",
        name: str = "",
        overload: str = "",
        inputs: tuple[str, ...] = (),
        outputs: tuple[str, ...] = (),
        attributes: dict[str, Attr] | None = None,
        doc_string: str = "",
    ) -> None:
        self.op_type = op_type
        self.domain = domain
        self.name = name
        self.overload = overload
        self.inputs = inputs
        self.outputs = outputs
        self.attributes = {} if attributes is None else attributes
        self.doc_string = doc_string


@record(eq=False, slots=True)
class GraphDef:
    """A graph or subgraph (``GraphProto``), its nodes in file order."""

    name: str = ""
    nodes: list[NodeDef] = field(default_factory=list)
    initializers: dict[str, TensorDef] = field(default_factory=dict)
    sparse_initializers: dict[str, SparseTensorDef] = field(default_factory=dict)
    inputs: list[ValueDef] = field(default_factory=list)
    outputs: list[ValueDef] = field(default_factory=list)
    value_infos: list[ValueDef] = field(default_factory=list)
    doc_string: str = ""


@record(eq=False, slots=True)
class FunctionDef:
    """A model-local function (``FunctionProto``).

    ``attributes`` names the attributes without a default, ``attribute_protos`` has the others.
    """

    domain: str = ""
    name: str = ""
    overload: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    attribute_protos: dict[str, Attr] = field(default_factory=dict)
    nodes: list[NodeDef] = field(default_factory=list)
    opset_import: dict[str, int] = field(default_factory=dict)
    value_infos: list[ValueDef] = field(default_factory=list)
    doc_string: str = ""


@record(eq=False, slots=True)
class Model:
    """A whole model (``ModelProto``).

    ``base_dir`` is the folder that external data are looked for in, None for a model parsed from
    memory. ``source`` names the model in messages (its path, or ``<bytes>``).
    """

    ir_version: int
    graph: GraphDef
    opset_import: dict[str, int] = field(default_factory=dict)
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    functions: list[FunctionDef] = field(default_factory=list)
    base_dir: str | None = None
    source: str = "<bytes>"
    #: mapped external data files by location; filled by ``external.external_view``.
    external_files: dict[str, memoryview] = field(default_factory=dict, repr=False)
