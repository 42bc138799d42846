"""Damaged and hostile model files give a FastconvError that says where, and nothing worse."""

from __future__ import annotations

import gzip
import io
import os
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fastconv.errors import FastconvError, MemoryLimitError, ModelError, UnsupportedError
from fastconv.importer import proto, tensors, wire
from fastconv.importer.defs import SparseTensorDef, TensorDef


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


def model_of(graph):
    return field(1, 8) + field(7, graph)


def small_model():
    """A model of about 1 KB with every kind of message that the reader looks into."""
    inner = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"])],
        "inner",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 3])],
    )
    values = helper.make_tensor("sp", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("", TensorProto.INT64, [2], [1, 5])
    sparse = helper.make_sparse_tensor(values, indices, [2, 3])
    typed = helper.make_tensor("", TensorProto.INT8, [3], [-1, 0, 1])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], s="str", f=1.5),
        helper.make_node("If", ["c"], ["z"], then_branch=inner, t=typed, strs=["a", "b"]),
    ]
    tensors_ = [
        numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w"),
        helper.make_tensor("i64", TensorProto.INT64, [4], [1, -1, 300, 1 << 40]),
        helper.make_tensor("f", TensorProto.FLOAT, [2], [1, 2]),
        helper.make_tensor("d", TensorProto.DOUBLE, [1], [2]),
        helper.make_tensor("i4", TensorProto.INT4, [3], [1, -2, 3]),
        helper.make_tensor("bf", TensorProto.BFLOAT16, [2], [1, 2]),
        helper.make_tensor("u64", TensorProto.UINT64, [1], [2]),
        helper.make_tensor("s", TensorProto.STRING, [2], ["é", "b"]),
    ]
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1, None]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3])],
        [helper.make_value_info("y", sequence)],
        tensors_,
        sparse_initializer=[sparse],
    )
    function = helper.make_function(
        "my", "F", ["x"], ["y"], [nodes[0]], [helper.make_opsetid("", 20)], ["alpha"]
    )
    return helper.make_model(graph, functions=[function]).SerializeToString()


SMALL = small_model()


def read_everything(data):
    """Parse, and convert every tensor; each failure must be a FastconvError."""
    try:
        model = proto.parse_model(data)
    except ModelError:
        return None
    stack = [model.graph]
    nodes = [n for f in model.functions for n in f.nodes]
    while stack or nodes:
        stored = []
        if stack:
            graph = stack.pop()
            nodes += graph.nodes
            stored += [*graph.initializers.values(), *graph.sparse_initializers.values()]
        for node in nodes:
            for attr in node.attributes.values():
                values = attr.value if isinstance(attr.value, list) else [attr.value]
                stack += [v for v in values if type(v).__name__ == "GraphDef"]
                stored += [v for v in values if isinstance(v, TensorDef | SparseTensorDef)]
        nodes = []
        for tensor in stored:
            convert = (
                tensors.sparse_to_array if isinstance(tensor, SparseTensorDef) else tensors.to_array
            )
            try:
                array = convert(tensor, model)
            except FastconvError:
                continue
            assert array.shape == tensor.dims
    return model


def test_the_small_model_is_sound():
    model = read_everything(SMALL)
    assert len(model.graph.initializers) == 8
    for tensor in model.graph.initializers.values():
        tensors.to_array(tensor, model)


def test_truncation_at_every_offset_is_a_model_error_or_a_shorter_valid_model():
    failed = 0
    for size in range(len(SMALL)):
        failed += read_everything(SMALL[:size]) is None
    assert failed > 0.9 * len(SMALL)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_flipped_bytes_never_escape_as_another_exception(data):
    blob = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    read_everything(bytes(blob))


def test_every_byte_set_to_awkward_values():
    for at in range(len(SMALL)):
        for value in (0x00, 0x7F, 0xFF, SMALL[at] ^ 0x81):
            read_everything(SMALL[:at] + bytes([value]) + SMALL[at + 1 :])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(data):
    read_everything(data)
    read_everything(model_of(data))
    read_everything(model_of(field(5, data)))
    read_everything(model_of(field(1, data)))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SMALL)), st.integers(0, len(SMALL)), st.binary(max_size=12))
