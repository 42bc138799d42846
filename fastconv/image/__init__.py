"""Image file → input tensor: decode, preprocess, and where each preprocessing value comes from.

``decode`` gives uint8 (H, W, C); ``resolve`` settles a ``Preprocess`` from flags, the model's
metadata and its input shape; ``apply`` gives the tensor. Imports NumPy and the package's leaves;
Pillow is imported on first use.
"""

from __future__ import annotations

from .decode import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES, decode, expand_paths
from .metadata import embed, labels_from_metadata, load_labels, output_from_metadata
from .preprocess import (
    LetterboxInfo,
    Preprocess,
    apply,
    apply_with_info,
    parse_field,
    plan_geometry,
)
from .resolve import PRESETS, Resolved, resolve

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "PRESETS",
    "LetterboxInfo",
    "Preprocess",
    "Resolved",
    "apply",
    "apply_with_info",
    "decode",
    "embed",
    "expand_paths",
    "labels_from_metadata",
    "load_labels",
    "output_from_metadata",
    "parse_field",
    "plan_geometry",
    "resolve",
]
