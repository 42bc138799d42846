"""The ONNX reader against the onnx package: the same structures, the same arrays."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fastconv.errors import ModelError
from fastconv.importer import defs, proto, tensors, wire

ONNX_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
MODEL_FILES = sorted(ONNX_DATA.rglob("*.onnx"))
TENSOR_FILES = sorted(ONNX_DATA.rglob("*.pb"))


# --- comparing the two parses -----------------------------------------------------------------


def _domain(name):
    return "" if name == "ai.onnx" else name


def same_value_info(ours, theirs):
    assert ours.name == theirs.name
    assert ours.doc_string == theirs.doc_string
    same_type(ours, theirs.type)


def same_type(ours, theirs):
    case = theirs.WhichOneof("value")
    if case is None:
        assert (ours.elem_type, ours.shape) == (None, None)
        return
    assert ours.kind == case.removesuffix("_type")
    while case in ("sequence_type", "optional_type", "map_type"):
        inner = getattr(theirs, case)
        theirs = inner.value_type if case == "map_type" else inner.elem_type
        case = theirs.WhichOneof("value")
    if case not in ("tensor_type", "sparse_tensor_type"):
        return
    tensor = getattr(theirs, case)
    assert ours.elem_type == (tensor.elem_type or None)
    if not tensor.HasField("shape"):
        assert ours.shape is None
        return
    expected = []
    for dim in tensor.shape.dim:
        which = dim.WhichOneof("value")
        if which == "dim_value":
            expected.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            expected.append((dim.dim_param or None) if which else None)
    assert ours.shape == tuple(expected)


def same_tensor(ours, theirs):
    assert ours.name == theirs.name
    assert ours.data_type == theirs.data_type
    assert ours.dims == tuple(theirs.dims)
    assert ours.doc_string == theirs.doc_string
    assert (ours.raw_data is not None) == theirs.HasField("raw_data")
    assert bytes(ours.raw_data or b"") == theirs.raw_data
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        mine = getattr(ours, field)
        np.testing.assert_array_equal(
            [] if mine is None else mine, np.asarray(getattr(theirs, field))
        )
    assert (ours.string_data or []) == list(theirs.string_data)


def same_sparse(ours, theirs):
    same_tensor(ours.values, theirs.values)
    same_tensor(ours.indices, theirs.indices)
    assert ours.dims == tuple(theirs.dims)


def same_string(ours, theirs):
    assert (ours.encode() if isinstance(ours, str) else ours) == theirs


def same_float(ours, theirs):
    np.testing.assert_array_equal(np.float32(ours), np.float32(theirs))


SAME_ATTRIBUTE = {
    "FLOAT": ("f", same_float),
    "INT": ("i", None),
    "STRING": ("s", same_string),
    "TENSOR": ("t", same_tensor),
    "SPARSE_TENSOR": ("sparse_tensor", same_sparse),
    "TYPE_PROTO": ("tp", same_type),
    "FLOATS": ("floats", same_float),
    "INTS": ("ints", None),
    "STRINGS": ("strings", same_string),
    "TENSORS": ("tensors", same_tensor),
    "SPARSE_TENSORS": ("sparse_tensors", same_sparse),
    "TYPE_PROTOS": ("type_protos", same_type),
}


def same_attribute(ours, theirs):
    assert ours.name == theirs.name
    assert ours.type == onnx.AttributeProto.AttributeType.Name(theirs.type)
    assert ours.doc_string == theirs.doc_string
    assert ours.ref_attr_name == theirs.ref_attr_name
    if theirs.ref_attr_name:
        assert ours.value is None
    elif ours.type == "GRAPH":
        same_graph(ours.value, theirs.g)
    elif ours.type == "GRAPHS":
        for a, b in zip(ours.value, theirs.graphs, strict=True):
            same_graph(a, b)
    else:
        field, same = SAME_ATTRIBUTE[ours.type]
        value = getattr(theirs, field)
        if not ours.type.endswith("S"):
            pairs = [(ours.value, value)]
        else:
            pairs = list(zip(ours.value, value, strict=True))
        for a, b in pairs:
            if same is None:
                assert type(a) is int
                assert a == b
            else:
                same(a, b)


def same_node(ours, theirs):
    for field in ("op_type", "name", "overload", "doc_string"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert ours.domain == _domain(theirs.domain)
    assert ours.inputs == tuple(theirs.input)
    assert ours.outputs == tuple(theirs.output)
    assert list(ours.attributes) == [a.name for a in theirs.attribute]
    for a, b in zip(ours.attributes.values(), theirs.attribute, strict=True):
        same_attribute(a, b)


def same_graph(ours, theirs):
    assert ours.name == theirs.name
    assert ours.doc_string == theirs.doc_string
    for a, b in zip(ours.nodes, theirs.node, strict=True):
        same_node(a, b)
    assert list(ours.initializers) == [t.name for t in theirs.initializer]
    for a, b in zip(ours.initializers.values(), theirs.initializer, strict=True):
        same_tensor(a, b)
    for a, b in zip(ours.sparse_initializers.values(), theirs.sparse_initializer, strict=True):
        same_sparse(a, b)
    for mine, other in (("inputs", "input"), ("outputs", "output"), ("value_infos", "value_info")):
        for a, b in zip(getattr(ours, mine), getattr(theirs, other), strict=True):
            same_value_info(a, b)


def same_model(ours, theirs):
    for field in (
        "ir_version",
        "producer_name",
        "producer_version",
        "domain",
        "model_version",
        "doc_string",
    ):
        assert getattr(ours, field) == getattr(theirs, field)
    assert ours.opset_import == {_domain(o.domain): o.version for o in theirs.opset_import}
    assert ours.metadata == {p.key: p.value for p in theirs.metadata_props}
    same_graph(ours.graph, theirs.graph)
    for a, b in zip(ours.functions, theirs.functions, strict=True):
        assert (a.domain, a.name, a.overload) == (_domain(b.domain), b.name, b.overload)
        assert (a.inputs, a.outputs) == (tuple(b.input), tuple(b.output))
        assert a.attributes == tuple(b.attribute)
        assert a.opset_import == {_domain(o.domain): o.version for o in b.opset_import}
        for x, y in zip(a.attribute_protos.values(), b.attribute_proto, strict=True):
            same_attribute(x, y)
        for x, y in zip(a.nodes, b.node, strict=True):
            same_node(x, y)
        for x, y in zip(a.value_infos, b.value_info, strict=True):
            same_value_info(x, y)


# --- whole models -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_model_file_reads_as_the_onnx_package_reads_it(path):
    theirs = onnx.load(path)
    ours = proto.open_model(path)
    same_model(ours, theirs)
    assert ours.base_dir == str(path.parent)
    for tensor in theirs.graph.initializer:
        same_array(tensors.to_array(ours.graph.initializers[tensor.name], ours), tensor)


def test_there_are_model_files_to_compare():
    assert len(MODEL_FILES) >= 100
    assert len(TENSOR_FILES) >= 200


def test_every_onnx_node_test_model_reads_as_the_onnx_package_reads_it():
    """Function, sequence, optional and subgraph cases included; all operators of the package.

    The three pooling modules are left out: they compute their expected outputs slowly on import
    (9 s), and their models hold nothing that the network files do not.
    """
    cases = importlib.import_module("onnx.backend.test.case.node")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(cases.__path__):
            if module.name not in ("averagepool", "lppool", "maxpool"):
                importlib.import_module(f"{cases.__name__}.{module.name}")
    models = [c.model for c in cases._NodeTestCases if c.model is not None]
    assert len(models) > 1500
    for model in models:
        same_model(proto.parse_model(model.SerializeToString()), model)


def test_tensor_files_of_the_test_data_give_the_same_arrays():
    compared = 0
    for path in TENSOR_FILES:
        tensor = TensorProto.FromString(path.read_bytes())
        if tensor.data_type == 0 or "sequence" in str(path):
            continue
        ours, _ = read_tensor(tensor)
        same_array(ours, tensor)
        compared += 1
    assert compared >= 200


def model_with(*initializers, nodes=(), shift=0, **kwargs):
    """A model; its graph starts ``shift`` bytes later."""
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers), **kwargs)
    return helper.make_model(graph, producer_name="x" * (shift + 1))


def read_tensor(tensor):
    """Our array of an onnx tensor, and its TensorDef, by way of a serialized model."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = "t"
    model = proto.parse_model(model_with(copy).SerializeToString())
    definition = model.graph.initializers["t"]
    return tensors.to_array(definition, model), definition


