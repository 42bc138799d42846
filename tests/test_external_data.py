"""External tensor data: read when sound, refused when they lead anywhere but the model's folder."""

from __future__ import annotations

import os
import shutil
import socket
import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fastconv.errors import ExternalDataError, ModelError
from fastconv.importer import proto, tensors

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def external_tensor(dims=(3, 4), data_type=TensorProto.FLOAT, name="w", **keys):
    tensor = TensorProto(name=name, dims=dims, data_type=data_type)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in keys.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def serialized(*stored):
    return helper.make_model(helper.make_graph([], "g", [], [], list(stored))).SerializeToString()


@pytest.fixture
def folder(tmp_path):
    """A model folder with ``w.bin`` in it, beside a ``secret.bin`` outside."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "w.bin").write_bytes(VALUES.tobytes())
    (inside / "sub" / "w.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    return inside


def load(folder, *stored):
    """Save a model of the tensors in the folder, open it, and convert them all."""
    path = folder / "m.onnx"
    path.write_bytes(serialized(*stored))
    model = proto.open_model(path)
    return [tensors.to_array(t, model) for t in model.graph.initializers.values()], model


def refused(folder, match, **keys):
    with pytest.raises(ExternalDataError, match=match) as caught:
        load(folder, external_tensor(**keys))
    assert "'w'" in str(caught.value)
    assert "m.onnx" in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"location": "w.bin"},
        {"location": "w.bin", "offset": 0},
        {"location": "w.bin", "offset": 0, "length": 48},
        {"location": "w.bin", "length": 48, "checksum": "ignored"},
        {"location": "./w.bin"},
        {"location": "sub/w.bin"},
        {"location": "sub//w.bin"},
    ],
)
def test_sound_external_data_are_read(folder, keys):
    (array,), _ = load(folder, external_tensor(**keys))
    np.testing.assert_array_equal(array, VALUES)
    assert not array.flags.writeable


def test_models_saved_by_the_onnx_package_are_read_back(folder):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((5, 7)).astype(np.float32),
        "b": rng.integers(-100, 100, 33).astype(np.int8),
        "c": rng.standard_normal(9),
    }
    stored = [numpy_helper.from_array(v, k) for k, v in arrays.items()]
    model = onnx.ModelProto.FromString(serialized(*stored))
    for one_file in (True, False):
        path = folder / f"saved{one_file}.onnx"
        onnx.save_model(
            model, path, save_as_external_data=True, all_tensors_to_one_file=one_file,
            location=f"all{one_file}.bin" if one_file else None, size_threshold=0,
        )  # fmt: skip
        ours = proto.open_model(path)
        for name, array in arrays.items():
            definition = ours.graph.initializers[name]
            assert definition.external is not None
            np.testing.assert_array_equal(tensors.to_array(definition, ours), array)
        model = onnx.load(path)


def test_a_relative_model_path_finds_its_data_after_chdir(folder, monkeypatch):
    (folder / "m.onnx").write_bytes(serialized(external_tensor(location="w.bin")))
    monkeypatch.chdir(folder)
    model = proto.open_model("m.onnx")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(tensors.to_array(model.graph.initializers["w"], model), VALUES)


def test_one_mapping_per_file_is_shared_by_its_tensors(folder):
    stored = [
        external_tensor(dims=(4,), name=f"t{k}", location="w.bin", offset=16 * k) for k in range(3)
    ]
    arrays, model = load(folder, *stored)
    np.testing.assert_array_equal(np.stack(arrays), VALUES)
    assert list(model.external_files) == ["w.bin"]
    whole = np.frombuffer(model.external_files["w.bin"], np.uint8)
    assert all(np.shares_memory(whole, a) for a in arrays)


def test_an_unaligned_offset_gives_an_aligned_array(folder):
    (folder / "odd.bin").write_bytes(b"x" + VALUES.tobytes())
    (array,), _ = load(folder, external_tensor(location="odd.bin", offset=1))
    assert array.flags.aligned
    np.testing.assert_array_equal(array, VALUES)


def test_arrays_outlive_the_model(folder):
    (array,), model = load(folder, external_tensor(location="w.bin"))
    del model
    shutil.rmtree(folder)
    np.testing.assert_array_equal(array, VALUES)


def test_four_bit_data_count_whole_bytes(folder):
    (folder / "i4.bin").write_bytes(b"\xf1\x02")
    (array,), _ = load(
        folder, external_tensor(dims=(3,), data_type=TensorProto.INT4, location="i4.bin", length=2)
    )
    assert array.tolist() == [1, -1, 2]


def test_a_model_without_a_path_says_to_open_it_by_its_path():
    model = proto.parse_model(serialized(external_tensor(location="w.bin")))
    for owner in (model, None):
        with pytest.raises(ExternalDataError, match="open the model by its path"):
            tensors.to_array(model.graph.initializers["w"], owner)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "sub/../w.bin", "..", "sub/..", "..\\secret.bin", "sub\\..\\..\\secret.bin"],
)
def test_dotdot_is_refused(folder, location):
    refused(folder, r"contains '\.\.'", location=location)


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "//host/share", "C:\\w.bin", "C:w.bin", "\\\\host\\share\\w.bin"]
)
def test_absolute_locations_are_refused(folder, location):
    refused(folder, "is absolute", location=location)


def test_an_absolute_path_to_the_right_file_is_refused_too(folder):
    refused(folder, "is absolute", location=folder / "w.bin")


@pytest.mark.parametrize("location", ["", "w\0.bin"])
def test_locations_that_are_no_names(folder, location):
    refused(folder, "not a file name", location=location)


def test_a_missing_location_key(folder):
    refused(folder, "not a file name", offset=0)


@pytest.mark.parametrize("target", ["../secret.bin", "absolute"])
def test_a_symlink_out_of_the_folder_is_refused(folder, target):
    target = folder.parent / "secret.bin" if target == "absolute" else target
    (folder / "link.bin").symlink_to(target)
    refused(folder, "symbolic link", location="link.bin")


def test_a_symlinked_folder_out_of_the_folder_is_refused(folder):
    (folder / "linkdir").symlink_to("..")
    refused(folder, "symbolic link", location="linkdir/secret.bin")


def test_a_chain_of_symlinks_out_of_the_folder_is_refused(folder):
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("sub/three")
    (folder / "sub" / "three").symlink_to("../../secret.bin")
    refused(folder, "symbolic link", location="one")


def test_a_folder_whose_name_begins_alike_is_outside(folder):
    twin = folder.parent / (folder.name + "2")
    twin.mkdir()
    (twin / "w.bin").write_bytes(VALUES.tobytes())
    (folder / "link.bin").symlink_to(twin / "w.bin")
    refused(folder, "symbolic link", location="link.bin")


def test_a_symlink_that_stays_inside_is_followed(folder):
    (folder / "link.bin").symlink_to("sub/w.bin")
    (array,), _ = load(folder, external_tensor(location="link.bin"))
    np.testing.assert_array_equal(array, VALUES)


def test_a_symlinked_model_folder_is_followed(folder):
    alias = folder.parent / "alias"
    alias.symlink_to(folder)
    (array,), _ = load(alias, external_tensor(location="w.bin"))
    np.testing.assert_array_equal(array, VALUES)


def test_a_symlink_loop_is_refused(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    refused(folder, "cannot be opened|symbolic link", location="a")


def test_a_hard_link_is_refused(folder):
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    refused(folder, "2 hard links", location="hard.bin")


def test_a_link_put_in_place_after_the_check_is_not_followed(folder, monkeypatch):
    """As if the file were swapped for a link between resolving the path and opening it."""
    (folder / "sub" / "w.bin").unlink()
    (folder / "sub" / "w.bin").symlink_to("../../secret.bin")
    (folder / "late").symlink_to("..")
    (folder / "m.onnx").write_bytes(serialized(external_tensor(location="sub/w.bin")))
    (folder / "n.onnx").write_bytes(serialized(external_tensor(location="late/secret.bin")))
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)
    for name in ("m.onnx", "n.onnx"):
        model = proto.open_model(folder / name)
        with pytest.raises(ExternalDataError, match="cannot be opened"):
            tensors.to_array(model.graph.initializers["w"], model)


def test_what_is_not_a_regular_file_is_refused_without_hanging(folder, monkeypatch):
    os.mkfifo(folder / "fifo")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        refused(folder, "not a regular file", location="fifo")
        refused(folder, "not a regular file|cannot be opened", location="sock")
        refused(folder, "not a regular file", location="sub")
        refused(folder, "leads outside|not a regular file", location=".")


def test_missing_files_are_named(folder):
    refused(folder, "'absent.bin' is missing", location="absent.bin")
    refused(folder, "'absent/w.bin' is missing", location="absent/w.bin")
    refused(folder, "cannot be opened", location="w.bin/x")
    refused(folder, "cannot be opened|File name too long", location="n" * 5000)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"offset": 1}, "needs bytes 1 to 49 of external file 'w.bin', which has 48"),
        ({"offset": 48}, "which has 48"),
        ({"offset": 1 << 62}, "which has 48"),
        ({"offset": 10**19}, "which has 48"),
        ({"offset": "9" * 21}, "not a non-negative integer"),
        ({"offset": -1}, "offset '-1' is not a non-negative integer"),
        ({"offset": ""}, "not a non-negative integer"),
        ({"offset": "0x0"}, "not a non-negative integer"),
        ({"offset": "1.5"}, "not a non-negative integer"),
        ({"offset": "1_0"}, "not a non-negative integer"),
        ({"offset": " 0"}, "not a non-negative integer"),
        ({"offset": "٣"}, "not a non-negative integer"),
        ({"offset": "²"}, "not a non-negative integer"),
        ({"length": -48}, "length '-48' is not a non-negative integer"),
        ({"length": 47}, "length is 47 bytes, but the tensor has 48"),
        ({"length": 49}, "length is 49 bytes, but the tensor has 48"),
        ({"length": 1 << 63}, "but the tensor has 48"),
    ],
)
def test_offsets_and_lengths_that_do_not_fit(folder, keys, match):
    refused(folder, match, location="w.bin", **keys)


def test_a_file_that_is_too_short(folder):
    (folder / "short.bin").write_bytes(VALUES.tobytes()[:-1])
    refused(folder, "which has 47", location="short.bin")
    (folder / "empty.bin").write_bytes(b"")
    refused(folder, "which has 0", location="empty.bin")


def test_a_huge_shape_maps_the_file_and_allocates_nothing(folder):
    tracemalloc.start()
    try:
        refused(folder, "which has 48", location="w.bin", dims=(1 << 20, 1 << 20))
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_an_empty_tensor_in_an_empty_file(folder):
    (folder / "empty.bin").write_bytes(b"")
    (array,), _ = load(folder, external_tensor(dims=(0, 4), location="empty.bin"))
    assert array.shape == (0, 4)


def test_data_both_inside_and_outside_are_refused(folder):
    tensor = external_tensor(location="w.bin")
    tensor.raw_data = VALUES.tobytes()
    with pytest.raises(ModelError, match="more than one place: raw_data, external_data"):
        load(folder, tensor)


def test_two_values_of_one_key_are_refused(folder):
    tensor = external_tensor(location="w.bin")
    tensor.external_data.add(key="location", value="sub/w.bin")
    with pytest.raises(ModelError, match="two values of 'location'"):
        load(folder, tensor)


def test_external_strings_are_refused(folder):
    with pytest.raises(ModelError, match="must be in string_data"):
        load(folder, external_tensor(data_type=TensorProto.STRING, location="w.bin"))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.sampled_from(
                ["..", ".", "", "sub", "w.bin", "link", "~", "a\\b", "C:", "secret.bin"]
            ),
            max_size=5,
        ).map("/".join),
    ),
    st.text(max_size=4) | st.integers(-5, 100).map(str),
)
def test_no_location_reads_outside_or_escapes_as_another_error(tmp_path_factory, location, offset):
    base = tmp_path_factory.mktemp("m")
    inside = base / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "link").symlink_to("..")
    (inside / "w.bin").write_bytes(VALUES.tobytes())
    (base / "secret.bin").write_bytes(b"\xff" * 48)
    try:
        (array,), _ = load(inside, external_tensor(location=location, offset=offset))
    except ModelError:
        return
    np.testing.assert_array_equal(array, VALUES)
    assert location.endswith("w.bin")
