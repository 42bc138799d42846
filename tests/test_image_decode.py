"""Decoding: what a person sees is what the array holds, and bad files give one clear error."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastconv.errors import ImageError, OptionError
from fastconv.image import decode, expand_paths

WHITE = [255, 255, 255]


def encode(img: Image.Image, fmt: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    img.save(buffer, fmt, **options)
    return buffer.getvalue()


def noise(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG file put together by hand, with any extra chunks before the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(e[:4], e[4:]) for e in extra)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + body
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("TGA", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_lossless_formats_give_the_pixels_back(fmt, options):
    pixels = noise()
    out = decode(encode(Image.fromarray(pixels), fmt, **options))
    np.testing.assert_array_equal(out, pixels)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert out.flags.writeable


def test_jpeg_is_decoded_at_full_quality_as_pillow_does():
    data = encode(Image.fromarray(noise(64, 64)), "JPEG", quality=90)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


def test_grey_mode_gives_one_channel_by_pillow_luma():
    img = Image.fromarray(noise())
    out = decode(encode(img), "L")
    assert out.shape == (5, 7, 1)
    np.testing.assert_array_equal(out[:, :, 0], np.asarray(img.convert("L")))


def test_grey_file_as_rgb_repeats_the_channel():
    grey = noise()[:, :, 0]
    out = decode(encode(Image.fromarray(grey)))
    np.testing.assert_array_equal(out, np.repeat(grey[:, :, None], 3, axis=2))


# How the stored rows must be turned to stand upright, from the EXIF definition of each value:
# which image edge row 0 and column 0 of the file are.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(orientation, fmt):
    pixels = noise(16, 24) // 64 * 64
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = encode(Image.fromarray(pixels), fmt)
    turned = encode(Image.fromarray(pixels), fmt, exif=exif)
    np.testing.assert_array_equal(decode(turned), UPRIGHT[orientation](decode(plain)))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"])
def test_broken_exif_counts_as_upright(exif):
    pixels = noise()
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels), exif=exif)), pixels)


def test_unknown_orientation_value_counts_as_upright():
    exif = Image.Exif()
    exif[0x0112] = 77
    pixels = noise()
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels), exif=exif)), pixels)


def test_alpha_is_composited_over_the_background():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]
    data = encode(Image.fromarray(rgba))
    assert decode(data)[0].tolist() == [[200, 0, 0], WHITE, [127, 127, 127]]
    assert decode(data, background=(0, 0, 9))[0].tolist() == [[200, 0, 0], [0, 0, 9], [0, 0, 4]]
    assert decode(data, "L")[0, 1].tolist() == [255]


def test_grey_with_alpha_is_composited():
    la = Image.merge("LA", [Image.new("L", (2, 1), 10), Image.new("L", (2, 1), 0)])
    assert decode(encode(la), background=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
@pytest.mark.parametrize("transparent", [False, True])
def test_palette_with_and_without_a_transparent_entry(fmt, transparent):
    img = Image.new("P", (2, 1))
    img.putpalette([255, 0, 0, 0, 255, 0])
    img.putdata([0, 1])
    options = {"transparency": 1} if transparent else {}
    want = [[255, 0, 0], WHITE if transparent else [0, 255, 0]]
    assert decode(encode(img, fmt, **options))[0].tolist() == want


def test_palette_with_an_alpha_table():
    img = Image.new("P", (2, 1))
    img.putpalette([0, 0, 0, 0, 0, 0])
    img.putdata([0, 1])
    assert decode(encode(img, transparency=b"\xff\x00"))[0].tolist() == [[0, 0, 0], WHITE]


def test_rgb_with_a_transparent_colour():
    img = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(encode(img, transparency=(4, 5, 6)))[0].tolist() == [[1, 2, 3], WHITE]


def test_16_bit_colour_keeps_the_high_bytes_and_its_transparent_colour():
    row = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0)
    key = b"tRNS" + struct.pack(">3H", 0xFFFF, 0, 0)
    assert decode(png(2, 1, 16, 2, row, key))[0].tolist() == [[0x12, 0x56, 0x9A], WHITE]


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    out = decode(encode(Image.fromarray(values)), "L")
    assert out[0, :, 0].tolist() == [round(v / 257) for v in values[0].tolist()]
    assert out[0, -1, 0] == 255


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_of_either_byte_order(order):
    values = np.array([[0, 257 * 7, 65535]], np.uint16)
    mode = "I;16" if order == "<" else "I;16B"
    img = Image.frombytes(mode, (3, 1), values.astype(order + "u2").tobytes())
    assert decode(encode(img, "TIFF"), "L")[0, :, 0].tolist() == [0, 7, 255]


def test_32_bit_integer_grey_is_clipped_to_16_bits_then_scaled():
    img = Image.fromarray(np.array([[-5, 257 * 9, 70000]], np.int32))
    assert decode(encode(img, "TIFF"), "L")[0, :, 0].tolist() == [0, 9, 255]


def test_16_bit_grey_with_a_transparent_value():
    row = b"\0" + struct.pack(">2H", 257 * 3, 500)
    data = png(2, 1, 16, 0, row, b"tRNS" + struct.pack(">H", 500))
    assert decode(data, background=(7, 8, 9))[0].tolist() == [[3, 3, 3], [7, 8, 9]]
    assert decode(data, "L")[0, :, 0].tolist() == [3, 255]


def test_one_bit_image_is_black_and_white():
    img = Image.new("1", (2, 1))
    img.putdata([0, 255])
    assert decode(encode(img))[0].tolist() == [[0, 0, 0], WHITE]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 127.4, 300.0], [0, 127, 255]),
        ([-4.0, 2.0, 255.0], [0, 2, 255]),
        ([np.nan, 0.5, 1.0], [0, 128, 255]),
        ([np.inf, 0.0, 10.0], [255, 0, 10]),
    ],
)
def test_float_tiff(values, want):
    img = Image.fromarray(np.array([values], np.float32))
    assert decode(encode(img, "TIFF"), "L")[0, :, 0].tolist() == want


def test_cmyk_jpeg_and_tiff_follow_pillow():
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for fmt in ("JPEG", "TIFF"):
        red, green, blue = decode(encode(cmyk, fmt))[8, 8].tolist()
        assert red < 5
        assert green > 250
        assert blue > 250


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_the_first_frame(fmt):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encode(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    assert decode(data)[2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "memoryview", "file", "stream"])
def test_every_kind_of_source_gives_the_same_array(tmp_path, kind):
    pixels = noise()
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(pixels)))
    data = path.read_bytes()
    with path.open("rb") as file:
        source = {
            "str": str(path),
            "path": path,
            "bytes": data,
            "memoryview": memoryview(data),
            "stream": io.BytesIO(data),
            "file": file,
        }[kind]
        np.testing.assert_array_equal(decode(source), pixels)


def bad_path(tmp_path, kind: str) -> str:
    path = tmp_path / "picture.png"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not an image\n" * 100)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    return str(path)


@pytest.mark.parametrize(
    "kind", ["missing", "directory", "empty", "text", "fifo", "dangling", "loop"]
)
def test_bad_files_give_one_line_that_names_the_file(tmp_path, kind):
    with pytest.raises(ImageError, match=r"picture\.png: ") as info:
        decode(bad_path(tmp_path, kind))
    assert "\n" not in str(info.value)


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"secret\.png: permission denied"):
        decode(path)


@pytest.mark.parametrize("source", ["a\0b.png", "", "x" * 5000, "new\nline.png"])
def test_impossible_file_names(source):
    with pytest.raises(ImageError) as info:
        decode(source)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("source", [b"", bytearray(), 7, None, io.StringIO("text"), io.BytesIO()])
def test_bad_sources(source):
    with pytest.raises(ImageError):
        decode(source)


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
    ],
)
def test_truncation_is_an_error_or_loses_nothing(fmt, options):
    """Cut anywhere, a file never gives another picture (only trailers may be missing)."""
    data = encode(Image.fromarray(noise(24, 31)), fmt, **options)
    whole = decode(data)
    errors = 0
    for cut in sorted({*range(0, len(data), 37), *range(len(data) - 20, len(data))}):
        try:
            np.testing.assert_array_equal(decode(data[:cut]), whole)
        except ImageError:
            errors += 1
    assert errors > 20


def test_a_flipped_bit_in_png_pixels_is_found_by_its_checksum():
    data = bytearray(encode(Image.fromarray(noise())))
    data[data.index(b"IDAT") + 30] ^= 1
    with pytest.raises(ImageError, match="cannot decode image"):
        decode(bytes(data))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["", "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_random_bytes_never_raise_anything_else(tail, fmt):
    head = encode(Image.fromarray(noise()), fmt)[:40] if fmt else b""
    message = ""
    try:
        assert decode(head + tail).ndim == 3
    except ImageError as exc:
        message = str(exc)
    assert "\n" not in message


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_corrupted_files_never_raise_anything_else(fmt, changes):
    data = bytearray(encode(Image.fromarray(noise()), fmt))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        # The limit keeps a corrupted header from asking for a large, valid picture.
        out = decode(bytes(data), max_pixels=1_000_000)
    except ImageError:
        return
    assert out.dtype == np.uint8
    assert out.shape[2] == 3


@pytest.mark.parametrize("pillow_limit", [Image.MAX_IMAGE_PIXELS, None])
@pytest.mark.parametrize("side", [13378, 15000, 60000])
def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch, side, pillow_limit):
    """With Pillow's own limit or without; "too large" and not "truncated" shows which check ran."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    with pytest.raises(ImageError, match="image too large") as info:
        decode(png(side, side, 8, 2, b""))
    assert "\n" not in str(info.value)