def same_array(ours, tensor):
    """Compare with numpy_helper.to_array, widened to the dtype that we promise."""
    theirs = numpy_helper.to_array(tensor)
    assert ours.dtype == tensors.numpy_dtype(tensor.data_type)
    assert ours.shape == theirs.shape == tuple(tensor.dims)
    assert ours.flags.aligned
    assert not ours.flags.writeable
    np.testing.assert_array_equal(ours, theirs.astype(ours.dtype))


def test_functions_subgraphs_and_all_attribute_kinds_survive():
    inner = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"])],
        "inner",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])],
    )
    values = helper.make_tensor("sp", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("", TensorProto.INT64, [2], [1, 5])
    sparse = helper.make_sparse_tensor(values, indices, [2, 3])
    tensor = helper.make_tensor("", TensorProto.INT8, [3], [-1, 0, 1])
    tp = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["N", 3, None]))
    node = helper.make_node(
        "Everything",
        ["x", "", "y"],
        ["z"],
        domain="ai.onnx",
        f=1.5,
        i=-(1 << 63),
        s="sé",
        raw=b"\xff\x00",
        t=tensor,
        g=inner,
        sp=sparse,
        tp=tp,
        fs=[float("inf"), -0.0, 1e-45],
        ints=[-1, 0, 1 << 40, (1 << 63) - 1],
        ss=["a", "b"],
        ts=[tensor, tensor],
        gs=[inner, inner],
        sps=[sparse],
        tps=[tp, tp],
    )
    ref = helper.make_node("Relu", ["x"], ["y"])
    attr = ref.attribute.add()
    attr.name, attr.ref_attr_name, attr.type = "alpha", "beta", onnx.AttributeProto.FLOAT
    function = helper.make_function(
        "my",
        "F",
        ["x"],
        ["y"],
        [ref],
        [helper.make_opsetid("", 20)],
        attributes=["beta"],
        attribute_protos=[helper.make_attribute("gamma", 3)],
    )
    model = model_with(nodes=[node], sparse_initializer=[sparse])
    model.functions.append(function)
    model.metadata_props.add(key="k", value="v")
    ours = proto.parse_model(model.SerializeToString())
    same_model(ours, model)
    assert ours.graph.nodes[0].domain == ""
    assert ours.graph.nodes[0].attributes["raw"].value == b"\xff\x00"
    assert ours.graph.nodes[0].attributes["tp"].value.shape == ("N", 3, None)
    dense = tensors.sparse_to_array(ours.graph.sparse_initializers["sp"], ours)
    np.testing.assert_array_equal(dense, [[0, 1, 0], [0, 0, 2]])


