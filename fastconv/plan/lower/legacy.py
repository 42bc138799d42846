"""What ONNX's operators do no longer: as today's do it."""

from __future__ import annotations

from ...graph.ops.legacy import AxisBroadcast
from ..lowering import lowers
from .shape import reshape

lowers(AxisBroadcast)(reshape)