def test_max_pixels_is_inclusive():
    data = encode(Image.fromarray(noise(5, 7)))
    assert decode(data, max_pixels=35).shape == (5, 7, 3)
    with pytest.raises(ImageError, match="image too large: 7×5 = 35 pixels"):
        decode(data, max_pixels=34)


def test_no_warning_escapes_and_filters_are_restored():
    big = png(14000, 14000, 8, 2, b"")  # Pillow 10 to 12 warn at this size
    odd = Image.new("P", (2, 1))
    odd.putpalette([0, 0, 0, 9, 9, 9])
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ImageError):
            decode(big)
        decode(encode(odd, transparency=b"\x00\xff"))
    assert seen == []
    assert list(warnings.filters) == before


def test_decoding_in_threads_restores_the_warning_filters():
    data = encode(Image.fromarray(noise(64, 64)))
    before = list(warnings.filters)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(decode(data))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 8
    assert list(warnings.filters) == before


def test_postscript_is_refused_without_running_anything(monkeypatch):
    from PIL import EpsImagePlugin

    def ran(*args, **kwargs):
        raise AssertionError("an external program was asked for")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ran)
    with pytest.raises(ImageError, match="EPS files are not decoded"):
        decode(encode(Image.fromarray(noise()), "EPS"))


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "RGBA"},
        {"background": (0, 0)},
        {"background": (0, 0, 256)},
        {"background": "white"},
        {"max_pixels": 0},
        {"max_pixels": 1.5},
        {"max_pixels": True},
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        decode(encode(Image.fromarray(noise())), **options)


def test_expand_paths_keeps_order_and_sorts_within_an_argument(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "weird[1].png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "deep.png").write_bytes(b"x")

    def at(*names):
        return [str(tmp_path / n) for n in names]

    assert expand_paths([str(tmp_path)]) == at("a.jpg", "b.PNG", "weird[1].png")
    assert expand_paths(at("notes.txt", "a.jpg")) == at("notes.txt", "a.jpg")
    assert expand_paths(at("*.jpg", "b.*")) == at("a.jpg", "b.PNG")
    assert expand_paths(at("weird[1].png")) == at("weird[1].png")
    assert expand_paths(at("**/deep.png")) == at("sub.png/deep.png")
    assert expand_paths([]) == []


@pytest.mark.parametrize("arg", ["gone.png", "*.webp", "hollow", "", "a\0b"])
def test_expand_paths_names_the_argument_that_gives_nothing(tmp_path, monkeypatch, arg):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "readme.txt").write_text("no pictures")
    name = ascii(arg) if not arg or "\0" in arg else arg
    with pytest.raises(ImageError) as info:
        expand_paths([arg])
    assert str(info.value).startswith(name)