def test_sparse_coordinates_give_the_same_dense_array_as_flat_positions():
    values = helper.make_tensor("s", TensorProto.INT32, [2], [7, 9])
    coordinates = helper.make_tensor("", TensorProto.INT64, [2, 2], [0, 2, 1, 0])
    sparse = helper.make_sparse_tensor(values, coordinates, [2, 3])
    model = proto.parse_model(model_with(sparse_initializer=[sparse]).SerializeToString())
    dense = tensors.sparse_to_array(model.graph.sparse_initializers["s"], model)
    np.testing.assert_array_equal(dense, [[0, 0, 7], [9, 0, 0]])
    assert not dense.flags.writeable


def test_old_attributes_without_a_type_take_it_from_their_value():
    node = helper.make_node("A", [], ["y"], i=3, f=2.0, ints=[1, 2])
    for attr in node.attribute:
        attr.ClearField("type")
    ours = proto.parse_model(model_with(nodes=[node]).SerializeToString()).graph.nodes[0]
    assert {a.name: (a.type, a.value) for a in ours.attributes.values()} == {
        "i": ("INT", 3),
        "f": ("FLOAT", 2.0),
        "ints": ("INTS", [1, 2]),
    }


def test_negative_dimension_of_a_value_is_read_as_unknown():
    info = helper.make_tensor_value_info("x", 1, [-1, 3])
    data = helper.make_model(helper.make_graph([], "g", [info], [])).SerializeToString()
    assert proto.parse_model(data).graph.inputs[0].shape == (None, 3)