def test_spliced_and_inserted_bytes(a, b, extra):
    read_everything(SMALL[:a] + extra + SMALL[b:])


# --- wire format ------------------------------------------------------------------------------

NODE = field(4, b"Op")
GOOD_GRAPH = field(1, NODE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "truncated varint of field 1, at byte 1 in model"),
        (b"\x08\x80", "truncated varint, at byte 1"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "longer than 10 bytes, at byte 1"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "exceeds 64 bits, at byte 1"),
        (b"\x00\x01", "field number 0 is illegal, at byte 0"),
        (b"\x08\x08\x0b", "field 1 is a group (obsolete), which ONNX does not use, at byte 2"),
        (b"\x08\x08\x0c", "field 1 is a group"),
        (b"\x08\x08\x0e", "field 1 is wire type 6"),
        (b"\x08\x08\x0f", "field 1 is wire type 7"),
        (b"\xff\xff\xff\xff\xff\x01\x00", "field number exceeds 29 bits"),
        (b"\x3a\x05\x00", "field 7 claims 5 bytes, but its message has 1 left, at byte 0"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "claims 18446744073709551615 bytes"),
        (b"\x08\x08\x3a", "truncated length of field 7, at byte 3"),
        (b"\x08\x08\x7d\x00", "truncated 32-bit value of field 15, at byte 2"),
        (b"\x08\x08\x79\x00", "truncated 64-bit value of field 15, at byte 2"),
        (field(1, 8), "there is no graph"),
        (field(7, GOOD_GRAPH), "ir_version is missing"),
        (field(1, 0) + field(7, GOOD_GRAPH), "ir_version is missing or invalid (0)"),
        (field(1, b"x") + field(7, GOOD_GRAPH), "field 1 cannot be length-delimited"),
        (model_of(field(2, 3)), "field 2 cannot be varint, at byte 4 in graph"),
        (model_of(field(2, b"\xff")), "not valid UTF-8, at byte 6 in graph"),
        (
            model_of(GOOD_GRAPH * 2 + field(1, NODE + field(1, b"a\xc0"))),
            "not valid UTF-8, at byte 25 in graph.node[2]",
        ),
        (model_of(field(1, field(3, b"n"))), "node 'n' has no op_type, at byte 6 in graph.node[0]"),
        (
            model_of(field(1, NODE + field(5, field(1, b"k") + field(20, 1) + field(3, 1)))),
            "attribute 'k' of type FLOAT holds a value of INT, at byte 12"
            " in graph.node[0].attribute[0]",
        ),
        (model_of(field(1, NODE + field(5, field(3, 1)))), "attribute without a name"),
        (model_of(field(1, NODE + field(5, field(1, b"k") + field(20, 99)))), "unknown type 99"),
        (model_of(field(1, NODE + field(5, field(1, b"k")))), "of type UNDEFINED has no value"),
        (
            model_of(field(1, NODE + field(5, field(1, b"k") + field(20, 4)))),
            "of type TENSOR has no value",
        ),
        (
            model_of(field(1, NODE + field(5, field(1, b"k") + field(3, 1)) * 2)),
            "second attribute named 'k', at byte 19 in graph.node[0].attribute[1]",
        ),
        (
            model_of(field(1, NODE + field(5, field(1, b"k") + field(3, 1) + field(21, b"r")))),
            "both a value and ref_attr_name",
        ),
        (model_of(field(5, field(8, b"w")) * 2), "second initializer named 'w'"),
        (model_of(field(5, field(2, 1))), "initializer without a name"),
        (
            model_of(field(5, field(8, b"w") + field(1, -1))),
            "tensor 'w' has a negative dimension: [-1], at byte 6 in graph.initializer[0]",
        ),
        (model_of(field(5, field(8, b"w") + field(14, 7))), "unknown data_location 7"),
        (model_of(field(5, field(8, b"w") + field(4, b"abc"))), "3 bytes is not a multiple of 4"),
        (model_of(field(5, field(8, b"w") + field(7, b"\x80"))), "truncated packed varint"),
        (
            model_of(field(5, field(8, b"w") + field(7, b"\x80" * 10 + b"\x01"))),
            "varint longer than 10 bytes",
        ),
        (
            model_of(field(5, field(8, b"w") + field(7, b"\x01" + b"\xff" * 9 + b"\x7f"))),
            "varint exceeds 64 bits, at byte 12 in graph.initializer[0]",
        ),
        (
            model_of(GOOD_GRAPH) + field(8, field(2, 1)) + field(8, field(2, 2)),
            "opset_import has two versions of domain '': 1, 2",
        ),
        (model_of(GOOD_GRAPH) + field(25, b""), "function without a name, at byte 13"),
    ],
)
def test_each_malformation_is_named_with_its_place(data, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        proto.parse_model(data)


def test_unknown_fields_are_skipped_whatever_their_wire_type():
    unknown = field(500, 1) + field(501, b"abc") + varint(502 << 3 | 5) + bytes(4)
    unknown += varint(503 << 3 | 1) + bytes(8)
    attr = unknown + field(1, b"k") + field(3, 1)
    graph = unknown + field(1, unknown + NODE + field(5, attr)) + field(5, unknown + field(8, b"w"))
    model = proto.parse_model(unknown + field(1, 99) + field(7, graph))
    assert model.ir_version == 99
    assert model.graph.nodes[0].attributes["k"].value == 1


def test_a_doc_string_need_not_be_utf8():
    model = proto.parse_model(model_of(field(10, b"a\xffb") + field(1, NODE + field(6, b"\xfe"))))
    assert model.graph.doc_string == "a\ufffdb"
    assert model.graph.nodes[0].doc_string == "\ufffd"


def nested_graph(levels):
    graph = GOOD_GRAPH
    for _ in range(levels - 1):
        graph = field(1, NODE + field(5, field(1, b"g") + field(6, graph)))
    return model_of(graph)


def test_graphs_nest_to_the_limit_and_no_deeper():
    proto.parse_model(nested_graph(proto.MAX_DEPTH))
    with pytest.raises(ModelError, match="graphs are nested more than 64 deep"):
        proto.parse_model(nested_graph(proto.MAX_DEPTH + 1))
    with pytest.raises(ModelError, match="nested more than"):
        proto.parse_model(nested_graph(3000))


def test_a_deep_stack_of_the_caller_is_a_model_error_not_a_recursion_error():
    data = nested_graph(proto.MAX_DEPTH)

    def descend():
        try:
            return descend()
        except RecursionError:
            with pytest.raises(ModelError, match="nested too deep"):
                proto.parse_model(data)
            return True

    # At the bottom even raising may need more stack than is left; some level up succeeds.
    assert descend()


def test_types_nest_to_a_limit():
    def typed(levels):
        kind = field(1, field(1, 1))
        for _ in range(levels - 1):
            kind = field(4, field(1, kind))
        return model_of(field(11, field(1, b"x") + field(2, kind)))

    value = proto.parse_model(typed(proto.MAX_DEPTH)).graph.inputs[0]
    assert (value.kind, value.elem_type) == ("sequence", 1)
    with pytest.raises(ModelError, match="types are nested more than 64 deep"):
        proto.parse_model(typed(proto.MAX_DEPTH + 1))


# --- files that are not ONNX ------------------------------------------------------------------


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model.onnx", data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML or XML page"),
        (b"\n <HTML>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS pointer"),
        (b'{"error": "not found"}', "a text file"),
        (b'<ir_version: 8, opset_import: ["" : 20]>\nagraph (float[N] X) => () {}', "text form"),
        (b"ir_version: 8\ngraph {\n}\n", "text form"),
        (zipped(SMALL), "ZIP archive"),
        (gzip.compress(SMALL), "gzip-compressed"),
        (b"\x1c\x00\x00\x00ORTM" + bytes(50), "ORT-format"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(50), "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\x80\x02}q\x00.", "pickle"),
        (bytes(100), "field number 0"),
    ],
)
def test_other_files_are_recognised(tmp_path, data, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for source in (path, str(path), data):
        with pytest.raises(ModelError, match=message) as caught:
            proto.open_model(source)
        assert ("m.onnx" in str(caught.value)) == (source is not data)


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for source, message in (
        (tmp_path, "a directory"),
        (tmp_path / "absent.onnx", "no such file"),
        (tmp_path / "fifo", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(ModelError, match=message):
            proto.open_model(source)


# --- tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"data_type": 1, "dims": [2], "raw_data": b"1234567"}, ModelError, "7 bytes, but shape"),
        ({"data_type": 1, "dims": [2], "raw_data": b"123456789"}, ModelError, "9 bytes, but"),
        ({"data_type": 1, "dims": [2]}, ModelError, r"needs 2 elements, but has no data"),
        ({"data_type": 1, "dims": [2], "float_data": [1.0]}, ModelError, "1 entries, but"),
        ({"data_type": 1, "dims": [0], "float_data": [1.0]}, ModelError, "1 entries, but"),
        ({"data_type": 14, "dims": [2], "float_data": [1.0, 2.0]}, ModelError, "needs 4"),
        ({"data_type": 1, "dims": [1], "int32_data": [1]}, ModelError, "must be in float_data"),
        ({"data_type": 8, "dims": [1], "raw_data": b"a"}, ModelError, "must be in string_data"),
        ({"data_type": 8, "dims": [1], "string_data": [b"\xff"]}, ModelError, "not valid UTF-8"),
        (
            {"data_type": 1, "dims": [1], "float_data": [1.0], "raw_data": b"1234"},
            ModelError,
            "more than one place: raw_data, float_data",
        ),
        ({"data_type": 2, "dims": [1], "int32_data": [256]}, ModelError, "256 does not fit"),
        ({"data_type": 3, "dims": [1], "int32_data": [-129]}, ModelError, "-129 does not fit"),
        ({"data_type": 10, "dims": [1], "int32_data": [65536]}, ModelError, "FLOAT16"),
        ({"data_type": 12, "dims": [1], "uint64_data": [1 << 32]}, ModelError, "UINT32"),
        ({"data_type": 17, "dims": [1], "int32_data": [256]}, ModelError, "FLOAT8E4M3FN"),
        ({"data_type": 27, "dims": [1], "int32_data": [64]}, ModelError, "FLOAT6E2M3"),
        ({"data_type": 21, "dims": [3], "int32_data": [1]}, ModelError, "needs 2"),
        ({"data_type": 27, "dims": [3], "raw_data": b"12"}, ModelError, "needs 3"),
        ({"data_type": 0, "dims": [1]}, ModelError, "has no data type"),
        ({"data_type": 99, "dims": [1]}, UnsupportedError, "data type 99"),
        ({"data_type": -1, "dims": [1]}, UnsupportedError, "data type -1"),
        ({"data_type": 1, "dims": [1] * 33, "raw_data": b"1234"}, UnsupportedError, "rank 33"),
        ({"data_type": 1, "dims": [1 << 62, 1 << 62]}, MemoryLimitError, "exceeds"),
        ({"data_type": 1, "dims": [0, 1 << 62]}, MemoryLimitError, "exceeds"),
        ({"data_type": 1, "dims": [1 << 45]}, ModelError, "has no data"),
    ],
)
def test_tensors_whose_data_do_not_fit(kwargs, error, message):
    tensor = TensorProto(name="bad", **kwargs)
    model = proto.parse_model(model_of(field(5, tensor.SerializeToString())))
    with pytest.raises(error, match=message) as caught:
        tensors.to_array(model.graph.initializers["bad"], model)
    assert "'bad'" in str(caught.value)


def test_segmented_tensors_are_unsupported():
    tensor = TensorProto(name="t", data_type=1, dims=[1], raw_data=b"1234")
    tensor.segment.begin = 0
    model = proto.parse_model(model_of(field(5, tensor.SerializeToString())))
    with pytest.raises(UnsupportedError, match="segmented"):
        tensors.to_array(model.graph.initializers["t"], model)


def test_a_hand_made_negative_dimension_is_refused():
    with pytest.raises(ModelError, match="negative"):
        tensors.to_array(TensorDef("t", 1, (-1,)))


@pytest.mark.parametrize(
    ("dims", "indices", "shape", "error", "message"),
    [
        ([4], [1, 4], [2], ModelError, "out of range for 4"),
        ([4], [-1, 2], [2], ModelError, "out of range for 4"),
        ([4], [2, 1], [2], ModelError, "ascending"),
        ([4], [2, 2], [2], ModelError, "ascending"),
        ([2, 2], [0, 0, 0, 2], [2, 2], ModelError, "out of range on axis 1"),
        ([2, 2], [0, 0, -1, 1], [2, 2], ModelError, "out of range on axis 0"),
        ([2, 2], [1, 0, 0, 1], [2, 2], ModelError, "ascending"),
        ([4], [1, 2, 3], [3], ModelError, "fit neither"),
        ([0], [1, 2], [2], ModelError, "out of range for 0"),
        ([1 << 40], [1, 2], [2], MemoryLimitError, "when dense"),
        ([1 << 62, 1 << 62], [1, 2], [2], MemoryLimitError, "exceeds"),
        ([1] * 33, [0, 1], [2], UnsupportedError, "rank 33"),
    ],
)
def test_sparse_tensors_that_do_not_fit(dims, indices, shape, error, message):
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0])
    index = helper.make_tensor("", TensorProto.INT64, shape, indices)
    sparse = helper.make_sparse_tensor(values, index, dims)
    model = proto.parse_model(model_of(field(15, sparse.SerializeToString())))
    with pytest.raises(error, match=message):
        tensors.sparse_to_array(model.graph.sparse_initializers["s"], model)


