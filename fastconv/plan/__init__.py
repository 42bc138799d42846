"""Graph + shapes + CPU → Plan: kernel selection, weight packing, arena."""

from .lowering import PackCache
from .plan import Plan, annotate, make_plan, output_bytes, python_bytes, too_few

__all__ = ["PackCache", "Plan", "annotate", "make_plan", "output_bytes", "python_bytes", "too_few"]