# --- tensors ----------------------------------------------------------------------------------

INTEGERS = {
    "UINT8": np.uint8,
    "INT8": np.int8,
    "UINT16": np.uint16,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "UINT4": ml_dtypes.uint4,
    "INT4": ml_dtypes.int4,
    "UINT2": ml_dtypes.uint2,
    "INT2": ml_dtypes.int2,
}
FLOATS = {
    "FLOAT": np.float32,
    "FLOAT16": np.float16,
    "DOUBLE": np.float64,
    "BFLOAT16": ml_dtypes.bfloat16,
    "COMPLEX64": np.complex64,
    "COMPLEX128": np.complex128,
}
TABLES = {
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT8E8M0": ml_dtypes.float8_e8m0fnu,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
    "FLOAT6E2M3": ml_dtypes.float6_e2m3fn,
    "FLOAT6E3M2": ml_dtypes.float6_e3m2fn,
}


def sample(name, n=7):
    """n values of the type, with its extremes and (for floats) its special values."""
    if name == "BOOL":
        return np.arange(n) % 3 == 0
    if name in INTEGERS:
        dtype = INTEGERS[name]
        info = ml_dtypes.iinfo(dtype) if "2" in name[-1] or "4" in name[-1] else np.iinfo(dtype)
        some = [int(info.min), int(info.max), 0, 1, int(info.max) // 2, int(info.min) // 2, 1]
        return np.array(some[:n]).astype(dtype) if info.max < 2**62 else np.array(some[:n], dtype)
    if name in TABLES:
        bits = 8 if "8" in name else int(name[5])
        return (np.arange(n) * 37 % (1 << bits)).astype(np.uint8).view(TABLES[name])
    some = [0.0, -0.0, np.inf, np.nan, 1.5, -(2.0**-20), 3e4]
    return np.array(some[:n]).astype(FLOATS[name])


ALL_TYPES = ["BOOL", *INTEGERS, *FLOATS, *TABLES]


def test_all_numeric_types_of_the_onnx_package_are_covered():
    names = {n for n, v in TensorProto.DataType.items() if v} - {"STRING"}
    assert names == set(ALL_TYPES)
    assert {v: n for n, v in TensorProto.DataType.items() if v} == defs.DATA_TYPES


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("name", ALL_TYPES)
def test_raw_data_of_every_type(name, n):
    tensor = numpy_helper.from_array(sample(name, n), "t")
    assert tensor.data_type == TensorProto.DataType.Value(name)
    ours, definition = read_tensor(tensor)
    assert definition.type_name == name
    same_array(ours, tensor)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("name", ALL_TYPES)
def test_typed_data_of_every_type(name, n):
    raw = numpy_helper.from_array(sample(name, n), "t")
    tensor = helper.make_tensor("t", raw.data_type, [n], sample(name, n))
    if name == "FLOAT8E8M0":  # the helper rounds its smallest value up
        tensor.int32_data[:] = sample(name, n).view(np.uint8).tolist()
    assert not tensor.HasField("raw_data")
    ours, _ = read_tensor(tensor)
    same_array(ours, tensor)
    np.testing.assert_array_equal(ours, read_tensor(raw)[0])


@pytest.mark.parametrize("name", TABLES)
def test_every_code_of_a_small_float_has_the_value_ml_dtypes_gives(name):
    bits = 8 if "8" in name else int(name[5])
    codes = np.arange(1 << bits).astype(np.uint8).view(TABLES[name])
    ours, _ = read_tensor(numpy_helper.from_array(codes, "t"))
    theirs = codes.astype(np.float32)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        np.signbit(ours[~np.isnan(ours)]), np.signbit(theirs[~np.isnan(theirs)])
    )


def test_strings_are_an_object_array_of_str():
    array = np.array([["a", ""], ["é", "日本"]], object)
    ours, _ = read_tensor(numpy_helper.from_array(array, "t"))
    assert ours.dtype == object
    assert ours.tolist() == array.tolist()


def test_bool_bytes_other_than_one_are_true():
    tensor = TensorProto(data_type=TensorProto.BOOL, dims=[3], raw_data=b"\x00\x02\x01")
    ours, _ = read_tensor(tensor)
    assert ours.tolist() == [False, True, True]
    assert ours.view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("pad", range(8))