# --- memory and time --------------------------------------------------------------------------


def peak_of(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data_type", [1, 7, 8, 9, 16, 17, 21, 26, 28])
@pytest.mark.parametrize("dims", [[1 << 31], [1 << 20, 1 << 20], [1 << 47], [1] * 32])
def test_hostile_dims_allocate_nothing(data_type, dims):
    tensor = TensorProto(name="t", data_type=data_type, dims=dims)
    data = model_of(field(5, tensor.SerializeToString()))

    def work():
        model = proto.parse_model(data)
        with pytest.raises((ModelError, MemoryLimitError)):
            tensors.to_array(model.graph.initializers["t"], model)

    assert peak_of(work) < 200_000


def test_a_hostile_sparse_shape_allocates_nothing():
    values = TensorProto(name="s", data_type=1, dims=[0])
    sparse = helper.make_sparse_tensor(values, TensorProto(), [1 << 45])
    model = proto.parse_model(model_of(field(15, sparse.SerializeToString())))

    def work():
        with pytest.raises(MemoryLimitError):
            tensors.sparse_to_array(model.graph.sparse_initializers["s"], model)

    assert peak_of(work) < 200_000


@pytest.mark.parametrize(
    "unit",
    [
        field(1, b""),  # empty nodes
        field(1, NODE),
        field(11, b""),  # empty inputs
        field(13, field(2, field(1, field(2, field(1, b"") * 50)))),
        field(1, NODE + field(1, b"") * 100),
        field(5, field(8, b"@@@@") + field(1, 1) * 100),
        field(5, field(8, b"@@@@") + field(7, b"\x01" * 100)),
        field(5, field(8, b"@@@@") + field(7, b"\x01") * 100),
        field(5, field(8, b"@@@@") + field(7, b"\xff" * 9 + b"\x01")),
        field(500, b""),
    ],
)
def test_memory_grows_only_in_proportion_to_the_file(unit):
    """The worst is about 110 bytes of Python objects for each byte of a file of tiny messages."""
    units = range(60_000 // len(unit))
    data = model_of(b"".join(unit.replace(b"@@@@", b"%04x" % i) for i in units))

    def work():
        if unit == field(1, b""):
            with pytest.raises(ModelError, match="op_type"):
                proto.parse_model(data)
        else:
            proto.parse_model(data)

    assert peak_of(work) < 150 * len(data)


def test_scanning_never_reads_past_its_message():
    data = field(1, b"abc") + b"\xff" * 20
    assert wire.scan(data, 0, 5) == [(10, 2, 5)]
    with pytest.raises(wire.WireError):
        wire.scan(data, 0, 4)
