#!/usr/bin/env python3
"""Check the bundled models and images against models/README.md: names, sizes in bytes, sha256.

    python tools/check_models.py

A row of the README's tables counts when it names a file in backquotes in its first cell and holds
a sha256 (64 hexadecimal digits) and a size such as ``123,456`` bytes in cells of their own.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import NamedTuple

MODELS = Path(__file__).resolve().parent.parent / "models"


class Record(NamedTuple):
    """What the README says of a file."""

    sha256: str
    size: int  # bytes


def recorded(readme: Path = MODELS / "README.md") -> dict[str, Record]:
    """Return file name (relative to the README's folder, with "/") → record.

    Raises:
        ValueError: a table row has a sha256 but no file name or size, or a file has two rows.
    """
    records: dict[str, Record] = {}
    for number, line in enumerate(readme.read_text(encoding="utf-8").splitlines(), 1):
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        digests = [c.strip("`") for c in cells if re.fullmatch(r"`?[0-9a-f]{64}`?", c)]
        if not line.lstrip().startswith("|") or not digests:
            continue
        sizes = [int(c.replace(",", "")) for c in cells if re.fullmatch(r"[0-9][0-9,]*", c)]
        name = re.fullmatch(r"`([^`]+)`", cells[0])
        if name is None or len(sizes) != 1 or len(digests) != 1:
            raise ValueError(f"{readme}:{number}: needs one `file name`, one size and one sha256")
        if name[1] in records:
            raise ValueError(f"{readme}:{number}: {name[1]} has two rows")
        records[name[1]] = Record(digests[0], sizes[0])
    return records


def problems(folder: Path = MODELS) -> list[str]:
    """Return a line for each file that is missing, unlisted or different; none if all is well."""
    records = recorded(folder / "README.md")
    found = {
        p.relative_to(folder).as_posix(): p
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in {".onnx", ".png", ".jpg"}
    }
    lines = [f"{name}: listed in README.md but missing" for name in records.keys() - found.keys()]
    lines += [f"{name}: not listed in README.md" for name in found.keys() - records.keys()]
    for name in records.keys() & found.keys():
        data = found[name].read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if len(data) != records[name].size:
            lines.append(f"{name}: {len(data)} bytes, README.md says {records[name].size}")
        if digest != records[name].sha256:
            lines.append(f"{name}: sha256 is {digest}, README.md says {records[name].sha256}")
    return sorted(lines)


def main() -> int:
    found = problems()
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{len(recorded())} files agree with {MODELS / 'README.md'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
