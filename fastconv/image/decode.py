"""Image file → uint8 array, and the expansion of command-line arguments to image files.

Pillow does the decoding. This module adds what a person looking at the picture would expect (EXIF
orientation, transparency over a background, 16-bit scaling) and turns every failure into one
``ImageError`` line that names the file. Pillow is imported on first use.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import FastconvError, ImageError, OptionError
from ..sizes import checked_size

if TYPE_CHECKING:
    from PIL import Image

#: Images with more pixels than this are refused from their header (the figure Pillow warns at).
DEFAULT_MAX_PIXELS = 178_956_970

#: No more than this many bytes are read from a stream that cannot be rewound.
MAX_STREAM_BYTES = 1 << 30

#: Suffixes that ``expand_paths`` takes from a directory, lower case.
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"}
    | {".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"}
)

#: Pillow formats that start another program, or are stubs without a decoder of their own.
_REFUSED_FORMATS = frozenset(
    {"EPS", "WMF", "EMF", "BUFR", "GRIB", "HDF5", "MPEG", "FPX", "MIC", "IPTC"}
)

# EXIF 2.3 tag 0x0112: value -> Image.Transpose member that puts the picture upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]


class _Quiet:
    """Silences Python warnings while at least one thread is decoding.

    ``warnings.catch_warnings`` swaps a list global to the process, so nested use from several
    threads could restore the wrong one; counting the users makes the first in and the last out the
    only ones to touch it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._saved: warnings.catch_warnings[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._users += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


_quiet = _Quiet()


def decode(
    source: Source,
    mode: str = "RGB",
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> np.ndarray:
    """Decode an image to a uint8 array, axis order (height, width, channels).

    Whatever raster format Pillow opens is accepted; formats that need another program (EPS, WMF)
    are refused. The rules, in order:

    * EXIF orientation (or the TIFF tag) is applied; unreadable EXIF counts as upright.
    * Animations and multi-page files give their first frame.
    * 16-bit and 32-bit integer grey ("I;16", "I") is clipped to 0..65535, then divided by 257 and
      rounded, so the full range is kept. 16-bit colour is reduced by Pillow to its high bytes.
    * Float grey ("F"): if every finite value is in 0..1 it is multiplied by 255, otherwise taken
      as 0..255; rounded and clipped. NaN becomes 0.
    * Alpha and transparent colours (RGBA, LA, palette or tRNS) are composited over ``background``.
    * CMYK is converted by Pillow's plain formula (its JPEG reader undoes Adobe's inversion).
      Embedded ICC profiles are ignored.
    * RGB becomes grey by ITU-R 601-2 luma, as Pillow's ``convert("L")``.

    JPEG draft mode is never used, so a later resize sees every pixel.

    Args:
        source: a path, the bytes of a file, or a binary file object (read from where it stands).
        mode: "RGB" for (H, W, 3) or "L" for (H, W, 1).
        background: RGB bytes shown through transparent pixels.
        max_pixels: width × height limit, checked from the header before pixels are decoded.
            Pillow's own limit, from ``PIL.Image.MAX_IMAGE_PIXELS``, applies as well: to go beyond
            the default, raise that too.

    Returns:
        A C-contiguous, writable uint8 array.

    Raises:
        ImageError: missing, unreadable, empty, not an image, truncated, corrupt or too large.
        OptionError: ``mode``, ``background`` or ``max_pixels`` makes no sense.
    """
    if mode not in ("RGB", "L"):
        raise OptionError(f"mode={mode!r}: must be 'RGB' or 'L'")
    background = _checked_background(background)
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise OptionError(f"max_pixels={max_pixels!r}: must be a whole number of at least 1")

    with contextlib.ExitStack() as stack:
        name, stream = _open_source(source, stack)
        stack.enter_context(_quiet)
        try:
            return _decode_stream(name, stream, mode, background, max_pixels)
        except FastconvError:
            raise
        # Pillow's readers raise many types on hostile bytes (OSError, SyntaxError, struct.error,
        # KeyError, ...); all of them mean that this file cannot be decoded.
        except Exception as exc:
            raise ImageError(f"{name}: cannot decode image: {_one_line(exc)}") from exc


def _checked_background(background: Any) -> tuple[int, int, int]:
    try:
        r, g, b = (int(v) for v in background)
    except (TypeError, ValueError):
        raise OptionError(f"background={background!r}: must be three bytes (R, G, B)") from None
    if not all(0 <= v <= 255 for v in (r, g, b)):
        raise OptionError(f"background={background!r}: each value must be in 0..255")
    return r, g, b


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _show(name: object) -> str:
    """A file name fit for one line of a message (surrogates and control characters escaped)."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def _open_source(source: Source, stack: contextlib.ExitStack) -> tuple[str, IO[bytes]]:
    """Return (name for messages, seekable binary stream) for anything ``decode`` accepts."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise ImageError("<bytes>: empty, not an image")
        return "<bytes>", io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(source, stack)
    if not hasattr(source, "read"):
        raise ImageError(
            f"cannot read an image from {type(source).__name__}: "
            "pass a path, bytes or a binary file object"
        )
    label = getattr(source, "name", None)
    name = _show(label) if isinstance(label, str) else "<stream>"
    # Reading everything gives a seekable stream that starts at the current position.
    try:
        data = source.read(MAX_STREAM_BYTES + 1)
    except Exception as exc:
        raise ImageError(f"{name}: cannot read: {_one_line(exc)}") from exc
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: not a binary file object (open it with mode 'rb')")
    if not data:
        raise ImageError(f"{name}: empty, not an image")
    if len(data) > MAX_STREAM_BYTES:
        raise ImageError(f"{name}: more than {MAX_STREAM_BYTES} bytes in the stream")
    return name, io.BytesIO(data)


def _open_path(path: str | os.PathLike[str], stack: contextlib.ExitStack) -> tuple[str, IO[bytes]]:
    name = _show(os.fspath(path))
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise ImageError(f"{name}: is a directory, not an image file")
        # Opening a pipe or a device could block for ever.
        if not stat.S_ISREG(info.st_mode):
            raise ImageError(f"{name}: not a regular file")
        if info.st_size == 0:
            raise ImageError(f"{name}: empty file, not an image")
        return name, stack.enter_context(open(path, "rb"))
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except PermissionError:
        raise ImageError(f"{name}: permission denied") from None
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = getattr(exc, "strerror", None) or _one_line(exc)
        raise ImageError(f"{name}: cannot open: {reason}") from exc


def _decode_stream(
    name: str,
    stream: IO[bytes],
    mode: str,
    background: tuple[int, int, int],
    max_pixels: int,
) -> np.ndarray:
    img = _open_image(name, stream)
    _check_pixels(name, img.size, max_pixels)
    if img.format == "PNG":
        # Loading skips the checksums of the pixel chunks; verify() reads them, then the file must
        # be opened again.
        img.verify()
        stream.seek(0)
        img = _open_image(name, stream)
    img.load()
    _check_pixels(name, img.size, max_pixels)  # some readers learn the true size only now
    return _to_array(_upright(img), mode, background)


def _open_image(name: str, stream: IO[bytes]) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        img = Image.open(stream)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in a format that Pillow knows") from None
    except Image.DecompressionBombError as exc:
        raise ImageError(f"{name}: image too large: {_one_line(exc)}") from None
    if img.format in _REFUSED_FORMATS:
        raise ImageError(f"{name}: {img.format} files are not decoded; convert to PNG or JPEG")
    return img


def _check_pixels(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: image of {width}×{height} pixels has no content")
    checked_size((height, width, 4), 1, f"image {name}")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: image too large: {width}×{height} = {width * height} pixels, "
            f"more than the limit of {max_pixels} (max_pixels)"
        )


def _upright(img: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; called after ``load``, which drops tags that it applied."""
    from PIL import Image

    try:
        method = _UPRIGHT.get(img.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        method = None
    return img if method is None else img.transpose(Image.Transpose[method])


def _to_array(img: Image.Image, mode: str, background: tuple[int, int, int]) -> np.ndarray:
    """Convert a loaded image of any mode to uint8 (H, W, 3) or (H, W, 1)."""
    from PIL import Image

    if img.mode.startswith("I") or img.mode == "F":
        return _grey_to_array(np.asarray(img), img, mode, background)
    if img.has_transparency_data:
        colour = img.info.get("transparency")
        if img.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:
            # Pillow reduced 16-bit pixels to their high bytes but left the tRNS colour alone.
            img.info["transparency"] = tuple(v >> 8 for v in colour)
        base = Image.new("RGBA", img.size, (*background, 255))
        base.alpha_composite(img.convert("RGBA"))
        img = base.convert("RGB")
    if img.mode != mode:
        img = img.convert(mode)
    array = np.array(img, dtype=np.uint8, order="C")
    return array[:, :, None] if mode == "L" else array


def _grey_to_array(
    values: np.ndarray, img: Image.Image, mode: str, background: tuple[int, int, int]
) -> np.ndarray:
    """16-bit, 32-bit or float grey (H, W) → uint8 (H, W, 3) or (H, W, 1); see ``decode``."""
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        unit = not finite.any() or (values[finite].min() >= 0 and values[finite].max() <= 1)
        scaled = np.nan_to_num(values.astype(np.float64), nan=0.0) * (255.0 if unit else 1.0)
        grey = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    else:
        grey = ((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
    out = np.repeat(grey[:, :, None], 3, axis=2)
    key = img.info.get("transparency")
    if isinstance(key, int):
        out[values == key] = background
    if mode == "RGB":
        return out
    if not isinstance(key, int):
        return np.ascontiguousarray(out[:, :, :1])
    from PIL import Image

    return np.array(Image.fromarray(out).convert("L"))[:, :, None]


def expand_paths(args: list[str]) -> list[str]:
    """Expand command-line arguments to image file names, keeping the order of the arguments.

    An argument is, in this order: an existing file (taken as it is), a directory (its image files
    by suffix, one level, hidden files left out, sorted by name), or a glob pattern (``*``, ``?``,
    ``[]``, ``**``; its files, sorted).

    Raises:
        ImageError: an argument gives no file; the message names it.
    """
    found: list[str] = []
    for arg in args:
        found += _expand_one(os.fspath(arg))
    return found


def _expand_one(arg: str) -> list[str]:
    name = _show(arg)
    if "\0" in arg:
        raise ImageError(f"{name}: no such file")
    if os.path.isdir(arg):
        files = sorted(_image_files(arg, name))
        if not files:
            raise ImageError(f"{name}: directory holds no image files")
        return files
    if os.path.lexists(arg):
        return [arg]
    if not arg:
        raise ImageError("'': empty file name")
    if glob.has_magic(arg):
        files = sorted(p for p in glob.iglob(arg, recursive=True) if not os.path.isdir(p))
        if files:
            return files
        raise ImageError(f"{name}: no file matches the pattern")
    raise ImageError(f"{name}: no such file")


def _image_files(folder: str, name: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in IMAGE_SUFFIXES and entry.name[0] != "." and not entry.is_dir():
                    yield entry.path
    except OSError as exc:
        raise ImageError(f"{name}: cannot list the directory: {exc.strerror}") from exc
