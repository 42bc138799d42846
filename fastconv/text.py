"""Plain text for people: tables, sizes and numbers that look the same in a file and a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any


def clean(text: object) -> str:
    """Text from a file fit for one line: control characters and line breaks are escaped."""
    raw = str(text)
    if raw.isprintable():
        return raw
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw)


def width(text: str) -> int:
    """Columns that a text takes in a terminal: wide characters count two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of columns two spaces apart; a header that begins with ``>`` is right-aligned.

    Nothing is cut or wrapped, and no line has spaces at its end.
    """
    names = [h.removeprefix(">") for h in headers]
    right = [h.startswith(">") for h in headers]
    cells = [[clean(c) for c in row] for row in rows]
    wide = [max(map(width, column)) for column in zip(names, *cells, strict=True)]
    lines = []
    for row in [names, ["-" * w for w in wide], *cells]:
        parts = [
            " " * (w - width(c)) + c if r else c + " " * (w - width(c))
            for c, w, r in zip(row, wide, right, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def count(n: int | None) -> str:
    """A whole number with thousands separated by commas; nothing for None."""
    return "" if n is None else f"{n:,}"


def number(x: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; nothing for None."""
    return "" if x is None else f"{x:.{digits}g}"


def memory(nbytes: int) -> str:
    """A number of bytes in B, KiB, MiB or GiB."""
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{nbytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def times(sizes: Sequence[object] | None) -> str:
    """Sizes joined by ×: ``(3, 3)`` is ``3×3``."""
    return "" if sizes is None else "×".join("?" if s is None else str(s) for s in sizes)