@pytest.mark.parametrize("name", ["FLOAT", "INT64", "DOUBLE", "FLOAT16", "COMPLEX64", "BFLOAT16"])
@pytest.mark.parametrize("raw", [True, False])
def test_data_at_any_offset_give_an_aligned_array(tmp_path, name, pad, raw):
    values = sample(name)
    number = TensorProto.DataType.Value(name)
    tensor = numpy_helper.from_array(values) if raw else helper.make_tensor("", number, [7], values)
    tensor.name = "t"
    path = tmp_path / "m.onnx"
    path.write_bytes(model_with(tensor, shift=pad).SerializeToString())
    model = proto.open_model(path)
    same_array(tensors.to_array(model.graph.initializers["t"], model), tensor)


@pytest.mark.parametrize("how", ["raw_data", "float_data"])
def test_aligned_data_are_a_view_of_the_file_and_unaligned_a_copy(tmp_path, how):
    views = 0
    for pad in range(1, 5):
        values = np.arange(100, dtype=np.float32)
        tensor = TensorProto(name="t", dims=[100], data_type=1)
        if how == "raw_data":
            tensor.raw_data = values.tobytes()
        else:
            tensor.float_data.extend(values)
        path = tmp_path / f"{pad}.onnx"
        path.write_bytes(model_with(tensor, shift=pad).SerializeToString())
        model = proto.open_model(path)
        definition = model.graph.initializers["t"]
        array = tensors.to_array(definition, model)
        np.testing.assert_array_equal(array, values)
        views += np.shares_memory(array, np.frombuffer(getattr(definition, how), np.uint8))
    assert views == 1


def test_arrays_outlive_the_model_and_its_file(tmp_path):
    path = tmp_path / "m.onnx"
    values = np.arange(10000, dtype=np.float32)
    path.write_bytes(model_with(numpy_helper.from_array(values, "t")).SerializeToString())
    model = proto.open_model(path)
    array = tensors.to_array(model.graph.initializers["t"], model)
    del model
    path.unlink()
    np.testing.assert_array_equal(array, values)


# --- wire format ------------------------------------------------------------------------------


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, payload):
    """A varint field from an int, a length-delimited one from bytes."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


INT64 = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-300, 300)


@given(st.lists(st.lists(INT64, max_size=80), max_size=4), st.booleans())
def test_repeated_integers_read_packed_unpacked_and_mixed(runs, unpack_even):
    data = b""
    for k, run in enumerate(runs):
        if unpack_even and k % 2 == 0:
            data += b"".join(field(7, v) for v in run)
        else:
            data += field(7, b"".join(map(varint, run)))
    entries = wire.scan(data, 0, len(data))
    if entries:
        assert wire.repeated_varints(data, entries).tolist() == [v for run in runs for v in run]


@given(st.lists(INT64, min_size=1, max_size=200))
@settings(max_examples=200)
def test_vectorised_and_plain_varint_decoders_agree(values):
    data = b"".join(map(varint, values))
    assert wire.packed_varints(data, 0, len(data)).view(np.int64).tolist() == values
    assert wire.packed_ints(data, 0, len(data)) == values


def test_dims_and_attributes_read_packed_and_unpacked():
    for dims in (field(1, varint(2) + varint(3)), field(1, 2) + field(1, 3)):
        tensor = dims + field(2, 1) + field(8, b"t") + field(9, bytes(24))
        for ints in (field(8, varint(5) + varint(-6)), field(8, 5) + field(8, -6)):
            attr = field(1, b"a") + ints + field(20, 7)
            node = field(4, b"Op") + field(5, attr)
            data = field(1, 8) + field(7, field(5, tensor) + field(1, node))
            model = proto.parse_model(data)
            assert model.graph.initializers["t"].dims == (2, 3)
            assert model.graph.nodes[0].attributes["a"].value == [5, -6]
            same_model(model, onnx.ModelProto.FromString(data))


def test_floats_read_packed_and_unpacked():
    values = np.array([1.5, np.inf, -2], "<f4")
    packed = field(4, values.tobytes())
    unpacked = b"".join(varint(4 << 3 | 5) + v.tobytes() for v in values)
    for payload in (packed, unpacked, packed[:-4].replace(b"\x0c", b"\x08", 1) + unpacked[-5:]):
        tensor = field(1, 3) + field(2, 1) + field(8, b"t") + payload
        model = proto.parse_model(field(1, 8) + field(7, field(5, tensor)))
        array = tensors.to_array(model.graph.initializers["t"], model)
        np.testing.assert_array_equal(array, values)


@given(st.permutations(range(9)), st.data())
def test_merging_and_field_order_follow_protobuf(order, data):
    """Concatenated encodings merge: scalars by the last value, messages member by member."""
    node = field(4, b"Op")
    value = field(1, b"x") + field(2, field(1, field(1, 1)))
    pieces = [
        field(1, 7),
        field(1, 8),
        field(2, b"one"),
        field(2, b"two"),
        field(7, field(1, node) + field(2, b"g1")),
        field(7, field(1, node) + field(2, b"g2")),
        field(7, field(11, value + field(2, field(1, field(2, field(1, field(1, 4))))))),
        field(7, field(11, value + field(2, field(4, b"")) + field(2, field(1, b"")))),
        field(999, data.draw(st.binary(max_size=5))),
    ]
    blob = b"".join(pieces[i] for i in order)
    same_model(proto.parse_model(blob), onnx.ModelProto.FromString(blob))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))])
def test_every_kind_of_buffer_reads_alike_and_gives_read_only_arrays(wrap):
    values = np.arange(5, dtype=np.int64)
    data = wrap(model_with(numpy_helper.from_array(values, "t")).SerializeToString())
    model = proto.open_model(data)
    array = tensors.to_array(model.graph.initializers["t"], model)
    np.testing.assert_array_equal(array, values)
    with pytest.raises(ValueError):
        array[0] = 1


def test_a_strided_memoryview_is_refused():
    with pytest.raises(ModelError, match="contiguous"):
        proto.parse_model(memoryview(b"12345678")[::2])


# --- speed ------------------------------------------------------------------------------------


def best_of(times, work):
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def mobilenet_like():
    """53 Conv, 35 Clip and 10 Add nodes with 14 MB of raw weights, as MobileNetV2 exports."""
    nodes, weights = [], []
    for k in range(53):
        weights.append(numpy_helper.from_array(np.zeros(66000, np.float32), f"w{k}"))
        weights.append(numpy_helper.from_array(np.zeros(64, np.float32), f"b{k}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [f"x{k}", f"w{k}", f"b{k}"],
                [f"c{k}"],
                name=f"Conv_{k}",
                dilations=[1, 1],
                group=1,
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[1, 1],
            )
        )
        nodes.append(helper.make_node("Clip", [f"c{k}", "lo", "hi"], [f"x{k + 1}"]))
    return model_with(*weights, nodes=nodes).SerializeToString()


def test_parsing_is_fast(tmp_path):
    """Generous bounds (the aim is 5 ms and 60 ms) so that a busy machine passes."""
    path = tmp_path / "m.onnx"
    path.write_bytes(mobilenet_like())
    assert path.stat().st_size > 13_900_000
    mobile = best_of(5, lambda: proto.open_model(path))
    one = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], name="n", kernel_shape=[3, 3], pads=[1] * 4, group=1
    )
    big = model_with(nodes=[one] * 1000).SerializeToString()
    thousand = best_of(5, lambda: proto.parse_model(big))
    packed = b"".join(map(varint, range(0, 1 << 20, 5)))
    varints = best_of(3, lambda: wire.packed_varints(packed, 0, len(packed)))
    print(f"\nMobileNetV2-like {mobile * 1e3:.2f} ms, 1000 nodes {thousand * 1e3:.2f} ms,")
    print(f"{len(packed)} bytes of packed varints {varints * 1e3:.2f} ms")
    assert mobile < 0.05
    assert thousand < 0.3
    assert varints < 0.3


def test_importing_the_reader_loads_neither_onnx_nor_protobuf():
    code = (
        "import sys, fastconv.importer.proto, fastconv.importer.tensors\n"
        "print([m for m in ('onnx', 'google.protobuf', 'ml_dtypes', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
